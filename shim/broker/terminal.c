#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/broker/terminal.h"

enum { STAT_LEN_MAX = 512 };

struct terminal {
	struct terminal *next;
	dev_t device;
	int fd;
	uint32_t users;
	struct termios before;
};

/* "pid (name) state parent group session terminal foreground-group …"; the name may hold anything. */
static bool
read_stat(pid_t pid, char *ret_state, int *ret_group, int *ret_foreground)
{
	char path[64], text[STAT_LEN_MAX];
	cleanup_close int fd = -1;
	const char *rest;
	ssize_t len;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (len <= 0)
		return false;
	text[len] = '\0';
	rest = strrchr(text, ')');
	return rest != NULL &&
	       sscanf(rest + 1, " %c %*d %d %*d %*d %d", ret_state, ret_group, ret_foreground) == 3;
}

bool
terminal_is_foreground(pid_t pid)
{
	int group, foreground;
	char state;

	return read_stat(pid, &state, &group, &foreground) && group == foreground;
}

bool
terminal_process_is_stopped(pid_t pid)
{
	int group, foreground;
	char state;

	return read_stat(pid, &state, &group, &foreground) && state == 'T';
}

static struct terminal *
terminal_open(int fd, dev_t device)
{
	struct terminal *terminal = calloc(1, sizeof *terminal);
	struct termios raw;

	if (terminal == NULL)
		return NULL;
	terminal->device = device;
	terminal->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (terminal->fd < 0 || tcgetattr(terminal->fd, &terminal->before) < 0) {
		fd_close(&terminal->fd);
		free(terminal);
		return NULL;
	}
	raw = terminal->before;
	cfmakeraw(&raw);
	(void)tcsetattr(terminal->fd, TCSANOW, &raw);
	return terminal;
}

struct terminal *
terminal_take(struct terminal_set *set, int fd)
{
	struct terminal *terminal;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return NULL;
	for (terminal = set->first; terminal != NULL; terminal = terminal->next) {
		if (terminal->device == st.st_rdev) {
			terminal->users++;
			return terminal;
		}
	}
	terminal = terminal_open(fd, st.st_rdev);
	if (terminal == NULL)
		return NULL;
	terminal->users = 1;
	terminal->next = set->first;
	set->first = terminal;
	return terminal;
}

void
terminal_give(struct terminal_set *set, struct terminal *terminal)
{
	struct terminal **at = &set->first;

	if (terminal == NULL || --terminal->users > 0)
		return;
	(void)tcsetattr(terminal->fd, TCSANOW, &terminal->before);
	while (*at != terminal)
		at = &(*at)->next;
	*at = terminal->next;
	fd_close(&terminal->fd);
	free(terminal);
}
