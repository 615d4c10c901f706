/* job.h -- the commands of this sandbox, and what is still to be told about each.
 *
 * Nothing is queued for the lane: every job knows what it has sent on the present lane, and
 * job_table_emit() encodes what is new. So memory is bounded by the windows, and a new lane only
 * has to reset those marks. */
#ifndef SHIM_GUEST_JOB_H
#define SHIM_GUEST_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

#include "proto/job.h"
#include "shim/guest/batch.h"
#include "shim/guest/chunk.h"
#include "shim/guest/input.h"
#include "shim/guest/loop.h"
#include "shim/guest/output.h"
#include "shim/guest/spawn.h"

enum {
	JOB_BUCKETS = 1024, /* a power of two */
	/* Ended jobs whose last output nobody acknowledged: kept for a lane that breaks now, the
	 * oldest forgotten. */
	JOBS_LINGERING_MAX = 16,
};

struct job_table;

struct job {
	struct job_table *table;
	struct job *previous; /* in the order of their numbers */
	struct job *next;
	struct job *next_in_bucket;
	struct job *next_ready;
	uint32_t number;
	uint32_t control_sequence; /* the last one seen */
	pid_t pid;		   /* also its group and session; 0: now somebody else's */
	uint32_t started_pid;	   /* for STARTED */
	struct job_failure failure;
	struct job_exit exit;
	int64_t kill_at_us; /* when what is left of it is killed; INT64_MAX: not */
	int slave; /* of its terminal, held until it has ended: one that nobody holds is hung up */
	uint64_t stall_sent; /* output sent when it was last looked at */
	int64_t stall_at_us; /* when it is looked at again after the end; INT64_MAX: not */
	bool stalled; /* nothing more of it was taken: EXIT goes ahead of what others may have
			 written */
	bool ending;  /* it was told to end: what is stalled is not waited for, whoever wrote it */
	uint64_t blocked;    /* signals that the command was started with blocked */
	uint64_t ignored;    /* and with ignored */
	int stop_signal;     /* the stop signal for which SIGSTOP stood in, else 0 */
	int stopped_by;	     /* what STOPPED is still to say, else 0 */
	int process_signal;  /* last one sent to the process alone, for the rest of its group if it
				dies of it */
	int64_t group_at_us; /* when the rest of the group gets that signal in any case; INT64_MAX:
				not */
	int64_t terminal_at_us; /* when the terminal has passed on the last output */
	bool ready;
	bool failed;
	bool exited;
	bool started_sent; /* or FAILED */
	bool exit_sent;
	bool exit_acked;
	bool done_sent;
	bool lingering;
	bool listed; /* by the HELLO that is being answered */
	size_t output_count;
	size_t input_count;
	struct output *outputs;
	struct input *inputs;
};

struct job_table {
	struct loop *loop;
	struct chunk_pool pool;
	struct spawn_base *base;
	struct job *first;
	struct job *last;
	struct job *by_number[JOB_BUCKETS];
	struct job *ready_first;
	struct job *ready_last;
	size_t count;
	size_t lingering_count;
	uint32_t highest;    /* the highest number started for this broker */
	int64_t flush_at_us; /* when the lane is to be written; INT64_MAX: nothing to say */
	int64_t poll_at_us;  /* when job_table_tick() has something to do; INT64_MAX: nothing */
	pid_t *sweep;	     /* sessions to be killed by job_table_sweep() */
	size_t sweep_count;
	size_t sweep_capacity;
};

void job_table_init(struct job_table *table, struct loop *loop, struct spawn_base *base);
/* Kills every job and forgets it; the table is empty and usable afterwards. Numbers may begin
 * anew. */
void job_table_clear(struct job_table *table);
struct job *job_find(const struct job_table *table, uint32_t number);

/* START. A number that exists is left alone; one that was forgotten already is answered with
 * DONE and not run again. Returns 0 (also for a command that could not be started: FAILED says
 * so), -EBADMSG, or -ENOMEM. */
int job_start(struct job_table *table, uint32_t number, const struct job_start *start);

/* A job of which the broker still speaks although all of it was delivered: answered with DONE.
 * Returns 0 or -ENOMEM. */
int job_add_forgotten(struct job_table *table, uint32_t number);

/* Reaped by the daemon; usage is wait4()'s.  Processes that are no job's are ignored. */
void job_table_reaped(struct job_table *table, pid_t pid, int wait_status,
		      const struct rusage *usage);

/* SIGNAL and WINCH; those seen before are ignored. */
void job_control(struct job *job, const struct job_control *control);

/* KILL: the signal to group and session, the streams closed, and SIGKILL two seconds later if
 * that was another signal. */
void job_kill(struct job *job, int signal_number);

/* Kills what still runs or holds a stream, and forgets. */
void job_end(struct job *job);

/* EXIT_ACK. */
void job_exit_acknowledged(struct job *job);

/* A new lane has come: everything is to be told that the entry (NULL: none of it) does not show
 * as received. Returns 0 or -EBADMSG. */
int job_resume(struct job *job, const struct job_hello_entry *entry);

struct output *job_output(const struct job *job, uint32_t stream);
struct input *job_input(const struct job *job, uint32_t stream);

/* Called by the streams. */
void job_output_ready(struct job *job, struct output *output);
void job_input_changed(struct job *job);
void job_poll_wanted(struct job *job, int64_t at_us);

/* ACK and OUT_CLOSE.  Return 0 or -EBADMSG. */
int job_acknowledge(struct job *job, struct output *output, uint64_t offset, uint32_t window);
void job_output_drop(struct job *job, struct output *output);

/* Encodes what the jobs have to say, in turns, until the batch is full.  Returns 0 or -errno. */
int job_table_emit(struct job_table *table, struct batch *batch);

/* Does what is due by the clock: counts what commands have read, kills what outlived its TERM. */
void job_table_tick(struct job_table *table, int64_t now_us);

/* Kills the sessions of jobs that were killed since the last call. */
void job_table_sweep(struct job_table *table);

#endif
