/* modalsh-broker: runs the commands of modalsh in a Modal sandbox.  Holds the credentials; starts
 * nothing on this host. */
#include <errno.h>
#include <ev.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "shim/base/clock.h"
#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/broker/config.h"
#include "shim/broker/conn.h"
#include "shim/broker/cred.h"
#include "shim/broker/job.h"
#include "shim/broker/lane.h"
#include "shim/broker/log.h"
#include "shim/broker/status.h"
#include "shim/lockdown/lockdown.h"

enum {
	EXIT_USAGE = 64,
	EXIT_CONFIG = 78,
	/* each command holds its connection and up to three descriptors */
	FDS_WANTED = 65536,
};

struct options {
	const char *config_path;
	bool foreground;
	bool check;
	int ready_fd;
};

struct broker {
	struct options options;
	struct config config;
	struct cred *cred;
	struct ev_loop *loop;
	struct edge_set *edges;
	struct job_context context;
	struct listener *listener;
	struct ev_signal terminate;
	struct ev_signal interrupt;
	int64_t started_ms;
	bool stopping;
};

static const char usage[] =
	"Usage: modalsh-broker --config FILE [--foreground] [--ready-fd N] [--check]\n"
	"\n"
	"Runs the commands of modalsh in a Modal sandbox.\n"
	"\n"
	"  --config FILE   configuration, YAML or JSON (blocks terminal: and modalsh:)\n"
	"  --foreground    stay in the foreground; otherwise returns when the socket is ready\n"
	"  --ready-fd N    write a newline to descriptor N when commands can be served\n"
	"  --check         check the configuration and end\n"
	"  --version, --help\n"
	"\n"
	"The token comes from MODAL_TOKEN_ID and MODAL_TOKEN_SECRET or ~/.modal.toml.\n"
	"Exit codes: 0 stopped, 1 failed, 64 usage, 78 configuration.\n";

static int
parse_options(int argc, char **argv, struct options *ret)
{
	static const struct option table[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "foreground", no_argument, NULL, 'f' },
		{ "ready-fd", required_argument, NULL, 'r' },
		{ "check", no_argument, NULL, 'k' },
		{ "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	char *end;
	int option;

	*ret = (struct options){ .ready_fd = -1 };
	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (option) {
		case 'c':
			ret->config_path = optarg;
			break;
		case 'f':
			ret->foreground = true;
			break;
		case 'k':
			ret->check = true;
			break;
		case 'r':
			ret->ready_fd = (int)strtol(optarg, &end, 10);
			if (*end != '\0' || ret->ready_fd < 0) {
				fprintf(stderr,
					"modalsh-broker: --ready-fd %s: not a descriptor number\n",
					optarg);
				return EXIT_USAGE;
			}
			break;
		case 'v':
			printf("modalsh-broker %s\n", MODALSH_VERSION);
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (ret->config_path == NULL || optind != argc) {
		fputs(usage, stderr);
		return EXIT_USAGE;
	}
	return 0;
}

/* ---- readiness ---- */

/* sd_notify(3)'s protocol: one datagram to $NOTIFY_SOCKET, whose first '@' stands for NUL. */
static void
notify_supervisor(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int fd = -1;
	socklen_t len;

	if (path == NULL || strlen(path) >= sizeof address.sun_path)
		return;
	memcpy(address.sun_path, path, strlen(path) + 1);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (address.sun_path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
	    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, len) < 0)
		log_warning("NOTIFY_SOCKET: %s", strerror(errno));
}

static void
say_ready(struct broker *broker)
{
	notify_supervisor("READY=1");
	if (broker->options.ready_fd >= 0) {
		if (write(broker->options.ready_fd, "\n", 1) != 1)
			log_warning("--ready-fd %d: %s", broker->options.ready_fd, strerror(errno));
		close(broker->options.ready_fd);
		broker->options.ready_fd = -1;
	}
	log_info("ready: commands run in sandbox session \"%s\" of app \"%s\"",
		 broker->config.session, broker->config.app);
}

static void
first_lane(void *arg, const struct err *err)
{
	struct broker *broker = arg;

	/* the socket is served either way: each command says for itself why it cannot run */
	if (err != NULL)
		log_error("%s", err->text);
	say_ready(broker);
}

/* ---- stopping ---- */

static void
lane_stopped(void *arg)
{
	struct broker *broker = arg;

	ev_break(broker->loop, EVBREAK_ALL);
}

static void
broker_stop(void *arg)
{
	struct broker *broker = arg;

	if (broker->stopping)
		return;
	broker->stopping = true;
	log_info("stopping");
	notify_supervisor("STOPPING=1");
	listener_close(broker->listener);
	lane_stop(broker->context.lane, lane_stopped, broker);
}

static void
stop_signal(struct ev_loop *loop, struct ev_signal *watcher, int events)
{
	(void)loop;
	(void)events;
	broker_stop(watcher->data);
}

static char *
broker_status(void *arg)
{
	struct broker *broker = arg;
	struct status_facts facts = {
		.config = &broker->config,
		.cred = broker->cred,
		.lane = broker->context.lane,
		.started_ms = broker->started_ms,
		.accepted = listener_accepted(broker->listener),
		.refused = listener_refused(broker->listener),
	};

	return status_json(&facts);
}

static const struct listener_events listener_events = { broker_status, broker_stop };

/* ---- starting ---- */

static void
raise_fd_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max < FDS_WANTED ? limit.rlim_max : FDS_WANTED;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

static void
watch_signals(struct broker *broker)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN); /* the operator's terminal is not our life-time */
	ev_signal_init(&broker->terminate, stop_signal, SIGTERM);
	ev_signal_init(&broker->interrupt, stop_signal, SIGINT);
	broker->terminate.data = broker->interrupt.data = broker;
	ev_signal_start(broker->loop, &broker->terminate);
	ev_signal_start(broker->loop, &broker->interrupt);
}

static int
broker_open(struct broker *broker, struct err *err)
{
	int r;

	broker->loop = ev_default_loop(EVFLAG_NOENV);
	if (broker->loop == NULL)
		return err_set(err, ENOSYS, "libev found no way to wait for events");
	watch_signals(broker);
	broker->context.loop = broker->loop;
	broker->context.config = &broker->config;
	if ((r = edge_set_new(broker->loop, &broker->edges, err)) < 0)
		return r;
	broker->context.edges = broker->edges;
	if ((r = source_tools_init(&broker->context.tools, broker->loop, broker->edges, err)) < 0 ||
	    (r = lane_new(broker->loop, &broker->config, broker->cred, &broker->context.lane,
			  err)) < 0)
		return r;
	return listener_new(&broker->context, &listener_events, broker, &broker->listener, err);
}

static void
broker_close(struct broker *broker)
{
	listener_free(broker->listener);
	lane_free(broker->context.lane);
	source_tools_release(&broker->context.tools);
	edge_set_free(broker->edges);
	cred_free(broker->cred);
	config_release(&broker->config);
}

/* Into the background only when the socket exists, so that the caller may connect as soon as we
 * return. */
static int
go_background(struct broker *broker, struct err *err)
{
	if (broker->options.foreground)
		return 0;
	if (daemon(0, 1) < 0)
		return err_errno(err, errno, "daemon");
	ev_loop_fork(broker->loop);
	return 0;
}

static int
broker_run(struct broker *broker, struct err *err)
{
	int r;

	if ((r = broker_open(broker, err)) < 0 || (r = go_background(broker, err)) < 0)
		return r;
	cred_pin(broker->cred);
	if ((r = lockdown_broker(err)) < 0)
		return r;
	if (broker->config.start_early) {
		lane_on_first(broker->context.lane, first_lane, broker);
		lane_want(broker->context.lane);
	} else {
		say_ready(broker);
	}
	ev_run(broker->loop, 0);
	log_info("stopped");
	return 0;
}

int
main(int argc, char **argv)
{
	struct broker broker = { .context.tools = { .null_fd = -1, .scratch = { -1, -1 } } };
	struct err err = { 0 };
	bool was_open[3];
	int r;

	prctl(PR_SET_DUMPABLE, 0); /* before the token is read */
	mallopt(M_MMAP_THRESHOLD,
		OUT_WINDOW_MIN); /* what waits for a stalled reader is given back page by page */
	if (fd_ensure_stdio(was_open) < 0)
		return 1;
	r = parse_options(argc, argv, &broker.options);
	if (r != 0)
		return r;
	broker.started_ms = clock_now_ms();
	raise_fd_limit();
	if (config_load(broker.options.config_path, &broker.config, &err) < 0) {
		fprintf(stderr, "modalsh-broker: %s\n", err.text);
		return EXIT_CONFIG;
	}
	log_set_level((enum log_level)log_level_from_name(broker.config.log_level));
	if (broker.options.check) {
		config_print_ignored(&broker.config, stdout);
		config_release(&broker.config);
		return 0;
	}
	r = cred_load(&broker.config, &broker.cred, &err);
	if (r == 0)
		r = broker_run(&broker, &err);
	if (r < 0)
		fprintf(stderr, "modalsh-broker: %s\n", err.text);
	broker_close(&broker);
	return r < 0 ? 1 : 0;
}
