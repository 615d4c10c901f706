"""Rows 39 to 41: lifetime and background."""

import time

from cases import case
from trial import AWAIT_GO, PIPE


@case(39, "eof-at-exit")
def eof_at_exit(t):
    """The pipe is at its end right after the shell: nobody else keeps it."""
    process = t.start("-c", ":")
    t.see_status("status", t.wait(process), 0)
    for label, file in (("stdout", process.stdout), ("stderr", process.stderr)):
        t.see(label, t.read_all(file.fileno(), limit_s=3), b"")


@case(39, "stdin-eof-at-exit")
def stdin_released(t):
    """Right after the shell nobody keeps the read end of its stdin: a writer gets EPIPE."""
    process = t.start("-c", ":", stdin=PIPE)
    t.see_status("status", t.wait(process), 0)

    def broken():
        try:
            process.stdin.write(b"x")
        except BrokenPipeError:
            return True
        return False
    t.see("EPIPE", t.until(broken, limit_s=3), True)


@case(40, "background-holds-pipe")
def background_holds_pipe(t):
    """The shell ends at once; EOF comes when its background job ends."""
    process = t.start("-c", f"({AWAIT_GO}) & echo started")
    t.see("first", t.read_until(process.stdout.fileno(), b"started\n"), b"started\n")
    t.see_status("status", t.wait(process), 0)
    t.see("EOF while it runs", t.readable(process.stdout.fileno(), .2), False)
    t.go()
    t.see("rest", t.read_all(process.stdout.fileno()), b"")


@case(40, "background-timed")
def background_timed(t):
    """sleep 2 & in the background: the status comes long before EOF."""
    begun = time.monotonic()
    process = t.start("-c", "sleep 2 & echo started")
    t.see_status("status", t.wait(process), 0)
    t.within("wait", time.monotonic() - begun, 0, 1.5)
    t.see("stdout", t.read_all(process.stdout.fileno()), b"started\n")
    t.within("EOF", time.monotonic() - begun, 1.9, 10)


@case(41, "late-output")
def late_output(t):
    """What a background job writes after the shell's end is delivered."""
    process = t.start("-c", f"({AWAIT_GO} echo late; echo later >&2) & exit 3")
    t.see_status("status", t.wait(process), 3)
    t.see("EOF while it runs", t.readable(process.stdout.fileno(), .1), False)
    t.go()
    t.see("stdout", t.read_all(process.stdout.fileno()), b"late\n")
    t.see("stderr", t.read_all(process.stderr.fileno()), b"later\n")


@case(41, "late-input")
def late_input(t):
    """A background job may read stdin after the shell's end."""
    process = t.start("-c", "exec 3<&0; { read x; echo got:$x; } <&3 & echo started; exit 3", stdin=PIPE)
    t.see("first", t.read_until(process.stdout.fileno(), b"started\n"), b"started\n")
    t.see_status("status", t.wait(process), 3)
    process.stdin.write(b"late\n")
    t.see("stdout", t.read_all(process.stdout.fileno()), b"got:late\n")


@case(41, "late-much")
def late_much(t):
    """A background job's 3 MB after the shell's end are all delivered."""
    process = t.start("-c", f"({AWAIT_GO} head -c 3000000 /dev/zero) & exit 3")
    t.see_status("status", t.wait(process), 3)
    t.go()
    t.see("stdout", len(t.read_all(process.stdout.fileno())), 3_000_000)
