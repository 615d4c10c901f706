/* control.c -- sandboxes as the control plane sees them. */
#include "tests/loopback/control.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "proto/modal_api.pb-c.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/convert.h"
#include "tests/loopback/probe.h"
#include "tests/loopback/tree.h"
#include "tests/loopback/world.h"

static const double task_id_wait_s = 0.5;

enum {
	TIMEOUT_DEFAULT_S = 300,
	TIMEOUT_MAX_S = 86400,
	TERMINATED_EXIT_CODE = 137,
	LIST_PAGE_MAX = 50,
	CLIENT_PYTHON = 1,
	PROBE_INTERVAL_MS = 100
};

/* -- results */

static bool
result_fill(const struct sandbox *s, Modal__Client__GenericResult *result)
{
	static const Modal__Client__GenericResult__GenericStatus statuses[] = {
		[SANDBOX_SUCCESS] =
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_SUCCESS,
		[SANDBOX_FAILURE] =
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_FAILURE,
		[SANDBOX_TERMINATED] =
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_TERMINATED,
		[SANDBOX_TIMEOUT] =
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_TIMEOUT,
		[SANDBOX_INIT_FAILURE] =
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_INIT_FAILURE,
		[SANDBOX_IDLE_TIMEOUT] =
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_IDLE_TIMEOUT,
	};

	if (!s->over)
		return false;
	result->has_status = result->has_exitcode = 1;
	result->status = statuses[s->result];
	result->exitcode = s->exit_code;
	result->exception = s->exception;
	return true;
}

static struct sandbox *
sandbox_get(struct call *c, const char *id)
{
	struct world *world = rpc_world(c);
	struct sandbox *s = sandbox_find(&world->host, id);

	if (!s)
		rpc_end(c, STATUS_NOT_FOUND, "no sandbox %s", id ? id : "");
	return s;
}

/* -- router access */

/* JS and Go insist on https:// and then speak plaintext to localhost; py takes http:// for
 * plaintext. */
static char *
router_url(struct call *c)
{
	struct world *world = rpc_world(c);
	const char *type = rpc_header(c, "x-modal-client-type");
	bool plain = !rpc_is_tls(c) && type && atoi(type) == CLIENT_PYTHON;

	return text_format("%s://127.0.0.1:%u", plain ? "http" : "https", world->advertised_port);
}

static char *
router_jwt(struct call *c, const struct sandbox *s)
{
	struct world *world = rpc_world(c);

	return jwt_new(&world->jwt, "router", s->task_id);
}

static bool
sandbox_is_reachable(struct call *c, const struct sandbox *s)
{
	if (sandbox_accepts(s))
		return true;
	rpc_end(c, STATUS_FAILED_PRECONDITION, "sandbox %s has finished", s->id);
	return false;
}

static void
task_get_command_router_access(struct call *c, const void *request)
{
	const Modal__Client__TaskGetCommandRouterAccessRequest *q = request;
	Modal__Client__TaskGetCommandRouterAccessResponse response =
		MODAL__CLIENT__TASK_GET_COMMAND_ROUTER_ACCESS_RESPONSE__INIT;
	struct world *world = rpc_world(c);
	struct sandbox *s = sandbox_find_task(&world->host, q->task_id);

	if (!s) {
		rpc_end(c, STATUS_NOT_FOUND, "no task %s", q->task_id ? q->task_id : "");
		return;
	}
	if (!sandbox_is_reachable(c, s))
		return;
	response.jwt = router_jwt(c, s);
	response.url = router_url(c);
	rpc_reply(c, &response.base);
	free(response.jwt);
	free(response.url);
}

static void
sandbox_get_command_router_access(struct call *c, const void *request)
{
	const Modal__Client__SandboxGetCommandRouterAccessRequest *q = request;
	Modal__Client__SandboxGetCommandRouterAccessResponse response =
		MODAL__CLIENT__SANDBOX_GET_COMMAND_ROUTER_ACCESS_RESPONSE__INIT;
	struct world *world = rpc_world(c);
	struct sandbox *s = NULL;
	char address[] = "127.0.0.1";

	if (q->target_case ==
	    MODAL__CLIENT__SANDBOX_GET_COMMAND_ROUTER_ACCESS_REQUEST__TARGET_SANDBOX_ID)
		s = sandbox_find(&world->host, q->sandbox_id);
	else if (q->target_case ==
		 MODAL__CLIENT__SANDBOX_GET_COMMAND_ROUTER_ACCESS_REQUEST__TARGET_TASK_ID)
		s = sandbox_find_task(&world->host, q->task_id);
	if (!s) {
		rpc_end(c, STATUS_NOT_FOUND, "no such sandbox");
		return;
	}
	if (!sandbox_is_reachable(c, s))
		return;
	response.jwt = router_jwt(c, s);
	response.url = router_url(c);
	response.worker_ipv4_address = address;
	rpc_reply(c, &response.base);
	free(response.jwt);
	free(response.url);
}

/* -- creating */

/* What both create calls carry. */
struct create {
	struct call *c;
	const char *app_id;
	const Modal__Client__Sandbox *definition;
	size_t n_tags;
	Modal__Client__SandboxTag **tags;
	struct image *image;
	struct env env; /* of secrets and the like */
};

static bool
is_blocked(const Modal__Client__Sandbox *d)
{
	const Modal__Client__NetworkAccess *access = d->network_access;

	if (!access)
		return d->block_network;
	if (access->network_access_type ==
	    MODAL__CLIENT__NETWORK_ACCESS__NETWORK_ACCESS_TYPE__BLOCKED)
		return true;
	if (access->network_access_type !=
	    MODAL__CLIENT__NETWORK_ACCESS__NETWORK_ACCESS_TYPE__ALLOWLIST)
		return false;
	return !convert_allows_all(access);
}

static bool
name_is_free(struct create *create)
{
	struct world *world = rpc_world(create->c);
	const char *name = create->definition->name;

	if (text_empty(name))
		return true;
	for (struct sandbox *s = world->host.sandboxes; s; s = s->next) {
		if (!s->over && text_is(s->name, name) && text_is(s->app_id, create->app_id)) {
			rpc_end(create->c, STATUS_ALREADY_EXISTS,
				"a running sandbox named '%s' already exists", name);
			return false;
		}
	}
	return true;
}

static bool
create_is_valid(struct create *create)
{
	struct world *world = rpc_world(create->c);
	const Modal__Client__Sandbox *d = create->definition;

	create->image = image_find(world, d ? d->image_id : NULL);
	if (!d)
		rpc_end(create->c, STATUS_INVALID_ARGUMENT, "definition is missing");
	else if (!app_find(world, create->app_id))
		rpc_end(create->c, STATUS_NOT_FOUND, "no app %s",
			create->app_id ? create->app_id : "");
	else if (!create->image)
		rpc_end(create->c, STATUS_NOT_FOUND, "no image %s", d->image_id ? d->image_id : "");
	else if (create->image->state != IMAGE_READY)
		rpc_end(create->c, STATUS_FAILED_PRECONDITION, "image %s is not built",
			d->image_id);
	else if (d->timeout_secs > TIMEOUT_MAX_S)
		rpc_end(create->c, STATUS_INVALID_ARGUMENT, "timeout is more than 24 hours");
	else if (!text_empty(d->workdir) && d->workdir[0] != '/')
		rpc_end(create->c, STATUS_INVALID_ARGUMENT, "workdir must be absolute");
	else
		return name_is_free(create);
	return false;
}

static bool
mounts_fill(struct create *create, struct sandbox_spec *spec)
{
	const Modal__Client__Sandbox *d = create->definition;

	spec->mounts = mem_new((d->n_volume_mounts + 1) * sizeof *spec->mounts);
	for (size_t i = 0; i < d->n_volume_mounts; i++) {
		const Modal__Client__VolumeMount *v = d->volume_mounts[i];
		struct volume *volume = volume_find(rpc_world(create->c), v->volume_id);
		struct sandbox_mount *m = &spec->mounts[i];

		if (!volume || text_empty(v->mount_path) || v->mount_path[0] != '/' ||
		    (v->sub_path && strstr(v->sub_path, ".."))) {
			rpc_end(create->c, volume ? STATUS_INVALID_ARGUMENT : STATUS_NOT_FOUND,
				"cannot mount volume %s", v->volume_id ? v->volume_id : "");
			return false;
		}
		m->source = text_empty(v->sub_path) ?
				    text_copy(volume->dir) :
				    text_format("%s/%s", volume->dir, v->sub_path);
		tree_make(m->source);
		m->target = text_copy(v->mount_path);
		m->read_only = v->read_only;
		spec->mount_count++;
	}
	return true;
}

static void
env_fill(struct create *create, const char *sandbox_id, const char *task_id, struct env *env)
{
	const Modal__Client__Sandbox *d = create->definition;

	env_set(env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	env_set(env, "HOME", "/root");
	env_add(env, &create->image->env);
	if (d->environment_variables)
		convert_map(d->environment_variables->n_contents,
			    d->environment_variables->contents, env);
	env_add(env, &create->env);
	if (d->pty_info)
		convert_terminal_env(d->pty_info, env);
	env_set(env, "MODAL_SANDBOX_ID", sandbox_id);
	env_set(env, "MODAL_TASK_ID", task_id);
	env_set(env, "MODAL_IMAGE_ID", create->image->id);
}

static int
strings_count(char *const *strings)
{
	int count = 0;

	while (strings && strings[count])
		count++;
	return count;
}

static bool
spec_fill(struct create *create, const char *id, const char *task_id, struct sandbox_spec *spec)
{
	const Modal__Client__Sandbox *d = create->definition;
	struct env env = { 0 };

	if (!mounts_fill(create, spec))
		return false;
	env_fill(create, id, task_id, &env);
	spec->root = text_copy(create->image->tree);
	spec->env = env.list;
	spec->workdir = text_copy(text_empty(d->workdir) ? create->image->workdir : d->workdir);
	if (d->n_entrypoint_args > 0)
		spec->argv = convert_strings(d->n_entrypoint_args, d->entrypoint_args);
	else
		spec->argv = convert_strings((size_t)strings_count(create->image->argv),
					     create->image->argv);
	if (d->pty_info)
		convert_terminal(d->pty_info, &spec->rows, &spec->columns);
	spec->blocked = is_blocked(d);
	spec->timeout_s = d->timeout_secs ? d->timeout_secs : TIMEOUT_DEFAULT_S;
	spec->idle_timeout_s = d->idle_timeout_secs;
	return true;
}

static void
tags_fill(struct sandbox *s, size_t count, Modal__Client__SandboxTag *const *tags)
{
	for (int i = 0; i < s->tag_count; i++) {
		free(s->tags[i].name);
		free(s->tags[i].value);
	}
	free(s->tags);
	s->tags = mem_new((count + 1) * sizeof *s->tags);
	s->tag_count = (int)count;
	for (size_t i = 0; i < count; i++) {
		s->tags[i].name = text_copy(tags[i]->tag_name);
		s->tags[i].value = text_copy(tags[i]->tag_value);
	}
}

/* A port is probed from within, where it can be reached whatever the network. */
static void
probe_fill(const Modal__Client__Probe *probe, struct sandbox *s)
{
	uint32_t interval_ms = probe->has_interval_ms && probe->interval_ms ? probe->interval_ms :
									      PROBE_INTERVAL_MS;
	char **argv = NULL;

	if (probe->probe_oneof_case == MODAL__CLIENT__PROBE__PROBE_ONEOF_EXEC_COMMAND &&
	    probe->exec_command->n_argv > 0) {
		argv = convert_strings(probe->exec_command->n_argv, probe->exec_command->argv);
	} else if (probe->probe_oneof_case == MODAL__CLIENT__PROBE__PROBE_ONEOF_TCP_PORT) {
		argv = convert_strings(3, (char *const[]){ "bash", "-c", "" });
		free(argv[2]);
		argv[2] = text_format("exec 3<>/dev/tcp/127.0.0.1/%u", probe->tcp_port);
	}
	if (argv)
		s->probe = probe_start(s, argv, interval_ms);
}

static void
record_fill(struct create *create, struct sandbox *s)
{
	const Modal__Client__Sandbox *d = create->definition;

	s->app_id = text_copy(create->app_id);
	s->name = text_copy(d->name);
	s->image_id = text_copy(d->image_id);
	s->idempotency_key = text_copy(rpc_header(create->c, "x-idempotency-key"));
	tags_fill(s, create->n_tags, create->tags);
	if (d->readiness_probe)
		probe_fill(d->readiness_probe, s);
	if (!d->open_ports)
		return;
	s->ports = mem_new((d->open_ports->n_ports + 1) * sizeof *s->ports);
	for (size_t i = 0; i < d->open_ports->n_ports; i++) {
		if (d->open_ports->ports[i]->unencrypted)
			s->ports[s->port_count++] = d->open_ports->ports[i]->port;
	}
}

/* The sandbox that an earlier attempt of the same logical call has made. */
static struct sandbox *
sandbox_of_attempt(struct call *c)
{
	struct world *world = rpc_world(c);
	const char *key = rpc_header(c, "x-idempotency-key");

	if (text_empty(key))
		return NULL;
	for (struct sandbox *s = world->host.sandboxes; s; s = s->next) {
		if (text_is(s->idempotency_key, key))
			return s;
	}
	return NULL;
}

static struct sandbox *
create_run(struct create *create, bool v2)
{
	struct world *world = rpc_world(create->c);
	char *id = v2 ? id_new_ulid("sb-") : id_new("sb-");
	char *task_id = v2 ? id_new_ulid("ta-") : id_new("ta-");
	struct sandbox_spec spec = { 0 };
	struct sandbox *s = NULL;

	task_id[strlen(task_id) - 1] = v2 ? 'V' : 'S';
	if (spec_fill(create, id, task_id, &spec)) {
		s = sandbox_new(&world->host, id, task_id, spec);
		s->v2 = v2;
		record_fill(create, s);
	}
	free(id);
	free(task_id);
	return s;
}

static struct sandbox *
create_v1(struct call *c, const Modal__Client__SandboxCreateRequest *q)
{
	struct create create = {
		.c = c,
		.app_id = q->app_id,
		.definition = q->definition,
		.n_tags = q->n_tags,
		.tags = q->tags,
	};
	struct sandbox *s = NULL;

	if (create_is_valid(&create) && convert_secret_ids(c, q->definition->n_secret_ids,
							   q->definition->secret_ids, &create.env))
		s = create_run(&create, false);
	env_free(&create.env);
	return s;
}

static void
sandbox_create(struct call *c, const void *request)
{
	const Modal__Client__SandboxCreateRequest *q = request;
	Modal__Client__SandboxCreateResponse response =
		MODAL__CLIENT__SANDBOX_CREATE_RESPONSE__INIT;
	Modal__Client__SandboxHandleMetadata metadata =
		MODAL__CLIENT__SANDBOX_HANDLE_METADATA__INIT;
	struct sandbox *s = sandbox_of_attempt(c);

	if (!s)
		s = create_v1(c, q);
	if (!s)
		return;
	metadata.app_id = s->app_id;
	response.sandbox_id = s->id;
	response.metadata = &metadata;
	rpc_reply(c, &response.base);
}

static bool
create_v2_env(struct create *create, const Modal__Client__SandboxCreateV2Request *q)
{
	if (q->n_secret_sources > 0)
		return convert_secret_sources(create->c, q->n_secret_sources, q->secret_sources,
					      &create->env);
	if (!convert_secret_ids(create->c, q->definition->n_secret_ids, q->definition->secret_ids,
				&create->env))
		return false;
	if (q->ephemeral_secrets)
		convert_map(q->ephemeral_secrets->n_contents, q->ephemeral_secrets->contents,
			    &create->env);
	return true;
}

static struct sandbox *
create_v2(struct call *c, const Modal__Client__SandboxCreateV2Request *q)
{
	struct create create = {
		.c = c,
		.app_id = q->app_id,
		.definition = q->definition,
		.n_tags = q->n_tags,
		.tags = q->tags,
	};
	struct sandbox *s = NULL;

	if (create_is_valid(&create) && create_v2_env(&create, q))
		s = create_run(&create, true);
	env_free(&create.env);
	return s;
}

static void
sandbox_create_v2(struct call *c, const void *request)
{
	const Modal__Client__SandboxCreateV2Request *q = request;
	Modal__Client__SandboxCreateV2Response response =
		MODAL__CLIENT__SANDBOX_CREATE_V2_RESPONSE__INIT;
	Modal__Client__SandboxHandleMetadata metadata =
		MODAL__CLIENT__SANDBOX_HANDLE_METADATA__INIT;
	Modal__Client__CommandRouterAccess access = MODAL__CLIENT__COMMAND_ROUTER_ACCESS__INIT;
	struct sandbox *s = sandbox_of_attempt(c);

	if (!s)
		s = create_v2(c, q);
	if (!s)
		return;
	metadata.app_id = s->app_id;
	access.jwt = router_jwt(c, s);
	access.url = router_url(c);
	response.sandbox_id = s->id;
	response.task_id = s->task_id;
	response.metadata = &metadata;
	response.command_router_access = &access;
	rpc_reply(c, &response.base);
	free(access.jwt);
	free(access.url);
}

/* -- calls that wait for something to happen to a sandbox */

struct wait {
	struct call *c;
	struct sandbox *s;
	struct sandbox_watch watch;
	ev_timer timer;
	bool timed_out;
	/* Answers the call if it can be answered now. */
	void (*go)(struct wait *w);
};

static void
wait_over(struct call *c, void *state)
{
	struct wait *w = state;

	sandbox_unwatch(&w->watch);
	ev_timer_stop(rpc_loop(c), &w->timer);
	free(w);
}

static void
on_wait_change(struct sandbox_watch *watch)
{
	struct wait *w = watch->arg;

	w->go(w);
}

static void
on_wait_timeout(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct wait *w = timer->data;

	(void)loop;
	(void)events;
	w->timed_out = true;
	w->go(w);
}

static void
wait_start(struct call *c, struct sandbox *s, double timeout_s, void (*go)(struct wait *w))
{
	struct wait *w = mem_new(sizeof *w);

	w->c = c;
	w->s = s;
	w->go = go;
	w->watch.on_change = on_wait_change;
	w->watch.arg = w;
	ev_timer_init(&w->timer, on_wait_timeout, timeout_s, 0.);
	w->timer.data = w;
	rpc_set_state(c, w, wait_over);
	sandbox_watch(s, &w->watch);
	if (timeout_s > 0)
		ev_timer_start(rpc_loop(c), &w->timer);
	else
		w->timed_out = true;
	w->go(w);
}

/* -- SandboxWait, SandboxGetTaskId, SandboxTerminate, SandboxWaitUntilReady */

static void
wait_go(struct wait *w)
{
	Modal__Client__SandboxWaitResponse response = MODAL__CLIENT__SANDBOX_WAIT_RESPONSE__INIT;
	Modal__Client__SandboxHandleMetadata metadata =
		MODAL__CLIENT__SANDBOX_HANDLE_METADATA__INIT;
	Modal__Client__GenericResult result = MODAL__CLIENT__GENERIC_RESULT__INIT;

	if (!w->s->over && !w->timed_out)
		return;
	metadata.app_id = w->s->app_id;
	response.metadata = &metadata;
	if (result_fill(w->s, &result))
		response.result = metadata.result = &result;
	rpc_reply(w->c, &response.base);
}

static void
sandbox_wait(struct call *c, const void *request)
{
	const Modal__Client__SandboxWaitRequest *q = request;
	struct sandbox *s = sandbox_get(c, q->sandbox_id);

	if (s)
		wait_start(c, s, (double)q->timeout, wait_go);
}

static void
task_id_go(struct wait *w)
{
	Modal__Client__SandboxGetTaskIdResponse response =
		MODAL__CLIENT__SANDBOX_GET_TASK_ID_RESPONSE__INIT;
	Modal__Client__GenericResult result = MODAL__CLIENT__GENERIC_RESULT__INIT;

	if (!w->s->started && !w->s->over && !w->timed_out)
		return;
	if (w->s->started || w->s->over)
		response.task_id = w->s->task_id;
	if (result_fill(w->s, &result))
		response.task_result = &result;
	rpc_reply(w->c, &response.base);
}

static void
sandbox_get_task_id(struct call *c, const void *request)
{
	const Modal__Client__SandboxGetTaskIdRequest *q = request;
	struct sandbox *s = sandbox_get(c, q->sandbox_id);

	if (s)
		wait_start(c, s, q->timeout > 0 ? (double)q->timeout : task_id_wait_s, task_id_go);
}

static void
sandbox_terminate(struct call *c, const void *request)
{
	const Modal__Client__SandboxTerminateRequest *q = request;
	Modal__Client__SandboxTerminateResponse response =
		MODAL__CLIENT__SANDBOX_TERMINATE_RESPONSE__INIT;
	Modal__Client__GenericResult result = MODAL__CLIENT__GENERIC_RESULT__INIT;
	struct sandbox *s = sandbox_get(c, q->sandbox_id);

	if (!s)
		return;
	if (result_fill(s, &result))
		response.existing_result = &result;
	else
		sandbox_end(s, SANDBOX_TERMINATED, TERMINATED_EXIT_CODE, NULL);
	rpc_reply(c, &response.base);
}

static void
ready_go(struct wait *w)
{
	Modal__Client__SandboxWaitUntilReadyResponse response =
		MODAL__CLIENT__SANDBOX_WAIT_UNTIL_READY_RESPONSE__INIT;

	if (w->s->over) {
		rpc_end(w->c, STATUS_FAILED_PRECONDITION, "sandbox %s has finished", w->s->id);
	} else if (w->s->ready) {
		response.has_ready_at = 1;
		response.ready_at = w->s->ready_at;
		rpc_reply(w->c, &response.base);
	} else if (w->timed_out) {
		rpc_end(w->c, STATUS_DEADLINE_EXCEEDED, "sandbox %s is not ready", w->s->id);
	}
}

static void
sandbox_wait_until_ready(struct call *c, const void *request)
{
	const Modal__Client__SandboxWaitUntilReadyRequest *q = request;
	struct sandbox *s = sandbox_get(c, q->sandbox_id);

	if (s)
		wait_start(c, s, (double)q->timeout, ready_go);
}

/* -- names, tags, listing */

static void
sandbox_get_from_name(struct call *c, const void *request)
{
	const Modal__Client__SandboxGetFromNameRequest *q = request;
	Modal__Client__SandboxGetFromNameResponse response =
		MODAL__CLIENT__SANDBOX_GET_FROM_NAME_RESPONSE__INIT;
	Modal__Client__SandboxHandleMetadata metadata =
		MODAL__CLIENT__SANDBOX_HANDLE_METADATA__INIT;
	struct world *world = rpc_world(c);
	struct app *app = app_find_name(world, q->app_name, q->environment_name);
	struct sandbox *s;

	for (s = app ? world->host.sandboxes : NULL; s; s = s->next) {
		if ((sandbox_accepts(s) || q->include_terminated) && !text_empty(q->sandbox_name) &&
		    text_is(s->name, q->sandbox_name) && text_is(s->app_id, app->id))
			break;
	}
	if (!s) {
		rpc_end(c, STATUS_NOT_FOUND, "no running sandbox named '%s'",
			q->sandbox_name ? q->sandbox_name : "");
		return;
	}
	metadata.app_id = s->app_id;
	response.sandbox_id = s->id;
	response.metadata = &metadata;
	rpc_reply(c, &response.base);
}

static void
sandbox_set_name(struct call *c, const void *request)
{
	const Modal__Client__SandboxSetNameRequest *q = request;
	Modal__Client__SandboxSetNameResponse response =
		MODAL__CLIENT__SANDBOX_SET_NAME_RESPONSE__INIT;
	struct world *world = rpc_world(c);
	struct sandbox *s = sandbox_get(c, q->sandbox_id);

	if (!s)
		return;
	for (struct sandbox *o = world->host.sandboxes; o; o = o->next) {
		if (o != s && !o->over && !text_empty(q->name) && text_is(o->name, q->name) &&
		    text_is(o->app_id, s->app_id)) {
			rpc_end(c, STATUS_ALREADY_EXISTS,
				"a running sandbox named '%s' already exists", q->name);
			return;
		}
	}
	text_replace(&s->name, q->name);
	rpc_reply(c, &response.base);
}

static void
sandbox_tags_set(struct call *c, const void *request)
{
	const Modal__Client__SandboxTagsSetRequest *q = request;
	Modal__Client__Empty response = MODAL__CLIENT__EMPTY__INIT;
	struct sandbox *s = sandbox_get(c, q->sandbox_id);

	if (!s)
		return;
	tags_fill(s, q->n_tags, q->tags);
	rpc_reply(c, &response.base);
}

static Modal__Client__SandboxTag **
tags_message(const struct sandbox *s)
{
	Modal__Client__SandboxTag **tags = mem_new(((size_t)s->tag_count + 1) * sizeof *tags);

	for (int i = 0; i < s->tag_count; i++) {
		tags[i] = mem_new(sizeof **tags);
		modal__client__sandbox_tag__init(tags[i]);
		tags[i]->tag_name = s->tags[i].name;
		tags[i]->tag_value = s->tags[i].value;
	}
	return tags;
}

static void
tags_message_free(Modal__Client__SandboxTag **tags)
{
	for (Modal__Client__SandboxTag **at = tags; *at; at++)
		free(*at);
	free(tags);
}

static void
sandbox_tags_get(struct call *c, const void *request)
{
	const Modal__Client__SandboxTagsGetRequest *q = request;
	Modal__Client__SandboxTagsGetResponse response =
		MODAL__CLIENT__SANDBOX_TAGS_GET_RESPONSE__INIT;
	struct sandbox *s = sandbox_get(c, q->sandbox_id);

	if (!s)
		return;
	response.n_tags = (size_t)s->tag_count;
	response.tags = tags_message(s);
	rpc_reply(c, &response.base);
	tags_message_free(response.tags);
}

static bool
has_tags(const struct sandbox *s, size_t count, Modal__Client__SandboxTag *const *tags)
{
	for (size_t i = 0; i < count; i++) {
		bool found = false;

		for (int j = 0; j < s->tag_count; j++)
			found = found || (text_is(s->tags[j].name, tags[i]->tag_name) &&
					  text_is(s->tags[j].value,
						  tags[i]->tag_value ? tags[i]->tag_value : ""));
		if (!found)
			return false;
	}
	return true;
}

static bool
is_listed(const struct sandbox *s, struct world *world, const Modal__Client__SandboxListRequest *q)
{
	struct app *app = app_find(world, s->app_id);

	if (s->over && !q->include_finished)
		return false;
	if (q->before_timestamp > 0 && s->created_at >= q->before_timestamp)
		return false;
	if (!text_empty(q->app_id) && !text_is(s->app_id, q->app_id))
		return false;
	if (!text_empty(q->environment_name) && app &&
	    !text_is(app->environment, q->environment_name))
		return false;
	return has_tags(s, q->n_tags, q->tags);
}

/* One entry with all that hangs on it. */
struct listed {
	Modal__Client__SandboxInfo info;
	Modal__Client__TaskInfo task;
	Modal__Client__GenericResult result;
	Modal__Client__SandboxHandleMetadata metadata;
};

static void
listed_fill(struct listed *l, const struct sandbox *s)
{
	modal__client__sandbox_info__init(&l->info);
	modal__client__task_info__init(&l->task);
	modal__client__generic_result__init(&l->result);
	modal__client__sandbox_handle_metadata__init(&l->metadata);
	l->task.id = s->task_id;
	l->task.sandbox_id = s->id;
	l->task.has_started_at = s->started;
	l->task.started_at = s->created_at;
	l->task.has_finished_at = s->over;
	l->task.finished_at = s->finished_at;
	if (result_fill(s, &l->result))
		l->task.result = l->metadata.result = &l->result;
	l->metadata.app_id = s->app_id;
	l->info.id = s->id;
	l->info.has_created_at = 1;
	l->info.created_at = s->created_at;
	l->info.task_info = &l->task;
	l->info.app_id = s->app_id;
	l->info.name = s->name;
	l->info.image_id = s->image_id;
	l->info.has_timeout_secs = 1;
	l->info.timeout_secs = s->spec.timeout_s;
	l->info.has_idle_timeout_secs = s->spec.idle_timeout_s > 0;
	l->info.idle_timeout_secs = s->spec.idle_timeout_s;
	l->info.has_ready_at = s->ready;
	l->info.ready_at = s->ready_at;
	l->info.metadata = &l->metadata;
	l->info.n_tags = (size_t)s->tag_count;
	l->info.tags = tags_message(s);
}

/* Newest first, a page at a time; the client asks again before the last one's time until a page is
 * empty. */
static void
sandbox_list_any(struct call *c, const Modal__Client__SandboxListRequest *q, bool with_v2)
{
	Modal__Client__SandboxListResponse response = MODAL__CLIENT__SANDBOX_LIST_RESPONSE__INIT;
	struct world *world = rpc_world(c);
	struct listed *listed = mem_new(LIST_PAGE_MAX * sizeof *listed);
	Modal__Client__SandboxInfo *infos[LIST_PAGE_MAX];
	size_t n = 0;

	for (struct sandbox *s = world->host.sandboxes; s && n < LIST_PAGE_MAX; s = s->next) {
		if ((s->v2 && !with_v2) || !is_listed(s, world, q))
			continue;
		listed_fill(&listed[n], s);
		infos[n] = &listed[n].info;
		n++;
	}
	response.n_sandboxes = n;
	response.sandboxes = infos;
	rpc_reply(c, &response.base);
	for (size_t i = 0; i < n; i++)
		tags_message_free(listed[i].info.tags);
	free(listed);
}

static void
sandbox_list(struct call *c, const void *request)
{
	sandbox_list_any(c, request, false);
}

static void
sandbox_list_v2(struct call *c, const void *request)
{
	sandbox_list_any(c, request, true);
}

/* -- tunnels */

/* A sandbox with a network shares the host's, so an unencrypted port is reachable as it is. Nothing
 * here ends TLS for a sandbox: encrypted ports are not listed. */
static void
sandbox_get_tunnels(struct call *c, const void *request)
{
	const Modal__Client__SandboxGetTunnelsRequest *q = request;
	Modal__Client__SandboxGetTunnelsResponse response =
		MODAL__CLIENT__SANDBOX_GET_TUNNELS_RESPONSE__INIT;
	Modal__Client__GenericResult result = MODAL__CLIENT__GENERIC_RESULT__INIT;
	struct sandbox *s = sandbox_get(c, q->sandbox_id);
	Modal__Client__TunnelData *tunnels;
	Modal__Client__TunnelData **list;
	char host[] = "127.0.0.1";

	if (!s)
		return;
	tunnels = mem_new(((size_t)s->port_count + 1) * sizeof *tunnels);
	list = mem_new(((size_t)s->port_count + 1) * sizeof *list);
	for (int i = 0; i < s->port_count; i++) {
		modal__client__tunnel_data__init(&tunnels[i]);
		tunnels[i].host = tunnels[i].unencrypted_host = host;
		tunnels[i].has_port = tunnels[i].has_unencrypted_port = 1;
		tunnels[i].port = tunnels[i].unencrypted_port = s->ports[i];
		tunnels[i].has_container_port = 1;
		tunnels[i].container_port = s->ports[i];
		list[i] = &tunnels[i];
	}
	result.has_status = 1;
	result.status = MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_SUCCESS;
	response.result = &result;
	response.n_tunnels = (size_t)s->port_count;
	response.tunnels = list;
	rpc_reply(c, &response.base);
	free(list);
	free(tunnels);
}

#define BOTH(name, request, run)                                                                   \
	{ CONTROL(name), RPC_UNARY, false, CONTROL_REQUEST(request), run },                        \
	{                                                                                          \
		CONTROL(name "V2"), RPC_UNARY, true, CONTROL_REQUEST(request), run                 \
	}

const struct rpc_method control_methods[] = {
	{ CONTROL("SandboxCreate"), RPC_UNARY, false, CONTROL_REQUEST(sandbox_create),
	  sandbox_create },
	{ CONTROL("SandboxCreateV2"), RPC_UNARY, true, CONTROL_REQUEST(sandbox_create_v2),
	  sandbox_create_v2 },
	{ CONTROL("TaskGetCommandRouterAccess"), RPC_UNARY, false,
	  CONTROL_REQUEST(task_get_command_router_access), task_get_command_router_access },
	{ CONTROL("SandboxGetCommandRouterAccess"), RPC_UNARY, true,
	  CONTROL_REQUEST(sandbox_get_command_router_access), sandbox_get_command_router_access },
	BOTH("SandboxGetTaskId", sandbox_get_task_id, sandbox_get_task_id),
	BOTH("SandboxWait", sandbox_wait, sandbox_wait),
	BOTH("SandboxTerminate", sandbox_terminate, sandbox_terminate),
	BOTH("SandboxGetFromName", sandbox_get_from_name, sandbox_get_from_name),
	BOTH("SandboxTagsSet", sandbox_tags_set, sandbox_tags_set),
	BOTH("SandboxTagsGet", sandbox_tags_get, sandbox_tags_get),
	BOTH("SandboxGetTunnels", sandbox_get_tunnels, sandbox_get_tunnels),
	{ CONTROL("SandboxSetName"), RPC_UNARY, true, CONTROL_REQUEST(sandbox_set_name),
	  sandbox_set_name },
	{ CONTROL("SandboxList"), RPC_UNARY, false, CONTROL_REQUEST(sandbox_list), sandbox_list },
	{ CONTROL("SandboxListV2"), RPC_UNARY, true, CONTROL_REQUEST(sandbox_list),
	  sandbox_list_v2 },
	{ CONTROL("SandboxWaitUntilReady"), RPC_UNARY, false,
	  CONTROL_REQUEST(sandbox_wait_until_ready), sandbox_wait_until_ready },
	{ NULL, RPC_UNARY, false, NULL, NULL },
};
