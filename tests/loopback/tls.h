/* tls.h -- a throw-away certificate authority and TLS sessions that work on memory.
 * The only file with OpenSSL's TLS; sockets belong to wire.c. */
#ifndef LOOPBACK_TLS_H
#define LOOPBACK_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct bytes;
struct tls_server; /* key, certificate, settings */
struct tls;	   /* one connection */

/* Makes a new CA and, signed by it, a certificate for localhost and 127.0.0.1.
 * Returns NULL when OpenSSL refuses. */
struct tls_server *tls_server_new(void);
void tls_server_free(struct tls_server *server);
/* Writes the CA certificate as PEM.  Returns 0 or -errno. */
int tls_server_write_ca(const struct tls_server *server, const char *path);

struct tls *tls_new(struct tls_server *server);
void tls_free(struct tls *tls);

/* Gives ciphertext from the peer.  The data must stay until tls_read() has said "no more". */
void tls_feed(struct tls *tls, const uint8_t *data, size_t len);
/* Takes plaintext.  Returns its length, 0 when more ciphertext is needed, -EPIPE when the peer has
 * ended the session and -EPROTO on a TLS error.  Also runs the handshake. */
ssize_t tls_read(struct tls *tls, uint8_t *to, size_t len);
/* Encrypts.  Returns 0, -EAGAIN while the handshake lasts, or -EPROTO. */
int tls_write(struct tls *tls, const uint8_t *data, size_t len);
/* Ciphertext for the peer; the caller drops what it has sent. */
struct bytes *tls_out(struct tls *tls);
bool tls_ready(const struct tls *tls);

#endif
