#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/inherit.h"

/* Shells use numbers up to 255 for themselves, and programs that pass descriptors on low ones; each
 * batch is one system call. */
enum { DESCRIPTOR_MAX = 1023, DESCRIPTORS_AT_ONCE = 256 };

static const char removed_suffix[] = " (deleted)";

/* getcwd() fails in a removed directory, where the shell's own `pwd` still prints the old path. */
static int
cwd_removed(char path[CWD_LEN_MAX + 1], struct err *err)
{
	const size_t suffix_len = sizeof removed_suffix - 1;
	ssize_t len = readlink("/proc/self/cwd", path, CWD_LEN_MAX);

	if (len < 0)
		return err_errno(err, errno, "working directory");
	if ((size_t)len > suffix_len &&
	    memcmp(path + len - suffix_len, removed_suffix, suffix_len) == 0)
		len -= (ssize_t)suffix_len;
	path[len] = '\0';
	return (int)len;
}

int
inherit_cwd(char path[CWD_LEN_MAX + 1], struct err *err)
{
	int len;

	if (getcwd(path, CWD_LEN_MAX + 1) != NULL)
		len = (int)strlen(path);
	else if (errno == ENOENT)
		len = cwd_removed(path, err);
	else
		return err_errno(err, errno, "working directory");
	if (len >= 0 && path[0] != '/')
		return err_set(err, ENOENT, "working directory: it is outside the root directory");
	return len;
}

void
inherit_settings(struct job_start *start)
{
	struct rlimit limit;

	start->umask = umask(0);
	umask(start->umask);
	start->nice = getpriority(PRIO_PROCESS, 0);
	start->limit_count = 0;
	for (uint8_t i = 0; i < RLIMITS_MAX; i++) {
		if (prlimit(0, i, NULL, &limit) < 0)
			continue; /* the kernel does not have this one */
		start->limits[start->limit_count++] =
			(struct job_limit){ i, limit.rlim_cur, limit.rlim_max };
	}
}

/* One poll() asks about many numbers, and needs no /proc. */
size_t
inherit_descriptors(int *fds, size_t max)
{
	struct pollfd polls[DESCRIPTORS_AT_ONCE];
	struct rlimit limit;
	int at_once = DESCRIPTORS_AT_ONCE;
	size_t count = 0;

	/* poll() takes no more than may be open */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < DESCRIPTORS_AT_ONCE)
		at_once = (int)limit.rlim_cur;
	for (int first = 3; first <= DESCRIPTOR_MAX && count < max && at_once > 0;
	     first += at_once) {
		for (int i = 0; i < at_once; i++)
			polls[i] = (struct pollfd){ .fd = first + i };
		if (poll(polls, (nfds_t)at_once, 0) < 0)
			return count;
		for (int i = 0; i < at_once && count < max; i++) {
			if ((polls[i].revents & POLLNVAL) == 0)
				fds[count++] = first + i;
		}
	}
	return count;
}
