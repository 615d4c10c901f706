#include "tests/loopback/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/crypto.h>

#include "proto/modal_api.pb-c.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/convert.h"
#include "tests/loopback/world.h"

enum { NAME_LEN_MAX = 64 };

static const char builder_version[] = "2025.06";
static const char control_prefix[] = "/modal.client.";
static const char create_if_missing_text[] = "not found, and the call did not ask to create it";

/* -- who may call */

static bool
text_is_secret(const char *given, const char *expected)
{
	return given && strlen(given) == strlen(expected) &&
	       CRYPTO_memcmp(given, expected, strlen(expected)) == 0;
}

bool
control_admit(struct call *c, const struct rpc_method *method)
{
	struct world *world = rpc_world(c);

	if (strncmp(method->path, control_prefix, sizeof control_prefix - 1) != 0)
		return true; /* the router's calls carry their own token */
	if (!text_is_secret(rpc_header(c, "x-modal-token-id"), world->token_id) ||
	    !text_is_secret(rpc_header(c, "x-modal-token-secret"), world->token_secret)) {
		rpc_end(c, STATUS_UNAUTHENTICATED, "Token missing or invalid");
		return false;
	}
	if (method->v2 &&
	    jwt_check(&world->jwt, rpc_header(c, "x-modal-auth-token"), "auth", "account") < 0) {
		rpc_end(c, STATUS_UNAUTHENTICATED, "x-modal-auth-token is missing or expired");
		return false;
	}
	return true;
}

static void
client_hello(struct call *c, const void *request)
{
	Modal__Client__ClientHelloResponse response = MODAL__CLIENT__CLIENT_HELLO_RESPONSE__INIT;

	(void)request;
	rpc_reply(c, &response.base);
}

static void
auth_token_get(struct call *c, const void *request)
{
	Modal__Client__AuthTokenGetResponse response = MODAL__CLIENT__AUTH_TOKEN_GET_RESPONSE__INIT;
	struct world *world = rpc_world(c);

	(void)request;
	response.token = jwt_new(&world->jwt, "auth", "account");
	rpc_reply(c, &response.base);
	free(response.token);
}

static void
workspace_name_lookup(struct call *c, const void *request)
{
	Modal__Client__WorkspaceNameLookupResponse response =
		MODAL__CLIENT__WORKSPACE_NAME_LOOKUP_RESPONSE__INIT;
	char name[] = "loopback";

	(void)request;
	response.workspace_name = response.username = name;
	rpc_reply(c, &response.base);
}

/* -- names */

/* 1-64 of [A-Za-z0-9-_.], and not in the form of an app id. */
static bool
name_is_valid(struct call *c, const char *name)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
	size_t len = name ? strlen(name) : 0;

	if (len > 0 && len <= NAME_LEN_MAX && strspn(name, letters) == len &&
	    !(len == 25 && strncmp(name, "ap-", 3) == 0))
		return true;
	rpc_end(c, STATUS_INVALID_ARGUMENT, "invalid name '%s'", name ? name : "");
	return false;
}

static const char *
text_or_empty(const char *text)
{
	return text ? text : "";
}

static bool
is_anonymous(Modal__Client__ObjectCreationType type)
{
	return type == MODAL__CLIENT__OBJECT_CREATION_TYPE__OBJECT_CREATION_TYPE_EPHEMERAL ||
	       type == MODAL__CLIENT__OBJECT_CREATION_TYPE__OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP;
}

/* What is to happen with a name: true = go on with (existing or new).  Otherwise the call was
 * ended. */
static bool
creation_is_allowed(struct call *c, Modal__Client__ObjectCreationType type, bool exists,
		    const char *what, const char *name)
{
	if (type == MODAL__CLIENT__OBJECT_CREATION_TYPE__OBJECT_CREATION_TYPE_UNSPECIFIED &&
	    !exists) {
		rpc_end(c, STATUS_NOT_FOUND, "%s '%s' %s", what, name, create_if_missing_text);
		return false;
	}
	if (type == MODAL__CLIENT__OBJECT_CREATION_TYPE__OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS &&
	    exists) {
		rpc_end(c, STATUS_ALREADY_EXISTS, "%s '%s' already exists", what, name);
		return false;
	}
	return true;
}

/* -- apps and environments */

static void
app_get_or_create(struct call *c, const void *request)
{
	const Modal__Client__AppGetOrCreateRequest *q = request;
	Modal__Client__AppGetOrCreateResponse response =
		MODAL__CLIENT__APP_GET_OR_CREATE_RESPONSE__INIT;
	struct world *world = rpc_world(c);
	struct app *app;

	if (!name_is_valid(c, q->app_name))
		return;
	app = app_find_name(world, q->app_name, q->environment_name);
	if (!creation_is_allowed(c, q->object_creation_type, app != NULL, "app", q->app_name))
		return;
	if (!app) {
		app = mem_new(sizeof *app);
		app->id = id_new("ap-");
		app->name = text_copy(q->app_name);
		app->environment = text_copy(q->environment_name);
		app->next = world->apps;
		world->apps = app;
	}
	response.app_id = app->id;
	rpc_reply(c, &response.base);
}

static void
environment_get_or_create(struct call *c, const void *request)
{
	const Modal__Client__EnvironmentGetOrCreateRequest *q = request;
	Modal__Client__EnvironmentGetOrCreateResponse response =
		MODAL__CLIENT__ENVIRONMENT_GET_OR_CREATE_RESPONSE__INIT;
	Modal__Client__EnvironmentMetadata metadata = MODAL__CLIENT__ENVIRONMENT_METADATA__INIT;
	Modal__Client__EnvironmentSettings settings = MODAL__CLIENT__ENVIRONMENT_SETTINGS__INIT;
	char *name = text_copy(text_empty(q->deployment_name) ? "main" : q->deployment_name);
	char *id = text_format("en-%s", name);
	char *version = text_copy(builder_version);

	settings.image_builder_version = version;
	metadata.name = name;
	metadata.settings = &settings;
	response.environment_id = id;
	response.metadata = &metadata;
	rpc_reply(c, &response.base);
	free(name);
	free(id);
	free(version);
}

/* -- secrets */

static struct secret *
secret_find_name(struct world *world, const char *name, const char *environment)
{
	for (struct secret *s = world->secrets; s; s = s->next) {
		if (!text_empty(name) && text_is(s->name, name) &&
		    text_is(s->environment, text_or_empty(environment)))
			return s;
	}
	return NULL;
}

static bool
secret_has(const struct secret *secret, const char *key)
{
	size_t len = strlen(key);

	for (int i = 0; i < secret->env.count; i++) {
		if (strncmp(secret->env.list[i], key, len) == 0 && secret->env.list[i][len] == '=')
			return true;
	}
	return false;
}

static struct secret *
secret_new(struct world *world, const Modal__Client__SecretGetOrCreateRequest *q)
{
	struct secret *secret = mem_new(sizeof *secret);

	secret->id = id_new("st-");
	secret->name = text_copy(q->deployment_name);
	secret->environment = text_copy(q->environment_name);
	convert_map(q->n_env_dict, q->env_dict, &secret->env);
	secret->next = world->secrets;
	world->secrets = secret;
	return secret;
}

static void
secret_get_or_create(struct call *c, const void *request)
{
	const Modal__Client__SecretGetOrCreateRequest *q = request;
	Modal__Client__SecretGetOrCreateResponse response =
		MODAL__CLIENT__SECRET_GET_OR_CREATE_RESPONSE__INIT;
	Modal__Client__SecretMetadata metadata = MODAL__CLIENT__SECRET_METADATA__INIT;
	struct world *world = rpc_world(c);
	struct secret *secret = NULL;

	if (!is_anonymous(q->object_creation_type)) {
		if (!name_is_valid(c, q->deployment_name))
			return;
		secret = secret_find_name(world, q->deployment_name, q->environment_name);
		if (!creation_is_allowed(c, q->object_creation_type, secret != NULL, "secret",
					 q->deployment_name))
			return;
	}
	if (!secret) {
		secret = secret_new(world, q);
	} else if (
		q->object_creation_type ==
		MODAL__CLIENT__OBJECT_CREATION_TYPE__OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS) {
		env_free(&secret->env);
		convert_map(q->n_env_dict, q->env_dict, &secret->env);
	}
	for (size_t i = 0; i < q->n_required_keys; i++) {
		if (!secret_has(secret, q->required_keys[i])) {
			rpc_end(c, STATUS_FAILED_PRECONDITION, "secret is missing key %s",
				q->required_keys[i]);
			return;
		}
	}
	metadata.name = secret->name;
	response.secret_id = secret->id;
	response.metadata = &metadata;
	rpc_reply(c, &response.base);
}

/* -- volumes */

static struct volume *
volume_find_name(struct world *world, const char *name, const char *environment)
{
	for (struct volume *v = world->volumes; v; v = v->next) {
		if (!text_empty(name) && text_is(v->name, name) &&
		    text_is(v->environment, text_or_empty(environment)))
			return v;
	}
	return NULL;
}

static struct volume *
volume_new(struct world *world, const Modal__Client__VolumeGetOrCreateRequest *q)
{
	struct volume *volume = mem_new(sizeof *volume);

	volume->id = id_new("vo-");
	volume->name = text_copy(q->deployment_name);
	volume->environment = text_copy(q->environment_name);
	volume->version =
		q->version == MODAL__CLIENT__VOLUME_FS_VERSION__VOLUME_FS_VERSION_V2 ? 2 : 1;
	volume->dir = text_format("%s/volumes/%s", world->host.state_dir, volume->id);
	mkdir(volume->dir, 0755);
	volume->next = world->volumes;
	world->volumes = volume;
	return volume;
}

static void
volume_get_or_create(struct call *c, const void *request)
{
	const Modal__Client__VolumeGetOrCreateRequest *q = request;
	Modal__Client__VolumeGetOrCreateResponse response =
		MODAL__CLIENT__VOLUME_GET_OR_CREATE_RESPONSE__INIT;
	Modal__Client__VolumeMetadata metadata = MODAL__CLIENT__VOLUME_METADATA__INIT;
	struct world *world = rpc_world(c);
	struct volume *volume = NULL;

	if (!is_anonymous(q->object_creation_type)) {
		if (!name_is_valid(c, q->deployment_name))
			return;
		volume = volume_find_name(world, q->deployment_name, q->environment_name);
		if (!creation_is_allowed(c, q->object_creation_type, volume != NULL, "volume",
					 q->deployment_name))
			return;
	}
	if (!volume)
		volume = volume_new(world, q);
	response.has_version = metadata.has_version = 1;
	response.version = metadata.version = (Modal__Client__VolumeFsVersion)volume->version;
	metadata.name = volume->name;
	response.volume_id = volume->id;
	response.metadata = &metadata;
	rpc_reply(c, &response.base);
}

static void
volume_heartbeat(struct call *c, const void *request)
{
	const Modal__Client__VolumeHeartbeatRequest *q = request;
	Modal__Client__Empty response = MODAL__CLIENT__EMPTY__INIT;

	if (volume_find(rpc_world(c), q->volume_id))
		rpc_reply(c, &response.base);
	else
		rpc_end(c, STATUS_NOT_FOUND, "no volume %s", text_or_empty(q->volume_id));
}

const struct rpc_method account_methods[] = {
	{ CONTROL("ClientHello"), RPC_UNARY, false, &modal__client__empty__descriptor,
	  client_hello },
	{ CONTROL("AuthTokenGet"), RPC_UNARY, false, CONTROL_REQUEST(auth_token_get),
	  auth_token_get },
	{ CONTROL("WorkspaceNameLookup"), RPC_UNARY, false, &modal__client__empty__descriptor,
	  workspace_name_lookup },
	{ CONTROL("AppGetOrCreate"), RPC_UNARY, false, CONTROL_REQUEST(app_get_or_create),
	  app_get_or_create },
	{ CONTROL("EnvironmentGetOrCreate"), RPC_UNARY, false,
	  CONTROL_REQUEST(environment_get_or_create), environment_get_or_create },
	{ CONTROL("SecretGetOrCreate"), RPC_UNARY, false, CONTROL_REQUEST(secret_get_or_create),
	  secret_get_or_create },
	{ CONTROL("VolumeGetOrCreate"), RPC_UNARY, false, CONTROL_REQUEST(volume_get_or_create),
	  volume_get_or_create },
	{ CONTROL("VolumeHeartbeat"), RPC_UNARY, false, CONTROL_REQUEST(volume_heartbeat),
	  volume_heartbeat },
	{ NULL, RPC_UNARY, false, NULL, NULL },
};
