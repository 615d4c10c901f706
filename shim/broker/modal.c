#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "proto/jwt.h"
#include "proto/modal_api.pb-c.h"
#include "shim/base/clock.h"
#include "shim/broker/modal_call.h"

#define SERVICE	       "/modal.client.ModalClient/"
#define CALL_WAIT_MS   30000
#define CREATE_WAIT_MS 120000
#define TOKEN_WAIT_MS  5000
/* How long the server keeps a join open, and how long we believe that it does. */
#define JOIN_TIMEOUT_S	 55
#define JOIN_WAIT_MS	 75000
#define JOIN_FAULTS_MAX	 2u
#define ENTRY_ID_LEN_MAX 128u
/* Of a token that does not say; and the pause after a failed refresh. */
#define TOKEN_LIFE_S	   1200
#define TOKEN_PAUSE_MS	   500
#define TOKEN_PAUSE_MS_MAX 60000
#define TAG_COUNT_MAX	   MODAL_TAGS_MAX

struct modal {
	struct ev_loop *loop;
	struct http *http;
	const struct cred *cred;
	struct grpc_server *server;

	char *token; /* x-modal-auth-token, or NULL */
	int64_t token_ends_ms, token_refresh_ms;
	unsigned token_faults;
	struct modal_call *token_call;
	struct call_list token_waiters;
};

static const struct grpc_retry plain_retry = { 3, 100, 1000 };
/* SDKs fetch the token inside other calls' retries; here it is one call of its own. */
static const struct grpc_retry token_retry = { 3, 100, 1000 };

void
modal_uuid_make(char ret[MODAL_UUID_LEN])
{
	uint8_t b[16];

	while (getrandom(b, sizeof b, 0) != sizeof b)
		;
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	snprintf(ret, MODAL_UUID_LEN,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		 b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
		 b[15]);
}

bool
modal_sandbox_is_v2(const char *id)
{
	static const char letters[] =
		"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	return strncmp(id, "sb-", 3) != 0 || strlen(id) != 25 || strspn(id + 3, letters) != 22;
}

struct grpc_server *
modal_server(const struct modal *modal)
{
	return modal->server;
}

struct ev_loop *
modal_loop(const struct modal *modal)
{
	return modal->loop;
}

struct http *
modal_http(const struct modal *modal)
{
	return modal->http;
}

const char *
call_server_name(const struct modal_call *call)
{
	return call->router == NULL ? grpc_server_name(call->modal->server) :
				      router_server_name(call->router);
}

int
modal_new(struct ev_loop *loop, struct http *http, const struct cred *cred, struct modal **ret,
	  struct err *err)
{
	struct modal *modal = calloc(1, sizeof *modal);
	int r;

	if (modal == NULL)
		return err_set(err, ENOMEM, "no memory for the Modal client");
	modal->loop = loop;
	modal->http = http;
	modal->cred = cred;
	r = grpc_server_new(loop, http, cred_server_url(cred), NULL, &modal->server, err);
	if (r < 0) {
		free(modal);
		return r;
	}
	*ret = modal;
	return 0;
}

static void
token_forget(struct modal *modal)
{
	if (modal->token != NULL)
		explicit_bzero(modal->token, strlen(modal->token));
	free(modal->token);
	modal->token = NULL;
}

void
modal_free(struct modal *modal)
{
	if (modal == NULL)
		return;
	assert(modal->token_waiters.head == NULL);
	modal_call_free(modal->token_call);
	token_forget(modal);
	grpc_server_free(modal->server);
	free(modal);
}

/* ---- sending ---- */

static bool
token_alive(const struct modal *modal)
{
	return modal->token != NULL && clock_now_ms() < modal->token_ends_ms;
}

static int
identity_add(const struct modal_call *call, struct http_headers *headers)
{
	const struct cred *cred = call->modal->cred;
	int r;

	/* The shape of the Go SDK, with a version text of our own (fact sheet 2.2). */
	if ((r = http_headers_add(headers, "x-modal-client-type", "9")) < 0 ||
	    (r = http_headers_add(headers, "x-modal-client-version", "1.0.0")) < 0 ||
	    (r = http_headers_add(headers, "x-modal-libmodal-version", "modalsh/1")) < 0 ||
	    (r = http_headers_add(headers, "x-modal-token-id", "%s", cred_token_id(cred))) < 0 ||
	    (r = http_headers_add(headers, "x-modal-token-secret", "%s", cred_token_secret(cred))) <
		    0)
		return r;
	if (call == call->modal->token_call || !token_alive(call->modal))
		return 0;
	return http_headers_add(headers, "x-modal-auth-token", "%s", call->modal->token);
}

static int
control_headers(void *arg, const struct grpc_attempt *attempt, struct http_headers *headers)
{
	const struct modal_call *call = arg;
	double elapsed_s = (double)attempt->elapsed_ms / 1000.;
	int r = identity_add(call, headers);

	if (r == 0)
		r = http_headers_add(headers, "x-idempotency-key", "%s", call->idempotency_key);
	if (r == 0)
		r = http_headers_add(headers, "x-retry-attempt", "%u", attempt->retries);
	if (r == 0)
		r = http_headers_add(headers, "x-throttle-retry-attempt", "%u", attempt->throttles);
	if (r == 0 && attempt->retries > 0)
		r = http_headers_add(headers, "x-retry-delay", "%.3f", elapsed_s);
	if (r == 0 && attempt->throttles > 0)
		r = http_headers_add(headers, "x-throttle-retry-delay", "%.3f", elapsed_s);
	return r;
}

static int call_begin(struct modal_call *call);
static void token_forget(struct modal *modal);

/* A token that is refused is not used again: it expired on the way, or the clocks disagree. */
static void
on_unary_done(void *arg, const struct grpc_status *status, struct view message)
{
	struct modal_call *call = arg;

	if (status->code == GRPC_UNAUTHENTICATED && call->method->wants_token && !call->repeated) {
		call->repeated = true;
		token_forget(call->modal);
		if (call_begin(call) == 0)
			return;
	}
	call_finish(call, status, message);
}

static const struct grpc_events unary_events = { control_headers, NULL, NULL, on_unary_done };

/* ---- the token of V2 ---- */

static int
token_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	reply->jwt = text_or_empty(((const Modal__Client__AuthTokenGetResponse *)message)->token);
	return reply->jwt[0] == '\0' ? -EBADMSG : 0;
}

static const struct modal_method token_method = {
	.name = "AuthTokenGet",
	.grpc = { SERVICE "AuthTokenGet", TOKEN_WAIT_MS, &token_retry, true, false },
	.reply = &modal__client__auth_token_get_response__descriptor,
	.read = token_read,
};

static void
token_keep(struct modal *modal, const char *token)
{
	int64_t now_s = time(NULL) + 1, ends_s, life_ms;
	uint8_t random = 0;

	token_forget(modal);
	modal->token = strdup(token);
	/* An eighth less than it says, for the way and for clocks that differ. */
	if (jwt_expiry(token, &ends_s) < 0 || ends_s <= now_s)
		ends_s = now_s + TOKEN_LIFE_S;
	life_ms = (ends_s - now_s) * 1000 / 8 * 7;
	modal->token_ends_ms = clock_now_ms() + life_ms;
	/* Half of its life and up to a tenth more, so that many brokers do not come at once. */
	if (getrandom(&random, 1, 0) != 1)
		random = 0;
	modal->token_refresh_ms = clock_now_ms() + life_ms / 2 + life_ms * random / 2560;
	modal->token_faults = 0;
}

static void
waiters_serve(struct modal *modal, const struct modal_reply *reply)
{
	struct call_list serving;

	call_list_move(&modal->token_waiters, &serving);
	while (serving.head != NULL) {
		struct modal_call *call = serving.head;
		int r;

		call_list_remove(call);
		if (reply->code != GRPC_OK && !token_alive(modal)) {
			call_fail_like(call, reply->code, reply);
			continue;
		}
		r = call_send(call, modal->server);
		if (r < 0)
			call_fail(call, GRPC_INTERNAL, strerror(-r));
	}
}

static void
on_token(void *arg, const struct modal_reply *reply)
{
	struct modal *modal = arg;
	struct grpc_retry pause = { 0, TOKEN_PAUSE_MS, TOKEN_PAUSE_MS_MAX };

	if (reply->code == GRPC_OK) {
		token_keep(modal, reply->jwt);
	} else {
		modal->token_refresh_ms =
			clock_now_ms() + grpc_retry_pause_ms(&pause, ++modal->token_faults);
		if (reply->code == GRPC_UNAUTHENTICATED || reply->code == GRPC_PERMISSION_DENIED)
			token_forget(modal);
	}
	waiters_serve(modal, reply);
	modal_call_free(modal->token_call);
	modal->token_call = NULL;
}

static int
token_ask(struct modal *modal)
{
	Modal__Client__AuthTokenGetRequest request = MODAL__CLIENT__AUTH_TOKEN_GET_REQUEST__INIT;
	int r;

	if (modal->token_call != NULL)
		return 0;
	modal->token_call =
		call_new(modal, NULL, &token_method, &unary_events, &request.base, on_token, modal);
	if (modal->token_call == NULL)
		return -ENOMEM;
	r = call_send(modal->token_call, modal->server);
	if (r < 0) {
		modal_call_free(modal->token_call);
		modal->token_call = NULL;
	}
	return r;
}

/* Now, or as soon as there is a token. */
static int
call_begin(struct modal_call *call)
{
	struct modal *modal = call->modal;
	int r = 0;

	if (call->method->wants_token &&
	    (!token_alive(modal) || clock_now_ms() >= modal->token_refresh_ms))
		r = token_ask(modal);
	if (!call->method->wants_token || token_alive(modal))
		return call_send(call, modal->server);
	if (r == 0)
		call_list_add(&modal->token_waiters, call);
	return r;
}

static struct modal_call *
call_make(struct modal *modal, const struct modal_method *method, const ProtobufCMessage *request,
	  MODAL_DONE)
{
	struct modal_call *call = call_new(modal, NULL, method, &unary_events, request, done, arg);

	if (call != NULL && call_begin(call) < 0) {
		modal_call_free(call);
		return NULL;
	}
	return call;
}

#define METHOD(name_, wait_ms_, token_, reply_, read_)                                             \
	{                                                                                          \
		.name = name_, .grpc = { SERVICE name_, wait_ms_, &plain_retry, true, false },     \
		.wants_token = token_, .reply = &modal__client__##reply_##__descriptor,            \
		.read = read_                                                                      \
	}

/* pb-c wants char * that it does not write to. */
static char *
borrowed(const char *text)
{
	return (char *)(uintptr_t)text;
}

static void
result_read(const Modal__Client__GenericResult *result, struct modal_reply *reply)
{
	if (result == NULL || result->status == 0) {
		reply->result = MODAL_RUNNING;
		return;
	}
	reply->result =
		result->status ==
				MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_SUCCESS ?
			MODAL_SUCCEEDED :
			MODAL_ENDED;
	reply->result_text = text_or_empty(result->exception);
	if (reply->result_text[0] != '\0')
		return;
	switch ((int)result->status) {
	case MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_TERMINATED:
		reply->result_text = "terminated";
		break;
	case MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_TIMEOUT:
		reply->result_text = "its life-time is over";
		break;
	case MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_IDLE_TIMEOUT:
		reply->result_text = "it was idle for too long";
		break;
	case MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_INIT_FAILURE:
		reply->result_text = "it could not be initialised";
		break;
	case MODAL__CLIENT__GENERIC_RESULT__GENERIC_STATUS__GENERIC_STATUS_MEMORY_MANAGER_EVICTION:
		reply->result_text = "it was evicted for lack of memory";
		break;
	default:
		reply->result_text = "it ended";
		break;
	}
}

/* ---- apps and environments ---- */

static int
app_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	reply->id = text_or_empty(((const Modal__Client__AppGetOrCreateResponse *)message)->app_id);
	return reply->id[0] == '\0' ? -EBADMSG : 0;
}

struct modal_call *
modal_app_get(struct modal *modal, const char *app, const char *environment, MODAL_DONE)
{
	static const struct modal_method method =
		METHOD("AppGetOrCreate", CALL_WAIT_MS, false, app_get_or_create_response, app_read);
	Modal__Client__AppGetOrCreateRequest request =
		MODAL__CLIENT__APP_GET_OR_CREATE_REQUEST__INIT;

	request.app_name = borrowed(app);
	request.environment_name = borrowed(environment);
	request.has_object_creation_type = 1;
	request.object_creation_type =
		MODAL__CLIENT__OBJECT_CREATION_TYPE__OBJECT_CREATION_TYPE_CREATE_IF_MISSING;
	return call_make(modal, &method, &request.base, done, arg);
}

static int
environment_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__Client__EnvironmentGetOrCreateResponse *response = (const void *)message;

	reply->id = text_or_empty(response->environment_id);
	if (response->metadata != NULL && response->metadata->settings != NULL)
		reply->builder_version =
			text_or_empty(response->metadata->settings->image_builder_version);
	return 0;
}

struct modal_call *
modal_environment_get(struct modal *modal, const char *environment, MODAL_DONE)
{
	static const struct modal_method method =
		METHOD("EnvironmentGetOrCreate", CALL_WAIT_MS, false,
		       environment_get_or_create_response, environment_read);
	Modal__Client__EnvironmentGetOrCreateRequest request =
		MODAL__CLIENT__ENVIRONMENT_GET_OR_CREATE_REQUEST__INIT;

	request.deployment_name = borrowed(environment);
	return call_make(modal, &method, &request.base, done, arg);
}

/* ---- images ---- */

static int
image_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__Client__ImageGetOrCreateResponse *response = (const void *)message;

	reply->id = text_or_empty(response->image_id);
	result_read(response->result, reply);
	return reply->id[0] == '\0' ? -EBADMSG : 0;
}

struct modal_call *
modal_image_get(struct modal *modal, const char *reference, const char *app_id,
		const char *builder_version, MODAL_DONE)
{
	static const struct modal_method method = METHOD("ImageGetOrCreate", CALL_WAIT_MS, false,
							 image_get_or_create_response, image_read);
	Modal__Client__ImageGetOrCreateRequest request =
		MODAL__CLIENT__IMAGE_GET_OR_CREATE_REQUEST__INIT;
	Modal__Client__Image image = MODAL__CLIENT__IMAGE__INIT;
	char from[1024], *commands[] = { from };

	if (snprintf(from, sizeof from, "FROM %s", reference) >= (int)sizeof from)
		return NULL;
	image.n_dockerfile_commands = 1;
	image.dockerfile_commands = commands;
	request.image = &image;
	request.app_id = borrowed(app_id);
	request.builder_version = borrowed(builder_version);
	return call_make(modal, &method, &request.base, done, arg);
}

/* The log of a build, read again and again from where it was left until there is a result. */
struct image_join {
	char image_id[MODAL_ID_LEN_MAX];
	char entry_id[ENTRY_ID_LEN_MAX];
	void (*log)(void *arg, const char *text);
	unsigned faults;
	bool over;
	enum modal_result result;
	char result_text[GRPC_MESSAGE_LEN_MAX];
};

static int
join_message(struct modal_call *call)
{
	struct image_join *join = call->join;
	struct view bytes = { buf_head(&call->collected), buf_len(&call->collected) };
	Modal__Client__ImageJoinStreamingResponse *response = (void *)message_unpack(
		&modal__client__image_join_streaming_response__descriptor, bytes);
	struct modal_reply reply = { .result = MODAL_RUNNING };

	buf_consume(&call->collected, buf_len(&call->collected));
	if (response == NULL)
		return -EBADMSG;
	if (response->entry_id != NULL && response->entry_id[0] != '\0')
		snprintf(join->entry_id, sizeof join->entry_id, "%s", response->entry_id);
	for (size_t i = 0; i < response->n_task_logs; i++)
		if (response->task_logs[i]->data != NULL)
			join->log(call->arg, response->task_logs[i]->data);
	result_read(response->result, &reply);
	if (reply.result != MODAL_RUNNING) {
		join->over = true;
		join->result = reply.result;
		snprintf(join->result_text, sizeof join->result_text, "%s", reply.result_text);
	}
	message_free(&response->base);
	return 0;
}

static int
on_join_piece(void *arg, const struct grpc_piece *piece)
{
	struct modal_call *call = arg;
	int r = buf_put(&call->collected, piece->data.data, piece->data.len);

	return r == 0 && piece->last ? join_message(call) : r;
}

static int
join_ask(struct modal_call *call)
{
	Modal__Client__ImageJoinStreamingRequest request =
		MODAL__CLIENT__IMAGE_JOIN_STREAMING_REQUEST__INIT;
	struct view packed;

	request.image_id = call->join->image_id;
	request.has_timeout = 1;
	request.timeout = JOIN_TIMEOUT_S;
	request.last_entry_id = call->join->entry_id;
	packed = message_pack(&request.base, false);
	if (packed.data == NULL)
		return -ENOMEM;
	free((void *)(uintptr_t)call->request.data);
	call->request = packed;
	buf_free(&call->collected);
	return call_send(call, call->modal->server);
}

static void
join_report(struct modal_call *call)
{
	struct image_join *join = call->join;
	struct modal_reply reply = { .id = join->image_id,
				     .result = join->result,
				     .result_text = join->result_text };

	call->done(call->arg, &reply);
}

static void
on_join_done(void *arg, const struct grpc_status *status, struct view message)
{
	struct modal_call *call = arg;
	struct image_join *join = call->join;
	int r;

	(void)message;
	if (join->over) {
		join_report(call);
		return;
	}
	if (status->code != GRPC_OK && (!grpc_code_transient(status->code) || status->refused ||
					join->faults++ == JOIN_FAULTS_MAX)) {
		call_finish(call, status, (struct view){ NULL, 0 });
		return;
	}
	r = join_ask(call);
	if (r < 0)
		call_fail(call, GRPC_INTERNAL, strerror(-r));
}

struct modal_call *
modal_image_join(struct modal *modal, const char *image_id,
		 void (*log)(void *arg, const char *text), MODAL_DONE)
{
	static const struct grpc_events events = { control_headers, on_join_piece, NULL,
						   on_join_done };
	static const struct modal_method method = {
		.name = "ImageJoinStreaming",
		.grpc = { SERVICE "ImageJoinStreaming", JOIN_WAIT_MS, NULL, false, false },
	};
	struct modal_call *call = call_new(modal, NULL, &method, &events, NULL, done, arg);

	if (call == NULL)
		return NULL;
	call->join = calloc(1, sizeof *call->join);
	if (call->join == NULL) {
		modal_call_free(call);
		return NULL;
	}
	call->join->log = log;
	snprintf(call->join->image_id, sizeof call->join->image_id, "%s", image_id);
	if (join_ask(call) < 0) {
		modal_call_free(call);
		return NULL;
	}
	return call;
}

/* ---- sandboxes ---- */

static int
found_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	reply->id = text_or_empty(
		((const Modal__Client__SandboxGetFromNameResponse *)message)->sandbox_id);
	return reply->id[0] == '\0' ? -EBADMSG : 0;
}

struct modal_call *
modal_sandbox_find(struct modal *modal, bool v2, const char *name, const char *environment,
		   const char *app, MODAL_DONE)
{
	static const struct modal_method methods[] = {
		METHOD("SandboxGetFromName", CALL_WAIT_MS, false, sandbox_get_from_name_response,
		       found_read),
		METHOD("SandboxGetFromNameV2", CALL_WAIT_MS, true, sandbox_get_from_name_response,
		       found_read),
	};
	Modal__Client__SandboxGetFromNameRequest request =
		MODAL__CLIENT__SANDBOX_GET_FROM_NAME_REQUEST__INIT;

	request.sandbox_name = borrowed(name);
	request.environment_name = borrowed(environment);
	request.app_name = borrowed(app);
	return call_make(modal, &methods[v2], &request.base, done, arg);
}

static int
created_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	reply->id =
		text_or_empty(((const Modal__Client__SandboxCreateResponse *)message)->sandbox_id);
	return reply->id[0] == '\0' ? -EBADMSG : 0;
}

static int
created_v2_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__Client__SandboxCreateV2Response *response = (const void *)message;

	reply->id = text_or_empty(response->sandbox_id);
	reply->task_id = text_or_empty(response->task_id);
	if (response->command_router_access != NULL) {
		reply->jwt = text_or_empty(response->command_router_access->jwt);
		reply->url = text_or_empty(response->command_router_access->url);
	}
	return reply->id[0] == '\0' ? -EBADMSG : 0;
}

static const struct modal_method create_methods[] = {
	METHOD("SandboxCreate", CREATE_WAIT_MS, false, sandbox_create_response, created_read),
	METHOD("SandboxCreateV2", CREATE_WAIT_MS, true, sandbox_create_v2_response,
	       created_v2_read),
};

static struct modal_call *
create_send(struct modal *modal, const struct modal_sandbox_spec *spec,
	    Modal__Client__Sandbox *definition, Modal__Client__SandboxTag **tags, MODAL_DONE)
{
	Modal__Client__SandboxCreateRequest v1 = MODAL__CLIENT__SANDBOX_CREATE_REQUEST__INIT;
	Modal__Client__SandboxCreateV2Request v2 = MODAL__CLIENT__SANDBOX_CREATE_V2_REQUEST__INIT;

	v1.app_id = v2.app_id = borrowed(spec->app_id);
	v1.definition = v2.definition = definition;
	v1.n_tags = v2.n_tags = spec->tag_count;
	v1.tags = v2.tags = tags;
	return call_make(modal, &create_methods[spec->v2], spec->v2 ? &v2.base : &v1.base, done,
			 arg);
}

static void
resources_fill(const struct modal_sandbox_spec *spec, Modal__Client__Resources *resources)
{
	resources->has_milli_cpu = resources->has_memory_mb = 1;
	resources->milli_cpu = spec->milli_cpu;
	resources->memory_mb = spec->memory_mib;
}

static void
definition_fill(const struct modal_sandbox_spec *spec, Modal__Client__Sandbox *definition)
{
	definition->image_id = borrowed(spec->image_id);
	definition->name = borrowed(spec->name);
	definition->has_timeout_secs = 1;
	definition->timeout_secs = spec->lifetime_s;
	definition->has_idle_timeout_secs = spec->idle_timeout_s > 0;
	definition->idle_timeout_secs = spec->idle_timeout_s;
}

struct modal_call *
modal_sandbox_create(struct modal *modal, const struct modal_sandbox_spec *spec, MODAL_DONE)
{
	Modal__Client__Sandbox definition = MODAL__CLIENT__SANDBOX__INIT;
	Modal__Client__Resources resources = MODAL__CLIENT__RESOURCES__INIT;
	Modal__Client__GPUConfig gpu = MODAL__CLIENT__GPUCONFIG__INIT;
	Modal__Client__PortSpecs ports = MODAL__CLIENT__PORT_SPECS__INIT;
	Modal__Client__NetworkAccess network = MODAL__CLIENT__NETWORK_ACCESS__INIT;
	Modal__Client__SandboxTag tags[TAG_COUNT_MAX], *tag_list[TAG_COUNT_MAX];

	if (spec->tag_count > TAG_COUNT_MAX)
		return NULL;
	for (size_t i = 0; i < spec->tag_count; i++) {
		modal__client__sandbox_tag__init(&tags[i]);
		tags[i].tag_name = borrowed(spec->tags[i].name);
		tags[i].tag_value = borrowed(spec->tags[i].value);
		tag_list[i] = &tags[i];
	}
	network.has_network_access_type = 1;
	network.network_access_type =
		spec->network_open ? MODAL__CLIENT__NETWORK_ACCESS__NETWORK_ACCESS_TYPE__OPEN :
				     MODAL__CLIENT__NETWORK_ACCESS__NETWORK_ACCESS_TYPE__BLOCKED;
	resources_fill(spec, &resources);
	resources.gpu_config = &gpu;
	definition_fill(spec, &definition);
	definition.resources = &resources;
	definition.network_access = &network;
	/* SDKs always send both of these messages, if only empty. */
	definition.open_ports_oneof_case = MODAL__CLIENT__SANDBOX__OPEN_PORTS_ONEOF_OPEN_PORTS;
	definition.open_ports = &ports;
	return create_send(modal, spec, &definition, tag_list, done, arg);
}

static int
task_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__Client__SandboxGetTaskIdResponse *response = (const void *)message;

	reply->task_id = text_or_empty(response->task_id);
	result_read(response->task_result, reply);
	return 0;
}

struct modal_call *
modal_task_get(struct modal *modal, const char *sandbox_id, MODAL_DONE)
{
	static const struct modal_method methods[] = {
		METHOD("SandboxGetTaskId", CALL_WAIT_MS, false, sandbox_get_task_id_response,
		       task_read),
		METHOD("SandboxGetTaskIdV2", CALL_WAIT_MS, true, sandbox_get_task_id_response,
		       task_read),
	};
	Modal__Client__SandboxGetTaskIdRequest request =
		MODAL__CLIENT__SANDBOX_GET_TASK_ID_REQUEST__INIT;

	request.sandbox_id = borrowed(sandbox_id);
	return call_make(modal, &methods[modal_sandbox_is_v2(sandbox_id)], &request.base, done,
			 arg);
}

static int
access_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__Client__TaskGetCommandRouterAccessResponse *response = (const void *)message;

	reply->jwt = text_or_empty(response->jwt);
	reply->url = text_or_empty(response->url);
	return reply->jwt[0] == '\0' || reply->url[0] == '\0' ? -EBADMSG : 0;
}

static int
access_v2_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	const Modal__Client__SandboxGetCommandRouterAccessResponse *response =
		(const void *)message;

	reply->jwt = text_or_empty(response->jwt);
	reply->url = text_or_empty(response->url);
	reply->ipv4 = text_or_empty(response->worker_ipv4_address);
	return reply->jwt[0] == '\0' || reply->url[0] == '\0' ? -EBADMSG : 0;
}

static const struct modal_method access_methods[] = {
	METHOD("TaskGetCommandRouterAccess", CALL_WAIT_MS, false,
	       task_get_command_router_access_response, access_read),
	METHOD("SandboxGetCommandRouterAccess", CALL_WAIT_MS, true,
	       sandbox_get_command_router_access_response, access_v2_read),
};

struct modal_call *
modal_access_get(struct modal *modal, const char *sandbox_id, const char *task_id, MODAL_DONE)
{
	Modal__Client__TaskGetCommandRouterAccessRequest v1 =
		MODAL__CLIENT__TASK_GET_COMMAND_ROUTER_ACCESS_REQUEST__INIT;
	Modal__Client__SandboxGetCommandRouterAccessRequest v2 =
		MODAL__CLIENT__SANDBOX_GET_COMMAND_ROUTER_ACCESS_REQUEST__INIT;
	bool is_v2 = modal_sandbox_is_v2(sandbox_id);

	v1.task_id = borrowed(task_id);
	v2.target_case =
		MODAL__CLIENT__SANDBOX_GET_COMMAND_ROUTER_ACCESS_REQUEST__TARGET_SANDBOX_ID;
	v2.sandbox_id = borrowed(sandbox_id);
	return call_make(modal, &access_methods[is_v2], is_v2 ? &v2.base : &v1.base, done, arg);
}

static int
waited_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	result_read(((const Modal__Client__SandboxWaitResponse *)message)->result, reply);
	return 0;
}

struct modal_call *
modal_sandbox_poll(struct modal *modal, const char *sandbox_id, MODAL_DONE)
{
	static const struct modal_method methods[] = {
		METHOD("SandboxWait", CALL_WAIT_MS, false, sandbox_wait_response, waited_read),
		METHOD("SandboxWaitV2", CALL_WAIT_MS, true, sandbox_wait_response, waited_read),
	};
	Modal__Client__SandboxWaitRequest request = MODAL__CLIENT__SANDBOX_WAIT_REQUEST__INIT;

	request.sandbox_id = borrowed(sandbox_id);
	request.has_timeout = 1;
	return call_make(modal, &methods[modal_sandbox_is_v2(sandbox_id)], &request.base, done,
			 arg);
}

static int
terminated_read(const ProtobufCMessage *message, struct modal_reply *reply)
{
	result_read(((const Modal__Client__SandboxTerminateResponse *)message)->existing_result,
		    reply);
	return 0;
}

struct modal_call *
modal_sandbox_terminate(struct modal *modal, const char *sandbox_id, MODAL_DONE)
{
	static const struct modal_method methods[] = {
		METHOD("SandboxTerminate", CALL_WAIT_MS, false, sandbox_terminate_response,
		       terminated_read),
		METHOD("SandboxTerminateV2", CALL_WAIT_MS, true, sandbox_terminate_response,
		       terminated_read),
	};
	Modal__Client__SandboxTerminateRequest request =
		MODAL__CLIENT__SANDBOX_TERMINATE_REQUEST__INIT;

	request.sandbox_id = borrowed(sandbox_id);
	return call_make(modal, &methods[modal_sandbox_is_v2(sandbox_id)], &request.base, done,
			 arg);
}
