/* launch.h -- what a sandbox is made of: the base tree, and the bubblewrap that shows it. */
#ifndef LOOPBACK_LAUNCH_H
#define LOOPBACK_LAUNCH_H

#include <sys/types.h>

struct sandbox;
struct sandbox_host;

/* Makes <state>/base, the tree of every registry image: the host's /usr is shown read-only, so it
 * holds only the links to it, a part of /etc, and empty folders.  Returns 0 or -errno. */
int launch_base_make(const char *state_dir);

/* Forks the child that copies the sandbox's tree and becomes bwrap; socket is process 1's end and
 * is closed. Returns the child or -errno. */
pid_t launch_start(struct sandbox *s, int socket);

#endif
