/* fd.h -- descriptors: ownership, and the promise that none of ours is ever 0, 1 or 2. */
#ifndef SHIM_BASE_FD_H
#define SHIM_BASE_FD_H

#include <stdbool.h>

#define cleanup_close __attribute__((cleanup(fd_cleanup)))

/* Closes *fd when it is >= 0 and leaves errno alone.  close() is called once: on Linux the
 * descriptor is gone even after EINTR. */
void fd_cleanup(int *fd);

/* The same, and *fd becomes -1. */
void fd_close(int *fd);

/* Hands *fd over to the caller and leaves -1 behind. */
int fd_steal(int *fd);

/* Opens /dev/null on each of 0, 1 and 2 that is closed, so that no later open() can land there.
 * was_open[i] says how descriptor i was found.  Returns 0 or -errno. */
int fd_ensure_stdio(bool was_open[3]);

/* Sets O_NONBLOCK.  For descriptors of our own only: the flag belongs to the open file description,
 * which other processes may share.  Returns 0 or -errno. */
int fd_set_nonblock(int fd);

#endif
