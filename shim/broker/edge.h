/* edge.h -- what a level-triggered loop cannot tell of a borrowed descriptor: that more bytes came
 * to a pipe whose bytes are left in it, and that the reader of a pipe went while nothing is being
 * written.  An edge-triggered epoll set of its own, itself one descriptor in the loop. */
#ifndef SHIM_BROKER_EDGE_H
#define SHIM_BROKER_EDGE_H

#include <ev.h>
#include <stdint.h>

#include "shim/base/err.h"

struct edge_set;

/* One watched descriptor; part of its owner's struct, which must not move while it is watched. */
struct edge {
	int fd;
	void (*changed)(struct edge *edge, uint32_t epoll_events);
};

int edge_set_new(struct ev_loop *loop, struct edge_set **ret, struct err *err);
void edge_set_free(struct edge_set *set);

/* Calls changed() once for what is true now and then for every change of epoll_events (EPOLLIN;
 * EPOLLERR and EPOLLHUP are always included).  Files and devices that epoll refuses are -EPERM:
 * they never change. */
int edge_watch(struct edge_set *set, struct edge *edge, uint32_t epoll_events);

/* Before the descriptor is closed.  Fine when it was not watched. */
void edge_unwatch(struct edge_set *set, struct edge *edge);

#endif
