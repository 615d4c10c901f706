/* terminal.h -- the caller's terminal while a command runs on it.  The line discipline works in the
 * sandbox, so the one here is switched off (raw) for as long, and put back as it was: by us, since
 * the shim may be killed. */
#ifndef SHIM_BROKER_TERMINAL_H
#define SHIM_BROKER_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/job.h"

struct terminal;

/* The terminals in use, which several commands may share (a pipeline). */
struct terminal_set {
	struct terminal *first;
};

/* Whether this process may use the input and the settings of the terminal fd: it is in the
 * foreground there, or the terminal does not control it (/proc/PID/stat). */
bool terminal_may_take(pid_t pid, int fd);

/* Whether this process is stopped (state T). */
bool terminal_process_is_stopped(pid_t pid);

/* Switches the terminal to raw if nobody has yet, and counts one user more; with keep_output its
 * output processing stays on (for a command whose terminal in the sandbox was given none).  fd
 * stays the caller's.  NULL when it is no terminal (any more) or without memory. */
struct terminal *terminal_take(struct terminal_set *set, int fd, bool keep_output);

/* Switches output processing off in settings as TCGETS gives them (len bytes at settings). */
void terminal_plain_output(uint8_t *settings, size_t len);

/* The size of the terminal fd.  False when it is none any more. */
bool terminal_size(int fd, struct job_winsize *ret);

/* One user less; the last one puts the settings back.  NULL is fine. */
void terminal_give(struct terminal_set *set, struct terminal *terminal);

#endif
