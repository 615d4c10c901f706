#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "shim/base/fd.h"
#include "shim/base/strv.h"
#include "shim/broker/job.h"
#include "shim/broker/log.h"
#include "shim/broker/policy.h"
#include "shim/broker/sink.h"

enum {
	READ_LEN = 64 * 1024,	 /* one IN frame */
	EXIT_STALL_MS = 200, /* PROTOCOL.md, EXIT */
	TIMEOUT_GRACE_S = 2,	 /* between TERM and KILL when the command timeout ends it */
	PIPE_LEN_DEFAULT = 64 * 1024,
	CONTROL_LEN_MAX = JOB_HEADER_LEN + 16,
};

/* One stream of the command. */
struct channel {
	struct job *job;
	uint32_t number;
	enum job_stream_kind kind;

	struct source *source; /* IN, TTY: until the command cannot read any more */
	uint64_t sent;
	uint64_t used;
	uint32_t in_window;
	uint64_t grows_at; /* once this offset has been consumed, the window was too small for the command's pace */
	bool ended; /* the end of the source was read: it is at `end`, and nothing beyond it is read any more */
	uint64_t end;
	bool eof_sent;
	bool revoking; /* IN_REVOKE was sent; nothing goes before the answer */

	struct sink *sink; /* OUT, TTY: until its end or its reader's */
	uint64_t received;
	uint64_t written;
	uint64_t acked;
	uint32_t window;
	uint32_t growth; /* how much of the window counts against the broker's growth */
	uint64_t exit_mark; /* what had been received when the command ended */
	bool eof;
	bool close_wanted; /* the reader has gone: OUT_CLOSE */
};

struct job {
	struct job_context *context;
	const struct job_events *events; /* NULL: nobody listens any more */
	void *arg;
	pid_t caller;
	uint32_t number;
	uint64_t ignored;  /* signals that the command was started with ignored */
	struct job_winsize winsize; /* of its terminal, as last sent */
	bool caller_stopped;
	bool plain_output; /* the terminal in the sandbox does no output processing: the one here does */
	struct terminal *terminal; /* taken; NULL also while the caller is stopped or in the background */

	struct buf start; /* the encoded START until the guest has answered it */
	bool sent;
	bool answered; /* STARTED or FAILED was seen */
	bool exited;
	bool done;
	bool kill_wanted;
	bool timed_out;
	bool ending; /* it was told to end: what nobody takes is not waited for */
	uint32_t busy; /* > 0 while a function of ours is on the stack: frees itself later */
	struct job_exit exit;

	struct job_control controls[CONTROLS_MAX]; /* not confirmed yet, oldest first */
	uint32_t control_count;
	uint32_t controls_sent; /* on the present lane */
	uint32_t control_sequence;

	uint32_t token_stream; /* of make's jobserver, to be read */
	int token_fd;	       /* our copy of its other end, until the stream is opened; else -1 */
	uint32_t left_behind; /* bit i: the descriptor of stream i cannot cross */
	struct ev_timer deadline;
	struct ev_timer stall;
	uint64_t stall_written; /* output written when it was last looked at */
	size_t channel_count;
	struct channel channels[]; /* one for each stream of START */
};

static void job_settle(struct job *job);
static void job_refuse(struct job *job, enum job_refusal kind, const char *text);
static const struct job_events *job_take_events(struct job *job);

/* ---- freeing -------------------------------------------------------------------------------------------------- */

static void
channel_close_source(struct channel *channel)
{
	source_free(channel->source);
	channel->source = NULL;
}

static void
channel_close_sink(struct channel *channel)
{
	sink_free(channel->sink);
	channel->sink = NULL;
	/* nothing is queued any more; the guest may still use the window that it was given */
	channel->job->context->window_growth -= channel->growth;
	channel->growth = 0;
}

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

/* Every entry point brackets itself with these, so that a job ends only when nothing on the stack uses it. */
static void
job_enter(struct job *job)
{
	job->busy++;
}

static void
job_leave(struct job *job)
{
	if (--job->busy == 0)
		job_settle(job);
}

/* ---- the lane ------------------------------------------------------------------------------------------------- */

/* Appending a small frame fails only without memory; then the lane is beyond help, and it says so itself. */
static void
send_position(struct job *job, uint8_t type, uint32_t stream, uint64_t offset, uint32_t window)
{
	struct job_position position = { stream, offset, window };

	if (!lane_is_up(job->context->lane) || !job->sent)
		return;
	(void)job_position_encode(lane_out(job->context->lane), type, job->number, &position);
	lane_flush(job->context->lane);
}

static void
send_kill(struct job *job)
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
		(void)job_control_encode(lane_out(lane), job->number, &job->controls[job->controls_sent++]);
		lane_flush(lane);
	}
}

static void
send_start(struct job *job)
{
	struct buf *out = lane_out(job->context->lane);

	/* the guest takes numbers in ascending order only: nobody overtakes a START that waits for room */
	if (lane_is_starved(job->context->lane) || !lane_has_room(job->context->lane, buf_len(&job->start)) ||
	    buf_put(out, buf_head(&job->start), buf_len(&job->start)) < 0)
		return;
	job->sent = true;
	lane_flush(job->context->lane);
	if (job->kill_wanted)
		send_kill(job);
	job->controls_sent = 0;
	send_controls(job);
}

/* ---- output --------------------------------------------------------------------------------------------------- */

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
		send_position(job, JOB_ACK, channel->number, channel->acked, channel->window);
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
	send_position(job, JOB_OUT_CLOSE, channel->number, 0, 0);
	/* EIO is a terminal that was hung up */
	if (errno_value != EPIPE && errno_value != ECONNRESET &&
	    !(errno_value == EIO && channel->kind == JOB_STREAM_TTY)) {
		snprintf(text, sizeof text, "writing to its descriptor %" PRIu32 ": %s; its result is unknown",
			 channel->number, strerror(errno_value));
		job_refuse(job, JOB_RESULT_UNKNOWN, text);
		send_kill(job);
	}
	job_leave(job);
}

static const struct sink_events output_events = { output_written, output_closed };

/* ---- input ---------------------------------------------------------------------------------------------------- */

static void
channel_send_end(struct channel *channel)
{
	channel->eof_sent = true;
	send_position(channel->job, JOB_IN_EOF, channel->number, channel->sent, 0);
}

/* Reads the next piece of stdin into data.  Returns its length, or 0 when there is none now or the end was found. */
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
		log_warning("job %" PRIu32 ": reading descriptor %" PRIu32 ": %s", channel->job->number, channel->number,
			    strerror((int)-n));
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

	if (channel->source == NULL || channel->eof_sent || channel->revoking || room == 0 || job->caller_stopped ||
	    (channel->kind == JOB_STREAM_TTY && job->terminal == NULL) ||
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

static void
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
	send_position(job, JOB_IN_REVOKE, channel->number, 0, 0);
	job_leave(job);
}

static const struct source_events input_events = { input_more, input_revoke };

/* ---- making a job --------------------------------------------------------------------------------------------- */

static bool
fd_reads(int fd, uint32_t number)
{
	int mode = fcntl(fd, F_GETFL) & O_ACCMODE;

	return mode == O_RDONLY || (mode == O_RDWR && number == 0);
}

static bool
is_two_way(int fd)
{
	return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

/* 0, 1 and 2 always do; others when they go one way, or are the same in the sandbox. */
static bool
descriptor_crosses(int fd, uint32_t number)
{
	int kind = borrow_kind(fd);

	if (number <= 2 || kind == BORROW_TTY)
		return true;
	if (kind == BORROW_EVERYWHERE)
		return borrow_device(fd) != 0;
	return (kind == BORROW_PIPE || kind == BORROW_FILE || kind == BORROW_OTHER) && !is_two_way(fd);
}

static bool
same_terminal(int a, int b)
{
	struct stat sa, sb;

	return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_rdev == sb.st_rdev;
}

/* fd 1 and 2 on one pipe: the command gets one pipe too, so that the order of its writes is the local one.  A terminal is one
 * for all of them. */
static bool
find_same(const struct job *job, const int *fds, size_t index, int fd, uint32_t *ret_number)
{
	bool is_terminal = borrow_kind(fd) == BORROW_TTY;

	for (size_t i = 0; i < index; i++) {
		const struct channel *channel = &job->channels[i];
		bool same = false;

		if (fds[i] < 0)
			continue;
		if (channel->kind == JOB_STREAM_TTY)
			same = is_terminal && same_terminal(fds[i], fd);
		else if (channel->kind == JOB_STREAM_OUT || (channel->kind == JOB_STREAM_IN && !is_two_way(fd)))
			same = borrow_same(fds[i], fd);
		if (same) {
			*ret_number = channel->number;
			return true;
		}
	}
	return false;
}

static uint32_t
out_pipe_len(int fd, enum borrow_kind kind)
{
	int len = kind == BORROW_PIPE ? fcntl(fd, F_GETPIPE_SZ) : 0;

	return len <= 0 || len == PIPE_LEN_DEFAULT ? 0 : (uint32_t)len;
}

static int
channel_open_input(struct channel *channel, int fd, enum borrow_kind kind, struct err *err)
{
	int return_fd = channel->job->token_fd >= 0 && channel->number == channel->job->token_stream ?
				fd_steal(&channel->job->token_fd) :
				-1;

	if (return_fd >= 0)
		return source_new_tokens(&channel->job->context->tools, fd, return_fd, &input_events, channel,
					 &channel->source, err);
	return source_new(&channel->job->context->tools, fd, kind, &input_events, channel, &channel->source, err);
}

static int
channel_open_output(struct channel *channel, int fd, enum borrow_kind kind, struct err *err)
{
	struct job_context *context = channel->job->context;

	return sink_new(context->loop, context->edges, fd, kind, &output_events, channel, &channel->sink, err);
}

/* Both directions, each with a descriptor of its own. */
static int
channel_open_terminal(struct channel *channel, int fd, struct err *err)
{
	int input = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	int r = channel_open_output(channel, fd, BORROW_TTY, err);

	if (input < 0)
		return r < 0 ? r : err_errno(err, EMFILE, "the terminal");
	if (r < 0) {
		fd_cleanup(&input);
		return r;
	}
	return channel_open_input(channel, input, BORROW_TTY, err);
}

static bool
one_terminal_is_enough(const struct job *job, int kind)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		if (job->channels[i].kind == JOB_STREAM_TTY)
			return false;
	}
	return kind == BORROW_TTY;
}

/* Decides what a passed descriptor is for the command, and takes it over. */
static int
channel_open(struct channel *channel, struct job_stream *stream, int fd, struct err *err)
{
	int kind = borrow_kind(fd), r = 0;

	if (kind < 0) {
		stream->kind = JOB_STREAM_CLOSED; /* it cannot be read or written locally either */
		fd_cleanup(&fd);
	} else if (kind == BORROW_EVERYWHERE) {
		stream->kind = JOB_STREAM_DEVICE;
		stream->refers_to = (uint32_t)borrow_device(fd);
		fd_cleanup(&fd);
	} else if (one_terminal_is_enough(channel->job, kind)) {
		stream->kind = JOB_STREAM_TTY;
		r = channel_open_terminal(channel, fd, err);
	} else if (fd_reads(fd, stream->stream)) {
		stream->kind = JOB_STREAM_IN;
		r = channel_open_input(channel, fd, (enum borrow_kind)kind, err);
		if (r == 0)
			stream->pipe_len = source_pipe_len(channel->source);
	} else {
		stream->kind = JOB_STREAM_OUT;
		stream->pipe_len = out_pipe_len(fd, (enum borrow_kind)kind);
		r = channel_open_output(channel, fd, (enum borrow_kind)kind, err);
	}
	channel->kind = (enum job_stream_kind)stream->kind;
	return r;
}

/* The value of MAKEFLAGS, which the caller frees, or NULL. */
static char *
find_makeflags(struct job_strings env)
{
	static const char name[] = "MAKEFLAGS=";
	const size_t name_len = sizeof name - 1;
	struct view item;

	while (job_strings_next(&env, &item)) {
		if (item.len >= name_len && memcmp(item.data, name, name_len) == 0)
			return strndup((const char *)item.data + name_len, item.len - name_len);
	}
	return NULL;
}

/* Of a jobserver both ends must have been passed. */
static void
job_find_tokens(struct job *job, const struct job_start *start, const int *fds, size_t fd_count)
{
	char *makeflags = find_makeflags(start->env);
	unsigned read_end, write_end;
	size_t next = 0;

	job->token_fd = -1;
	if (makeflags != NULL && policy_jobserver(makeflags, &read_end, &write_end)) {
		job->token_stream = read_end;
		for (uint32_t i = 0; i < start->stream_count && next < fd_count; i++) {
			if (start->streams[i].kind != JOB_STREAM_PASSED)
				continue;
			if (start->streams[i].stream == write_end && job->token_fd < 0)
				job->token_fd = fcntl(fds[next], F_DUPFD_CLOEXEC, 3);
			next++;
		}
	}
	free(makeflags);
}

/* Takes over every descriptor, also on failure. */
static int
job_open_channels(struct job *job, struct job_start *start, const int *fds, size_t fd_count, struct err *err)
{
	int by_index[STREAMS_MAX];
	size_t next = 0;
	int fd, r = 0;

	for (uint32_t i = 0; i < start->stream_count; i++) {
		struct job_stream *stream = &start->streams[i];
		struct channel *channel = &job->channels[i];

		by_index[i] = -1;
		*channel = (struct channel){ .job = job, .number = stream->stream, .window = OUT_WINDOW_MIN, .in_window = IN_WINDOW,
					.grows_at = IN_WINDOW };
		job->channel_count++;
		if (stream->kind != JOB_STREAM_PASSED || r < 0)
			continue;
		if (next == fd_count) {
			r = err_set(err, EBADMSG, "fewer descriptors than streams were sent");
			continue;
		}
		fd = fds[next++];
		if (!descriptor_crosses(fd, stream->stream)) {
			stream->kind = JOB_STREAM_CLOSED;
			job->left_behind |= UINT32_C(1) << i;
			fd_cleanup(&fd);
			continue;
		}
		by_index[i] = fd;
		if (find_same(job, by_index, i, fd, &stream->refers_to)) {
			stream->kind = JOB_STREAM_SAME;
			by_index[i] = -1;
			fd_cleanup(&fd);
			continue;
		}
		r = channel_open(channel, stream, fd, err);
	}
	if (r == 0 && next != fd_count)
		r = err_set(err, EBADMSG, "more descriptors than streams were sent");
	while (next < fd_count) {
		fd = fds[next++];
		fd_cleanup(&fd);
	}
	return r;
}

static_assert(STREAMS_MAX <= 32, "left_behind has a bit for each stream");

/* A descriptor that cannot cross is missed when argv or the environment speaks of it; otherwise it is left behind. */
static int
job_check_left_behind(const struct job *job, char *const *argv, char *const *env, struct err *err)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		uint32_t number = job->channels[i].number;

		if ((job->left_behind >> i & 1) == 0)
			continue;
		if (policy_names_descriptor(argv, env, number))
			return err_set(err, ENOTSUP, "descriptor %" PRIu32 " is a socket, a directory or open both ways, "
				       "and cannot reach into the sandbox", number);
		log_info("job %" PRIu32 ": descriptor %" PRIu32 " stays behind: it is a socket, a directory or open both ways",
			 job->number, number);
	}
	return 0;
}

/* Writes the lane's START: what policy lets cross of the caller's. */
static int
job_encode_start(struct job *job, const struct job_start *local, struct job_start *start, struct err *err)
{
	const struct config *config = job->context->config;
	char **argv = job_strings_copy(local->argv), **env = job_strings_copy(local->env), **crossing = NULL;
	char cwd[CWD_LEN_MAX + 1];
	const char *remote_cwd;
	size_t position;
	int r;

	memcpy(cwd, local->cwd.data, local->cwd.len);
	cwd[local->cwd.len] = '\0';
	r = policy_cwd(config, cwd, &remote_cwd, err);
	if (r == 0 && (argv == NULL || env == NULL || (crossing = policy_env_filter(config, env)) == NULL))
		r = err_set(err, ENOMEM, "no memory for argv and environment");
	if (r == 0)
		r = job_check_left_behind(job, argv, env, err);
	if (r == 0) {
		const char *shell = config->shell;
		bool is_shell = local->program.len == 0;

		start->env_base = config->env_base == CONFIG_ENV_IMAGE;
		start->cwd = (struct view){ (const uint8_t *)remote_cwd, strlen(remote_cwd) };
		if (job_start_begin(&job->start, job->number, is_shell ? (const void *)shell : local->program.data,
				    is_shell ? strlen(shell) : local->program.len, &position) < 0 ||
		    job_put_strings(&job->start, argv) < 0 || job_put_strings(&job->start, crossing) < 0 ||
		    job_start_rest(&job->start, start) < 0 || job_frame_end(&job->start, position) < 0)
			r = err_set(err, E2BIG, "argv and environment are larger than %u bytes", FRAME_LEN_MAX);
	}
	free(crossing);
	strv_free(env);
	strv_free(argv);
	return r;
}

static void
deadline_passed(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct job *job = timer->data;
	struct job_control term = { .type = JOB_SIGNAL, .signal = SIGTERM, .scope = JOB_SCOPE_SESSION };

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
		send_kill(job);
	}
	job_leave(job);
}

/* The terminal, if there is one and the caller may use it now. */
static void
job_take_terminal(struct job *job)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		struct channel *channel = &job->channels[i];

		if (channel->kind != JOB_STREAM_TTY || channel->sink == NULL || job->terminal != NULL ||
		    !terminal_may_take(job->caller, sink_fd(channel->sink)))
			continue;
		job->terminal = terminal_take(&job->context->terminals, sink_fd(channel->sink), job->plain_output);
		channel_pump(channel);
	}
}

static uint64_t
output_written_in_all(const struct job *job)
{
	uint64_t written = 0;

	for (size_t i = 0; i < job->channel_count; i++)
		written += job->channels[i].written;
	return written;
}

/* What is still held of streams that others write to as well, or of a command that was told to end, is no longer waited for
 * when nobody takes it. */
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

static bool
job_has_terminal(const struct job *job)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		if (job->channels[i].kind == JOB_STREAM_TTY)
			return true;
	}
	return false;
}

/* A terminal that may not be taken (the caller is in the background) goes on processing output, which must be done once. */
static void
job_prepare_terminal(struct job *job, struct job_start *start, uint8_t settings[TERMIOS_LEN_MAX])
{
	job_take_terminal(job);
	job->plain_output = job_has_terminal(job) && job->terminal == NULL;
	if (!job->plain_output)
		return;
	memcpy(settings, start->termios.data, start->termios.len);
	terminal_plain_output(settings, start->termios.len);
	start->termios.data = settings;
}

int
job_new(struct job_context *context, const struct job_start *local, pid_t caller, const int *fds, size_t fd_count,
	const struct job_events *events, void *arg, struct job **ret, struct err *err)
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
	ev_timer_init(&job->deadline, deadline_passed, (double)context->config->command_timeout_s, 0.);
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

/* ---- the caller ----------------------------------------------------------------------------------------------- */

static bool
tells_to_end(const struct job *job, const struct job_control *control)
{
	return control->type == JOB_SIGNAL && (job->ignored >> (control->signal - 1) & 1) == 0 &&
	       (control->signal == SIGTERM || control->signal == SIGINT || control->signal == SIGHUP ||
		control->signal == SIGQUIT);
}

/* The command has ended, but its output has not been taken: locally it would still be there, writing, and die of the
 * signal. */
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

/* A signal that is pending already is the same signal, as in the kernel; of sizes the last one counts. */
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

void
job_control(struct job *job, const struct job_control *control)
{
	struct job_control *kept;

	job->ending = job->ending || tells_to_end(job, control);
	if (job->exited)
		job_end_by_signal(job, control);
	if (job->exited || job->done)
		return;
	if (control->type == JOB_WINCH)
		job->winsize = control->winsize;
	if (control_is_waiting(job, control))
		return;
	if (job->control_count == CONTROLS_MAX) {
		/* confirmed by the next greeting at the latest; the oldest has arrived long ago, or there are as many waiting as
		 * there are signals */
		memmove(job->controls, job->controls + 1, sizeof job->controls - sizeof job->controls[0]);
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
job_look_at_caller(struct job *job)
{
	const struct job_control stop = { .type = JOB_SIGNAL, .signal = SIGSTOP, .scope = JOB_SCOPE_GROUP };

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
		send_kill(job);
		for (size_t i = 0; i < job->channel_count; i++) {
			channel_close_source(&job->channels[i]);
			channel_close_sink(&job->channels[i]);
		}
		job->done = !job->sent;
	}
	job_leave(job);
}

/* ---- ends ----------------------------------------------------------------------------------------------------- */

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

static void
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

		if (channel->sink != NULL && !channel->close_wanted && channel->written < channel->exit_mark)
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

/* Closes what has ended, tells the end when it is due, and frees the job when nothing is left of it. */
static void
job_settle(struct job *job)
{
	bool open = false;

	job->busy++;
	for (size_t i = 0; i < job->channel_count; i++) {
		struct channel *channel = &job->channels[i];

		if (channel->sink != NULL && (channel->close_wanted || (channel->eof && sink_queued(channel->sink) == 0)))
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

/* ---- frames from the guest ------------------------------------------------------------------------------------ */

static bool
has_input(const struct channel *channel)
{
	return channel->kind == JOB_STREAM_IN || channel->kind == JOB_STREAM_TTY;
}

static bool
has_output(const struct channel *channel)
{
	return channel->kind == JOB_STREAM_OUT || channel->kind == JOB_STREAM_TTY;
}

static struct channel *
job_channel(struct job *job, uint32_t number)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		if (job->channels[i].number == number &&
		    (has_input(&job->channels[i]) || has_output(&job->channels[i])))
			return &job->channels[i];
	}
	return NULL;
}

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
	job_lose(job, "the sandbox no longer knows how the command ended"); /* no more output comes */
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
		if (!has_output(channel))
			return -EBADMSG;
		/* after OUT_CLOSE the guest drops what it held, so the end may be beyond what was received */
		if (position.offset != channel->received && !channel->close_wanted)
			return -EBADMSG;
		channel->eof = true;
		return 0;
	}
	if (!has_input(channel) || position.offset > channel->sent || position.offset < channel->used)
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
		return job_number_decode(JOB_STARTED, frame->body, &number) < 0 ? -EBADMSG : take_started(job, number);
	case JOB_FAILED:
		return take_failed(job, frame->body);
	case JOB_STOPPED:
		return job_number_decode(JOB_STOPPED, frame->body, &number) < 0 ? -EBADMSG : take_stopped(job, number);
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

	if (channel == NULL || !has_output(channel) || offset > channel->received)
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

/* ---- a new lane ----------------------------------------------------------------------------------------------- */

bool
job_hello_entry(const struct job *job, struct job_hello_entry *ret)
{
	uint32_t count = 0;

	if (!job->sent)
		return false;
	for (size_t i = 0; i < job->channel_count; i++) {
		const struct channel *channel = &job->channels[i];

		if (has_output(channel))
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

		if (channel == NULL || !has_input(channel))
			continue;
		if (entry->streams[i].offset >= channel->used && entry->streams[i].offset <= channel->sent)
			channel->sent = entry->streams[i].offset;
		channel->eof_sent = false;
		if (channel->revoking)
			send_position(job, JOB_IN_REVOKE, channel->number, 0, 0);
	}
	for (size_t i = 0; i < job->channel_count; i++) {
		struct channel *channel = &job->channels[i];

		if (channel->close_wanted && !channel->eof)
			send_position(job, JOB_OUT_CLOSE, channel->number, 0, 0);
		else if (has_output(channel) && !channel->eof)
			send_position(job, JOB_ACK, channel->number, channel->acked, channel->window);
	}
	if (job->kill_wanted)
		send_kill(job);
	for (job->controls_sent = 0; job->controls_sent < job->control_count; job->controls_sent++) {
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
		/* forgotten, because the daemon knew that we had seen the end, or with the daemon: no more output comes */
		job_lose(job, "the sandbox lost the command");
	} else if (job->sent && (!same_boot || job->answered)) {
		job_lose(job, "the sandbox lost the command");
	} else {
		job->sent = false; /* START never arrived */
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
