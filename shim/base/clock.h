/* clock.h -- deadlines are times on the monotonic clock. */
#ifndef SHIM_BASE_CLOCK_H
#define SHIM_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_now_ms(void);

#endif
