/* config_key.h -- the table of keys: all that a configuration may say, where it is kept, and
 * what an absent key means. */
#ifndef SHIM_BROKER_CONFIG_KEY_H
#define SHIM_BROKER_CONFIG_KEY_H

#include <stddef.h>

#include "shim/base/err.h"

/* What stands in the file for a key, and how it is kept in struct config. */
enum config_kind {
	KIND_TEXT,	   /* char * */
	KIND_CHECKED,	   /* text that is checked and not kept */
	KIND_DIRECTORY,	   /* text -> char * of a directory in the sandbox */
	KIND_CHOICE,	   /* text -> the enum value that is its index in choices */
	KIND_BOOL,	   /* bool */
	KIND_OFF,	   /* false, not kept */
	KIND_CORES,	   /* number -> uint32_t of thousandths */
	KIND_WHOLE,	   /* number -> uint32_t */
	KIND_BYTES,	   /* number -> uint64_t */
	KIND_SECONDS,	   /* text with a unit -> uint32_t of seconds */
	KIND_MILLISECONDS, /* text with a unit -> uint32_t of milliseconds */
	KIND_LIST,	   /* list of text -> struct config_list */
	KIND_REASONS,	   /* map of text -> env_reasons */
	KIND_UNUSED,	   /* anything, named in `ignored` with the reason */
};

struct config_key {
	const char *section;
	const char *name;
	enum config_kind kind;
	size_t field;	      /* offset in struct config */
	const char *fallback; /* what an absent key means, written as in the environment */
	const char *variable; /* fills what the file leaves open */
	const char *missing;  /* the remedy, for a key that must be there */
	int (*check)(const char *text, struct err *err);
	const char *const *choices;
	double min, max;    /* of numbers; of durations in milliseconds */
	const char *reason; /* why it has no effect */
};

enum { CONFIG_KEYS_MAX = 128 };

/* The key at this place of the table, NULL after the last. */
const struct config_key *config_key_at(size_t index);

/* The place of a key, or a place after the last. */
size_t config_key_find(const char *section, const char *name);

/* The key that was probably meant (the same name in the other section, or the nearest), or NULL. */
const struct config_key *config_key_suggest(const char *section, const char *name);

#endif
