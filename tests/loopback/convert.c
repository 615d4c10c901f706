#include "tests/loopback/convert.h"

#include <stdlib.h>

#include "tests/loopback/bytes.h"
#include "tests/loopback/rpc.h"
#include "tests/loopback/world.h"

enum { ROWS_DEFAULT = 24, COLUMNS_DEFAULT = 80 };

char **
convert_strings(size_t count, char *const *strings)
{
	char **copies = mem_new((count + 1) * sizeof *copies);

	for (size_t i = 0; i < count; i++)
		copies[i] = text_copy(strings[i]);
	return copies;
}

void
convert_strings_free(char **strings)
{
	for (char **at = strings; at && *at; at++)
		free(*at);
	free(strings);
}

void
convert_map(size_t count, Modal__Client__StringEntry *const *entries, struct env *env)
{
	for (size_t i = 0; i < count; i++) {
		if (!text_empty(entries[i]->key))
			env_set(env, entries[i]->key, entries[i]->value);
	}
}

bool
convert_secret_ids(struct call *c, size_t count, char *const *ids, struct env *env)
{
	for (size_t i = 0; i < count; i++) {
		struct secret *secret = secret_find(rpc_world(c), ids[i]);

		if (!secret) {
			rpc_end(c, STATUS_NOT_FOUND, "no secret %s", ids[i]);
			return false;
		}
		env_add(env, &secret->env);
	}
	return true;
}

bool
convert_secret_sources(struct call *c, size_t count, Modal__Client__SecretSource *const *sources,
		       struct env *env)
{
	for (size_t i = 0; i < count; i++) {
		const Modal__Client__SecretSource *source = sources[i];

		if (source->source_case == MODAL__CLIENT__SECRET_SOURCE__SOURCE_SECRET_ID) {
			if (!convert_secret_ids(c, 1, &source->secret_id, env))
				return false;
		} else if (source->source_case == MODAL__CLIENT__SECRET_SOURCE__SOURCE_ENV) {
			convert_map(source->env->n_contents, source->env->contents, env);
		}
	}
	return true;
}

void
convert_terminal(const Modal__Client__PTYInfo *info, uint32_t *rows, uint32_t *columns)
{
	if (!info->enabled)
		return;
	*rows = info->winsz_rows ? info->winsz_rows : ROWS_DEFAULT;
	*columns = info->winsz_cols ? info->winsz_cols : COLUMNS_DEFAULT;
}

void
convert_terminal_env(const Modal__Client__PTYInfo *info, struct env *env)
{
	if (!info->enabled)
		return;
	if (!text_empty(info->env_term))
		env_set(env, "TERM", info->env_term);
	if (!text_empty(info->env_colorterm))
		env_set(env, "COLORTERM", info->env_colorterm);
	if (!text_empty(info->env_term_program))
		env_set(env, "TERM_PROGRAM", info->env_term_program);
}

bool
convert_allows_all(const Modal__Client__NetworkAccess *access)
{
	for (size_t i = 0; i < access->n_allowed_cidrs; i++) {
		if (text_is(access->allowed_cidrs[i], "0.0.0.0/0"))
			return true;
	}
	for (size_t i = 0; i < access->n_allowed_domains; i++) {
		if (text_is(access->allowed_domains[i], "*"))
			return true;
	}
	return false;
}
