#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "shim/base/fd.h"
#include "shim/base/strv.h"
#include "shim/broker/job_private.h"
#include "shim/broker/log.h"
#include "shim/broker/policy.h"

enum { PIPE_LEN_DEFAULT = 64 * 1024 };

static bool
fd_reads(int fd, uint32_t number)
{
	int mode = fcntl(fd, F_GETFL) & O_ACCMODE;

	return mode == O_RDONLY || (mode == O_RDWR && number == 0);
}

static bool
is_two_way(int fd)
{
	return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

/* 0, 1 and 2 always do; others when they go one way, or are the same in the sandbox. */
static bool
descriptor_crosses(int fd, uint32_t number)
{
	int kind = borrow_kind(fd);

	if (number <= 2 || kind == BORROW_TTY)
		return true;
	if (kind == BORROW_EVERYWHERE)
		return borrow_device(fd) != 0;
	return (kind == BORROW_PIPE || kind == BORROW_FILE || kind == BORROW_OTHER) &&
	       !is_two_way(fd);
}

static bool
same_terminal(int a, int b)
{
	struct stat sa, sb;

	return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_rdev == sb.st_rdev;
}

/* fd 1 and 2 on one pipe: the command gets one pipe too, so that the order of its writes is the
 * local one.  A terminal is one for all of them. */
static bool
find_same(const struct job *job, const int *fds, size_t index, int fd, uint32_t *ret_number)
{
	bool is_terminal = borrow_kind(fd) == BORROW_TTY;

	for (size_t i = 0; i < index; i++) {
		const struct channel *channel = &job->channels[i];
		bool same = false;

		if (fds[i] < 0)
			continue;
		if (channel->kind == JOB_STREAM_TTY)
			same = is_terminal && same_terminal(fds[i], fd);
		else if (channel->kind == JOB_STREAM_OUT ||
			 (channel->kind == JOB_STREAM_IN && !is_two_way(fd)))
			same = borrow_same(fds[i], fd);
		if (same) {
			*ret_number = channel->number;
			return true;
		}
	}
	return false;
}

static uint32_t
out_pipe_len(int fd, enum borrow_kind kind)
{
	int len = kind == BORROW_PIPE ? fcntl(fd, F_GETPIPE_SZ) : 0;

	return len <= 0 || len == PIPE_LEN_DEFAULT ? 0 : (uint32_t)len;
}

static int
channel_open_input(struct channel *channel, int fd, enum borrow_kind kind, struct err *err)
{
	int return_fd =
		channel->job->token_fd >= 0 && channel->number == channel->job->token_stream ?
			fd_steal(&channel->job->token_fd) :
			-1;

	if (return_fd >= 0)
		return source_new_tokens(&channel->job->context->tools, fd, return_fd,
					 &job_input_events, channel, &channel->source, err);
	return source_new(&channel->job->context->tools, fd, kind, &job_input_events, channel,
			  &channel->source, err);
}

static int
channel_open_output(struct channel *channel, int fd, enum borrow_kind kind, struct err *err)
{
	struct job_context *context = channel->job->context;

	return sink_new(context->loop, context->edges, fd, kind, &job_output_events, channel,
			&channel->sink, err);
}

/* Both directions, each with a descriptor of its own. */
static int
channel_open_terminal(struct channel *channel, int fd, struct err *err)
{
	int input = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	int r = channel_open_output(channel, fd, BORROW_TTY, err);

	if (input < 0)
		return r < 0 ? r : err_errno(err, EMFILE, "the terminal");
	if (r < 0) {
		fd_cleanup(&input);
		return r;
	}
	return channel_open_input(channel, input, BORROW_TTY, err);
}

static bool
one_terminal_is_enough(const struct job *job, int kind)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		if (job->channels[i].kind == JOB_STREAM_TTY)
			return false;
	}
	return kind == BORROW_TTY;
}

/* Decides what a passed descriptor is for the command, and takes it over. */
static int
channel_open(struct channel *channel, struct job_stream *stream, int fd, struct err *err)
{
	int kind = borrow_kind(fd), r = 0;

	if (kind < 0) {
		stream->kind = JOB_STREAM_CLOSED; /* it cannot be read or written locally either */
		fd_cleanup(&fd);
	} else if (kind == BORROW_EVERYWHERE) {
		stream->kind = JOB_STREAM_DEVICE;
		stream->refers_to = (uint32_t)borrow_device(fd);
		fd_cleanup(&fd);
	} else if (one_terminal_is_enough(channel->job, kind)) {
		stream->kind = JOB_STREAM_TTY;
		r = channel_open_terminal(channel, fd, err);
	} else if (fd_reads(fd, stream->stream)) {
		stream->kind = JOB_STREAM_IN;
		r = channel_open_input(channel, fd, (enum borrow_kind)kind, err);
		if (r == 0)
			stream->pipe_len = source_pipe_len(channel->source);
	} else {
		stream->kind = JOB_STREAM_OUT;
		stream->pipe_len = out_pipe_len(fd, (enum borrow_kind)kind);
		r = channel_open_output(channel, fd, (enum borrow_kind)kind, err);
	}
	channel->kind = (enum job_stream_kind)stream->kind;
	return r;
}

/* The value of MAKEFLAGS, which the caller frees, or NULL. */
static char *
find_makeflags(struct job_strings env)
{
	static const char name[] = "MAKEFLAGS=";
	const size_t name_len = sizeof name - 1;
	struct view item;

	while (job_strings_next(&env, &item)) {
		if (item.len >= name_len && memcmp(item.data, name, name_len) == 0)
			return strndup((const char *)item.data + name_len, item.len - name_len);
	}
	return NULL;
}

/* Of a jobserver both ends must have been passed. */
void
job_find_tokens(struct job *job, const struct job_start *start, const int *fds, size_t fd_count)
{
	char *makeflags = find_makeflags(start->env);
	unsigned read_end, write_end;
	size_t next = 0;

	job->token_fd = -1;
	if (makeflags != NULL && policy_jobserver(makeflags, &read_end, &write_end)) {
		job->token_stream = read_end;
		for (uint32_t i = 0; i < start->stream_count && next < fd_count; i++) {
			if (start->streams[i].kind != JOB_STREAM_PASSED)
				continue;
			if (start->streams[i].stream == write_end && job->token_fd < 0)
				job->token_fd = fcntl(fds[next], F_DUPFD_CLOEXEC, 3);
			next++;
		}
	}
	free(makeflags);
}

int
job_open_channels(struct job *job, struct job_start *start, const int *fds, size_t fd_count,
		  struct err *err)
{
	int by_index[STREAMS_MAX];
	size_t next = 0;
	int fd, r = 0;

	for (uint32_t i = 0; i < start->stream_count; i++) {
		struct job_stream *stream = &start->streams[i];
		struct channel *channel = &job->channels[i];

		by_index[i] = -1;
		*channel = (struct channel){ .job = job,
					     .number = stream->stream,
					     .window = OUT_WINDOW_MIN,
					     .in_window = IN_WINDOW,
					     .grows_at = IN_WINDOW };
		job->channel_count++;
		if (stream->kind != JOB_STREAM_PASSED || r < 0)
			continue;
		if (next == fd_count) {
			r = err_set(err, EBADMSG, "fewer descriptors than streams were sent");
			continue;
		}
		fd = fds[next++];
		if (!descriptor_crosses(fd, stream->stream)) {
			stream->kind = JOB_STREAM_CLOSED;
			job->left_behind |= UINT32_C(1) << i;
			fd_cleanup(&fd);
			continue;
		}
		by_index[i] = fd;
		if (find_same(job, by_index, i, fd, &stream->refers_to)) {
			stream->kind = JOB_STREAM_SAME;
			by_index[i] = -1;
			fd_cleanup(&fd);
			continue;
		}
		r = channel_open(channel, stream, fd, err);
	}
	if (r == 0 && next != fd_count)
		r = err_set(err, EBADMSG, "more descriptors than streams were sent");
	while (next < fd_count) {
		fd = fds[next++];
		fd_cleanup(&fd);
	}
	return r;
}

static_assert(STREAMS_MAX <= 32, "left_behind has a bit for each stream");

/* A descriptor that cannot cross is missed when argv or the environment speaks of it; otherwise it
 * is left behind. */
static int
job_check_left_behind(const struct job *job, char *const *argv, char *const *env, struct err *err)
{
	for (size_t i = 0; i < job->channel_count; i++) {
		uint32_t number = job->channels[i].number;

		if ((job->left_behind >> i & 1) == 0)
			continue;
		if (policy_names_descriptor(argv, env, number))
			return err_set(err, ENOTSUP,
				       "descriptor %" PRIu32
				       " is a socket, a directory or open both ways, "
				       "and cannot reach into the sandbox",
				       number);
		log_info("job %" PRIu32 ": descriptor %" PRIu32
			 " stays behind: it is a socket, a directory or open both ways",
			 job->number, number);
	}
	return 0;
}

int
job_encode_start(struct job *job, const struct job_start *local, struct job_start *start,
		 struct err *err)
{
	const struct config *config = job->context->config;
	char **argv = job_strings_copy(local->argv), **env = job_strings_copy(local->env),
	     **crossing = NULL;
	char cwd[CWD_LEN_MAX + 1];
	const char *remote_cwd;
	size_t position;
	int r;

	memcpy(cwd, local->cwd.data, local->cwd.len);
	cwd[local->cwd.len] = '\0';
	r = policy_cwd(config, cwd, &remote_cwd, err);
	if (r == 0 &&
	    (argv == NULL || env == NULL || (crossing = policy_env_filter(config, env)) == NULL))
		r = err_set(err, ENOMEM, "no memory for argv and environment");
	if (r == 0)
		r = job_check_left_behind(job, argv, env, err);
	if (r == 0) {
		const char *shell = config->shell;
		bool is_shell = local->program.len == 0;

		start->env_base = config->env_base == CONFIG_ENV_IMAGE;
		start->cwd = (struct view){ (const uint8_t *)remote_cwd, strlen(remote_cwd) };
		if (job_start_begin(&job->start, job->number,
				    is_shell ? (const void *)shell : local->program.data,
				    is_shell ? strlen(shell) : local->program.len, &position) < 0 ||
		    job_put_strings(&job->start, argv) < 0 ||
		    job_put_strings(&job->start, crossing) < 0 ||
		    job_start_rest(&job->start, start) < 0 ||
		    job_frame_end(&job->start, position) < 0)
			r = err_set(err, E2BIG, "argv and environment are larger than %u bytes",
				    FRAME_LEN_MAX);
	}
	free(crossing);
	strv_free(env);
	strv_free(argv);
	return r;
}
