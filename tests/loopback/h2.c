#include "tests/loopback/h2.h"

#include <stdlib.h>
#include <string.h>

#include <nghttp2/nghttp2.h>

#include "tests/loopback/bytes.h"

enum {
	CONNECTION_WINDOW_LEN = 64 * 1024 * 1024,
	RECEIVE_WINDOW_LEN = 16 * 1024 * 1024, /* per stream */
	STREAMS_MAX = 10000,
	HEADERS_MAX = 64,
	HEADER_BYTES_MAX = 64 * 1024,
	FRAME_HEADER_LEN = 9
};

struct h2 {
	struct h2 *next, *prev;
	nghttp2_session *session;
	struct wire *wire;
	struct h2_server *server;
	struct h2_stream *streams;
	bool failed;
};

struct h2_header {
	char *name, *value;
};

struct h2_stream {
	struct h2_stream *next, *prev;
	struct h2 *h2;
	int32_t id;
	void *user; /* NULL until the headers are complete */
	struct h2_header headers[HEADERS_MAX];
	int header_count;
	size_t header_bytes;
	bool request_ended, response_ended;
	bool reset;
};

/* -- what comes in */

static struct h2_stream *
stream_of(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

static int
on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct h2_stream *s;

	if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	s = mem_new(sizeof *s);
	s->h2 = arg;
	s->id = frame->hd.stream_id;
	s->next = s->h2->streams;
	if (s->next)
		s->next->prev = s;
	s->h2->streams = s;
	return nghttp2_session_set_stream_user_data(session, s->id, s);
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
	  size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
	struct h2_stream *s = stream_of(session, frame->hd.stream_id);
	struct h2_header *header;

	(void)flags;
	(void)arg;
	if (!s || s->user)
		return 0;
	s->header_bytes += name_len + value_len;
	if (s->header_count == HEADERS_MAX || s->header_bytes > HEADER_BYTES_MAX)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	header = &s->headers[s->header_count++];
	header->name = text_format("%.*s", (int)name_len, (const char *)name);
	header->value = text_format("%.*s", (int)value_len, (const char *)value);
	return 0;
}

static void
request_ended(struct h2_stream *s, uint8_t flags)
{
	if (!(flags & NGHTTP2_FLAG_END_STREAM) || s->request_ended)
		return;
	s->request_ended = true;
	s->h2->server->user->on_end(s->user);
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct h2 *h2 = arg;
	struct h2_stream *s = stream_of(session, frame->hd.stream_id);

	if (!s || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
		return 0;
	if (!s->user)
		s->user = h2->server->user->on_request(h2->server->arg, s);
	request_ended(s, frame->hd.flags);
	return 0;
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
	void *arg)
{
	struct h2 *h2 = arg;
	struct h2_stream *s = stream_of(session, id);

	(void)flags;
	/* The connection's own window is opened at once: one stalled stream must not stop the
	 * others. */
	nghttp2_session_consume_connection(session, len);
	if (s && s->user)
		h2->server->user->on_data(s->user, data, len);
	return 0;
}

static void
stream_free(struct h2_stream *s)
{
	if (s->user)
		s->h2->server->user->on_gone(s->user);
	if (s->next)
		s->next->prev = s->prev;
	if (s->prev)
		s->prev->next = s->next;
	else
		s->h2->streams = s->next;
	for (int i = 0; i < s->header_count; i++) {
		free(s->headers[i].name);
		free(s->headers[i].value);
	}
	free(s);
}

static int
on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *arg)
{
	struct h2_stream *s = stream_of(session, id);

	(void)error;
	(void)arg;
	if (s)
		stream_free(s);
	return 0;
}

/* -- what goes out */

static ssize_t
on_send(nghttp2_session *session, const uint8_t *data, size_t len, int flags, void *arg)
{
	struct h2 *h2 = arg;
	size_t room = wire_room(h2->wire);

	(void)session;
	(void)flags;
	if (room == 0)
		return NGHTTP2_ERR_WOULDBLOCK;
	if (len > room)
		len = room;
	memcpy(wire_reserve(h2->wire), data, len);
	wire_reserved(h2->wire, len);
	return (ssize_t)len;
}

static int
on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t len,
	     nghttp2_data_source *source, void *arg)
{
	struct h2 *h2 = arg;
	struct h2_stream *s = source->ptr;
	uint8_t *to;

	(void)session;
	(void)frame;
	if (wire_room(h2->wire) < FRAME_HEADER_LEN + len)
		return NGHTTP2_ERR_WOULDBLOCK;
	to = wire_reserve(h2->wire);
	memcpy(to, header, FRAME_HEADER_LEN);
	h2->server->user->body_take(s->user, to + FRAME_HEADER_LEN, len);
	wire_reserved(h2->wire, FRAME_HEADER_LEN + len);
	return 0;
}

static void
fields_convert(const struct h2_field *fields, int count, nghttp2_nv *nv)
{
	for (int i = 0; i < count; i++) {
		union {
			const char *in;
			uint8_t *out;
		} name, value;

		name.in = fields[i].name;
		value.in = fields[i].value;
		nv[i] = (nghttp2_nv){ name.out, value.out, strlen(name.in), strlen(value.in),
				      NGHTTP2_NV_FLAG_NONE };
	}
}

static ssize_t
body_end(struct h2_stream *s, uint32_t *flags)
{
	struct h2_field fields[H2_TRAILERS_MAX];
	nghttp2_nv nv[H2_TRAILERS_MAX];
	int count = s->h2->server->user->trailers(s->user, fields, H2_TRAILERS_MAX);

	if (count < 0)
		return NGHTTP2_ERR_DEFERRED;
	fields_convert(fields, count, nv);
	if (nghttp2_submit_trailer(s->h2->session, s->id, nv, (size_t)count) != 0)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	*flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
	return 0;
}

static ssize_t
on_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
	nghttp2_data_source *source, void *arg)
{
	struct h2_stream *s = source->ptr;
	size_t avail = s->h2->server->user->body_avail(s->user);

	(void)session;
	(void)id;
	(void)buf;
	(void)arg;
	if (avail == 0)
		return body_end(s, flags);
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	return (ssize_t)(avail < len ? avail : len);
}

static ssize_t
on_body_len(nghttp2_session *session, uint8_t type, int32_t id, int32_t connection_window,
	    int32_t stream_window, uint32_t frame_len_max, void *arg)
{
	int32_t len = connection_window < stream_window ? connection_window : stream_window;

	(void)session;
	(void)type;
	(void)id;
	(void)arg;
	if (frame_len_max > 128 * 1024)
		frame_len_max = 128 * 1024; /* must fit a stage of the wire */
	return len < (int32_t)frame_len_max ? len : (int32_t)frame_len_max;
}

static int
on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct h2_stream *s;

	(void)arg;
	if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	s = stream_of(session, frame->hd.stream_id);
	if (s)
		s->response_ended = true;
	return 0;
}

const char *
h2_header(const struct h2_stream *s, const char *name)
{
	for (int i = 0; i < s->header_count; i++) {
		if (strcmp(s->headers[i].name, name) == 0)
			return s->headers[i].value;
	}
	return NULL;
}

bool
h2_is_tls(const struct h2_stream *s)
{
	return wire_is_tls(s->h2->wire);
}

void
h2_respond(struct h2_stream *s, const struct h2_field *fields, int count, bool end)
{
	nghttp2_nv nv[1 + H2_TRAILERS_MAX];
	nghttp2_data_provider body = { .source = { .ptr = s }, .read_callback = on_body };
	struct h2_field status = { ":status", "200" };

	fields_convert(&status, 1, nv);
	fields_convert(fields, count, nv + 1);
	nghttp2_submit_response(s->h2->session, s->id, nv, (size_t)count + 1, end ? NULL : &body);
	wire_wants_flush(s->h2->wire);
}

void
h2_body_ready(struct h2_stream *s)
{
	nghttp2_session_resume_data(s->h2->session, s->id);
	wire_wants_flush(s->h2->wire);
}

void
h2_consumed(struct h2_stream *s, size_t len)
{
	nghttp2_session_consume_stream(s->h2->session, s->id, len);
	wire_wants_flush(s->h2->wire);
}

void
h2_stop(struct h2_stream *s)
{
	if (!s->response_ended || s->reset)
		return;
	s->reset = true;
	nghttp2_submit_rst_stream(s->h2->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
	wire_wants_flush(s->h2->wire);
}

void
h2_reset(struct h2_stream *s)
{
	s->reset = true;
	nghttp2_submit_rst_stream(s->h2->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_INTERNAL_ERROR);
	wire_wants_flush(s->h2->wire);
}

void
h2_each(struct h2_server *server, void (*visit)(struct h2_stream *s, void *user, void *arg),
	void *arg)
{
	for (struct h2 *h2 = server->connections; h2; h2 = h2->next) {
		for (struct h2_stream *s = h2->streams; s; s = s->next) {
			if (s->user)
				visit(s, s->user, arg);
		}
	}
}

void
h2_go_away(struct h2_server *server, bool now)
{
	for (struct h2 *h2 = server->connections; h2; h2 = h2->next) {
		if (now)
			nghttp2_session_terminate_session(h2->session, NGHTTP2_NO_ERROR);
		else
			nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
					      nghttp2_session_get_last_proc_stream_id(h2->session),
					      NGHTTP2_NO_ERROR, NULL, 0);
		wire_wants_flush(h2->wire);
	}
}

/* -- connections */

static nghttp2_session *
session_new(struct h2 *h2)
{
	nghttp2_session_callbacks *cb;
	nghttp2_option *option;
	nghttp2_session *session = NULL;

	if (nghttp2_session_callbacks_new(&cb) != 0 || nghttp2_option_new(&option) != 0)
		abort();
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_send_callback(cb, on_send);
	nghttp2_session_callbacks_set_send_data_callback(cb, on_send_data);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_sent);
	nghttp2_session_callbacks_set_data_source_read_length_callback(cb, on_body_len);
	if (nghttp2_session_server_new2(&session, cb, h2, option) != 0)
		abort();
	nghttp2_session_callbacks_del(cb);
	nghttp2_option_del(option);
	return session;
}

static void *
connection_open(void *arg, struct wire *w)
{
	struct h2 *h2 = mem_new(sizeof *h2);
	nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, RECEIVE_WINDOW_LEN },
	};

	h2->wire = w;
	h2->server = arg;
	h2->next = h2->server->connections;
	if (h2->next)
		h2->next->prev = h2;
	h2->server->connections = h2;
	h2->session = session_new(h2);
	nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, settings, 2);
	nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
					      CONNECTION_WINDOW_LEN);
	return h2;
}

static int
connection_bytes(void *user, const uint8_t *data, size_t len)
{
	struct h2 *h2 = user;

	wire_wants_flush(h2->wire);
	return nghttp2_session_mem_recv(h2->session, data, len) < 0 ? -1 : 0;
}

static void
connection_pull(void *user)
{
	struct h2 *h2 = user;

	if (nghttp2_session_send(h2->session) != 0)
		h2->failed = true;
}

static bool
connection_over(void *user)
{
	struct h2 *h2 = user;

	return h2->failed || (!nghttp2_session_want_read(h2->session) &&
			      !nghttp2_session_want_write(h2->session));
}

/* nghttp2_session_del() does not report the streams that it drops. */
static void
connection_close(void *user)
{
	struct h2 *h2 = user;

	while (h2->streams)
		stream_free(h2->streams);
	if (h2->next)
		h2->next->prev = h2->prev;
	if (h2->prev)
		h2->prev->next = h2->next;
	else
		h2->server->connections = h2->next;
	nghttp2_session_del(h2->session);
	free(h2);
}

const struct wire_user h2_wire_user = {
	.on_open = connection_open,
	.on_bytes = connection_bytes,
	.on_pull = connection_pull,
	.is_over = connection_over,
	.on_close = connection_close,
};
