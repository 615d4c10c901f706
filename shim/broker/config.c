#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/base/limits.h"
#include "shim/broker/config.h"
#include "shim/broker/config_tree.h"
#include "shim/broker/config_value.h"
#include "shim/broker/policy.h"

#define cleanup_node __attribute__((cleanup(node_cleanup)))

enum {
	LIST_COUNT_MAX = 1024,
	/* an unknown key is taken for a misspelt one up to this many wrong letters */
	TYPOS_MAX = 3,
	KEY_LEN_MAX = 48,
};

/* What stands in the file for a key, and how it is kept in struct config. */
enum kind {
	KIND_TEXT,	   /* char * */
	KIND_CHECKED,	   /* text that is checked and not kept */
	KIND_DIRECTORY,	   /* text -> char * of a directory in the sandbox */
	KIND_CHOICE,	   /* text -> the enum value that is its index in choices */
	KIND_BOOL,	   /* bool */
	KIND_OFF,	   /* false, not kept */
	KIND_CORES,	   /* number -> uint32_t of thousandths */
	KIND_WHOLE,	   /* number -> uint32_t */
	KIND_SECONDS,	   /* text with a unit -> uint32_t of seconds */
	KIND_MILLISECONDS, /* text with a unit -> uint32_t of milliseconds */
	KIND_LIST,	   /* list of text -> struct config_list */
	KIND_REASONS,	   /* map of text -> env_reasons */
	KIND_UNUSED,	   /* anything, named in `ignored` with the reason */
};

struct key {
	const char *section;
	const char *name;
	enum kind kind;
	size_t field; /* offset in struct config */
	const char *fallback; /* what an absent key means, written as in the environment */
	const char *variable; /* fills what the file leaves open */
	const char *missing;  /* the remedy, for a key that must be there */
	int (*check)(const char *text, struct err *err);
	const char *const *choices;
	double min, max;    /* of numbers; of durations in milliseconds */
	const char *reason; /* why it has no effect */
};

static const char *const api_choices[] = { [CONFIG_API_V2] = "v2", [CONFIG_API_V1] = "v1", NULL };
static const char *const network_choices[] = { [CONFIG_NETWORK_BLOCKED] = "blocked",
					       [CONFIG_NETWORK_OPEN] = "open",
					       NULL };
static const char *const env_base_choices[] = { [CONFIG_ENV_IMAGE] = "image",
						[CONFIG_ENV_EMPTY] = "empty",
						NULL };

#define FIELD(member) .field = offsetof(struct config, member)
#define SECOND_MS 1000.0
#define HOUR_MS (3600 * SECOND_MS)
#define UNUSED(key, why) { .section = "terminal", .name = key, .kind = KIND_UNUSED, .reason = why }
#define TERMINAL .section = "terminal", .name
#define MODALSH .section = "modalsh", .name

#define BY_HERMES "Hermes applies it itself"
#define LOCAL_ONLY "it concerns the local backend alone"
#define OTHER_BACKEND "it belongs to another backend"

static const struct key keys[] = {
	{ TERMINAL = "backend", .kind = KIND_CHECKED, .check = value_check_backend,
	  .variable = "TERMINAL_ENV", .missing = "write backend: modal" },
	{ TERMINAL = "modal_mode", .kind = KIND_CHECKED, .check = value_check_modal_mode,
	  .variable = "TERMINAL_MODAL_MODE" },
	{ TERMINAL = "cwd", .kind = KIND_DIRECTORY, FIELD(cwd), .variable = "TERMINAL_CWD",
	  .missing = "write the directory in the sandbox, such as cwd: /workspace" },
	{ TERMINAL = "modal_image", .kind = KIND_TEXT, FIELD(image), .check = value_check_image,
	  .variable = "TERMINAL_MODAL_IMAGE",
	  .missing = "write the image, such as modal_image: \"python:3.11-slim\"" },
	{ TERMINAL = "container_cpu", .kind = KIND_CORES, FIELD(milli_cpu),
	  .variable = "TERMINAL_CONTAINER_CPU", .min = 0.001, .max = 1024 },
	{ TERMINAL = "container_memory", .kind = KIND_WHOLE, FIELD(memory_mib),
	  .variable = "TERMINAL_CONTAINER_MEMORY", .min = 1, .max = 16 * 1024 * 1024 },
	{ TERMINAL = "container_persistent", .kind = KIND_BOOL, FIELD(persistent), .fallback = "true",
	  .variable = "TERMINAL_CONTAINER_PERSISTENT" },
	{ TERMINAL = "env_passthrough", .kind = KIND_LIST, FIELD(env_passthrough),
	  .check = value_check_variable },
	{ TERMINAL = "file_sync_enabled", .kind = KIND_OFF },

	UNUSED("file_sync_max_mb", "no file is synchronised"),
	UNUSED("credential_files", "no file is synchronised"),
	UNUSED("container_disk", "Modal takes no disk size for sandboxes"),
	UNUSED("degraded_mode", "a failure is always a failure here"),
	UNUSED("timeout", BY_HERMES ", see modalsh.command_timeout"),
	UNUSED("lifetime_seconds", BY_HERMES ", see modalsh.idle_timeout"),
	UNUSED("daemon_term_grace_seconds", BY_HERMES),
	UNUSED("oneshot_completion_wait_seconds", BY_HERMES),
	UNUSED("temp_dir", LOCAL_ONLY),
	UNUSED("home_mode", LOCAL_ONLY),
	UNUSED("shell_init_files", LOCAL_ONLY),
	UNUSED("auto_source_bashrc", LOCAL_ONLY),
	UNUSED("persistent_shell", "every command is a process of its own"),
	UNUSED("sandbox_dir", "the sandbox is not on this host"),
	UNUSED("font_family", "it concerns the display alone"),
	UNUSED("sudo_password", "no password crosses"),
	UNUSED("backends", OTHER_BACKEND),
	UNUSED("docker_image", OTHER_BACKEND),
	UNUSED("singularity_image", OTHER_BACKEND),
	UNUSED("daytona_image", OTHER_BACKEND),
	UNUSED("vercel_runtime", OTHER_BACKEND),
	UNUSED("docker_forward_env", OTHER_BACKEND),
	UNUSED("docker_env", OTHER_BACKEND),
	UNUSED("docker_volumes", OTHER_BACKEND),
	UNUSED("docker_extra_args", OTHER_BACKEND),
	UNUSED("docker_mount_cwd_to_workspace", OTHER_BACKEND),
	UNUSED("docker_run_as_host_user", OTHER_BACKEND),
	UNUSED("docker_snap_compat", OTHER_BACKEND),
	UNUSED("docker_network", OTHER_BACKEND ", see modalsh.network"),
	UNUSED("docker_persist_across_processes", OTHER_BACKEND),
	UNUSED("docker_orphan_reaper", OTHER_BACKEND),
	UNUSED("docker_shm_size", OTHER_BACKEND),
	UNUSED("docker_shared_container_key", OTHER_BACKEND),
	UNUSED("ssh_host", OTHER_BACKEND),
	UNUSED("ssh_user", OTHER_BACKEND),
	UNUSED("ssh_port", OTHER_BACKEND),
	UNUSED("ssh_key", OTHER_BACKEND),

	{ MODALSH = "app", .kind = KIND_TEXT, FIELD(app), .fallback = "modalsh",
	  .check = value_check_app },
	{ MODALSH = "environment", .kind = KIND_TEXT, FIELD(environment), .fallback = "",
	  .check = value_check_environment },
	{ MODALSH = "session", .kind = KIND_TEXT, FIELD(session), .fallback = "default",
	  .check = value_check_session },
	{ MODALSH = "api", .kind = KIND_CHOICE, FIELD(api), .fallback = "v2", .choices = api_choices },
	{ MODALSH = "network", .kind = KIND_CHOICE, FIELD(network), .fallback = "blocked",
	  .choices = network_choices },
	{ MODALSH = "lifetime", .kind = KIND_SECONDS, FIELD(lifetime_s), .fallback = "12h",
	  .min = SECOND_MS, .max = 24 * HOUR_MS },
	{ MODALSH = "idle_timeout", .kind = KIND_SECONDS, FIELD(idle_timeout_s), .fallback = "10m",
	  .min = SECOND_MS, .max = 24 * HOUR_MS },
	{ MODALSH = "lease", .kind = KIND_MILLISECONDS, FIELD(lease_ms), .fallback = "60s",
	  .min = 3 * SECOND_MS, .max = HOUR_MS },
	{ MODALSH = "command_timeout", .kind = KIND_SECONDS, FIELD(command_timeout_s), .fallback = "0",
	  .min = 0, .max = 24 * HOUR_MS },
	{ MODALSH = "strict_cwd", .kind = KIND_BOOL, FIELD(strict_cwd), .fallback = "false" },
	{ MODALSH = "start_early", .kind = KIND_BOOL, FIELD(start_early), .fallback = "true" },
	{ MODALSH = "pipelined_start", .kind = KIND_BOOL, FIELD(pipelined_start), .fallback = "false" },
	{ MODALSH = "env_base", .kind = KIND_CHOICE, FIELD(env_base), .fallback = "image",
	  .choices = env_base_choices },
	{ MODALSH = "env_reasons", .kind = KIND_REASONS },
	{ MODALSH = "shell", .kind = KIND_TEXT, FIELD(shell), .fallback = "sh",
	  .check = value_check_program },
	{ MODALSH = "socket", .kind = KIND_TEXT, FIELD(socket), .fallback = MODALSH_SOCKET_DEFAULT,
	  .check = value_check_socket },
	{ MODALSH = "allow_users", .kind = KIND_LIST, FIELD(allow_users), .check = value_check_user },
	{ MODALSH = "guest", .kind = KIND_TEXT, FIELD(guest), .fallback = MODALSH_GUEST_DEFAULT,
	  .check = value_check_path },
	{ MODALSH = "server_url", .kind = KIND_TEXT, FIELD(server_url), .check = value_check_url },
	{ MODALSH = "ca_file", .kind = KIND_TEXT, FIELD(ca_file), .check = value_check_path },
	{ MODALSH = "token_file", .kind = KIND_TEXT, FIELD(token_file), .check = value_check_path },
	{ MODALSH = "log_level", .kind = KIND_TEXT, FIELD(log_level), .fallback = "info",
	  .check = value_check_log_level },
};

enum { KEY_COUNT = sizeof keys / sizeof keys[0] };

static_assert(sizeof(enum config_api) == sizeof(int) && sizeof(enum config_network) == sizeof(int) &&
		      sizeof(enum config_env_base) == sizeof(int),
	      "choices are stored as int");

static void
node_cleanup(cJSON **node)
{
	cJSON_Delete(*node);
}

/* ---- storing ------------------------------------------------------------------------------------------------ */

static int
no_memory(struct err *err)
{
	return err_errno(err, ENOMEM, "keeping it");
}

static const char *
type_name(const cJSON *value)
{
	if (cJSON_IsNull(value))
		return "nothing";
	if (cJSON_IsBool(value))
		return "a truth value";
	if (cJSON_IsNumber(value))
		return "a number";
	if (cJSON_IsString(value))
		return "text";
	return cJSON_IsArray(value) ? "a list" : "a map";
}

static int
wrong_type(const cJSON *value, const char *wanted, struct err *err)
{
	return err_set(err, EINVAL, "is %s: write %s", type_name(value), wanted);
}

static int
take_text(const cJSON *value, const char **ret, struct err *err)
{
	if (cJSON_IsString(value)) {
		*ret = value->valuestring;
		return 0;
	}
	return wrong_type(value, cJSON_IsNumber(value) || cJSON_IsBool(value) ? "it in quotes" : "text", err);
}

static int
store_text(const struct key *key, const cJSON *value, char **field, struct err *err)
{
	const char *text;
	int r = take_text(value, &text, err);

	if (r == 0 && key->check != NULL)
		r = key->check(text, err);
	if (r < 0 || key->kind == KIND_CHECKED)
		return r;
	*field = strdup(text);
	return *field != NULL ? 0 : no_memory(err);
}

static int
store_directory(const cJSON *value, char **field, struct err *err)
{
	const char *text;
	int r = take_text(value, &text, err);

	return r < 0 ? r : value_read_cwd(text, field, err);
}

static int
store_choice(const struct key *key, const cJSON *value, void *field, struct err *err)
{
	const char *text;
	char known[64] = "";
	int r = take_text(value, &text, err);

	if (r < 0)
		return r;
	for (int i = 0; key->choices[i] != NULL; i++) {
		if (strcmp(text, key->choices[i]) == 0) {
			memcpy(field, &i, sizeof i);
			return 0;
		}
		snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i > 0 ? " or " : "",
			 key->choices[i]);
	}
	return err_set(err, EINVAL, "\"%.80s\" is unknown: write %s", text, known);
}

static int
store_bool(const struct key *key, const cJSON *value, bool *field, struct err *err)
{
	if (!cJSON_IsBool(value))
		return wrong_type(value, "true or false, without quotes", err);
	if (key->kind == KIND_BOOL)
		*field = cJSON_IsTrue(value);
	else if (cJSON_IsTrue(value))
		return err_set(err, EINVAL,
			       "files are not synchronised between this host and the sandbox:"
			       " write false, and keep the work in the sandbox");
	return 0;
}

static int
take_number(const struct key *key, const cJSON *value, double *ret, struct err *err)
{
	double number = value->valuedouble;

	if (!cJSON_IsNumber(value))
		return wrong_type(value, "a number, without quotes", err);
	if (number <= 0)
		return err_set(err, EINVAL, "%g is not greater than 0: write what the sandbox shall have",
			       number);
	if (number < key->min || number > key->max)
		return err_set(err, EINVAL, "%g is out of range: write %g to %.0f", number, key->min,
			       key->max);
	*ret = number;
	return 0;
}

static int
store_cores(const struct key *key, const cJSON *value, uint32_t *field, struct err *err)
{
	double number;
	int r = take_number(key, value, &number, err);

	if (r == 0)
		*field = (uint32_t)(number * 1000 + 0.5);
	return r;
}

static int
store_whole(const struct key *key, const cJSON *value, uint32_t *field, struct err *err)
{
	double number;
	int r = take_number(key, value, &number, err);

	if (r < 0)
		return r;
	if (number > (uint32_t)number)
		return err_set(err, EINVAL, "%g is not a whole number: write %u", number,
			       (uint32_t)number + 1);
	*field = (uint32_t)number;
	return 0;
}

static int
take_duration(const cJSON *value, uint64_t *ret_ms, struct err *err)
{
	char digits[32];

	if (cJSON_IsString(value))
		return value_read_duration(value->valuestring, ret_ms, err);
	if (!cJSON_IsNumber(value))
		return wrong_type(value, "a duration such as 30s", err);
	snprintf(digits, sizeof digits, "%.15g", value->valuedouble);
	return value_read_duration(digits, ret_ms, err);
}

/* A number of milliseconds, said in the largest unit that holds it. */
static const char *
show_duration(double ms, char text[32])
{
	if (ms >= HOUR_MS)
		snprintf(text, 32, "%gh", ms / HOUR_MS);
	else if (ms > 0)
		snprintf(text, 32, "%gs", ms / SECOND_MS);
	else
		snprintf(text, 32, "0");
	return text;
}

static int
store_duration(const struct key *key, const cJSON *value, uint32_t *field, struct err *err)
{
	char least[32], most[32];
	uint64_t ms;
	int r = take_duration(value, &ms, err);

	if (r < 0)
		return r;
	if ((double)ms < key->min || (double)ms > key->max)
		return err_set(err, EINVAL, "is out of range: write %s to %s",
			       show_duration(key->min, least), show_duration(key->max, most));
	if (key->kind == KIND_SECONDS && ms % 1000 != 0)
		return err_set(err, EINVAL, "is not a whole number of seconds: Modal counts in those");
	*field = (uint32_t)(key->kind == KIND_SECONDS ? ms / 1000 : ms);
	return 0;
}

/* Takes ownership of item, also on failure. */
static int
list_add(struct config_list *list, char *item)
{
	char **items;

	if (item == NULL)
		return -ENOMEM;
	items = realloc(list->items, (list->count + 2) * sizeof *items);
	if (items == NULL) {
		free(item);
		return -ENOMEM;
	}
	items[list->count++] = item;
	items[list->count] = NULL;
	list->items = items;
	return 0;
}

static int
store_item(const struct key *key, const cJSON *item, struct config_list *list, struct err *err)
{
	char digits[32];
	const char *text = digits;
	int r = 0;

	/* users may be numbers, and nobody puts those in quotes */
	if (cJSON_IsNumber(item) && key->check == value_check_user)
		snprintf(digits, sizeof digits, "%.15g", item->valuedouble);
	else
		r = take_text(item, &text, err);
	if (r < 0)
		return r;
	r = key->check(text, err);
	if (r < 0)
		return r;
	return list_add(list, strdup(text)) == 0 ? 0 : no_memory(err);
}

static int
store_list(const struct key *key, const cJSON *value, struct config_list *list, struct err *err)
{
	const cJSON *item;
	unsigned index = 0;
	int r;

	if (!cJSON_IsArray(value))
		return wrong_type(value, "a list, such as []", err);
	if (cJSON_GetArraySize(value) > LIST_COUNT_MAX)
		return err_set(err, EINVAL, "has more than %d entries", LIST_COUNT_MAX);
	cJSON_ArrayForEach (item, value) {
		r = store_item(key, item, list, err);
		if (r < 0)
			return err_wrap(err, "entry %u", index + 1);
		index++;
	}
	return 0;
}

static int
store_reason(const cJSON *item, struct config_reason *ret, struct err *err)
{
	const char *text = NULL;
	int r = take_text(item, &text, err);

	if (r < 0)
		return err_wrap(err, "\"%.80s\"", item->string);
	if (text[strspn(text, " \t\r\n")] == '\0')
		return err_set(err, EINVAL, "\"%.80s\" is empty: write why it may cross", item->string);
	ret->entry = strdup(item->string);
	ret->text = strdup(text);
	return ret->entry != NULL && ret->text != NULL ? 0 : no_memory(err);
}

static int
store_reasons(const cJSON *value, struct config *config, struct err *err)
{
	const cJSON *item;
	int r;

	if (!cJSON_IsObject(value))
		return wrong_type(value, "a map of NAME: reason", err);
	config->env_reasons = calloc((size_t)cJSON_GetArraySize(value) + 1, sizeof *config->env_reasons);
	if (config->env_reasons == NULL)
		return no_memory(err);
	cJSON_ArrayForEach (item, value) {
		/* counted first, so that a half-made one is freed */
		r = store_reason(item, &config->env_reasons[config->env_reason_count++], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int
store_ignored(const struct key *key, struct config *config, struct err *err)
{
	char line[256];

	snprintf(line, sizeof line, "%s.%s: %s", key->section, key->name, key->reason);
	return list_add(&config->ignored, strdup(line)) == 0 ? 0 : no_memory(err);
}

static int
key_store(const struct key *key, const cJSON *value, struct config *config, struct err *err)
{
	void *field = (char *)config + key->field;

	switch (key->kind) {
	case KIND_TEXT:
	case KIND_CHECKED:
		return store_text(key, value, field, err);
	case KIND_DIRECTORY:
		return store_directory(value, field, err);
	case KIND_CHOICE:
		return store_choice(key, value, field, err);
	case KIND_BOOL:
	case KIND_OFF:
		return store_bool(key, value, field, err);
	case KIND_CORES:
		return store_cores(key, value, field, err);
	case KIND_WHOLE:
		return store_whole(key, value, field, err);
	case KIND_SECONDS:
	case KIND_MILLISECONDS:
		return store_duration(key, value, field, err);
	case KIND_LIST:
		return store_list(key, value, field, err);
	case KIND_REASONS:
		return store_reasons(value, config, err);
	case KIND_UNUSED:
		return store_ignored(key, config, err);
	}
	return err_set(err, EINVAL, "is of no kind");
}

/* ---- finding keys ------------------------------------------------------------------------------------------- */

static int
key_find(const char *section, const char *name)
{
	for (int i = 0; i < KEY_COUNT; i++) {
		if (strcmp(keys[i].section, section) == 0 && strcmp(keys[i].name, name) == 0)
			return i;
	}
	return -1;
}

static unsigned
least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Letters to insert, delete or replace to make one name of the other. */
static unsigned
typo_count(const char *a, const char *b)
{
	unsigned row[KEY_LEN_MAX + 1], above_left, above;
	size_t b_len = strlen(b);

	if (strlen(a) > KEY_LEN_MAX || b_len > KEY_LEN_MAX)
		return KEY_LEN_MAX;
	for (unsigned j = 0; j <= b_len; j++)
		row[j] = j;
	for (unsigned i = 0; a[i] != '\0'; i++) {
		above_left = row[0];
		row[0] = i + 1;
		for (size_t j = 0; j < b_len; j++) {
			above = row[j + 1];
			row[j + 1] = least(least(above, row[j]) + 1, above_left + (a[i] != b[j]));
			above_left = above;
		}
	}
	return row[b_len];
}

/* The key that was probably meant: the same name in the other section, or the nearest. */
static const struct key *
key_suggest(const char *section, const char *name)
{
	const struct key *best = NULL;
	unsigned best_count = TYPOS_MAX + 1;

	for (int i = 0; i < KEY_COUNT; i++) {
		unsigned count = typo_count(name, keys[i].name);

		if (count > 0 && strcmp(keys[i].section, section) != 0)
			continue;
		if (count < best_count && count < strlen(keys[i].name)) {
			best = &keys[i];
			best_count = count;
		}
	}
	return best;
}

static int
unknown_key(const char *section, const char *name, struct err *err)
{
	const struct key *meant = key_suggest(section, name);

	if (meant != NULL)
		return err_set(err, EINVAL, "%s.%.60s: unknown key: did you mean %s.%s?", section, name,
			       meant->section, meant->name);
	return err_set(err, EINVAL, "%s.%.60s: unknown key: take it out", section, name);
}

/* ---- the three sources -------------------------------------------------------------------------------------- */

static int
read_section(const cJSON *root, const char *section, struct config *config, bool seen[KEY_COUNT],
	     struct err *err)
{
	const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, section);
	const cJSON *value;
	int index;

	if (map == NULL)
		return 0;
	if (!cJSON_IsObject(map))
		return err_set(err, EINVAL, "%s: is %s: write its keys below it", section, type_name(map));
	cJSON_ArrayForEach (value, map) {
		index = key_find(section, value->string);
		if (index < 0)
			return unknown_key(section, value->string, err);
		if (cJSON_IsNull(value) && keys[index].kind != KIND_UNUSED)
			return err_set(err, EINVAL, "%s.%s: has no value: write one or take the key out",
				       section, value->string);
		if (key_store(&keys[index], value, config, err) < 0)
			return err_wrap(err, "%s.%s", section, value->string);
		seen[index] = true;
	}
	return 0;
}

/* The value that text outside of the file stands for: what takes text takes it as it is. */
static cJSON *
value_from_text(const struct key *key, const char *text)
{
	if (key->kind == KIND_BOOL && (strcmp(text, "0") == 0 || strcmp(text, "1") == 0))
		return cJSON_CreateBool(*text == '1');
	if (key->kind == KIND_BOOL || key->kind == KIND_CORES || key->kind == KIND_WHOLE)
		return config_tree_scalar(text);
	return cJSON_CreateString(text);
}

static int
store_from_text(const struct key *key, const char *text, struct config *config, struct err *err)
{
	cleanup_node cJSON *value = value_from_text(key, text);

	return value == NULL ? no_memory(err) : key_store(key, value, config, err);
}

/* Variables fill what the file leaves open; an empty one says nothing. */
static int
read_variables(struct config *config, bool seen[KEY_COUNT], struct err *err)
{
	for (int i = 0; i < KEY_COUNT; i++) {
		const char *text = keys[i].variable != NULL ? getenv(keys[i].variable) : NULL;

		if (text == NULL || *text == '\0')
			continue;
		/* a backend that contradicts the file is refused: somebody expects commands elsewhere */
		if (seen[i] && keys[i].check != value_check_backend)
			continue;
		if (store_from_text(&keys[i], text, config, err) < 0)
			return err_wrap(err, "%s in the environment, for %s.%s", keys[i].variable,
					keys[i].section, keys[i].name);
		seen[i] = true;
	}
	return 0;
}

static int
read_fallbacks(struct config *config, const bool seen[KEY_COUNT], struct err *err)
{
	for (int i = 0; i < KEY_COUNT; i++) {
		if (seen[i])
			continue;
		if (keys[i].missing != NULL)
			return err_set(err, EINVAL, "%s.%s: is missing: %s", keys[i].section,
				       keys[i].name, keys[i].missing);
		if (keys[i].fallback == NULL)
			continue;
		if (store_from_text(&keys[i], keys[i].fallback, config, err) < 0)
			return err_wrap(err, "%s.%s", keys[i].section, keys[i].name);
	}
	return 0;
}

static int
read_tree(const cJSON *root, struct config *config, struct err *err)
{
	bool seen[KEY_COUNT] = { false };
	int r;

	if (cJSON_IsNull(root))
		return err_set(err, EINVAL, "is empty: write a terminal: block");
	if (!cJSON_IsObject(root))
		return err_set(err, EINVAL, "is %s: write a terminal: block", type_name(root));
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

/* ---- the file ----------------------------------------------------------------------------------------------- */

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

/* ---- the rest ----------------------------------------------------------------------------------------------- */

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
	for (int i = 0; i < KEY_COUNT; i++) {
		if (keys[i].kind == KIND_TEXT || keys[i].kind == KIND_DIRECTORY)
			free(*(char **)(void *)((char *)config + keys[i].field));
		else if (keys[i].kind == KIND_LIST)
			list_release((struct config_list *)(void *)((char *)config + keys[i].field));
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
