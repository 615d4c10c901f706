"""What a case uses to run shells and to note everything that their caller can see.

A case is a function that takes one Trial. It starts shells through the trial and notes what it saw;
the runner calls it once for the local shell and once for modalsh and compares the two lists of notes.
`expect` arguments are guards: they are checked against the local shell only, so that a wrong oracle is
noticed. They may be a value, a dict with the keys "dash" and "bash", or a function that tells good from bad.
"""

import errno
import fcntl
import hashlib
import os
import re
import select
import signal
import stat
import subprocess
import time

PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT
DEVNULL = subprocess.DEVNULL

BYTES_SHOWN_MAX = 4096          # longer values are compared by length and digest
WAIT_S = 15                     # what never takes long gets this long, however busy the machine is
POLL_S = 0.02

# The shell, and all that it starts, holds this lock, so a free lock means that none of them is left.
HOLD = "exec 9>>alive; flock -s 9; "
# Sleeps, and says so only when the shell has forked: what a shell that forks does with a signal is luck.
SLEEP = "/bin/sh -c 'echo ready; exec sleep 30'"
# Waits until the case calls Trial.go(); gives up after some ten seconds so that nothing stays behind.
AWAIT_GO = "n=0; until [ -e go ] || [ $n -ge 300 ]; do sleep .03; n=$((n+1)); done; "


class Anything:
    """A guard that accepts every value."""

    def __repr__(self):
        return "anything"


ANY = Anything()


def has(text):
    """A guard: the bytes contain text."""
    def guard(value):
        return text in value
    guard.__doc__ = f"something with {text!r}"
    return guard


def status_text(status):
    """A wait status as subprocess gives it, in words."""
    if not isinstance(status, int):
        return status
    if status >= 0:
        return f"exit {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unnamed"
    return f"signal {-status} ({name})"


def packed(value):
    """The value as it is compared and printed; long bytes become length, start and digest."""
    if isinstance(value, (bytearray, memoryview)):
        value = bytes(value)
    if isinstance(value, bytes) and len(value) > BYTES_SHOWN_MAX:
        digest = hashlib.sha256(value).hexdigest()[:16]
        return f"{len(value)} bytes, sha256 {digest}…, starts {value[:40]!r}"
    return value


def without_pids(text):
    """bash names the process in its report of a child's death; the number is the machine's."""
    return re.sub(rb"line (\d+): +\d+ ", rb"line \1: PID ", text)


class Outcome:
    """How a command ended: status as subprocess has it (negative for a signal), and its output."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


class Skip(Exception):
    """Raised by a case that cannot be run here; the text says why."""


class Trial:
    """One case on one side. The public members are:

    dialect  "dash" or "bash"
    name     what that shell is called: "sh" or "bash"
    shell    path of the program to start as that shell
    dir      an empty folder of this case's own, at the same path on both sides; the case runs in it
    """

    def __init__(self, side, dialect, folder, guarded):
        self.side = side
        self.dialect = dialect
        self.name = {"dash": "sh", "bash": "bash"}[dialect]
        self.shell = os.path.join(side.bin, self.name)
        self.dir = folder
        self.notes = []
        self.wrong = []
        self._guarded = guarded
        self._untold = {"alive", "go"}

    # Noting what was seen

    def see(self, label, value, expect=ANY):
        """Notes a value under a label and checks it against the guard."""
        if isinstance(expect, dict):
            expect = expect[self.dialect]
        self.notes.append((label, packed(value)))
        if not self._guarded or expect is ANY:
            return
        good = expect(value) if callable(expect) else value == expect
        if not good:
            wanted = expect.__doc__ if callable(expect) else repr(packed(expect))
            self.wrong.append(f"{label}: expected {wanted}, got {packed(value)!r}")

    def see_status(self, label, status, expect=ANY):
        """Like see(), for a status as subprocess has it."""
        if isinstance(expect, dict):
            expect = expect[self.dialect]
        self.see(label, status_text(status), expect if expect is ANY else status_text(expect))

    def check(self, outcome, label="", status=ANY, out=ANY, err=ANY):
        """Notes a whole outcome."""
        before = label + " " if label else ""
        self.see_status(before + "status", outcome.status, status)
        self.see(before + "stdout", outcome.out, out)
        self.see(before + "stderr", without_pids(outcome.err), err)
        return outcome

    def within(self, label, took_s, low_s, high_s):
        """Notes that a time was within its bounds, or else the time; the local shell has to keep them too."""
        text = "in time"
        if not low_s <= took_s <= high_s:
            text = f"{took_s:.2f} s, not {low_s} to {high_s} s"
        self.see(label, text, "in time")

    def leave_out(self, *names):
        """These files are not compared at the end of the case."""
        self._untold.update(names)

    def see_files(self):
        """Notes every file below the case's folder: name, type, mode, and what is in it."""
        self.see("files", self._listing(os.fsencode(self.dir), b""))

    def _listing(self, top, below):
        lines = []
        for name in sorted(os.listdir(os.path.join(top, below))):
            path = os.path.join(top, below, name)
            if not below and os.fsdecode(name) in self._untold:
                continue
            info = os.lstat(path)
            what = b""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    what = packed(file.read())
            elif stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            lines.append((os.path.join(below, name), stat.filemode(info.st_mode), what))
            if stat.S_ISDIR(info.st_mode):
                lines += self._listing(top, os.path.join(below, name))
        return lines

    # Running

    def env(self, **more):
        """The environment of commands in cases that are about something else."""
        return {"PATH": "/usr/bin:/bin", "HOME": self.dir, "LC_ALL": "C.UTF-8", **more}

    def start(self, *args, argv0=None, env=None, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, **more):
        """Starts the shell with these arguments; returns its subprocess.Popen."""
        return self._popen(self.shell, [argv0 if argv0 is not None else self.name, *args], env,
                           stdin, stdout, stderr, more)

    def direct_command(self, *args):
        """Path and argv that run a program without a shell: as it is, or through `exec`."""
        if self.side.is_oracle:
            return "/usr/bin/" + args[0], list(args)
        return os.path.join(self.side.bin, "exec"), ["exec", *args]

    def start_program(self, path, *args, argv0=None, env=None, stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
                      **more):
        """Starts a program by its path, with the environment that the shell needs."""
        return self._popen(path, [argv0 if argv0 is not None else os.path.basename(path), *args], env,
                           stdin, stdout, stderr, more)

    def start_direct(self, *args, env=None, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, **more):
        """Starts a program without a shell: locally as it is, on the other side through `exec`."""
        path, argv = self.direct_command(*args)
        return self._popen(path, argv, env, stdin, stdout, stderr, more)

    def start_outer(self, script, *args, outer="/bin/sh", env=None, stdin=DEVNULL, stdout=PIPE,
                    stderr=PIPE, **more):
        """Starts a program of the host, by default /bin/sh -c SCRIPT, to which $SH names the shell."""
        env = dict(self.env() if env is None else env, SH=self.shell)
        return self._popen(outer, [os.path.basename(outer), "-c", script, *args], env,
                           stdin, stdout, stderr, more)

    def _popen(self, path, argv, env, stdin, stdout, stderr, more):
        env = dict(self.env() if env is None else env)
        env.update(self.side.env)
        return subprocess.Popen(argv, executable=path, env=env, stdin=stdin, stdout=stdout,
                                stderr=stderr, bufsize=0, **more)

    def finish(self, process, data=None, limit_s=WAIT_S):
        """Feeds the process, reads it to the end and reaps it."""
        try:
            out, err = process.communicate(data, timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return Outcome(f"no end within {limit_s} s", b"", b"")
        return Outcome(process.returncode, out or b"", err or b"")

    def run(self, *args, data=None, **more):
        """start() and finish(); data goes to stdin."""
        if data is not None:
            more["stdin"] = PIPE
        return self.finish(self.start(*args, **more), data)

    def sh(self, script, *args, label="", data=None, status=ANY, out=ANY, err=ANY, **more):
        """Runs SHELL -c SCRIPT ARGS and notes status, stdout and stderr."""
        return self.check(self.run("-c", script, *args, data=data, **more), label, status, out, err)

    def outer(self, script, *args, label="", data=None, status=ANY, out=ANY, err=ANY, **more):
        """Runs SCRIPT in a shell of the host, where $SH is the shell in question, and notes the outcome."""
        if data is not None:
            more["stdin"] = PIPE
        outcome = self.finish(self.start_outer(script, *args, **more), data)
        return self.check(outcome, label, status, out, err)

    def direct(self, *args, label="", data=None, status=ANY, out=ANY, err=ANY, **more):
        """Runs a program without a shell and notes the outcome."""
        if data is not None:
            more["stdin"] = PIPE
        return self.check(self.finish(self.start_direct(*args, **more), data), label, status, out, err)

    # Steps of longer cases

    def wait(self, process, limit_s=WAIT_S):
        """The status of the process, or words when it does not end."""
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"no end within {limit_s} s"

    def is_running(self, process):
        """Whether the process has not ended yet."""
        return process.poll() is None

    def read_until(self, fd, text, limit_s=WAIT_S):
        """What fd gives, up to and including text, or up to EOF or the time limit."""
        got = bytearray()
        until = time.monotonic() + limit_s
        while not got.endswith(text) and self.readable(fd, until - time.monotonic()):
            piece = read_some(fd, 1)
            if not piece:
                break
            got += piece
        return bytes(got)

    def read_count(self, fd, count, limit_s=WAIT_S):
        """The first count bytes that fd gives, or fewer when there are no more within limit_s."""
        got = bytearray()
        until = time.monotonic() + limit_s
        while len(got) < count and self.readable(fd, until - time.monotonic()):
            piece = read_some(fd, min(count - len(got), 1 << 16))
            if not piece:
                break
            got += piece
        return bytes(got)

    def read_all(self, fd, limit_s=WAIT_S):
        """What fd gives up to EOF; ends with a remark when EOF does not come."""
        got = bytearray()
        until = time.monotonic() + limit_s
        while self.readable(fd, until - time.monotonic()):
            piece = read_some(fd, 1 << 16)
            if not piece:
                return bytes(got)
            got += piece
        return bytes(got) + b"[no EOF]"

    @staticmethod
    def readable(fd, wait_s=0):
        """Whether fd has bytes or EOF within wait_s seconds."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(max(0, wait_s) * 1000))

    def go(self):
        """Lets what waits with AWAIT_GO continue."""
        self.write("go", b"")

    def see_none_left(self, label, limit_s=WAIT_S):
        """Notes that nothing started under HOLD is left after limit_s at most."""
        with open(self.path("alive"), "ab") as file:
            free = self.until(lambda: lock_is_free(file), limit_s)
        self.see(label, free, True)

    @staticmethod
    def until(condition, limit_s=WAIT_S):
        """Waits for condition() to hold; whether it did."""
        until = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        return True

    # Files

    def path(self, name):
        """The full path of a file in the case's folder."""
        return os.path.join(self.dir, name)

    def write(self, name, content, mode=0o644):
        """Makes a file; returns its path."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def read(self, name):
        """The content of a file, or None when there is no such file."""
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None


def read_some(fd, size):
    """os.read() for pipes, sockets and terminals: a hang-up is EOF."""
    try:
        return os.read(fd, size)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ECONNRESET):
            return b""
        raise


def write_all(fd, data):
    """Writes everything; returns "all written", or the name of the error that stopped it."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view):]
    except OSError as error:
        return errno.errorcode[error.errno]
    return "all written"


def lock_is_free(file):
    """Whether nobody holds a lock on the file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True
