/* Frames of gRPC and the bytes field inside them, cut at every place where the network may cut
 * them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/bytes_field.h"
#include "proto/grpc_frame.h"
#include "tests/unit/run.h"

#define MESSAGE_LEN_LIMIT 1000u

/* Two messages with an empty one between them. */
static const uint8_t frames[] = { 0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'd' };

/* Feeds `step` bytes at a time; writes the messages to text, each in <>.  Returns the last
 * result. */
static int
frames_read(const uint8_t *bytes, size_t len, size_t step, struct grpc_frame_parser *parser,
	    char *text)
{
	struct grpc_piece piece;
	int r = 0;

	for (size_t at = 0; at < len && r >= 0; at += step) {
		struct view in = { bytes + at, len - at < step ? len - at : step };

		while ((r = grpc_frame_next(parser, &in, &piece)) > 0) {
			if (piece.first)
				*text++ = '<';
			memcpy(text, piece.data.data, piece.data.len);
			text += piece.data.len;
			if (piece.last)
				*text++ = '>';
		}
	}
	*text = '\0';
	return r;
}

START_TEST(test_frames_in_pieces_of_every_length)
{
	struct grpc_frame_parser parser;
	char text[64];

	grpc_frame_init(&parser, MESSAGE_LEN_LIMIT);
	ck_assert_int_eq(frames_read(frames, sizeof frames, (size_t)_i, &parser, text), 0);
	ck_assert_str_eq(text, "<abc><><d>");
	ck_assert(grpc_frame_idle(&parser));
}
END_TEST

START_TEST(test_unfinished_frame_is_not_idle)
{
	struct grpc_frame_parser parser;
	char text[64];
	bool boundary = _i == 0 || _i == 8 || _i == 13 || _i == 19;

	grpc_frame_init(&parser, MESSAGE_LEN_LIMIT);
	ck_assert_int_eq(frames_read(frames, (size_t)_i, sizeof frames, &parser, text), 0);
	ck_assert_int_eq(grpc_frame_idle(&parser), boundary);
}
END_TEST

START_TEST(test_prefix_round_trip)
{
	static const uint8_t expected[] = { 0, 0x01, 0x02, 0x03, 0x04 };
	uint8_t prefix[GRPC_PREFIX_LEN];

	grpc_prefix_encode(prefix, 0x01020304);
	ck_assert_mem_eq(prefix, expected, sizeof expected);
}
END_TEST

START_TEST(test_bounds_of_a_frame)
{
	static const uint8_t longest[] = { 0, 0, 0, 0x03, 0xe8, 'x' },
			     longer[] = { 0, 0, 0, 0x03, 0xe9, 'x' };
	static const uint8_t huge[] = { 0, 0xff, 0xff, 0xff, 0xff, 'x' },
			     compressed[] = { 1, 0, 0, 0, 1, 'x' };
	struct grpc_frame_parser parser;
	char text[64];

	grpc_frame_init(&parser, MESSAGE_LEN_LIMIT);
	ck_assert_int_eq(frames_read(longest, sizeof longest, 1, &parser, text), 0);
	grpc_frame_init(&parser, MESSAGE_LEN_LIMIT);
	ck_assert_int_eq(frames_read(longer, sizeof longer, 1, &parser, text), -EMSGSIZE);
	grpc_frame_init(&parser, MESSAGE_LEN_LIMIT);
	ck_assert_int_eq(frames_read(huge, sizeof huge, 6, &parser, text), -EMSGSIZE);
	grpc_frame_init(&parser, MESSAGE_LEN_LIMIT);
	ck_assert_int_eq(frames_read(compressed, sizeof compressed, 6, &parser, text), -EBADMSG);
}
END_TEST

/* Field 2 (varint), field 1 (bytes), fields 3 (fixed32), 4 (fixed64), 5 (bytes) and field 1
 * again, empty. */
static const uint8_t fields[] = { 0x10, 0xff, 0x01, 0x0a, 5,	'h',  'e', 'l', 'l',  'o',
				  0x1d, 1,    2,    3,	  4,	0x21, 1,   2,	3,    4,
				  5,	6,    7,    8,	  0x2a, 2,    'n', 'o', 0x0a, 0 };

static int
field_read(struct bytes_field *field, const uint8_t *bytes, size_t len, size_t step, char *text)
{
	struct view data;
	int r = 0;

	for (size_t at = 0; at < len && r >= 0; at += step) {
		struct view in = { bytes + at, len - at < step ? len - at : step };

		while ((r = bytes_field_next(field, &in, &data)) > 0) {
			memcpy(text, data.data, data.len);
			text += data.len;
		}
	}
	*text = '\0';
	return r;
}

START_TEST(test_bytes_field_among_others)
{
	struct bytes_field field;
	char text[64];

	bytes_field_init(&field);
	ck_assert_int_eq(field_read(&field, fields, sizeof fields, (size_t)_i, text), 0);
	ck_assert_str_eq(text, "hello");
	ck_assert(bytes_field_idle(&field));
}
END_TEST

START_TEST(test_bytes_field_with_a_long_length)
{
	static const uint8_t head[] = { 0x0a, 0xac, 0x02 }; /* 300 */
	uint8_t message[sizeof head + 300];
	char text[400];
	struct bytes_field field;

	memcpy(message, head, sizeof head);
	memset(message + sizeof head, 'x', 300);
	bytes_field_init(&field);
	ck_assert_int_eq(field_read(&field, message, sizeof message, 7, text), 0);
	ck_assert_uint_eq(strlen(text), 300);
	ck_assert(bytes_field_idle(&field));
	ck_assert_int_eq(field_read(&field, message, sizeof message - 1, 7, text), 0);
	ck_assert(!bytes_field_idle(&field));
}
END_TEST

START_TEST(test_what_is_no_message)
{
	static const uint8_t group[] = { 0x0b }, number_zero[] = { 0x02, 0 },
			     wire_seven[] = { 0x0f };
	static const uint8_t endless[] = { 0x0a, 0x80, 0x80, 0x80, 0x80, 0x80,
					   0x80, 0x80, 0x80, 0x80, 0x80, 0x01 };
	struct bytes_field field;
	char text[64];

	bytes_field_init(&field);
	ck_assert_int_eq(field_read(&field, group, sizeof group, 1, text), -EBADMSG);
	bytes_field_init(&field);
	ck_assert_int_eq(field_read(&field, number_zero, sizeof number_zero, 1, text), -EBADMSG);
	bytes_field_init(&field);
	ck_assert_int_eq(field_read(&field, wire_seven, sizeof wire_seven, 1, text), -EBADMSG);
	bytes_field_init(&field);
	ck_assert_int_eq(field_read(&field, endless, sizeof endless, 1, text), -EBADMSG);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("grpc_frame");
	TCase *frame = tcase_create("frame"), *field = tcase_create("bytes_field");

	tcase_add_loop_test(frame, test_frames_in_pieces_of_every_length, 1, sizeof frames + 1);
	tcase_add_loop_test(frame, test_unfinished_frame_is_not_idle, 0, sizeof frames + 1);
	tcase_add_test(frame, test_prefix_round_trip);
	tcase_add_test(frame, test_bounds_of_a_frame);
	tcase_add_loop_test(field, test_bytes_field_among_others, 1, sizeof fields + 1);
	tcase_add_test(field, test_bytes_field_with_a_long_length);
	tcase_add_test(field, test_what_is_no_message);
	suite_add_tcase(suite, frame);
	suite_add_tcase(suite, field);
	return run_suite(suite);
}
