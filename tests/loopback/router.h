/* router.h -- the worker's side of Modal's API.  router.c: commands; entry.c: the
 * entrypoint's streams; task.c: the rest of a sandbox. */
#ifndef LOOPBACK_ROUTER_H
#define LOOPBACK_ROUTER_H

#include "tests/loopback/rpc.h"

struct sandbox;

extern const struct rpc_method router_methods[];
extern const struct rpc_method task_methods[];
extern const struct rpc_method entry_methods[];

/* Checks the bearer token and finds the running sandbox; NULL when the call has been ended instead.
 */
struct sandbox *router_admit(struct call *c, const char *task_id);
/* The same for a sandbox that may be over: its output can still be read. */
struct sandbox *router_admit_any(struct call *c, const char *task_id);

#endif
