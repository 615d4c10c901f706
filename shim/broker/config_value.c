#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "shim/base/limits.h"
#include "shim/broker/config_value.h"
#include "shim/broker/log.h"

enum {
	NAME_LEN_MAX = 64,
	SESSION_LEN_MAX = NAME_LEN_MAX - (int)sizeof("modalsh-") + 1,
	APP_ID_LEN = 22,
	IMAGE_LEN_MAX = 512,
	TAG_LEN_MAX = 128,
	DIGEST_LEN_MIN = 32,
	URL_LEN_MAX = 1024,
	USER_LEN_MAX = 32,
	VARIABLE_LEN_MAX = 256,
	/* ten digits of hours still fit in 64 bits of milliseconds */
	DURATION_DIGITS_MAX = 10,
};

/* How much of a value an error text shows. */
#define SHOWN "\"%.80s\""

#define LOWER_DIGITS "abcdefghijklmnopqrstuvwxyz0123456789"
#define LETTERS	     "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS	     "0123456789"
#define ALNUM	     LETTERS DIGITS

static bool
made_of(const char *text, const char *alphabet)
{
	return text[strspn(text, alphabet)] == '\0';
}

static bool
has_control(const char *text)
{
	for (; *text != '\0'; text++) {
		if (iscntrl((unsigned char)*text))
			return true;
	}
	return false;
}

static int
check_name(const char *text, size_t len_max, struct err *err)
{
	if (*text == '\0' || strlen(text) > len_max)
		return err_set(err, EINVAL,
			       SHOWN " has not 1 to %zu characters: write another name", text,
			       len_max);
	if (!made_of(text, ALNUM "-_."))
		return err_set(err, EINVAL,
			       SHOWN " is not a name: use letters, digits, '-', '_', '.'", text);
	return 0;
}

int
value_check_app(const char *text, struct err *err)
{
	int r = check_name(text, NAME_LEN_MAX, err);

	if (r < 0)
		return r;
	if (strncmp(text, "ap-", 3) == 0 && strlen(text + 3) == APP_ID_LEN &&
	    made_of(text + 3, ALNUM))
		return err_set(err, EINVAL, SHOWN " is an app's id: write its name", text);
	return 0;
}

int
value_check_session(const char *text, struct err *err)
{
	return check_name(text, SESSION_LEN_MAX, err);
}

int
value_check_environment(const char *text, struct err *err)
{
	return *text == '\0' ? 0 : check_name(text, NAME_LEN_MAX, err);
}

/* The part of a reference up to its first '/' is a registry's host when it could not be a path. */
static size_t
image_host_len(const char *text)
{
	size_t len = strcspn(text, "/");
	size_t name_len = strspn(text, ALNUM ".-");
	bool host = memchr(text, '.', len) != NULL || memchr(text, ':', len) != NULL ||
		    (len == 9 && memcmp(text, "localhost", 9) == 0);

	if (text[len] != '/' || !host || name_len == 0)
		return 0;
	if (text[name_len] == ':')
		name_len += 1 + strspn(text + name_len + 1, DIGITS);
	return name_len == len ? len + 1 : 0;
}

static bool
image_separator_fine(const char *text, size_t len)
{
	if (*text == '-')
		return strspn(text, "-") == len;
	return len == 1 || (len == 2 && text[0] == '_' && text[1] == '_');
}

/* Components of lower-case letters and digits with separators between them; returns what
 * follows. */
static const char *
skip_image_path(const char *text)
{
	size_t len;

	for (;;) {
		len = strspn(text, LOWER_DIGITS);
		if (len == 0)
			return NULL;
		text += len;
		len = strspn(text, "._-/");
		if (len == 0)
			return text;
		if (!image_separator_fine(text, len))
			return NULL;
		text += len;
	}
}

static bool
image_tag_fine(const char *text, size_t len)
{
	return len >= 1 && len <= TAG_LEN_MAX && text[0] != '.' && text[0] != '-' &&
	       strspn(text, ALNUM "_.-") == len;
}

static bool
image_digest_fine(const char *text)
{
	size_t algorithm_len = strspn(text, LOWER_DIGITS "+._-");
	const char *hex = text + algorithm_len + 1;

	return algorithm_len > 0 && text[algorithm_len] == ':' && strlen(hex) >= DIGEST_LEN_MIN &&
	       made_of(hex, DIGITS "abcdef");
}

static bool
image_fine(const char *text)
{
	size_t len;

	if (strncmp(text, "im-", 3) == 0 && text[3] != '\0' && made_of(text + 3, ALNUM))
		return true;
	text = skip_image_path(text + image_host_len(text));
	if (text == NULL)
		return false;
	if (*text == ':') {
		len = strcspn(text + 1, "@");
		if (!image_tag_fine(text + 1, len))
			return false;
		text += 1 + len;
	}
	return *text == '\0' || (*text == '@' && image_digest_fine(text + 1));
}

int
value_check_image(const char *text, struct err *err)
{
	if (strlen(text) <= IMAGE_LEN_MAX && image_fine(text))
		return 0;
	return err_set(err, EINVAL,
		       SHOWN
		       " is no image: write a reference such as python:3.11-slim, or an im-... id",
		       text);
}

int
value_check_path(const char *text, struct err *err)
{
	if (*text != '/')
		return err_set(err, EINVAL, SHOWN " is not absolute: write the full path", text);
	if (strlen(text) >= CWD_LEN_MAX)
		return err_set(err, EINVAL, SHOWN " is too long: %u characters at most", text,
			       CWD_LEN_MAX - 1);
	if (has_control(text))
		return err_set(err, EINVAL, SHOWN " has a control character: take it out", text);
	return 0;
}

int
value_check_socket(const char *text, struct err *err)
{
	const size_t len_max = sizeof((struct sockaddr_un *)NULL)->sun_path - 1;
	int r = value_check_path(text, err);

	if (r < 0)
		return r;
	if (strlen(text) > len_max)
		return err_set(err, EINVAL,
			       SHOWN " is too long for a socket: %zu characters at most", text,
			       len_max);
	return 0;
}

int
value_check_program(const char *text, struct err *err)
{
	if (*text == '\0' || strlen(text) >= PROGRAM_LEN_MAX || has_control(text) ||
	    (*text != '/' && strchr(text, '/') != NULL))
		return err_set(err, EINVAL, SHOWN " is no program: write a name or a full path",
			       text);
	return 0;
}

/* Whether the token stays on this host when it is sent there in the clear. */
static bool
is_this_host(const char *host, size_t len)
{
	static const char *const names[] = { "localhost", "127.0.0.1", "[::1]" };

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (strlen(names[i]) == len && strncasecmp(host, names[i], len) == 0)
			return true;
	}
	return false;
}

/* The host of a URL as it is written there; 0 when there is none. */
static size_t
url_host_len(const char *host)
{
	size_t len;

	if (*host != '[')
		return strspn(host, ALNUM ".-");
	len = strspn(host + 1, DIGITS "abcdefABCDEF:.");
	return host[1 + len] == ']' && len > 0 ? len + 2 : 0;
}

static bool
url_port_fine(const char *text)
{
	size_t digits;
	long port;

	if (*text == ':') {
		digits = strspn(text + 1, DIGITS);
		port = digits >= 1 && digits <= 5 ? strtol(text + 1, NULL, 10) : 0;
		if (port < 1 || port > UINT16_MAX)
			return false;
		text += 1 + digits;
	}
	return *text == '\0' || *text == '/';
}

int
value_check_url(const char *text, struct err *err)
{
	bool secure = strncasecmp(text, "https://", 8) == 0;
	const char *host = text + (secure ? 8 : 7);
	size_t host_len;

	if (!secure && strncasecmp(text, "http://", 7) != 0)
		return err_set(err, EINVAL, SHOWN " is no URL: begin with https://", text);
	if (strlen(text) > URL_LEN_MAX || has_control(text) || strpbrk(text, " ,@\"\\") != NULL)
		return err_set(err, EINVAL, SHOWN " is no URL: write one, without user and spaces",
			       text);
	host_len = url_host_len(host);
	if (host_len == 0 || !url_port_fine(host + host_len))
		return err_set(err, EINVAL,
			       SHOWN " is no URL: write https://HOST or https://HOST:PORT", text);
	if (!secure && !is_this_host(host, host_len))
		return err_set(err, EINVAL,
			       SHOWN " would send the token in the clear: use https://", text);
	return 0;
}

int
value_check_user(const char *text, struct err *err)
{
	size_t len = strlen(text);
	bool number = len > 0 && len <= 9 && made_of(text, DIGITS);
	bool name = len > 0 && len <= USER_LEN_MAX && made_of(text, ALNUM "_.-") &&
		    !isdigit((unsigned char)*text) && *text != '-' && *text != '.';

	if (number || name)
		return 0;
	return err_set(err, EINVAL, SHOWN " is no user: write a name or a number", text);
}

int
value_check_variable(const char *text, struct err *err)
{
	if (*text == '\0' || strlen(text) > VARIABLE_LEN_MAX || has_control(text))
		return err_set(err, EINVAL, SHOWN " is no variable: write its name", text);
	if (strchr(text, '=') != NULL)
		return err_set(err, EINVAL, "an entry has a '=': write the name alone");
	if (strpbrk(text, " []{}\\$\"'") != NULL || isdigit((unsigned char)*text))
		return err_set(err, EINVAL,
			       SHOWN " is no variable: write a name, or a glob of * and ?", text);
	return 0;
}

int
value_check_log_level(const char *text, struct err *err)
{
	if (log_level_from_name(text) >= 0)
		return 0;
	return err_set(err, EINVAL, SHOWN " is unknown: write error, warning, info or debug", text);
}

int
value_check_backend(const char *text, struct err *err)
{
	if (strcmp(text, "modal") == 0)
		return 0;
	return err_set(err, EINVAL,
		       SHOWN " is not served here: write modal (nothing runs elsewhere)", text);
}

int
value_check_modal_mode(const char *text, struct err *err)
{
	if (strcmp(text, "auto") == 0 || strcmp(text, "direct") == 0)
		return 0;
	if (strcmp(text, "managed") == 0)
		return err_set(err, EINVAL,
			       "\"managed\" needs a gateway that is not served here: write direct");
	return err_set(err, EINVAL, SHOWN " is unknown: write auto or direct", text);
}

/* Copies the components of an absolute path but "" and "."; false when there is a "..". */
static bool
path_normalise(const char *text, char *out)
{
	size_t len;

	for (; *text != '\0'; text += len) {
		text += strspn(text, "/");
		len = strcspn(text, "/");
		if (len == 2 && text[0] == '.' && text[1] == '.')
			return false;
		if (len == 0 || (len == 1 && text[0] == '.'))
			continue;
		*out++ = '/';
		memcpy(out, text, len);
		out += len;
	}
	*out = '\0';
	return true;
}

int
value_read_cwd(const char *text, char **ret, struct err *err)
{
	char *path;
	int r = value_check_path(text, err);

	if (r < 0)
		return r;
	path = malloc(strlen(text) + 1);
	if (path == NULL)
		return err_errno(err, ENOMEM, SHOWN, text);
	if (!path_normalise(text, path))
		r = err_set(err, EINVAL, SHOWN " has a \"..\": write the path without", text);
	else if (*path == '\0' || strcmp(path, "/root") == 0)
		r = err_set(err, EINVAL,
			    SHOWN
			    " would mix the work with the system: write a directory of its own,"
			    " such as /workspace",
			    text);
	if (r < 0) {
		free(path);
		return r;
	}
	*ret = path;
	return 0;
}

int
value_read_duration(const char *text, uint64_t *ret_ms, struct err *err)
{
	static const struct {
		const char *name;
		unsigned ms;
	} units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60 * 1000 }, { "h", 60 * 60 * 1000 } };
	size_t digits = strspn(text, DIGITS);

	if (digits >= 1 && digits <= DURATION_DIGITS_MAX) {
		uint64_t number = strtoull(text, NULL, 10);

		if (text[digits] == '\0' && number == 0) {
			*ret_ms = 0;
			return 0;
		}
		for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
			if (strcmp(text + digits, units[i].name) == 0) {
				*ret_ms = number * units[i].ms;
				return 0;
			}
		}
	}
	if (digits >= 1 && text[digits] == '\0')
		return err_set(err, EINVAL, SHOWN " has no unit: write %.10ss, or m, h, ms", text,
			       text);
	return err_set(err, EINVAL, SHOWN " is no duration: write a number and ms, s, m or h",
		       text);
}
