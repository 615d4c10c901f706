#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shim/base/err.h"

int
err_set(struct err *err, int errno_value, const char *format, ...)
{
	va_list ap;

	if (err == NULL)
		return -errno_value;
	err->code = -errno_value;
	va_start(ap, format);
	vsnprintf(err->text, sizeof err->text, format, ap);
	va_end(ap);
	return -errno_value;
}

int
err_errno(struct err *err, int errno_value, const char *format, ...)
{
	va_list ap;
	size_t len;

	if (err == NULL)
		return -errno_value;
	err->code = -errno_value;
	va_start(ap, format);
	vsnprintf(err->text, sizeof err->text, format, ap);
	va_end(ap);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof err->text - len, ": %s", strerror(errno_value));
	return -errno_value;
}

int
err_wrap(struct err *err, const char *format, ...)
{
	char inner[ERR_TEXT_LEN];
	va_list ap;
	size_t len;

	if (err == NULL)
		return -EIO;
	memcpy(inner, err->text, sizeof inner);
	va_start(ap, format);
	vsnprintf(err->text, sizeof err->text, format, ap);
	va_end(ap);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof err->text - len, ": %s", inner);
	return err->code;
}
