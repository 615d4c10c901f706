/* cred_toml.h -- as much of TOML as a file of Modal profiles has: tables and `key = value`,
 * where strings, booleans and numbers are understood and everything else is skipped over. */
#ifndef SHIM_BROKER_CRED_TOML_H
#define SHIM_BROKER_CRED_TOML_H

#include <stdbool.h>
#include <stddef.h>

#include "shim/base/err.h"

enum toml_kind { TOML_STRING, TOML_BOOLEAN, TOML_NUMBER, TOML_OTHER };

struct toml_entry {
	unsigned line;
	const char *table; /* "" before the first header; NULL in [a.b] and [[a]]: no profiles */
	const char *key;   /* NULL for a header; "" for a dotted key, which is nobody's */
	enum toml_kind kind;
	const char *text; /* of TOML_STRING; NULL otherwise */
	bool boolean;	  /* of TOML_BOOLEAN */
};

/* Calls `entry` for every header and every `key = value`, in order, until it returns negative.
 * Works inside `text`, which it changes: text[len] must be writable. Strings are valid as long
 * as text is. Returns 0, what entry returned, or -EINVAL with *err set to "line N: ..."; an
 * error never shows a value. */
int toml_read(char *text, size_t len,
	      int (*entry)(void *arg, const struct toml_entry *entry, struct err *err), void *arg,
	      struct err *err);

#endif
