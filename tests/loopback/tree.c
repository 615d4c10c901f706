#include "tests/loopback/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/base/fd.h"

enum { COPY_STEP_LEN = 16 * 1024 * 1024, OPEN_DIRECTORIES_MAX = 64 };

static int entry_copy(int from_dir, int to_dir, const char *name, const char *to_name);

static int
file_copy(int from_dir, int to_dir, const char *name, const char *to_name, const struct stat *st)
{
	cleanup_close int from = openat(from_dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_close int to = -1;
	struct timespec times[2] = { st->st_atim, st->st_mtim };
	ssize_t n;

	if (from < 0)
		return -errno;
	to = openat(to_dir, to_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	do {
		n = copy_file_range(from, NULL, to, NULL, COPY_STEP_LEN, 0);
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0)
		return -errno;
	if (fchown(to, st->st_uid, st->st_gid) < 0 && errno != EPERM)
		return -errno;
	if (fchmod(to, st->st_mode & 07777) < 0 || futimens(to, times) < 0)
		return -errno;
	return 0;
}

static int
link_copy(int from_dir, int to_dir, const char *name, const char *to_name)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(from_dir, name, target, sizeof target - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	return symlinkat(target, to_dir, to_name) < 0 ? -errno : 0;
}

/* Entries may come and go while a running sandbox is copied: what is gone is skipped. */
static int
directory_fill(int from, int to)
{
	int copy = fcntl(from, F_DUPFD_CLOEXEC, 3);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;
	int r = 0;

	if (!dir)
		return -errno;
	while (r == 0 && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		r = entry_copy(from, to, entry->d_name, entry->d_name);
		if (r == -ENOENT)
			r = 0;
	}
	closedir(dir);
	return r;
}

static int
directory_copy(int from_dir, int to_dir, const char *name, const char *to_name,
	       const struct stat *st)
{
	cleanup_close int from =
		openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_close int to = -1;
	struct timespec times[2] = { st->st_atim, st->st_mtim };
	int r;

	if (from < 0)
		return -errno;
	if (mkdirat(to_dir, to_name, 0700) < 0 && errno != EEXIST)
		return -errno;
	to = openat(to_dir, to_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (to < 0)
		return -errno;
	r = directory_fill(from, to);
	if (r < 0)
		return r;
	if (fchown(to, st->st_uid, st->st_gid) < 0 && errno != EPERM)
		return -errno;
	if (fchmod(to, st->st_mode & 07777) < 0 || futimens(to, times) < 0)
		return -errno;
	return 0;
}

static int
entry_copy(int from_dir, int to_dir, const char *name, const char *to_name)
{
	struct stat st;

	if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return directory_copy(from_dir, to_dir, name, to_name, &st);
	if (S_ISREG(st.st_mode))
		return file_copy(from_dir, to_dir, name, to_name, &st);
	if (S_ISLNK(st.st_mode))
		return link_copy(from_dir, to_dir, name, to_name);
	if (S_ISFIFO(st.st_mode))
		return mkfifoat(to_dir, to_name, st.st_mode & 07777) < 0 ? -errno : 0;
	return 0; /* sockets and devices are not files that a snapshot can hold */
}

int
tree_copy_entry(const char *from, const char *to)
{
	return entry_copy(AT_FDCWD, AT_FDCWD, from, to);
}

int
tree_copy(const char *from, const char *to)
{
	struct stat st;

	if (stat(from, &st) < 0)
		return -errno;
	return directory_copy(AT_FDCWD, AT_FDCWD, from, to, &st);
}

static int
entry_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path) < 0 && errno != ENOENT ? -errno : 0;
}

int
tree_remove(const char *path)
{
	int r = nftw(path, entry_remove, OPEN_DIRECTORIES_MAX, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);

	if (r == -1)
		return errno == ENOENT ? 0 : -errno;
	return r;
}

int
tree_make(const char *path)
{
	char part[PATH_MAX];
	size_t len = strlen(path);

	if (len >= sizeof part)
		return -ENAMETOOLONG;
	for (size_t i = 1; i <= len; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		snprintf(part, sizeof part, "%.*s", (int)i, path);
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
	}
	return 0;
}
