"""Rows 49 and 78 to 86: terminals, and none."""

import fcntl
import os
import signal
import struct
import termios
import time

from cases import case
from trial import SLEEP, WAIT_S, has, read_some, without_pids

DRAIN_S = 0.1                   # output that follows the end of the program, if only just


def resize(master, rows, columns):
    """Sets the size of a terminal; the kernel tells its foreground group."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Terminal:
    """A script with a terminal as stdin, stdout, stderr and controlling terminal. Our own copy of the
    program's end stays open, because the last one to close it may take the last output along."""

    def __init__(self, t, script, rows=24, columns=80):
        self._t = t
        self.master, self.slave = os.openpty()
        resize(self.master, rows, columns)
        self.process = t.start("-c", script, stdin=self.slave, stdout=self.slave, stderr=self.slave,
                               start_new_session=True,
                               preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def see_ready(self, before=b""):
        """Notes what is shown up to the word `ready`."""
        self._t.see("ready", self._t.read_until(self.master, b"ready\r\n"), before + b"ready\r\n")

    def type(self, data):
        """Sends what a user types."""
        os.write(self.master, data)

    def see_end(self, status, out):
        """Notes what else is shown, and the status."""
        t = self._t
        got = bytearray()
        until = time.monotonic() + WAIT_S
        while (t.readable(self.master, DRAIN_S) or t.is_running(self.process)) and time.monotonic() < until:
            if t.readable(self.master):
                got += read_some(self.master, 1 << 16)
        t.see("terminal", without_pids(bytes(got)), out)
        t.see_status("status", t.wait(self.process, 1), status)


@case(49, "resize")
def resize_seen(t):
    """A new size of the terminal is seen, with a signal."""
    terminal = Terminal(t, "trap 'stty size; exit 4' WINCH; stty size; echo ready; "
                                  "n=0; while [ $n -lt 200 ]; do sleep .03; n=$((n+1)); done")
    terminal.see_ready(b"24 80\r\n")
    resize(terminal.master, 50, 132)
    terminal.see_end(4, b"50 132\r\n")


@case(78, "pipes")
def pipes(t):
    """With pipes nothing is a terminal."""
    for fd in (0, 1, 2):
        t.sh(f"test -t {fd}", label=f"-t {fd}", data=b"", status=1)
    t.sh("tty", data=b"", status=1, out=b"not a tty\n")


@case(79, "size")
def size(t):
    """A terminal of 33 by 77 is one, on all three descriptors."""
    terminal = Terminal(t, "test -t 0 && test -t 1 && test -t 2 && stty size", 33, 77)
    terminal.see_end(0, b"33 77\r\n")


@case(79, "settings")
def settings(t):
    """The terminal's settings are those of the caller's."""
    terminal = Terminal(t, "stty -a")
    terminal.see_end(0, has(b"speed"))


@case(79, "stdout-alone")
def stdout_alone(t):
    """A terminal as stdout only: stdin and stderr are not one."""
    master, slave = os.openpty()
    process = t.start("-c", "for fd in 0 1 2; do test -t $fd; echo $? >&9; done 9>&2; echo x", stdout=slave)
    t.see("stdout", t.read_until(master, b"\n"), b"x\r\n")
    os.close(slave)
    t.see("stderr", t.read_all(process.stderr.fileno()), b"1\n0\n1\n")
    t.see_status("status", t.wait(process), 0)


@case(80, "newline")
def newline(t):
    """A newline comes out as carriage return and newline."""
    terminal = Terminal(t, "printf 'a\\nb\\n'")
    terminal.see_end(0, b"a\r\nb\r\n")


@case(80, "echo-once")
def echo_once(t):
    """What is typed is echoed once, and read as a line."""
    terminal = Terminal(t, "echo ready; read x; echo got:$x")
    terminal.see_ready()
    terminal.type(b"ab\x7fc\n")
    terminal.see_end(0, b"ab\b \bc\r\ngot:ac\r\n")


@case(80, "no-echo")
def no_echo(t):
    """stty -echo stops the echo."""
    terminal = Terminal(t, "stty -echo; echo ready; read x; stty echo; echo got:$x")
    terminal.see_ready()
    terminal.type(b"secret\n")
    terminal.see_end(0, b"got:secret\r\n")


@case(81, "interrupt")
def interrupt(t):
    """^C is echoed and kills."""
    terminal = Terminal(t, SLEEP)
    terminal.see_ready()
    terminal.type(b"\x03")
    terminal.see_end(-signal.SIGINT, b"^C")


@case(82, "interrupt-trap")
def interrupt_trap(t):
    """^C with a trap runs the trap."""
    terminal = Terminal(t, f"trap 'echo INT; exit 3' INT; {SLEEP}; :")
    terminal.see_ready()
    terminal.type(b"\x03")
    terminal.see_end(3, b"^CINT\r\n")


@case(83, "quit")
def quit_key(t):
    """^\\ kills dash; bash reports it and continues."""
    terminal = Terminal(t, f"{SLEEP}; exit 0")
    terminal.see_ready()
    terminal.type(b"\x1c")
    terminal.see_end({"dash": -signal.SIGQUIT, "bash": 0}, has(b"^\\"))


@case(84, "dev-tty")
def dev_tty(t):
    """/dev/tty can be written and read."""
    terminal = Terminal(t, "echo ready >/dev/tty; read x </dev/tty; echo got:$x")
    terminal.see_ready()
    terminal.type(b"line\n")
    terminal.see_end(0, b"line\r\ngot:line\r\n")


@case(85, "no-dev-tty")
def no_dev_tty(t):
    """Without a terminal /dev/tty cannot be opened."""
    t.sh("echo x >/dev/tty", status={"dash": 2, "bash": 1}, err=has(b"No such device or address"))


@case(86, "hang-up")
def hang_up(t):
    """When the terminal goes away the HUP trap runs."""
    terminal = Terminal(t, "trap 'echo trap > file; exit 1' HUP; echo ready; "
                                  "n=0; while [ $n -lt 200 ]; do sleep .03; n=$((n+1)); done")
    terminal.see_ready()
    os.close(terminal.slave)
    os.close(terminal.master)
    t.see_status("status", t.wait(terminal.process), 1)
    t.see("file", t.read("file"), b"trap\n")
