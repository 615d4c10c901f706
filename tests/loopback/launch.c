#include "tests/loopback/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim/base/fd.h"
#include "tests/loopback/bytes.h"
#include "tests/loopback/sandbox.h"
#include "tests/loopback/tree.h"
#include "tests/loopback/worker.h"

enum { ARGS_MAX = 256, HOSTNAME_TAIL_LEN = 10 };

/* Nothing here is private to the host. */
static const char *const etc_copied[] = {
	"passwd",	"group",	"nsswitch.conf",   "ld.so.cache",
	"ld.so.conf",	"ld.so.conf.d", "alternatives",	   "localtime",
	"timezone",	"mime.types",	"services",	   "protocols",
	"profile",	"profile.d",	"bash.bashrc",	   "inputrc",
	"terminfo",	"resolv.conf",	"debian_version",  "os-release",
	"issue",	"skel",		"shells",	   "login.defs",
	"perl",		"python3",	"python3.11",	   "gai.conf",
	"host.conf",	"magic",	"magic.mime",	   "environment",
	"locale.alias", "locale.gen",	"mailcap",	   "ca-certificates",
	"xattr.conf",	"vim",		"gitconfig",	   "ethertypes",
	"rpc",		"networks",	"java-11-openjdk", "java-17-openjdk",
	"fonts",	"emacs",	"manpath.config",  "nanorc",
	"wgetrc",	"ssl/certs",	"ssl/openssl.cnf",
};

static const struct {
	const char *path;
	mode_t mode;
} folders[] = {
	{ "root", 0700 },	 { "home", 0755 },	{ "tmp", 01777 },
	{ "opt", 0755 },	 { "srv", 0755 },	{ "mnt", 0755 },
	{ "media", 0755 },	 { "run", 0755 },	{ "run/lock", 01777 },
	{ "dev", 0755 },	 { "proc", 0755 },	{ "sys", 0755 },
	{ "usr", 0755 },	 { "boot", 0755 },	{ "workspace", 0755 },
	{ "__modal", 0755 },	 { "etc", 0755 },	{ "etc/ssl", 0755 },
	{ "var", 0755 },	 { "var/tmp", 01777 },	{ "var/log", 0755 },
	{ "var/lib", 0755 },	 { "var/cache", 0755 }, { "var/spool", 0755 },
	{ "var/mail", 0755 },	 { "var/local", 0755 }, { "var/opt", 0755 },
	{ "var/backups", 0755 },
};

/* Of the merged /usr; a host with real directories there shows them read-only instead. */
static const char *const usr_links[] = { "bin", "sbin", "lib", "lib32", "lib64", "libx32" };

/* -- the base tree */

static int
file_write(const char *path, const char *text)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	size_t len = strlen(text);

	if (fd < 0)
		return -errno;
	return write(fd, text, len) == (ssize_t)len ? 0 : -EIO;
}

static int
base_folders(const char *base)
{
	int r = 0;

	for (size_t i = 0; i < sizeof folders / sizeof *folders && r == 0; i++) {
		char *path = text_format("%s/%s", base, folders[i].path);

		if (mkdir(path, 0755) < 0 || chmod(path, folders[i].mode) < 0)
			r = -errno;
		free(path);
	}
	return r;
}

static int
base_link(const char *base, const char *name, const char *target)
{
	char *path = text_format("%s/%s", base, name);
	int r = symlink(target, path) < 0 ? -errno : 0;

	free(path);
	return r;
}

/* A copy of the host's link, or a folder to show the host's folder on. */
static int
base_usr_link(const char *base, const char *name)
{
	char *from = text_format("/%s", name);
	char *to = text_format("%s/%s", base, name);
	struct stat st;
	int r = 0;

	if (lstat(from, &st) == 0)
		r = S_ISLNK(st.st_mode) ? tree_copy_entry(from, to) :
		    mkdir(to, 0755) < 0 ? -errno :
					  0;
	free(from);
	free(to);
	return r;
}

static int
base_links(const char *base)
{
	int r = base_link(base, "var/run", "/run");

	if (r == 0)
		r = base_link(base, "var/lock", "/run/lock");
	for (size_t i = 0; i < sizeof usr_links / sizeof *usr_links && r == 0; i++)
		r = base_usr_link(base, usr_links[i]);
	return r;
}

/* What a host has not, or does not show us, is missing. */
static void
base_etc(const char *base)
{
	for (size_t i = 0; i < sizeof etc_copied / sizeof *etc_copied; i++) {
		char *from = text_format("/etc/%s", etc_copied[i]);
		char *to = text_format("%s/etc/%s", base, etc_copied[i]);

		tree_copy_entry(from, to);
		free(from);
		free(to);
	}
}

int
launch_base_make(const char *state_dir)
{
	char *base = text_format("%s/base", state_dir);
	int r = mkdir(base, 0755) < 0 ? -errno : 0;

	if (r == 0)
		r = base_folders(base);
	if (r == 0)
		r = base_links(base);
	if (r == 0)
		base_etc(base);
	free(base);
	return r;
}

/* -- the child that becomes bwrap */

struct args {
	const char *list[ARGS_MAX];
	int count;
};

static void
arg(struct args *a, const char *text)
{
	if (a->count >= ARGS_MAX - 1)
		_exit(E2BIG);
	a->list[a->count++] = text;
}

static void
args3(struct args *a, const char *option, const char *from, const char *to)
{
	arg(a, option);
	arg(a, from);
	arg(a, to);
}

static void
args_namespaces(struct args *a, const struct sandbox *s, const char *hostname)
{
	arg(a, "bwrap");
	arg(a, "--die-with-parent");
	arg(a, "--unshare-pid");
	arg(a, "--as-pid-1");
	arg(a, "--unshare-ipc");
	arg(a, "--unshare-uts");
	arg(a, "--hostname");
	arg(a, hostname);
	if (s->spec.blocked)
		arg(a, "--unshare-net");
	if (geteuid() != 0) {
		arg(a, "--unshare-user");
		args3(a, "--uid", "0", "--gid");
		arg(a, "0");
	}
	arg(a, "--cap-add");
	arg(a, "ALL");
	arg(a, "--new-session");
}

static void
args_usr(struct args *a)
{
	static const char *const real[] = {
		"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"
	};
	struct stat st;

	args3(a, "--ro-bind", "/usr", "/usr");
	for (size_t i = 0; i < sizeof real / sizeof *real; i++) {
		if (lstat(real[i], &st) == 0 && S_ISDIR(st.st_mode))
			args3(a, "--ro-bind", real[i], real[i]);
	}
}

static void
args_files(struct args *a, const struct sandbox *s)
{
	args3(a, "--bind", text_format("%s/root", s->dir), "/");
	args_usr(a);
	arg(a, "--proc");
	arg(a, "/proc");
	arg(a, "--dev");
	arg(a, "/dev");
	arg(a, "--perms");
	arg(a, "1777");
	arg(a, "--tmpfs");
	arg(a, "/dev/shm");
	arg(a, "--tmpfs");
	arg(a, "/__modal");
	args3(a, "--ro-bind", s->host->program, "/__modal/.bin/modalsh-init");
	args3(a, "--bind", text_format("%s/mounts", s->dir), "/__modal/mounts");
	for (char *const *share = s->host->shares; *share; share++)
		args3(a, "--bind", *share, *share);
	for (int i = 0; i < s->spec.mount_count; i++) {
		const struct sandbox_mount *m = &s->spec.mounts[i];

		args3(a, m->read_only ? "--ro-bind" : "--bind", m->source, m->target);
	}
}

static int
root_name(const struct sandbox *s, const char *hostname)
{
	char *path = text_format("%s/root/etc/hostname", s->dir);
	char *text = text_format("%s\n", hostname);
	int r = file_write(path, text);

	if (r < 0)
		return r;
	path = text_format("%s/root/etc/hosts", s->dir);
	text = text_format("127.0.0.1 localhost\n::1 localhost\n127.0.0.1 %s\n", hostname);
	return file_write(path, text);
}

static int
root_make(const struct sandbox *s, const char *hostname)
{
	char *root = text_format("%s/root", s->dir);
	int r = tree_copy(s->spec.root, root);

	return r < 0 ? r : root_name(s, hostname);
}

/* stdin from nowhere, what bwrap has to say into the sandbox's log; never into a command's output.
 */
static void
child_stdio(const struct sandbox *s)
{
	char *path = text_format("%s/log", s->dir);
	int null = open("/dev/null", O_RDONLY);
	int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);

	dup2(null, 0);
	dup2(log, 1);
	dup2(log, 2);
}

static void __attribute__((noreturn)) child_run(struct sandbox *s, int socket)
{
	struct args a = { .count = 0 };
	union {
		const char **in;
		char **out;
	} argv = { .in = a.list };
	size_t tail = strlen(s->task_id);
	char *hostname = text_format(
		"modal-%s", s->task_id + (tail > HOSTNAME_TAIL_LEN ? tail - HOSTNAME_TAIL_LEN : 0));
	int r;

	child_stdio(s);
	setsid();
	r = root_make(s, hostname);
	if (r < 0) {
		dprintf(2, "cannot copy the image: %s\n", strerror(-r));
		_exit(1);
	}
	setrlimit(RLIMIT_NOFILE, &s->host->files);
	fcntl(socket, F_SETFD, 0);
	args_namespaces(&a, s, hostname);
	args_files(&a, s);
	args3(&a, "--chdir", "/", "--clearenv");
	arg(&a, "--");
	args3(&a, "/__modal/.bin/modalsh-init", "--sandbox-init", text_format("%d", socket));
	execvp("bwrap", argv.out);
	dprintf(2, "cannot run bwrap: %s\n", strerror(errno));
	_exit(1);
}

pid_t
launch_start(struct sandbox *s, int socket)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	int r = -errno;

	if (pid == 0) {
		worker_child_prepare(parent);
		child_run(s, socket);
	}
	close(socket);
	return pid < 0 ? r : pid;
}
