/* config_store.h -- one value of the tree, checked and put where the table of keys says. */
#ifndef SHIM_BROKER_CONFIG_STORE_H
#define SHIM_BROKER_CONFIG_STORE_H

#include <cjson/cJSON.h>

#include "shim/base/err.h"
#include "shim/broker/config.h"
#include "shim/broker/config_key.h"

/* Returns 0, or negative errno with *err set to what is wrong and the remedy, to which the
 * caller adds file and key. A field is stored once; what was allocated is freed by
 * config_release() also after a failure. */
int config_key_store(const struct config_key *key, const cJSON *value, struct config *config,
		     struct err *err);

/* "a list", "text", ... for messages. */
const char *config_type_name(const cJSON *value);

#endif
