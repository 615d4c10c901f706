"""Rows 73 to 77: descriptors and files."""

import fcntl
import os

from cases import case
from trial import has


@case(73, "inherited-pipe-written")
def inherited_pipe_written(t):
    """An inherited pipe on another descriptor can be written."""
    read_fd, write_fd = os.pipe()
    process = t.start("-c", f"echo data >&{write_fd}", pass_fds=(write_fd,))
    os.close(write_fd)
    t.see("data", t.read_all(read_fd, limit_s=5), b"data\n")
    t.check(t.finish(process), status=0)


@case(73, "inherited-pipe-read")
def inherited_pipe_read(t):
    """An inherited pipe on another descriptor can be read."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"data\n")
    os.close(write_fd)
    t.sh(f"cat <&{read_fd}", pass_fds=(read_fd,), status=0, out=b"data\n")


@case(73, "process-substitution")
def process_substitution(t):
    """The outer bash's <(…) and >(…) can be used."""
    t.outer("$SH -c 'cat \"$1\"' name <(echo data)", outer="/bin/bash", status=0, out=b"data\n")


@case(73, "none-leaks")
def none_leaks(t):
    """The command has no descriptor that the caller did not give it; bash becomes ls, which has a 3."""
    t.sh("ls /proc/$$/fd", status=0, out={"dash": b"0\n1\n2\n", "bash": b"0\n1\n2\n3\n"})


@case(73, "none-leaks-direct")
def none_leaks_direct(t):
    """The same without a shell: 3 is the folder that ls itself has open."""
    t.direct("ls", "/proc/self/fd", status=0, out=b"0\n1\n2\n3\n")


@case(74, "not-open")
def not_open(t):
    """Writing to a descriptor that is not open fails in the shell's words."""
    t.sh("echo x >&3", status={"dash": 2, "bash": 1}, err=has(b"Bad file descriptor"))


@case(75, "own-file")
def own_file(t):
    """A file that the shell itself opens as 3 has the text."""
    t.sh("exec 3>file; echo text >&3", status=0)
    t.see("file", t.read("file"), b"text\n")


@case(75, "inherited-file")
def inherited_file(t):
    """An inherited file on 3 has the text, and its offset moves."""
    t.outer("{ $SH -c 'echo text >&3'; echo more >&3; } 3>file", status=0)
    t.see("file", t.read("file"), b"text\nmore\n")


@case(75, "inherited-file-read")
def inherited_file_read(t):
    """An inherited file on 3 can be read, and its offset moves."""
    t.write("file", b"l1\nl2\n")
    t.outer("{ $SH -c 'read a <&3; echo 1:$a'; cat <&3; } 3<file", status=0, out=b"1:l1\nl2\n")


@case(76, "inherited-lock")
def inherited_lock(t):
    """A lock held on an inherited descriptor is shared; a separate open is refused."""
    fd = os.open(t.path("lock"), os.O_CREAT | os.O_WRONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    t.sh(f"flock -n {fd}; echo shared:$?; flock -n lock true; echo separate:$?", pass_fds=(fd,), status=0,
         out=b"shared:0\nseparate:1\n")


@case(76, "own-lock")
def own_lock(t):
    """A lock that the caller holds on a file is seen by a command that opens it."""
    with open(t.path("lock"), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        t.sh("flock -n lock true; echo $?", label="held", status=0, out=b"1\n")
        fcntl.flock(file, fcntl.LOCK_UN)
        t.sh("flock -n lock true; echo $?", label="free", status=0, out=b"0\n")


@case(77, "own-fifo")
def own_fifo(t):
    """A fifo made, written in the background and read."""
    t.sh("mkfifo fifo; echo thru > fifo & cat fifo; wait", status=0, out=b"thru\n")


@case(77, "fifo-between")
def fifo_between(t):
    """A fifo between the host and the command."""
    os.mkfifo(t.path("fifo"))
    t.outer("$SH -c 'echo thru > fifo' & cat fifo; wait", status=0, out=b"thru\n")


@case(77, "here-document")
def here_document(t):
    """Here-documents, small and big, arrive whole."""
    big = "\n".join(f"line {i}" for i in range(5000))
    t.sh("cat <<'end'\n$x `y` \\\nend\n", label="small", status=0, out=b"$x `y` \\\n")
    t.sh(f"cat <<'end'\n{big}\nend\n", label="big", status=0, out=big.encode() + b"\n")
