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

/* How many bytes the character at data has: 0 when it is none, > len when it is cut off. */
static size_t
character_len(const uint8_t *data, size_t len)
{
	size_t want = data[0] < 0x80 ? 1 :
		      data[0] < 0xc2 ? 0 :
		      data[0] < 0xe0 ? 2 :
		      data[0] < 0xf0 ? 3 :
		      data[0] < 0xf5 ? 4 :
				       0;

	for (size_t i = 1; i < want && i < len; i++) {
		if ((data[i] & 0xc0) != 0x80)
			return 0;
	}
	if (len > 1 &&
	    ((data[0] == 0xe0 && data[1] < 0xa0) || (data[0] == 0xed && data[1] > 0x9f) ||
	     (data[0] == 0xf0 && data[1] < 0x90) || (data[0] == 0xf4 && data[1] > 0x8f)))
		return 0;
	return want;
}

char *
text_clean(const uint8_t *data, size_t len, size_t *ret_used)
{
	static const char replacement[] = "\xef\xbf\xbd";
	char *text = mem_new(len * 3 + 1);
	size_t n = 0, at = 0;

	while (at < len) {
		size_t want = data[at] ? character_len(data + at, len - at) : 0;

		if (want > len - at && at > 0)
			break;
		if (want > 0 && want <= len - at) {
			memcpy(text + n, data + at, want);
			n += want;
			at += want;
		} else {
			memcpy(text + n, replacement, 3);
			n += 3;
			at++;
		}
	}
	*ret_used = at;
	return text;
}
