#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/base/clock.h"
#include "shim/broker/status.h"

static const char *
sandbox_state_name(enum sandbox_state state)
{
	switch (state) {
	case SANDBOX_NONE:
		return "none";
	case SANDBOX_STARTING:
		return "starting";
	case SANDBOX_READY:
		return "ready";
	case SANDBOX_ENDING:
		return "ending";
	}
	return "";
}

/* Resident memory from /proc/self/statm (second number, in pages); -1 when it cannot be read. */
static double
resident_kib(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long total, resident = -1;

	if (file == NULL)
		return -1;
	if (fscanf(file, "%ld %ld", &total, &resident) != 2)
		resident = -1;
	fclose(file);
	return resident < 0 ? -1 : (double)resident * (double)sysconf(_SC_PAGESIZE) / 1024;
}

static void
add_sandbox(cJSON *json, const struct sandbox_info *info)
{
	cJSON *sandbox = cJSON_AddObjectToObject(json, "sandbox");

	cJSON_AddStringToObject(json, "state", sandbox_state_name(info->state));
	cJSON_AddStringToObject(sandbox, "id", info->id);
	cJSON_AddStringToObject(sandbox, "task_id", info->task_id);
	cJSON_AddStringToObject(sandbox, "name", info->name);
	cJSON_AddStringToObject(sandbox, "image_id", info->image_id);
	cJSON_AddNumberToObject(sandbox, "created_count", info->created_count);
	if (info->created_ms > 0)
		cJSON_AddNumberToObject(sandbox, "age_ms",
					(double)(clock_now_ms() - info->created_ms));
}

/* One string for each line that the configuration prints about settings without effect. */
static void
add_ignored(cJSON *json, const struct config *config)
{
	cJSON *list = cJSON_AddArrayToObject(json, "ignored_settings");
	char *text = NULL, *line, *rest;
	size_t len;
	FILE *file = open_memstream(&text, &len);

	if (file == NULL)
		return;
	config_print_ignored(config, file);
	fclose(file);
	for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest))
		cJSON_AddItemToArray(list, cJSON_CreateString(line));
	free(text);
}

char *
status_json(const struct status_facts *facts)
{
	cJSON *json = cJSON_CreateObject(), *object;
	struct lane_info info;
	char *text;

	lane_info(facts->lane, &info);
	cJSON_AddStringToObject(json, "version", MODALSH_VERSION);
	cJSON_AddNumberToObject(json, "pid", getpid());
	cJSON_AddNumberToObject(json, "uptime_ms", (double)(clock_now_ms() - facts->started_ms));
	add_sandbox(json, &info.sandbox);
	object = cJSON_AddObjectToObject(json, "lane");
	cJSON_AddStringToObject(object, "state", info.state_name);
	cJSON_AddStringToObject(object, "boot_id", info.boot_id);
	cJSON_AddNumberToObject(object, "opened_count", info.opened_count);
	object = cJSON_AddObjectToObject(json, "jobs");
	cJSON_AddNumberToObject(object, "running", info.job_count);
	cJSON_AddNumberToObject(object, "total", (double)facts->accepted);
	cJSON_AddNumberToObject(object, "refused", (double)facts->refused);
	cJSON_AddStringToObject(json, "server", cred_server_url(facts->cred));
	cJSON_AddStringToObject(json, "token_source", cred_source(facts->cred));
	cJSON_AddNumberToObject(json, "rss_kib", resident_kib());
	add_ignored(json, facts->config);
	text = cJSON_PrintUnformatted(json);
	cJSON_Delete(json);
	return text;
}
