/* modal.h -- Modal's API as typed calls: what is asked, what comes back.  Of the broker only
 * modal*.c know the messages.
 *
 * Callbacks come from the loop, never from inside the function that takes them, and never after
 * modal_call_free(), which may be called from any of them.  Strings of a reply are gone after
 * the callback. */
#ifndef SHIM_BROKER_MODAL_H
#define SHIM_BROKER_MODAL_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/grpc_status.h"
#include "shim/base/err.h"
#include "shim/broker/config.h"
#include "shim/broker/cred.h"
#include "shim/broker/http.h"

#define MODAL_UUID_LEN	   37u /* text and terminator */
#define MODAL_ID_LEN_MAX   128u
#define MODAL_URL_LEN_MAX  512u
#define MODAL_TAGS_MAX	   8u
#define MODAL_NAME_LEN_MAX 64u
/* Bytes of argv that TaskExecStart takes. */
#define MODAL_ARGV_LEN_MAX (64u * 1024)

/* A random identifier: names an exec, makes a repeated request harmless. */
void modal_uuid_make(char ret[MODAL_UUID_LEN]);

/* By the id's shape: V1 is sb- and 22 letters or digits, everything else is V2. */
bool modal_sandbox_is_v2(const char *sandbox_id);

/* What a GenericResult says. */
enum modal_result { MODAL_RUNNING, MODAL_SUCCEEDED, MODAL_ENDED };

/* What came back; a string that did not is "". */
struct modal_reply {
	enum grpc_code code;
	bool transient;	       /* repeating may help */
	const struct err *err; /* when code is not GRPC_OK: one line */
	const char *id;	       /* app, environment, image, sandbox */
	const char *task_id;
	const char *builder_version;
	const char *jwt, *url, *ipv4; /* of the router */
	enum modal_result result;
	const char *result_text; /* why it ended */
	int exit_code;		 /* of an exec: 128 + n for a signal; -1 = unknown */
	uint64_t stdin_len;	 /* bytes of stdin that the exec has taken */
	bool stdin_closed;
};

struct modal_call;
/* NULL is fine. */
void modal_call_free(struct modal_call *call);

/* ---- control plane; every function returns the call, or NULL without memory ---- */

struct modal;

/* cred and http outlive it.  Returns 0 or negative errno with *err set. */
int modal_new(struct ev_loop *loop, struct http *http, const struct cred *cred, struct modal **ret,
	      struct err *err);
/* Its calls must have been freed. */
void modal_free(struct modal *modal);

#define MODAL_DONE void (*done)(void *arg, const struct modal_reply *reply), void *arg

struct modal_call *modal_app_get(struct modal *modal, const char *app, const char *environment,
				 MODAL_DONE);
/* reply: builder_version */
struct modal_call *modal_environment_get(struct modal *modal, const char *environment, MODAL_DONE);
/* An image of a registry reference.  reply: id, result (MODAL_RUNNING: it is being built, see
 * modal_image_join) */
struct modal_call *modal_image_get(struct modal *modal, const char *reference, const char *app_id,
				   const char *builder_version, MODAL_DONE);
/* Waits until an image is built; log() gets the text of the build, in pieces. */
struct modal_call *modal_image_join(struct modal *modal, const char *image_id,
				    void (*log)(void *arg, const char *text), MODAL_DONE);
/* A running sandbox of that name.  reply: id; code GRPC_NOT_FOUND when there is none */
struct modal_call *modal_sandbox_find(struct modal *modal, bool v2, const char *name,
				      const char *environment, const char *app, MODAL_DONE);

struct modal_tag {
	const char *name;
	const char *value;
};

struct modal_sandbox_spec {
	bool v2;
	const char *app_id;
	const char *image_id;
	const char *name;
	uint32_t milli_cpu, memory_mib; /* 0 = Modal's default */
	uint32_t lifetime_s, idle_timeout_s;
	bool network_open;
	const struct modal_tag *tags;
	size_t tag_count; /* at most MODAL_TAGS_MAX */
};

/* reply: id, and with V2 task_id, jwt, url */
struct modal_call *modal_sandbox_create(struct modal *modal, const struct modal_sandbox_spec *spec,
					MODAL_DONE);
/* reply: task_id ("" = not scheduled yet), result (not MODAL_RUNNING: it is over) */
struct modal_call *modal_task_get(struct modal *modal, const char *sandbox_id, MODAL_DONE);
/* V1 wants the task, V2 the sandbox.  reply: jwt, url, ipv4; GRPC_FAILED_PRECONDITION: it is
 * over */
struct modal_call *modal_access_get(struct modal *modal, const char *sandbox_id,
				    const char *task_id, MODAL_DONE);
/* reply: result; does not wait */
struct modal_call *modal_sandbox_poll(struct modal *modal, const char *sandbox_id, MODAL_DONE);
struct modal_call *modal_sandbox_terminate(struct modal *modal, const char *sandbox_id, MODAL_DONE);

/* ---- the router of one sandbox ---- */

struct modal_router;

/* Returns 0 or negative errno with *err set. */
int modal_router_new(struct modal *modal, const char *sandbox_id, const char *task_id,
		     struct modal_router **ret, struct err *err);
/* Its calls must have been freed. */
void modal_router_free(struct modal_router *router);

/* Where it is and the token for it; calls need this first.  An expired token is replaced by
 * itself. */
int modal_router_access_set(struct modal_router *router, const char *url, const char *ipv4,
			    const char *jwt, struct err *err);

/* Asks for both anew, for it cannot be reached where it was.  Later calls go to the address that
 * comes. */
void modal_router_access_renew(struct modal_router *router);

/* One attempt to reach the router.  GRPC_OK: it answers. */
struct modal_call *modal_router_probe(struct modal_router *router, MODAL_DONE);

struct modal_call *modal_exec_start(struct modal_router *router, const char *exec_id,
				    const char *const *argv, MODAL_DONE);
/* Waits for its end, at most a minute (GRPC_DEADLINE_EXCEEDED).  reply: exit_code */
struct modal_call *modal_exec_wait(struct modal_router *router, const char *exec_id, MODAL_DONE);
/* One piece of stdin at its offset; eof closes it afterwards. */
struct modal_call *modal_exec_write(struct modal_router *router, const char *exec_id,
				    uint64_t offset, struct view bytes, bool eof, MODAL_DONE);
/* How much of stdin has arrived: stdin_len, stdin_closed.  Ends a modal_exec_feed() in progress. */
struct modal_call *modal_exec_fed(struct modal_router *router, const char *exec_id, MODAL_DONE);

/* The two streams of an exec make one attempt; a GRPC_UNAUTHENTICATED of theirs is reported when
 * a new token is there. */

/* Output from offset on (fd 0 = stdout, 1 = stderr) to data(); GRPC_OK: its end. */
struct modal_call *modal_exec_read(struct modal_router *router, const char *exec_id, int fd,
				   uint64_t offset,
				   void (*data)(void *arg, const uint8_t *bytes, size_t len),
				   MODAL_DONE);
/* Input from offset on.  want() fills in bytes and returns how many, 0 for none now,
 * MODAL_FEED_END to close stdin. */
#define MODAL_FEED_END SIZE_MAX
struct modal_call *modal_exec_feed(struct modal_router *router, const char *exec_id,
				   uint64_t offset,
				   size_t (*want)(void *arg, uint8_t *bytes, size_t len),
				   MODAL_DONE);
/* want() has something again. */
void modal_exec_feed_wake(struct modal_call *call);

#endif
