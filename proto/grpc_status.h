/* grpc_status.h -- how a gRPC call ended: status codes and their names, HTTP answers that carry
 * none, the percent-coding of grpc-message, and the server's request to come back later inside
 * grpc-status-details-bin.  Pure functions. */
#ifndef PROTO_GRPC_STATUS_H
#define PROTO_GRPC_STATUS_H

#include <stdbool.h>
#include <stddef.h>

enum grpc_code {
	GRPC_OK = 0,
	GRPC_CANCELLED = 1,
	GRPC_UNKNOWN = 2,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_DEADLINE_EXCEEDED = 4,
	GRPC_NOT_FOUND = 5,
	GRPC_ALREADY_EXISTS = 6,
	GRPC_PERMISSION_DENIED = 7,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_FAILED_PRECONDITION = 9,
	GRPC_ABORTED = 10,
	GRPC_OUT_OF_RANGE = 11,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
	GRPC_UNAVAILABLE = 14,
	GRPC_DATA_LOSS = 15,
	GRPC_UNAUTHENTICATED = 16,
};

#define GRPC_MESSAGE_LEN_MAX 256u
/* Of grpc-status-details-bin, decoded. */
#define GRPC_DETAILS_LEN_MAX 4096u

/* "NOT_FOUND" and so on; what is no code is "UNKNOWN". */
const char *grpc_code_name(enum grpc_code code);

/* The value of grpc-status.  Text that is no code is GRPC_UNKNOWN, as the protocol wants it. */
enum grpc_code grpc_code_parse(const char *text, size_t len);

/* The code for an HTTP answer without grpc-status (gRPC's http-grpc-status-mapping). */
enum grpc_code grpc_code_from_http(int http_status);

/* True for what may pass by itself: CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,
 * UNAVAILABLE. */
bool grpc_code_transient(enum grpc_code code);

/* Decodes %XX of grpc-message into ret, always terminated; what does not fit is cut, a bad
 * escape stays as it is, and bytes that are not printable ASCII become '?' (the text ends on a
 * terminal). */
void grpc_message_decode(const char *text, size_t len, char *ret, size_t ret_len);

/* Whether the value of grpc-status-details-bin (base64 with or without padding of {3 repeated
 * Any}) asks for a pause by a modal.client.RPCRetryPolicy {1 float retry_after_secs}.  *ret_ms
 * is that pause, at least 100 ms and at most an hour. */
bool grpc_retry_after(const char *text, size_t len, long *ret_ms);

#endif
