/* job.h -- the messages of proto/PROTOCOL.md: encoding, decoding, bounds.  Touches no descriptor.
 *
 * Decoders fill a struct whose byte ranges point into the decoded body (valid as long as it is),
 * change nothing on failure, and return 0 or -EBADMSG.  Encoders append one whole frame to a queue
 * and return 0, -EMSGSIZE or -ENOMEM; on failure the queue holds what it held before. */
#ifndef PROTO_JOB_H
#define PROTO_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "shim/base/buf.h"
#include "shim/base/limits.h"
#include "shim/base/wstat.h"

enum { JOB_PROTOCOL_VERSION = 1, JOB_ID_LEN = 16, JOB_HEADER_LEN = 9 };

enum job_type {
	JOB_HELLO = 0x01,
	JOB_START = 0x02,
	JOB_IN = 0x03,
	JOB_IN_EOF = 0x04,
	JOB_ACK = 0x05,
	JOB_OUT_CLOSE = 0x06,
	JOB_SIGNAL = 0x07,
	JOB_WINCH = 0x08,
	JOB_EXIT_ACK = 0x09,
	JOB_PING = 0x0a,
	JOB_CLOSE = 0x0b,
	JOB_KILL = 0x0c,
	JOB_IN_REVOKE = 0x0d,
	JOB_STATUS = 0x20,
	JOB_STOP = 0x21,
	JOB_HELLO_REPLY = 0x81,
	JOB_STARTED = 0x82,
	JOB_FAILED = 0x83,
	JOB_IN_USED = 0x84,
	JOB_IN_CLOSED = 0x85,
	JOB_OUT = 0x86,
	JOB_OUT_EOF = 0x87,
	JOB_EXIT = 0x88,
	JOB_PONG = 0x89,
	JOB_DONE = 0x8a,
	JOB_STOPPED = 0x8b,
	JOB_IN_REVOKED = 0x8c,
	JOB_REFUSED = 0xa0,
	JOB_REPLY = 0xa1,
	JOB_ACCEPTED = 0xa2,
};

enum job_scope {
	JOB_SCOPE_PROCESS = 1,
	JOB_SCOPE_GROUP = 2,
	JOB_SCOPE_SESSION = 3,
	JOB_SCOPE_LEADER = 4,
};

enum job_stage {
	JOB_STAGE_FORK = 1,
	JOB_STAGE_STREAMS = 2,
	JOB_STAGE_LIMITS = 3,
	JOB_STAGE_DIRECTORY = 4,
	JOB_STAGE_PROGRAM = 5,
	JOB_STAGE_TERMINAL = 6,
};

enum job_refusal { JOB_NOT_RUN = 1, JOB_RESULT_UNKNOWN = 2, JOB_TIMED_OUT = 3 };

/* Minor numbers of the memory devices (major number 1) that every machine has, as DEVICE refers to
 * them. */
enum job_device {
	JOB_DEVICE_DIRECTORY = 0, /* not a device: any directory */
	JOB_DEVICE_NULL = 3,
	JOB_DEVICE_ZERO = 5,
	JOB_DEVICE_FULL = 7,
	JOB_DEVICE_RANDOM = 8,
	JOB_DEVICE_URANDOM = 9,
};

enum job_stream_kind {
	JOB_STREAM_CLOSED = 0,
	JOB_STREAM_DEVICE = 1,
	JOB_STREAM_IN = 2,
	JOB_STREAM_OUT = 3,
	JOB_STREAM_SAME = 4,
	JOB_STREAM_TTY = 5,
	JOB_STREAM_PASSED = 6,
};

/* One frame, as found at the front of a queue. */
struct job_frame {
	uint8_t type; /* any value: unknown types are the caller's to refuse */
	uint32_t job;
	struct view body;
	size_t len; /* of the whole frame: what to consume afterwards */
};

/* Looks at the front of `in`.  Returns 1 with *ret filled, 0 when the frame is not complete,
 * -EBADMSG when its length is impossible. */
int job_frame_take(const struct buf *in, struct job_frame *ret);
int job_frame_view(struct view front, struct job_frame *ret);

struct job_limit {
	uint8_t resource;
	uint64_t soft;
	uint64_t hard;
};

struct job_stream {
	uint32_t stream;
	uint8_t kind; /* enum job_stream_kind */
	uint32_t refers_to;
	uint32_t pipe_len;
};

struct job_winsize {
	uint16_t rows;
	uint16_t columns;
	uint16_t width;
	uint16_t height;
};

/* A list of byte strings that is still encoded: walk it with job_strings_next(). */
struct job_strings {
	uint32_t count;
	struct view items;
};

/* Takes the next string off *strings.  Returns false at the end. */
bool job_strings_next(struct job_strings *strings, struct view *ret);

/* Copies the list into a NULL-terminated array (caller frees with strv_free), or NULL without
 * memory. */
char **job_strings_copy(struct job_strings strings);

struct job_start {
	struct view program;
	struct job_strings argv;
	struct job_strings env;
	uint8_t env_base;
	struct view cwd;
	uint32_t umask;
	int32_t nice;
	uint64_t ignored;
	uint64_t blocked;
	uint32_t limit_count;
	struct job_limit limits[RLIMITS_MAX];
	uint32_t stream_count;
	struct job_stream streams[STREAMS_MAX];
	struct job_winsize winsize;
	struct view termios;
};

int job_start_decode(struct view body, struct job_start *ret);

/* START is written in order, since argv and env are too large to be copied first:
 * job_start_begin, job_put_strings for argv, job_put_strings for env, job_start_rest,
 * job_frame_end. The begin returns the frame's position for job_frame_end. */
int job_start_begin(struct buf *out, uint32_t job, const void *program, size_t program_len,
		    size_t *ret_position);
int job_put_strings(struct buf *out, char *const *strings); /* NULL-terminated */
/* Encodes env_base … termios of *start; its program, argv and env are not looked at. */
int job_start_rest(struct buf *out, const struct job_start *start);
/* Fills in the length of the frame that began at position; -EMSGSIZE when it exceeds FRAME_LEN_MAX.
 */
int job_frame_end(struct buf *out, size_t position);

/* A position in a stream: IN_EOF, IN_USED, IN_CLOSED, IN_REVOKED, OUT_EOF, and ACK with its window;
 * OUT_CLOSE and IN_REVOKE have the stream alone (offset and window 0). */
struct job_position {
	uint32_t stream;
	uint64_t offset;
	uint32_t window;
};

/* Handles all these types of struct job_position; another type is -EBADMSG (decode) or a bug
 * (encode). */
int job_position_decode(uint8_t type, struct view body, struct job_position *ret);
int job_position_encode(struct buf *out, uint8_t type, uint32_t job,
			const struct job_position *position);

/* IN and OUT. */
struct job_data {
	uint32_t stream;
	uint64_t offset;
	struct view bytes; /* 1 … DATA_LEN_MAX */
};

int job_data_decode(struct view body, struct job_data *ret);
/* Bytes that stand before the data in an IN or OUT frame. */
enum { JOB_DATA_HEADER_LEN = JOB_HEADER_LEN + 4 + 8 };
/* Writes only that header for data_len bytes to follow. */
int job_data_header_encode(struct buf *out, uint8_t type, uint32_t job, uint32_t stream,
			   uint64_t offset, size_t data_len);

struct job_control {
	uint8_t type; /* JOB_SIGNAL or JOB_WINCH */
	uint32_t sequence;
	uint8_t signal; /* 1 … 64 */
	uint8_t scope;
	struct job_winsize winsize;
};

int job_control_decode(uint8_t type, struct view body, struct job_control *ret);
int job_control_encode(struct buf *out, uint32_t job, const struct job_control *control);

struct job_failure {
	uint8_t stage; /* enum job_stage */
	uint32_t errno_value;
};

int job_failure_decode(struct view body, struct job_failure *ret);
int job_failure_encode(struct buf *out, uint32_t job, const struct job_failure *failure);

struct job_exit {
	struct wstat wstat;
	uint64_t user_us;
	uint64_t system_us;
	uint64_t max_rss_kib;
};

int job_exit_decode(struct view body, struct job_exit *ret);
int job_exit_encode(struct buf *out, uint32_t job, const struct job_exit *exit);

struct job_refused {
	uint8_t kind; /* enum job_refusal */
	struct view text;
};

int job_refused_decode(struct view body, struct job_refused *ret);
int job_refused_encode(struct buf *out, uint8_t kind, const char *text);

/* Frames without a body: EXIT_ACK, CLOSE, STATUS, STOP, DONE, ACCEPTED. */
int job_empty_encode(struct buf *out, uint8_t type, uint32_t job);
/* -EBADMSG unless the body is empty. */
int job_empty_decode(struct view body);

/* A single number: STARTED (u32 pid), PING and PONG (u64 token), KILL and STOPPED (u8 signal). */
int job_number_decode(uint8_t type, struct view body, uint64_t *ret);
int job_number_encode(struct buf *out, uint8_t type, uint32_t job, uint64_t number);

/* REPLY. */
int job_text_decode(struct view body, struct view *ret);
int job_text_encode(struct buf *out, uint8_t type, const char *text, size_t len);

/* HELLO and HELLO_REPLY of the local socket. */
struct job_greeting {
	uint32_t version;
	struct view software;
};

int job_greeting_decode(struct view body, struct job_greeting *ret);
int job_greeting_encode(struct buf *out, uint8_t type, const char *software);

/* HELLO and HELLO_REPLY of the lane.  The list of jobs is encoded and decoded job by job. */
struct job_lane_hello {
	uint32_t version;
	uint8_t id[JOB_ID_LEN]; /* HELLO: broker_id; HELLO_REPLY: boot_id */
	uint32_t lease_ms;	/* HELLO only */
	struct view software;	/* HELLO_REPLY only */
	uint32_t job_count;
	struct view jobs; /* still encoded: job_hello_next() */
};

struct job_hello_entry {
	uint32_t job;
	uint32_t control_sequence; /* HELLO_REPLY only */
	uint32_t stream_count;
	struct job_position streams[STREAMS_MAX]; /* window: HELLO only */
};

/* Also checks every entry, so that job_hello_next() cannot fail afterwards. */
int job_lane_hello_decode(uint8_t type, struct view body, struct job_lane_hello *ret);
bool job_hello_next(uint8_t type, struct job_lane_hello *hello, struct job_hello_entry *ret);

/* Appends the head; job_count entries must follow, then job_frame_end(). */
int job_lane_hello_begin(struct buf *out, uint8_t type, const struct job_lane_hello *hello,
			 size_t *ret_position);
int job_hello_entry_encode(struct buf *out, uint8_t type, const struct job_hello_entry *entry);

#endif
