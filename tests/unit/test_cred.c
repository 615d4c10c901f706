/* Where the token comes from, what is refused, and that nothing of it is left behind. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/broker/cred.h"
#include "shim/broker/cred_toml.h"
#include "tests/unit/run.h"

enum { NOISE_SEED = 20240607, NOISE_ROUNDS = 50000 };

#define PAIR "token_id = \"ak-file\"\ntoken_secret = \"as-file\"\n"

static char directory[] = "/tmp/test_cred.XXXXXX";
static char path[64];
static char no_environment[] = "";
static struct config config;
static struct cred *cred;
static struct err err;

static void
setup(void)
{
	static const char *const variables[] = { "MODAL_TOKEN_ID",   "MODAL_TOKEN_SECRET",
						 "MODAL_PROFILE",    "MODAL_CONFIG_PATH",
						 "MODAL_SERVER_URL", "MODAL_ENVIRONMENT" };

	for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
		unsetenv(variables[i]);
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/.modal.toml", directory);
	setenv("HOME", directory, 1);
	config = (struct config){ .environment = no_environment };
	cred = NULL;
}

static void
teardown(void)
{
	cred_free(cred);
	unlink(path);
	rmdir(directory);
}

static void
write_file(const char *text, mode_t mode)
{
	FILE *file = fopen(path, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(chmod(path, mode), 0);
}

static void
load_good(void)
{
	int r = cred_load(&config, &cred, &err);

	ck_assert_msg(r == 0, "%s", err.text);
}

static void
load_bad(int expected, const char *part)
{
	int r = cred_load(&config, &cred, &err);

	ck_assert_int_eq(r, expected);
	ck_assert_int_eq(err.code, expected);
	ck_assert_msg(strstr(err.text, part) != NULL, "expected %s in: %s", part, err.text);
	ck_assert_msg(strstr(err.text, "as-") == NULL && strstr(err.text, "ak-") == NULL, "%s",
		      err.text);
	ck_assert_ptr_null(cred);
}

START_TEST(test_environment_alone)
{
	setenv("MODAL_TOKEN_ID", "ak-env", 1);
	setenv("MODAL_TOKEN_SECRET", "as-env", 1);
	load_good();
	ck_assert_str_eq(cred_token_id(cred), "ak-env");
	ck_assert_str_eq(cred_token_secret(cred), "as-env");
	ck_assert_str_eq(cred_source(cred),
			 "token_id from MODAL_TOKEN_ID, token_secret from MODAL_TOKEN_SECRET");
	ck_assert_str_eq(cred_server_url(cred), "https://api.modal.com");
	ck_assert_str_eq(cred_environment(cred), "");
}
END_TEST

START_TEST(test_file_alone)
{
	char expected[256];

	write_file("[me]\n" PAIR
		   "active = true\nserver_url = 'https://x.example'\nenvironment = \"dev\"\n",
		   0600);
	load_good();
	ck_assert_str_eq(cred_token_id(cred), "ak-file");
	ck_assert_str_eq(cred_token_secret(cred), "as-file");
	ck_assert_str_eq(cred_server_url(cred), "https://x.example");
	ck_assert_str_eq(cred_environment(cred), "dev");
	snprintf(expected, sizeof expected, "token_id from %s [me], token_secret from %s [me]",
		 path, path);
	ck_assert_str_eq(cred_source(cred), expected);
}
END_TEST

START_TEST(test_each_half_by_itself)
{
	write_file("[default]\n" PAIR, 0400);
	setenv("MODAL_TOKEN_ID", "ak-env", 1);
	setenv("MODAL_TOKEN_SECRET", "", 1); /* empty says nothing */
	load_good();
	ck_assert_str_eq(cred_token_id(cred), "ak-env");
	ck_assert_str_eq(cred_token_secret(cred), "as-file");
}
END_TEST

START_TEST(test_which_profile)
{
	static const char text[] = "[default]\ntoken_id='ak-d'\ntoken_secret='x'\n"
				   "[one]\ntoken_id='ak-1'\ntoken_secret='x'\nactive=true\n"
				   "[\"t w.o\"]\ntoken_id='ak-2'\ntoken_secret='x'\nactive=false\n";

	write_file(text, 0600);
	load_good();
	ck_assert_str_eq(cred_token_id(cred), "ak-1");
	cred_free(cred);
	cred = NULL;
	setenv("MODAL_PROFILE", "t w.o", 1);
	load_good();
	ck_assert_str_eq(cred_token_id(cred), "ak-2");
	cred_free(cred);
	cred = NULL;
	setenv("MODAL_PROFILE", "three", 1);
	load_bad(-ENOENT, "has no profile [three] (MODAL_PROFILE)");
}
END_TEST

START_TEST(test_no_profile_chosen)
{
	write_file("[one]\n" PAIR "[two]\n" PAIR, 0600);
	load_bad(-ENOENT, "has no active profile");
	write_file("[one]\n" PAIR "active=true\n[two]\n" PAIR "active=true\n", 0600);
	load_bad(-EINVAL, "[one] and [two] are both active");
	setenv("MODAL_PROFILE", "two", 1);
	load_good();
}
END_TEST

START_TEST(test_precedence_of_url_and_environment)
{
	char url[] = "https://config.example", environment[] = "config";

	write_file("[default]\n" PAIR "server_url='https://file.example'\nenvironment='file'\n",
		   0600);
	setenv("MODAL_SERVER_URL", "https://env.example", 1);
	setenv("MODAL_ENVIRONMENT", "", 1); /* empty means the workspace's default */
	load_good();
	ck_assert_str_eq(cred_server_url(cred), "https://env.example");
	ck_assert_str_eq(cred_environment(cred), "");
	cred_free(cred);
	setenv("MODAL_ENVIRONMENT", "env", 1);
	config.server_url = url;
	load_good();
	ck_assert_str_eq(cred_server_url(cred), "https://config.example");
	ck_assert_str_eq(cred_environment(cred), "env");
	cred_free(cred);
	config.environment = environment;
	load_good();
	ck_assert_str_eq(cred_environment(cred), "config");
}
END_TEST

START_TEST(test_urls_and_names_are_checked)
{
	write_file("[default]\n" PAIR, 0600);
	setenv("MODAL_SERVER_URL", "http://api.modal.com", 1);
	load_bad(-EINVAL, "MODAL_SERVER_URL: ");
	unsetenv("MODAL_SERVER_URL");
	write_file("[default]\n" PAIR "environment = 'a b'\n", 0600);
	load_bad(-EINVAL, "environment in the token file: ");
	write_file("[default]\n" PAIR "server_url = 'ftp://x'\n", 0600);
	load_bad(-EINVAL, "server_url in the token file: ");
}
END_TEST

START_TEST(test_nothing_anywhere)
{
	load_bad(-ENOENT, "MODAL_TOKEN_ID is not set, and ");
	ck_assert_ptr_nonnull(strstr(err.text, path));
	ck_assert_ptr_nonnull(strstr(err.text, "does not exist"));
	setenv("MODAL_TOKEN_ID", "ak-env", 1);
	load_bad(-ENOENT, "MODAL_TOKEN_SECRET is not set");
}
END_TEST

START_TEST(test_paths)
{
	char moved[80], missing[80];

	write_file("[default]\n" PAIR, 0600);
	snprintf(moved, sizeof moved, "%s/moved", directory);
	snprintf(missing, sizeof missing, "%s/missing", directory);
	ck_assert_int_eq(rename(path, moved), 0);
	load_bad(-ENOENT, "does not exist");
	setenv("MODAL_CONFIG_PATH", moved, 1);
	load_good();
	cred_free(cred);
	cred = NULL;
	/* what the configuration names must be there */
	config.token_file = missing;
	setenv("MODAL_TOKEN_ID", "ak-env", 1);
	setenv("MODAL_TOKEN_SECRET", "as-env", 1);
	load_bad(-ENOENT, missing);
	config.token_file = moved;
	load_good();
	unlink(moved);
}
END_TEST

START_TEST(test_files_that_others_can_read)
{
	static const mode_t modes[] = { 0644, 0640, 0604, 0620, 0602, 0610, 0601, 0660 };

	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		write_file("[default]\n" PAIR, modes[i]);
		load_bad(-EPERM, "run chmod 600 on it");
	}
	/* a token elsewhere does not make the file less leaked */
	setenv("MODAL_TOKEN_ID", "ak-env", 1);
	setenv("MODAL_TOKEN_SECRET", "as-env", 1);
	load_bad(-EPERM, path);
}
END_TEST

START_TEST(test_files_of_another_user)
{
	write_file("[default]\n" PAIR, 0600);
	if (geteuid() == 0) {
		ck_assert_int_eq(chown(path, 65534, 65534), 0);
		load_bad(-EPERM, "belongs to user 65534");
	} else {
		/* root's own may be read where root lets us */
		load_good();
	}
}
END_TEST

START_TEST(test_no_regular_file)
{
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	load_bad(-EINVAL, "is not a regular file");
	unlink(path);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	load_bad(-EINVAL, "is not a regular file");
	rmdir(path);
	write_file("", 0600);
	ck_assert_int_eq(truncate(path, 64 * 1024 + 1), 0);
	load_bad(-EFBIG, "longer than");
}
END_TEST

START_TEST(test_tokens_that_are_no_header)
{
	static const char *const tokens[] = { "\"as-\\r\\nx\"", "\"as- x\"", "\"as-\\u00e9\"",
					      "\"as-\\u007f\"" };
	char text[128];

	for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
		snprintf(text, sizeof text, "[default]\ntoken_id='ak-1'\ntoken_secret=%s\n",
			 tokens[i]);
		write_file(text, 0600);
		load_bad(-EINVAL, "token_secret from ");
	}
	setenv("MODAL_TOKEN_ID", "ak-1\n", 1);
	load_bad(-EINVAL, "MODAL_TOKEN_ID has a blank");
}
END_TEST

/* ---- TOML ---- */

START_TEST(test_tolerated_around_the_profile)
{
	write_file(
		"\n# Modal\n"
		"[other]\nlist = [1, 'a]', [\"b\\\"]\"], # ]\n 2]\nnested = {a = {b = 1}}\n"
		"text = \"\"\"two\nlines\\\"\"\"\"\nraw = '''\n[default]\ntoken_id = 'ak-no'\n'''\n"
		"when = 1979-05-27 07:32:00\nday = 1979-05-27\nfloat = -1.5e3\nhex = 0xff\na.b = "
		"1\n\"q k\" = inf\n"
		"token_id = 5\n"
		"[default.sub]\ntoken_id = 'ak-sub'\n[[default]]\ntoken_id = 'ak-array'\n"
		"\t[ default ] # here\r\n  token_id\t=\t\"ak-\\u0066ile\"   # comment\r\n"
		"  \"token_secret\" = 'as-file'\r\nunknown = true",
		0600);
	load_good();
	ck_assert_str_eq(cred_token_id(cred), "ak-file");
	ck_assert_str_eq(cred_token_secret(cred), "as-file");
}
END_TEST

static const struct {
	const char *text;
	const char *part;
} bad[] = {
	{ "token_id = 'ak-1'\n", "line 1: a setting outside of any [profile]" },
	{ "[default]\ntoken_id = 5\n", "line 2: token_id: write it as one string" },
	{ "[default]\ntoken_id = true\n", "line 2: token_id: write it as one string" },
	{ "[default]\ntoken_id = ['ak-1']\n", "line 2: token_id: write it as one string" },
	{ "[default]\ntoken_id = \"\"\"ak-1\"\"\"\n", "line 2: token_id: write it as one string" },
	{ "[default]\nactive = 1\n", "line 2: active: write true or false" },
	{ "[default]\nactive = 'true'\n", "line 2: active: write true or false" },
	{ "[default]\ntoken_id = 'ak-1'\ntoken_id = 'ak-2'\n",
	  "line 3: token_id is there twice in [default]" },
	{ "[default]\n" PAIR "[default]\n" PAIR, "line 5: token_id is there twice" },
	{ "[default]\ntoken_id = ak-1\n", "line 2: a value that is no string" },
	{ "[default]\ntoken_id =\n", "line 2: a key without value" },
	{ "[default]\ntoken_id\n", "line 2: not `key = value`" },
	{ "[default]\n= 'ak-1'\n", "line 2: not `key = value`" },
	{ "[default]\ntoken_id = 'ak-1\n", "line 2: a string without end" },
	{ "[default]\ntoken_id = \"ak-1\\", "line 2: a string without end" },
	{ "[default]\ntoken_id = \"ak-1\\q\"\n", "line 2: an unknown escape" },
	{ "[default]\ntoken_id = \"ak-\\u00g0\"\n", "line 2: an escape that is no character" },
	{ "[default]\ntoken_id = \"ak-\\u0000\"\n", "line 2: an escape that is no character" },
	{ "[default]\ntoken_id = \"ak-\\ud800\"\n", "line 2: an escape that is no character" },
	{ "[default]\ntoken_id = 'ak-1' token_secret = 'as-1'\n", "line 2: more than one value" },
	{ "[default]\nx = [1,\n2\n", "a bracket without end" },
	{ "[default]\nx = '''\n", "a string without end" },
	{ "[default]\nx = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
	  "line 2: nested too deeply" },
	{ "[default\n" PAIR, "line 1: not `key = value`" },
	{ "[]\n" PAIR, "line 1: not `key = value`" },
	{ "[[default]\n" PAIR, "line 1: a header without end" },
	{ "[default] x\n" PAIR, "line 1: more than one value" },
};

START_TEST(test_bad_files)
{
	write_file(bad[_i].text, 0600);
	load_bad(-EINVAL, bad[_i].part);
	ck_assert_ptr_nonnull(strstr(err.text, path));
}
END_TEST

static int
count_entry(void *arg, const struct toml_entry *entry, struct err *ignored)
{
	unsigned *count = arg;

	(void)ignored;
	if (entry->text != NULL)
		*count += (unsigned)strlen(entry->text);
	(*count)++;
	return 0;
}

/* Good files with bytes changed, from memory of exactly that size: never a read too far. */
START_TEST(test_noise)
{
	static const char good[] =
		"[default]\ntoken_id = \"ak-\\u00e9\"\nlist = [1, '''x''', {a = \"b\"}]\n"
		"when = 1979-05-27 07:32:00 # x\n[[a.b]]\nc.d = 'e'\n";
	static const char bytes[] = "\"'[]{}\\#=\n\r .u0\0\xff";
	uint64_t state = NOISE_SEED;
	unsigned count = 0;

	printf("seed %d\n", NOISE_SEED);
	for (int round = 0; round < NOISE_ROUNDS; round++) {
		size_t len = sizeof good - 1;
		char *text;

		state = state * 6364136223846793005u + 1442695040888963407u;
		len -= (state >> 60) == 0 ? (state >> 33) % len : 0;
		text = malloc(len + 1);
		ck_assert_ptr_nonnull(text);
		memcpy(text, good, len);
		for (int i = 0; i < 3; i++) {
			state = state * 6364136223846793005u + 1442695040888963407u;
			text[(state >> 40) % len] = bytes[(state >> 33) % sizeof bytes];
		}
		int r = toml_read(text, len, count_entry, &count, &err);

		ck_assert(r == 0 || r == -EINVAL);
		free(text);
	}
	ck_assert_uint_gt(count, 0);
}
END_TEST

/* ---- nothing is left ---- */

static bool
file_holds(const char *name, const char *needle)
{
	static char text[1024 * 1024];
	FILE *file = fopen(name, "r");
	size_t len;

	/* not ck_assert(): this also runs outside of a test */
	if (file == NULL)
		abort();
	len = fread(text, 1, sizeof text, file);
	fclose(file);
	return memmem(text, len, needle, strlen(needle)) != NULL;
}

/* What this program does when main() starts it again with a token in its environment. */
static int
wiped_main(void)
{
	struct cred *loaded;
	bool before = file_holds("/proc/self/environ", "as-wipe-me");
	bool wiped;

	config = (struct config){ .environment = no_environment };
	if (!before || cred_load(&config, &loaded, &err) < 0)
		return 2;
	wiped = !file_holds("/proc/self/environ", "as-wipe-me") &&
		!file_holds("/proc/self/environ", "ak-wipe-me") &&
		getenv("MODAL_TOKEN_ID") == NULL && getenv("MODAL_TOKEN_SECRET") == NULL &&
		strcmp(getenv("KEPT"), "1") == 0 &&
		strcmp(cred_token_secret(loaded), "as-wipe-me") == 0;
	cred_free(loaded);
	return wiped ? 0 : 3;
}

START_TEST(test_the_environment_is_wiped)
{
	static char self[4096], role[] = "wiped";
	static char secret[] = "MODAL_TOKEN_SECRET=as-wipe-me", id[] = "MODAL_TOKEN_ID=ak-wipe-me";
	static char kept[] = "KEPT=1", home[] = "HOME=/nonexistent";
	char *const argv[] = { self, role, NULL };
	char *const env[] = { secret, home, id, kept, id, NULL };
	int status = -1;
	pid_t pid;

	ck_assert_int_gt(readlink("/proc/self/exe", self, sizeof self - 1), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		execve(self, argv, env);
		_exit(9);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(test_also_when_it_fails)
{
	setenv("MODAL_TOKEN_SECRET", "as-env", 1);
	load_bad(-ENOENT, "MODAL_TOKEN_ID is not set");
	ck_assert_ptr_null(getenv("MODAL_TOKEN_SECRET"));
}
END_TEST

/* The flags of the mapping that holds an address, as the kernel tells them. */
static bool
mapping_has_flag(const void *address, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long from, to, at = (unsigned long)(uintptr_t)address;
	bool inside = false, found = false;
	char line[512];

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof line, file) != NULL) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = at >= from && at < to;
		else if (inside && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, flag) != NULL;
	}
	fclose(file);
	return found;
}

/* Whether a child finds the secret. */
static bool
child_has_secret(void)
{
	int status = -1;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(cred_token_secret(cred)[0] == '\0' ? 0 : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status != 0;
}

START_TEST(test_the_page_is_kept_to_itself)
{
	setenv("MODAL_TOKEN_ID", "ak-env", 1);
	setenv("MODAL_TOKEN_SECRET", "as-env", 1);
	load_good();
	ck_assert(mapping_has_flag(cred_token_secret(cred), " dd")); /* not in core files */
	ck_assert(child_has_secret()); /* the step into the background is a child */
	cred_pin(cred);
	ck_assert(mapping_has_flag(cred_token_secret(cred), " wf")); /* zeroes in children */
	ck_assert(!child_has_secret());
}
END_TEST

START_TEST(test_free_nothing)
{
	cred_free(NULL);
}
END_TEST

int
main(int argc, char **argv)
{
	Suite *suite;
	TCase *tcase;

	if (argc == 2 && strcmp(argv[1], "wiped") == 0)
		return wiped_main();
	suite = suite_create("cred");
	tcase = tcase_create("cred");
	tcase_set_timeout(tcase, 60);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_environment_alone);
	tcase_add_test(tcase, test_file_alone);
	tcase_add_test(tcase, test_each_half_by_itself);
	tcase_add_test(tcase, test_which_profile);
	tcase_add_test(tcase, test_no_profile_chosen);
	tcase_add_test(tcase, test_precedence_of_url_and_environment);
	tcase_add_test(tcase, test_urls_and_names_are_checked);
	tcase_add_test(tcase, test_nothing_anywhere);
	tcase_add_test(tcase, test_paths);
	tcase_add_test(tcase, test_files_that_others_can_read);
	tcase_add_test(tcase, test_files_of_another_user);
	tcase_add_test(tcase, test_no_regular_file);
	tcase_add_test(tcase, test_tokens_that_are_no_header);
	tcase_add_test(tcase, test_tolerated_around_the_profile);
	tcase_add_loop_test(tcase, test_bad_files, 0, sizeof bad / sizeof bad[0]);
	tcase_add_test(tcase, test_noise);
	tcase_add_test(tcase, test_the_environment_is_wiped);
	tcase_add_test(tcase, test_also_when_it_fails);
	tcase_add_test(tcase, test_the_page_is_kept_to_itself);
	tcase_add_test(tcase, test_free_nothing);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
