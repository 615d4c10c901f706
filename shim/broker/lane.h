/* lane.h -- the one open exec of modalsh-guest in the sandbox, and the jobs on it.  Wire:
 * proto/PROTOCOL.md, section 4.
 *
 * Opens when a job wants it, greets, repeats after a break what the other side has not got, pings
 * within the lease, and closes when idle. */
#ifndef SHIM_BROKER_LANE_H
#define SHIM_BROKER_LANE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/job.h"
#include "shim/base/err.h"
#include "shim/broker/config.h"
#include "shim/broker/cred.h"
#include "shim/broker/sandbox.h"

struct lane;
struct job;

enum lane_state {
	LANE_DOWN,	 /* nothing open; nobody waits */
	LANE_SANDBOX,	 /* waiting for the sandbox */
	LANE_INSTALLING, /* the guest is being written into it */
	LANE_GREETING,	 /* attach runs, HELLO is sent */
	LANE_UP,
	LANE_PAUSED, /* broken; a new attempt follows after a pause */
	LANE_STOPPED,
};

/* config and cred outlive it.  Reads the guest binary into memory.  0 or negative errno with *err.
 */
int lane_new(struct ev_loop *loop, const struct config *config, const struct cred *cred,
	     struct lane **ret, struct err *err);
void lane_free(struct lane *lane);

/* Opens the lane without a job (start_early). */
void lane_want(struct lane *lane);

/* Called once when the lane is up for the first time or when the first attempt failed (err not
 * NULL). */
void lane_on_first(struct lane *lane, void (*first)(void *arg, const struct err *err), void *arg);

/* Ends every job, terminates the sandbox, then calls done. */
void lane_stop(struct lane *lane, void (*done)(void *arg), void *arg);

/* A job joins and gets its number; the lane opens if it is down, and job_lane_up() follows when it
 * is up (when it is up already, the job may send at once).  0, or negative errno with *err when
 * JOBS_MAX are there or the lane has been stopped. */
int lane_join(struct lane *lane, struct job *job, uint32_t *ret_number, struct err *err);
void lane_leave(struct lane *lane, struct job *job, uint32_t number);

bool lane_is_up(const struct lane *lane);

/* Where jobs append their frames (only while the lane is up), to be followed by lane_flush(). */
struct buf *lane_out(struct lane *lane);
void lane_flush(struct lane *lane);

/* Whether there is room for `len` more bytes of bulk (START, IN).  When not, job_pump() will be
 * called later. */
bool lane_has_room(struct lane *lane, size_t len);

/* Whether somebody has been told so and has not been called yet. */
bool lane_is_starved(const struct lane *lane);

struct lane_info {
	enum lane_state state;
	const char *state_name;
	uint32_t opened_count;
	uint32_t job_count;
	char boot_id[2 * JOB_ID_LEN + 1]; /* "" before the first greeting */
	struct sandbox_info sandbox;
};
void lane_info(const struct lane *lane, struct lane_info *ret);

#endif
