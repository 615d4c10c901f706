/* How a process ended: observed on real processes. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/base/wstat.h"
#include "tests/unit/run.h"

/* The raw status of a child that ends by wstat_die(). */
static int
die_status(struct wstat wstat)
{
	int status = -1;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		wstat_die(&wstat);
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	return status;
}

START_TEST(test_exit_codes_survive)
{
	struct wstat got;

	for (int code = 0; code < 256; code += 15) {
		int status = die_status((struct wstat){ WSTAT_EXITED, (uint8_t)code });

		ck_assert_int_eq(wstat_from_wait(status, &got), 0);
		ck_assert_int_eq(got.kind, WSTAT_EXITED);
		ck_assert_int_eq(got.value, code);
	}
}
END_TEST

START_TEST(test_signal_deaths_survive)
{
	static const int signals[] = { SIGHUP,	SIGINT,	 SIGQUIT, SIGILL,  SIGABRT, SIGKILL,
				       SIGSEGV, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, 64 };
	struct wstat got;

	for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
		int status = die_status((struct wstat){ WSTAT_SIGNALED, (uint8_t)signals[i] });

		ck_assert_int_eq(wstat_from_wait(status, &got), 0);
		ck_assert_int_eq(got.kind, WSTAT_SIGNALED);
		ck_assert_int_eq(got.value, signals[i]);
		ck_assert_int_eq(WCOREDUMP(status), 0);
	}
}
END_TEST

/* Signals that do not kill by default cannot be died by: the shell's convention stands in. */
START_TEST(test_harmless_signals_become_codes)
{
	static const int signals[] = { SIGCHLD, SIGWINCH, SIGURG, SIGCONT };
	struct wstat got;

	for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
		int status = die_status((struct wstat){ WSTAT_SIGNALED, (uint8_t)signals[i] });

		ck_assert_int_eq(wstat_from_wait(status, &got), 0);
		ck_assert_int_eq(got.kind, WSTAT_EXITED);
		ck_assert_int_eq(got.value, 128 + signals[i]);
	}
}
END_TEST

/* Also when the signal is blocked and ignored in the process that shall die by it. */
START_TEST(test_blocked_signals_kill)
{
	struct wstat term = { WSTAT_SIGNALED, SIGTERM };
	int status = -1;
	pid_t pid = fork();
	sigset_t all;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		signal(SIGTERM, SIG_IGN);
		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, NULL);
		wstat_die(&term);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGTERM);
}
END_TEST

START_TEST(test_stopped_is_not_ended)
{
	struct wstat got = { 9, 9 };
	int status = -1;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		raise(SIGSTOP);
		for (;;)
			pause(); /* or its end would hide that it went on */
	}
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
	ck_assert_int_eq(wstat_from_wait(status, &got), -EINVAL);
	ck_assert(got.kind == 9 && got.value == 9);
	kill(pid, SIGCONT);
	ck_assert_int_eq(waitpid(pid, &status, WCONTINUED), pid);
	ck_assert(WIFCONTINUED(status));
	ck_assert_int_eq(wstat_from_wait(status, &got), -EINVAL);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
}
END_TEST

START_TEST(test_check_knows_the_possible_ones)
{
	for (unsigned kind = 0; kind < 256; kind++) {
		for (unsigned value = 0; value < 256; value++) {
			struct wstat wstat = { (uint8_t)kind, (uint8_t)value };
			bool possible = kind == WSTAT_EXITED ||
					(kind == WSTAT_SIGNALED && value >= 1 && value <= 64);

			ck_assert_int_eq(wstat_check(&wstat), possible ? 0 : -EBADMSG);
		}
	}
}
END_TEST

int
main(void)
{
	const struct rlimit cores_allowed = { RLIM_INFINITY, RLIM_INFINITY };
	Suite *suite = suite_create("wstat");
	TCase *tcase = tcase_create("wstat");

	/* so that "no core file" is wstat_die()'s doing */
	setrlimit(RLIMIT_CORE, &cores_allowed);
	tcase_add_test(tcase, test_exit_codes_survive);
	tcase_add_test(tcase, test_signal_deaths_survive);
	tcase_add_test(tcase, test_harmless_signals_become_codes);
	tcase_add_test(tcase, test_blocked_signals_kill);
	tcase_add_test(tcase, test_stopped_is_not_ended);
	tcase_add_test(tcase, test_check_knows_the_possible_ones);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
