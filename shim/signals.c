#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim/signals.h"

/* struct sigaction as the kernel has it. */
struct kernel_action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

uint64_t
signals_bit(int signal)
{
	return UINT64_C(1) << (signal - 1);
}

uint64_t
signals_block_all(void)
{
	const uint64_t all = ~UINT64_C(0);
	uint64_t before = 0;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
	return before;
}

uint64_t
signals_ignored(void)
{
	struct kernel_action action;
	uint64_t ignored = 0;

	for (int signal = 1; signal <= SIGNALS_MAX; signal++) {
		if (syscall(SYS_rt_sigaction, signal, NULL, &action, sizeof action.mask) == 0 &&
		    action.handler == SIG_IGN)
			ignored |= signals_bit(signal);
	}
	return ignored;
}

int
signals_open(uint64_t mask, int *ret_fd)
{
	long fd = syscall(SYS_signalfd4, -1, &mask, sizeof mask, SFD_CLOEXEC | SFD_NONBLOCK);

	if (fd < 0)
		return -errno;
	*ret_fd = (int)fd;
	return 0;
}

int
signals_read(int fd, struct signals_event *ret)
{
	struct signalfd_siginfo info;
	ssize_t got = read(fd, &info, sizeof info);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (got != (ssize_t)sizeof info)
		return -EIO;
	*ret = (struct signals_event){ (int)info.ssi_signo, (int)info.ssi_pid,
				       info.ssi_code == SI_KERNEL };
	return 1;
}

bool
signals_is_stop(int signal)
{
	return signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

void
signals_stop_self(int signal)
{
	const uint64_t all = ~UINT64_C(0);
	uint64_t mask = 0;

	/* sending a stop signal throws a pending SIGCONT away, and nobody would wake us again */
	syscall(SYS_rt_sigpending, &mask, sizeof mask);
	if ((mask & signals_bit(SIGCONT)) != 0)
		return;
	kill(getpid(), signal);
	mask = ~signals_bit(signal);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask); /* stops here */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
}
