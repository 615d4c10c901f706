#include <errno.h>

#include "proto/base64.h"

static int
base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

int
base64_decode(const char *text, size_t len, uint8_t *ret, size_t ret_len, size_t *ret_used)
{
	uint32_t bits = 0;
	unsigned count = 0;
	size_t used = 0;

	while (len > 0 && text[len - 1] == '=')
		len--;
	for (size_t i = 0; i < len; i++) {
		int value = base64_value(text[i]);

		if (value < 0)
			return -EBADMSG;
		bits = (bits << 6 | (uint32_t)value) & 0xffffff;
		count += 6;
		if (count < 8)
			continue;
		count -= 8;
		if (used == ret_len)
			return -EBADMSG;
		ret[used++] = (uint8_t)(bits >> count);
	}
	*ret_used = used;
	return 0;
}
