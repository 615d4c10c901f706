#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/base/clock.h"
#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/guest/lane.h"

enum {
	/* what an emptied buf keeps, so that reading does not allocate every time */
	READ_LEN = 64 * 1024,
	LANE_PIPE_LEN = 1024 * 1024,
	/* Answers that wait to be written: beyond this no further frame is looked at. */
	CONTROL_LEN_FULL = 64 * 1024,
	WRITES_IN_TURN_MAX = 8,
};

static void
lane_drop(struct lane *lane)
{
	watch_close(lane->loop, &lane->in);
	watch_close(lane->loop, &lane->out);
	watch_close(lane->loop, &lane->connection);
	lane->dropped = true;
}

/* ---- frames of the lane itself ---- */

static int
lane_reply_entry(struct lane *lane, const struct job *job)
{
	struct job_hello_entry entry = {
		.job = job->number,
		.control_sequence = job->control_sequence,
		.stream_count = (uint32_t)job->input_count,
	};

	for (size_t i = 0; i < job->input_count; i++)
		entry.streams[i] = (struct job_position){ .stream = job->inputs[i].number,
							  .offset = job->inputs[i].received };
	return job_hello_entry_encode(&lane->control, JOB_HELLO_REPLY, &entry);
}

static int
lane_reply(struct lane *lane, bool with_jobs)
{
	static const char software[] = "modalsh-guest " MODALSH_VERSION;
	struct job_lane_hello reply = {
		.version = JOB_PROTOCOL_VERSION,
		.software = { (const uint8_t *)software, sizeof software - 1 },
		.job_count = with_jobs ? (uint32_t)lane->table->count : 0,
	};
	size_t position;
	int r;

	memcpy(reply.id, lane->broker->boot_id, sizeof reply.id);
	r = job_lane_hello_begin(&lane->control, JOB_HELLO_REPLY, &reply, &position);
	for (struct job *job = lane->table->first; r == 0 && with_jobs && job != NULL;
	     job = job->next)
		r = lane_reply_entry(lane, job);
	return r < 0 ? r : job_frame_end(&lane->control, position);
}

static void
lane_meet_broker(struct lane *lane, const struct job_lane_hello *hello)
{
	struct broker *broker = lane->broker;

	if (!broker->known || memcmp(broker->id, hello->id, sizeof broker->id) != 0)
		job_table_clear(lane->table);
	memcpy(broker->id, hello->id, sizeof broker->id);
	broker->known = true;
	broker->resting = false;
	broker->lease_ms = hello->lease_ms;
}

/* Jobs that are listed are resumed, those that are not are ended, and one that was forgotten
 * gets its DONE once more: it must not look as if it had never been started. */
static int
lane_resume(struct lane *lane, struct job_lane_hello hello)
{
	struct job_hello_entry entry;
	struct job *job, *next;
	int r = 0;

	for (job = lane->table->first; job != NULL; job = job->next)
		job->listed = false;
	while (r == 0 && job_hello_next(JOB_HELLO, &hello, &entry)) {
		job = job_find(lane->table, entry.job);
		if (job != NULL)
			r = job_resume(job, &entry);
		else if (entry.job != 0 && entry.job <= lane->table->highest)
			r = job_add_forgotten(lane->table, entry.job);
		job = job_find(lane->table, entry.job);
		if (job != NULL)
			job->listed = true;
	}
	for (job = lane->table->first; r == 0 && job != NULL; job = next) {
		next = job->next;
		if (!job->listed)
			job_end(job);
	}
	return r;
}

static int
handle_hello(struct lane *lane, const struct job_frame *frame)
{
	struct job_lane_hello hello;
	int r = job_lane_hello_decode(JOB_HELLO, frame->body, &hello);

	if (r < 0)
		return r;
	if (hello.version != JOB_PROTOCOL_VERSION) {
		lane->ending = true; /* once it knows our version */
		return lane_reply(lane, false);
	}
	if (hello.lease_ms == 0)
		return -EBADMSG;
	lane_meet_broker(lane, &hello);
	lane->broker->heard_ms = clock_now_ms();
	r = lane_resume(lane, hello);
	if (r == 0)
		r = lane_reply(lane, true);
	if (r == 0)
		lane->greeted = true;
	return r;
}

static int
handle_ping(struct lane *lane, const struct job_frame *frame)
{
	uint64_t token;
	int r = job_number_decode(JOB_PING, frame->body, &token);

	return r < 0 ? r : job_number_encode(&lane->control, JOB_PONG, 0, token);
}

static int
handle_close(struct lane *lane, const struct job_frame *frame)
{
	int r = job_empty_decode(frame->body);

	for (struct job *job = lane->table->first; r == 0 && job != NULL; job = job->next)
		if (!job->done_sent && !job->failed)
			r = -EBADMSG; /* it said that none is running */
	if (r < 0)
		return r;
	job_table_clear(lane->table);
	lane->broker->resting = true;
	lane_drop(lane);
	return 0;
}

/* ---- frames of jobs ---- */

static int
handle_start(struct lane *lane, const struct job_frame *frame)
{
	struct job_start start;
	int r = job_start_decode(frame->body, &start);

	return r < 0 ? r : job_start(lane->table, frame->job, &start);
}

/* A frame speaks of a stream that the job does not have: fine only when the job lost, or never
 * had, all of its streams. */
static int
stream_missing(const struct job *job)
{
	return job->failed || job->exit_acked ? 0 : -EBADMSG;
}

static int
handle_in(struct lane *lane, struct job *job, const struct job_frame *frame)
{
	struct job_data data;
	struct input *input;
	int r = job_data_decode(frame->body, &data);

	(void)lane;
	if (r < 0)
		return r;
	input = job_input(job, data.stream);
	return input == NULL ? stream_missing(job) : input_receive(input, data.offset, data.bytes);
}

/* The frames that name one stream, and mostly a place in it. */
static int
handle_position(struct lane *lane, struct job *job, const struct job_frame *frame)
{
	bool of_input = frame->type == JOB_IN_EOF || frame->type == JOB_IN_REVOKE;
	struct job_position position;
	struct output *output;
	struct input *input;
	int r = job_position_decode(frame->type, frame->body, &position);

	(void)lane;
	if (r < 0)
		return r;
	input = of_input ? job_input(job, position.stream) : NULL;
	output = of_input ? NULL : job_output(job, position.stream);
	if (input == NULL && output == NULL)
		return stream_missing(job);
	if (frame->type == JOB_IN_EOF)
		return input_finish(input, position.offset);
	if (frame->type == JOB_ACK)
		return job_acknowledge(job, output, position.offset, position.window);
	if (frame->type == JOB_IN_REVOKE)
		input_revoke(input);
	else
		job_output_drop(job, output);
	return 0;
}

static int
handle_control(struct lane *lane, struct job *job, const struct job_frame *frame)
{
	struct job_control control;
	int r = job_control_decode(frame->type, frame->body, &control);

	(void)lane;
	if (r == 0)
		job_control(job, &control);
	return r;
}

static int
handle_exit_ack(struct lane *lane, struct job *job, const struct job_frame *frame)
{
	int r = job_empty_decode(frame->body);

	(void)lane;
	if (r == 0)
		job_exit_acknowledged(job);
	return r;
}

static int
handle_kill(struct lane *lane, struct job *job, const struct job_frame *frame)
{
	uint64_t number;
	int r = job_number_decode(JOB_KILL, frame->body, &number);

	(void)lane;
	if (r == 0)
		job_kill(job, (int)number);
	return r;
}

/* ---- dispatch ---- */

static const struct lane_handler {
	uint8_t type;
	bool greets; /* allowed as the first frame, and only as that */
	int (*handle)(struct lane *lane, const struct job_frame *frame);
} lane_handlers[] = {
	{ JOB_HELLO, true, handle_hello },
	{ JOB_PING, false, handle_ping },
	{ JOB_CLOSE, false, handle_close },
};

static const struct job_handler {
	uint8_t type;
	int (*handle)(struct lane *lane, struct job *job, const struct job_frame *frame);
} job_handlers[] = {
	{ JOB_IN, handle_in },
	{ JOB_IN_EOF, handle_position },
	{ JOB_ACK, handle_position },
	{ JOB_OUT_CLOSE, handle_position },
	{ JOB_SIGNAL, handle_control },
	{ JOB_WINCH, handle_control },
	{ JOB_EXIT_ACK, handle_exit_ack },
	{ JOB_KILL, handle_kill },
	{ JOB_IN_REVOKE, handle_position },
};

static int
dispatch_job(struct lane *lane, const struct job_frame *frame)
{
	struct job *job;

	if (!lane->greeted || frame->job == 0)
		return -EBADMSG;
	if (frame->type == JOB_START)
		return handle_start(lane, frame);
	job = job_find(lane->table, frame->job);
	for (size_t i = 0; i < sizeof job_handlers / sizeof *job_handlers; i++) {
		if (job_handlers[i].type != frame->type)
			continue;
		if (job != NULL)
			return job_handlers[i].handle(lane, job, frame);
		/* what crosses the end of a job finds nobody; a number never heard of is a
		 * mistake */
		return frame->job <= lane->table->highest ? 0 : -EBADMSG;
	}
	return -EBADMSG;
}

static int
lane_dispatch(struct lane *lane, const struct job_frame *frame)
{
	for (size_t i = 0; i < sizeof lane_handlers / sizeof *lane_handlers; i++) {
		if (lane_handlers[i].type != frame->type)
			continue;
		if (frame->job != 0 || lane_handlers[i].greets == lane->greeted)
			return -EBADMSG;
		return lane_handlers[i].handle(lane, frame);
	}
	return dispatch_job(lane, frame);
}

/* Handles the frames that have come completely.  Stops while too many answers wait. */
static void
lane_process(struct lane *lane)
{
	struct job_frame frame;
	int r = 1;

	while (!lane->dropped && !lane->ending && buf_len(&lane->control) < CONTROL_LEN_FULL) {
		r = job_frame_take(&lane->input, &frame);
		if (r == 0)
			break;
		if (r == 1)
			r = lane_dispatch(lane, &frame);
		if (r < 0) {
			lane_drop(lane);
			return;
		}
		buf_consume(&lane->input, frame.len);
	}
	if (!lane->dropped)
		loop_set(lane->loop, &lane->in,
			 lane->ending || buf_len(&lane->control) >= CONTROL_LEN_FULL ? 0 : EPOLLIN);
}

static void
lane_readable(struct watch *watch, uint32_t events)
{
	struct lane *lane = watch->context;
	size_t room = FRAME_LEN_MAX - buf_len(&lane->input);
	uint8_t *data;
	ssize_t got;

	(void)events; /* read() tells data, end and error apart */
	if (room > READ_LEN)
		room = READ_LEN;
	data = buf_reserve(&lane->input, room);
	if (data == NULL) {
		lane_drop(lane);
		return;
	}
	got = read(lane->in.fd, data, room);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		lane_drop(lane);
		return;
	}
	buf_added(&lane->input, (size_t)got);
	/* a large frame on a slow line may take longer than the lease */
	if (lane->greeted)
		lane->broker->heard_ms = clock_now_ms();
	lane_process(lane);
}

static void
lane_connection_event(struct watch *watch, uint32_t events)
{
	(void)events; /* attach never says anything: it is gone */
	lane_drop(watch->context);
}

/* ---- writing ---- */

int64_t
lane_flush_at_us(const struct lane *lane)
{
	if (lane->out.events & EPOLLOUT)
		return INT64_MAX; /* the descriptor will say when */
	if (buf_len(&lane->control) > 0 || !batch_empty(&lane->batch))
		return 0;
	return lane->greeted ? lane->table->flush_at_us : INT64_MAX;
}

/* Returns 0, or -errno. */
static int
lane_fill_batch(struct lane *lane)
{
	int r = buf_put(batch_heads(&lane->batch), buf_head(&lane->control),
			buf_len(&lane->control));

	if (r < 0)
		return r;
	buf_consume(&lane->control, buf_len(&lane->control));
	return lane->greeted ? job_table_emit(lane->table, &lane->batch) : 0;
}

/* Returns 1 when all was written or another turn is due, 0 when the lane is full, -errno. */
static int
lane_write(struct lane *lane)
{
	int r = 1;

	for (int i = 0; i < WRITES_IN_TURN_MAX && r == 1; i++) {
		if (batch_empty(&lane->batch)) {
			r = lane_fill_batch(lane);
			if (r < 0)
				return r;
			if (batch_empty(&lane->batch))
				return 1;
		}
		r = batch_write(&lane->batch, lane->out.fd);
	}
	return r;
}

void
lane_flush(struct lane *lane, int64_t now_us)
{
	int r;

	if (lane->dropped || lane_flush_at_us(lane) > now_us)
		return;
	r = lane_write(lane);
	if (r >= 0)
		r = loop_set(lane->loop, &lane->out, r == 0 ? EPOLLOUT : EPOLLERR) < 0 ? -EIO : r;
	if (r < 0 || (r == 1 && lane->ending && lane_flush_at_us(lane) == INT64_MAX)) {
		lane_drop(lane);
		return;
	}
	/* if answers had to be written before more could be asked for, now they are */
	if (buf_len(&lane->input) > 0 || lane->in.events == 0)
		lane_process(lane);
}

static void
lane_writable(struct watch *watch, uint32_t events)
{
	struct lane *lane = watch->context;

	if ((events & EPOLLOUT) == 0 || loop_set(lane->loop, &lane->out, EPOLLERR) < 0) {
		lane_drop(lane);
		return;
	}
	lane_flush(lane, INT64_MAX - 1);
}

static int
lane_watch(struct lane *lane)
{
	int r;

	fcntl(lane->out.fd, F_SETPIPE_SZ, LANE_PIPE_LEN); /* a socket or a low limit: as it is */
	if ((r = fd_set_nonblock(lane->in.fd)) < 0 || (r = fd_set_nonblock(lane->out.fd)) < 0 ||
	    (r = loop_set(lane->loop, &lane->in, EPOLLIN)) < 0 ||
	    (r = loop_set(lane->loop, &lane->out, EPOLLERR)) < 0)
		return r;
	return loop_set(lane->loop, &lane->connection, EPOLLIN);
}

struct lane *
lane_new(struct loop *loop, struct job_table *table, struct broker *broker, int connection_fd,
	 int in_fd, int out_fd)
{
	struct lane *lane = calloc(1, sizeof *lane);

	if (lane == NULL) {
		close(connection_fd);
		close(in_fd);
		close(out_fd);
		return NULL;
	}
	lane->loop = loop;
	lane->table = table;
	lane->broker = broker;
	watch_init(&lane->connection, connection_fd, lane_connection_event, lane);
	watch_init(&lane->in, in_fd, lane_readable, lane);
	watch_init(&lane->out, out_fd, lane_writable, lane);
	buf_init(&lane->input, FRAME_LEN_MAX);
	buf_init(&lane->control, FRAME_LEN_MAX + 2 * CONTROL_LEN_FULL);
	batch_init(&lane->batch);
	if (lane_watch(lane) < 0) {
		lane_free(lane);
		return NULL;
	}
	return lane;
}

void
lane_free(struct lane *lane)
{
	if (lane == NULL)
		return;
	lane_drop(lane);
	buf_free(&lane->input);
	buf_free(&lane->control);
	batch_clear(&lane->batch);
	buf_free(&lane->batch.heads);
	free(lane);
}
