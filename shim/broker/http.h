/* http.h -- HTTP/2 over verified TLS on the broker's loop: one curl multi handle, one connection
 * per server, any number of calls on it.  The only owner of curl.
 *
 * Callbacks come from the loop, never from inside http_call_start() or http_call_wake(), and
 * never after http_call_free(), which may be called from any of them. */
#ifndef SHIM_BROKER_HTTP_H
#define SHIM_BROKER_HTTP_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/base/buf.h"
#include "shim/base/err.h"

/* From the first byte of DNS to the end of the TLS handshake. */
#define HTTP_CONNECT_WAIT_MS 10000L
/* How long a silent connection is believed in: probes start after this, and unanswered data
 * gives up after it. */
#define HTTP_KEEPALIVE_S    30
#define HTTP_HEADERS_MAX    24u
#define HTTP_HEADER_LEN_MAX (16u * 1024)

struct http;
struct http_call;

/* ca_file: certificates to trust instead of the system's, or NULL.  Returns 0 or negative errno
 * with *err set. */
int http_new(struct ev_loop *loop, const char *ca_file, struct http **ret, struct err *err);

/* All calls must have been freed. */
void http_free(struct http *http);

/* Breaks every connection, for one that is silent may be dead without the kernel's knowing: calls
 * in flight fail with HTTP_FAULT_BROKEN, later ones connect anew. */
void http_reconnect(struct http *http);

/* The request headers of one call, "name: value", in memory that is wiped. */
struct http_headers {
	char *lines[HTTP_HEADERS_MAX];
	size_t count;
};

/* 0, -ENOMEM or -EMSGSIZE. */
int http_headers_add(struct http_headers *headers, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void http_headers_release(struct http_headers *headers);

enum http_fault {
	HTTP_FAULT_NONE,    /* an answer came: see status */
	HTTP_FAULT_TIMEOUT, /* none within timeout_ms */
	HTTP_FAULT_BROKEN,  /* no connection, or it broke: may pass */
	HTTP_FAULT_REFUSED, /* the certificate is not to be trusted, or no HTTP/2: does not pass */
	HTTP_FAULT_ABORTED, /* a callback returned a negative value */
};

struct http_result {
	enum http_fault fault;
	int status;	  /* HTTP status, 0 when there was none */
	const char *text; /* of a fault: what happened */
};

/* upload() has sent everything. */
#define HTTP_UPLOAD_END SIZE_MAX

struct http_events {
	/* A header or trailer of the answer; may be NULL. */
	void (*header)(void *arg, const char *name, size_t name_len, const char *value,
		       size_t value_len);
	/* Bytes of the answer's body, gone after the call.  A negative value ends the call. */
	int (*body)(void *arg, const uint8_t *bytes, size_t len);
	/* Fills in up to len bytes of the request's body and returns how many; 0 = none now,
	 * http_call_wake() tells when; HTTP_UPLOAD_END.  Only for calls without a body. */
	size_t (*upload)(void *arg, uint8_t *bytes, size_t len);
	/* The last callback of a call. */
	void (*done)(void *arg, const struct http_result *result);
};

struct http_request {
	const char *url;  /* https only */
	const char *ipv4; /* where the URL's host is, or NULL: ask DNS */
	struct http_headers *headers;
	const uint8_t *body; /* copied; NULL: events->upload */
	size_t body_len;
	long timeout_ms; /* 0 = none */
	bool bulk;	 /* megabytes are expected: large buffers */
};

/* Sends a POST.  Takes what request->headers holds, also on failure.  Returns 0 or negative
 * errno with *err set. */
int http_call_start(struct http *http, const struct http_request *request,
		    const struct http_events *events, void *arg, struct http_call **ret,
		    struct err *err);

/* upload() has something again: it is asked before the loop sleeps. */
void http_call_wake(struct http_call *call);

/* The answer is complete, as its trailers said: gives up the rest of the upload and calls done()
 * from the loop.  Of itself curl waits for ever to send the rest to a server that does not want
 * it. */
void http_call_finish(struct http_call *call);

/* Ends the call (its stream alone is reset, the connection stays).  NULL is fine. */
void http_call_free(struct http_call *call);

#endif
