#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "shim/tty.h"

static_assert(TTY_TERMIOS_LEN <= TERMIOS_LEN_MAX, "termios must fit in START");

int
tty_size(int fd, struct job_winsize *ret)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) < 0)
		return -errno;
	*ret = (struct job_winsize){ size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel };
	return 0;
}

void
tty_find(const bool was_open[3], struct tty *ret)
{
	*ret = (struct tty){ .fd = -1 };
	for (int fd = 0; fd < 3; fd++) {
		if (!was_open[fd] || ioctl(fd, TCGETS, ret->termios) < 0)
			continue;
		ret->fd = fd;
		tty_size(fd, &ret->size); /* a terminal without a size has the size 0 */
		return;
	}
}
