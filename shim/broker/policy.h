/* policy.h -- what may cross: pure functions of the configuration. */
#ifndef SHIM_BROKER_POLICY_H
#define SHIM_BROKER_POLICY_H

#include <stdbool.h>

#include "shim/base/err.h"
#include "shim/broker/config.h"

/* Whether the rules that span several keys hold: no entry of env_passthrough that never crosses;
 * a reason under that very entry for "*" and for the names of secrets (of providers, messaging,
 * version control); no reason without its entry. config_parse() calls it. Returns 0, or -EINVAL
 * with *err set. */
int policy_check(const struct config *config, struct err *err);

/* Whether the variable of this name (not terminated, `len` bytes) crosses: named or matched by a
 * glob (* and ?) in terminal.env_passthrough, and not one of those that never cross (MODAL_*,
 * MODALSH_*, also when a glob matches). A secret crosses only under its own name with a reason,
 * never by a glob. */
bool policy_env_crosses(const struct config *config, const char *name, size_t len);

/* The subset of env (NULL-terminated NAME=value) that crosses: a new array that points into env;
 * the caller frees the array alone. NULL without memory. */
char **policy_env_filter(const struct config *config, char *const *env);

/* Whether argv or env (NULL-terminated) speaks of descriptor `number`: /dev/fd/N, /proc/self/fd/N,
 * a redirection from or to &N, a jobserver's N,M, or a variable whose whole value is N and whose
 * name ends in FD or SOCKET.  One that cannot cross is then missed by the command. */
bool policy_names_descriptor(char *const *argv, char *const *env, unsigned number);

/* The pair of descriptors through which make's jobserver hands out tokens, if this value of
 * MAKEFLAGS speaks of one: GNU make manual, "POSIX Jobserver Interaction". */
bool policy_jobserver(const char *makeflags, unsigned *ret_read, unsigned *ret_write);

/* The directory in the sandbox for the caller's cwd: the same path inside terminal.cwd's tree;
 * elsewhere terminal.cwd, or -ENOENT with *err set under strict_cwd. "Inside" is by path
 * component ("/a/bc" is not inside "/a/b") and ".." components are refused with -EINVAL. *ret
 * points into cwd or config. */
int policy_cwd(const struct config *config, const char *cwd, const char **ret, struct err *err);

#endif
