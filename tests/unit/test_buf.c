/* The byte queue and the integers on it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim/base/buf.h"
#include "tests/unit/run.h"

START_TEST(test_integers_are_little_endian)
{
	static const uint8_t expected[] = { 0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f,
					    0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08 };
	cleanup_buf struct buf buf;

	buf_init(&buf, 100);
	ck_assert_int_eq(buf_put_u8(&buf, 0x01), 0);
	ck_assert_int_eq(buf_put_u16(&buf, 0x0203), 0);
	ck_assert_int_eq(buf_put_u32(&buf, 0x04050607), 0);
	ck_assert_int_eq(buf_put_u64(&buf, 0x08090a0b0c0d0e0f), 0);
	ck_assert_uint_eq(buf_len(&buf), sizeof expected);
	ck_assert_mem_eq(buf_head(&buf), expected, sizeof expected);
}
END_TEST

START_TEST(test_round_trip)
{
	cleanup_buf struct buf buf;
	struct view view, bytes;
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;

	buf_init(&buf, 100);
	buf_put_u8(&buf, UINT8_MAX);
	buf_put_u16(&buf, UINT16_MAX - 1);
	buf_put_u32(&buf, UINT32_MAX - 2);
	buf_put_u64(&buf, UINT64_MAX - 3);
	buf_put_bytes(&buf, "a\0b", 3);
	buf_put_bytes(&buf, NULL, 0);
	view = (struct view){ buf_head(&buf), buf_len(&buf) };
	ck_assert_int_eq(view_u8(&view, &u8), 0);
	ck_assert_int_eq(view_u16(&view, &u16), 0);
	ck_assert_int_eq(view_u32(&view, &u32), 0);
	ck_assert_int_eq(view_u64(&view, &u64), 0);
	ck_assert_uint_eq(u8, UINT8_MAX);
	ck_assert_uint_eq(u16, UINT16_MAX - 1);
	ck_assert_uint_eq(u32, UINT32_MAX - 2);
	ck_assert(u64 == UINT64_MAX - 3);
	ck_assert_int_eq(view_bytes(&view, 3, &bytes), 0);
	ck_assert_uint_eq(bytes.len, 3);
	ck_assert_mem_eq(bytes.data, "a\0b", 3);
	ck_assert_int_eq(view_bytes(&view, 0, &bytes), 0);
	ck_assert_uint_eq(bytes.len, 0);
	ck_assert_uint_eq(view.len, 0);
}
END_TEST

START_TEST(test_order_over_many_appends_and_consumes)
{
	cleanup_buf struct buf buf;
	uint32_t written = 0, read = 0, value;
	unsigned seed = 1;

	buf_init(&buf, 4096);
	while (read < 50000) {
		seed = seed * 1103515245 + 12345;
		if ((seed >> 16) % 3 != 0 && buf_len(&buf) <= 4092) {
			ck_assert_int_eq(buf_put_u32(&buf, written++), 0);
		} else if (buf_len(&buf) >= 4) {
			struct view view = { buf_head(&buf), buf_len(&buf) };

			ck_assert_int_eq(view_u32(&view, &value), 0);
			ck_assert_uint_eq(value, read++);
			buf_consume(&buf, 4);
		}
	}
	ck_assert_uint_eq(buf_len(&buf), (written - read) * 4);
}
END_TEST

START_TEST(test_maximum_holds)
{
	cleanup_buf struct buf buf;
	uint8_t *room;

	buf_init(&buf, 8);
	ck_assert_int_eq(buf_put(&buf, "12345678", 8), 0);
	ck_assert_int_eq(buf_put_u8(&buf, 9), -EMSGSIZE);
	ck_assert_ptr_null(buf_reserve(&buf, 1));
	ck_assert_int_eq(buf_put(&buf, "", 0), 0);
	ck_assert_mem_eq(buf_head(&buf), "12345678", 8);
	buf_consume(&buf, 3);
	ck_assert_int_eq(buf_put_u32(&buf, 0), -EMSGSIZE);
	ck_assert_uint_eq(buf_len(&buf), 5);
	room = buf_reserve(&buf, 3);
	ck_assert_ptr_nonnull(room);
	memcpy(room, "abc", 3);
	buf_added(&buf, 3);
	ck_assert_mem_eq(buf_head(&buf), "45678abc", 8);
	ck_assert_int_eq(buf_put(&buf, "x", SIZE_MAX), -EMSGSIZE);
}
END_TEST

START_TEST(test_bursts_are_given_back)
{
	cleanup_buf struct buf buf;
	const size_t burst_len = 1024 * 1024;

	buf_init(&buf, burst_len);
	ck_assert_ptr_nonnull(buf_reserve(&buf, burst_len));
	memset(buf.data, 'x', burst_len);
	buf_added(&buf, burst_len);
	buf_consume(&buf, burst_len);
	ck_assert_uint_eq(buf_len(&buf), 0);
	ck_assert_uint_eq(buf.capacity, 0);
	ck_assert_int_eq(buf_put_u8(&buf, 1), 0);
}
END_TEST

START_TEST(test_empty_queue_has_a_head)
{
	cleanup_buf struct buf buf;

	buf_init(&buf, 8);
	ck_assert_uint_eq(buf_len(&buf), 0);
	ck_assert_ptr_nonnull(buf_head(&buf));
	buf_put_u8(&buf, 1);
	buf_free(&buf);
	ck_assert_uint_eq(buf_len(&buf), 0);
	ck_assert_int_eq(buf_put_u8(&buf, 2), 0);
	ck_assert_uint_eq(*buf_head(&buf), 2);
}
END_TEST

START_TEST(test_patch_counts_from_the_front)
{
	cleanup_buf struct buf buf;

	buf_init(&buf, 64);
	buf_put(&buf, "xx....yy", 8);
	buf_consume(&buf, 1);
	buf_patch_u32(&buf, 1, 0x44434241);
	ck_assert_mem_eq(buf_head(&buf), "xABCDyy", 7);
}
END_TEST

/* A view shorter than what is asked for fails, and neither the view nor the output changes. */
START_TEST(test_short_views_fail_unchanged)
{
	static const uint8_t bytes[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	struct view view, got = { bytes, 77 };
	uint8_t u8 = 9;
	uint16_t u16 = 9;
	uint32_t u32 = 9;
	uint64_t u64 = 9;

	view = (struct view){ bytes, 0 };
	ck_assert_int_eq(view_u8(&view, &u8), -EBADMSG);
	view.len = 1;
	ck_assert_int_eq(view_u16(&view, &u16), -EBADMSG);
	view.len = 3;
	ck_assert_int_eq(view_u32(&view, &u32), -EBADMSG);
	ck_assert_int_eq(view_bytes(&view, 100, &got), -EBADMSG);
	view.len = 7;
	ck_assert_int_eq(view_u64(&view, &u64), -EBADMSG);
	ck_assert(u8 == 9 && u16 == 9 && u32 == 9 && u64 == 9 && got.len == 77);
	ck_assert_ptr_eq(view.data, bytes);
	ck_assert_uint_eq(view.len, 7);
}
END_TEST

START_TEST(test_byte_strings_are_bounded)
{
	static const uint8_t three[] = { 3, 0, 0, 0, 'a', 'b', 'c' };
	static const uint8_t huge[] = { 0xff, 0xff, 0xff, 0xff, 'a' };
	struct view view = { three, sizeof three }, got;

	ck_assert_int_eq(view_bytes(&view, 2, &got), -EBADMSG);
	ck_assert_uint_eq(view.len, sizeof three);
	ck_assert_int_eq(view_bytes(&view, 3, &got), 0);
	view = (struct view){ three, sizeof three - 1 };
	ck_assert_int_eq(view_bytes(&view, 3, &got), -EBADMSG);
	view = (struct view){ huge, sizeof huge };
	ck_assert_int_eq(view_bytes(&view, SIZE_MAX, &got), -EBADMSG);
	ck_assert_uint_eq(view.len, sizeof huge);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("buf");
	TCase *tcase = tcase_create("buf");

	tcase_add_test(tcase, test_integers_are_little_endian);
	tcase_add_test(tcase, test_round_trip);
	tcase_add_test(tcase, test_order_over_many_appends_and_consumes);
	tcase_add_test(tcase, test_maximum_holds);
	tcase_add_test(tcase, test_bursts_are_given_back);
	tcase_add_test(tcase, test_empty_queue_has_a_head);
	tcase_add_test(tcase, test_patch_counts_from_the_front);
	tcase_add_test(tcase, test_short_views_fail_unchanged);
	tcase_add_test(tcase, test_byte_strings_are_bounded);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
