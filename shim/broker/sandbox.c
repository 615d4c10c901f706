#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/base/clock.h"
#include "shim/broker/grpc.h"
#include "shim/broker/log.h"
#include "shim/broker/sandbox_exec.h"

#define STOP_WAIT_MS 10000
/* A fresh worker may need minutes before its router listens (fact sheet 2.4, 6.6). */
#define CONNECT_BUDGET_MS 310000
#define CHECK_EVERY	  5u
#define TASK_PAUSE_MS	  500
#define TASK_BUDGET_MS	  600000
/* A name is free again only when its sandbox has really ended. */
#define NAME_PAUSE_MS	   500
#define NAME_TRIES_MAX	   60u
#define BUILD_LINE_LEN_MAX 400u

static const struct grpc_retry connect_pauses = { 0, 50, 10000 };

enum step {
	STEP_APP,
	STEP_ENVIRONMENT,
	STEP_FIND,
	STEP_IMAGE,
	STEP_JOIN,
	STEP_CREATE,
	STEP_TASK,
	STEP_ACCESS,
	STEP_PROBE,
	STEP_CHECK,
	STEP_TERMINATE,
	STEP_COUNT,
};

/* What is known of the sandbox that is being started. */
struct progress {
	char app_id[MODAL_ID_LEN_MAX];
	char builder_version[MODAL_ID_LEN_MAX];
	bool builder_known;
	bool absent; /* there is none of this name */
	bool found;  /* there was one: not created by us now */
	bool access; /* the router's address and token are set */
	bool seeded; /* they came with the creation: good for one attempt */
	unsigned name_tries;
	unsigned probes;
	int64_t begun_ms; /* of the wait for the task, then of the router's connection */
};

struct sandbox {
	struct ev_loop *loop;
	const struct config *config;
	const struct cred *cred;
	const struct sandbox_events *events;
	void *arg;
	struct http *http;
	struct modal *modal;
	struct modal_router *router;
	struct exec_list execs;
	bool unary_stdin;
	struct modal_call *calls[STEP_COUNT];
	struct progress progress;
	enum sandbox_state state;

	char name[MODAL_NAME_LEN_MAX + 1];
	char id[MODAL_ID_LEN_MAX];
	char task_id[MODAL_ID_LEN_MAX];
	char image_id[MODAL_ID_LEN_MAX];
	int64_t created_ms;
	uint32_t created_count;

	ev_timer pause; /* then the start goes on */
	ev_timer later; /* reports failure, or the end of the stop */
	struct err failure;
	void (*stopped)(void *arg);
	void *stopped_arg;

	char build_line[BUILD_LINE_LEN_MAX]; /* of the image's log; the last one explains a failure
					      */
	size_t build_line_len;
};

static void sandbox_advance(struct sandbox *sandbox);

struct modal_router *
sandbox_router(const struct sandbox *sandbox)
{
	return sandbox->state == SANDBOX_READY ? sandbox->router : NULL;
}

struct exec_list *
sandbox_execs(struct sandbox *sandbox)
{
	return &sandbox->execs;
}

struct ev_loop *
sandbox_loop(const struct sandbox *sandbox)
{
	return sandbox->loop;
}

bool
sandbox_pipelined_start(const struct sandbox *sandbox)
{
	return sandbox->config->pipelined_start;
}

bool *
sandbox_unary_stdin(struct sandbox *sandbox)
{
	return &sandbox->unary_stdin;
}

/* ---- small steps ---- */

static void
timer_start(struct sandbox *sandbox, ev_timer *timer, int64_t pause_ms)
{
	ev_now_update(sandbox->loop);
	ev_timer_stop(sandbox->loop, timer);
	ev_timer_set(timer, (double)pause_ms / 1000., 0.);
	ev_timer_start(sandbox->loop, timer);
}

static void
step_end(struct sandbox *sandbox, enum step step)
{
	modal_call_free(sandbox->calls[step]);
	sandbox->calls[step] = NULL;
}

static void
steps_end(struct sandbox *sandbox)
{
	ev_timer_stop(sandbox->loop, &sandbox->pause);
	for (int i = 0; i < STEP_COUNT; i++)
		step_end(sandbox, (enum step)i);
}

static void
router_drop(struct sandbox *sandbox)
{
	step_end(sandbox, STEP_PROBE);
	modal_router_free(sandbox->router);
	sandbox->router = NULL;
	sandbox->progress.access = false;
}

/* Forgets the sandbox, not what is on its way. */
static void
identity_forget(struct sandbox *sandbox)
{
	router_drop(sandbox);
	sandbox->id[0] = sandbox->task_id[0] = '\0';
}

static bool
text_keep(char *ret, size_t len, const char *text)
{
	return snprintf(ret, len, "%s", text) < (int)len;
}

/* The start failed, for the reason in sandbox->failure.  Told from the loop. */
static void
start_fail(struct sandbox *sandbox)
{
	steps_end(sandbox);
	timer_start(sandbox, &sandbox->later, 0);
}

static void
start_fail_with(struct sandbox *sandbox, const struct err *err, const char *what)
{
	sandbox->failure = *err;
	err_wrap(&sandbox->failure, "%s", what);
	start_fail(sandbox);
}

static void
step_begin(struct sandbox *sandbox, enum step step, struct modal_call *call)
{
	sandbox->calls[step] = call;
	if (call != NULL)
		return;
	err_set(&sandbox->failure, ENOMEM, "sandbox %s: no memory for a request", sandbox->name);
	start_fail(sandbox);
}

/* ---- image ---- */

static bool
image_is_id(const char *image)
{
	return strncmp(image, "im-", 3) == 0;
}

static void
build_line_put(struct sandbox *sandbox, char c)
{
	if (c == '\n' || c == '\r') {
		if (sandbox->build_line_len > 0)
			log_info("image %s: %s", sandbox->config->image, sandbox->build_line);
		sandbox->build_line_len = 0;
		return;
	}
	if (sandbox->build_line_len + 1 >= sizeof sandbox->build_line)
		return;
	sandbox->build_line[sandbox->build_line_len++] = c >= 0x20 && c < 0x7f ? c : '?';
	sandbox->build_line[sandbox->build_line_len] = '\0';
}

static void
on_build_log(void *arg, const char *text)
{
	for (; *text != '\0'; text++)
		build_line_put(arg, *text);
}

static void
image_settle(struct sandbox *sandbox, const struct modal_reply *reply)
{
	if (reply->result == MODAL_SUCCEEDED &&
	    text_keep(sandbox->image_id, sizeof sandbox->image_id, reply->id)) {
		sandbox_advance(sandbox);
		return;
	}
	err_set(&sandbox->failure, EIO,
		"image %.100s could not be built: %.200s; the build log ends: %.150s",
		sandbox->config->image, reply->result_text,
		sandbox->build_line[0] == '\0' ? "(nothing)" : sandbox->build_line);
	start_fail(sandbox);
}

static void
on_joined(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	build_line_put(sandbox, '\n');
	if (reply->code == GRPC_OK)
		image_settle(sandbox, reply);
	else
		start_fail_with(sandbox, reply->err, "building the image");
	step_end(sandbox, STEP_JOIN);
}

static void
on_image(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;
	char image_id[MODAL_ID_LEN_MAX];

	if (reply->code != GRPC_OK) {
		start_fail_with(sandbox, reply->err, "looking up the image");
		return;
	}
	if (reply->result != MODAL_RUNNING) {
		image_settle(sandbox, reply);
	} else if (text_keep(image_id, sizeof image_id, reply->id)) {
		log_info("image %s is being built as %s", sandbox->config->image, image_id);
		step_begin(sandbox, STEP_JOIN,
			   modal_image_join(sandbox->modal, image_id, on_build_log, on_joined,
					    sandbox));
	}
	step_end(sandbox, STEP_IMAGE);
}

/* ---- app, environment, name ---- */

static void
on_app(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	if (reply->code != GRPC_OK) {
		start_fail_with(sandbox, reply->err, "looking up the app");
		return;
	}
	text_keep(sandbox->progress.app_id, sizeof sandbox->progress.app_id, reply->id);
	step_end(sandbox, STEP_APP);
	sandbox_advance(sandbox);
}

static void
on_environment(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;
	struct progress *progress = &sandbox->progress;

	if (reply->code != GRPC_OK) {
		start_fail_with(sandbox, reply->err, "looking up the environment");
		return;
	}
	progress->builder_known =
		text_keep(progress->builder_version, sizeof progress->builder_version,
			  reply->builder_version);
	step_end(sandbox, STEP_ENVIRONMENT);
	sandbox_advance(sandbox);
}

static void stop_continue(struct sandbox *sandbox);

static void
on_found(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	if (reply->code == GRPC_OK) {
		text_keep(sandbox->id, sizeof sandbox->id, reply->id);
		sandbox->progress.found = true;
		sandbox->progress.begun_ms = clock_now_ms();
		log_info("sandbox %s exists as %s", sandbox->name, sandbox->id);
		/* What a creation would have needed does not matter any more, nor that it
		 * failed. */
		step_end(sandbox, STEP_ENVIRONMENT);
		step_end(sandbox, STEP_IMAGE);
		step_end(sandbox, STEP_JOIN);
	} else if (reply->code == GRPC_NOT_FOUND) {
		sandbox->progress.absent = true;
	} else if (sandbox->state != SANDBOX_ENDING) {
		start_fail_with(sandbox, reply->err, "looking for the sandbox by its name");
		return;
	}
	step_end(sandbox, STEP_FIND);
	if (sandbox->state == SANDBOX_ENDING)
		stop_continue(sandbox);
	else
		sandbox_advance(sandbox);
}

static void
find_ask(struct sandbox *sandbox)
{
	sandbox->progress.absent = sandbox->progress.found = false;
	step_begin(sandbox, STEP_FIND,
		   modal_sandbox_find(sandbox->modal, sandbox->config->api == CONFIG_API_V2,
				      sandbox->name, cred_environment(sandbox->cred),
				      sandbox->config->app, on_found, sandbox));
}

/* The sandbox of our name is ending, or somebody else is just creating it. */
static void
name_retry(struct sandbox *sandbox)
{
	identity_forget(sandbox);
	sandbox->progress.found = sandbox->progress.absent = false;
	if (sandbox->progress.name_tries++ == NAME_TRIES_MAX) {
		err_set(&sandbox->failure, EBUSY,
			"sandbox %s: Modal says both that the name is taken and that there is none; try again later",
			sandbox->name);
		start_fail(sandbox);
		return;
	}
	timer_start(sandbox, &sandbox->pause, NAME_PAUSE_MS);
}

/* ---- creation ---- */

static void
router_take(struct sandbox *sandbox, const struct modal_reply *reply)
{
	struct err err;
	int r = modal_router_new(sandbox->modal, sandbox->id, sandbox->task_id, &sandbox->router,
				 &err);

	if (r == 0)
		r = modal_router_access_set(sandbox->router, reply->url, reply->ipv4, reply->jwt,
					    &err);
	if (r < 0)
		start_fail_with(sandbox, &err, "reaching the sandbox");
	else
		sandbox->progress.access = true;
}

static void
on_created(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	if (reply->code == GRPC_OK) {
		text_keep(sandbox->id, sizeof sandbox->id, reply->id);
		text_keep(sandbox->task_id, sizeof sandbox->task_id, reply->task_id);
		sandbox->created_ms = sandbox->progress.begun_ms = clock_now_ms();
		sandbox->created_count++;
		log_info("sandbox %s created as %s", sandbox->name, sandbox->id);
		if (sandbox->state == SANDBOX_STARTING && reply->jwt[0] != '\0' &&
		    sandbox->task_id[0] != '\0') {
			sandbox->progress.seeded = true;
			router_take(sandbox, reply);
		}
	} else if (sandbox->state == SANDBOX_STARTING && reply->code == GRPC_ALREADY_EXISTS) {
		name_retry(sandbox);
	} else if (sandbox->state == SANDBOX_STARTING) {
		start_fail_with(sandbox, reply->err, "creating the sandbox");
		return;
	}
	step_end(sandbox, STEP_CREATE);
	if (sandbox->state == SANDBOX_ENDING)
		stop_continue(sandbox);
	else
		sandbox_advance(sandbox);
}

static const char *
user_name(char *number, size_t len)
{
	const struct passwd *passwd = getpwuid(getuid());

	if (passwd != NULL)
		return passwd->pw_name;
	snprintf(number, len, "%u", (unsigned)getuid());
	return number;
}

static void
create_ask(struct sandbox *sandbox)
{
	const struct config *config = sandbox->config;
	char host[256] = "", owner[16], lease[16];
	struct modal_tag tags[] = {
		{ "modalsh-owner", user_name(owner, sizeof owner) },
		{ "modalsh-host", host },
		{ "modalsh-session", config->session },
		{ "modalsh-lease-ms", lease },
	};
	struct modal_sandbox_spec spec = {
		.v2 = config->api == CONFIG_API_V2,
		.app_id = sandbox->progress.app_id,
		.image_id = sandbox->image_id,
		.name = sandbox->name,
		.milli_cpu = config->milli_cpu,
		.memory_mib = config->memory_mib,
		.lifetime_s = config->lifetime_s,
		.idle_timeout_s = config->idle_timeout_s,
		.network_open = config->network == CONFIG_NETWORK_OPEN,
		.tags = tags,
		.tag_count = sizeof tags / sizeof tags[0],
	};

	gethostname(host, sizeof host - 1);
	snprintf(lease, sizeof lease, "%" PRIu32, config->lease_ms);
	step_begin(sandbox, STEP_CREATE,
		   modal_sandbox_create(sandbox->modal, &spec, on_created, sandbox));
}

/* ---- reaching it ---- */

/* The sandbox that is being started turns out to be over. */
static void
start_ended(struct sandbox *sandbox, const char *reason)
{
	if (sandbox->progress.found) {
		log_info("sandbox %s is over (%s)", sandbox->id, reason);
		name_retry(sandbox);
		return;
	}
	err_set(&sandbox->failure, EIO, "sandbox %s ended while it was being started: %.200s",
		sandbox->id, reason);
	start_fail(sandbox);
}

static bool
says_over(const struct modal_reply *reply)
{
	return reply->code == GRPC_NOT_FOUND || reply->code == GRPC_FAILED_PRECONDITION;
}

static void
on_task(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	if (says_over(reply)) {
		start_ended(sandbox, grpc_code_name(reply->code));
	} else if (reply->code != GRPC_OK) {
		start_fail_with(sandbox, reply->err, "waiting for the sandbox");
		return;
	} else if (reply->result != MODAL_RUNNING) {
		start_ended(sandbox, reply->result_text);
	} else if (reply->task_id[0] != '\0') {
		text_keep(sandbox->task_id, sizeof sandbox->task_id, reply->task_id);
		sandbox->progress.begun_ms = clock_now_ms();
	} else if (clock_now_ms() - sandbox->progress.begun_ms > TASK_BUDGET_MS) {
		start_ended(sandbox, "it was not scheduled in time");
	} else {
		timer_start(sandbox, &sandbox->pause, TASK_PAUSE_MS);
	}
	step_end(sandbox, STEP_TASK);
	sandbox_advance(sandbox);
}

static void
on_access(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	if (reply->code == GRPC_OK)
		router_take(sandbox, reply);
	else if (says_over(reply))
		start_ended(sandbox, grpc_code_name(reply->code));
	else
		start_fail_with(sandbox, reply->err, "asking for access to the sandbox");
	step_end(sandbox, STEP_ACCESS);
	sandbox_advance(sandbox);
}

static void
sandbox_ready(struct sandbox *sandbox)
{
	steps_end(sandbox);
	sandbox->state = SANDBOX_READY;
	log_info("sandbox %s answers", sandbox->id);
	sandbox->events->ready(sandbox->arg);
}

static void
probe_failed(struct sandbox *sandbox, const struct modal_reply *reply)
{
	struct progress *progress = &sandbox->progress;

	if (!reply->transient || clock_now_ms() - progress->begun_ms > CONNECT_BUDGET_MS) {
		start_fail_with(sandbox, reply->err, "reaching the sandbox");
		return;
	}
	log_debug("sandbox %s: %s", sandbox->id, reply->err->text);
	progress->probes++;
	if (progress->seeded)
		router_drop(sandbox);
	progress->seeded = false;
	timer_start(sandbox, &sandbox->pause,
		    grpc_retry_pause_ms(&connect_pauses, progress->probes));
	if (progress->probes % CHECK_EVERY == 0)
		sandbox_suspect(sandbox);
}

static void
on_probed(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	if (reply->code == GRPC_OK) {
		sandbox_ready(sandbox);
		return;
	}
	if (says_over(reply))
		start_ended(sandbox, grpc_code_name(reply->code));
	else
		probe_failed(sandbox, reply);
	step_end(sandbox, STEP_PROBE);
}

static void
sandbox_reach(struct sandbox *sandbox)
{
	struct modal_call **calls = sandbox->calls;
	struct progress *progress = &sandbox->progress;
	bool scheduled = sandbox->task_id[0] != '\0';

	if (!scheduled && calls[STEP_TASK] == NULL)
		step_begin(sandbox, STEP_TASK,
			   modal_task_get(sandbox->modal, sandbox->id, on_task, sandbox));
	if (!scheduled)
		return;
	if (!progress->access && calls[STEP_ACCESS] == NULL)
		step_begin(sandbox, STEP_ACCESS,
			   modal_access_get(sandbox->modal, sandbox->id, sandbox->task_id,
					    on_access, sandbox));
	if (progress->access && calls[STEP_PROBE] == NULL)
		step_begin(sandbox, STEP_PROBE,
			   modal_router_probe(sandbox->router, on_probed, sandbox));
}

/* Starts whatever can be started with what is known by now. */
static void
sandbox_advance(struct sandbox *sandbox)
{
	struct progress *progress = &sandbox->progress;
	struct modal_call **calls = sandbox->calls;

	if (sandbox->state != SANDBOX_STARTING || ev_is_active(&sandbox->pause) ||
	    ev_is_active(&sandbox->later))
		return;
	if (sandbox->id[0] != '\0') {
		sandbox_reach(sandbox);
		return;
	}
	if (sandbox->image_id[0] == '\0' && progress->app_id[0] != '\0' &&
	    progress->builder_known && calls[STEP_IMAGE] == NULL && calls[STEP_JOIN] == NULL)
		step_begin(sandbox, STEP_IMAGE,
			   modal_image_get(sandbox->modal, sandbox->config->image, progress->app_id,
					   progress->builder_version, on_image, sandbox));
	if (!progress->absent && calls[STEP_FIND] == NULL)
		find_ask(sandbox);
	if (progress->absent && sandbox->image_id[0] != '\0' && progress->app_id[0] != '\0' &&
	    calls[STEP_CREATE] == NULL)
		create_ask(sandbox);
}

static void
sandbox_begin(struct sandbox *sandbox)
{
	const char *environment = cred_environment(sandbox->cred);

	sandbox->state = SANDBOX_STARTING;
	sandbox->progress = (struct progress){ .builder_known = false };
	sandbox->build_line[0] = '\0';
	sandbox->build_line_len = 0;
	sandbox->image_id[0] = '\0';
	find_ask(sandbox);
	step_begin(
		sandbox, STEP_APP,
		modal_app_get(sandbox->modal, sandbox->config->app, environment, on_app, sandbox));
	if (image_is_id(sandbox->config->image))
		text_keep(sandbox->image_id, sizeof sandbox->image_id, sandbox->config->image);
	else
		step_begin(sandbox, STEP_ENVIRONMENT,
			   modal_environment_get(sandbox->modal, environment, on_environment,
						 sandbox));
}

/* ---- its end ---- */

static void
sandbox_lost(struct sandbox *sandbox, const char *reason)
{
	char text[GRPC_MESSAGE_LEN_MAX];

	snprintf(text, sizeof text, "%s", reason);
	log_warning("sandbox %s is gone: %s", sandbox->id, text);
	exec_list_cut(&sandbox->execs, text);
	steps_end(sandbox);
	identity_forget(sandbox);
	sandbox->state = SANDBOX_NONE;
	sandbox->events->gone(sandbox->arg, text);
	exec_list_end(&sandbox->execs);
}

static void
on_checked(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;
	bool over = reply->code == GRPC_NOT_FOUND ||
		    (reply->code == GRPC_OK && reply->result != MODAL_RUNNING);
	const char *reason =
		reply->code == GRPC_OK ? reply->result_text : "Modal does not know it any more";

	if (over && sandbox->state == SANDBOX_READY) {
		sandbox_lost(sandbox, reason);
		return;
	}
	step_end(sandbox, STEP_CHECK);
	if (over && sandbox->state == SANDBOX_STARTING) {
		ev_timer_stop(sandbox->loop, &sandbox->pause);
		start_ended(sandbox, reason);
		return;
	}
	if (!over && sandbox->state == SANDBOX_READY)
		modal_router_access_renew(sandbox->router);
	exec_list_checked(&sandbox->execs);
}

void
sandbox_suspect(struct sandbox *sandbox)
{
	if (sandbox->calls[STEP_CHECK] != NULL)
		return;
	sandbox->calls[STEP_CHECK] =
		modal_sandbox_poll(sandbox->modal, sandbox->id, on_checked, sandbox);
	if (sandbox->calls[STEP_CHECK] == NULL)
		exec_list_checked(&sandbox->execs);
}

void
sandbox_reconnect(struct sandbox *sandbox)
{
	http_reconnect(sandbox->http);
	if (sandbox->state == SANDBOX_READY)
		sandbox_suspect(sandbox);
}

static void
stop_finish(struct sandbox *sandbox)
{
	void (*stopped)(void *arg) = sandbox->stopped;

	steps_end(sandbox);
	ev_timer_stop(sandbox->loop, &sandbox->later);
	identity_forget(sandbox);
	sandbox->state = SANDBOX_NONE;
	sandbox->stopped = NULL;
	stopped(sandbox->stopped_arg);
}

static void
on_terminated(void *arg, const struct modal_reply *reply)
{
	struct sandbox *sandbox = arg;

	if (reply->code == GRPC_OK || reply->code == GRPC_NOT_FOUND)
		log_info("sandbox %s terminated", sandbox->id);
	else
		log_warning("sandbox %s may still run: %s", sandbox->id, reply->err->text);
	stop_finish(sandbox);
}

/* Whatever was found or created by now ends; if nothing was, so does the stop. */
static void
stop_continue(struct sandbox *sandbox)
{
	if (sandbox->id[0] == '\0')
		timer_start(sandbox, &sandbox->later, 0);
	else if (sandbox->calls[STEP_TERMINATE] == NULL)
		sandbox->calls[STEP_TERMINATE] = modal_sandbox_terminate(
			sandbox->modal, sandbox->id, on_terminated, sandbox);
}

void
sandbox_stop(struct sandbox *sandbox, void (*done)(void *arg), void *arg)
{
	bool coming = sandbox->calls[STEP_CREATE] != NULL || sandbox->calls[STEP_FIND] != NULL;

	exec_list_orphan(&sandbox->execs);
	sandbox->state = SANDBOX_ENDING;
	sandbox->stopped = done;
	sandbox->stopped_arg = arg;
	ev_timer_stop(sandbox->loop, &sandbox->pause);
	for (int i = 0; i < STEP_COUNT; i++)
		if (i != STEP_CREATE && i != STEP_FIND)
			step_end(sandbox, (enum step)i);
	timer_start(sandbox, &sandbox->later, STOP_WAIT_MS);
	if (!coming)
		stop_continue(sandbox);
}

/* ---- the object ---- */

static void
on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	sandbox_advance(timer->data);
}

static void
on_later(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct sandbox *sandbox = timer->data;
	struct err err = sandbox->failure;

	(void)loop;
	(void)revents;
	if (sandbox->state == SANDBOX_ENDING) {
		if (sandbox->calls[STEP_TERMINATE] != NULL)
			log_warning("sandbox %s may still run: Modal did not confirm its end",
				    sandbox->id);
		stop_finish(sandbox);
		return;
	}
	steps_end(sandbox);
	identity_forget(sandbox);
	sandbox->state = SANDBOX_NONE;
	sandbox->events->failed(sandbox->arg, &err);
}

static int
name_make(struct sandbox *sandbox, struct err *err)
{
	if (snprintf(sandbox->name, sizeof sandbox->name, "modalsh-%s", sandbox->config->session) <
	    (int)sizeof sandbox->name)
		return 0;
	return err_set(err, EINVAL,
		       "modalsh.session: too long; a sandbox' name has at most %u characters",
		       MODAL_NAME_LEN_MAX);
}

int
sandbox_new(struct ev_loop *loop, const struct config *config, const struct cred *cred,
	    const struct sandbox_events *events, void *arg, struct sandbox **ret, struct err *err)
{
	struct sandbox *sandbox = calloc(1, sizeof *sandbox);
	int r;

	if (sandbox == NULL)
		return err_set(err, ENOMEM, "no memory for the sandbox");
	sandbox->loop = loop;
	sandbox->config = config;
	sandbox->cred = cred;
	sandbox->events = events;
	sandbox->arg = arg;
	ev_init(&sandbox->pause, on_pause_over);
	ev_init(&sandbox->later, on_later);
	sandbox->pause.data = sandbox->later.data = sandbox;
	r = name_make(sandbox, err);
	if (r == 0)
		r = http_new(loop, config->ca_file, &sandbox->http, err);
	if (r == 0)
		r = modal_new(loop, sandbox->http, cred, &sandbox->modal, err);
	if (r < 0) {
		sandbox_free(sandbox);
		return r;
	}
	*ret = sandbox;
	return 0;
}

bool
sandbox_want(struct sandbox *sandbox)
{
	if (sandbox->state == SANDBOX_NONE)
		sandbox_begin(sandbox);
	return sandbox->state == SANDBOX_READY;
}

void
sandbox_free(struct sandbox *sandbox)
{
	if (sandbox == NULL)
		return;
	exec_list_orphan(&sandbox->execs);
	steps_end(sandbox);
	ev_timer_stop(sandbox->loop, &sandbox->later);
	modal_router_free(sandbox->router);
	modal_free(sandbox->modal);
	http_free(sandbox->http);
	free(sandbox);
}

void
sandbox_info(const struct sandbox *sandbox, struct sandbox_info *ret)
{
	*ret = (struct sandbox_info){
		.state = sandbox->state,
		.id = sandbox->id,
		.task_id = sandbox->task_id,
		.name = sandbox->name,
		.image_id = sandbox->image_id,
		.created_ms = sandbox->created_ms,
		.created_count = sandbox->created_count,
	};
}
