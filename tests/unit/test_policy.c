/* What crosses. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim/base/strv.h"
#include "shim/broker/policy.h"
#include "tests/unit/run.h"

static struct config config;

static void
configure(const char *text)
{
	struct err err;
	int r;

	config_release(&config);
	r = config_parse(text, strlen(text), "FILE", &config, &err);
	ck_assert_msg(r == 0, "%s", err.text);
}

static void
teardown(void)
{
	config_release(&config);
}

#define WITH(list)                                                                                 \
	"terminal: {backend: modal, cwd: /a/b, modal_image: x, env_passthrough: " list "}\n"

static bool
crosses(const char *name)
{
	return policy_env_crosses(&config, name, strlen(name));
}

START_TEST(test_nothing_crosses_unasked)
{
	configure(WITH("[]"));
	ck_assert(!crosses("PATH"));
	ck_assert(!crosses("LANG"));
	ck_assert(!crosses(""));
	ck_assert(!crosses("OPENAI_API_KEY"));
}
END_TEST

START_TEST(test_names_are_whole_and_exact)
{
	configure(WITH("[LANG, A]"));
	ck_assert(crosses("LANG"));
	ck_assert(crosses("A"));
	ck_assert(!crosses("LANGUAGE"));
	ck_assert(!crosses("LAN"));
	ck_assert(!crosses("lang"));
	ck_assert(policy_env_crosses(&config, "LANG=C", 4));
	ck_assert(!policy_env_crosses(&config, "LANG", 3));
}
END_TEST

START_TEST(test_globs)
{
	configure(WITH("['LC_*', 'X?Z', '*_DIR', 'A*B*C']"));
	ck_assert(crosses("LC_ALL") && crosses("LC_"));
	ck_assert(!crosses("LC") && !crosses("XLC_ALL"));
	ck_assert(crosses("XYZ") && !crosses("XZ") && !crosses("XYYZ"));
	ck_assert(crosses("BUILD_DIR") && crosses("_DIR") && !crosses("BUILD_DIRS"));
	ck_assert(crosses("ABC") && crosses("AxBxBxC") && !crosses("AxC") && !crosses("ABCx"));
}
END_TEST

/* Many stars and a name that almost fits must not take for ever. */
START_TEST(test_globs_take_no_time)
{
	char name[4096];

	configure(WITH("['*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b']"));
	memset(name, 'a', sizeof name);
	for (int i = 0; i < 100; i++)
		ck_assert(!policy_env_crosses(&config, name, sizeof name));
}
END_TEST

/* No glob, and no reason for a glob, lets these cross. */
static const char *const secrets[] = {
	"OPENAI_API_KEY",
	"openai_api_key",
	"ANTHROPIC_API_KEY",
	"ANTHROPIC_TOKEN",
	"ANTHROPIC_BASE_URL",
	"OPENROUTER_API_KEY",
	"GOOGLE_API_KEY",
	"DEEPSEEK_API_KEY",
	"MISTRAL_API_KEY",
	"GROQ_API_KEY",
	"TOGETHER_API_KEY",
	"PERPLEXITY_API_KEY",
	"COHERE_API_KEY",
	"FIREWORKS_API_KEY",
	"XAI_API_KEY",
	"HELICONE_API_KEY",
	"PARALLEL_API_KEY",
	"FIRECRAWL_API_KEY",
	"LLM_MODEL",
	"VERTEX_CREDENTIALS_PATH",
	"GOOGLE_APPLICATION_CREDENTIALS",
	"TELEGRAM_BOT_TOKEN",
	"TELEGRAM_HOME_CHANNEL",
	"DISCORD_ALLOWED_USERS",
	"HASS_TOKEN",
	"HASS_URL",
	"EMAIL_PASSWORD",
	"GH_TOKEN",
	"GITHUB_TOKEN",
	"GITHUB_APP_PRIVATE_KEY",
	"DAYTONA_API_KEY",
	"VERCEL_TOKEN",
	"GATEWAY_RELAY_X_SECRET",
	"AUXILIARY_VISION_API_KEY",
	"AUXILIARY_VISION_BASE_URL",
	"SUDO_PASSWORD",
	"AWS_BEARER_TOKEN_BEDROCK",
	"HERMES_DASHBOARD_SESSION_TOKEN",
};

START_TEST(test_globs_carry_no_secrets)
{
	const char *name = secrets[_i];

	configure(
		WITH("['*', 'G*', 'O*', '*_API_KEY']") "modalsh: {env_reasons: {'*': all of it}}");
	ck_assert(crosses("PATH") && crosses("GOPATH") && crosses("STRIPE_API_KEY"));
	ck_assert_msg(!crosses(name), "%s", name);
}
END_TEST

START_TEST(test_claude_token_is_no_secret_here)
{
	configure(WITH("[CLAUDE_CODE_OAUTH_TOKEN, AWS_ACCESS_KEY_ID]"));
	ck_assert(crosses("CLAUDE_CODE_OAUTH_TOKEN"));
	ck_assert(crosses("AWS_ACCESS_KEY_ID"));
}
END_TEST

START_TEST(test_a_secret_with_its_reason_crosses)
{
	configure(WITH("[GH_TOKEN, 'GITHUB_*']") "modalsh: {env_reasons: {GH_TOKEN: a fork, "
						 "'GITHUB_*': ours}}");
	ck_assert(crosses("GH_TOKEN"));
	ck_assert(!crosses("gh_token"));
	ck_assert(!crosses("GITHUB_TOKEN"));
	ck_assert(crosses("GITHUB_ACTIONS"));
}
END_TEST

START_TEST(test_ours_never_cross)
{
	static const char *const names[] = { "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET",
					     "MODAL_PROFILE",  "MODAL_",
					     "modal_token_id", "MODALSH_SOCKET",
					     "MODALSH_X" };

	configure(WITH("['*', 'M*', '*_ID', 'm*']") "modalsh: {env_reasons: {'*': all of it}}");
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		ck_assert_msg(!crosses(names[i]), "%s", names[i]);
	ck_assert(crosses("MODALITY"));
}
END_TEST

/* Built by hand, past the check of the configuration: the filter does not rely on it. */
START_TEST(test_filter_holds_without_the_check)
{
	char name[] = "MODAL_TOKEN_ID", text[] = "please";
	char *items[] = { name, NULL };
	struct config_reason reason = { name, text };
	const struct config unchecked = { .env_passthrough = { items, 1 },
					  .env_reasons = &reason,
					  .env_reason_count = 1 };

	ck_assert(!policy_env_crosses(&unchecked, name, strlen(name)));
}
END_TEST

START_TEST(test_filter_keeps_order_and_pointers)
{
	char a[] = "LANG=C", b[] = "SECRET=x", c[] = "LC_ALL=", d[] = "noequals", e[] = "=odd",
	     f[] = "LANG=D";
	char *const env[] = { a, b, c, d, e, f, NULL };
	char *const nothing[] = { NULL };
	char **crossing;

	configure(WITH("[LANG, 'LC_*', noequals]"));
	crossing = policy_env_filter(&config, env);
	ck_assert_ptr_nonnull(crossing);
	ck_assert_uint_eq(strv_count(crossing), 3);
	ck_assert_ptr_eq(crossing[0], a);
	ck_assert_ptr_eq(crossing[1], c);
	ck_assert_ptr_eq(crossing[2], f);
	free(crossing);
	crossing = policy_env_filter(&config, nothing);
	ck_assert_ptr_nonnull(crossing);
	ck_assert_uint_eq(strv_count(crossing), 0);
	free(crossing);
}
END_TEST

START_TEST(test_cwd_inside)
{
	static const char *const inside[] = { "/a/b",	  "/a/b/",    "/a/b/c",
					      "/a/b/c/d", "/a/b/..c", "/a/b/c.." };
	const char *got = NULL;
	struct err err;

	configure(WITH("[]") "modalsh: {strict_cwd: true}");
	for (size_t i = 0; i < sizeof inside / sizeof inside[0]; i++) {
		ck_assert_int_eq(policy_cwd(&config, inside[i], &got, &err), 0);
		ck_assert_ptr_eq(got, inside[i]);
	}
}
END_TEST

static const char *const outside[] = { "/",	"/a",	   "/a/",
				       "/a/bc", "/a/bc/d", "/home/u",
				       "",	"a/b",	   "(unreachable)/a/b" };

START_TEST(test_cwd_outside_is_replaced)
{
	const char *got = NULL;
	struct err err;

	configure(WITH("[]"));
	for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
		ck_assert_int_eq(policy_cwd(&config, outside[i], &got, &err), 0);
		ck_assert_ptr_eq(got, config.cwd);
	}
}
END_TEST

START_TEST(test_cwd_outside_is_refused_when_strict)
{
	const char *got = "untouched";
	struct err err;

	configure(WITH("[]") "modalsh: {strict_cwd: true}");
	for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
		ck_assert_int_eq(policy_cwd(&config, outside[i], &got, &err), -ENOENT);
		ck_assert_ptr_nonnull(strstr(err.text, "strict_cwd"));
		ck_assert_str_eq(got, "untouched");
	}
}
END_TEST

START_TEST(test_cwd_with_dots_is_refused)
{
	static const char *const paths[] = { "/a/b/..", "/a/b/../b", "/a/b/c/../../../etc", "..",
					     "/.." };
	const char *got = "untouched";
	struct err err;

	configure(WITH("[]"));
	for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
		ck_assert_int_eq(policy_cwd(&config, paths[i], &got, &err), -EINVAL);
		ck_assert_str_eq(got, "untouched");
	}
}
END_TEST

/* Whether one word of argv, or one variable, speaks of the descriptor. */
static bool
word_names(const char *word, unsigned number)
{
	char *copy = strdup(word);
	char program[] = "sh", option[] = "-c";
	char *const argv[] = { program, option, copy, NULL }, *const env[] = { NULL };
	bool names = policy_names_descriptor(argv, env, number);

	free(copy);
	return names;
}

static bool
variable_names(const char *variable, unsigned number)
{
	char *copy = strdup(variable);
	char program[] = "make", other[] = "LANG=C";
	char *const argv[] = { program, NULL }, *const env[] = { other, copy, NULL };
	bool names = policy_names_descriptor(argv, env, number);

	free(copy);
	return names;
}

START_TEST(test_descriptors_named_in_argv)
{
	static const char *const naming[] = { "/dev/fd/5",
					      "cat /dev/fd/5 - ",
					      "/proc/self/fd/5",
					      "exec 3<&5",
					      "echo x >&5",
					      "echo x >&55; read y <&5-",
					      "--jobserver-auth=5,6",
					      "--jobserver-auth=4,5",
					      "-j --jobserver-fds=5,6 -k" };
	static const char *const others[] = { "",
					      "5",
					      "/dev/fd/",
					      "/dev/fd/55",
					      "/dev/fd/15",
					      "/dev/fd/4/5",
					      "/dev/fd/05",
					      "/proc/5/fd/4",
					      "exec 5</dev/null",
					      "echo x >& 5",
					      "echo x 2>&1",
					      "echo x >&55",
					      "--jobserver-auth=15,55",
					      "--jobserver-auth=fifo:/tmp/x",
					      "--level=5,5" };

	for (size_t i = 0; i < sizeof naming / sizeof naming[0]; i++)
		ck_assert_msg(word_names(naming[i], 5), "%s", naming[i]);
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		ck_assert_msg(!word_names(others[i], 5), "%s", others[i]);
}
END_TEST

START_TEST(test_descriptors_named_in_env)
{
	static const char *const naming[] = {
		"LISTEN_FD=5",	 "NOTIFY_SOCKET=5", "fd=5",
		"my_socket=5",	 "INPUT=/dev/fd/5", "MAKEFLAGS= -j --jobserver-auth=5,6",
		"SCRIPT=cat <&5"
	};
	static const char *const others[] = { "LISTEN_FD=55",
					      "LISTEN_FD=5 ",
					      "LISTEN_FD=",
					      "LISTEN_FDS=5",
					      "COUNT=5",
					      "FD_COUNT=5",
					      "D=5",
					      "/dev/fd/5=x",
					      "SSH_AUTH_SOCKET=/tmp/5",
					      "MAKEFLAGS=-j5,5",
					      "noequals/dev/fd/5" };

	for (size_t i = 0; i < sizeof naming / sizeof naming[0]; i++)
		ck_assert_msg(variable_names(naming[i], 5), "%s", naming[i]);
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		ck_assert_msg(!variable_names(others[i], 5), "%s", others[i]);
}
END_TEST

START_TEST(test_descriptors_of_any_length)
{
	char *const nothing[] = { NULL };

	ck_assert(word_names("/dev/fd/4294967295", 4294967295u));
	ck_assert(!word_names("/dev/fd/429496729", 4294967295u));
	ck_assert(variable_names("X_FD=65535", 65535));
	ck_assert(!policy_names_descriptor(nothing, nothing, 0));
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("policy");
	TCase *tcase = tcase_create("policy");

	unsetenv("TERMINAL_ENV");
	tcase_add_checked_fixture(tcase, NULL, teardown);
	tcase_add_test(tcase, test_nothing_crosses_unasked);
	tcase_add_test(tcase, test_names_are_whole_and_exact);
	tcase_add_test(tcase, test_globs);
	tcase_add_test(tcase, test_globs_take_no_time);
	tcase_add_loop_test(tcase, test_globs_carry_no_secrets, 0,
			    sizeof secrets / sizeof secrets[0]);
	tcase_add_test(tcase, test_claude_token_is_no_secret_here);
	tcase_add_test(tcase, test_a_secret_with_its_reason_crosses);
	tcase_add_test(tcase, test_ours_never_cross);
	tcase_add_test(tcase, test_filter_holds_without_the_check);
	tcase_add_test(tcase, test_filter_keeps_order_and_pointers);
	tcase_add_test(tcase, test_cwd_inside);
	tcase_add_test(tcase, test_cwd_outside_is_replaced);
	tcase_add_test(tcase, test_cwd_outside_is_refused_when_strict);
	tcase_add_test(tcase, test_cwd_with_dots_is_refused);
	tcase_add_test(tcase, test_descriptors_named_in_argv);
	tcase_add_test(tcase, test_descriptors_named_in_env);
	tcase_add_test(tcase, test_descriptors_of_any_length);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
