/* lane.h -- one connection to the broker: frames in, frames out (proto/PROTOCOL.md section 4).
 * What a frame does is done in job.h; here is who may say what and when. */
#ifndef SHIM_GUEST_LANE_H
#define SHIM_GUEST_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/job.h"
#include "shim/base/buf.h"
#include "shim/guest/batch.h"
#include "shim/guest/job.h"
#include "shim/guest/loop.h"

/* Until the first HELLO says how long a lease is. */
enum { LEASE_FIRST_MS = 60 * 1000 };

/* What outlives a lane. */
struct broker {
	bool known;
	bool resting; /* it said CLOSE: no lease runs */
	uint8_t id[JOB_ID_LEN];
	uint8_t boot_id[JOB_ID_LEN]; /* ours */
	uint32_t lease_ms;
	int64_t heard_ms; /* when anything last came from it */
};

struct lane {
	struct loop *loop;
	struct job_table *table;
	struct broker *broker;
	struct watch connection; /* to `attach`: its end is the end of the lane */
	struct watch in;
	struct watch out;
	struct buf input;
	struct buf control; /* HELLO_REPLY and PONG, until the batch takes them */
	struct batch batch;
	bool greeted;
	bool ending;  /* to be dropped when everything is written */
	bool dropped; /* to be freed by the owner, outside of any callback */
};

/* Takes ownership of the three descriptors, also on failure. Returns NULL without memory or when
 * they cannot be waited for. */
struct lane *lane_new(struct loop *loop, struct job_table *table, struct broker *broker,
		      int connection_fd, int in_fd, int out_fd);
void lane_free(struct lane *lane);

/* When lane_flush() should be called at the latest (INT64_MAX: when something happens). */
int64_t lane_flush_at_us(const struct lane *lane);

/* Writes what is due. */
void lane_flush(struct lane *lane, int64_t now_us);

#endif
