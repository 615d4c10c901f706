/* wire.h -- listening and byte transport: sockets, TLS or plaintext by the first byte, and the
 * artificial delay.  Knows nothing of HTTP. */
#ifndef LOOPBACK_WIRE_H
#define LOOPBACK_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ev_loop;
struct tls_server;
struct wire;
struct wire_listener;

/* What is above a connection.  None of these may free the wire; on_close is the last call. */
struct wire_user {
	void *(*on_open)(void *arg, struct wire *w); /* returns the user's own argument */
	int (*on_bytes)(void *user, const uint8_t *data, size_t len); /* < 0 ends the connection */
	void (*on_pull)(void *user); /* append with wire_append() while wire_room() > 0 */
	bool (*is_over)(void *user); /* nothing more will come from either side */
	void (*on_close)(void *user);
};

struct wire_options {
	int latency_ms; /* each direction is this much late; see main.c's --help */
	struct tls_server *tls;
	const struct wire_user *user;
	void *user_arg; /* for on_open */
};

/* Listens on 127.0.0.1:port (0 = any).  Returns 0 or -errno; *ret_port is the port taken. */
int wire_listen(struct ev_loop *loop, uint16_t port, const struct wire_options *options,
		struct wire_listener **ret, uint16_t *ret_port);
/* Closes the listener and every connection. */
void wire_listener_free(struct wire_listener *listener);

bool wire_is_tls(const struct wire *w);
/* How many bytes may be appended now; only to be used inside on_pull. */
size_t wire_room(const struct wire *w);
/* The caller writes at most wire_room() bytes there and says how many. */
uint8_t *wire_reserve(struct wire *w);
void wire_reserved(struct wire *w, size_t len);
/* There is something to pull.  It leaves before the loop sleeps. */
void wire_wants_flush(struct wire *w);

#endif
