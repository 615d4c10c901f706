/* sandbox_exec.h -- what a sandbox and the execs in it tell each other. */
#ifndef SHIM_BROKER_SANDBOX_EXEC_H
#define SHIM_BROKER_SANDBOX_EXEC_H

#include "shim/broker/modal.h"
#include "shim/broker/sandbox.h"

/* The execs of one sandbox. */
struct exec_list {
	struct remote_exec *head;
};

/* NULL unless the sandbox is ready. */
struct modal_router *sandbox_router(const struct sandbox *sandbox);
struct exec_list *sandbox_execs(struct sandbox *sandbox);
struct ev_loop *sandbox_loop(const struct sandbox *sandbox);
bool sandbox_pipelined_start(const struct sandbox *sandbox);
/* Whether the router has turned out to take stdin in single writes alone. */
bool *sandbox_unary_stdin(struct sandbox *sandbox);

/* An exec cannot be reached: asks Modal whether the sandbox still runs.  Then either the sandbox
 * is gone, and with it every exec, or exec_list_checked() says that it is not. */
void sandbox_suspect(struct sandbox *sandbox);

/* The sandbox runs, or nobody knows: execs that had failed may say so. */
void exec_list_checked(struct exec_list *list);

/* The sandbox is over: stops all traffic of its execs. */
void exec_list_cut(struct exec_list *list, const char *reason);
/* Then reports their end, for the reason that was given. */
void exec_list_end(struct exec_list *list);

/* Lets go of execs that outlive their sandbox object. */
void exec_list_orphan(struct exec_list *list);

#endif
