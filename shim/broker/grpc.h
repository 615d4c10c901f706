/* grpc.h -- calls of gRPC methods on one server: framing, deadlines, trailers, and the retries
 * that belong to one logical call.  What a method means is for the layer above. */
#ifndef SHIM_BROKER_GRPC_H
#define SHIM_BROKER_GRPC_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/grpc_frame.h"
#include "proto/grpc_status.h"
#include "shim/base/err.h"
#include "shim/broker/http.h"

/* A whole message that is collected in memory before it is used. */
#define GRPC_MESSAGE_LEN_LIMIT (4u * 1024 * 1024)
/* A message of a stream that is handed on in pieces (the SDKs' own limit). */
#define GRPC_STREAMED_LEN_LIMIT (100u * 1024 * 1024)

/* A server.  Its address; calls copy what they need. */
struct grpc_server;

/* url: https://host[:port]; a path is ignored.  ipv4: where the host is, or NULL.  Returns 0 or
 * negative errno with *err set (-EPROTONOSUPPORT for http://). */
int grpc_server_new(struct ev_loop *loop, struct http *http, const char *url, const char *ipv4,
		    struct grpc_server **ret, struct err *err);
void grpc_server_free(struct grpc_server *server);

/* "host:port" for messages. */
const char *grpc_server_name(const struct grpc_server *server);

/* Pauses between attempts double from pause_ms to pause_ms_max. */
struct grpc_retry {
	unsigned count_max;
	int64_t pause_ms;
	int64_t pause_ms_max;
};

/* The pause before attempt number `attempt` (1 = the first repetition). */
int64_t grpc_retry_pause_ms(const struct grpc_retry *retry, unsigned attempt);

/* Which attempt of a logical call is about to be made, for its headers. */
struct grpc_attempt {
	unsigned retries;   /* after transient faults */
	unsigned throttles; /* because the server asked for a pause */
	int64_t elapsed_ms; /* since the first attempt */
};

struct grpc_status {
	enum grpc_code code;
	bool refused; /* no HTTP/2 or no trusted certificate: repeating does not help */
	char text[GRPC_MESSAGE_LEN_MAX];
};

struct grpc_method {
	const char *path; /* "/package.Service/Method" */
	int64_t wait_ms;  /* deadline of one attempt, 0 = none; sent as grpc-timeout */
	const struct grpc_retry *retry; /* NULL = one attempt */
	bool throttled;			/* obeys RPCRetryPolicy */
	bool bulk;
};

struct grpc_events {
	/* Adds the headers of this attempt.  0 or -errno.  May be NULL. */
	int (*headers)(void *arg, const struct grpc_attempt *attempt, struct http_headers *headers);
	/* Pieces of the server's messages; a negative value ends the call.  NULL: the call is
	 * unary. */
	int (*piece)(void *arg, const struct grpc_piece *piece);
	/* The client's messages, framed by grpc_prefix_encode(), as http_events.upload.  NULL:
	 * there is one, given at the start. */
	size_t (*upload)(void *arg, uint8_t *bytes, size_t len);
	/* The last callback.  message: of a unary call that ended with GRPC_OK, else empty. */
	void (*done)(void *arg, const struct grpc_status *status, struct view message);
};

struct grpc_call;

/* message (copied) is not framed yet.  Callbacks as in http.h.  Returns 0 or negative errno. */
int grpc_call_start(struct grpc_server *server, const struct grpc_method *method,
		    struct view message, const struct grpc_events *events, void *arg,
		    struct grpc_call **ret);

/* upload() has something again. */
void grpc_call_wake(struct grpc_call *call);

/* Ends the call.  NULL is fine. */
void grpc_call_free(struct grpc_call *call);

#endif
