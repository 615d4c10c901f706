#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/guest/job.h"
#include "shim/guest/proc.h"
#include "shim/guest/terminal.h"

/* How long a frame may wait for company, so that a short command is told about in one write.
 * Nobody acts on STARTED, a process that has just written its last line is about to exit, and
 * everything else is urgent. */
enum { WAIT_URGENT_US = 0, WAIT_GATHER_US = 200, WAIT_STARTED_US = 5000, GATHER_LEN_MAX = 4096 };

enum {
	KILL_WAIT_US = 2 * 1000 * 1000,
	EXIT_STALL_US = 200 * 1000, /* PROTOCOL.md, EXIT */
	GROUP_WAIT_US = 100 * 1000, /* PROTOCOL.md, SIGNAL, scope 4 */
	TERMINAL_WAIT_US = 20 * 1000,
	US_PER_S = 1000 * 1000,
	SWEEP_FIRST = 16,
	SWEEPS = 2, /* the second finds what was forked during the first */
};

static const int64_t never = INT64_MAX;

/* ---- the table ---- */

void
job_table_init(struct job_table *table, struct loop *loop, struct spawn_base *base)
{
	*table = (struct job_table){
		.loop = loop, .base = base, .flush_at_us = never, .poll_at_us = never
	};
}

struct job *
job_find(const struct job_table *table, uint32_t number)
{
	struct job *job = table->by_number[number % JOB_BUCKETS];

	while (job != NULL && job->number != number)
		job = job->next_in_bucket;
	return job;
}

static void
job_insert(struct job *job)
{
	struct job_table *table = job->table;
	struct job **bucket = &table->by_number[job->number % JOB_BUCKETS];

	job->next_in_bucket = *bucket;
	*bucket = job;
	job->previous = table->last;
	if (table->last == NULL)
		table->first = job;
	else
		table->last->next = job;
	table->last = job;
	table->count++;
	if (job->number > table->highest)
		table->highest = job->number;
}

static void
job_remove_ready(struct job *job)
{
	struct job_table *table = job->table;
	struct job **link = &table->ready_first;
	struct job *before = NULL;

	if (!job->ready)
		return;
	while (*link != job) {
		before = *link;
		link = &before->next_ready;
	}
	*link = job->next_ready;
	if (table->ready_last == job)
		table->ready_last = before;
	job->ready = false;
}

static void
job_remove(struct job *job)
{
	struct job_table *table = job->table;
	struct job **link = &table->by_number[job->number % JOB_BUCKETS];

	job_remove_ready(job);
	while (*link != job)
		link = &(*link)->next_in_bucket;
	*link = job->next_in_bucket;
	if (job->previous == NULL)
		table->first = job->next;
	else
		job->previous->next = job->next;
	if (job->next == NULL)
		table->last = job->previous;
	else
		job->next->previous = job->previous;
	table->count--;
	if (job->lingering)
		table->lingering_count--;
}

static void
sweep_add(struct job_table *table, pid_t session)
{
	size_t capacity = table->sweep_capacity == 0 ? SWEEP_FIRST : table->sweep_capacity * 2;
	pid_t *sweep;

	if (table->sweep_count == table->sweep_capacity) {
		sweep = realloc(table->sweep, capacity * sizeof *sweep);
		if (sweep == NULL) {
			job_table_sweep(table); /* makes room */
			proc_signal_sessions(&session, 1, SIGKILL);
			return;
		}
		table->sweep = sweep;
		table->sweep_capacity = capacity;
	}
	table->sweep[table->sweep_count++] = session;
}

void
job_table_sweep(struct job_table *table)
{
	if (table->sweep_count == 0)
		return;
	for (int i = 0; i < SWEEPS; i++)
		proc_signal_sessions(table->sweep, table->sweep_count, SIGKILL);
	free(table->sweep);
	table->sweep = NULL;
	table->sweep_count = table->sweep_capacity = 0;
}

static void
job_ready(struct job *job, int64_t wait_us)
{
	struct job_table *table = job->table;
	int64_t at_us = wait_us == 0 ? 0 : loop_now_us() + wait_us;

	if (at_us < table->flush_at_us)
		table->flush_at_us = at_us;
	if (job->ready)
		return;
	job->ready = true;
	job->next_ready = NULL;
	if (table->ready_last == NULL)
		table->ready_first = job;
	else
		table->ready_last->next_ready = job;
	table->ready_last = job;
}

/* ---- one job ---- */

static void
job_close_streams(struct job *job)
{
	for (size_t i = 0; i < job->output_count; i++)
		if (!job->outputs[i].ended)
			output_drop(&job->outputs[i]);
	for (size_t i = 0; i < job->input_count; i++)
		input_close(&job->inputs[i]);
	fd_close(&job->slave);
}

static void
job_kill_now(struct job *job)
{
	job->kill_at_us = never;
	if (job->pid <= 0)
		return;
	killpg(job->pid, SIGKILL);
	sweep_add(job->table, job->pid);
}

static void
job_free_streams(struct job *job)
{
	for (size_t i = 0; i < job->output_count; i++)
		output_free(&job->outputs[i]);
	for (size_t i = 0; i < job->input_count; i++)
		input_free(&job->inputs[i]);
	fd_close(&job->slave);
	free(job->outputs);
	free(job->inputs);
	job->outputs = NULL;
	job->inputs = NULL;
	job->output_count = job->input_count = 0;
}

static void
job_forget(struct job *job)
{
	if (job->kill_at_us != never)
		job_kill_now(job);
	job_remove(job);
	job_free_streams(job);
	free(job);
}

/* Nothing of it is left but what it detached from all of its streams: that lives on, as it would
 * locally. */
static bool
job_over(const struct job *job)
{
	for (size_t i = 0; i < job->output_count; i++)
		if (!job->outputs[i].ended)
			return false;
	for (size_t i = 0; i < job->input_count; i++)
		if (!job->inputs[i].closed)
			return false;
	return job->exited || job->failed;
}

void
job_end(struct job *job)
{
	if (!job_over(job))
		job_kill_now(job);
	job_forget(job);
}

void
job_table_clear(struct job_table *table)
{
	while (table->first != NULL)
		job_end(table->first);
	job_table_sweep(table);
	table->highest = 0;
	table->flush_at_us = table->poll_at_us = never;
}

static struct job *
job_new(struct job_table *table, uint32_t number, size_t output_count, size_t input_count)
{
	struct job *job = calloc(1, sizeof *job);

	if (job == NULL)
		return NULL;
	job->table = table;
	job->number = number;
	job->kill_at_us = job->group_at_us = job->terminal_at_us = job->stall_at_us = never;
	job->slave = -1;
	job->outputs = calloc(output_count + 1, sizeof *job->outputs);
	job->inputs = calloc(input_count + 1, sizeof *job->inputs);
	if (job->outputs == NULL || job->inputs == NULL) {
		job_free_streams(job);
		free(job);
		return NULL;
	}
	return job;
}

int
job_add_forgotten(struct job_table *table, uint32_t number)
{
	struct job *job = job_new(table, number, 0, 0);

	if (job == NULL)
		return -ENOMEM;
	job->exited = job->started_sent = job->exit_sent = job->exit_acked = true;
	job_insert(job);
	job_ready(job, WAIT_URGENT_US);
	return 0;
}

/* ---- starting ---- */

/* The child's ends of a job's streams while it is being started. */
struct ends {
	int fds[STREAMS_MAX];
	size_t count;
};

static void
ends_close(struct ends *ends)
{
	while (ends->count > 0)
		fd_cleanup(&ends->fds[--ends->count]);
}

static int
start_pipe(const struct job_stream *stream, int *ret_ours, int *ret_theirs)
{
	bool input = stream->kind == JOB_STREAM_IN;
	int fds[2];
	int r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	if (stream->pipe_len > 0)
		fcntl(fds[0], F_SETPIPE_SZ, (int)stream->pipe_len); /* or the default stays */
	*ret_ours = fds[input ? 1 : 0];
	*ret_theirs = fds[input ? 0 : 1];
	r = fd_set_nonblock(*ret_ours);
	if (r < 0) {
		close(fds[0]);
		close(fds[1]);
	}
	return r;
}

/* From here on fd is the stream's; it is counted also when this fails, so that it is freed. */
static int
job_add_output(struct job *job, uint32_t number, int fd, bool terminal)
{
	struct output *output = &job->outputs[job->output_count++];

	output->number = number;
	output->terminal = terminal;
	return output_init(output, job, job->table->loop, &job->table->pool, fd);
}

static int
job_add_input(struct job *job, uint32_t number, int fd, bool terminal)
{
	struct input *input = &job->inputs[job->input_count++];

	input->number = number;
	return input_init(input, job, job->table->loop, fd, terminal);
}

/* Two descriptors of the master, since both directions are waited for apart. */
static int
start_terminal(struct job *job, const struct job_start *start, uint32_t number, int *ret_slave)
{
	cleanup_close int master = -1;
	cleanup_close int slave = -1;
	int writer;
	int r;

	r = terminal_open(start->termios, &start->winsize, &master, &slave);
	if (r < 0)
		return r;
	writer = fcntl(master, F_DUPFD_CLOEXEC, 3);
	if (writer < 0)
		return -errno;
	r = job_add_input(job, number, writer, true);
	if (r == 0)
		r = job_add_output(job, number, fd_steal(&master), true);
	if (r < 0)
		return r;
	job->slave = fcntl(slave, F_DUPFD_CLOEXEC, 3);
	if (job->slave < 0)
		return -errno;
	*ret_slave = fd_steal(&slave);
	return 0;
}

static int
plan_find(const struct spawn_plan *plan, uint32_t target, int *ret_source)
{
	for (size_t i = 0; i < plan->stream_count; i++) {
		if (plan->streams[i].target != (int)target)
			continue;
		*ret_source = plan->streams[i].source;
		return 1;
	}
	return 0;
}

/* Returns 1 with *ret_source, the child's end, or -errno. */
static int
start_piped(struct job *job, const struct job_stream *stream, struct ends *ends, int *ret_source)
{
	int ours = -1;
	int theirs = -1;
	int r = start_pipe(stream, &ours, &theirs);

	if (r < 0)
		return r;
	ends->fds[ends->count++] = theirs;
	if (stream->kind == JOB_STREAM_IN)
		r = job_add_input(job, stream->stream, ours, false);
	else
		r = job_add_output(job, stream->stream, ours, false);
	*ret_source = theirs;
	return r < 0 ? r : 1;
}

/* Returns 1 with *ret_source, or -errno. */
static int
start_device(const struct job_stream *stream, struct ends *ends, int *ret_source)
{
	static const char *const paths[] = {
		[JOB_DEVICE_NULL] = "/dev/null",       [JOB_DEVICE_ZERO] = "/dev/zero",
		[JOB_DEVICE_FULL] = "/dev/full",       [JOB_DEVICE_RANDOM] = "/dev/random",
		[JOB_DEVICE_URANDOM] = "/dev/urandom",
	};
	int fd;

	if (stream->refers_to == JOB_DEVICE_DIRECTORY)
		fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	else if (stream->refers_to < sizeof paths / sizeof paths[0] &&
		 paths[stream->refers_to] != NULL)
		fd = open(paths[stream->refers_to], O_RDWR | O_CLOEXEC);
	else
		return -ENODEV;
	if (fd < 0)
		return -errno;
	*ret_source = ends->fds[ends->count++] = fd;
	return 1;
}

/* Returns 1 with *ret_source for the command's descriptor, 0 for one that stays closed, -errno. */
static int
start_stream(struct job *job, const struct job_stream *stream, struct spawn_plan *plan,
	     struct ends *ends, int *ret_source)
{
	int r;

	switch ((enum job_stream_kind)stream->kind) {
	case JOB_STREAM_DEVICE:
		return start_device(stream, ends, ret_source);
	case JOB_STREAM_SAME:
		return plan_find(plan, stream->refers_to, ret_source);
	case JOB_STREAM_TTY:
		r = start_terminal(job, plan->start, stream->stream, &plan->terminal);
		if (r < 0)
			return r;
		*ret_source = ends->fds[ends->count++] = plan->terminal;
		return 1;
	case JOB_STREAM_IN:
	case JOB_STREAM_OUT:
		return start_piped(job, stream, ends, ret_source);
	case JOB_STREAM_CLOSED:
	case JOB_STREAM_PASSED: /* refused by check_streams() */
		break;
	}
	return 0;
}

/* Returns 0, or -1 with *failure set. */
static int
start_streams(struct job *job, struct spawn_plan *plan, struct ends *ends,
	      struct job_failure *failure)
{
	const struct job_start *start = plan->start;
	int source = -1;
	int r;

	for (uint32_t i = 0; i < start->stream_count; i++) {
		r = start_stream(job, &start->streams[i], plan, ends, &source);
		if (r < 0) {
			*failure = (struct job_failure){
				.stage = start->streams[i].kind == JOB_STREAM_TTY ?
						 JOB_STAGE_TERMINAL :
						 JOB_STAGE_STREAMS,
				.errno_value = (uint32_t)-r,
			};
			return -1;
		}
		if (r == 1)
			plan->streams[plan->stream_count++] =
				(struct spawn_stream){ source, (int)start->streams[i].stream };
	}
	return 0;
}

/* A number that is used again belongs to the new process alone. */
static void
job_set_pid(struct job *job, pid_t pid)
{
	struct job_table *table = job->table;

	for (struct job *other = table->first; other != NULL; other = other->next)
		if (other->pid == pid && other != job)
			other->pid = 0;
	job->pid = pid;
}

static int
check_streams(const struct job_start *start, size_t *ret_outputs, size_t *ret_inputs)
{
	size_t outputs = 0, inputs = 0, terminals = 0;

	for (uint32_t i = 0; i < start->stream_count; i++) {
		uint8_t kind = start->streams[i].kind;

		if (kind == JOB_STREAM_PASSED || start->streams[i].stream > INT32_MAX)
			return -EBADMSG;
		terminals += kind == JOB_STREAM_TTY;
		outputs += kind == JOB_STREAM_OUT || kind == JOB_STREAM_TTY;
		inputs += kind == JOB_STREAM_IN || kind == JOB_STREAM_TTY;
	}
	if (terminals > 1)
		return -EBADMSG;
	*ret_outputs = outputs;
	*ret_inputs = inputs;
	return 0;
}

static void
job_launch(struct job *job, const struct job_start *start)
{
	struct spawn_plan plan = { .start = start, .terminal = -1 };
	struct ends ends = { .count = 0 };
	pid_t pid = -1;

	if (start_streams(job, &plan, &ends, &job->failure) == 0)
		pid = spawn_command(job->table->base, &plan, &job->failure);
	ends_close(&ends);
	if (pid > 0) {
		job_set_pid(job, pid);
		job->started_pid = (uint32_t)pid;
		job->blocked = start->blocked;
		job->ignored = start->ignored;
		job_ready(job, WAIT_STARTED_US);
		return;
	}
	job_free_streams(job);
	job->failed = true;
	job_ready(job, WAIT_URGENT_US);
}

int
job_start(struct job_table *table, uint32_t number, const struct job_start *start)
{
	size_t output_count, input_count;
	struct job *job;
	int r;

	if (number == 0)
		return -EBADMSG;
	if (job_find(table, number) != NULL)
		return 0;
	if (table->count >= JOBS_MAX + JOBS_LINGERING_MAX)
		return -EBADMSG;
	if (number <= table->highest)
		return job_add_forgotten(table, number);
	r = check_streams(start, &output_count, &input_count);
	if (r < 0)
		return r;
	job = job_new(table, number, output_count, input_count);
	if (job == NULL)
		return -ENOMEM;
	job_insert(job);
	job_launch(job, start);
	return 0;
}

/* ---- ending ---- */

static uint64_t
timeval_us(struct timeval time)
{
	return (uint64_t)time.tv_sec * US_PER_S + (uint64_t)time.tv_usec;
}

/* The line discipline hands output on from a kernel thread: what FIONREAD says of a terminal is
 * right a moment later. */
static void
job_mark_output(struct job *job, struct output *output)
{
	if (output->terminal && !output->ended)
		output_read(output);
	if (output->ended)
		return;
	if (!output->terminal) {
		output_mark(output);
		return;
	}
	job->terminal_at_us = loop_now_us() + TERMINAL_WAIT_US;
	job_poll_wanted(job, job->terminal_at_us);
}

static void
job_terminal_ended(struct job *job)
{
	for (size_t i = 0; i < job->input_count; i++)
		if (job->inputs[i].terminal)
			input_close(&job->inputs[i]);
}

/* The group of a process that was signalled alone. */
static void
job_signal_rest(struct job *job)
{
	proc_signal_followers(job->pid, job->process_signal);
	job->group_at_us = never;
}

static void
job_stopped(struct job *job, int signal_number)
{
	if (signal_number == SIGSTOP && job->stop_signal != 0)
		signal_number = job->stop_signal;
	job->stop_signal = 0;
	job->stopped_by = signal_number;
	job_ready(job, WAIT_URGENT_US);
}

static void
job_exited(struct job *job, int wait_status, const struct rusage *usage)
{
	if (WIFSTOPPED(wait_status)) {
		job_stopped(job, WSTOPSIG(wait_status));
		return;
	}
	if (wstat_from_wait(wait_status, &job->exit.wstat) < 0)
		return;
	job->exited = true;
	if (job->exit.wstat.kind == WSTAT_SIGNALED && job->exit.wstat.value == job->process_signal)
		job_signal_rest(job);
	job->group_at_us = never;
	job->exit.user_us = timeval_us(usage->ru_utime);
	job->exit.system_us = timeval_us(usage->ru_stime);
	job->exit.max_rss_kib = (uint64_t)usage->ru_maxrss;
	fd_close(&job->slave);
	job->stall_at_us = loop_now_us() + EXIT_STALL_US;
	job_poll_wanted(job, job->stall_at_us);
	for (size_t i = 0; i < job->input_count; i++)
		input_settle_exit(&job->inputs[i]);
	for (size_t i = 0; i < job->output_count; i++) {
		job_mark_output(job, &job->outputs[i]);
		if (job->outputs[i].terminal && job->outputs[i].ended)
			job_terminal_ended(job);
	}
	job_ready(job, WAIT_URGENT_US);
}

void
job_table_reaped(struct job_table *table, pid_t pid, int wait_status, const struct rusage *usage)
{
	for (struct job *job = table->first; job != NULL; job = job->next) {
		if (job->pid == pid && !job->exited) {
			job_exited(job, wait_status, usage);
			return;
		}
	}
}

/* A command is alone in its session, where the kernel lets the stop signals of terminals do nothing
 * (an orphaned group); SIGSTOP stands in for their effect. */
static bool
stops_by_default(const struct job *job, int signal_number)
{
	return (signal_number == SIGTSTP || signal_number == SIGTTIN || signal_number == SIGTTOU) &&
	       !job->exited && (job->blocked >> (signal_number - 1) & 1) == 0 &&
	       proc_signal_is_default(job->pid, signal_number);
}

static void
job_signal(struct job *job, int signal_number, uint8_t scope)
{
	job->stop_signal = 0;
	if (stops_by_default(job, signal_number)) {
		job->stop_signal = signal_number;
		signal_number = SIGSTOP;
	}
	if (scope == JOB_SCOPE_SESSION) {
		proc_signal_sessions(&job->pid, 1, signal_number);
	} else if (scope == JOB_SCOPE_GROUP || job->exited) {
		killpg(job->pid, signal_number);
	} else {
		kill(job->pid, signal_number);
		job->process_signal = signal_number;
		if (scope == JOB_SCOPE_LEADER) {
			job->group_at_us = loop_now_us() + GROUP_WAIT_US;
			job_poll_wanted(job, job->group_at_us);
		}
	}
}

/* Of a command that has ended more may be on its way than a local pipe holds: there it would still
 * be writing, and end by this signal. */
static void
job_told_to_end(struct job *job, int signal_number)
{
	if ((signal_number != SIGTERM && signal_number != SIGINT && signal_number != SIGHUP &&
	     signal_number != SIGQUIT) ||
	    ((job->ignored | job->blocked) >> (signal_number - 1) & 1) != 0)
		return;
	job->ending = true;
	if (job->exited && !job->exit_sent) {
		job->exit.wstat = (struct wstat){ WSTAT_SIGNALED, (uint8_t)signal_number };
		job_ready(job, WAIT_URGENT_US);
	}
}

void
job_control(struct job *job, const struct job_control *control)
{
	if (control->sequence <= job->control_sequence)
		return;
	job->control_sequence = control->sequence;
	if (control->type == JOB_WINCH) {
		for (size_t i = 0; i < job->output_count; i++)
			if (job->outputs[i].terminal && !job->outputs[i].ended)
				terminal_resize(job->outputs[i].watch.fd, &control->winsize);
		return;
	}
	if (job->pid <= 0)
		return;
	job_told_to_end(job, control->signal);
	job_signal(job, control->signal, control->scope);
}

void
job_kill(struct job *job, int signal_number)
{
	if (signal_number == SIGKILL) {
		job_kill_now(job);
	} else if (job->pid > 0) {
		killpg(job->pid, signal_number);
		proc_signal_sessions(&job->pid, 1, signal_number);
		job->kill_at_us = loop_now_us() + KILL_WAIT_US;
		job_poll_wanted(job, job->kill_at_us);
	}
	job_close_streams(job);
	job_ready(job, WAIT_URGENT_US);
}

/* ---- forgetting ---- */

static bool
job_delivered(const struct job *job)
{
	for (size_t i = 0; i < job->output_count; i++)
		if (!job->outputs[i].dropped && job->outputs[i].acked < job->outputs[i].received)
			return false;
	return true;
}

/* The oldest first: its broker has had the most time to ask for it again. */
static void
job_linger(struct job *job)
{
	struct job_table *table = job->table;
	struct job *oldest = table->first;

	if (job->lingering)
		return;
	job->lingering = true;
	table->lingering_count++;
	if (table->lingering_count <= JOBS_LINGERING_MAX)
		return;
	while (!oldest->lingering)
		oldest = oldest->next;
	job_forget(oldest);
}

/* Returns true when the job is no more. */
static bool
job_forget_if_over(struct job *job)
{
	struct job_table *table = job->table;
	uint32_t number = job->number;

	if (!job->exit_acked || !(job->done_sent || (job->failed && job->started_sent)))
		return false;
	if (job_delivered(job))
		job_forget(job);
	else
		job_linger(job);
	return job_find(table, number) == NULL;
}

void
job_exit_acknowledged(struct job *job)
{
	if (!job->exited && !job->failed)
		return; /* nothing was said yet */
	/* also when it answers what an earlier lane said: then it need not be said again */
	job->exit_acked = true;
	job->exit_sent = job->exited;
	job->started_sent = true;
	job_forget_if_over(job);
}

/* ---- streams ---- */

struct output *
job_output(const struct job *job, uint32_t stream)
{
	for (size_t i = 0; i < job->output_count; i++)
		if (job->outputs[i].number == stream)
			return &job->outputs[i];
	return NULL;
}

struct input *
job_input(const struct job *job, uint32_t stream)
{
	for (size_t i = 0; i < job->input_count; i++)
		if (job->inputs[i].number == stream)
			return &job->inputs[i];
	return NULL;
}

void
job_output_ready(struct job *job, struct output *output)
{
	size_t got = output_read(output);

	if (output->ended && output->terminal)
		job_terminal_ended(job);
	if (got == 0 && !output->ended)
		return;
	/* an end alone, or a few bytes: probably the process exits just now */
	job_ready(job, output->received - output->sent > GATHER_LEN_MAX ? WAIT_URGENT_US :
									  WAIT_GATHER_US);
}

void
job_input_changed(struct job *job)
{
	job_ready(job, WAIT_GATHER_US);
}

void
job_poll_wanted(struct job *job, int64_t at_us)
{
	if (at_us < job->table->poll_at_us)
		job->table->poll_at_us = at_us;
}

int
job_acknowledge(struct job *job, struct output *output, uint64_t offset, uint32_t window)
{
	int r = output_acknowledge(output, offset, window);

	if (r == 0)
		job_forget_if_over(job);
	return r;
}

void
job_output_drop(struct job *job, struct output *output)
{
	bool terminal = output->terminal;

	if (output->dropped)
		return;
	output_drop(output);
	if (terminal)
		job_terminal_ended(job);
	job_ready(job, WAIT_URGENT_US);
}

/* ---- telling ---- */

int
job_resume(struct job *job, const struct job_hello_entry *entry)
{
	struct output *output;
	int r;

	job->started_sent = job->done_sent = false;
	job->exit_sent = job->exit_acked;
	for (size_t i = 0; i < job->output_count; i++) {
		job->outputs[i].sent = job->outputs[i].acked;
		job->outputs[i].eof_sent = false;
	}
	for (size_t i = 0; i < job->input_count; i++)
		input_resume(&job->inputs[i]);
	for (uint32_t i = 0; i < entry->stream_count; i++) {
		output = job_output(job, entry->streams[i].stream);
		if (output == NULL)
			continue; /* a failed job has none */
		r = output_resume(output, entry->streams[i].offset, entry->streams[i].window);
		if (r < 0)
			return r;
	}
	job_ready(job, WAIT_URGENT_US);
	return 0;
}

static int
emit_stopped(struct job *job, struct buf *out)
{
	int r = 0;

	if (job->stopped_by != 0)
		r = job_number_encode(out, JOB_STOPPED, job->number, (uint64_t)job->stopped_by);
	if (r >= 0)
		job->stopped_by = 0;
	return r;
}

static int
emit_started(struct job *job, struct buf *out)
{
	int r;

	if (job->started_sent)
		return 0;
	if (job->failed)
		r = job_failure_encode(out, job->number, &job->failure);
	else
		r = job_number_encode(out, JOB_STARTED, job->number, job->started_pid);
	if (r == 0)
		job->started_sent = true;
	return r;
}

static bool
job_exit_due(const struct job *job)
{
	if (!job->exited || job->exit_sent)
		return false;
	for (size_t i = 0; i < job->output_count; i++)
		if (!output_passed_mark(&job->outputs[i]) &&
		    !(job->stalled && (job->ending || output_has_writers(&job->outputs[i]))))
			return false;
	return true;
}

static bool
job_done_due(const struct job *job)
{
	if (!job->exit_sent || job->done_sent)
		return false;
	for (size_t i = 0; i < job->output_count; i++)
		if (!job->outputs[i].eof_sent)
			return false;
	for (size_t i = 0; i < job->input_count; i++)
		if (!job->inputs[i].closed_sent)
			return false;
	return true;
}

static int
emit_end(struct job *job, struct buf *out)
{
	int r = 0;

	if (job_exit_due(job)) {
		r = job_exit_encode(out, job->number, &job->exit);
		job->exit_sent = r == 0;
	}
	if (r == 0 && job_done_due(job)) {
		r = job_empty_encode(out, JOB_DONE, job->number);
		job->done_sent = r == 0;
	}
	return r;
}

/* Returns 1 when the job has more to say, 0, -errno. */
static int
job_emit(struct job *job, struct batch *batch)
{
	size_t budget = DATA_LEN_MAX;
	int more = 0;
	int r = emit_started(job, batch_heads(batch));

	if (job->failed)
		return r;
	for (size_t i = 0; r >= 0 && i < job->output_count; i++) {
		r = output_emit(&job->outputs[i], batch, &budget);
		more |= r > 0;
	}
	for (size_t i = 0; r >= 0 && !more && i < job->output_count; i++)
		r = output_emit_end(&job->outputs[i], batch);
	for (size_t i = 0; r >= 0 && i < job->input_count; i++)
		r = input_emit(&job->inputs[i], batch);
	if (r >= 0)
		r = emit_stopped(job, batch_heads(batch));
	if (r >= 0)
		r = emit_end(job, batch_heads(batch));
	return r < 0 ? r : more;
}

int
job_table_emit(struct job_table *table, struct batch *batch)
{
	struct job *job;
	int r;

	while ((job = table->ready_first) != NULL && !batch_full(batch)) {
		job_remove_ready(job);
		r = job_emit(job, batch);
		if (r < 0)
			return r;
		if (r > 0)
			job_ready(job, WAIT_URGENT_US);
		else
			job_forget_if_over(job);
	}
	if (table->ready_first == NULL)
		table->flush_at_us = never;
	return 0;
}

/* A reader that waits for the command's end before it reads, while a process left behind has filled
 * the pipe, would wait for ever: locally it sees the end at once. */
static void
job_check_stall(struct job *job, int64_t now_us)
{
	uint64_t sent = 0;

	for (size_t i = 0; i < job->output_count; i++)
		sent += job->outputs[i].sent;
	job->stalled = sent == job->stall_sent;
	job->stall_sent = sent;
	job->stall_at_us = job->stalled || job->exit_sent ? never : now_us + EXIT_STALL_US;
	if (job->stalled)
		job_ready(job, WAIT_URGENT_US);
}

static void
job_tick(struct job *job, int64_t now_us)
{
	if (job->stall_at_us <= now_us)
		job_check_stall(job, now_us);
	if (job->kill_at_us <= now_us)
		job_kill_now(job);
	if (job->group_at_us <= now_us)
		job_signal_rest(job);
	if (job->terminal_at_us <= now_us) {
		job->terminal_at_us = never;
		for (size_t i = 0; i < job->output_count; i++)
			if (job->outputs[i].terminal && !job->outputs[i].ended)
				output_mark(&job->outputs[i]);
		job_ready(job, WAIT_URGENT_US);
	}
	for (size_t i = 0; i < job->input_count; i++) {
		input_poll(&job->inputs[i], now_us);
		job_poll_wanted(job, job->inputs[i].poll_at_us);
	}
	job_poll_wanted(job, job->kill_at_us);
	job_poll_wanted(job, job->group_at_us);
	job_poll_wanted(job, job->stall_at_us);
	job_poll_wanted(job, job->terminal_at_us);
}

void
job_table_tick(struct job_table *table, int64_t now_us)
{
	if (table->poll_at_us > now_us)
		return;
	table->poll_at_us = never;
	for (struct job *job = table->first; job != NULL; job = job->next)
		job_tick(job, now_us);
}
