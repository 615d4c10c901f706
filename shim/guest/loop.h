/* loop.h -- waiting for descriptors: a thin layer over epoll that survives the removal of a
 * watch while events are being handed out. Everything that the guest waits for is a pipe, a
 * socket, a PTY or a signalfd, so epoll takes it. */
#ifndef SHIM_GUEST_LOOP_H
#define SHIM_GUEST_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

enum { LOOP_EVENTS_MAX = 64 };

struct watch {
	int fd;		 /* -1: none */
	uint32_t events; /* registered EPOLL* bits; 0: not registered */
	void (*call)(struct watch *watch, uint32_t events);
	void *context; /* whose watch it is */
};

struct loop {
	int epoll_fd;
	struct epoll_event events[LOOP_EVENTS_MAX];
	int event_count;
	int event_next;
};

/* Returns 0 or -errno. */
int loop_init(struct loop *loop);
void loop_free(struct loop *loop);

/* An unregistered watch.  The descriptor stays the caller's until watch_close(). */
void watch_init(struct watch *watch, int fd, void (*call)(struct watch *, uint32_t), void *context);

/* Registers, changes, or (events 0) unregisters. epoll reports EPOLLERR and EPOLLHUP of every
 * registered descriptor: who does not want to be woken by a hang-up unregisters; who wants only
 * that asks for EPOLLERR. Returns 0 or -errno. */
int loop_set(struct loop *loop, struct watch *watch, uint32_t events);

/* Unregisters and closes. A watch without descriptor is fine. No event of this round reaches it
 * any more. */
void watch_close(struct loop *loop, struct watch *watch);

/* Waits at most timeout_us (-1: for ever) and calls the watches that have events. Returns 0 or
 * -errno. */
int loop_run(struct loop *loop, int64_t timeout_us);

/* The monotonic clock in microseconds. */
int64_t loop_now_us(void);

#endif
