/* images.c -- images: looked up or built by recipe, from an id, by tag.  The work of a build is
 * build.c's. */
#include "tests/loopback/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "proto/modal_api.pb-c.h"
#include "tests/loopback/build.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/convert.h"
#include "tests/loopback/outlog.h"
#include "tests/loopback/world.h"

enum { LOG_TEXT_LEN = 8192 };

static void
result_of(const struct image *image, Modal__Client__GenericResult *result)
{
	result->has_status = 1;
	result->status =
		image->state == IMAGE_READY ?
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_SUCCESS :
			MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_FAILURE;
	result->exception = image->exception;
}

/* -- ImageGetOrCreate */

/* All that decides what comes out of a build. */
static char *
recipe_text(const Modal__Client__ImageGetOrCreateRequest *q)
{
	struct bytes b = { 0 };
	const Modal__Client__Image *image = q->image;

	bytes_append_text(&b, q->builder_version ? q->builder_version : "");
	for (size_t i = 0; i < image->n_base_images; i++)
		bytes_append_text(
			&b, image->base_images[i]->image_id ? image->base_images[i]->image_id : "");
	for (size_t i = 0; i < image->n_dockerfile_commands; i++)
		bytes_append_text(&b, image->dockerfile_commands[i]);
	for (size_t i = 0; i < image->n_secret_ids; i++)
		bytes_append_text(&b, image->secret_ids[i]);
	bytes_append_u32(&b, (uint32_t)q->namespace_);
	for (size_t i = 0; i < b.len; i++) {
		if (bytes_front(&b)[i] == '\0')
			bytes_front(&b)[i] = '\n';
	}
	bytes_append(&b, "", 1);
	return (char *)bytes_front(&b);
}

static struct image *
image_find_recipe(struct world *world, const char *recipe)
{
	for (struct image *i = world->images; i; i = i->next) {
		if (text_is(i->recipe, recipe) && i->state != IMAGE_FAILED)
			return i;
	}
	return NULL;
}

static bool
layers_exist(struct call *c, const Modal__Client__Image *image)
{
	for (size_t i = 0; i < image->n_base_images; i++) {
		const char *id = image->base_images[i]->image_id;
		const struct image *base = image_find(rpc_world(c), id);

		if (base && base->state == IMAGE_READY)
			continue;
		rpc_end(c, STATUS_FAILED_PRECONDITION, "base image %s is not built", id ? id : "");
		return false;
	}
	return true;
}

static struct image *
image_build(struct call *c, const Modal__Client__ImageGetOrCreateRequest *q, char *recipe)
{
	struct build_spec spec = {
		.global = q->namespace_ ==
			  MODAL__CLIENT__DEPLOYMENT_NAMESPACE__DEPLOYMENT_NAMESPACE_GLOBAL,
		.line_count = q->image->n_dockerfile_commands,
		.lines = q->image->dockerfile_commands,
	};
	struct image *image = NULL;

	if (q->image->n_base_images > 0)
		spec.base = image_find(rpc_world(c), q->image->base_images[0]->image_id);
	if (convert_secret_ids(c, q->image->n_secret_ids, q->image->secret_ids, &spec.env)) {
		image = image_new(rpc_world(c));
		text_replace(&image->recipe, recipe);
		build_start(rpc_world(c), image, &spec);
	}
	env_free(&spec.env);
	return image;
}

static void
image_get_or_create(struct call *c, const void *request)
{
	const Modal__Client__ImageGetOrCreateRequest *q = request;
	Modal__Client__ImageGetOrCreateResponse response =
		MODAL__CLIENT__IMAGE_GET_OR_CREATE_RESPONSE__INIT;
	Modal__Client__ImageMetadata metadata = MODAL__CLIENT__IMAGE_METADATA__INIT;
	Modal__Client__GenericResult result = MODAL__CLIENT__GENERIC_RESULT__INIT;
	struct image *image;
	char *recipe;

	if (!q->image || !app_find(rpc_world(c), q->app_id)) {
		rpc_end(c, q->image ? STATUS_NOT_FOUND : STATUS_INVALID_ARGUMENT,
			"no image or no app");
		return;
	}
	if (!layers_exist(c, q->image))
		return;
	recipe = recipe_text(q);
	image = q->force_build ? NULL : image_find_recipe(rpc_world(c), recipe);
	if (!image)
		image = image_build(c, q, recipe);
	free(recipe);
	if (!image)
		return;
	if (image->state != IMAGE_BUILDING)
		result_of(image, &result);
	response.image_id = image->id;
	response.result = &result;
	response.metadata = &metadata;
	rpc_reply(c, &response.base);
}

/* -- ImageJoinStreaming */

/* One client that follows a build.  Entry ids are offsets into the log, so a client that comes back
 * gets the rest. */
struct join {
	struct call *c;
	struct image *image;
	struct outlog_reader reader;
	struct image_watch watch;
	ev_timer timer;
};

static void
join_over(struct call *c, void *state)
{
	struct join *j = state;
	struct image_watch **at = &j->image->watches;

	while (*at && *at != &j->watch)
		at = &(*at)->next;
	if (*at)
		*at = j->watch.next;
	outlog_detach(&j->reader);
	ev_timer_stop(rpc_loop(c), &j->timer);
	free(j);
}

static void
join_send(struct join *j, char *text)
{
	Modal__Client__ImageJoinStreamingResponse response =
		MODAL__CLIENT__IMAGE_JOIN_STREAMING_RESPONSE__INIT;
	Modal__Client__TaskLogs logs = MODAL__CLIENT__TASK_LOGS__INIT;
	Modal__Client__TaskLogs *list[] = { &logs };
	char *entry = text_format("%llu", (unsigned long long)j->reader.offset);

	logs.data = text;
	logs.has_file_descriptor = 1;
	logs.file_descriptor = MODAL__CLIENT__FILE_DESCRIPTOR__FILE_DESCRIPTOR_STDOUT;
	response.entry_id = entry;
	response.n_task_logs = 1;
	response.task_logs = list;
	rpc_send(j->c, &response.base);
	free(entry);
}

static void
join_log(struct join *j)
{
	const uint8_t *data;
	size_t len, used;

	while ((len = outlog_run(&j->reader, &data)) > 0) {
		char *text = text_clean(data, len < LOG_TEXT_LEN ? len : LOG_TEXT_LEN, &used);

		outlog_advance(&j->reader, used);
		join_send(j, text);
		free(text);
	}
}

/* The result, then the end of the log. */
static void
join_finish(struct join *j)
{
	Modal__Client__ImageJoinStreamingResponse response =
		MODAL__CLIENT__IMAGE_JOIN_STREAMING_RESPONSE__INIT;
	Modal__Client__ImageJoinStreamingResponse last =
		MODAL__CLIENT__IMAGE_JOIN_STREAMING_RESPONSE__INIT;
	Modal__Client__ImageMetadata metadata = MODAL__CLIENT__IMAGE_METADATA__INIT;
	Modal__Client__GenericResult result = MODAL__CLIENT__GENERIC_RESULT__INIT;

	join_log(j);
	result_of(j->image, &result);
	metadata.workdir = j->image->workdir;
	response.result = &result;
	response.metadata = &metadata;
	rpc_send(j->c, &response.base);
	last.has_eof = 1;
	last.eof = 1;
	rpc_reply(j->c, &last.base);
}

static void
on_join_change(struct image_watch *w)
{
	struct join *j = (struct join *)((char *)w - offsetof(struct join, watch));

	join_finish(j);
}

static void
on_join_log(struct outlog_reader *r)
{
	join_log(r->arg);
}

static void
on_join_lost(struct outlog_reader *r)
{
	struct join *j = r->arg;

	rpc_end(j->c, STATUS_DATA_LOSS, "the log at this entry is no longer kept");
}

static void
on_join_timeout(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct join *j = timer->data;

	(void)loop;
	(void)events;
	rpc_end(j->c, STATUS_OK, NULL);
}

static void
join_start(struct call *c, struct image *image, uint64_t offset, double timeout_s)
{
	struct join *j = mem_new(sizeof *j);

	j->c = c;
	j->image = image;
	j->reader.on_more = on_join_log;
	j->reader.on_lost = on_join_lost;
	j->reader.arg = j;
	j->watch.on_change = on_join_change;
	ev_timer_init(&j->timer, on_join_timeout, timeout_s, 0.);
	j->timer.data = j;
	rpc_set_state(c, j, join_over);
	outlog_attach(image->log, &j->reader, offset);
	if (image->state != IMAGE_BUILDING) {
		join_finish(j);
		return;
	}
	j->watch.next = image->watches;
	image->watches = &j->watch;
	if (timeout_s > 0)
		ev_timer_start(rpc_loop(c), &j->timer);
	join_log(j);
}

static void
image_join_streaming(struct call *c, const void *request)
{
	const Modal__Client__ImageJoinStreamingRequest *q = request;
	struct image *image = image_find(rpc_world(c), q->image_id);
	uint64_t offset = q->last_entry_id ? strtoull(q->last_entry_id, NULL, 10) : 0;

	if (!image) {
		rpc_end(c, STATUS_NOT_FOUND, "no image %s", q->image_id ? q->image_id : "");
		return;
	}
	if (image->state != IMAGE_BUILDING && !q->include_logs_for_finished && offset == 0)
		offset = outlog_head(image->log);
	join_start(c, image, offset, (double)q->timeout);
}

/* -- ImageFromId, ImageGetByTag, ImagePublish, ImageDelete */

static void
image_from_id(struct call *c, const void *request)
{
	const Modal__Client__ImageFromIdRequest *q = request;
	Modal__Client__ImageFromIdResponse response = MODAL__CLIENT__IMAGE_FROM_ID_RESPONSE__INIT;
	Modal__Client__ImageMetadata metadata = MODAL__CLIENT__IMAGE_METADATA__INIT;
	struct image *image = image_find(rpc_world(c), q->image_id);

	if (!image) {
		rpc_end(c, STATUS_NOT_FOUND, "no image %s", q->image_id ? q->image_id : "");
		return;
	}
	response.image_id = image->id;
	response.metadata = &metadata;
	rpc_reply(c, &response.base);
}

/* [[workspace/]environment/]name[:tag], tag default "latest". */
static char *
tag_complete(const char *tag)
{
	const char *name = strrchr(tag, '/');

	name = name ? name + 1 : tag;
	return strchr(name, ':') ? text_copy(name) : text_format("%s:latest", name);
}

static struct image *
image_find_tag(struct world *world, const char *tag, const char *environment)
{
	for (struct image *i = world->images; i; i = i->next) {
		if (text_is(i->tag, tag) &&
		    text_is(i->tag_environment, environment ? environment : ""))
			return i;
	}
	return NULL;
}

static void
image_get_by_tag(struct call *c, const void *request)
{
	const Modal__Client__ImageGetByTagRequest *q = request;
	Modal__Client__ImageGetByTagResponse response =
		MODAL__CLIENT__IMAGE_GET_BY_TAG_RESPONSE__INIT;
	char *tag = tag_complete(q->tag ? q->tag : "");
	struct image *image = image_find_tag(rpc_world(c), tag, q->environment_name);

	if (image) {
		response.image_id = image->id;
		rpc_reply(c, &response.base);
	} else {
		rpc_end(c, STATUS_NOT_FOUND, "no image with tag %s", tag);
	}
	free(tag);
}

static void
image_publish(struct call *c, const void *request)
{
	const Modal__Client__ImagePublishRequest *q = request;
	Modal__Client__ImagePublishResponse response = MODAL__CLIENT__IMAGE_PUBLISH_RESPONSE__INIT;
	struct image *image = image_find(rpc_world(c), q->image_id);
	struct image *before;
	char *tag;

	if (!image || text_empty(q->tag) || strncmp(q->tag, "im-", 3) == 0) {
		rpc_end(c, image ? STATUS_INVALID_ARGUMENT : STATUS_NOT_FOUND, "cannot publish %s",
			q->image_id ? q->image_id : "");
		return;
	}
	tag = tag_complete(q->tag);
	before = image_find_tag(rpc_world(c), tag, q->environment_name);
	if (before)
		text_replace(&before->tag, "");
	text_replace(&image->tag, tag);
	text_replace(&image->tag_environment, q->environment_name);
	free(tag);
	response.image_id = image->id;
	response.revision_id = id_new("rv-");
	rpc_reply(c, &response.base);
	free(response.revision_id);
}

/* It cannot be found any more; sandboxes that were made from it have copies of their own. */
static void
image_delete(struct call *c, const void *request)
{
	const Modal__Client__ImageDeleteRequest *q = request;
	Modal__Client__Empty response = MODAL__CLIENT__EMPTY__INIT;
	struct image *image = image_find(rpc_world(c), q->image_id);

	if (!image) {
		rpc_end(c, STATUS_NOT_FOUND, "no image %s", q->image_id ? q->image_id : "");
		return;
	}
	text_replace(&image->id, "");
	text_replace(&image->recipe, "");
	text_replace(&image->tag, "");
	rpc_reply(c, &response.base);
}

const struct rpc_method image_methods[] = {
	{ CONTROL("ImageGetOrCreate"), RPC_UNARY, false, CONTROL_REQUEST(image_get_or_create),
	  image_get_or_create },
	{ CONTROL("ImageJoinStreaming"), RPC_UNARY, false, CONTROL_REQUEST(image_join_streaming),
	  image_join_streaming },
	{ CONTROL("ImageFromId"), RPC_UNARY, false, CONTROL_REQUEST(image_from_id), image_from_id },
	{ CONTROL("ImageGetByTag"), RPC_UNARY, false, CONTROL_REQUEST(image_get_by_tag),
	  image_get_by_tag },
	{ CONTROL("ImagePublish"), RPC_UNARY, false, CONTROL_REQUEST(image_publish),
	  image_publish },
	{ CONTROL("ImageDelete"), RPC_UNARY, false, CONTROL_REQUEST(image_delete), image_delete },
	{ NULL, RPC_UNARY, false, NULL, NULL },
};
