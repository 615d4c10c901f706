/* spawn.h -- starting processes; the only file of the guest that calls fork, clone or execve. */
#ifndef SHIM_GUEST_SPAWN_H
#define SHIM_GUEST_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "proto/job.h"
#include "shim/base/limits.h"

/* What the daemon was started with and its commands are to find again. */
struct spawn_base {
	uint8_t *stack; /* of the child until it executes the program */
	struct rlimit limits[RLIMITS_MAX];
	int nice;
	char *const *env;
	const char *path; /* where programs are looked up */
};

struct spawn_stream {
	int source; /* descriptor of the daemon, close-on-exec */
	int target; /* what the command sees */
};

struct spawn_plan {
	const struct job_start *start;
	/* Descriptors that are not listed are closed in the command. */
	struct spawn_stream streams[STREAMS_MAX];
	size_t stream_count;
	int terminal; /* the slave that becomes the controlling terminal, or -1 */
};

/* Remembers this process's limits, niceness and environment, then raises the number of
 * descriptors that the daemon itself may have. env must stay. Returns 0 or -errno. */
int spawn_base_init(struct spawn_base *base, char *const *env);
void spawn_base_free(struct spawn_base *base);

/* Starts the command. The child borrows our memory until the program is executing (CLONE_VFORK),
 * so the result is known on return, and it costs the same however much output the daemon holds.
 * All signals must be blocked, and all dispositions be the default, in the caller. Returns the
 * pid, or -1 with *ret_failure set; a child that failed is left to be reaped. */
pid_t spawn_command(const struct spawn_base *base, const struct spawn_plan *plan,
		    struct job_failure *ret_failure);

/* Forks, and nothing else.  Returns 0 in the child, its pid in the caller, or -errno. */
pid_t spawn_copy(void);

/* Forks the daemon: a new session, working directory /, no descriptor but keep_fd (which becomes
 * 3) and /dev/null on 0, 1 and 2, all signals blocked and at their default disposition. Returns
 * 0 in the daemon with *keep_fd changed, the pid in the caller, or -errno. */
pid_t spawn_daemon(int *keep_fd);

#endif
