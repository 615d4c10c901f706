#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shim/base/clock.h"
#include "shim/base/fd.h"
#include "shim/base/fdpass.h"
#include "shim/guest/daemon.h"
#include "shim/guest/job.h"
#include "shim/guest/lane.h"
#include "shim/guest/loop.h"
#include "shim/guest/proc.h"
#include "shim/guest/spawn.h"

enum {
	/* `attach` sends its descriptors right after connect(): more than these are not waited
	 * for at a time. */
	NEWCOMERS_MAX = 8,
	END_WAIT_MS = 2000,
	END_STEP_MS = 20,
	LANE_FDS = 2,
	US_PER_MS = 1000,
};

struct guest {
	struct loop loop;
	struct spawn_base base;
	struct job_table table;
	struct broker broker;
	struct watch listener;
	struct watch signals;
	struct watch newcomers[NEWCOMERS_MAX];
	struct lane *lane;
	bool ending;
};

static void
guest_reap(struct guest *guest)
{
	struct rusage usage;
	int status;
	pid_t pid;

	while ((pid = wait4(-1, &status, WNOHANG | WUNTRACED, &usage)) > 0)
		job_table_reaped(&guest->table, pid, status, &usage);
}

static void
guest_signalled(struct watch *watch, uint32_t events)
{
	struct guest *guest = watch->context;
	struct signalfd_siginfo info;

	(void)events;
	while (read(watch->fd, &info, sizeof info) == (ssize_t)sizeof info)
		if (info.ssi_signo != SIGCHLD)
			guest->ending = true;
	guest_reap(guest);
}

/* A newcomer has sent its two descriptors: a new lane, which takes the place of the one before. */
static void
guest_admit(struct watch *watch, uint32_t events)
{
	struct guest *guest = watch->context;
	int fds[STREAMS_MAX];
	size_t count = 0;
	char byte;
	ssize_t got = fdpass_receive(watch->fd, &byte, sizeof byte, fds, &count);

	(void)events;
	if (got == -EAGAIN)
		return;
	if (got != (ssize_t)sizeof byte || count != LANE_FDS) {
		while (got >= 0 && count > 0)
			fd_cleanup(&fds[--count]);
		watch_close(&guest->loop, watch);
		return;
	}
	loop_set(&guest->loop, watch, 0);
	lane_free(guest->lane);
	guest->lane = lane_new(&guest->loop, &guest->table, &guest->broker, fd_steal(&watch->fd),
			       fds[0], fds[1]);
}

static void
guest_accept(struct watch *watch, uint32_t events)
{
	struct guest *guest = watch->context;
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	for (size_t i = 0; fd >= 0 && i < NEWCOMERS_MAX; i++) {
		if (guest->newcomers[i].fd >= 0)
			continue;
		watch_init(&guest->newcomers[i], fd_steal(&fd), guest_admit, guest);
		if (loop_set(&guest->loop, &guest->newcomers[i], EPOLLIN) < 0)
			watch_close(&guest->loop, &guest->newcomers[i]);
	}
	fd_cleanup(&fd);
}

static int
guest_watch_signals(struct guest *guest)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	watch_init(&guest->signals, fd, guest_signalled, guest);
	return loop_set(&guest->loop, &guest->signals, EPOLLIN);
}

static int
guest_init(struct guest *guest, int listener, char *const *env)
{
	int r;

	watch_init(&guest->listener, listener, guest_accept, guest);
	for (size_t i = 0; i < NEWCOMERS_MAX; i++)
		guest->newcomers[i].fd = -1;
	/* without it, orphans are init's and do not end with the lease */
	prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L);
	if ((r = spawn_base_init(&guest->base, env)) < 0 || (r = loop_init(&guest->loop)) < 0)
		return r;
	job_table_init(&guest->table, &guest->loop, &guest->base);
	if (getrandom(guest->broker.boot_id, sizeof guest->broker.boot_id, 0) !=
	    (ssize_t)sizeof guest->broker.boot_id)
		return -EIO;
	guest->broker.lease_ms = LEASE_FIRST_MS;
	guest->broker.heard_ms = clock_now_ms();
	if ((r = guest_watch_signals(guest)) < 0)
		return r;
	return loop_set(&guest->loop, &guest->listener, EPOLLIN);
}

/* When the lease runs out; INT64_MAX while the broker rests. */
static int64_t
guest_lease_at_ms(const struct guest *guest)
{
	if (guest->broker.resting)
		return INT64_MAX;
	return guest->broker.heard_ms + guest->broker.lease_ms;
}

static int64_t
guest_wait_us(const struct guest *guest)
{
	int64_t now_us = loop_now_us();
	int64_t at_us = guest->table.poll_at_us;
	int64_t lease_at_ms = guest_lease_at_ms(guest);

	if (guest->lane != NULL && lane_flush_at_us(guest->lane) < at_us)
		at_us = lane_flush_at_us(guest->lane);
	if (lease_at_ms != INT64_MAX && lease_at_ms * US_PER_MS < at_us)
		at_us = lease_at_ms * US_PER_MS;
	if (at_us == INT64_MAX)
		return -1;
	return at_us > now_us ? at_us - now_us : 0;
}

/* One round.  Returns 0 or -errno. */
static int
guest_turn(struct guest *guest)
{
	int r = loop_run(&guest->loop, guest_wait_us(guest));
	int64_t now_us = loop_now_us();

	job_table_tick(&guest->table, now_us);
	if (guest->lane != NULL)
		lane_flush(guest->lane, now_us);
	job_table_sweep(&guest->table);
	if (guest->lane != NULL && guest->lane->dropped) {
		lane_free(guest->lane);
		guest->lane = NULL;
	}
	if (guest_lease_at_ms(guest) <= clock_now_ms())
		guest->ending = true;
	return r;
}

/* Nobody is left to tell anything to.  Waits until no child is left, for at most END_WAIT_MS. */
static void
guest_end(struct guest *guest)
{
	int64_t until_ms = clock_now_ms() + END_WAIT_MS;
	const struct timespec step = { .tv_nsec = END_STEP_MS * 1000 * 1000 };
	pid_t pid;

	lane_free(guest->lane);
	guest->lane = NULL;
	watch_close(&guest->loop, &guest->listener);
	proc_signal_descendants(SIGTERM);
	proc_signal_descendants(SIGCONT); /* what is stopped hears no TERM */
	do {
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid == 0)
			nanosleep(&step, NULL);
	} while (pid == 0 && clock_now_ms() < until_ms);
	job_table_clear(&guest->table);
	while (proc_signal_descendants(SIGKILL) > 0 && clock_now_ms() < until_ms + END_WAIT_MS)
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
}

/* Above the daemon, so that no command outlives one that was killed: what it leaves behind becomes
 * ours. */
static void
warden_run(pid_t daemon)
{
	const struct timespec step = { .tv_nsec = END_STEP_MS * 1000 * 1000 };
	sigset_t mask;
	pid_t pid;

	/* one that is told to end takes the daemon along, by the signal that this sends there */
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
	do
		pid = waitpid(-1, NULL, 0);
	while (pid != daemon && (pid > 0 || errno == EINTR));
	while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0) {
		if (pid > 0)
			continue;
		proc_signal_descendants(SIGKILL);
		nanosleep(&step, NULL);
	}
}

/* Returns 0 in the daemon itself, which ends when its warden is killed; 1 in the warden when all is
 * over; -errno. */
static int
warden_start(int *listener)
{
	pid_t warden = getpid(), pid;

	prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L);
	pid = spawn_copy();
	if (pid < 0)
		return (int)pid;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, (long)SIGTERM, 0L, 0L, 0L);
		return getppid() == warden ? 0 : -ESRCH;
	}
	fd_close(listener);
	warden_run(pid);
	return 1;
}

int
daemon_run(int listener, char *const *env)
{
	struct guest *guest = NULL;
	int r = warden_start(&listener);

	if (r != 0)
		goto out;
	guest = calloc(1, sizeof *guest);
	r = -ENOMEM;
	if (guest == NULL)
		goto out;
	r = guest_init(guest, listener, env);
	while (r == 0 && !guest->ending)
		r = guest_turn(guest);
	if (guest->ending)
		guest_end(guest);
	for (size_t i = 0; i < NEWCOMERS_MAX; i++)
		watch_close(&guest->loop, &guest->newcomers[i]);
	watch_close(&guest->loop, &guest->signals);
	watch_close(&guest->loop, &guest->listener);
	chunk_pool_free(&guest->table.pool);
	loop_free(&guest->loop);
	spawn_base_free(&guest->base);
	listener = -1;
out:
	free(guest);
	fd_cleanup(&listener);
	return r < 0 ? r : 0;
}
