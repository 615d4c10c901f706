/* bytes.h -- a byte queue and the few allocation helpers of the loopback.
 * Out of memory ends the process: this is a server for trying and testing. */
#ifndef LOOPBACK_BYTES_H
#define LOOPBACK_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes are appended at the end and dropped at the front.  All zero is a valid empty queue. */
struct bytes {
	uint8_t *data; /* the allocation */
	size_t start;  /* first byte still queued */
	size_t len;    /* bytes queued */
	size_t cap;
};

void bytes_free(struct bytes *b);
/* Makes room for len more bytes and returns where they go; bytes_added() tells how many came. */
uint8_t *bytes_room(struct bytes *b, size_t len);
void bytes_added(struct bytes *b, size_t len);
void bytes_append(struct bytes *b, const void *data, size_t len);
void bytes_append_u32(struct bytes *b, uint32_t value);
/* The text and its closing zero. */
void bytes_append_text(struct bytes *b, const char *text);
void bytes_drop(struct bytes *b, size_t len);

static inline uint8_t *
bytes_front(const struct bytes *b)
{
	return b->data + b->start;
}

/* Zeroed, never NULL. */
void *mem_new(size_t len);
void *mem_resize(void *old, size_t len);
/* Never NULL; a NULL text is copied as "". */
char *text_copy(const char *text);
char *text_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Frees *text and puts a copy of value there. */
void text_replace(char **text, const char *value);
bool text_is(const char *a, const char *b);
/* As much of data as is text: bytes that are not UTF-8 become U+FFFD, and a character that is cut
 * off at the end is left for the next time unless it is all there is.  *ret_used says how much was
 * taken. */
char *text_clean(const uint8_t *data, size_t len, size_t *ret_used);
/* NULL and "" are both empty. */
bool text_empty(const char *text);

#endif
