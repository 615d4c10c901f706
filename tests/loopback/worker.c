#include "tests/loopback/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ev.h>

#include "tests/loopback/bytes.h"

struct worker {
	ev_child ended;
	void (*on_done)(void *arg, int result);
	void *arg;
};

void
worker_child_prepare(pid_t parent)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		sigaction(number, &action, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
}

static void
on_ended(struct ev_loop *loop, ev_child *child, int events)
{
	struct worker *w = child->data;
	int result = WIFEXITED(child->rstatus) ? -WEXITSTATUS(child->rstatus) : -EIO;

	(void)events;
	ev_child_stop(loop, child);
	w->on_done(w->arg, result);
	free(w);
}

struct worker *
worker_start(struct ev_loop *loop, int (*work)(void *arg), void (*on_done)(void *arg, int result),
	     void *arg)
{
	struct worker *w = mem_new(sizeof *w);
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid < 0)
		abort();
	if (pid == 0) {
		worker_child_prepare(parent);
		_exit(-work(arg) & 0xff);
	}
	w->on_done = on_done;
	w->arg = arg;
	ev_child_init(&w->ended, on_ended, pid, 0);
	w->ended.data = w;
	ev_child_start(loop, &w->ended);
	return w;
}
