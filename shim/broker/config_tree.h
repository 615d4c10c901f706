/* config_tree.h -- YAML or JSON text to one cJSON tree.
 *
 * Block and flow style are read, JSON as a subset. Plain scalars are typed as YAML's core schema
 * says, with yes/no/on/off as booleans too (configurations shared with YAML 1.1 readers mean
 * that); quoted ones are text. What readers disagree about stays text: numbers with leading
 * zeros, in hexadecimal, with underscores or colons. Refused: anchors, aliases, tags, a key that
 * is there twice, a second document, NUL in text. */
#ifndef SHIM_BROKER_CONFIG_TREE_H
#define SHIM_BROKER_CONFIG_TREE_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "shim/base/err.h"

/* Far above any configuration, low enough that looking for doubled keys stays quick. */
enum { CONFIG_TEXT_LEN_MAX = 1024 * 1024, CONFIG_DEPTH_MAX = 32, CONFIG_NODES_MAX = 10000 };

/* Returns 0 with *ret (caller: cJSON_Delete), or negative errno with *err set to "name:line:
 * what is wrong". An empty document is a null. */
int config_tree_parse(const char *text, size_t len, const char *name, cJSON **ret, struct err *err);

/* The node of one unquoted scalar, or NULL without memory. */
cJSON *config_tree_scalar(const char *text);

#endif
