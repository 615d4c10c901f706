/* spawn_bench.c -- starts a program as an agent would and measures from before the spawn to after
 * the wait.
 *
 * Everything that is compared is started by this one program, so it costs the same for all.  stdin
 * is /dev/null (with
 * --sink: the caller's own); stdout and stderr are two pipes that are read to their end, or
 * /dev/null with --stdio null.
 *
 *   spawn_bench [--count N] [--warmup N] [--stdio pipe|null] -- PROGRAM ARG…   one after the other;
 * each must exit 0 spawn_bench --parallel N -- PROGRAM ARG…   N at once, each with its number K as
 * a further argument; each must write "K\n" and exit with K modulo 100 spawn_bench --sink --
 * PROGRAM ARG…         one whose stdout is counted and summed; must exit 0
 *
 * The result is one JSON object on stdout.  A wrong exit status or wrong bytes end it with exit
 * code 1.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	COUNT_MAX = 1000000,
	PARALLEL_MAX = 20000,
	CODE_MODULUS = 100,
	ANSWER_LEN_MAX = 64,
	SINK_LEN = 1 << 20,
	PIPE_LEN_MAX = 1 << 20,
	FILES_MAX = 65536,
	PATH_LEN_MAX = 4096,
};

struct settings {
	unsigned count, warmup, parallel;
	bool sink, stdio_null;
	const char *path; /* of the program, looked up once */
	char **argv;
};

/* One process of --parallel. */
struct task {
	pid_t pid;
	int out_fd; /* -1 = its end has been seen */
	char answer[ANSWER_LEN_MAX];
	size_t answer_len;
};

extern char **environ;

static int64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Starts the program with these descriptors; -1 leaves the caller's own. */
static pid_t
task_spawn(const struct settings *settings, char **argv, int in_fd, int out_fd, int err_fd)
{
	posix_spawn_file_actions_t actions;
	int r, fds[3] = { in_fd, out_fd, err_fd };
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	for (int fd = 0; fd < 3; fd++) {
		if (fds[fd] >= 0)
			posix_spawn_file_actions_adddup2(&actions, fds[fd], fd);
	}
	r = posix_spawn(&pid, settings->path, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		errx(1, "%s: %s", settings->path, strerror(r));
	return pid;
}

static int
status_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			err(1, "waitpid");
	}
	return status;
}

static void
status_expect(int status, int code, const char *what)
{
	if (WIFSIGNALED(status))
		errx(1, "%s died by signal %d", what, WTERMSIG(status));
	if (WEXITSTATUS(status) != code)
		errx(1, "%s exited with %d instead of %d", what, WEXITSTATUS(status), code);
}

static void
pipe_open(int fds[2])
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		err(1, "pipe2");
}

/* Reads both descriptors to their ends and closes them. */
static void
outputs_drain(int out_fd, int err_fd)
{
	struct pollfd polled[2] = { { out_fd, POLLIN, 0 }, { err_fd, POLLIN, 0 } };
	char buffer[65536];

	while (polled[0].fd >= 0 || polled[1].fd >= 0) {
		if (poll(polled, 2, -1) < 0 && errno != EINTR)
			err(1, "poll");
		for (int i = 0; i < 2; i++) {
			if (polled[i].fd < 0 || polled[i].revents == 0)
				continue;
			if (read(polled[i].fd, buffer, sizeof(buffer)) <= 0) {
				close(polled[i].fd);
				polled[i].fd = -1;
			}
		}
	}
}

/* One command with pipes, or with /dev/null, to its end. */
static int64_t
run_once(const struct settings *settings, int null_fd)
{
	int64_t start_ns = now_ns();
	int out[2], errors[2], status;
	pid_t pid;

	if (settings->stdio_null) {
		status = status_wait(
			task_spawn(settings, settings->argv, null_fd, null_fd, null_fd));
	} else {
		pipe_open(out);
		pipe_open(errors);
		pid = task_spawn(settings, settings->argv, null_fd, out[1], errors[1]);
		close(out[1]);
		close(errors[1]);
		outputs_drain(out[0], errors[0]);
		status = status_wait(pid);
	}
	start_ns = now_ns() - start_ns;
	status_expect(status, 0, settings->argv[0]);
	return start_ns;
}

static void
series_run(const struct settings *settings, int null_fd)
{
	for (unsigned i = 0; i < settings->warmup; i++)
		run_once(settings, null_fd);
	printf("{\"samples_us\": [");
	for (unsigned i = 0; i < settings->count; i++)
		printf("%s%.1f", i > 0 ? ", " : "", (double)run_once(settings, null_fd) / 1e3);
	printf("]}\n");
}

/* Order-sensitive, and a few cycles for 8 bytes, so that the sink is not what is measured. */
static uint64_t
sum_add(uint64_t sum, const char *data, size_t len)
{
	uint64_t word;

	for (; len >= sizeof(word); data += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, data, sizeof(word));
		sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
		sum ^= sum >> 29;
	}
	for (; len > 0; data++, len--)
		sum = (sum ^ (unsigned char)*data) * 0x100000001b3u;
	return sum;
}

/* Fills the buffer from the descriptor, so that the sum does not depend on how the bytes were cut.
 */
static size_t
read_full(int fd, char *buffer, size_t len_max)
{
	size_t len = 0;

	while (len < len_max) {
		ssize_t r = read(fd, buffer + len, len_max - len);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			err(1, "read");
		if (r == 0)
			break;
		len += (size_t)r;
	}
	return len;
}

static void
sink_run(const struct settings *settings)
{
	int64_t start_ns = now_ns();
	uint64_t total = 0, sum = 0;
	char *buffer = malloc(SINK_LEN);
	int out[2];
	size_t len;
	pid_t pid;

	if (buffer == NULL)
		err(1, "malloc");
	pipe_open(out);
	/* A caller that moves much data asks for a large pipe; where it may not, the default must
	 * do. */
	(void)fcntl(out[0], F_SETPIPE_SZ, PIPE_LEN_MAX);
	pid = task_spawn(settings, settings->argv, -1, out[1], -1);
	close(out[1]);
	while ((len = read_full(out[0], buffer, SINK_LEN)) > 0) {
		sum = sum_add(sum, buffer, len);
		total += len;
	}
	close(out[0]);
	status_expect(status_wait(pid), 0, settings->argv[0]);
	printf("{\"bytes\": %" PRIu64 ", \"sum\": \"%016" PRIx64 "\", \"seconds\": %.6f}\n", total,
	       sum, (double)(now_ns() - start_ns) / 1e9);
	free(buffer);
}

static void
task_start(struct task *task, const struct settings *settings, unsigned number, int null_fd)
{
	char text[16];
	int argc = 0, out[2];
	char **argv;

	while (settings->argv[argc] != NULL)
		argc++;
	argv = calloc((size_t)argc + 2, sizeof(*argv));
	if (argv == NULL)
		err(1, "calloc");
	memcpy(argv, settings->argv, (size_t)argc * sizeof(*argv));
	snprintf(text, sizeof(text), "%u", number);
	argv[argc] = text;
	pipe_open(out);
	task->pid = task_spawn(settings, argv, null_fd, out[1], -1);
	task->out_fd = out[0];
	close(out[1]);
	free(argv);
}

/* Returns whether this was the end of the task's output. */
static bool
task_read(struct task *task)
{
	ssize_t len = read(task->out_fd, task->answer + task->answer_len,
			   sizeof(task->answer) - task->answer_len);

	if (len > 0) {
		task->answer_len += (size_t)len;
		return false;
	}
	close(task->out_fd);
	task->out_fd = -1;
	return true;
}

static void
tasks_read(struct task *tasks, unsigned count)
{
	struct pollfd *polled = calloc(count, sizeof(*polled));
	unsigned open_count = count;

	if (polled == NULL)
		err(1, "calloc");
	while (open_count > 0) {
		for (unsigned i = 0; i < count; i++)
			polled[i] = (struct pollfd){ tasks[i].out_fd, POLLIN, 0 };
		if (poll(polled, count, -1) < 0 && errno != EINTR)
			err(1, "poll");
		for (unsigned i = 0; i < count; i++) {
			if (polled[i].fd >= 0 && polled[i].revents != 0 && task_read(&tasks[i]))
				open_count--;
		}
	}
	free(polled);
}

/* Returns whether the task wrote and returned what only it could. */
static bool
task_check(const struct task *task, unsigned number)
{
	char wanted[16];
	int len = snprintf(wanted, sizeof(wanted), "%u\n", number);
	int status = status_wait(task->pid);

	if (task->answer_len != (size_t)len || memcmp(task->answer, wanted, (size_t)len) != 0) {
		warnx("number %u wrote %zu bytes: %.*s", number, task->answer_len,
		      (int)task->answer_len, task->answer);
		return false;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != (int)(number % CODE_MODULUS)) {
		warnx("number %u ended with wait status 0x%x", number, (unsigned)status);
		return false;
	}
	return true;
}

static void
parallel_run(const struct settings *settings, int null_fd)
{
	struct rlimit files = { FILES_MAX, FILES_MAX };
	struct task *tasks = calloc(settings->parallel, sizeof(*tasks));
	int64_t start_ns = now_ns(), started_ns;
	unsigned wrong = 0;

	if (tasks == NULL)
		err(1, "calloc");
	(void)setrlimit(RLIMIT_NOFILE, &files);
	for (unsigned i = 0; i < settings->parallel; i++)
		task_start(&tasks[i], settings, i, null_fd);
	started_ns = now_ns();
	tasks_read(tasks, settings->parallel);
	for (unsigned i = 0; i < settings->parallel; i++)
		wrong += task_check(&tasks[i], i) ? 0 : 1;
	printf("{\"count\": %u, \"wrong\": %u, \"start_seconds\": %.3f, \"seconds\": %.3f}\n",
	       settings->parallel, wrong, (double)(started_ns - start_ns) / 1e9,
	       (double)(now_ns() - start_ns) / 1e9);
	free(tasks);
	if (wrong > 0)
		exit(1);
}

/* Looks the program up in PATH, once, as execvp would for every start. */
static const char *
program_find(const char *name)
{
	static char found[PATH_LEN_MAX];
	char *path, *rest, *dir;

	if (strchr(name, '/') != NULL)
		return name;
	path = rest = strdup(getenv("PATH") != NULL ? getenv("PATH") : "/usr/bin:/bin");
	while ((dir = strsep(&rest, ":")) != NULL) {
		int len = snprintf(found, sizeof(found), "%s/%s", dir, name);

		if (len < (int)sizeof(found) && access(found, X_OK) == 0)
			break;
	}
	if (dir == NULL)
		errx(1, "%s is not in PATH", name);
	free(path);
	return found;
}

static unsigned
number_parse(const char *text, unsigned max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end != '\0' || value > max)
		errx(2, "a number up to %u is needed, not %s", max, text);
	return (unsigned)value;
}

static void
settings_parse(int argc, char **argv, struct settings *ret)
{
	static const struct option options[] = {
		{ "count", required_argument, NULL, 'c' },
		{ "parallel", required_argument, NULL, 'p' },
		{ "sink", no_argument, NULL, 's' },
		{ "stdio", required_argument, NULL, 'i' },
		{ "warmup", required_argument, NULL, 'w' },
		{ 0 },
	};
	int option;

	*ret = (struct settings){ .count = 100, .warmup = 5 };
	while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			ret->count = number_parse(optarg, COUNT_MAX);
			break;
		case 'i':
			ret->stdio_null = strcmp(optarg, "null") == 0;
			break;
		case 'p':
			ret->parallel = number_parse(optarg, PARALLEL_MAX);
			break;
		case 's':
			ret->sink = true;
			break;
		case 'w':
			ret->warmup = number_parse(optarg, COUNT_MAX);
			break;
		default:
			errx(2,
			     "usage: [--count N] [--warmup N] [--stdio pipe|null] [--parallel N] [--sink] -- PROGRAM ARG...");
		}
	}
	if (optind == argc || ret->count == 0)
		errx(2, "a program and a count above 0 are needed");
	ret->argv = argv + optind;
	ret->path = program_find(ret->argv[0]);
}

int
main(int argc, char **argv)
{
	struct settings settings;
	int null_fd;

	settings_parse(argc, argv, &settings);
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		err(1, "/dev/null");
	if (settings.parallel > 0)
		parallel_run(&settings, null_fd);
	else if (settings.sink)
		sink_run(&settings);
	else
		series_run(&settings, null_fd);
	return fflush(stdout) == 0 ? 0 : 1;
}
