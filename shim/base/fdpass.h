/* fdpass.h -- the only place that sends or receives descriptors (SCM_RIGHTS). */
#ifndef SHIM_BASE_FDPASS_H
#define SHIM_BASE_FDPASS_H

#include <stddef.h>
#include <sys/types.h>

#include "shim/base/limits.h"

/* Sends data with `count` descriptors attached to its first byte over a blocking stream socket;
 * goes on after EINTR and short writes.  Returns 0 or -errno (-EPIPE when the peer is gone; no
 * SIGPIPE). */
int fdpass_send(int socket, const void *data, size_t len, const int *fds, size_t count);

/* One recvmsg() without waiting.  Descriptors that come with the data are close-on-exec, never
 * below 3, and are the caller's.  fds has room for STREAMS_MAX.  Returns the number of bytes, 0 at
 * the end, -EAGAIN, or -errno; on truncated or surplus descriptors it closes all of them and
 * returns -EBADMSG. */
ssize_t fdpass_receive(int socket, void *data, size_t len, int *fds, size_t *ret_count);

#endif
