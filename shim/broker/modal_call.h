/* modal_call.h -- what modal.c and modal_router.c share: one call on its way, from the packed
 * request to the unpacked reply. */
#ifndef SHIM_BROKER_MODAL_CALL_H
#define SHIM_BROKER_MODAL_CALL_H

#include <protobuf-c/protobuf-c.h>

#include "proto/bytes_field.h"
#include "shim/broker/grpc.h"
#include "shim/broker/modal.h"

/* Calls that wait for the same token. */
struct call_list {
	struct modal_call *head;
};

struct modal_method {
	const char *name;
	struct grpc_method grpc;
	bool wants_token; /* V2: not without x-modal-auth-token */
	const ProtobufCMessageDescriptor *reply;
	/* Points the reply at what the message holds; a negative value: it is not usable. */
	int (*read)(const ProtobufCMessage *message, struct modal_reply *reply);
};

struct modal_call {
	struct modal *modal;
	struct modal_router *router; /* NULL: control plane */
	const struct modal_method *method;
	const struct grpc_events *events;
	void (*done)(void *arg, const struct modal_reply *reply);
	void *arg;
	bool busy; /* inside a callback of the owner that may free it */
	bool dead; /* which it did */
	struct grpc_call *grpc;
	struct view request; /* packed, owned */
	char idempotency_key[MODAL_UUID_LEN];

	struct call_list *list; /* where it waits, or NULL */
	struct modal_call *next;
	unsigned token_number; /* of the router's token that it was sent with */
	bool repeated;	       /* with another token */

	/* streams */
	struct bytes_field field;
	void (*data)(void *arg, const uint8_t *bytes, size_t len);
	size_t (*want)(void *arg, uint8_t *bytes, size_t len);
	struct view feed_start; /* the first message of the stream, framed, owned; sent already when
				   its length is 0 */
	bool feed_ended;
	struct image_join *join;
	struct buf collected; /* of one message that comes in pieces */
};

/* Packs request (NULL: there is none to pack).  NULL without memory. */
struct modal_call *call_new(struct modal *modal, struct modal_router *router,
			    const struct modal_method *method, const struct grpc_events *events,
			    const ProtobufCMessage *request, MODAL_DONE);

/* Sends it.  0 or -errno. */
int call_send(struct modal_call *call, struct grpc_server *server);

/* Around callbacks other than the last one: the call may be freed by them, and is then gone
 * after call_leave(), which returns false. */
void call_enter(struct modal_call *call);
bool call_leave(struct modal_call *call);

/* Reports the end to its owner. */
void call_finish(struct modal_call *call, const struct grpc_status *status, struct view message);
void call_fail(struct modal_call *call, enum grpc_code code, const char *text);
/* For the reason for which another call failed, on which this one waited. */
void call_fail_like(struct modal_call *call, enum grpc_code code, const struct modal_reply *other);

void call_list_add(struct call_list *list, struct modal_call *call);
void call_list_remove(struct modal_call *call);
/* Moves all calls of one list to another, empty one. */
void call_list_move(struct call_list *from, struct call_list *to);

/* Unpacks with a bound on memory.  NULL when it is no such message; free with message_free(). */
ProtobufCMessage *message_unpack(const ProtobufCMessageDescriptor *descriptor, struct view bytes);
void message_free(ProtobufCMessage *message);

/* Packs, with the prefix of a frame before it when framed.  Data is NULL without memory. */
struct view message_pack(const ProtobufCMessage *message, bool framed);

/* NULL is "". */
const char *text_or_empty(const char *text);

/* "host:port" of the server that the call goes to. */
const char *call_server_name(const struct modal_call *call);
struct grpc_server *modal_server(const struct modal *modal);
const char *router_server_name(const struct modal_router *router);
struct ev_loop *modal_loop(const struct modal *modal);
struct http *modal_http(const struct modal *modal);

#endif
