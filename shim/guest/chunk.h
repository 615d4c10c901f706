/* chunk.h -- pieces of memory that hold output. They are counted, since a piece may still be on
 * its way into the lane when its stream has no use for it any more, and recycled, so that a fast
 * stream works in memory that is in the cache. */
#ifndef SHIM_GUEST_CHUNK_H
#define SHIM_GUEST_CHUNK_H

#include <stddef.h>
#include <stdint.h>

/* Most commands write little: the first piece of a stream is small. The large ones hold what a
 * pipe holds. */
enum { CHUNK_LEN_FIRST = 4 * 1024, CHUNK_LEN = 64 * 1024 };

struct chunk_pool {
	struct chunk *idle; /* large ones only */
	size_t idle_count;
};

struct chunk {
	struct chunk_pool *pool;
	struct chunk *next;
	unsigned int references;
	uint64_t offset; /* of data[0] in the stream */
	size_t len;	 /* bytes used */
	size_t capacity;
	uint8_t data[];
};

void chunk_pool_free(struct chunk_pool *pool);

/* An empty chunk of CHUNK_LEN_FIRST or CHUNK_LEN with one reference, or NULL without memory. */
struct chunk *chunk_new(struct chunk_pool *pool, size_t capacity);
void chunk_hold(struct chunk *chunk);
void chunk_release(struct chunk *chunk);

#endif
