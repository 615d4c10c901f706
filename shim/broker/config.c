#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/broker/config.h"
#include "shim/broker/config_key.h"
#include "shim/broker/config_store.h"
#include "shim/broker/config_tree.h"
#include "shim/broker/config_value.h"
#include "shim/broker/policy.h"

#define cleanup_node __attribute__((cleanup(node_cleanup)))

static void
node_cleanup(cJSON **node)
{
	cJSON_Delete(*node);
}

/* ---- the three sources: file, environment, defaults ---- */

static int
unknown_key(const char *section, const char *name, struct err *err)
{
	const struct config_key *meant = config_key_suggest(section, name);

	if (meant != NULL)
		return err_set(err, EINVAL, "%s.%.60s: unknown key: did you mean %s.%s?", section,
			       name, meant->section, meant->name);
	return err_set(err, EINVAL, "%s.%.60s: unknown key: take it out", section, name);
}

static int
read_section(const cJSON *root, const char *section, struct config *config, bool *seen,
	     struct err *err)
{
	const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, section);
	const struct config_key *key;
	const cJSON *value;
	size_t index;

	if (map == NULL)
		return 0;
	if (!cJSON_IsObject(map))
		return err_set(err, EINVAL, "%s: is %s: write its keys below it", section,
			       config_type_name(map));
	cJSON_ArrayForEach(value, map)
	{
		index = config_key_find(section, value->string);
		key = config_key_at(index);
		if (key == NULL)
			return unknown_key(section, value->string, err);
		if (cJSON_IsNull(value) && key->kind != KIND_UNUSED)
			return err_set(err, EINVAL,
				       "%s.%s: has no value: write one or take the key out",
				       section, value->string);
		if (config_key_store(key, value, config, err) < 0)
			return err_wrap(err, "%s.%s", section, value->string);
		seen[index] = true;
	}
	return 0;
}

/* The value that text outside of the file stands for: what takes text takes it as it is. */
static cJSON *
value_from_text(const struct config_key *key, const char *text)
{
	if (key->kind == KIND_BOOL && (strcmp(text, "0") == 0 || strcmp(text, "1") == 0))
		return cJSON_CreateBool(*text == '1');
	if (key->kind == KIND_BOOL || key->kind == KIND_CORES || key->kind == KIND_WHOLE ||
	    key->kind == KIND_BYTES)
		return config_tree_scalar(text);
	return cJSON_CreateString(text);
}

static int
store_from_text(const struct config_key *key, const char *text, struct config *config,
		struct err *err)
{
	cleanup_node cJSON *value = value_from_text(key, text);

	if (value == NULL)
		return err_errno(err, ENOMEM, "keeping it");
	return config_key_store(key, value, config, err);
}

/* Variables fill what the file leaves open; an empty one says nothing. */
static int
read_variables(struct config *config, bool *seen, struct err *err)
{
	const struct config_key *key;

	for (size_t i = 0; (key = config_key_at(i)) != NULL; i++) {
		const char *text = key->variable != NULL ? getenv(key->variable) : NULL;

		if (text == NULL || *text == '\0')
			continue;
		/* a backend that contradicts the file is refused: somebody expects commands
		 * elsewhere */
		if (seen[i] && key->check != value_check_backend)
			continue;
		if (store_from_text(key, text, config, err) < 0)
			return err_wrap(err, "%s in the environment, for %s.%s", key->variable,
					key->section, key->name);
		seen[i] = true;
	}
	return 0;
}

static int
read_fallbacks(struct config *config, const bool *seen, struct err *err)
{
	const struct config_key *key;

	for (size_t i = 0; (key = config_key_at(i)) != NULL; i++) {
		if (seen[i])
			continue;
		if (key->missing != NULL)
			return err_set(err, EINVAL, "%s.%s: is missing: %s", key->section,
				       key->name, key->missing);
		if (key->fallback == NULL)
			continue;
		if (store_from_text(key, key->fallback, config, err) < 0)
			return err_wrap(err, "%s.%s", key->section, key->name);
	}
	return 0;
}

static int
read_tree(const cJSON *root, struct config *config, struct err *err)
{
	bool seen[CONFIG_KEYS_MAX] = { false };
	int r;

	if (cJSON_IsNull(root))
		return err_set(err, EINVAL, "is empty: write a terminal: block");
	if (!cJSON_IsObject(root))
		return err_set(err, EINVAL, "is %s: write a terminal: block",
			       config_type_name(root));
	r = read_section(root, "terminal", config, seen, err);
	if (r == 0)
		r = read_section(root, "modalsh", config, seen, err);
	if (r == 0)
		r = read_variables(config, seen, err);
	if (r == 0)
		r = read_fallbacks(config, seen, err);
	return r < 0 ? r : policy_check(config, err);
}

/* Values that a message shows may hold line breaks. */
static void
make_one_line(struct err *err)
{
	if (err == NULL)
		return;
	for (char *at = err->text; *at != '\0'; at++) {
		if ((unsigned char)*at < 0x20 || *at == 0x7f)
			*at = '?';
	}
}

int
config_parse(const char *text, size_t len, const char *name, struct config *ret, struct err *err)
{
	cleanup_node cJSON *root = NULL;
	struct config config = { 0 };
	int r = config_tree_parse(text, len, name, &root, err);

	if (r == 0) {
		r = read_tree(root, &config, err);
		if (r < 0)
			err_wrap(err, "%s", name);
	}
	if (r < 0) {
		make_one_line(err);
		config_release(&config);
		return r;
	}
	*ret = config;
	return 0;
}

/* ---- the file ---- */

static int
open_config(const char *path, int *ret_fd, struct err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s: is not a regular file", path);
	if ((st.st_mode & S_IWOTH) != 0)
		return err_set(err, EPERM, "%s: everybody can write it: run chmod o-w on it", path);
	*ret_fd = fd_steal(&fd);
	return 0;
}

/* Reads to the end, or one byte more than is allowed. */
static ssize_t
read_whole(int fd, char *text, size_t len_max)
{
	size_t len = 0;
	ssize_t got;

	while (len < len_max) {
		got = read(fd, text + len, len_max - len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		len += (size_t)got;
	}
	return (ssize_t)len;
}

int
config_load(const char *path, struct config *ret, struct err *err)
{
	cleanup_close int fd = -1;
	ssize_t len;
	char *text;
	int r = open_config(path, &fd, err);

	if (r < 0)
		return r;
	text = malloc(CONFIG_TEXT_LEN_MAX + 1);
	if (text == NULL)
		return err_errno(err, ENOMEM, "%s", path);
	len = read_whole(fd, text, CONFIG_TEXT_LEN_MAX + 1);
	if (len < 0)
		r = err_errno(err, (int)-len, "%s", path);
	else
		r = config_parse(text, (size_t)len, path, ret, err);
	free(text);
	return r;
}

/* ---- the rest ---- */

static void
list_release(struct config_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->items[i]);
	free(list->items);
}

void
config_release(struct config *config)
{
	const struct config_key *key;

	for (size_t i = 0; (key = config_key_at(i)) != NULL; i++) {
		if (key->kind == KIND_TEXT || key->kind == KIND_DIRECTORY)
			free(*(char **)(void *)((char *)config + key->field));
		else if (key->kind == KIND_LIST)
			list_release((struct config_list *)(void *)((char *)config + key->field));
	}
	for (size_t i = 0; i < config->env_reason_count; i++) {
		free(config->env_reasons[i].entry);
		free(config->env_reasons[i].text);
	}
	free(config->env_reasons);
	list_release(&config->ignored);
	*config = (struct config){ 0 };
}

void
config_print_ignored(const struct config *config, FILE *out)
{
	for (size_t i = 0; i < config->ignored.count; i++)
		fprintf(out, "%s\n", config->ignored.items[i]);
}
