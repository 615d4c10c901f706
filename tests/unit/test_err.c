/* One error on its way up. */
#include <errno.h>
#include <string.h>

#include "shim/base/err.h"
#include "tests/unit/run.h"

START_TEST(test_set)
{
	struct err err = { 0 };

	ck_assert_int_eq(err_set(&err, EINVAL, "bad %s %d", "thing", 3), -EINVAL);
	ck_assert_int_eq(err.code, -EINVAL);
	ck_assert_str_eq(err.text, "bad thing 3");
}
END_TEST

START_TEST(test_errno_text)
{
	struct err err = { 0 };

	ck_assert_int_eq(err_errno(&err, ENOENT, "open %s", "x"), -ENOENT);
	ck_assert_int_eq(err.code, -ENOENT);
	ck_assert_str_eq(err.text, "open x: No such file or directory");
}
END_TEST

START_TEST(test_wrap_keeps_the_code)
{
	struct err err = { 0 };

	err_set(&err, EPERM, "inner");
	ck_assert_int_eq(err_wrap(&err, "outer %d", 1), -EPERM);
	ck_assert_int_eq(err_wrap(&err, "outermost"), -EPERM);
	ck_assert_str_eq(err.text, "outermost: outer 1: inner");
}
END_TEST

START_TEST(test_nobody_listens)
{
	ck_assert_int_eq(err_set(NULL, EINVAL, "x"), -EINVAL);
	ck_assert_int_eq(err_errno(NULL, ENOMEM, "x"), -ENOMEM);
	ck_assert_int_lt(err_wrap(NULL, "x"), 0);
}
END_TEST

/* Text that does not fit is cut off, terminated, and nothing behind it is touched. */
START_TEST(test_long_texts_are_cut)
{
	struct {
		struct err err;
		char guard[16];
	} memory;
	char text[ERR_TEXT_LEN * 2];

	memset(memory.guard, 'g', sizeof memory.guard);
	memset(text, 'a', sizeof text);
	text[sizeof text - 1] = '\0';
	err_set(&memory.err, EINVAL, "%s", text);
	ck_assert_uint_eq(strlen(memory.err.text), ERR_TEXT_LEN - 1);
	err_errno(&memory.err, EINVAL, "%s", text);
	ck_assert_uint_eq(strlen(memory.err.text), ERR_TEXT_LEN - 1);
	err_wrap(&memory.err, "%s", text);
	ck_assert_uint_eq(strlen(memory.err.text), ERR_TEXT_LEN - 1);
	err_wrap(&memory.err, "head");
	ck_assert_uint_eq(strlen(memory.err.text), ERR_TEXT_LEN - 1);
	ck_assert_mem_eq(memory.err.text, "head: aaa", 9);
	for (size_t i = 0; i < sizeof memory.guard; i++)
		ck_assert_int_eq(memory.guard[i], 'g');
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("err");
	TCase *tcase = tcase_create("err");

	tcase_add_test(tcase, test_set);
	tcase_add_test(tcase, test_errno_text);
	tcase_add_test(tcase, test_wrap_keeps_the_code);
	tcase_add_test(tcase, test_nobody_listens);
	tcase_add_test(tcase, test_long_texts_are_cut);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
