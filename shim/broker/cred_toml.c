#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shim/broker/cred_toml.h"

enum { NESTING_MAX = 32 };

/* The text is terminated with NUL at its end and holds none before, so every scan stops there. */
struct reader {
	char *at;
	unsigned line;
	struct err *err;
};

static int
fail(const struct reader *reader, const char *what)
{
	return err_set(reader->err, EINVAL, "line %u: %s", reader->line, what);
}

static void
skip_blanks(struct reader *reader)
{
	reader->at += strspn(reader->at, " \t");
}

static void
skip_comment(struct reader *reader)
{
	if (*reader->at == '#')
		reader->at += strcspn(reader->at, "\n");
}

/* What may follow a value or a header: blanks, a comment, the end of the line. */
static int
expect_line_end(struct reader *reader)
{
	skip_blanks(reader);
	skip_comment(reader);
	if (*reader->at == '\r' && reader->at[1] == '\n')
		reader->at++;
	if (*reader->at == '\n') {
		reader->at++;
		reader->line++;
	} else if (*reader->at != '\0') {
		return fail(reader, "more than one value: write one per line");
	}
	return 0;
}

static size_t
put_utf8(char *out, uint32_t code)
{
	size_t len = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
	static const unsigned char lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };

	for (size_t i = len; i-- > 1; code >>= 6)
		out[i] = (char)(0x80 | (code & 0x3f));
	out[0] = (char)(lead[len] | code);
	return len;
}

/* Four or eight hexadecimal digits; the result is never longer than what stood there. */
static int
take_code_point(struct reader *reader, size_t digits, char **out)
{
	char hex[9] = "";
	uint32_t code;

	for (size_t i = 0; i < digits; i++) {
		if (!isxdigit((unsigned char)reader->at[i]))
			return fail(reader, "an escape that is no character");
		hex[i] = reader->at[i];
	}
	code = (uint32_t)strtoul(hex, NULL, 16);
	if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return fail(reader, "an escape that is no character");
	reader->at += digits;
	*out += put_utf8(*out, code);
	return 0;
}

static int
take_escape(struct reader *reader, char **out)
{
	static const char names[] = "btnfr\"\\", values[] = "\b\t\n\f\r\"\\";
	const char *found;
	char name = *reader->at;

	if (name == '\0')
		return fail(reader, "a string without end");
	reader->at++;
	if (name == 'u' || name == 'U')
		return take_code_point(reader, name == 'u' ? 4 : 8, out);
	found = strchr(names, name);
	if (found == NULL)
		return fail(reader, "an unknown escape");
	*(*out)++ = values[found - names];
	return 0;
}

/* A string on one line, decoded where it stands. */
static int
take_string(struct reader *reader, const char **ret)
{
	char quote = *reader->at++;
	char *start = reader->at, *out = start;
	int r;

	while (*reader->at != quote) {
		if (*reader->at == '\0' || *reader->at == '\n')
			return fail(reader, "a string without end");
		if (*reader->at != '\\' || quote == '\'') {
			*out++ = *reader->at++;
			continue;
		}
		reader->at++;
		r = take_escape(reader, &out);
		if (r < 0)
			return r;
	}
	reader->at++;
	*out = '\0';
	*ret = start;
	return 0;
}

static bool
at_triple_quote(const struct reader *reader)
{
	char quote = *reader->at;

	return (quote == '"' || quote == '\'') && reader->at[1] == quote && reader->at[2] == quote;
}

static int
skip_triple_string(struct reader *reader)
{
	char quote = *reader->at;

	reader->at += 3;
	while (!(*reader->at == quote && at_triple_quote(reader))) {
		if (*reader->at == '\0')
			return fail(reader, "a string without end");
		if (*reader->at == '\\' && quote == '"' && reader->at[1] != '\0')
			reader->at++;
		if (*reader->at == '\n')
			reader->line++;
		reader->at++;
	}
	/* one or two quotes may stand right before the closing ones */
	reader->at += strspn(reader->at, quote == '"' ? "\"" : "'");
	return 0;
}

/* Arrays and inline tables, over lines, with the strings and comments inside them. */
static int
skip_brackets(struct reader *reader)
{
	const char *ignored;
	unsigned depth = 0;
	int r = 0;

	do {
		if (*reader->at == '\0')
			return fail(reader, "a bracket without end");
		if (at_triple_quote(reader)) {
			r = skip_triple_string(reader);
		} else if (*reader->at == '"' || *reader->at == '\'') {
			r = take_string(reader, &ignored);
		} else if (*reader->at == '#') {
			skip_comment(reader);
		} else {
			if (*reader->at == '[' || *reader->at == '{')
				depth++;
			else if (*reader->at == ']' || *reader->at == '}')
				depth--;
			else if (*reader->at == '\n')
				reader->line++;
			reader->at++;
		}
		if (r < 0 || depth > NESTING_MAX)
			return r < 0 ? r : fail(reader, "nested too deeply");
	} while (depth > 0);
	return 0;
}

static bool
is_date(const char *word, size_t len)
{
	return isdigit((unsigned char)*word) && len >= 10 && word[4] == '-' && word[7] == '-';
}

/* true, false, numbers, dates; entry->kind says TOML_OTHER before. */
static int
take_bare_value(struct reader *reader, struct toml_entry *entry)
{
	size_t len = strcspn(reader->at, " \t\r\n#");
	const char *word = reader->at;

	if (len == 0)
		return fail(reader, "a key without value");
	reader->at += len;
	if ((len == 4 && memcmp(word, "true", 4) == 0) ||
	    (len == 5 && memcmp(word, "false", 5) == 0)) {
		entry->kind = TOML_BOOLEAN;
		entry->boolean = len == 4;
	} else if (is_date(word, len)) {
		reader->at += strcspn(reader->at, "\r\n#"); /* the time may stand behind a blank */
	} else if (strspn(word, "+-.0123456789_eExoabcdefABCDEF") >= len) {
		entry->kind = TOML_NUMBER;
	} else if (!isdigit((unsigned char)*word) && strspn(word, "+-infa") < len) {
		return fail(reader, "a value that is no string (in quotes), true, false or number");
	}
	return 0;
}

static int
take_value(struct reader *reader, struct toml_entry *entry)
{
	entry->kind = TOML_OTHER;
	if (at_triple_quote(reader))
		return skip_triple_string(reader);
	if (*reader->at == '[' || *reader->at == '{')
		return skip_brackets(reader);
	if (*reader->at != '"' && *reader->at != '\'')
		return take_bare_value(reader, entry);
	entry->kind = TOML_STRING;
	return take_string(reader, &entry->text);
}

/* One name, bare or in quotes. A bare one is terminated only by the caller, at *ret_end, once it
 * has seen what follows. */
static int
take_name(struct reader *reader, const char **ret, char **ret_end)
{
	if (*reader->at == '"' || *reader->at == '\'') {
		*ret_end = NULL;
		return take_string(reader, ret);
	}
	*ret = reader->at;
	while (isalnum((unsigned char)*reader->at) || *reader->at == '-' || *reader->at == '_')
		reader->at++;
	*ret_end = reader->at;
	return reader->at > *ret ? 0 : fail(reader, "not `key = value`, [profile] or # comment");
}

/* Names with dots between them up to `end`, which is consumed. *ret is the name, or NULL when
 * there are several. */
static int
take_names(struct reader *reader, char end, const char **ret)
{
	bool several = false;
	char *name_end;
	int r;

	for (;;) {
		skip_blanks(reader);
		r = take_name(reader, ret, &name_end);
		if (r < 0)
			return r;
		skip_blanks(reader);
		if (*reader->at != '.')
			break;
		several = true;
		reader->at++;
	}
	if (*reader->at != end)
		return fail(reader, "not `key = value`, [profile] or # comment");
	reader->at++;
	if (name_end != NULL)
		*name_end = '\0';
	if (several)
		*ret = NULL;
	return 0;
}

static int
take_header(struct reader *reader, struct toml_entry *entry)
{
	bool array = reader->at[1] == '[';
	int r;

	reader->at += array ? 2 : 1;
	r = take_names(reader, ']', &entry->table);
	if (r < 0 || !array)
		return r;
	if (*reader->at != ']')
		return fail(reader, "a header without end");
	reader->at++;
	entry->table = NULL;
	return 0;
}

static int
take_key(struct reader *reader, struct toml_entry *entry)
{
	int r = take_names(reader, '=', &entry->key);

	if (r < 0)
		return r;
	if (entry->key == NULL)
		entry->key = "";
	skip_blanks(reader);
	return take_value(reader, entry);
}

int
toml_read(char *text, size_t len,
	  int (*entry)(void *arg, const struct toml_entry *entry, struct err *err), void *arg,
	  struct err *err)
{
	struct reader reader = { .at = text, .line = 1, .err = err };
	const char *table = "";
	int r = 0;

	text[len] = '\0';
	if (strlen(text) != len)
		return err_set(err, EINVAL, "it holds a NUL byte");
	while (r >= 0) {
		struct toml_entry found = { .line = reader.line, .table = table };

		skip_blanks(&reader);
		if (*reader.at == '\0')
			break;
		if (*reader.at == '#' || *reader.at == '\r' || *reader.at == '\n') {
			r = expect_line_end(&reader);
			continue;
		}
		r = *reader.at == '[' ? take_header(&reader, &found) : take_key(&reader, &found);
		table = found.table;
		if (r == 0)
			r = expect_line_end(&reader);
		if (r == 0)
			r = entry(arg, &found, err);
	}
	return r;
}
