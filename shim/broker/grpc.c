#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "shim/base/clock.h"
#include "shim/broker/grpc.h"

#define URL_LEN_MAX 512u
/* The server's own deadline comes first, so that its answer is the one that is seen. */
#define DEADLINE_GRACE_MS   2000
#define PAUSE_DOUBLINGS_MAX 20u

struct grpc_server {
	struct ev_loop *loop;
	struct http *http;
	char origin[URL_LEN_MAX]; /* https://host:port */
	char ipv4[16];
};

struct grpc_call {
	struct grpc_server *server;
	struct grpc_method method;
	const struct grpc_events *events;
	void *arg;
	bool busy; /* inside a callback of the owner that may free it */
	bool dead; /* which it did */
	struct http_call *http_call;
	ev_timer pause;
	uint8_t *request; /* framed */
	size_t request_len;
	struct grpc_attempt attempt;
	int64_t begun_ms;
	/* of the current attempt */
	struct grpc_frame_parser parser;
	struct buf message;
	bool message_seen;
	bool status_seen;
	bool too_long;
	long retry_after_ms; /* < 0: not asked for */
	struct grpc_status status;
};

static int
server_origin_set(struct grpc_server *server, const char *url, struct err *err)
{
	const char *host = url + strlen("https://");
	size_t len;

	if (strncasecmp(url, "http://", strlen("http://")) == 0)
		return err_set(
			err, EPROTONOSUPPORT,
			"%.200s: plain http is refused; use https (for the loopback with its --ca-file)",
			url);
	if (strncasecmp(url, "https://", strlen("https://")) != 0)
		return err_set(err, EINVAL, "%.200s: not an https:// URL; check modalsh.server_url",
			       url);
	len = strcspn(host, "/?#");
	if (len == 0 || len >= sizeof server->origin - strlen("https://") ||
	    memchr(host, '@', len) != NULL)
		return err_set(err, EINVAL,
			       "%.200s: no usable host in this URL; check modalsh.server_url", url);
	snprintf(server->origin, sizeof server->origin, "https://%.*s", (int)len, host);
	return 0;
}

int
grpc_server_new(struct ev_loop *loop, struct http *http, const char *url, const char *ipv4,
		struct grpc_server **ret, struct err *err)
{
	struct grpc_server *server = calloc(1, sizeof *server);
	int r;

	if (server == NULL)
		return err_set(err, ENOMEM, "no memory for a server's address");
	server->loop = loop;
	server->http = http;
	if (ipv4 != NULL)
		snprintf(server->ipv4, sizeof server->ipv4, "%s", ipv4);
	r = server_origin_set(server, url, err);
	if (r < 0) {
		free(server);
		return r;
	}
	*ret = server;
	return 0;
}

void
grpc_server_free(struct grpc_server *server)
{
	free(server);
}

const char *
grpc_server_name(const struct grpc_server *server)
{
	return server->origin + strlen("https://");
}

int64_t
grpc_retry_pause_ms(const struct grpc_retry *retry, unsigned attempt)
{
	unsigned doublings = attempt > PAUSE_DOUBLINGS_MAX ? PAUSE_DOUBLINGS_MAX : attempt - 1;
	int64_t pause_ms = retry->pause_ms << doublings;

	return pause_ms > retry->pause_ms_max ? retry->pause_ms_max : pause_ms;
}

/* ---- what comes back ---- */

static void
status_set(struct grpc_call *call, enum grpc_code code, const char *text)
{
	call->status.code = code;
	snprintf(call->status.text, sizeof call->status.text, "%s", text);
}

static bool
name_is(const char *name, size_t len, const char *wanted)
{
	return len == strlen(wanted) && strncasecmp(name, wanted, len) == 0;
}

static void
on_header(void *arg, const char *name, size_t name_len, const char *value, size_t value_len)
{
	struct grpc_call *call = arg;

	if (name_is(name, name_len, "grpc-status")) {
		call->status.code = grpc_code_parse(value, value_len);
		call->status_seen = true;
		if (call->events->upload != NULL)
			http_call_finish(call->http_call);
	} else if (name_is(name, name_len, "grpc-message")) {
		grpc_message_decode(value, value_len, call->status.text, sizeof call->status.text);
	} else if (name_is(name, name_len, "grpc-status-details-bin")) {
		if (!grpc_retry_after(value, value_len, &call->retry_after_ms))
			call->retry_after_ms = -1;
	}
}

static int
message_collect(struct grpc_call *call, const struct grpc_piece *piece)
{
	if (piece->first && call->message_seen)
		return -EBADMSG;
	call->message_seen = true;
	return buf_put(&call->message, piece->data.data, piece->data.len);
}

/* Ends what grpc_call_free() put off. */
static void
busy_leave(struct grpc_call *call)
{
	call->busy = false;
	if (call->dead)
		grpc_call_free(call);
}

static int
on_body(void *arg, const uint8_t *bytes, size_t len)
{
	struct grpc_call *call = arg;
	struct view in = { bytes, len };
	struct grpc_piece piece;
	int r = 0;

	call->busy = true;
	while (!call->dead && (r = grpc_frame_next(&call->parser, &in, &piece)) > 0) {
		r = call->events->piece == NULL ? message_collect(call, &piece) :
						  call->events->piece(call->arg, &piece);
		if (r < 0)
			break;
	}
	if (call->dead)
		r = -ECANCELED;
	call->too_long = r == -EMSGSIZE;
	busy_leave(call);
	return r;
}

static size_t
on_upload(void *arg, uint8_t *bytes, size_t len)
{
	struct grpc_call *call = arg;
	size_t taken;

	call->busy = true;
	taken = call->events->upload(call->arg, bytes, len);
	busy_leave(call);
	return taken;
}

static int attempt_start(struct grpc_call *call);

static void
call_finish(struct grpc_call *call)
{
	struct view message = { buf_head(&call->message), 0 };

	if (call->status.code == GRPC_OK)
		message.len = buf_len(&call->message);
	call->events->done(call->arg, &call->status, message);
}

static void
on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct grpc_call *call = timer->data;
	int r;

	(void)loop;
	(void)revents;
	r = attempt_start(call);
	if (r < 0) {
		status_set(call, GRPC_INTERNAL, strerror(-r));
		call_finish(call);
	}
}

static void
pause_start(struct grpc_call *call, int64_t pause_ms)
{
	ev_now_update(call->server->loop);
	ev_timer_set(&call->pause, (double)pause_ms / 1000., 0.);
	ev_timer_start(call->server->loop, &call->pause);
}

/* Whether another attempt was arranged. */
static bool
call_repeat(struct grpc_call *call)
{
	const struct grpc_retry *retry = call->method.retry;

	if (call->method.throttled && call->retry_after_ms >= 0) {
		call->attempt.throttles++;
		pause_start(call, call->retry_after_ms);
		return true;
	}
	if (retry == NULL || call->attempt.retries >= retry->count_max || call->status.refused ||
	    !grpc_code_transient(call->status.code))
		return false;
	call->attempt.retries++;
	pause_start(call, grpc_retry_pause_ms(retry, call->attempt.retries));
	return true;
}

/* The server's word counts; without one, what HTTP and the transport have to say. */
static void
status_settle(struct grpc_call *call, const struct http_result *result)
{
	call->status.refused = result->fault == HTTP_FAULT_REFUSED;
	if (call->status_seen && result->fault != HTTP_FAULT_ABORTED) {
		if (call->status.code == GRPC_OK && call->events->piece == NULL &&
		    (!call->message_seen || !grpc_frame_idle(&call->parser)))
			status_set(call, GRPC_INTERNAL, "the answer holds no whole message");
		return;
	}
	if (result->fault == HTTP_FAULT_TIMEOUT && call->method.wait_ms > 0) {
		status_set(call, GRPC_DEADLINE_EXCEEDED, "no answer in time");
	} else if (result->fault == HTTP_FAULT_ABORTED) {
		status_set(call, GRPC_INTERNAL,
			   call->too_long ? "the server sent a message that is too long" :
					    "the server sent what is no gRPC message");
	} else if (result->fault != HTTP_FAULT_NONE) {
		status_set(call, GRPC_UNAVAILABLE, result->text);
	} else {
		status_set(call, grpc_code_from_http(result->status), "");
		snprintf(call->status.text, sizeof call->status.text,
			 "HTTP status %d without a gRPC status", result->status);
	}
}

static void
on_done(void *arg, const struct http_result *result)
{
	struct grpc_call *call = arg;

	/* The body of a proxy's error page is not gRPC; its HTTP status says enough. */
	if (result->status != 200 && result->fault == HTTP_FAULT_ABORTED && !call->status_seen) {
		struct http_result plain = { HTTP_FAULT_NONE, result->status, "" };

		status_settle(call, &plain);
	} else {
		status_settle(call, result);
	}
	http_call_free(call->http_call);
	call->http_call = NULL;
	if (call->status.code != GRPC_OK && call_repeat(call))
		return;
	call_finish(call);
}

static const struct http_events unary_events = { on_header, on_body, NULL, on_done };
static const struct http_events upload_events = { on_header, on_body, on_upload, on_done };

/* ---- what is sent ---- */

static int
headers_make(struct grpc_call *call, struct http_headers *headers)
{
	int r = http_headers_add(headers, "content-type", "application/grpc");

	if (r == 0)
		r = http_headers_add(headers, "te", "trailers");
	if (r == 0)
		r = http_headers_add(headers, "grpc-accept-encoding", "identity");
	if (r == 0)
		r = http_headers_add(headers, "user-agent", "modalsh");
	if (r == 0 && call->method.wait_ms > 0)
		r = http_headers_add(headers, "grpc-timeout", "%" PRId64 "m", call->method.wait_ms);
	if (r == 0 && call->events->headers != NULL)
		r = call->events->headers(call->arg, &call->attempt, headers);
	return r;
}

static void
attempt_reset(struct grpc_call *call)
{
	grpc_frame_init(&call->parser, call->events->piece == NULL ? GRPC_MESSAGE_LEN_LIMIT :
								     GRPC_STREAMED_LEN_LIMIT);
	buf_free(&call->message);
	call->message_seen = call->status_seen = call->too_long = false;
	call->retry_after_ms = -1;
	call->status = (struct grpc_status){ .code = GRPC_UNKNOWN };
	call->attempt.elapsed_ms = clock_now_ms() - call->begun_ms;
}

static int
attempt_start(struct grpc_call *call)
{
	struct http_headers headers = { .count = 0 };
	char url[URL_LEN_MAX + 128];
	struct http_request request = {
		.url = url,
		.ipv4 = call->server->ipv4,
		.headers = &headers,
		.body = call->request,
		.body_len = call->request_len,
		.timeout_ms = call->method.wait_ms > 0 ?
				      (long)call->method.wait_ms + DEADLINE_GRACE_MS :
				      0,
		.bulk = call->method.bulk,
	};
	int r;

	attempt_reset(call);
	snprintf(url, sizeof url, "%s%s", call->server->origin, call->method.path);
	r = headers_make(call, &headers);
	if (r < 0) {
		http_headers_release(&headers);
		return r;
	}
	return http_call_start(call->server->http, &request,
			       call->events->upload == NULL ? &unary_events : &upload_events, call,
			       &call->http_call, NULL);
}

static int
request_frame(struct grpc_call *call, struct view message)
{
	if (message.len > GRPC_MESSAGE_LEN_LIMIT)
		return -EMSGSIZE;
	call->request = malloc(GRPC_PREFIX_LEN + message.len);
	if (call->request == NULL)
		return -ENOMEM;
	grpc_prefix_encode(call->request, (uint32_t)message.len);
	if (message.len > 0)
		memcpy(call->request + GRPC_PREFIX_LEN, message.data, message.len);
	call->request_len = GRPC_PREFIX_LEN + message.len;
	return 0;
}

int
grpc_call_start(struct grpc_server *server, const struct grpc_method *method, struct view message,
		const struct grpc_events *events, void *arg, struct grpc_call **ret)
{
	struct grpc_call *call = calloc(1, sizeof *call);
	int r = -ENOMEM;

	if (call == NULL)
		return r;
	call->server = server;
	call->method = *method;
	call->events = events;
	call->arg = arg;
	call->begun_ms = clock_now_ms();
	buf_init(&call->message, GRPC_MESSAGE_LEN_LIMIT);
	ev_init(&call->pause, on_pause_over);
	call->pause.data = call;
	r = events->upload == NULL ? request_frame(call, message) : 0;
	if (r == 0)
		r = attempt_start(call);
	if (r < 0) {
		grpc_call_free(call);
		return r;
	}
	*ret = call;
	return 0;
}

void
grpc_call_wake(struct grpc_call *call)
{
	if (call->http_call != NULL)
		http_call_wake(call->http_call);
}

void
grpc_call_free(struct grpc_call *call)
{
	if (call == NULL)
		return;
	if (!call->dead) {
		ev_timer_stop(call->server->loop, &call->pause);
		http_call_free(call->http_call);
	}
	call->dead = true;
	if (call->busy)
		return;
	buf_free(&call->message);
	free(call->request);
	free(call);
}
