#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/base/wstat.h"

enum { SIGNAL_MAX = 64, SIGNAL_EXIT_BASE = 128 };

int
wstat_from_wait(int wait_status, struct wstat *ret)
{
	if (WIFEXITED(wait_status))
		*ret = (struct wstat){ WSTAT_EXITED, (uint8_t)WEXITSTATUS(wait_status) };
	else if (WIFSIGNALED(wait_status))
		*ret = (struct wstat){ WSTAT_SIGNALED, (uint8_t)WTERMSIG(wait_status) };
	else
		return -EINVAL;
	return 0;
}

int
wstat_check(const struct wstat *wstat)
{
	if (wstat->kind == WSTAT_EXITED)
		return 0;
	if (wstat->kind == WSTAT_SIGNALED && wstat->value >= 1 && wstat->value <= SIGNAL_MAX)
		return 0;
	return -EBADMSG;
}

_Noreturn void
wstat_die(const struct wstat *wstat)
{
	const struct rlimit no_core = { 0, 0 };
	uint64_t bit;

	if (wstat->kind == WSTAT_SIGNALED) {
		setrlimit(RLIMIT_CORE, &no_core);
		signal(wstat->value, SIG_DFL);
		/* the call itself: libc's would refuse the signals that it keeps for its threads */
		bit = (uint64_t)1 << (wstat->value - 1);
		syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &bit, NULL, sizeof bit);
		kill(getpid(), wstat->value);
		/* a signal whose default is to be ignored or to stop us: say it as a shell would */
		_exit(SIGNAL_EXIT_BASE + wstat->value);
	}
	_exit(wstat->value);
}
