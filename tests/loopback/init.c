#include "tests/loopback/init.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/base/fdpass.h"
#include "shim/base/limits.h"
#include "tests/loopback/bytes.h"

enum { FDS_WAITING_MAX = 64, CHILDREN_STEP = 64 };

struct child {
	pid_t pid;
	uint32_t id;
};

struct init {
	int socket, signals;
	struct bytes in;
	int fds[FDS_WAITING_MAX]; /* received, their frames not yet handled */
	size_t fd_count;
	struct child *children;
	size_t child_count, child_cap;
};

/* A frame being taken apart; `bad` sticks. */
struct reader {
	const uint8_t *at;
	size_t left;
	bool bad;
};

struct start {
	uint32_t rows, columns;
	const char *cwd;
	char **argv, **env;
	int stdio[3];
	int terminal; /* master side, or -1 */
};

/* What a container gives its root: enough for package managers and su, nothing that reaches out of
 * it. */
static const int capabilities_kept[] = {
	CAP_CHOWN,	CAP_DAC_OVERRIDE, CAP_FSETID,	   CAP_FOWNER,	CAP_NET_RAW,
	CAP_SETGID,	CAP_SETUID,	  CAP_SETFCAP,	   CAP_SETPCAP, CAP_NET_BIND_SERVICE,
	CAP_SYS_CHROOT, CAP_KILL,	  CAP_AUDIT_WRITE,
};

/* -- frames */

static uint32_t
take_u32(struct reader *r)
{
	uint32_t value = 0;

	if (r->left < sizeof value) {
		r->bad = true;
		return 0;
	}
	memcpy(&value, r->at, sizeof value);
	r->at += sizeof value;
	r->left -= sizeof value;
	return value;
}

static char *
take_text(struct reader *r)
{
	size_t len = strnlen((const char *)r->at, r->left);
	union {
		const uint8_t *in;
		char *out;
	} text = { .in = r->at };

	if (len == r->left) {
		r->bad = true;
		return NULL;
	}
	r->at += len + 1;
	r->left -= len + 1;
	return text.out;
}

/* The strings stay in the frame. */
static char **
take_strings(struct reader *r)
{
	uint32_t count = take_u32(r);
	char **strings;

	if (r->bad || count > r->left) {
		r->bad = true;
		return NULL;
	}
	strings = mem_new((count + 1) * sizeof *strings);
	for (uint32_t i = 0; i < count; i++)
		strings[i] = take_text(r);
	return strings;
}

static void
answer(struct init *init, enum init_type type, uint32_t id, int32_t value, const int *fd)
{
	struct init_answer a = {
		.header = { sizeof a, type, id, fd ? 1 : 0 },
		.value = value,
	};

	fdpass_send(init->socket, &a, sizeof a, fd, fd ? 1 : 0);
}

/* -- commands */

static void
child_signals(void)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		sigaction(number, &action, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int
child_stdio(const struct start *s)
{
	int fds[3] = { s->stdio[0], s->stdio[1], s->stdio[2] };
	char name[32];
	int number, slave;

	if (s->terminal >= 0) {
		if (ioctl(s->terminal, TIOCGPTN, &number) < 0)
			return -1;
		snprintf(name, sizeof name, "/dev/pts/%d", number);
		slave = open(name, O_RDWR);
		if (slave < 0 || ioctl(slave, TIOCSCTTY, 0) < 0)
			return -1;
		fds[0] = fds[1] = fds[2] = slave;
	}
	for (int i = 0; i < 3; i++) {
		if (dup2(fds[i], i) < 0)
			return -1;
	}
	return 0;
}

/* Looks the command up in the PATH of its own environment, as a container runtime does. */
static void
child_exec(const struct start *s)
{
	const char *path = NULL;
	char full[PATH_MAX];
	int seen = ENOENT;

	if (strchr(s->argv[0], '/')) {
		execve(s->argv[0], s->argv, s->env);
		return;
	}
	for (char **e = s->env; *e; e++) {
		if (strncmp(*e, "PATH=", 5) == 0)
			path = *e + 5;
	}
	while (path && *path) {
		size_t len = strcspn(path, ":");

		if (len > 0 && len < sizeof full - strlen(s->argv[0]) - 2) {
			snprintf(full, sizeof full, "%.*s/%s", (int)len, path, s->argv[0]);
			execve(full, s->argv, s->env);
			seen = errno == EACCES || seen == ENOENT ? errno : seen;
		}
		path += len + (path[len] == ':');
	}
	errno = seen;
}

/* Runs in the memory of its parent, which sleeps: nothing here may return or allocate. */
static void __attribute__((noreturn)) child_run(const struct start *s, volatile int *ret_errno)
{
	setsid();
	child_signals();
	if (child_stdio(s) == 0 && chdir(s->cwd) == 0) {
		close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
		child_exec(s);
	}
	*ret_errno = errno;
	_exit(127);
}

static pid_t __attribute__((noinline)) child_start(const struct start *s, int *ret_errno)
{
	volatile int error = 0;
	pid_t pid = vfork();

	if (pid == 0)
		child_run(s, &error);
	*ret_errno = pid < 0 ? errno : error;
	return pid;
}

static void
child_remember(struct init *init, pid_t pid, uint32_t id)
{
	if (init->child_count == init->child_cap) {
		init->child_cap += CHILDREN_STEP;
		init->children =
			mem_resize(init->children, init->child_cap * sizeof *init->children);
	}
	init->children[init->child_count++] = (struct child){ pid, id };
}

static int
terminal_open(const struct start *s)
{
	struct winsize size = {
		.ws_row = (unsigned short)s->rows,
		.ws_col = (unsigned short)s->columns,
	};
	int unlock = 0;
	int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	ioctl(fd, TIOCSPTLCK, &unlock);
	ioctl(fd, TIOCSWINSZ, &size);
	return fd;
}

static void
command_run(struct init *init, uint32_t id, struct start *s)
{
	int error = 0;
	pid_t pid;

	if (s->rows || s->columns) {
		s->terminal = terminal_open(s);
		if (s->terminal < 0) {
			answer(init, INIT_STARTED, id, -s->terminal, NULL);
			return;
		}
	}
	pid = child_start(s, &error);
	if (pid > 0 && error)
		waitpid(pid, NULL, 0);
	else if (pid > 0)
		child_remember(init, pid, id);
	answer(init, INIT_STARTED, id, error, s->terminal >= 0 && !error ? &s->terminal : NULL);
}

static int
command_start(struct init *init, const struct init_header *h, struct reader *r, const int *fds)
{
	struct start s = { .terminal = -1, .stdio = { -1, -1, -1 } };

	s.rows = take_u32(r);
	s.columns = take_u32(r);
	s.cwd = take_text(r);
	s.argv = take_strings(r);
	s.env = take_strings(r);
	if (!r->bad && s.argv[0] && (s.rows || h->fd_count == 3)) {
		if (h->fd_count == 3)
			memcpy(s.stdio, fds, sizeof s.stdio);
		command_run(init, h->id, &s);
	} else {
		r->bad = true;
	}
	fd_close(&s.terminal);
	free(s.argv);
	free(s.env);
	return r->bad ? -EBADMSG : 0;
}

static void
command_kill(struct init *init, uint32_t id)
{
	for (size_t i = 0; i < init->child_count; i++) {
		if (init->children[i].id != id)
			continue;
		kill(-init->children[i].pid, SIGKILL);
		kill(init->children[i].pid, SIGKILL);
	}
}

static void
children_reap(struct init *init)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (size_t i = 0; i < init->child_count; i++) {
			if (init->children[i].pid != pid)
				continue;
			answer(init, INIT_EXITED, init->children[i].id, status, NULL);
			init->children[i] = init->children[--init->child_count];
			break;
		}
	}
}

/* -- mounts and network */

static int
directory_make(const char *path)
{
	char part[PATH_MAX];
	size_t len = strlen(path);

	if (path[0] != '/' || len >= sizeof part)
		return EINVAL;
	for (size_t i = 1; i <= len; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		snprintf(part, sizeof part, "%.*s", (int)i, path);
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return errno;
	}
	return 0;
}

static int
mount_bind(const char *source, const char *target)
{
	int error = directory_make(target);

	if (error)
		return error;
	return mount(source, target, NULL, MS_BIND | MS_REC, NULL) < 0 ? errno : 0;
}

static int
loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return errno;
	return 0;
}

/* Commands started from now on are in the new network; those that run stay where they are. */
static int
network_set(bool open_network, const int *fds, size_t fd_count)
{
	if (open_network)
		return fd_count == 1 && setns(fds[0], CLONE_NEWNET) == 0 ? 0 : errno;
	if (unshare(CLONE_NEWNET) < 0)
		return errno;
	return loopback_up();
}

/* -- the loop */

static int
frame_handle(struct init *init, const struct init_header *h, struct reader *r, const int *fds)
{
	const char *source, *target;

	switch ((enum init_type)h->type) {
	case INIT_START:
		return command_start(init, h, r, fds);
	case INIT_KILL:
		command_kill(init, h->id);
		return 0;
	case INIT_MOUNT:
		source = take_text(r);
		target = take_text(r);
		if (r->bad)
			return -EBADMSG;
		answer(init, INIT_DONE, h->id, mount_bind(source, target), NULL);
		return 0;
	case INIT_UNMOUNT:
		target = take_text(r);
		if (r->bad)
			return -EBADMSG;
		answer(init, INIT_DONE, h->id, umount2(target, MNT_DETACH) < 0 ? errno : 0, NULL);
		return 0;
	case INIT_NETWORK:
		answer(init, INIT_DONE, h->id, network_set(take_u32(r) != 0, fds, h->fd_count),
		       NULL);
		return 0;
	case INIT_READY:
	case INIT_STARTED:
	case INIT_EXITED:
	case INIT_DONE:
		break;
	}
	return -EBADMSG;
}

/* Handles the first frame if it is complete.  Returns 1, 0 when more bytes are needed, or -errno.
 */
static int
frame_take(struct init *init)
{
	struct init_header h;
	struct reader r;
	int result;

	if (init->in.len < sizeof h)
		return 0;
	memcpy(&h, bytes_front(&init->in), sizeof h);
	if (h.len < sizeof h || h.len > INIT_FRAME_LEN_MAX || h.fd_count > 3)
		return -EBADMSG;
	if (init->in.len < h.len)
		return 0;
	if (h.fd_count > init->fd_count)
		return -EBADMSG;
	r = (struct reader){ .at = bytes_front(&init->in) + sizeof h, .left = h.len - sizeof h };
	result = frame_handle(init, &h, &r, init->fds);
	for (uint32_t i = 0; i < h.fd_count; i++)
		close(init->fds[i]);
	init->fd_count -= h.fd_count;
	memmove(init->fds, init->fds + h.fd_count, init->fd_count * sizeof *init->fds);
	bytes_drop(&init->in, h.len);
	return result < 0 ? result : 1;
}

static int
socket_read(struct init *init)
{
	int fds[STREAMS_MAX];
	size_t count = 0;
	ssize_t n = fdpass_receive(init->socket, bytes_room(&init->in, 65536), 65536, fds, &count);
	int r;

	if (n == -EAGAIN)
		return 0;
	if (n <= 0 || init->fd_count + count > FDS_WAITING_MAX)
		return -EPIPE;
	bytes_added(&init->in, (size_t)n);
	memcpy(init->fds + init->fd_count, fds, count * sizeof *fds);
	init->fd_count += count;
	while ((r = frame_take(init)) > 0)
		;
	return r;
}

/* Commands get these through the bounding set, which limits what exec gives to root. */
static void
capabilities_limit(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	for (int cap = 0; cap <= CAP_LAST_CAP; cap++) {
		bool keep = false;

		for (size_t i = 0; i < sizeof capabilities_kept / sizeof *capabilities_kept; i++)
			keep = keep || capabilities_kept[i] == cap;
		if (!keep)
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	}
	/* bwrap makes them inheritable and ambient when it runs without root. */
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capget, &header, data) == 0) {
		data[0].inheritable = data[1].inheritable = 0;
		syscall(SYS_capset, &header, data);
	}
}

static int
signals_open(void)
{
	sigset_t children;

	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	return signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
}

int
init_main(int socket)
{
	struct init init = { .socket = socket, .signals = signals_open() };
	struct pollfd polls[2] = {
		{ .fd = init.socket, .events = POLLIN },
		{ .fd = init.signals, .events = POLLIN },
	};

	fcntl(socket, F_SETFD, FD_CLOEXEC);
	umask(022);
	capabilities_limit();
	answer(&init, INIT_READY, 0, 0, NULL);
	for (;;) {
		struct signalfd_siginfo info;

		if (poll(polls, 2, -1) < 0 && errno != EINTR)
			return 1;
		if (polls[1].revents && read(init.signals, &info, sizeof info) > 0)
			children_reap(&init);
		if (polls[0].revents && socket_read(&init) < 0)
			return 0;
	}
}
