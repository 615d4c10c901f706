/* feed.h -- the stdin of a process: writes by offset, in order, never more than its pipe takes. */
#ifndef LOOPBACK_FEED_H
#define LOOPBACK_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ev_loop;
struct feed;

/* One write.  data stays where it is until on_done, or until feed_cancel().
 * Results: 0, -ERANGE when offset is beyond what was written, -EPIPE when the process reads no
 * more. */
struct feed_write {
	struct feed_write *next;
	uint64_t offset;
	const uint8_t *data;
	size_t len;
	bool eof;
	bool queued;
	void (*on_done)(struct feed_write *w, int result);
	void *arg;
};

/* Owns fd, which must not block; -1 gives a closed feed.  A terminal gets an end-of-file character
 * instead of being closed. */
struct feed *feed_new(struct ev_loop *loop, int fd, bool is_terminal);
void feed_free(struct feed *f); /* forgets waiting writes without a word */

/* Queues w; on_done may be called before this returns.  What lies before the bytes already written
 * is a replay and dropped. */
void feed_put(struct feed *f, struct feed_write *w);
void feed_cancel(struct feed *f, struct feed_write *w);

uint64_t feed_written(const struct feed *f);
bool feed_closed(const struct feed *f);

#endif
