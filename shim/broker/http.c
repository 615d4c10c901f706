#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shim/base/clock.h"
#include "shim/broker/http.h"

/* What curl reads at once; its upper limit. */
#define BULK_BUFFER_LEN (512L * 1024)
/* What upload() is asked for at once. */
#define UPLOAD_BUFFER_LEN (256L * 1024)
/* curl 7.88 waits for a socket that can be written to even while the peer's HTTP/2 window allows
 * nothing; after so many times it is let rest in between. */
#define IDLE_WRITES_MAX 32
static const double REST_S = 0.001;
/* Rounds of work without looking at the sockets; then the loop has its turn. */
#define ROUNDS_MAX 16

struct http_socket {
	ev_io io;
	struct http *http;
	int events;	     /* what curl waits for */
	unsigned idle_count; /* times in a row that it could be written to and nothing moved */
	ev_timer rest;	     /* while it runs, writing is not waited for */
};

struct http_connection {
	struct http_connection *next;
	curl_socket_t fd;
};

struct http {
	struct ev_loop *loop;
	CURLM *multi;
	char *ca_file;
	ev_timer timer;
	ev_prepare prepare;	     /* work that was asked for since the loop last slept */
	bool work;		     /* curl wants to run at once */
	bool moved;		     /* bytes to be uploaded were taken since the last event */
	struct http_socket *current; /* whose event is being handled */
	bool inside;		     /* curl is running: its interface may not be entered again */
	struct http_call *wakes;     /* calls whose upload goes on */
	struct http_call *corpses;   /* freed while curl was running */
	struct http_connection *connections; /* every socket that curl holds */
	int64_t heard_ms;		     /* when any server last answered anything */
	unsigned call_count;
};

struct http_call {
	struct http *http;
	CURL *easy;
	struct curl_slist *headers;
	struct curl_slist *connect_to;
	const struct http_events *events;
	void *arg;
	int status;
	int64_t begun_ms;
	bool added;
	bool dead;   /* freed by its owner; no more callbacks */
	bool paused; /* curl waits for http_call_wake() */
	bool waking; /* in http->wakes */
	bool finishing;
	bool old_version;
	struct http_call *next_wake;
	struct http_call *next_corpse;
	char error[CURL_ERROR_SIZE];
};

int
http_headers_add(struct http_headers *headers, const char *name, const char *format, ...)
{
	char *line;
	va_list ap;
	int len, name_len = (int)strlen(name);

	va_start(ap, format);
	len = vsnprintf(NULL, 0, format, ap);
	va_end(ap);
	if (len < 0 || len > (int)HTTP_HEADER_LEN_MAX || headers->count == HTTP_HEADERS_MAX)
		return -EMSGSIZE;
	line = malloc((size_t)(name_len + 2 + len + 1));
	if (line == NULL)
		return -ENOMEM;
	memcpy(line, name, (size_t)name_len);
	memcpy(line + name_len, ": ", 2);
	va_start(ap, format);
	vsnprintf(line + name_len + 2, (size_t)len + 1, format, ap);
	va_end(ap);
	headers->lines[headers->count++] = line;
	return 0;
}

static void
line_wipe(char *line)
{
	explicit_bzero(line, strlen(line));
}

void
http_headers_release(struct http_headers *headers)
{
	while (headers->count > 0) {
		char *line = headers->lines[--headers->count];

		line_wipe(line);
		free(line);
	}
}

static void
slist_free(struct curl_slist *list)
{
	for (struct curl_slist *item = list; item != NULL; item = item->next)
		line_wipe(item->data);
	curl_slist_free_all(list);
}

/* ---- the loop and curl ---- */

static void
call_release(struct http_call *call)
{
	if (call->added)
		curl_multi_remove_handle(call->http->multi, call->easy);
	if (call->easy != NULL)
		curl_easy_cleanup(call->easy);
	slist_free(call->headers);
	slist_free(call->connect_to);
	if (--call->http->call_count == 0)
		ev_unref(call->http->loop);
	free(call);
}

static const struct {
	CURLcode code;
	enum http_fault fault;
} faults[] = {
	{ CURLE_OPERATION_TIMEDOUT, HTTP_FAULT_TIMEOUT },
	{ CURLE_PEER_FAILED_VERIFICATION, HTTP_FAULT_REFUSED },
	{ CURLE_SSL_CACERT_BADFILE, HTTP_FAULT_REFUSED },
	{ CURLE_SSL_ISSUER_ERROR, HTTP_FAULT_REFUSED },
	{ CURLE_SSL_INVALIDCERTSTATUS, HTTP_FAULT_REFUSED },
	{ CURLE_URL_MALFORMAT, HTTP_FAULT_REFUSED },
	{ CURLE_UNSUPPORTED_PROTOCOL, HTTP_FAULT_REFUSED },
	{ CURLE_WRITE_ERROR, HTTP_FAULT_ABORTED },
};

static struct http_result
result_from_curl(const struct http_call *call, CURLcode code)
{
	struct http_result result = { HTTP_FAULT_BROKEN, call->status, call->error };

	if (call->error[0] == '\0')
		result.text = curl_easy_strerror(code);
	if (code == CURLE_OK)
		result.fault = HTTP_FAULT_NONE;
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
		if (faults[i].code == code)
			result.fault = faults[i].fault;
	if (call->old_version) {
		result.fault = HTTP_FAULT_REFUSED;
		result.text = "the server does not speak HTTP/2; check the URL and the proxy";
	}
	return result;
}

static void
finished_report(struct http *http)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(http->multi, &left)) != NULL) {
		struct http_call *call;
		struct http_result result;
		char *private;

		if (msg->msg != CURLMSG_DONE ||
		    curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &private) != CURLE_OK)
			continue;
		call = (struct http_call *)(void *)private;
		result = result_from_curl(call, msg->data.result);
		curl_multi_remove_handle(http->multi, call->easy);
		call->added = false;
		if (result.fault == HTTP_FAULT_TIMEOUT && http->heard_ms < call->begun_ms)
			http_reconnect(http);
		if (!call->dead)
			call->events->done(call->arg, &result);
	}
}

static void
corpses_bury(struct http *http)
{
	while (http->corpses != NULL) {
		struct http_call *call = http->corpses;

		http->corpses = call->next_corpse;
		call_release(call);
	}
}

static void
curl_run(struct http *http, curl_socket_t fd, int events)
{
	int running;

	http->inside = true;
	curl_multi_socket_action(http->multi, fd, events, &running);
	http->inside = false;
	corpses_bury(http);
	finished_report(http);
}

static void
call_finish(struct http_call *call)
{
	struct http_result result = { HTTP_FAULT_NONE, call->status, "" };

	curl_multi_remove_handle(call->http->multi, call->easy);
	call->added = false;
	call->events->done(call->arg, &result);
}

static void
call_resume(struct http_call *call)
{
	struct http *http = call->http;

	call->paused = false;
	http->inside = true;
	curl_easy_pause(call->easy, CURLPAUSE_CONT);
	http->inside = false;
	http->work = true;
	corpses_bury(http);
}

static void
wakes_run(struct http *http)
{
	while (http->wakes != NULL) {
		struct http_call *call = http->wakes;

		http->wakes = call->next_wake;
		call->waking = false;
		if (call->added && call->finishing)
			call_finish(call);
		else if (call->added && call->paused)
			call_resume(call);
	}
}

static void
work_run(struct http *http)
{
	for (int round = 0; round < ROUNDS_MAX && (http->work || http->wakes != NULL); round++) {
		wakes_run(http);
		http->work = false;
		curl_run(http, CURL_SOCKET_TIMEOUT, 0);
	}
	if (http->work || http->wakes != NULL) {
		ev_timer_stop(http->loop, &http->timer);
		ev_timer_set(&http->timer, 0., 0.);
		ev_timer_start(http->loop, &http->timer);
	}
}

static void
on_prepare(struct ev_loop *loop, ev_prepare *prepare, int revents)
{
	(void)loop;
	(void)revents;
	work_run(prepare->data);
}

static void
on_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct http *http = timer->data;

	(void)loop;
	(void)revents;
	http->work = true;
	work_run(http);
}

static void
socket_watch(struct http_socket *sock, int events)
{
	struct ev_loop *loop = sock->http->loop;

	ev_io_stop(loop, &sock->io);
	ev_io_modify(&sock->io, events);
	ev_io_start(loop, &sock->io);
}

static void
on_rested(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct http_socket *sock = timer->data;

	(void)revents;
	ev_timer_stop(loop, timer);
	socket_watch(sock, sock->events);
}

static void
socket_rest(struct http_socket *sock)
{
	if ((sock->events & EV_WRITE) == 0 || ev_is_active(&sock->rest))
		return;
	socket_watch(sock, sock->events & ~EV_WRITE);
	ev_timer_set(&sock->rest, REST_S, 0.);
	ev_timer_start(sock->http->loop, &sock->rest);
}

static void
on_socket(struct ev_loop *loop, ev_io *io, int revents)
{
	struct http_socket *sock = io->data;
	struct http *http = sock->http;
	int events = (revents & EV_READ ? CURL_CSELECT_IN : 0) |
		     (revents & EV_WRITE ? CURL_CSELECT_OUT : 0);
	bool moved = (revents & EV_READ) != 0;

	(void)loop;
	http->moved = false;
	http->current = sock;
	curl_run(http, io->fd, events);
	if (http->current == NULL)
		return; /* it is no more */
	http->current = NULL;
	sock->idle_count = moved || http->moved ? 0 : sock->idle_count + 1;
	if (sock->idle_count > IDLE_WRITES_MAX)
		socket_rest(sock);
	else if (ev_is_active(&sock->rest))
		on_rested(http->loop, &sock->rest, 0);
}

static int
on_curl_timer(CURLM *multi, long timeout_ms, void *arg)
{
	struct http *http = arg;

	(void)multi;
	ev_timer_stop(http->loop, &http->timer);
	http->work = timeout_ms == 0;
	if (timeout_ms > 0) {
		ev_now_update(http->loop);
		ev_timer_set(&http->timer, (double)timeout_ms / 1000., 0.);
		ev_timer_start(http->loop, &http->timer);
	}
	return 0;
}

static void
socket_forget(struct http *http, curl_socket_t fd, struct http_socket *sock)
{
	if (sock == NULL)
		return;
	if (http->current == sock)
		http->current = NULL;
	curl_multi_assign(http->multi, fd, NULL);
	ev_io_stop(http->loop, &sock->io);
	ev_timer_stop(http->loop, &sock->rest);
	free(sock);
}

static int
on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	struct http *http = arg;
	struct http_socket *sock = socket_arg;
	int events = (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);

	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		socket_forget(http, fd, sock);
		return 0;
	}
	if (sock == NULL) {
		sock = calloc(1, sizeof *sock);
		if (sock == NULL)
			return -1;
		sock->http = http;
		sock->io.data = sock;
		ev_io_init(&sock->io, on_socket, fd, 0);
		ev_init(&sock->rest, on_rested);
		sock->rest.data = sock;
		curl_multi_assign(http->multi, fd, sock);
	}
	sock->events = events;
	socket_watch(sock, ev_is_active(&sock->rest) ? events & ~EV_WRITE : events);
	return 0;
}

int
http_new(struct ev_loop *loop, const char *ca_file, struct http **ret, struct err *err)
{
	struct http *http = calloc(1, sizeof *http);

	if (http == NULL)
		return err_set(err, ENOMEM, "no memory for HTTP");
	http->loop = loop;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
		http->multi = curl_multi_init();
	http->ca_file = ca_file == NULL ? NULL : strdup(ca_file);
	if (http->multi == NULL || (ca_file != NULL && http->ca_file == NULL)) {
		curl_multi_cleanup(http->multi);
		free(http);
		return err_set(err, ENOMEM, "libcurl could not be initialised");
	}
	curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
	ev_init(&http->timer, on_timer);
	http->timer.data = http;
	ev_prepare_init(&http->prepare, on_prepare);
	http->prepare.data = http;
	ev_prepare_start(loop, &http->prepare);
	ev_unref(loop);
	*ret = http;
	return 0;
}

void
http_free(struct http *http)
{
	if (http == NULL)
		return;
	assert(http->call_count == 0 && !http->inside);
	curl_multi_cleanup(http->multi);
	ev_ref(http->loop);
	ev_prepare_stop(http->loop, &http->prepare);
	ev_timer_stop(http->loop, &http->timer);
	free(http->ca_file);
	free(http);
	curl_global_cleanup();
}

/* ---- one call ---- */

static size_t
on_header(char *bytes, size_t size, size_t count, void *arg)
{
	struct http_call *call = arg;
	size_t len = size * count, end = len, name_len, start;
	const char *colon = memchr(bytes, ':', len);

	call->http->heard_ms = clock_now_ms();
	if (call->dead)
		return 0;
	if (len >= 5 && memcmp(bytes, "HTTP/", 5) == 0) {
		call->old_version = len < 8 || bytes[5] != '2';
		if (call->old_version || sscanf(bytes + 6, "%d", &call->status) != 1)
			return 0;
		return len;
	}
	if (colon == NULL || call->events->header == NULL)
		return len;
	name_len = (size_t)(colon - bytes);
	for (start = name_len + 1; start < end && bytes[start] == ' '; start++)
		;
	while (end > start &&
	       (bytes[end - 1] == '\r' || bytes[end - 1] == '\n' || bytes[end - 1] == ' '))
		end--;
	call->events->header(call->arg, bytes, name_len, bytes + start, end - start);
	return len;
}

static size_t
on_body(char *bytes, size_t size, size_t count, void *arg)
{
	struct http_call *call = arg;
	size_t len = size * count;

	call->http->heard_ms = clock_now_ms();
	if (call->dead || call->events->body(call->arg, (const uint8_t *)bytes, len) < 0)
		return 0;
	return call->dead ? 0 : len;
}

static size_t
on_upload(char *bytes, size_t size, size_t count, void *arg)
{
	struct http_call *call = arg;
	size_t len;

	if (call->dead)
		return CURL_READFUNC_ABORT;
	len = call->events->upload(call->arg, (uint8_t *)bytes, size * count);
	if (call->dead)
		return CURL_READFUNC_ABORT;
	if (len == HTTP_UPLOAD_END)
		return 0;
	if (len > 0) {
		call->http->moved = true;
		return len;
	}
	call->paused = true;
	return CURL_READFUNC_PAUSE;
}

/* A peer that vanished without a word is noticed by the kernel; whether its process still
 * answers is for the deadlines and for the lane's own pings. */
static int
on_socket_made(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	int idle_s = HTTP_KEEPALIVE_S, pause_s = 10, count = 3;
	unsigned unanswered_ms = HTTP_KEEPALIVE_S * 1000;
	struct http *http = arg;
	struct http_connection *connection = calloc(1, sizeof *connection);

	(void)purpose;
	if (connection == NULL)
		return CURL_SOCKOPT_ERROR;
	*connection = (struct http_connection){ http->connections, fd };
	http->connections = connection;
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &pause_s, sizeof pause_s);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
	return CURL_SOCKOPT_OK;
}

static int
on_socket_close(void *arg, curl_socket_t fd)
{
	struct http *http = arg;

	for (struct http_connection **at = &http->connections; *at != NULL; at = &(*at)->next) {
		struct http_connection *connection = *at;

		if (connection->fd != fd)
			continue;
		*at = connection->next;
		free(connection);
		break;
	}
	return close(fd);
}

void
http_reconnect(struct http *http)
{
	for (struct http_connection *connection = http->connections; connection != NULL;
	     connection = connection->next)
		shutdown(connection->fd, SHUT_RDWR);
}

static void
options_set(struct http_call *call, const struct http_request *request)
{
	CURL *easy = call->easy;

	curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->error);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(easy, CURLOPT_URL, request->url);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket_made);
	curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, call->http);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_socket_close);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, call->http);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, HTTP_CONNECT_WAIT_MS);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, request->timeout_ms);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	/* 128 bits first, which is a little less work at both ends; the server chooses */
	curl_easy_setopt(
		easy, CURLOPT_TLS13_CIPHERS,
		"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
	if (call->http->ca_file != NULL) {
		curl_easy_setopt(easy, CURLOPT_CAINFO, call->http->ca_file);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
	if (call->connect_to != NULL)
		curl_easy_setopt(easy, CURLOPT_CONNECT_TO, call->connect_to);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
	if (request->bulk)
		curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, BULK_BUFFER_LEN);
}

static void
body_set(struct http_call *call, const struct http_request *request)
{
	CURL *easy = call->easy;

	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	if (request->body != NULL) {
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
		curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request->body);
		return;
	}
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)-1);
	curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_upload);
	curl_easy_setopt(easy, CURLOPT_READDATA, call);
	curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BUFFER_LEN);
}

static int
slist_add(struct curl_slist **list, const char *line)
{
	struct curl_slist *longer = curl_slist_append(*list, line);

	if (longer == NULL)
		return -ENOMEM;
	*list = longer;
	return 0;
}

static int
lists_make(struct http_call *call, const struct http_request *request)
{
	char address[sizeof "::255.255.255.255:"];
	int r = slist_add(&call->headers, "accept:");

	if (r == 0)
		r = slist_add(&call->headers, "expect:");
	for (size_t i = 0; r == 0 && i < request->headers->count; i++)
		r = slist_add(&call->headers, request->headers->lines[i]);
	if (r == 0 && request->ipv4 != NULL && request->ipv4[0] != '\0') {
		snprintf(address, sizeof address, "::%s:", request->ipv4);
		r = slist_add(&call->connect_to, address);
	}
	return r;
}

int
http_call_start(struct http *http, const struct http_request *request,
		const struct http_events *events, void *arg, struct http_call **ret,
		struct err *err)
{
	struct http_call *call = calloc(1, sizeof *call);
	CURLMcode code;
	int r = -ENOMEM;

	if (call != NULL) {
		*call = (struct http_call){
			.http = http, .events = events, .arg = arg, .begun_ms = clock_now_ms()
		};
		/* curl may have work to do without a watcher to wait for it. */
		if (http->call_count++ == 0)
			ev_ref(http->loop);
		call->easy = curl_easy_init();
		r = lists_make(call, request);
	}
	http_headers_release(request->headers);
	if (r < 0 || call->easy == NULL) {
		if (call != NULL)
			call_release(call);
		return err_set(err, ENOMEM, "no memory for a request");
	}
	options_set(call, request);
	body_set(call, request);
	code = curl_multi_add_handle(http->multi, call->easy);
	if (code != CURLM_OK) {
		call_release(call);
		return err_set(err, EIO, "libcurl refuses a request: %s",
			       curl_multi_strerror(code));
	}
	call->added = true;
	*ret = call;
	return 0;
}

void
http_call_wake(struct http_call *call)
{
	if (call->waking)
		return;
	call->waking = true;
	call->next_wake = call->http->wakes;
	call->http->wakes = call;
}

void
http_call_finish(struct http_call *call)
{
	call->finishing = true;
	http_call_wake(call);
}

static void
wake_forget(struct http_call *call)
{
	struct http_call **at = &call->http->wakes;

	while (call->waking && *at != NULL) {
		if (*at == call) {
			*at = call->next_wake;
			return;
		}
		at = &(*at)->next_wake;
	}
}

void
http_call_free(struct http_call *call)
{
	if (call == NULL)
		return;
	wake_forget(call);
	call->dead = true;
	if (!call->http->inside) {
		call_release(call);
		return;
	}
	call->next_corpse = call->http->corpses;
	call->http->corpses = call;
}
