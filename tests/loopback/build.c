#include "tests/loopback/build.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <ev.h>

#include "tests/loopback/bytes.h"
#include "tests/loopback/convert.h"
#include "tests/loopback/outlog.h"

enum { BUILD_TIMEOUT_S = 3600, ARGV_MAX = 64, WORD_LEN = 32 };

struct build {
	struct world *world;
	struct image *image;
	struct sandbox *sandbox; /* made for the first RUN */
	bool global;
	char **lines;
	size_t at; /* the next line */
	struct env secrets;
	struct exec *exec; /* the RUN in progress */
	struct exec_watch watch;
	struct outlog_reader readers[2];
	ev_timer begin;
};

static void build_go(struct build *b);

static void
build_log(struct build *b, const char *text)
{
	char *line = text_format("%s\n", text);

	outlog_append(b->image->log, line, strlen(line));
	free(line);
}

static void
build_free(struct build *b)
{
	b->image->build = NULL;
	convert_strings_free(b->lines);
	env_free(&b->secrets);
	free(b);
}

static void
build_end(struct build *b, enum image_state state, const char *exception)
{
	struct image *image = b->image;

	if (b->sandbox)
		sandbox_end(b->sandbox, SANDBOX_TERMINATED, 0, NULL);
	if (exception)
		build_log(b, exception);
	build_free(b);
	image_finish(image, state, exception);
}

/* -- RUN */

static void
readers_copy(struct build *b)
{
	for (int i = 0; i < 2; i++) {
		struct outlog_reader *r = &b->readers[i];
		const uint8_t *data;
		size_t len;

		while ((len = outlog_run(r, &data)) > 0) {
			outlog_append(b->image->log, data, len);
			outlog_advance(r, len);
		}
	}
}

static void
on_run_output(struct outlog_reader *r)
{
	readers_copy(r->arg);
}

static void
on_run_lost(struct outlog_reader *r)
{
	build_log(r->arg, "(output lost)");
}

static void
readers_attach(struct build *b)
{
	for (int i = 0; i < 2; i++) {
		struct outlog_reader *r = &b->readers[i];

		if (r->log)
			continue;
		r->on_more = on_run_output;
		r->on_lost = on_run_lost;
		r->arg = b;
		outlog_attach(b->exec->out[i], r, 0);
	}
	readers_copy(b);
}

static void
run_over(struct build *b)
{
	int status = b->exec->wait_status;
	bool good = b->exec->state == EXEC_ENDED && !b->exec->lost && WIFEXITED(status) &&
		    WEXITSTATUS(status) == 0;
	char *text = text_format("Image build failed: %s", b->lines[b->at - 1]);

	if (b->exec->state == EXEC_ENDED && !b->exec->lost)
		readers_attach(b);
	outlog_detach(&b->readers[0]);
	outlog_detach(&b->readers[1]);
	exec_unwatch(&b->watch);
	b->exec = NULL;
	if (good)
		build_go(b);
	else
		build_end(b, IMAGE_FAILED, text);
	free(text);
}

static void
on_run_change(struct exec_watch *w)
{
	struct build *b = w->arg;

	if (b->exec->lost || b->exec->state == EXEC_ENDED || b->exec->state == EXEC_FAILED)
		run_over(b);
	else if (b->exec->state == EXEC_RUNNING)
		readers_attach(b);
}

static void
build_env(struct build *b, struct env *env)
{
	env_set(env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	env_set(env, "HOME", "/root");
	env_add(env, &b->image->env);
	env_add(env, &b->secrets);
}

static void
build_sandbox(struct build *b)
{
	struct sandbox_spec spec = {
		.root = text_copy(b->image->tree),
		.workdir = text_copy("/"),
		.argv = convert_strings(0, NULL),
		.env = convert_strings(0, NULL),
		.timeout_s = BUILD_TIMEOUT_S,
	};
	char *id = id_new_ulid("bu-");
	char *task_id = id_new_ulid("tb-");

	b->sandbox = sandbox_new(&b->world->host, id, task_id, spec);
	b->sandbox->app_id = text_copy(""); /* of no app: no client sees it */
	free(id);
	free(task_id);
}

static void
run_start(struct build *b, const char *command)
{
	struct env env = { 0 };
	char *text = text_format("mkdir -p \"$0\" && cd \"$0\" && %s", command);
	char *const argv[] = {
		text_copy("sh"), text_copy("-c"), text, text_copy(b->image->workdir), NULL,
	};
	struct exec_spec spec = { .id = b->image->id, .argv = argv, .workdir = "/" };

	if (!b->sandbox)
		build_sandbox(b);
	build_env(b, &env);
	spec.env = env.list;
	if (exec_start(b->sandbox, &spec, &b->exec) < 0) {
		build_end(b, IMAGE_FAILED, "Image build failed: cannot start a command");
	} else {
		b->watch.on_change = on_run_change;
		b->watch.arg = b;
		exec_watch(b->exec, &b->watch);
	}
	for (int i = 0; argv[i]; i++)
		free(argv[i]);
	env_free(&env);
}

/* -- the other lines */

/* ["a","b"] or, for ENTRYPOINT and CMD in words, sh -c. */
static char **
argv_parse(const char *text)
{
	char **argv = mem_new((ARGV_MAX + 1) * sizeof *argv);
	int count = 0;

	if (*text != '[') {
		argv[0] = text_copy("/bin/sh");
		argv[1] = text_copy("-c");
		argv[2] = text_copy(text);
		return argv;
	}
	while ((text = strchr(text, '"')) && count < ARGV_MAX) {
		char *word = text_copy(++text);
		size_t len = 0;

		for (; *text && *text != '"'; text++) {
			if (*text == '\\' && text[1])
				text++;
			word[len++] = *text;
		}
		word[len] = '\0';
		argv[count++] = word;
		text += *text == '"';
	}
	return argv;
}

static void
argv_take(struct build *b, const char *text)
{
	convert_strings_free(b->image->argv);
	b->image->argv = argv_parse(text);
}

/* NAME=value, NAME="value", or NAME value; one per line. */
static void
env_take(struct build *b, const char *text)
{
	char *line = text_copy(text);
	size_t name_len = strcspn(line, "= \t");
	char *value = line + name_len;
	size_t len;

	if (*value)
		*value++ = '\0';
	len = strlen(value);
	if (len >= 2 && (value[0] == '"' || value[0] == '\'') && value[len - 1] == value[0]) {
		value[len - 1] = '\0';
		value++;
	}
	env_set(&b->image->env, line, value);
	free(line);
}

static void
workdir_take(struct build *b, const char *text)
{
	char *path =
		text[0] == '/' ? text_copy(text) : text_format("%s/%s", b->image->workdir, text);

	free(b->image->workdir);
	b->image->workdir = path;
}

/* The instruction in upper case, and what follows it. */
static const char *
line_split(const char *line, char *word)
{
	size_t len = 0;

	while (isspace((unsigned char)*line))
		line++;
	for (; *line && !isspace((unsigned char)*line) && len < WORD_LEN - 1; line++)
		word[len++] = (char)toupper((unsigned char)*line);
	word[len] = '\0';
	while (isspace((unsigned char)*line))
		line++;
	return line;
}

/* Returns true when the next line may be done at once. */
static bool
line_do(struct build *b, const char *line)
{
	char word[WORD_LEN];
	const char *rest = line_split(line, word);

	if (!*word || *word == '#')
		return true;
	build_log(b, line);
	if (strcmp(word, "RUN") == 0 && !b->global) {
		run_start(b, rest);
		return false;
	}
	if (strcmp(word, "WORKDIR") == 0) {
		workdir_take(b, rest);
		if (!b->global)
			run_start(b, "true"); /* which makes the folder */
		return b->global;
	}
	if (strcmp(word, "ENV") == 0)
		env_take(b, rest);
	else if (strcmp(word, "ENTRYPOINT") == 0 || strcmp(word, "CMD") == 0)
		argv_take(b, rest);
	return true;
}

/* -- the end */

static void
on_tree_copied(void *arg, int result)
{
	struct build *b = arg;

	build_end(b, result == 0 ? IMAGE_READY : IMAGE_FAILED,
		  result == 0 ? NULL : "Image build failed: cannot copy the files");
}

static void
build_finish(struct build *b)
{
	char *tree;

	if (!b->sandbox) {
		build_end(b, IMAGE_READY, NULL);
		return;
	}
	tree = text_format("%s/images/%s", b->world->host.state_dir, b->image->id);
	sandbox_snapshot(b->sandbox, NULL, tree, on_tree_copied, b);
	free(b->image->tree);
	b->image->tree = tree;
}

static void
build_go(struct build *b)
{
	while (b->lines[b->at]) {
		if (!line_do(b, b->lines[b->at++]))
			return;
	}
	build_finish(b);
}

static void
on_begin(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	build_go(timer->data);
}

static void
image_inherit(struct image *image, const struct image *base)
{
	text_replace(&image->tree, base->tree);
	text_replace(&image->workdir, base->workdir);
	env_add(&image->env, &base->env);
	if (base->argv) {
		size_t count = 0;

		while (base->argv[count])
			count++;
		image->argv = convert_strings(count, base->argv);
	}
}

void
build_start(struct world *world, struct image *image, const struct build_spec *spec)
{
	struct build *b = mem_new(sizeof *b);

	b->world = world;
	b->image = image;
	b->global = spec->global;
	b->lines = convert_strings(spec->line_count, spec->lines);
	env_add(&b->secrets, &spec->env);
	if (spec->base)
		image_inherit(image, spec->base);
	image->build = b;
	ev_timer_init(&b->begin, on_begin, 0., 0.);
	b->begin.data = b;
	ev_timer_start(world->loop, &b->begin);
}
