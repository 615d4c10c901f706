/* jwt.h -- the loopback's own tokens: three parts, HS256 with a key made at start, integer iat and
 * exp. */
#ifndef LOOPBACK_JWT_H
#define LOOPBACK_JWT_H

#include <stdint.h>

enum { JWT_KEY_LEN = 32 };

struct jwt_issuer {
	uint8_t key[JWT_KEY_LEN];
	int life_s;
};

/* Returns 0 or -EIO when there is no randomness. */
int jwt_issuer_init(struct jwt_issuer *issuer, int life_s);
/* audience says what the token is for, subject whom it is about; both plain words.  Caller frees.
 */
char *jwt_new(const struct jwt_issuer *issuer, const char *audience, const char *subject);
/* Returns the seconds that are left, or -1 when the token is foreign, for something else or
 * expired. */
double jwt_check(const struct jwt_issuer *issuer, const char *token, const char *audience,
		 const char *subject);

#endif
