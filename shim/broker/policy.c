#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "shim/base/strv.h"
#include "shim/broker/policy.h"

/* The broker's own settings and Modal's credentials: no reason lets them cross. */
static const char *const never_patterns[] = { "MODAL_*", "MODALSH_*", NULL };

/* Secrets of model providers, of messaging and of version control, and names that steer a
 * gateway: they cross only when they are listed by their very name and a reason for that name is
 * written. The list is what Hermes keeps from its children; case is folded as its newer versions
 * do. */
static const char *const secret_patterns[] = {
	"AI_GATEWAY_API_KEY",
	"ANTHROPIC_API_KEY",
	"ANTHROPIC_BASE_URL",
	"ANTHROPIC_TOKEN",
	"AUXILIARY_*_API_KEY",
	"AUXILIARY_*_BASE_URL",
	"AWS_BEARER_TOKEN_BEDROCK",
	"COHERE_API_KEY",
	"DAYTONA_API_KEY",
	"DEEPSEEK_API_KEY",
	"EMAIL_*",
	"FIRECRAWL_API_*",
	"FIREWORKS_API_KEY",
	"GATEWAY_RELAY_*",
	"GEMINI_API_KEY",
	"GH_TOKEN",
	"GITHUB_APP_*",
	"GITHUB_TOKEN",
	"GOOGLE_API_KEY",
	"GOOGLE_APPLICATION_CREDENTIALS",
	"GROQ_API_KEY",
	"HASS_*",
	"HELICONE_API_KEY",
	"LLM_MODEL",
	"MISTRAL_API_KEY",
	"OPENAI_API_*",
	"OPENAI_BASE_URL",
	"OPENROUTER_API_KEY",
	"PARALLEL_API_KEY",
	"PERPLEXITY_API_KEY",
	"SUDO_PASSWORD",
	"TOGETHER_API_KEY",
	"VERCEL_*",
	"VERTEX_CREDENTIALS_PATH",
	"XAI_API_KEY",
	"*_ALLOWED_USERS",
	"*_ALLOW_ALL_USERS",
	"*_APP_TOKEN",
	"*_BOT_TOKEN",
	"*_HOME_CHANNEL",
	"*_HOME_CHANNEL_*",
	"*DASHBOARD*TOKEN",
	NULL,
};

static bool
same_char(char a, char b, bool fold)
{
	return a == b || (fold && toupper((unsigned char)a) == toupper((unsigned char)b));
}

/* Globs of * and ?. Goes back to the last star alone, so the time is bounded by the product of
 * both lengths. */
static bool
glob_matches(const char *pattern, const char *name, size_t len, bool fold)
{
	const char *after_star = NULL;
	size_t at = 0, retry = 0;

	while (at < len) {
		if (*pattern == '*') {
			after_star = ++pattern;
			retry = at;
		} else if (*pattern == '?' ||
			   (*pattern != '\0' && same_char(*pattern, name[at], fold))) {
			pattern++;
			at++;
		} else if (after_star != NULL) {
			pattern = after_star;
			at = ++retry;
		} else {
			return false;
		}
	}
	return pattern[strspn(pattern, "*")] == '\0';
}

static bool
any_matches(const char *const *patterns, const char *name, size_t len)
{
	for (; *patterns != NULL; patterns++) {
		if (glob_matches(*patterns, name, len, true))
			return true;
	}
	return false;
}

static bool
has_reason(const struct config *config, const char *entry)
{
	for (size_t i = 0; i < config->env_reason_count; i++) {
		if (strcmp(config->env_reasons[i].entry, entry) == 0)
			return true;
	}
	return false;
}

/* Whether an entry is this very name and has its reason. */
static bool
has_exception(const struct config *config, const char *name, size_t len)
{
	for (size_t i = 0; i < config->env_passthrough.count; i++) {
		const char *entry = config->env_passthrough.items[i];

		if (strlen(entry) == len && memcmp(entry, name, len) == 0 &&
		    has_reason(config, entry))
			return true;
	}
	return false;
}

bool
policy_env_crosses(const struct config *config, const char *name, size_t len)
{
	const struct config_list *allowed = &config->env_passthrough;
	bool listed = false;

	for (size_t i = 0; len > 0 && i < allowed->count && !listed; i++)
		listed = glob_matches(allowed->items[i], name, len, false);
	/* few are listed, so the long lists are walked for those alone */
	if (!listed || any_matches(never_patterns, name, len))
		return false;
	return !any_matches(secret_patterns, name, len) || has_exception(config, name, len);
}

char **
policy_env_filter(const struct config *config, char *const *env)
{
	char **crossing = calloc(strv_count(env) + 1, sizeof *crossing);
	size_t count = 0;

	if (crossing == NULL)
		return NULL;
	for (; *env != NULL; env++) {
		const char *equals = strchr(*env, '=');

		if (equals != NULL && policy_env_crosses(config, *env, (size_t)(equals - *env)))
			crossing[count++] = *env;
	}
	return crossing;
}

/* What an entry of env_passthrough is refused for, or NULL. */
static const char *
entry_fault(const struct config *config, const char *entry)
{
	if (strncasecmp(entry, "MODAL_", 6) == 0 || strncasecmp(entry, "MODALSH_", 8) == 0)
		return "never crosses: take it out";
	if (has_reason(config, entry))
		return NULL;
	if (entry[strspn(entry, "*?")] == '\0')
		return "lets everything cross: name what is needed, or write why in "
		       "modalsh.env_reasons";
	if (any_matches(secret_patterns, entry, strlen(entry)))
		return "is a secret of the host: take it out, or write why in modalsh.env_reasons";
	return NULL;
}

static bool
is_listed(const struct config_list *list, const char *text)
{
	for (size_t i = 0; i < list->count; i++) {
		if (strcmp(list->items[i], text) == 0)
			return true;
	}
	return false;
}

int
policy_check(const struct config *config, struct err *err)
{
	const struct config_list *allowed = &config->env_passthrough;

	for (size_t i = 0; i < allowed->count; i++) {
		const char *fault = entry_fault(config, allowed->items[i]);

		if (fault != NULL)
			return err_set(err, EINVAL, "terminal.env_passthrough: \"%.80s\" %s",
				       allowed->items[i], fault);
	}
	for (size_t i = 0; i < config->env_reason_count; i++) {
		if (!is_listed(allowed, config->env_reasons[i].entry))
			return err_set(err, EINVAL,
				       "modalsh.env_reasons: \"%.80s\" is not in"
				       " terminal.env_passthrough: add it there or remove it",
				       config->env_reasons[i].entry);
	}
	return 0;
}

static bool
has_dot_dot(const char *path)
{
	size_t len;

	for (; *path != '\0'; path += len) {
		path += strspn(path, "/");
		len = strcspn(path, "/");
		if (len == 2 && path[0] == '.' && path[1] == '.')
			return true;
	}
	return false;
}

/* Whether text has prefix followed by the number and no further digit. */
static bool
has_number(const char *text, const char *prefix, const char *digits)
{
	size_t prefix_len = strlen(prefix), digits_len = strlen(digits);

	while ((text = strstr(text, prefix)) != NULL) {
		text += prefix_len;
		if (strncmp(text, digits, digits_len) == 0 &&
		    !isdigit((unsigned char)text[digits_len]))
			return true;
	}
	return false;
}

static bool
text_names_descriptor(const char *text, const char *digits)
{
	static const char *const prefixes[] = { "/dev/fd/", "/proc/self/fd/", ">&", "<&", NULL };
	const char *jobserver = strstr(text, "--jobserver-");

	for (size_t i = 0; prefixes[i] != NULL; i++) {
		if (has_number(text, prefixes[i], digits))
			return true;
	}
	return jobserver != NULL &&
	       (has_number(jobserver, "=", digits) || has_number(jobserver, ",", digits));
}

static bool
ends_in(const char *name, size_t name_len, const char *suffix)
{
	size_t len = strlen(suffix);

	return name_len >= len && strncasecmp(name + name_len - len, suffix, len) == 0;
}

bool
policy_names_descriptor(char *const *argv, char *const *env, unsigned number)
{
	char digits[16];
	const char *value;

	snprintf(digits, sizeof digits, "%u", number);
	for (; *argv != NULL; argv++) {
		if (text_names_descriptor(*argv, digits))
			return true;
	}
	for (; *env != NULL; env++) {
		value = strchr(*env, '=');
		if (value == NULL)
			continue;
		if (text_names_descriptor(value, digits) ||
		    (strcmp(value + 1, digits) == 0 &&
		     (ends_in(*env, (size_t)(value - *env), "FD") ||
		      ends_in(*env, (size_t)(value - *env), "SOCKET"))))
			return true;
	}
	return false;
}

bool
policy_jobserver(const char *makeflags, unsigned *ret_read, unsigned *ret_write)
{
	static const char *const options[] = { "--jobserver-auth=", "--jobserver-fds=", NULL };
	const char *option;

	for (size_t i = 0; options[i] != NULL; i++) {
		option = strstr(makeflags, options[i]);
		if (option != NULL &&
		    sscanf(option + strlen(options[i]), "%u,%u", ret_read, ret_write) == 2)
			return true;
	}
	return false;
}

int
policy_cwd(const struct config *config, const char *cwd, const char **ret, struct err *err)
{
	size_t len = strlen(config->cwd);

	if (has_dot_dot(cwd))
		return err_set(err, EINVAL, "the working directory \"%.200s\" has a \"..\"", cwd);
	if (strncmp(cwd, config->cwd, len) == 0 && (cwd[len] == '\0' || cwd[len] == '/')) {
		*ret = cwd;
		return 0;
	}
	if (config->strict_cwd)
		return err_set(err, ENOENT,
			       "the working directory \"%.200s\" is outside of terminal.cwd"
			       " (modalsh.strict_cwd is on)",
			       cwd);
	*ret = config->cwd;
	return 0;
}
