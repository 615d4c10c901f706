#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <time.h>

#include "shim/base/fd.h"
#include "shim/guest/loop.h"

enum { US_PER_MS = 1000, US_PER_S = 1000000, NS_PER_US = 1000, WAIT_MS_MAX = 60 * 60 * 1000 };

int
loop_init(struct loop *loop)
{
	loop->event_count = loop->event_next = 0;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return loop->epoll_fd < 0 ? -errno : 0;
}

void
loop_free(struct loop *loop)
{
	fd_close(&loop->epoll_fd);
}

void
watch_init(struct watch *watch, int fd, void (*call)(struct watch *, uint32_t), void *context)
{
	*watch = (struct watch){ .fd = fd, .call = call, .context = context };
}

static void
loop_forget(struct loop *loop, const struct watch *watch)
{
	for (int i = loop->event_next; i < loop->event_count; i++)
		if (loop->events[i].data.ptr == watch)
			loop->events[i].data.ptr = NULL;
}

int
loop_set(struct loop *loop, struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };
	int operation = EPOLL_CTL_MOD;

	if (watch->fd < 0 || watch->events == events)
		return 0;
	if (watch->events == 0)
		operation = EPOLL_CTL_ADD;
	if (events == 0) {
		operation = EPOLL_CTL_DEL;
		loop_forget(loop, watch);
	}
	if (epoll_ctl(loop->epoll_fd, operation, watch->fd, &event) < 0)
		return -errno;
	watch->events = events;
	return 0;
}

void
watch_close(struct loop *loop, struct watch *watch)
{
	loop_set(loop, watch, 0);
	fd_close(&watch->fd);
}

/* epoll_wait() counts in milliseconds; the gathering of frames into one write waits for less. */
static void
loop_wait_short(struct loop *loop, int64_t timeout_us)
{
	struct pollfd pollfd = { .fd = loop->epoll_fd, .events = POLLIN };
	struct timespec timeout = { .tv_nsec = (long)timeout_us * NS_PER_US };

	ppoll(&pollfd, 1, &timeout, NULL);
}

static int
loop_wait_ms(struct loop *loop, int64_t timeout_us)
{
	if (timeout_us < 0)
		return -1;
	if (timeout_us > 0 && timeout_us < 2 * US_PER_MS) {
		loop_wait_short(loop, timeout_us);
		return 0;
	}
	if (timeout_us / US_PER_MS > WAIT_MS_MAX)
		return WAIT_MS_MAX;
	return (int)((timeout_us + US_PER_MS - 1) / US_PER_MS);
}

int
loop_run(struct loop *loop, int64_t timeout_us)
{
	int wait_ms = loop_wait_ms(loop, timeout_us);
	struct epoll_event *event;
	struct watch *watch;

	loop->event_next = 0;
	loop->event_count = epoll_wait(loop->epoll_fd, loop->events, LOOP_EVENTS_MAX, wait_ms);
	if (loop->event_count < 0) {
		loop->event_count = 0;
		return errno == EINTR ? 0 : -errno;
	}
	while (loop->event_next < loop->event_count) {
		event = &loop->events[loop->event_next++];
		watch = event->data.ptr;
		if (watch != NULL)
			watch->call(watch, event->events);
	}
	loop->event_count = loop->event_next = 0;
	return 0;
}

int64_t
loop_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * US_PER_S + now.tv_nsec / NS_PER_US;
}
