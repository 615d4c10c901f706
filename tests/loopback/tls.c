#include "tests/loopback/tls.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "tests/loopback/bytes.h"

enum { CERTIFICATE_DAYS = 30 };

struct tls_server {
	SSL_CTX *ctx;
	X509 *ca;
	BIO_METHOD *bio;
};

struct tls {
	SSL *ssl;
	const uint8_t *in;
	size_t in_len;
	struct bytes out;
};

/* -- certificates */

static int
certificate_extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;
	int r;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	if (!ext)
		return -EINVAL;
	r = X509_add_ext(cert, ext, -1);
	X509_EXTENSION_free(ext);
	return r == 1 ? 0 : -EINVAL;
}

static X509 *
certificate_new(EVP_PKEY *key, const char *name)
{
	X509 *cert = X509_new();
	X509_NAME *subject;
	uint32_t serial = 0;

	if (!cert)
		return NULL;
	if (RAND_bytes((unsigned char *)&serial, sizeof serial) != 1) {
		X509_free(cert);
		return NULL;
	}
	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), (long)(serial >> 1) + 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 86400L * CERTIFICATE_DAYS);
	X509_set_pubkey(cert, key);
	subject = X509_get_subject_name(cert);
	X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1,
				   0);
	return cert;
}

static X509 *
ca_new(EVP_PKEY *key)
{
	X509 *ca = certificate_new(key, "modalsh-loopback throw-away CA");

	if (!ca)
		return NULL;
	X509_set_issuer_name(ca, X509_get_subject_name(ca));
	if (certificate_extend(ca, ca, NID_basic_constraints, "critical,CA:TRUE") < 0 ||
	    certificate_extend(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") < 0 ||
	    certificate_extend(ca, ca, NID_subject_key_identifier, "hash") < 0 ||
	    X509_sign(ca, key, EVP_sha256()) == 0) {
		X509_free(ca);
		return NULL;
	}
	return ca;
}

static X509 *
leaf_new(EVP_PKEY *key, X509 *ca, EVP_PKEY *ca_key)
{
	X509 *leaf = certificate_new(key, "localhost");

	if (!leaf)
		return NULL;
	X509_set_issuer_name(leaf, X509_get_subject_name(ca));
	if (certificate_extend(leaf, ca, NID_basic_constraints, "CA:FALSE") < 0 ||
	    certificate_extend(leaf, ca, NID_ext_key_usage, "serverAuth") < 0 ||
	    certificate_extend(leaf, ca, NID_authority_key_identifier, "keyid") < 0 ||
	    certificate_extend(leaf, ca, NID_subject_alt_name,
			       "DNS:localhost,IP:127.0.0.1,IP:::1") < 0 ||
	    X509_sign(leaf, ca_key, EVP_sha256()) == 0) {
		X509_free(leaf);
		return NULL;
	}
	return leaf;
}

/* -- a BIO on the two memory queues of a session */

static int
memory_read(BIO *bio, char *to, int len)
{
	struct tls *tls = BIO_get_data(bio);
	size_t n = (size_t)len < tls->in_len ? (size_t)len : tls->in_len;

	BIO_clear_retry_flags(bio);
	if (n == 0) {
		BIO_set_retry_read(bio);
		return -1;
	}
	memcpy(to, tls->in, n);
	tls->in += n;
	tls->in_len -= n;
	return (int)n;
}

static int
memory_write(BIO *bio, const char *from, int len)
{
	struct tls *tls = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	bytes_append(&tls->out, from, (size_t)len);
	return len;
}

static long
memory_control(BIO *bio, int command, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *
memory_method(void)
{
	BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "memory");

	if (!method)
		return NULL;
	BIO_meth_set_read(method, memory_read);
	BIO_meth_set_write(method, memory_write);
	BIO_meth_set_ctrl(method, memory_control);
	return method;
}

/* -- server */

/* Both SDKs and curl offer h2; nothing else is spoken here. */
static int
alpn_choose(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
	    unsigned int in_len, void *arg)
{
	(void)ssl;
	(void)arg;
	for (unsigned int i = 0; i < in_len; i += 1u + in[i]) {
		if (in[i] == 2 && i + 2 < in_len && memcmp(in + i + 1, "h2", 2) == 0) {
			*out = in + i + 1;
			*out_len = 2;
			return SSL_TLSEXT_ERR_OK;
		}
	}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int
server_certify(struct tls_server *server)
{
	EVP_PKEY *ca_key = EVP_EC_gen("P-256");
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *leaf = NULL;
	int r = -EPROTO;

	if (ca_key && key)
		server->ca = ca_new(ca_key);
	if (server->ca)
		leaf = leaf_new(key, server->ca, ca_key);
	if (leaf && SSL_CTX_use_certificate(server->ctx, leaf) == 1 &&
	    SSL_CTX_use_PrivateKey(server->ctx, key) == 1)
		r = 0;
	X509_free(leaf);
	EVP_PKEY_free(key);
	EVP_PKEY_free(ca_key);
	return r;
}

struct tls_server *
tls_server_new(void)
{
	struct tls_server *server = mem_new(sizeof *server);

	server->ctx = SSL_CTX_new(TLS_server_method());
	server->bio = memory_method();
	if (!server->ctx || !server->bio || server_certify(server) < 0) {
		tls_server_free(server);
		return NULL;
	}
	SSL_CTX_set_min_proto_version(server->ctx, TLS1_2_VERSION);
	SSL_CTX_set_ciphersuites(server->ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
	SSL_CTX_set_options(server->ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_mode(server->ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(server->ctx, 1);
	SSL_CTX_set_default_read_buffer_len(server->ctx, 128 * 1024);
	SSL_CTX_set_alpn_select_cb(server->ctx, alpn_choose, NULL);
	return server;
}

void
tls_server_free(struct tls_server *server)
{
	if (!server)
		return;
	SSL_CTX_free(server->ctx);
	X509_free(server->ca);
	BIO_meth_free(server->bio);
	free(server);
}

int
tls_server_write_ca(const struct tls_server *server, const char *path)
{
	FILE *file = fopen(path, "we");
	int r;

	if (!file)
		return -errno;
	r = PEM_write_X509(file, server->ca) == 1 ? 0 : -EIO;
	if (fclose(file) != 0 && r == 0)
		r = -errno;
	return r;
}

/* -- session */

struct tls *
tls_new(struct tls_server *server)
{
	struct tls *tls = mem_new(sizeof *tls);
	BIO *bio = BIO_new(server->bio);

	tls->ssl = SSL_new(server->ctx);
	if (!bio || !tls->ssl)
		abort();
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	SSL_set_accept_state(tls->ssl);
	return tls;
}

void
tls_free(struct tls *tls)
{
	if (!tls)
		return;
	SSL_free(tls->ssl);
	bytes_free(&tls->out);
	free(tls);
}

void
tls_feed(struct tls *tls, const uint8_t *data, size_t len)
{
	tls->in = data;
	tls->in_len = len;
}

static int
tls_result(struct tls *tls, int r)
{
	switch (SSL_get_error(tls->ssl, r)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return -EPIPE;
	default:
		ERR_clear_error();
		return -EPROTO;
	}
}

ssize_t
tls_read(struct tls *tls, uint8_t *to, size_t len)
{
	int r = SSL_read(tls->ssl, to, len > INT_MAX ? INT_MAX : (int)len);

	if (r > 0)
		return r;
	r = tls_result(tls, r);
	return r == -EAGAIN ? 0 : r;
}

int
tls_write(struct tls *tls, const uint8_t *data, size_t len)
{
	int r = SSL_write(tls->ssl, data, (int)len);

	return r > 0 ? 0 : tls_result(tls, r);
}

struct bytes *
tls_out(struct tls *tls)
{
	return &tls->out;
}

bool
tls_ready(const struct tls *tls)
{
	return SSL_is_init_finished(tls->ssl);
}
