/* borrow.h -- reading and writing descriptors that belong to somebody else.
 *
 * O_NONBLOCK is a flag of the open file description, which the caller shares, so it is never set
 * there.  A pipe or a terminal is opened again, as a description of our own that does not wait
 * (borrow_private); where that is not permitted, a call says for itself that it must not wait
 * (RWF_NOWAIT, MSG_DONTWAIT); where the kernel cannot do that (pipes before 6.5, terminals), one
 * poll-gated call that is small enough not to wait. */
#ifndef SHIM_BASE_BORROW_H
#define SHIM_BASE_BORROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum borrow_kind {
	BORROW_EVERYWHERE, /* /dev/null, zero, full, random, urandom, a directory: borrow_device()
			    */
	BORROW_FILE,	   /* a regular file: never waits for a peer, has an offset */
	BORROW_PIPE,	   /* a pipe or fifo */
	BORROW_SOCKET,	   /* a stream socket */
	BORROW_TTY,	   /* a terminal */
	BORROW_OTHER,	   /* another device */
	BORROW_PRIVATE,	   /* a pipe or a terminal of which we have a description of our own */
};

/* What fd is, or -errno; a descriptor opened with O_PATH is -EBADF, as reading and writing it would
 * say. */
int borrow_kind(int fd);

/* The minor number of the memory device (major number 1) that fd is, 0 for a directory; -EINVAL for
 * anything else. */
int borrow_device(int fd);

/* Opens the pipe or terminal fd once more, for writing or for reading, so that it does not wait.
 * The new descriptor, which is the caller's besides fd, or -errno: the file system's permissions
 * decide, which are those of the process that made it. */
int borrow_private(int fd, bool for_writing);

/* Whether two descriptors are one open file description (kcmp(2)); where the kernel has no kcmp,
 * whether they are the same pipe, socket or device, which is the same to a reader. */
bool borrow_same(int a, int b);

/* Reads or writes what is possible without waiting.  The number of bytes; 0 from borrow_read is the
 * end; -EAGAIN when nothing is possible now; -EPIPE without a signal when SIGPIPE is ignored;
 * -errno. */
ssize_t borrow_read(int fd, enum borrow_kind kind, void *data, size_t len);
ssize_t borrow_write(int fd, enum borrow_kind kind, const void *data, size_t len);

/* Copies bytes `skip` … `skip + len` of what a pipe holds into data without taking them out, by way
 * of the empty pipe scratch[2].  Returns how many there were, or -errno. */
ssize_t borrow_peek(int fd, const int scratch[2], size_t skip, void *data, size_t len);

/* Takes exactly len bytes out of a pipe and forgets them; fewer when somebody else took them first.
 */
void borrow_drop(int fd, int null_fd, size_t len);

/* The number of bytes a pipe or socket holds, and whether every writer is gone.  0 or -errno. */
int borrow_waiting(int fd, size_t *ret_len, bool *ret_hung_up);

#endif
