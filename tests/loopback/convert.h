/* convert.h -- from protobuf messages to plain structures, for both halves of the API. */
#ifndef LOOPBACK_CONVERT_H
#define LOOPBACK_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/modal_api.pb-c.h"

struct call;
struct env;

/* NULL-terminated copies. */
char **convert_strings(size_t count, char *const *strings);
void convert_strings_free(char **strings);

void convert_map(size_t count, Modal__Client__StringEntry *const *entries, struct env *env);
/* These end the call and return false when a secret does not exist. */
bool convert_secret_ids(struct call *c, size_t count, char *const *ids, struct env *env);
bool convert_secret_sources(struct call *c, size_t count,
			    Modal__Client__SecretSource *const *sources, struct env *env);

/* Zeros when the terminal is not enabled. */
void convert_terminal(const Modal__Client__PTYInfo *info, uint32_t *rows, uint32_t *columns);
void convert_terminal_env(const Modal__Client__PTYInfo *info, struct env *env);

/* An allow-list that lets everything through. */
bool convert_allows_all(const Modal__Client__NetworkAccess *access);

#endif
