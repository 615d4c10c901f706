/* fault_proxy.c -- a TCP proxy that delivers every byte, and every end of stream, half a round-trip
 * time later, and that breaks connections in every way a network can.
 *
 * Bandwidth is unlimited: bytes are stamped when they arrive and delivered when their time has
 * come, however many there are.  Each direction holds at most RING_LEN bytes; when that is full the
 * proxy stops reading, so the sender feels back-pressure.  Setting up a connection costs no round
 * trip here (on a real link it costs one): this is for measuring what a warm connection does.
 *
 * usage: fault_proxy --to HOST:PORT --rtt-ms MS [--listen HOST:PORT] [--port-file FILE] [--control]
 *
 * With --control it obeys lines on stdin, answers each with "ok", and ends at stdin's end:
 *   rst | fin | stall      what happens to all open connections now: reset; closed in order;
 * nothing more goes through although they stay open, as when a firewall has forgotten them after N
 * ACTION         the same when N more bytes have been delivered, exactly there random SEED N MEAN
 * N cuts, each rst or fin, MEAN bytes apart on average, exactly there refuse on|off          new
 * connections are reset at once hole on|off            stalls everything, and new connections too
 *   delay MS               round-trip time from now on
 *   piece N                at most N bytes to a write; 0 = no limit
 *   state                  "state DELIVERED_BYTES CONNECTIONS_CUT OPEN_CONNECTIONS
 * RANDOM_CUTS_LEFT" before the "ok"
 */
#include <assert.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
	RING_LEN =
		64
		<< 20, /* 3 GB/s for the 20 ms of one direction; pages are used only when touched */
	MARKS_MAX = 1 << 14,   /* arrivals that are told apart; bounded, as the ring is */
	MARK_MERGE_NS = 20000, /* arrivals this close together share a stamp */
	CONNS_MAX = 512,
	RTT_MS_MAX = 60000,
	PATH_LEN_MAX = 4096,
	COMMAND_LEN_MAX = 256,
	SWALLOW_LEN = 64 << 10,
};
static_assert((RING_LEN & (RING_LEN - 1)) == 0, "ring offsets are masked");

struct mark {
	int64_t due_ns;
	uint64_t end; /* bytes up to this offset may be delivered when it is due */
};

/* One direction of a connection.  Offsets count bytes since its start. */
struct half {
	int from_fd, to_fd;
	char *ring;
	uint64_t arrived, delivered;
	struct mark marks[MARKS_MAX];
	unsigned mark_first, mark_count;
	int64_t end_due_ns; /* when the end of the stream may be passed on; -1 = it has not come */
	bool ended;	    /* it was passed on */
	bool blocked;	    /* the receiver's socket buffer is full */
};

struct conn {
	int client_fd, server_fd;
	struct half forth, back;
	bool swallowing; /* what comes is thrown away; the sockets stay until their peers close them
			  */
	bool client_gone, server_gone;
};

enum action { ACTION_RST, ACTION_FIN, ACTION_STALL };

/* What is going to happen to the bytes of all connections together. */
struct faults {
	uint64_t fuse_left; /* bytes until `action`; UINT64_MAX = never */
	enum action action; /* at the end of the fuse */
	bool blown;
	uint64_t random; /* state of the generator */
	uint64_t random_mean;
	unsigned random_left;
	size_t piece_len; /* 0 = no limit */
	bool refusing, hole;
	uint64_t delivered;
	unsigned cuts; /* connections that an action met */
};

struct proxy {
	int listen_fd;
	struct sockaddr_storage to;
	socklen_t to_len;
	int64_t delay_ns;
	struct conn *conns[CONNS_MAX];
	unsigned conn_count;
	struct faults faults;
	bool controlled;
	char command[COMMAND_LEN_MAX];
	size_t command_len;
};

static int64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct mark *
half_mark(struct half *half, unsigned index)
{
	return &half->marks[(half->mark_first + index) % MARKS_MAX];
}

static bool
half_wants_input(const struct half *half)
{
	return half->end_due_ns < 0 && half->arrived - half->delivered < RING_LEN &&
	       half->mark_count < MARKS_MAX;
}

/* The at most two pieces of the ring that begin at an offset. */
static int
ring_pieces(struct half *half, uint64_t offset, size_t len, struct iovec piece[2])
{
	size_t start = (size_t)(offset & (RING_LEN - 1));
	size_t first = len < RING_LEN - start ? len : RING_LEN - start;

	piece[0] = (struct iovec){ .iov_base = half->ring + start, .iov_len = first };
	piece[1] = (struct iovec){ .iov_base = half->ring, .iov_len = len - first };
	return len > first ? 2 : 1;
}

static void
half_stamp(struct half *half, int64_t due_ns)
{
	struct mark *last = half->mark_count > 0 ? half_mark(half, half->mark_count - 1) : NULL;

	if (last == NULL || due_ns - last->due_ns > MARK_MERGE_NS) {
		last = half_mark(half, half->mark_count++);
		last->due_ns = due_ns;
	}
	last->end = half->arrived;
}

/* Reads what has come, once.  Returns false when the connection is broken. */
static bool
half_read(struct half *half, int64_t delay_ns)
{
	struct iovec piece[2];
	size_t room = RING_LEN - (size_t)(half->arrived - half->delivered);
	int count = ring_pieces(half, half->arrived, room, piece);
	ssize_t len = readv(half->from_fd, piece, count);

	if (len < 0)
		return errno == EAGAIN || errno == EINTR;
	if (len == 0) {
		half->end_due_ns = now_ns() + delay_ns;
		return true;
	}
	half->arrived += (uint64_t)len;
	half_stamp(half, now_ns() + delay_ns);
	return true;
}

/* How far bytes are due. */
static uint64_t
half_due(struct half *half, int64_t now)
{
	uint64_t end = half->delivered;

	for (unsigned i = 0; i < half->mark_count && half_mark(half, i)->due_ns <= now; i++)
		end = half_mark(half, i)->end;
	return end;
}

static void
half_drop_marks(struct half *half)
{
	while (half->mark_count > 0 && half_mark(half, 0)->end <= half->delivered) {
		half->mark_first = (half->mark_first + 1) % MARKS_MAX;
		half->mark_count--;
	}
}

/* How much may be written at once: no further than to the end of the fuse. */
static size_t
write_len(const struct faults *faults, uint64_t len)
{
	if (faults->piece_len > 0 && len > faults->piece_len)
		len = faults->piece_len;
	return (size_t)(len < faults->fuse_left ? len : faults->fuse_left);
}

static void
write_count(struct faults *faults, size_t len)
{
	faults->delivered += len;
	if (faults->fuse_left == UINT64_MAX)
		return;
	faults->fuse_left -= len;
	faults->blown = faults->fuse_left == 0;
}

/* Delivers what is due, and the end of the stream behind it.  Returns false when the connection is
 * broken. */
static bool
half_write(struct half *half, struct faults *faults)
{
	struct iovec piece[2];
	int64_t now = now_ns();
	uint64_t end = half_due(half, now);

	half->blocked = false;
	while (half->delivered < end && !faults->blown) {
		int count = ring_pieces(half, half->delivered,
					write_len(faults, end - half->delivered), piece);
		ssize_t len = writev(half->to_fd, piece, count);

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0) {
			half->blocked = errno == EAGAIN;
			return half->blocked;
		}
		half->delivered += (uint64_t)len;
		half_drop_marks(half);
		write_count(faults, (size_t)len);
	}
	if (!half->ended && half->end_due_ns >= 0 && half->end_due_ns <= now &&
	    half->delivered == half->arrived) {
		half->ended = true;
		shutdown(half->to_fd, SHUT_WR);
	}
	return true;
}

/* When there is something to do next for a half that waits for nothing but time; INT64_MAX =
 * nothing. */
static int64_t
half_next_ns(struct half *half)
{
	if (half->blocked || half->ended)
		return INT64_MAX;
	if (half->mark_count > 0)
		return half_mark(half, 0)->due_ns;
	return half->end_due_ns >= 0 ? half->end_due_ns : INT64_MAX;
}

static bool
half_init(struct half *half, int from_fd, int to_fd)
{
	half->from_fd = from_fd;
	half->to_fd = to_fd;
	half->end_due_ns = -1;
	half->ring = mmap(NULL, RING_LEN, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return half->ring != MAP_FAILED;
}

static void
half_release(struct half *half)
{
	if (half->ring != NULL && half->ring != MAP_FAILED)
		munmap(half->ring, RING_LEN);
}

static void
conn_free(struct conn *conn)
{
	if (conn == NULL)
		return;
	half_release(&conn->forth);
	half_release(&conn->back);
	close(conn->client_fd);
	if (conn->server_fd >= 0)
		close(conn->server_fd);
	free(conn);
}

/* Takes ownership of client_fd, also on failure, which is NULL. */
static struct conn *
conn_new(const struct proxy *proxy, int client_fd)
{
	static const int on = 1;
	struct conn *conn = calloc(1, sizeof(*conn));

	if (conn == NULL) {
		close(client_fd);
		return NULL;
	}
	conn->client_fd = client_fd;
	conn->server_fd =
		socket(proxy->to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (conn->server_fd < 0 || !half_init(&conn->forth, client_fd, conn->server_fd) ||
	    !half_init(&conn->back, conn->server_fd, client_fd))
		goto fail;
	setsockopt(client_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(conn->server_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(conn->server_fd, (const struct sockaddr *)&proxy->to, proxy->to_len) < 0 &&
	    errno != EINPROGRESS)
		goto fail;
	return conn;
fail:
	conn_free(conn);
	return NULL;
}

/* The next close of the socket is a reset. */
static void
socket_set_reset(int fd)
{
	const struct linger linger = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static void
proxy_accept(struct proxy *proxy)
{
	int fd = accept4(proxy->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct conn *conn;

	if (fd < 0)
		return;
	if (proxy->faults.refusing) {
		socket_set_reset(fd);
		close(fd);
		return;
	}
	conn = conn_new(proxy, fd);
	if (conn == NULL)
		return;
	conn->swallowing = proxy->faults.hole;
	proxy->conns[proxy->conn_count++] = conn;
}

/* ---- faults ---- */

/* Returns false when the connection is to be freed now. */
static bool
conn_hit(struct conn *conn, enum action action)
{
	if (action == ACTION_RST) {
		socket_set_reset(conn->client_fd);
		socket_set_reset(conn->server_fd);
		return false;
	}
	if (action == ACTION_FIN) {
		shutdown(conn->client_fd, SHUT_WR);
		shutdown(conn->server_fd, SHUT_WR);
	}
	conn->swallowing = true;
	return true;
}

/* splitmix64 */
static uint64_t
random_next(struct faults *faults)
{
	uint64_t z = (faults->random += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void
random_arm(struct faults *faults)
{
	faults->fuse_left = UINT64_MAX;
	if (faults->random_left == 0)
		return;
	faults->random_left--;
	faults->fuse_left = 1 + random_next(faults) % (2 * faults->random_mean);
	faults->action = random_next(faults) & 1 ? ACTION_RST : ACTION_FIN;
}

static void
proxy_hit(struct proxy *proxy, enum action action)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < proxy->conn_count; i++) {
		struct conn *conn = proxy->conns[i];

		if (!conn->swallowing)
			proxy->faults.cuts++;
		if (conn->swallowing || conn_hit(conn, action))
			proxy->conns[kept++] = conn;
		else
			conn_free(conn);
	}
	proxy->conn_count = kept;
}

static enum action
action_parse(const char *text)
{
	if (strcmp(text, "rst") == 0)
		return ACTION_RST;
	if (strcmp(text, "fin") == 0)
		return ACTION_FIN;
	if (strcmp(text, "stall") == 0)
		return ACTION_STALL;
	errx(2, "no such fault: %s", text);
}

static void
control_obey(struct proxy *proxy, const char *line)
{
	struct faults *faults = &proxy->faults;
	unsigned long long number, seed;
	unsigned count;
	char word[8];

	if (strcmp(line, "state") == 0) {
		printf("state %llu %u %u %u\n", (unsigned long long)faults->delivered, faults->cuts,
		       proxy->conn_count, faults->random_left + (faults->fuse_left != UINT64_MAX));
	} else if (sscanf(line, "after %llu %7s", &number, word) == 2 && number > 0) {
		faults->action = action_parse(word);
		faults->fuse_left = number;
	} else if (sscanf(line, "random %llu %u %llu", &seed, &count, &number) == 3 && number > 0) {
		faults->random = seed;
		faults->random_left = count;
		faults->random_mean = number;
		random_arm(faults);
	} else if (sscanf(line, "refuse %7s", word) == 1) {
		faults->refusing = strcmp(word, "on") == 0;
	} else if (sscanf(line, "hole %7s", word) == 1) {
		faults->hole = strcmp(word, "on") == 0;
		if (faults->hole)
			proxy_hit(proxy, ACTION_STALL);
	} else if (sscanf(line, "delay %llu", &number) == 1) {
		proxy->delay_ns = (int64_t)number * 1000000 / 2;
	} else if (sscanf(line, "piece %llu", &number) == 1) {
		faults->piece_len = (size_t)number;
	} else {
		proxy_hit(proxy, action_parse(line));
	}
	printf("ok\n");
}

static void
control_read(struct proxy *proxy)
{
	ssize_t len = read(0, proxy->command + proxy->command_len,
			   sizeof(proxy->command) - proxy->command_len);
	char *end;

	if (len <= 0)
		exit(0);
	proxy->command_len += (size_t)len;
	while ((end = memchr(proxy->command, '\n', proxy->command_len)) != NULL) {
		*end = '\0';
		control_obey(proxy, proxy->command);
		proxy->command_len -= (size_t)(end + 1 - proxy->command);
		memmove(proxy->command, end + 1, proxy->command_len);
	}
	if (proxy->command_len == sizeof(proxy->command))
		errx(2, "a command is too long");
}

/* The fuse has burnt down. */
static void
faults_run(struct proxy *proxy)
{
	if (!proxy->faults.blown)
		return;
	proxy->faults.blown = false;
	proxy_hit(proxy, proxy->faults.action);
	random_arm(&proxy->faults);
}

static short
conn_events(const struct half *input, const struct half *output)
{
	int events = (half_wants_input(input) ? POLLIN : 0) | (output->blocked ? POLLOUT : 0);

	return (short)events;
}

/* Throws away what has come.  Returns true when the peer has closed the socket. */
static bool
socket_swallow(int fd)
{
	static char bytes[SWALLOW_LEN];
	ssize_t len;

	do
		len = read(fd, bytes, sizeof(bytes));
	while (len > 0);
	return len == 0 || (errno != EAGAIN && errno != EINTR);
}

/* Returns false when both peers have gone. */
static bool
conn_swallow(struct conn *conn)
{
	conn->client_gone = conn->client_gone || socket_swallow(conn->client_fd);
	conn->server_gone = conn->server_gone || socket_swallow(conn->server_fd);
	return !(conn->client_gone && conn->server_gone);
}

/* Moves what can be moved.  Returns false when the connection is over. */
static bool
conn_run(struct conn *conn, short client_events, short server_events, int64_t delay_ns,
	 struct faults *faults)
{
	const short readable = POLLIN | POLLHUP | POLLERR;

	if (conn->swallowing)
		return conn_swallow(conn);
	if ((client_events & readable) && half_wants_input(&conn->forth) &&
	    !half_read(&conn->forth, delay_ns))
		return false;
	if ((server_events & readable) && half_wants_input(&conn->back) &&
	    !half_read(&conn->back, delay_ns))
		return false;
	if ((client_events | server_events) & POLLNVAL)
		return false;
	if (!half_write(&conn->forth, faults) || !half_write(&conn->back, faults))
		return false;
	return !(conn->forth.ended && conn->back.ended);
}

/* Waits for sockets or for the next due byte, whatever comes first. */
static void
proxy_wait(struct proxy *proxy, struct pollfd *polled, nfds_t count)
{
	int64_t next_ns = INT64_MAX;
	struct timespec wait = { 0 };

	for (unsigned i = 0; i < proxy->conn_count; i++) {
		int64_t forth_ns = half_next_ns(&proxy->conns[i]->forth);
		int64_t back_ns = half_next_ns(&proxy->conns[i]->back);

		if (proxy->conns[i]->swallowing)
			continue;
		next_ns = forth_ns < next_ns ? forth_ns : next_ns;
		next_ns = back_ns < next_ns ? back_ns : next_ns;
	}
	if (next_ns != INT64_MAX) {
		int64_t left_ns = next_ns - now_ns();

		left_ns = left_ns > 0 ? left_ns : 0;
		wait.tv_sec = left_ns / 1000000000;
		wait.tv_nsec = left_ns % 1000000000;
	}
	if (ppoll(polled, count, next_ns == INT64_MAX ? NULL : &wait, NULL) < 0 && errno != EINTR)
		err(1, "ppoll");
}

static void
proxy_run(struct proxy *proxy)
{
	static struct pollfd polled[2 + 2 * CONNS_MAX];

	for (;;) {
		unsigned count = proxy->conn_count, kept = 0;

		memset(polled, 0, sizeof(polled[0]) * (2 + 2 * (size_t)count));
		polled[0].fd = count < CONNS_MAX ? proxy->listen_fd : -1;
		polled[0].events = POLLIN;
		for (unsigned i = 0; i < count; i++) {
			struct conn *conn = proxy->conns[i];
			short client_events = conn_events(&conn->forth, &conn->back);
			short server_events = conn_events(&conn->back, &conn->forth);

			if (conn->swallowing) {
				client_events = conn->client_gone ? 0 : POLLIN;
				server_events = conn->server_gone ? 0 : POLLIN;
			}
			/* A socket that hung up would wake poll for ever while there is nothing to
			 * do with it. */
			polled[1 + 2 * i] = (struct pollfd){ client_events ? conn->client_fd : -1,
							     client_events, 0 };
			polled[2 + 2 * i] = (struct pollfd){ server_events ? conn->server_fd : -1,
							     server_events, 0 };
		}
		polled[1 + 2 * count] = (struct pollfd){ proxy->controlled ? 0 : -1, POLLIN, 0 };
		proxy_wait(proxy, polled, 2 + 2 * (nfds_t)count);
		for (unsigned i = 0; i < count; i++) {
			struct conn *conn = proxy->conns[i];

			if (conn_run(conn, polled[1 + 2 * i].revents, polled[2 + 2 * i].revents,
				     proxy->delay_ns, &proxy->faults))
				proxy->conns[kept++] = conn;
			else
				conn_free(conn);
		}
		proxy->conn_count = kept;
		faults_run(proxy);
		if (polled[0].revents & POLLIN)
			proxy_accept(proxy);
		if (polled[1 + 2 * count].revents)
			control_read(proxy);
	}
}

/* Splits "HOST:PORT" at its last colon and resolves it; exits when that fails. */
static void
address_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV },
			*found = NULL;
	const char *colon = strrchr(text, ':');
	char host[NI_MAXHOST];
	int r;

	if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
		errx(2, "not HOST:PORT: %s", text);
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	r = getaddrinfo(host, colon + 1, &hints, &found);
	if (r != 0)
		errx(2, "%s: %s", text, gai_strerror(r));
	memcpy(ret, found->ai_addr, found->ai_addrlen);
	*ret_len = found->ai_addrlen;
	freeaddrinfo(found);
}

static int
listen_open(const char *text)
{
	struct sockaddr_storage address;
	socklen_t len;
	int fd, on = 1;

	address_parse(text, &address, &len);
	fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, SOMAXCONN) < 0)
		err(1, "listen on %s", text);
	return fd;
}

/* Writes the port and renames the file into place, so that whoever sees it sees all of it. */
static void
port_file_write(int fd, const char *path)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char service[NI_MAXSERV], temporary[PATH_LEN_MAX];
	FILE *file;

	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0 ||
	    getnameinfo((struct sockaddr *)&address, len, NULL, 0, service, sizeof(service),
			NI_NUMERICSERV) != 0)
		errx(1, "the port that is listened on is unknown");
	if (snprintf(temporary, sizeof(temporary), "%s.new", path) >= (int)sizeof(temporary))
		errx(2, "path too long: %s", path);
	file = fopen(temporary, "we");
	if (file == NULL || fprintf(file, "%s\n", service) < 0 || fclose(file) != 0 ||
	    rename(temporary, path) < 0)
		err(1, "%s", path);
}

static int64_t
delay_parse(const char *text)
{
	char *end;
	double rtt_ms = strtod(text, &end);

	if (end == text || *end != '\0' || !(rtt_ms >= 0 && rtt_ms <= RTT_MS_MAX))
		errx(2, "--rtt-ms takes 0 to %d, not %s", RTT_MS_MAX, text);
	return (int64_t)(rtt_ms * 1e6 / 2);
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "control", no_argument, NULL, 'c' },
		{ "listen", required_argument, NULL, 'l' },
		{ "port-file", required_argument, NULL, 'p' },
		{ "rtt-ms", required_argument, NULL, 'r' },
		{ "to", required_argument, NULL, 't' },
		{ 0 },
	};
	static struct proxy proxy = { .delay_ns = -1, .faults = { .fuse_left = UINT64_MAX } };
	const char *listen_text = "127.0.0.1:0", *port_file = NULL;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			proxy.controlled = true;
			break;
		case 'l':
			listen_text = optarg;
			break;
		case 'p':
			port_file = optarg;
			break;
		case 'r':
			proxy.delay_ns = delay_parse(optarg);
			break;
		case 't':
			address_parse(optarg, &proxy.to, &proxy.to_len);
			break;
		default:
			errx(2,
			     "usage: --to HOST:PORT --rtt-ms MS [--listen HOST:PORT] [--port-file FILE] [--control]");
		}
	}
	if (optind != argc || proxy.to_len == 0 || proxy.delay_ns < 0)
		errx(2, "--to and --rtt-ms are needed, and no other arguments");
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Timers are late by up to 50 us by default; that would be measured as a cost of what is
	 * behind the proxy. */
	prctl(PR_SET_TIMERSLACK, 1UL);
	proxy.listen_fd = listen_open(listen_text);
	if (port_file != NULL)
		port_file_write(proxy.listen_fd, port_file);
	proxy_run(&proxy);
}
