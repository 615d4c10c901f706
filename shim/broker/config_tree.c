#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "shim/broker/config_tree.h"

#define cleanup_event __attribute__((cleanup(yaml_event_delete)))
#define cleanup_node  __attribute__((cleanup(node_cleanup)))

/* How much of a key an error text shows. */
#define KEY_SHOWN "%.60s"

struct builder {
	yaml_parser_t parser;
	const char *name;
	unsigned node_count;
	unsigned depth;
	struct err *err;
};

static void
node_cleanup(cJSON **node)
{
	cJSON_Delete(*node);
}

static bool
word_in(const char *text, const char *const *words)
{
	for (; *words != NULL; words++) {
		if (strcasecmp(text, *words) == 0)
			return true;
	}
	return false;
}

static const char *
skip_digits(const char *text)
{
	while (isdigit((unsigned char)*text))
		text++;
	return text;
}

static bool
is_number(const char *text)
{
	const char *digits, *end;

	if (*text == '-' || *text == '+')
		text++;
	digits = text;
	text = skip_digits(text);
	if (text == digits || (digits[0] == '0' && text - digits > 1))
		return false;
	if (*text == '.')
		text = skip_digits(text + 1);
	if (*text == 'e' || *text == 'E') {
		text++;
		if (*text == '-' || *text == '+')
			text++;
		end = skip_digits(text);
		if (end == text)
			return false;
		text = end;
	}
	return *text == '\0';
}

cJSON *
config_tree_scalar(const char *text)
{
	static const char *const nulls[] = { "", "~", "null", NULL };
	static const char *const trues[] = { "true", "yes", "on", NULL };
	static const char *const falses[] = { "false", "no", "off", NULL };

	if (word_in(text, nulls))
		return cJSON_CreateNull();
	if (word_in(text, trues))
		return cJSON_CreateTrue();
	if (word_in(text, falses))
		return cJSON_CreateFalse();
	if (is_number(text) && isfinite(strtod(text, NULL)))
		return cJSON_CreateNumber(strtod(text, NULL));
	return cJSON_CreateString(text);
}

static int
fail_at(const struct builder *builder, const yaml_mark_t *mark, const char *what)
{
	return err_set(builder->err, EINVAL, "%s:%zu: %s", builder->name, mark->line + 1, what);
}

static int
event_next(struct builder *builder, yaml_event_t *ret)
{
	const yaml_parser_t *parser = &builder->parser;

	if (yaml_parser_parse(&builder->parser, ret))
		return 0;
	if (parser->error == YAML_MEMORY_ERROR)
		return err_errno(builder->err, ENOMEM, "%s", builder->name);
	return fail_at(builder, &parser->problem_mark,
		       parser->problem != NULL ? parser->problem : "not readable as YAML");
}

static int
check_plain(const struct builder *builder, const yaml_event_t *event, const yaml_char_t *anchor,
	    const yaml_char_t *tag)
{
	if (anchor != NULL)
		return fail_at(builder, &event->start_mark,
			       "an anchor (&): write the value out where it is needed");
	if (tag != NULL)
		return fail_at(builder, &event->start_mark, "a tag (!): leave it out");
	return 0;
}

/* The text of a scalar, checked; *ret points into the event. */
static int
scalar_text(const struct builder *builder, const yaml_event_t *event, const char **ret)
{
	const char *text = (const char *)event->data.scalar.value;
	int r = check_plain(builder, event, event->data.scalar.anchor, event->data.scalar.tag);

	if (r < 0)
		return r;
	if (strlen(text) != event->data.scalar.length)
		return fail_at(builder, &event->start_mark, "a NUL character: leave it out");
	*ret = text;
	return 0;
}

static int build_node(struct builder *builder, const yaml_event_t *event, cJSON **ret);

static int
build_next(struct builder *builder, cJSON **ret)
{
	cleanup_event yaml_event_t event = { 0 };
	int r = event_next(builder, &event);

	return r < 0 ? r : build_node(builder, &event, ret);
}

static int
build_scalar(struct builder *builder, const yaml_event_t *event, cJSON **ret)
{
	const char *text;
	int r = scalar_text(builder, event, &text);

	if (r < 0)
		return r;
	if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		*ret = config_tree_scalar(text);
	else
		*ret = cJSON_CreateString(text);
	return *ret != NULL ? 0 : err_errno(builder->err, ENOMEM, "%s", builder->name);
}

/* One "key: value" whose key has been read. */
static int
build_member(struct builder *builder, const yaml_event_t *key, cJSON *object)
{
	cJSON *value = NULL;
	const char *text;
	int r;

	if (key->type != YAML_SCALAR_EVENT)
		return fail_at(builder, &key->start_mark, "a key must be plain text");
	r = scalar_text(builder, key, &text);
	if (r < 0)
		return r;
	if (cJSON_GetObjectItemCaseSensitive(object, text) != NULL)
		return err_set(builder->err, EINVAL,
			       "%s:%zu: the key \"" KEY_SHOWN "\" is there twice: remove one",
			       builder->name, key->start_mark.line + 1, text);
	r = build_next(builder, &value);
	if (r < 0)
		return r;
	if (cJSON_AddItemToObject(object, text, value))
		return 0;
	cJSON_Delete(value);
	return err_errno(builder->err, ENOMEM, "%s", builder->name);
}

static int
build_mapping(struct builder *builder, cJSON *object)
{
	int r;

	for (;;) {
		cleanup_event yaml_event_t key = { 0 };

		r = event_next(builder, &key);
		if (r < 0 || key.type == YAML_MAPPING_END_EVENT)
			return r;
		r = build_member(builder, &key, object);
		if (r < 0)
			return r;
	}
}

static int
build_sequence(struct builder *builder, cJSON *array)
{
	int r;

	for (;;) {
		cleanup_event yaml_event_t event = { 0 };
		cJSON *item = NULL;

		r = event_next(builder, &event);
		if (r < 0 || event.type == YAML_SEQUENCE_END_EVENT)
			return r;
		r = build_node(builder, &event, &item);
		if (r < 0)
			return r;
		cJSON_AddItemToArray(array, item);
	}
}

static int
build_collection(struct builder *builder, const yaml_event_t *event, cJSON **ret)
{
	bool mapping = event->type == YAML_MAPPING_START_EVENT;
	cleanup_node cJSON *node = mapping ? cJSON_CreateObject() : cJSON_CreateArray();
	int r;

	if (node == NULL)
		return err_errno(builder->err, ENOMEM, "%s", builder->name);
	if (builder->depth == CONFIG_DEPTH_MAX)
		return fail_at(builder, &event->start_mark, "nested too deeply");
	builder->depth++;
	r = mapping ? build_mapping(builder, node) : build_sequence(builder, node);
	builder->depth--;
	if (r < 0)
		return r;
	*ret = node;
	node = NULL;
	return 0;
}

static int
build_node(struct builder *builder, const yaml_event_t *event, cJSON **ret)
{
	int r;

	if (++builder->node_count > CONFIG_NODES_MAX)
		return fail_at(builder, &event->start_mark, "too many values");
	if (event->type == YAML_SCALAR_EVENT)
		return build_scalar(builder, event, ret);
	if (event->type == YAML_MAPPING_START_EVENT)
		r = check_plain(builder, event, event->data.mapping_start.anchor,
				event->data.mapping_start.tag);
	else if (event->type == YAML_SEQUENCE_START_EVENT)
		r = check_plain(builder, event, event->data.sequence_start.anchor,
				event->data.sequence_start.tag);
	else
		r = fail_at(builder, &event->start_mark, "an alias (*): write the value out");
	return r < 0 ? r : build_collection(builder, event, ret);
}

/* STREAM-START, then nothing or one document, then STREAM-END. */
static int
build_stream(struct builder *builder, cJSON **ret)
{
	cleanup_node cJSON *root = NULL;
	int r;

	for (;;) {
		cleanup_event yaml_event_t event = { 0 };

		r = event_next(builder, &event);
		if (r < 0)
			return r;
		if (event.type == YAML_STREAM_END_EVENT)
			break;
		if (event.type != YAML_DOCUMENT_START_EVENT)
			continue;
		if (root != NULL)
			return fail_at(builder, &event.start_mark,
				       "a second document: one is read");
		r = build_next(builder, &root);
		if (r < 0)
			return r;
	}
	*ret = root != NULL ? root : cJSON_CreateNull();
	root = NULL;
	return *ret != NULL ? 0 : err_errno(builder->err, ENOMEM, "%s", builder->name);
}

int
config_tree_parse(const char *text, size_t len, const char *name, cJSON **ret, struct err *err)
{
	struct builder builder = { .name = name, .err = err };
	int r;

	if (len > CONFIG_TEXT_LEN_MAX)
		return err_set(err, EFBIG, "%s: longer than %d bytes", name, CONFIG_TEXT_LEN_MAX);
	if (!yaml_parser_initialize(&builder.parser))
		return err_errno(err, ENOMEM, "%s", name);
	yaml_parser_set_encoding(&builder.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&builder.parser, (const unsigned char *)text, len);
	r = build_stream(&builder, ret);
	yaml_parser_delete(&builder.parser);
	return r;
}
