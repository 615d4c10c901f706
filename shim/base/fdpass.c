#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/base/fdpass.h"

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int) * STREAMS_MAX)];
};

static ssize_t
send_first(int socket, const void *data, size_t len, const int *fds, size_t count)
{
	union control control;
	union {
		const void *read_only;
		void *base;
	} bytes = { data }; /* iovec has no const; sendmsg only reads */
	struct iovec iov = { bytes.base, len };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *header;

	if (count > 0) {
		memset(&control, 0, sizeof control);
		message.msg_control = &control;
		message.msg_controllen = (socklen_t)CMSG_SPACE(sizeof(int) * count);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = (socklen_t)CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
	}
	return sendmsg(socket, &message, MSG_NOSIGNAL);
}

int
fdpass_send(int socket, const void *data, size_t len, const int *fds, size_t count)
{
	const char *rest = data;
	ssize_t sent;

	if (count > STREAMS_MAX || len == 0)
		return -EINVAL;
	while (len > 0) {
		sent = send_first(socket, rest, len, fds, count);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		rest += sent;
		len -= (size_t)sent;
		count = 0; /* the descriptors went with the first byte */
	}
	return 0;
}

/* Moves a received descriptor above 2, where a closed stdio number might have caught it. */
static int
lift(int fd)
{
	int lifted;

	if (fd > 2)
		return fd;
	lifted = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	close(fd);
	return lifted;
}

/* The kernel puts all descriptors of one sendmsg() into one header, the first. */
static bool
take_descriptors(struct msghdr *message, int *fds, size_t *count)
{
	bool good = (message->msg_flags & MSG_CTRUNC) == 0;
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	size_t i, sent;
	int fd;

	if (header == NULL || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
		return good;
	sent = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (i = 0; i < sent; i++) {
		memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
		fd = lift(fd);
		if (fd >= 0)
			fds[(*count)++] = fd; /* sent <= STREAMS_MAX: the control buffer has no room
						 for more */
		else
			good = false;
	}
	return good;
}

ssize_t
fdpass_receive(int socket, void *data, size_t len, int *fds, size_t *ret_count)
{
	union control control;
	struct iovec iov = { data, len };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof control };
	size_t count = 0;
	ssize_t got;

	do
		got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	if (!take_descriptors(&message, fds, &count)) {
		while (count > 0)
			fd_cleanup(&fds[--count]);
		return -EBADMSG;
	}
	*ret_count = count;
	return got;
}
