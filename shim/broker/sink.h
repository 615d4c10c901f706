/* sink.h -- a caller's descriptor as the output of a command: bytes are written as it takes them,
 * never waiting, and the reader's going is noticed even while nothing is written. */
#ifndef SHIM_BROKER_SINK_H
#define SHIM_BROKER_SINK_H

#include <ev.h>
#include <stdint.h>
#include <stddef.h>

#include "shim/base/borrow.h"
#include "shim/base/err.h"
#include "shim/broker/edge.h"

struct sink;

struct sink_events {
	/* Everything below `offset` has been written. */
	void (*written)(void *arg, uint64_t offset);
	/* Nothing more can be written: errno_value EPIPE is a reader that went, anything else a
	 * fault of the descriptor.  What was queued is gone. */
	void (*closed)(void *arg, int errno_value);
};

/* Takes over fd, also on failure. */
int sink_new(struct ev_loop *loop, struct edge_set *edges, int fd, enum borrow_kind kind,
	     const struct sink_events *events, void *arg, struct sink **ret, struct err *err);

/* Appends bytes; what the descriptor takes at once is written before the call returns, the rest is
 * kept (the sender's window bounds it).  Callbacks may come from inside.  0 or -ENOMEM. */
int sink_put(struct sink *sink, const void *data, size_t len);

/* The descriptor, which stays the sink's. */
int sink_fd(const struct sink *sink);

/* Bytes that are kept. */
size_t sink_queued(const struct sink *sink);

/* Closes our copy of the descriptor; what is queued is gone.  NULL is fine. */
void sink_free(struct sink *sink);

#endif
