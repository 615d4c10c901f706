/* source.h -- a caller's descriptor as the stdin of a command: borrowed, not drained.
 *
 * A file is read at an offset of our own and its shared offset is put where the command stopped.  A
 * pipe is peeked, and only what the command consumed is taken out; commands that share one take
 * turns (PROTOCOL.md, IN_REVOKE).  Tokens of a jobserver, which are all alike and which make reads
 * on this side too, are taken out one at a time, and put back when they were not used.  What can be
 * neither (a socket, a terminal, a device) is read ahead by at most IN_WINDOW and kept until it is
 * consumed. */
#ifndef SHIM_BROKER_SOURCE_H
#define SHIM_BROKER_SOURCE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shim/base/borrow.h"
#include "shim/base/err.h"
#include "shim/broker/edge.h"

struct source;
struct shared_pipe;

/* What all sources of a broker share. */
struct source_tools {
	struct ev_loop *loop;
	struct edge_set *edges;
	int null_fd;		   /* /dev/null, for bytes to be forgotten */
	int scratch[2];		   /* an empty pipe for peeking */
	struct shared_pipe *pipes; /* every pipe that is borrowed now, once */
};
int source_tools_init(struct source_tools *tools, struct ev_loop *loop, struct edge_set *edges,
		      struct err *err);
void source_tools_release(struct source_tools *tools);

struct source_events {
	/* source_read() may have something new. */
	void (*more)(void *arg);
	/* Another command waits for the bytes that this one was sent and does not consume: take
	 * them back, read no more, and say source_revoked(). */
	void (*revoke)(void *arg);
};

/* Takes over fd, also on failure. */
int source_new(struct source_tools *tools, int fd, enum borrow_kind kind,
	       const struct source_events *events, void *arg, struct source **ret, struct err *err);

/* The same for the tokens in the pipe fd; return_fd, which is taken over too, is the pipe's other
 * end. */
int source_new_tokens(struct source_tools *tools, int fd, int return_fd,
		      const struct source_events *events, void *arg, struct source **ret,
		      struct err *err);

/* Copies what is there from stream offset `offset` on (not below what was consumed, not above what
 * was read before), at most len bytes.  0 with *ret_end true is the end of the stream; -EAGAIN:
 * more() will be called; -errno. */
ssize_t source_read(struct source *source, uint64_t offset, void *data, size_t len, bool *ret_end);

/* The command has consumed everything below offset. */
void source_used(struct source *source, uint64_t offset);

/* Everything beyond offset has been taken back from the command: the next one's turn. */
void source_revoked(struct source *source, uint64_t offset);

/* Looks for no more input until source_read() is called again.  For terminals: a stopped command
 * reads nothing. */
void source_pause(struct source *source);

/* Moves a file's shared offset on by what the command has consumed since the last time.  Also done
 * by source_free(). */
void source_settle(struct source *source);

/* The capacity of a pipe when it is not the default, else 0. */
uint32_t source_pipe_len(const struct source *source);

/* Gives the descriptor back, that is: closes our copy.  NULL is fine. */
void source_free(struct source *source);

#endif
