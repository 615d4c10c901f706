/* config.h -- the broker's configuration: one file (YAML or JSON) read into one tree and checked
 * against one table of keys. An unknown key or a bad value is an error that names the key's
 * path; nothing is guessed. */
#ifndef SHIM_BROKER_CONFIG_H
#define SHIM_BROKER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "shim/base/err.h"

/* A list of strings, NULL-terminated, owned by the configuration. */
struct config_list {
	char **items;
	size_t count;
};

enum config_env_base { CONFIG_ENV_IMAGE, CONFIG_ENV_EMPTY };
enum config_network { CONFIG_NETWORK_BLOCKED, CONFIG_NETWORK_OPEN };
enum config_api { CONFIG_API_V2, CONFIG_API_V1 };

/* Why an entry of env_passthrough is there although it needs a reason. */
struct config_reason {
	char *entry;
	char *text;
};

/* Strings are never NULL unless it says so. */
struct config {
	/* terminal: (the block of a Hermes config.yaml) */
	char *cwd;		    /* terminal.cwd: absolute, neither / nor /root */
	char *image;		    /* terminal.modal_image: registry reference or im-… id */
	uint32_t milli_cpu;	    /* terminal.container_cpu, cores x 1000; 0 = Modal's default */
	uint32_t memory_mib;	    /* terminal.container_memory; 0 = Modal's default */
	bool persistent;	    /* terminal.container_persistent */
	uint32_t command_timeout_s; /* modalsh.command_timeout; 0 = none */
	struct config_list env_passthrough; /* names and globs of variables that cross */

	/* modalsh: */
	char *app;	   /* app name */
	char *environment; /* Modal environment; "" = the workspace's default */
	char *session;	   /* names the sandbox: modalsh-<session> */
	enum config_api api;
	enum config_network network;
	uint32_t lifetime_s;	 /* of the sandbox, at most 24 h */
	uint32_t idle_timeout_s; /* of the sandbox; also closes the idle lane */
	uint32_t lease_ms;
	uint64_t lane_recycle_bytes; /* both ways together; then another exec carries the lane */
	bool strict_cwd;	     /* a cwd outside terminal.cwd is refused instead of replaced */
	bool start_early;	     /* create the sandbox and the lane at start */
	enum config_env_base env_base;
	char *shell;			/* what `modalsh` itself stands for */
	char *socket;			/* path of the local socket */
	struct config_list allow_users; /* further users (names or numbers) that may connect */
	char *guest;			/* path of the modalsh-guest binary */
	char *server_url;		/* NULL = environment, profile, built-in default */
	char *ca_file;			/* NULL = the system's certificates */
	char *token_file;		/* NULL = $MODAL_CONFIG_PATH or ~/.modal.toml */
	char *log_level;		/* error, warning, info, debug */
	bool pipelined_start;		/* send reads together with the exec's start */

	struct config_reason *env_reasons; /* modalsh.env_reasons */
	size_t env_reason_count;
	struct config_list ignored; /* "key: reason" of what was set without effect */
};

/* Reads and checks the file. Returns 0 with *ret filled (free with config_release), or a
 * negative errno with *err set: file, key path, what is wrong, what to do. */
int config_load(const char *path, struct config *ret, struct err *err);

/* The same for text in memory; `name` stands for the file in messages. */
int config_parse(const char *text, size_t len, const char *name, struct config *ret,
		 struct err *err);

/* Frees what it holds; a zeroed configuration is fine. */
void config_release(struct config *config);

/* Every key that is accepted but has no effect here and was set in the file, one line each (key
 * and reason), to `out`. */
void config_print_ignored(const struct config *config, FILE *out);

#endif
