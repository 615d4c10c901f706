#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/base/strv.h"
#include "shim/guest/spawn.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(address, len) ((void)(address), (void)(len))
#endif

enum {
	STACK_LEN = 128 * 1024,
	CANDIDATE_LEN = 2 * 4096,
	SIGNALS = 64,
	DESCRIPTORS_MAX = 1024 * 1024, /* fs.nr_open's usual value */
	KEPT_FD = 3,
	CHILD_FAILED_CODE = 127,
};

static const char path_default[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static const char shell_path[] = "/bin/sh";

/* Everything that the child needs, prepared by its parent: the child must not allocate. */
struct child {
	const struct spawn_base *base;
	const struct spawn_plan *plan;
	const struct job_start *start;
	char *program;
	char *cwd;
	char **argv;
	char **script_argv; /* argv for /bin/sh, when the program is a script without "#!" */
	char **env;	    /* strings belong to env_added or to the base */
	char **env_added;
	char shell[sizeof shell_path];
	struct job_failure failure; /* stage 0: none */
};

/* The kernel's own call: the C library keeps some real-time signals to itself. Only the handler,
 * which comes first in the kernel's struct on every architecture, is not zero. */
static void
signal_set(int number, void (*handler)(int))
{
	struct {
		void (*handler)(int);
		unsigned long rest[8];
	} action = { .handler = handler };

	syscall(SYS_rt_sigaction, number, &action, NULL, sizeof(uint64_t));
}

static void
signal_mask(uint64_t mask)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
}

static int
child_fail(struct child *child, uint8_t stage)
{
	child->failure = (struct job_failure){ stage, (uint32_t)errno };
	return -1;
}

/* ---- in the child ---- */

/* No source may stand where another stream belongs, so those that do move above the highest
 * target first. */
static int
child_move_sources(struct spawn_stream *streams, size_t count)
{
	int target_max = 2;

	for (size_t i = 0; i < count; i++)
		if (streams[i].target > target_max)
			target_max = streams[i].target;
	for (size_t i = 0; i < count; i++) {
		if (streams[i].source <= target_max)
			streams[i].source =
				fcntl(streams[i].source, F_DUPFD_CLOEXEC, target_max + 1);
		if (streams[i].source < 0)
			return -1;
	}
	return 0;
}

static int
child_streams(struct child *child)
{
	struct spawn_stream streams[STREAMS_MAX];
	size_t count = child->plan->stream_count;

	memcpy(streams, child->plan->streams, sizeof streams);
	if (child_move_sources(streams, count) < 0)
		return child_fail(child, JOB_STAGE_STREAMS);
	for (size_t i = 0; i < count; i++)
		if (dup2(streams[i].source, streams[i].target) < 0)
			return child_fail(child, JOB_STAGE_STREAMS);
	return 0;
}

/* What cannot be raised is set as high as possible; what a sandbox kernel does not let anybody
 * set (gVisor: EPERM) stays. */
static int
limit_set(const struct job_limit *limit)
{
	struct rlimit wanted = { limit->soft, limit->hard };
	struct rlimit present;

	if (setrlimit(limit->resource, &wanted) == 0)
		return 0;
	if (errno != EPERM || getrlimit(limit->resource, &present) < 0)
		return -1;
	if (wanted.rlim_max > present.rlim_max)
		wanted.rlim_max = present.rlim_max;
	if (wanted.rlim_cur > wanted.rlim_max)
		wanted.rlim_cur = wanted.rlim_max;
	return setrlimit(limit->resource, &wanted) == 0 || errno == EPERM ? 0 : -1;
}

static int
child_limits(struct child *child)
{
	const struct job_start *start = child->start;
	struct job_limit files = {
		.resource = RLIMIT_NOFILE,
		.soft = child->base->limits[RLIMIT_NOFILE].rlim_cur,
		.hard = child->base->limits[RLIMIT_NOFILE].rlim_max,
	};
	const struct job_limit *limit;
	const struct rlimit *present;

	for (uint32_t i = 0; i < start->limit_count; i++) {
		limit = &start->limits[i];
		if (limit->resource == RLIMIT_NOFILE)
			files = *limit;
		if (limit->resource == RLIMIT_NOFILE || limit->resource >= RLIMITS_MAX)
			continue;
		present = &child->base->limits[limit->resource];
		if (present->rlim_cur == limit->soft && present->rlim_max == limit->hard)
			continue;
		if (limit_set(limit) < 0)
			return child_fail(child, JOB_STAGE_LIMITS);
	}
	return limit_set(&files) < 0 ? child_fail(child, JOB_STAGE_LIMITS) : 0;
}

static void
child_execute_file(struct child *child, char *path)
{
	execve(path, child->argv, child->env);
	if (errno != ENOEXEC)
		return;
	child->script_argv[1] = path;
	execve(shell_path, child->script_argv, child->env);
}

/* As execvp() does: every directory in turn; a file that may not be executed is remembered over
 * one that is not there. */
static void
child_execute_search(struct child *child)
{
	char candidate[CANDIDATE_LEN];
	const char *path = child->base->path;
	const char *end;
	bool denied = false;
	int len;

	for (;; path = end + 1) {
		end = strchrnul(path, ':');
		len = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)(end - path), path,
			       end == path ? "" : "/", child->program);
		if (len > 0 && (size_t)len < sizeof candidate)
			child_execute_file(child, candidate);
		else
			errno = ENAMETOOLONG;
		if (errno == EACCES)
			denied = true;
		else if (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG)
			return;
		if (*end == '\0')
			break;
	}
	errno = denied ? EACCES : ENOENT;
}

static int
child_execute(struct child *child)
{
	if (child->program[0] == '\0')
		errno = ENOENT;
	else if (strchr(child->program, '/') != NULL)
		child_execute_file(child, child->program);
	else
		child_execute_search(child);
	return child_fail(child, JOB_STAGE_PROGRAM);
}

static int
child_main(void *argument)
{
	struct child *child = argument;
	const struct job_start *start = child->start;

	setsid();
	if (child->plan->terminal >= 0 && ioctl(child->plan->terminal, TIOCSCTTY, 0) < 0) {
		child_fail(child, JOB_STAGE_TERMINAL);
		_exit(CHILD_FAILED_CODE);
	}
	if (child_streams(child) < 0)
		_exit(CHILD_FAILED_CODE);
	umask((mode_t)start->umask);
	if (start->nice != child->base->nice)
		setpriority(PRIO_PROCESS, 0, start->nice); /* or it stays as it is */
	if (chdir(child->cwd) < 0) {
		child_fail(child, JOB_STAGE_DIRECTORY);
		_exit(CHILD_FAILED_CODE);
	}
	for (int number = 1; number <= SIGNALS; number++)
		if (start->ignored & (UINT64_C(1) << (number - 1)))
			signal_set(number, SIG_IGN);
	if (child_limits(child) < 0)
		_exit(CHILD_FAILED_CODE);
	signal_mask(start->blocked);
	child_execute(child);
	_exit(CHILD_FAILED_CODE);
}

/* ---- in the parent ---- */

static char *
view_copy(struct view view)
{
	char *copy = malloc(view.len + 1);

	if (copy == NULL)
		return NULL;
	memcpy(copy, view.data, view.len);
	copy[view.len] = '\0';
	return copy;
}

static bool
env_has(char *const *env, const char *entry)
{
	size_t name_len = (size_t)(strchrnul(entry, '=') - entry);

	for (; *env != NULL; env++)
		if (strncmp(*env, entry, name_len) == 0 && (*env)[name_len] == '=')
			return true;
	return false;
}

static int
child_prepare_env(struct child *child)
{
	size_t base_count = child->start->env_base ? strv_count(child->base->env) : 0;
	size_t count = 0;

	child->env_added = job_strings_copy(child->start->env);
	child->env = calloc(base_count + (size_t)child->start->env.count + 1, sizeof *child->env);
	if (child->env_added == NULL || child->env == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < base_count; i++)
		if (!env_has(child->env_added, child->base->env[i]))
			child->env[count++] = child->base->env[i];
	for (char **entry = child->env_added; *entry != NULL; entry++)
		child->env[count++] = *entry;
	return 0;
}

static int
child_prepare(struct child *child)
{
	size_t count = child->start->argv.count;

	child->program = view_copy(child->start->program);
	child->cwd = view_copy(child->start->cwd);
	child->argv = job_strings_copy(child->start->argv);
	child->script_argv = calloc(count + 2, sizeof *child->script_argv);
	if (child->program == NULL || child->cwd == NULL || child->argv == NULL ||
	    child->script_argv == NULL)
		return -ENOMEM;
	memcpy(child->shell, shell_path, sizeof shell_path);
	child->script_argv[0] = child->shell;
	memcpy(child->script_argv + 2, child->argv + 1, (count - 1) * sizeof *child->argv);
	return child_prepare_env(child);
}

static void
child_release(struct child *child)
{
	free(child->program);
	free(child->cwd);
	strv_free(child->argv);
	free(child->script_argv);
	free(child->env);
	strv_free(child->env_added);
}

pid_t
spawn_command(const struct spawn_base *base, const struct spawn_plan *plan,
	      struct job_failure *ret_failure)
{
	struct child child = { .base = base, .plan = plan, .start = plan->start };
	pid_t pid = -1;
	int r = child_prepare(&child);

	if (r == 0)
		pid = clone(child_main, base->stack + STACK_LEN, CLONE_VM | CLONE_VFORK | SIGCHLD,
			    &child);
	/* the child's functions never return, so their marks would stay on the stack of the next
	 * one */
	ASAN_UNPOISON_MEMORY_REGION(base->stack, STACK_LEN);
	if (r < 0 || pid < 0) {
		if (r == 0)
			r = -errno;
		child.failure = (struct job_failure){ JOB_STAGE_FORK, (uint32_t)-r };
	}
	child_release(&child);
	if (child.failure.stage == 0)
		return pid;
	*ret_failure = child.failure;
	return -1;
}

static void
spawn_raise_descriptors(const struct rlimit *present)
{
	struct rlimit wanted = { present->rlim_max, present->rlim_max };

	if (wanted.rlim_cur > DESCRIPTORS_MAX)
		wanted.rlim_cur = DESCRIPTORS_MAX;
	if (wanted.rlim_cur > present->rlim_cur)
		setrlimit(RLIMIT_NOFILE, &wanted); /* with less, fewer commands run at a time */
}

int
spawn_base_init(struct spawn_base *base, char *const *env)
{
	*base = (struct spawn_base){ .env = env };
	for (uint8_t i = 0; i < RLIMITS_MAX; i++)
		if (getrlimit(i, &base->limits[i]) < 0)
			base->limits[i] = (struct rlimit){ 0, 0 };
	base->nice = getpriority(PRIO_PROCESS, 0);
	base->path = strv_env(env, "PATH");
	if (base->path == NULL)
		base->path = path_default;
	base->stack = mmap(NULL, STACK_LEN, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (base->stack == MAP_FAILED) {
		base->stack = NULL;
		return -errno;
	}
	spawn_raise_descriptors(&base->limits[RLIMIT_NOFILE]);
	return 0;
}

void
spawn_base_free(struct spawn_base *base)
{
	if (base->stack != NULL)
		munmap(base->stack, STACK_LEN);
	base->stack = NULL;
}

static void
close_from(unsigned int first)
{
	long count = sysconf(_SC_OPEN_MAX);

	if (syscall(SYS_close_range, first, ~0U, 0) == 0)
		return;
	if (count < 0 || count > DESCRIPTORS_MAX)
		count = DESCRIPTORS_MAX;
	for (int fd = (int)first; fd < count; fd++)
		close(fd);
}

/* Close-on-exec also on 0, 1 and 2: a command has the descriptors of its plan and no others. */
static int
null_stdio(void)
{
	cleanup_close int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null_fd < 0)
		return -errno;
	for (int fd = 0; fd <= 2; fd++)
		if (dup3(null_fd, fd, O_CLOEXEC) < 0)
			return -errno;
	return 0;
}

static int
daemon_begin(int *keep_fd)
{
	int r;

	signal_mask(~UINT64_C(0));
	for (int number = 1; number <= SIGNALS; number++)
		signal_set(number, SIG_DFL);
	if (setsid() < 0 || chdir("/") < 0)
		return -errno;
	if (*keep_fd != KEPT_FD) {
		if (dup3(*keep_fd, KEPT_FD, O_CLOEXEC) < 0)
			return -errno;
		*keep_fd = KEPT_FD;
	}
	close_from(KEPT_FD + 1);
	r = null_stdio();
	return r;
}

pid_t
spawn_copy(void)
{
	pid_t pid = fork();

	return pid < 0 ? -errno : pid;
}

pid_t
spawn_daemon(int *keep_fd)
{
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0 && daemon_begin(keep_fd) < 0)
		_exit(CHILD_FAILED_CODE);
	return pid;
}
