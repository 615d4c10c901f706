/* rpc.h -- gRPC on HTTP/2 streams: framing, dispatch by path, deadlines, status trailers.
 *
 * A method gets whole messages, one at a time: it is handed the first, and the next after
 * rpc_next().  So a method that is busy with a message stops its peer (see h2.h).  It answers
 * whenever it likes. */
#ifndef LOOPBACK_RPC_H
#define LOOPBACK_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "tests/loopback/h2.h"

struct call;
struct ev_loop;

/* gRPC status codes. */
enum {
	STATUS_OK = 0,
	STATUS_CANCELLED = 1,
	STATUS_UNKNOWN = 2,
	STATUS_INVALID_ARGUMENT = 3,
	STATUS_DEADLINE_EXCEEDED = 4,
	STATUS_NOT_FOUND = 5,
	STATUS_ALREADY_EXISTS = 6,
	STATUS_RESOURCE_EXHAUSTED = 8,
	STATUS_FAILED_PRECONDITION = 9,
	STATUS_ABORTED = 10,
	STATUS_OUT_OF_RANGE = 11,
	STATUS_UNIMPLEMENTED = 12,
	STATUS_INTERNAL = 13,
	STATUS_UNAVAILABLE = 14,
	STATUS_DATA_LOSS = 15,
	STATUS_UNAUTHENTICATED = 16
};

enum rpc_shape { RPC_UNARY, RPC_CLIENT_STREAM };

/* request is NULL for a method that reads its messages itself (rpc_message()). */
struct rpc_method {
	const char *path;
	enum rpc_shape shape; /* of the request; any method may answer with many messages */
	bool v2;	      /* wants x-modal-auth-token as well */
	const ProtobufCMessageDescriptor *request;
	void (*run)(struct call *c, const void *request);
};

struct rpc_server {
	struct ev_loop *loop;
	const struct rpc_method *const *tables; /* NULL-terminated; each ends with a NULL path */
	/* Called before a method runs; false = it has failed the call. */
	bool (*admit)(struct call *c, const struct rpc_method *method);
	void *world;
	double unavailable_until_s; /* by ev_time(): until then the router refuses calls */
};
extern const struct h2_user rpc_h2_user; /* its arg is a struct rpc_server */

/* -- while a call is open */

void *rpc_world(const struct call *c);
struct ev_loop *rpc_loop(const struct call *c);
const char *rpc_header(const struct call *c, const char *name);
bool rpc_is_tls(const struct call *c);
/* Whether it is a call to a sandbox' router and not to the control plane. */
bool rpc_is_router(const struct call *c);

/* The message that the method was handed.  Valid until rpc_next(). */
void rpc_message(const struct call *c, const uint8_t **data, size_t *len);
/* The current message is done with: take the next one when it comes. */
void rpc_next(struct call *c);
/* RPC_CLIENT_STREAM: the peer has closed its side and every message was taken. */
void rpc_on_half_close(struct call *c, void (*on_half_close)(struct call *c));
/* The call is over because the peer, its connection or the deadline ended it, or it was answered.
 * The place to drop references to it; state is the method's own. */
void rpc_set_state(struct call *c, void *state, void (*on_over)(struct call *c, void *state));
void *rpc_state(const struct call *c);

/* Sends one message, and ends the call with OK. */
void rpc_reply(struct call *c, const ProtobufCMessage *message);
/* Sends one of many. */
void rpc_send(struct call *c, const ProtobufCMessage *message);
/* Not too much is waiting to be sent; otherwise on_may_send is called when that has changed. */
bool rpc_may_send(const struct call *c);
void rpc_on_may_send(struct call *c, void (*on_may_send)(struct call *c));
/* Ends the call after what was sent.  The call must not be used afterwards. */
void rpc_end(struct call *c, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* As rpc_end(), for a stream that cannot be completed even in the middle of a message. */
void rpc_abort(struct call *c, int status, const char *text);

/* Ends the call like rpc_abort() after that time, unless it is over by then.  text must stay. */
void rpc_cut_off(struct call *c, double after_s, int status, const char *text);

/* A stream of messages whose only member is field 1, bytes: pulled from a source without a copy of
 * its own.  run() gives the next contiguous bytes (0 = none now) and keeps them in place until
 * advance(). */
struct rpc_source {
	size_t (*run)(void *arg, const uint8_t **data);
	void (*advance)(void *arg, size_t len);
	bool (*ended)(void *arg);
};
void rpc_pump(struct call *c, const struct rpc_source *source, void *arg);
/* The source has more, or has ended. */
void rpc_pump_more(struct call *c);

#endif
