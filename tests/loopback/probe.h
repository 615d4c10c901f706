/* probe.h -- readiness probes: a command that is repeated in a sandbox until it ends with 0. */
#ifndef LOOPBACK_PROBE_H
#define LOOPBACK_PROBE_H

#include <stdint.h>

struct probe;
struct sandbox;

/* Takes over argv (NULL-terminated).  The sandbox is ready, and its watchers hear of it, when the
 * command has succeeded. */
struct probe *probe_start(struct sandbox *s, char **argv, uint32_t interval_ms);
void probe_free(struct probe *p); /* NULL is fine */

#endif
