#include "tests/loopback/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ev.h>

#include "tests/loopback/bytes.h"
#include "tests/loopback/h2.h"
#include "tests/loopback/rpc.h"
#include "tests/loopback/world.h"

enum { LINE_LEN_MAX = 128 };

struct faults {
	struct h2_server *h2;
	struct rpc_server *rpc;
	int fd;
	ev_io readable;
	char line[LINE_LEN_MAX];
	size_t len;
};

static void
visit_reset(struct h2_stream *s, void *user, void *arg)
{
	(void)arg;
	if (rpc_is_router(user))
		h2_reset(s);
}

static void
visit_end(struct h2_stream *s, void *user, void *arg)
{
	const int *status = arg;

	(void)s;
	if (rpc_is_router(user))
		rpc_abort(user, *status, "a fault was asked for");
}

static void
faults_obey(struct faults *f, const char *line)
{
	int number;

	if (strcmp(line, "goaway") == 0) {
		h2_go_away(f->h2, false);
	} else if (strcmp(line, "terminate") == 0) {
		h2_go_away(f->h2, true);
	} else if (strcmp(line, "reset") == 0) {
		h2_each(f->h2, visit_reset, NULL);
	} else if (sscanf(line, "end %d", &number) == 1) {
		h2_each(f->h2, visit_end, &number);
	} else if (sscanf(line, "unavailable %d", &number) == 1) {
		f->rpc->unavailable_until_s = ev_time() + number / 1e3;
		number = STATUS_UNAVAILABLE;
		h2_each(f->h2, visit_end, &number);
	} else if (sscanf(line, "advertise %d", &number) == 1) {
		((struct world *)f->rpc->world)->advertised_port = (uint16_t)number;
	} else {
		fprintf(stderr, "modalsh-loopback: no such fault: %s\n", line);
	}
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct faults *f = io->data;
	ssize_t n = read(f->fd, f->line + f->len, sizeof f->line - f->len);
	char *end;

	(void)loop;
	(void)events;
	if (n <= 0)
		return;
	f->len += (size_t)n;
	while ((end = memchr(f->line, '\n', f->len))) {
		*end = '\0';
		faults_obey(f, f->line);
		f->len -= (size_t)(end + 1 - f->line);
		memmove(f->line, end + 1, f->len);
	}
	if (f->len == sizeof f->line)
		f->len = 0;
}

struct faults *
faults_open(const char *path, struct h2_server *h2, struct rpc_server *rpc)
{
	struct faults *f;
	int fd;

	if (mkfifo(path, 0600) < 0 && errno != EEXIST)
		return NULL;
	/* Also for writing, so that it never ends. */
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	f = mem_new(sizeof *f);
	f->h2 = h2;
	f->rpc = rpc;
	f->fd = fd;
	ev_io_init(&f->readable, on_readable, fd, EV_READ);
	f->readable.data = f;
	ev_io_start(rpc->loop, &f->readable);
	return f;
}

void
faults_free(struct faults *f)
{
	if (!f)
		return;
	ev_io_stop(f->rpc->loop, &f->readable);
	close(f->fd);
	free(f);
}
