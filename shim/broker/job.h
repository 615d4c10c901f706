/* job.h -- one command: the caller's descriptors on this side, its streams on the lane, its end.
 *
 * A job outlives the connection that asked for it when processes it left behind still hold its
 * streams; it frees itself when all of them have ended. */
#ifndef SHIM_BROKER_JOB_H
#define SHIM_BROKER_JOB_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/job.h"
#include "shim/base/err.h"
#include "shim/broker/config.h"
#include "shim/broker/lane.h"
#include "shim/broker/source.h"
#include "shim/broker/terminal.h"

struct job;

/* What all jobs of a broker share. */
struct job_context {
	struct ev_loop *loop;
	const struct config *config;
	struct lane *lane;
	struct edge_set *edges;
	struct source_tools tools;
	struct terminal_set terminals;
	uint32_t window_growth; /* bytes granted beyond OUT_WINDOW_MIN, over all streams */
};

/* How it ended, told once, by exactly one of exited, failed and refused. */
struct job_events {
	void (*started)(void *arg, uint32_t pid);
	void (*stopped)(void *arg, uint8_t signal);
	void (*exited)(void *arg, const struct job_exit *exit);
	void (*failed)(void *arg, const struct job_failure *failure);
	void (*refused)(void *arg, enum job_refusal kind, const char *text);
};

/* Runs what the process `caller` described.  Takes over the descriptors (one for each PASSED stream
 * of *start, in order), also on failure.  Events may come from inside later calls, never from this
 * one.  0, or negative errno with *err: the command was not run. */
int job_new(struct job_context *context, const struct job_start *start, pid_t caller,
	    const int *fds, size_t fd_count, const struct job_events *events, void *arg,
	    struct job **ret, struct err *err);

/* A signal or a new window size from the caller. */
void job_control(struct job *job, const struct job_control *control);

/* Whether the caller has been stopped by SIGSTOP, which it cannot pass on: then the command is
 * stopped too.  SIGCONT comes as a control. */
void job_look_at_caller(struct job *job);

/* The caller is gone.  Before the end was told: the remote session is killed.  Afterwards: nothing.
 * No event comes any more. */
void job_abandon(struct job *job);

/* ---- called by the lane ---- */

/* The lane is up.  entry: what the daemon has of this job, or NULL; same_boot: whether it is the
 * daemon that had been told of it. */
void job_lane_up(struct job *job, const struct job_hello_entry *entry, bool same_boot);
/* Describes what has been received, for HELLO; false when START was never sent. */
bool job_hello_entry(const struct job *job, struct job_hello_entry *ret);
/* There is room on the lane again. */
void job_pump(struct job *job);
/* A frame for this job other than OUT.  0, or -EBADMSG: the guest broke the protocol. */
int job_take_frame(struct job *job, const struct job_frame *frame);
/* A piece of an OUT frame. */
int job_take_output(struct job *job, uint32_t stream, uint64_t offset, const uint8_t *data,
		    size_t len);
/* The sandbox or the daemon with this job is gone for good, or could not be had.  True from
 * job_was_sent() means that the result is unknown, false that it was not run.  The job may be freed
 * inside. */
void job_lose(struct job *job, const char *reason);
bool job_was_sent(const struct job *job);

#endif
