/* entry.c -- the streams of a sandbox's own entrypoint: V1 through the control plane, V2 through
 * the router. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "proto/modal_router.pb-c.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/control.h"
#include "tests/loopback/feed.h"
#include "tests/loopback/outlog.h"
#include "tests/loopback/router.h"
#include "tests/loopback/world.h"

enum { LOG_TEXT_LEN = 64 * 1024 };

/* One call that reads, or writes, a stream of the entrypoint. */
struct entry_call {
	struct call *c;
	struct sandbox *s;
	struct sandbox_watch sandbox_watch;
	struct exec_watch exec_watch;
	struct outlog_reader reader;
	struct feed_write write;
	struct bytes data; /* being written */
	ev_timer timer;
	int fd; /* 0 stdout, 1 stderr */
	uint64_t offset;
	bool begun;
	/* Called when the entrypoint has started, when the sandbox is over, and when there is
	 * output. */
	void (*go)(struct entry_call *e);
};

static void
entry_call_over(struct call *c, void *state)
{
	struct entry_call *e = state;

	sandbox_unwatch(&e->sandbox_watch);
	exec_unwatch(&e->exec_watch);
	outlog_detach(&e->reader);
	if (e->s->entry && e->s->entry->in)
		feed_cancel(e->s->entry->in, &e->write);
	ev_timer_stop(rpc_loop(c), &e->timer);
	bytes_free(&e->data);
	free(e);
}

static void
on_sandbox_change(struct sandbox_watch *w)
{
	struct entry_call *e = w->arg;

	e->go(e);
}

static void
on_exec_change(struct exec_watch *w)
{
	struct entry_call *e = w->arg;

	e->go(e);
}

static void
on_log_more(struct outlog_reader *r)
{
	struct entry_call *e = r->arg;

	e->go(e);
}

static void
on_log_lost(struct outlog_reader *r)
{
	struct entry_call *e = r->arg;

	rpc_abort(e->c, STATUS_DATA_LOSS, "output at this offset is no longer kept");
}

static void
on_timeout(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct entry_call *e = timer->data;

	(void)loop;
	(void)events;
	rpc_end(e->c, STATUS_OK, NULL);
}

static struct entry_call *
entry_call_new(struct call *c, struct sandbox *s, void (*go)(struct entry_call *e))
{
	struct entry_call *e = mem_new(sizeof *e);

	e->c = c;
	e->s = s;
	e->go = go;
	e->sandbox_watch.on_change = on_sandbox_change;
	e->exec_watch.on_change = on_exec_change;
	e->reader.on_more = on_log_more;
	e->reader.on_lost = on_log_lost;
	e->sandbox_watch.arg = e->exec_watch.arg = e->reader.arg = e;
	ev_timer_init(&e->timer, on_timeout, 0., 0.);
	e->timer.data = e;
	rpc_set_state(c, e, entry_call_over);
	sandbox_watch(s, &e->sandbox_watch);
	if (s->entry)
		exec_watch(s->entry, &e->exec_watch);
	return e;
}

/* The log of the stream, attached at the offset or where what is kept begins.  False: there is none
 * yet. */
static bool
log_attach(struct entry_call *e)
{
	struct outlog *log = e->s->entry ? e->s->entry->out[e->fd] : NULL;

	if (!log)
		return false;
	if (!e->begun) {
		e->begun = true;
		if (e->offset < outlog_start(log))
			e->offset = outlog_start(log);
		outlog_attach(log, &e->reader, e->offset);
	}
	return true;
}

/* -- V1: SandboxGetLogs.  An entry id is the offset after the batch. */

static void
logs_send(struct entry_call *e, char *text, bool eof)
{
	Modal__Client__TaskLogsBatch batch = MODAL__CLIENT__TASK_LOGS_BATCH__INIT;
	Modal__Client__TaskLogs logs = MODAL__CLIENT__TASK_LOGS__INIT;
	Modal__Client__TaskLogs *list[] = { &logs };

	logs.data = text;
	logs.has_file_descriptor = 1;
	logs.file_descriptor = e->fd ? MODAL__CLIENT__FILE_DESCRIPTOR__FILE_DESCRIPTOR_STDERR :
				       MODAL__CLIENT__FILE_DESCRIPTOR__FILE_DESCRIPTOR_STDOUT;
	batch.task_id = e->s->task_id;
	batch.sandbox_id = e->s->id;
	batch.entry_id = text_format("%llu-0", (unsigned long long)e->reader.offset);
	batch.n_items = text ? 1 : 0;
	batch.items = list;
	batch.has_eof = eof;
	batch.eof = eof;
	rpc_send(e->c, &batch.base);
	free(batch.entry_id);
}

static void
logs_go(struct entry_call *e)
{
	const uint8_t *data;
	size_t len, used;

	if (log_attach(e)) {
		while ((len = outlog_run(&e->reader, &data)) > 0) {
			char *text =
				text_clean(data, len < LOG_TEXT_LEN ? len : LOG_TEXT_LEN, &used);

			outlog_advance(&e->reader, used);
			logs_send(e, text, false);
			free(text);
		}
		if (!outlog_at_end(&e->reader))
			return;
	} else if (!e->s->over) {
		return;
	}
	logs_send(e, NULL, true);
	rpc_end(e->c, STATUS_OK, NULL);
}

static void
sandbox_get_logs(struct call *c, const void *request)
{
	const Modal__Client__SandboxGetLogsRequest *q = request;
	struct world *world = rpc_world(c);
	struct sandbox *s = sandbox_find(&world->host, q->sandbox_id);
	struct entry_call *e;

	if (!s) {
		rpc_end(c, STATUS_NOT_FOUND, "no sandbox %s", q->sandbox_id ? q->sandbox_id : "");
		return;
	}
	e = entry_call_new(c, s, logs_go);
	e->fd = q->file_descriptor == MODAL__CLIENT__FILE_DESCRIPTOR__FILE_DESCRIPTOR_STDERR;
	e->offset = q->last_entry_id ? strtoull(q->last_entry_id, NULL, 10) : 0;
	if (q->timeout > 0) {
		ev_timer_set(&e->timer, (double)q->timeout, 0.);
		ev_timer_start(rpc_loop(c), &e->timer);
	}
	logs_go(e);
}

/* -- V2: SandboxStdioReadV2 */

/* The first message says where the stream really starts; an empty one would be an error to the
 * SDKs. */
static void
stdio_go(struct entry_call *e)
{
	Modal__TaskCommandRouter__SandboxStdioReadV2Response response =
		MODAL__TASK_COMMAND_ROUTER__SANDBOX_STDIO_READ_V2_RESPONSE__INIT;
	const uint8_t *data;
	size_t len;

	if (!log_attach(e)) {
		if (e->s->over)
			rpc_end(e->c, STATUS_OK, NULL);
		return;
	}
	while (rpc_may_send(e->c) && (len = outlog_run(&e->reader, &data)) > 0) {
		union {
			const uint8_t *in;
			uint8_t *out;
		} bytes = { .in = data };

		response.has_data = response.has_starting_offset = 1;
		response.data = (ProtobufCBinaryData){ len, bytes.out };
		response.starting_offset = e->offset;
		rpc_send(e->c, &response.base);
		outlog_advance(&e->reader, len);
	}
	if (outlog_at_end(&e->reader))
		rpc_end(e->c, STATUS_OK, NULL);
}

static void
on_may_send(struct call *c)
{
	struct entry_call *e = rpc_state(c);

	stdio_go(e);
}

static void
sandbox_stdio_read_v2(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__SandboxStdioReadV2Request *q = request;
	struct sandbox *s = router_admit_any(c, q->task_id);
	struct entry_call *e;

	if (!s)
		return;
	e = entry_call_new(c, s, stdio_go);
	e->fd = q->file_descriptor ==
		MODAL__TASK_COMMAND_ROUTER__SANDBOX_STDIO_FILE_DESCRIPTOR__SANDBOX_STDIO_FILE_DESCRIPTOR_STDERR;
	e->offset = q->offset;
	rpc_on_may_send(c, on_may_send);
	stdio_go(e);
}

/* -- stdin: SandboxStdinWrite (V1, numbered), SandboxStdinWriteV2 (by offset) */

static void
on_written(struct feed_write *w, int result)
{
	/* Both answers are empty messages. */
	Modal__Client__SandboxStdinWriteResponse response =
		MODAL__CLIENT__SANDBOX_STDIN_WRITE_RESPONSE__INIT;
	struct entry_call *e = w->arg;

	sandbox_touch(e->s);
	if (result < 0)
		rpc_end(e->c, STATUS_FAILED_PRECONDITION, "stdin is closed");
	else
		rpc_reply(e->c, &response.base);
}

static void
stdin_go(struct entry_call *e)
{
	struct exec *entry = e->s->entry;

	if (e->s->over || !entry) {
		rpc_end(e->c, STATUS_FAILED_PRECONDITION, "the sandbox reads no stdin");
		return;
	}
	if (!entry->in || e->begun)
		return;
	e->begun = true;
	if (e->offset == UINT64_MAX)
		e->write.offset = feed_written(entry->in);
	feed_put(entry->in, &e->write);
}

/* offset UINT64_MAX: behind what was written before. */
static void
stdin_start(struct call *c, struct sandbox *s, uint64_t offset, const ProtobufCBinaryData *data,
	    bool eof)
{
	struct entry_call *e = entry_call_new(c, s, stdin_go);

	bytes_append(&e->data, data->data, data->len);
	e->offset = offset;
	e->write = (struct feed_write){
		.offset = offset,
		.data = bytes_front(&e->data),
		.len = data->len,
		.eof = eof,
		.on_done = on_written,
		.arg = e,
	};
	stdin_go(e);
}

static void
sandbox_stdin_write(struct call *c, const void *request)
{
	const Modal__Client__SandboxStdinWriteRequest *q = request;
	Modal__Client__SandboxStdinWriteResponse response =
		MODAL__CLIENT__SANDBOX_STDIN_WRITE_RESPONSE__INIT;
	struct world *world = rpc_world(c);
	struct sandbox *s = sandbox_find(&world->host, q->sandbox_id);

	if (!s) {
		rpc_end(c, STATUS_NOT_FOUND, "no sandbox %s", q->sandbox_id ? q->sandbox_id : "");
	} else if (q->index && q->index <= s->stdin_index) {
		rpc_reply(c, &response.base); /* a repetition */
	} else {
		s->stdin_index = q->index;
		stdin_start(c, s, UINT64_MAX, &q->input, q->eof);
	}
}

static void
sandbox_stdin_write_v2(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__SandboxStdinWriteV2Request *q = request;
	struct sandbox *s = router_admit(c, q->task_id);

	if (s)
		stdin_start(c, s, q->offset, &q->data, q->eof);
}

#define ROUTER(name) "/modal.task_command_router.TaskCommandRouter/" name

const struct rpc_method entry_methods[] = {
	{ CONTROL("SandboxGetLogs"), RPC_UNARY, false, CONTROL_REQUEST(sandbox_get_logs),
	  sandbox_get_logs },
	{ CONTROL("SandboxStdinWrite"), RPC_UNARY, false, CONTROL_REQUEST(sandbox_stdin_write),
	  sandbox_stdin_write },
	{ ROUTER("SandboxStdioReadV2"), RPC_UNARY, false,
	  &modal__task_command_router__sandbox_stdio_read_v2_request__descriptor,
	  sandbox_stdio_read_v2 },
	{ ROUTER("SandboxStdinWriteV2"), RPC_UNARY, false,
	  &modal__task_command_router__sandbox_stdin_write_v2_request__descriptor,
	  sandbox_stdin_write_v2 },
	{ NULL, RPC_UNARY, false, NULL, NULL },
};
