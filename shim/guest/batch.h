/* batch.h -- several frames that go into the lane with one writev(): encoded frames and headers
 * in one queue, data where the streams hold it. */
#ifndef SHIM_GUEST_BATCH_H
#define SHIM_GUEST_BATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "shim/base/buf.h"
#include "shim/guest/chunk.h"

/* BATCH_LEN_MAX: what one write may hand over before the next job has its turn to be looked at. */
enum { BATCH_PIECES_MAX = 256, BATCH_LEN_MAX = 1024 * 1024 };

struct batch_piece {
	struct chunk *chunk; /* NULL: in the queue of heads */
	size_t offset;	     /* in the chunk's data, or in the heads */
	size_t len;
};

struct batch {
	struct buf heads;
	size_t heads_noted; /* how much of the heads belongs to a piece */
	struct batch_piece pieces[BATCH_PIECES_MAX];
	size_t piece_count;
	size_t piece_next; /* the first that is not written completely */
	size_t data_len;
};

void batch_init(struct batch *batch);
/* Lets go of everything; the batch is empty and usable afterwards. */
void batch_clear(struct batch *batch);

/* Nothing is left to be written. */
bool batch_empty(const struct batch *batch);
/* No further frame should be added. */
bool batch_full(const struct batch *batch);

/* Where the next frame or header is to be encoded. */
struct buf *batch_heads(struct batch *batch);
/* Adds data that follows the header just encoded; holds the chunk until it is written. Not when
 * full. */
void batch_add_data(struct batch *batch, struct chunk *chunk, size_t offset, size_t len);

/* Writes what the descriptor takes. Returns 1 when all is written (the batch is empty), 0 when
 * there is more to write later, -errno. */
int batch_write(struct batch *batch, int fd);

#endif
