#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <sys/uio.h>

#include "shim/base/limits.h"
#include "shim/guest/batch.h"

/* A head and its data are two pieces, and trailing heads are a third. */
enum { PIECES_PER_FRAME_MAX = 3, HEADS_LEN_FULL = 64 * 1024 };

/* The heads take one HELLO_REPLY or the waiting PONGs, and small frames. */
static const size_t heads_len_max = 2 * FRAME_LEN_MAX;

static_assert(BATCH_PIECES_MAX <= IOV_MAX, "a batch is one writev");

void
batch_init(struct batch *batch)
{
	*batch = (struct batch){ 0 };
	buf_init(&batch->heads, heads_len_max);
}

void
batch_clear(struct batch *batch)
{
	for (size_t i = batch->piece_next; i < batch->piece_count; i++)
		if (batch->pieces[i].chunk != NULL)
			chunk_release(batch->pieces[i].chunk);
	buf_consume(&batch->heads, buf_len(&batch->heads));
	batch->heads_noted = batch->piece_count = batch->piece_next = batch->data_len = 0;
}

bool
batch_empty(const struct batch *batch)
{
	return batch->piece_next == batch->piece_count &&
	       buf_len(&batch->heads) == batch->heads_noted;
}

bool
batch_full(const struct batch *batch)
{
	return batch->piece_count + PIECES_PER_FRAME_MAX > BATCH_PIECES_MAX ||
	       batch->data_len >= BATCH_LEN_MAX || buf_len(&batch->heads) >= HEADS_LEN_FULL;
}

struct buf *
batch_heads(struct batch *batch)
{
	return &batch->heads;
}

/* Makes what was encoded since the last piece a piece of its own, or part of the one before. */
static void
batch_note_heads(struct batch *batch)
{
	size_t len = buf_len(&batch->heads) - batch->heads_noted;
	struct batch_piece *last = &batch->pieces[batch->piece_count];

	if (len == 0)
		return;
	assert(batch->piece_count < BATCH_PIECES_MAX);
	*last = (struct batch_piece){ NULL, batch->heads_noted, len };
	batch->piece_count++;
	batch->heads_noted += len;
}

void
batch_add_data(struct batch *batch, struct chunk *chunk, size_t offset, size_t len)
{
	batch_note_heads(batch);
	assert(batch->piece_count < BATCH_PIECES_MAX);
	chunk_hold(chunk);
	batch->pieces[batch->piece_count++] = (struct batch_piece){ chunk, offset, len };
	batch->data_len += len;
}

static void
batch_written(struct batch *batch, size_t len)
{
	struct batch_piece *piece;

	while (len > 0) {
		piece = &batch->pieces[batch->piece_next];
		if (len < piece->len) {
			piece->offset += len;
			piece->len -= len;
			return;
		}
		len -= piece->len;
		if (piece->chunk != NULL)
			chunk_release(piece->chunk);
		batch->piece_next++;
	}
}

static int
batch_gather(struct batch *batch, struct iovec *iov)
{
	union {
		const uint8_t *read_only;
		void *base;
	} bytes; /* iovec has no const; writev only reads */
	struct batch_piece *piece;
	int count = 0;

	for (size_t i = batch->piece_next; i < batch->piece_count; i++) {
		piece = &batch->pieces[i];
		bytes.read_only = buf_head(&batch->heads);
		if (piece->chunk != NULL)
			bytes.read_only = piece->chunk->data;
		bytes.read_only += piece->offset;
		iov[count++] = (struct iovec){ bytes.base, piece->len };
	}
	return count;
}

int
batch_write(struct batch *batch, int fd)
{
	struct iovec iov[BATCH_PIECES_MAX];
	ssize_t written;
	int count;

	batch_note_heads(batch);
	while (batch->piece_next < batch->piece_count) {
		count = batch_gather(batch, iov);
		written = writev(fd, iov, count);
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0 && errno == EAGAIN)
			return 0;
		if (written < 0)
			return -errno;
		batch_written(batch, (size_t)written);
	}
	batch_clear(batch);
	return 1;
}
