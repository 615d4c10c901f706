#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "shim/base/buf.h"
#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/broker/sink.h"

/* A file takes everything at once; so much at a time leaves the other commands their turn. */
enum { WRITE_LEN_MAX = 1024 * 1024 };

struct sink {
	struct ev_loop *loop;
	struct edge_set *edges;
	int fd;
	int write_fd; /* fd, or a description of our own of the same pipe or terminal */
	enum borrow_kind kind;
	bool broken;
	uint64_t written;
	struct buf queue;
	struct ev_io watcher; /* active while bytes are queued */
	struct edge edge;     /* the reader has gone */
	const struct sink_events *events;
	void *arg;
};

static void
sink_break(struct sink *sink, int errno_value)
{
	if (sink->broken)
		return;
	sink->broken = true;
	ev_io_stop(sink->loop, &sink->watcher);
	buf_free(&sink->queue);
	sink->events->closed(sink->arg, errno_value);
}

/* Writes what the descriptor takes; returns how much, or -errno for a fault. */
static ssize_t
write_some(struct sink *sink, const uint8_t *data, size_t len)
{
	size_t done = 0;
	ssize_t n;

	while (done < len && done < WRITE_LEN_MAX) {
		n = borrow_write(sink->write_fd, sink->kind, data + done, len - done);
		if (n == -EAGAIN)
			break;
		if (n < 0)
			return n;
		done += (size_t)n;
	}
	sink->written += done;
	return (ssize_t)done;
}

static void
sink_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct sink *sink = watcher->data;
	ssize_t n = write_some(sink, buf_head(&sink->queue), buf_len(&sink->queue));

	(void)events;
	if (n < 0) {
		sink_break(sink, (int)-n);
		return;
	}
	buf_consume(&sink->queue, (size_t)n);
	if (buf_len(&sink->queue) == 0)
		ev_io_stop(loop, watcher);
	if (n > 0)
		sink->events->written(sink->arg, sink->written);
}

static void
reader_changed(struct edge *edge, uint32_t epoll_events)
{
	struct sink *sink = (struct sink *)((char *)edge - offsetof(struct sink, edge));

	if ((epoll_events & (EPOLLERR | EPOLLHUP)) != 0)
		sink_break(sink, EPIPE);
}

static void
sink_open_private(struct sink *sink)
{
	int private = sink->kind == BORROW_PIPE || sink->kind == BORROW_TTY ?
			      borrow_private(sink->fd, true) :
			      -1;

	if (private < 0)
		return;
	sink->write_fd = private;
	sink->kind = BORROW_PRIVATE;
}

int
sink_new(struct ev_loop *loop, struct edge_set *edges, int fd, enum borrow_kind kind,
	 const struct sink_events *events, void *arg, struct sink **ret, struct err *err)
{
	struct sink *sink = calloc(1, sizeof *sink);

	if (sink == NULL) {
		fd_cleanup(&fd);
		return err_set(err, ENOMEM, "no memory for a stream");
	}
	*sink = (struct sink){ .loop = loop,
			       .edges = edges,
			       .fd = fd,
			       .write_fd = fd,
			       .kind = kind,
			       .events = events,
			       .arg = arg };
	sink_open_private(sink);
	buf_init(&sink->queue, OUT_WINDOW_MAX);
	ev_io_init(&sink->watcher, sink_writable, sink->write_fd, EV_WRITE);
	sink->watcher.data = sink;
	sink->edge = (struct edge){ fd, reader_changed };
	/* a terminal hangs up in its own way; files and devices have no reader */
	if (kind == BORROW_PIPE || kind == BORROW_SOCKET)
		(void)edge_watch(edges, &sink->edge, 0);
	*ret = sink;
	return 0;
}

int
sink_put(struct sink *sink, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	ssize_t n = 0;

	if (sink->broken)
		return 0;
	if (buf_len(&sink->queue) == 0) {
		n = write_some(sink, bytes, len);
		if (n < 0) {
			sink_break(sink, (int)-n);
			return 0;
		}
	}
	if ((size_t)n < len) {
		if (buf_put(&sink->queue, bytes + n, len - (size_t)n) < 0)
			return -ENOMEM;
		ev_io_start(sink->loop, &sink->watcher);
	}
	if (n > 0)
		sink->events->written(sink->arg, sink->written);
	return 0;
}

int
sink_fd(const struct sink *sink)
{
	return sink->fd;
}

size_t
sink_queued(const struct sink *sink)
{
	return buf_len(&sink->queue);
}

void
sink_free(struct sink *sink)
{
	if (sink == NULL)
		return;
	ev_io_stop(sink->loop, &sink->watcher);
	edge_unwatch(sink->edges, &sink->edge);
	buf_free(&sink->queue);
	if (sink->write_fd != sink->fd)
		fd_close(&sink->write_fd);
	fd_close(&sink->fd);
	free(sink);
}
