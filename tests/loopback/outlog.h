/* outlog.h -- what a process has written to one descriptor: read from its pipe, kept for replay,
 * read by offset.
 *
 * The last LOG_KEPT_LEN bytes are kept.  The pipe is not read while the most advanced reader is
 * more than LOG_AHEAD_LEN behind, or, with no reader, while LOG_KEPT_LEN bytes wait unread: then
 * the process blocks. A reader that falls behind what is kept is told so and detached. */
#ifndef LOOPBACK_OUTLOG_H
#define LOOPBACK_OUTLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LOG_KEPT_LEN = 64 * 1024 * 1024, LOG_AHEAD_LEN = 16 * 1024 * 1024 };

struct ev_loop;
struct outlog;

struct outlog_reader {
	struct outlog *log; /* NULL when detached */
	struct outlog_reader *next, *prev;
	uint64_t offset;			  /* of the next byte to read */
	void (*on_more)(struct outlog_reader *r); /* more bytes, or the end */
	void (*on_lost)(struct outlog_reader *r); /* already detached */
	void *arg;
};

/* Owns fd, which must not block; -1 gives a log that has ended empty. */
struct outlog *outlog_new(struct ev_loop *loop, int fd);
/* Detaches all readers without a word. */
void outlog_free(struct outlog *log);
/* Bytes that do not come from a descriptor: the log of an image build. */
void outlog_append(struct outlog *log, const void *data, size_t len);
void outlog_end(struct outlog *log);

uint64_t outlog_start(const struct outlog *log); /* offset of the oldest byte kept */
uint64_t outlog_head(const struct outlog *log);	 /* offset of the next byte to come */
bool outlog_has_ended(const struct outlog *log);
size_t outlog_kept(const struct outlog *log); /* memory in use */

/* Returns 0, or -ERANGE when the bytes at offset are no longer kept. */
int outlog_attach(struct outlog *log, struct outlog_reader *r, uint64_t offset);
void outlog_detach(struct outlog_reader *r); /* harmless when detached */
/* The next contiguous bytes, in place until outlog_advance(). */
size_t outlog_run(struct outlog_reader *r, const uint8_t **data);
void outlog_advance(struct outlog_reader *r, size_t len);
/* Everything was read and no more will come. */
bool outlog_at_end(const struct outlog_reader *r);

#endif
