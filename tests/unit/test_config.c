/* The configuration: what starts, what every key does, and what is refused with which words. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/broker/config.h"
#include "shim/broker/config_tree.h"
#include "tests/unit/run.h"

/* The lines that every configuration needs, for those that test another. */
#define BASE "terminal:\n  backend: modal\n  cwd: /work\n  modal_image: \"python:3.11-slim\"\n"
#define OURS BASE "modalsh:\n"

static const char deployed[] = "terminal:\n"
			       "  backend: modal\n"
			       "  cwd: /opt/data/workspace\n"
			       "  env_passthrough: []\n"
			       "  modal_image: \"python:3.11-slim\"\n"
			       "  container_cpu: 1\n"
			       "  container_memory: 5120\n"
			       "  container_disk: 51200\n"
			       "  container_persistent: true\n"
			       "  file_sync_enabled: false\n"
			       "  file_sync_max_mb: 100\n";

static struct config config;
static struct err err;

static void
setup(void)
{
	static const char *const variables[] = { "TERMINAL_ENV",
						 "TERMINAL_CWD",
						 "TERMINAL_MODAL_MODE",
						 "TERMINAL_MODAL_IMAGE",
						 "TERMINAL_CONTAINER_CPU",
						 "TERMINAL_CONTAINER_MEMORY",
						 "TERMINAL_CONTAINER_PERSISTENT" };

	for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
		unsetenv(variables[i]);
}

static void
teardown(void)
{
	config_release(&config);
}

static int
parse(const char *text)
{
	config_release(&config);
	err = (struct err){ 0 };
	return config_parse(text, strlen(text), "FILE", &config, &err);
}

static void
parse_good(const char *text)
{
	int r = parse(text);

	ck_assert_msg(r == 0, "%s", err.text);
}

static void
ignored_text(char *text, size_t len)
{
	FILE *out = fmemopen(text, len, "w");

	ck_assert_ptr_nonnull(out);
	config_print_ignored(&config, out);
	fclose(out);
}

START_TEST(test_deployed_configuration_starts)
{
	char ignored[512];

	parse_good(deployed);
	ck_assert_str_eq(config.cwd, "/opt/data/workspace");
	ck_assert_str_eq(config.image, "python:3.11-slim");
	ck_assert_uint_eq(config.milli_cpu, 1000);
	ck_assert_uint_eq(config.memory_mib, 5120);
	ck_assert(config.persistent);
	ck_assert_uint_eq(config.env_passthrough.count, 0);
	ignored_text(ignored, sizeof ignored);
	ck_assert_str_eq(ignored,
			 "terminal.container_disk: Modal takes no disk size for sandboxes\n"
			 "terminal.file_sync_max_mb: no file is synchronised\n");
}
END_TEST

START_TEST(test_defaults)
{
	parse_good(BASE);
	ck_assert_uint_eq(config.milli_cpu, 0);
	ck_assert_uint_eq(config.memory_mib, 0);
	ck_assert(config.persistent);
	ck_assert_uint_eq(config.command_timeout_s, 0);
	ck_assert_str_eq(config.app, "modalsh");
	ck_assert_str_eq(config.environment, "");
	ck_assert_str_eq(config.session, "default");
	ck_assert_int_eq(config.api, CONFIG_API_V2);
	ck_assert_int_eq(config.network, CONFIG_NETWORK_BLOCKED);
	ck_assert_uint_eq(config.lifetime_s, 12 * 3600);
	ck_assert_uint_eq(config.idle_timeout_s, 600);
	ck_assert_uint_eq(config.lease_ms, 60000);
	ck_assert_uint_eq(config.lane_recycle_bytes, UINT64_C(8) << 30);
	ck_assert(!config.strict_cwd && config.start_early && !config.pipelined_start);
	ck_assert_int_eq(config.env_base, CONFIG_ENV_IMAGE);
	ck_assert_str_eq(config.shell, "sh");
	ck_assert_str_eq(config.socket, MODALSH_SOCKET_DEFAULT);
	ck_assert_str_eq(config.guest, MODALSH_GUEST_DEFAULT);
	ck_assert_str_eq(config.log_level, "info");
	ck_assert_ptr_null(config.server_url);
	ck_assert_ptr_null(config.ca_file);
	ck_assert_ptr_null(config.token_file);
}
END_TEST

START_TEST(test_every_setting_of_ours)
{
	parse_good(
		OURS
		"  app: agents\n  environment: staging\n  session: build-1\n  api: v1\n"
		"  network: open\n  lifetime: 24h\n  idle_timeout: 90s\n  lease: 3500ms\n  lane_recycle: 5000000000\n"
		"  command_timeout: 2m\n  strict_cwd: true\n  start_early: no\n"
		"  pipelined_start: on\n  env_base: empty\n  shell: /bin/bash\n"
		"  socket: /tmp/s\n  allow_users: [1000, hermes]\n  guest: /g\n"
		"  server_url: http://127.0.0.1:8443\n  ca_file: /ca\n  token_file: /t\n"
		"  log_level: debug\n");
	ck_assert_str_eq(config.app, "agents");
	ck_assert_str_eq(config.environment, "staging");
	ck_assert_str_eq(config.session, "build-1");
	ck_assert_int_eq(config.api, CONFIG_API_V1);
	ck_assert_int_eq(config.network, CONFIG_NETWORK_OPEN);
	ck_assert_uint_eq(config.lifetime_s, 24 * 3600);
	ck_assert_uint_eq(config.idle_timeout_s, 90);
	ck_assert_uint_eq(config.lease_ms, 3500);
	ck_assert_uint_eq(config.lane_recycle_bytes, UINT64_C(5000000000));
	ck_assert_uint_eq(config.command_timeout_s, 120);
	ck_assert(config.strict_cwd && !config.start_early && config.pipelined_start);
	ck_assert_int_eq(config.env_base, CONFIG_ENV_EMPTY);
	ck_assert_str_eq(config.shell, "/bin/bash");
	ck_assert_str_eq(config.socket, "/tmp/s");
	ck_assert_uint_eq(config.allow_users.count, 2);
	ck_assert_str_eq(config.allow_users.items[0], "1000");
	ck_assert_str_eq(config.allow_users.items[1], "hermes");
	ck_assert_ptr_null(config.allow_users.items[2]);
	ck_assert_str_eq(config.guest, "/g");
	ck_assert_str_eq(config.server_url, "http://127.0.0.1:8443");
	ck_assert_str_eq(config.ca_file, "/ca");
	ck_assert_str_eq(config.token_file, "/t");
	ck_assert_str_eq(config.log_level, "debug");
}
END_TEST

/* Every key that Hermes documents for its terminal, with its default, starts. */
START_TEST(test_whole_hermes_configuration)
{
	char ignored[8192];
	const char *line;
	unsigned count = 0;

	parse_good(
		"model: {default: x, list: [1, 2]}\ndisplay:\n  theme: dark\n" BASE
		"  modal_mode: auto\n  degraded_mode: warn\n  temp_dir: \"\"\n  timeout: 180\n"
		"  lifetime_seconds: 300\n  daemon_term_grace_seconds: 2.0\n"
		"  oneshot_completion_wait_seconds: 600.0\n  env_passthrough: []\n"
		"  credential_files: []\n  home_mode: auto\n  shell_init_files: []\n"
		"  auto_source_bashrc: true\n  persistent_shell: true\n  container_cpu: 1\n"
		"  container_memory: 5120\n  container_disk: 51200\n  container_persistent: true\n"
		"  sandbox_dir:\n  font_family: \"\"\n  docker_image: x\n  singularity_image: x\n"
		"  daytona_image: x\n  vercel_runtime: node24\n  docker_forward_env: []\n"
		"  docker_env: {}\n  docker_volumes: []\n  docker_extra_args: []\n"
		"  docker_mount_cwd_to_workspace: false\n  docker_run_as_host_user: false\n"
		"  docker_snap_compat: false\n  docker_network: true\n"
		"  docker_persist_across_processes: true\n  docker_orphan_reaper: true\n"
		"  docker_shm_size: 1g\n  docker_shared_container_key: \"\"\n  ssh_host: \"\"\n"
		"  ssh_user: \"\"\n  ssh_port: 22\n  ssh_key: \"\"\n  sudo_password: hunter2\n"
		"  backends: {modalsh: {x: 1}}\nmcp_servers: []\n");
	ignored_text(ignored, sizeof ignored);
	for (line = ignored; (line = strchr(line, '\n')) != NULL; line++)
		count++;
	ck_assert_uint_eq(count, 36);
	ck_assert_ptr_nonnull(strstr(ignored, "terminal.sudo_password: "));
	ck_assert_ptr_null(strstr(ignored, "hunter2"));
}
END_TEST

START_TEST(test_json_is_read_too)
{
	parse_good("{\n\t\"terminal\":{\"backend\":\"modal\",\"cwd\":\"\\/w\\u0061\","
		   "\"modal_image\":\"im-Ab1\",\"container_cpu\":0.5},\n"
		   "\t\"modalsh\": {\"allow_users\": [\"u\"], \"start_early\": false}\n}\n");
	ck_assert_str_eq(config.cwd, "/wa");
	ck_assert_str_eq(config.image, "im-Ab1");
	ck_assert_uint_eq(config.milli_cpu, 500);
	ck_assert(!config.start_early);
	ck_assert_uint_eq(config.allow_users.count, 1);
}
END_TEST

START_TEST(test_cwd_is_normalised)
{
	parse_good("terminal: {backend: modal, cwd: /a//b/./c/, modal_image: x}");
	ck_assert_str_eq(config.cwd, "/a/b/c");
	parse_good("terminal: {backend: modal, cwd: /root/work, modal_image: x}");
	ck_assert_str_eq(config.cwd, "/root/work");
}
END_TEST

START_TEST(test_images)
{
	static const char *const good[] = {
		"python",
		"python:3.11-slim",
		"nikolaik/python-nodejs:python3.14-nodejs22",
		"im-0aZ9",
		"ghcr.io/a/b_c/d--e:v1",
		"localhost:5000/x",
		"localhost/x",
		"registry.example:443/x:T_1.2",
		"x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	};
	static const char *const bad[] = {
		"",	     "-x",
		"x:",	     "X",
		"a//b",	     "/a",
		"a/",	     "x:-t",
		"a b",	     "x@sha256:xyz",
		"x@",	     "im-",
		"im-a/B",    "a..b",
		"a.-b",	     "http://x/y",
		"x\\nRUN y", "localhost:x/y",
		"$(x)",
	};
	char text[512];

	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		snprintf(text, sizeof text,
			 "terminal: {backend: modal, cwd: /w, modal_image: \"%s\"}", good[i]);
		parse_good(text);
		ck_assert_str_eq(config.image, good[i]);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		snprintf(text, sizeof text,
			 "terminal: {backend: modal, cwd: /w, modal_image: \"%s\"}", bad[i]);
		ck_assert_msg(parse(text) == -EINVAL, "%s", bad[i]);
		ck_assert_ptr_nonnull(strstr(err.text, "FILE: terminal.modal_image: "));
	}
}
END_TEST

START_TEST(test_variables_fill_what_is_open)
{
	setenv("TERMINAL_ENV", "modal", 1);
	setenv("TERMINAL_CWD", "/from/env", 1);
	setenv("TERMINAL_MODAL_IMAGE", "123", 1);
	setenv("TERMINAL_CONTAINER_CPU", "2.5", 1);
	setenv("TERMINAL_CONTAINER_MEMORY", "", 1);
	setenv("TERMINAL_CONTAINER_PERSISTENT", "0", 1);
	parse_good("modalsh: {app: a}");
	ck_assert_str_eq(config.cwd, "/from/env");
	ck_assert_str_eq(config.image, "123");
	ck_assert_uint_eq(config.milli_cpu, 2500);
	ck_assert_uint_eq(config.memory_mib, 0);
	ck_assert(!config.persistent);
	parse_good(deployed);
	ck_assert_str_eq(config.cwd, "/opt/data/workspace");
	ck_assert_str_eq(config.image, "python:3.11-slim");
	ck_assert_uint_eq(config.milli_cpu, 1000);
	ck_assert(config.persistent);
}
END_TEST

START_TEST(test_variables_are_checked)
{
	setenv("TERMINAL_CONTAINER_MEMORY", "lots", 1);
	ck_assert_int_eq(parse(BASE), -EINVAL);
	ck_assert_str_eq(err.text,
			 "FILE: TERMINAL_CONTAINER_MEMORY in the environment, for"
			 " terminal.container_memory: is text: write a number, without quotes");
	unsetenv("TERMINAL_CONTAINER_MEMORY");
	setenv("TERMINAL_CONTAINER_PERSISTENT", "maybe", 1);
	ck_assert_int_eq(parse(BASE), -EINVAL);
	unsetenv("TERMINAL_CONTAINER_PERSISTENT");
	/* the file says modal, somebody's environment says something else: neither is believed */
	setenv("TERMINAL_ENV", "docker", 1);
	ck_assert_int_eq(parse(BASE), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "TERMINAL_ENV"));
}
END_TEST

START_TEST(test_reasons)
{
	parse_good("terminal: {backend: modal, cwd: /w, modal_image: x,"
		   " env_passthrough: [LANG, 'GIT_*', '*', GH_TOKEN]}\n"
		   "modalsh:\n  env_reasons:\n    '*': a test bench\n    GH_TOKEN: pushes to a "
		   "fork\n");
	ck_assert_uint_eq(config.env_passthrough.count, 4);
	ck_assert_uint_eq(config.env_reason_count, 2);
	ck_assert_str_eq(config.env_reasons[0].entry, "*");
	ck_assert_str_eq(config.env_reasons[1].text, "pushes to a fork");
}
END_TEST

/* Each of these must be refused, with a message that begins so, is one line and says what to do. */
static const struct {
	const char *text;
	const char *message;
} bad[] = {
	/* the whole */
	{ "", "FILE: is empty: write" },
	{ "# nothing\n", "FILE: is empty: write" },
	{ "- a\n- b\n", "FILE: is a list: write" },
	{ "hello", "FILE: is text: write" },
	{ "modalsh: {}", "FILE: terminal.backend: is missing: write backend: modal" },
	{ "terminal: {backend: modal}", "FILE: terminal.cwd: is missing: write" },
	{ "terminal: {backend: modal, cwd: /w}", "FILE: terminal.modal_image: is missing: write" },
	{ "terminal: [a]", "FILE: terminal: is a list: write" },
	{ BASE "modalsh: 3\n", "FILE: modalsh: is a number: write" },
	{ BASE "modalsh:\n", "FILE: modalsh: is nothing: write" },
	/* reading */
	{ "terminal: {backend: modal", "FILE:2: " },
	{ "terminal:\n\tbackend: modal\n", "FILE:2: " },
	{ BASE "  cwd: /other\n", "FILE:5: the key \"cwd\" is there twice: remove" },
	{ "a: 1\na: 2\n" BASE, "FILE:2: the key \"a\" is there twice: remove" },
	{ "x: &a 1\n" BASE, "FILE:1: an anchor (&): write" },
	{ "x: *a\n" BASE, "FILE:1: an alias (*): write" },
	{ BASE "  container_cpu: !!int 1\n", "FILE:5: a tag (!): leave it out" },
	{ BASE "---\nb: 1\n", "FILE:5: a second document" },
	{ BASE "  ? [a]\n  : 1\n", "FILE:5: a key must be plain text" },
	{ "x: \"a\\0b\"\n" BASE, "FILE:1: a NUL character: leave it out" },
	{ "x: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
	  "FILE:1: nested too deeply" },
	/* keys */
	{ BASE "  container_cpus: 1\n",
	  "FILE: terminal.container_cpus: unknown key: did you mean terminal.container_cpu?" },
	{ BASE "  netwrok: open\n", "FILE: terminal.netwrok: unknown key: take it out" },
	{ BASE "  network: open\n",
	  "FILE: terminal.network: unknown key: did you mean modalsh.network?" },
	{ OURS "  netwrok: open\n",
	  "FILE: modalsh.netwrok: unknown key: did you mean modalsh.network?" },
	{ OURS "  cwd: /w\n", "FILE: modalsh.cwd: unknown key: did you mean terminal.cwd?" },
	{ OURS "  App: x\n", "FILE: modalsh.App: unknown key: did you mean modalsh.app?" },
	{ OURS "  token_secret: as-1\n", "FILE: modalsh.token_secret: unknown key: " },
	/* terminal */
	{ "terminal: {backend: local}",
	  "FILE: terminal.backend: \"local\" is not served here: write modal" },
	{ "terminal: {backend: Modal}",
	  "FILE: terminal.backend: \"Modal\" is not served here: write modal" },
	{ "terminal: {backend: }", "FILE: terminal.backend: has no value: write" },
	{ "terminal: {backend: [modal]}", "FILE: terminal.backend: is a list: write text" },
	{ BASE "  modal_mode: managed\n",
	  "FILE: terminal.modal_mode: \"managed\" needs a gateway" },
	{ BASE "  modal_mode: both\n", "FILE: terminal.modal_mode: \"both\" is unknown: write" },
	{ "terminal: {cwd: work}",
	  "FILE: terminal.cwd: \"work\" is not absolute: write the full path" },
	{ "terminal: {cwd: .}", "FILE: terminal.cwd: \".\" is not absolute: write the full path" },
	{ "terminal: {cwd: \"\"}",
	  "FILE: terminal.cwd: \"\" is not absolute: write the full path" },
	{ "terminal: {cwd: ~}", "FILE: terminal.cwd: has no value: write" },
	{ "terminal: {cwd: ~/work}", "FILE: terminal.cwd: \"~/work\" is not absolute: write" },
	{ "terminal: {cwd: /}",
	  "FILE: terminal.cwd: \"/\" would mix the work with the system: write" },
	{ "terminal: {cwd: //./}", "FILE: terminal.cwd: \"//./\" would mix" },
	{ "terminal: {cwd: /root}", "FILE: terminal.cwd: \"/root\" would mix" },
	{ "terminal: {cwd: /./root//}", "FILE: terminal.cwd: \"/./root//\" would mix" },
	{ "terminal: {cwd: /a/../root}", "FILE: terminal.cwd: \"/a/../root\" has a \"..\": write" },
	{ "terminal: {cwd: \"/a\\nb\"}",
	  "FILE: terminal.cwd: \"/a?b\" has a control character: take it out" },
	{ BASE "  container_cpu: 0\n",
	  "FILE: terminal.container_cpu: 0 is not greater than 0: write" },
	{ BASE "  container_cpu: -1\n",
	  "FILE: terminal.container_cpu: -1 is not greater than 0: write" },
	{ BASE "  container_cpu: \"1\"\n",
	  "FILE: terminal.container_cpu: is text: write a number" },
	{ BASE "  container_cpu: 0x10\n", "FILE: terminal.container_cpu: is text: write a number" },
	{ BASE "  container_cpu: 010\n", "FILE: terminal.container_cpu: is text: write a number" },
	{ BASE "  container_cpu: .nan\n", "FILE: terminal.container_cpu: is text: write a number" },
	{ BASE "  container_cpu: 1e9\n",
	  "FILE: terminal.container_cpu: 1e+09 is out of range: write" },
	{ BASE "  container_cpu: true\n",
	  "FILE: terminal.container_cpu: is a truth value: write a number" },
	{ BASE "  container_memory: 0\n",
	  "FILE: terminal.container_memory: 0 is not greater than 0: write" },
	{ BASE "  container_memory: 1.5\n",
	  "FILE: terminal.container_memory: 1.5 is not a whole number: write 2" },
	{ BASE "  container_memory: 5g\n",
	  "FILE: terminal.container_memory: is text: write a number" },
	{ BASE "  container_memory: 1e300\n",
	  "FILE: terminal.container_memory: 1e+300 is out of range: write" },
	{ BASE "  container_persistent: 1\n",
	  "FILE: terminal.container_persistent: is a number: write true" },
	{ BASE "  container_persistent: \"no\"\n",
	  "FILE: terminal.container_persistent: is text: write true" },
	{ BASE "  file_sync_enabled: true\n",
	  "FILE: terminal.file_sync_enabled: files are not synchronised" },
	{ BASE "  env_passthrough: LANG\n",
	  "FILE: terminal.env_passthrough: is text: write a list" },
	{ BASE "  env_passthrough: [1]\n",
	  "FILE: terminal.env_passthrough: entry 1: is a number: write" },
	{ BASE "  env_passthrough: [LANG, A=hidden]\n",
	  "FILE: terminal.env_passthrough: entry 2: an entry has a '=': write the name alone" },
	{ BASE "  env_passthrough: ['']\n",
	  "FILE: terminal.env_passthrough: entry 1: \"\" is no variable" },
	{ BASE "  env_passthrough: ['[A-Z]*']\n",
	  "FILE: terminal.env_passthrough: entry 1: \"[A-Z]*\" is no" },
	{ BASE "  env_passthrough: ['*']\n",
	  "FILE: terminal.env_passthrough: \"*\" lets everything cross" },
	{ BASE "  env_passthrough: ['?*']\n",
	  "FILE: terminal.env_passthrough: \"?*\" lets everything cross" },
	{ BASE "  env_passthrough: [OPENAI_API_KEY]\n",
	  "FILE: terminal.env_passthrough: \"OPENAI_API_KEY\" is a secret of the host: take"
	  " it out, or" },
	{ BASE "  env_passthrough: [gh_token]\n",
	  "FILE: terminal.env_passthrough: \"gh_token\" is a secret" },
	{ BASE
	  "  env_passthrough: [MODAL_TOKEN_ID]\nmodalsh: {env_reasons: {MODAL_TOKEN_ID: please}}\n",
	  "FILE: terminal.env_passthrough: \"MODAL_TOKEN_ID\" never crosses: take it out" },
	{ BASE "  env_passthrough: ['MODAL_*']\n",
	  "FILE: terminal.env_passthrough: \"MODAL_*\" never crosses" },
	/* modalsh */
	{ OURS "  env_reasons: {LANG: x}\n",
	  "FILE: modalsh.env_reasons: \"LANG\" is not in terminal.env_passthrough: add" },
	{ OURS "  env_reasons: {LANG: ' '}\n",
	  "FILE: modalsh.env_reasons: \"LANG\" is empty: write why" },
	{ OURS "  env_reasons: {LANG: 3}\n",
	  "FILE: modalsh.env_reasons: \"LANG\": is a number: write" },
	{ OURS "  env_reasons: [LANG]\n", "FILE: modalsh.env_reasons: is a list: write a map" },
	{ OURS "  app: \"\"\n", "FILE: modalsh.app: \"\" has not 1 to 64 characters: write" },
	{ OURS "  app: my app\n", "FILE: modalsh.app: \"my app\" is not a name: use" },
	{ OURS "  app: 12\n", "FILE: modalsh.app: is a number: write it in quotes" },
	{ OURS "  app: ap-0123456789abcdefABCDEF\n",
	  "FILE: modalsh.app: \"ap-0123456789abcdefABCDEF\" is an app's" },
	{ OURS "  session: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
	  "FILE: modalsh.session: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	  "aa\" has not 1 to 56" },
	{ OURS "  session: a/b\n", "FILE: modalsh.session: \"a/b\" is not a name: use" },
	{ OURS "  environment: \"a b\"\n",
	  "FILE: modalsh.environment: \"a b\" is not a name: use" },
	{ OURS "  api: v3\n", "FILE: modalsh.api: \"v3\" is unknown: write v2 or v1" },
	{ OURS "  network: maybe\n",
	  "FILE: modalsh.network: \"maybe\" is unknown: write blocked or open" },
	{ OURS "  network: off\n", "FILE: modalsh.network: is a truth value: write" },
	{ OURS "  lifetime: 600\n", "FILE: modalsh.lifetime: \"600\" has no unit: write 600s" },
	{ OURS "  lifetime: 25h\n", "FILE: modalsh.lifetime: is out of range: write 1s to 24h" },
	{ OURS "  lifetime: 0\n", "FILE: modalsh.lifetime: is out of range: write 1s to 24h" },
	{ OURS "  lifetime: 12:30\n", "FILE: modalsh.lifetime: \"12:30\" is no duration: write" },
	{ OURS "  lifetime: -5m\n", "FILE: modalsh.lifetime: \"-5m\" is no duration: write" },
	{ OURS "  lifetime: 1500ms\n", "FILE: modalsh.lifetime: is not a whole number of seconds" },
	{ OURS "  lifetime: 99999999999h\n",
	  "FILE: modalsh.lifetime: \"99999999999h\" is no duration" },
	{ OURS "  lifetime: [1h]\n", "FILE: modalsh.lifetime: is a list: write a duration" },
	{ OURS "  idle_timeout: soon\n",
	  "FILE: modalsh.idle_timeout: \"soon\" is no duration: write" },
	{ OURS "  lease: 2s\n", "FILE: modalsh.lease: is out of range: write 3s to 1h" },
	{ OURS "  lane_recycle: 1000\n",
	  "FILE: modalsh.lane_recycle: 1000 is out of range: write 1048576 to 1000000000000000" },
	{ OURS "  command_timeout: 2d\n",
	  "FILE: modalsh.command_timeout: \"2d\" is no duration: write" },
	{ OURS "  strict_cwd: 1\n", "FILE: modalsh.strict_cwd: is a number: write true or false" },
	{ OURS "  env_base: host\n",
	  "FILE: modalsh.env_base: \"host\" is unknown: write image or empty" },
	{ OURS "  shell: bin/sh\n", "FILE: modalsh.shell: \"bin/sh\" is no program: write" },
	{ OURS "  socket: run/s\n", "FILE: modalsh.socket: \"run/s\" is not absolute: write" },
	{ OURS "  socket: "
	       "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	       "aaaaaaa"
	       "aaaaaaaaaaaaaaaaaaa\n",
	  "FILE: modalsh.socket: "
	  "\"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""
	  " is too long for a socket" },
	{ OURS "  allow_users: [-1]\n",
	  "FILE: modalsh.allow_users: entry 1: \"-1\" is no user: write" },
	{ OURS "  allow_users: root\n", "FILE: modalsh.allow_users: is text: write a list" },
	{ OURS "  guest: g\n", "FILE: modalsh.guest: \"g\" is not absolute: write" },
	{ OURS "  server_url: api.modal.com\n",
	  "FILE: modalsh.server_url: \"api.modal.com\" is no URL: begin" },
	{ OURS "  server_url: https://\n",
	  "FILE: modalsh.server_url: \"https://\" is no URL: write" },
	{ OURS "  server_url: https://x:99999\n",
	  "FILE: modalsh.server_url: \"https://x:99999\" is no URL: write" },
	{ OURS "  server_url: https://u@x\n",
	  "FILE: modalsh.server_url: \"https://u@x\" is no URL: write" },
	{ OURS "  server_url: 'https://a,https://b'\n",
	  "FILE: modalsh.server_url: \"https://a,https://b\" is no" },
	{ OURS "  server_url: http://api.modal.com\n",
	  "FILE: modalsh.server_url: \"http://api.modal.com\" would send the token in the c"
	  "lear: use https" },
	{ OURS "  server_url: http://localhost.evil.example\n",
	  "FILE: modalsh.server_url: \"http://localhost.evil.example\" would send" },
	{ OURS "  ca_file: ca.pem\n", "FILE: modalsh.ca_file: \"ca.pem\" is not absolute: write" },
	{ OURS "  token_file: ~/x\n", "FILE: modalsh.token_file: \"~/x\" is not absolute: write" },
	{ OURS "  log_level: loud\n", "FILE: modalsh.log_level: \"loud\" is unknown: write" },
};

enum { BAD_COUNT = sizeof bad / sizeof bad[0] };

START_TEST(test_bad_configurations)
{
	int r = parse(bad[_i].text);

	ck_assert_msg(r < 0, "accepted: %s", bad[_i].text);
	ck_assert_int_eq(err.code, r);
	ck_assert_msg(strncmp(err.text, bad[_i].message, strlen(bad[_i].message)) == 0,
		      "expected %s, got %s", bad[_i].message, err.text);
	ck_assert_ptr_null(strchr(err.text, '\n'));
	ck_assert_ptr_null(strstr(err.text, "hidden"));
	ck_assert_ptr_null(config.cwd);
}
END_TEST

/* ---- the tree ---- */

START_TEST(test_scalars_are_typed)
{
	static const struct {
		const char *text;
		const char *json;
	} cases[] = {
		{ "x", "\"x\"" },
		{ "'1'", "\"1\"" },
		{ "\"true\"", "\"true\"" },
		{ "1", "1" },
		{ "-1.5", "-1.5" },
		{ "+2", "2" },
		{ "1e3", "1000" },
		{ "0", "0" },
		{ "01", "\"01\"" },
		{ "1_0", "\"1_0\"" },
		{ "1:30", "\"1:30\"" },
		{ "0o7", "\"0o7\"" },
		{ ".inf", "\".inf\"" },
		{ "1e", "\"1e\"" },
		{ "1e999", "\"1e999\"" },
		{ "-", "[null]" },
		{ "true", "true" },
		{ "No", "false" },
		{ "ON", "true" },
		{ "off", "false" },
		{ "y", "\"y\"" },
		{ "~", "null" },
		{ "", "null" },
		{ "null", "null" },
		{ "[1, a]", "[1,\"a\"]" },
		{ "{a: }", "{\"a\":null}" },
		{ "|\n  1\n", "\"1\\n\"" },
	};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		cJSON *tree = NULL;
		char *json;

		ck_assert_msg(config_tree_parse(cases[i].text, strlen(cases[i].text), "T", &tree,
						&err) == 0,
			      "%s: %s", cases[i].text, err.text);
		json = cJSON_PrintUnformatted(tree);
		ck_assert_str_eq(json, cases[i].json);
		free(json);
		cJSON_Delete(tree);
	}
}
END_TEST

START_TEST(test_size_is_bounded)
{
	char *text = malloc(CONFIG_TEXT_LEN_MAX + 2);
	cJSON *tree = NULL;

	ck_assert_ptr_nonnull(text);
	memset(text, ' ', CONFIG_TEXT_LEN_MAX + 1);
	ck_assert_int_eq(config_tree_parse(text, CONFIG_TEXT_LEN_MAX + 1, "T", &tree, &err),
			 -EFBIG);
	for (size_t i = 0; i < CONFIG_NODES_MAX; i++)
		memcpy(text + 4 * i, "- a\n", 4);
	ck_assert_int_eq(config_tree_parse(text, 4 * (CONFIG_NODES_MAX - 1), "T", &tree, &err), 0);
	cJSON_Delete(tree);
	tree = NULL;
	ck_assert_int_eq(config_tree_parse(text, 4 * CONFIG_NODES_MAX, "T", &tree, &err), -EINVAL);
	ck_assert_str_eq(err.text, "T:10000: too many values");
	ck_assert_ptr_null(tree);
	free(text);
}
END_TEST

/* Every prefix of a good file: read or refused, never a crash, and nothing is left behind. */
START_TEST(test_every_prefix)
{
	for (size_t len = 0; len < sizeof deployed; len++) {
		int r = config_parse(deployed, len, "FILE", &config, &err);

		if (r == 0)
			config_release(&config);
		else
			ck_assert_int_eq(err.code, r);
	}
}
END_TEST

START_TEST(test_bytes_that_are_no_text)
{
	static const char bytes[] = "terminal:\n  cwd: \xff\xfe\n";

	ck_assert_int_eq(parse(bytes), -EINVAL);
	ck_assert_int_eq(config_parse("a: \0", 4, "FILE", &config, &err), -EINVAL);
	ck_assert_int_eq(config_parse(deployed, strlen(deployed), "FILE", &config, NULL), 0);
	config_release(&config);
	ck_assert_int_lt(config_parse("x", 1, "FILE", &config, NULL), 0);
}
END_TEST

/* ---- the file ---- */

static void
write_file(const char *path, const char *text, mode_t mode)
{
	FILE *file = fopen(path, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(chmod(path, mode), 0);
}

START_TEST(test_files)
{
	char directory[] = "/tmp/test_config.XXXXXX", path[64];

	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/c.yaml", directory);
	ck_assert_int_eq(config_load(path, &config, &err), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err.text, path));
	ck_assert_int_eq(config_load(directory, &config, &err), -EINVAL);
	write_file(path, deployed, 0644);
	ck_assert_int_eq(config_load(path, &config, &err), 0);
	config_release(&config);
	write_file(path, deployed, 0646);
	ck_assert_int_eq(config_load(path, &config, &err), -EPERM);
	write_file(path, "terminal: {backend: local}", 0600);
	ck_assert_int_eq(config_load(path, &config, &err), -EINVAL);
	ck_assert_int_eq(strncmp(err.text, path, strlen(path)), 0);
	ck_assert_int_eq(truncate(path, CONFIG_TEXT_LEN_MAX + 1), 0);
	ck_assert_int_eq(config_load(path, &config, &err), -EFBIG);
	unlink(path);
	/* nobody waits for a writer */
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(config_load(path, &config, &err), -EINVAL);
	unlink(path);
	rmdir(directory);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("config");
	TCase *tcase = tcase_create("config"), *refused = tcase_create("refused");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_checked_fixture(refused, setup, teardown);
	tcase_add_test(tcase, test_deployed_configuration_starts);
	tcase_add_test(tcase, test_defaults);
	tcase_add_test(tcase, test_every_setting_of_ours);
	tcase_add_test(tcase, test_whole_hermes_configuration);
	tcase_add_test(tcase, test_json_is_read_too);
	tcase_add_test(tcase, test_cwd_is_normalised);
	tcase_add_test(tcase, test_images);
	tcase_add_test(tcase, test_variables_fill_what_is_open);
	tcase_add_test(tcase, test_variables_are_checked);
	tcase_add_test(tcase, test_reasons);
	tcase_add_test(tcase, test_scalars_are_typed);
	tcase_add_test(tcase, test_size_is_bounded);
	tcase_add_test(tcase, test_every_prefix);
	tcase_add_test(tcase, test_bytes_that_are_no_text);
	tcase_add_test(tcase, test_files);
	tcase_add_loop_test(refused, test_bad_configurations, 0, BAD_COUNT);
	suite_add_tcase(suite, tcase);
	suite_add_tcase(suite, refused);
	return run_suite(suite);
}
