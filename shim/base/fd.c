#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "shim/base/fd.h"

void
fd_cleanup(int *fd)
{
	int saved_errno = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved_errno;
}

void
fd_close(int *fd)
{
	fd_cleanup(fd);
	*fd = -1;
}

int
fd_steal(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}

int
fd_ensure_stdio(bool was_open[3])
{
	int i, fd;

	for (i = 0; i < 3; i++) {
		was_open[i] = fcntl(i, F_GETFD) >= 0;
		if (was_open[i])
			continue;
		/* 0 … i-1 exist by now, so the lowest free number is i */
		fd = open("/dev/null", O_RDWR);
		if (fd < 0)
			return -errno;
		if (fd != i) {
			close(fd);
			return -EBADF;
		}
	}
	return 0;
}

int
fd_set_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}
