/* The messages of proto/PROTOCOL.md: each round trip, each truncation, each bound. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/job.h"
#include "shim/base/strv.h"
#include "tests/unit/run.h"

enum { OUT_LEN_MAX = 8 * 1024 * 1024, RANDOM_ROUNDS = 200000, RANDOM_SEED = 20240607 };

static char arg0[] = "sh", arg1[] = "-c", arg2[] = "", variable[] = "A=\xff\x01";
static char *const argv[] = { arg0, arg1, arg2, NULL };
static char *const env[] = { variable, NULL };
static char *const none[] = { NULL };

/* ---- one good message of each type ---- */

static const struct job_start good_start = {
	.env_base = 1,
	.cwd = { (const uint8_t *)"/work", 5 },
	.umask = 0022,
	.nice = -5,
	.ignored = 1ULL << 63,
	.blocked = 1,
	.limit_count = 2,
	.limits = { { 7, 1024, 4096 }, { 15, 0, UINT64_MAX } },
	.stream_count = 4,
	.streams = { { 0, JOB_STREAM_IN, 0, 65536 },
		     { 1, JOB_STREAM_OUT, 0, 0 },
		     { 2, JOB_STREAM_SAME, 1, 0 },
		     { UINT32_MAX, JOB_STREAM_PASSED, 0, 0 } },
	.winsize = { 24, 80, 640, UINT16_MAX },
	.termios = { (const uint8_t *)"termios", 7 },
};

static int
put_start(struct buf *out, const struct job_start *start, const char *program,
	  char *const *arguments)
{
	size_t position;
	int r;

	if ((r = job_start_begin(out, 7, program, strlen(program), &position)) < 0 ||
	    (r = job_put_strings(out, arguments)) < 0 || (r = job_put_strings(out, env)) < 0 ||
	    (r = job_start_rest(out, start)) < 0)
		return r;
	return job_frame_end(out, position);
}

static int
put_good_start(struct buf *out, uint8_t type)
{
	(void)type;
	return put_start(out, &good_start, "sh", argv);
}

static int
put_position(struct buf *out, uint8_t type)
{
	const struct job_position position = { 3, UINT64_MAX, OUT_WINDOW_MIN };

	return job_position_encode(out, type, 7, &position);
}

static int
put_data(struct buf *out, uint8_t type)
{
	int r = job_data_header_encode(out, type, 7, 1, 1ULL << 40, 3);

	return r < 0 ? r : buf_put(out, "x\0y", 3);
}

static int
put_control(struct buf *out, uint8_t type)
{
	const struct job_control control = { type, 9, 64, JOB_SCOPE_LEADER, { 1, 2, 3, 4 } };

	return job_control_encode(out, 7, &control);
}

static int
put_failure(struct buf *out, uint8_t type)
{
	const struct job_failure failure = { JOB_STAGE_PROGRAM, ENOENT };

	(void)type;
	return job_failure_encode(out, 7, &failure);
}

static int
put_exit(struct buf *out, uint8_t type)
{
	const struct job_exit end = { { WSTAT_SIGNALED, 9 }, 1, UINT64_MAX, 3 };

	(void)type;
	return job_exit_encode(out, 7, &end);
}

static int
put_refused(struct buf *out, uint8_t type)
{
	(void)type;
	return job_refused_encode(out, JOB_RESULT_UNKNOWN, "because");
}

static int
put_number(struct buf *out, uint8_t type)
{
	return job_number_encode(out, type, 7, 64);
}

static int
put_reply(struct buf *out, uint8_t type)
{
	return job_text_encode(out, type, "{}", 2);
}

static int
put_greeting(struct buf *out, uint8_t type)
{
	return job_greeting_encode(out, type, "1.0");
}

static const struct job_hello_entry good_entries[] = {
	{ 1, 5, 2, { { 1, 10, OUT_WINDOW_MIN }, { 2, UINT64_MAX, OUT_WINDOW_MAX } } },
	{ UINT32_MAX, 0, 0, { { 0, 0, 0 } } },
};

static int
put_lane_hello(struct buf *out, uint8_t type)
{
	const struct job_lane_hello hello = { .id = "0123456789abcde",
					      .lease_ms = 60000,
					      .software = { (const uint8_t *)"1.0", 3 },
					      .job_count = 2 };
	size_t position;
	int r;

	if ((r = job_lane_hello_begin(out, type, &hello, &position)) < 0 ||
	    (r = job_hello_entry_encode(out, type, &good_entries[0])) < 0 ||
	    (r = job_hello_entry_encode(out, type, &good_entries[1])) < 0)
		return r;
	return job_frame_end(out, position);
}

/* ---- decoding of any type; the result is zeroed first, so that nothing unset is looked at ---- */

union message {
	struct job_start start;
	struct job_position position;
	struct job_data data;
	struct job_control control;
	struct job_failure failure;
	struct job_exit end;
	struct job_refused refused;
	struct job_greeting greeting;
	struct job_lane_hello hello;
	struct view text;
	uint64_t number;
};

static int
get_start(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	return job_start_decode(body, &ret->start);
}

static int
get_position(uint8_t type, struct view body, union message *ret)
{
	return job_position_decode(type, body, &ret->position);
}

static int
get_data(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	return job_data_decode(body, &ret->data);
}

static int
get_control(uint8_t type, struct view body, union message *ret)
{
	return job_control_decode(type, body, &ret->control);
}

static int
get_failure(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	return job_failure_decode(body, &ret->failure);
}

static int
get_exit(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	return job_exit_decode(body, &ret->end);
}

static int
get_refused(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	return job_refused_decode(body, &ret->refused);
}

static int
get_empty(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	(void)ret;
	return job_empty_decode(body);
}

static int
put_empty(struct buf *out, uint8_t type)
{
	return job_empty_encode(out, type, 7);
}

static int
get_number(uint8_t type, struct view body, union message *ret)
{
	return job_number_decode(type, body, &ret->number);
}

static int
get_reply(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	return job_text_decode(body, &ret->text);
}

static int
get_greeting(uint8_t type, struct view body, union message *ret)
{
	(void)type;
	return job_greeting_decode(body, &ret->greeting);
}

static int
get_lane_hello(uint8_t type, struct view body, union message *ret)
{
	return job_lane_hello_decode(type, body, &ret->hello);
}

static const struct sample {
	const char *name;
	uint8_t type;
	int (*put)(struct buf *out, uint8_t type);
	int (*get)(uint8_t type, struct view body, union message *ret);
	bool open_end; /* data: what follows the offset belongs to it, one byte at least */
} samples[] = {
	{ "START", JOB_START, put_good_start, get_start, false },
	{ "IN", JOB_IN, put_data, get_data, true },
	{ "OUT", JOB_OUT, put_data, get_data, true },
	{ "IN_EOF", JOB_IN_EOF, put_position, get_position, false },
	{ "ACK", JOB_ACK, put_position, get_position, false },
	{ "OUT_CLOSE", JOB_OUT_CLOSE, put_position, get_position, false },
	{ "IN_USED", JOB_IN_USED, put_position, get_position, false },
	{ "IN_CLOSED", JOB_IN_CLOSED, put_position, get_position, false },
	{ "IN_REVOKE", JOB_IN_REVOKE, put_position, get_position, false },
	{ "IN_REVOKED", JOB_IN_REVOKED, put_position, get_position, false },
	{ "OUT_EOF", JOB_OUT_EOF, put_position, get_position, false },
	{ "SIGNAL", JOB_SIGNAL, put_control, get_control, false },
	{ "WINCH", JOB_WINCH, put_control, get_control, false },
	{ "FAILED", JOB_FAILED, put_failure, get_failure, false },
	{ "EXIT", JOB_EXIT, put_exit, get_exit, false },
	{ "REFUSED", JOB_REFUSED, put_refused, get_refused, false },
	{ "EXIT_ACK", JOB_EXIT_ACK, put_empty, get_empty, false },
	{ "CLOSE", JOB_CLOSE, put_empty, get_empty, false },
	{ "STATUS", JOB_STATUS, put_empty, get_empty, false },
	{ "STOP", JOB_STOP, put_empty, get_empty, false },
	{ "DONE", JOB_DONE, put_empty, get_empty, false },
	{ "ACCEPTED", JOB_ACCEPTED, put_empty, get_empty, false },
	{ "STARTED", JOB_STARTED, put_number, get_number, false },
	{ "PING", JOB_PING, put_number, get_number, false },
	{ "PONG", JOB_PONG, put_number, get_number, false },
	{ "KILL", JOB_KILL, put_number, get_number, false },
	{ "STOPPED", JOB_STOPPED, put_number, get_number, false },
	{ "REPLY", JOB_REPLY, put_reply, get_reply, false },
	{ "local HELLO", JOB_HELLO, put_greeting, get_greeting, false },
	{ "local HELLO_REPLY", JOB_HELLO_REPLY, put_greeting, get_greeting, false },
	{ "lane HELLO", JOB_HELLO, put_lane_hello, get_lane_hello, false },
	{ "lane HELLO_REPLY", JOB_HELLO_REPLY, put_lane_hello, get_lane_hello, false },
};

enum { SAMPLE_COUNT = sizeof samples / sizeof samples[0] };

/* Decodes from memory of exactly that size, so that a checker of memory sees a byte read too
 * far. */
static int
decode_copy(const struct sample *sample, const uint8_t *bytes, size_t len)
{
	static const union message untouched;
	uint8_t *copy = malloc(len > 0 ? len : 1);
	union message message = untouched;
	int r;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, bytes, len);
	r = sample->get(sample->type, (struct view){ copy, len }, &message);
	if (r < 0)
		ck_assert_mem_eq(&message, &untouched, sizeof message);
	free(copy);
	return r;
}

static struct job_frame
take_only(const struct buf *out)
{
	struct job_frame frame;

	ck_assert_int_eq(job_frame_take(out, &frame), 1);
	ck_assert_uint_eq(frame.len, buf_len(out));
	return frame;
}

START_TEST(test_every_message_is_one_frame)
{
	const struct sample *sample = &samples[_i];
	cleanup_buf struct buf out;
	struct job_frame frame;

	buf_init(&out, OUT_LEN_MAX);
	ck_assert_int_eq(sample->put(&out, sample->type), 0);
	frame = take_only(&out);
	ck_assert_uint_eq(frame.type, sample->type);
	ck_assert_uint_eq(frame.len, JOB_HEADER_LEN + frame.body.len);
	ck_assert_msg(decode_copy(sample, frame.body.data, frame.body.len) == 0, "%s",
		      sample->name);
}
END_TEST

START_TEST(test_every_truncation_is_refused)
{
	const struct sample *sample = &samples[_i];
	cleanup_buf struct buf out;
	struct job_frame frame;
	size_t shortest;

	buf_init(&out, OUT_LEN_MAX);
	ck_assert_int_eq(sample->put(&out, sample->type), 0);
	frame = take_only(&out);
	shortest = sample->open_end ? JOB_DATA_HEADER_LEN - JOB_HEADER_LEN + 1 : frame.body.len;
	for (size_t len = 0; len < shortest; len++)
		ck_assert_msg(decode_copy(sample, frame.body.data, len) == -EBADMSG,
			      "%s of %zu bytes", sample->name, len);
}
END_TEST

START_TEST(test_every_trailing_byte_is_refused)
{
	const struct sample *sample = &samples[_i];
	cleanup_buf struct buf out;
	struct job_frame frame;

	buf_init(&out, OUT_LEN_MAX);
	ck_assert_int_eq(sample->put(&out, sample->type), 0);
	ck_assert_int_eq(buf_put_u8(&out, 0), 0);
	ck_assert_int_eq(job_frame_take(&out, &frame), 1);
	ck_assert_msg(decode_copy(sample, frame.body.data, frame.body.len + 1) ==
			      (sample->open_end ? 0 : -EBADMSG),
		      "%s", sample->name);
}
END_TEST

/* Behind another frame, and with a maximum that stops the encoder at every byte: the queue stays
 * as it was. START and the lane's HELLO are written in parts, where taking back is the caller's. */
START_TEST(test_failed_encoding_leaves_the_queue)
{
	const struct sample *sample = &samples[_i];
	bool in_parts = sample->put == put_good_start || sample->put == put_lane_hello ||
			sample->put == put_data;
	cleanup_buf struct buf whole;
	size_t len;

	buf_init(&whole, OUT_LEN_MAX);
	ck_assert_int_eq(sample->put(&whole, sample->type), 0);
	len = buf_len(&whole);
	for (size_t room = 0; room < len; room++) {
		cleanup_buf struct buf out;

		buf_init(&out, 4 + room);
		buf_put(&out, "12345678", 4);
		buf_consume(&out, 1);
		buf_put(&out, "5", 1);
		ck_assert_int_eq(sample->put(&out, sample->type), -EMSGSIZE);
		ck_assert_mem_eq(buf_head(&out), "2345", 4);
		if (!in_parts || room < JOB_HEADER_LEN)
			ck_assert_msg(buf_len(&out) == 4, "%s with %zu bytes of room", sample->name,
				      room);
	}
}
END_TEST

/* ---- what comes back is what went in ---- */

static struct job_frame
put_and_take(struct buf *out, uint8_t type, int (*put)(struct buf *, uint8_t))
{
	buf_init(out, OUT_LEN_MAX);
	ck_assert_int_eq(put(out, type), 0);
	return take_only(out);
}

static void
check_strings(struct job_strings strings, char *const *expected)
{
	char **copy = job_strings_copy(strings);
	struct view item;
	size_t i = 0;

	ck_assert_ptr_nonnull(copy);
	ck_assert_uint_eq(strv_count(copy), strv_count(expected));
	while (job_strings_next(&strings, &item)) {
		ck_assert_uint_eq(item.len, strlen(expected[i]));
		ck_assert_mem_eq(item.data, expected[i], item.len);
		ck_assert_str_eq(copy[i], expected[i]);
		i++;
	}
	ck_assert_uint_eq(i, strv_count(expected));
	ck_assert(!job_strings_next(&strings, &item));
	strv_free(copy);
}

START_TEST(test_start_comes_back)
{
	cleanup_buf struct buf out;
	struct job_frame frame = put_and_take(&out, JOB_START, put_good_start);
	struct job_start got;

	ck_assert_int_eq(job_start_decode(frame.body, &got), 0);
	ck_assert_uint_eq(frame.job, 7);
	ck_assert_uint_eq(got.program.len, 2);
	ck_assert_mem_eq(got.program.data, "sh", 2);
	check_strings(got.argv, argv);
	check_strings(got.env, env);
	ck_assert_uint_eq(got.env_base, 1);
	ck_assert_uint_eq(got.cwd.len, 5);
	ck_assert_mem_eq(got.cwd.data, "/work", 5);
	ck_assert_uint_eq(got.umask, 0022);
	ck_assert_int_eq(got.nice, -5);
	ck_assert(got.ignored == 1ULL << 63 && got.blocked == 1);
	ck_assert_uint_eq(got.limit_count, 2);
	ck_assert(got.limits[0].resource == 7 && got.limits[0].soft == 1024 &&
		  got.limits[0].hard == 4096);
	ck_assert(got.limits[1].resource == 15 && got.limits[1].hard == UINT64_MAX);
	ck_assert_uint_eq(got.stream_count, 4);
	for (int i = 0; i < 4; i++) {
		ck_assert_uint_eq(got.streams[i].stream, good_start.streams[i].stream);
		ck_assert_uint_eq(got.streams[i].kind, good_start.streams[i].kind);
		ck_assert_uint_eq(got.streams[i].refers_to, good_start.streams[i].refers_to);
		ck_assert_uint_eq(got.streams[i].pipe_len, good_start.streams[i].pipe_len);
	}
	ck_assert_mem_eq(&got.winsize, &good_start.winsize, sizeof got.winsize);
	ck_assert_uint_eq(got.termios.len, 7);
	ck_assert_mem_eq(got.termios.data, "termios", 7);
}
END_TEST

START_TEST(test_small_messages_come_back)
{
	cleanup_buf struct buf data_out, signal_out, winch_out, failed_out, exit_out, refused_out;
	struct job_frame frame;
	union message got;

	frame = put_and_take(&data_out, JOB_OUT, put_data);
	ck_assert_int_eq(job_data_decode(frame.body, &got.data), 0);
	ck_assert(got.data.stream == 1 && got.data.offset == 1ULL << 40 && got.data.bytes.len == 3);
	ck_assert_mem_eq(got.data.bytes.data, "x\0y", 3);

	frame = put_and_take(&signal_out, JOB_SIGNAL, put_control);
	ck_assert_int_eq(job_control_decode(JOB_SIGNAL, frame.body, &got.control), 0);
	ck_assert(got.control.type == JOB_SIGNAL && got.control.sequence == 9 &&
		  got.control.signal == 64 && got.control.scope == JOB_SCOPE_LEADER);

	frame = put_and_take(&winch_out, JOB_WINCH, put_control);
	ck_assert_int_eq(job_control_decode(JOB_WINCH, frame.body, &got.control), 0);
	ck_assert(got.control.type == JOB_WINCH && got.control.winsize.rows == 1 &&
		  got.control.winsize.columns == 2 && got.control.winsize.width == 3 &&
		  got.control.winsize.height == 4);

	frame = put_and_take(&failed_out, JOB_FAILED, put_failure);
	ck_assert_int_eq(job_failure_decode(frame.body, &got.failure), 0);
	ck_assert(got.failure.stage == JOB_STAGE_PROGRAM && got.failure.errno_value == ENOENT);

	frame = put_and_take(&exit_out, JOB_EXIT, put_exit);
	ck_assert_int_eq(job_exit_decode(frame.body, &got.end), 0);
	ck_assert(got.end.wstat.kind == WSTAT_SIGNALED && got.end.wstat.value == 9 &&
		  got.end.user_us == 1 && got.end.system_us == UINT64_MAX &&
		  got.end.max_rss_kib == 3);

	frame = put_and_take(&refused_out, JOB_REFUSED, put_refused);
	ck_assert_int_eq(job_refused_decode(frame.body, &got.refused), 0);
	ck_assert(got.refused.kind == JOB_RESULT_UNKNOWN && got.refused.text.len == 7);
	ck_assert_mem_eq(got.refused.text.data, "because", 7);
}
END_TEST

START_TEST(test_positions_come_back)
{
	static const uint8_t types[] = { JOB_IN_EOF,  JOB_IN_USED, JOB_IN_CLOSED, JOB_IN_REVOKED,
					 JOB_OUT_EOF, JOB_ACK,	   JOB_OUT_CLOSE, JOB_IN_REVOKE };
	struct job_position got;

	for (size_t i = 0; i < sizeof types; i++) {
		cleanup_buf struct buf out;
		struct job_frame frame = put_and_take(&out, types[i], put_position);

		ck_assert_int_eq(job_position_decode(types[i], frame.body, &got), 0);
		ck_assert_uint_eq(got.stream, 3);
		ck_assert(
			got.offset ==
			(types[i] == JOB_OUT_CLOSE || types[i] == JOB_IN_REVOKE ? 0 : UINT64_MAX));
		ck_assert_uint_eq(got.window, types[i] == JOB_ACK ? OUT_WINDOW_MIN : 0);
		ck_assert_int_eq(job_position_decode(JOB_PING, frame.body, &got), -EBADMSG);
	}
}
END_TEST

START_TEST(test_numbers_come_back)
{
	static const struct {
		uint8_t type;
		uint64_t number;
	} cases[] = { { JOB_STARTED, UINT32_MAX },
		      { JOB_PING, UINT64_MAX },
		      { JOB_PONG, 0 },
		      { JOB_KILL, 1 },
		      { JOB_STOPPED, 19 } };
	uint64_t got;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		cleanup_buf struct buf out;
		struct job_frame frame;

		buf_init(&out, OUT_LEN_MAX);
		ck_assert_int_eq(job_number_encode(&out, cases[i].type, 7, cases[i].number), 0);
		frame = take_only(&out);
		ck_assert_int_eq(job_number_decode(cases[i].type, frame.body, &got), 0);
		ck_assert(got == cases[i].number);
	}
}
END_TEST

START_TEST(test_greetings_come_back)
{
	cleanup_buf struct buf out, lane_out, reply_out;
	struct job_frame frame = put_and_take(&out, JOB_HELLO, put_greeting);
	struct job_hello_entry entry;
	struct job_greeting greeting;
	struct job_lane_hello hello;
	struct view text;

	ck_assert_int_eq(job_greeting_decode(frame.body, &greeting), 0);
	ck_assert_uint_eq(greeting.version, JOB_PROTOCOL_VERSION);
	ck_assert_mem_eq(greeting.software.data, "1.0", 3);

	for (int reply = 0; reply < 2; reply++) {
		uint8_t type = reply ? JOB_HELLO_REPLY : JOB_HELLO;

		frame = put_and_take(&lane_out, type, put_lane_hello);
		ck_assert_int_eq(job_lane_hello_decode(type, frame.body, &hello), 0);
		ck_assert_mem_eq(hello.id, "0123456789abcde", JOB_ID_LEN);
		ck_assert_uint_eq(hello.lease_ms, reply ? 0 : 60000);
		ck_assert_uint_eq(hello.software.len, reply ? 3 : 0);
		ck_assert_uint_eq(hello.job_count, 2);
		ck_assert(job_hello_next(type, &hello, &entry));
		ck_assert(entry.job == 1 && entry.stream_count == 2 &&
			  entry.streams[1].stream == 2 && entry.streams[1].offset == UINT64_MAX);
		ck_assert_uint_eq(entry.control_sequence, reply ? 5 : 0);
		ck_assert_uint_eq(entry.streams[1].window, reply ? 0 : OUT_WINDOW_MAX);
		ck_assert(job_hello_next(type, &hello, &entry));
		ck_assert(entry.job == UINT32_MAX && entry.stream_count == 0);
		ck_assert(!job_hello_next(type, &hello, &entry));
		buf_free(&lane_out);
	}

	frame = put_and_take(&reply_out, JOB_REPLY, put_reply);
	ck_assert_int_eq(job_text_decode(frame.body, &text), 0);
	ck_assert_uint_eq(text.len, 2);
}
END_TEST

/* ---- frames ---- */

START_TEST(test_partial_frames_wait)
{
	cleanup_buf struct buf whole, part;
	struct job_frame frame = put_and_take(&whole, JOB_START, put_good_start),
			 got = { .type = 0xee };

	for (size_t len = 0; len < frame.len; len++) {
		buf_init(&part, OUT_LEN_MAX);
		buf_put(&part, buf_head(&whole), len);
		ck_assert_int_eq(job_frame_take(&part, &got), 0);
		ck_assert_uint_eq(got.type, 0xee);
		buf_free(&part);
	}
	buf_put(&part, buf_head(&whole), frame.len);
	buf_put(&part, buf_head(&whole), frame.len - 1);
	ck_assert_int_eq(job_frame_take(&part, &got), 1);
	ck_assert_uint_eq(got.len, frame.len);
	buf_consume(&part, got.len);
	ck_assert_int_eq(job_frame_take(&part, &got), 0);
}
END_TEST

START_TEST(test_impossible_lengths)
{
	static const struct {
		uint32_t len;
		int expected;
	} cases[] = {
		{ 0, -EBADMSG },
		{ JOB_HEADER_LEN - 5, -EBADMSG },
		{ JOB_HEADER_LEN - 4, 0 },
		{ FRAME_LEN_MAX - 4, 0 },
		{ FRAME_LEN_MAX - 3, -EBADMSG },
		{ UINT32_MAX, -EBADMSG },
	};
	struct job_frame frame;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		cleanup_buf struct buf in;

		buf_init(&in, OUT_LEN_MAX);
		buf_put_u32(&in, cases[i].len);
		/* the length alone decides: nobody waits for 4 GiB */
		ck_assert_int_eq(job_frame_take(&in, &frame), cases[i].expected);
	}
}
END_TEST

START_TEST(test_unknown_types_are_frames)
{
	cleanup_buf struct buf in;
	struct job_frame frame;

	buf_init(&in, OUT_LEN_MAX);
	buf_put_u32(&in, 6);
	buf_put_u8(&in, 0x7f);
	buf_put_u32(&in, 0xdeadbeef);
	buf_put_u8(&in, 1);
	ck_assert_int_eq(job_frame_take(&in, &frame), 1);
	ck_assert(frame.type == 0x7f && frame.job == 0xdeadbeef && frame.body.len == 1 &&
		  frame.len == 10);
}
END_TEST

START_TEST(test_largest_frame)
{
	cleanup_buf struct buf out;
	size_t position, filler_len = FRAME_LEN_MAX - JOB_HEADER_LEN - 4;
	uint8_t *filler = calloc(1, filler_len);
	struct job_frame frame;

	ck_assert_ptr_nonnull(filler);
	for (size_t extra = 0; extra < 2; extra++) {
		buf_init(&out, OUT_LEN_MAX);
		buf_put(&out, "1234", 4);
		ck_assert_int_eq(job_start_begin(&out, 7, filler, filler_len, &position), 0);
		if (extra > 0)
			buf_put_u8(&out, 0);
		ck_assert_int_eq(job_frame_end(&out, position), extra > 0 ? -EMSGSIZE : 0);
		ck_assert_uint_eq(buf_len(&out), extra > 0 ? 4 : 4 + FRAME_LEN_MAX);
		if (extra == 0) {
			buf_consume(&out, 4);
			ck_assert_int_eq(job_frame_take(&out, &frame), 1);
			ck_assert_uint_eq(frame.len, FRAME_LEN_MAX);
			buf_free(&out);
		}
	}
	free(filler);
}
END_TEST

/* ---- bounds ---- */

/* What the decoder says of good_start with this change. */
static int
decode_changed(void (*change)(struct job_start *start))
{
	struct job_start start = good_start, got;
	cleanup_buf struct buf out;

	buf_init(&out, OUT_LEN_MAX);
	change(&start);
	ck_assert_int_eq(put_start(&out, &start, "sh", argv), 0);
	return job_start_decode(take_only(&out).body, &got);
}

static void
change_nothing(struct job_start *start)
{
	(void)start;
}

static void
change_env_base(struct job_start *start)
{
	start->env_base = 2;
}

static void
change_cwd_empty(struct job_start *start)
{
	start->cwd.len = 0;
}

static void
change_cwd_relative(struct job_start *start)
{
	start->cwd = (struct view){ (const uint8_t *)"work", 4 };
}

static void
change_cwd_nul(struct job_start *start)
{
	start->cwd = (struct view){ (const uint8_t *)"/w\0k", 4 };
}

static void
change_cwd_long(struct job_start *start)
{
	static uint8_t path[CWD_LEN_MAX + 1];

	memset(path, '/', sizeof path);
	start->cwd = (struct view){ path, sizeof path };
}

static void
change_umask(struct job_start *start)
{
	start->umask = 01000;
}

static void
change_nice_high(struct job_start *start)
{
	start->nice = 20;
}

static void
change_nice_low(struct job_start *start)
{
	start->nice = -21;
}

static void
change_limit_resource(struct job_start *start)
{
	start->limits[0].resource = RLIMITS_MAX;
}

static void
change_limit_order(struct job_start *start)
{
	start->limits[0].soft = start->limits[0].hard + 1;
}

static void
change_stream_kind(struct job_start *start)
{
	start->streams[3].kind = JOB_STREAM_PASSED + 1;
}

static void
change_stream_order(struct job_start *start)
{
	start->streams[1].stream = 0;
}

static void
change_stream_same_later(struct job_start *start)
{
	start->streams[2].refers_to = UINT32_MAX;
}

static void
change_stream_same_self(struct job_start *start)
{
	start->streams[2].refers_to = 2;
}

static void
change_stream_same_chain(struct job_start *start)
{
	start->streams[3] = (struct job_stream){ 9, JOB_STREAM_SAME, 2, 0 };
}

static void
change_stream_pipe(struct job_start *start)
{
	start->streams[0].pipe_len = FRAME_LEN_MAX + 1;
}

static void
change_termios(struct job_start *start)
{
	static const uint8_t termios[TERMIOS_LEN_MAX + 1];

	start->termios = (struct view){ termios, sizeof termios };
}

START_TEST(test_start_bounds)
{
	static void (*const changes[])(struct job_start *) = {
		change_env_base,       change_cwd_empty,	 change_cwd_relative,
		change_cwd_nul,	       change_cwd_long,		 change_umask,
		change_nice_high,      change_nice_low,		 change_limit_order,
		change_limit_resource, change_stream_kind,	 change_stream_order,
		change_stream_pipe,    change_stream_same_self,	 change_stream_same_later,
		change_termios,	       change_stream_same_chain,
	};

	ck_assert_int_eq(decode_changed(change_nothing), 0);
	for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++)
		ck_assert_msg(decode_changed(changes[i]) == -EBADMSG, "change %zu", i);
}
END_TEST

START_TEST(test_start_needs_an_argument)
{
	cleanup_buf struct buf out;
	struct job_start got;

	buf_init(&out, OUT_LEN_MAX);
	ck_assert_int_eq(put_start(&out, &good_start, "sh", none), 0);
	ck_assert_int_eq(job_start_decode(take_only(&out).body, &got), -EBADMSG);
}
END_TEST

/* The body of a START up to the count of its arguments. */
static void
begin_raw_start(struct buf *out, const void *program, uint32_t program_len, uint32_t argument_count)
{
	buf_init(out, OUT_LEN_MAX);
	buf_put_bytes(out, program, program_len);
	buf_put_u32(out, argument_count);
}

START_TEST(test_start_counts_and_strings)
{
	static const uint8_t long_program[PROGRAM_LEN_MAX + 1] = { 'x' };
	cleanup_buf struct buf nul, many, huge, program;
	struct job_start got;

	begin_raw_start(&nul, "sh", 2, 1);
	buf_put_bytes(&nul, "a\0b", 3);
	ck_assert_int_eq(job_start_decode((struct view){ buf_head(&nul), buf_len(&nul) }, &got),
			 -EBADMSG);
	/* a count that is not there must not be believed */
	begin_raw_start(&many, "sh", 2, STRV_COUNT_MAX + 1);
	ck_assert_int_eq(job_start_decode((struct view){ buf_head(&many), buf_len(&many) }, &got),
			 -EBADMSG);
	begin_raw_start(&huge, "sh", 2, UINT32_MAX);
	ck_assert_int_eq(job_start_decode((struct view){ buf_head(&huge), buf_len(&huge) }, &got),
			 -EBADMSG);
	begin_raw_start(&program, long_program, sizeof long_program, 0);
	ck_assert_int_eq(
		job_start_decode((struct view){ buf_head(&program), buf_len(&program) }, &got),
		-EBADMSG);
}
END_TEST

START_TEST(test_longest_argument)
{
	char *text = malloc(STRV_ITEM_LEN_MAX + 2);
	char *const list[] = { text, NULL };
	cleanup_buf struct buf out, longer_out;
	struct job_start got;

	ck_assert_ptr_nonnull(text);
	memset(text, 'a', STRV_ITEM_LEN_MAX + 1);
	text[STRV_ITEM_LEN_MAX] = '\0';
	buf_init(&out, OUT_LEN_MAX);
	ck_assert_int_eq(put_start(&out, &good_start, "sh", list), 0);
	ck_assert_int_eq(job_start_decode(take_only(&out).body, &got), 0);
	check_strings(got.argv, list);
	text[STRV_ITEM_LEN_MAX] = 'a';
	text[STRV_ITEM_LEN_MAX + 1] = '\0';
	buf_init(&longer_out, OUT_LEN_MAX);
	ck_assert_int_eq(put_start(&longer_out, &good_start, "sh", list), -EMSGSIZE);
	free(text);
}
END_TEST

START_TEST(test_data_bounds)
{
	uint8_t *bytes = calloc(1, 12 + DATA_LEN_MAX + 1);
	struct job_data got;

	ck_assert_ptr_nonnull(bytes);
	ck_assert_int_eq(job_data_decode((struct view){ bytes, 12 }, &got), -EBADMSG);
	ck_assert_int_eq(job_data_decode((struct view){ bytes, 12 + DATA_LEN_MAX }, &got), 0);
	ck_assert_int_eq(job_data_decode((struct view){ bytes, 12 + DATA_LEN_MAX + 1 }, &got),
			 -EBADMSG);
	/* the offset after these bytes must still be a number */
	memset(bytes + 4, 0xff, 8);
	ck_assert_int_eq(job_data_decode((struct view){ bytes, 13 }, &got), -EBADMSG);
	free(bytes);
}
END_TEST

/* Encodes without a look at the values, so the decoder is what is tested. */
#define CHECK_VALUES(decode_call, ...)                                                             \
	do {                                                                                       \
		static const uint8_t bodies[][40] = { __VA_ARGS__ };                               \
		for (size_t n = 0; n < sizeof bodies / sizeof bodies[0]; n++) {                    \
			const uint8_t *body = bodies[n];                                           \
			ck_assert_msg((decode_call) == -EBADMSG, "%s, body %zu", #decode_call, n); \
		}                                                                                  \
	} while (0)

START_TEST(test_values_of_small_messages)
{
	union message got;

	CHECK_VALUES(job_control_decode(JOB_SIGNAL, (struct view){ body, 6 }, &got.control),
		     { 0, 0, 0, 0, 0, 1 }, { 0, 0, 0, 0, 65, 1 }, { 0, 0, 0, 0, 1, 0 },
		     { 0, 0, 0, 0, 1, 5 });
	CHECK_VALUES(job_control_decode(JOB_PING, (struct view){ body, 6 }, &got.control),
		     { 0, 0, 0, 0, 1, 1 });
	CHECK_VALUES(job_failure_decode((struct view){ body, 5 }, &got.failure), { 0 }, { 7 });
	CHECK_VALUES(job_exit_decode((struct view){ body, 26 }, &got.end), { 0 }, { 2, 0 },
		     { 2, 65 }, { 3, 1 });
	CHECK_VALUES(job_refused_decode((struct view){ body, 5 }, &got.refused), { 0 }, { 4 });
	CHECK_VALUES(job_number_decode(JOB_KILL, (struct view){ body, 1 }, &got.number), { 0 },
		     { 65 });
	/* ACK: stream, offset, a window below and above */
	CHECK_VALUES(job_position_decode(JOB_ACK, (struct view){ body, 16 }, &got.position), { 0 },
		     { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x20, 0 });
}
END_TEST

START_TEST(test_texts_are_bounded)
{
	char *text = malloc(REPLY_LEN_MAX + 2);
	cleanup_buf struct buf refused_out, greeting_out, reply_out, raw;
	union message got;

	ck_assert_ptr_nonnull(text);
	memset(text, 't', REPLY_LEN_MAX + 1);
	text[REPLY_LEN_MAX + 1] = '\0';
	buf_init(&refused_out, OUT_LEN_MAX);
	ck_assert_int_eq(job_refused_encode(&refused_out, JOB_NOT_RUN, text), 0);
	ck_assert_int_eq(job_refused_decode(take_only(&refused_out).body, &got.refused), 0);
	ck_assert_uint_eq(got.refused.text.len, TEXT_LEN_MAX);
	buf_init(&greeting_out, OUT_LEN_MAX);
	ck_assert_int_eq(job_greeting_encode(&greeting_out, JOB_HELLO, text), 0);
	ck_assert_int_eq(job_greeting_decode(take_only(&greeting_out).body, &got.greeting), 0);
	ck_assert_uint_eq(got.greeting.software.len, TEXT_LEN_MAX);
	buf_init(&reply_out, OUT_LEN_MAX);
	ck_assert_int_eq(job_text_encode(&reply_out, JOB_REPLY, text, REPLY_LEN_MAX + 1),
			 -EMSGSIZE);
	ck_assert_uint_eq(buf_len(&reply_out), 0);
	ck_assert_int_eq(job_text_encode(&reply_out, JOB_REPLY, text, REPLY_LEN_MAX), 0);
	ck_assert_int_eq(job_text_decode(take_only(&reply_out).body, &got.text), 0);
	/* what a peer that keeps no bounds sends */
	buf_init(&raw, OUT_LEN_MAX);
	buf_put_u8(&raw, JOB_NOT_RUN);
	buf_put_bytes(&raw, text, TEXT_LEN_MAX + 1);
	ck_assert_int_eq(
		job_refused_decode((struct view){ buf_head(&raw), buf_len(&raw) }, &got.refused),
		-EBADMSG);
	free(text);
}
END_TEST

/* A lane HELLO whose count of jobs, and first job's number and count of streams, are these. */
static int
decode_raw_hello(uint32_t job_count, uint32_t job, uint32_t stream_count, uint32_t window)
{
	cleanup_buf struct buf raw;
	struct job_lane_hello got;

	buf_init(&raw, OUT_LEN_MAX);
	buf_put_u32(&raw, JOB_PROTOCOL_VERSION);
	buf_put(&raw, "0123456789abcdef", JOB_ID_LEN);
	buf_put_u32(&raw, 60000);
	buf_put_u32(&raw, job_count);
	buf_put_u32(&raw, job);
	buf_put_u32(&raw, stream_count);
	for (uint32_t i = 0; i < stream_count; i++) {
		buf_put_u32(&raw, i);
		buf_put_u64(&raw, 0);
		buf_put_u32(&raw, window);
	}
	return job_lane_hello_decode(JOB_HELLO, (struct view){ buf_head(&raw), buf_len(&raw) },
				     &got);
}

START_TEST(test_lane_hello_bounds)
{
	ck_assert_int_eq(decode_raw_hello(1, 1, STREAMS_MAX, OUT_WINDOW_MAX), 0);
	ck_assert_int_eq(decode_raw_hello(1, 1, STREAMS_MAX + 1, OUT_WINDOW_MAX), -EBADMSG);
	ck_assert_int_eq(decode_raw_hello(1, 0, 1, OUT_WINDOW_MAX), -EBADMSG);
	ck_assert_int_eq(decode_raw_hello(0, 1, 1, OUT_WINDOW_MAX), -EBADMSG);
	ck_assert_int_eq(decode_raw_hello(2, 1, 1, OUT_WINDOW_MAX), -EBADMSG);
	ck_assert_int_eq(decode_raw_hello(JOBS_MAX + 1, 1, 1, OUT_WINDOW_MAX), -EBADMSG);
	ck_assert_int_eq(decode_raw_hello(1, 1, 1, OUT_WINDOW_MAX + 1), -EBADMSG);
	ck_assert_int_eq(decode_raw_hello(1, 1, 1, 0), 0); /* nothing more may follow */
}
END_TEST

/* ---- noise ---- */

static uint32_t
random_next(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*state >> 33);
}

/* Walks what was decoded, so that a view that points outside is read from. */
static void
walk(uint8_t type, union message *message)
{
	struct job_hello_entry entry;
	char **copy;

	if (type == JOB_START) {
		copy = job_strings_copy(message->start.argv);
		strv_free(copy);
		copy = job_strings_copy(message->start.env);
		strv_free(copy);
		return;
	}
	while (job_hello_next(type, &message->hello, &entry))
		ck_assert_uint_le(entry.stream_count, STREAMS_MAX);
}

/* Good bodies with some bytes changed and the end cut off or made longer: never a crash, and
 * only 0 or -EBADMSG. */
START_TEST(test_noise_is_refused_or_fine)
{
	const struct sample *sample = &samples[_i];
	uint64_t state = RANDOM_SEED + (uint64_t)_i;
	cleanup_buf struct buf out;
	struct job_frame frame = put_and_take(&out, sample->type, sample->put);

	for (int round = 0; round < RANDOM_ROUNDS / SAMPLE_COUNT; round++) {
		size_t len = round % 2 == 0 ? frame.body.len :
					      random_next(&state) % (frame.body.len + 16);
		uint8_t *bytes = malloc(len > 0 ? len : 1);
		union message message;
		int r;

		ck_assert_ptr_nonnull(bytes);
		for (size_t i = 0; i < len; i++)
			bytes[i] = i < frame.body.len ? frame.body.data[i] :
							(uint8_t)random_next(&state);
		for (uint32_t changes = random_next(&state) % 4; len > 0 && changes > 0; changes--)
			bytes[random_next(&state) % len] = (uint8_t)random_next(&state);
		r = sample->get(sample->type, (struct view){ bytes, len }, &message);
		ck_assert_msg(r == 0 || r == -EBADMSG, "%s: %d in round %d", sample->name, r,
			      round);
		if (r == 0 && (sample->get == get_start || sample->get == get_lane_hello))
			walk(sample->type, &message);
		free(bytes);
	}
}
END_TEST

START_TEST(test_noise_as_a_queue)
{
	uint64_t state = RANDOM_SEED;
	cleanup_buf struct buf in;
	struct job_frame frame;

	buf_init(&in, 4096);
	for (int round = 0; round < RANDOM_ROUNDS; round++) {
		int r;

		if (buf_len(&in) > 4000)
			buf_consume(&in, buf_len(&in));
		/* a small length, so that complete frames do come */
		if (random_next(&state) % 4 == 0)
			buf_put_u32(&in, random_next(&state) % 64);
		buf_put_u8(&in, (uint8_t)random_next(&state));
		r = job_frame_take(&in, &frame);
		if (r == 1) {
			ck_assert_uint_le(frame.len, buf_len(&in));
			ck_assert_uint_eq(frame.len, frame.body.len + JOB_HEADER_LEN);
			buf_consume(&in, frame.len);
		} else if (r < 0) {
			ck_assert_int_eq(r, -EBADMSG);
			buf_consume(&in, 1);
		}
	}
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("job");
	TCase *every = tcase_create("every message"), *tcase = tcase_create("values");

	printf("seed %d\n", RANDOM_SEED);
	tcase_set_timeout(every, 60);
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(every, test_every_message_is_one_frame, 0, SAMPLE_COUNT);
	tcase_add_loop_test(every, test_every_truncation_is_refused, 0, SAMPLE_COUNT);
	tcase_add_loop_test(every, test_every_trailing_byte_is_refused, 0, SAMPLE_COUNT);
	tcase_add_loop_test(every, test_failed_encoding_leaves_the_queue, 0, SAMPLE_COUNT);
	tcase_add_loop_test(every, test_noise_is_refused_or_fine, 0, SAMPLE_COUNT);
	tcase_add_test(tcase, test_start_comes_back);
	tcase_add_test(tcase, test_small_messages_come_back);
	tcase_add_test(tcase, test_positions_come_back);
	tcase_add_test(tcase, test_numbers_come_back);
	tcase_add_test(tcase, test_greetings_come_back);
	tcase_add_test(tcase, test_partial_frames_wait);
	tcase_add_test(tcase, test_impossible_lengths);
	tcase_add_test(tcase, test_unknown_types_are_frames);
	tcase_add_test(tcase, test_largest_frame);
	tcase_add_test(tcase, test_start_bounds);
	tcase_add_test(tcase, test_start_needs_an_argument);
	tcase_add_test(tcase, test_start_counts_and_strings);
	tcase_add_test(tcase, test_longest_argument);
	tcase_add_test(tcase, test_data_bounds);
	tcase_add_test(tcase, test_values_of_small_messages);
	tcase_add_test(tcase, test_texts_are_bounded);
	tcase_add_test(tcase, test_lane_hello_bounds);
	tcase_add_test(tcase, test_noise_as_a_queue);
	suite_add_tcase(suite, every);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
