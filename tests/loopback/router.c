/* router.c -- the worker's side of Modal's API: commands. */
#include "tests/loopback/router.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "proto/modal_router.pb-c.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/convert.h"
#include "tests/loopback/feed.h"
#include "tests/loopback/outlog.h"
#include "tests/loopback/world.h"

enum {
	ARGV_LEN_MAX = 131072, /* where Modal's router begins to refuse */
	BEARER_LEN = 7,
	DATA_FIELD = (2 << 3) | 2 /* TaskExecStdinWriteStreamRequest.data */
};

/* One call about one exec.  It lives until the call is over. */
struct exec_call {
	struct call *c;
	struct exec *x;
	struct exec_watch watch;
	/* Called when the exec has started, and again whenever its state changes. */
	void (*go)(struct exec_call *e);
	bool is_start, begun;
	uint64_t offset; /* where to read or write */
	int fd;		 /* 0 stdout, 1 stderr */
	struct outlog_reader reader;
	struct feed_write write;
	Modal__TaskCommandRouter__TaskExecStdinWriteRequest *stdin_write;
};

/* -- who may call */

struct sandbox *
router_admit_any(struct call *c, const char *task_id)
{
	struct world *world = rpc_world(c);
	const char *header = rpc_header(c, "authorization");
	const char *token =
		header && strncmp(header, "Bearer ", BEARER_LEN) == 0 ? header + BEARER_LEN : NULL;
	double left_s = jwt_check(&world->jwt, token, "router", task_id ? task_id : "");
	struct sandbox *s;

	if (left_s < 0) {
		rpc_end(c, STATUS_UNAUTHENTICATED, "token is missing, expired or for another task");
		return NULL;
	}
	s = sandbox_find_task(&world->host, task_id);
	if (!s)
		rpc_end(c, STATUS_NOT_FOUND, "no task %s", task_id);
	else if (world->jwt_cut_streams)
		rpc_cut_off(c, left_s, STATUS_UNAUTHENTICATED, "token has expired");
	return s;
}

struct sandbox *
router_admit(struct call *c, const char *task_id)
{
	struct sandbox *s = router_admit_any(c, task_id);

	if (!s || sandbox_accepts(s))
		return s;
	rpc_end(c, STATUS_NOT_FOUND, "task %s has finished", task_id);
	return NULL;
}

/* -- calls about an exec */

static void
exec_call_over(struct call *c, void *state)
{
	struct exec_call *e = state;

	exec_unwatch(&e->watch);
	outlog_detach(&e->reader);
	if (e->x->in)
		feed_cancel(e->x->in, &e->write);
	if (e->x->stdin_stream == c)
		e->x->stdin_stream = NULL;
	if (e->stdin_write)
		modal__task_command_router__task_exec_stdin_write_request__free_unpacked(
			e->stdin_write, NULL);
	free(e);
}

static void
start_refused(struct exec_call *e)
{
	int error = e->x->start_errno;

	if (e->is_start)
		rpc_end(e->c, STATUS_INVALID_ARGUMENT, "cannot start the command: %s",
			strerror(error));
	else
		rpc_end(e->c, STATUS_NOT_FOUND, "exec %s was not started", e->x->id);
}

static void
on_exec_change(struct exec_watch *w)
{
	struct exec_call *e = w->arg;

	if (e->x->lost)
		rpc_abort(e->c, STATUS_NOT_FOUND, "task has finished");
	else if (e->x->state == EXEC_FAILED)
		start_refused(e);
	else if (e->x->state != EXEC_STARTING)
		e->go(e);
}

static struct exec_call *
exec_call_new(struct call *c, struct exec *x, void (*go)(struct exec_call *e))
{
	struct exec_call *e = mem_new(sizeof *e);

	e->c = c;
	e->x = x;
	e->go = go;
	e->watch.on_change = on_exec_change;
	e->watch.arg = e;
	rpc_set_state(c, e, exec_call_over);
	return e;
}

/* The caller fills in what go() needs, then calls exec_call_run().  NULL: the call has been ended.
 */
static struct exec_call *
exec_call_open(struct call *c, const char *task_id, const char *exec_id,
	       void (*go)(struct exec_call *e))
{
	struct world *world = rpc_world(c);
	struct sandbox *s = router_admit(c, task_id);
	struct exec *x;

	if (!s)
		return NULL;
	x = exec_find(s, exec_id);
	if (!x || (world->strict_order && x->state == EXEC_STARTING)) {
		rpc_end(c, STATUS_NOT_FOUND, "no exec %s in this task", exec_id ? exec_id : "");
		return NULL;
	}
	return exec_call_new(c, x, go);
}

static void
exec_call_run(struct exec_call *e)
{
	exec_watch(e->x, &e->watch);
	on_exec_change(&e->watch);
}

/* -- TaskExecStart */

static void
start_go(struct exec_call *e)
{
	Modal__TaskCommandRouter__TaskExecStartResponse response =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_START_RESPONSE__INIT;

	rpc_reply(e->c, &response.base);
}

static bool
start_is_valid(struct call *c, const Modal__TaskCommandRouter__TaskExecStartRequest *q)
{
	size_t len = 0;

	for (size_t i = 0; i < q->n_command_args; i++)
		len += strlen(q->command_args[i]) + 1;
	if (q->n_command_args == 0)
		rpc_end(c, STATUS_INVALID_ARGUMENT, "command_args is empty");
	else if (len > ARGV_LEN_MAX)
		rpc_end(c, STATUS_INVALID_ARGUMENT, "command_args are longer than %d bytes",
			ARGV_LEN_MAX);
	else if (text_empty(q->exec_id))
		rpc_end(c, STATUS_INVALID_ARGUMENT, "exec_id is empty");
	else if (!text_empty(q->workdir) && q->workdir[0] != '/')
		rpc_end(c, STATUS_INVALID_ARGUMENT, "workdir must be absolute");
	else if (
		q->stderr_config ==
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDERR_CONFIG__TASK_EXEC_STDERR_CONFIG_STDOUT)
		rpc_end(c, STATUS_INVALID_ARGUMENT, "stderr cannot be merged into stdout");
	else if (!text_empty(q->container_id))
		rpc_end(c, STATUS_NOT_FOUND, "no container %s", q->container_id);
	else
		return true;
	return false;
}

/* The sandbox's environment, then secrets, then plain values; a terminal's TERM last. */
static bool
start_env(struct call *c, const struct sandbox *s,
	  const Modal__TaskCommandRouter__TaskExecStartRequest *q, struct env *env)
{
	struct env base = { .list = s->spec.env };

	while (base.list[base.count])
		base.count++;
	env_add(env, &base);
	if (q->n_secret_sources > 0) {
		if (!convert_secret_sources(c, q->n_secret_sources, q->secret_sources, env))
			return false;
	} else {
		if (!convert_secret_ids(c, q->n_secret_ids, q->secret_ids, env))
			return false;
		convert_map(q->n_env, q->env, env);
	}
	if (q->pty_info)
		convert_terminal_env(q->pty_info, env);
	return true;
}

static void
start_new(struct call *c, struct sandbox *s,
	  const Modal__TaskCommandRouter__TaskExecStartRequest *q)
{
	struct env env = { 0 };
	char **argv = convert_strings(q->n_command_args, q->command_args);
	struct exec_spec spec = {
		.id = q->exec_id, .argv = argv,
		.workdir = text_empty(q->workdir) ? s->spec.workdir : q->workdir,
		.timeout_s = q->timeout_secs,
		.discard_out = {
			q->stdout_config == MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDOUT_CONFIG__TASK_EXEC_STDOUT_CONFIG_DEVNULL,
			q->stderr_config == MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDERR_CONFIG__TASK_EXEC_STDERR_CONFIG_DEVNULL,
		},
	};
	struct exec *x;
	int r = 0;

	if (q->pty_info)
		convert_terminal(q->pty_info, &spec.rows, &spec.columns);
	if (start_env(c, s, q, &env)) {
		spec.env = env.list;
		r = exec_start(s, &spec, &x);
		if (r < 0) {
			rpc_end(c, STATUS_INTERNAL, "cannot start the command: %s", strerror(-r));
		} else {
			struct exec_call *e = exec_call_new(c, x, start_go);

			e->is_start = true;
			exec_call_run(e);
		}
	}
	convert_strings_free(argv);
	env_free(&env);
}

/* A repeated start is answered like the first and starts nothing. */
static void
task_exec_start(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskExecStartRequest *q = request;
	struct sandbox *s = router_admit(c, q->task_id);
	struct exec *x;

	if (!s || !start_is_valid(c, q))
		return;
	x = exec_find(s, q->exec_id);
	if (x) {
		struct exec_call *e = exec_call_new(c, x, start_go);

		e->is_start = true;
		exec_call_run(e);
		return;
	}
	start_new(c, s, q);
}

/* -- TaskExecStdioRead */

static size_t
source_run(void *arg, const uint8_t **data)
{
	struct exec_call *e = arg;

	return outlog_run(&e->reader, data);
}

static void
source_advance(void *arg, size_t len)
{
	struct exec_call *e = arg;

	outlog_advance(&e->reader, len);
}

static bool
source_ended(void *arg)
{
	struct exec_call *e = arg;

	return outlog_at_end(&e->reader);
}

static const struct rpc_source log_source = {
	.run = source_run,
	.advance = source_advance,
	.ended = source_ended,
};

static void
on_log_more(struct outlog_reader *r)
{
	struct exec_call *e = r->arg;

	rpc_pump_more(e->c);
}

static void
on_log_lost(struct outlog_reader *r)
{
	struct exec_call *e = r->arg;

	rpc_abort(e->c, STATUS_DATA_LOSS, "output at this offset is no longer kept");
}

static void
read_go(struct exec_call *e)
{
	if (e->begun)
		return;
	e->begun = true;
	e->reader.on_more = on_log_more;
	e->reader.on_lost = on_log_lost;
	e->reader.arg = e;
	if (outlog_attach(e->x->out[e->fd], &e->reader, e->offset) < 0)
		rpc_end(e->c, STATUS_DATA_LOSS, "output at this offset is no longer kept");
	else
		rpc_pump(e->c, &log_source, e);
}

static void
task_exec_stdio_read(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskExecStdioReadRequest *q = request;
	struct exec_call *e = exec_call_open(c, q->task_id, q->exec_id, read_go);

	if (!e)
		return;
	e->offset = q->offset;
	e->fd = q->file_descriptor ==
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIO_FILE_DESCRIPTOR__TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDERR;
	exec_call_run(e);
}

/* -- TaskExecStdinWrite */

static void
write_failed(struct exec_call *e, int result)
{
	if (result == -ERANGE)
		rpc_end(e->c, STATUS_INVALID_ARGUMENT, "offset is beyond the %llu bytes written",
			(unsigned long long)feed_written(e->x->in));
	else
		rpc_end(e->c, STATUS_FAILED_PRECONDITION, "stdin is closed");
}

static void
on_write_done(struct feed_write *w, int result)
{
	Modal__TaskCommandRouter__TaskExecStdinWriteResponse response =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_RESPONSE__INIT;
	struct exec_call *e = w->arg;

	if (result < 0)
		write_failed(e, result);
	else
		rpc_reply(e->c, &response.base);
}

/* Answered when the process' pipe has taken all of it. */
static void
write_go(struct exec_call *e)
{
	if (e->begun)
		return;
	e->begun = true;
	e->write = (struct feed_write){
		.offset = e->stdin_write->offset,
		.data = e->stdin_write->data.data,
		.len = e->stdin_write->data.len,
		.eof = e->stdin_write->eof,
		.on_done = on_write_done,
		.arg = e,
	};
	feed_put(e->x->in, &e->write);
}

static void
task_exec_stdin_write(struct call *c, const void *request)
{
	Modal__TaskCommandRouter__TaskExecStdinWriteRequest *q;
	struct exec_call *e;
	const uint8_t *data;
	size_t len;

	(void)request;
	rpc_message(c, &data, &len);
	q = modal__task_command_router__task_exec_stdin_write_request__unpack(NULL, len, data);
	if (!q) {
		rpc_end(c, STATUS_INVALID_ARGUMENT, "malformed request");
		return;
	}
	e = exec_call_open(c, q->task_id, q->exec_id, write_go);
	if (!e) {
		modal__task_command_router__task_exec_stdin_write_request__free_unpacked(q, NULL);
		return;
	}
	e->stdin_write = q;
	exec_call_run(e);
}

/* -- TaskExecStdinWriteStream */

static void
stream_reply(struct call *c)
{
	Modal__TaskCommandRouter__TaskExecStdinWriteStreamResponse response =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_STREAM_RESPONSE__INIT;

	rpc_reply(c, &response.base);
}

static void
stream_evict(struct exec *x)
{
	if (x->stdin_stream)
		rpc_end(x->stdin_stream, STATUS_ABORTED, "another writer has taken over stdin");
}

static void
on_piece_written(struct feed_write *w, int result)
{
	struct exec_call *e = w->arg;

	if (result < 0) {
		write_failed(e, result);
	} else if (w->eof) {
		stream_reply(e->c);
	} else {
		e->offset += w->len;
		rpc_next(e->c);
	}
}

static void
stream_put(struct exec_call *e, const uint8_t *data, size_t len, bool eof)
{
	e->write = (struct feed_write){
		.offset = e->offset,
		.data = data,
		.len = len,
		.eof = eof,
		.on_done = on_piece_written,
		.arg = e,
	};
	feed_put(e->x->in, &e->write);
}

static void
stream_go(struct exec_call *e)
{
	if (e->begun)
		return;
	e->begun = true;
	stream_evict(e->x);
	e->x->stdin_stream = e->c;
	if (e->offset > feed_written(e->x->in))
		write_failed(e, -ERANGE);
	else
		rpc_next(e->c);
}

static void
stream_start(struct call *c, const Modal__TaskCommandRouter__TaskExecStdinWriteStreamStart *q)
{
	struct exec_call *e = exec_call_open(c, q->task_id, q->exec_id, stream_go);

	if (!e)
		return;
	e->offset = q->offset;
	rpc_on_half_close(c, stream_reply);
	exec_call_run(e);
}

/* The one message that is taken apart by hand: its bytes go to the pipe from where they were
 * received. */
static bool
stream_data(struct exec_call *e, const uint8_t *message, size_t len)
{
	size_t data_len = 0;
	int shift = 0;
	size_t at = 1;

	if (!e || len < 2 || message[0] != DATA_FIELD)
		return false;
	for (; at < len && shift < 35; shift += 7) {
		data_len |= (size_t)(message[at] & 0x7f) << shift;
		if (!(message[at++] & 0x80))
			break;
	}
	if (data_len != len - at)
		return false;
	stream_put(e, message + at, data_len, false);
	return true;
}

static void
stream_message(struct call *c, const Modal__TaskCommandRouter__TaskExecStdinWriteStreamRequest *q)
{
	struct exec_call *e = rpc_state(c);

	if (!e &&
	    q->payload_case ==
		    MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_STREAM_REQUEST__PAYLOAD_START)
		stream_start(c, q->start);
	else if (
		e &&
		q->payload_case ==
			MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_WRITE_STREAM_REQUEST__PAYLOAD_END)
		stream_put(e, NULL, 0, true);
	else
		rpc_end(c, STATUS_INVALID_ARGUMENT, "expected one start, then data, then end");
}

static void
task_exec_stdin_write_stream(struct call *c, const void *request)
{
	struct world *world = rpc_world(c);
	Modal__TaskCommandRouter__TaskExecStdinWriteStreamRequest *q;
	const uint8_t *data;
	size_t len;

	(void)request;
	if (world->unary_stdin_only) {
		rpc_end(c, STATUS_UNIMPLEMENTED, "TaskExecStdinWriteStream is not implemented");
		return;
	}
	rpc_message(c, &data, &len);
	if (stream_data(rpc_state(c), data, len))
		return;
	q = modal__task_command_router__task_exec_stdin_write_stream_request__unpack(NULL, len,
										     data);
	if (!q) {
		rpc_end(c, STATUS_INVALID_ARGUMENT, "malformed request");
		return;
	}
	stream_message(c, q);
	modal__task_command_router__task_exec_stdin_write_stream_request__free_unpacked(q, NULL);
}

/* -- TaskExecStdinStatus, TaskExecPoll, TaskExecWait */

static void
status_go(struct exec_call *e)
{
	Modal__TaskCommandRouter__TaskExecStdinStatusResponse response =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_STDIN_STATUS_RESPONSE__INIT;

	stream_evict(e->x);
	response.has_num_bytes_written = response.has_closed = 1;
	response.num_bytes_written = feed_written(e->x->in);
	response.closed = feed_closed(e->x->in);
	rpc_reply(e->c, &response.base);
}

static void
task_exec_stdin_status(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskExecStdinStatusRequest *q = request;
	struct exec_call *e = exec_call_open(c, q->task_id, q->exec_id, status_go);

	if (e)
		exec_call_run(e);
}

/* Poll and Wait have the same answer. */
static void
exit_status_reply(struct exec_call *e)
{
	Modal__TaskCommandRouter__TaskExecWaitResponse response =
		MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_WAIT_RESPONSE__INIT;
	int status = e->x->wait_status;

	if (e->x->state == EXEC_ENDED && WIFEXITED(status)) {
		response.exit_status_case =
			MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_WAIT_RESPONSE__EXIT_STATUS_CODE;
		response.code = WEXITSTATUS(status);
	} else if (e->x->state == EXEC_ENDED) {
		response.exit_status_case =
			MODAL__TASK_COMMAND_ROUTER__TASK_EXEC_WAIT_RESPONSE__EXIT_STATUS_SIGNAL;
		response.signal = WTERMSIG(status);
	}
	rpc_reply(e->c, &response.base);
}

static void
wait_go(struct exec_call *e)
{
	if (e->x->state == EXEC_ENDED)
		exit_status_reply(e);
}

static void
task_exec_wait(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskExecWaitRequest *q = request;
	struct exec_call *e = exec_call_open(c, q->task_id, q->exec_id, wait_go);

	if (e)
		exec_call_run(e);
}

static void
task_exec_poll(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskExecPollRequest *q = request;
	struct exec_call *e = exec_call_open(c, q->task_id, q->exec_id, exit_status_reply);

	if (e)
		exec_call_run(e);
}

#define ROUTER(name)  "/modal.task_command_router.TaskCommandRouter/" name
#define REQUEST(name) &modal__task_command_router__##name##_request__descriptor

const struct rpc_method router_methods[] = {
	{ ROUTER("TaskExecStart"), RPC_UNARY, false, REQUEST(task_exec_start), task_exec_start },
	{ ROUTER("TaskExecStdioRead"), RPC_UNARY, false, REQUEST(task_exec_stdio_read),
	  task_exec_stdio_read },
	{ ROUTER("TaskExecStdinWrite"), RPC_UNARY, false, NULL, task_exec_stdin_write },
	{ ROUTER("TaskExecStdinWriteStream"), RPC_CLIENT_STREAM, false, NULL,
	  task_exec_stdin_write_stream },
	{ ROUTER("TaskExecStdinStatus"), RPC_UNARY, false, REQUEST(task_exec_stdin_status),
	  task_exec_stdin_status },
	{ ROUTER("TaskExecWait"), RPC_UNARY, false, REQUEST(task_exec_wait), task_exec_wait },
	{ ROUTER("TaskExecPoll"), RPC_UNARY, false, REQUEST(task_exec_poll), task_exec_poll },
	{ NULL, RPC_UNARY, false, NULL, NULL },
};
