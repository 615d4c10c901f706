/* conn.h -- the local socket: who may connect, what they may say, and what they are told.  Wire:
 * proto/PROTOCOL.md, section 2. */
#ifndef SHIM_BROKER_CONN_H
#define SHIM_BROKER_CONN_H

#include <ev.h>
#include <stdint.h>

#include "shim/base/err.h"
#include "shim/broker/job.h"

struct listener;

struct listener_events {
	/* STATUS: JSON text (caller frees), or NULL without memory. */
	char *(*status)(void *arg);
	/* STOP, from this broker's own user or root. */
	void (*stop)(void *arg);
};

/* Binds config->socket under a temporary name, listens, and gives it its name, so that nobody can
 * connect to a socket that is not ready.  A socket that a living broker answers is an error; a dead
 * one is replaced.  The directory is made when it is missing.  0, or negative errno with *err set.
 */
int listener_new(struct job_context *context, const struct listener_events *events, void *arg,
		 struct listener **ret, struct err *err);

/* Stops listening and removes the socket if it is still ours.  Connections go on. */
void listener_close(struct listener *listener);

/* Commands that were turned away, by policy or because they could not be run. */
uint64_t listener_refused(const struct listener *listener);
uint64_t listener_accepted(const struct listener *listener);

/* Closes everything that is left. */
void listener_free(struct listener *listener);

#endif
