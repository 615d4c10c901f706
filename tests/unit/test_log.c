/* One line per event, whatever the text holds. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/broker/log.h"
#include "tests/unit/run.h"

static char captured[16384];
static int pipe_fds[2], real_stderr;

static void
setup(void)
{
	ck_assert_int_eq(pipe2(pipe_fds, O_NONBLOCK), 0);
	real_stderr = dup(STDERR_FILENO);
	ck_assert_int_eq(dup2(pipe_fds[1], STDERR_FILENO), STDERR_FILENO);
}

static void
teardown(void)
{
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

/* What was written since, and how much. */
static size_t
capture(void)
{
	ssize_t len = read(pipe_fds[0], captured, sizeof captured - 1);

	captured[len > 0 ? len : 0] = '\0';
	return len > 0 ? (size_t)len : 0;
}

START_TEST(test_one_line_with_time_and_level)
{
	int year, month, day, hour, minute, second, ms, head_len = 0;

	log_warning("%s %d", "text", 7);
	capture();
	ck_assert_int_eq(sscanf(captured, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &year, &month, &day,
				&hour, &minute, &second, &ms, &head_len),
			 7);
	ck_assert_int_ge(year, 2024);
	ck_assert_int_eq(head_len, 25);
	ck_assert_str_eq(captured + head_len, "warning: text 7\n");
}
END_TEST

START_TEST(test_levels)
{
	log_set_level(LOG_WARNING);
	log_info("dropped");
	log_debug("dropped");
	ck_assert_uint_eq(capture(), 0);
	log_error("kept");
	ck_assert_uint_gt(capture(), 0);
	log_set_level(LOG_DEBUG);
	log_debug("kept");
	ck_assert_uint_gt(capture(), 0);
	ck_assert_int_eq(log_level_from_name("error"), LOG_ERROR);
	ck_assert_int_eq(log_level_from_name("warning"), LOG_WARNING);
	ck_assert_int_eq(log_level_from_name("info"), LOG_INFO);
	ck_assert_int_eq(log_level_from_name("debug"), LOG_DEBUG);
	ck_assert_int_eq(log_level_from_name("Error"), -1);
	ck_assert_int_eq(log_level_from_name(""), -1);
}
END_TEST

/* Neither a second line nor a terminal's escape sequence comes out of a text. */
START_TEST(test_control_characters_are_shown)
{
	log_error("%s", "a\nb\r\x1b[31m\x7f\xc2\x9b\t");
	capture();
	ck_assert_ptr_nonnull(
		strstr(captured, "error: a\\x0ab\\x0d\\x1b[31m\\x7f\\xc2\\x9b\\x09\n"));
	ck_assert_ptr_eq(strchr(captured, '\n'), captured + strlen(captured) - 1);
}
END_TEST

START_TEST(test_long_texts_are_cut)
{
	char text[10000];

	memset(text, '\n', sizeof text);
	text[sizeof text - 1] = '\0';
	log_error("%s", text);
	/* every byte becomes four */
	ck_assert_uint_eq(capture(), 25 + strlen("error: ") + 4 * 2047 + 1);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("log");
	TCase *tcase = tcase_create("log");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_one_line_with_time_and_level);
	tcase_add_test(tcase, test_levels);
	tcase_add_test(tcase, test_control_characters_are_shown);
	tcase_add_test(tcase, test_long_texts_are_cut);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
