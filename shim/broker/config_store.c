#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim/broker/config_store.h"
#include "shim/broker/config_value.h"

enum { LIST_COUNT_MAX = 1024 };

#define SECOND_MS 1000.0
#define HOUR_MS	  (3600 * SECOND_MS)

static_assert(sizeof(enum config_api) == sizeof(int) &&
		      sizeof(enum config_network) == sizeof(int) &&
		      sizeof(enum config_env_base) == sizeof(int),
	      "choices are stored as int");

static int
no_memory(struct err *err)
{
	return err_errno(err, ENOMEM, "keeping it");
}

const char *
config_type_name(const cJSON *value)
{
	if (cJSON_IsNull(value))
		return "nothing";
	if (cJSON_IsBool(value))
		return "a truth value";
	if (cJSON_IsNumber(value))
		return "a number";
	if (cJSON_IsString(value))
		return "text";
	return cJSON_IsArray(value) ? "a list" : "a map";
}

static int
wrong_type(const cJSON *value, const char *wanted, struct err *err)
{
	return err_set(err, EINVAL, "is %s: write %s", config_type_name(value), wanted);
}

static int
take_text(const cJSON *value, const char **ret, struct err *err)
{
	if (cJSON_IsString(value)) {
		*ret = value->valuestring;
		return 0;
	}
	return wrong_type(
		value, cJSON_IsNumber(value) || cJSON_IsBool(value) ? "it in quotes" : "text", err);
}

static int
store_text(const struct config_key *key, const cJSON *value, char **field, struct err *err)
{
	const char *text;
	int r = take_text(value, &text, err);

	if (r == 0 && key->check != NULL)
		r = key->check(text, err);
	if (r < 0 || key->kind == KIND_CHECKED)
		return r;
	*field = strdup(text);
	return *field != NULL ? 0 : no_memory(err);
}

static int
store_directory(const cJSON *value, char **field, struct err *err)
{
	const char *text;
	int r = take_text(value, &text, err);

	return r < 0 ? r : value_read_cwd(text, field, err);
}

static int
store_choice(const struct config_key *key, const cJSON *value, void *field, struct err *err)
{
	const char *text;
	char known[64] = "";
	int r = take_text(value, &text, err);

	if (r < 0)
		return r;
	for (int i = 0; key->choices[i] != NULL; i++) {
		if (strcmp(text, key->choices[i]) == 0) {
			memcpy(field, &i, sizeof i);
			return 0;
		}
		snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s",
			 i > 0 ? " or " : "", key->choices[i]);
	}
	return err_set(err, EINVAL, "\"%.80s\" is unknown: write %s", text, known);
}

static int
store_bool(const struct config_key *key, const cJSON *value, bool *field, struct err *err)
{
	if (!cJSON_IsBool(value))
		return wrong_type(value, "true or false, without quotes", err);
	if (key->kind == KIND_BOOL)
		*field = cJSON_IsTrue(value);
	else if (cJSON_IsTrue(value))
		return err_set(err, EINVAL,
			       "files are not synchronised between this host and the sandbox:"
			       " write false, and keep the work in the sandbox");
	return 0;
}

static int
take_number(const struct config_key *key, const cJSON *value, double *ret, struct err *err)
{
	double number = value->valuedouble;

	if (!cJSON_IsNumber(value))
		return wrong_type(value, "a number, without quotes", err);
	if (number <= 0)
		return err_set(err, EINVAL,
			       "%g is not greater than 0: write what the sandbox shall have",
			       number);
	if (number < key->min || number > key->max)
		return err_set(err, EINVAL, "%g is out of range: write %.15g to %.0f", number,
			       key->min, key->max);
	*ret = number;
	return 0;
}

static int
store_cores(const struct config_key *key, const cJSON *value, uint32_t *field, struct err *err)
{
	double number;
	int r = take_number(key, value, &number, err);

	if (r == 0)
		*field = (uint32_t)(number * 1000 + 0.5);
	return r;
}

static int
store_whole(const struct config_key *key, const cJSON *value, uint32_t *field, struct err *err)
{
	double number;
	int r = take_number(key, value, &number, err);

	if (r < 0)
		return r;
	if (number > (uint32_t)number)
		return err_set(err, EINVAL, "%g is not a whole number: write %u", number,
			       (uint32_t)number + 1);
	*field = (uint32_t)number;
	return 0;
}

static int
store_bytes(const struct config_key *key, const cJSON *value, uint64_t *field, struct err *err)
{
	double number;
	int r = take_number(key, value, &number, err);

	if (r == 0)
		*field = (uint64_t)number;
	return r;
}

static int
take_duration(const cJSON *value, uint64_t *ret_ms, struct err *err)
{
	char digits[32];

	if (cJSON_IsString(value))
		return value_read_duration(value->valuestring, ret_ms, err);
	if (!cJSON_IsNumber(value))
		return wrong_type(value, "a duration such as 30s", err);
	snprintf(digits, sizeof digits, "%.15g", value->valuedouble);
	return value_read_duration(digits, ret_ms, err);
}

/* A number of milliseconds, said in the largest unit that holds it. */
static const char *
show_duration(double ms, char text[32])
{
	if (ms >= HOUR_MS)
		snprintf(text, 32, "%gh", ms / HOUR_MS);
	else if (ms > 0)
		snprintf(text, 32, "%gs", ms / SECOND_MS);
	else
		snprintf(text, 32, "0");
	return text;
}

static int
store_duration(const struct config_key *key, const cJSON *value, uint32_t *field, struct err *err)
{
	char least[32], most[32];
	uint64_t ms;
	int r = take_duration(value, &ms, err);

	if (r < 0)
		return r;
	if ((double)ms < key->min || (double)ms > key->max)
		return err_set(err, EINVAL, "is out of range: write %s to %s",
			       show_duration(key->min, least), show_duration(key->max, most));
	if (key->kind == KIND_SECONDS && ms % 1000 != 0)
		return err_set(err, EINVAL,
			       "is not a whole number of seconds: Modal counts in those");
	*field = (uint32_t)(key->kind == KIND_SECONDS ? ms / 1000 : ms);
	return 0;
}

/* Takes ownership of item, also on failure. */
static int
list_add(struct config_list *list, char *item)
{
	char **items;

	if (item == NULL)
		return -ENOMEM;
	items = realloc(list->items, (list->count + 2) * sizeof *items);
	if (items == NULL) {
		free(item);
		return -ENOMEM;
	}
	items[list->count++] = item;
	items[list->count] = NULL;
	list->items = items;
	return 0;
}

static int
store_item(const struct config_key *key, const cJSON *item, struct config_list *list,
	   struct err *err)
{
	char digits[32];
	const char *text = digits;
	int r = 0;

	/* users may be numbers, and nobody puts those in quotes */
	if (cJSON_IsNumber(item) && key->check == value_check_user)
		snprintf(digits, sizeof digits, "%.15g", item->valuedouble);
	else
		r = take_text(item, &text, err);
	if (r < 0)
		return r;
	r = key->check(text, err);
	if (r < 0)
		return r;
	return list_add(list, strdup(text)) == 0 ? 0 : no_memory(err);
}

static int
store_list(const struct config_key *key, const cJSON *value, struct config_list *list,
	   struct err *err)
{
	const cJSON *item;
	unsigned index = 0;
	int r;

	if (!cJSON_IsArray(value))
		return wrong_type(value, "a list, such as []", err);
	if (cJSON_GetArraySize(value) > LIST_COUNT_MAX)
		return err_set(err, EINVAL, "has more than %d entries", LIST_COUNT_MAX);
	cJSON_ArrayForEach(item, value)
	{
		r = store_item(key, item, list, err);
		if (r < 0)
			return err_wrap(err, "entry %u", index + 1);
		index++;
	}
	return 0;
}

static int
store_reason(const cJSON *item, struct config_reason *ret, struct err *err)
{
	const char *text = NULL;
	int r = take_text(item, &text, err);

	if (r < 0)
		return err_wrap(err, "\"%.80s\"", item->string);
	if (text[strspn(text, " \t\r\n")] == '\0')
		return err_set(err, EINVAL, "\"%.80s\" is empty: write why it may cross",
			       item->string);
	ret->entry = strdup(item->string);
	ret->text = strdup(text);
	return ret->entry != NULL && ret->text != NULL ? 0 : no_memory(err);
}

static int
store_reasons(const cJSON *value, struct config *config, struct err *err)
{
	const cJSON *item;
	int r;

	if (!cJSON_IsObject(value))
		return wrong_type(value, "a map of NAME: reason", err);
	config->env_reasons =
		calloc((size_t)cJSON_GetArraySize(value) + 1, sizeof *config->env_reasons);
	if (config->env_reasons == NULL)
		return no_memory(err);
	cJSON_ArrayForEach(item, value)
	{
		/* counted first, so that a half-made one is freed */
		r = store_reason(item, &config->env_reasons[config->env_reason_count++], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int
store_ignored(const struct config_key *key, struct config *config, struct err *err)
{
	char line[256];

	snprintf(line, sizeof line, "%s.%s: %s", key->section, key->name, key->reason);
	return list_add(&config->ignored, strdup(line)) == 0 ? 0 : no_memory(err);
}

int
config_key_store(const struct config_key *key, const cJSON *value, struct config *config,
		 struct err *err)
{
	void *field = (char *)config + key->field;

	switch (key->kind) {
	case KIND_TEXT:
	case KIND_CHECKED:
		return store_text(key, value, field, err);
	case KIND_DIRECTORY:
		return store_directory(value, field, err);
	case KIND_CHOICE:
		return store_choice(key, value, field, err);
	case KIND_BOOL:
	case KIND_OFF:
		return store_bool(key, value, field, err);
	case KIND_CORES:
		return store_cores(key, value, field, err);
	case KIND_WHOLE:
		return store_whole(key, value, field, err);
	case KIND_BYTES:
		return store_bytes(key, value, field, err);
	case KIND_SECONDS:
	case KIND_MILLISECONDS:
		return store_duration(key, value, field, err);
	case KIND_LIST:
		return store_list(key, value, field, err);
	case KIND_REASONS:
		return store_reasons(value, config, err);
	case KIND_UNUSED:
		return store_ignored(key, config, err);
	}
	return err_set(err, EINVAL, "is of no kind");
}
