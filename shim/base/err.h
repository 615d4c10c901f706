/* err.h -- one error on its way up: what failed, on what, what to do about it.  No allocation. */
#ifndef SHIM_BASE_ERR_H
#define SHIM_BASE_ERR_H

#define ERR_TEXT_LEN 512

struct err {
	int code; /* negative errno, 0 = no error */
	char text[ERR_TEXT_LEN];
};

/* Sets *err (NULL is fine) to the formatted text, cut off at its bound, and returns -errno_value,
 * so that `return err_set(err, EINVAL, "…")` is one line.  errno_value must be positive. */
int err_set(struct err *err, int errno_value, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with ": " and strerror(errno_value) after the text. */
int err_errno(struct err *err, int errno_value, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "formatted text: " before what *err says already and returns err->code. */
int err_wrap(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
