#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/base/fdpass.h"
#include "shim/broker/conn.h"
#include "shim/broker/log.h"

enum {
	/* commands, and room for modalshctl beside them */
	CONNS_MAX = JOBS_MAX + 64,
	USERS_MAX = 64,
	BACKLOG = 1024,
	RECEIVE_LEN = 16 * 1024,
	/* the largest reply and the frames of a command's end */
	OUT_LEN_MAX = REPLY_LEN_MAX + 64 * 1024,
	/* a local process that connects says at once what it wants */
	START_WAIT_S = 30,
	/* the largest descriptor number that a command may be given */
	DESCRIPTOR_MAX = 65535,
};

/* Without free descriptors nobody is let in for so long. */
static const double ACCEPT_PAUSE_S = 0.1;

/* SIGSTOP cannot be caught and passed on, so the callers are looked at: so many of them, so often.
 */
enum { LOOKS_PER_ROUND = 64 };
static const double LOOK_S = 0.2;

enum conn_state { CONN_NEW, CONN_GREETED, CONN_RUNNING, CONN_ENDED };

struct conn {
	struct listener *listener;
	struct conn *previous;
	struct conn *next;
	int fd;
	uid_t uid;
	pid_t pid;
	enum conn_state state;
	struct job *job;
	struct buf in;
	struct buf out;
	int fds[STREAMS_MAX]; /* received and not used yet */
	size_t fd_count;
	struct ev_io reader;
	struct ev_io writer;
	struct ev_timer start_by;
};

struct listener {
	struct job_context *context;
	const struct listener_events *events;
	void *arg;
	int fd;
	dev_t dev;
	ino_t ino;
	int lock_fd; /* beside the socket: one broker for one path */
	struct ev_io watcher;
	struct ev_timer pause;
	struct ev_timer look;
	uint32_t looked_at; /* connections in this round of looking */
	bool paused_before;
	uid_t users[USERS_MAX];
	size_t user_count;
	struct conn *conns;
	size_t conn_count;
	uint64_t accepted;
	uint64_t refused;
};

/* ---- one connection ---- */

static void
conn_close_fds(struct conn *conn)
{
	while (conn->fd_count > 0)
		fd_close(&conn->fds[--conn->fd_count]);
}

static void
conn_free(struct conn *conn)
{
	struct listener *listener = conn->listener;

	if (conn->job != NULL)
		job_abandon(conn->job);
	ev_io_stop(listener->context->loop, &conn->reader);
	ev_io_stop(listener->context->loop, &conn->writer);
	ev_timer_stop(listener->context->loop, &conn->start_by);
	conn_close_fds(conn);
	buf_free(&conn->in);
	buf_free(&conn->out);
	fd_close(&conn->fd);
	if (conn->previous != NULL)
		conn->previous->next = conn->next;
	else
		listener->conns = conn->next;
	if (conn->next != NULL)
		conn->next->previous = conn->previous;
	if (listener->conn_count-- == CONNS_MAX && listener->fd >= 0)
		ev_io_start(listener->context->loop, &listener->watcher);
	free(conn);
}

/* Writes what the socket takes.  Once everything of an ended connection is out, it is closed: the
 * writer watcher does that in the next turn, since callers still hold the connection. */
static void
conn_flush(struct conn *conn)
{
	ssize_t n;

	while (buf_len(&conn->out) > 0) {
		n = send(conn->fd, buf_head(&conn->out), buf_len(&conn->out),
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			/* nobody reads: what is running is told to end when the reading side shows
			 * it, or here */
			buf_free(&conn->out);
			conn->state = CONN_ENDED;
			break;
		}
		buf_consume(&conn->out, (size_t)n);
	}
	if (buf_len(&conn->out) > 0 || conn->state == CONN_ENDED)
		ev_io_start(conn->listener->context->loop, &conn->writer);
}

/* Whatever ended it has been told by the job, which goes on by itself from here on. */
static void
conn_end(struct conn *conn)
{
	struct ev_loop *loop = conn->listener->context->loop;

	conn->state = CONN_ENDED;
	conn->job = NULL;
	conn_close_fds(conn);
	/* a client that does not take the answer is not waited for any longer than one that does
	 * not ask */
	ev_timer_stop(loop, &conn->start_by);
	ev_timer_set(&conn->start_by, START_WAIT_S, 0.);
	ev_timer_start(loop, &conn->start_by);
	conn_flush(conn);
}

static void
conn_refuse(struct conn *conn, enum job_refusal kind, const char *text)
{
	conn->listener->refused += kind == JOB_NOT_RUN;
	log_info("refused (uid %u): %s", (unsigned)conn->uid, text);
	(void)job_refused_encode(&conn->out, (uint8_t)kind, text);
	conn_end(conn);
}

static void
conn_not_run(struct conn *conn, const char *reason)
{
	char text[TEXT_LEN_MAX];

	snprintf(text, sizeof text, "%s: the command was not run", reason);
	conn_refuse(conn, JOB_NOT_RUN, text);
}

/* ---- what the job says ---- */

static void
on_started(void *arg, uint32_t pid)
{
	struct conn *conn = arg;

	/* not urgent: goes out together with the end, or with the next turn's writing */
	(void)job_number_encode(&conn->out, JOB_STARTED, 0, pid);
	ev_io_start(conn->listener->context->loop, &conn->writer);
}

static void
on_stopped(void *arg, uint8_t signal_number)
{
	struct conn *conn = arg;

	(void)job_number_encode(&conn->out, JOB_STOPPED, 0, signal_number);
	conn_flush(conn);
}

static void
on_exited(void *arg, const struct job_exit *end)
{
	struct conn *conn = arg;

	(void)job_exit_encode(&conn->out, 0, end);
	conn_end(conn);
}

static void
on_failed(void *arg, const struct job_failure *failure)
{
	struct conn *conn = arg;

	(void)job_failure_encode(&conn->out, 0, failure);
	conn_end(conn);
}

static void
on_refused(void *arg, enum job_refusal kind, const char *text)
{
	conn_refuse(arg, kind, text);
}

static const struct job_events job_events = { on_started, on_stopped, on_exited, on_failed,
					      on_refused };

/* ---- what the client says ---- */

static int
take_hello(struct conn *conn, const struct job_frame *frame)
{
	struct job_greeting greeting;
	char reason[128];

	if (job_greeting_decode(frame->body, &greeting) < 0)
		return -EBADMSG;
	if (greeting.version != JOB_PROTOCOL_VERSION) {
		snprintf(reason, sizeof reason,
			 "protocol version %" PRIu32 " is not the broker's (%d): install both anew",
			 greeting.version, JOB_PROTOCOL_VERSION);
		conn_not_run(conn, reason);
		return 0;
	}
	conn->state = CONN_GREETED;
	return job_greeting_encode(&conn->out, JOB_HELLO_REPLY, MODALSH_VERSION);
}

/* What a descriptor is, is found out here; the client only says which ones it has. */
static bool
streams_are_local(const struct job_start *start)
{
	for (uint32_t i = 0; i < start->stream_count; i++) {
		const struct job_stream *stream = &start->streams[i];

		if ((stream->kind != JOB_STREAM_PASSED && stream->kind != JOB_STREAM_CLOSED) ||
		    stream->stream > DESCRIPTOR_MAX)
			return false;
	}
	return true;
}

static int
take_start(struct conn *conn, const struct job_frame *frame)
{
	struct listener *listener = conn->listener;
	struct err err = { 0 };
	struct job_start start;
	size_t count = conn->fd_count;

	if (job_start_decode(frame->body, &start) < 0 || !streams_are_local(&start))
		return -EBADMSG;
	ev_timer_stop(listener->context->loop, &conn->start_by);
	conn->state = CONN_RUNNING;
	conn->fd_count = 0; /* the job's from here on */
	if (job_new(listener->context, &start, conn->pid, conn->fds, count, &job_events, conn,
		    &conn->job, &err) < 0) {
		conn_not_run(conn, err.text);
		return 0;
	}
	if (conn->state == CONN_ENDED) {
		job_abandon(conn->job); /* it was refused while it was being made */
		conn->job = NULL;
		return 0;
	}
	listener->accepted++;
	if (!ev_is_active(&listener->look))
		ev_timer_again(listener->context->loop, &listener->look);
	return job_empty_encode(&conn->out, JOB_ACCEPTED, 0);
}

static int
take_control(struct conn *conn, const struct job_frame *frame)
{
	struct job_control control;

	if (job_control_decode(frame->type, frame->body, &control) < 0)
		return -EBADMSG;
	job_control(conn->job, &control);
	return 0;
}

static int
take_status(struct conn *conn, const struct job_frame *frame)
{
	char *text;
	int r;

	if (job_empty_decode(frame->body) < 0)
		return -EBADMSG;
	text = conn->listener->events->status(conn->listener->arg);
	if (text == NULL)
		return -ENOMEM;
	r = job_text_encode(&conn->out, JOB_REPLY, text, strlen(text));
	free(text);
	return r;
}

static int
take_ping(struct conn *conn, const struct job_frame *frame)
{
	uint64_t token;

	if (job_number_decode(JOB_PING, frame->body, &token) < 0)
		return -EBADMSG;
	return job_number_encode(&conn->out, JOB_PONG, 0, token);
}

static int
take_stop(struct conn *conn, const struct job_frame *frame)
{
	static const char stopping[] = "{\"stopping\":true}";
	static const char denied[] =
		"{\"error\":\"only root and the broker's own user may stop it\"}";
	bool allowed = conn->uid == 0 || conn->uid == geteuid();
	const char *text = allowed ? stopping : denied;

	if (job_empty_decode(frame->body) < 0)
		return -EBADMSG;
	if (allowed)
		conn->listener->events->stop(conn->listener->arg);
	return job_text_encode(&conn->out, JOB_REPLY, text, strlen(text));
}

/* What may be said in which state; everything else ends the connection. */
static const struct {
	uint8_t type;
	enum conn_state state;
	int (*take)(struct conn *conn, const struct job_frame *frame);
} dispatch[] = {
	{ JOB_HELLO, CONN_NEW, take_hello },	    { JOB_START, CONN_GREETED, take_start },
	{ JOB_SIGNAL, CONN_RUNNING, take_control }, { JOB_WINCH, CONN_RUNNING, take_control },
	{ JOB_STATUS, CONN_GREETED, take_status },  { JOB_PING, CONN_GREETED, take_ping },
	{ JOB_STOP, CONN_GREETED, take_stop },
};

static int
conn_dispatch(struct conn *conn, const struct job_frame *frame)
{
	for (size_t i = 0; i < sizeof dispatch / sizeof dispatch[0]; i++) {
		if (dispatch[i].type == frame->type && dispatch[i].state == conn->state)
			return dispatch[i].take(conn, frame);
	}
	return -EBADMSG;
}

static void
conn_bad(struct conn *conn)
{
	if (conn->state == CONN_RUNNING) {
		job_abandon(conn->job);
		conn->job = NULL;
		conn_refuse(conn, JOB_RESULT_UNKNOWN,
			    "a malformed frame came from the client: its result is unknown");
	} else {
		conn_not_run(conn, "a malformed frame came from the client");
	}
}

static void
conn_parse(struct conn *conn)
{
	struct job_frame frame;
	int r = 1;

	while (conn->state != CONN_ENDED && (r = job_frame_take(&conn->in, &frame)) > 0) {
		r = frame.job == 0 ? conn_dispatch(conn, &frame) : -EBADMSG;
		if (r < 0)
			break;
		buf_consume(&conn->in, frame.len);
	}
	if (r < 0)
		conn_bad(conn);
	else
		conn_flush(conn);
	if (conn->state == CONN_RUNNING && buf_len(&conn->in) == 0)
		buf_free(&conn->in);
}

/* One receive; false when the connection was freed or nothing more is there. */
static bool
conn_receive(struct conn *conn)
{
	uint8_t *room = buf_reserve(&conn->in, RECEIVE_LEN);
	int fds[STREAMS_MAX];
	size_t count = 0;
	ssize_t n;

	n = room == NULL ? -ENOBUFS : fdpass_receive(conn->fd, room, RECEIVE_LEN, fds, &count);
	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		if (n == -EBADMSG || n == -ENOBUFS) {
			conn_bad(conn);
			return false;
		}
		conn_free(conn);
		return false;
	}
	if (conn->state != CONN_ENDED)
		buf_added(&conn->in, (size_t)n);
	for (size_t i = 0; i < count; i++) {
		if (conn->state < CONN_RUNNING && conn->fd_count < STREAMS_MAX)
			conn->fds[conn->fd_count++] = fds[i];
		else
			fd_cleanup(&fds[i]);
	}
	return true;
}

static void
conn_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct conn *conn = watcher->data;

	(void)loop;
	(void)events;
	/* once a turn: a large START does not keep the others waiting */
	if (conn_receive(conn))
		conn_parse(conn);
}

static void
conn_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct conn *conn = watcher->data;

	(void)events;
	ev_io_stop(loop, watcher);
	if (buf_len(&conn->out) == 0 && conn->state == CONN_ENDED)
		conn_free(conn);
	else
		conn_flush(conn);
}

static void
start_late(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct conn *conn = timer->data;

	(void)loop;
	(void)events;
	if (conn->state == CONN_ENDED)
		conn_free(conn);
	else
		conn_not_run(conn, "the client did not say what to run");
}

static void
conn_new(struct listener *listener, int fd, const struct ucred *peer)
{
	struct ev_loop *loop = listener->context->loop;
	struct conn *conn = calloc(1, sizeof *conn);

	if (conn == NULL) {
		close(fd);
		return;
	}
	conn->listener = listener;
	conn->fd = fd;
	conn->uid = peer->uid;
	conn->pid = peer->pid;
	buf_init(&conn->in, FRAME_LEN_MAX + RECEIVE_LEN);
	buf_init(&conn->out, OUT_LEN_MAX);
	ev_io_init(&conn->reader, conn_readable, fd, EV_READ);
	/* a signal before input that came after it: both may be there in one turn of the loop */
	ev_set_priority(&conn->reader, EV_MAXPRI);
	ev_io_init(&conn->writer, conn_writable, fd, EV_WRITE);
	ev_timer_init(&conn->start_by, start_late, START_WAIT_S, 0.);
	conn->reader.data = conn->writer.data = conn->start_by.data = conn;
	conn->next = listener->conns;
	if (conn->next != NULL)
		conn->next->previous = conn;
	listener->conns = conn;
	listener->conn_count++;
	ev_io_start(loop, &conn->reader);
	ev_timer_start(loop, &conn->start_by);
	conn_readable(loop, &conn->reader,
		      EV_READ); /* the client sends at once: mostly it is there already */
}

/* ---- the listening socket ---- */

static bool
uid_is_allowed(const struct listener *listener, uid_t uid)
{
	for (size_t i = 0; i < listener->user_count; i++) {
		if (listener->users[i] == uid)
			return true;
	}
	return false;
}

/* The list is gone through in turns, oldest connections last. */
static void
look_at_callers(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct listener *listener = timer->data;
	struct conn *conn = listener->conns;
	uint32_t skipped = 0, looked = 0;

	(void)loop;
	(void)events;
	for (; conn != NULL && looked < LOOKS_PER_ROUND; conn = conn->next) {
		if (conn->state != CONN_RUNNING || conn->job == NULL ||
		    skipped++ < listener->looked_at)
			continue;
		job_look_at_caller(conn->job);
		looked++;
	}
	listener->looked_at = conn == NULL ? 0 : listener->looked_at + looked;
	if (listener->conns == NULL)
		ev_timer_stop(loop, timer);
}

static void
pause_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct listener *listener = timer->data;

	(void)events;
	if (listener->fd >= 0 && listener->conn_count < CONNS_MAX)
		ev_io_start(loop, &listener->watcher);
}

static void
listener_pause(struct listener *listener, int errno_value)
{
	struct ev_loop *loop = listener->context->loop;

	if (!listener->paused_before)
		log_error("accept: %s; raise the limit of open files", strerror(errno_value));
	listener->paused_before = true;
	ev_io_stop(loop, &listener->watcher);
	ev_timer_set(&listener->pause, ACCEPT_PAUSE_S, 0.);
	ev_timer_start(loop, &listener->pause);
}

static void
listener_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct listener *listener = watcher->data;
	struct ucred peer;
	socklen_t len = sizeof peer;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			listener_pause(listener, errno);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    !uid_is_allowed(listener, peer.uid)) {
		log_warning("uid %u may not connect: list it in modalsh.allow_users",
			    (unsigned)peer.uid);
		close(fd);
		return;
	}
	conn_new(listener, fd, &peer);
	if (listener->conn_count >= CONNS_MAX)
		ev_io_stop(loop, watcher);
}

static int
resolve_users(struct listener *listener, struct err *err)
{
	const struct config_list *users = &listener->context->config->allow_users;
	char *end;

	listener->users[listener->user_count++] = geteuid();
	listener->users[listener->user_count++] = 0;
	for (size_t i = 0; i < users->count; i++) {
		unsigned long number = strtoul(users->items[i], &end, 10);
		const struct passwd *user = *end == '\0' ? NULL : getpwnam(users->items[i]);

		if (listener->user_count == USERS_MAX)
			return err_set(err, E2BIG, "modalsh.allow_users: more than %d users",
				       USERS_MAX - 2);
		if (*end != '\0' && user == NULL)
			return err_set(err, ENOENT, "modalsh.allow_users: no user \"%s\" here",
				       users->items[i]);
		listener->users[listener->user_count++] =
			user != NULL ? user->pw_uid : (uid_t)number;
	}
	return 0;
}

static int
socket_address(const char *path, const char *suffix, struct sockaddr_un *ret, struct err *err)
{
	int len;

	memset(ret, 0, sizeof *ret);
	ret->sun_family = AF_UNIX;
	len = snprintf(ret->sun_path, sizeof ret->sun_path, "%s%s", path, suffix);
	if (len < 0 || (size_t)len >= sizeof ret->sun_path)
		return err_set(err, ENAMETOOLONG,
			       "%s: longer than the %zu bytes a socket's path may have", path,
			       sizeof ret->sun_path - 1 - strlen(suffix));
	return 0;
}

static int
refuse_living_broker(const struct sockaddr_un *address, struct err *err)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_errno(err, errno, "socket");
	if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN)
		return err_set(err, EADDRINUSE,
			       "%s: another modalsh-broker serves it: stop that one first",
			       address->sun_path);
	return 0;
}

static int
make_directory(const char *path, struct err *err)
{
	char directory[sizeof((struct sockaddr_un *)0)->sun_path];
	char *slash;

	snprintf(directory, sizeof directory, "%s", path);
	slash = strrchr(directory, '/');
	if (slash == NULL || slash == directory)
		return 0;
	*slash = '\0';
	if (mkdir(directory, 0755) < 0 && errno != EEXIST)
		return err_errno(err, errno, "%s (for modalsh.socket)", directory);
	return 0;
}

/* Two brokers that start at once must not both find the place free. */
static int
listener_lock(struct listener *listener, const char *path, struct err *err)
{
	char lock_path[sizeof((struct sockaddr_un *)0)->sun_path + sizeof ".lock"];

	snprintf(lock_path, sizeof lock_path, "%s.lock", path);
	listener->lock_fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (listener->lock_fd < 0)
		return err_errno(err, errno, "%s", lock_path);
	if (flock(listener->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(err, EADDRINUSE,
			       "%s: another modalsh-broker serves it: stop that one first", path);
	return 0;
}

static int
listener_bind(struct listener *listener, struct err *err)
{
	const char *path = listener->context->config->socket;
	struct sockaddr_un final, temporary;
	char suffix[32];
	struct stat st;
	mode_t mask;
	int r;

	snprintf(suffix, sizeof suffix, ".%ld", (long)getpid());
	if ((r = socket_address(path, suffix, &temporary, err)) < 0 ||
	    (r = socket_address(path, "", &final, err)) < 0 ||
	    (r = make_directory(path, err)) < 0 || (r = listener_lock(listener, path, err)) < 0 ||
	    (r = refuse_living_broker(&final, err)) < 0)
		return r;
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0)
		return err_errno(err, errno, "socket");
	/* anybody may knock: who is let in is decided by the peer's uid */
	mask = umask(0);
	r = bind(listener->fd, (const struct sockaddr *)&temporary, sizeof temporary);
	umask(mask);
	if (r < 0)
		return err_errno(err, errno, "%s (modalsh.socket)", temporary.sun_path);
	if (listen(listener->fd, BACKLOG) < 0 || stat(temporary.sun_path, &st) < 0 ||
	    rename(temporary.sun_path, final.sun_path) < 0) {
		r = err_errno(err, errno, "%s (modalsh.socket)", final.sun_path);
		unlink(temporary.sun_path);
		return r;
	}
	listener->dev = st.st_dev;
	listener->ino = st.st_ino;
	return 0;
}

int
listener_new(struct job_context *context, const struct listener_events *events, void *arg,
	     struct listener **ret, struct err *err)
{
	struct listener *listener = calloc(1, sizeof *listener);
	int r;

	if (listener == NULL)
		return err_set(err, ENOMEM, "no memory for the socket");
	*listener = (struct listener){
		.context = context, .events = events, .arg = arg, .fd = -1, .lock_fd = -1
	};
	r = resolve_users(listener, err);
	if (r == 0)
		r = listener_bind(listener, err);
	if (r < 0) {
		fd_close(&listener->fd);
		fd_close(&listener->lock_fd);
		free(listener);
		return r;
	}
	ev_timer_init(&listener->pause, pause_over, 0., 0.);
	ev_timer_init(&listener->look, look_at_callers, LOOK_S, LOOK_S);
	listener->pause.data = listener->look.data = listener;
	ev_io_init(&listener->watcher, listener_readable, listener->fd, EV_READ);
	listener->watcher.data = listener;
	ev_io_start(context->loop, &listener->watcher);
	*ret = listener;
	return 0;
}

void
listener_close(struct listener *listener)
{
	const char *path = listener->context->config->socket;
	struct stat st;

	if (listener->fd < 0)
		return;
	ev_io_stop(listener->context->loop, &listener->watcher);
	ev_timer_stop(listener->context->loop, &listener->pause);
	fd_close(&listener->fd);
	if (lstat(path, &st) == 0 && st.st_dev == listener->dev && st.st_ino == listener->ino)
		unlink(path);
}

uint64_t
listener_refused(const struct listener *listener)
{
	return listener->refused;
}

uint64_t
listener_accepted(const struct listener *listener)
{
	return listener->accepted;
}

void
listener_free(struct listener *listener)
{
	if (listener == NULL)
		return;
	listener_close(listener);
	ev_timer_stop(listener->context->loop, &listener->look);
	fd_close(&listener->lock_fd);
	while (listener->conns != NULL)
		conn_free(listener->conns);
	free(listener);
}
