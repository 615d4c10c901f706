/* input.h -- what a command reads from one pipe or terminal, and how much of it the command has
 * really taken. */
#ifndef SHIM_GUEST_INPUT_H
#define SHIM_GUEST_INPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "shim/base/buf.h"
#include "shim/guest/batch.h"
#include "shim/guest/loop.h"

struct job;

/* While sent bytes are unreported the pipe is looked at in growing intervals. */
enum { INPUT_POLL_FIRST_US = 1000, INPUT_POLL_LAST_US = 250 * 1000 };

struct input {
	struct job *job;
	struct loop *loop;
	struct watch watch; /* the write end, or the master; -1 after IN_EOF was passed on */
	int probe_fd;	    /* after that: a read end, to count what is unread; else -1 */
	struct buf queue;   /* received, not written yet */
	uint32_t number;
	uint64_t received;
	uint64_t written;
	uint64_t used;	   /* consumed by the command, as last measured */
	uint64_t reported; /* in the last IN_USED or IN_CLOSED on the present lane */
	int64_t poll_delay_us;
	int64_t poll_at_us; /* INT64_MAX: no need */
	bool terminal;
	bool eof;
	bool closed; /* nobody will consume anything any more; `used` is final */
	bool closed_sent;
	bool report;  /* IN_USED is due */
	bool revoked; /* IN_REVOKED is due */
};

/* Takes ownership of fd (not blocking). The watch and input_poll() call back job_input_changed()
 * when something is to be sent. Returns 0 or -errno. */
int input_init(struct input *input, struct job *job, struct loop *loop, int fd, bool terminal);
void input_free(struct input *input);

/* IN: drops what it has already. IN_EOF. Return 0, -EBADMSG when the broker broke the rules,
 * -ENOMEM. */
int input_receive(struct input *input, uint64_t offset, struct view bytes);
int input_finish(struct input *input, uint64_t offset);

/* Measures consumption when it is time to. */
void input_poll(struct input *input, int64_t now_us);

/* The command's main process has ended: measures exactly, and closes when no other process can
 * read. */
void input_settle_exit(struct input *input);

/* IN_REVOKE: takes back what the command has not consumed; IN goes on from `used`. */
void input_revoke(struct input *input);

/* Closes at once; `used` is what it is now. */
void input_close(struct input *input);

/* A new lane: everything is to be reported again. */
void input_resume(struct input *input);

/* Encodes IN_USED or IN_CLOSED when due.  Returns 0 or -errno. */
int input_emit(struct input *input, struct batch *batch);

#endif
