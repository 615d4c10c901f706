#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shim/broker/job_private.h"
#include "shim/broker/log.h"

enum { READ_LEN = 64 * 1024 /* one IN frame */ };

bool
channel_has_input(const struct channel *channel)
{
	return channel->kind == JOB_STREAM_IN || channel->kind == JOB_STREAM_TTY;
}

bool
channel_has_output(const struct channel *channel)
{
	return channel->kind == JOB_STREAM_OUT || channel->kind == JOB_STREAM_TTY;
}

struct channel *
job_channel(struct job *job, uint32_t number)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		if (job->channels[i].number == number &&
		    (channel_has_input(&job->channels[i]) || channel_has_output(&job->channels[i])))
			return &job->channels[i];
	}
	return NULL;
}

void
channel_close_source(struct channel *channel)
{
	source_free(channel->source);
	channel->source = NULL;
}

void
channel_close_sink(struct channel *channel)
{
	sink_free(channel->sink);
	channel->sink = NULL;
	/* nothing is queued any more; the guest may still use the window that it was given */
	channel->job->context->window_growth -= channel->growth;
	channel->growth = 0;
}

/* ---- output ---- */

/* A window doubles when its reader has taken everything by the time it is half used. */
static uint32_t
channel_next_window(struct channel *channel)
{
	struct job_context *context = channel->job->context;
	uint32_t more = channel->window;

	if (sink_queued(channel->sink) > 0 || channel->window + more > OUT_WINDOW_MAX ||
	    context->window_growth + more > OUT_WINDOW_GROWTH_MAX)
		return channel->window;
	context->window_growth += more;
	channel->growth += more;
	return channel->window + more;
}

static void
output_written(void *arg, uint64_t offset)
{
	struct channel *channel = arg;
	struct job *job = channel->job;

	job_enter(job);
	channel->written = offset;
	if (!channel->eof && channel->written - channel->acked >= channel->window / 2) {
		channel->acked = channel->written;
		channel->window = channel_next_window(channel);
		job_send_position(job, JOB_ACK, channel->number, channel->acked, channel->window);
	}
	job_leave(job);
}

static void
output_closed(void *arg, int errno_value)
{
	struct channel *channel = arg;
	struct job *job = channel->job;
	char text[TEXT_LEN_MAX];

	job_enter(job);
	channel->close_wanted = true;
	job_send_position(job, JOB_OUT_CLOSE, channel->number, 0, 0);
	/* EIO is a terminal that was hung up */
	if (errno_value != EPIPE && errno_value != ECONNRESET &&
	    !(errno_value == EIO && channel->kind == JOB_STREAM_TTY)) {
		snprintf(text, sizeof text,
			 "writing to its descriptor %" PRIu32 ": %s; its result is unknown",
			 channel->number, strerror(errno_value));
		job_refuse(job, JOB_RESULT_UNKNOWN, text);
		job_send_kill(job);
	}
	job_leave(job);
}

const struct sink_events job_output_events = { output_written, output_closed };

/* ---- input ---- */

static void
channel_send_end(struct channel *channel)
{
	channel->eof_sent = true;
	job_send_position(channel->job, JOB_IN_EOF, channel->number, channel->sent, 0);
}

/* Reads the next piece of stdin into data.  Returns its length, or 0 when there is none now or the
 * end was found. */
static size_t
channel_read(struct channel *channel, uint8_t *data, size_t room)
{
	bool end;
	ssize_t n;

	if (channel->ended && channel->end - channel->sent < room)
		room = (size_t)(channel->end - channel->sent);
	if (room == 0)
		return 0;
	n = source_read(channel->source, channel->sent, data, room, &end);
	if (n > 0)
		return (size_t)n;
	if (n == -EAGAIN)
		return 0;
	/* a descriptor that cannot be read ends the stream, as the command's own read would fail */
	if (n < 0)
		log_warning("job %" PRIu32 ": reading descriptor %" PRIu32 ": %s",
			    channel->job->number, channel->number, strerror((int)-n));
	channel->ended = true;
	channel->end = channel->sent;
	return 0;
}

/* Sends one piece of stdin, or its end.  Returns false when there is nothing more to send now. */
static bool
channel_send_piece(struct channel *channel)
{
	struct job *job = channel->job;
	struct buf *out = lane_out(job->context->lane);
	uint64_t ahead = channel->sent - channel->used;
	uint8_t data[READ_LEN];
	size_t room = ahead < channel->in_window ? (size_t)(channel->in_window - ahead) : 0;
	size_t n;

	if (channel->source == NULL || channel->eof_sent || channel->revoking || room == 0 ||
	    job->caller_stopped || (channel->kind == JOB_STREAM_TTY && job->terminal == NULL) ||
	    !lane_has_room(job->context->lane, READ_LEN + JOB_DATA_HEADER_LEN))
		return false;
	n = channel_read(channel, data, room < sizeof data ? room : sizeof data);
	if (channel->ended && channel->sent == channel->end)
		channel_send_end(channel);
	if (n == 0 || buf_reserve(out, JOB_DATA_HEADER_LEN + n) == NULL)
		return false;
	(void)job_data_header_encode(out, JOB_IN, job->number, channel->number, channel->sent, n);
	(void)buf_put(out, data, n); /* there is room: both were reserved */
	channel->sent += n;
	return true;
}

void
channel_pump(struct channel *channel)
{
	bool any = false;

	if (!lane_is_up(channel->job->context->lane) || !channel->job->sent)
		return;
	while (channel_send_piece(channel))
		any = true;
	if (any)
		lane_flush(channel->job->context->lane);
}

/* The shim hears of a new size by a signal, which a key typed right after it must not overtake. */
static void
job_look_at_size(struct job *job, const struct channel *channel)
{
	struct job_control winch = { .type = JOB_WINCH };

	if (channel->kind != JOB_STREAM_TTY || channel->sink == NULL ||
	    !terminal_size(sink_fd(channel->sink), &winch.winsize) ||
	    memcmp(&winch.winsize, &job->winsize, sizeof job->winsize) == 0)
		return;
	job_control(job, &winch);
}

static void
input_more(void *arg)
{
	struct channel *channel = arg;
	struct job *job = channel->job;

	job_enter(job);
	job_look_at_caller(job); /* input that came after it was stopped must not overtake that */
	job_look_at_size(job, channel);
	channel_pump(channel);
	job_leave(job);
}

static void
input_revoke(void *arg)
{
	struct channel *channel = arg;
	struct job *job = channel->job;

	job_enter(job);
	channel->revoking = true;
	job_send_position(job, JOB_IN_REVOKE, channel->number, 0, 0);
	job_leave(job);
}

const struct source_events job_input_events = { input_more, input_revoke };
