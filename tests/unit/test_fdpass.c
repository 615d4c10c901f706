/* Descriptors over a real socket. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/base/fdpass.h"
#include "tests/unit/run.h"

static int sockets[2];

static void
setup(void)
{
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
}

static void
teardown(void)
{
	close(sockets[0]);
	close(sockets[1]);
}

static unsigned
open_count(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static bool
same_file(int a, int b)
{
	struct stat first, second;

	ck_assert_int_eq(fstat(a, &first), 0);
	ck_assert_int_eq(fstat(b, &second), 0);
	return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

START_TEST(test_descriptors_arrive_in_order)
{
	int fds[STREAMS_MAX], pipe_fds[2], sent[3];
	size_t count = 99;
	char data[16];

	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
	sent[0] = pipe_fds[1];
	sent[1] = sockets[0];
	sent[2] = pipe_fds[0];
	ck_assert_int_eq(fdpass_send(sockets[0], "hello", 5, sent, 3), 0);
	ck_assert_int_eq(fdpass_receive(sockets[1], data, sizeof data, fds, &count), 5);
	ck_assert_mem_eq(data, "hello", 5);
	ck_assert_uint_eq(count, 3);
	for (size_t i = 0; i < count; i++) {
		ck_assert_int_gt(fds[i], 2);
		ck_assert(same_file(fds[i], sent[i]));
		ck_assert_int_eq(fcntl(fds[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		close(fds[i]);
	}
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}
END_TEST

START_TEST(test_bytes_alone)
{
	int fds[STREAMS_MAX];
	size_t count = 99;
	char data[16];

	ck_assert_int_eq(fdpass_receive(sockets[1], data, sizeof data, fds, &count), -EAGAIN);
	ck_assert_int_eq(fdpass_send(sockets[0], "abc", 3, NULL, 0), 0);
	ck_assert_int_eq(fdpass_receive(sockets[1], data, 2, fds, &count), 2);
	ck_assert_uint_eq(count, 0);
	ck_assert_int_eq(fdpass_receive(sockets[1], data, 2, fds, &count), 1);
	close(sockets[0]);
	sockets[0] = -1;
	ck_assert_int_eq(fdpass_receive(sockets[1], data, 2, fds, &count), 0);
}
END_TEST

START_TEST(test_as_many_as_streams)
{
	int fds[STREAMS_MAX + 1], sent[STREAMS_MAX + 1];
	unsigned before = open_count();
	size_t count = 0;
	char data[4];

	for (size_t i = 0; i <= STREAMS_MAX; i++)
		sent[i] = sockets[0];
	ck_assert_int_eq(fdpass_send(sockets[0], "x", 1, sent, STREAMS_MAX + 1), -EINVAL);
	ck_assert_int_eq(fdpass_send(sockets[0], "x", 0, sent, 1), -EINVAL);
	ck_assert_int_eq(fdpass_send(sockets[0], "x", 1, sent, STREAMS_MAX), 0);
	ck_assert_int_eq(fdpass_receive(sockets[1], data, sizeof data, fds, &count), 1);
	ck_assert_uint_eq(count, STREAMS_MAX);
	while (count > 0)
		close(fds[--count]);
	ck_assert_uint_eq(open_count(), before);
}
END_TEST

/* A peer that does not use our sender: more descriptors than there is room for. */
static void
send_too_many(void)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int) * (STREAMS_MAX + 8))];
	} control;
	char byte = 'x';
	struct iovec iov = { &byte, 1 };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof control };
	int fds[STREAMS_MAX + 8];

	memset(&control, 0, sizeof control);
	for (size_t i = 0; i < STREAMS_MAX + 8; i++)
		fds[i] = sockets[0];
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(&control.header), fds, sizeof fds);
	ck_assert_int_eq(sendmsg(sockets[0], &message, 0), 1);
}

START_TEST(test_surplus_is_closed)
{
	int fds[STREAMS_MAX];
	unsigned before = open_count();
	size_t count = 99;
	char data[4];

	send_too_many();
	ck_assert_int_eq(fdpass_receive(sockets[1], data, sizeof data, fds, &count), -EBADMSG);
	ck_assert_uint_eq(count, 99);
	ck_assert_uint_eq(open_count(), before);
}
END_TEST

START_TEST(test_never_below_three)
{
	int fds[STREAMS_MAX];
	size_t count = 0;
	int status = -1;
	pid_t pid;
	char data[4];

	ck_assert_int_eq(fdpass_send(sockets[0], "x", 1, sockets, 2), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		close(0);
		close(1);
		close(2);
		if (fdpass_receive(sockets[1], data, sizeof data, fds, &count) != 1 || count != 2)
			_exit(1);
		_exit(fds[0] > 2 && fds[1] > 2 && fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0 &&
				      (fcntl(fds[0], F_GETFD) & FD_CLOEXEC) != 0 ?
			      0 :
			      2);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(test_peer_is_gone)
{
	close(sockets[1]);
	sockets[1] = -1;
	/* a SIGPIPE would end this test */
	ck_assert_int_eq(fdpass_send(sockets[0], "x", 1, NULL, 0), -EPIPE);
	ck_assert_int_eq(fdpass_send(-1, "x", 1, NULL, 0), -EBADF);
}
END_TEST

/* More than the socket holds: the sender goes on, and the descriptors come once, with the first
 * byte. */
START_TEST(test_long_messages_carry_them_once)
{
	const size_t len = 3 * 1024 * 1024;
	char *data = calloc(1, len);
	int fds[STREAMS_MAX], status = -1;
	size_t got = 0, count, first_count = 0;
	ssize_t r;
	pid_t pid = fork();

	ck_assert_ptr_nonnull(data);
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		r = fdpass_send(sockets[0], data, len, sockets, 1);
		free(data);
		_exit(r == 0 ? 0 : 1);
	}
	while (got < len) {
		r = fdpass_receive(sockets[1], data, len, fds, &count);
		if (r == -EAGAIN) {
			usleep(1000);
			continue;
		}
		ck_assert_int_gt(r, 0);
		if (got == 0)
			first_count = count;
		else
			ck_assert_uint_eq(count, 0);
		while (count > 0)
			close(fds[--count]);
		got += (size_t)r;
	}
	ck_assert_uint_eq(first_count, 1);
	ck_assert_uint_eq(got, len);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	free(data);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("fdpass");
	TCase *tcase = tcase_create("fdpass");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_descriptors_arrive_in_order);
	tcase_add_test(tcase, test_bytes_alone);
	tcase_add_test(tcase, test_as_many_as_streams);
	tcase_add_test(tcase, test_surplus_is_closed);
	tcase_add_test(tcase, test_never_below_three);
	tcase_add_test(tcase, test_peer_is_gone);
	tcase_add_test(tcase, test_long_messages_carry_them_once);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
