/* sandbox.h -- one Modal sandbox: found again by its name or created, kept, ended; and execs in it.
 *
 * Everything is asynchronous on the loop of the broker.  Callbacks are never called from inside the
 * function that registered them, and never after the object was freed. */
#ifndef SHIM_BROKER_SANDBOX_H
#define SHIM_BROKER_SANDBOX_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/base/err.h"
#include "shim/broker/config.h"
#include "shim/broker/cred.h"

struct sandbox;

enum sandbox_state { SANDBOX_NONE, SANDBOX_STARTING, SANDBOX_READY, SANDBOX_ENDING };

struct sandbox_events {
	/* The sandbox exists and its router answers: execs may be started. */
	void (*ready)(void *arg);
	/* It could not be had, for the reason in *err; sandbox_want() may be called again later. */
	void (*failed)(void *arg, const struct err *err);
	/* It was there and is no more (life-time, idle time-out, terminated by somebody). */
	void (*gone)(void *arg, const char *reason);
};

/* Needs config and cred to outlive it.  No request is made yet.  Returns 0 or negative errno with
 * *err set. */
int sandbox_new(struct ev_loop *loop, const struct config *config, const struct cred *cred,
		const struct sandbox_events *events, void *arg, struct sandbox **ret,
		struct err *err);

/* Makes sure that a sandbox is there or on its way; ready or failed will be called unless it is
 * ready already (returns true then).  Callers that arrive while it is being created wait for the
 * same creation. */
bool sandbox_want(struct sandbox *sandbox);

/* Terminates what this broker owns and calls done when Modal has confirmed (or after STOP_WAIT_MS).
 * No other callback comes afterwards. */
void sandbox_stop(struct sandbox *sandbox, void (*done)(void *arg), void *arg);

/* Drops connections and memory without terminating the sandbox at Modal. */
void sandbox_free(struct sandbox *sandbox);

/* The router is silent: whatever connection there is may be dead, and the router may have another
 * address by now. */
void sandbox_reconnect(struct sandbox *sandbox);

/* For status; strings are "" when there is nothing to say. */
struct sandbox_info {
	enum sandbox_state state;
	const char *id;
	const char *task_id;
	const char *name;
	const char *image_id;
	int64_t created_ms;	/* monotonic clock; 0 = never */
	uint32_t created_count; /* sandboxes created since the broker started */
};
void sandbox_info(const struct sandbox *sandbox, struct sandbox_info *ret);

/* ---- execs ---- */

struct remote_exec;

struct remote_exec_events {
	/* Bytes of the process' stdout, in order, none lost or twice; they are gone after the call.
	 */
	void (*data)(void *arg, const uint8_t *bytes, size_t len);
	/* Fills up to len bytes of the process' stdin and returns how many; 0 = none now: call
	 * remote_exec_wake() when there are some.  Not asked while the path is full. */
	size_t (*want)(void *arg, uint8_t *bytes, size_t len);
	/* The exec is over: its process ended with this exit code (128 + n for a signal), or *err
	 * (then exit_code -1) says why it cannot be reached any more.  Comes after the last data.
	 * The object stays to be freed. */
	void (*ended)(void *arg, int exit_code, const struct err *err);
};

/* Starts argv (NULL-terminated, at most 64 KiB) in the ready sandbox, with stdin and stdout as
 * streams; stderr is kept to the last KiB for remote_exec_stderr().  Transient faults (reset,
 * GOAWAY, UNAVAILABLE, expired JWT) are mended inside by offset; what cannot be mended is reported
 * by ended.  Returns 0 or negative errno with *err. */
int remote_exec_start(struct sandbox *sandbox, const char *const *argv,
		      const struct remote_exec_events *events, void *arg, struct remote_exec **ret,
		      struct err *err);

/* There is something for want() again. */
void remote_exec_wake(struct remote_exec *exec);

/* No more stdin after what want() still has (it is asked until it returns 0). */
void remote_exec_close_stdin(struct remote_exec *exec);

/* The tail of stderr as text, printable characters only. */
const char *remote_exec_stderr(const struct remote_exec *exec);

/* Abandons the streams; the process itself is not killed.  NULL is fine. */
void remote_exec_free(struct remote_exec *exec);

#endif
