"""Rows 19 to 29: stdin."""

import fcntl
import os
import random
import socket
import time

from cases import case
from trial import PIPE, has, write_all

LINES = b"l1\nl2\nl3\n"


@case(19, "echo-into-cat")
def echo_into_cat(t):
    """EOF on a pipe is seen, with input and without."""
    t.sh("cat; echo done", data=b"foo\n", status=0, out=b"foo\ndone\n")
    t.sh("cat; echo done", data=b"", label="empty", status=0, out=b"done\n")
    t.direct("cat", data=b"foo\n", label="direct", status=0, out=b"foo\n")


@case(20, "dev-null")
def dev_null(t):
    """/dev/null is at its end at once, and is /dev/null."""
    t.sh("cat; readlink /proc/self/fd/0", status=0, out=b"/dev/null\n")


@case(21, "three-mib")
def three_mib(t):
    """3 MiB of random bytes come back identical."""
    data = random.Random(21).randbytes(3 << 20)
    outcome = t.run("-c", "cat", data=data)
    t.see("identical", outcome.out == data, True)
    t.see_status("status", outcome.status, 0)


@case(21, "every-byte")
def every_byte(t):
    """All 256 byte values pass, in any neighbourhood."""
    data = bytes(range(256)) + bytes(reversed(range(256)))
    t.sh("cat", data=data, out=data)


@case(22, "reader-stops")
def reader_stops(t):
    """A command that takes 5 bytes of 10 MB ends, and the writer gets EPIPE."""
    process = t.start("-c", "head -c 5", stdin=PIPE)
    t.see("writer", write_all(process.stdin.fileno(), bytes(10_000_000)), "EPIPE")
    t.see_status("status", t.wait(process), 0)
    t.see("stdout", t.read_all(process.stdout.fileno()), bytes(5))


@case(23, "nobody-reads")
def nobody_reads(t):
    """exit 7 with 1 MB waiting: 7, and the writer gets EPIPE."""
    process = t.start("-c", "exit 7", stdin=PIPE)
    t.see("writer", write_all(process.stdin.fileno(), bytes(1_000_000)), "EPIPE")
    t.see_status("status", t.wait(process), 7)


@case(23, "stdin-closed-early")
def stdin_closed_early(t):
    """A command that closes its stdin while it runs breaks the writer's pipe then, not at its end."""
    process = t.start("-c", "exec <&-; echo closed; sleep 30", stdin=PIPE)
    t.see("stdout", t.read_until(process.stdout.fileno(), b"closed\n"), b"closed\n")
    t.see("writer", write_all(process.stdin.fileno(), bytes(1_000_000)), "EPIPE")


@case(24, "request-response")
def request_response(t):
    """Each reply arrives before the next request."""
    process = t.start("-c", 'while read x; do echo "got:$x"; done; echo end', stdin=PIPE)
    for word in (b"one", b"two", b"three"):
        process.stdin.write(word + b"\n")
        t.see(word.decode(), t.read_until(process.stdout.fileno(), b"\n"), b"got:" + word + b"\n")
    process.stdin.close()
    t.see("end", t.read_all(process.stdout.fileno()), b"end\n")
    t.see_status("status", t.wait(process), 0)


@case(25, "script-on-stdin")
def script_on_stdin(t):
    """-s takes the script from stdin and the arguments from argv."""
    t.check(t.run("-s", "x", "y", data=b"echo $1 $2 $#\n"), status=0, out=b"x y 2\n")


@case(25, "script-reads-itself")
def script_reads_itself(t):
    """A script on stdin that reads a line: bash leaves it the next one, dash has read on."""
    t.check(t.run(data=b"read a\nthis line\necho got:$a\n"), status=0,
            out={"dash": b"got:\n", "bash": b"got:this line\n"})


@case(26, "closed")
def closed(t):
    """A closed fd 0 is closed for the command as well."""
    script = "if [ -e /proc/$$/fd/0 ]; then echo open; else echo closed; fi; exit 4"
    t.sh(script, stdin=None, preexec_fn=lambda: os.close(0), status=4, out=b"closed\n")


@case(26, "closed-and-read")
def closed_and_read(t):
    """Reading a closed fd 0 fails with EBADF."""
    t.sh("cat", stdin=None, preexec_fn=lambda: os.close(0), status=1, err=has(b"Bad file descriptor"))


@case(27, "file-shared-with-outer")
def file_shared_with_outer(t):
    """A file that the shell read a line of continues there for the next reader."""
    t.write("file", LINES)
    t.outer("{ $SH -c 'read a; echo 1:$a'; cat; } < file", out=b"1:l1\nl2\nl3\n")


@case(27, "file-two-shells")
def file_two_shells(t):
    """Two shells one after the other read one line each of the same file."""
    t.write("file", LINES)
    t.outer("{ $SH -c 'read a; echo 1:$a'; $SH -c 'read a; echo 2:$a'; cat; } < file",
            out=b"1:l1\n2:l2\nl3\n")


def offset_after(t, script, start, content=b"0123456789" * 1000):
    """Runs the script on a file opened at an offset; notes the outcome and the offset afterwards."""
    fd = os.open(t.write("file", content), os.O_RDONLY)
    os.lseek(fd, start, os.SEEK_SET)
    t.sh(script, stdin=fd)
    t.see("offset", os.lseek(fd, 0, os.SEEK_CUR))
    t.see("rest", os.read(fd, 1 << 20))


@case(27, "offset-whole")
def offset_whole(t):
    """A file opened at an offset is read from there; afterwards the offset is its end."""
    offset_after(t, "cat", 7)


@case(27, "offset-part")
def offset_part(t):
    """Three bytes taken move the shared offset by three."""
    offset_after(t, "dd bs=3 count=1 status=none", 7)


@case(27, "offset-untouched")
def offset_untouched(t):
    """A command that reads nothing leaves the offset where it was."""
    offset_after(t, "exit 3", 7)


@case(27, "offset-big")
def offset_big(t):
    """Of a file far larger than any buffer, exactly what was taken is gone."""
    offset_after(t, "dd bs=100000 count=9 iflag=fullblock status=none", 1, bytes(4_000_000))


@case(27, "offset-killed")
def offset_killed(t):
    """A command that dies of a signal leaves the offset where it had read to."""
    offset_after(t, "read a; kill -KILL $$", 0, LINES)


@case(27, "offset-seek")
def offset_seek(t):
    """A command may seek in its stdin."""
    offset_after(t, "perl -e 'sysseek(STDIN, 5, 0); sysread(STDIN, $x, 2); print $x'", 0)


@case(27, "file-read-write")
def file_read_write(t):
    """A file opened for reading and writing can be read."""
    fd = os.open(t.write("file", LINES), os.O_RDWR)
    t.sh("cat", stdin=fd, out=LINES)


@case(27, "file-grows")
def file_grows(t):
    """A file that grows while it is read is read to its end of that time."""
    path = t.write("file", b"one\n")
    with open(path, "rb") as file:
        process = t.start("-c", 'read a; echo $a; until [ -e go ]; do sleep .02; done; read b; echo $b',
                          stdin=file)
        t.see("first", t.read_until(process.stdout.fileno(), b"\n"), b"one\n")
        with open(path, "ab") as more:
            more.write(b"two\n")
        t.go()
        t.see("second", t.read_all(process.stdout.fileno()), b"two\n")
        t.see_status("status", t.wait(process), 0)


@case(27, "write-only")
def write_only(t):
    """A stdin that is open for writing only cannot be read."""
    fd = os.open(t.write("file", b""), os.O_WRONLY)
    t.sh("cat", stdin=fd, status=1, err=has(b"Bad file descriptor"))


@case(27, "folder")
def folder(t):
    """A folder as stdin cannot be read."""
    t.sh("cat", stdin=os.open(t.dir, os.O_RDONLY), status=1, err=has(b"Is a directory"))


@case(27, "is-a-file")
def is_a_file(t):
    """A program that asks is told that its stdin is a file of this size."""
    with open(t.write("file", LINES), "rb") as file:
        t.sh("stat -L -c '%F %s' /dev/stdin", stdin=file, out=b"regular file 9\n")


@case(28, "pipe-shared-with-outer")
def pipe_shared_with_outer(t):
    """A pipe that the shell read a line of continues there for the next reader."""
    t.outer("printf 'l1\\nl2\\nl3\\n' | { $SH -c 'read a; echo 1:$a'; cat; }", out=b"1:l1\nl2\nl3\n")


@case(28, "pipe-untouched")
def pipe_untouched(t):
    """A command that reads nothing leaves everything in the pipe."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, LINES)
    os.close(write_fd)
    t.sh("exit 3", stdin=read_fd, status=3)
    t.see("rest", t.read_all(read_fd), LINES)


@case(28, "pipe-part")
def pipe_part(t):
    """Of a pipe, exactly what was taken is gone."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, bytes(range(256)) * 100)
    t.sh("dd bs=1000 count=3 status=none", stdin=read_fd, status=0)
    os.close(write_fd)
    t.see("rest", t.read_all(read_fd), (bytes(range(256)) * 100)[3000:])


@case(28, "pipe-kept-open")
def pipe_kept_open(t):
    """A command that reads nothing ends while the writer keeps the pipe open, and later bytes stay."""
    read_fd, write_fd = os.pipe()
    t.sh("echo over", stdin=read_fd, status=0, out=b"over\n")
    os.write(write_fd, LINES)
    os.close(write_fd)
    t.see("rest", t.read_all(read_fd), LINES)


@case(28, "socket-half-closed")
def socket_half_closed(t):
    """A socket pair, half closed after the data as node does it, gives the data and EOF."""
    ours, theirs = socket.socketpair()
    process = t.start("-c", "cat; echo end", stdin=theirs, stdout=theirs)
    theirs.close()
    ours.sendall(b"through a socket\n")
    ours.shutdown(socket.SHUT_WR)
    t.see("stdout", t.read_all(ours.fileno()), b"through a socket\nend\n")
    t.see_status("status", t.wait(process), 0)


@case(28, "socket-both-ways")
def socket_both_ways(t):
    """One socket as stdin, stdout and stderr carries a conversation."""
    ours, theirs = socket.socketpair()
    process = t.start("-c", "read a; echo got:$a; read b; echo then:$b >&2", stdin=theirs, stdout=theirs,
                      stderr=theirs)
    theirs.close()
    ours.sendall(b"one\n")
    t.see("first", t.read_until(ours.fileno(), b"\n"), b"got:one\n")
    ours.sendall(b"two\n")
    t.see("second", t.read_all(ours.fileno()), b"then:two\n")
    t.see_status("status", t.wait(process), 0)


@case(28, "fifo")
def fifo(t):
    """A named pipe as stdin."""
    os.mkfifo(t.path("fifo"))
    t.outer("printf 'l1\\nl2\\n' > fifo & $SH -c 'read a; echo 1:$a; cat' < fifo; wait",
            out=b"1:l1\nl2\n")


@case(28, "slow-bytes")
def slow_bytes(t):
    """Single bytes with pauses are all read, as they come."""
    process = t.start("-c", "while dd bs=1 count=1 status=none | grep -q .; do printf x; done", stdin=PIPE)
    for _ in range(5):
        process.stdin.write(b"a")
        t.see(f"reply {_}", t.read_until(process.stdout.fileno(), b"x"), b"x")
        time.sleep(.02)
    process.stdin.close()
    t.see("end", t.read_all(process.stdout.fileno()), b"")


@case(28, "background-stdin")
def background_stdin(t):
    """A background command without job control does not read the shell's stdin."""
    t.sh("cat & wait; cat", data=LINES, out=LINES)


@case(29, "while-read")
def while_read(t):
    """A shell in a while-read loop does not eat the loop's lines."""
    t.write("file", LINES)
    t.outer('while read x; do $SH -c "echo $x"; done < file', label="file", out=LINES)
    t.outer('cat file | while read x; do $SH -c "echo $x"; done', label="pipe", out=LINES)


@case(29, "while-read-held")
def while_read_held(t):
    """A process that a shell leaves behind with the loop's input, and does not read, takes nothing of it."""
    t.write("file", LINES)
    script = 'while read x; do $SH -c "sleep .3 <&0 >&- 2>&- & echo $x"; sleep .1; done'
    t.outer(f"{script} < file", label="file", out=LINES)
    t.outer(f"cat file | {script}", label="pipe", out=LINES)


@case(29, "while-read-eaten")
def while_read_eaten(t):
    """A shell in a while-read loop that reads everything ends the loop."""
    t.write("file", LINES)
    t.outer('while read x; do $SH -c "echo $x; cat >/dev/null"; done < file', label="file", out=b"l1\n")
    t.outer('cat file | while read x; do $SH -c "echo $x; cat >/dev/null"; done', label="pipe",
            out=b"l1\n")


@case(29, "flags-untouched")
def flags_untouched(t):
    """The caller's pipes and sockets keep their flags, during the command and after it."""
    read_fd, write_fd = os.pipe()
    out_read_fd, out_write_fd = os.pipe()
    ours, theirs = socket.socketpair()
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (read_fd, out_write_fd, theirs.fileno())]
    process = t.start("-c", "echo ready; cat", stdin=read_fd, stdout=out_write_fd, stderr=theirs)
    t.see("ready", t.read_until(out_read_fd, b"\n"), b"ready\n")
    for label in ("during", "after"):
        after = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (read_fd, out_write_fd, theirs.fileno())]
        t.see(label, after == before, True)
        if label == "during":
            os.close(write_fd)
            t.see_status("status", t.wait(process), 0)
    ours.close()


@case(28, "two-readers")
def two_readers(t):
    """Two shells that read one pipe at the same time: every byte is read once."""
    reader = "$SH -c 'dd bs=7 status=none' <&3"
    outcome = t.finish(t.start_outer(f"seq 2000 | {{ exec 3<&0; {reader} & {reader} & wait; }}"))
    t.see("digits", bytes(sorted(outcome.out.replace(b"\n", b""))),
          bytes(sorted("".join(str(i) for i in range(1, 2001)).encode())))


@case(28, "reopened")
def reopened(t):
    """/dev/stdin, /dev/stdout and /dev/stderr can be opened by name."""
    t.sh("cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr", data=b"in\n", status=0,
         out=b"in\nout\n", err=b"err\n")
