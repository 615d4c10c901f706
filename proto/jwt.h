/* jwt.h -- when a token ends.  Nothing else of it is read, and it is not verified: that is for
 * the server. */
#ifndef PROTO_JWT_H
#define PROTO_JWT_H

#include <stdint.h>

#define JWT_LEN_MAX 8192u

/* The claim "exp" (seconds since 1970) of a JWT's payload.  0, or -EBADMSG when there is none to
 * be found. */
int jwt_expiry(const char *token, int64_t *ret_unix_s);

#endif
