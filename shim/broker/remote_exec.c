#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim/base/clock.h"
#include "shim/broker/grpc.h"
#include "shim/broker/log.h"
#include "shim/broker/sandbox_exec.h"

/* Sent stdin that is kept for a broken stream.  The router confirms nothing while a stream
 * lasts, so this bounds what a break may have swallowed on its way. */
#define RETAINED_LEN (1024u * 1024)
/* One TaskExecStdinWrite, where the router has no streams. */
#define WRITE_LEN_MAX	(256u * 1024)
#define RESUMES_MAX	9u
#define STDERR_TAIL_LEN 1024u
/* How long output may still come after the process has ended: a child of it may hold the pipe
 * for ever. */
#define DRAIN_WAIT_MS  2000
#define SUSPECT_FAULTS 5u
/* A stream whose token is refused sooner than this after it was replaced is given up. */
#define TOKEN_LIFE_MS_MIN 500
/* Streams of stdin that came to nothing before single writes are tried: curl may lose the
 * UNIMPLEMENTED that a router sends in the middle of an upload. */
#define FRUITLESS_MAX 2u

enum part_kind { PART_START, PART_OUT, PART_FEED, PART_ERR, PART_WAIT, PART_COUNT };

/* One of the calls that make up an exec, begun again as often as needed. */
struct part {
	struct remote_exec *exec;
	struct modal_call *call;
	ev_timer pause;
	unsigned faults; /* in a row */
	bool optimistic; /* the call was made before the start was confirmed */
	bool early;	 /* and came too early: is made again when the start is confirmed */
	int64_t authenticated_ms; /* when a new token was last waited for; 0 = never */
	bool over;
};

struct remote_exec {
	struct sandbox *sandbox; /* NULL: it is gone or was freed */
	struct remote_exec *next;
	struct ev_loop *loop;
	const struct remote_exec_events *events;
	void *arg;
	char exec_id[MODAL_UUID_LEN];
	struct part parts[PART_COUNT];
	bool started;
	bool failed; /* *failure holds why; waits for what the sandbox' check says */
	bool ended;
	int exit_code;
	struct err failure;
	ev_timer drain;

	uint64_t out_offset, err_offset;
	char tail[STDERR_TAIL_LEN + 1];
	size_t tail_len;

	uint8_t *retained; /* the last RETAINED_LEN bytes of stdin that were sent, at offset modulo
			      that */
	uint64_t feed_taken; /* bytes that want() has given */
	uint64_t feed_at;    /* bytes that went into the current stream, counted from the start of
				stdin */
	uint64_t feed_confirmed; /* bytes that the router has said to have */
	size_t write_len;	 /* of the TaskExecStdinWrite on its way */
	unsigned resumes;
	bool write_eof;
	bool close_wanted;
};

static const struct grpc_retry stream_retry = { 10, 10, 10240 };
static const struct grpc_retry wait_retry = { 0, 10, 1000 };

static void part_begin(struct part *part);

/* ---- ends ---- */

static void
part_end(struct part *part)
{
	ev_timer_stop(part->exec->loop, &part->pause);
	modal_call_free(part->call);
	part->call = NULL;
	part->early = false;
}

static void
exec_cut(struct remote_exec *exec)
{
	ev_timer_stop(exec->loop, &exec->drain);
	for (int i = 0; i < PART_COUNT; i++)
		part_end(&exec->parts[i]);
}

/* The last thing that is done with an exec: its owner may free it. */
static void
exec_report(struct remote_exec *exec)
{
	exec_cut(exec);
	exec->ended = true;
	if (exec->failed)
		exec->events->ended(exec->arg, -1, &exec->failure);
	else
		exec->events->ended(exec->arg, exec->exit_code, NULL);
}

/* Nothing more can be had from it.  Whether that is because of the sandbox is asked before it is
 * reported. */
static void
exec_fail(struct remote_exec *exec, const struct err *err)
{
	exec_cut(exec);
	exec->failed = true;
	exec->failure = *err;
	sandbox_suspect(exec->sandbox);
}

static void
exec_fail_text(struct remote_exec *exec, int errno_value, const char *text)
{
	struct err err;

	err_set(&err, errno_value, "%s", text);
	exec_fail(exec, &err);
}

static void
exec_check_over(struct remote_exec *exec)
{
	const struct part *parts = exec->parts;

	if (!parts[PART_WAIT].over)
		return;
	if (parts[PART_OUT].over && parts[PART_ERR].over) {
		exec_report(exec);
		return;
	}
	if (ev_is_active(&exec->drain))
		return;
	ev_now_update(exec->loop);
	ev_timer_set(&exec->drain, DRAIN_WAIT_MS / 1000., 0.);
	ev_timer_start(exec->loop, &exec->drain);
}

static void
on_drained(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	exec_report(timer->data);
}

/* ---- faults of a part ---- */

static void
on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	part_begin(timer->data);
}

static void
part_pause(struct part *part, int64_t pause_ms)
{
	ev_now_update(part->exec->loop);
	ev_timer_set(&part->pause, (double)pause_ms / 1000., 0.);
	ev_timer_start(part->exec->loop, &part->pause);
}

/* A call that was made before the start was confirmed may not have found the exec.  It is made
 * again, at once when the confirmation has overtaken its answer. */
static bool
part_too_early(struct part *part, const struct modal_reply *reply)
{
	if (reply->code != GRPC_NOT_FOUND || !part->optimistic)
		return false;
	part->early = true;
	if (part->exec->started)
		part_pause(part, 0);
	return true;
}

/* Begins the part again, at once or after a pause; false when that would not help. */
static bool
part_retry(struct part *part, const struct modal_reply *reply, const struct grpc_retry *retry)
{
	int64_t now_ms = clock_now_ms();

	if (reply->code == GRPC_UNAUTHENTICATED &&
	    now_ms - part->authenticated_ms > TOKEN_LIFE_MS_MIN) {
		part->authenticated_ms = now_ms;
		part_begin(part);
		return true;
	}
	if (!reply->transient || (retry->count_max > 0 && part->faults >= retry->count_max))
		return false;
	log_debug("exec %s: %s", part->exec->exec_id, reply->err->text);
	part->faults++;
	part_pause(part, grpc_retry_pause_ms(retry, part->faults));
	if (part->faults % SUSPECT_FAULTS == 0)
		sandbox_suspect(part->exec->sandbox);
	return true;
}

static void
part_flows(struct part *part)
{
	part->faults = 0;
	part->authenticated_ms = 0;
}

static struct part *
part_release(void *arg)
{
	struct part *part = arg;

	modal_call_free(part->call);
	part->call = NULL;
	return part;
}

/* ---- start ---- */

static void
on_started(void *arg, const struct modal_reply *reply)
{
	struct part *part = part_release(arg);
	struct remote_exec *exec = part->exec;

	if (reply->code != GRPC_OK) {
		exec_fail(exec, reply->err);
		return;
	}
	part->over = exec->started = true;
	remote_exec_wake(exec);
	for (int i = PART_OUT; i < PART_COUNT && !exec->failed; i++) {
		struct part *other = &exec->parts[i];
		bool waiting = other->early || !sandbox_pipelined_start(exec->sandbox);

		if (!waiting || other->over || other->call != NULL || ev_is_active(&other->pause))
			continue;
		part_begin(other);
	}
}

/* ---- output ---- */

static void
on_stdout(void *arg, const uint8_t *bytes, size_t len)
{
	struct part *part = arg;
	struct remote_exec *exec = part->exec;

	part_flows(part);
	exec->out_offset += len;
	exec->events->data(exec->arg, bytes, len);
}

static void
on_stderr(void *arg, const uint8_t *bytes, size_t len)
{
	struct part *part = arg;
	struct remote_exec *exec = part->exec;

	part_flows(part);
	exec->err_offset += len;
	for (; len > 0; bytes++, len--) {
		char c = (char)*bytes;

		if (exec->tail_len == STDERR_TAIL_LEN) {
			memmove(exec->tail, exec->tail + STDERR_TAIL_LEN / 2, STDERR_TAIL_LEN / 2);
			exec->tail_len = STDERR_TAIL_LEN / 2;
		}
		exec->tail[exec->tail_len++] = c >= 0x20 && c < 0x7f ? c : ' ';
	}
	exec->tail[exec->tail_len] = '\0';
}

static void
on_output_done(void *arg, const struct modal_reply *reply)
{
	struct part *part = part_release(arg);

	if (reply->code == GRPC_OK) {
		part->over = true;
		exec_check_over(part->exec);
	} else if (!part_too_early(part, reply) && !part_retry(part, reply, &stream_retry)) {
		exec_fail(part->exec, reply->err);
	}
}

/* ---- exit code ---- */

static void
on_waited(void *arg, const struct modal_reply *reply)
{
	struct part *part = part_release(arg);

	if (reply->code == GRPC_OK) {
		part->exec->exit_code = reply->exit_code;
		part->over = true;
		exec_check_over(part->exec);
	} else if (reply->code == GRPC_DEADLINE_EXCEEDED) {
		part_begin(part);
	} else if (!part_too_early(part, reply) && !part_retry(part, reply, &wait_retry)) {
		exec_fail(part->exec, reply->err);
	}
}

/* ---- input ---- */

static void
retained_put(struct remote_exec *exec, const uint8_t *bytes, size_t len)
{
	while (len > 0) {
		size_t at = exec->feed_taken % RETAINED_LEN, part_len = RETAINED_LEN - at;

		if (part_len > len)
			part_len = len;
		memcpy(exec->retained + at, bytes, part_len);
		exec->feed_taken += part_len;
		bytes += part_len;
		len -= part_len;
	}
}

static size_t
retained_get(const struct remote_exec *exec, uint8_t *bytes, size_t len)
{
	size_t at = exec->feed_at % RETAINED_LEN;

	if (len > exec->feed_taken - exec->feed_at)
		len = (size_t)(exec->feed_taken - exec->feed_at);
	if (len > RETAINED_LEN - at)
		len = RETAINED_LEN - at;
	memcpy(bytes, exec->retained + at, len);
	return len;
}

/* What was sent before and must be sent again comes first.  Until the exec has started all of it
 * may have to be. */
static size_t
on_want(void *arg, uint8_t *bytes, size_t len)
{
	struct part *part = arg;
	struct remote_exec *exec = part->exec;
	size_t taken;

	if (!exec->started && len > RETAINED_LEN - exec->feed_taken)
		len = (size_t)(RETAINED_LEN - exec->feed_taken);
	if (exec->feed_at < exec->feed_taken) {
		taken = retained_get(exec, bytes, len);
	} else {
		taken = len == 0 ? 0 : exec->events->want(exec->arg, bytes, len);
		retained_put(exec, bytes, taken);
	}
	exec->feed_at += taken;
	return taken == 0 && len > 0 && exec->close_wanted ? MODAL_FEED_END : taken;
}

/* The next stream begins at offset. */
static bool
feed_rewind(struct remote_exec *exec, uint64_t offset)
{
	uint64_t kept = exec->feed_taken < RETAINED_LEN ? exec->feed_taken : RETAINED_LEN;

	if (offset > exec->feed_taken || offset < exec->feed_taken - kept)
		return false;
	if (offset > exec->feed_confirmed)
		exec->resumes = 0;
	exec->feed_confirmed = exec->feed_at = offset;
	return true;
}

/* Nothing of what was sent has been taken.  False when the exec has failed of it. */
static bool
feed_restart(struct remote_exec *exec)
{
	if (feed_rewind(exec, exec->feed_confirmed))
		return true;
	exec_fail_text(exec, EIO, "more stdin was sent ahead of the exec's start than is kept");
	return false;
}

static void
on_fed(void *arg, const struct modal_reply *reply)
{
	struct part *part = part_release(arg);
	struct remote_exec *exec = part->exec;

	if (part_too_early(part, reply)) {
		feed_restart(exec);
	} else if (reply->code == GRPC_FAILED_PRECONDITION ||
		   (reply->code == GRPC_OK && reply->stdin_closed)) {
		part->over = true;
	} else if (reply->code != GRPC_OK) {
		exec_fail(exec, reply->err);
	} else if (!feed_rewind(exec, reply->stdin_len)) {
		if (reply->stdin_len == 0)
			*sandbox_unary_stdin(exec->sandbox) = true;
		exec_fail_text(exec, EIO,
			       "more of the exec's stdin was lost with a connection than is kept");
	} else {
		if (exec->resumes > FRUITLESS_MAX)
			*sandbox_unary_stdin(exec->sandbox) = true;
		part_begin(part);
	}
}

/* Asks how much has arrived before going on.  A stream that ends at once again and again is
 * given up. */
static void
feed_resume(struct part *part, const struct modal_reply *reply)
{
	struct remote_exec *exec = part->exec;

	if (exec->resumes++ == RESUMES_MAX) {
		exec_fail(exec, reply->err);
		return;
	}
	log_debug("exec %s: stdin: %s", exec->exec_id, reply->err->text);
	part->call = modal_exec_fed(sandbox_router(exec->sandbox), exec->exec_id, on_fed, part);
	if (part->call == NULL)
		exec_fail_text(exec, ENOMEM, "no memory for a request");
}

static void
on_feed_done(void *arg, const struct modal_reply *reply)
{
	struct part *part = part_release(arg);
	struct remote_exec *exec = part->exec;

	if (part_too_early(part, reply)) {
		feed_restart(exec);
		return;
	}
	if (reply->code == GRPC_OK || reply->code == GRPC_FAILED_PRECONDITION) {
		/* Closed by us, or by the process: as with a local pipe, its exit says the rest. */
		part->over = true;
	} else if (reply->code == GRPC_UNIMPLEMENTED) {
		*sandbox_unary_stdin(exec->sandbox) = true;
		if (feed_restart(exec))
			part_begin(part);
	} else if (reply->transient || reply->code == GRPC_UNAUTHENTICATED) {
		feed_resume(part, reply);
	} else {
		exec_fail(exec, reply->err);
	}
}

static void
on_written(void *arg, const struct modal_reply *reply)
{
	struct part *part = part_release(arg);
	struct remote_exec *exec = part->exec;

	if (part_too_early(part, reply)) {
		exec->feed_at -= exec->write_len;
	} else if (reply->code == GRPC_OK) {
		exec->feed_confirmed = exec->feed_at;
		part->over = exec->write_eof;
		part_begin(part);
	} else if (reply->code == GRPC_FAILED_PRECONDITION) {
		part->over = true;
	} else {
		exec_fail(exec, reply->err);
	}
}

/* One piece, when there is one. */
static struct modal_call *
write_begin(struct part *part, bool *ret_idle)
{
	struct remote_exec *exec = part->exec;
	uint8_t *bytes = malloc(WRITE_LEN_MAX);
	struct modal_call *call = NULL;
	size_t len;

	*ret_idle = false;
	if (bytes == NULL)
		return NULL;
	len = on_want(part, bytes, WRITE_LEN_MAX);
	exec->write_eof = len == MODAL_FEED_END;
	exec->write_len = exec->write_eof ? 0 : len;
	*ret_idle = len == 0;
	if (len > 0)
		call = modal_exec_write(sandbox_router(exec->sandbox), exec->exec_id,
					exec->feed_at - exec->write_len,
					(struct view){ bytes, exec->write_len }, exec->write_eof,
					on_written, part);
	free(bytes);
	return call;
}

static struct modal_call *
feed_begin(struct part *part, bool *ret_idle)
{
	struct remote_exec *exec = part->exec;

	if (*sandbox_unary_stdin(exec->sandbox))
		return write_begin(part, ret_idle);
	return modal_exec_feed(sandbox_router(exec->sandbox), exec->exec_id, exec->feed_at, on_want,
			       on_feed_done, part);
}

/* ---- parts ---- */

static void
part_begin(struct part *part)
{
	struct remote_exec *exec = part->exec;
	struct modal_router *router = sandbox_router(exec->sandbox);
	bool idle = false;

	/* want() may have woken the part while its call was being made */
	if (part->over || part->call != NULL || router == NULL)
		return;
	part->optimistic = !exec->started;
	part->early = false;
	switch ((enum part_kind)(part - exec->parts)) {
	case PART_OUT:
		part->call = modal_exec_read(router, exec->exec_id, 0, exec->out_offset, on_stdout,
					     on_output_done, part);
		break;
	case PART_ERR:
		part->call = modal_exec_read(router, exec->exec_id, 1, exec->err_offset, on_stderr,
					     on_output_done, part);
		break;
	case PART_FEED:
		part->call = feed_begin(part, &idle);
		break;
	case PART_WAIT:
		part->call = modal_exec_wait(router, exec->exec_id, on_waited, part);
		break;
	case PART_START:
	case PART_COUNT:
		break;
	}
	if (part->call == NULL && !idle)
		exec_fail_text(exec, ENOMEM, "no memory for a request");
}

/* ---- what the sandbox says ---- */

void
exec_list_checked(struct exec_list *list)
{
	struct remote_exec *exec = list->head;

	while (exec != NULL) {
		if (!exec->failed || exec->ended) {
			exec = exec->next;
			continue;
		}
		exec_report(exec);
		/* It may have been freed, and others with it. */
		exec = list->head;
	}
}

void
exec_list_cut(struct exec_list *list, const char *reason)
{
	for (struct remote_exec *exec = list->head; exec != NULL; exec = exec->next) {
		if (exec->ended)
			continue;
		exec_cut(exec);
		exec->failed = true;
		err_set(&exec->failure, ENOENT, "the sandbox is gone: %s", reason);
	}
}

void
exec_list_end(struct exec_list *list)
{
	exec_list_checked(list);
	exec_list_orphan(list);
}

void
exec_list_orphan(struct exec_list *list)
{
	while (list->head != NULL) {
		struct remote_exec *exec = list->head;

		list->head = exec->next;
		exec_cut(exec);
		exec->sandbox = NULL;
	}
}

/* ---- the object ---- */

static struct remote_exec *
exec_new(struct sandbox *sandbox, const struct remote_exec_events *events, void *arg)
{
	struct remote_exec *exec = calloc(1, sizeof *exec);

	if (exec == NULL)
		return NULL;
	exec->retained = malloc(RETAINED_LEN);
	if (exec->retained == NULL) {
		free(exec);
		return NULL;
	}
	exec->sandbox = sandbox;
	exec->loop = sandbox_loop(sandbox);
	exec->events = events;
	exec->arg = arg;
	exec->exit_code = -1;
	modal_uuid_make(exec->exec_id);
	ev_init(&exec->drain, on_drained);
	exec->drain.data = exec;
	for (int i = 0; i < PART_COUNT; i++) {
		exec->parts[i].exec = exec;
		ev_init(&exec->parts[i].pause, on_pause_over);
		exec->parts[i].pause.data = &exec->parts[i];
	}
	exec->next = sandbox_execs(sandbox)->head;
	sandbox_execs(sandbox)->head = exec;
	return exec;
}

/* Requests leave in the order in which they are made: the start goes first, for a router that
 * serves them in order. */
static int
exec_begin(struct remote_exec *exec, const char *const *argv)
{
	struct part *start = &exec->parts[PART_START];

	start->call = modal_exec_start(sandbox_router(exec->sandbox), exec->exec_id, argv,
				       on_started, start);
	if (start->call == NULL)
		return -ENOMEM;
	for (int i = PART_OUT; i < PART_COUNT && sandbox_pipelined_start(exec->sandbox); i++)
		part_begin(&exec->parts[i]);
	return 0;
}

static size_t
argv_len(const char *const *argv)
{
	size_t len = 0;

	for (; *argv != NULL; argv++)
		len += strlen(*argv);
	return len;
}

int
remote_exec_start(struct sandbox *sandbox, const char *const *argv,
		  const struct remote_exec_events *events, void *arg, struct remote_exec **ret,
		  struct err *err)
{
	struct remote_exec *exec;

	if (sandbox_router(sandbox) == NULL)
		return err_set(err, EAGAIN, "the sandbox is not ready");
	if (argv[0] == NULL || argv_len(argv) > MODAL_ARGV_LEN_MAX)
		return err_set(err, E2BIG,
			       "an exec in the sandbox takes at most %u bytes of arguments",
			       MODAL_ARGV_LEN_MAX);
	exec = exec_new(sandbox, events, arg);
	if (exec == NULL || exec_begin(exec, argv) < 0) {
		remote_exec_free(exec);
		return err_set(err, ENOMEM, "no memory for an exec");
	}
	*ret = exec;
	return 0;
}

void
remote_exec_wake(struct remote_exec *exec)
{
	struct part *feed = &exec->parts[PART_FEED];
	bool unary;

	if (feed->over || exec->ended || exec->failed || exec->sandbox == NULL)
		return;
	unary = *sandbox_unary_stdin(exec->sandbox);
	if (!unary && feed->call != NULL)
		modal_exec_feed_wake(feed->call);
	else if (unary && feed->call == NULL && !feed->early && !ev_is_active(&feed->pause))
		part_pause(feed, 0);
}

void
remote_exec_close_stdin(struct remote_exec *exec)
{
	exec->close_wanted = true;
	remote_exec_wake(exec);
}

const char *
remote_exec_stderr(const struct remote_exec *exec)
{
	return exec->tail;
}

static void
list_remove(struct remote_exec *exec)
{
	struct remote_exec **at;

	if (exec->sandbox == NULL)
		return;
	for (at = &sandbox_execs(exec->sandbox)->head; *at != exec; at = &(*at)->next)
		;
	*at = exec->next;
}

void
remote_exec_free(struct remote_exec *exec)
{
	if (exec == NULL)
		return;
	exec_cut(exec);
	list_remove(exec);
	free(exec->retained);
	free(exec);
}
