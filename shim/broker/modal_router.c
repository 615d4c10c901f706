#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proto/modal_router.pb-c.h"
#include "shim/broker/modal_call.h"

#define SERVICE	     "/modal.task_command_router.TaskCommandRouter/"
#define CALL_WAIT_MS 10000
#define EXEC_WAIT_MS 60000

/* The frame of one piece of stdin inside a TaskExecStdinWriteStreamRequest: gRPC prefix, tag of
 * field 2 (bytes), length. */
#define PIECE_TAG	     (2u << 3 | 2u)
#define PIECE_VARINT_LEN_MAX 3u
#define PIECE_HEAD_LEN_MAX   (GRPC_PREFIX_LEN + 1 + PIECE_VARINT_LEN_MAX)
#define PIECE_LEN_MAX	     ((1u << 21) - 1)
/* Addresses that a router may have had in its life; then it stays where it is. */
#define RETIRED_MAX 8u

#define STDIO_VALUE(name_)                                                                         \
	MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIO_FILE_DESCRIPTOR__TASK_EXEC_STDIO_FILE_DESCRIPTOR_##name_

struct modal_router {
	struct modal *modal;
	char sandbox_id[MODAL_ID_LEN_MAX];
	char task_id[MODAL_ID_LEN_MAX];
	struct grpc_server *server;
	struct grpc_server
		*retired[RETIRED_MAX]; /* former addresses: calls in flight keep a pointer */
	unsigned retired_count;
	char url[MODAL_URL_LEN_MAX];
	char *jwt;
	unsigned jwt_number; /* counts the tokens, so that one refresh serves all calls that were
				refused */
	struct modal_call *access_call;
	struct call_list waiters;
};

static const struct grpc_retry router_retry = { 10, 10, 10240 };

int
modal_router_new(struct modal *modal, const char *sandbox_id, const char *task_id,
		 struct modal_router **ret, struct err *err)
{
	struct modal_router *router = calloc(1, sizeof *router);

	if (router == NULL)
		return err_set(err, ENOMEM, "no memory for the router of %s", sandbox_id);
	router->modal = modal;
	snprintf(router->sandbox_id, sizeof router->sandbox_id, "%s", sandbox_id);
	snprintf(router->task_id, sizeof router->task_id, "%s", task_id);
	*ret = router;
	return 0;
}

static void
jwt_forget(struct modal_router *router)
{
	if (router->jwt != NULL)
		explicit_bzero(router->jwt, strlen(router->jwt));
	free(router->jwt);
	router->jwt = NULL;
}

void
modal_router_free(struct modal_router *router)
{
	if (router == NULL)
		return;
	assert(router->waiters.head == NULL);
	modal_call_free(router->access_call);
	grpc_server_free(router->server);
	while (router->retired_count > 0)
		grpc_server_free(router->retired[--router->retired_count]);
	jwt_forget(router);
	free(router);
}

const char *
router_server_name(const struct modal_router *router)
{
	return router->server == NULL ? "the router" : grpc_server_name(router->server);
}

/* The address is taken over when it is another one, unlike Modal's SDKs do it: they would go on
 * with one where nobody answers. */
static int
router_move(struct modal_router *router, const char *url, const char *ipv4, struct err *err)
{
	struct grpc_server *server;
	int r;

	if (router->server != NULL &&
	    (strcmp(router->url, url) == 0 || router->retired_count == RETIRED_MAX))
		return 0;
	if (strlen(url) >= sizeof router->url)
		return err_set(err, EMSGSIZE, "router of %s: its address is too long",
			       router->sandbox_id);
	r = grpc_server_new(modal_loop(router->modal), modal_http(router->modal), url, ipv4,
			    &server, err);
	if (r < 0)
		return err_wrap(err, "router of %s", router->sandbox_id);
	if (router->server != NULL)
		router->retired[router->retired_count++] = router->server;
	router->server = server;
	memccpy(router->url, url, '\0', sizeof router->url);
	return 0;
}

int
modal_router_access_set(struct modal_router *router, const char *url, const char *ipv4,
			const char *jwt, struct err *err)
{
	int r = router_move(router, url, ipv4, err);

	if (r < 0)
		return r;
	jwt_forget(router);
	router->jwt = strdup(jwt);
	router->jwt_number++;
	return router->jwt == NULL ? err_set(err, ENOMEM, "no memory for a token") : 0;
}

/* ---- sending, with another token when the first one is refused ---- */

static int
router_headers(void *arg, const struct grpc_attempt *attempt, struct http_headers *headers)
{
	struct modal_call *call = arg;

	(void)attempt;
	call->token_number = call->router->jwt_number;
	return http_headers_add(headers, "authorization", "Bearer %s",
				text_or_empty(call->router->jwt));
}

static void
on_unauthenticated_over(struct modal_call *call)
{
	int r;

	if (call->events->piece != NULL || call->events->upload != NULL) {
		call_fail(call, GRPC_UNAUTHENTICATED, "the token was replaced");
		return;
	}
	call->repeated = true;
	r = call_send(call, call->router->server);
	if (r < 0)
		call_fail(call, GRPC_INTERNAL, strerror(-r));
}

static void
on_access(void *arg, const struct modal_reply *reply)
{
	struct modal_router *router = arg;
	struct call_list serving;
	struct modal_reply failure = *reply;
	enum grpc_code code = reply->code;
	struct err err;

	if (code == GRPC_OK &&
	    modal_router_access_set(router, reply->url, reply->ipv4, reply->jwt, &err) < 0)
		code = GRPC_INTERNAL;
	else if (code != GRPC_OK)
		err = *reply->err;
	failure.err = &err;
	/* To those who wait, UNAUTHENTICATED means that there is another token now. */
	if (code == GRPC_UNAUTHENTICATED)
		code = GRPC_PERMISSION_DENIED;
	modal_call_free(router->access_call);
	router->access_call = NULL;
	call_list_move(&router->waiters, &serving);
	while (serving.head != NULL) {
		struct modal_call *call = serving.head;

		call_list_remove(call);
		if (code == GRPC_OK)
			on_unauthenticated_over(call);
		else
			call_fail_like(call, code, &failure);
	}
}

static int
access_ask(struct modal_router *router)
{
	if (router->access_call == NULL)
		router->access_call = modal_access_get(router->modal, router->sandbox_id,
						       router->task_id, on_access, router);
	return router->access_call == NULL ? -ENOMEM : 0;
}

void
modal_router_access_renew(struct modal_router *router)
{
	(void)access_ask(router); /* without memory: the next time */
}

static void
on_done(void *arg, const struct grpc_status *status, struct view message)
{
	struct modal_call *call = arg;
	struct modal_router *router = call->router;

	if (status->code != GRPC_UNAUTHENTICATED || call->repeated) {
		call_finish(call, status, message);
		return;
	}
	if (router->access_call == NULL && call->token_number != router->jwt_number)
		on_unauthenticated_over(call);
	else if (access_ask(router) == 0)
		call_list_add(&router->waiters, call);
	else
		call_finish(call, status, message);
}

static const struct grpc_events unary_events = { router_headers, NULL, NULL, on_done };

static struct modal_call *
call_sent(struct modal_call *call)
{
	if (call != NULL && call_send(call, call->router->server) < 0) {
		modal_call_free(call);
		return NULL;
	}
	return call;
}

static struct modal_call *
call_make(struct modal_router *router, const struct modal_method *method,
	  const ProtobufCMessage *request, MODAL_DONE)
{
	return call_sent(
		call_new(router->modal, router, method, &unary_events, request, done, arg));
}

static char *
borrowed(const char *text)
{
	return (char *)(uintptr_t)text;
}

/* ---- unary calls ---- */

/* There is no call that merely asks "are you there"; a question about an exec that does not
 * exist is answered with NOT_FOUND, at once and by the router itself. */
static void
on_probe_done(void *arg, const struct grpc_status *status, struct view message)
{
	struct grpc_status found = *status;

	if (status->code == GRPC_NOT_FOUND || status->code == GRPC_FAILED_PRECONDITION ||
	    status->code == GRPC_INVALID_ARGUMENT || status->code == GRPC_UNIMPLEMENTED)
		found.code = GRPC_OK;
	on_done(arg, &found, message);
}

struct modal_call *
modal_router_probe(struct modal_router *router, MODAL_DONE)
{
	static const struct grpc_events events = { router_headers, NULL, NULL, on_probe_done };
	static const struct modal_method method = { .name = "TaskExecPoll",
						    .grpc = { SERVICE "TaskExecPoll", CALL_WAIT_MS,
							      NULL, false, false } };
	Modal__TaskCommandRouter__TaskExecPollRequest request =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_POLL_REQUEST__INIT;
	char exec_id[MODAL_UUID_LEN];

	modal_uuid_make(exec_id);
	request.task_id = router->task_id;
	request.exec_id = exec_id;
	return call_sent(
		call_new(router->modal, router, &method, &events, &request.base, done, arg));
}

static size_t
argv_measure(const char *const *argv, size_t *ret_len)
{
	size_t count, len = 0;

	for (count = 0; argv[count] != NULL; count++)
		len += strlen(argv[count]);
	*ret_len = len;
	return count;
}

struct modal_call *
modal_exec_start(struct modal_router *router, const char *exec_id, const char *const *argv,
		 MODAL_DONE)
{
	static const struct modal_method method = {
		.name = "TaskExecStart",
		.grpc = { SERVICE "TaskExecStart", CALL_WAIT_MS, &router_retry, false, false },
	};
	Modal__TaskCommandRouter__TaskExecStartRequest request =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_START_REQUEST__INIT;
	size_t len;

	request.task_id = router->task_id;
	request.exec_id = borrowed(exec_id);
	request.n_command_args = argv_measure(argv, &len);
	request.command_args = (char **)(uintptr_t)argv;
	request.has_stdout_config = request.has_stderr_config = 1;
	request.stdout_config =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDOUT_CONFIG__TASK_EXEC_STDOUT_CONFIG_PIPE;
	request.stderr_config =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDERR_CONFIG__TASK_EXEC_STDERR_CONFIG_PIPE;
	if (request.n_command_args == 0 || len > MODAL_ARGV_LEN_MAX)
		return NULL;
	return call_make(router, &method, &request.base, done, arg);
}

static int
wait_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__TaskCommandRouter__TaskExecWaitResponse *response = (const void *)message;

	switch ((int)response->exit_status_case) {
	case MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_WAIT_RESPONSE__EXIT_STATUS_CODE:
		reply->exit_code = response->code;
		return response->code < 0 || response->code > 255 ? -EBADMSG : 0;
	case MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_WAIT_RESPONSE__EXIT_STATUS_SIGNAL:
		reply->exit_code = 128 + response->signal;
		return response->signal < 1 || response->signal > 64 ? -EBADMSG : 0;
	default:
		return -EBADMSG;
	}
}

struct modal_call *
modal_exec_wait(struct modal_router *router, const char *exec_id, MODAL_DONE)
{
	static const struct modal_method method = {
		.name = "TaskExecWait",
		.grpc = { SERVICE "TaskExecWait", EXEC_WAIT_MS, NULL, false, false },
		.reply = &modal__task_command_router__task_exec_wait_response__descriptor,
		.read = wait_read,
	};
	Modal__TaskCommandRouter__TaskExecWaitRequest request =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_WAIT_REQUEST__INIT;

	request.task_id = router->task_id;
	request.exec_id = borrowed(exec_id);
	return call_make(router, &method, &request.base, done, arg);
}

struct modal_call *
modal_exec_write(struct modal_router *router, const char *exec_id, uint64_t offset,
		 struct view bytes, bool eof, MODAL_DONE)
{
	static const struct modal_method method = {
		.name = "TaskExecStdinWrite",
		.grpc = { SERVICE "TaskExecStdinWrite", CALL_WAIT_MS, &router_retry, false, false },
	};
	Modal__TaskCommandRouter__TaskExecStdinWriteRequest request =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_REQUEST__INIT;

	request.task_id = router->task_id;
	request.exec_id = borrowed(exec_id);
	request.has_offset = request.has_data = 1;
	request.offset = offset;
	request.data = (ProtobufCBinaryData){ bytes.len, (uint8_t *)(uintptr_t)bytes.data };
	request.has_eof = eof;
	request.eof = eof;
	return call_make(router, &method, &request.base, done, arg);
}

static int
fed_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__TaskCommandRouter__TaskExecStdinStatusResponse *response =
		(const void *)message;

	reply->stdin_len = response->num_bytes_written;
	reply->stdin_closed = response->closed;
	return 0;
}

struct modal_call *
modal_exec_fed(struct modal_router *router, const char *exec_id, MODAL_DONE)
{
	static const struct modal_method method = {
		.name = "TaskExecStdinStatus",
		.grpc = { SERVICE "TaskExecStdinStatus", CALL_WAIT_MS, &router_retry, false,
			  false },
		.reply = &modal__task_command_router__task_exec_stdin_status_response__descriptor,
		.read = fed_read,
	};
	Modal__TaskCommandRouter__TaskExecStdinStatusRequest request =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_STATUS_REQUEST__INIT;

	request.task_id = router->task_id;
	request.exec_id = borrowed(exec_id);
	return call_make(router, &method, &request.base, done, arg);
}

/* ---- output ---- */

static int
on_output_piece(void *arg, const struct grpc_piece *piece)
{
	struct modal_call *call = arg;
	struct view in = piece->data, bytes;
	int r = 0;

	if (piece->first)
		bytes_field_init(&call->field);
	call_enter(call);
	while (!call->dead && (r = bytes_field_next(&call->field, &in, &bytes)) > 0)
		call->data(call->arg, bytes.data, bytes.len);
	if (!call_leave(call))
		return -ECANCELED;
	if (r == 0 && piece->last && !bytes_field_idle(&call->field))
		return -EBADMSG;
	return r;
}

struct modal_call *
modal_exec_read(struct modal_router *router, const char *exec_id, int fd, uint64_t offset,
		void (*data)(void *arg, const uint8_t *bytes, size_t len), MODAL_DONE)
{
	static const struct grpc_events events = { router_headers, on_output_piece, NULL, on_done };
	static const struct modal_method methods[] = {
		{ .name = "TaskExecStdioRead(stdout)",
		  .grpc = { SERVICE "TaskExecStdioRead", 0, NULL, false, true } },
		{ .name = "TaskExecStdioRead(stderr)",
		  .grpc = { SERVICE "TaskExecStdioRead", 0, NULL, false, false } },
	};
	Modal__TaskCommandRouter__TaskExecStdioReadRequest request =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIO_READ_REQUEST__INIT;
	struct modal_call *call;

	request.task_id = router->task_id;
	request.exec_id = borrowed(exec_id);
	request.has_offset = request.has_file_descriptor = 1;
	request.offset = offset;
	request.file_descriptor = fd == 0 ? STDIO_VALUE(STDOUT) : STDIO_VALUE(STDERR);
	call = call_new(router->modal, router, &methods[fd != 0], &events, &request.base, done,
			arg);
	if (call != NULL)
		call->data = data;
	return call_sent(call);
}

/* ---- input ---- */

/* The answer to a stream of input is one empty message. */
static int
on_feed_piece(void *arg, const struct grpc_piece *piece)
{
	(void)arg;
	(void)piece;
	return 0;
}

/* Puts the head of a piece of len bytes right before bytes + PIECE_HEAD_LEN_MAX; returns its
 * length. */
static size_t
piece_head(uint8_t *bytes, size_t len)
{
	uint8_t varint[PIECE_VARINT_LEN_MAX], *head;
	size_t varint_len = 0, rest = len;

	do {
		varint[varint_len++] = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
		rest >>= 7;
	} while (rest > 0);
	head = bytes + PIECE_HEAD_LEN_MAX - varint_len - 1 - GRPC_PREFIX_LEN;
	grpc_prefix_encode(head, (uint32_t)(1 + varint_len + len));
	head[GRPC_PREFIX_LEN] = PIECE_TAG;
	memcpy(head + GRPC_PREFIX_LEN + 1, varint, varint_len);
	return GRPC_PREFIX_LEN + 1 + varint_len;
}

static size_t
feed_end(struct modal_call *call, uint8_t *bytes)
{
	/* {3 end {}} */
	static const uint8_t end[] = { 0, 0, 0, 0, 2, 3u << 3 | 2u, 0 };

	call->feed_ended = true;
	memcpy(bytes, end, sizeof end);
	return sizeof end;
}

static size_t
on_feed(void *arg, uint8_t *bytes, size_t len)
{
	struct modal_call *call = arg;
	size_t taken = 0, start, head_len;

	if (call->feed_ended)
		return HTTP_UPLOAD_END;
	assert(len > call->feed_start.len + PIECE_HEAD_LEN_MAX);
	if (len > PIECE_LEN_MAX)
		len = PIECE_LEN_MAX;
	start = call->feed_start.len;
	if (start > 0)
		memcpy(bytes, call->feed_start.data, start);
	call->feed_start.len = 0;
	bytes += start;
	len -= start;
	call_enter(call);
	taken = call->want(call->arg, bytes + PIECE_HEAD_LEN_MAX, len - PIECE_HEAD_LEN_MAX);
	if (!call_leave(call))
		return HTTP_UPLOAD_END;
	if (taken == MODAL_FEED_END)
		return start + feed_end(call, bytes);
	if (taken == 0)
		return start;
	head_len = piece_head(bytes, taken);
	if (head_len < PIECE_HEAD_LEN_MAX)
		memmove(bytes, bytes + PIECE_HEAD_LEN_MAX - head_len, head_len + taken);
	return start + head_len + taken;
}

static const struct grpc_events feed_events = { router_headers, on_feed_piece, on_feed, on_done };

static const struct modal_method feed_method = {
	.name = "TaskExecStdinWriteStream",
	.grpc = { SERVICE "TaskExecStdinWriteStream", 0, NULL, false, false },
};

struct modal_call *
modal_exec_feed(struct modal_router *router, const char *exec_id, uint64_t offset,
		size_t (*want)(void *arg, uint8_t *bytes, size_t len), MODAL_DONE)
{
	Modal__TaskCommandRouter__TaskExecStdinWriteStreamStart start =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_STREAM_START__INIT;
	Modal__TaskCommandRouter__TaskExecStdinWriteStreamRequest request =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_STREAM_REQUEST__INIT;
	struct modal_call *call =
		call_new(router->modal, router, &feed_method, &feed_events, NULL, done, arg);

	if (call == NULL)
		return NULL;
	call->want = want;
	start.task_id = router->task_id;
	start.exec_id = borrowed(exec_id);
	start.has_offset = 1;
	start.offset = offset;
	request.payload_case =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_STREAM_REQUEST__PAYLOAD_START;
	request.start = &start;
	call->feed_start = message_pack(&request.base, true);
	if (call->feed_start.data == NULL) {
		modal_call_free(call);
		return NULL;
	}
	return call_sent(call);
}

void
modal_exec_feed_wake(struct modal_call *call)
{
	if (call->grpc != NULL)
		grpc_call_wake(call->grpc);
}
