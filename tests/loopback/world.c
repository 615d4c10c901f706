#include "tests/loopback/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/rand.h>

#include "tests/loopback/bytes.h"
#include "tests/loopback/outlog.h"

enum { ID_LEN = 22, ULID_LEN = 26, ULID_TIME_LEN = 10 };

static void
letters_random(char *to, int len, const char *alphabet)
{
	unsigned char random[64];
	size_t letters = strlen(alphabet);

	if (RAND_bytes(random, (int)sizeof random) != 1)
		abort();
	for (int i = 0; i < len; i++)
		to[i] = alphabet[random[i] % letters];
}

char *
id_new(const char *prefix)
{
	char *id = text_format("%s%0*d", prefix, (int)ID_LEN, 0);

	letters_random(id + strlen(prefix), ID_LEN,
		       "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
	return id;
}

char *
id_new_ulid(const char *prefix)
{
	static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	char *id = text_format("%s%0*d", prefix, (int)ULID_LEN, 0);
	char *at = id + strlen(prefix);
	struct timespec now;
	uint64_t ms;

	clock_gettime(CLOCK_REALTIME, &now);
	ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	for (int i = ULID_TIME_LEN - 1; i >= 0; i--, ms /= 32)
		at[i] = alphabet[ms % 32];
	letters_random(at + ULID_TIME_LEN, ULID_LEN - ULID_TIME_LEN, alphabet);
	return id;
}

void
env_set(struct env *env, const char *name, const char *value)
{
	char *entry = text_format("%s=%s", name, value ? value : "");
	size_t len = strlen(name) + 1;

	for (int i = 0; i < env->count; i++) {
		if (strncmp(env->list[i], entry, len) == 0) {
			free(env->list[i]);
			env->list[i] = entry;
			return;
		}
	}
	env->list = mem_resize(env->list, ((size_t)env->count + 2) * sizeof *env->list);
	env->list[env->count++] = entry;
	env->list[env->count] = NULL;
}

void
env_add(struct env *env, const struct env *more)
{
	for (int i = 0; i < more->count; i++) {
		char *name = text_copy(more->list[i]);
		char *value = strchr(name, '=');

		*value++ = '\0';
		env_set(env, name, value);
		free(name);
	}
}

void
env_free(struct env *env)
{
	for (int i = 0; i < env->count; i++)
		free(env->list[i]);
	free(env->list);
	*env = (struct env){ 0 };
}

struct app *
app_find(struct world *world, const char *id)
{
	for (struct app *a = world->apps; a; a = a->next) {
		if (text_is(a->id, id))
			return a;
	}
	return NULL;
}

struct app *
app_find_name(struct world *world, const char *name, const char *environment)
{
	for (struct app *a = world->apps; a; a = a->next) {
		if (text_is(a->name, name) &&
		    text_is(a->environment, environment ? environment : ""))
			return a;
	}
	return NULL;
}

struct secret *
secret_find(struct world *world, const char *id)
{
	for (struct secret *s = world->secrets; s; s = s->next) {
		if (text_is(s->id, id))
			return s;
	}
	return NULL;
}

struct volume *
volume_find(struct world *world, const char *id)
{
	for (struct volume *v = world->volumes; v; v = v->next) {
		if (text_is(v->id, id))
			return v;
	}
	return NULL;
}

struct image *
image_find(struct world *world, const char *id)
{
	for (struct image *i = world->images; i; i = i->next) {
		if (text_is(i->id, id))
			return i;
	}
	return NULL;
}

struct image *
image_new(struct world *world)
{
	struct image *image = mem_new(sizeof *image);

	image->id = id_new("im-");
	image->recipe = text_copy("");
	image->tree = text_format("%s/base", world->host.state_dir);
	image->workdir = text_copy("/root");
	image->log = outlog_new(world->loop, -1);
	image->next = world->images;
	world->images = image;
	return image;
}

void
image_finish(struct image *image, enum image_state state, const char *exception)
{
	struct image_watch *w, *next;

	image->state = state;
	image->exception = exception ? text_copy(exception) : NULL;
	outlog_end(image->log);
	for (w = image->watches, image->watches = NULL; w; w = next) {
		next = w->next;
		w->on_change(w);
	}
}

static void
image_free(struct image *image)
{
	for (char **at = image->argv; at && *at; at++)
		free(*at);
	free(image->argv);
	env_free(&image->env);
	outlog_free(image->log);
	free(image->id);
	free(image->recipe);
	free(image->tree);
	free(image->workdir);
	free(image->exception);
	free(image->snapshot_id);
	free(image->tag);
	free(image->tag_environment);
	free(image);
}

static void
volume_free(struct volume *volume)
{
	free(volume->id);
	free(volume->name);
	free(volume->environment);
	free(volume->dir);
	free(volume);
}

static void
secret_free(struct secret *secret)
{
	env_free(&secret->env);
	free(secret->id);
	free(secret->name);
	free(secret->environment);
	free(secret);
}

static void
app_free(struct app *app)
{
	free(app->id);
	free(app->name);
	free(app->environment);
	free(app);
}

#define LIST_FREE(first, type, free_one)                                                           \
	for (type *each = (first), *next; each; each = next) {                                     \
		next = each->next;                                                                 \
		free_one(each);                                                                    \
	}

void
world_free(struct world *world)
{
	LIST_FREE(world->images, struct image, image_free);
	LIST_FREE(world->volumes, struct volume, volume_free);
	LIST_FREE(world->secrets, struct secret, secret_free);
	LIST_FREE(world->apps, struct app, app_free);
	explicit_bzero(world->token_secret, strlen(world->token_secret));
	free(world->token_id);
	free(world->token_secret);
}
