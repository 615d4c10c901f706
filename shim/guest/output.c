#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "proto/job.h"
#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/guest/job.h"
#include "shim/guest/output.h"

/* One event reads no more than this, so that a loud command does not keep the others waiting. */
enum { READ_LEN_MAX = 256 * 1024 };

static void
output_event(struct watch *watch, uint32_t events)
{
	struct output *output = watch->context;

	(void)events; /* read() tells data, end and hang-up apart */
	job_output_ready(output->job, output);
}

static void
output_arm(struct output *output)
{
	bool room = output->received < output->limit;

	/* without room the hang-up must not wake us either: it would do so for ever */
	loop_set(output->loop, &output->watch, room ? EPOLLIN : 0);
}

int
output_init(struct output *output, struct job *job, struct loop *loop, struct chunk_pool *pool,
	    int fd)
{
	output->job = job;
	output->loop = loop;
	output->pool = pool;
	output->limit = OUT_WINDOW_MIN;
	watch_init(&output->watch, fd, output_event, output);
	return loop_set(loop, &output->watch, EPOLLIN);
}

static void
output_release_until(struct output *output, uint64_t offset)
{
	struct chunk *chunk;

	while ((chunk = output->first) != NULL && chunk->offset + chunk->len <= offset) {
		if (chunk->next == NULL && chunk->offset + chunk->capacity > offset &&
		    chunk->capacity == CHUNK_LEN_FIRST)
			return; /* small, and not full yet */
		output->first = chunk->next;
		if (output->first == NULL)
			output->last = NULL;
		chunk_release(chunk);
	}
}

static void
output_end(struct output *output)
{
	watch_close(output->loop, &output->watch);
	output->ended = true;
}

void
output_free(struct output *output)
{
	struct chunk *chunk;

	output_end(output);
	while ((chunk = output->first) != NULL) {
		output->first = chunk->next;
		chunk_release(chunk);
	}
	output->last = NULL;
}

/* The chunk into which the next bytes go, or NULL without memory: then the command waits until
 * an ACK frees some. */
static struct chunk *
output_room(struct output *output)
{
	struct chunk *chunk = output->last;

	if (chunk != NULL && chunk->len < chunk->capacity)
		return chunk;
	chunk = chunk_new(output->pool, output->received == 0 ? CHUNK_LEN_FIRST : CHUNK_LEN);
	if (chunk == NULL)
		return NULL;
	chunk->offset = output->received;
	if (output->last == NULL)
		output->first = chunk;
	else
		output->last->next = chunk;
	output->last = chunk;
	return chunk;
}

/* Returns the number of bytes, 0 when there is nothing now (or the end, or no room). */
static size_t
output_read_once(struct output *output)
{
	uint64_t room = output->limit - output->received;
	struct chunk *chunk;
	ssize_t got;
	size_t len;

	if (output->ended || room == 0)
		return 0;
	chunk = output_room(output);
	if (chunk == NULL)
		return 0;
	len = chunk->capacity - chunk->len;
	if (len > room)
		len = (size_t)room;
	do
		got = read(output->watch.fd, chunk->data + chunk->len, len);
	while (got < 0 && errno == EINTR);
	if (got > 0) {
		chunk->len += (size_t)got;
		output->received += (uint64_t)got;
		return (size_t)got;
	}
	if (got == 0 || errno != EAGAIN)
		output_end(output); /* EIO: the last process has let go of the terminal */
	return 0;
}

size_t
output_read(struct output *output)
{
	size_t total = 0;
	size_t got;

	do {
		got = output_read_once(output);
		total += got;
	} while (got >= CHUNK_LEN_FIRST && total < READ_LEN_MAX);
	/* a chunk that stayed empty is not kept for a command that is silent */
	output_release_until(output, output->acked);
	output_arm(output);
	return total;
}

void
output_mark(struct output *output)
{
	int waiting = 0;

	if (output->ended || ioctl(output->watch.fd, FIONREAD, &waiting) < 0 || waiting < 0)
		waiting = 0;
	output->mark = output->received + (uint64_t)waiting;
	output->marked = true;
	/* one read beyond the mark finds the end at once, if this was the last writer */
	while (output->received <= output->mark && output_read_once(output) > 0)
		;
	output_arm(output);
}

void
output_drop(struct output *output)
{
	struct chunk *chunk;

	output_end(output);
	output->dropped = true;
	output->received = output->sent;
	while ((chunk = output->first) != NULL) {
		output->first = chunk->next;
		chunk_release(chunk);
	}
	output->last = NULL;
}

int
output_acknowledge(struct output *output, uint64_t offset, uint32_t window)
{
	if (offset > output->sent || window > OUT_WINDOW_MAX)
		return -EBADMSG;
	if (offset + window > output->limit)
		output->limit = offset + window;
	if (offset > output->acked) {
		output->acked = offset;
		output_release_until(output, offset);
	}
	output_arm(output);
	return 0;
}

int
output_resume(struct output *output, uint64_t offset, uint32_t window)
{
	if (offset > output->received || window > OUT_WINDOW_MAX)
		return -EBADMSG;
	if (output->dropped) {
		output->acked = output->sent = output->received = offset;
		return 0;
	}
	if (offset < output->acked)
		return -EBADMSG;
	output->sent = offset;
	return output_acknowledge(output, offset, window);
}

static struct chunk *
output_find(const struct output *output, uint64_t offset)
{
	struct chunk *chunk = output->first;

	while (chunk != NULL && chunk->offset + chunk->len <= offset)
		chunk = chunk->next;
	return chunk;
}

static int
output_emit_data(struct output *output, struct batch *batch, size_t *budget)
{
	struct chunk *chunk = output_find(output, output->sent);
	size_t start, len;
	int r;

	while (output->sent<output->received && * budget> 0 && !batch_full(batch)) {
		start = (size_t)(output->sent - chunk->offset);
		len = chunk->len - start < *budget ? chunk->len - start : *budget;
		r = job_data_header_encode(batch_heads(batch), JOB_OUT, output->job->number,
					   output->number, output->sent, len);
		if (r < 0)
			return r;
		batch_add_data(batch, chunk, start, len);
		output->sent += len;
		*budget -= len;
		chunk = chunk->next;
	}
	return 0;
}

int
output_emit(struct output *output, struct batch *batch, size_t *budget)
{
	int r = output_emit_data(output, batch, budget);

	return r < 0 ? r : output->sent < output->received;
}

int
output_emit_end(struct output *output, struct batch *batch)
{
	struct job_position end = { .stream = output->number, .offset = output->received };
	int r;

	if (!output->ended || output->eof_sent || output->sent < output->received)
		return 0;
	r = job_position_encode(batch_heads(batch), JOB_OUT_EOF, output->job->number, &end);
	if (r == 0)
		output->eof_sent = true;
	return r;
}

bool
output_passed_mark(const struct output *output)
{
	if (output->ended)
		return output->sent == output->received;
	/* a terminal does not count what is on its way inside; when nobody writes any more, its end
	 * comes after that */
	if (output->terminal && !output_has_writers(output))
		return false;
	return output->marked && output->sent >= output->mark;
}

bool
output_has_writers(const struct output *output)
{
	struct pollfd pollfd = { .fd = output->watch.fd, .events = POLLIN };

	return !output->ended && poll(&pollfd, 1, 0) >= 0 && (pollfd.revents & POLLHUP) == 0;
}
