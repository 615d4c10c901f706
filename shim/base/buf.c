#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim/base/buf.h"

enum { BUF_KEEP_LEN = 64 * 1024, BUF_LEN_FIRST = 512 };

void
buf_init(struct buf *buf, size_t len_max)
{
	*buf = (struct buf){ .len_max = len_max };
}

void
buf_free(struct buf *buf)
{
	free(buf->data);
	buf_init(buf, buf->len_max);
}

size_t
buf_len(const struct buf *buf)
{
	return buf->end - buf->start;
}

const uint8_t *
buf_head(const struct buf *buf)
{
	return buf->data == NULL ? (const uint8_t *)"" : buf->data + buf->start;
}

static int
buf_grow(struct buf *buf, size_t needed)
{
	size_t capacity = buf->capacity == 0 ? BUF_LEN_FIRST : buf->capacity;
	uint8_t *data;

	while (capacity < needed)
		capacity *= 2;
	data = realloc(buf->data, capacity);
	if (data == NULL)
		return -ENOMEM;
	buf->data = data;
	buf->capacity = capacity;
	return 0;
}

uint8_t *
buf_reserve(struct buf *buf, size_t len)
{
	size_t held = buf_len(buf);

	if (len > buf->len_max || held > buf->len_max - len)
		return NULL;
	if (buf->capacity - buf->end < len && buf->start > 0) {
		memmove(buf->data, buf->data + buf->start, held);
		buf->start = 0;
		buf->end = held;
	}
	if (buf->capacity - buf->end < len && buf_grow(buf, buf->end + len) < 0)
		return NULL;
	return buf->data + buf->end;
}

void
buf_added(struct buf *buf, size_t len)
{
	assert(len <= buf->capacity - buf->end);
	buf->end += len;
}

void
buf_consume(struct buf *buf, size_t len)
{
	assert(len <= buf_len(buf));
	buf->start += len;
	if (buf->start < buf->end)
		return;
	buf->start = buf->end = 0;
	if (buf->capacity > BUF_KEEP_LEN)
		buf_free(buf);
}

int
buf_put(struct buf *buf, const void *data, size_t len)
{
	uint8_t *room;

	if (len > buf->len_max || buf_len(buf) > buf->len_max - len)
		return -EMSGSIZE;
	if (len == 0)
		return 0;
	room = buf_reserve(buf, len);
	if (room == NULL)
		return -ENOMEM;
	memcpy(room, data, len);
	buf_added(buf, len);
	return 0;
}

int
buf_put_u8(struct buf *buf, uint8_t value)
{
	return buf_put(buf, &value, 1);
}

int
buf_put_u16(struct buf *buf, uint16_t value)
{
	uint8_t bytes[2] = { (uint8_t)value, (uint8_t)(value >> 8) };

	return buf_put(buf, bytes, sizeof bytes);
}

static void
encode_u32(uint8_t bytes[4], uint32_t value)
{
	for (int i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
}

int
buf_put_u32(struct buf *buf, uint32_t value)
{
	uint8_t bytes[4];

	encode_u32(bytes, value);
	return buf_put(buf, bytes, sizeof bytes);
}

int
buf_put_u64(struct buf *buf, uint64_t value)
{
	uint8_t bytes[8];

	encode_u32(bytes, (uint32_t)value);
	encode_u32(bytes + 4, (uint32_t)(value >> 32));
	return buf_put(buf, bytes, sizeof bytes);
}

int
buf_put_bytes(struct buf *buf, const void *data, size_t len)
{
	int r;

	if (len > UINT32_MAX)
		return -EMSGSIZE;
	r = buf_put_u32(buf, (uint32_t)len);
	return r < 0 ? r : buf_put(buf, data, len);
}

void
buf_patch_u32(struct buf *buf, size_t offset, uint32_t value)
{
	assert(offset + 4 <= buf_len(buf));
	encode_u32(buf->data + buf->start + offset, value);
}

static int
view_take(struct view *view, size_t len, const uint8_t **ret)
{
	if (view->len < len)
		return -EBADMSG;
	*ret = view->data;
	view->data += len;
	view->len -= len;
	return 0;
}

static int
view_number(struct view *view, size_t len, uint64_t *ret)
{
	const uint8_t *bytes;
	uint64_t value = 0;
	int r = view_take(view, len, &bytes);

	if (r < 0)
		return r;
	for (size_t i = 0; i < len; i++)
		value |= (uint64_t)bytes[i] << (8 * i);
	*ret = value;
	return 0;
}

int
view_u8(struct view *view, uint8_t *ret)
{
	uint64_t value;
	int r = view_number(view, 1, &value);

	if (r == 0)
		*ret = (uint8_t)value;
	return r;
}

int
view_u16(struct view *view, uint16_t *ret)
{
	uint64_t value;
	int r = view_number(view, 2, &value);

	if (r == 0)
		*ret = (uint16_t)value;
	return r;
}

int
view_u32(struct view *view, uint32_t *ret)
{
	uint64_t value;
	int r = view_number(view, 4, &value);

	if (r == 0)
		*ret = (uint32_t)value;
	return r;
}

int
view_u64(struct view *view, uint64_t *ret)
{
	return view_number(view, 8, ret);
}

int
view_bytes(struct view *view, size_t len_max, struct view *ret)
{
	struct view rest = *view;
	const uint8_t *bytes;
	uint32_t len;

	if (view_u32(&rest, &len) < 0 || len > len_max || view_take(&rest, len, &bytes) < 0)
		return -EBADMSG;
	*view = rest;
	*ret = (struct view){ bytes, len };
	return 0;
}
