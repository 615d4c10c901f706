/* h2.h -- HTTP/2 server sessions over wires.  The only file with nghttp2.
 *
 * A request's bytes are pushed to the user as they come; the peer may send more only when the user
 * has said that it took them (h2_consumed).  So a user that does not take stops that one stream:
 * RECEIVE_WINDOW_LEN bytes at most are held for it.  A response's bytes are pulled: the user is
 * asked how much it has whenever the stream and the connection may send. */
#ifndef LOOPBACK_H2_H
#define LOOPBACK_H2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/loopback/wire.h"

struct h2;
struct h2_stream;

struct h2_field {
	const char *name, *value;
};

/* What is above a stream; user is what on_request returned. */
struct h2_user {
	/* Headers are complete.  Never NULL. */
	void *(*on_request)(void *arg, struct h2_stream *s);
	void (*on_data)(void *user, const uint8_t *data, size_t len);
	void (*on_end)(void *user); /* the peer has sent all */
	/* The stream is over, for whatever reason; neither user nor stream is used again. */
	void (*on_gone)(void *user);
	/* Bytes that can be sent now.  0 = none yet, call h2_body_ready() later. */
	size_t (*body_avail)(void *user);
	/* Copies len of them, at most what body_avail() said. */
	void (*body_take)(void *user, uint8_t *to, size_t len);
	/* No more bytes will come; the trailers to send are put there, at most max.  Called only
	 * when body_avail() said 0; returns -1 when the body is not over. */
	int (*trailers)(void *user, struct h2_field *fields, int max);
};

enum { H2_TRAILERS_MAX = 8 };

/* What wire_listen() needs to run HTTP/2; user_arg of the wire options is a struct h2_server. */
struct h2_server {
	const struct h2_user *user;
	void *arg;		/* for on_request */
	struct h2 *connections; /* h2's own */
};
extern const struct wire_user h2_wire_user;

const char *h2_header(const struct h2_stream *s, const char *name); /* NULL when absent */
bool h2_is_tls(const struct h2_stream *s);
/* Sends status 200 and these fields, then the body as it comes.  With end set the fields are all
 * there is (gRPC's trailers-only reply). */
void h2_respond(struct h2_stream *s, const struct h2_field *fields, int count, bool end);
void h2_body_ready(struct h2_stream *s);
void h2_consumed(struct h2_stream *s, size_t len);
/* The peer still sends although the answer is out: asks it to stop.  Nothing while the answer is
 * not out. */
void h2_stop(struct h2_stream *s);
void h2_reset(struct h2_stream *s);
/* Visits every stream that has a user.  A visit may answer or reset the stream. */
void h2_each(struct h2_server *server, void (*visit)(struct h2_stream *s, void *user, void *arg),
	     void *arg);
/* Tells every peer to open no more streams on its connection, and ends the connection when `now`
 * says so. */
void h2_go_away(struct h2_server *server, bool now);

#endif
