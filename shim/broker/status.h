/* status.h -- what modalshctl status shows, as JSON. */
#ifndef SHIM_BROKER_STATUS_H
#define SHIM_BROKER_STATUS_H

#include <stdint.h>

#include "shim/broker/config.h"
#include "shim/broker/cred.h"
#include "shim/broker/lane.h"

struct status_facts {
	const struct config *config;
	const struct cred *cred;
	const struct lane *lane;
	int64_t started_ms; /* monotonic clock */
	uint64_t accepted;
	uint64_t refused;
};

/* Text that the caller frees, or NULL without memory.  Holds no secret. */
char *status_json(const struct status_facts *facts);

#endif
