/* signals.h -- signals as bits and as readable events; no handlers.  The system calls are made
 * directly: both libcs hide the signals from 32 to 34, which a caller may well have ignored or
 * blocked. */
#ifndef SHIM_SIGNALS_H
#define SHIM_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

enum { SIGNALS_MAX = 64 };

/* The bit of a signal in a mask, as in START. */
uint64_t signals_bit(int signal);

/* Blocks every signal and returns the mask as it was. */
uint64_t signals_block_all(void);

/* The signals whose disposition is "ignore". */
uint64_t signals_ignored(void);

/* Opens a descriptor (close-on-exec, non-blocking) that reads the signals of the mask.  Returns 0
 * or -errno. */
int signals_open(uint64_t mask, int *ret_fd);

struct signals_event {
	int signal;
	int sender;	  /* its process, 0 when it is none of this pid namespace */
	bool from_kernel; /* a key on the terminal, a hangup: what the kernel sends to whole groups
			   */
};

/* Takes the next signal.  Returns 1, 0 when none is pending, or -errno. */
int signals_read(int fd, struct signals_event *ret);

/* True for SIGTSTP, SIGTTIN and SIGTTOU. */
bool signals_is_stop(int signal);

/* Lets one of those three have its default effect on this process: it stops here, reported to the
 * parent under that signal, and returns when continued.  Does nothing when a SIGCONT has come
 * already. */
void signals_stop_self(int signal);

#endif
