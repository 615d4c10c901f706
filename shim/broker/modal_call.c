#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim/broker/modal_call.h"

/* Of all allocations for one unpacked message; protobuf-c has no bound of its own. */
#define UNPACKED_LEN_MAX (16u * 1024 * 1024)

const char *
text_or_empty(const char *text)
{
	return text == NULL ? "" : text;
}

static void *
bounded_alloc(void *arg, size_t len)
{
	size_t *left = arg;

	if (len > *left)
		return NULL;
	*left -= len;
	return malloc(len);
}

static void
plain_free(void *arg, void *memory)
{
	(void)arg;
	free(memory);
}

ProtobufCMessage *
message_unpack(const ProtobufCMessageDescriptor *descriptor, struct view bytes)
{
	size_t left = UNPACKED_LEN_MAX;
	ProtobufCAllocator allocator = { bounded_alloc, plain_free, &left };

	return protobuf_c_message_unpack(descriptor, &allocator, bytes.len, bytes.data);
}

void
message_free(ProtobufCMessage *message)
{
	ProtobufCAllocator allocator = { bounded_alloc, plain_free, NULL };

	if (message != NULL)
		protobuf_c_message_free_unpacked(message, &allocator);
}

struct view
message_pack(const ProtobufCMessage *message, bool framed)
{
	size_t len = protobuf_c_message_get_packed_size(message),
	       start = framed ? GRPC_PREFIX_LEN : 0;
	uint8_t *bytes = malloc(start + len + 1);

	if (bytes == NULL)
		return (struct view){ NULL, 0 };
	if (framed)
		grpc_prefix_encode(bytes, (uint32_t)len);
	protobuf_c_message_pack(message, bytes + start);
	return (struct view){ bytes, start + len };
}

static void
owned_free(struct view bytes)
{
	free((void *)(uintptr_t)bytes.data);
}

struct modal_call *
call_new(struct modal *modal, struct modal_router *router, const struct modal_method *method,
	 const struct grpc_events *events, const ProtobufCMessage *request, MODAL_DONE)
{
	struct modal_call *call = calloc(1, sizeof *call);

	if (call == NULL)
		return NULL;
	call->modal = modal;
	call->router = router;
	call->method = method;
	call->events = events;
	call->done = done;
	call->arg = arg;
	buf_init(&call->collected, GRPC_MESSAGE_LEN_LIMIT);
	modal_uuid_make(call->idempotency_key);
	if (request == NULL)
		return call;
	call->request = message_pack(request, false);
	if (call->request.data == NULL) {
		free(call);
		return NULL;
	}
	return call;
}

int
call_send(struct modal_call *call, struct grpc_server *server)
{
	grpc_call_free(call->grpc);
	call->grpc = NULL;
	return grpc_call_start(server, &call->method->grpc, call->request, call->events, call,
			       &call->grpc);
}

/* ---- lists ---- */

void
call_list_add(struct call_list *list, struct modal_call *call)
{
	struct modal_call **at = &list->head;

	while (*at != NULL)
		at = &(*at)->next;
	*at = call;
	call->next = NULL;
	call->list = list;
}

void
call_list_remove(struct modal_call *call)
{
	struct modal_call **at;

	if (call->list == NULL)
		return;
	for (at = &call->list->head; *at != call; at = &(*at)->next)
		;
	*at = call->next;
	call->list = NULL;
}

void
call_list_move(struct call_list *from, struct call_list *to)
{
	*to = *from;
	from->head = NULL;
	for (struct modal_call *call = to->head; call != NULL; call = call->next)
		call->list = to;
}

/* ---- ends ---- */

static const struct {
	enum grpc_code code;
	int errno_value;
	const char *advice;
} advices[] = {
	{ GRPC_CANCELLED, EIO, "" },
	{ GRPC_NOT_FOUND, ENOENT, "" },
	{ GRPC_ALREADY_EXISTS, EEXIST, "" },
	{ GRPC_INVALID_ARGUMENT, EINVAL, "" },
	{ GRPC_DEADLINE_EXCEEDED, ETIMEDOUT, "" },
	{ GRPC_PERMISSION_DENIED, EPERM, "; check what this Modal token may do" },
	{ GRPC_RESOURCE_EXHAUSTED, EDQUOT, "; a limit of the Modal workspace is reached" },
	{ GRPC_FAILED_PRECONDITION, ESTALE, "" },
	{ GRPC_UNIMPLEMENTED, ENOSYS, "" },
	{ GRPC_UNAVAILABLE, ECONNREFUSED, "" },
};

static void
error_make(const struct modal_call *call, const struct grpc_status *status, struct err *err)
{
	const char *advice = "", *separator = status->text[0] == '\0' ? "" : ": ";
	int errno_value = EIO;

	for (size_t i = 0; i < sizeof advices / sizeof advices[0]; i++) {
		if (advices[i].code != status->code)
			continue;
		errno_value = advices[i].errno_value;
		advice = advices[i].advice;
	}
	if (status->code == GRPC_UNAUTHENTICATED) {
		errno_value = EACCES;
		advice = call->router == NULL ? "; check the Modal token" : "";
	}
	if (status->refused)
		advice = "; check modalsh.server_url and modalsh.ca_file";
	err_set(err, errno_value, "%s on %s: %s%s%s%s", call->method->name, call_server_name(call),
		grpc_code_name(status->code), separator, status->text, advice);
}

static void
reply_report(struct modal_call *call, const struct grpc_status *status, struct modal_reply *reply)
{
	struct err err;

	reply->code = status->code;
	reply->transient = grpc_code_transient(status->code) && !status->refused;
	if (status->code != GRPC_OK) {
		error_make(call, status, &err);
		reply->err = &err;
	}
	call->done(call->arg, reply);
}

static struct modal_reply
reply_empty(void)
{
	return (struct modal_reply){ .id = "",
				     .task_id = "",
				     .builder_version = "",
				     .jwt = "",
				     .url = "",
				     .ipv4 = "",
				     .result_text = "",
				     .exit_code = -1 };
}

void
call_fail(struct modal_call *call, enum grpc_code code, const char *text)
{
	struct grpc_status status = { .code = code };
	struct modal_reply reply = reply_empty();

	memccpy(status.text, text, '\0', sizeof status.text - 1);
	reply_report(call, &status, &reply);
}

void
call_fail_like(struct modal_call *call, enum grpc_code code, const struct modal_reply *other)
{
	struct modal_reply reply = reply_empty();

	reply.code = code;
	reply.transient = other->transient;
	reply.err = other->err;
	call->done(call->arg, &reply);
}

void
call_finish(struct modal_call *call, const struct grpc_status *status, struct view message)
{
	struct modal_reply reply = reply_empty();
	ProtobufCMessage *unpacked = NULL;

	if (status->code == GRPC_OK && call->method->read != NULL) {
		unpacked = message_unpack(call->method->reply, message);
		if (unpacked == NULL || call->method->read(unpacked, &reply) < 0) {
			message_free(unpacked);
			call_fail(call, GRPC_INTERNAL, "the answer makes no sense");
			return;
		}
	}
	reply_report(call, status, &reply);
	message_free(unpacked);
}

void
modal_call_free(struct modal_call *call)
{
	if (call == NULL)
		return;
	if (!call->dead) {
		call_list_remove(call);
		grpc_call_free(call->grpc);
	}
	call->dead = true;
	if (call->busy)
		return;
	owned_free(call->request);
	owned_free(call->feed_start);
	buf_free(&call->collected);
	free(call->join);
	free(call);
}

void
call_enter(struct modal_call *call)
{
	call->busy = true;
}

bool
call_leave(struct modal_call *call)
{
	bool alive = !call->dead;

	call->busy = false;
	if (!alive)
		modal_call_free(call);
	return alive;
}
