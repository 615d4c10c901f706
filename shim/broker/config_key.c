#include <assert.h>
#include <string.h>

#include "shim/broker/config.h"
#include "shim/broker/config_key.h"
#include "shim/broker/config_value.h"

enum {
	/* an unknown key is taken for a misspelt one up to this many wrong letters */
	TYPOS_MAX = 3,
	KEY_LEN_MAX = 48,
};

static const char *const api_choices[] = { [CONFIG_API_V2] = "v2", [CONFIG_API_V1] = "v1", NULL };
static const char *const network_choices[] = {
	[CONFIG_NETWORK_BLOCKED] = "blocked", [CONFIG_NETWORK_OPEN] = "open", NULL
};
static const char *const env_base_choices[] = {
	[CONFIG_ENV_IMAGE] = "image", [CONFIG_ENV_EMPTY] = "empty", NULL
};

#define FIELD(member) .field = offsetof(struct config, member)
#define SECOND_MS     1000.0
#define HOUR_MS	      (3600 * SECOND_MS)
#define UNUSED(key, why)                                                                           \
	{                                                                                          \
		.section = "terminal", .name = key, .kind = KIND_UNUSED, .reason = why             \
	}
#define TERMINAL .section = "terminal", .name
#define MODALSH	 .section = "modalsh", .name

#define BY_HERMES     "Hermes applies it itself"
#define LOCAL_ONLY    "it concerns the local backend alone"
#define OTHER_BACKEND "it belongs to another backend"

static const struct config_key keys[] = {
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
	{ TERMINAL = "container_persistent", .kind = KIND_BOOL, FIELD(persistent),
	  .fallback = "true", .variable = "TERMINAL_CONTAINER_PERSISTENT" },
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
	{ MODALSH = "api", .kind = KIND_CHOICE, FIELD(api), .fallback = "v2",
	  .choices = api_choices },
	{ MODALSH = "network", .kind = KIND_CHOICE, FIELD(network), .fallback = "blocked",
	  .choices = network_choices },
	{ MODALSH = "lifetime", .kind = KIND_SECONDS, FIELD(lifetime_s), .fallback = "12h",
	  .min = SECOND_MS, .max = 24 * HOUR_MS },
	{ MODALSH = "idle_timeout", .kind = KIND_SECONDS, FIELD(idle_timeout_s), .fallback = "10m",
	  .min = SECOND_MS, .max = 24 * HOUR_MS },
	{ MODALSH = "lease", .kind = KIND_MILLISECONDS, FIELD(lease_ms), .fallback = "60s",
	  .min = 3 * SECOND_MS, .max = HOUR_MS },
	{ MODALSH = "lane_recycle", .kind = KIND_BYTES, FIELD(lane_recycle_bytes),
	  .fallback = "8589934592", .min = 1 << 20, .max = 1e15 },
	{ MODALSH = "command_timeout", .kind = KIND_SECONDS, FIELD(command_timeout_s),
	  .fallback = "0", .min = 0, .max = 24 * HOUR_MS },
	{ MODALSH = "strict_cwd", .kind = KIND_BOOL, FIELD(strict_cwd), .fallback = "false" },
	{ MODALSH = "start_early", .kind = KIND_BOOL, FIELD(start_early), .fallback = "true" },
	{ MODALSH = "pipelined_start", .kind = KIND_BOOL, FIELD(pipelined_start),
	  .fallback = "false" },
	{ MODALSH = "env_base", .kind = KIND_CHOICE, FIELD(env_base), .fallback = "image",
	  .choices = env_base_choices },
	{ MODALSH = "env_reasons", .kind = KIND_REASONS },
	{ MODALSH = "shell", .kind = KIND_TEXT, FIELD(shell), .fallback = "sh",
	  .check = value_check_program },
	{ MODALSH = "socket", .kind = KIND_TEXT, FIELD(socket), .fallback = MODALSH_SOCKET_DEFAULT,
	  .check = value_check_socket },
	{ MODALSH = "allow_users", .kind = KIND_LIST, FIELD(allow_users),
	  .check = value_check_user },
	{ MODALSH = "guest", .kind = KIND_TEXT, FIELD(guest), .fallback = MODALSH_GUEST_DEFAULT,
	  .check = value_check_path },
	{ MODALSH = "server_url", .kind = KIND_TEXT, FIELD(server_url), .check = value_check_url },
	{ MODALSH = "ca_file", .kind = KIND_TEXT, FIELD(ca_file), .check = value_check_path },
	{ MODALSH = "token_file", .kind = KIND_TEXT, FIELD(token_file), .check = value_check_path },
	{ MODALSH = "log_level", .kind = KIND_TEXT, FIELD(log_level), .fallback = "info",
	  .check = value_check_log_level },
};

#define KEY_COUNT (sizeof keys / sizeof keys[0])

static_assert(KEY_COUNT <= CONFIG_KEYS_MAX, "arrays of one element per key are that long");

const struct config_key *
config_key_at(size_t index)
{
	return index < KEY_COUNT ? &keys[index] : NULL;
}

size_t
config_key_find(const char *section, const char *name)
{
	size_t i = 0;

	while (i < KEY_COUNT &&
	       (strcmp(keys[i].section, section) != 0 || strcmp(keys[i].name, name) != 0))
		i++;
	return i;
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

const struct config_key *
config_key_suggest(const char *section, const char *name)
{
	const struct config_key *best = NULL;
	unsigned best_count = TYPOS_MAX + 1;

	for (size_t i = 0; i < KEY_COUNT; i++) {
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
