/* sandbox.h -- one sandbox: a bubblewrap with process 1 of ours in it (init.h), its commands, its
 * end. Knows nothing of protobuf or gRPC; control.c and router.c translate. */
#ifndef LOOPBACK_SANDBOX_H
#define LOOPBACK_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

#include "tests/loopback/exec.h"

struct ev_loop;
struct sandbox;

/* What all sandboxes share. */
struct sandbox_host {
	struct ev_loop *loop;
	const char *state_dir;	   /* absolute; everything is below it */
	const char *program;	   /* this binary */
	char *const *shares;	   /* host folders shown at their own path; NULL-terminated */
	struct rlimit files;	   /* RLIMIT_NOFILE as the server found it, for the commands */
	int start_delay_ms;	   /* every start completes this much later (--strict-order) */
	struct sandbox *sandboxes; /* newest first */
};

struct sandbox_mount {
	char *source, *target;
	bool read_only;
};

struct sandbox_spec {
	char *root; /* the tree it starts with */
	char **env; /* NAME=value, NULL-terminated */
	char *workdir;
	char **argv;		/* entrypoint; empty = none, the sandbox idles */
	uint32_t rows, columns; /* of the entrypoint's terminal; 0 = none */
	struct sandbox_mount *mounts;
	int mount_count;
	bool blocked;			    /* no network */
	uint32_t timeout_s, idle_timeout_s; /* 0 = none */
};

enum sandbox_result {
	SANDBOX_RUNNING,
	SANDBOX_SUCCESS,
	SANDBOX_FAILURE,
	SANDBOX_TERMINATED,
	SANDBOX_TIMEOUT,
	SANDBOX_INIT_FAILURE,
	SANDBOX_IDLE_TIMEOUT
};

struct tag {
	char *name, *value;
};

struct sandbox_watch {
	struct sandbox_watch *next, *prev;
	struct sandbox *sandbox;		    /* NULL when not watching */
	void (*on_change)(struct sandbox_watch *w); /* it has become ready, or is over */
	void *arg;
};

struct sandbox {
	struct sandbox *next, *prev;
	struct sandbox_host *host;
	/* the record; owned by the control plane */
	char *id, *task_id, *app_id, *name, *image_id, *idempotency_key;
	bool v2;
	struct tag *tags;
	int tag_count;
	double created_at, ready_at, finished_at;
	struct sandbox_spec spec;
	uint32_t *ports;
	int port_count;
	uint32_t stdin_index; /* of the last V1 entrypoint write */
	/* the process */
	char *dir;		    /* <state>/sandboxes/<id>: root, mounts, log */
	enum sandbox_result result; /* decided; final once `over` */
	int exit_code;
	char *exception;
	bool started, ready, over; /* process 1 runs; the probe, if any, has succeeded too */
	struct probe *probe;	   /* owned; NULL = none */
	struct sandbox_link *link;
	struct exec *execs; /* newest first */
	struct exec *entry; /* NULL without an entrypoint */
	uint32_t number;    /* of the last exec, mount … */
	int copies;	    /* snapshots being taken: its files must stay */
	bool removed;	    /* its files */
	struct sandbox_watch *watches;
};

/* Takes over what spec points to.  The sandbox is in the list of its host and being started. */
struct sandbox *sandbox_new(struct sandbox_host *host, const char *id, const char *task_id,
			    struct sandbox_spec spec);
/* Decides the result, if none is yet, and ends all processes.  `over` comes later. */
void sandbox_end(struct sandbox *s, enum sandbox_result result, int exit_code,
		 const char *exception);
/* Not ended and not about to: accepts commands. */
bool sandbox_accepts(const struct sandbox *s);
struct sandbox *sandbox_find(struct sandbox_host *host, const char *id);
struct sandbox *sandbox_find_task(struct sandbox_host *host, const char *task_id);
void sandbox_watch(struct sandbox *s, struct sandbox_watch *w);
void sandbox_unwatch(struct sandbox_watch *w);
/* For probe.c: the probe has succeeded. */
void sandbox_set_probed(struct sandbox *s);
/* The idle clock starts anew if nothing runs. */
void sandbox_touch(struct sandbox *s);

/* Copies the writable files, or one folder that an image is mounted on, to a new directory `to`.
 * on_done gets 0 or -errno. */
void sandbox_snapshot(struct sandbox *s, const char *path, const char *to,
		      void (*on_done)(void *arg, int result), void *arg);
/* Shows a copy of the tree at `source` (NULL = an empty one) at path. */
void sandbox_mount(struct sandbox *s, const char *path, const char *source,
		   void (*on_done)(void *arg, int result), void *arg);
void sandbox_unmount(struct sandbox *s, const char *path, void (*on_done)(void *arg, int result),
		     void *arg);
void sandbox_set_network(struct sandbox *s, bool open_network,
			 void (*on_done)(void *arg, int result), void *arg);
bool sandbox_has_mount(const struct sandbox *s, const char *path);

/* Ends them all, waits, at most a few seconds, and forgets them.  The loop must not run any more.
 */
void sandbox_host_close(struct sandbox_host *host);

/* For exec.c: one frame to process 1. */
int sandbox_send(struct sandbox *s, uint32_t type, uint32_t id, const void *body, size_t len,
		 const int *fds, size_t fd_count);

#endif
