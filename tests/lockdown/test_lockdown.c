/* test_lockdown.c -- the locks of shim and broker, tried from inside: each action runs in a child
 * of its own, with a lock on, and the parent looks at how the child ended. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/lockdown/lockdown.h"
#include "tests/unit/run.h"

/* How a child says what happened; a death by SIGSYS is seen by itself. */
enum { ACTION_WORKED = 0, ACTION_FAILED = 1, LOCK_FAILED = 99 };
/* Every errno that a test expects is below 100, so that it fits next to this in an exit code. */
enum { ERRNO_BASE = 100 };

enum lock { LOCK_NONE, LOCK_SHIM, LOCK_BROKER };

static char *const no_strings[] = { NULL };

static int
lock_set(enum lock lock)
{
	struct err err;

	switch (lock) {
	case LOCK_NONE:
		return 0;
	case LOCK_SHIM:
		return lockdown_shim();
	case LOCK_BROKER:
		return lockdown_broker(&err);
	}
	return -EINVAL;
}

static int
outcome(long result)
{
	return result >= 0	  ? ACTION_WORKED :
	       errno < ERRNO_BASE ? ERRNO_BASE + errno :
				    ACTION_FAILED;
}

/* Runs action() in a child with the lock on and returns the child's wait status. */
static int
run_locked(enum lock lock, int (*action)(void))
{
	pid_t child = fork();
	int wait_status;

	ck_assert_int_ge(child, 0);
	if (child == 0) {
		alarm(20);
		if (lock_set(lock) < 0)
			_exit(LOCK_FAILED);
		_exit(action());
	}
	ck_assert_int_eq(waitpid(child, &wait_status, 0), child);
	return wait_status;
}

static void
expect_code(enum lock lock, const char *name, int (*action)(void), int code)
{
	int wait_status = run_locked(lock, action);

	ck_assert_msg(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == code,
		      "%s: wait status %#x, not exit code %d", name, (unsigned)wait_status, code);
}

static void
expect_killed(enum lock lock, const char *name, int (*action)(void))
{
	int wait_status = run_locked(lock, action);

	ck_assert_msg(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGSYS,
		      "%s: wait status %#x, not a death by SIGSYS", name, (unsigned)wait_status);
	ck_assert_msg(!WCOREDUMP(wait_status), "%s: left a core file", name);
}

/* ---- actions ---- */

static int
do_execve(void)
{
	char *const argv[] = { "true", NULL };

	return outcome(execve("/bin/true", argv, no_strings));
}

static int
do_execveat(void)
{
	char *const argv[] = { "true", NULL };

	return outcome(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, no_strings, 0));
}

static int
child_of(long pid)
{
	if (pid == 0)
		_exit(0);
	return outcome(pid);
}

#ifdef SYS_fork
static int
do_fork_call(void)
{
	return child_of(syscall(SYS_fork));
}
#endif

static int
do_fork(void)
{
	return child_of(fork());
}

static int
do_clone(void)
{
	return child_of(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

static int
do_clone3(void)
{
	uint64_t arguments[8] = { [4] = SIGCHLD };

	return child_of(syscall(SYS_clone3, arguments, sizeof arguments));
}

static int
do_spawn(void)
{
	char *const argv[] = { "true", NULL };
	pid_t pid;

	errno = posix_spawn(&pid, "/bin/true", NULL, NULL, argv, no_strings);
	return outcome(errno == 0 ? 0 : -1);
}

static int
do_system(void)
{
	return outcome(system("true") == 0 ? 0 : -1);
}

static int
do_popen(void)
{
	return outcome(popen("true", "r") == NULL ? -1 : 0);
}

static int
do_ptrace(void)
{
	return outcome(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
}

static int
do_open(void)
{
	return outcome(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static int
do_socket_inet(void)
{
	return outcome(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static int
do_socket_unix(void)
{
	return outcome(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static int
do_push_key(void)
{
	return outcome(ioctl(0, TIOCSTI, "x"));
}

static int
do_map_code(void)
{
	void *code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return outcome(code == MAP_FAILED ? -1 : 0);
}

static int
do_make_code(void)
{
	void *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return data == MAP_FAILED ? ACTION_FAILED :
				    outcome(mprotect(data, 4096, PROT_READ | PROT_EXEC));
}

static int
do_unlink(void)
{
	return outcome(unlink("/nonexistent"));
}

static int
do_prctl(void)
{
	return outcome(prctl(PR_GET_DUMPABLE));
}

/* What the shim does all day. */
static int
do_shim_work(void)
{
	struct pollfd nothing = { .fd = -1 };
	char path[4096];
	struct rlimit limit;
	int pair[2];
	uint64_t mask = 1;
	void *memory =
		mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || munmap(memory, 1 << 20) < 0 || poll(&nothing, 1, 1) != 0 ||
	    getcwd(path, sizeof path) == NULL || prlimit(0, RLIMIT_NOFILE, NULL, &limit) < 0)
		return ACTION_FAILED;
	umask(umask(0));
	if (getpriority(PRIO_PROCESS, 0) < -20 ||
	    readlink("/proc/self/cwd", path, sizeof path) < 0 ||
	    syscall(SYS_signalfd4, -1, &mask, sizeof mask, 0) < 0 || close(0) < 0)
		return ACTION_FAILED;
	/* the filter has no socketpair(), and needs none */
	return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 && errno == EPERM ? ACTION_WORKED :
										 ACTION_FAILED;
}

static int
do_die(void)
{
	signal(SIGTERM, SIG_DFL);
	kill(getpid(), SIGTERM);
	return ACTION_FAILED;
}

static int
do_lock_again(void)
{
	struct err err = { 0 };

	/* the shim's filter takes prctl() away: a lock that cannot be set must be an error, not a
	 * silence */
	return lockdown_shim() == -EPERM && lockdown_broker(&err) == -EPERM && err.code == -EPERM &&
			       err.text[0] != '\0' ?
		       ACTION_WORKED :
		       ACTION_FAILED;
}

/* ---- the shim ---- */

static const struct {
	const char *name;
	int (*run)(void);
} starts[] = {
	{ "execve", do_execve },       { "execveat", do_execveat }, { "fork", do_fork },
	{ "clone", do_clone },	       { "posix_spawn", do_spawn }, { "system", do_system },
	{ "popen", do_popen },	       { "ptrace", do_ptrace },
#ifdef SYS_fork
	{ "fork call", do_fork_call },
#endif
};

enum { START_COUNT = sizeof starts / sizeof starts[0] };

/* Without a lock every one of them works: the tests below do not pass for another reason. */
START_TEST(actions_work_without_a_lock)
{
	expect_code(LOCK_NONE, starts[_i].name, starts[_i].run, ACTION_WORKED);
}
END_TEST

START_TEST(shim_starts_nothing)
{
	/* popen() makes a pipe first, which the shim may not */
	if (starts[_i].run == do_popen)
		expect_code(LOCK_SHIM, starts[_i].name, starts[_i].run, ERRNO_BASE + EPERM);
	else
		expect_killed(LOCK_SHIM, starts[_i].name, starts[_i].run);
}
END_TEST

START_TEST(shim_is_denied_the_rest)
{
	expect_killed(LOCK_SHIM, "clone3", do_clone3);
	expect_code(LOCK_SHIM, "open", do_open, ERRNO_BASE + EPERM);
	expect_code(LOCK_SHIM, "AF_INET", do_socket_inet, ERRNO_BASE + EPERM);
	expect_code(LOCK_SHIM, "TIOCSTI", do_push_key, ERRNO_BASE + EPERM);
	expect_code(LOCK_SHIM, "mmap PROT_EXEC", do_map_code, ERRNO_BASE + EPERM);
	expect_code(LOCK_SHIM, "mprotect PROT_EXEC", do_make_code, ERRNO_BASE + EPERM);
	expect_code(LOCK_SHIM, "unlink", do_unlink, ERRNO_BASE + EPERM);
	expect_code(LOCK_SHIM, "prctl", do_prctl, ERRNO_BASE + EPERM);
	expect_code(LOCK_NONE, "open", do_open, ACTION_WORKED);
	expect_code(LOCK_NONE, "mprotect PROT_EXEC", do_make_code, ACTION_WORKED);
}
END_TEST

START_TEST(shim_can_work)
{
	int wait_status;

	expect_code(LOCK_SHIM, "AF_UNIX", do_socket_unix, ACTION_WORKED);
	expect_code(LOCK_SHIM, "the shim's work", do_shim_work, ACTION_WORKED);
	wait_status = run_locked(LOCK_SHIM, do_die);
	ck_assert(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGTERM);
}
END_TEST

START_TEST(lock_that_cannot_be_set_is_an_error)
{
	expect_code(LOCK_SHIM, "locking again", do_lock_again, ACTION_WORKED);
}
END_TEST

/* ---- the broker ---- */

START_TEST(broker_starts_nothing)
{
	expect_killed(LOCK_BROKER, starts[_i].name, starts[_i].run);
}
END_TEST

/* Calls by number with arguments that the kernel would refuse, so that only the filter can kill. */
static long call_number;

static int
do_call(void)
{
	return outcome(syscall(call_number, -1, 0, 0, 0, 0, 0));
}

static const long denied_calls[] = {
	SYS_vfork,
	SYS_process_vm_readv,
	SYS_process_vm_writev,
	SYS_process_madvise,
	SYS_pidfd_getfd,
	SYS_userfaultfd,
	SYS_mount,
	SYS_umount2,
	SYS_pivot_root,
	SYS_chroot,
	SYS_move_mount,
	SYS_open_tree,
	SYS_fsopen,
	SYS_fsconfig,
	SYS_fsmount,
	SYS_fspick,
	SYS_mount_setattr,
	SYS_unshare,
	SYS_setns,
	SYS_open_by_handle_at,
	SYS_swapon,
	SYS_swapoff,
	SYS_kexec_load,
	SYS_kexec_file_load,
	SYS_init_module,
	SYS_finit_module,
	SYS_delete_module,
	SYS_bpf,
	SYS_perf_event_open,
	SYS_acct,
	SYS_settimeofday,
	SYS_clock_settime,
	SYS_add_key,
	SYS_request_key,
	SYS_keyctl,
};

START_TEST(broker_is_denied_the_machine)
{
	char name[32];

	call_number = denied_calls[_i];
	snprintf(name, sizeof name, "system call %ld", call_number);
	expect_killed(LOCK_BROKER, name, do_call);
}
END_TEST

START_TEST(broker_calls_that_do_not_exist)
{
	expect_code(LOCK_BROKER, "clone3", do_clone3, ERRNO_BASE + ENOSYS);
	call_number = SYS_io_uring_setup;
	expect_code(LOCK_BROKER, "io_uring_setup", do_call, ERRNO_BASE + ENOSYS);
}
END_TEST

#ifdef __x86_64__
/* The calls of 32-bit programs have other numbers: execve is 11 there. */
static int
do_call_32(void)
{
	long result = 20; /* getpid */

	__asm__ volatile("int $0x80" : "+a"(result) : : "memory");
	return ACTION_WORKED;
}

START_TEST(no_way_around_by_another_architecture)
{
	int plain = run_locked(LOCK_NONE, do_call_32);

	if (WIFSIGNALED(plain))
		return; /* the kernel itself has no such calls */
	expect_killed(LOCK_SHIM, "int 0x80", do_call_32);
	expect_killed(LOCK_BROKER, "int 0x80", do_call_32);
}
END_TEST
#endif

static void *
resolve(void *result)
{
	struct addrinfo *addresses = NULL;
	int *r = result;

	*r = getaddrinfo("localhost", "443", NULL, &addresses);
	freeaddrinfo(addresses);
	return NULL;
}

/* As libcurl does it. */
static int
do_resolve_in_a_thread(void)
{
	pthread_t thread;
	int r = -1;

	if (pthread_create(&thread, NULL, resolve, &r) != 0 || pthread_join(thread, NULL) != 0)
		return ACTION_FAILED;
	return r == 0 ? ACTION_WORKED : ACTION_FAILED;
}

static int
do_broker_work(void)
{
	int pipes[2], listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listener < 0 || pipe2(pipes, O_CLOEXEC) < 0 || do_socket_inet() != ACTION_WORKED ||
	    do_open() != ACTION_WORKED)
		return ACTION_FAILED;
	/* how two descriptors are compared, and a pipe is looked into */
	if (syscall(SYS_kcmp, getpid(), getpid(), 0, pipes[0], pipes[1]) < 0 ||
	    tee(pipes[0], pipes[1], 1, SPLICE_F_NONBLOCK) >= 0 || errno == EPERM)
		return ACTION_FAILED;
	return ACTION_WORKED;
}

static int
do_look_at_settings(void)
{
	struct rlimit core;

	return prctl(PR_GET_DUMPABLE) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 &&
			       getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 &&
			       core.rlim_max == 0 ?
		       ACTION_WORKED :
		       ACTION_FAILED;
}

START_TEST(broker_can_work)
{
	expect_code(LOCK_BROKER, "getaddrinfo in a thread", do_resolve_in_a_thread, ACTION_WORKED);
	expect_code(LOCK_BROKER, "the broker's work", do_broker_work, ACTION_WORKED);
	expect_code(LOCK_BROKER, "its settings", do_look_at_settings, ACTION_WORKED);
}
END_TEST

static void *
fork_when_told(void *data)
{
	int *told = data;
	char byte;

	if (read(told[0], &byte, 1) == 1)
		child_of(fork());
	return NULL;
}

/* The thread is older than the lock. */
static int
do_fork_in_an_old_thread(void)
{
	struct err err;
	pthread_t thread;
	int told[2];

	if (pipe2(told, O_CLOEXEC) < 0 ||
	    pthread_create(&thread, NULL, fork_when_told, told) != 0 || lockdown_broker(&err) < 0 ||
	    write(told[1], "x", 1) != 1)
		return ACTION_FAILED;
	pthread_join(thread, NULL);
	return ACTION_WORKED;
}

START_TEST(broker_lock_holds_in_older_threads)
{
	expect_killed(LOCK_NONE, "fork in an older thread", do_fork_in_an_old_thread);
}
END_TEST

int
main(void)
{
	const int denied_count = (int)(sizeof denied_calls / sizeof denied_calls[0]);
	Suite *suite = suite_create("lockdown");
	TCase *tests = tcase_create("locks");

	tcase_set_timeout(tests, 60);
	tcase_add_loop_test(tests, actions_work_without_a_lock, 0, START_COUNT);
	tcase_add_loop_test(tests, shim_starts_nothing, 0, START_COUNT);
	tcase_add_test(tests, shim_is_denied_the_rest);
	tcase_add_test(tests, shim_can_work);
	tcase_add_test(tests, lock_that_cannot_be_set_is_an_error);
	tcase_add_loop_test(tests, broker_starts_nothing, 0, START_COUNT);
	tcase_add_loop_test(tests, broker_is_denied_the_machine, 0, denied_count);
	tcase_add_test(tests, broker_calls_that_do_not_exist);
	tcase_add_test(tests, broker_can_work);
	tcase_add_test(tests, broker_lock_holds_in_older_threads);
#ifdef __x86_64__
	tcase_add_test(tests, no_way_around_by_another_architecture);
#endif
	suite_add_tcase(suite, tests);
	return run_suite(suite);
}
