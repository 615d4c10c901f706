"""Rows 54 to 58: inherited process state."""

import os
import resource
import time

from cases import case
from trial import has


def limit(kind, soft, hard=None):
    """A preexec_fn that sets one limit."""
    return lambda: resource.setrlimit(kind, (soft, soft if hard is None else hard))


@case(54, "umask")
def umask(t):
    """umask 077 holds for files and folders."""
    t.sh("umask; echo x > file; mkdir dir", status=0, preexec_fn=lambda: os.umask(0o077),
         out={"dash": b"0077\n", "bash": b"0077\n"})


@case(54, "umask-zero")
def umask_zero(t):
    """umask 0 holds as well."""
    t.sh("umask; echo x > file; mkdir dir", status=0, preexec_fn=lambda: os.umask(0))


@case(55, "open-files")
def open_files(t):
    """Limits on open files and core files are inherited."""
    def limits():
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 123))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    t.sh("ulimit -n; ulimit -c", status=0, out=b"123\n0\n", preexec_fn=limits)


@case(55, "soft-and-hard")
def soft_and_hard(t):
    """Soft and hard limits are inherited apart."""
    t.sh("ulimit -S -n; ulimit -H -n", status=0, out=b"100\n200\n",
         preexec_fn=limit(resource.RLIMIT_NOFILE, 100, 200))


@case(55, "all-limits")
def all_limits(t):
    """Every limit is that of the caller."""
    t.sh("cat /proc/self/limits", status=0, out=has(b"Max open files"))


@case(55, "few-open-files")
def few_open_files(t):
    """A command with a limit of 10 open files still runs."""
    t.sh("echo ok", status=0, out=b"ok\n", preexec_fn=limit(resource.RLIMIT_NOFILE, 10))


@case(56, "file-size")
def file_size(t):
    """A file that grows past the limit ends its writer with XFSZ."""
    t.sh("dd if=/dev/zero of=file bs=1000 count=20 status=none 2>/dev/null; exit $?", status=153,
         preexec_fn=limit(resource.RLIMIT_FSIZE, 4096))


@case(57, "cpu-time")
def cpu_time(t):
    """A busy loop dies of KILL after its second of CPU time."""
    begun = time.monotonic()
    t.sh("while :; do :; done", status=-9, preexec_fn=limit(resource.RLIMIT_CPU, 1))
    t.within("end", time.monotonic() - begun, .8, 12)


@case(57, "nice")
def nice(t):
    """The niceness is inherited."""
    t.sh("nice", status=0, out=b"7\n", preexec_fn=lambda: os.nice(7))


@case(58, "owner")
def owner(t):
    """A file that the command makes belongs to the caller; id agrees."""
    t.sh("echo x > file; id -u; id -g; echo $HOME", status=0,
         out=f"{os.getuid()}\n{os.getgid()}\n{t.dir}\n".encode())
    info = os.stat(t.path("file"))
    t.see("owner", (info.st_uid, info.st_gid), (os.getuid(), os.getgid()))


@case(57, "memory")
def memory(t):
    """A limit on memory holds."""
    t.sh("tail /dev/zero; echo $?", status=0, out=b"1\n", err=has(b"memory exhausted"),
         preexec_fn=limit(resource.RLIMIT_AS, 1 << 26))
