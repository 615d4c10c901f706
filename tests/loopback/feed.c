#include "tests/loopback/feed.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <ev.h>

#include "tests/loopback/bytes.h"

enum { END_OF_FILE_CHARACTER = 4 };

struct feed {
	struct ev_loop *loop;
	int fd;
	bool is_terminal, closed, eof_seen;
	ev_io writable;
	uint64_t written;
	struct feed_write *first, **last;
	bool running;
};

static void
feed_shut(struct feed *f)
{
	f->closed = true;
	if (f->fd < 0)
		return;
	ev_io_stop(f->loop, &f->writable);
	close(f->fd);
	f->fd = -1;
}

static void
feed_end_of_file(struct feed *f)
{
	const char eof = END_OF_FILE_CHARACTER;
	ssize_t n;

	if (f->eof_seen)
		return;
	f->eof_seen = true;
	if (!f->is_terminal) {
		feed_shut(f);
		return;
	}
	n = write(f->fd, &eof, 1);
	if (n < 0 && errno != EAGAIN)
		feed_shut(f);
}

/* Does what can be done now.  Returns 1 while bytes are left, 0 when done, or the error. */
static int
feed_step(struct feed *f, struct feed_write *w)
{
	if (w->offset > f->written)
		return -ERANGE;
	while (w->offset + w->len > f->written) {
		size_t skip = (size_t)(f->written - w->offset);
		ssize_t n;

		if (f->closed || (f->eof_seen && !f->is_terminal))
			return -EPIPE;
		n = write(f->fd, w->data + skip, w->len - skip);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 1;
		if (n < 0) {
			feed_shut(f);
			return -EPIPE;
		}
		f->written += (uint64_t)n;
	}
	if (w->eof)
		feed_end_of_file(f);
	return 0;
}

static void
feed_run(struct feed *f)
{
	struct feed_write *w;

	if (f->running)
		return;
	f->running = true;
	while ((w = f->first)) {
		int r = feed_step(f, w);

		if (r > 0)
			break;
		feed_cancel(f, w);
		w->on_done(w, r);
	}
	f->running = false;
	if (f->fd < 0)
		return;
	if (f->first)
		ev_io_start(f->loop, &f->writable);
	else
		ev_io_stop(f->loop, &f->writable);
}

static void
on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	feed_run(io->data);
}

struct feed *
feed_new(struct ev_loop *loop, int fd, bool is_terminal)
{
	struct feed *f = mem_new(sizeof *f);

	f->loop = loop;
	f->fd = fd;
	f->closed = fd < 0;
	f->is_terminal = is_terminal;
	f->last = &f->first;
	ev_io_init(&f->writable, on_writable, fd, EV_WRITE);
	f->writable.data = f;
	return f;
}

void
feed_free(struct feed *f)
{
	if (!f)
		return;
	feed_shut(f);
	free(f);
}

void
feed_put(struct feed *f, struct feed_write *w)
{
	w->next = NULL;
	w->queued = true;
	*f->last = w;
	f->last = &w->next;
	feed_run(f);
}

void
feed_cancel(struct feed *f, struct feed_write *w)
{
	struct feed_write **at = &f->first;

	if (!w->queued)
		return;
	w->queued = false;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	if (!w->next)
		f->last = at;
}

uint64_t
feed_written(const struct feed *f)
{
	return f->written;
}

bool
feed_closed(const struct feed *f)
{
	return f->closed || f->eof_seen;
}
