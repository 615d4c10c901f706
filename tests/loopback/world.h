/* world.h -- what the loopback's control plane remembers: apps, images, secrets, volumes; and its
 * options. */
#ifndef LOOPBACK_WORLD_H
#define LOOPBACK_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/loopback/jwt.h"
#include "tests/loopback/sandbox.h"

struct outlog;

struct app {
	struct app *next;
	char *id, *name, *environment;
};

/* NAME=value, NULL-terminated; all zero is empty. */
struct env {
	char **list;
	int count;
};

struct secret {
	struct secret *next;
	char *id, *name, *environment; /* name "" = anonymous */
	struct env env;
};

struct volume {
	struct volume *next;
	char *id, *name, *environment, *dir;
	int version;
};

enum image_state { IMAGE_BUILDING, IMAGE_READY, IMAGE_FAILED };

struct image_watch {
	struct image_watch *next;
	void (*on_change)(struct image_watch *w);
};

struct image {
	struct image *next;
	char *id;
	char *recipe;	/* the same recipe gives the same image; "" for a snapshot */
	char *tree;	/* directory */
	bool directory; /* of a mounted folder: still good as a root */
	struct env env;
	char *workdir;
	char **argv; /* its own entrypoint and command; NULL = none */
	enum image_state state;
	char *exception;
	struct outlog *log;	     /* of the build */
	char *snapshot_id;	     /* the client's idempotency key */
	char *tag, *tag_environment; /* its published name */
	struct build *build;
	struct image_watch *watches;
};

struct world {
	struct ev_loop *loop;
	struct sandbox_host host;
	struct jwt_issuer jwt;
	char *token_id, *token_secret;
	uint16_t port, advertised_port; /* listened on; in the router URLs given out */
	bool unary_stdin_only, strict_order, jwt_cut_streams;
	struct app *apps;
	struct secret *secrets;
	struct volume *volumes;
	struct image *images;
};

/* prefix and 22 letters and digits, e.g. "im-".  Caller frees. */
char *id_new(const char *prefix);
/* prefix and a ULID: 26 characters that sort by time. */
char *id_new_ulid(const char *prefix);

void env_set(struct env *env, const char *name, const char *value);
void env_add(struct env *env, const struct env *more);
void env_free(struct env *env);

struct app *app_find(struct world *world, const char *id);
struct app *app_find_name(struct world *world, const char *name, const char *environment);
struct secret *secret_find(struct world *world, const char *id);
struct volume *volume_find(struct world *world, const char *id);
struct image *image_find(struct world *world, const char *id);
/* A new image, first in the list, building, with the base tree. */
struct image *image_new(struct world *world);
/* At the end of the server, after its sandboxes. */
void world_free(struct world *world);
void image_finish(struct image *image, enum image_state state, const char *exception);

#endif
