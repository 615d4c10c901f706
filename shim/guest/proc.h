/* proc.h -- finding processes by what /proc says of them, to send signals that kill() has no
 * address for. */
#ifndef SHIM_GUEST_PROC_H
#define SHIM_GUEST_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Sends the signal to every process of these sessions.  Returns how many there were, or -errno. */
int proc_signal_sessions(const pid_t *sessions, size_t count, int signal_number);

/* Sends the signal to every process of the group that this process leads, but not to itself. The
 * same. */
int proc_signal_followers(pid_t leader, int signal_number);

/* Sends the signal to every descendant of this process.  Returns how many there were, or -errno. */
int proc_signal_descendants(int signal_number);

/* Whether this process neither catches nor ignores the signal.  (What it blocks is not asked:
 * shells block everything for a moment whenever they fork.)  False when /proc does not tell. */
bool proc_signal_is_default(pid_t pid, int signal_number);

#endif
