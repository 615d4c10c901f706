#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/job.h"
#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/guest/input.h"
#include "shim/guest/job.h"

static void input_settle(struct input *input);

/* Opens another end of the pipe that fd is an end of; -1 when /proc is not there. */
static int
pipe_open(int fd, int flags)
{
	char path[sizeof "/proc/self/fd/" + 16];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_CLOEXEC);
}

static bool
pipe_has_reader(int write_fd)
{
	struct pollfd pollfd = { .fd = write_fd, .events = POLLOUT };

	return poll(&pollfd, 1, 0) >= 0 && (pollfd.revents & POLLERR) == 0;
}

/* Updates `used`. */
static void
input_measure(struct input *input)
{
	int fd = input->watch.fd >= 0 ? input->watch.fd : input->probe_fd;
	int unread = 0;

	if (input->closed || (!input->terminal && ioctl(fd, FIONREAD, &unread) < 0))
		return;
	if (unread >= 0 && (uint64_t)unread <= input->written &&
	    input->written - (uint64_t)unread > input->used)
		input->used = input->written - (uint64_t)unread;
}

void
input_close(struct input *input)
{
	if (input->closed)
		return;
	input_measure(input);
	watch_close(input->loop, &input->watch);
	fd_close(&input->probe_fd);
	buf_free(&input->queue);
	input->closed = true;
	input->poll_at_us = INT64_MAX;
	job_input_changed(input->job);
}

static int
input_write(struct input *input, const uint8_t *data, size_t len, size_t *ret_written)
{
	ssize_t written;

	do
		written = write(input->watch.fd, data, len);
	while (written < 0 && errno == EINTR);
	*ret_written = written > 0 ? (size_t)written : 0;
	input->written += *ret_written;
	return written < 0 && errno != EAGAIN ? -errno : 0;
}

static void
input_drain(struct input *input)
{
	size_t written = 1;

	while (written > 0 && buf_len(&input->queue) > 0) {
		if (input_write(input, buf_head(&input->queue), buf_len(&input->queue), &written) <
		    0) {
			input_close(input);
			return;
		}
		buf_consume(&input->queue, written);
	}
}

static void
input_event(struct watch *watch, uint32_t events)
{
	struct input *input = watch->context;

	if (events & (EPOLLERR | EPOLLHUP)) {
		input_close(input); /* the last reader has gone */
		return;
	}
	input_drain(input);
	input_settle(input);
}

int
input_init(struct input *input, struct job *job, struct loop *loop, int fd, bool terminal)
{
	input->job = job;
	input->loop = loop;
	input->probe_fd = -1;
	input->terminal = terminal;
	input->poll_at_us = INT64_MAX;
	buf_init(&input->queue, IN_WINDOW_MAX);
	watch_init(&input->watch, fd, input_event, input);
	/* of a terminal the output notices the end */
	return terminal ? 0 : loop_set(loop, &input->watch, EPOLLERR);
}

void
input_free(struct input *input)
{
	watch_close(input->loop, &input->watch);
	fd_close(&input->probe_fd);
	buf_free(&input->queue);
}

/* All is written: lets the command see the end. What it has not read yet stays countable through
 * a read end of our own, which no longer hurts: there is no writer left who would miss an EPIPE. */
static void
input_pass_eof(struct input *input)
{
	if (input->terminal)
		return;
	if (input->used == input->written) {
		input_close(input);
		return;
	}
	if (input->watch.fd < 0)
		return;
	input->probe_fd = pipe_open(input->watch.fd, O_RDONLY);
	if (input->probe_fd >= 0)
		watch_close(input->loop, &input->watch);
	/* else: no /proc; the end is passed on once the pipe is found empty, which costs time
	 * but loses nothing */
}

static void
input_schedule(struct input *input)
{
	if (input->closed || input->reported == input->written)
		input->poll_at_us = INT64_MAX;
	else if (input->poll_at_us == INT64_MAX)
		input->poll_at_us = loop_now_us() + input->poll_delay_us;
	if (input->poll_at_us != INT64_MAX)
		job_poll_wanted(input->job, input->poll_at_us);
}

/* After any change: what is to be reported, waited for, looked at again. */
static void
input_settle(struct input *input)
{
	bool waiting;

	if (input->closed)
		return;
	input_measure(input);
	if (input->eof && buf_len(&input->queue) == 0)
		input_pass_eof(input);
	if (input->closed)
		return;
	waiting = buf_len(&input->queue) > 0;
	loop_set(input->loop, &input->watch, waiting ? EPOLLOUT : input->terminal ? 0 : EPOLLERR);
	if (input->used > input->reported &&
	    (input->used == input->written || input->used - input->reported >= IN_WINDOW / 4)) {
		input->report = true;
		job_input_changed(input->job);
	}
	input_schedule(input);
}

int
input_receive(struct input *input, uint64_t offset, struct view bytes)
{
	uint64_t known = input->received - offset;
	size_t written = 0;
	int r;

	if (input->closed)
		return 0; /* it crossed our IN_CLOSED */
	if (offset > input->received || bytes.len > UINT64_MAX - offset ||
	    offset + bytes.len > input->used + IN_WINDOW_MAX)
		return -EBADMSG;
	if (known >= bytes.len)
		return 0;
	if (input->eof)
		return -EBADMSG;
	bytes.data += known;
	bytes.len -= (size_t)known;
	if (buf_len(&input->queue) == 0 &&
	    input_write(input, bytes.data, bytes.len, &written) < 0) {
		input_close(input);
		return 0;
	}
	r = buf_put(&input->queue, bytes.data + written, bytes.len - written);
	if (r < 0) {
		input->received += written;
		return r;
	}
	input->received += bytes.len;
	input->poll_delay_us = INPUT_POLL_FIRST_US;
	input->poll_at_us = INT64_MAX;
	input_settle(input);
	return 0;
}

int
input_finish(struct input *input, uint64_t offset)
{
	if (input->closed)
		return 0;
	if (offset != input->received)
		return -EBADMSG;
	input->eof = true;
	input_settle(input);
	return 0;
}

/* After the end of the input, and of the main process: whether another process still has the
 * read end. Asking takes a write end for a moment, while ours is closed, or our own read end
 * would answer. */
static bool
input_has_other_reader(struct input *input)
{
	cleanup_close int write_fd = pipe_open(input->probe_fd, O_WRONLY);

	if (write_fd < 0)
		return true;
	fd_close(&input->probe_fd);
	if (!pipe_has_reader(write_fd)) {
		/* the last measure of all: only a pipe that is still open can be counted */
		input->watch.fd = fd_steal(&write_fd);
		return false;
	}
	input->probe_fd = pipe_open(write_fd, O_RDONLY);
	if (input->probe_fd < 0)
		input->watch.fd = fd_steal(&write_fd);
	return true;
}

void
input_settle_exit(struct input *input)
{
	bool has_reader;

	if (input->closed || input->terminal)
		return;
	if (input->watch.fd >= 0)
		has_reader = pipe_has_reader(input->watch.fd);
	else
		has_reader = input_has_other_reader(input);
	if (!has_reader) {
		input_close(input);
		return;
	}
	input_measure(input);
	if (input->used > input->reported) {
		input->report = true;
		job_input_changed(input->job);
	}
	input_settle(input);
}

/* What the pipe holds is read back; what the command reads at the same time is not there any more,
 * so the count is exact. */
static void
input_take_back(struct input *input)
{
	cleanup_close int own_fd =
		input->probe_fd < 0 ? pipe_open(input->watch.fd, O_RDONLY | O_NONBLOCK) : -1;
	int fd = input->probe_fd < 0 ? own_fd : input->probe_fd;
	char bytes[4096];
	ssize_t got = 1;

	while (fd >= 0 && got > 0) {
		got = read(fd, bytes, sizeof bytes);
		if (got > 0)
			input->written -= (uint64_t)got;
	}
}

void
input_revoke(struct input *input)
{
	if (input->closed)
		return; /* IN_CLOSED says it all */
	if (!input->terminal) {
		buf_consume(&input->queue, buf_len(&input->queue));
		input_take_back(input);
		input->received = input->written;
		input_measure(input);
	}
	input->revoked = true;
	job_input_changed(input->job);
	input_settle(input);
}

void
input_poll(struct input *input, int64_t now_us)
{
	uint64_t used = input->used;

	if (input->poll_at_us > now_us)
		return;
	input->poll_at_us = INT64_MAX;
	input->poll_delay_us *= 2;
	if (input->poll_delay_us > INPUT_POLL_LAST_US)
		input->poll_delay_us = INPUT_POLL_LAST_US;
	if (input->job->exited) {
		input_settle_exit(input);
		return;
	}
	input_measure(input);
	if (input->used > used || input->used > input->reported) {
		input->report = true;
		job_input_changed(input->job);
	}
	input_settle(input);
}

void
input_resume(struct input *input)
{
	input->reported = 0;
	input->closed_sent = false;
	input->report = input->used > 0;
}

int
input_emit(struct input *input, struct batch *batch)
{
	struct job_position position = { .stream = input->number, .offset = input->used };
	uint8_t type = input->closed  ? JOB_IN_CLOSED :
		       input->revoked ? JOB_IN_REVOKED :
					JOB_IN_USED;
	int r;

	if (input->closed ? input->closed_sent : !input->report && !input->revoked)
		return 0;
	if (type == JOB_IN_REVOKED)
		position.offset = input->received;
	r = job_position_encode(batch_heads(batch), type, input->job->number, &position);
	if (r < 0)
		return r;
	input->reported = input->used;
	input->report = input->revoked = false;
	input->closed_sent = input->closed;
	return 0;
}
