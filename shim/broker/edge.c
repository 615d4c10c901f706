#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "shim/broker/edge.h"

/* Changes that are handled before the loop looks at anything else again. */
enum { EDGES_PER_TURN = 64 };

struct edge_set {
	struct ev_loop *loop;
	struct ev_io watcher;
	int epoll_fd;
};

static void
edges_changed(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct edge_set *set = watcher->data;
	struct epoll_event event;
	struct edge *edge;

	(void)loop;
	(void)events;
	/* one at a time: a callback may free other edges */
	for (int i = 0; i < EDGES_PER_TURN && epoll_wait(set->epoll_fd, &event, 1, 0) == 1; i++) {
		edge = event.data.ptr;
		edge->changed(edge, event.events);
	}
}

int
edge_set_new(struct ev_loop *loop, struct edge_set **ret, struct err *err)
{
	struct edge_set *set = calloc(1, sizeof *set);

	if (set == NULL)
		return err_set(err, ENOMEM, "no memory for the loop");
	set->loop = loop;
	set->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (set->epoll_fd < 0) {
		free(set);
		return err_errno(err, errno, "epoll_create1");
	}
	ev_io_init(&set->watcher, edges_changed, set->epoll_fd, EV_READ);
	set->watcher.data = set;
	ev_io_start(loop, &set->watcher);
	*ret = set;
	return 0;
}

void
edge_set_free(struct edge_set *set)
{
	if (set == NULL)
		return;
	ev_io_stop(set->loop, &set->watcher);
	close(set->epoll_fd);
	free(set);
}

int
edge_watch(struct edge_set *set, struct edge *edge, uint32_t epoll_events)
{
	struct epoll_event event = { .events = epoll_events | EPOLLET, .data = { .ptr = edge } };

	return epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, edge->fd, &event) < 0 ? -errno : 0;
}

void
edge_unwatch(struct edge_set *set, struct edge *edge)
{
	if (edge->fd >= 0)
		(void)epoll_ctl(set->epoll_fd, EPOLL_CTL_DEL, edge->fd, NULL);
}
