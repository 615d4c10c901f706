/* grpc_frame.h -- the framing of gRPC over HTTP/2: each message is one byte of flags (0 = not
 * compressed), its length as four bytes, most significant first, and the message (gRPC's
 * PROTOCOL-HTTP2, "Length-Prefixed-Message"). */
#ifndef PROTO_GRPC_FRAME_H
#define PROTO_GRPC_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/base/buf.h"

#define GRPC_PREFIX_LEN 5u

/* Writes the prefix of a message of len bytes. */
void grpc_prefix_encode(uint8_t prefix[GRPC_PREFIX_LEN], uint32_t len);

/* Reads a stream of frames in whatever pieces it arrives, without copying. */
struct grpc_frame_parser {
	uint32_t len_max; /* a longer message is an error */
	uint8_t prefix[GRPC_PREFIX_LEN];
	uint8_t prefix_len;
	uint32_t left; /* bytes of the current message that have not come yet */
};

/* A part of one message; data points into the bytes that were given to the parser. */
struct grpc_piece {
	struct view data;
	bool first;
	bool last;
};

void grpc_frame_init(struct grpc_frame_parser *parser, uint32_t len_max);

/* Takes the next piece from the front of *in.  1 with *ret filled; 0 when *in is used up;
 * -EBADMSG for a compressed frame (none was offered), -EMSGSIZE for one that is too long.  A
 * piece may be empty: an empty message, or one whose bytes have not come yet. */
int grpc_frame_next(struct grpc_frame_parser *parser, struct view *in, struct grpc_piece *ret);

/* True between messages: where a stream may end. */
bool grpc_frame_idle(const struct grpc_frame_parser *parser);

#endif
