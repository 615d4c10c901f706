#include "tests/loopback/rpc.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "tests/loopback/bytes.h"

enum {
	PREFIX_LEN = 5,
	MESSAGE_LEN_MAX = 104857600, /* what Modal's own JS and Go clients set */
	OUT_LEN_MAX = 1024 * 1024,   /* queued messages of one call */
	PUMP_HEADER_LEN_MAX = PREFIX_LEN + 1 + 10,
	FIELD_1_BYTES = (1 << 3) | 2
};

struct pump {
	const struct rpc_source *source;
	void *arg;
	uint8_t header[PUMP_HEADER_LEN_MAX];
	size_t header_at, header_len;
	size_t left; /* of the message begun */
};

struct call {
	struct h2_stream *stream;
	const struct rpc_server *server;
	const struct rpc_method *method;
	struct bytes in;    /* does not move while a message is current */
	struct bytes later; /* what comes meanwhile */
	size_t held;	    /* received, not yet acknowledged to the peer */
	size_t message_len; /* of the message at the front of in, if current */
	bool current, request_ended, taking;
	void (*on_half_close)(struct call *c);
	struct bytes out;
	void (*on_may_send)(struct call *c);
	struct pump pump;
	bool responded; /* the response headers are out */
	bool ended;
	int status;
	char *status_message;
	char status_text[12];
	ev_timer deadline, cut_off;
	int cut_off_status;
	const char *cut_off_text;
	void *state;
	void (*on_over)(struct call *c, void *state);
};

/* -- the end of a call */

static void
call_over(struct call *c)
{
	void (*on_over)(struct call *, void *) = c->on_over;

	c->on_over = NULL;
	if (on_over)
		on_over(c, c->state);
	c->state = NULL;
	ev_timer_stop(c->server->loop, &c->deadline);
	ev_timer_stop(c->server->loop, &c->cut_off);
}

/* grpc-message: percent-encoded, printable ASCII only. */
static char *
message_encode(const char *text)
{
	char *encoded = mem_new(strlen(text) * 3 + 1);
	size_t n = 0;

	for (; *text; text++) {
		unsigned char ch = (unsigned char)*text;

		if (ch >= 0x20 && ch < 0x7f && ch != '%')
			encoded[n++] = (char)ch;
		else
			n += (size_t)snprintf(encoded + n, sizeof "%00", "%%%02X", ch);
	}
	return encoded;
}

static int
status_fields(struct call *c, struct h2_field *fields)
{
	snprintf(c->status_text, sizeof c->status_text, "%d", c->status);
	fields[0] = (struct h2_field){ "grpc-status", c->status_text };
	fields[1] = (struct h2_field){ "grpc-message", c->status_message };
	return text_empty(c->status_message) ? 1 : 2;
}

static void
call_respond(struct call *c)
{
	struct h2_field fields[H2_TRAILERS_MAX] = { { "content-type", "application/grpc" } };
	int count = 1;
	bool only_trailers = c->ended && c->out.len == 0;

	if (c->responded) {
		h2_body_ready(c->stream);
		return;
	}
	c->responded = true;
	if (only_trailers)
		count += status_fields(c, fields + 1);
	h2_respond(c->stream, fields, count, only_trailers);
}

static bool
call_is_client_stream(const struct call *c)
{
	return c->method && c->method->shape == RPC_CLIENT_STREAM;
}

/* A single request is received to its end before the answer goes out: clients that are stopped in
 * the middle of sending one, libcurl for example, may miss the answer. */
void
rpc_end(struct call *c, int status, const char *format, ...)
{
	va_list args;
	char text[1024] = "";

	if (c->ended)
		return;
	if (format) {
		va_start(args, format);
		vsnprintf(text, sizeof text, format, args);
		va_end(args);
	}
	c->ended = true;
	c->status = status;
	c->status_message = message_encode(text);
	call_over(c);
	if (c->responded || c->request_ended || call_is_client_stream(c))
		call_respond(c);
}

void
rpc_abort(struct call *c, int status, const char *text)
{
	bool in_message = c->pump.left > 0;

	rpc_end(c, status, "%s", text);
	if (in_message)
		h2_reset(c->stream);
}

/* -- sending */

void
rpc_send(struct call *c, const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *to = bytes_room(&c->out, PREFIX_LEN + len);

	to[0] = 0;
	for (int i = 0; i < 4; i++)
		to[1 + i] = (uint8_t)(len >> (24 - 8 * i));
	protobuf_c_message_pack(message, to + PREFIX_LEN);
	bytes_added(&c->out, PREFIX_LEN + len);
	call_respond(c);
}

bool
rpc_may_send(const struct call *c)
{
	return c->out.len < OUT_LEN_MAX;
}

void
rpc_on_may_send(struct call *c, void (*on_may_send)(struct call *c))
{
	c->on_may_send = on_may_send;
}

void
rpc_reply(struct call *c, const ProtobufCMessage *message)
{
	rpc_send(c, message);
	rpc_end(c, STATUS_OK, NULL);
}

void
rpc_pump(struct call *c, const struct rpc_source *source, void *arg)
{
	c->pump.source = source;
	c->pump.arg = arg;
	call_respond(c);
	rpc_pump_more(c);
}

void
rpc_pump_more(struct call *c)
{
	if (!c->ended && c->responded)
		h2_body_ready(c->stream);
}

/* Begins the next message of the source, if it has bytes. */
static void
pump_begin(struct pump *p)
{
	const uint8_t *data;
	size_t len = p->source->run(p->arg, &data);
	size_t n = PREFIX_LEN, message_len, rest = len;

	if (len == 0)
		return;
	p->header[n++] = FIELD_1_BYTES;
	for (; rest >= 0x80; rest >>= 7)
		p->header[n++] = (uint8_t)(rest | 0x80);
	p->header[n++] = (uint8_t)rest;
	message_len = n - PREFIX_LEN + len;
	p->header[0] = 0;
	for (int i = 0; i < 4; i++)
		p->header[1 + i] = (uint8_t)(message_len >> (24 - 8 * i));
	p->header_at = 0;
	p->header_len = n;
	p->left = len;
}

static size_t
pump_avail(struct call *c)
{
	struct pump *p = &c->pump;

	if (!p->source || c->ended)
		return 0;
	if (p->left == 0)
		pump_begin(p);
	if (p->left == 0) {
		if (p->source->ended(p->arg))
			rpc_end(c, STATUS_OK, NULL);
		return 0;
	}
	return p->header_len - p->header_at + p->left;
}

static void
pump_take(struct pump *p, uint8_t *to, size_t len)
{
	size_t header_len = p->header_len - p->header_at;

	if (header_len > len)
		header_len = len;
	memcpy(to, p->header + p->header_at, header_len);
	p->header_at += header_len;
	to += header_len;
	len -= header_len;
	while (len > 0) {
		const uint8_t *data;
		size_t n = p->source->run(p->arg, &data);

		assert(n > 0);
		n = n < len ? n : len;
		memcpy(to, data, n);
		p->source->advance(p->arg, n);
		to += n;
		len -= n;
		p->left -= n;
	}
}

static size_t
call_body_avail(void *user)
{
	struct call *c = user;

	return c->out.len > 0 ? c->out.len : pump_avail(c);
}

static void
call_body_take(void *user, uint8_t *to, size_t len)
{
	struct call *c = user;

	if (c->out.len > 0) {
		memcpy(to, bytes_front(&c->out), len);
		bytes_drop(&c->out, len);
		if (c->out.len == 0 && c->on_may_send && !c->ended)
			c->on_may_send(c);
		return;
	}
	pump_take(&c->pump, to, len);
}

static int
call_trailers(void *user, struct h2_field *fields, int max)
{
	struct call *c = user;

	(void)max;
	return c->ended ? status_fields(c, fields) : -1;
}

/* -- receiving */

static size_t
message_len(const uint8_t *prefix)
{
	return (size_t)prefix[1] << 24 | (size_t)prefix[2] << 16 | (size_t)prefix[3] << 8 |
	       prefix[4];
}

static void
call_run(struct call *c)
{
	const ProtobufCMessageDescriptor *descriptor = c->method->request;
	ProtobufCMessage *request;

	if (!descriptor) {
		c->method->run(c, NULL);
		return;
	}
	request = protobuf_c_message_unpack(descriptor, NULL, c->message_len,
					    bytes_front(&c->in) + PREFIX_LEN);
	if (!request) {
		rpc_end(c, STATUS_INVALID_ARGUMENT, "malformed %s", descriptor->name);
		return;
	}
	c->method->run(c, request);
	protobuf_c_message_free_unpacked(request, NULL);
}

/* A complete message, or as much as there is, is at the front of c->in. */
static void
call_gather(struct call *c)
{
	struct bytes empty = { 0 };

	if (c->later.len == 0 ||
	    (c->in.len >= PREFIX_LEN && c->in.len >= PREFIX_LEN + message_len(bytes_front(&c->in))))
		return;
	if (c->in.len == 0) {
		bytes_free(&c->in);
		c->in = c->later;
		c->later = empty;
		return;
	}
	bytes_append(&c->in, bytes_front(&c->later), c->later.len);
	bytes_drop(&c->later, c->later.len);
}

/* Hands over messages until one stays or none is complete. */
static void
call_take(struct call *c)
{
	if (c->taking)
		return;
	c->taking = true;
	while (!c->ended && !c->current) {
		const uint8_t *prefix;
		size_t len;

		call_gather(c);
		if (c->in.len < PREFIX_LEN)
			break;
		prefix = bytes_front(&c->in);
		len = message_len(prefix);
		if (prefix[0] != 0) {
			rpc_end(c, STATUS_UNIMPLEMENTED, "compressed messages are not supported");
		} else if (len > MESSAGE_LEN_MAX) {
			rpc_end(c, STATUS_RESOURCE_EXHAUSTED, "message of %zu bytes", len);
		} else if (c->in.len < PREFIX_LEN + len) {
			break;
		} else {
			c->current = true;
			c->message_len = len;
			call_run(c);
		}
	}
	c->taking = false;
	/* While a message is being worked on the peer gets no new window; before it is complete it
	 * must, since it may be larger than the window. */
	if (!c->current || c->ended) {
		h2_consumed(c->stream, c->held);
		c->held = 0;
	}
	if (!c->ended && !c->current && c->request_ended) {
		if (c->method->shape == RPC_CLIENT_STREAM && c->on_half_close)
			c->on_half_close(c);
		else
			rpc_end(c, STATUS_INVALID_ARGUMENT, "request without a message");
	}
}

void
rpc_message(const struct call *c, const uint8_t **data, size_t *len)
{
	*data = bytes_front(&c->in) + PREFIX_LEN;
	*len = c->message_len;
}

void
rpc_next(struct call *c)
{
	assert(c->current);
	c->current = false;
	bytes_drop(&c->in, PREFIX_LEN + c->message_len);
	call_take(c);
}

static void
call_on_data(void *user, const uint8_t *data, size_t len)
{
	struct call *c = user;

	if (c->ended) {
		h2_consumed(c->stream, len);
		if (call_is_client_stream(c))
			h2_stop(c->stream);
		return;
	}
	bytes_append(c->current ? &c->later : &c->in, data, len);
	c->held += len;
	call_take(c);
}

static void
call_on_end(void *user)
{
	struct call *c = user;

	c->request_ended = true;
	if (c->ended && !c->responded)
		call_respond(c);
	else
		call_take(c);
}

/* -- the start of a call */

static const struct rpc_method *
method_find(const struct rpc_server *server, const char *path)
{
	for (int t = 0; path && server->tables[t]; t++) {
		for (const struct rpc_method *m = server->tables[t]; m->path; m++) {
			if (strcmp(m->path, path) == 0)
				return m;
		}
	}
	return NULL;
}

/* Digits and one of H M S m u n; < 0 = none. */
static double
timeout_parse(const char *text)
{
	char *end;
	double value;

	if (!text)
		return -1;
	value = (double)strtoul(text, &end, 10);
	switch (*end) {
	case 'H':
		return value * 3600;
	case 'M':
		return value * 60;
	case 'S':
		return value;
	case 'm':
		return value / 1e3;
	case 'u':
		return value / 1e6;
	case 'n':
		return value / 1e9;
	default:
		return -1;
	}
}

static void
on_deadline(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	rpc_abort(timer->data, STATUS_DEADLINE_EXCEEDED, "deadline exceeded");
}

static void
on_cut_off(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct call *c = timer->data;

	(void)loop;
	(void)events;
	rpc_abort(c, c->cut_off_status, c->cut_off_text);
}

void
rpc_cut_off(struct call *c, double after_s, int status, const char *text)
{
	c->cut_off_status = status;
	c->cut_off_text = text;
	ev_timer_set(&c->cut_off, after_s, 0.);
	ev_timer_start(c->server->loop, &c->cut_off);
}

static void *
call_new(void *arg, struct h2_stream *s)
{
	struct call *c = mem_new(sizeof *c);
	double timeout_s = timeout_parse(h2_header(s, "grpc-timeout"));

	c->server = arg;
	c->stream = s;
	ev_timer_init(&c->deadline, on_deadline, timeout_s, 0.);
	ev_timer_init(&c->cut_off, on_cut_off, 0., 0.);
	c->deadline.data = c->cut_off.data = c;
	c->method = method_find(c->server, h2_header(s, ":path"));
	if (rpc_is_router(c) && ev_time() < c->server->unavailable_until_s)
		rpc_end(c, STATUS_UNAVAILABLE, "a fault was asked for");
	else if (!c->method)
		rpc_end(c, STATUS_UNIMPLEMENTED, "unknown method %s", h2_header(s, ":path"));
	else if (c->server->admit(c, c->method) && timeout_s >= 0)
		ev_timer_start(c->server->loop, &c->deadline);
	return c;
}

static void
call_gone(void *user)
{
	struct call *c = user;

	c->ended = true;
	call_over(c);
	bytes_free(&c->in);
	bytes_free(&c->later);
	bytes_free(&c->out);
	free(c->status_message);
	free(c);
}

const struct h2_user rpc_h2_user = {
	.on_request = call_new,
	.on_data = call_on_data,
	.on_end = call_on_end,
	.on_gone = call_gone,
	.body_avail = call_body_avail,
	.body_take = call_body_take,
	.trailers = call_trailers,
};

void *
rpc_world(const struct call *c)
{
	return c->server->world;
}

struct ev_loop *
rpc_loop(const struct call *c)
{
	return c->server->loop;
}

const char *
rpc_header(const struct call *c, const char *name)
{
	return h2_header(c->stream, name);
}

bool
rpc_is_tls(const struct call *c)
{
	return h2_is_tls(c->stream);
}

bool
rpc_is_router(const struct call *c)
{
	static const char package[] = "/modal.task_command_router.";
	const char *path = h2_header(c->stream, ":path");

	return path && strncmp(path, package, sizeof package - 1) == 0;
}

void
rpc_on_half_close(struct call *c, void (*on_half_close)(struct call *c))
{
	c->on_half_close = on_half_close;
}

void
rpc_set_state(struct call *c, void *state, void (*on_over)(struct call *c, void *state))
{
	c->state = state;
	c->on_over = on_over;
}

void *
rpc_state(const struct call *c)
{
	return c->state;
}
