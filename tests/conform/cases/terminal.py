"""Rows 49 and 78 to 86: terminals, and none."""

import fcntl
import os
import signal
import struct
import termios

from cases import case
from trial import SLEEP, has, without_pids


def resize(master, rows, columns):
    """Sets the size of a terminal; the kernel tells its foreground group."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def start_terminal(t, script, rows=24, columns=80):
    """Starts a script with a terminal as stdin, stdout, stderr and controlling terminal."""
    master, slave = os.openpty()
    resize(master, rows, columns)
    process = t.start("-c", script, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                      preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(slave)
    return process, master


def see_end(t, process, master, status, out):
    """Notes what the terminal shows up to its end, and the status."""
    t.see("terminal", without_pids(t.read_all(master)), out)
    t.see_status("status", t.wait(process), status)


@case(49, "resize")
def resize_seen(t):
    """A new size of the terminal is seen, with a signal."""
    process, master = start_terminal(t, "trap 'stty size; exit 4' WINCH; stty size; echo ready; "
                                        "n=0; while [ $n -lt 200 ]; do sleep .03; n=$((n+1)); done")
    t.see("before", t.read_until(master, b"ready\r\n"), b"24 80\r\nready\r\n")
    resize(master, 50, 132)
    see_end(t, process, master, 4, b"50 132\r\n")


@case(78, "pipes")
def pipes(t):
    """With pipes nothing is a terminal."""
    for fd in (0, 1, 2):
        t.sh(f"test -t {fd}", label=f"-t {fd}", data=b"", status=1)
    t.sh("tty", data=b"", status=1, out=b"not a tty\n")


@case(79, "size")
def size(t):
    """A terminal of 33 by 77 is one, on all three descriptors."""
    process, master = start_terminal(t, "test -t 0 && test -t 1 && test -t 2 && stty size", 33, 77)
    see_end(t, process, master, 0, b"33 77\r\n")


@case(79, "settings")
def settings(t):
    """The terminal's settings are those of the caller's."""
    process, master = start_terminal(t, "stty -a")
    see_end(t, process, master, 0, has(b"speed"))


@case(79, "stdout-alone")
def stdout_alone(t):
    """A terminal as stdout only: stdin and stderr are not one."""
    master, slave = os.openpty()
    process = t.start("-c", "for fd in 0 1 2; do test -t $fd; echo $? >&9; done 9>&2; echo x", stdout=slave)
    os.close(slave)
    t.see("stderr", t.read_all(process.stderr.fileno()), b"1\n0\n1\n")
    see_end(t, process, master, 0, b"x\r\n")


@case(80, "newline")
def newline(t):
    """A newline comes out as carriage return and newline."""
    process, master = start_terminal(t, "printf 'a\\nb\\n'")
    see_end(t, process, master, 0, b"a\r\nb\r\n")


@case(80, "echo-once")
def echo_once(t):
    """What is typed is echoed once, and read as a line."""
    process, master = start_terminal(t, "echo ready; read x; echo got:$x")
    t.see("ready", t.read_until(master, b"ready\r\n"), b"ready\r\n")
    os.write(master, b"ab\x7fc\n")
    see_end(t, process, master, 0, b"ab\b \bc\r\ngot:ac\r\n")


@case(80, "no-echo")
def no_echo(t):
    """stty -echo stops the echo."""
    process, master = start_terminal(t, "stty -echo; echo ready; read x; stty echo; echo got:$x")
    t.see("ready", t.read_until(master, b"ready\r\n"), b"ready\r\n")
    os.write(master, b"secret\n")
    see_end(t, process, master, 0, b"got:secret\r\n")


@case(81, "interrupt")
def interrupt(t):
    """^C is echoed and kills."""
    process, master = start_terminal(t, SLEEP)
    t.see("ready", t.read_until(master, b"ready\r\n"), b"ready\r\n")
    os.write(master, b"\x03")
    see_end(t, process, master, -signal.SIGINT, b"^C")


@case(82, "interrupt-trap")
def interrupt_trap(t):
    """^C with a trap runs the trap."""
    process, master = start_terminal(t, f"trap 'echo INT; exit 3' INT; {SLEEP}; :")
    t.see("ready", t.read_until(master, b"ready\r\n"), b"ready\r\n")
    os.write(master, b"\x03")
    see_end(t, process, master, 3, b"^CINT\r\n")


@case(83, "quit")
def quit_key(t):
    """^\\ kills dash; bash reports it and continues."""
    process, master = start_terminal(t, f"{SLEEP}; exit 0")
    t.see("ready", t.read_until(master, b"ready\r\n"), b"ready\r\n")
    os.write(master, b"\x1c")
    see_end(t, process, master, {"dash": -signal.SIGQUIT, "bash": 0}, has(b"^\\"))


@case(84, "dev-tty")
def dev_tty(t):
    """/dev/tty can be written and read."""
    process, master = start_terminal(t, "echo ready >/dev/tty; read x </dev/tty; echo got:$x")
    t.see("ready", t.read_until(master, b"ready\r\n"), b"ready\r\n")
    os.write(master, b"line\n")
    see_end(t, process, master, 0, b"line\r\ngot:line\r\n")


@case(85, "no-dev-tty")
def no_dev_tty(t):
    """Without a terminal /dev/tty cannot be opened."""
    t.sh("echo x >/dev/tty", status={"dash": 2, "bash": 1}, err=has(b"No such device or address"))


@case(86, "hang-up")
def hang_up(t):
    """When the terminal goes away the HUP trap runs."""
    process, master = start_terminal(t, "trap 'echo trap > file; exit 1' HUP; echo ready; "
                                        "n=0; while [ $n -lt 200 ]; do sleep .03; n=$((n+1)); done")
    t.see("ready", t.read_until(master, b"ready\r\n"), b"ready\r\n")
    os.close(master)
    t.see_status("status", t.wait(process), 1)
    t.see("file", t.read("file"), b"trap\n")
