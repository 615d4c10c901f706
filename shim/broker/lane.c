#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/base/clock.h"
#include "shim/base/fd.h"
#include "shim/broker/job.h"
#include "shim/broker/lane.h"
#include "shim/broker/log.h"

enum {
	/* a static program of libc alone; more is not it */
	GUEST_LEN_MAX = 8 * 1024 * 1024,
	/* bulk waits when so much has not been taken by the wire yet */
	QUEUE_LEN_HIGH = 4 * 1024 * 1024,
	/* hard bound: bulk, plus a START, plus small frames of JOBS_MAX jobs */
	QUEUE_LEN_MAX = 16 * 1024 * 1024,
	ATTACH_FAULTS_MAX = 3,
	DIRECTORY_LEN_MAX = 256,
	INSTALLS_MAX = 2, /* the second one is for a sandbox that lost its guest */
	/* a side that is silent for half of the lease is asked on another connection; what is left
	 * is for opening that, so attempts are given up sooner */
	PINGS_PER_LEASE = 6,
	SILENCES_PER_LEASE = 2,
	INSTALL_SILENCE_MS = 30000, /* of which nothing is heard until it is done */
	ATTEMPT_MS_MIN = 1000,
	OPENING_MS_MIN = 60000,
};
static const double PAUSE_FIRST_S = 0.05, PAUSE_MAX_S = 5.;

/* $1: file name, $2: the configured directory.  Takes the first place that can be written to and
 * executed from; prints it. */
static const char INSTALL_SCRIPT[] =
	"have=\n"
	"for d in /run/modalsh /var/tmp/.modalsh /tmp/.modalsh; do\n"
	"	mkdir -p \"$d\" 2>/dev/null && [ -w \"$d\" ] || continue\n"
	"	new=$d/$1.$$\n"
	"	if [ -n \"$have\" ]; then cp \"$have\" \"$new\"; else cat >\"$new\"; fi || continue\n"
	"	have=$new\n"
	"	chmod 755 \"$new\" && \"$new\" --version >/dev/null 2>&1 || continue\n"
	"	mv -f \"$new\" \"$d/$1\" && mkdir -p -- \"$2\" && printf %s \"$d\" && exit 0\n"
	"done\n"
	"exit 1\n";

struct slot {
	uint32_t number;
	struct job *job;
};

struct lane {
	struct ev_loop *loop;
	const struct config *config;
	struct sandbox *sandbox;
	enum lane_state state;

	uint8_t *guest; /* the binary */
	size_t guest_len;
	size_t guest_sent;
	char guest_name[64];
	char directory[DIRECTORY_LEN_MAX]; /* where it is in the sandbox; "" = not installed */
	size_t directory_len;
	uint32_t install_faults; /* in a row, by the script itself */
	uint32_t attach_faults;	 /* in a row */

	struct remote_exec *exec;
	uint64_t moved_bytes; /* by it, both ways */
	struct buf in;
	struct buf out;
	bool starved; /* a job was told that there is no room */
	/* an OUT frame of which the rest is still to come */
	uint32_t piece_job;
	uint32_t piece_stream;
	uint64_t piece_offset;
	size_t piece_left;

	uint8_t broker_id[JOB_ID_LEN];
	uint8_t boot_id[JOB_ID_LEN];
	bool booted;
	uint32_t opened_count;
	uint32_t next_number;

	struct slot *slots; /* ascending numbers */
	size_t slot_count;
	size_t slot_capacity;

	struct ev_timer ping;
	struct ev_timer idle;
	struct ev_timer pause;
	struct ev_timer
		broken; /* while it is not up: until the lease is over, or long enough was waited */
	double pause_s;
	int64_t heard_ms;
	uint64_t ping_token;

	void (*first)(void *arg, const struct err *err);
	void *first_arg;
	void (*stopped)(void *arg);
	void *stopped_arg;
};

static void lane_open(struct lane *lane);
static void lane_break(struct lane *lane, const char *reason);
static void lane_recycle(struct lane *lane);

/* ---- jobs ---- */

/* The place of a number, or of the first larger one. */
static size_t
slot_place(const struct lane *lane, uint32_t number)
{
	size_t low = 0, high = lane->slot_count, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (lane->slots[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct job *
lane_job(const struct lane *lane, uint32_t number)
{
	size_t place = slot_place(lane, number);

	return place < lane->slot_count && lane->slots[place].number == number ?
		       lane->slots[place].job :
		       NULL;
}

/* Calls visit() for every job; a visit may end jobs. */
static void
lane_each(struct lane *lane, void (*visit)(struct job *job, void *arg), void *arg)
{
	uint32_t number = 0;
	size_t place;

	while ((place = slot_place(lane, number)) < lane->slot_count) {
		number = lane->slots[place].number + 1;
		visit(lane->slots[place].job, arg);
	}
}

int
lane_join(struct lane *lane, struct job *job, uint32_t *ret_number, struct err *err)
{
	struct slot *slots;
	size_t capacity;

	if (lane->state == LANE_STOPPED)
		return err_set(err, ECANCELED, "modalsh-broker is stopping");
	if (lane->slot_count == JOBS_MAX || lane->next_number == UINT32_MAX)
		return err_set(err, EAGAIN, "%u commands are running already", JOBS_MAX);
	if (lane->slot_count == lane->slot_capacity) {
		capacity = lane->slot_capacity == 0 ? 64 : lane->slot_capacity * 2;
		slots = realloc(lane->slots, capacity * sizeof *slots);
		if (slots == NULL)
			return err_set(err, ENOMEM, "no memory for a command");
		lane->slots = slots;
		lane->slot_capacity = capacity;
	}
	*ret_number = ++lane->next_number;
	lane->slots[lane->slot_count++] = (struct slot){ *ret_number, job };
	ev_timer_stop(lane->loop, &lane->idle);
	lane_want(lane);
	return 0;
}

void
lane_leave(struct lane *lane, struct job *job, uint32_t number)
{
	size_t place = slot_place(lane, number);

	assert(place < lane->slot_count && lane->slots[place].job == job);
	memmove(lane->slots + place, lane->slots + place + 1,
		(lane->slot_count - place - 1) * sizeof *lane->slots);
	lane->slot_count--;
	if (lane->slot_count == 0 && lane->state == LANE_UP) {
		ev_timer_set(&lane->idle, (double)lane->config->idle_timeout_s, 0.);
		ev_timer_start(lane->loop, &lane->idle);
	}
}

static void
visit_lose_sent(struct job *job, void *reason)
{
	if (job_was_sent(job))
		job_lose(job, reason);
}

static void
visit_lose(struct job *job, void *reason)
{
	job_lose(job, reason);
}

static void
visit_pump(struct job *job, void *arg)
{
	(void)arg;
	job_pump(job);
}

/* ---- writing ---- */

bool
lane_is_up(const struct lane *lane)
{
	return lane->state == LANE_UP;
}

struct buf *
lane_out(struct lane *lane)
{
	return &lane->out;
}

void
lane_flush(struct lane *lane)
{
	if (lane->exec != NULL)
		remote_exec_wake(lane->exec);
}

bool
lane_has_room(struct lane *lane, size_t len)
{
	bool room = buf_len(&lane->out) + len <= QUEUE_LEN_HIGH || buf_len(&lane->out) == 0;

	if (!room)
		lane->starved = true;
	return room;
}

bool
lane_is_starved(const struct lane *lane)
{
	return lane->starved;
}

static size_t
take_queue(struct lane *lane, uint8_t *bytes, size_t len)
{
	if (len > buf_len(&lane->out))
		len = buf_len(&lane->out);
	memcpy(bytes, buf_head(&lane->out), len);
	buf_consume(&lane->out, len);
	lane->moved_bytes += len;
	return len;
}

static size_t
lane_want_bytes(void *arg, uint8_t *bytes, size_t len)
{
	struct lane *lane = arg;
	size_t taken = take_queue(lane, bytes, len);

	if (lane->starved && buf_len(&lane->out) < QUEUE_LEN_HIGH / 2) {
		lane->starved = false;
		lane_each(lane, visit_pump, NULL);
		if (taken == 0)
			taken = take_queue(lane, bytes, len);
	}
	return taken;
}

/* ---- greeting ---- */

struct hello_list {
	struct buf *out;
	uint32_t count;
	int r;
};

static void
visit_hello(struct job *job, void *arg)
{
	struct hello_list *list = arg;
	struct job_hello_entry entry;

	if (list->r == 0 && job_hello_entry(job, &entry)) {
		list->r = job_hello_entry_encode(list->out, JOB_HELLO, &entry);
		list->count++;
	}
}

static int
send_hello(struct lane *lane)
{
	struct job_lane_hello hello = { .version = JOB_PROTOCOL_VERSION,
					.lease_ms = lane->config->lease_ms };
	struct hello_list list = { &lane->out, 0, 0 };
	size_t position;
	int r;

	memcpy(hello.id, lane->broker_id, sizeof hello.id);
	r = job_lane_hello_begin(&lane->out, JOB_HELLO, &hello, &position);
	if (r < 0)
		return r;
	lane_each(lane, visit_hello, &list);
	if (list.r < 0)
		return list.r;
	/* the count stands behind version, id and lease */
	buf_patch_u32(&lane->out, position + JOB_HEADER_LEN + 4 + JOB_ID_LEN + 4, list.count);
	return job_frame_end(&lane->out, position);
}

struct up_visit {
	struct job_lane_hello *hello;
	bool same_boot;
};

static void
visit_up(struct job *job, void *arg)
{
	struct up_visit *up = arg;
	struct job_lane_hello hello = *up->hello;
	struct job_hello_entry entry, mine;
	bool sent = job_hello_entry(job, &mine);

	while (sent && job_hello_next(JOB_HELLO_REPLY, &hello, &entry)) {
		if (entry.job == mine.job) {
			job_lane_up(job, &entry, up->same_boot);
			return;
		}
	}
	job_lane_up(job, NULL, up->same_boot);
}

static void
tell_first(struct lane *lane, const struct err *err)
{
	void (*first)(void *arg, const struct err *err) = lane->first;

	lane->first = NULL;
	if (first != NULL)
		first(lane->first_arg, err);
}

static int
take_hello_reply(struct lane *lane, struct view body)
{
	struct up_visit up;
	struct job_lane_hello hello;

	if (lane->state != LANE_GREETING ||
	    job_lane_hello_decode(JOB_HELLO_REPLY, body, &hello) < 0 ||
	    hello.version != JOB_PROTOCOL_VERSION)
		return -EBADMSG;
	up = (struct up_visit){ &hello, !lane->booted || memcmp(lane->boot_id, hello.id,
								sizeof hello.id) == 0 };
	memcpy(lane->boot_id, hello.id, sizeof hello.id);
	lane->booted = true;
	lane->state = LANE_UP;
	lane->opened_count++;
	lane->install_faults = lane->attach_faults = 0;
	lane->pause_s = PAUSE_FIRST_S;
	ev_timer_stop(lane->loop, &lane->broken);
	ev_timer_again(lane->loop, &lane->ping);
	log_debug("lane: up for the %" PRIu32 ". time, %zu jobs", lane->opened_count,
		  lane->slot_count);
	lane_each(lane, visit_up, &up);
	if (lane->slot_count == 0) {
		ev_timer_set(&lane->idle, (double)lane->config->idle_timeout_s, 0.);
		ev_timer_start(lane->loop, &lane->idle);
	}
	tell_first(lane, NULL);
	return 0;
}

/* ---- reading ---- */

static int
take_frame(struct lane *lane, const struct job_frame *frame)
{
	struct job *job;
	uint64_t token;

	if (frame->type == JOB_HELLO_REPLY)
		return take_hello_reply(lane, frame->body);
	if (lane->state != LANE_UP)
		return -EBADMSG;
	if (frame->type == JOB_PONG)
		return job_number_decode(JOB_PONG, frame->body, &token);
	job = lane_job(lane, frame->job);
	/* a job that ended here may still have frames under way */
	if (job == NULL || job_take_frame(job, frame) == 0)
		return 0;
	log_warning("lane: frame type %#x of job %" PRIu32 " is not valid now", frame->type,
		    frame->job);
	return -EBADMSG;
}

/* Output goes to its job as it arrives, so that a large frame is neither waited for nor copied
 * together. */
static int
take_piece(struct lane *lane, const uint8_t *data, size_t len)
{
	struct job *job = lane_job(lane, lane->piece_job);
	int r = job == NULL ?
			0 :
			job_take_output(job, lane->piece_stream, lane->piece_offset, data, len);

	lane->piece_offset += len;
	lane->piece_left -= len;
	return r;
}

/* The header of an OUT frame at the front: 1 and the piece is set up, 0 when there is none or not
 * enough of one. */
static int
begin_piece(struct lane *lane, struct view *front)
{
	struct view view = *front;
	uint32_t len;
	uint8_t type;

	if (lane->state != LANE_UP || view_u32(&view, &len) < 0 || view_u8(&view, &type) < 0 ||
	    type != JOB_OUT)
		return 0;
	if (len <= JOB_DATA_HEADER_LEN - 4 || len > JOB_DATA_HEADER_LEN - 4 + DATA_LEN_MAX)
		return -EBADMSG;
	if (view_u32(&view, &lane->piece_job) < 0 || view_u32(&view, &lane->piece_stream) < 0 ||
	    view_u64(&view, &lane->piece_offset) < 0)
		return 0;
	lane->piece_left = len - (JOB_DATA_HEADER_LEN - 4);
	*front = view;
	return 1;
}

/* Handles what is whole at the front of data; returns how much that was, or -EBADMSG. */
static ssize_t
take_bytes(struct lane *lane, const uint8_t *data, size_t len)
{
	struct view rest = { data, len };
	struct job_frame frame;
	int r = 1;

	while (r > 0 && rest.len > 0 && lane->exec != NULL) {
		if (lane->piece_left > 0) {
			size_t n = rest.len < lane->piece_left ? rest.len : lane->piece_left;

			if (take_piece(lane, rest.data, n) < 0) {
				log_warning("lane: output of job %" PRIu32 " beyond offset %" PRIu64
					    " is not valid now",
					    lane->piece_job, lane->piece_offset);
				return -EBADMSG;
			}
			rest = (struct view){ rest.data + n, rest.len - n };
			continue;
		}
		r = begin_piece(lane, &rest);
		if (r != 0)
			continue;
		r = job_frame_view(rest, &frame);
		if (r <= 0)
			break;
		if (take_frame(lane, &frame) < 0)
			return -EBADMSG;
		rest = (struct view){ rest.data + frame.len, rest.len - frame.len };
	}
	return r < 0 ? r : (ssize_t)(len - rest.len);
}

static void
lane_data(void *arg, const uint8_t *bytes, size_t len)
{
	struct lane *lane = arg;
	ssize_t n;

	lane->heard_ms = clock_now_ms();
	if (buf_len(&lane->in) > 0) {
		/* the rest of a frame whose beginning came before */
		if (buf_put(&lane->in, bytes, len) < 0) {
			lane_break(lane, "the guest sent too much at once");
			return;
		}
		n = take_bytes(lane, buf_head(&lane->in), buf_len(&lane->in));
		if (n >= 0 && lane->exec != NULL)
			buf_consume(&lane->in, (size_t)n);
	} else {
		n = take_bytes(lane, bytes, len);
		if (n >= 0 && lane->exec != NULL &&
		    buf_put(&lane->in, bytes + n, len - (size_t)n) < 0)
			n = -ENOMEM;
	}
	lane->moved_bytes += len;
	if (n < 0)
		lane_break(lane, "the guest broke the protocol");
	else if (lane->state == LANE_UP && lane->moved_bytes >= lane->config->lane_recycle_bytes)
		lane_recycle(lane);
}

/* ---- opening ---- */

static void
drop_exec(struct lane *lane)
{
	remote_exec_free(lane->exec);
	lane->exec = NULL;
	buf_consume(&lane->in, buf_len(&lane->in));
	buf_consume(&lane->out, buf_len(&lane->out));
	lane->piece_left = 0;
	lane->moved_bytes = 0;
	lane->starved = false;
	ev_timer_stop(lane->loop, &lane->ping);
	ev_timer_stop(lane->loop, &lane->idle);
}

static void
attach_ended(void *arg, int exit_code, const struct err *err)
{
	struct lane *lane = arg;
	char reason[ERR_TEXT_LEN + 64];

	if (err != NULL)
		snprintf(reason, sizeof reason, "%s", err->text);
	else
		snprintf(reason, sizeof reason, "modalsh-guest attach ended with %d", exit_code);
	/* the guest may not be where we put it; writing it there again changes nothing for a daemon
	 * that runs */
	if (lane->state == LANE_GREETING &&
	    (exit_code > 0 || ++lane->attach_faults % ATTACH_FAULTS_MAX == 0))
		lane->directory[0] = '\0';
	lane_break(lane, reason);
}

static const struct remote_exec_events attach_events = { lane_data, lane_want_bytes, attach_ended };

static void
lane_attach(struct lane *lane)
{
	char path[DIRECTORY_LEN_MAX + sizeof lane->guest_name + 1];
	const char *const argv[] = { path, "attach", NULL };
	struct err err = { 0 };

	snprintf(path, sizeof path, "%s/%s", lane->directory, lane->guest_name);
	lane->state = LANE_GREETING;
	lane->heard_ms = clock_now_ms();
	ev_timer_again(lane->loop, &lane->ping);
	if (send_hello(lane) < 0 ||
	    remote_exec_start(lane->sandbox, argv, &attach_events, lane, &lane->exec, &err) < 0)
		lane_break(lane, err.code != 0 ? err.text : "no memory for the greeting");
}

static void
install_data(void *arg, const uint8_t *bytes, size_t len)
{
	struct lane *lane = arg;

	lane->heard_ms = clock_now_ms();
	if (len >= sizeof lane->directory - lane->directory_len)
		len = sizeof lane->directory - lane->directory_len - 1;
	memcpy(lane->directory + lane->directory_len, bytes, len);
	lane->directory_len += len;
	lane->directory[lane->directory_len] = '\0';
}

static size_t
install_want(void *arg, uint8_t *bytes, size_t len)
{
	struct lane *lane = arg;

	if (len > lane->guest_len - lane->guest_sent)
		len = lane->guest_len - lane->guest_sent;
	memcpy(bytes, lane->guest + lane->guest_sent, len);
	lane->guest_sent += len;
	return len;
}

static void
install_ended(void *arg, int exit_code, const struct err *err)
{
	struct lane *lane = arg;
	char reason[ERR_TEXT_LEN + 1100];

	if (exit_code == 0 && lane->directory[0] == '/') {
		drop_exec(lane);
		lane_attach(lane);
		return;
	}
	snprintf(reason, sizeof reason,
		 "cannot install modalsh-guest in the sandbox (exit code %d): %s", exit_code,
		 err != NULL ? err->text : remote_exec_stderr(lane->exec));
	lane->directory[0] = '\0';
	lane->install_faults += exit_code > 0;
	lane_break(lane, reason);
}

static const struct remote_exec_events install_events = { install_data, install_want,
							  install_ended };

static void
lane_install(struct lane *lane)
{
	const char *const argv[] = {
		"/bin/sh", "-c", INSTALL_SCRIPT, "sh", lane->guest_name, lane->config->cwd, NULL
	};
	struct err err = { 0 };

	lane->state = LANE_INSTALLING;
	lane->heard_ms = clock_now_ms();
	ev_timer_again(lane->loop, &lane->ping);
	lane->directory[0] = '\0';
	lane->directory_len = 0;
	lane->guest_sent = 0;
	if (remote_exec_start(lane->sandbox, argv, &install_events, lane, &lane->exec, &err) < 0)
		lane_break(lane, err.text);
	else
		remote_exec_close_stdin(lane->exec);
}

static void
sandbox_ready(void *arg)
{
	struct lane *lane = arg;

	if (lane->state == LANE_SANDBOX)
		lane_open(lane);
}

/* Everything that waits is told; nothing of it has been run. */
static void
lane_fail(struct lane *lane, const struct err *err)
{
	char reason[ERR_TEXT_LEN];

	snprintf(reason, sizeof reason, "%s", err->text);
	log_error("%s", reason);
	lane->state = LANE_DOWN;
	ev_timer_stop(lane->loop, &lane->broken);
	lane_each(lane, visit_lose, reason);
	tell_first(lane, err);
}

static void
sandbox_failed(void *arg, const struct err *err)
{
	struct lane *lane = arg;

	if (lane->state != LANE_STOPPED)
		lane_fail(lane, err);
}

static void
sandbox_gone(void *arg, const char *reason)
{
	struct lane *lane = arg;
	char text[ERR_TEXT_LEN];

	if (lane->state == LANE_STOPPED)
		return;
	snprintf(text, sizeof text, "the sandbox ended (%s)", reason);
	log_warning("%s", text);
	drop_exec(lane);
	lane->state = LANE_DOWN;
	lane->booted = false;
	lane->directory[0] = '\0';
	ev_timer_stop(lane->loop, &lane->pause);
	ev_timer_stop(lane->loop, &lane->broken);
	lane_each(lane, visit_lose_sent, text);
	if (lane->slot_count > 0)
		lane_want(lane);
}

static const struct sandbox_events sandbox_events = { sandbox_ready, sandbox_failed, sandbox_gone };

/* Unless that time runs already. */
static void
lane_give_up_after(struct lane *lane, int64_t left_ms)
{
	if (ev_is_active(&lane->broken))
		return;
	ev_now_update(lane->loop);
	ev_timer_set(&lane->broken, left_ms > 0 ? (double)left_ms / 1000. : 0., 0.);
	ev_timer_start(lane->loop, &lane->broken);
}

static void
lane_open(struct lane *lane)
{
	ev_timer_stop(lane->loop, &lane->pause);
	drop_exec(lane); /* one that was idle and is still closing */
	if (!sandbox_want(lane->sandbox)) {
		lane->state = LANE_SANDBOX;
		return;
	}
	/* nothing runs there that the guest could end: only the patience of those who wait counts
	 */
	lane_give_up_after(lane, (int64_t)lane->config->lease_ms > OPENING_MS_MIN ?
					 lane->config->lease_ms :
					 OPENING_MS_MIN);
	if (lane->directory[0] == '\0')
		lane_install(lane);
	else
		lane_attach(lane);
}

void
lane_want(struct lane *lane)
{
	if (lane->state == LANE_DOWN)
		lane_open(lane);
}

void
lane_on_first(struct lane *lane, void (*first)(void *arg, const struct err *err), void *arg)
{
	lane->first = first;
	lane->first_arg = arg;
}

/* ---- breaking ---- */

/* Nothing is open: another attempt follows, and has the lease to succeed. */
static void
lane_pause(struct lane *lane, double pause_s)
{
	lane->state = LANE_PAUSED;
	lane_give_up_after(lane,
			   (int64_t)lane->config->lease_ms - (clock_now_ms() - lane->heard_ms));
	ev_timer_set(&lane->pause, pause_s, 0.);
	ev_timer_start(lane->loop, &lane->pause);
}

/* The router keeps what an exec has written, for readers that come back: no exec is used for ever.
 * To the jobs it is one of the breaks that they survive. */
static void
lane_recycle(struct lane *lane)
{
	log_debug("lane: %" PRIu64 " bytes went through it; opening another", lane->moved_bytes);
	drop_exec(lane);
	lane_pause(lane, 0.);
}

static void
lane_break(struct lane *lane, const char *reason)
{
	struct err err = { .code = -EIO };

	if (lane->state == LANE_STOPPED)
		return;
	drop_exec(lane);
	if (lane->state == LANE_DOWN)
		return; /* closed on purpose */
	snprintf(err.text, sizeof err.text, "the sandbox cannot be reached: %s", reason);
	if (lane->install_faults >= INSTALLS_MAX) {
		lane->install_faults = 0;
		lane_fail(lane, &err);
		return;
	}
	log_info("lane: %s; opening another", reason);
	lane_pause(lane, lane->pause_s);
	lane->pause_s = lane->pause_s * 2 < PAUSE_MAX_S ? lane->pause_s * 2 : PAUSE_MAX_S;
}

static void
pause_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct lane *lane = timer->data;

	(void)loop;
	(void)events;
	if (lane->state == LANE_PAUSED)
		lane_open(lane);
}

/* The guest has ended its jobs by itself by now. */
static void
lease_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct lane *lane = timer->data;
	struct err err = { .code = -ETIMEDOUT };

	(void)loop;
	(void)events;
	snprintf(err.text, sizeof err.text, "the sandbox could not be reached in time");
	drop_exec(lane);
	sandbox_reconnect(lane->sandbox);
	ev_timer_stop(lane->loop, &lane->pause);
	lane_fail(lane, &err);
}

/* How long the other side may be silent: while jobs wait for a lane, connections that come to
 * nothing are left soon. */
static int64_t
silence_max_ms(const struct lane *lane)
{
	int64_t lease_ms = (int64_t)lane->config->lease_ms, attempt_ms = lease_ms / PINGS_PER_LEASE;

	if (lane->state == LANE_UP)
		return lease_ms / SILENCES_PER_LEASE;
	if (lane->state == LANE_INSTALLING)
		return INSTALL_SILENCE_MS;
	return attempt_ms > ATTEMPT_MS_MIN ? attempt_ms : ATTEMPT_MS_MIN;
}

static void
ping_due(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct lane *lane = timer->data;

	(void)loop;
	(void)events;
	if (clock_now_ms() - lane->heard_ms > silence_max_ms(lane)) {
		sandbox_reconnect(lane->sandbox);
		lane_break(lane, "the other side is silent");
		return;
	}
	if (lane->state != LANE_UP)
		return;
	(void)job_number_encode(&lane->out, JOB_PING, 0, ++lane->ping_token);
	lane_flush(lane);
}

/* An open lane is a running exec and would keep the sandbox from its idle timeout. */
static void
idle_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct lane *lane = timer->data;

	(void)loop;
	(void)events;
	if (lane->slot_count > 0 || lane->state != LANE_UP)
		return;
	log_info("lane: idle, closed");
	(void)job_empty_encode(&lane->out, JOB_CLOSE, 0);
	remote_exec_close_stdin(lane->exec);
	lane->state = LANE_DOWN;
	ev_timer_stop(lane->loop, &lane->ping);
}

/* ---- life ---- */

/* FNV-1a: the name tells versions apart, it is no proof of anything. */
static uint64_t
guest_hash(const uint8_t *data, size_t len)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ data[i]) * 0x100000001b3u;
	return hash;
}

static int
guest_load(struct lane *lane, const char *path, struct err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, errno, "%s (modalsh.guest)", path);
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > GUEST_LEN_MAX)
		return err_set(err, EINVAL, "%s (modalsh.guest): not a program of at most %d bytes",
			       path, GUEST_LEN_MAX);
	lane->guest = malloc((size_t)st.st_size);
	if (lane->guest == NULL)
		return err_set(err, ENOMEM, "no memory for %s", path);
	while (lane->guest_len < (size_t)st.st_size) {
		n = read(fd, lane->guest + lane->guest_len, (size_t)st.st_size - lane->guest_len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(err, EIO, "%s (modalsh.guest): cannot be read whole", path);
		lane->guest_len += (size_t)n;
	}
	snprintf(lane->guest_name, sizeof lane->guest_name, "modalsh-guest-%016" PRIx64,
		 guest_hash(lane->guest, lane->guest_len));
	return 0;
}

static void
init_timers(struct lane *lane)
{
	double ping_s = (double)lane->config->lease_ms / 1000. / PINGS_PER_LEASE;

	ev_timer_init(&lane->ping, ping_due, ping_s, ping_s);
	ev_timer_init(&lane->idle, idle_over, 0., 0.);
	ev_timer_init(&lane->pause, pause_over, 0., 0.);
	ev_timer_init(&lane->broken, lease_over, 0., 0.);
	lane->ping.data = lane->idle.data = lane->pause.data = lane->broken.data = lane;
}

int
lane_new(struct ev_loop *loop, const struct config *config, const struct cred *cred,
	 struct lane **ret, struct err *err)
{
	struct lane *lane = calloc(1, sizeof *lane);
	int r;

	if (lane == NULL)
		return err_set(err, ENOMEM, "no memory for the lane");
	lane->loop = loop;
	lane->config = config;
	lane->pause_s = PAUSE_FIRST_S;
	buf_init(&lane->in, FRAME_LEN_MAX);
	buf_init(&lane->out, QUEUE_LEN_MAX);
	init_timers(lane);
	r = guest_load(lane, config->guest, err);
	if (r == 0 &&
	    getrandom(lane->broker_id, sizeof lane->broker_id, 0) != sizeof lane->broker_id)
		r = err_errno(err, errno, "getrandom");
	if (r == 0)
		r = sandbox_new(loop, config, cred, &sandbox_events, lane, &lane->sandbox, err);
	if (r < 0) {
		lane_free(lane);
		return r;
	}
	*ret = lane;
	return 0;
}

void
lane_free(struct lane *lane)
{
	if (lane == NULL)
		return;
	drop_exec(lane);
	ev_timer_stop(lane->loop, &lane->pause);
	ev_timer_stop(lane->loop, &lane->broken);
	if (lane->sandbox != NULL)
		sandbox_free(lane->sandbox);
	buf_free(&lane->in);
	buf_free(&lane->out);
	free(lane->slots);
	free(lane->guest);
	free(lane);
}

static void
sandbox_stopped(void *arg)
{
	struct lane *lane = arg;

	lane->stopped(lane->stopped_arg);
}

void
lane_stop(struct lane *lane, void (*done)(void *arg), void *arg)
{
	char reason[] = "modalsh-broker was stopped";

	lane->state = LANE_STOPPED;
	lane->stopped = done;
	lane->stopped_arg = arg;
	drop_exec(lane);
	ev_timer_stop(lane->loop, &lane->pause);
	ev_timer_stop(lane->loop, &lane->broken);
	lane_each(lane, visit_lose, reason);
	sandbox_stop(lane->sandbox, sandbox_stopped, lane);
}

static const char *
state_name(enum lane_state state)
{
	switch (state) {
	case LANE_DOWN:
		return "down";
	case LANE_SANDBOX:
		return "waiting for the sandbox";
	case LANE_INSTALLING:
		return "installing the guest";
	case LANE_GREETING:
		return "greeting";
	case LANE_UP:
		return "up";
	case LANE_PAUSED:
		return "broken, opening again";
	case LANE_STOPPED:
		return "stopped";
	}
	return "";
}

void
lane_info(const struct lane *lane, struct lane_info *ret)
{
	*ret = (struct lane_info){ .state = lane->state,
				   .state_name = state_name(lane->state),
				   .opened_count = lane->opened_count,
				   .job_count = (uint32_t)lane->slot_count };
	for (size_t i = 0; lane->booted && i < sizeof lane->boot_id; i++)
		snprintf(ret->boot_id + 2 * i, 3, "%02x", lane->boot_id[i]);
	sandbox_info(lane->sandbox, &ret->sandbox);
}
