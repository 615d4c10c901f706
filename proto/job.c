#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/job.h"
#include "shim/base/strv.h"

enum { SIGNAL_MAX = 64, FRAME_BODY_OFFSET = 4 };

int
job_frame_take(const struct buf *in, struct job_frame *ret)
{
	return job_frame_view((struct view){ buf_head(in), buf_len(in) }, ret);
}

int
job_frame_view(struct view view, struct job_frame *ret)
{
	struct job_frame frame;
	uint32_t len;

	if (view_u32(&view, &len) < 0)
		return 0;
	if (len < JOB_HEADER_LEN - FRAME_BODY_OFFSET || len > FRAME_LEN_MAX - FRAME_BODY_OFFSET)
		return -EBADMSG;
	if (view.len < len)
		return 0;
	view.len = len;
	(void)view_u8(&view, &frame.type); /* cannot fail: len was checked */
	(void)view_u32(&view, &frame.job);
	frame.body = view;
	frame.len = (size_t)len + FRAME_BODY_OFFSET;
	*ret = frame;
	return 1;
}

/* ---- writing frames: begin, body, end; a frame that fails is taken back whole ---- */

static int
frame_begin(struct buf *out, uint8_t type, uint32_t job, size_t *ret_position)
{
	size_t position = buf_len(out);
	int r;

	if ((r = buf_put_u32(out, 0)) < 0 || (r = buf_put_u8(out, type)) < 0 ||
	    (r = buf_put_u32(out, job)) < 0) {
		out->end = out->start + position;
		return r;
	}
	*ret_position = position;
	return 0;
}

int
job_frame_end(struct buf *out, size_t position)
{
	size_t len = buf_len(out) - position;

	if (len > FRAME_LEN_MAX) {
		out->end = out->start + position;
		return -EMSGSIZE;
	}
	buf_patch_u32(out, position, (uint32_t)(len - FRAME_BODY_OFFSET));
	return 0;
}

/* Ends the frame when r is 0, else takes it back. */
static int
frame_finish(struct buf *out, size_t position, int r)
{
	if (r == 0)
		return job_frame_end(out, position);
	out->end = out->start + position;
	return r;
}

/* ---- strings ---- */

bool
job_strings_next(struct job_strings *strings, struct view *ret)
{
	if (strings->count == 0 || view_bytes(&strings->items, STRV_ITEM_LEN_MAX, ret) < 0)
		return false;
	strings->count--;
	return true;
}

char **
job_strings_copy(struct job_strings strings)
{
	char **copy = calloc((size_t)strings.count + 1, sizeof *copy);
	struct view item;
	size_t i = 0;

	if (copy == NULL)
		return NULL;
	while (job_strings_next(&strings, &item)) {
		copy[i] = malloc(item.len + 1);
		if (copy[i] == NULL) {
			strv_free(copy);
			return NULL;
		}
		memcpy(copy[i], item.data, item.len);
		copy[i++][item.len] = '\0';
	}
	return copy;
}

static int
take_strings(struct view *body, struct job_strings *ret)
{
	struct job_strings strings;
	const uint8_t *first;
	struct view item;
	uint32_t i;

	if (view_u32(body, &strings.count) < 0 || strings.count > STRV_COUNT_MAX)
		return -EBADMSG;
	first = body->data;
	for (i = 0; i < strings.count; i++) {
		if (view_bytes(body, STRV_ITEM_LEN_MAX, &item) < 0)
			return -EBADMSG;
		if (item.len > 0 && memchr(item.data, '\0', item.len) != NULL)
			return -EBADMSG;
	}
	strings.items = (struct view){ first, (size_t)(body->data - first) };
	*ret = strings;
	return 0;
}

int
job_put_strings(struct buf *out, char *const *strings)
{
	size_t count = strv_count(strings);
	int r;

	if (count > STRV_COUNT_MAX)
		return -EMSGSIZE;
	r = buf_put_u32(out, (uint32_t)count);
	for (size_t i = 0; r == 0 && i < count; i++) {
		size_t len = strlen(strings[i]);

		r = len > STRV_ITEM_LEN_MAX ? -EMSGSIZE : buf_put_bytes(out, strings[i], len);
	}
	return r;
}

/* A path or name: not NUL inside. */
static int
take_text(struct view *body, size_t len_max, struct view *ret)
{
	struct view text;

	if (view_bytes(body, len_max, &text) < 0)
		return -EBADMSG;
	if (text.len > 0 && memchr(text.data, '\0', text.len) != NULL)
		return -EBADMSG;
	*ret = text;
	return 0;
}

/* ---- START ---- */

static int
take_winsize(struct view *body, struct job_winsize *ret)
{
	if (view_u16(body, &ret->rows) < 0 || view_u16(body, &ret->columns) < 0 ||
	    view_u16(body, &ret->width) < 0 || view_u16(body, &ret->height) < 0)
		return -EBADMSG;
	return 0;
}

static int
put_winsize(struct buf *out, const struct job_winsize *winsize)
{
	int r;

	if ((r = buf_put_u16(out, winsize->rows)) < 0 ||
	    (r = buf_put_u16(out, winsize->columns)) < 0 ||
	    (r = buf_put_u16(out, winsize->width)) < 0 ||
	    (r = buf_put_u16(out, winsize->height)) < 0)
		return r;
	return 0;
}

static int
take_limits(struct view *body, struct job_start *start)
{
	uint32_t i;

	if (view_u32(body, &start->limit_count) < 0 || start->limit_count > RLIMITS_MAX)
		return -EBADMSG;
	for (i = 0; i < start->limit_count; i++) {
		struct job_limit *limit = &start->limits[i];

		if (view_u8(body, &limit->resource) < 0 || view_u64(body, &limit->soft) < 0 ||
		    view_u64(body, &limit->hard) < 0 || limit->resource >= RLIMITS_MAX ||
		    limit->soft > limit->hard)
			return -EBADMSG;
	}
	return 0;
}

/* Streams ascend, and SAME points at an earlier one that is a stream of its own. */
static int
check_stream(const struct job_start *start, uint32_t index)
{
	const struct job_stream *stream = &start->streams[index];
	uint32_t i;

	if (stream->kind > JOB_STREAM_PASSED || stream->pipe_len > FRAME_LEN_MAX)
		return -EBADMSG;
	if (index > 0 && stream->stream <= start->streams[index - 1].stream)
		return -EBADMSG;
	if (stream->kind != JOB_STREAM_SAME)
		return 0;
	for (i = 0; i < index; i++) {
		if (start->streams[i].stream == stream->refers_to)
			return start->streams[i].kind == JOB_STREAM_SAME ? -EBADMSG : 0;
	}
	return -EBADMSG;
}

static int
take_streams(struct view *body, struct job_start *start)
{
	uint32_t i;

	if (view_u32(body, &start->stream_count) < 0 || start->stream_count > STREAMS_MAX)
		return -EBADMSG;
	for (i = 0; i < start->stream_count; i++) {
		struct job_stream *stream = &start->streams[i];

		if (view_u32(body, &stream->stream) < 0 || view_u8(body, &stream->kind) < 0 ||
		    view_u32(body, &stream->refers_to) < 0 ||
		    view_u32(body, &stream->pipe_len) < 0 || check_stream(start, i) < 0)
			return -EBADMSG;
	}
	return 0;
}

int
job_start_decode(struct view body, struct job_start *ret)
{
	struct job_start start;
	uint32_t nice_bits;

	memset(&start, 0, sizeof start);
	if (take_text(&body, PROGRAM_LEN_MAX, &start.program) < 0 ||
	    take_strings(&body, &start.argv) < 0 || start.argv.count == 0 ||
	    take_strings(&body, &start.env) < 0 || view_u8(&body, &start.env_base) < 0 ||
	    start.env_base > 1 || take_text(&body, CWD_LEN_MAX, &start.cwd) < 0 ||
	    start.cwd.len == 0 || start.cwd.data[0] != '/')
		return -EBADMSG;
	if (view_u32(&body, &start.umask) < 0 || start.umask > 0777 ||
	    view_u32(&body, &nice_bits) < 0 || view_u64(&body, &start.ignored) < 0 ||
	    view_u64(&body, &start.blocked) < 0 || take_limits(&body, &start) < 0 ||
	    take_streams(&body, &start) < 0 || take_winsize(&body, &start.winsize) < 0 ||
	    view_bytes(&body, TERMIOS_LEN_MAX, &start.termios) < 0 || body.len != 0)
		return -EBADMSG;
	memcpy(&start.nice, &nice_bits, sizeof start.nice);
	if (start.nice < -20 || start.nice > 19)
		return -EBADMSG;
	*ret = start;
	return 0;
}

int
job_start_begin(struct buf *out, uint32_t job, const void *program, size_t program_len,
		size_t *ret_position)
{
	size_t position;
	int r = frame_begin(out, JOB_START, job, &position);

	if (r == 0 && (r = buf_put_bytes(out, program, program_len)) < 0)
		out->end = out->start + position;
	if (r == 0)
		*ret_position = position;
	return r;
}

static int
put_lists(struct buf *out, const struct job_start *start)
{
	int r = buf_put_u32(out, start->limit_count);

	for (uint32_t i = 0; r == 0 && i < start->limit_count; i++) {
		const struct job_limit *limit = &start->limits[i];

		if ((r = buf_put_u8(out, limit->resource)) == 0 &&
		    (r = buf_put_u64(out, limit->soft)) == 0)
			r = buf_put_u64(out, limit->hard);
	}
	if (r == 0)
		r = buf_put_u32(out, start->stream_count);
	for (uint32_t i = 0; r == 0 && i < start->stream_count; i++) {
		const struct job_stream *stream = &start->streams[i];

		if ((r = buf_put_u32(out, stream->stream)) == 0 &&
		    (r = buf_put_u8(out, stream->kind)) == 0 &&
		    (r = buf_put_u32(out, stream->refers_to)) == 0)
			r = buf_put_u32(out, stream->pipe_len);
	}
	return r;
}

int
job_start_rest(struct buf *out, const struct job_start *start)
{
	uint32_t nice_bits;
	int r;

	memcpy(&nice_bits, &start->nice, sizeof nice_bits);
	if ((r = buf_put_u8(out, start->env_base)) < 0 ||
	    (r = buf_put_bytes(out, start->cwd.data, start->cwd.len)) < 0 ||
	    (r = buf_put_u32(out, start->umask)) < 0 || (r = buf_put_u32(out, nice_bits)) < 0 ||
	    (r = buf_put_u64(out, start->ignored)) < 0 ||
	    (r = buf_put_u64(out, start->blocked)) < 0 || (r = put_lists(out, start)) < 0 ||
	    (r = put_winsize(out, &start->winsize)) < 0)
		return r;
	return buf_put_bytes(out, start->termios.data, start->termios.len);
}

/* ---- positions ---- */

static bool
position_has_offset(uint8_t type)
{
	return type != JOB_OUT_CLOSE && type != JOB_IN_REVOKE;
}

static bool
is_position(uint8_t type)
{
	return type == JOB_IN_EOF || type == JOB_ACK || type == JOB_OUT_CLOSE ||
	       type == JOB_IN_USED || type == JOB_IN_CLOSED || type == JOB_OUT_EOF ||
	       type == JOB_IN_REVOKE || type == JOB_IN_REVOKED;
}

int
job_position_decode(uint8_t type, struct view body, struct job_position *ret)
{
	struct job_position position = { 0 };

	if (!is_position(type) || view_u32(&body, &position.stream) < 0)
		return -EBADMSG;
	if (position_has_offset(type) && view_u64(&body, &position.offset) < 0)
		return -EBADMSG;
	if (type == JOB_ACK &&
	    (view_u32(&body, &position.window) < 0 || position.window > OUT_WINDOW_MAX ||
	     position.window < OUT_WINDOW_MIN))
		return -EBADMSG;
	if (body.len != 0)
		return -EBADMSG;
	*ret = position;
	return 0;
}

int
job_position_encode(struct buf *out, uint8_t type, uint32_t job,
		    const struct job_position *position)
{
	size_t start;
	int r = frame_begin(out, type, job, &start);

	assert(is_position(type));
	if (r < 0)
		return r;
	r = buf_put_u32(out, position->stream);
	if (r == 0 && position_has_offset(type))
		r = buf_put_u64(out, position->offset);
	if (r == 0 && type == JOB_ACK)
		r = buf_put_u32(out, position->window);
	return frame_finish(out, start, r);
}

/* ---- data ---- */

int
job_data_decode(struct view body, struct job_data *ret)
{
	struct job_data data;

	if (view_u32(&body, &data.stream) < 0 || view_u64(&body, &data.offset) < 0 ||
	    body.len == 0 || body.len > DATA_LEN_MAX || data.offset > UINT64_MAX - body.len)
		return -EBADMSG;
	data.bytes = body;
	*ret = data;
	return 0;
}

int
job_data_header_encode(struct buf *out, uint8_t type, uint32_t job, uint32_t stream,
		       uint64_t offset, size_t data_len)
{
	size_t start;
	int r = frame_begin(out, type, job, &start);

	assert(data_len >= 1 && data_len <= DATA_LEN_MAX);
	if (r < 0)
		return r;
	if ((r = buf_put_u32(out, stream)) == 0)
		r = buf_put_u64(out, offset);
	r = frame_finish(out, start, r);
	if (r == 0)
		buf_patch_u32(out, start,
			      (uint32_t)(JOB_DATA_HEADER_LEN - FRAME_BODY_OFFSET + data_len));
	return r;
}

/* ---- controls, failures, ends ---- */

int
job_control_decode(uint8_t type, struct view body, struct job_control *ret)
{
	struct job_control control = { .type = type };

	if (view_u32(&body, &control.sequence) < 0)
		return -EBADMSG;
	if (type == JOB_SIGNAL) {
		if (view_u8(&body, &control.signal) < 0 || control.signal < 1 ||
		    control.signal > SIGNAL_MAX || view_u8(&body, &control.scope) < 0 ||
		    control.scope < JOB_SCOPE_PROCESS || control.scope > JOB_SCOPE_LEADER)
			return -EBADMSG;
	} else if (type != JOB_WINCH || take_winsize(&body, &control.winsize) < 0) {
		return -EBADMSG;
	}
	if (body.len != 0)
		return -EBADMSG;
	*ret = control;
	return 0;
}

int
job_control_encode(struct buf *out, uint32_t job, const struct job_control *control)
{
	size_t start;
	int r = frame_begin(out, control->type, job, &start);

	if (r < 0)
		return r;
	r = buf_put_u32(out, control->sequence);
	if (r == 0 && control->type == JOB_WINCH)
		r = put_winsize(out, &control->winsize);
	else if (r == 0 && (r = buf_put_u8(out, control->signal)) == 0)
		r = buf_put_u8(out, control->scope);
	return frame_finish(out, start, r);
}

int
job_failure_decode(struct view body, struct job_failure *ret)
{
	struct job_failure failure;

	if (view_u8(&body, &failure.stage) < 0 || failure.stage < JOB_STAGE_FORK ||
	    failure.stage > JOB_STAGE_TERMINAL || view_u32(&body, &failure.errno_value) < 0 ||
	    body.len != 0)
		return -EBADMSG;
	*ret = failure;
	return 0;
}

int
job_failure_encode(struct buf *out, uint32_t job, const struct job_failure *failure)
{
	size_t start;
	int r = frame_begin(out, JOB_FAILED, job, &start);

	if (r < 0)
		return r;
	if ((r = buf_put_u8(out, failure->stage)) == 0)
		r = buf_put_u32(out, failure->errno_value);
	return frame_finish(out, start, r);
}

int
job_exit_decode(struct view body, struct job_exit *ret)
{
	struct job_exit end;

	if (view_u8(&body, &end.wstat.kind) < 0 || view_u8(&body, &end.wstat.value) < 0 ||
	    wstat_check(&end.wstat) < 0 || view_u64(&body, &end.user_us) < 0 ||
	    view_u64(&body, &end.system_us) < 0 || view_u64(&body, &end.max_rss_kib) < 0 ||
	    body.len != 0)
		return -EBADMSG;
	*ret = end;
	return 0;
}

int
job_exit_encode(struct buf *out, uint32_t job, const struct job_exit *end)
{
	size_t start;
	int r = frame_begin(out, JOB_EXIT, job, &start);

	if (r < 0)
		return r;
	if ((r = buf_put_u8(out, end->wstat.kind)) == 0 &&
	    (r = buf_put_u8(out, end->wstat.value)) == 0 &&
	    (r = buf_put_u64(out, end->user_us)) == 0 &&
	    (r = buf_put_u64(out, end->system_us)) == 0)
		r = buf_put_u64(out, end->max_rss_kib);
	return frame_finish(out, start, r);
}

int
job_refused_decode(struct view body, struct job_refused *ret)
{
	struct job_refused refused;

	if (view_u8(&body, &refused.kind) < 0 || refused.kind < JOB_NOT_RUN ||
	    refused.kind > JOB_TIMED_OUT || view_bytes(&body, TEXT_LEN_MAX, &refused.text) < 0 ||
	    body.len != 0)
		return -EBADMSG;
	*ret = refused;
	return 0;
}

int
job_refused_encode(struct buf *out, uint8_t kind, const char *text)
{
	size_t start, len = strnlen(text, TEXT_LEN_MAX);
	int r = frame_begin(out, JOB_REFUSED, 0, &start);

	if (r < 0)
		return r;
	if ((r = buf_put_u8(out, kind)) == 0)
		r = buf_put_bytes(out, text, len);
	return frame_finish(out, start, r);
}

int
job_empty_encode(struct buf *out, uint8_t type, uint32_t job)
{
	size_t start;
	int r = frame_begin(out, type, job, &start);

	return r < 0 ? r : frame_finish(out, start, 0);
}

int
job_empty_decode(struct view body)
{
	return body.len == 0 ? 0 : -EBADMSG;
}

int
job_number_decode(uint8_t type, struct view body, uint64_t *ret)
{
	uint64_t number;
	uint32_t pid;
	uint8_t signo;
	int r;

	if (type == JOB_STARTED) {
		r = view_u32(&body, &pid);
		number = r == 0 ? pid : 0;
	} else if (type == JOB_KILL || type == JOB_STOPPED) {
		r = view_u8(&body, &signo);
		number = r == 0 ? signo : 0;
		if (number < 1 || number > SIGNAL_MAX)
			r = -EBADMSG;
	} else {
		r = view_u64(&body, &number);
	}
	if (r < 0 || body.len != 0)
		return -EBADMSG;
	*ret = number;
	return 0;
}

int
job_number_encode(struct buf *out, uint8_t type, uint32_t job, uint64_t number)
{
	size_t start;
	int r = frame_begin(out, type, job, &start);

	if (r < 0)
		return r;
	if (type == JOB_STARTED)
		r = buf_put_u32(out, (uint32_t)number);
	else if (type == JOB_KILL || type == JOB_STOPPED)
		r = buf_put_u8(out, (uint8_t)number);
	else
		r = buf_put_u64(out, number);
	return frame_finish(out, start, r);
}

int
job_text_decode(struct view body, struct view *ret)
{
	struct view text;

	if (view_bytes(&body, REPLY_LEN_MAX, &text) < 0 || body.len != 0)
		return -EBADMSG;
	*ret = text;
	return 0;
}

int
job_text_encode(struct buf *out, uint8_t type, const char *text, size_t len)
{
	size_t start;
	int r;

	if (len > REPLY_LEN_MAX)
		return -EMSGSIZE;
	r = frame_begin(out, type, 0, &start);
	return r < 0 ? r : frame_finish(out, start, buf_put_bytes(out, text, len));
}

/* ---- greetings ---- */

int
job_greeting_decode(struct view body, struct job_greeting *ret)
{
	struct job_greeting greeting;

	if (view_u32(&body, &greeting.version) < 0 ||
	    view_bytes(&body, TEXT_LEN_MAX, &greeting.software) < 0 || body.len != 0)
		return -EBADMSG;
	*ret = greeting;
	return 0;
}

int
job_greeting_encode(struct buf *out, uint8_t type, const char *software)
{
	size_t start;
	int r = frame_begin(out, type, 0, &start);

	if (r < 0)
		return r;
	if ((r = buf_put_u32(out, JOB_PROTOCOL_VERSION)) == 0)
		r = buf_put_bytes(out, software, strnlen(software, TEXT_LEN_MAX));
	return frame_finish(out, start, r);
}

static int
take_hello_entry(uint8_t type, struct view *jobs, struct job_hello_entry *entry)
{
	memset(entry, 0, sizeof *entry);
	if (view_u32(jobs, &entry->job) < 0 || entry->job == 0)
		return -EBADMSG;
	if (type == JOB_HELLO_REPLY && view_u32(jobs, &entry->control_sequence) < 0)
		return -EBADMSG;
	if (view_u32(jobs, &entry->stream_count) < 0 || entry->stream_count > STREAMS_MAX)
		return -EBADMSG;
	for (uint32_t i = 0; i < entry->stream_count; i++) {
		struct job_position *position = &entry->streams[i];

		if (view_u32(jobs, &position->stream) < 0 || view_u64(jobs, &position->offset) < 0)
			return -EBADMSG;
		if (type == JOB_HELLO &&
		    (view_u32(jobs, &position->window) < 0 || position->window > OUT_WINDOW_MAX))
			return -EBADMSG;
	}
	return 0;
}

bool
job_hello_next(uint8_t type, struct job_lane_hello *hello, struct job_hello_entry *ret)
{
	if (hello->job_count == 0 || take_hello_entry(type, &hello->jobs, ret) < 0)
		return false;
	hello->job_count--;
	return true;
}

int
job_lane_hello_decode(uint8_t type, struct view body, struct job_lane_hello *ret)
{
	struct job_lane_hello hello = { 0 };
	struct job_hello_entry entry;
	struct view jobs;

	if (view_u32(&body, &hello.version) < 0)
		return -EBADMSG;
	for (size_t i = 0; i < sizeof hello.id; i++) {
		if (view_u8(&body, &hello.id[i]) < 0)
			return -EBADMSG;
	}
	if (type == JOB_HELLO ? view_u32(&body, &hello.lease_ms) < 0 :
				view_bytes(&body, TEXT_LEN_MAX, &hello.software) < 0)
		return -EBADMSG;
	if (view_u32(&body, &hello.job_count) < 0 || hello.job_count > JOBS_MAX)
		return -EBADMSG;
	jobs = body;
	for (uint32_t i = 0; i < hello.job_count; i++) {
		if (take_hello_entry(type, &jobs, &entry) < 0)
			return -EBADMSG;
	}
	if (jobs.len != 0)
		return -EBADMSG;
	hello.jobs = body;
	*ret = hello;
	return 0;
}

int
job_lane_hello_begin(struct buf *out, uint8_t type, const struct job_lane_hello *hello,
		     size_t *ret_position)
{
	size_t start;
	int r = frame_begin(out, type, 0, &start);

	if (r < 0)
		return r;
	if ((r = buf_put_u32(out, JOB_PROTOCOL_VERSION)) == 0)
		r = buf_put(out, hello->id, sizeof hello->id);
	if (r == 0 && type == JOB_HELLO)
		r = buf_put_u32(out, hello->lease_ms);
	else if (r == 0)
		r = buf_put_bytes(out, hello->software.data, hello->software.len);
	if (r == 0)
		r = buf_put_u32(out, hello->job_count);
	if (r < 0) {
		out->end = out->start + start;
		return r;
	}
	*ret_position = start;
	return 0;
}

int
job_hello_entry_encode(struct buf *out, uint8_t type, const struct job_hello_entry *entry)
{
	int r = buf_put_u32(out, entry->job);

	if (r == 0 && type == JOB_HELLO_REPLY)
		r = buf_put_u32(out, entry->control_sequence);
	if (r == 0)
		r = buf_put_u32(out, entry->stream_count);
	for (uint32_t i = 0; r == 0 && i < entry->stream_count; i++) {
		if ((r = buf_put_u32(out, entry->streams[i].stream)) == 0)
			r = buf_put_u64(out, entry->streams[i].offset);
		if (r == 0 && type == JOB_HELLO)
			r = buf_put_u32(out, entry->streams[i].window);
	}
	return r;
}
