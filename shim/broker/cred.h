/* cred.h -- the Modal token: read here, kept here, shown to nobody but the control-plane calls. */
#ifndef SHIM_BROKER_CRED_H
#define SHIM_BROKER_CRED_H

#include "shim/base/err.h"
#include "shim/broker/config.h"

/* Opaque; the secret lives in pages of its own that are locked where allowed, left out of core
 * dumps and wiped on free. */
struct cred;

/* Finds the token (fact sheet 1.2-1.4): MODAL_TOKEN_ID and MODAL_TOKEN_SECRET from the
 * environment, per half else the profile (MODAL_PROFILE, the active one, "default") of
 * config->token_file, MODAL_CONFIG_PATH or ~/.modal.toml. A token file that others can read is
 * refused. The same file may say server_url and environment. After reading, MODAL_TOKEN_* are
 * wiped from this process' own environment block. Returns 0, or negative errno with *err naming
 * every source looked at. */
int cred_load(const struct config *config, struct cred **ret, struct err *err);
void cred_free(struct cred *cred);

/* After the last fork: the secret stays in this process's memory, and in no later child's. */
void cred_pin(struct cred *cred);

const char *cred_token_id(const struct cred *cred);
const char *cred_token_secret(const struct cred *cred);

/* Where each half was found, for status and doctor: never the value. */
const char *cred_source(const struct cred *cred);

/* Never NULL: configuration, MODAL_SERVER_URL, profile, https://api.modal.com. */
const char *cred_server_url(const struct cred *cred);
/* Configuration (if not ""), MODAL_ENVIRONMENT, profile, "". */
const char *cred_environment(const struct cred *cred);

#endif
