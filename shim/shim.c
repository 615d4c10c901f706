/* shim.c -- modalsh: describes itself to the broker, forwards signals, ends exactly as the remote
 * command ended.  It starts nothing, parses nothing and touches no byte of the command's input or
 * output. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/job.h"
#include "shim/base/fd.h"
#include "shim/base/wstat.h"
#include "shim/client.h"
#include "shim/inherit.h"
#include "shim/lockdown/lockdown.h"
#include "shim/persona.h"
#include "shim/signals.h"
#include "shim/tty.h"

enum {
	CODE_TIMED_OUT = 124,
	CODE_REFUSED = 125, /* not run, or the result is unknown */
	CODE_NOT_EXECUTABLE = 126,
	CODE_NOT_FOUND = 127,
};

/* What the broker sends to a shim is short. */
enum { REPLY_FRAME_LEN_MAX = 4096, NAME_SHOWN_LEN_MAX = 256, LINE_LEN_MAX = TEXT_LEN_MAX + 128 };

static const char not_run[] = "the command was not run";
static const char result_unknown[] = "its result is unknown";

enum shim_state { SHIM_GREETING, SHIM_WAITING, SHIM_RUNNING };

struct shim {
	enum shim_state state;
	bool was_open[3];
	int others[STREAMS_MAX - 3]; /* inherited descriptors above 2 */
	size_t other_count;
	uint64_t ignored;
	uint64_t blocked;
	uint32_t control_sequence; /* of the last SIGNAL or WINCH */
	int signal_fd;
	struct tty tty;
	struct persona persona;
	struct client client;
};

/* ---- the end ---- */

/* One line, one write: lines of several shims do not mix, and nothing in it can command a terminal.
 */
static void __attribute__((format(printf, 2, 0)))
say(const struct shim *shim, const char *format, va_list ap)
{
	char line[LINE_LEN_MAX] = "modalsh: ";
	size_t len = strlen(line);

	vsnprintf(line + len, sizeof line - len - 1, format, ap);
	for (len = 0; line[len] != '\0'; len++) {
		if ((unsigned char)line[len] < ' ' || line[len] == 0x7f)
			line[len] = ' ';
	}
	line[len++] = '\n';
	if (shim->was_open[2] && write(STDERR_FILENO, line, len) < 0)
		return; /* there is nobody left to tell */
}

static _Noreturn void __attribute__((format(printf, 3, 4)))
fail(const struct shim *shim, int code, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	say(shim, format, ap);
	va_end(ap);
	_exit(code);
}

/* What can be said about the command when the connection fails now. */
static const char *
fate(const struct shim *shim)
{
	return shim->state == SHIM_RUNNING ? result_unknown : not_run;
}

static const char *
shown_name(const struct shim *shim)
{
	return shim->persona.kind == PERSONA_PROGRAM ? shim->persona.program :
						       "the configured shell";
}

/* ---- the description ---- */

static size_t
add_streams(const struct shim *shim, struct job_start *start, int fds[STREAMS_MAX])
{
	size_t count = 0;

	for (int fd = 0; fd < 3; fd++) {
		start->streams[fd] = (struct job_stream){
			.stream = (uint32_t)fd,
			.kind = shim->was_open[fd] ? JOB_STREAM_PASSED : JOB_STREAM_CLOSED,
		};
		if (shim->was_open[fd])
			fds[count++] = fd;
	}
	start->stream_count = 3;
	for (size_t i = 0; i < shim->other_count; i++) {
		start->streams[start->stream_count++] = (struct job_stream){
			.stream = (uint32_t)shim->others[i],
			.kind = JOB_STREAM_PASSED,
		};
		fds[count++] = shim->others[i];
	}
	return count;
}

static int
encode(struct buf *out, const struct persona *persona, const struct job_start *start)
{
	size_t position;
	int r;

	if ((r = job_greeting_encode(out, JOB_HELLO, "modalsh " MODALSH_VERSION)) < 0 ||
	    (r = job_start_begin(out, 0, persona->program, strlen(persona->program), &position)) <
		    0 ||
	    (r = job_put_strings(out, persona->argv)) < 0 ||
	    (r = job_put_strings(out, environ)) < 0 || (r = job_start_rest(out, start)) < 0)
		return r;
	return job_frame_end(out, position);
}

/* A broker that has closed already may have said why: that is read later. */
static void
send_frames(struct shim *shim, struct buf *out, const int *fds, size_t count)
{
	int r = client_send(&shim->client, out, fds, count);

	if (r == -EAGAIN)
		fail(shim, CODE_REFUSED, "the broker does not read what it is sent; %s",
		     fate(shim));
	if (r < 0 && r != -EPIPE)
		fail(shim, CODE_REFUSED, "sending to the broker: %s; %s", strerror(-r), fate(shim));
}

static void
send_start(struct shim *shim)
{
	cleanup_buf struct buf out;
	struct job_start start = { .ignored = shim->ignored, .blocked = shim->blocked };
	char cwd[CWD_LEN_MAX + 1];
	struct err err;
	size_t count;
	int fds[STREAMS_MAX], r;

	r = inherit_cwd(cwd, &err);
	if (r < 0)
		fail(shim, CODE_REFUSED, "%s; %s", err.text, not_run);
	start.cwd = (struct view){ (const uint8_t *)cwd, (size_t)r };
	inherit_settings(&start);
	count = add_streams(shim, &start, fds);
	if (shim->tty.fd >= 0) {
		start.winsize = shim->tty.size;
		start.termios = (struct view){ shim->tty.termios, sizeof shim->tty.termios };
	}
	buf_init(&out, FRAME_LEN_MAX + REPLY_FRAME_LEN_MAX);
	r = encode(&out, &shim->persona, &start);
	if (r == -EMSGSIZE)
		fail(shim, CODE_NOT_EXECUTABLE, "%.*s: argument list too long; %s",
		     NAME_SHOWN_LEN_MAX, shown_name(shim), not_run);
	if (r < 0)
		fail(shim, CODE_REFUSED, "describing the command: %s; %s", strerror(-r), not_run);
	send_frames(shim, &out, fds, count);
}

/* ---- what the broker says; one function per message ---- */

static int
on_hello_reply(struct shim *shim, struct view body)
{
	struct job_greeting greeting;
	int r = job_greeting_decode(body, &greeting);

	if (r < 0)
		return r;
	if (greeting.version != JOB_PROTOCOL_VERSION)
		fail(shim, CODE_REFUSED, "the broker speaks version %u of the protocol, not %d; %s",
		     (unsigned)greeting.version, JOB_PROTOCOL_VERSION, not_run);
	shim->state = SHIM_WAITING;
	return 0;
}

/* The broker holds the descriptors now; readers and writers must see what the command does with
 * them, not us.  2 stays for our own last line, and a terminal for its size. */
static int
on_accepted(struct shim *shim, struct view body)
{
	int r = job_empty_decode(body);

	if (r < 0)
		return r;
	shim->state = SHIM_RUNNING;
	for (int fd = 0; fd < 2; fd++) {
		if (fd != shim->tty.fd)
			close(fd);
	}
	for (size_t i = 0; i < shim->other_count; i++)
		close(shim->others[i]);
	return 0;
}

static int
on_started(struct shim *shim, struct view body)
{
	uint64_t pid;

	(void)shim;
	return job_number_decode(JOB_STARTED, body, &pid);
}

/* The caller sees a stopped child, as it would locally; SIGCONT, from whomever, is forwarded and
 * continues both. */
static int
on_stopped(struct shim *shim, struct view body)
{
	uint64_t number;
	int r = job_number_decode(JOB_STOPPED, body, &number);

	if (r < 0)
		return r;
	(void)shim;
	if (number == SIGSTOP)
		kill(getpid(), SIGSTOP);
	else if (signals_is_stop((int)number))
		signals_stop_self((int)number);
	else
		return -EBADMSG;
	return 0;
}

static int
on_exit(struct shim *shim, struct view body)
{
	struct job_exit end;
	int r = job_exit_decode(body, &end);

	(void)shim;
	if (r < 0)
		return r;
	wstat_die(&end.wstat);
}

static const char *
stage_name(uint8_t stage)
{
	static const char *const names[] = {
		[JOB_STAGE_FORK] = "starting a process",
		[JOB_STAGE_STREAMS] = "setting up its descriptors",
		[JOB_STAGE_LIMITS] = "setting its limits",
		[JOB_STAGE_DIRECTORY] = "changing to its working directory",
		[JOB_STAGE_TERMINAL] = "setting up its terminal",
	};

	return names[stage]; /* decoding has checked it */
}

static int
on_failed(struct shim *shim, struct view body)
{
	struct job_failure failure;
	int r = job_failure_decode(body, &failure);
	int errno_value;

	if (r < 0)
		return r;
	errno_value = (int)failure.errno_value;
	if (failure.stage != JOB_STAGE_PROGRAM)
		fail(shim, CODE_REFUSED, "%s in the sandbox: %s; %s", stage_name(failure.stage),
		     strerror(errno_value), not_run);
	if (errno_value == ENOENT || errno_value == ENOTDIR)
		fail(shim, CODE_NOT_FOUND, "%.*s: not found in the sandbox", NAME_SHOWN_LEN_MAX,
		     shown_name(shim));
	fail(shim, CODE_NOT_EXECUTABLE, "%.*s: cannot be executed in the sandbox: %s",
	     NAME_SHOWN_LEN_MAX, shown_name(shim), strerror(errno_value));
}

static int
on_refused(struct shim *shim, struct view body)
{
	struct job_refused refused;
	char text[TEXT_LEN_MAX + 1];
	const char *promised;
	int r = job_refused_decode(body, &refused);

	if (r < 0)
		return r;
	memcpy(text, refused.text.data, refused.text.len);
	text[refused.text.len] = '\0';
	if (refused.kind == JOB_TIMED_OUT)
		fail(shim, CODE_TIMED_OUT, "%s", text);
	promised = refused.kind == JOB_NOT_RUN ? "was not run" : result_unknown;
	if (strstr(text, promised) == NULL)
		fail(shim, CODE_REFUSED, "%s; %s", text,
		     refused.kind == JOB_NOT_RUN ? not_run : result_unknown);
	fail(shim, CODE_REFUSED, "%s", text);
}

static const struct {
	uint8_t type;
	enum shim_state first, last; /* the states in which it may come */
	int (*take)(struct shim *shim, struct view body);
} messages[] = {
	{ JOB_HELLO_REPLY, SHIM_GREETING, SHIM_GREETING, on_hello_reply },
	{ JOB_ACCEPTED, SHIM_WAITING, SHIM_WAITING, on_accepted },
	{ JOB_STARTED, SHIM_RUNNING, SHIM_RUNNING, on_started },
	{ JOB_STOPPED, SHIM_RUNNING, SHIM_RUNNING, on_stopped },
	{ JOB_EXIT, SHIM_RUNNING, SHIM_RUNNING, on_exit },
	{ JOB_FAILED, SHIM_RUNNING, SHIM_RUNNING, on_failed },
	{ JOB_REFUSED, SHIM_GREETING, SHIM_RUNNING, on_refused },
};

static int
take_frame(struct shim *shim, const struct job_frame *frame)
{
	for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++) {
		if (messages[i].type == frame->type && frame->job == 0 &&
		    messages[i].first <= shim->state && shim->state <= messages[i].last)
			return messages[i].take(shim, frame->body);
	}
	return -EBADMSG;
}

static void
take_frames(struct shim *shim)
{
	struct job_frame frame;
	int r;

	do {
		r = client_receive(&shim->client, &frame);
		if (r == 0)
			fail(shim, CODE_REFUSED, "the broker went away; %s", fate(shim));
		if (r == 1)
			r = take_frame(shim, &frame);
	} while (r == 0);
	/* what is garbled now may have been ACCEPTED, so nothing is promised */
	if (r == -EBADMSG)
		fail(shim, CODE_REFUSED, "the broker does not keep to the protocol; %s",
		     result_unknown);
	if (r != -EAGAIN)
		fail(shim, CODE_REFUSED, "receiving from the broker: %s; %s", strerror(-r),
		     result_unknown);
}

/* ---- signals ---- */

static bool
is_job_control(int signal)
{
	return signals_is_stop(signal) || signal == SIGCONT;
}

static bool
is_termination(int signal)
{
	return signal == SIGHUP || signal == SIGINT || signal == SIGQUIT || signal == SIGTERM;
}

/* PROTOCOL.md, "Which scope". */
static uint8_t
signal_scope(const struct signals_event *event)
{
	pid_t group = getpgrp();
	bool from_parent = event->sender == getppid();

	if (event->from_kernel || is_job_control(event->signal))
		return JOB_SCOPE_GROUP;
	if (!is_termination(event->signal))
		return JOB_SCOPE_PROCESS;
	if (from_parent && group != getpid() &&
	    (event->signal == SIGHUP || (event->signal == SIGTERM && group != getppid())))
		return JOB_SCOPE_PROCESS;
	return JOB_SCOPE_LEADER;
}

static void
forward(struct shim *shim, const struct signals_event *event)
{
	struct job_control control = { .type = JOB_SIGNAL, .sequence = ++shim->control_sequence };
	cleanup_buf struct buf out;
	int r;

	if (event->signal == SIGWINCH && shim->tty.fd >= 0 &&
	    tty_size(shim->tty.fd, &control.winsize) == 0) {
		control.type = JOB_WINCH;
	} else {
		control.signal = (uint8_t)event->signal;
		control.scope = signal_scope(event);
	}
	buf_init(&out, REPLY_FRAME_LEN_MAX);
	r = job_control_encode(&out, 0, &control);
	if (r < 0)
		fail(shim, CODE_REFUSED, "forwarding a signal: %s; %s", strerror(-r), fate(shim));
	send_frames(shim, &out, NULL, 0);
}

static void
forward_signals(struct shim *shim)
{
	struct signals_event event;
	int r;

	while ((r = signals_read(shim->signal_fd, &event)) == 1)
		forward(shim, &event);
	if (r < 0)
		fail(shim, CODE_REFUSED, "reading signals: %s; %s", strerror(-r), fate(shim));
}

static _Noreturn void
wait_for_end(struct shim *shim)
{
	struct pollfd polls[2] = { { .fd = shim->client.socket, .events = POLLIN },
				   { .fd = shim->signal_fd, .events = POLLIN } };

	for (;;) {
		if (poll(polls, 2, -1) < 0 && errno != EINTR)
			fail(shim, CODE_REFUSED, "waiting for the broker: %s; %s", strerror(errno),
			     fate(shim));
		if (polls[0].revents != 0)
			take_frames(shim);
		if (polls[1].revents != 0)
			forward_signals(shim);
	}
}

/* ---- the beginning ---- */

/* The options of modalsh itself; they cannot be mistaken for those of a shell. */
static void
answer_option(const struct shim *shim, const char *option)
{
	static const char version[] = "modalsh " MODALSH_VERSION "\n";
	static const char help[] =
		"modalsh [ARGUMENT]...  runs the configured shell in a Modal sandbox, with these arguments\n"
		"exec COMMAND [ARGUMENT]...  (modalsh under this name) runs COMMAND there without a shell\n"
		"NAME [ARGUMENT]...  (modalsh under any other name) runs the sandbox's NAME\n"
		"\n"
		"MODALSH_SOCKET      socket of modalsh-broker (default " MODALSH_SOCKET_DEFAULT
		")\n"
		"MODALSH_BROKER_UID  number of the user that the broker runs as, if not root or yourself\n"
		"\n"
		"exit codes of its own: 124 timed out, 125 not run or result unknown, 126 cannot be executed,\n"
		"127 not found in the sandbox\n";

	if (option == NULL || strncmp(option, "--modalsh-", strlen("--modalsh-")) != 0)
		return;
	if (strcmp(option, "--modalsh-version") == 0)
		_exit(write(STDOUT_FILENO, version, sizeof version - 1) < 0);
	if (strcmp(option, "--modalsh-help") == 0)
		_exit(write(STDOUT_FILENO, help, sizeof help - 1) < 0);
	fail(shim, CODE_REFUSED, "there is no option %.*s; %s", NAME_SHOWN_LEN_MAX, option,
	     not_run);
}

/* What needs no broker.  `exec ''` must not become the empty name that stands for the configured
 * shell. */
static void
answer_locally(const struct shim *shim, char **argv)
{
	const struct persona *persona = &shim->persona;

	if (persona->kind == PERSONA_NOTHING)
		_exit(0);
	if (persona->kind == PERSONA_SHELL)
		answer_option(shim, argv[1]);
	else if (persona->program[0] == '\0')
		fail(shim, CODE_NOT_FOUND, ": not found in the sandbox");
	else if (strlen(persona->program) > PROGRAM_LEN_MAX)
		fail(shim, CODE_NOT_EXECUTABLE, "%.*s: %s; %s", NAME_SHOWN_LEN_MAX,
		     persona->program, strerror(ENAMETOOLONG), not_run);
}

int
main(int argc, char **argv)
{
	struct shim shim = { .blocked = signals_block_all(),
			     .signal_fd = -1,
			     .client = { .socket = -1 } };
	struct err err;
	int r;

	r = fd_ensure_stdio(shim.was_open);
	if (r < 0)
		fail(&shim, CODE_REFUSED, "opening /dev/null: %s; %s", strerror(-r), not_run);
	shim.other_count = inherit_descriptors(shim.others, STREAMS_MAX - 3);
	r = lockdown_shim();
	if (r < 0)
		fail(&shim, CODE_REFUSED, "giving up system calls: %s; %s", strerror(-r), not_run);
	if (argc < 1)
		fail(&shim, CODE_REFUSED, "it was started without argv[0]; %s", not_run);
	if (persona_find(argv, &shim.persona, &err) < 0)
		fail(&shim, CODE_REFUSED, "%s; %s", err.text, not_run);
	answer_locally(&shim, argv);
	shim.ignored = signals_ignored();
	/* those that are ignored too: the command may have given them a handler since */
	r = signals_open(~signals_bit(SIGCHLD), &shim.signal_fd);
	if (r < 0)
		fail(&shim, CODE_REFUSED, "listening for signals: %s; %s", strerror(-r), not_run);
	tty_find(shim.was_open, &shim.tty);
	if (client_connect(client_socket_path(environ), environ, REPLY_FRAME_LEN_MAX, &shim.client,
			   &err) < 0)
		fail(&shim, CODE_REFUSED, "%s; %s", err.text, not_run);
	send_start(&shim);
	wait_for_end(&shim);
}
