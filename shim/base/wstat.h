/* wstat.h -- how a process ended.  A status that was not seen is not a status: there is no default
 * value. */
#ifndef SHIM_BASE_WSTAT_H
#define SHIM_BASE_WSTAT_H

#include <stdint.h>

enum wstat_kind { WSTAT_EXITED = 1, WSTAT_SIGNALED = 2 };

struct wstat {
	uint8_t kind;  /* enum wstat_kind */
	uint8_t value; /* exit code, or signal number 1 … 64 */
};

/* What waitpid() reported of a process that has ended.  0, or -EINVAL for a status that says
 * "stopped" or "continued". */
int wstat_from_wait(int wait_status, struct wstat *ret);

/* 0 when kind and value are possible, else -EBADMSG: for a status that came over a wire. */
int wstat_check(const struct wstat *wstat);

/* Ends this process in the same way: exit code, or death by the same signal with core dumps off. */
_Noreturn void wstat_die(const struct wstat *wstat);

#endif
