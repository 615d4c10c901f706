/* modalshctl.c -- the operator's side of the local socket: what the broker is doing, whether it
 * answers, and its end. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/job.h"
#include "shim/base/clock.h"
#include "shim/client.h"

enum { CODE_FAILED = 1, CODE_USAGE = 64 };

/* A broker answers from memory; one that stops ends its sandbox first. */
enum { ANSWER_WAIT_MS = 10 * 1000, STOP_WAIT_MS = 120 * 1000 };
enum { REPLY_FRAME_LEN_MAX = REPLY_LEN_MAX + 64, REQUEST_LEN_MAX = 1024 };
/* Whole numbers below it are exact as double. */
#define NUMBER_MAX 1e15
enum { NAME_LEN_MAX = 128, NAME_COLUMN_WIDTH = 24 };

struct options {
	const char *socket_path;
	const char *command;
	bool json;
};

static const char usage_text[] =
	"usage: modalshctl [--socket PATH] COMMAND\n"
	"\n"
	"  status [--json]  what the broker, its sandbox and its lane are doing\n"
	"  ping             whether the broker answers, and how fast\n"
	"  stop             ends the broker and the sandbox that it owns, and waits until it has ended\n"
	"\n"
	"  --socket PATH    socket of the broker (default: MODALSH_SOCKET, else " MODALSH_SOCKET_DEFAULT
	")\n"
	"  --help, --version\n"
	"\n"
	"exit codes: 0 done, 1 the broker is not there or did not do it, 64 wrong usage\n";

/* ---- talking to the broker ---- */

/* Waits for the next frame.  Returns 1, 0 when the broker has closed, or -errno with *err set. */
static int
receive(struct client *client, int64_t by_ms, struct job_frame *ret, struct err *err)
{
	struct pollfd poll_fd = { .fd = client->socket, .events = POLLIN };
	int64_t left_ms;
	int r;

	while ((r = client_receive(client, ret)) == -EAGAIN) {
		left_ms = by_ms - clock_now_ms();
		if (left_ms <= 0)
			return err_set(err, ETIMEDOUT, "the broker does not answer");
		if (poll(&poll_fd, 1, (int)left_ms) < 0 && errno != EINTR)
			return err_errno(err, errno, "waiting for the broker");
	}
	if (r == -EBADMSG)
		return err_set(err, EBADMSG, "the broker does not keep to the protocol");
	return r < 0 ? err_errno(err, -r, "receiving from the broker") : r;
}

/* The next frame, which must be of this type. */
static int
expect(struct client *client, uint8_t type, struct view *ret_body, struct err *err)
{
	struct job_frame frame;
	struct job_refused refused;
	int r = receive(client, clock_now_ms() + ANSWER_WAIT_MS, &frame, err);

	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, EPIPE, "the broker went away");
	if (frame.type == JOB_REFUSED && job_refused_decode(frame.body, &refused) == 0)
		return err_set(err, EPERM, "%.*s", (int)refused.text.len,
			       (const char *)refused.text.data);
	if (frame.type != type || frame.job != 0)
		return err_set(err, EBADMSG, "the broker does not keep to the protocol");
	*ret_body = frame.body;
	return 0;
}

/* Sends HELLO and the request, whose frame is in *request, and takes HELLO_REPLY. */
static int
ask(struct client *client, struct buf *request, struct err *err)
{
	cleanup_buf struct buf hello;
	struct job_greeting greeting;
	struct view body;
	int r;

	buf_init(&hello, REQUEST_LEN_MAX);
	if ((r = job_greeting_encode(&hello, JOB_HELLO, "modalshctl " MODALSH_VERSION)) < 0 ||
	    (r = buf_put(&hello, buf_head(request), buf_len(request))) < 0)
		return err_errno(err, -r, "making a request");
	r = client_send(client, &hello, NULL, 0);
	if (r < 0 && r != -EPIPE) /* a broker that has closed may have said why */
		return err_errno(err, -r, "sending to the broker");
	r = expect(client, JOB_HELLO_REPLY, &body, err);
	if (r < 0)
		return r;
	if (job_greeting_decode(body, &greeting) < 0 || greeting.version != JOB_PROTOCOL_VERSION)
		return err_set(err, EPROTO, "the broker is of another version");
	return 0;
}

/* Sends a request without a body and takes REPLY: a JSON object, in which a field "error" says why
 * not.  The text is valid until the next frame is received; the caller frees the tree. */
static int
ask_json(struct client *client, uint8_t type, struct view *ret_text, cJSON **ret, struct err *err)
{
	cleanup_buf struct buf request;
	struct view body, text;
	const char *refusal;
	cJSON *tree;
	int r;

	buf_init(&request, REQUEST_LEN_MAX);
	r = job_empty_encode(&request, type, 0);
	if (r < 0)
		return err_errno(err, -r, "making a request");
	if ((r = ask(client, &request, err)) < 0 || (r = expect(client, JOB_REPLY, &body, err)) < 0)
		return r;
	if (job_text_decode(body, &text) < 0)
		return err_set(err, EBADMSG, "the broker does not keep to the protocol");
	tree = cJSON_ParseWithLength((const char *)text.data, text.len);
	refusal = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(tree, "error"));
	if (!cJSON_IsObject(tree) || refusal != NULL) {
		r = err_set(err, EPERM, "%s",
			    refusal != NULL ? refusal : "the broker's answer is no JSON object");
		cJSON_Delete(tree);
		return r;
	}
	*ret_text = text;
	*ret = tree;
	return 0;
}

/* ---- status ---- */

/* Text of the broker, without what could command a terminal. */
static void
print_clean(const char *text)
{
	for (; *text != '\0'; text++)
		putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
}

static bool
name_ends_with(const char *name, const char *suffix)
{
	size_t len = strlen(name), suffix_len = strlen(suffix);

	return len >= suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

static void
print_duration(double ms)
{
	uint64_t seconds = (uint64_t)(ms / 1000);

	if (ms < 1000)
		printf("%.0f ms", ms);
	else if (seconds < 60)
		printf("%.1f s", ms / 1000);
	else if (seconds < 3600)
		printf("%" PRIu64 " min %" PRIu64 " s", seconds / 60, seconds % 60);
	else
		printf("%" PRIu64 " h %" PRIu64 " min", seconds / 3600, seconds / 60 % 60);
}

static void
print_number(const char *name, double number)
{
	bool exact = number > -NUMBER_MAX && number < NUMBER_MAX;

	if (name_ends_with(name, "_ms") && exact && number >= 0)
		print_duration(number);
	else if (name_ends_with(name, "_kib"))
		printf("%.0f KiB", number);
	else if (exact && (double)(int64_t)number == number)
		printf("%.0f", number);
	else
		printf("%g", number);
}

static void
print_scalar(const char *name, const cJSON *item)
{
	if (cJSON_IsString(item))
		print_clean(item->valuestring[0] == '\0' ? "-" : item->valuestring);
	else if (cJSON_IsNumber(item))
		print_number(name, item->valuedouble);
	else if (cJSON_IsBool(item))
		fputs(cJSON_IsTrue(item) ? "yes" : "no", stdout);
	else
		putchar('-');
}

/* "sandbox", "age_ms" become "sandbox age": the unit is printed with the value. */
static void
name_join(char joined[NAME_LEN_MAX], const char *prefix, const char *name)
{
	snprintf(joined, NAME_LEN_MAX, "%s%s%s", prefix, prefix[0] == '\0' ? "" : " ", name);
	if (name_ends_with(joined, "_ms"))
		joined[strlen(joined) - strlen("_ms")] = '\0';
	else if (name_ends_with(joined, "_kib"))
		joined[strlen(joined) - strlen("_kib")] = '\0';
	for (char *c = joined; *c != '\0'; c++) {
		if (*c == '_' || (unsigned char)*c < ' ')
			*c = ' ';
	}
}

static void
print_list(const char *name, const cJSON *list)
{
	const cJSON *item;

	if (list->child == NULL)
		putchar('-');
	cJSON_ArrayForEach(item, list)
	{
		if (item != list->child)
			fputs(", ", stdout);
		print_scalar(name, item);
	}
}

/* One line per field, in the broker's order; an object of fields puts its own name before theirs.
 * cJSON bounds the depth. */
static void
print_fields(const char *prefix, const cJSON *object)
{
	char joined[NAME_LEN_MAX];
	const cJSON *item;

	cJSON_ArrayForEach(item, object)
	{
		name_join(joined, prefix, item->string);
		if (cJSON_IsObject(item)) {
			print_fields(joined, item);
			continue;
		}
		printf("%-*s", NAME_COLUMN_WIDTH, joined);
		if (cJSON_IsArray(item))
			print_list(item->string, item);
		else
			print_scalar(item->string, item);
		putchar('\n');
	}
}

static int
status(struct client *client, const struct options *options, struct err *err)
{
	struct view text;
	cJSON *tree;
	int r = ask_json(client, JOB_STATUS, &text, &tree, err);

	if (r < 0)
		return r;
	if (options->json)
		printf("%.*s\n", (int)text.len, (const char *)text.data);
	else
		print_fields("", tree);
	cJSON_Delete(tree);
	return 0;
}

/* ---- ping and stop ---- */

static uint64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int
ping(struct client *client, const struct options *options, struct err *err)
{
	cleanup_buf struct buf request;
	uint64_t asked_us = now_us(), token;
	struct view body;
	int r;

	(void)options;
	buf_init(&request, REQUEST_LEN_MAX);
	r = job_number_encode(&request, JOB_PING, 0, asked_us);
	if (r < 0)
		return err_errno(err, -r, "making a request");
	if ((r = ask(client, &request, err)) < 0 || (r = expect(client, JOB_PONG, &body, err)) < 0)
		return r;
	if (job_number_decode(JOB_PONG, body, &token) < 0 || token != asked_us)
		return err_set(err, EBADMSG, "the broker answered another ping");
	printf("the broker answers: %.3f ms\n", (double)(now_us() - asked_us) / 1000);
	return 0;
}

static int
stop(struct client *client, const struct options *options, struct err *err)
{
	int64_t by_ms = clock_now_ms() + STOP_WAIT_MS;
	struct job_frame frame;
	struct view text;
	cJSON *tree;
	int r = ask_json(client, JOB_STOP, &text, &tree, err);

	(void)options;
	if (r < 0)
		return r;
	cJSON_Delete(tree);
	/* the kernel closes the connection when the broker has ended */
	do
		r = receive(client, by_ms, &frame, err);
	while (r == 1);
	if (r == -ETIMEDOUT)
		return err_set(err, ETIMEDOUT, "the broker has not ended within %d s",
			       STOP_WAIT_MS / 1000);
	if (r == 0)
		puts("the broker has ended");
	return r;
}

/* ---- the command line ---- */

static const struct {
	const char *name;
	int (*run)(struct client *client, const struct options *options, struct err *err);
} commands[] = { { "status", status }, { "ping", ping }, { "stop", stop } };

static _Noreturn void
usage(void)
{
	fputs(usage_text, stderr);
	exit(CODE_USAGE);
}

static void
options_read(int argc, char **argv, struct options *ret)
{
	static const struct option long_options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'v' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	*ret = (struct options){ .socket_path = client_socket_path(environ) };
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == 's')
			ret->socket_path = optarg;
		else if (option == 'j')
			ret->json = true;
		else if (option == 'h' || option == 'v')
			exit(fputs(option == 'h' ? usage_text : "modalshctl " MODALSH_VERSION "\n",
				   stdout) < 0);
		else
			usage();
	}
	if (optind != argc - 1)
		usage();
	ret->command = argv[optind];
	if (ret->json && strcmp(ret->command, "status") != 0)
		usage();
}

int
main(int argc, char **argv)
{
	struct client client = { .socket = -1 };
	struct options options;
	struct err err;
	size_t i = 0;
	int r;

	options_read(argc, argv, &options);
	while (i < sizeof commands / sizeof commands[0] &&
	       strcmp(commands[i].name, options.command) != 0)
		i++;
	if (i == sizeof commands / sizeof commands[0])
		usage();
	r = client_connect(options.socket_path, environ, REPLY_FRAME_LEN_MAX, &client, &err);
	if (r == 0)
		r = commands[i].run(&client, &options, &err);
	client_close(&client);
	if (r == 0 && fflush(stdout) != 0)
		r = err_errno(&err, errno, "writing");
	if (r < 0)
		fprintf(stderr, "modalshctl: %s\n", err.text);
	return r < 0 ? CODE_FAILED : 0;
}
