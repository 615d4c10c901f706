/* lockdown.h -- what each program gives up when it starts.  Nothing is given up partly: a lock that
 * cannot be set is an error, and the program must not go on. */
#ifndef SHIM_LOCKDOWN_LOCKDOWN_H
#define SHIM_LOCKDOWN_LOCKDOWN_H

#include "shim/base/err.h"

/* The shim: not dumpable, no new privileges, and an allow-list of the few system calls that it
 * needs (seccomp_shim_gen.c has the list).  Starting a program or a process kills; anything else
 * fails with EPERM.  libc only.  Returns 0 or -errno. */
int lockdown_shim(void);

/* The broker: no core files, not dumpable, no new privileges, and, in all its threads, no way to
 * start a program or a process, to look into another one, or to change the kernel or its mounts:
 * each kills.  Threads still work.  Call it when everything is open, and before anything is served.
 * Returns 0, or -errno with *err set. */
int lockdown_broker(struct err *err);

#endif
