/* worker.h -- long file-system work in a child process, so that the loop goes on. */
#ifndef LOOPBACK_WORKER_H
#define LOOPBACK_WORKER_H

#include <sys/types.h>

struct ev_loop;
struct worker;

/* Forks; the child runs work(arg) and exits with its result (0 or -errno).  on_done gets that
 * result in the server, later; it is not called when the server ends first.  The child dies with
 * the server. */
struct worker *worker_start(struct ev_loop *loop, int (*work)(void *arg),
			    void (*on_done)(void *arg, int result), void *arg);

/* What every child of the server does first: default signals, death with the server. */
void worker_child_prepare(pid_t parent);

#endif
