#include <stdlib.h>
#include <string.h>

#include "shim/base/strv.h"

size_t
strv_count(char *const *strv)
{
	size_t count = 0;

	while (strv[count] != NULL)
		count++;
	return count;
}

void
strv_free(char **strv)
{
	if (strv == NULL)
		return;
	for (size_t i = 0; strv[i] != NULL; i++)
		free(strv[i]);
	free(strv);
}

const char *
strv_env(char *const *env, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; env[i] != NULL; i++) {
		if (strncmp(env[i], name, len) == 0 && env[i][len] == '=')
			return env[i] + len + 1;
	}
	return NULL;
}
