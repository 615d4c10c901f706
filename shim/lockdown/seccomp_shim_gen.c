/* seccomp_shim_gen.c -- run when modalsh is built: turns the list below into the table that
 * seccomp_shim.c includes, so that the shim links no library.  The list covers static builds with
 * musl and with glibc, and sanitizer builds. */
#include <errno.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INSTRUCTIONS_MAX = 512 };

/* Harmless with any argument. */
static const char *const allowed[] = {
	/* waiting for the broker and for signals; restart_syscall continues a poll after SIGSTOP
	   and SIGCONT */
	"poll",
	"ppoll",
	"read",
	"recvfrom",
	"restart_syscall",
	"signalfd4",
	/* talking to the broker */
	"connect",
	"getsockopt",
	"setsockopt",
	"sendmsg",
	"write",
	"writev",
	"close",
	/* what a child would inherit */
	"getcwd",
	"getpriority",
	"prlimit64",
	"setrlimit",
	"readlink",
	"readlinkat",
	"rt_sigaction",
	"rt_sigpending",
	"rt_sigprocmask",
	"stat",
	"newfstatat",
	"umask",
	/* ending as the command ended */
	"exit",
	"exit_group",
	"getpid",
	"gettid",
	"kill",
	"tgkill",
	"tkill",
	/* identity */
	"geteuid",
	"getpgid",
	"getpgrp",
	"getppid",
	/* memory, and what the libcs use around it */
	"brk",
	"futex",
	"madvise",
	"mremap",
	"munmap",
	"clock_gettime",
	/* the sanitizers' runtime, at every end */
	"sigaltstack",
	"sched_yield",
};

/* Never tried by the shim, so a try is an attack. */
static const char *const killed[] = { "execve", "execveat", "fork",  "vfork",
				      "clone",	"clone3",   "ptrace" };

static int
add_names(scmp_filter_ctx ctx, uint32_t action, const char *const *names, size_t count)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		int number = seccomp_syscall_resolve_name(names[i]);

		/* negative: this architecture does not have it */
		r = number == __NR_SCMP_ERROR ? -ENOSYS :
		    number < 0		      ? 0 :
						seccomp_rule_add(ctx, action, number, 0);
		if (r < 0)
			fprintf(stderr, "seccomp-shim-gen: %s: %s\n", names[i], strerror(-r));
	}
	return r;
}

static int
add_checked(scmp_filter_ctx ctx)
{
	const struct {
		int number;
		struct scmp_arg_cmp argument;
	} rules[] = {
		{ SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0) },
		{ SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, TCGETS, 0) },
		{ SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, TIOCGWINSZ, 0) },
		{ SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
		{ SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < sizeof rules / sizeof rules[0]; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, rules[i].number, 1, rules[i].argument);
	return r;
}

static int
filter_build(scmp_filter_ctx ctx)
{
	int r;

	/* a binary tree: the kernel walks the filter once per system call number when it is loaded
	 */
	if ((r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2)) < 0 ||
	    (r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS)) < 0 ||
	    (r = add_names(ctx, SCMP_ACT_ALLOW, allowed, sizeof allowed / sizeof allowed[0])) < 0 ||
	    (r = add_names(ctx, SCMP_ACT_KILL_PROCESS, killed, sizeof killed / sizeof killed[0])) <
		    0)
		return r;
	return add_checked(ctx);
}

static int
filter_print(scmp_filter_ctx ctx)
{
	struct sock_filter filter[INSTRUCTIONS_MAX];
	int file = memfd_create("filter", MFD_CLOEXEC);
	ssize_t len;
	int r = file < 0 ? -errno : seccomp_export_bpf(ctx, file);

	if (r < 0)
		return r;
	len = pread(file, filter, sizeof filter, 0);
	if (len <= 0 || len == (ssize_t)sizeof filter)
		return -EFBIG;
	for (size_t i = 0; i < (size_t)len / sizeof filter[0]; i++)
		printf("\t{ 0x%04x, %u, %u, 0x%08" PRIx32 " },\n", filter[i].code, filter[i].jt,
		       filter[i].jf, filter[i].k);
	close(file);
	return fflush(stdout) == 0 ? 0 : -errno;
}

int
main(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r = ctx == NULL ? -ENOMEM : filter_build(ctx);

	if (r == 0)
		r = filter_print(ctx);
	seccomp_release(ctx);
	if (r < 0)
		fprintf(stderr, "seccomp-shim-gen: %s\n", strerror(-r));
	return r < 0;
}
