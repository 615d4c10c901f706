/* persona.h -- what a start of the shim asks for, from the name it was started by.  Never parses a
 * script. */
#ifndef SHIM_PERSONA_H
#define SHIM_PERSONA_H

#include "shim/base/err.h"

enum persona_kind {
	PERSONA_SHELL,	 /* `modalsh`: the configured shell */
	PERSONA_NOTHING, /* `exec` without a command */
	PERSONA_PROGRAM, /* everything else */
};

struct persona {
	enum persona_kind kind;
	const char
		*program;  /* PERSONA_PROGRAM: what the sandbox looks up; may be "" for `exec ''` */
	char *const *argv; /* NULL-terminated, at least one entry unless PERSONA_NOTHING */
};

/* Decides by `name`, a base name.  Pure; *ret points into name and argv. */
void persona_from_name(const char *name, char *const *argv, struct persona *ret);

/* Finds the name that this process was started by: the base name of AT_EXECFN when that is this
 * executable, else (a
 * `#!` script, an open descriptor) the base name of argv[0] without the dash of a login shell. argv
 * has at least one entry.  Returns 0, or -errno with *err set when there is no name to go by. */
int persona_find(char *const *argv, struct persona *ret, struct err *err);

#endif
