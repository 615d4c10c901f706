/* terminal.h -- the pseudo-terminal of a job. */
#ifndef SHIM_GUEST_TERMINAL_H
#define SHIM_GUEST_TERMINAL_H

#include "proto/job.h"

/* Opens a pair with these settings: termios is the kernel's struct as TCGETS gives it, or empty
 * for the defaults. Both ends are close-on-exec, the master does not block. Returns 0 or -errno. */
int terminal_open(struct view termios, const struct job_winsize *size, int *ret_master,
		  int *ret_slave);

/* Returns 0 or -errno. */
int terminal_resize(int master, const struct job_winsize *size);

#endif
