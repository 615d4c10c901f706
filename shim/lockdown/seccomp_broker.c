#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "shim/lockdown/lockdown.h"

/* The broker starts nothing, looks into nobody and leaves the machine as it is. */
static const char *const killed[] = {
	/* programs and processes; clone is checked for its flags below */
	"execve",
	"execveat",
	"fork",
	"vfork",
	/* other processes' memory and descriptors */
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"process_madvise",
	"pidfd_getfd",
	"userfaultfd",
	/* mounts and namespaces */
	"mount",
	"umount2",
	"pivot_root",
	"chroot",
	"move_mount",
	"open_tree",
	"fsopen",
	"fsconfig",
	"fsmount",
	"fspick",
	"mount_setattr",
	"unshare",
	"setns",
	"open_by_handle_at",
	"swapon",
	"swapoff",
	/* the kernel */
	"kexec_load",
	"kexec_file_load",
	"init_module",
	"finit_module",
	"delete_module",
	"bpf",
	"perf_event_open",
	"reboot",
	"iopl",
	"ioperm",
	"acct",
	"settimeofday",
	"clock_settime",
	/* key rings */
	"add_key",
	"request_key",
	"keyctl",
};

static int
add_killed(scmp_filter_ctx ctx, struct err *err)
{
	for (size_t i = 0; i < sizeof killed / sizeof killed[0]; i++) {
		int number = seccomp_syscall_resolve_name(killed[i]);
		int r;

		if (number == __NR_SCMP_ERROR)
			return err_set(err, ENOSYS, "seccomp: libseccomp does not know %s",
				       killed[i]);
		/* negative: this architecture does not have it */
		r = number < 0 ? 0 : seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, number, 0);
		if (r < 0)
			return err_errno(err, -r, "seccomp: %s", killed[i]);
	}
	return 0;
}

/* A thread is a clone with CLONE_THREAD.  The flags of clone3 are in memory, where no filter sees
 * them: as a call that does not exist it makes the libc use clone.  io_uring would do its work past
 * the filter. */
static int
add_threads_only(scmp_filter_ctx ctx, struct err *err)
{
	int r;

	if ((r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), 1,
				  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0))) < 0 ||
	    (r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0)) < 0 ||
	    (r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(io_uring_setup), 0)) < 0)
		return err_errno(err, -r, "seccomp: clone");
	return 0;
}

static int
filter_load(scmp_filter_ctx ctx, struct err *err)
{
	int r;

	if ((r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1)) < 0 ||
	    (r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2)) < 0 ||
	    (r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS)) < 0)
		return err_errno(err, -r, "seccomp: setting up the filter");
	if ((r = add_killed(ctx, err)) < 0 || (r = add_threads_only(ctx, err)) < 0)
		return r;
	r = seccomp_load(ctx);
	return r < 0 ? err_errno(err, -r, "seccomp: loading the filter") : 0;
}

int
lockdown_broker(struct err *err)
{
	const struct rlimit no_core = { 0, 0 };
	scmp_filter_ctx ctx;
	int r;

	if (setrlimit(RLIMIT_CORE, &no_core) < 0)
		return err_errno(err, errno, "forbidding core files");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_errno(err, errno, "becoming undumpable");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(err, errno, "forbidding new privileges");
	ctx = seccomp_init(SCMP_ACT_ALLOW);
	if (ctx == NULL)
		return err_set(err, ENOMEM, "seccomp: no memory");
	r = filter_load(ctx, err);
	seccomp_release(ctx);
	return r;
}
