/* tty.h -- the caller's terminal: its size and its settings.  Reads only; nothing is ever changed.
 */
#ifndef SHIM_TTY_H
#define SHIM_TTY_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/job.h"

/* What TCGETS fills in: the kernel's struct termios, four u32 flag words, c_line and 19 characters.
 * The libc's struct of the same name is larger, and not the same in glibc and musl. */
enum { TTY_TERMIOS_LEN = 36 };

struct tty {
	int fd; /* the first of 0, 1 and 2 that is a terminal, or -1; never owned */
	struct job_winsize size;
	uint8_t termios[TTY_TERMIOS_LEN];
};

/* Looks at those of descriptors 0, 1 and 2 that were open. */
void tty_find(const bool was_open[3], struct tty *ret);

/* The present size of a terminal.  Returns 0 or -errno. */
int tty_size(int fd, struct job_winsize *ret);

#endif
