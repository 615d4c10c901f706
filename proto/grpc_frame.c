#include <errno.h>
#include <string.h>

#include "proto/grpc_frame.h"

void
grpc_prefix_encode(uint8_t prefix[GRPC_PREFIX_LEN], uint32_t len)
{
	prefix[0] = 0;
	prefix[1] = (uint8_t)(len >> 24);
	prefix[2] = (uint8_t)(len >> 16);
	prefix[3] = (uint8_t)(len >> 8);
	prefix[4] = (uint8_t)len;
}

void
grpc_frame_init(struct grpc_frame_parser *parser, uint32_t len_max)
{
	*parser = (struct grpc_frame_parser){ .len_max = len_max };
}

static void
prefix_take(struct grpc_frame_parser *parser, struct view *in)
{
	size_t len = GRPC_PREFIX_LEN - parser->prefix_len;

	if (len > in->len)
		len = in->len;
	memcpy(parser->prefix + parser->prefix_len, in->data, len);
	parser->prefix_len = (uint8_t)(parser->prefix_len + len);
	in->data += len;
	in->len -= len;
}

static int
prefix_decode(struct grpc_frame_parser *parser)
{
	const uint8_t *p = parser->prefix;

	if (p[0] != 0)
		return -EBADMSG;
	parser->left = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
	return parser->left > parser->len_max ? -EMSGSIZE : 0;
}

int
grpc_frame_next(struct grpc_frame_parser *parser, struct view *in, struct grpc_piece *ret)
{
	bool first = parser->prefix_len < GRPC_PREFIX_LEN;
	size_t len;
	int r;

	if (in->len == 0)
		return 0;
	if (first) {
		prefix_take(parser, in);
		if (parser->prefix_len < GRPC_PREFIX_LEN)
			return 0;
		r = prefix_decode(parser);
		if (r < 0)
			return r;
	}
	len = parser->left < in->len ? parser->left : in->len;
	parser->left -= (uint32_t)len;
	*ret = (struct grpc_piece){ { in->data, len }, first, parser->left == 0 };
	in->data += len;
	in->len -= len;
	if (parser->left == 0)
		parser->prefix_len = 0;
	return 1;
}

bool
grpc_frame_idle(const struct grpc_frame_parser *parser)
{
	return parser->prefix_len == 0;
}
