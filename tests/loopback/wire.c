#include "tests/loopback/wire.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <ev.h>

#include "tests/loopback/bytes.h"
#include "tests/loopback/tls.h"

enum {
	STAGE_LEN = 256 * 1024,		    /* plaintext gathered before it is encrypted */
	RAW_LEN = 256 * 1024,		    /* one read of the socket */
	PLAIN_LEN = 64 * 1024,		    /* one read of the TLS session */
	OUT_LEN_MAX = 512 * 1024,	    /* unsent bytes at which pulling stops */
	DELAYED_LEN_MAX = 64 * 1024 * 1024, /* in flight on a slowed wire, each way */
	TLS_HANDSHAKE_TYPE = 0x16
};

/* Bytes that are on their way on a slowed wire. */
struct parcel {
	struct parcel *next;
	int64_t due_ns; /* on the monotonic clock */
	size_t len;
	uint8_t data[];
};

struct line {
	struct parcel *first, **last;
	size_t len;
	int timer_fd; /* libev's own timers are only good to some milliseconds */
	ev_io timer;
};

struct wire {
	struct wire *next, *prev;
	struct wire_listener *listener;
	int fd;
	ev_io readable, writable;
	struct tls *tls;
	bool decided; /* TLS or not is known */
	bool dirty;
	bool broken;
	bool at_end; /* the peer has said all */
	void *user;
	uint8_t *stage;
	size_t stage_len;
	struct bytes out; /* plaintext connections; TLS ones have tls_out() */
	struct line in_line, out_line;
};

struct wire_listener {
	struct ev_loop *loop;
	struct wire_options options;
	int fd;
	ev_io readable;
	ev_prepare before_sleep;
	struct wire *wires;
	uint8_t *raw, *plain;
};

static void wire_flush(struct wire *w);

/* -- the delay lines */

static int64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* For the first parcel. */
static void
line_arm(const struct line *line)
{
	struct itimerspec at = {
		.it_value = {
			.tv_sec = line->first->due_ns / 1000000000,
			.tv_nsec = line->first->due_ns % 1000000000,
		},
	};

	timerfd_settime(line->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void
line_put(struct wire *w, struct line *line, const uint8_t *data, size_t len)
{
	struct parcel *p = mem_new(sizeof *p + len);

	p->due_ns = now_ns() + (int64_t)w->listener->options.latency_ms * 1000000;
	p->len = len;
	memcpy(p->data, data, len);
	*line->last = p;
	line->last = &p->next;
	line->len += len;
	if (line->first == p)
		line_arm(line);
}

/* Takes the first parcel if it is due; else arms the timer for it and returns NULL. */
static struct parcel *
line_take(struct line *line)
{
	struct parcel *p = line->first;

	if (!p)
		return NULL;
	if (p->due_ns > now_ns()) {
		line_arm(line);
		return NULL;
	}
	line->first = p->next;
	if (!line->first)
		line->last = &line->first;
	line->len -= p->len;
	return p;
}

static void
line_free(struct wire *w, struct line *line)
{
	struct parcel *p;

	if (line->timer_fd >= 0) {
		ev_io_stop(w->listener->loop, &line->timer);
		close(line->timer_fd);
	}
	while ((p = line->first)) {
		line->first = p->next;
		free(p);
	}
}

static void
timer_drain(int fd)
{
	uint64_t count;

	while (read(fd, &count, sizeof count) > 0)
		;
}

/* -- inwards */

static int
wire_take_tls(struct wire *w, const uint8_t *data, size_t len)
{
	struct wire_listener *l = w->listener;
	ssize_t n;

	tls_feed(w->tls, data, len);
	while ((n = tls_read(w->tls, l->plain, PLAIN_LEN)) > 0) {
		if (l->options.user->on_bytes(w->user, l->plain, (size_t)n) < 0)
			return -EPROTO;
	}
	wire_wants_flush(w);
	return (int)n;
}

static int
wire_take(struct wire *w, const uint8_t *data, size_t len)
{
	if (!w->decided) {
		w->decided = true;
		if (data[0] == TLS_HANDSHAKE_TYPE)
			w->tls = tls_new(w->listener->options.tls);
	}
	if (w->tls)
		return wire_take_tls(w, data, len);
	return w->listener->options.user->on_bytes(w->user, data, len);
}

static void
wire_break(struct wire *w)
{
	w->broken = true;
	ev_io_stop(w->listener->loop, &w->readable);
	wire_wants_flush(w);
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct wire *w = io->data;
	struct wire_listener *l = w->listener;
	ssize_t n = recv(w->fd, l->raw, RAW_LEN, 0);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		w->at_end = n == 0;
		ev_io_stop(loop, io);
		if (n < 0 || !w->in_line.first)
			wire_break(w);
		return;
	}
	if (l->options.latency_ms > 0) {
		line_put(w, &w->in_line, l->raw, (size_t)n);
		if (w->in_line.len > DELAYED_LEN_MAX)
			ev_io_stop(loop, io);
	} else if (wire_take(w, l->raw, (size_t)n) < 0) {
		wire_break(w);
	}
}

static void
on_in_due(struct ev_loop *loop, ev_io *timer, int events)
{
	struct wire *w = timer->data;
	struct parcel *p;

	timer_drain(timer->fd);
	(void)events;
	while (!w->broken && (p = line_take(&w->in_line))) {
		if (wire_take(w, p->data, p->len) < 0)
			wire_break(w);
		free(p);
	}
	if (w->at_end && !w->in_line.first)
		wire_break(w);
	else if (!w->broken && !w->at_end && w->in_line.len <= DELAYED_LEN_MAX)
		ev_io_start(loop, &w->readable);
}

/* -- outwards */

static struct bytes *
wire_out(struct wire *w)
{
	return w->tls ? tls_out(w->tls) : &w->out;
}

/* Writes what the socket takes.  Returns 0 or -errno. */
static int
wire_send(struct wire *w)
{
	struct bytes *out = wire_out(w);

	while (out->len > 0) {
		ssize_t n = send(w->fd, bytes_front(out), out->len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		bytes_drop(out, (size_t)n);
	}
	return 0;
}

static bool
wire_is_slow(const struct wire *w)
{
	return w->listener->options.latency_ms > 0;
}

/* Gathers one stage of plaintext from the user and encrypts it.  Returns its length or -errno. */
static ssize_t
wire_pull(struct wire *w)
{
	struct bytes *out = wire_out(w);
	size_t len;
	int r = 0;

	if (!w->decided || (w->tls && !tls_ready(w->tls)))
		return 0;
	w->listener->options.user->on_pull(w->user);
	len = w->stage_len;
	w->stage_len = 0;
	if (len == 0)
		return 0;
	if (w->tls)
		r = tls_write(w->tls, w->stage, len);
	else
		bytes_append(out, w->stage, len);
	return r < 0 ? r : (ssize_t)len;
}

static int
wire_flush_slow(struct wire *w)
{
	struct bytes *out = wire_out(w);
	ssize_t n;

	do {
		n = w->out_line.len > DELAYED_LEN_MAX ? 0 : wire_pull(w);
		if (out->len > 0) {
			line_put(w, &w->out_line, bytes_front(out), out->len);
			bytes_drop(out, out->len);
		}
	} while (n > 0);
	return (int)n;
}

static int
wire_flush_fast(struct wire *w)
{
	struct bytes *out = wire_out(w);
	ssize_t n;
	bool was_full;
	int r;

	do {
		/* A full buffer that could be sent must be filled again: nothing else would ask for
		 * it. */
		was_full = out->len > OUT_LEN_MAX;
		n = was_full ? 0 : wire_pull(w);
		r = n < 0 ? (int)n : wire_send(w);
	} while (r == 0 && (n > 0 || (was_full && out->len <= OUT_LEN_MAX)));
	if (r == 0 && out->len > 0)
		ev_io_start(w->listener->loop, &w->writable);
	else
		ev_io_stop(w->listener->loop, &w->writable);
	return r;
}

static void
on_out_due(struct ev_loop *loop, ev_io *timer, int events)
{
	struct wire *w = timer->data;
	struct parcel *p;

	(void)loop;
	timer_drain(timer->fd);
	(void)events;
	while (!w->broken && (p = line_take(&w->out_line))) {
		/* The kernel's buffer is the far end: blocking here would stop everybody, and
		 * the amount is bounded by DELAYED_LEN_MAX. */
		for (size_t at = 0; at < p->len && !w->broken;) {
			ssize_t n = send(w->fd, p->data + at, p->len - at, MSG_NOSIGNAL);

			if (n >= 0) {
				at += (size_t)n;
			} else if (errno == EAGAIN) {
				/* Put the rest back in front and try again in a moment. */
				memmove(p->data, p->data + at, p->len - at);
				p->len -= at;
				p->next = w->out_line.first;
				if (!p->next)
					w->out_line.last = &p->next;
				w->out_line.first = p;
				w->out_line.len += p->len;
				ev_io_start(w->listener->loop, &w->writable);
				return;
			} else if (errno != EINTR) {
				wire_break(w);
			}
		}
		free(p);
	}
	wire_wants_flush(w);
}

static void
on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	struct wire *w = io->data;

	if (wire_is_slow(w)) {
		ev_io_stop(loop, io);
		on_out_due(loop, &w->out_line.timer, events);
		return;
	}
	w->dirty = true;
}

void
wire_wants_flush(struct wire *w)
{
	w->dirty = true;
}

static void
wire_free(struct wire *w)
{
	struct wire_listener *l = w->listener;

	l->options.user->on_close(w->user);
	ev_io_stop(l->loop, &w->readable);
	ev_io_stop(l->loop, &w->writable);
	line_free(w, &w->in_line);
	line_free(w, &w->out_line);
	if (w->next)
		w->next->prev = w->prev;
	if (w->prev)
		w->prev->next = w->next;
	else
		l->wires = w->next;
	close(w->fd);
	tls_free(w->tls);
	bytes_free(&w->out);
	free(w->stage);
	free(w);
}

static void
wire_flush(struct wire *w)
{
	int r;

	w->dirty = false;
	if (!w->broken) {
		r = wire_is_slow(w) ? wire_flush_slow(w) : wire_flush_fast(w);
		if (r < 0 || (wire_out(w)->len == 0 && !w->out_line.first &&
			      w->listener->options.user->is_over(w->user)))
			w->broken = true;
	}
	if (w->broken)
		wire_free(w);
}

/* All that this turn of the loop has produced leaves before the loop sleeps.  A connection's end
 * can make others dirty, hence the repetition. */
static void
on_before_sleep(struct ev_loop *loop, ev_prepare *prepare, int events)
{
	struct wire_listener *l = prepare->data;
	bool again = true;

	(void)loop;
	(void)events;
	while (again) {
		again = false;
		for (struct wire *w = l->wires, *next; w; w = next) {
			next = w->next;
			if (w->dirty) {
				again = true;
				wire_flush(w);
			}
		}
	}
}

bool
wire_is_tls(const struct wire *w)
{
	return w->tls != NULL;
}

size_t
wire_room(const struct wire *w)
{
	return STAGE_LEN - w->stage_len;
}

uint8_t *
wire_reserve(struct wire *w)
{
	return w->stage + w->stage_len;
}

void
wire_reserved(struct wire *w, size_t len)
{
	w->stage_len += len;
	assert(w->stage_len <= STAGE_LEN);
}

/* -- listening */

static void
line_init(struct wire *w, struct line *line, void (*due)(struct ev_loop *, ev_io *, int))
{
	line->last = &line->first;
	line->timer_fd = -1;
	if (!wire_is_slow(w))
		return;
	line->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (line->timer_fd < 0)
		abort();
	ev_io_init(&line->timer, due, line->timer_fd, EV_READ);
	line->timer.data = w;
	ev_io_start(w->listener->loop, &line->timer);
}

static void
wire_new(struct wire_listener *l, int fd)
{
	struct wire *w = mem_new(sizeof *w);
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	w->listener = l;
	w->fd = fd;
	w->stage = mem_new(STAGE_LEN);
	ev_io_init(&w->readable, on_readable, fd, EV_READ);
	ev_io_init(&w->writable, on_writable, fd, EV_WRITE);
	w->readable.data = w->writable.data = w;
	line_init(w, &w->in_line, on_in_due);
	line_init(w, &w->out_line, on_out_due);
	w->next = l->wires;
	if (w->next)
		w->next->prev = w;
	l->wires = w;
	w->user = l->options.user->on_open(l->options.user_arg, w);
	ev_io_start(l->loop, &w->readable);
}

static void
on_connection(struct ev_loop *loop, ev_io *io, int events)
{
	struct wire_listener *l = io->data;
	int fd;

	(void)loop;
	(void)events;
	while ((fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		wire_new(l, fd);
}

static int
socket_listen(uint16_t port, uint16_t *ret_port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(port) };
	socklen_t len = sizeof addr;
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&addr, len) < 0 || listen(fd, 1024) < 0 ||
	    getsockname(fd, (struct sockaddr *)&addr, &len) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	*ret_port = ntohs(addr.sin_port);
	return fd;
}

int
wire_listen(struct ev_loop *loop, uint16_t port, const struct wire_options *options,
	    struct wire_listener **ret, uint16_t *ret_port)
{
	struct wire_listener *l;
	int fd = socket_listen(port, ret_port);

	if (fd < 0)
		return fd;
	l = mem_new(sizeof *l);
	l->loop = loop;
	l->options = *options;
	l->fd = fd;
	l->raw = mem_new(RAW_LEN);
	l->plain = mem_new(PLAIN_LEN);
	ev_io_init(&l->readable, on_connection, fd, EV_READ);
	l->readable.data = l;
	ev_io_start(loop, &l->readable);
	ev_prepare_init(&l->before_sleep, on_before_sleep);
	l->before_sleep.data = l;
	ev_prepare_start(loop, &l->before_sleep);
	*ret = l;
	return 0;
}

void
wire_listener_free(struct wire_listener *l)
{
	if (!l)
		return;
	while (l->wires)
		wire_free(l->wires);
	ev_prepare_stop(l->loop, &l->before_sleep);
	ev_io_stop(l->loop, &l->readable);
	close(l->fd);
	free(l->raw);
	free(l->plain);
	free(l);
}
