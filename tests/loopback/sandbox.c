#include "tests/loopback/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <ev.h>

#include "shim/base/fd.h"
#include "shim/base/fdpass.h"
#include "shim/base/limits.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/init.h"
#include "tests/loopback/launch.h"
#include "tests/loopback/probe.h"
#include "tests/loopback/tree.h"
#include "tests/loopback/worker.h"

enum {
	SOCKET_LEN = 4 * 1024 * 1024,
	LOG_TEXT_LEN = 1024,
	FDS_WAITING_MAX = 64,
	CLOSE_WAIT_MS = 5000,
	OVER_KEPT_MAX = 256, /* sandboxes that are over and still known */
	TERMINATED_EXIT_CODE = 137,
	TIMEOUT_EXIT_CODE = 124
};
static const double kill_after_s = 1.0;

/* A mount or the like that process 1 was asked for. */
struct request {
	struct request *next;
	uint32_t id;
	void (*on_done)(void *arg, int result);
	void *arg;
};

/* An image mounted at a path; its files are <dir>/mounts/<number>. */
struct mounted {
	struct mounted *next;
	char *path;
	uint32_t number;
	bool visible;
};

struct sandbox_link {
	int fd;
	pid_t pid; /* of bwrap */
	ev_io readable;
	ev_child ended;
	ev_timer life, idle, kill;
	struct bytes in;
	int fds[FDS_WAITING_MAX];
	size_t fd_count;
	struct request *requests;
	struct mounted *mounted;
	struct copy_job *waiting; /* snapshots asked for before the files are there */
};

/* A tree that is being copied, or is about to be. */
struct copy_job {
	struct copy_job *next;
	struct sandbox *sandbox;
	char *from, *to;
	void (*on_done)(void *arg, int result);
	void *arg;
};

static double
now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* -- finding and watching */

struct sandbox *
sandbox_find(struct sandbox_host *host, const char *id)
{
	for (struct sandbox *s = host->sandboxes; s; s = s->next) {
		if (text_is(s->id, id))
			return s;
	}
	return NULL;
}

struct sandbox *
sandbox_find_task(struct sandbox_host *host, const char *task_id)
{
	for (struct sandbox *s = host->sandboxes; s; s = s->next) {
		if (text_is(s->task_id, task_id))
			return s;
	}
	return NULL;
}

void
sandbox_watch(struct sandbox *s, struct sandbox_watch *w)
{
	w->sandbox = s;
	w->prev = NULL;
	w->next = s->watches;
	if (w->next)
		w->next->prev = w;
	s->watches = w;
}

void
sandbox_unwatch(struct sandbox_watch *w)
{
	if (!w->sandbox)
		return;
	if (w->next)
		w->next->prev = w->prev;
	if (w->prev)
		w->prev->next = w->next;
	else
		w->sandbox->watches = w->next;
	w->sandbox = NULL;
}

/* A watcher may end itself, not others. */
static void
sandbox_tell(struct sandbox *s)
{
	for (struct sandbox_watch *w = s->watches, *next; w; w = next) {
		next = w->next;
		w->on_change(w);
	}
}

bool
sandbox_accepts(const struct sandbox *s)
{
	return s->result == SANDBOX_RUNNING;
}

/* -- talking to process 1 */

int
sandbox_send(struct sandbox *s, uint32_t type, uint32_t id, const void *body, size_t len,
	     const int *fds, size_t fd_count)
{
	struct init_header h = {
		.len = (uint32_t)(sizeof h + len),
		.type = type,
		.id = id,
		.fd_count = (uint32_t)fd_count,
	};
	struct bytes frame = { 0 };
	int r;

	if (s->link->fd < 0)
		return -EPIPE;
	if (len > INIT_FRAME_LEN_MAX - sizeof h)
		return -E2BIG;
	bytes_append(&frame, &h, sizeof h);
	bytes_append(&frame, body, len);
	r = fdpass_send(s->link->fd, bytes_front(&frame), frame.len, fds, fd_count);
	bytes_free(&frame);
	return r;
}

static void copies_release(struct sandbox *s, bool start);

static struct exec *
exec_of(struct sandbox *s, uint32_t number)
{
	for (struct exec *x = s->execs; x; x = x->next) {
		if (x->number == number)
			return x;
	}
	return NULL;
}

static void
request_done(struct sandbox *s, uint32_t id, int result)
{
	for (struct request **at = &s->link->requests, *q; (q = *at); at = &q->next) {
		if (q->id != id)
			continue;
		*at = q->next;
		q->on_done(q->arg, result);
		free(q);
		return;
	}
}

static void
requests_fail(struct sandbox *s)
{
	while (s->link->requests)
		request_done(s, s->link->requests->id, -EPIPE);
}

static void
entry_ended(struct sandbox *s, int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);

	sandbox_end(s, code == 0 ? SANDBOX_SUCCESS : SANDBOX_FAILURE, code, NULL);
}

void
sandbox_set_probed(struct sandbox *s)
{
	s->ready = true;
	s->ready_at = now_s();
	sandbox_tell(s);
}

static void
answer_handle(struct sandbox *s, const struct init_answer *a, int fd)
{
	struct exec *x = exec_of(s, a->header.id);

	switch ((enum init_type)a->header.type) {
	case INIT_READY:
		s->started = true;
		copies_release(s, true);
		if (!s->probe)
			sandbox_set_probed(s);
		sandbox_tell(s);
		return;
	case INIT_STARTED:
		if (x)
			exec_started(x, a->value, fd);
		if (x && x == s->entry && a->value)
			sandbox_end(s, SANDBOX_INIT_FAILURE, 0, strerror(a->value));
		return;
	case INIT_EXITED:
		if (x)
			exec_ended(x, a->value);
		if (x && x == s->entry)
			entry_ended(s, a->value);
		return;
	case INIT_DONE:
		request_done(s, a->header.id, -a->value);
		return;
	case INIT_START:
	case INIT_KILL:
	case INIT_MOUNT:
	case INIT_UNMOUNT:
	case INIT_NETWORK:
		return;
	}
}

static void
link_close(struct sandbox *s)
{
	struct sandbox_link *l = s->link;

	if (l->fd < 0)
		return;
	ev_io_stop(s->host->loop, &l->readable);
	close(l->fd);
	l->fd = -1;
	for (size_t i = 0; i < l->fd_count; i++)
		close(l->fds[i]);
	l->fd_count = 0;
}

static void
link_take(struct sandbox *s)
{
	struct sandbox_link *l = s->link;
	struct init_answer a;

	while (l->fd >= 0 && l->in.len >= sizeof a) {
		int fd = -1;

		memcpy(&a, bytes_front(&l->in), sizeof a);
		bytes_drop(&l->in, sizeof a);
		if (a.header.fd_count == 1 && l->fd_count > 0) {
			fd = l->fds[0];
			memmove(l->fds, l->fds + 1, --l->fd_count * sizeof *l->fds);
		}
		answer_handle(s, &a, fd);
	}
}

static void
on_link(struct ev_loop *loop, ev_io *io, int events)
{
	struct sandbox *s = io->data;
	struct sandbox_link *l = s->link;
	int fds[STREAMS_MAX];
	size_t count = 0;
	ssize_t n = fdpass_receive(l->fd, bytes_room(&l->in, 4096), 4096, fds, &count);

	(void)loop;
	(void)events;
	if (n == -EAGAIN)
		return;
	if (n <= 0 || l->fd_count + count > FDS_WAITING_MAX) {
		link_close(s); /* bwrap's end follows and says why */
		return;
	}
	bytes_added(&l->in, (size_t)n);
	memcpy(l->fds + l->fd_count, fds, count * sizeof *fds);
	l->fd_count += count;
	link_take(s);
}

/* -- the end */

/* The last lines of what bwrap said. */
static char *
log_text(const struct sandbox *s)
{
	char *path = text_format("%s/log", s->dir);
	char *text = mem_new(LOG_TEXT_LEN);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	free(path);
	if (fd >= 0) {
		ssize_t n = read(fd, text, LOG_TEXT_LEN - 1);

		text[n > 0 ? n : 0] = '\0';
		close(fd);
	}
	return text;
}

static int
work_remove(void *arg)
{
	return tree_remove(arg);
}

static void
on_removed(void *arg, int result)
{
	(void)result;
	free(arg);
}

static void
files_remove(struct sandbox *s)
{
	if (!s->over || s->copies > 0 || s->removed)
		return;
	s->removed = true;
	worker_start(s->host->loop, work_remove, on_removed, text_copy(s->dir));
}

/* Tells whoever waits for them, then forgets all but the entrypoint, whose output can still be
 * read. */
static void
execs_drop(struct sandbox *s)
{
	struct exec **at = &s->execs, *x;

	probe_free(s->probe);
	s->probe = NULL;
	for (x = s->execs; x; x = x->next)
		exec_lose(x);
	while ((x = *at)) {
		if (x == s->entry) {
			at = &x->next;
			continue;
		}
		*at = x->next;
		exec_free(x);
	}
}

static void
mounted_free(struct mounted *m)
{
	while (m) {
		struct mounted *next = m->next;

		free(m->path);
		free(m);
		m = next;
	}
}

static void
strings_free(char **strings)
{
	for (char **at = strings; at && *at; at++)
		free(*at);
	free(strings);
}

static void
spec_free(struct sandbox_spec *spec)
{
	free(spec->root);
	strings_free(spec->env);
	free(spec->workdir);
	strings_free(spec->argv);
	for (int i = 0; i < spec->mount_count; i++) {
		free(spec->mounts[i].source);
		free(spec->mounts[i].target);
	}
	free(spec->mounts);
}

static void
record_free(struct sandbox *s)
{
	for (int i = 0; i < s->tag_count; i++) {
		free(s->tags[i].name);
		free(s->tags[i].value);
	}
	free(s->tags);
	free(s->ports);
	free(s->id);
	free(s->task_id);
	free(s->app_id);
	free(s->name);
	free(s->image_id);
	free(s->idempotency_key);
	free(s->exception);
	free(s->dir);
}

static void
sandbox_free(struct sandbox *s)
{
	if (s->next)
		s->next->prev = s->prev;
	if (s->prev)
		s->prev->next = s->next;
	else
		s->host->sandboxes = s->next;
	if (s->entry)
		exec_free(s->entry);
	mounted_free(s->link->mounted);
	bytes_free(&s->link->in);
	free(s->link);
	probe_free(s->probe);
	spec_free(&s->spec);
	record_free(s);
	free(s);
}

/* The newest that are over stay, for those who still ask about them. */
static void
sandboxes_retire(struct sandbox_host *host)
{
	int kept = 0;

	for (struct sandbox *s = host->sandboxes, *next; s; s = next) {
		next = s->next;
		if (s->over && s->copies == 0 && !s->watches && ++kept > OVER_KEPT_MAX)
			sandbox_free(s);
	}
}

static void
on_ended(struct ev_loop *loop, ev_child *child, int events)
{
	struct sandbox *s = child->data;
	struct sandbox_link *l = s->link;

	(void)events;
	ev_child_stop(loop, child);
	if (s->result == SANDBOX_RUNNING) {
		char *text = log_text(s);

		sandbox_end(s, SANDBOX_INIT_FAILURE, 1,
			    text_empty(text) ? "the sandbox ended unexpectedly" : text);
		free(text);
	}
	link_close(s);
	ev_timer_stop(loop, &l->kill);
	l->pid = 0;
	s->over = true;
	s->finished_at = now_s();
	requests_fail(s);
	copies_release(s, false);
	execs_drop(s);
	sandbox_tell(s);
	files_remove(s);
	sandboxes_retire(s->host);
}

static void
on_kill(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct sandbox *s = timer->data;

	(void)loop;
	(void)events;
	if (s->link->pid > 0)
		kill(s->link->pid, SIGKILL);
}

void
sandbox_end(struct sandbox *s, enum sandbox_result result, int exit_code, const char *exception)
{
	struct sandbox_link *l = s->link;
	struct ev_loop *loop = s->host->loop;

	if (s->result != SANDBOX_RUNNING)
		return;
	s->result = result;
	s->exit_code = exit_code;
	s->exception = exception ? text_copy(exception) : NULL;
	ev_timer_stop(loop, &l->life);
	ev_timer_stop(loop, &l->idle);
	link_close(s); /* process 1 sees it and exits, and takes all the others along */
	if (!s->started)
		on_kill(loop, &l->kill, 0);
	else
		ev_timer_start(loop, &l->kill);
}

static void
on_life(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	sandbox_end(timer->data, SANDBOX_TIMEOUT, TIMEOUT_EXIT_CODE, NULL);
}

static void
on_idle(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	sandbox_end(timer->data, SANDBOX_IDLE_TIMEOUT, TERMINATED_EXIT_CODE, NULL);
}

void
sandbox_touch(struct sandbox *s)
{
	ev_timer *idle = &s->link->idle;

	if (s->spec.idle_timeout_s == 0 || !sandbox_accepts(s))
		return;
	ev_timer_stop(s->host->loop, idle);
	for (struct exec *x = s->execs; x; x = x->next) {
		if (exec_is_active(x))
			return;
	}
	ev_timer_set(idle, s->spec.idle_timeout_s, 0.);
	ev_timer_start(s->host->loop, idle);
}

/* -- the beginning */

static void
timer_init(struct sandbox *s, ev_timer *timer, void (*expired)(struct ev_loop *, ev_timer *, int),
	   double after_s)
{
	ev_timer_init(timer, expired, after_s, 0.);
	timer->data = s;
}

static struct sandbox_link *
link_new(struct sandbox *s, int fd, pid_t pid)
{
	struct sandbox_link *l = mem_new(sizeof *l);

	l->fd = fd;
	l->pid = pid;
	ev_io_init(&l->readable, on_link, fd, EV_READ);
	l->readable.data = s;
	ev_child_init(&l->ended, on_ended, pid, 0);
	l->ended.data = s;
	timer_init(s, &l->life, on_life, s->spec.timeout_s);
	timer_init(s, &l->idle, on_idle, 0.);
	timer_init(s, &l->kill, on_kill, kill_after_s);
	return l;
}

static int
socket_pair(int *fds)
{
	int len = SOCKET_LEN;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		if (setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &len, sizeof len) < 0)
			setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &len, sizeof len);
	}
	return 0;
}

static void
entry_start(struct sandbox *s)
{
	struct exec_spec spec = {
		.argv = s->spec.argv,
		.env = s->spec.env,
		.workdir = s->spec.workdir,
		.rows = s->spec.rows,
		.columns = s->spec.columns,
	};
	int r = exec_start(s, &spec, &s->entry);

	if (r < 0)
		sandbox_end(s, SANDBOX_INIT_FAILURE, 1, strerror(-r));
}

static void
sandbox_launch(struct sandbox *s)
{
	struct sandbox_host *host = s->host;
	struct sandbox_link *l;
	char *mounts;
	int fds[2];
	pid_t pid;

	if (socket_pair(fds) < 0)
		abort();
	mounts = text_format("%s/mounts", s->dir);
	tree_make(mounts);
	free(mounts);
	pid = launch_start(s, fds[1]);
	if (pid < 0)
		abort();
	l = s->link = link_new(s, fds[0], pid);
	ev_io_start(host->loop, &l->readable);
	ev_child_start(host->loop, &l->ended);
	if (s->spec.timeout_s)
		ev_timer_start(host->loop, &l->life);
	if (s->spec.argv && s->spec.argv[0])
		entry_start(s);
	sandbox_touch(s);
}

struct sandbox *
sandbox_new(struct sandbox_host *host, const char *id, const char *task_id,
	    struct sandbox_spec spec)
{
	struct sandbox *s = mem_new(sizeof *s);

	s->host = host;
	s->id = text_copy(id);
	s->task_id = text_copy(task_id);
	s->spec = spec;
	s->created_at = now_s();
	s->dir = text_format("%s/sandboxes/%s", host->state_dir, id);
	s->next = host->sandboxes;
	if (s->next)
		s->next->prev = s;
	host->sandboxes = s;
	sandbox_launch(s);
	return s;
}

/* -- snapshots and mounts */

static int
work_copy(void *arg)
{
	struct copy_job *job = arg;

	return tree_copy(job->from, job->to);
}

static void
on_copied(void *arg, int result)
{
	struct copy_job *job = arg;

	job->sandbox->copies--;
	job->on_done(job->arg, result);
	files_remove(job->sandbox);
	free(job->from);
	free(job->to);
	free(job);
}

static void
copy_start(struct sandbox *s, bool of_sandbox, char *from, const char *to,
	   void (*on_done)(void *arg, int result), void *arg)
{
	struct copy_job *job = mem_new(sizeof *job);

	*job = (struct copy_job){ NULL, s, from, text_copy(to), on_done, arg };
	s->copies++;
	if (s->started || !of_sandbox) {
		worker_start(s->host->loop, work_copy, on_copied, job);
		return;
	}
	job->next = s->link->waiting;
	s->link->waiting = job;
}

/* The sandbox has started, or is over. */
static void
copies_release(struct sandbox *s, bool start)
{
	struct copy_job *job;

	while ((job = s->link->waiting)) {
		s->link->waiting = job->next;
		if (start)
			worker_start(s->host->loop, work_copy, on_copied, job);
		else
			on_copied(job, -EPIPE);
	}
}

static struct mounted *
mounted_find(const struct sandbox *s, const char *path)
{
	for (struct mounted *m = s->link->mounted; m; m = m->next) {
		if (m->visible && text_is(m->path, path))
			return m;
	}
	return NULL;
}

bool
sandbox_has_mount(const struct sandbox *s, const char *path)
{
	return mounted_find(s, path) != NULL;
}

void
sandbox_snapshot(struct sandbox *s, const char *path, const char *to,
		 void (*on_done)(void *arg, int result), void *arg)
{
	struct mounted *m = path ? mounted_find(s, path) : NULL;

	if (path && !m) {
		on_done(arg, -ENOENT);
		return;
	}
	copy_start(s, true,
		   m ? text_format("%s/mounts/%u", s->dir, m->number) :
		       text_format("%s/root", s->dir),
		   to, on_done, arg);
}

static void
request_send(struct sandbox *s, uint32_t type, struct bytes *body, const int *fd,
	     void (*on_done)(void *arg, int result), void *arg)
{
	struct request *q = mem_new(sizeof *q);
	int r;

	*q = (struct request){ s->link->requests, ++s->number, on_done, arg };
	s->link->requests = q;
	r = sandbox_send(s, type, q->id, bytes_front(body), body->len, fd, fd ? 1 : 0);
	bytes_free(body);
	if (r < 0)
		request_done(s, q->id, r);
}

struct mount_job {
	struct sandbox *sandbox;
	struct mounted *mounted;
	void (*on_done)(void *arg, int result);
	void *arg;
};

static void
on_mounted(void *arg, int result)
{
	struct mount_job *job = arg;

	job->mounted->visible = result == 0;
	job->on_done(job->arg, result);
	free(job);
}

static void
on_mount_copied(void *arg, int result)
{
	struct mount_job *job = arg;
	struct bytes body = { 0 };
	char *source = text_format("/__modal/mounts/%u", job->mounted->number);

	if (result < 0) {
		on_mounted(job, result);
	} else {
		bytes_append_text(&body, source);
		bytes_append_text(&body, job->mounted->path);
		request_send(job->sandbox, INIT_MOUNT, &body, NULL, on_mounted, job);
	}
	free(source);
}

void
sandbox_mount(struct sandbox *s, const char *path, const char *source,
	      void (*on_done)(void *arg, int result), void *arg)
{
	struct mount_job *job = mem_new(sizeof *job);
	struct mounted *m = mem_new(sizeof *m);
	char *to;

	m->path = text_copy(path);
	m->number = ++s->number;
	m->next = s->link->mounted;
	s->link->mounted = m;
	*job = (struct mount_job){ s, m, on_done, arg };
	to = text_format("%s/mounts/%u", s->dir, m->number);
	if (source)
		copy_start(s, false, text_copy(source), to, on_mount_copied, job);
	else
		on_mount_copied(job, mkdir(to, 0755) < 0 ? -errno : 0);
	free(to);
}

static void
on_unmounted(void *arg, int result)
{
	struct mount_job *job = arg;

	if (result == 0)
		job->mounted->visible = false;
	job->on_done(job->arg, result);
	free(job);
}

void
sandbox_unmount(struct sandbox *s, const char *path, void (*on_done)(void *arg, int result),
		void *arg)
{
	struct mounted *m = mounted_find(s, path);
	struct mount_job *job;
	struct bytes body = { 0 };

	if (!m) {
		on_done(arg, -ENOENT);
		return;
	}
	job = mem_new(sizeof *job);
	*job = (struct mount_job){ s, m, on_done, arg };
	bytes_append_text(&body, path);
	request_send(s, INIT_UNMOUNT, &body, NULL, on_unmounted, job);
}

void
sandbox_set_network(struct sandbox *s, bool open_network, void (*on_done)(void *arg, int result),
		    void *arg)
{
	struct bytes body = { 0 };
	cleanup_close int fd = open_network ? open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC) : -1;

	bytes_append_u32(&body, open_network);
	request_send(s, INIT_NETWORK, &body, fd >= 0 ? &fd : NULL, on_done, arg);
}

/* -- the end of the server */

void
sandbox_host_close(struct sandbox_host *host)
{
	bool running = true;

	for (struct sandbox *s = host->sandboxes; s; s = s->next)
		sandbox_end(s, SANDBOX_TERMINATED, TERMINATED_EXIT_CODE, NULL);
	for (int waited_ms = 0; running && waited_ms < CLOSE_WAIT_MS; waited_ms += 10) {
		running = false;
		for (struct sandbox *s = host->sandboxes; s; s = s->next) {
			if (s->link->pid > 0 && waitpid(s->link->pid, NULL, WNOHANG) != 0)
				s->link->pid = 0;
			running = running || s->link->pid > 0;
			if (s->link->pid > 0 && waited_ms >= (int)(kill_after_s * 1000))
				kill(s->link->pid, SIGKILL);
		}
		if (running)
			usleep(10000);
	}
	while (host->sandboxes) {
		requests_fail(host->sandboxes);
		copies_release(host->sandboxes, false);
		execs_drop(host->sandboxes);
		link_close(host->sandboxes);
		sandbox_free(host->sandboxes);
	}
}
