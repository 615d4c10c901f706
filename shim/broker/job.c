#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim/base/fd.h"
#include "shim/broker/job_private.h"
#include "shim/broker/log.h"

enum {
	EXIT_STALL_MS = 200, /* PROTOCOL.md, EXIT */
	TIMEOUT_GRACE_S = 2, /* between TERM and KILL when the command timeout ends it */
	CONTROL_LEN_MAX = JOB_HEADER_LEN + 16,
};

static void job_settle(struct job *job);
static const struct job_events *job_take_events(struct job *job);

/* ---- freeing ---- */

/* The settings are put back; nothing is read from it any more. */
static void
job_give_terminal(struct job *job)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		if (job->channels[i].kind == JOB_STREAM_TTY && job->channels[i].source != NULL)
			source_pause(job->channels[i].source);
	}
	terminal_give(&job->context->terminals, job->terminal);
	job->terminal = NULL;
}

static void
job_free(struct job *job)
{
	job_give_terminal(job);
	ev_timer_stop(job->context->loop, &job->deadline);
	ev_timer_stop(job->context->loop, &job->stall);
	for (size_t i = 0; i < job->channel_count; i++) {
		channel_close_source(&job->channels[i]);
		channel_close_sink(&job->channels[i]);
	}
	buf_free(&job->start);
	if (job->number != 0)
		lane_leave(job->context->lane, job, job->number);
	free(job);
}

void
job_enter(struct job *job)
{
	job->busy++;
}

void
job_leave(struct job *job)
{
	if (--job->busy == 0)
		job_settle(job);
}

/* ---- the lane ---- */

/* Appending a small frame fails only without memory; then the lane is beyond help, and it says so
 * itself. */
void
job_send_position(struct job *job, uint8_t type, uint32_t stream, uint64_t offset, uint32_t window)
{
	struct job_position position = { stream, offset, window };

	if (!lane_is_up(job->context->lane) || !job->sent)
		return;
	(void)job_position_encode(lane_out(job->context->lane), type, job->number, &position);
	lane_flush(job->context->lane);
}

void
job_send_kill(struct job *job)
{
	job->kill_wanted = true;
	if (!lane_is_up(job->context->lane) || !job->sent)
		return;
	(void)job_number_encode(lane_out(job->context->lane), JOB_KILL, job->number, SIGKILL);
	lane_flush(job->context->lane);
}

/* Sends the controls that have not been, as far as there is room. */
static void
send_controls(struct job *job)
{
	struct lane *lane = job->context->lane;

	if (!lane_is_up(lane) || !job->sent)
		return;
	while (job->controls_sent < job->control_count && lane_has_room(lane, CONTROL_LEN_MAX)) {
		(void)job_control_encode(lane_out(lane), job->number,
					 &job->controls[job->controls_sent++]);
		lane_flush(lane);
	}
}

/* The terminal, if there is one and the caller may use it now. */
static void
job_take_terminal(struct job *job)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		struct channel *channel = &job->channels[i];

		if (channel->kind != JOB_STREAM_TTY || channel->sink == NULL ||
		    job->terminal != NULL ||
		    !terminal_may_take(job->caller, sink_fd(channel->sink)))
			continue;
		job->terminal = terminal_take(&job->context->terminals, sink_fd(channel->sink),
					      job->plain_output);
		channel_pump(channel);
	}
}

static void
send_start(struct job *job)
{
	struct buf *out = lane_out(job->context->lane);

	/* the guest takes numbers in ascending order only: nobody overtakes a START that waits for
	 * room */
	if (lane_is_starved(job->context->lane) ||
	    !lane_has_room(job->context->lane, buf_len(&job->start)) ||
	    buf_put(out, buf_head(&job->start), buf_len(&job->start)) < 0)
		return;
	job->sent = true;
	lane_flush(job->context->lane);
	job_take_terminal(
		job); /* not before: until then its keys must reach the caller as signals */
	if (job->kill_wanted)
		job_send_kill(job);
	job->controls_sent = 0;
	send_controls(job);
}

/* ---- making a job ---- */

static void
deadline_passed(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct job *job = timer->data;
	struct job_control term = { .type = JOB_SIGNAL,
				    .signal = SIGTERM,
				    .scope = JOB_SCOPE_SESSION };

	(void)loop;
	(void)events;
	job_enter(job);
	if (!job->sent) {
		job_lose(job, "the sandbox was not ready within the command timeout");
	} else if (!job->timed_out) {
		job->timed_out = true;
		job_control(job, &term);
		ev_timer_set(timer, TIMEOUT_GRACE_S, 0.);
		ev_timer_start(job->context->loop, timer);
	} else {
		job_send_kill(job);
	}
	job_leave(job);
}

static uint64_t
output_written_in_all(const struct job *job)
{
	uint64_t written = 0;

	for (size_t i = 0; i < job->channel_count; i++)
		written += job->channels[i].written;
	return written;
}

/* What is still held of streams that others write to as well, or of a command that was told to end,
 * is no longer waited for when nobody takes it. */
static void
stall_passed(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct job *job = timer->data;
	uint64_t written = output_written_in_all(job);
	bool stalled = written == job->stall_written;

	(void)loop;
	(void)events;
	job_enter(job);
	job->stall_written = written;
	for (size_t i = 0; stalled && i < job->channel_count; i++) {
		if (!job->channels[i].eof || job->ending)
			job->channels[i].exit_mark = 0;
	}
	job_leave(job);
}

/* A terminal that may not be taken (the caller is in the background) goes on processing output,
 * which must be done once. */
static void
job_prepare_terminal(struct job *job, struct job_start *start, uint8_t settings[TERMIOS_LEN_MAX])
{
	for (size_t i = 0; i < job->channel_count; i++) {
		const struct channel *channel = &job->channels[i];

		if (channel->kind == JOB_STREAM_TTY)
			job->plain_output = !terminal_may_take(job->caller, sink_fd(channel->sink));
	}
	if (!job->plain_output)
		return;
	memcpy(settings, start->termios.data, start->termios.len);
	terminal_plain_output(settings, start->termios.len);
	start->termios.data = settings;
}

int
job_new(struct job_context *context, const struct job_start *local, pid_t caller, const int *fds,
	size_t fd_count, const struct job_events *events, void *arg, struct job **ret,
	struct err *err)
{
	struct job_start start = *local;
	struct job *job = calloc(1, sizeof *job + local->stream_count * sizeof job->channels[0]);
	uint8_t settings[TERMIOS_LEN_MAX];
	int r;

	if (job == NULL) {
		for (size_t i = 0; i < fd_count; i++)
			fd_cleanup(&(int){ fds[i] });
		return err_set(err, ENOMEM, "no memory for a command");
	}
	job->context = context;
	job->events = events;
	job->arg = arg;
	job->caller = caller;
	job->ignored = local->ignored;
	job->winsize = local->winsize;
	job->busy = 1; /* nothing may free it before it is whole */
	buf_init(&job->start, FRAME_LEN_MAX);
	ev_timer_init(&job->deadline, deadline_passed, (double)context->config->command_timeout_s,
		      0.);
	ev_timer_init(&job->stall, stall_passed, EXIT_STALL_MS / 1000., EXIT_STALL_MS / 1000.);
	job->deadline.data = job->stall.data = job;
	job_find_tokens(job, local, fds, fd_count);
	r = job_open_channels(job, &start, fds, fd_count, err);
	fd_close(&job->token_fd);
	if (r == 0)
		job_prepare_terminal(job, &start, settings);
	if (r == 0)
		r = lane_join(context->lane, job, &job->number, err);
	if (r == 0)
		r = job_encode_start(job, local, &start, err);
	if (r < 0) {
		job_free(job);
		return r;
	}
	if (context->config->command_timeout_s > 0)
		ev_timer_start(context->loop, &job->deadline);
	*ret = job;
	if (lane_is_up(context->lane))
		job_pump(job);
	job->busy = 0;
	return 0;
}

/* ---- the caller ---- */

static bool
tells_to_end(const struct job *job, const struct job_control *control)
{
	return control->type == JOB_SIGNAL && (job->ignored >> (control->signal - 1) & 1) == 0 &&
	       (control->signal == SIGTERM || control->signal == SIGINT ||
		control->signal == SIGHUP || control->signal == SIGQUIT);
}

/* Either the command has ended, but its output has not been taken: locally it would still be there,
 * writing, and die of the signal.  Or it has not begun: then it dies of it before it does. */
static void
job_end_by_signal(struct job *job, const struct job_control *control)
{
	const struct job_events *events;
	struct job_exit end = job->exit;

	if (!tells_to_end(job, control))
		return;
	job_enter(job);
	for (size_t i = 0; i < job->channel_count; i++)
		job->channels[i].close_wanted = true;
	end.wstat = (struct wstat){ WSTAT_SIGNALED, control->signal };
	events = job_take_events(job);
	if (events != NULL)
		events->exited(job->arg, &end);
	job->done = job->done || !job->sent;
	job_leave(job);
}

static void
job_continue(struct job *job)
{
	job->caller_stopped = false;
	job_take_terminal(job);
	for (size_t i = 0; i < job->channel_count; i++)
		channel_pump(&job->channels[i]);
}

/* A signal that is pending already is the same signal, as in the kernel; of sizes the last one
 * counts. */
static bool
control_is_waiting(struct job *job, const struct job_control *control)
{
	for (uint32_t i = job->controls_sent; i < job->control_count; i++) {
		struct job_control *waiting = &job->controls[i];

		if (waiting->type != control->type || waiting->signal != control->signal)
			continue;
		waiting->winsize = control->winsize;
		return true;
	}
	return false;
}

static void
take_control(struct job *job, const struct job_control *control)
{
	struct job_control *kept;

	job->ending = job->ending || tells_to_end(job, control);
	if (job->exited || !job->sent)
		job_end_by_signal(job, control);
	if (job->exited || job->done)
		return;
	if (control->type == JOB_WINCH)
		job->winsize = control->winsize;
	if (control_is_waiting(job, control))
		return;
	if (job->control_count == CONTROLS_MAX) {
		/* confirmed by the next greeting at the latest; the oldest has arrived long ago, or
		 * there are as many waiting as there are signals */
		memmove(job->controls, job->controls + 1,
			sizeof job->controls - sizeof job->controls[0]);
		job->control_count--;
		job->controls_sent -= job->controls_sent > 0;
	}
	kept = &job->controls[job->control_count++];
	*kept = *control;
	kept->sequence = ++job->control_sequence;
	send_controls(job);
	if (control->type == JOB_SIGNAL && control->signal == SIGCONT)
		job_continue(job);
}

void
job_control(struct job *job, const struct job_control *control)
{
	job_enter(job);
	take_control(job, control);
	job_leave(job);
}

void
job_look_at_caller(struct job *job)
{
	const struct job_control stop = { .type = JOB_SIGNAL,
					  .signal = SIGSTOP,
					  .scope = JOB_SCOPE_GROUP };

	if (job->events == NULL || job->caller_stopped || !terminal_process_is_stopped(job->caller))
		return;
	job->caller_stopped = true;
	job_control(job, &stop);
}

void
job_abandon(struct job *job)
{
	bool told = job->events == NULL;

	job_enter(job);
	job->events = NULL;
	if (!told && !job->done) {
		job_send_kill(job);
		for (size_t i = 0; i < job->channel_count; i++) {
			channel_close_source(&job->channels[i]);
			channel_close_sink(&job->channels[i]);
		}
		job->done = !job->sent;
	}
	job_leave(job);
}

/* ---- ends ---- */

static const struct job_events *
job_take_events(struct job *job)
{
	const struct job_events *events = job->events;

	job_give_terminal(job); /* before the caller can look at it again */
	job->events = NULL;
	ev_timer_stop(job->context->loop, &job->deadline);
	ev_timer_stop(job->context->loop, &job->stall);
	return events;
}

void
job_refuse(struct job *job, enum job_refusal kind, const char *text)
{
	const struct job_events *events = job_take_events(job);

	if (events != NULL)
		events->refused(job->arg, kind, text);
}

/* Whether every byte that the command had written when it ended has been written on. */
static bool
output_is_out(const struct job *job)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		const struct channel *channel = &job->channels[i];

		if (channel->sink != NULL && !channel->close_wanted &&
		    channel->written < channel->exit_mark)
			return false;
	}
	return true;
}

static void
job_tell_exit(struct job *job)
{
	const struct job_events *events = job_take_events(job);

	for (size_t i = 0; i < job->channel_count; i++) {
		if (job->channels[i].source != NULL)
			source_settle(job->channels[i].source);
	}
	if (events == NULL)
		return;
	if (job->timed_out)
		events->refused(job->arg, JOB_TIMED_OUT, "ended by the configured command timeout");
	else
		events->exited(job->arg, &job->exit);
}

/* Closes what has ended, tells the end when it is due, and frees the job when nothing is left of
 * it. */
static void
job_settle(struct job *job)
{
	bool open = false;

	job->busy++;
	for (size_t i = 0; i < job->channel_count; i++) {
		struct channel *channel = &job->channels[i];

		if (channel->sink != NULL &&
		    (channel->close_wanted || (channel->eof && sink_queued(channel->sink) == 0)))
			channel_close_sink(channel);
		open = open || channel->sink != NULL;
	}
	if (job->exited && output_is_out(job))
		job_tell_exit(job);
	job->busy--;
	if (job->done && !open && job->events == NULL)
		job_free(job);
}

void
job_lose(struct job *job, const char *reason)
{
	char text[TEXT_LEN_MAX];

	job_enter(job);
	if (!job->exited) {
		snprintf(text, sizeof text, "%s: %s", reason,
			 job->sent ? "its result is unknown" : "the command was not run");
		job_refuse(job, job->sent ? JOB_RESULT_UNKNOWN : JOB_NOT_RUN, text);
	}
	for (size_t i = 0; i < job->channel_count; i++) {
		job->channels[i].eof = true;
		channel_close_source(&job->channels[i]);
	}
	job->done = true;
	job_leave(job);
}

bool
job_was_sent(const struct job *job)
{
	return job->sent;
}

/* ---- frames from the guest ---- */

static int
take_started(struct job *job, uint64_t pid)
{
	buf_free(&job->start);
	if (job->events != NULL && !job->answered)
		job->events->started(job->arg, (uint32_t)pid);
	job->answered = true;
	return 0;
}

/* The terminal is the caller's again before the caller knows. */
static int
take_stopped(struct job *job, uint64_t signal_number)
{
	job_give_terminal(job);
	if (job->events != NULL && !job->caller_stopped)
		job->events->stopped(job->arg, (uint8_t)signal_number);
	return 0;
}

static void
send_exit_ack(struct job *job)
{
	(void)job_empty_encode(lane_out(job->context->lane), JOB_EXIT_ACK, job->number);
	lane_flush(job->context->lane);
}

static int
take_failed(struct job *job, struct view body)
{
	const struct job_events *events;
	struct job_failure failure;

	if (job->answered || job_failure_decode(body, &failure) < 0)
		return -EBADMSG;
	job->answered = true;
	job->done = true;
	send_exit_ack(job);
	for (size_t i = 0; i < job->channel_count; i++) {
		channel_close_source(&job->channels[i]);
		channel_close_sink(&job->channels[i]);
	}
	events = job_take_events(job);
	if (events != NULL)
		events->failed(job->arg, &failure);
	return 0;
}

static int
take_exit(struct job *job, struct view body)
{
	struct job_exit end;

	if (job_exit_decode(body, &end) < 0)
		return -EBADMSG;
	send_exit_ack(job);
	if (job->exited)
		return 0;
	job->exited = true;
	ev_timer_stop(job->context->loop, &job->deadline);
	job->exit = end;
	for (size_t i = 0; i < job->channel_count; i++)
		job->channels[i].exit_mark = job->channels[i].received;
	ev_timer_start(job->context->loop, &job->stall);
	return 0;
}

static int
take_done(struct job *job, struct view body)
{
	if (job_empty_decode(body) < 0)
		return -EBADMSG;
	job_lose(job,
		 "the sandbox no longer knows how the command ended"); /* no more output comes */
	return 0;
}

static int
take_position(struct job *job, const struct job_frame *frame)
{
	struct job_position position;
	struct channel *channel;

	if (job_position_decode(frame->type, frame->body, &position) < 0)
		return -EBADMSG;
	channel = job_channel(job, position.stream);
	if (channel == NULL)
		return -EBADMSG;
	if (frame->type == JOB_OUT_EOF) {
		if (!channel_has_output(channel))
			return -EBADMSG;
		/* after OUT_CLOSE the guest drops what it held, so the end may be beyond what was
		 * received */
		if (position.offset != channel->received && !channel->close_wanted)
			return -EBADMSG;
		channel->eof = true;
		return 0;
	}
	if (!channel_has_input(channel) || position.offset > channel->sent ||
	    position.offset < channel->used)
		return -EBADMSG;
	channel->used = position.offset;
	if (channel->used >= channel->grows_at && channel->in_window < IN_WINDOW_MAX) {
		channel->in_window *= 2;
		channel->grows_at = channel->used + channel->in_window;
	}
	if (channel->source == NULL)
		return 0;
	if (frame->type == JOB_IN_REVOKED) {
		channel->revoking = false;
		channel->sent = position.offset;
		source_revoked(channel->source, position.offset);
	} else {
		source_used(channel->source, position.offset);
	}
	if (frame->type == JOB_IN_CLOSED)
		channel_close_source(channel);
	else
		channel_pump(channel);
	return 0;
}

static int
take_frame(struct job *job, const struct job_frame *frame)
{
	uint64_t number;

	switch (frame->type) {
	case JOB_STARTED:
		return job_number_decode(JOB_STARTED, frame->body, &number) < 0 ?
			       -EBADMSG :
			       take_started(job, number);
	case JOB_FAILED:
		return take_failed(job, frame->body);
	case JOB_STOPPED:
		return job_number_decode(JOB_STOPPED, frame->body, &number) < 0 ?
			       -EBADMSG :
			       take_stopped(job, number);
	case JOB_IN_USED:
	case JOB_IN_CLOSED:
	case JOB_IN_REVOKED:
	case JOB_OUT_EOF:
		return take_position(job, frame);
	case JOB_EXIT:
		return take_exit(job, frame->body);
	case JOB_DONE:
		return take_done(job, frame->body);
	default:
		return -EBADMSG;
	}
}

int
job_take_frame(struct job *job, const struct job_frame *frame)
{
	int r;

	job_enter(job);
	r = take_frame(job, frame);
	job_leave(job);
	return r;
}

int
job_take_output(struct job *job, uint32_t stream, uint64_t offset, const uint8_t *data, size_t len)
{
	struct channel *channel = job_channel(job, stream);
	size_t known;
	int r = 0;

	if (channel == NULL || !channel_has_output(channel) || offset > channel->received)
		return -EBADMSG;
	known = (size_t)(channel->received - offset);
	if (known >= len)
		return 0;
	data += known;
	len -= known;
	if (channel->received + len - channel->acked > channel->window)
		return -EBADMSG;
	job_enter(job);
	channel->received += len;
	if (channel->sink != NULL && !channel->close_wanted)
		r = sink_put(channel->sink, data, len);
	job_leave(job);
	return r;
}

/* ---- a new lane ---- */

bool
job_hello_entry(const struct job *job, struct job_hello_entry *ret)
{
	uint32_t count = 0;

	if (!job->sent)
		return false;
	for (size_t i = 0; i < job->channel_count; i++) {
		const struct channel *channel = &job->channels[i];

		if (channel_has_output(channel))
			ret->streams[count++] = (struct job_position){
				channel->number, channel->received,
				(uint32_t)(channel->acked + channel->window - channel->received)
			};
	}
	ret->job = job->number;
	ret->control_sequence = 0;
	ret->stream_count = count;
	return true;
}

/* Repeats what the daemon has not got. */
static void
job_repeat(struct job *job, const struct job_hello_entry *entry)
{
	for (uint32_t i = 0; i < entry->stream_count; i++) {
		struct channel *channel = job_channel(job, entry->streams[i].stream);

		if (channel == NULL || !channel_has_input(channel))
			continue;
		if (entry->streams[i].offset >= channel->used &&
		    entry->streams[i].offset <= channel->sent)
			channel->sent = entry->streams[i].offset;
		channel->eof_sent = false;
		if (channel->revoking)
			job_send_position(job, JOB_IN_REVOKE, channel->number, 0, 0);
	}
	for (size_t i = 0; i < job->channel_count; i++) {
		struct channel *channel = &job->channels[i];

		if (channel->close_wanted && !channel->eof)
			job_send_position(job, JOB_OUT_CLOSE, channel->number, 0, 0);
		else if (channel_has_output(channel) && !channel->eof)
			job_send_position(job, JOB_ACK, channel->number, channel->acked,
					  channel->window);
	}
	if (job->kill_wanted)
		job_send_kill(job);
	for (job->controls_sent = 0; job->controls_sent < job->control_count;
	     job->controls_sent++) {
		if (job->controls[job->controls_sent].sequence > entry->control_sequence)
			break;
	}
	send_controls(job);
}

void
job_lane_up(struct job *job, const struct job_hello_entry *entry, bool same_boot)
{
	job_enter(job);
	if (entry != NULL) {
		job_repeat(job, entry);
	} else if (job->sent && job->exited) {
		/* forgotten, because the daemon knew that we had seen the end, or with the daemon:
		 * no more output comes */
		job_lose(job, "the sandbox lost the command");
	} else if (job->sent && (!same_boot || job->answered)) {
		job_lose(job, "the sandbox lost the command");
	} else {
		job->sent = false;		 /* START never arrived */
		job->done = job->events == NULL; /* and nobody is there for it any more */
	}
	if (!job->done)
		job_pump(job);
	job_leave(job);
}

void
job_pump(struct job *job)
{
	if (!job->sent && !job->done)
		send_start(job);
	else
		send_controls(job);
	for (size_t i = 0; i < job->channel_count; i++)
		channel_pump(&job->channels[i]);
}
