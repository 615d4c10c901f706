/* bytes_field.h -- the bytes of field 1 of one protobuf message, as they arrive: for messages
 * that carry a stream's data (TaskExecStdioReadResponse) and are too large to be collected and
 * copied first.  Other fields are skipped. */
#ifndef PROTO_BYTES_FIELD_H
#define PROTO_BYTES_FIELD_H

#include <stdbool.h>
#include <stdint.h>

#include "shim/base/buf.h"

enum bytes_field_state {
	BYTES_FIELD_TAG,
	BYTES_FIELD_LEN,
	BYTES_FIELD_DATA,
	BYTES_FIELD_SKIP,
	BYTES_FIELD_VARINT
};

struct bytes_field {
	enum bytes_field_state state;
	bool wanted;	/* the field being read is field 1 */
	uint8_t shift;	/* of the next seven bits of the varint being read */
	uint64_t value; /* that varint so far */
	uint64_t left;	/* bytes of the field that have not come yet */
};

/* Ready for the first byte of a message. */
void bytes_field_init(struct bytes_field *field);

/* Takes from the front of *in.  1 with *ret = bytes of field 1 (they point into *in); 0 when *in
 * is used up; -EBADMSG for what is no protobuf message. */
int bytes_field_next(struct bytes_field *field, struct view *in, struct view *ret);

/* True where a message may end. */
bool bytes_field_idle(const struct bytes_field *field);

#endif
