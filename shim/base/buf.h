/* buf.h -- a byte queue with a maximum: appended at the end, consumed at the front, and the
 * encoding of integers and strings that all our wires use (little-endian, u32 lengths). */
#ifndef SHIM_BASE_BUF_H
#define SHIM_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

#define cleanup_buf __attribute__((cleanup(buf_free)))

struct buf {
	uint8_t *data; /* allocated memory; the queue is data[start … end) */
	size_t start;
	size_t end;
	size_t capacity;
	size_t len_max; /* appending beyond this fails with -EMSGSIZE */
};

/* Makes an empty queue that allocates nothing yet.  There is no queue without a maximum. */
void buf_init(struct buf *buf, size_t len_max);

/* Frees the memory; the queue is empty and usable afterwards. */
void buf_free(struct buf *buf);

size_t buf_len(const struct buf *buf);
const uint8_t *buf_head(const struct buf *buf);

/* Makes room for len more bytes and returns where they go (to be followed by buf_added), or NULL
 * with nothing changed when that exceeds the maximum or memory. */
uint8_t *buf_reserve(struct buf *buf, size_t len);
void buf_added(struct buf *buf, size_t len);

/* Drops len bytes at the front; len <= buf_len().  An empty queue gives back memory beyond 64 KiB,
 * so that a burst is not paid for for ever. */
void buf_consume(struct buf *buf, size_t len);

/* Appending.  0, -EMSGSIZE beyond the maximum, -ENOMEM. */
int buf_put(struct buf *buf, const void *data, size_t len);
int buf_put_u8(struct buf *buf, uint8_t value);
int buf_put_u16(struct buf *buf, uint16_t value);
int buf_put_u32(struct buf *buf, uint32_t value);
int buf_put_u64(struct buf *buf, uint64_t value);
int buf_put_bytes(struct buf *buf, const void *data, size_t len); /* u32 length + bytes */

/* Overwrites four bytes that were appended before, `offset` bytes after the front. */
void buf_patch_u32(struct buf *buf, size_t offset, uint32_t value);

/* A reading position in bytes that somebody else owns. */
struct view {
	const uint8_t *data;
	size_t len;
};

/* Taking from the front of a view.  0, or -EBADMSG when there is less than asked; the outputs are
 * written on success only.  Bytes point into the view's memory. */
int view_u8(struct view *view, uint8_t *ret);
int view_u16(struct view *view, uint16_t *ret);
int view_u32(struct view *view, uint32_t *ret);
int view_u64(struct view *view, uint64_t *ret);
int view_bytes(struct view *view, size_t len_max, struct view *ret); /* u32 length + bytes */

#endif
