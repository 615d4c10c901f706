/* init.h -- process 1 of a sandbox, and how the server talks to it.
 *
 * The same binary, started by bubblewrap as `modalsh-init --sandbox-init FD`.  It forks and reaps
 * every command of the sandbox; when its socket closes it exits, and the kernel ends everything
 * with it.
 *
 * Both ways: struct init_header, then len - sizeof header bytes.  Both ends are one binary on one
 * machine, so the numbers are in the machine's own order.  Descriptors travel with the frame's
 * first byte. */
#ifndef LOOPBACK_INIT_H
#define LOOPBACK_INIT_H

#include <stdint.h>

struct init_header {
	uint32_t len; /* with this header */
	uint32_t type;
	uint32_t id; /* chosen by the server; comes back in the answers */
	uint32_t fd_count;
};

enum init_type {
	/* u32 rows, u32 columns (0 = no terminal), working directory, count and argv, count and
	 * environment; with descriptors 0, 1 and 2 unless there is a terminal.  Answers
	 * INIT_STARTED with the errno, and the terminal's descriptor if any; later INIT_EXITED with
	 * the wait status. */
	INIT_START = 1,
	INIT_KILL,    /* the command and its process group, SIGKILL */
	INIT_MOUNT,   /* source, target: bind.  Answers INIT_DONE with the errno */
	INIT_UNMOUNT, /* target */
	INIT_NETWORK, /* u32 open; with a descriptor of the network namespace to enter if open */
	INIT_READY,   /* from here on: to the server; value in struct init_answer */
	INIT_STARTED,
	INIT_EXITED,
	INIT_DONE
};

struct init_answer {
	struct init_header header;
	int32_t value;
};

enum { INIT_FRAME_LEN_MAX = 8 * 1024 * 1024 };

/* Never returns before the sandbox is over; the result is an exit status. */
int init_main(int socket);

#endif
