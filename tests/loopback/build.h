/* build.h -- image builds: Dockerfile lines done in a sandbox of their own, its output the build's
 * log.
 *
 * FROM a registry gives this machine's /usr, whatever the reference; ENV, WORKDIR, ENTRYPOINT and
 * CMD are remembered; RUN runs, with the network, and a failing one fails the build.  The layers
 * that Modal itself keeps for everybody (debian_slim and the like) count as built: their package
 * installations are logged, not run. */
#ifndef LOOPBACK_BUILD_H
#define LOOPBACK_BUILD_H

#include <stdbool.h>
#include <stddef.h>

#include "tests/loopback/world.h"

struct build_spec {
	const struct image *base; /* NULL = FROM a registry */
	bool global;		  /* one of Modal's own layers */
	size_t line_count;
	char *const *lines;
	struct env env; /* secrets, for the RUN lines only */
};

/* Copies what it needs.  The image's watchers are told at the end, never before this returns. */
void build_start(struct world *world, struct image *image, const struct build_spec *spec);

#endif
