/* output.h -- what a command writes into one pipe or terminal, kept until the broker has
 * acknowledged it. */
#ifndef SHIM_GUEST_OUTPUT_H
#define SHIM_GUEST_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "shim/guest/batch.h"
#include "shim/guest/chunk.h"
#include "shim/guest/loop.h"

struct job;

struct output {
	struct job *job;
	struct loop *loop;
	struct chunk_pool *pool;
	struct watch watch; /* the read end, or the master */
	struct chunk *first;
	struct chunk *last;
	uint32_t number;
	uint64_t limit;	   /* how far it may be received: what the broker has acknowledged, and its
			      window */
	uint64_t acked;	   /* acked <= sent <= received <= limit */
	uint64_t sent;	   /* on the present lane */
	uint64_t received; /* read from the command */
	uint64_t mark;	   /* EXIT waits until this much was sent */
	bool terminal;
	bool ended;   /* no more will be received; the descriptor is closed */
	bool dropped; /* OUT_CLOSE: nobody wants what is left */
	bool eof_sent;
	bool marked;
};

/* Takes ownership of fd (not blocking). The watch calls back job_output_ready(). Returns 0 or
 * -errno. */
int output_init(struct output *output, struct job *job, struct loop *loop, struct chunk_pool *pool,
		int fd);
void output_free(struct output *output);

/* Reads what is there, as far as the window allows, and asks for more. Returns the number of new
 * bytes. */
size_t output_read(struct output *output);

/* The command has ended: notes how much must be sent before EXIT and reads that far if the
 * window allows. For a terminal the mark is only right when nothing is on its way through the
 * line discipline: call again later. */
void output_mark(struct output *output);

/* OUT_CLOSE: closes the descriptor and drops what is held. */
void output_drop(struct output *output);

/* ACK.  Returns 0, or -EBADMSG for an offset that was not sent or a window beyond the maximum. */
int output_acknowledge(struct output *output, uint64_t offset, uint32_t window);

/* A new lane whose reader has the bytes before offset and takes `window` more.  Returns 0 or
 * -EBADMSG. */
int output_resume(struct output *output, uint64_t offset, uint32_t window);

/* Encodes OUT of at most *budget bytes and takes them off it.  Returns 1 when there is more to
 * send, 0, -errno. */
int output_emit(struct output *output, struct batch *batch, size_t *budget);

/* Encodes OUT_EOF when it is due: after the data of all outputs, so that one stream's end does not
 * overtake what was written to another before.  Returns 0 or -errno. */
int output_emit_end(struct output *output, struct batch *batch);

/* Whether another process than the command itself may have written what is held: somebody has it
 * open still. */
bool output_has_writers(const struct output *output);

/* Everything written before the mark has been sent. */
bool output_passed_mark(const struct output *output);

#endif
