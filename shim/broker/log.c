#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shim/broker/log.h"

enum { LOG_TEXT_LEN_MAX = 2048, LOG_HEAD_LEN_MAX = 64, ESCAPE_LEN = 4 };

static const char *const level_names[] = { "error", "warning", "info", "debug" };

static enum log_level level_shown = LOG_INFO;

void
log_set_level(enum log_level level)
{
	level_shown = level;
}

int
log_level_from_name(const char *name)
{
	for (int i = 0; i < (int)(sizeof level_names / sizeof level_names[0]); i++) {
		if (strcmp(name, level_names[i]) == 0)
			return i;
	}
	return -1;
}

static size_t
put_head(char *line, enum log_level level)
{
	struct timespec now;
	struct tm utc;
	size_t len;
	int added;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	len = strftime(line, LOG_HEAD_LEN_MAX, "%Y-%m-%dT%H:%M:%S", &utc);
	added = snprintf(line + len, LOG_HEAD_LEN_MAX - len, ".%03ldZ %s: ", now.tv_nsec / 1000000,
			 level_names[level]);
	assert(added > 0 && len + (size_t)added < LOG_HEAD_LEN_MAX);
	return len + (size_t)added;
}

/* Text may hold what a sandbox or a server sent: whatever is not printable ASCII could drive a
 * terminal or forge a second line, so it is shown as \xNN. */
static size_t
put_visible(char *line, const char *text)
{
	size_t len = 0;

	for (; *text != '\0'; text++) {
		unsigned char byte = (unsigned char)*text;

		if (byte >= 0x20 && byte < 0x7f)
			line[len++] = (char)byte;
		else
			len += (size_t)snprintf(line + len, sizeof "\\x00", "\\x%02x", byte);
	}
	return len;
}

void
log_write(enum log_level level, const char *format, ...)
{
	char text[LOG_TEXT_LEN_MAX];
	char line[LOG_HEAD_LEN_MAX + LOG_TEXT_LEN_MAX * ESCAPE_LEN + 1];
	va_list ap;
	size_t len;
	ssize_t written;

	if (level > level_shown)
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	len = put_head(line, level);
	len += put_visible(line + len, text);
	line[len++] = '\n';
	/* one call, so that lines of several writers do not mix; nobody can be told when it
	 * fails */
	written = write(STDERR_FILENO, line, len);
	(void)written;
}
