#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/broker/config_value.h"
#include "shim/broker/cred.h"
#include "shim/broker/cred_toml.h"

#define SERVER_URL_DEFAULT "https://api.modal.com"
#define TOKEN_PREFIX	   "MODAL_TOKEN_"

enum {
	TOKEN_LEN_MAX = 512,
	URL_LEN_MAX = 1024,
	ENVIRONMENT_LEN_MAX = 64,
	SOURCE_LEN_MAX = 256,
	PATH_LEN_MAX = 4096,
	FILE_LEN_MAX = 64 * 1024,
	PROFILES_MAX = 64,
};

struct cred {
	char token_id[TOKEN_LEN_MAX + 1];
	char token_secret[TOKEN_LEN_MAX + 1];
	char server_url[URL_LEN_MAX + 1];
	char environment[ENVIRONMENT_LEN_MAX + 1];
	char source[2 * SOURCE_LEN_MAX + 2];
};

/* One table of the token file; the strings are in the file's text, NULL when absent. */
struct profile {
	const char *name;
	const char *token_id;
	const char *token_secret;
	const char *server_url;
	const char *environment;
	bool active;
	const char *unread_key; /* one of the four that is no string, and its line */
	unsigned unread_line;
};

struct token_file {
	char path[PATH_LEN_MAX];
	bool found;
	char *text; /* secret memory of FILE_LEN_MAX + 1 bytes */
	struct profile profiles[PROFILES_MAX];
	unsigned profile_count;
	const struct profile *chosen; /* NULL when none is */
	char why_none[SOURCE_LEN_MAX];
};

/* ---- memory that neither a core file, nor swap, nor a child process sees ---- */

static void *
secret_alloc(size_t len)
{
	void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	/* RLIMIT_MEMLOCK may be 0 and old kernels know no such advice: the process is not
	 * dumpable anyway */
	madvise(memory, len, MADV_DONTDUMP);
	mlock(memory, len);
	return memory;
}

/* Locks are not inherited, and what is wiped at a fork is not there afterwards. */
void
cred_pin(struct cred *cred)
{
	madvise(cred, sizeof *cred, MADV_WIPEONFORK);
	mlock(cred, sizeof *cred);
}

static void
secret_free(void *memory, size_t len)
{
	if (memory == NULL)
		return;
	explicit_bzero(memory, len);
	munmap(memory, len);
}

/* ---- the environment ---- */

static const char *
variable(const char *name)
{
	const char *value = getenv(name);

	return value != NULL && *value != '\0' ? value : NULL;
}

/* Overwrites MODAL_TOKEN_* where the kernel put them, which is what /proc/PID/environ shows, and
 * forgets them. */
static void
wipe_environment(void)
{
	char **kept = environ;

	if (environ == NULL)
		return;
	for (char **entry = environ; *entry != NULL; entry++) {
		if (strncmp(*entry, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) == 0)
			explicit_bzero(*entry, strlen(*entry));
		else
			*kept++ = *entry;
	}
	*kept = NULL;
}

/* ---- the token file ---- */

static struct profile *
profile_of(struct token_file *file, const struct toml_entry *entry, struct err *err)
{
	struct profile *profile;

	for (unsigned i = 0; i < file->profile_count; i++) {
		if (strcmp(file->profiles[i].name, entry->table) == 0)
			return &file->profiles[i];
	}
	if (file->profile_count == PROFILES_MAX) {
		err_set(err, EINVAL, "line %u: more than %d profiles", entry->line, PROFILES_MAX);
		return NULL;
	}
	profile = &file->profiles[file->profile_count++];
	*profile = (struct profile){ .name = entry->table };
	return profile;
}

static int
take_active(struct profile *profile, const struct toml_entry *entry, struct err *err)
{
	if (entry->kind != TOML_BOOLEAN)
		return err_set(err, EINVAL, "line %u: active: write true or false", entry->line);
	profile->active = entry->boolean;
	return 0;
}

static int
take_setting(struct profile *profile, const struct toml_entry *entry, struct err *err)
{
	const struct {
		const char *key;
		const char **field;
	} settings[] = {
		{ "token_id", &profile->token_id },
		{ "token_secret", &profile->token_secret },
		{ "server_url", &profile->server_url },
		{ "environment", &profile->environment },
	};

	for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
		if (strcmp(entry->key, settings[i].key) != 0)
			continue;
		if (*settings[i].field != NULL)
			return err_set(err, EINVAL, "line %u: %s is there twice in [%.60s]",
				       entry->line, settings[i].key, profile->name);
		*settings[i].field = entry->text;
		if (entry->kind != TOML_STRING && profile->unread_key == NULL) {
			profile->unread_key = settings[i].key;
			profile->unread_line = entry->line;
		}
	}
	return 0;
}

static int
take_entry(void *arg, const struct toml_entry *entry, struct err *err)
{
	struct profile *profile;

	if (entry->table == NULL)
		return 0;
	if (*entry->table == '\0')
		return err_set(err, EINVAL, "line %u: a setting outside of any [profile]",
			       entry->line);
	profile = profile_of(arg, entry, err);
	if (profile == NULL)
		return -EINVAL;
	if (entry->key == NULL)
		return 0;
	if (strcmp(entry->key, "active") == 0)
		return take_active(profile, entry, err);
	return take_setting(profile, entry, err);
}

static int
find_path(const struct config *config, char path[PATH_LEN_MAX], struct err *err)
{
	const char *named =
		config->token_file != NULL ? config->token_file : variable("MODAL_CONFIG_PATH");
	const char *home = variable("HOME");
	int len;

	if (home == NULL) {
		const struct passwd *user = getpwuid(geteuid());

		home = user != NULL ? user->pw_dir : "/";
	}
	len = named != NULL ? snprintf(path, PATH_LEN_MAX, "%s", named) :
			      snprintf(path, PATH_LEN_MAX, "%s/.modal.toml", home);
	return len < PATH_LEN_MAX ?
		       0 :
		       err_set(err, ENAMETOOLONG, "the path of the token file is too long");
}

/* Others must not be able to read it, nor to have written it. */
static int
check_owner(int fd, const char *path, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s: is not a regular file", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return err_set(err, EPERM, "%s: belongs to user %u: run chown %u on it", path,
			       st.st_uid, geteuid());
	if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		return err_set(err, EPERM,
			       "%s: other users may have read the token (mode %04o):"
			       " run chmod 600 on it",
			       path, st.st_mode & 07777);
	return 0;
}

static int
read_text(int fd, struct token_file *file, size_t *ret_len, struct err *err)
{
	size_t len = 0;
	ssize_t got;

	for (;;) {
		got = read(fd, file->text + len, FILE_LEN_MAX + 1 - len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_errno(err, errno, "%s", file->path);
		if (got == 0)
			break;
		len += (size_t)got;
		if (len > FILE_LEN_MAX)
			return err_set(err, EFBIG, "%s: longer than %d bytes", file->path,
				       FILE_LEN_MAX);
	}
	*ret_len = len;
	return 0;
}

/* MODAL_PROFILE, else the active profile, else "default". */
static int
choose_profile(struct token_file *file, struct err *err)
{
	const char *wanted = variable("MODAL_PROFILE");
	const struct profile *active = NULL;

	for (unsigned i = 0; i < file->profile_count && wanted == NULL; i++) {
		if (!file->profiles[i].active)
			continue;
		if (active != NULL)
			return err_set(err, EINVAL,
				       "%s: [%.60s] and [%.60s] are both active: leave one, or set"
				       " MODAL_PROFILE",
				       file->path, active->name, file->profiles[i].name);
		active = &file->profiles[i];
	}
	if (active != NULL)
		wanted = active->name;
	for (unsigned i = 0; i < file->profile_count; i++) {
		if (strcmp(file->profiles[i].name, wanted != NULL ? wanted : "default") == 0)
			file->chosen = &file->profiles[i];
	}
	if (file->chosen == NULL && wanted != NULL)
		snprintf(file->why_none, sizeof file->why_none,
			 "has no profile [%.60s] (MODAL_PROFILE)", wanted);
	else if (file->chosen == NULL)
		snprintf(file->why_none, sizeof file->why_none, "has no active profile");
	if (file->chosen != NULL && file->chosen->unread_key != NULL)
		return err_set(err, EINVAL, "%s: line %u: %s: write it as one string in quotes",
			       file->path, file->chosen->unread_line, file->chosen->unread_key);
	return 0;
}

static int
read_file(const struct config *config, struct token_file *file, struct err *err)
{
	cleanup_close int fd = -1;
	size_t len = 0;
	int r = find_path(config, file->path, err);

	if (r < 0)
		return r;
	fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && config->token_file == NULL && (errno == ENOENT || errno == ENOTDIR)) {
		snprintf(file->why_none, sizeof file->why_none, "does not exist");
		return 0;
	}
	if (fd < 0)
		return err_errno(err, errno, "%s", file->path);
	r = check_owner(fd, file->path, err);
	if (r == 0)
		r = read_text(fd, file, &len, err);
	if (r < 0)
		return r;
	file->found = true;
	r = toml_read(file->text, len, take_entry, file, err);
	return r < 0 ? err_wrap(err, "%s", file->path) : choose_profile(file, err);
}

/* ---- putting it together ---- */

/* A token becomes the value of a header: printable, without blanks. */
static int
keep_token(const char *value, const char *what, char field[TOKEN_LEN_MAX + 1], struct err *err)
{
	size_t len = strlen(value);

	for (size_t i = 0; i < len; i++) {
		if (value[i] <= ' ' || value[i] >= 0x7f)
			return err_set(err, EINVAL,
				       "%s has a blank or a control character: write it again",
				       what);
	}
	if (len > TOKEN_LEN_MAX)
		return err_set(err, EINVAL, "%s is longer than %d characters", what, TOKEN_LEN_MAX);
	memcpy(field, value, len + 1);
	return 0;
}

/* One half of the token: from the environment, else from the profile. */
static int
take_half(const struct token_file *file, const char *key, const char *name, const char *in_profile,
	  char field[TOKEN_LEN_MAX + 1], char source[SOURCE_LEN_MAX], struct err *err)
{
	const char *value = variable(name);

	if (value != NULL) {
		snprintf(source, SOURCE_LEN_MAX, "%s from %s", key, name);
	} else if (in_profile != NULL && *in_profile != '\0') {
		value = in_profile;
		snprintf(source, SOURCE_LEN_MAX, "%s from %.120s [%.60s]", key, file->path,
			 file->chosen->name);
	} else if (file->chosen != NULL) {
		return err_set(err, ENOENT,
			       "no Modal token: %s is not set, and %.200s has no %s in [%.60s]:"
			       " set both halves in one of the two",
			       name, file->path, key, file->chosen->name);
	} else {
		return err_set(err, ENOENT,
			       "no Modal token: %s is not set, and %.200s %s:"
			       " set both halves in one of the two",
			       name, file->path, file->why_none);
	}
	return keep_token(value, source, field, err);
}

static int
take_token(const struct token_file *file, struct cred *cred, struct err *err)
{
	char id_source[SOURCE_LEN_MAX], secret_source[SOURCE_LEN_MAX];
	const struct profile *chosen = file->chosen;
	int r = take_half(file, "token_id", "MODAL_TOKEN_ID",
			  chosen != NULL ? chosen->token_id : NULL, cred->token_id, id_source, err);

	if (r == 0)
		r = take_half(file, "token_secret", "MODAL_TOKEN_SECRET",
			      chosen != NULL ? chosen->token_secret : NULL, cred->token_secret,
			      secret_source, err);
	if (r == 0)
		snprintf(cred->source, sizeof cred->source, "%s, %s", id_source, secret_source);
	return r;
}

static int
take_server_url(const struct config *config, const struct token_file *file, struct cred *cred,
		struct err *err)
{
	const char *url = config->server_url, *source = "modalsh.server_url";

	if (url == NULL) {
		source = "MODAL_SERVER_URL";
		url = variable("MODAL_SERVER_URL");
	}
	if (url == NULL && file->chosen != NULL && file->chosen->server_url != NULL) {
		source = "server_url in the token file";
		url = file->chosen->server_url;
	}
	if (url == NULL)
		url = SERVER_URL_DEFAULT;
	if (value_check_url(url, err) < 0)
		return err_wrap(err, "%s", source);
	snprintf(cred->server_url, sizeof cred->server_url, "%s", url);
	return 0;
}

static int
take_environment(const struct config *config, const struct token_file *file, struct cred *cred,
		 struct err *err)
{
	const char *name = config->environment, *source = "modalsh.environment";

	if (*name == '\0') {
		/* here an empty variable says something: the workspace's default */
		source = "MODAL_ENVIRONMENT";
		name = getenv("MODAL_ENVIRONMENT");
	}
	if (name == NULL && file->chosen != NULL) {
		source = "environment in the token file";
		name = file->chosen->environment;
	}
	if (name == NULL)
		name = "";
	if (value_check_environment(name, err) < 0)
		return err_wrap(err, "%s", source);
	snprintf(cred->environment, sizeof cred->environment, "%s", name);
	return 0;
}

static int
load_with(const struct config *config, struct token_file *file, struct cred *cred, struct err *err)
{
	int r = read_file(config, file, err);

	if (r == 0)
		r = take_token(file, cred, err);
	if (r == 0)
		r = take_server_url(config, file, cred, err);
	if (r == 0)
		r = take_environment(config, file, cred, err);
	return r;
}

int
cred_load(const struct config *config, struct cred **ret, struct err *err)
{
	struct token_file *file = calloc(1, sizeof *file);
	struct cred *cred = secret_alloc(sizeof *cred);
	int r = -ENOMEM;

	if (file != NULL)
		file->text = secret_alloc(FILE_LEN_MAX + 1);
	if (file == NULL || file->text == NULL || cred == NULL)
		err_errno(err, ENOMEM, "reading the token");
	else
		r = load_with(config, file, cred, err);
	wipe_environment();
	if (file != NULL)
		secret_free(file->text, FILE_LEN_MAX + 1);
	free(file);
	if (r < 0) {
		cred_free(cred);
		return r;
	}
	*ret = cred;
	return 0;
}

void
cred_free(struct cred *cred)
{
	secret_free(cred, sizeof *cred);
}

const char *
cred_token_id(const struct cred *cred)
{
	return cred->token_id;
}

const char *
cred_token_secret(const struct cred *cred)
{
	return cred->token_secret;
}

const char *
cred_source(const struct cred *cred)
{
	return cred->source;
}

const char *
cred_server_url(const struct cred *cred)
{
	return cred->server_url;
}

const char *
cred_environment(const struct cred *cred)
{
	return cred->environment;
}
