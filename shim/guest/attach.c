#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/job.h"
#include "shim/base/fd.h"
#include "shim/base/fdpass.h"
#include "shim/guest/attach.h"
#include "shim/guest/daemon.h"
#include "shim/guest/spawn.h"

enum { BACKLOG = 16, NAME_LEN = 64 };

static uint64_t
hash_bytes(uint64_t hash, const void *data, size_t len)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
	return hash;
}

struct place {
	int dir_fd;
	char name[NAME_LEN]; /* without suffix */
};

/* The socket's address goes through /proc, because dir may be longer than an address can be. */
static void
place_address(const struct place *place, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/%s.sock", place->dir_fd,
		 place->name);
}

static int
place_find(const char *dir, struct place *place, struct err *err)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	char path[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
	struct stat stat_buf;
	int64_t size;

	if (len < 0 || stat("/proc/self/exe", &stat_buf) < 0)
		return err_errno(err, errno, "cannot find my own binary in /proc");
	path[len] = '\0';
	/* not its time: the same binary, installed once more, must find its daemon */
	size = (int64_t)stat_buf.st_size;
	hash = hash_bytes(hash, path, (size_t)len);
	hash = hash_bytes(hash, &size, sizeof size);
	snprintf(place->name, sizeof place->name, "guest-%d-%016" PRIx64, JOB_PROTOCOL_VERSION,
		 hash);
	if (dir == NULL)
		dir = dirname(path);
	place->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (place->dir_fd < 0)
		return err_errno(err, errno, "%s", dir);
	return 0;
}

/* Returns a connected socket, -ECONNREFUSED or -ENOENT when nobody listens, or another -errno. */
static int
daemon_connect(const struct place *place)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;

	if (fd < 0)
		return -errno;
	place_address(place, &address);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -errno;
	return fd_steal(&fd);
}

static int
daemon_listen(const struct place *place)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address;

	if (fd < 0)
		return -errno;
	place_address(place, &address);
	/* of a daemon that is gone: we hold the lock and nobody listened */
	unlink(address.sun_path);
	umask(077);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	return fd_steal(&fd);
}

/* Whoever holds the lock looks once more whether somebody listens, and else makes it so before
 * letting go. Connections queue up from listen() on, so no daemon has to be waited for. */
static int
daemon_start(const struct place *place, char *const *env, struct err *err)
{
	cleanup_close int lock_fd = -1;
	cleanup_close int listener = -1;
	char name[NAME_LEN + sizeof ".lock"];
	int r;

	snprintf(name, sizeof name, "%s.lock", place->name);
	lock_fd = openat(place->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock_fd < 0 || flock(lock_fd, LOCK_EX) < 0)
		return err_errno(err, errno, "cannot lock %s", name);
	r = daemon_connect(place);
	if (r >= 0)
		return r;
	listener = daemon_listen(place);
	if (listener < 0)
		return err_errno(err, -listener, "cannot listen on %s.sock", place->name);
	r = spawn_daemon(&listener);
	if (r == 0)
		_exit(daemon_run(fd_steal(&listener), env) == 0 ? 0 : 1);
	if (r < 0)
		return err_errno(err, -r, "cannot start the daemon");
	fd_close(&listener); /* or a daemon that cannot begin would not be noticed */
	r = daemon_connect(place);
	return r < 0 ? err_errno(err, -r, "the daemon does not listen") : r;
}

int
attach_run(const char *dir, char *const *env, struct err *err)
{
	const int lane_fds[2] = { STDIN_FILENO, STDOUT_FILENO };
	cleanup_close int connection = -1;
	struct place place;
	char byte = 0;
	ssize_t got;
	int r = place_find(dir, &place, err);

	if (r < 0)
		return r;
	connection = daemon_connect(&place);
	if (connection == -ECONNREFUSED || connection == -ENOENT)
		connection = daemon_start(&place, env, err);
	else if (connection < 0)
		err_errno(err, -connection, "cannot connect to %s.sock", place.name);
	fd_close(&place.dir_fd);
	if (connection < 0)
		return connection;
	r = fdpass_send(connection, &byte, sizeof byte, lane_fds, 2);
	if (r < 0)
		return err_errno(err, -r, "cannot pass the lane");
	do
		got = read(connection, &byte, sizeof byte);
	while (got > 0 || (got < 0 && errno == EINTR));
	return 0;
}
