/* base64.h -- decoding, as header values of gRPC and parts of a JWT need it. */
#ifndef PROTO_BASE64_H
#define PROTO_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* Takes both alphabets (+/ and -_), with or without padding.  0 with *ret_used = bytes written,
 * or -EBADMSG for what is neither or does not fit. */
int base64_decode(const char *text, size_t len, uint8_t *ret, size_t ret_len, size_t *ret_used);

#endif
