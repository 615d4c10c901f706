#include "tests/loopback/outlog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ev.h>

#include "tests/loopback/bytes.h"

enum { BLOCK_LEN = 256 * 1024, BLOCKS = LOG_KEPT_LEN / BLOCK_LEN };

struct outlog {
	struct ev_loop *loop;
	int fd;
	ev_io readable;
	bool ended;
	uint64_t start, head;
	uint64_t read_max; /* the furthest that any reader has come */
	struct outlog_reader *readers;
	size_t kept;		 /* bytes in blocks */
	uint8_t *blocks[BLOCKS]; /* block n holds the bytes from n * BLOCK_LEN, modulo the kept
				    length */
};

static uint8_t **
log_block(struct outlog *log, uint64_t offset)
{
	return &log->blocks[offset / BLOCK_LEN % BLOCKS];
}

static size_t
block_rest(uint64_t offset)
{
	return BLOCK_LEN - (size_t)(offset % BLOCK_LEN);
}

/* Readers below the new start have lost bytes. */
static void
log_forget(struct outlog *log, uint64_t start)
{
	log->start = start;
	for (struct outlog_reader *r = log->readers, *next; r; r = next) {
		next = r->next;
		if (r->offset < start) {
			outlog_detach(r);
			r->on_lost(r);
		}
	}
}

/* Room for the next bytes: the rest of a block, taken from the oldest one when all are in use. */
static uint8_t *
log_room(struct outlog *log, size_t *ret_len)
{
	uint8_t **block = log_block(log, log->head);
	uint64_t block_start = log->head - log->head % BLOCK_LEN;

	if (log->head % BLOCK_LEN == 0 && block_start >= LOG_KEPT_LEN &&
	    log->start < block_start - LOG_KEPT_LEN + BLOCK_LEN)
		log_forget(log, block_start - LOG_KEPT_LEN + BLOCK_LEN);
	if (!*block) {
		*block = mem_resize(NULL, BLOCK_LEN);
		log->kept += BLOCK_LEN;
	}
	*ret_len = block_rest(log->head);
	return *block + log->head % BLOCK_LEN;
}

static bool
log_has_room(const struct outlog *log)
{
	uint64_t furthest = 0;

	if (!log->readers)
		return log->head - log->read_max < LOG_KEPT_LEN - BLOCK_LEN;
	for (const struct outlog_reader *r = log->readers; r; r = r->next)
		furthest = r->offset > furthest ? r->offset : furthest;
	return furthest >= log->head || log->head - furthest < LOG_AHEAD_LEN;
}

/* Asks for input only while there is room for it. */
static void
log_want(struct outlog *log)
{
	if (log->fd < 0)
		return;
	if (log_has_room(log))
		ev_io_start(log->loop, &log->readable);
	else
		ev_io_stop(log->loop, &log->readable);
}

static void
log_tell(struct outlog *log)
{
	for (struct outlog_reader *r = log->readers, *next; r; r = next) {
		next = r->next;
		r->on_more(r);
	}
}

static void
log_close(struct outlog *log)
{
	if (log->fd < 0)
		return;
	ev_io_stop(log->loop, &log->readable);
	close(log->fd);
	log->fd = -1;
}

void
outlog_end(struct outlog *log)
{
	log_close(log);
	log->ended = true;
	log_tell(log);
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct outlog *log = io->data;
	size_t len;
	uint8_t *to = log_room(log, &len);
	ssize_t n = read(log->fd, to, len);

	(void)loop;
	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		outlog_end(log); /* EIO is how a terminal says that all its users have left */
		return;
	}
	log->head += (uint64_t)n;
	log_want(log);
	log_tell(log);
}

struct outlog *
outlog_new(struct ev_loop *loop, int fd)
{
	struct outlog *log = mem_new(sizeof *log);

	log->loop = loop;
	log->fd = fd;
	log->ended = fd < 0;
	if (fd >= 0) {
		ev_io_init(&log->readable, on_readable, fd, EV_READ);
		log->readable.data = log;
		ev_io_start(loop, &log->readable);
	}
	return log;
}

void
outlog_free(struct outlog *log)
{
	if (!log)
		return;
	log_close(log);
	while (log->readers)
		outlog_detach(log->readers);
	for (int i = 0; i < BLOCKS; i++)
		free(log->blocks[i]);
	free(log);
}

void
outlog_append(struct outlog *log, const void *data, size_t len)
{
	const uint8_t *from = data;

	while (len > 0) {
		size_t room;
		uint8_t *to = log_room(log, &room);
		size_t n = room < len ? room : len;

		memcpy(to, from, n);
		log->head += n;
		from += n;
		len -= n;
	}
	log->ended = false;
	log_tell(log);
}

uint64_t
outlog_start(const struct outlog *log)
{
	return log->start;
}

uint64_t
outlog_head(const struct outlog *log)
{
	return log->head;
}

bool
outlog_has_ended(const struct outlog *log)
{
	return log->ended;
}

size_t
outlog_kept(const struct outlog *log)
{
	return log->kept;
}

int
outlog_attach(struct outlog *log, struct outlog_reader *r, uint64_t offset)
{
	if (offset < log->start)
		return -ERANGE;
	r->log = log;
	r->offset = offset;
	r->prev = NULL;
	r->next = log->readers;
	if (r->next)
		r->next->prev = r;
	log->readers = r;
	log_want(log);
	return 0;
}

void
outlog_detach(struct outlog_reader *r)
{
	struct outlog *log = r->log;

	if (!log)
		return;
	if (r->next)
		r->next->prev = r->prev;
	if (r->prev)
		r->prev->next = r->next;
	else
		log->readers = r->next;
	r->log = NULL;
	log_want(log);
}

size_t
outlog_run(struct outlog_reader *r, const uint8_t **data)
{
	struct outlog *log = r->log;
	uint64_t avail;
	size_t rest = block_rest(r->offset);

	if (!log || r->offset >= log->head)
		return 0;
	avail = log->head - r->offset;
	*data = *log_block(log, r->offset) + r->offset % BLOCK_LEN;
	return avail < rest ? (size_t)avail : rest;
}

void
outlog_advance(struct outlog_reader *r, size_t len)
{
	struct outlog *log = r->log;

	r->offset += len;
	if (r->offset > log->read_max)
		log->read_max = r->offset;
	if (log->fd >= 0 && !ev_is_active(&log->readable))
		log_want(log);
}

bool
outlog_at_end(const struct outlog_reader *r)
{
	return !r->log || (r->log->ended && r->offset >= r->log->head);
}
