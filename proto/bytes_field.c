#include <errno.h>

#include "proto/bytes_field.h"

enum {
	WIRE_VARINT = 0,
	WIRE_FIXED64 = 1,
	WIRE_BYTES = 2,
	WIRE_FIXED32 = 5,
	WIRE_MASK = 7,
	VARINT_SHIFT_MAX = 63
};

void
bytes_field_init(struct bytes_field *field)
{
	*field = (struct bytes_field){ .state = BYTES_FIELD_TAG };
}

bool
bytes_field_idle(const struct bytes_field *field)
{
	return field->state == BYTES_FIELD_TAG && field->shift == 0;
}

static void
state_set(struct bytes_field *field, enum bytes_field_state state)
{
	field->state = state;
	field->shift = 0;
	field->value = 0;
}

/* 1 when the varint is complete, 0 for more, -EBADMSG when it has more than 64 bits. */
static int
varint_take(struct bytes_field *field, struct view *in)
{
	while (in->len > 0) {
		uint8_t byte = *in->data;

		if (field->shift > VARINT_SHIFT_MAX)
			return -EBADMSG;
		field->value |= (uint64_t)(byte & 0x7f) << field->shift;
		field->shift = (uint8_t)(field->shift + 7);
		in->data++;
		in->len--;
		if ((byte & 0x80) == 0)
			return 1;
	}
	return 0;
}

static int
skip_begin(struct bytes_field *field, uint64_t len)
{
	state_set(field, BYTES_FIELD_SKIP);
	field->left = len;
	return 0;
}

static int
tag_done(struct bytes_field *field)
{
	uint64_t tag = field->value;

	if (tag >> 3 == 0)
		return -EBADMSG;
	field->wanted = tag == (1 << 3 | WIRE_BYTES);
	switch (tag & WIRE_MASK) {
	case WIRE_VARINT:
		state_set(field, BYTES_FIELD_VARINT);
		return 0;
	case WIRE_BYTES:
		state_set(field, BYTES_FIELD_LEN);
		return 0;
	case WIRE_FIXED64:
		return skip_begin(field, 8);
	case WIRE_FIXED32:
		return skip_begin(field, 4);
	default:
		return -EBADMSG;
	}
}

static void
len_done(struct bytes_field *field)
{
	uint64_t len = field->value;

	state_set(field, len == 0      ? BYTES_FIELD_TAG :
			 field->wanted ? BYTES_FIELD_DATA :
					 BYTES_FIELD_SKIP);
	field->left = len;
}

static struct view
span_take(struct bytes_field *field, struct view *in)
{
	size_t len = field->left < in->len ? (size_t)field->left : in->len;
	struct view span = { in->data, len };

	in->data += len;
	in->len -= len;
	field->left -= len;
	if (field->left == 0)
		state_set(field, BYTES_FIELD_TAG);
	return span;
}

static int
varint_step(struct bytes_field *field, struct view *in)
{
	int r = varint_take(field, in);

	if (r <= 0)
		return r;
	if (field->state == BYTES_FIELD_TAG)
		return tag_done(field);
	if (field->state == BYTES_FIELD_LEN)
		len_done(field);
	else
		state_set(field, BYTES_FIELD_TAG);
	return 0;
}

int
bytes_field_next(struct bytes_field *field, struct view *in, struct view *ret)
{
	while (in->len > 0) {
		int r = 0;

		switch (field->state) {
		case BYTES_FIELD_DATA:
			*ret = span_take(field, in);
			return 1;
		case BYTES_FIELD_SKIP:
			span_take(field, in);
			break;
		case BYTES_FIELD_TAG:
		case BYTES_FIELD_LEN:
		case BYTES_FIELD_VARINT:
			r = varint_step(field, in);
			break;
		}
		if (r < 0)
			return r;
	}
	return 0;
}
