"""Rows 30 to 38: stdout and stderr."""

import os
import resource
import signal
import socket
import time

from cases import case
from trial import HOLD, PIPE, STDOUT, has

ALTERNATING = 'i=0; while [ $i -lt 4000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done'


def alternating_lines(count):
    """What ALTERNATING prints to one place."""
    return b"".join(b"o%d\ne%d\n" % (i, i) for i in range(count))


@case(30, "separate")
def separate(t):
    """stdout and stderr are separate."""
    t.sh("echo out; echo err >&2; exit 2", status=2, out=b"out\n", err=b"err\n")


@case(30, "every-byte")
def every_byte(t):
    """All 256 byte values arrive on stdout and on stderr."""
    data = bytes(range(256))
    t.write("bytes", data)
    t.sh("cat bytes; cat bytes >&2", out=data, err=data)


@case(30, "two-pipes-small-writes")
def two_pipes_small_writes(t):
    """4,000 small writes to each of two pipes, in turn: each pipe has its own in order."""
    t.sh(ALTERNATING, out=b"".join(b"o%d\n" % i for i in range(4000)),
         err=b"".join(b"e%d\n" % i for i in range(4000)))


@case(30, "before-exit")
def before_exit(t):
    """All output is in the caller's pipe when the shell has ended, not later."""
    process = t.start("-c", "head -c 30000 /dev/zero; head -c 30000 /dev/zero >&2")
    t.see_status("status", t.wait(process), 0)
    for label, file in (("stdout", process.stdout), ("stderr", process.stderr)):
        got = os.read(file.fileno(), 1 << 20) if t.readable(file.fileno()) else b""
        t.see(label, len(got), 30000)


@case(30, "one-long-line")
def one_long_line(t):
    """A line of 1 MB without an end arrives whole."""
    t.sh("head -c 1000000 /dev/zero | tr '\\0' x", out=b"x" * 1_000_000)


@case(31, "same-pipe")
def same_pipe(t):
    """stdout and stderr in one pipe keep their order."""
    t.sh("for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done", stderr=STDOUT,
         out=b"o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5\n")


@case(31, "same-pipe-4000")
def same_pipe_4000(t):
    """4,000 alternating lines in one pipe keep their order."""
    t.sh(ALTERNATING, stderr=STDOUT, out=alternating_lines(4000))


@case(31, "same-file")
def same_file(t):
    """stdout and stderr in one open file keep their order."""
    with open(t.path("file"), "wb") as file:
        t.see_status("status", t.run("-c", ALTERNATING, stdout=file, stderr=file).status, 0)
        t.see("offset", os.lseek(file.fileno(), 0, os.SEEK_CUR), len(alternating_lines(4000)))
    t.see("file", t.read("file"), alternating_lines(4000))


@case(31, "same-file-opened-twice")
def same_file_opened_twice(t):
    """One file opened twice has two offsets: the later writer overwrites."""
    first, second = (os.open(t.path("file"), os.O_CREAT | os.O_WRONLY) for _ in range(2))
    t.sh("echo aaaaaa; sleep .2; echo bb >&2", stdout=first, stderr=second)
    t.see("file", t.read("file"), b"bb\naaa\n")


@case(31, "same-socket")
def same_socket(t):
    """stdout and stderr in one socket keep their order."""
    ours, theirs = socket.socketpair()
    process = t.start("-c", ALTERNATING, stdout=theirs, stderr=theirs)
    theirs.close()
    t.see("both", t.read_all(ours.fileno()), alternating_lines(4000))
    t.see_status("status", t.wait(process), 0)


@case(31, "swapped")
def swapped(t):
    """The caller may have its descriptors the wrong way round."""
    t.outer("$SH -c 'echo out; echo err >&2' 3>&1 1>&2 2>&3 3>&-", out=b"err\n", err=b"out\n")


@case(32, "first-bytes")
def first_bytes(t):
    """Bytes without a newline arrive while the command still runs."""
    process = t.start("-c", "printf no-newline; until [ -e go ]; do sleep .02; done; echo .")
    t.see("first", t.read_until(process.stdout.fileno(), b"no-newline"), b"no-newline")
    t.see("still running", t.is_running(process), True)
    t.go()
    t.see("rest", t.read_all(process.stdout.fileno()), b".\n")
    t.see_status("status", t.wait(process), 0)


@case(33, "fifty-megabytes", alone=True)
def fifty_megabytes(t):
    """50,000,000 bytes of stdout arrive."""
    outcome = t.run("-c", "yes 0123456789abcde | head -c 50000000")
    t.see("stdout", outcome.out, lambda data: len(data) == 50_000_000)
    t.see_status("status", outcome.status, 0)


@case(34, "stderr-alone")
def stderr_alone(t):
    """5 MB on stderr while stdout is idle, nobody reading stdout meanwhile."""
    process = t.start("-c", "head -c 5000000 /dev/zero >&2; echo ok")
    t.see("stderr", len(t.read_all(process.stderr.fileno())), 5_000_000)
    t.see("stdout", t.read_all(process.stdout.fileno()), b"ok\n")
    t.see_status("status", t.wait(process), 0)


@case(34, "stdout-stalled")
def stdout_stalled(t):
    """A full stdout does not hold up stderr of the same command."""
    process = t.start("-c", "head -c 8000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait")
    t.see("stderr", len(t.read_count(process.stderr.fileno(), 5_000_000)), 5_000_000)
    t.see("stdout", len(t.read_all(process.stdout.fileno())), 8_000_000)
    t.see_status("status", t.wait(process), 0)


@case(35, "nobody-reads-yet")
def nobody_reads_yet(t):
    """3 MB wait for a reader; then all of it arrives."""
    process = t.start("-c", "head -c 3000000 /dev/zero; echo end")
    time.sleep(.5)
    t.see("still running", t.is_running(process), True)
    t.see("stdout", len(t.read_all(process.stdout.fileno())), 3_000_004)
    t.see_status("status", t.wait(process), 0)


@case(35, "exit-while-writer-blocks")
def exit_while_writer_blocks(t):
    """The shell's end is seen while a child of it still waits for a reader; nothing is lost."""
    process = t.start("-c", "head -c 3000000 /dev/zero & exit 5")
    t.see_status("status", t.wait(process), 5)
    t.see("stdout", len(t.read_all(process.stdout.fileno())), 3_000_000)


@case(36, "yes-into-head")
def yes_into_head(t):
    """yes | head ends silently with 141 0."""
    t.outer("$SH -c yes | head -n1; echo ${PIPESTATUS[@]}", outer="/bin/bash", status=0,
            out=b"y\n141 0\n", err=b"")


@case(37, "reader-gone")
def reader_gone(t):
    """When the reader closes, the writer dies of it, promptly."""
    process = t.start("-c", "yes")
    t.see("first", t.read_until(process.stdout.fileno(), b"y\n" * 5), b"y\n" * 5)
    process.stdout.close()
    t.see_status("status", t.wait(process), {"dash": 141, "bash": -13})


@case(37, "reader-gone-none-left")
def reader_gone_none_left(t):
    """When the reader closes, nothing of the command is left."""
    process = t.start("-c", HOLD + "yes")
    t.see("first", t.read_until(process.stdout.fileno(), b"y\n"), b"y\n")
    process.stdout.close()
    t.see_status("status", t.wait(process))
    t.see_none_left("none left")


@case(37, "reader-gone-stderr")
def reader_gone_stderr(t):
    """When the reader of stderr closes, a writer to stdout goes on."""
    process = t.start("-c", "echo 1; until [ -e go ]; do sleep .02; done; echo 2")
    t.see("first", t.read_until(process.stdout.fileno(), b"1\n"), b"1\n")
    process.stderr.close()
    t.go()
    t.see("second", t.read_all(process.stdout.fileno()), b"2\n")
    t.see_status("status", t.wait(process), 0)


@case(37, "reader-gone-before")
def reader_gone_before(t):
    """A pipe that nobody reads from the start kills the first writer."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    t.sh("sleep .1; /bin/echo x; echo code:$? >&2", stdout=write_fd, err=b"code:141\n")


@case(37, "sigpipe-ignored")
def sigpipe_ignored(t):
    """A caller that ignores SIGPIPE has commands that see EPIPE instead."""
    process = t.start("-c", "yes; echo code:$? >&2", restore_signals=False,
                      preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN))
    t.see("first", t.read_until(process.stdout.fileno(), b"y\n"), b"y\n")
    process.stdout.close()
    t.see_status("status", t.wait(process), 0)
    t.see("stderr", t.read_all(process.stderr.fileno()),
          b"yes: standard output: Broken pipe\ncode:1\n")


@case(38, "stdout-closed")
def stdout_closed(t):
    """A closed fd 1 is closed for the command as well."""
    t.sh("echo x", stdout=None, preexec_fn=lambda: os.close(1), status=1, err=lambda text: text != b"")


@case(38, "stderr-closed")
def stderr_closed(t):
    """A closed fd 2 is closed for the command as well."""
    t.sh("echo x >&2; echo $?", stderr=None, preexec_fn=lambda: os.close(2))


@case(38, "all-closed")
def all_closed(t):
    """With 0, 1 and 2 closed the command runs, and files that it opens get those numbers."""
    t.sh("exec >file; readlink /proc/$$/fd/0 /proc/$$/fd/2; echo over; exit 6", stdin=None, stdout=None,
         stderr=None, preexec_fn=lambda: os.closerange(0, 3), status=6)


@case(38, "stdout-read-only")
def stdout_read_only(t):
    """A stdout that is open for reading only cannot be written."""
    fd = os.open(t.write("file", b"content"), os.O_RDONLY)
    t.sh("echo x", stdout=fd, status=1, err=lambda text: text != b"")


@case(38, "dev-full")
def dev_full(t):
    """Writing to /dev/full fails in the command."""
    with open("/dev/full", "wb", buffering=0) as file:
        t.sh("/bin/echo x", stdout=file, status=1, err=has(b"No space left on device"))


@case(38, "dev-null")
def dev_null(t):
    """5 MB to /dev/null are over at once."""
    with open(os.devnull, "wb") as file:
        t.sh("head -c 5000000 /dev/zero; echo err >&2", stdout=file, status=0, err=b"err\n")


@case(38, "file")
def to_file(t):
    """A file gets the output from its offset on; the shared offset moves."""
    fd = os.open(t.write("file", b"xxxxxxxxxx"), os.O_WRONLY)
    os.lseek(fd, 3, os.SEEK_SET)
    t.sh("echo hi", stdout=fd)
    t.see("offset", os.lseek(fd, 0, os.SEEK_CUR), 6)
    t.see("file", t.read("file"), b"xxxhi\nxxxx")


@case(38, "file-big")
def to_file_big(t):
    """All of 20 MB is in the file when the shell has ended."""
    with open(t.path("file"), "wb") as file:
        t.see_status("status", t.run("-c", "yes 0123456789abcde | head -c 20000000", stdout=file).status, 0)
    t.see("size", os.path.getsize(t.path("file")), 20_000_000)


@case(38, "file-appended")
def file_appended(t):
    """Twenty shells at once append to one file opened with O_APPEND; every line is whole."""
    t.outer('for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do '
            '$SH -c "for j in 1 2 3 4 5 6 7 8 9; do echo line-$i-\\$j; done" >> file & done; wait')
    t.leave_out("file")
    t.see("lines", sorted(t.read("file").split()),
          sorted(b"line-%d-%d" % (i, j) for i in range(1, 21) for j in range(1, 10)))


@case(38, "file-truncated-by-outer")
def file_shared_offset(t):
    """Outer and inner shell write in turn to one open file."""
    t.outer("{ echo 1; $SH -c 'echo 2'; echo 3; $SH -c 'echo 4 >&2' 2>&1; echo 5; } > file")
    t.see("file", t.read("file"), b"1\n2\n3\n4\n5\n")


@case(38, "is-a-file")
def is_a_file(t):
    """A program that asks is told that its stdout is a file of this size."""
    with open(t.write("file", b"12345"), "ab") as file:
        t.sh("exec 3>&1; stat -L -c '%F %s' /proc/self/fd/3 >&2", stdout=file, err=b"regular file 5\n")


@case(38, "file-size-limit")
def file_size_limit(t):
    """A limit on the size of files ends a writer to a file."""
    with open(t.path("file"), "wb") as file:
        t.sh("/bin/dd if=/dev/zero bs=1000 count=20 status=none 2>/dev/null; echo code:$? >&2", stdout=file,
             err=has(b"code:153\n"),
             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))


@case(38, "socket")
def to_socket(t):
    """A socket as stdout is at its end right after the shell."""
    ours, theirs = socket.socketpair()
    process = t.start("-c", "echo x; head -c 1000000 /dev/zero", stdin=PIPE, stdout=theirs)
    theirs.close()
    t.see("stdout", t.read_all(ours.fileno()), b"x\n" + bytes(1_000_000))
    t.see_status("status", t.wait(process), 0)


@case(38, "is-a-file-reopened")
def reopened(t):
    """Opening /dev/stdout by name empties the file that it is."""
    with open(t.path("file"), "wb") as file:
        t.sh("echo one; echo two > /dev/stdout", stdout=file, status=0)


@case(38, "not-blocking")
def not_blocking(t):
    """A caller's pipe that does not block takes what fits."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    t.sh("head -c 50000 /dev/zero", stdout=write_fd, status=0)
    os.close(write_fd)
    t.see("stdout", len(t.read_all(read_fd)), 50_000)
