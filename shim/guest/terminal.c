#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "shim/base/fd.h"
#include "shim/guest/terminal.h"

/* Linux's struct termios of x86-64 and arm64: four u32 of flags, the line discipline, 19 control
 * characters. The C library's own struct of that name is another one, so its tcsetattr() is of
 * no use here. */
enum { KERNEL_TERMIOS_LEN = 36 };

static int
terminal_open_slave(int master, int *ret_slave)
{
	char path[sizeof "/dev/pts/" + 16];
	int fd;
	int r;

	if (unlockpt(master) < 0)
		return -errno;
	r = ptsname_r(master, path, sizeof path);
	if (r != 0)
		return -r;
	fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*ret_slave = fd;
	return 0;
}

int
terminal_resize(int master, const struct job_winsize *size)
{
	struct winsize winsize = {
		.ws_row = size->rows,
		.ws_col = size->columns,
		.ws_xpixel = size->width,
		.ws_ypixel = size->height,
	};

	return ioctl(master, TIOCSWINSZ, &winsize) < 0 ? -errno : 0;
}

static int
terminal_set(int slave, struct view termios)
{
	_Alignas(8) uint8_t settings[TERMIOS_LEN_MAX] = { 0 };

	if (termios.len == 0)
		return 0;
	if (termios.len < KERNEL_TERMIOS_LEN || termios.len > sizeof settings)
		return -EINVAL;
	memcpy(settings, termios.data, termios.len);
	return ioctl(slave, TCSETS, settings) < 0 ? -errno : 0;
}

int
terminal_open(struct view termios, const struct job_winsize *size, int *ret_master, int *ret_slave)
{
	cleanup_close int master = -1;
	cleanup_close int slave = -1;
	int r;

	master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (master < 0)
		return -errno;
	if ((r = terminal_open_slave(master, &slave)) < 0 ||
	    (r = terminal_set(slave, termios)) < 0 || (r = terminal_resize(master, size)) < 0)
		return r;
	*ret_master = fd_steal(&master);
	*ret_slave = fd_steal(&slave);
	return 0;
}
