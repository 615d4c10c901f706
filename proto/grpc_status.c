#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "proto/base64.h"
#include "proto/grpc_status.h"
#include "shim/base/buf.h"

#define RETRY_AFTER_MS_MIN 100L
#define RETRY_AFTER_MS_MAX (3600L * 1000)

static const char *const code_names[] = {
	[GRPC_OK] = "OK",
	[GRPC_CANCELLED] = "CANCELLED",
	[GRPC_UNKNOWN] = "UNKNOWN",
	[GRPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
	[GRPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
	[GRPC_NOT_FOUND] = "NOT_FOUND",
	[GRPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
	[GRPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
	[GRPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
	[GRPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
	[GRPC_ABORTED] = "ABORTED",
	[GRPC_OUT_OF_RANGE] = "OUT_OF_RANGE",
	[GRPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
	[GRPC_INTERNAL] = "INTERNAL",
	[GRPC_UNAVAILABLE] = "UNAVAILABLE",
	[GRPC_DATA_LOSS] = "DATA_LOSS",
	[GRPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

enum { CODE_COUNT = sizeof code_names / sizeof code_names[0] };

const char *
grpc_code_name(enum grpc_code code)
{
	return (unsigned)code < CODE_COUNT ? code_names[code] : code_names[GRPC_UNKNOWN];
}

enum grpc_code
grpc_code_parse(const char *text, size_t len)
{
	unsigned value = 0;

	if (len == 0 || len > 2)
		return GRPC_UNKNOWN;
	for (size_t i = 0; i < len; i++) {
		if (!isdigit((unsigned char)text[i]))
			return GRPC_UNKNOWN;
		value = value * 10 + (unsigned)(text[i] - '0');
	}
	return value < CODE_COUNT ? (enum grpc_code)value : GRPC_UNKNOWN;
}

enum grpc_code
grpc_code_from_http(int http_status)
{
	switch (http_status) {
	case 400:
		return GRPC_INTERNAL;
	case 401:
		return GRPC_UNAUTHENTICATED;
	case 403:
		return GRPC_PERMISSION_DENIED;
	case 404:
		return GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return GRPC_UNAVAILABLE;
	default:
		return GRPC_UNKNOWN;
	}
}

bool
grpc_code_transient(enum grpc_code code)
{
	return code == GRPC_CANCELLED || code == GRPC_UNKNOWN || code == GRPC_DEADLINE_EXCEEDED ||
	       code == GRPC_INTERNAL || code == GRPC_UNAVAILABLE;
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

void
grpc_message_decode(const char *text, size_t len, char *ret, size_t ret_len)
{
	size_t used = 0;

	for (size_t i = 0; i < len && used + 1 < ret_len; i++) {
		int high = i + 2 < len && text[i] == '%' ? hex_value(text[i + 1]) : -1;
		int low = high >= 0 ? hex_value(text[i + 2]) : -1;
		int byte = (unsigned char)text[i];

		if (low >= 0) {
			byte = high << 4 | low;
			i += 2;
		}
		if (byte == '\n' || byte == '\t')
			byte = ' ';
		ret[used++] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
	}
	if (ret_len > 0)
		ret[used] = '\0';
}

/* One field of a protobuf message: its number, and its bytes (of a fixed32 or length-delimited
 * field). */
struct field {
	uint64_t number;
	unsigned wire;
	struct view bytes;
};

static int
varint_take(struct view *in, uint64_t *ret)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte;

		if (view_u8(in, &byte) < 0)
			return -EBADMSG;
		value |= (uint64_t)(byte & 0x7f) << shift;
		if ((byte & 0x80) == 0) {
			*ret = value;
			return 0;
		}
	}
	return -EBADMSG;
}

static int
field_take(struct view *in, struct field *ret)
{
	uint64_t tag, len = 0;

	if (varint_take(in, &tag) < 0)
		return -EBADMSG;
	ret->number = tag >> 3;
	ret->wire = tag & 7;
	if (ret->wire == 0)
		return varint_take(in, &len);
	if (ret->wire == 1)
		len = 8;
	else if (ret->wire == 5)
		len = 4;
	else if (ret->wire != 2 || varint_take(in, &len) < 0)
		return -EBADMSG;
	if (len > in->len)
		return -EBADMSG;
	ret->bytes = (struct view){ in->data, (size_t)len };
	in->data += len;
	in->len -= (size_t)len;
	return 0;
}

static bool
any_is_retry_policy(struct view any, struct view *ret_value)
{
	static const char suffix[] = "/modal.client.RPCRetryPolicy";
	struct field field;
	bool named = false;

	*ret_value = (struct view){ any.data, 0 };
	while (any.len > 0 && field_take(&any, &field) == 0) {
		size_t len = sizeof suffix - 1;

		if (field.wire != 2)
			continue;
		if (field.number == 1)
			named = field.bytes.len >= len &&
				memcmp(field.bytes.data + field.bytes.len - len, suffix, len) == 0;
		else if (field.number == 2)
			*ret_value = field.bytes;
	}
	return named;
}

static long
policy_pause_ms(struct view policy)
{
	struct field field;
	float seconds = 0;

	while (policy.len > 0 && field_take(&policy, &field) == 0) {
		uint32_t bits;

		if (field.number == 1 && field.wire == 5 && view_u32(&field.bytes, &bits) == 0)
			memcpy(&seconds, &bits, sizeof seconds);
	}
	/* Written so that a NaN gives the minimum. */
	if (!(seconds * 1000 > RETRY_AFTER_MS_MIN))
		return RETRY_AFTER_MS_MIN;
	return seconds * 1000 < RETRY_AFTER_MS_MAX ? (long)(seconds * 1000) : RETRY_AFTER_MS_MAX;
}

bool
grpc_retry_after(const char *text, size_t len, long *ret_ms)
{
	uint8_t bytes[GRPC_DETAILS_LEN_MAX];
	struct view status = { bytes, 0 }, policy;
	struct field field;

	if (base64_decode(text, len, bytes, sizeof bytes, &status.len) < 0)
		return false;
	while (status.len > 0 && field_take(&status, &field) == 0) {
		if (field.number != 3 || field.wire != 2 ||
		    !any_is_retry_policy(field.bytes, &policy))
			continue;
		*ret_ms = policy_pause_ms(policy);
		return true;
	}
	return false;
}
