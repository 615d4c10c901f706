/* client.h -- the side of the local socket that connects: modalsh and modalshctl. */
#ifndef SHIM_CLIENT_H
#define SHIM_CLIENT_H

#include <stddef.h>

#include "proto/job.h"
#include "shim/base/buf.h"
#include "shim/base/err.h"

struct client {
	int socket;
	struct buf in;
	size_t frame_len; /* of the frame given out last, still at the front of `in` */
};

/* The socket to use: MODALSH_SOCKET of env, or the built-in path when that is unset or empty.
 * Points into env. */
const char *client_socket_path(char *const *env);

/* Connects and checks the peer before anything is sent: it must run as root, as this process' own
 * user, or as the user whose number is MODALSH_BROKER_UID in env.  frame_len_max bounds the frames
 * that client_receive takes.  Returns 0, or -errno with *err saying what to do about it. */
int client_connect(const char *path, char *const *env, size_t frame_len_max, struct client *ret,
		   struct err *err);

/* Closes and frees; a struct whose socket is -1 and whose buffer is empty is fine. */
void client_close(struct client *client);

/* Sends all of `out` with the descriptors attached to its first byte, and empties it.  Returns 0,
 * -EPIPE when the peer has closed (what it sent before can still be received), -EAGAIN when it has
 * not read for too long, or -errno. */
int client_send(struct client *client, struct buf *out, const int *fds, size_t count);

/* Takes the next frame without waiting; it is valid until the next call.  Returns 1 with *ret, 0
 * when the peer has closed, -EAGAIN when no frame is complete yet, -EBADMSG when what came is no
 * frame, or -errno. */
int client_receive(struct client *client, struct job_frame *ret);

#endif
