#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
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

struct process {
	char state;
	int group;
	unsigned terminal; /* device number in the kernel's encoding */
	int foreground;	   /* the terminal's foreground group */
};

/* "pid (name) state parent group session terminal foreground …"; the name may hold anything. */
static bool
process_read(pid_t pid, struct process *ret)
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
	return rest != NULL && sscanf(rest + 1, " %c %*d %d %*d %u %d", &ret->state, &ret->group,
				      &ret->terminal, &ret->foreground) == 4;
}

/* proc(5), tty_nr: the minor number in bits 31 to 20 and 7 to 0, the major number in bits 15 to 8.
 */
static unsigned
device_number(dev_t device)
{
	return (minor(device) & 0xff) | major(device) << 8 | (minor(device) & ~0xffu) << 12;
}

bool
terminal_may_take(pid_t pid, int fd)
{
	struct process process;
	struct stat st;

	if (fstat(fd, &st) < 0 || !process_read(pid, &process))
		return false;
	return process.terminal != device_number(st.st_rdev) || process.group == process.foreground;
}

bool
terminal_process_is_stopped(pid_t pid)
{
	struct process process;

	return process_read(pid, &process) && process.state == 'T';
}

void
terminal_plain_output(uint8_t *settings, size_t len)
{
	uint32_t flags[2]; /* c_iflag, c_oflag */

	if (len < sizeof flags)
		return;
	memcpy(flags, settings, sizeof flags);
	flags[1] &= ~(uint32_t)OPOST;
	memcpy(settings, flags, sizeof flags);
}

static struct terminal *
terminal_open(int fd, dev_t device, bool keep_output)
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
	if (keep_output)
		raw.c_oflag = terminal->before.c_oflag;
	(void)tcsetattr(terminal->fd, TCSANOW, &raw);
	return terminal;
}

struct terminal *
terminal_take(struct terminal_set *set, int fd, bool keep_output)
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
	terminal = terminal_open(fd, st.st_rdev, keep_output);
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

bool
terminal_size(int fd, struct job_winsize *ret)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) < 0)
		return false;
	*ret = (struct job_winsize){ size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel };
	return true;
}
