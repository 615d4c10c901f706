/* exec.h -- one command in a sandbox: its descriptors, its time limit, its exit status. */
#ifndef LOOPBACK_EXEC_H
#define LOOPBACK_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ev.h>

struct feed;
struct outlog;
struct sandbox;

struct exec_spec {
	const char *id; /* chosen by the client; NULL for the entrypoint */
	char *const *argv, *const *env;
	const char *workdir;
	uint32_t rows, columns; /* 0 = no terminal */
	bool discard_out[2];	/* stdout, stderr go to /dev/null */
	uint32_t timeout_s;	/* 0 = none */
	bool is_internal;	/* no client's: does not keep an idle sandbox alive */
};

enum exec_state { EXEC_STARTING, EXEC_RUNNING, EXEC_ENDED, EXEC_FAILED };

struct exec_watch {
	struct exec_watch *next, *prev;
	struct exec *exec; /* NULL when not watching */
	uint32_t round;	   /* the last one it was told */
	void (*on_change)(struct exec_watch *w);
	void *arg;
};

struct exec {
	struct exec *next;
	struct sandbox *sandbox;
	char *id;
	uint32_t number; /* the id that process 1 knows it by */
	enum exec_state state;
	int start_errno; /* EXEC_FAILED: why */
	int wait_status; /* EXEC_ENDED: as waitpid gives it */
	bool lost;	 /* the sandbox is over: on_change is called for the last time */
	int fds[3];	 /* our ends until it is started; -1 = /dev/null */
	bool terminal, is_internal;
	struct feed *in; /* from EXEC_RUNNING on, like the logs */
	struct outlog *out[2];
	ev_timer timeout, start_delay;
	struct exec_watch *watches;
	uint32_t round;
	void *stdin_stream; /* the call that streams stdin, if any; router.c's */
};

/* Returns 0 or -errno; the exec is in its sandbox's list. */
int exec_start(struct sandbox *s, const struct exec_spec *spec, struct exec **ret);
struct exec *exec_find(const struct sandbox *s, const char *id);
void exec_watch(struct exec *x, struct exec_watch *w);
void exec_unwatch(struct exec_watch *w);
/* Bytes came in or went out on behalf of a client: see sandbox_touch(). */
bool exec_is_active(const struct exec *x);

/* From sandbox.c: process 1 has spoken, or the sandbox is over. */
void exec_started(struct exec *x, int error, int terminal_fd);
void exec_ended(struct exec *x, int wait_status);
void exec_lose(struct exec *x);
void exec_free(struct exec *x);

#endif
