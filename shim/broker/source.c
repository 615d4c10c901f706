#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/base/buf.h"
#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/broker/log.h"
#include "shim/broker/source.h"

enum {
	PIPE_LEN_DEFAULT = 64 * 1024,
	/* the most that an unprivileged process may ask for (/proc/sys/fs/pipe-max-size) */
	PIPE_LEN_BULK = 1024 * 1024,
	/* after so much a pipe is a bulk transfer, and peeking 64 KiB per round trip would be its
	   speed */
	PIPE_BULK_AFTER = 1024 * 1024,
	/* a make in the sandbox that is not asking for a token yet keeps one from the others */
	TOKENS_AHEAD = 1,
};

/* How long a command may sit on bytes that another one waits for; twice as long after each turn in
 * which nobody consumed anything. */
static const double TURN_FIRST_S = 0.05, TURN_MAX_S = 1.;

/* One pipe, and the commands that have it as their input. */
struct shared_pipe {
	struct shared_pipe *next;
	dev_t dev;
	ino_t ino;
	struct source_tools *tools;
	struct source *members;
	struct source *holder; /* the one whose command may have unconsumed bytes of it */
	bool consumed;	       /* since the timer was set */
	bool revoking;
	double turn_s;
	struct ev_timer turn; /* runs while somebody waits */
};

struct source {
	struct source_tools *tools;
	enum borrow_kind kind;
	int fd;
	struct shared_pipe *shared; /* pipe */
	struct source *next_member;
	bool waiting;	  /* pipe: for its turn */
	uint64_t peeked;  /* pipe: read beyond `used`, up to here */
	uint64_t used;	  /* consumed by the command and, for a pipe, taken out */
	off_t start;	  /* file: the shared offset at the beginning */
	uint64_t settled; /* file: how far the shared offset has been moved on */
	struct buf ahead; /* other kinds: bytes from `used` on */
	size_t ahead_max;
	int return_fd;	      /* tokens: where those go that were not consumed; else -1 */
	bool ended;	      /* other kinds: the end was read */
	bool bulk;	      /* pipe: enlarged */
	struct edge edge;     /* pipe: more bytes, or the writers have gone */
	struct ev_io watcher; /* other kinds */
	const struct source_events *events;
	void *arg;
};

int
source_tools_init(struct source_tools *tools, struct ev_loop *loop, struct edge_set *edges,
		  struct err *err)
{
	*tools = (struct source_tools){ loop, edges, -1, { -1, -1 }, NULL };
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
	source->events->more(source->arg);
}

static void
descriptor_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct source *source = watcher->data;

	(void)events;
	ev_io_stop(loop, watcher); /* started again when a read finds nothing */
	source->events->more(source->arg);
}

/* ---- pipes that several commands read ---- */

static struct source *
next_waiting(const struct shared_pipe *shared)
{
	struct source *start = shared->holder != NULL ? shared->holder->next_member : NULL, *member;

	for (member = start; member != NULL; member = member->next_member) {
		if (member->waiting)
			return member;
	}
	for (member = shared->members; member != start; member = member->next_member) {
		if (member->waiting)
			return member;
	}
	return NULL;
}

/* Hands the pipe on to whoever waits. */
static void
pipe_pass_on(struct shared_pipe *shared)
{
	struct source *next = next_waiting(shared);

	shared->holder = next;
	shared->revoking = false;
	if (next == NULL) {
		ev_timer_stop(shared->tools->loop, &shared->turn);
		return;
	}
	next->waiting = false;
	next->events->more(next->arg);
}

static void
turn_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct shared_pipe *shared = timer->data;

	(void)events;
	if (shared->holder == NULL || next_waiting(shared) == NULL || shared->revoking) {
		ev_timer_stop(loop, timer);
		return;
	}
	if (shared->holder->peeked == shared->holder->used) {
		pipe_pass_on(shared);
		return;
	}
	if (shared->consumed) {
		shared->turn_s = TURN_FIRST_S;
	} else {
		shared->turn_s = shared->turn_s * 2 < TURN_MAX_S ? shared->turn_s * 2 : TURN_MAX_S;
		shared->revoking = true;
		shared->holder->events->revoke(shared->holder->arg);
	}
	shared->consumed = false;
	timer->repeat = shared->turn_s;
	ev_timer_again(loop, timer);
}

/* Whether this source may peek now; otherwise more() is called when it is its turn. */
static bool
pipe_take(struct source *source)
{
	struct shared_pipe *shared = source->shared;

	if (shared->holder == source)
		return !shared->revoking;
	if (shared->holder == NULL ||
	    (shared->holder->peeked == shared->holder->used && !shared->revoking)) {
		shared->holder = source;
		return true;
	}
	source->waiting = true;
	if (!ev_is_active(&shared->turn)) {
		shared->consumed = false;
		shared->turn.repeat = shared->turn_s;
		ev_timer_again(shared->tools->loop, &shared->turn);
	}
	return false;
}

static int
pipe_join(struct source *source)
{
	struct source_tools *tools = source->tools;
	struct shared_pipe *shared;
	struct stat st;

	if (fstat(source->fd, &st) < 0)
		return -errno;
	for (shared = tools->pipes; shared != NULL; shared = shared->next) {
		if (shared->dev == st.st_dev && shared->ino == st.st_ino)
			break;
	}
	if (shared == NULL) {
		shared = calloc(1, sizeof *shared);
		if (shared == NULL)
			return -ENOMEM;
		*shared = (struct shared_pipe){ .next = tools->pipes,
						.dev = st.st_dev,
						.ino = st.st_ino,
						.tools = tools,
						.turn_s = TURN_FIRST_S };
		ev_timer_init(&shared->turn, turn_over, 0., 0.);
		shared->turn.data = shared;
		tools->pipes = shared;
	}
	source->shared = shared;
	source->next_member = shared->members;
	shared->members = source;
	return 0;
}

static void
pipe_leave(struct source *source)
{
	struct shared_pipe *shared = source->shared, **at;
	struct source **member;

	if (shared == NULL)
		return;
	for (member = &shared->members; *member != source; member = &(*member)->next_member)
		;
	*member = source->next_member;
	if (shared->holder == source) {
		shared->holder = NULL;
		pipe_pass_on(shared);
	}
	if (shared->members != NULL)
		return;
	ev_timer_stop(shared->tools->loop, &shared->turn);
	for (at = &shared->tools->pipes; *at != shared; at = &(*at)->next)
		;
	*at = shared->next;
	free(shared);
}

/* ---- one source ---- */

static int
source_open(struct source *source)
{
	int r;

	switch (source->kind) {
	case BORROW_FILE:
		source->start = lseek(source->fd, 0, SEEK_CUR);
		return source->start < 0 ? -errno : 0;
	case BORROW_PIPE:
		r = pipe_join(source);
		return r < 0 ? r : edge_watch(source->tools->edges, &source->edge, EPOLLIN);
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
source_new(struct source_tools *tools, int fd, enum borrow_kind kind,
	   const struct source_events *events, void *arg, struct source **ret, struct err *err)
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
	*source = (struct source){ .tools = tools,
				   .kind = kind,
				   .fd = fd,
				   .events = events,
				   .arg = arg,
				   .ahead_max = IN_WINDOW,
				   .return_fd = -1 };
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

int
source_new_tokens(struct source_tools *tools, int fd, int return_fd,
		  const struct source_events *events, void *arg, struct source **ret,
		  struct err *err)
{
	/* not as a pipe: it is read, not peeked; by a description of our own, since make may be
	 * quicker than we */
	int private = borrow_private(fd, false);
	int r;

	if (private >= 0)
		fd_cleanup(&fd);
	r = source_new(tools, private >= 0 ? private : fd,
		       private >= 0 ? BORROW_PRIVATE : BORROW_OTHER, events, arg, ret, err);

	if (r < 0) {
		fd_cleanup(&return_fd);
		return r;
	}
	(*ret)->ahead_max = TOKENS_AHEAD;
	(*ret)->return_fd = return_fd;
	return 0;
}

static void
return_tokens(struct source *source)
{
	size_t len = buf_len(&source->ahead);

	/* there is room: they came out of this pipe */
	if (source->return_fd >= 0 && len > 0 &&
	    borrow_write(source->return_fd, BORROW_PIPE, buf_head(&source->ahead), len) !=
		    (ssize_t)len)
		log_warning("a token of make's jobserver could not be put back");
	fd_close(&source->return_fd);
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
		/* an end is final, and what is unconsumed may still have to be given to another
		 * command */
		*ret_end = hung_up && (skip == 0 || source->shared->members->next_member == NULL);
		return *ret_end ? 0 : -EAGAIN;
	}
	if (!pipe_take(source))
		return -EAGAIN;
	n = borrow_peek(source->fd, source->tools->scratch, skip, data, len);
	if (n > 0 && offset + (uint64_t)n > source->peeked)
		source->peeked = offset + (uint64_t)n;
	return n == 0 ? -EAGAIN : n;
}

static ssize_t
read_ahead(struct source *source, uint64_t offset, void *data, size_t len, bool *ret_end)
{
	size_t skip = (size_t)(offset - source->used), held = buf_len(&source->ahead), room;
	uint8_t *tail;
	ssize_t n;

	if (held == skip && !source->ended) {
		room = source->ahead_max - held < len ? source->ahead_max - held : len;
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
		if (source->peeked < source->used)
			source->peeked = source->used;
		source->shared->consumed = true;
		borrow_drop(source->fd, source->tools->null_fd, len);
		if (!source->bulk && source->used > PIPE_BULK_AFTER) {
			source->bulk = true;
			if (fcntl(source->fd, F_GETPIPE_SZ) == PIPE_LEN_DEFAULT)
				(void)fcntl(source->fd, F_SETPIPE_SZ, PIPE_LEN_BULK);
		}
	} else if (source->kind != BORROW_FILE) {
		buf_consume(&source->ahead,
			    len < buf_len(&source->ahead) ? len : buf_len(&source->ahead));
	}
}

void
source_revoked(struct source *source, uint64_t offset)
{
	source_used(source, offset);
	source->peeked = source->used;
	if (source->shared != NULL && source->shared->holder == source) {
		source->waiting = true; /* at the end of the line */
		pipe_pass_on(source->shared);
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
	/* relative: others may have moved on in the meantime, as when several processes read one
	 * file locally */
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
	pipe_leave(source);
	edge_unwatch(source->tools->edges, &source->edge);
	source_pause(source);
	return_tokens(source);
	buf_free(&source->ahead);
	fd_close(&source->fd);
	free(source);
}
