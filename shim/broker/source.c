#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "shim/base/buf.h"
#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/broker/source.h"

enum {
	PIPE_LEN_DEFAULT = 64 * 1024,
	/* the most that an unprivileged process may ask for (/proc/sys/fs/pipe-max-size) */
	PIPE_LEN_BULK = 1024 * 1024,
	/* after so much a pipe is a bulk transfer, and peeking 64 KiB per round trip would be its speed */
	PIPE_BULK_AFTER = 1024 * 1024,
};

struct source {
	const struct source_tools *tools;
	enum borrow_kind kind;
	int fd;
	uint64_t used;	      /* consumed by the command and, for a pipe, taken out */
	off_t start;	      /* file: the shared offset at the beginning */
	uint64_t settled;     /* file: how far the shared offset has been moved on */
	struct buf ahead;     /* other kinds: bytes from `used` on */
	bool ended;	      /* other kinds: the end was read */
	bool bulk;	      /* pipe: enlarged */
	struct edge edge;     /* pipe: more bytes, or the writers have gone */
	struct ev_io watcher; /* other kinds */
	void (*more)(void *arg);
	void *arg;
};

int
source_tools_init(struct source_tools *tools, struct ev_loop *loop, struct edge_set *edges, struct err *err)
{
	*tools = (struct source_tools){ loop, edges, -1, { -1, -1 } };
	tools->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (tools->null_fd < 0)
		return err_errno(err, errno, "/dev/null");
	if (pipe2(tools->scratch, O_CLOEXEC) < 0)
		return err_errno(err, errno, "pipe2");
	/* as large as the largest pipe that is peeked; smaller only means smaller pieces */
	(void)fcntl(tools->scratch[1], F_SETPIPE_SZ, PIPE_LEN_BULK);
	return 0;
}

void
source_tools_release(struct source_tools *tools)
{
	fd_close(&tools->null_fd);
	fd_close(&tools->scratch[0]);
	fd_close(&tools->scratch[1]);
}

static void
pipe_changed(struct edge *edge, uint32_t epoll_events)
{
	struct source *source = (struct source *)((char *)edge - offsetof(struct source, edge));

	(void)epoll_events;
	source->more(source->arg);
}

static void
descriptor_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct source *source = watcher->data;

	(void)events;
	ev_io_stop(loop, watcher); /* started again when a read finds nothing */
	source->more(source->arg);
}

static int
source_open(struct source *source)
{
	switch (source->kind) {
	case BORROW_FILE:
		source->start = lseek(source->fd, 0, SEEK_CUR);
		return source->start < 0 ? -errno : 0;
	case BORROW_PIPE:
		return edge_watch(source->tools->edges, &source->edge, EPOLLIN);
	case BORROW_SOCKET:
	case BORROW_TTY:
	case BORROW_OTHER:
	case BORROW_PRIVATE:
	case BORROW_EVERYWHERE:
		ev_io_init(&source->watcher, descriptor_readable, source->fd, EV_READ);
		source->watcher.data = source;
		return 0;
	}
	return -EINVAL;
}

int
source_new(const struct source_tools *tools, int fd, enum borrow_kind kind, void (*more)(void *arg), void *arg,
	   struct source **ret, struct err *err)
{
	struct source *source = calloc(1, sizeof *source);
	int private, r;

	if (source == NULL) {
		fd_cleanup(&fd);
		return err_set(err, ENOMEM, "no memory for a stream");
	}
	if (kind == BORROW_TTY && (private = borrow_private(fd, false)) >= 0) {
		fd_cleanup(&fd);
		fd = private;
		kind = BORROW_PRIVATE;
	}
	*source = (struct source){ .tools = tools, .kind = kind, .fd = fd, .more = more, .arg = arg };
	source->edge = (struct edge){ fd, pipe_changed };
	buf_init(&source->ahead, IN_WINDOW);
	r = source_open(source);
	if (r < 0) {
		source_free(source);
		return err_errno(err, -r, "the command's input");
	}
	*ret = source;
	return 0;
}

static ssize_t
read_file(struct source *source, uint64_t offset, void *data, size_t len, bool *ret_end)
{
	ssize_t n;

	do
		n = pread(source->fd, data, len, source->start + (off_t)offset);
	while (n < 0 && errno == EINTR);
	*ret_end = n == 0;
	return n < 0 ? -errno : n;
}

static ssize_t
read_pipe(struct source *source, uint64_t offset, void *data, size_t len, bool *ret_end)
{
	size_t skip = (size_t)(offset - source->used), waiting;
	bool hung_up;
	ssize_t n;
	int r = borrow_waiting(source->fd, &waiting, &hung_up);

	if (r < 0)
		return r;
	if (waiting <= skip) {
		*ret_end = hung_up;
		return hung_up ? 0 : -EAGAIN;
	}
	n = borrow_peek(source->fd, source->tools->scratch, skip, data, len);
	return n == 0 ? -EAGAIN : n;
}

static ssize_t
read_ahead(struct source *source, uint64_t offset, void *data, size_t len, bool *ret_end)
{
	size_t skip = (size_t)(offset - source->used), held = buf_len(&source->ahead), room;
	uint8_t *tail;
	ssize_t n;

	if (held == skip && !source->ended) {
		room = IN_WINDOW - held < len ? IN_WINDOW - held : len;
		if (room == 0)
			return -EAGAIN; /* source_used() makes room */
		tail = buf_reserve(&source->ahead, room);
		if (tail == NULL)
			return -ENOMEM;
		n = borrow_read(source->fd, source->kind, tail, room);
		if (n == -EAGAIN)
			ev_io_start(source->tools->loop, &source->watcher);
		if (n < 0)
			return n;
		source->ended = n == 0;
		buf_added(&source->ahead, (size_t)n);
		held += (size_t)n;
	}
	if (held == skip) {
		*ret_end = true;
		return 0;
	}
	len = held - skip < len ? held - skip : len;
	__builtin_memcpy(data, buf_head(&source->ahead) + skip, len);
	return (ssize_t)len;
}

ssize_t
source_read(struct source *source, uint64_t offset, void *data, size_t len, bool *ret_end)
{
	*ret_end = false;
	if (offset < source->used)
		return -EINVAL;
	if (source->kind == BORROW_FILE)
		return read_file(source, offset, data, len, ret_end);
	if (source->kind == BORROW_PIPE)
		return read_pipe(source, offset, data, len, ret_end);
	return read_ahead(source, offset, data, len, ret_end);
}

void
source_used(struct source *source, uint64_t offset)
{
	size_t len;

	if (offset <= source->used)
		return;
	len = (size_t)(offset - source->used);
	source->used = offset;
	if (source->kind == BORROW_PIPE) {
		borrow_drop(source->fd, source->tools->null_fd, len);
		if (!source->bulk && source->used > PIPE_BULK_AFTER) {
			source->bulk = true;
			if (fcntl(source->fd, F_GETPIPE_SZ) == PIPE_LEN_DEFAULT)
				(void)fcntl(source->fd, F_SETPIPE_SZ, PIPE_LEN_BULK);
		}
	} else if (source->kind != BORROW_FILE) {
		buf_consume(&source->ahead, len < buf_len(&source->ahead) ? len : buf_len(&source->ahead));
	}
}

void
source_pause(struct source *source)
{
	if (source->kind != BORROW_PIPE && source->kind != BORROW_FILE)
		ev_io_stop(source->tools->loop, &source->watcher);
}

void
source_settle(struct source *source)
{
	/* relative: others may have moved on in the meantime, as when several processes read one file locally */
	if (source->kind == BORROW_FILE && source->used > source->settled)
		(void)lseek(source->fd, (off_t)(source->used - source->settled), SEEK_CUR);
	source->settled = source->used;
}

uint32_t
source_pipe_len(const struct source *source)
{
	int len = source->kind == BORROW_PIPE ? fcntl(source->fd, F_GETPIPE_SZ) : 0;

	return len <= 0 || len == PIPE_LEN_DEFAULT ? 0 : (uint32_t)len;
}

void
source_free(struct source *source)
{
	if (source == NULL)
		return;
	source_settle(source);
	edge_unwatch(source->tools->edges, &source->edge);
	source_pause(source);
	buf_free(&source->ahead);
	fd_close(&source->fd);
	free(source);
}
