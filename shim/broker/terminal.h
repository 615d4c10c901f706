/* terminal.h -- the caller's terminal while a command runs on it.  The line discipline works in the sandbox, so the one here
 * is switched off (raw) for as long, and put back as it was: by us, since the shim may be killed. */
#ifndef SHIM_BROKER_TERMINAL_H
#define SHIM_BROKER_TERMINAL_H

#include <stdbool.h>
#include <sys/types.h>

struct terminal;

/* The terminals in use, which several commands may share (a pipeline). */
struct terminal_set {
	struct terminal *first;
};

/* Whether this process is in the foreground of its controlling terminal (/proc/PID/stat); a background process has no
 * business with the terminal's input and settings. */
bool terminal_is_foreground(pid_t pid);

/* Whether this process is stopped (state T). */
bool terminal_process_is_stopped(pid_t pid);

/* Switches the terminal to raw if nobody has yet, and counts one user more.  fd stays the caller's.  NULL when it is no
 * terminal (any more) or without memory. */
struct terminal *terminal_take(struct terminal_set *set, int fd);

/* One user less; the last one puts the settings back.  NULL is fine. */
void terminal_give(struct terminal_set *set, struct terminal *terminal);

#endif
