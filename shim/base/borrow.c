#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim/base/borrow.h"

/* linux/fs.h and linux/kcmp.h, which not every libc's headers reach. */
enum { RWF_NOWAIT_FLAG = 8, KCMP_FILE_TYPE = 0 };
/* Linux: the memory devices. */
enum {
	MEMORY_MAJOR = 1,
	NULL_MINOR = 3,
	ZERO_MINOR = 5,
	FULL_MINOR = 7,
	RANDOM_MINOR = 8,
	URANDOM_MINOR = 9
};

int
borrow_device(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return 0;
	if (!S_ISCHR(st.st_mode) || major(st.st_rdev) != MEMORY_MAJOR)
		return -EINVAL;
	switch (minor(st.st_rdev)) {
	case NULL_MINOR:
	case ZERO_MINOR:
	case FULL_MINOR:
	case RANDOM_MINOR:
	case URANDOM_MINOR:
		return (int)minor(st.st_rdev);
	default:
		return -EINVAL;
	}
}

int
borrow_kind(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((flags & O_PATH) != 0)
		return -EBADF;
	if (S_ISREG(st.st_mode))
		return BORROW_FILE;
	if (S_ISFIFO(st.st_mode))
		return BORROW_PIPE;
	if (S_ISSOCK(st.st_mode))
		return BORROW_SOCKET;
	if (borrow_device(fd) >= 0)
		return BORROW_EVERYWHERE;
	return isatty(fd) ? BORROW_TTY : BORROW_OTHER;
}

int
borrow_private(int fd, bool for_writing)
{
	char path[32];
	int private;

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	private =
		open(path, (for_writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return private < 0 ? -errno : private;
}

bool
borrow_same(int a, int b)
{
	struct stat sa, sb;
	long r = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE_TYPE, a, b);

	if (r >= 0)
		return r == 0;
	if (fstat(a, &sa) < 0 || fstat(b, &sb) < 0 || S_ISREG(sa.st_mode))
		return false;
	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino && sa.st_rdev == sb.st_rdev;
}

/* One call that may wait, made only when poll says that it will not. */
static bool
ready(int fd, short events)
{
	struct pollfd pollfd = { .fd = fd, .events = events };

	return poll(&pollfd, 1, 0) == 1;
}

ssize_t
borrow_read(int fd, enum borrow_kind kind, void *data, size_t len)
{
	struct iovec iov = { data, len };
	ssize_t got;

	do {
		if (kind == BORROW_FILE || kind == BORROW_EVERYWHERE || kind == BORROW_PRIVATE)
			got = read(fd, data, len);
		else if (kind == BORROW_SOCKET)
			got = recv(fd, data, len, MSG_DONTWAIT);
		else
			got = preadv2(fd, &iov, 1, -1, RWF_NOWAIT_FLAG);
		if (got < 0 && errno == EOPNOTSUPP) {
			if (!ready(fd, POLLIN))
				return -EAGAIN;
			got = read(fd, data, len);
		}
	} while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

ssize_t
borrow_write(int fd, enum borrow_kind kind, const void *data, size_t len)
{
	union {
		const void *read_only;
		void *base;
	} bytes = { data }; /* iovec has no const; writing only reads */
	struct iovec iov = { bytes.base, len };
	ssize_t put;

	do {
		if (kind == BORROW_FILE || kind == BORROW_EVERYWHERE || kind == BORROW_PRIVATE)
			put = write(fd, data, len);
		else if (kind == BORROW_SOCKET)
			put = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		else
			put = pwritev2(fd, &iov, 1, -1, RWF_NOWAIT_FLAG);
		if (put < 0 && errno == EOPNOTSUPP) {
			if (!ready(fd, POLLOUT))
				return -EAGAIN;
			/* "writable" promises room for PIPE_BUF bytes in a pipe, for one on a
			 * terminal */
			put = write(fd, data,
				    kind == BORROW_TTY ? 1 :
				    len < PIPE_BUF     ? len :
							 PIPE_BUF);
		}
	} while (put < 0 && errno == EINTR);
	return put < 0 ? -errno : put;
}

static void
drain(int fd)
{
	char rest[4096];
	size_t len = 0;
	bool hung_up;

	while (borrow_waiting(fd, &len, &hung_up) == 0 && len > 0) {
		if (borrow_read(fd, BORROW_PIPE, rest, sizeof rest) <= 0)
			return;
	}
}

ssize_t
borrow_peek(int fd, const int scratch[2], size_t skip, void *data, size_t len)
{
	char skipped[4096];
	ssize_t got, n;

	got = tee(fd, scratch[1], skip + len, SPLICE_F_NONBLOCK);
	if (got < 0)
		return -errno;
	if ((size_t)got <= skip) {
		drain(scratch[0]);
		return 0;
	}
	while (skip > 0) {
		n = borrow_read(scratch[0], BORROW_PIPE, skipped,
				skip < sizeof skipped ? skip : sizeof skipped);
		if (n <= 0)
			return n == 0 ? -EIO : n;
		skip -= (size_t)n;
	}
	n = borrow_read(scratch[0], BORROW_PIPE, data, len);
	drain(scratch[0]);
	return n;
}

void
borrow_drop(int fd, int null_fd, size_t len)
{
	ssize_t n;

	while (len > 0) {
		n = splice(fd, NULL, null_fd, NULL, len, SPLICE_F_NONBLOCK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		len -= (size_t)n;
	}
}

int
borrow_waiting(int fd, size_t *ret_len, bool *ret_hung_up)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	int len = 0;

	/* first the end, then the bytes: what was written before the last writer left is counted */
	if (poll(&pollfd, 1, 0) < 0 || ioctl(fd, FIONREAD, &len) < 0)
		return -errno;
	*ret_len = len < 0 ? 0 : (size_t)len;
	*ret_hung_up = (pollfd.revents & (POLLHUP | POLLERR)) != 0;
	return 0;
}
