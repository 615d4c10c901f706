#include "tests/loopback/bytes.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_CAP_MIN = 256 };

void
bytes_free(struct bytes *b)
{
	free(b->data);
	memset(b, 0, sizeof *b);
}

uint8_t *
bytes_room(struct bytes *b, size_t len)
{
	size_t cap = b->cap ? b->cap : BYTES_CAP_MIN;

	if (b->start + b->len + len <= b->cap)
		return b->data + b->start + b->len;
	/* Moving only when at least as much was dropped keeps the cost per byte constant. */
	if (b->start >= b->len && b->len + len <= b->cap) {
		memmove(b->data, b->data + b->start, b->len);
		b->start = 0;
		return b->data + b->len;
	}
	while (cap < b->start + b->len + len)
		cap *= 2;
	if (cap != b->cap) {
		b->data = mem_resize(b->data, cap);
		b->cap = cap;
	}
	return b->data + b->start + b->len;
}

void
bytes_added(struct bytes *b, size_t len)
{
	b->len += len;
	assert(b->start + b->len <= b->cap);
}

void
bytes_append(struct bytes *b, const void *data, size_t len)
{
	if (len == 0)
		return;
	memcpy(bytes_room(b, len), data, len);
	bytes_added(b, len);
}

void
bytes_append_u32(struct bytes *b, uint32_t value)
{
	bytes_append(b, &value, sizeof value);
}

void
bytes_append_text(struct bytes *b, const char *text)
{
	bytes_append(b, text, strlen(text) + 1);
}

void
bytes_drop(struct bytes *b, size_t len)
{
	assert(len <= b->len);
	b->start += len;
	b->len -= len;
	if (b->len == 0)
		b->start = 0;
}

void *
mem_new(size_t len)
{
	void *p = calloc(1, len ? len : 1);

	if (!p)
		abort();
	return p;
}

void *
mem_resize(void *old, size_t len)
{
	void *p = realloc(old, len ? len : 1);

	if (!p)
		abort();
	return p;
}

char *
text_copy(const char *text)
{
	char *copy = strdup(text ? text : "");

	if (!copy)
		abort();
	return copy;
}

char *
text_format(const char *format, ...)
{
	va_list args;
	char *text = NULL;
	int r;

	va_start(args, format);
	r = vasprintf(&text, format, args);
	va_end(args);
	if (r < 0)
		abort();
	return text;
}

void
text_replace(char **text, const char *value)
{
	char *copy = text_copy(value);

	free(*text);
	*text = copy;
}

bool
text_is(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

bool
text_empty(const char *text)
{
	return !text || !*text;
}
