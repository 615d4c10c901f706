#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "shim/base/fdpass.h"
#include "shim/base/strv.h"
#include "shim/client.h"

/* A broker that accepts nothing and reads nothing for this long is as good as none. */
enum { SEND_WAIT_S = 30 };
/* One read takes as much; also the smallest room that a frame gets. */
enum { READ_LEN = 512 };

const char *
client_socket_path(char *const *env)
{
	const char *path = strv_env(env, "MODALSH_SOCKET");

	return path == NULL || path[0] == '\0' ? MODALSH_SOCKET_DEFAULT : path;
}

static int
connect_error(struct err *err, int errno_value, const char *path)
{
	switch (errno_value) {
	case ENOENT:
	case ENOTDIR:
		return err_set(err, errno_value,
			       "no broker: there is no socket %s; start modalsh-broker", path);
	case ECONNREFUSED:
		return err_set(
			err, errno_value,
			"no broker: nothing listens on %s any more; start modalsh-broker again",
			path);
	case EACCES:
	case EPERM:
		return err_set(err, errno_value, "not permitted to connect to %s", path);
	case EAGAIN:
		return err_set(err, errno_value, "the broker at %s does not accept connections",
			       path);
	default:
		return err_errno(err, errno_value, "connecting to %s", path);
	}
}

/* A number of at most nine digits: every uid but those no system gives out. */
static bool
uid_equals(const char *text, uid_t uid)
{
	uid_t value = 0;
	size_t i;

	for (i = 0; text[i] >= '0' && text[i] <= '9' && i < 9; i++)
		value = value * 10 + (uid_t)(text[i] - '0');
	return i > 0 && text[i] == '\0' && value == uid;
}

static int
peer_check(int socket, const char *path, char *const *env, struct err *err)
{
	const char *trusted = strv_env(env, "MODALSH_BROKER_UID");
	struct ucred peer;
	socklen_t len = sizeof peer;

	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_errno(err, errno, "asking who owns %s", path);
	if (peer.uid == 0 || peer.uid == geteuid() ||
	    (trusted != NULL && uid_equals(trusted, peer.uid)))
		return 0;
	return err_set(
		err, EPERM,
		"%s belongs to user %u, who is not trusted to be the broker (MODALSH_BROKER_UID)",
		path, (unsigned)peer.uid);
}

int
client_connect(const char *path, char *const *env, size_t frame_len_max, struct client *ret,
	       struct err *err)
{
	const struct timeval wait = { .tv_sec = SEND_WAIT_S };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int fd = -1;
	int r;

	if (path[0] != '/')
		return err_set(err, EINVAL, "the path of the broker's socket is not absolute");
	if (strlen(path) >= sizeof address.sun_path)
		return err_set(err, ENAMETOOLONG, "the path of the socket is longer than %zu bytes",
			       sizeof address.sun_path - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, errno, "making a socket");
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait) < 0)
		return err_errno(err, errno, "setting up a socket");
	if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
		return connect_error(err, errno, path);
	r = peer_check(fd, path, env, err);
	if (r < 0)
		return r;
	*ret = (struct client){ .socket = fd_steal(&fd) };
	buf_init(&ret->in, frame_len_max);
	return 0;
}

void
client_close(struct client *client)
{
	fd_close(&client->socket);
	buf_free(&client->in);
}

int
client_send(struct client *client, struct buf *out, const int *fds, size_t count)
{
	int r = fdpass_send(client->socket, buf_head(out), buf_len(out), fds, count);

	buf_consume(out, buf_len(out));
	return r == -ECONNRESET ? -EPIPE : r;
}

static int
receive_some(struct client *client)
{
	size_t held = buf_len(&client->in);
	size_t room = client->in.len_max - held;
	uint8_t *data;
	ssize_t got;

	if (room == 0)
		return -EBADMSG; /* a frame that is longer than what we take */
	if (room > READ_LEN && held < READ_LEN)
		room = READ_LEN;
	else if (room > held)
		room = held; /* double what is there */
	data = buf_reserve(&client->in, room);
	if (data == NULL)
		return -ENOMEM;
	got = recv(client->socket, data, room, MSG_DONTWAIT);
	if (got < 0)
		return errno == ECONNRESET ? 0 : errno == EINTR ? -EAGAIN : -errno;
	buf_added(&client->in, (size_t)got);
	return got > 0;
}

int
client_receive(struct client *client, struct job_frame *ret)
{
	int r;

	buf_consume(&client->in, client->frame_len);
	client->frame_len = 0;
	r = job_frame_take(&client->in, ret);
	if (r == 0) {
		r = receive_some(client);
		if (r <= 0)
			return r;
		r = job_frame_take(&client->in, ret);
	}
	if (r == 0)
		return -EAGAIN;
	if (r == 1)
		client->frame_len = ret->len;
	return r;
}
