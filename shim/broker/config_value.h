/* config_value.h -- what a single setting may be. Pure: every check returns 0, or -EINVAL with
 * *err set to `"value" is wrong so: remedy`, to which the caller adds file and key. */
#ifndef SHIM_BROKER_CONFIG_VALUE_H
#define SHIM_BROKER_CONFIG_VALUE_H

#include <stdint.h>

#include "shim/base/err.h"

/* Object names of Modal (fact sheet 4.9): 1-64 of [A-Za-z0-9-_.], not like an id. */
int value_check_app(const char *text, struct err *err);
/* The same, short enough for "modalsh-" in front of it. */
int value_check_session(const char *text, struct err *err);
/* The same, or "". */
int value_check_environment(const char *text, struct err *err);

/* A registry reference ([host[:port]/]path[:tag][@digest]) or the id of an image (im-...). */
int value_check_image(const char *text, struct err *err);

/* An absolute path on this host. */
int value_check_path(const char *text, struct err *err);
/* The same, short enough for the address of a unix socket. */
int value_check_socket(const char *text, struct err *err);

/* The name or the path of a program in the sandbox. */
int value_check_program(const char *text, struct err *err);

/* One URL of Modal's control plane: https, or http to this host. */
int value_check_url(const char *text, struct err *err);

/* The name or the number of a user. */
int value_check_user(const char *text, struct err *err);

/* The name of an environment variable, or a glob of * and ?. */
int value_check_variable(const char *text, struct err *err);

int value_check_log_level(const char *text, struct err *err);
int value_check_backend(const char *text, struct err *err);
int value_check_modal_mode(const char *text, struct err *err);

/* A directory in the sandbox, absolute, neither / nor /root, without ".."; *ret is it without
 * doubled and trailing slashes and "." (caller frees). */
int value_read_cwd(const char *text, char **ret, struct err *err);

/* A whole number with a unit (ms, s, m, h), or 0. */
int value_read_duration(const char *text, uint64_t *ret_ms, struct err *err);

#endif
