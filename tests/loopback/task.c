/* task.c -- the worker's side of Modal's API: the sandbox's own streams, snapshots, mounts,
 * network. */
#include "tests/loopback/router.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "proto/modal_router.pb-c.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/convert.h"
#include "tests/loopback/feed.h"
#include "tests/loopback/outlog.h"
#include "tests/loopback/world.h"

enum { PATH_LEN_MAX = 4096 };

/* One call that has asked for file-system work.  The work goes on when the call is over before it.
 */
struct job {
	struct call *c; /* NULL when the call is over */
	struct sandbox *s;
	struct image *image; /* being made */
};

static void
job_call_over(struct call *c, void *state)
{
	struct job *job = state;

	(void)c;
	job->c = NULL;
}

static struct job *
job_new(struct call *c, struct sandbox *s)
{
	struct job *job = mem_new(sizeof *job);

	job->c = c;
	job->s = s;
	rpc_set_state(c, job, job_call_over);
	return job;
}

static void
job_fail(struct job *job, int result)
{
	if (!job->c)
		return;
	if (result == -ENOENT)
		rpc_end(job->c, STATUS_NOT_FOUND, "nothing is mounted there");
	else if (result == -EPIPE)
		rpc_end(job->c, STATUS_NOT_FOUND, "task has finished");
	else
		rpc_end(job->c, STATUS_FAILED_PRECONDITION, "%s", strerror(-result));
}

/* An absolute path as text, or NULL when the call was ended. */
static char *
path_take(struct call *c, const ProtobufCBinaryData *path)
{
	if (path->len == 0 || path->len > PATH_LEN_MAX || path->data[0] != '/' ||
	    memchr(path->data, 0, path->len)) {
		rpc_end(c, STATUS_INVALID_ARGUMENT, "path must be absolute");
		return NULL;
	}
	return text_format("%.*s", (int)path->len, (const char *)path->data);
}

/* -- snapshots */

static struct image *
image_find_snapshot(struct world *world, const char *snapshot_id)
{
	for (struct image *i = world->images; i; i = i->next) {
		if (!text_empty(snapshot_id) && text_is(i->snapshot_id, snapshot_id) &&
		    i->state != IMAGE_FAILED)
			return i;
	}
	return NULL;
}

static void
snapshot_reply(struct call *c, struct image *image)
{
	Modal__TaskCommandRouter__TaskSnapshotFilesystemResponse response =
		MODAL__TASK_COMMAND_ROUTER__TASK_SNAPSHOT_FILESYSTEM_RESPONSE__INIT;

	response.image_id = image->id;
	rpc_reply(c, &response.base);
}

/* A second call for a snapshot that is being taken. */
struct follower {
	struct image_watch watch;
	struct call *c;
	struct image *image;
};

static void
follower_over(struct call *c, void *state)
{
	struct follower *f = state;
	struct image_watch **at = &f->image->watches;

	(void)c;
	while (*at && *at != &f->watch)
		at = &(*at)->next;
	if (*at)
		*at = f->watch.next;
	free(f);
}

static void
on_followed(struct image_watch *w)
{
	struct follower *f = (struct follower *)((char *)w - offsetof(struct follower, watch));

	if (f->image->state == IMAGE_READY)
		snapshot_reply(f->c, f->image);
	else
		rpc_end(f->c, STATUS_INTERNAL, "%s", f->image->exception);
}

static void
snapshot_follow(struct call *c, struct image *image)
{
	struct follower *f;

	if (image->state == IMAGE_READY) {
		snapshot_reply(c, image);
		return;
	}
	f = mem_new(sizeof *f);
	f->c = c;
	f->image = image;
	f->watch.on_change = on_followed;
	f->watch.next = image->watches;
	image->watches = &f->watch;
	rpc_set_state(c, f, follower_over);
}

static void
on_snapshot(void *arg, int result)
{
	struct job *job = arg;

	if (result < 0) {
		job_fail(job, result);
		image_finish(job->image, IMAGE_FAILED, strerror(-result));
	} else {
		image_finish(job->image, IMAGE_READY, NULL);
		if (job->c)
			snapshot_reply(job->c, job->image);
	}
	free(job);
}

/* An image of the sandbox's files remembers what the sandbox had from its image. */
static void
image_describe(struct image *image, struct sandbox *s, struct world *world)
{
	const struct image *from = image_find(world, s->image_id);

	if (!from)
		return;
	env_add(&image->env, &from->env);
	text_replace(&image->workdir, from->workdir);
}

/* path NULL = the whole file system. */
static void
snapshot_start(struct call *c, struct sandbox *s, const char *snapshot_id, const char *path)
{
	struct world *world = rpc_world(c);
	struct job *job;
	struct image *image = image_find_snapshot(world, snapshot_id);

	if (image) {
		snapshot_follow(c, image);
		return;
	}
	job = job_new(c, s);
	image = job->image = image_new(world);
	image->snapshot_id = text_copy(snapshot_id);
	image->directory = path != NULL;
	free(image->tree);
	image->tree = text_format("%s/images/%s", world->host.state_dir, image->id);
	if (!path)
		image_describe(image, s, world);
	sandbox_snapshot(s, path, image->tree, on_snapshot, job);
}

static bool
ttl_is_valid(struct call *c, bool is_set, int64_t ttl_s)
{
	if (!is_set || ttl_s == -1 || ttl_s > 0)
		return true;
	rpc_end(c, STATUS_INVALID_ARGUMENT, "ttl_seconds must be positive, or -1");
	return false;
}

static void
task_snapshot_filesystem(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskSnapshotFilesystemRequest *q = request;
	struct sandbox *s = router_admit(c, q->task_id);

	if (s && ttl_is_valid(c, q->has_ttl_seconds, q->ttl_seconds))
		snapshot_start(c, s, q->snapshot_id, NULL);
}

static void
task_snapshot_directory(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskSnapshotDirectoryRequest *q = request;
	struct sandbox *s = router_admit(c, q->task_id);
	char *path = s && ttl_is_valid(c, q->has_ttl_seconds, q->ttl_seconds) ?
			     path_take(c, &q->path) :
			     NULL;

	if (path)
		snapshot_start(c, s, q->snapshot_id, path);
	free(path);
}

/* -- mounts, network, volumes */

static void
on_done_empty(void *arg, int result)
{
	Modal__Client__Empty response = MODAL__CLIENT__EMPTY__INIT;
	struct job *job = arg;

	if (result < 0)
		job_fail(job, result);
	else if (job->c)
		rpc_reply(job->c, &response.base);
	free(job);
}

static void
task_mount_directory(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskMountDirectoryRequest *q = request;
	struct sandbox *s = router_admit(c, q->task_id);
	char *path = s ? path_take(c, &q->path) : NULL;
	struct image *image = NULL;

	if (!path)
		return;
	if (!text_empty(q->image_id)) {
		image = image_find(rpc_world(c), q->image_id);
		if (!image || image->state != IMAGE_READY) {
			rpc_end(c, STATUS_NOT_FOUND, "no image %s", q->image_id);
			free(path);
			return;
		}
	}
	sandbox_mount(s, path, image ? image->tree : NULL, on_done_empty, job_new(c, s));
	free(path);
}

static void
task_unmount_directory(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskUnmountDirectoryRequest *q = request;
	struct sandbox *s = router_admit(c, q->task_id);
	char *path = s ? path_take(c, &q->path) : NULL;

	if (path)
		sandbox_unmount(s, path, on_done_empty, job_new(c, s));
	free(path);
}

/* The policy replaces the old one: all or nothing here, so a list with anything less than
 * everything on it lets nothing through. */
static void
task_set_network_access(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskSetNetworkAccessRequest *q = request;
	struct sandbox *s = router_admit(c, q->task_id);

	if (!s)
		return;
	if (!q->network_access ||
	    q->network_access->network_access_type !=
		    MODAL__CLIENT__NETWORK_ACCESS__NETWORK_ACCESS_TYPE__ALLOWLIST) {
		rpc_end(c, STATUS_INVALID_ARGUMENT,
			"network access can only be set to an allow-list");
		return;
	}
	sandbox_set_network(s, convert_allows_all(q->network_access), on_done_empty, job_new(c, s));
}

/* Volumes are shared folders: what one sandbox writes, the others see. */
static void
task_reload_volumes(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__TaskReloadVolumesRequest *q = request;
	Modal__TaskCommandRouter__TaskReloadVolumesResponse response =
		MODAL__TASK_COMMAND_ROUTER__TASK_RELOAD_VOLUMES_RESPONSE__INIT;

	if (router_admit(c, q->task_id))
		rpc_reply(c, &response.base);
}

/* -- readiness */

struct ready_wait {
	struct call *c;
	struct sandbox *s;
	struct sandbox_watch watch;
	ev_timer timer;
};

static void
ready_over(struct call *c, void *state)
{
	struct ready_wait *w = state;

	sandbox_unwatch(&w->watch);
	ev_timer_stop(rpc_loop(c), &w->timer);
	free(w);
}

static void
on_ready_change(struct sandbox_watch *watch)
{
	Modal__TaskCommandRouter__SandboxWaitUntilReadyTcrResponse response =
		MODAL__TASK_COMMAND_ROUTER__SANDBOX_WAIT_UNTIL_READY_TCR_RESPONSE__INIT;
	struct ready_wait *w = watch->arg;

	if (w->s->over) {
		rpc_end(w->c, STATUS_NOT_FOUND, "task has finished");
	} else if (w->s->ready) {
		response.has_ready_at = 1;
		response.ready_at = w->s->ready_at;
		rpc_reply(w->c, &response.base);
	}
}

static void
on_ready_timeout(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct ready_wait *w = timer->data;

	(void)loop;
	(void)events;
	rpc_end(w->c, STATUS_DEADLINE_EXCEEDED, "the sandbox is not ready");
}

static void
sandbox_wait_until_ready(struct call *c, const void *request)
{
	const Modal__TaskCommandRouter__SandboxWaitUntilReadyTcrRequest *q = request;
	struct sandbox *s = router_admit(c, q->task_id);
	struct ready_wait *w;

	if (!s)
		return;
	w = mem_new(sizeof *w);
	w->c = c;
	w->s = s;
	w->watch.on_change = on_ready_change;
	w->watch.arg = w;
	ev_timer_init(&w->timer, on_ready_timeout, (double)q->timeout, 0.);
	w->timer.data = w;
	rpc_set_state(c, w, ready_over);
	sandbox_watch(s, &w->watch);
	if (q->timeout > 0)
		ev_timer_start(rpc_loop(c), &w->timer);
	on_ready_change(&w->watch);
}

#define ROUTER(name)  "/modal.task_command_router.TaskCommandRouter/" name
#define REQUEST(name) &modal__task_command_router__##name##_request__descriptor

const struct rpc_method task_methods[] = {
	{ ROUTER("TaskSnapshotFilesystem"), RPC_UNARY, false, REQUEST(task_snapshot_filesystem),
	  task_snapshot_filesystem },
	{ ROUTER("TaskSnapshotDirectory"), RPC_UNARY, false, REQUEST(task_snapshot_directory),
	  task_snapshot_directory },
	{ ROUTER("TaskMountDirectory"), RPC_UNARY, false, REQUEST(task_mount_directory),
	  task_mount_directory },
	{ ROUTER("TaskUnmountDirectory"), RPC_UNARY, false, REQUEST(task_unmount_directory),
	  task_unmount_directory },
	{ ROUTER("TaskSetNetworkAccess"), RPC_UNARY, false, REQUEST(task_set_network_access),
	  task_set_network_access },
	{ ROUTER("TaskReloadVolumes"), RPC_UNARY, false, REQUEST(task_reload_volumes),
	  task_reload_volumes },
	{ ROUTER("SandboxWaitUntilReady"), RPC_UNARY, false, REQUEST(sandbox_wait_until_ready_tcr),
	  sandbox_wait_until_ready },
	{ NULL, RPC_UNARY, false, NULL, NULL },
};
