#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "proto/base64.h"
#include "proto/jwt.h"

/* Later than any real one; keeps sums away from overflow. */
#define EXPIRY_MAX (INT64_C(1) << 40)

static const char *
blank_skip(const char *p)
{
	while (isspace((unsigned char)*p))
		p++;
	return p;
}

/* The number after "exp":, or -EBADMSG.  A payload that quotes this very text inside a string is
 * not worth a parser: the result only decides when a new token is asked for. */
static int
expiry_find(const char *json, int64_t *ret)
{
	const char *p = strstr(json, "\"exp\"");
	int64_t value = 0;

	if (p == NULL)
		return -EBADMSG;
	p = blank_skip(p + strlen("\"exp\""));
	if (*p != ':')
		return -EBADMSG;
	p = blank_skip(p + 1);
	if (!isdigit((unsigned char)*p))
		return -EBADMSG;
	for (; isdigit((unsigned char)*p); p++) {
		value = value * 10 + (*p - '0');
		if (value > EXPIRY_MAX)
			return -EBADMSG;
	}
	*ret = value;
	return 0;
}

int
jwt_expiry(const char *token, int64_t *ret_unix_s)
{
	uint8_t json[JWT_LEN_MAX];
	const char *payload = strchr(token, '.');
	const char *end = payload == NULL ? NULL : strchr(payload + 1, '.');
	size_t len;
	int r;

	if (end == NULL)
		return -EBADMSG;
	payload++;
	if (base64_decode(payload, (size_t)(end - payload), json, sizeof json - 1, &len) < 0)
		return -EBADMSG;
	json[len] = '\0';
	r = expiry_find((const char *)json, ret_unix_s);
	explicit_bzero(json, sizeof json);
	return r;
}
