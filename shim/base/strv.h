/* strv.h -- NULL-terminated arrays of strings, as execve takes them. */
#ifndef SHIM_BASE_STRV_H
#define SHIM_BASE_STRV_H

#include <stddef.h>

size_t strv_count(char *const *strv);

/* Frees the array and its strings.  NULL is fine. */
void strv_free(char **strv);

/* The value of NAME in an array of NAME=value, or NULL.  Points into the array. */
const char *strv_env(char *const *env, const char *name);

#endif
