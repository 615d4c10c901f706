/* Arrays of strings as execve takes them. */
#include <stdlib.h>
#include <string.h>

#include "shim/base/strv.h"
#include "tests/unit/run.h"

static char one[] = "A=1", two[] = "AB=2", bare[] = "C", empty[] = "D=", again[] = "A=later";
static char *const env[] = { bare, two, one, empty, again, NULL };
static char *const nothing[] = { NULL };

START_TEST(test_count)
{
	ck_assert_uint_eq(strv_count(env), 5);
	ck_assert_uint_eq(strv_count(nothing), 0);
}
END_TEST

START_TEST(test_env_by_whole_name)
{
	ck_assert_str_eq(strv_env(env, "A"), "1");
	ck_assert_str_eq(strv_env(env, "AB"), "2");
	ck_assert_str_eq(strv_env(env, "D"), "");
	ck_assert_ptr_eq(strv_env(env, "A"), one + 2);
	ck_assert_ptr_null(strv_env(env, "C"));
	ck_assert_ptr_null(strv_env(env, "B"));
	ck_assert_ptr_null(strv_env(env, "ABC"));
	ck_assert_ptr_null(strv_env(nothing, "A"));
}
END_TEST

START_TEST(test_free)
{
	char **strv = calloc(3, sizeof *strv);

	ck_assert_ptr_nonnull(strv);
	strv[0] = strdup("x");
	strv[1] = strdup("y");
	strv_free(strv);
	strv_free(NULL);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("strv");
	TCase *tcase = tcase_create("strv");

	tcase_add_test(tcase, test_count);
	tcase_add_test(tcase, test_env_by_whole_name);
	tcase_add_test(tcase, test_free);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
