/* job_private.h -- what the parts of a job share: job.c (its life and its end), job_start.c (what a
 * described command becomes), job_streams.c (its bytes).  For these three alone. */
#ifndef SHIM_BROKER_JOB_PRIVATE_H
#define SHIM_BROKER_JOB_PRIVATE_H

#include "shim/broker/job.h"
#include "shim/broker/sink.h"

/* One stream of the command. */
struct channel {
	struct job *job;
	uint32_t number;
	enum job_stream_kind kind;

	struct source *source; /* IN, TTY: until the command cannot read any more */
	uint64_t sent;
	uint64_t used;
	uint32_t in_window;
	uint64_t grows_at; /* once this offset has been consumed, the window was too small for the
			      command's pace */
	bool ended; /* the end of the source was read: it is at `end`, and nothing beyond it is read
		       any more */
	uint64_t end;
	bool eof_sent;
	bool revoking; /* IN_REVOKE was sent; nothing goes before the answer */

	struct sink *sink; /* OUT, TTY: until its end or its reader's */
	uint64_t received;
	uint64_t written;
	uint64_t acked;
	uint32_t window;
	uint32_t growth;    /* how much of the window counts against the broker's growth */
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
	uint64_t ignored;	    /* signals that the command was started with ignored */
	struct job_winsize winsize; /* of its terminal, as last sent */
	bool caller_stopped;
	bool plain_output; /* the terminal in the sandbox does no output processing: the one here
			      does */
	struct terminal
		*terminal; /* taken; NULL also while the caller is stopped or in the background */

	struct buf start; /* the encoded START until the guest has answered it */
	bool sent;
	bool answered; /* STARTED or FAILED was seen */
	bool exited;
	bool done;
	bool kill_wanted;
	bool timed_out;
	bool ending;   /* it was told to end: what nobody takes is not waited for */
	uint32_t busy; /* > 0 while a function of ours is on the stack: frees itself later */
	struct job_exit exit;

	struct job_control controls[CONTROLS_MAX]; /* not confirmed yet, oldest first */
	uint32_t control_count;
	uint32_t controls_sent; /* on the present lane */
	uint32_t control_sequence;

	uint32_t token_stream; /* of make's jobserver, to be read */
	int token_fd;	       /* our copy of its other end, until the stream is opened; else -1 */
	uint32_t left_behind;  /* bit i: the descriptor of stream i cannot cross */
	struct ev_timer deadline;
	struct ev_timer stall;
	uint64_t stall_written; /* output written when it was last looked at */
	size_t channel_count;
	struct channel channels[]; /* one for each stream of START */
};

/* ---- job.c ---- */

/* Every entry point brackets itself with these, so that a job ends only when nothing on the stack
 * uses it. */
void job_enter(struct job *job);
void job_leave(struct job *job);

/* Ends with REFUSED, unless the end has been told already. */
void job_refuse(struct job *job, enum job_refusal kind, const char *text);

/* A frame about one stream, or KILL; not sent while the lane is down: job_lane_up() repeats what
 * counts. */
void job_send_position(struct job *job, uint8_t type, uint32_t stream, uint64_t offset,
		       uint32_t window);
void job_send_kill(struct job *job);

/* ---- job_streams.c ---- */

extern const struct sink_events job_output_events;
extern const struct source_events job_input_events;

bool channel_has_input(const struct channel *channel);
bool channel_has_output(const struct channel *channel);

/* The stream of this number that carries bytes, or NULL. */
struct channel *job_channel(struct job *job, uint32_t number);

/* Sends as much input as there is, and room for. */
void channel_pump(struct channel *channel);

void channel_close_source(struct channel *channel);
void channel_close_sink(struct channel *channel);

/* ---- job_start.c ---- */

/* Finds make's jobserver among the descriptors that are passed. */
void job_find_tokens(struct job *job, const struct job_start *start, const int *fds,
		     size_t fd_count);

/* Decides what each descriptor is for the command, changes *start accordingly, and takes over every
 * descriptor, also on failure. */
int job_open_channels(struct job *job, struct job_start *start, const int *fds, size_t fd_count,
		      struct err *err);

/* Writes the lane's START: what policy lets cross of the caller's. */
int job_encode_start(struct job *job, const struct job_start *local, struct job_start *start,
		     struct err *err);

#endif
