/* daemon.h -- the guest of one sandbox: its one lane, its jobs, its children, and the lease that
 * ends it. */
#ifndef SHIM_GUEST_DAEMON_H
#define SHIM_GUEST_DAEMON_H

/* Serves `attach` on a listening socket until the lease has run out or a signal asks for the
 * end, then ends every process that it has started, or inherited from them. Takes ownership of
 * listener. All signals must be blocked. Returns 0, or -errno when it could not begin. */
int daemon_run(int listener, char *const *env);

#endif
