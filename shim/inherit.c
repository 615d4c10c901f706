#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/inherit.h"

static const char removed_suffix[] = " (deleted)";

/* getcwd() fails in a removed directory, where the shell's own `pwd` still prints the old path. */
static int
cwd_removed(char path[CWD_LEN_MAX + 1], struct err *err)
{
	const size_t suffix_len = sizeof removed_suffix - 1;
	ssize_t len = readlink("/proc/self/cwd", path, CWD_LEN_MAX);

	if (len < 0)
		return err_errno(err, errno, "working directory");
	if ((size_t)len > suffix_len && memcmp(path + len - suffix_len, removed_suffix, suffix_len) == 0)
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
