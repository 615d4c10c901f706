#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/guest/proc.h"

/* PROCESSES_MAX: the kernel's own largest number of processes (PID_MAX_LIMIT). */
enum {
	STAT_LEN_MAX = 512,
	STATUS_LEN_MAX = 8192,
	PROCESSES_MAX = 4 * 1024 * 1024,
	PROCESSES_FIRST = 256
};

struct process {
	pid_t pid;
	pid_t parent;
	pid_t group;
	pid_t session;
	bool chosen;
};

struct process_list {
	struct process *items;
	size_t count;
	size_t capacity;
};

/* "pid (name) state parent group session …"; the name may hold anything, so what counts is its
 * last ')'. */
static int
process_read(int proc_fd, const char *name, struct process *ret)
{
	char path[64];
	char text[STAT_LEN_MAX];
	cleanup_close int fd = -1;
	const char *rest;
	int parent, group, session;
	ssize_t len;

	snprintf(path, sizeof path, "%.32s/stat", name);
	fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	len = read(fd, text, sizeof text - 1);
	if (len <= 0)
		return -ESRCH;
	text[len] = '\0';
	rest = strrchr(text, ')');
	if (rest == NULL || sscanf(rest + 1, " %*c %d %d %d", &parent, &group, &session) != 3)
		return -EBADMSG;
	*ret = (struct process){
		.pid = (pid_t)atoi(name), .parent = parent, .group = group, .session = session
	};
	return 0;
}

static int
process_add(struct process_list *list, const struct process *process)
{
	size_t capacity = list->capacity == 0 ? PROCESSES_FIRST : list->capacity * 2;
	struct process *items;

	if (list->count == list->capacity) {
		if (capacity > PROCESSES_MAX)
			return -E2BIG;
		items = realloc(list->items, capacity * sizeof *items);
		if (items == NULL)
			return -ENOMEM;
		list->items = items;
		list->capacity = capacity;
	}
	list->items[list->count++] = *process;
	return 0;
}

static int
process_list_read(struct process_list *list)
{
	DIR *proc = opendir("/proc");
	struct process process;
	struct dirent *entry;
	int r = 0;

	if (proc == NULL)
		return -errno;
	while (r == 0 && (entry = readdir(proc)) != NULL) {
		if (isdigit((unsigned char)entry->d_name[0]) &&
		    process_read(dirfd(proc), entry->d_name, &process) == 0)
			r = process_add(list, &process);
	}
	closedir(proc);
	return r;
}

static int
process_list_signal(const struct process_list *list, int signal_number)
{
	int count = 0;

	for (size_t i = 0; i < list->count; i++) {
		if (!list->items[i].chosen)
			continue;
		kill(list->items[i].pid, signal_number);
		count++;
	}
	return count;
}

static bool
contains(const pid_t *pids, size_t count, pid_t pid)
{
	for (size_t i = 0; i < count; i++)
		if (pids[i] == pid)
			return true;
	return false;
}

int
proc_signal_sessions(const pid_t *sessions, size_t count, int signal_number)
{
	struct process_list list = { 0 };
	int r = process_list_read(&list);

	for (size_t i = 0; i < list.count; i++)
		list.items[i].chosen = contains(sessions, count, list.items[i].session);
	if (r == 0)
		r = process_list_signal(&list, signal_number);
	free(list.items);
	return r;
}

int
proc_signal_followers(pid_t leader, int signal_number)
{
	struct process_list list = { 0 };
	int r = process_list_read(&list);

	for (size_t i = 0; i < list.count; i++)
		list.items[i].chosen = list.items[i].group == leader && list.items[i].pid != leader;
	if (r == 0)
		r = process_list_signal(&list, signal_number);
	free(list.items);
	return r;
}

static bool
parent_chosen(const struct process_list *list, const struct process *process, pid_t self)
{
	if (process->parent == self)
		return true;
	for (size_t i = 0; i < list->count; i++)
		if (list->items[i].pid == process->parent)
			return list->items[i].chosen;
	return false;
}

/* Children are mostly listed after their parents, so few rounds are enough. */
static void
process_list_choose_descendants(struct process_list *list)
{
	pid_t self = getpid();
	bool found;

	do {
		found = false;
		for (size_t i = 0; i < list->count; i++) {
			if (list->items[i].chosen || !parent_chosen(list, &list->items[i], self))
				continue;
			list->items[i].chosen = found = true;
		}
	} while (found);
}

int
proc_signal_descendants(int signal_number)
{
	struct process_list list = { 0 };
	int r = process_list_read(&list);

	process_list_choose_descendants(&list);
	if (r == 0)
		r = process_list_signal(&list, signal_number);
	free(list.items);
	return r;
}

static bool
mask_has(const char *text, const char *name, int signal_number)
{
	const char *line = strstr(text, name);

	return line != NULL &&
	       (strtoull(line + strlen(name), NULL, 16) >> (signal_number - 1) & 1) != 0;
}

bool
proc_signal_is_default(pid_t pid, int signal_number)
{
	char path[64];
	char text[STATUS_LEN_MAX];
	cleanup_close int fd = -1;
	ssize_t len;

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (len <= 0)
		return false;
	text[len] = '\0';
	return !mask_has(text, "\nSigIgn:", signal_number) &&
	       !mask_has(text, "\nSigCgt:", signal_number);
}
