/* How calls end: codes, texts, pauses asked for; and what the same headers carry: base64 and
 * tokens. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base64.h"
#include "proto/grpc_status.h"
#include "proto/jwt.h"
#include "tests/unit/run.h"

static enum grpc_code
parsed(const char *text)
{
	return grpc_code_parse(text, strlen(text));
}

START_TEST(test_codes)
{
	ck_assert_int_eq(parsed("0"), GRPC_OK);
	ck_assert_int_eq(parsed("5"), GRPC_NOT_FOUND);
	ck_assert_int_eq(parsed("16"), GRPC_UNAUTHENTICATED);
	ck_assert_int_eq(parsed("17"), GRPC_UNKNOWN);
	ck_assert_int_eq(parsed(""), GRPC_UNKNOWN);
	ck_assert_int_eq(parsed("-1"), GRPC_UNKNOWN);
	ck_assert_int_eq(parsed("0 "), GRPC_UNKNOWN);
	ck_assert_int_eq(parsed("00000"), GRPC_UNKNOWN);
	ck_assert_str_eq(grpc_code_name(GRPC_ALREADY_EXISTS), "ALREADY_EXISTS");
	ck_assert_str_eq(grpc_code_name((enum grpc_code)17), "UNKNOWN");
}
END_TEST

START_TEST(test_http_answers_without_a_code)
{
	ck_assert_int_eq(grpc_code_from_http(400), GRPC_INTERNAL);
	ck_assert_int_eq(grpc_code_from_http(401), GRPC_UNAUTHENTICATED);
	ck_assert_int_eq(grpc_code_from_http(403), GRPC_PERMISSION_DENIED);
	ck_assert_int_eq(grpc_code_from_http(404), GRPC_UNIMPLEMENTED);
	ck_assert_int_eq(grpc_code_from_http(429), GRPC_UNAVAILABLE);
	ck_assert_int_eq(grpc_code_from_http(503), GRPC_UNAVAILABLE);
	ck_assert_int_eq(grpc_code_from_http(200), GRPC_UNKNOWN);
	ck_assert_int_eq(grpc_code_from_http(500), GRPC_UNKNOWN);
}
END_TEST

START_TEST(test_what_may_pass)
{
	static const bool passes[17] = {
		[1] = true, [2] = true, [4] = true, [13] = true, [14] = true
	};

	for (int code = 0; code <= 16; code++)
		ck_assert_int_eq(grpc_code_transient((enum grpc_code)code), passes[code]);
}
END_TEST

static const struct {
	const char *text;
	size_t len_max;
	const char *expected;
} messages[] = {
	{ "plain", 64, "plain" },     { "", 64, "" },
	{ "a%20b%2Fc", 64, "a b/c" }, { "50% of %4", 64, "50% of %4" },
	{ "%zz%2", 64, "%zz%2" },     { "%1b[31mred%0A%00x", 64, "?[31mred ?x" },
	{ "%41", 64, "A" },	      { "caf%C3%A9", 64, "caf??" },
	{ "truncated", 5, "trun" },   { "%41%42%43", 3, "AB" },
};

START_TEST(test_messages)
{
	char text[64];

	grpc_message_decode(messages[_i].text, strlen(messages[_i].text), text,
			    messages[_i].len_max);
	ck_assert_str_eq(text, messages[_i].expected);
}
END_TEST

static bool
retry_after(const char *text, long *ret_ms)
{
	return grpc_retry_after(text, strlen(text), ret_ms);
}

START_TEST(test_pause_asked_for)
{
	/* Seen on the wire: code 8, "slow down", 0.5 s. */
	static const char slow_down[] =
		"CAgSCXNsb3cgZG93bhozCip0eXBlLm1vZGFsLmNvbS9tb2RhbC5jbGllbnQu"
		"UlBDUmV0cnlQb2xpY3kSBQ0AAAA/";
	long pause_ms = 0;

	ck_assert(retry_after(slow_down, &pause_ms));
	ck_assert_int_eq(pause_ms, 500);
}
END_TEST

START_TEST(test_pause_is_bounded)
{
	/* The same policy with 0 s (no value at all), 1e30 s, not-a-number and -1 s. */
	static const char *const policies[] = {
		"GiwKKnR5cGUubW9kYWwuY29tL21vZGFsLmNsaWVudC5SUENSZXRyeVBvbGljeQ",
		"GjMKKnR5cGUubW9kYWwuY29tL21vZGFsLmNsaWVudC5SUENSZXRyeVBvbGljeRIFDcrySXE=",
		"GjMKKnR5cGUubW9kYWwuY29tL21vZGFsLmNsaWVudC5SUENSZXRyeVBvbGljeRIFDQAAwH8=",
		"GjMKKnR5cGUubW9kYWwuY29tL21vZGFsLmNsaWVudC5SUENSZXRyeVBvbGljeRIFDQAAgL8=",
	};
	static const long expected_ms[] = { 100, 3600000, 100, 100 };

	for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
		long pause_ms = 0;

		ck_assert(retry_after(policies[i], &pause_ms));
		ck_assert_int_eq(pause_ms, expected_ms[i]);
	}
}
END_TEST

START_TEST(test_no_pause_asked_for)
{
	long pause_ms = 77;
	char too_long[8000];

	memset(too_long, 'A', sizeof too_long - 1);
	too_long[sizeof too_long - 1] = '\0';
	ck_assert(!retry_after("", &pause_ms));
	ck_assert(!retry_after("!!!", &pause_ms));
	ck_assert(!retry_after("CAgSCXNsb3cgZG93bg", &pause_ms));
	/* the same detail under another name, and cut off in its middle */
	ck_assert(!retry_after(
		"GjMKKnR5cGUubW9kYWwuY29tL21vZGFsLmNsaWVudC5SUENSZXRyeVBvbGljeBIFDQAAAD8=",
		&pause_ms));
	ck_assert(!retry_after("GjMKKnR5cGUubW9kYWwuY29tL21vZGFs", &pause_ms));
	ck_assert(!retry_after(too_long, &pause_ms));
	ck_assert_int_eq(pause_ms, 77);
}
END_TEST

START_TEST(test_base64)
{
	uint8_t bytes[8];
	size_t len;

	ck_assert_int_eq(base64_decode("aGk", 3, bytes, sizeof bytes, &len), 0);
	ck_assert_uint_eq(len, 2);
	ck_assert_mem_eq(bytes, "hi", 2);
	ck_assert_int_eq(base64_decode("aGk=", 4, bytes, sizeof bytes, &len), 0);
	ck_assert_uint_eq(len, 2);
	ck_assert_int_eq(base64_decode("-_+/", 4, bytes, sizeof bytes, &len), 0);
	ck_assert_mem_eq(bytes, "\xfb\xff\xbf", 3);
	ck_assert_int_eq(base64_decode("", 0, bytes, sizeof bytes, &len), 0);
	ck_assert_uint_eq(len, 0);
	ck_assert_int_eq(base64_decode("aG k", 4, bytes, sizeof bytes, &len), -EBADMSG);
	ck_assert_int_eq(base64_decode("AAAAAAAAAAAA", 12, bytes, sizeof bytes, &len), -EBADMSG);
}
END_TEST

START_TEST(test_token_expiry)
{
	int64_t ends_s = -7;

	/* {"exp":1900000000} and {"sub":"x", "exp" : 17} */
	ck_assert_int_eq(jwt_expiry("e30.eyJleHAiOjE5MDAwMDAwMDB9.c2ln", &ends_s), 0);
	ck_assert(ends_s == 1900000000);
	ck_assert_int_eq(jwt_expiry("e30.eyJzdWIiOiJ4IiwgImV4cCIgOiAxN30.", &ends_s), 0);
	ck_assert(ends_s == 17);
}
END_TEST

START_TEST(test_tokens_without_expiry)
{
	/* not three parts; no JSON; {}; {"exp":"x"}; {"exp":99999999999999999999}; {"exp":-1} */
	static const char *const tokens[] = {
		"",
		"opaque",
		"a.b",
		"e30.!!!.x",
		"e30.e30.x",
		"e30.eyJleHAiOiJ4In0.x",
		"e30.eyJleHAiOjk5OTk5OTk5OTk5OTk5OTk5OTk5fQ.x",
		"e30.eyJleHAiOi0xfQ.x",
	};
	int64_t ends_s = -7;

	for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
		ck_assert_int_eq(jwt_expiry(tokens[i], &ends_s), -EBADMSG);
	ck_assert(ends_s == -7);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("grpc_status");
	TCase *status = tcase_create("status"), *token = tcase_create("token");

	tcase_add_test(status, test_codes);
	tcase_add_test(status, test_http_answers_without_a_code);
	tcase_add_test(status, test_what_may_pass);
	tcase_add_loop_test(status, test_messages, 0, sizeof messages / sizeof messages[0]);
	tcase_add_test(status, test_pause_asked_for);
	tcase_add_test(status, test_pause_is_bounded);
	tcase_add_test(status, test_no_pause_asked_for);
	tcase_add_test(token, test_base64);
	tcase_add_test(token, test_token_expiry);
	tcase_add_test(token, test_tokens_without_expiry);
	suite_add_tcase(suite, status);
	suite_add_tcase(suite, token);
	return run_suite(suite);
}
