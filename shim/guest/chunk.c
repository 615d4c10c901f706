#include <assert.h>
#include <stdlib.h>

#include "shim/guest/chunk.h"

/* As much as one stream's largest window: 2 MiB. */
enum { CHUNKS_IDLE_MAX = 32 };

void
chunk_pool_free(struct chunk_pool *pool)
{
	struct chunk *chunk;

	while ((chunk = pool->idle) != NULL) {
		pool->idle = chunk->next;
		free(chunk);
	}
	pool->idle_count = 0;
}

static struct chunk *
chunk_allocate(struct chunk_pool *pool, size_t capacity)
{
	struct chunk *chunk = pool->idle;

	if (capacity != CHUNK_LEN || chunk == NULL)
		return malloc(sizeof *chunk + capacity);
	pool->idle = chunk->next;
	pool->idle_count--;
	return chunk;
}

struct chunk *
chunk_new(struct chunk_pool *pool, size_t capacity)
{
	struct chunk *chunk = chunk_allocate(pool, capacity);

	if (chunk != NULL)
		*chunk = (struct chunk){ .pool = pool, .references = 1, .capacity = capacity };
	return chunk;
}

void
chunk_hold(struct chunk *chunk)
{
	chunk->references++;
}

void
chunk_release(struct chunk *chunk)
{
	struct chunk_pool *pool = chunk->pool;

	assert(chunk->references > 0);
	if (--chunk->references > 0)
		return;
	if (chunk->capacity != CHUNK_LEN || pool->idle_count >= CHUNKS_IDLE_MAX) {
		free(chunk);
		return;
	}
	chunk->next = pool->idle;
	pool->idle = chunk;
	pool->idle_count++;
}
