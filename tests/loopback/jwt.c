#include "tests/loopback/jwt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "tests/loopback/bytes.h"

enum { SIGNATURE_LEN = 32, TEXT_LEN = 512 };

static const char jwt_header[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";

int
jwt_issuer_init(struct jwt_issuer *issuer, int life_s)
{
	issuer->life_s = life_s;
	return RAND_bytes(issuer->key, JWT_KEY_LEN) == 1 ? 0 : -EIO;
}

/* base64url without padding */
static void
text_encode(const void *data, size_t len, char *to)
{
	int n = EVP_EncodeBlock((unsigned char *)to, data, (int)len);

	while (n > 0 && to[n - 1] == '=')
		to[--n] = '\0';
	for (; n > 0; n--) {
		if (to[n - 1] == '+')
			to[n - 1] = '-';
		else if (to[n - 1] == '/')
			to[n - 1] = '_';
	}
}

static size_t
text_decode(const char *from, size_t len, char *to)
{
	char padded[TEXT_LEN * 2];
	int n;

	if (len + 4 > sizeof padded)
		return 0;
	memcpy(padded, from, len);
	for (size_t i = 0; i < len; i++) {
		if (padded[i] == '-')
			padded[i] = '+';
		else if (padded[i] == '_')
			padded[i] = '/';
	}
	while (len % 4)
		padded[len++] = '=';
	n = EVP_DecodeBlock((unsigned char *)to, (unsigned char *)padded, (int)len);
	return n < 0 ? 0 : (size_t)n;
}

static void
text_sign(const struct jwt_issuer *issuer, const char *text, size_t len, char *to)
{
	unsigned char mac[SIGNATURE_LEN];

	HMAC(EVP_sha256(), issuer->key, JWT_KEY_LEN, (const unsigned char *)text, len, mac, NULL);
	text_encode(mac, sizeof mac, to);
}

char *
jwt_new(const struct jwt_issuer *issuer, const char *audience, const char *subject)
{
	char payload[TEXT_LEN], header_text[TEXT_LEN], payload_text[TEXT_LEN * 2], signature[64];
	long long now = (long long)time(NULL);
	char *body, *token;
	int n;

	n = snprintf(payload, sizeof payload,
		     "{\"aud\":\"%s\",\"sub\":\"%s\",\"iat\":%lld,\"exp\":%lld}", audience, subject,
		     now, now + issuer->life_s);
	if (n >= (int)sizeof payload)
		abort();
	text_encode(jwt_header, sizeof jwt_header - 1, header_text);
	text_encode(payload, (size_t)n, payload_text);
	body = text_format("%s.%s", header_text, payload_text);
	text_sign(issuer, body, strlen(body), signature);
	token = text_format("%s.%s", body, signature);
	free(body);
	return token;
}

double
jwt_check(const struct jwt_issuer *issuer, const char *token, const char *audience,
	  const char *subject)
{
	const char *payload_at = token ? strchr(token, '.') : NULL;
	const char *signature_at = payload_at ? strchr(payload_at + 1, '.') : NULL;
	char signature[64], payload[TEXT_LEN * 2], expected[TEXT_LEN];
	const char *exp;
	struct timespec now;
	size_t len;

	if (!signature_at || strlen(signature_at + 1) >= sizeof signature)
		return -1;
	text_sign(issuer, token, (size_t)(signature_at - token), signature);
	if (strlen(signature) != strlen(signature_at + 1) ||
	    CRYPTO_memcmp(signature, signature_at + 1, strlen(signature)) != 0)
		return -1;
	len = text_decode(payload_at + 1, (size_t)(signature_at - payload_at - 1), payload);
	payload[len] = '\0';
	snprintf(expected, sizeof expected, "{\"aud\":\"%s\",\"sub\":\"%s\",", audience, subject);
	exp = strstr(payload, "\"exp\":");
	if (strncmp(payload, expected, strlen(expected)) != 0 || !exp)
		return -1;
	clock_gettime(CLOCK_REALTIME, &now);
	double left = strtod(exp + 6, NULL) - (double)now.tv_sec - (double)now.tv_nsec / 1e9;
	return left > 0 ? left : -1;
}
