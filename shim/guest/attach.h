/* attach.h -- one exec of `modalsh-guest attach`: hands its stdin and stdout to the daemon of
 * this sandbox. */
#ifndef SHIM_GUEST_ATTACH_H
#define SHIM_GUEST_ATTACH_H

#include "shim/base/err.h"

/* Connects to the daemon whose socket is in dir (NULL: where this binary is), starting it when
 * there is none, passes 0 and 1, and returns when the daemon lets go of the lane. The socket is
 * named by the protocol version and by the name, size and time of this binary, so that two
 * versions do not meet. In the daemon that it starts this function does not return. Returns 0 or
 * -errno with *err set. */
int attach_run(const char *dir, char *const *env, struct err *err);

#endif
