/* modalsh-loopback -- Modal's API on 127.0.0.1, for trying and testing. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ev.h>

#include "shim/base/fd.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/control.h"
#include "tests/loopback/faults.h"
#include "tests/loopback/h2.h"
#include "tests/loopback/init.h"
#include "tests/loopback/launch.h"
#include "tests/loopback/router.h"
#include "tests/loopback/tls.h"
#include "tests/loopback/tree.h"
#include "tests/loopback/wire.h"
#include "tests/loopback/world.h"

enum {
	JWT_LIFE_S = 1200,
	SHARES_MAX = 32,
	LATENCY_MS_MAX = 60000,
	STRICT_START_DELAY_MS = 3,
	EXIT_USAGE = 2,
	TOKEN_FILE_LEN_MAX = 4096
};

static const char state_mark[] = ".modalsh-loopback";

struct options {
	uint16_t port, advertised_port;
	const char *port_file, *ca_file, *state_dir, *token_file, *faults;
	int latency_ms, ready_fd, jwt_life_s;
	bool strict_order, unary_stdin_only, jwt_cut_streams;
	char *shares[SHARES_MAX + 1];
	int share_count;
};

static const char help[] =
	"modalsh-loopback: Modal's sandbox API on 127.0.0.1, FOR TRYING AND TESTING ONLY.\n"
	"Sandboxes are bubblewrap sandboxes on this machine; images are this machine's /usr.\n"
	"\n"
	"usage: modalsh-loopback --state-dir DIR [options]\n"
	"  --listen 127.0.0.1:PORT  where to listen; 0 = any free port (default). TLS and plaintext HTTP/2\n"
	"                           on the same port; no other address is accepted\n"
	"  --advertise 127.0.0.1:PORT  the address in router URLs, for a proxy in front (default: --listen)\n"
	"  --port-file FILE         write the port there when listening\n"
	"  --ca-file FILE           write the throw-away CA certificate (PEM) there\n"
	"  --ready-fd N             write a line to descriptor N and close it when listening\n"
	"  --state-dir DIR          roots of sandboxes, snapshots, volumes; emptied at the end\n"
	"  --share DIR              show DIR, read-write, at the same path in every sandbox; repeatable\n"
	"  --token-file FILE        first line token id, second line token secret; without it the environment\n"
	"                           variables MODAL_TOKEN_ID and MODAL_TOKEN_SECRET say what clients must send\n"
	"  --jwt-seconds N          life-time of the tokens that are handed out (default 1200)\n"
	"  --jwt-cut-streams        end open calls when their token expires\n"
	"  --latency-ms N           deliver every byte N ms late, each way: a round trip takes 2N ms longer,\n"
	"                           a TLS 1.3 handshake too; TCP's own handshake does not\n"
	"  --strict-order           NOT_FOUND for calls about an exec that has not finished starting\n"
	"  --faults FIFO            obey the lines written there; see tests/loopback/faults.h\n"
	"  --unary-stdin-only       UNIMPLEMENTED for TaskExecStdinWriteStream\n";

/* -- options */

static int
number_parse(const char *text, int min, int max, int *ret)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max)
		return -EINVAL;
	*ret = (int)value;
	return 0;
}

static int
listen_parse(const char *text, uint16_t *ret_port)
{
	static const char host[] = "127.0.0.1:";
	int port, r;

	if (strncmp(text, host, sizeof host - 1) != 0)
		return -EINVAL;
	r = number_parse(text + sizeof host - 1, 0, UINT16_MAX, &port);
	if (r == 0)
		*ret_port = (uint16_t)port;
	return r;
}

static int
share_add(struct options *o, const char *path)
{
	char full[PATH_MAX];

	if (o->share_count == SHARES_MAX || !realpath(path, full))
		return -EINVAL;
	o->shares[o->share_count++] = text_copy(full);
	return 0;
}

enum option_code {
	OPTION_LISTEN = 1,
	OPTION_PORT_FILE,
	OPTION_CA_FILE,
	OPTION_READY_FD,
	OPTION_STATE_DIR,
	OPTION_SHARE,
	OPTION_TOKEN_FILE,
	OPTION_JWT_SECONDS,
	OPTION_JWT_CUT,
	OPTION_LATENCY,
	OPTION_STRICT,
	OPTION_UNARY,
	OPTION_ADVERTISE,
	OPTION_FAULTS,
	OPTION_HELP
};

static const struct option option_table[] = {
	{ "listen", required_argument, NULL, OPTION_LISTEN },
	{ "advertise", required_argument, NULL, OPTION_ADVERTISE },
	{ "port-file", required_argument, NULL, OPTION_PORT_FILE },
	{ "ca-file", required_argument, NULL, OPTION_CA_FILE },
	{ "ready-fd", required_argument, NULL, OPTION_READY_FD },
	{ "state-dir", required_argument, NULL, OPTION_STATE_DIR },
	{ "share", required_argument, NULL, OPTION_SHARE },
	{ "token-file", required_argument, NULL, OPTION_TOKEN_FILE },
	{ "jwt-seconds", required_argument, NULL, OPTION_JWT_SECONDS },
	{ "jwt-cut-streams", no_argument, NULL, OPTION_JWT_CUT },
	{ "latency-ms", required_argument, NULL, OPTION_LATENCY },
	{ "strict-order", no_argument, NULL, OPTION_STRICT },
	{ "unary-stdin-only", no_argument, NULL, OPTION_UNARY },
	{ "faults", required_argument, NULL, OPTION_FAULTS },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ NULL, 0, NULL, 0 },
};

static int
option_take(struct options *o, int code, const char *value)
{
	switch (code) {
	case OPTION_LISTEN:
		return listen_parse(value, &o->port);
	case OPTION_ADVERTISE:
		return listen_parse(value, &o->advertised_port);
	case OPTION_PORT_FILE:
		o->port_file = value;
		return 0;
	case OPTION_CA_FILE:
		o->ca_file = value;
		return 0;
	case OPTION_READY_FD:
		return number_parse(value, 0, INT_MAX, &o->ready_fd);
	case OPTION_STATE_DIR:
		o->state_dir = value;
		return 0;
	case OPTION_SHARE:
		return share_add(o, value);
	case OPTION_TOKEN_FILE:
		o->token_file = value;
		return 0;
	case OPTION_JWT_SECONDS:
		return number_parse(value, 1, INT_MAX, &o->jwt_life_s);
	case OPTION_JWT_CUT:
		o->jwt_cut_streams = true;
		return 0;
	case OPTION_LATENCY:
		return number_parse(value, 0, LATENCY_MS_MAX, &o->latency_ms);
	case OPTION_FAULTS:
		o->faults = value;
		return 0;
	case OPTION_STRICT:
		o->strict_order = true;
		return 0;
	case OPTION_UNARY:
		o->unary_stdin_only = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* Exits on --help and on errors. */
static void
options_parse(struct options *o, int argc, char **argv)
{
	int code, index = 0;

	while ((code = getopt_long(argc, argv, "", option_table, &index)) != -1) {
		if (code == OPTION_HELP) {
			fputs(help, stdout);
			exit(0);
		}
		if (option_take(o, code, optarg) < 0) {
			if (code != '?')
				fprintf(stderr, "modalsh-loopback: bad value for --%s: %s\n",
					option_table[index].name, optarg);
			exit(EXIT_USAGE);
		}
	}
	if (optind < argc || !o->state_dir) {
		fprintf(stderr, "modalsh-loopback: %s; see --help\n",
			o->state_dir ? "unexpected argument" : "--state-dir is required");
		exit(EXIT_USAGE);
	}
}

/* -- start */

static int
token_load(struct world *world, const char *path)
{
	char text[TOKEN_FILE_LEN_MAX];
	char *save = NULL;
	cleanup_close int fd = -1;
	ssize_t n;

	if (!path) {
		world->token_id = text_copy(getenv("MODAL_TOKEN_ID"));
		world->token_secret = text_copy(getenv("MODAL_TOKEN_SECRET"));
	} else {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
		text[n > 0 ? n : 0] = '\0';
		world->token_id = text_copy(strtok_r(text, "\n", &save));
		world->token_secret = text_copy(strtok_r(NULL, "\n", &save));
		explicit_bzero(text, sizeof text);
	}
	return *world->token_id && *world->token_secret ? 0 : -EINVAL;
}

static int
file_write(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	if (!file)
		return -errno;
	fputs(text, file);
	return fclose(file) == 0 ? 0 : -errno;
}

static const char *const state_parts[] = { "base", "sandboxes", "images", "volumes" };

/* Only what this program has made is ever removed. */
static void
state_clear(const char *dir)
{
	for (size_t i = 0; i < sizeof state_parts / sizeof *state_parts; i++) {
		char *path = text_format("%s/%s", dir, state_parts[i]);

		tree_remove(path);
		free(path);
	}
}

/* Held, by a descriptor that stays open, until the server ends. */
static int
state_lock(const char *mark)
{
	int fd = open(mark, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		close(fd);
		return -EBUSY;
	}
	return 0;
}

/* A new or empty directory, or one that an earlier run has left. */
static int
state_open(const char *dir)
{
	char *mark = text_format("%s/%s", dir, state_mark);
	int r = 0;

	tree_make(dir);
	if (access(mark, F_OK) < 0 && (rmdir(dir) < 0 || mkdir(dir, 0700) < 0))
		r = -errno;
	if (r == 0)
		r = state_lock(mark);
	if (r == 0)
		state_clear(dir);
	free(mark);
	for (size_t i = 1; i < sizeof state_parts / sizeof *state_parts && r == 0; i++) {
		char *path = text_format("%s/%s", dir, state_parts[i]);

		r = mkdir(path, 0755) < 0 ? -errno : 0;
		free(path);
	}
	return r < 0 ? r : launch_base_make(dir);
}

static void
state_close(const char *dir)
{
	char *mark = text_format("%s/%s", dir, state_mark);

	state_clear(dir);
	unlink(mark);
	rmdir(dir);
	free(mark);
}

static void
files_limit_raise(struct rlimit *ret_before)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, ret_before);
	limit = *ret_before;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void
fail(const char *what, int error)
{
	fprintf(stderr, "modalsh-loopback: %s: %s\n", what, strerror(-error));
	exit(1);
}

static void
world_init(struct world *world, struct options *o)
{
	static char program[PATH_MAX], state_dir[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
	int r;

	if (n < 0)
		fail("/proc/self/exe", -errno);
	if (token_load(world, o->token_file) < 0)
		fail("MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or --token-file, must say both",
		     -EINVAL);
	if ((r = state_open(o->state_dir)) < 0)
		fail(o->state_dir, r);
	if (!realpath(o->state_dir, state_dir))
		fail(o->state_dir, -errno);
	if ((r = jwt_issuer_init(&world->jwt, o->jwt_life_s)) < 0)
		fail("no randomness", r);
	world->loop = ev_default_loop(EVFLAG_AUTO);
	world->strict_order = o->strict_order;
	world->unary_stdin_only = o->unary_stdin_only;
	world->jwt_cut_streams = o->jwt_cut_streams;
	world->host.loop = world->loop;
	world->host.program = program;
	world->host.state_dir = state_dir;
	world->host.shares = o->shares;
	world->host.start_delay_ms = o->strict_order ? STRICT_START_DELAY_MS : 0;
	files_limit_raise(&world->host.files);
}

static void
on_signal(struct ev_loop *loop, ev_signal *signal, int events)
{
	(void)signal;
	(void)events;
	ev_break(loop, EVBREAK_ALL);
}

static void
announce(const struct options *o, const struct world *world, const struct tls_server *tls)
{
	char *text = text_format("%u\n", world->port);
	int r;

	if (o->ca_file && (r = tls_server_write_ca(tls, o->ca_file)) < 0)
		fail(o->ca_file, r);
	if (o->port_file && (r = file_write(o->port_file, text)) < 0)
		fail(o->port_file, r);
	fprintf(stderr,
		"modalsh-loopback: for trying and testing only; Modal's API on 127.0.0.1:%u\n",
		world->port);
	if (o->ready_fd >= 0) {
		if (write(o->ready_fd, text, strlen(text)) < 0)
			fail("--ready-fd", -errno);
		close(o->ready_fd);
	}
	free(text);
}

static int
serve(struct options *o)
{
	static const struct rpc_method *const tables[] = {
		account_methods, image_methods, control_methods, router_methods, entry_methods,
		task_methods,	 NULL,
	};
	struct world world = { 0 };
	struct rpc_server rpc = { .tables = tables, .admit = control_admit, .world = &world };
	struct h2_server h2 = { .user = &rpc_h2_user, .arg = &rpc };
	struct wire_options wire = { .latency_ms = o->latency_ms,
				     .user = &h2_wire_user,
				     .user_arg = &h2 };
	struct wire_listener *listener;
	struct faults *faults = NULL;
	ev_signal signals[2];
	int r;

	world_init(&world, o);
	rpc.loop = world.loop;
	wire.tls = tls_server_new();
	if (!wire.tls)
		fail("cannot make a certificate", -EPROTO);
	r = wire_listen(world.loop, o->port, &wire, &listener, &world.port);
	if (r < 0)
		fail("cannot listen", r);
	if (o->faults && !(faults = faults_open(o->faults, &h2, &rpc)))
		fail(o->faults, -errno);
	world.advertised_port = o->advertised_port ? o->advertised_port : world.port;
	signal(SIGPIPE, SIG_IGN);
	ev_signal_init(&signals[0], on_signal, SIGTERM);
	ev_signal_init(&signals[1], on_signal, SIGINT);
	ev_signal_start(world.loop, &signals[0]);
	ev_signal_start(world.loop, &signals[1]);
	announce(o, &world, wire.tls);
	ev_run(world.loop, 0);
	faults_free(faults);
	wire_listener_free(listener);
	sandbox_host_close(&world.host);
	state_close(world.host.state_dir);
	world_free(&world);
	for (int i = 0; i < o->share_count; i++)
		free(o->shares[i]);
	tls_server_free(wire.tls);
	return 0;
}

int
main(int argc, char **argv)
{
	struct options o = { .ready_fd = -1, .jwt_life_s = JWT_LIFE_S };
	bool was_open[3];

	if (argc == 3 && strcmp(argv[1], "--sandbox-init") == 0)
		return init_main(atoi(argv[2]));
	if (fd_ensure_stdio(was_open) < 0)
		return 1;
	options_parse(&o, argc, argv);
	return serve(&o);
}
