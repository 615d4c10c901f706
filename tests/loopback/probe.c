#include "tests/loopback/probe.h"

#include <stdlib.h>
#include <sys/wait.h>

#include <ev.h>

#include "tests/loopback/bytes.h"
#include "tests/loopback/sandbox.h"

struct probe {
	struct sandbox *sandbox;
	char **argv;
	ev_timer timer;
	struct exec *exec; /* the try in progress */
	struct exec_watch watch;
};

static void
probe_wait(struct probe *p)
{
	ev_timer_start(p->sandbox->host->loop, &p->timer);
}

static void
on_exec_change(struct exec_watch *w)
{
	struct probe *p = w->arg;
	struct exec *x = p->exec;

	if (!x->lost && (x->state == EXEC_STARTING || x->state == EXEC_RUNNING))
		return;
	exec_unwatch(w);
	p->exec = NULL;
	if (x->lost)
		return;
	if (x->state == EXEC_ENDED && WIFEXITED(x->wait_status) && WEXITSTATUS(x->wait_status) == 0)
		sandbox_set_probed(p->sandbox);
	else
		probe_wait(p);
}

static void
on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct probe *p = timer->data;
	struct exec_spec spec = {
		.argv = p->argv,
		.env = p->sandbox->spec.env,
		.workdir = p->sandbox->spec.workdir,
		.discard_out = { true, true },
		.is_internal = true,
	};

	(void)loop;
	(void)events;
	if (!sandbox_accepts(p->sandbox))
		return;
	if (exec_start(p->sandbox, &spec, &p->exec) < 0) {
		probe_wait(p);
		return;
	}
	p->watch.on_change = on_exec_change;
	p->watch.arg = p;
	exec_watch(p->exec, &p->watch);
}

struct probe *
probe_start(struct sandbox *s, char **argv, uint32_t interval_ms)
{
	struct probe *p = mem_new(sizeof *p);

	p->sandbox = s;
	p->argv = argv;
	ev_timer_init(&p->timer, on_timer, interval_ms / 1000., 0.);
	p->timer.data = p;
	probe_wait(p);
	return p;
}

void
probe_free(struct probe *p)
{
	if (!p)
		return;
	exec_unwatch(&p->watch);
	ev_timer_stop(p->sandbox->host->loop, &p->timer);
	for (char **at = p->argv; *at; at++)
		free(*at);
	free(p->argv);
	free(p);
}
