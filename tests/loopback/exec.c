#include "tests/loopback/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/feed.h"
#include "tests/loopback/init.h"
#include "tests/loopback/outlog.h"
#include "tests/loopback/sandbox.h"

enum {
	PIPE_LEN = 1024 * 1024,
	EXECS_KEPT_MAX = 4096, /* ended ones, per sandbox; many at once may wait for their waits */
	LOGS_KEPT_LEN_MAX = 256 * 1024 * 1024 /* of ended execs, per sandbox */
};

/* -- watching */

void
exec_watch(struct exec *x, struct exec_watch *w)
{
	w->exec = x;
	w->round = x->round;
	w->prev = NULL;
	w->next = x->watches;
	if (w->next)
		w->next->prev = w;
	x->watches = w;
}

void
exec_unwatch(struct exec_watch *w)
{
	if (!w->exec)
		return;
	if (w->next)
		w->next->prev = w->prev;
	if (w->prev)
		w->prev->next = w->next;
	else
		w->exec->watches = w->next;
	w->exec = NULL;
}

/* Oldest first: calls are answered in the order in which they came.  A watcher may unwatch itself
 * and others, so the search starts anew after each. */
static void
exec_tell(struct exec *x)
{
	uint32_t round = ++x->round;
	struct exec_watch *next;

	do {
		next = NULL;
		for (struct exec_watch *w = x->watches; w; w = w->next) {
			if (w->round != round)
				next = w;
		}
		if (next) {
			next->round = round;
			next->on_change(next);
		}
	} while (next);
}

/* -- starting */

static void
append_strings(struct bytes *b, char *const *strings)
{
	uint32_t count = 0;

	while (strings[count])
		count++;
	bytes_append_u32(b, count);
	for (uint32_t i = 0; i < count; i++)
		bytes_append_text(b, strings[i]);
}

/* Makes the pipe of descriptor i; ours in x->fds[i], which does not block, theirs in their[i]. */
static int
pipe_make(struct exec *x, int i, int *their)
{
	int ends[2], mine = i == 0 ? 1 : 0;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	fcntl(ends[0], F_SETPIPE_SZ, PIPE_LEN); /* fails for users over their quota: smaller */
	fd_set_nonblock(ends[mine]);
	x->fds[i] = ends[mine];
	their[i] = ends[!mine];
	return 0;
}

static int
stdio_make(struct exec *x, const struct exec_spec *spec, int *their)
{
	int r = pipe_make(x, 0, their);

	for (int i = 1; i < 3 && r == 0; i++) {
		if (!spec->discard_out[i - 1])
			r = pipe_make(x, i, their);
		else if ((their[i] = open("/dev/null", O_WRONLY | O_CLOEXEC)) < 0)
			r = -errno;
	}
	return r;
}

static int
start_send(struct exec *x, const struct exec_spec *spec, const int *their)
{
	struct bytes body = { 0 };
	int r;

	bytes_append_u32(&body, spec->rows);
	bytes_append_u32(&body, spec->columns);
	bytes_append_text(&body, spec->workdir);
	append_strings(&body, spec->argv);
	append_strings(&body, spec->env);
	r = sandbox_send(x->sandbox, INIT_START, x->number, bytes_front(&body), body.len, their,
			 x->terminal ? 0 : 3);
	bytes_free(&body);
	return r;
}

static void
on_timeout(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct exec *x = timer->data;

	(void)loop;
	(void)events;
	sandbox_send(x->sandbox, INIT_KILL, x->number, NULL, 0, NULL, 0);
}

static void
on_start_delay(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct exec *x = timer->data;

	(void)loop;
	(void)events;
	x->state = x->start_errno ? EXEC_FAILED : EXEC_RUNNING;
	exec_tell(x);
}

/* The oldest ended execs make room; one that a call still uses stays. */
static void
execs_retire(struct sandbox *s)
{
	size_t kept_len = 0, kept = 0;

	for (struct exec **at = &s->execs, *x; (x = *at);) {
		bool unused = x->state == EXEC_ENDED && !x->watches && x != s->entry &&
			      outlog_has_ended(x->out[0]) && outlog_has_ended(x->out[1]);

		if (unused && (kept >= EXECS_KEPT_MAX || kept_len >= LOGS_KEPT_LEN_MAX)) {
			*at = x->next;
			exec_free(x);
			continue;
		}
		if (unused) {
			kept++;
			kept_len += outlog_kept(x->out[0]) + outlog_kept(x->out[1]);
		}
		at = &x->next;
	}
}

static struct exec *
exec_new(struct sandbox *s, const struct exec_spec *spec)
{
	struct exec *x = mem_new(sizeof *x);

	x->sandbox = s;
	x->id = text_copy(spec->id);
	x->number = ++s->number;
	x->is_internal = spec->is_internal;
	x->terminal = spec->rows || spec->columns;
	x->fds[0] = x->fds[1] = x->fds[2] = -1;
	ev_timer_init(&x->timeout, on_timeout, spec->timeout_s, 0.);
	ev_timer_init(&x->start_delay, on_start_delay, s->host->start_delay_ms / 1000., 0.);
	x->timeout.data = x->start_delay.data = x;
	return x;
}

int
exec_start(struct sandbox *s, const struct exec_spec *spec, struct exec **ret)
{
	struct exec *x;
	int their[3] = { -1, -1, -1 };
	int r = 0;

	execs_retire(s);
	x = exec_new(s, spec);
	if (!x->terminal)
		r = stdio_make(x, spec, their);
	if (r == 0)
		r = start_send(x, spec, their);
	for (int i = 0; i < 3; i++)
		fd_close(&their[i]);
	if (r < 0) {
		exec_free(x);
		return r;
	}
	x->next = s->execs;
	s->execs = x;
	if (spec->timeout_s)
		ev_timer_start(s->host->loop, &x->timeout);
	if (!x->is_internal)
		sandbox_touch(s);
	*ret = x;
	return 0;
}

struct exec *
exec_find(const struct sandbox *s, const char *id)
{
	for (struct exec *x = s->execs; x; x = x->next) {
		if (x != s->entry && !x->is_internal && text_is(x->id, id))
			return x;
	}
	return NULL;
}

bool
exec_is_active(const struct exec *x)
{
	return x != x->sandbox->entry && !x->is_internal &&
	       (x->state == EXEC_STARTING || x->state == EXEC_RUNNING);
}

/* -- what process 1 says */

static void
terminal_adopt(struct exec *x, int fd)
{
	fd_set_nonblock(fd);
	x->fds[0] = fd;
	x->fds[1] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

void
exec_started(struct exec *x, int error, int terminal_fd)
{
	struct ev_loop *loop = x->sandbox->host->loop;

	if (terminal_fd >= 0)
		terminal_adopt(x, terminal_fd);
	if (error)
		for (int i = 0; i < 3; i++)
			fd_close(&x->fds[i]);
	x->in = feed_new(loop, fd_steal(&x->fds[0]), x->terminal);
	x->out[0] = outlog_new(loop, fd_steal(&x->fds[1]));
	x->out[1] = outlog_new(loop, fd_steal(&x->fds[2]));
	x->start_errno = error;
	if (error)
		ev_timer_stop(loop, &x->timeout);
	if (x->sandbox->host->start_delay_ms > 0)
		ev_timer_start(loop, &x->start_delay);
	else
		on_start_delay(loop, &x->start_delay, 0);
	if (!x->is_internal)
		sandbox_touch(x->sandbox);
}

void
exec_ended(struct exec *x, int wait_status)
{
	struct ev_loop *loop = x->sandbox->host->loop;

	ev_timer_stop(loop, &x->timeout);
	ev_timer_stop(loop, &x->start_delay);
	x->state = EXEC_ENDED;
	x->wait_status = wait_status;
	/* The pipe stays: a child of the command may still read it. */
	exec_tell(x);
	if (!x->is_internal)
		sandbox_touch(x->sandbox);
}

void
exec_lose(struct exec *x)
{
	x->lost = true;
	ev_timer_stop(x->sandbox->host->loop, &x->timeout);
	ev_timer_stop(x->sandbox->host->loop, &x->start_delay);
	exec_tell(x);
}

void
exec_free(struct exec *x)
{
	ev_timer_stop(x->sandbox->host->loop, &x->timeout);
	ev_timer_stop(x->sandbox->host->loop, &x->start_delay);
	feed_free(x->in);
	outlog_free(x->out[0]);
	outlog_free(x->out[1]);
	for (int i = 0; i < 3; i++)
		fd_close(&x->fds[i]);
	free(x->id);
	free(x);
}
