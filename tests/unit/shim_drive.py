#!/usr/bin/env python3
"""Drives the shim against a fake broker: shim_drive.py [PATH-OF-MODALSH [NAME-OF-CHECK]].  Without a path it takes the one of
MODALSH_BUILD_DIR.  Prints one line per check and `N passed, N failed`; ends 1 when anything failed.  Some checks play with
owners and need root: they are skipped without it, or fail when MODALSH_MUST_WORK is 1."""

import errno
import fcntl
import os
import pty
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

sys.dont_write_bytecode = True  # the source tree may be read-only, and stays clean

from fake_broker import (  # noqa: E402
    ACCEPTED, CLOSED, PASSED, SIGNAL, STOPPED, WINCH, FakeBroker, accepted, bytes_field, exit_frame, failed, frame, hello_reply,
    refused, started,
)

NOBODY = 65534
NOT_RUN = b"was not run"
UNKNOWN = b"its result is unknown"
CHECKS = []
ROOT_CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def root_check(function):
    ROOT_CHECKS.append(function)
    return check(function)


class World:
    """A folder with the shim under several names."""

    def __init__(self, shim):
        self.root = tempfile.mkdtemp(prefix="shim-")
        os.chmod(self.root, 0o755)
        self.shim = os.path.join(self.root, "modalsh")
        shutil.copy2(shim, self.shim)
        for name in ("sh", "git", "exec", "a b"):
            os.symlink("modalsh", os.path.join(self.root, name))
        os.link(self.shim, os.path.join(self.root, "hardlink"))
        self.socket = os.path.join(self.root, "socket")

    def path(self, name):
        return os.path.join(self.root, name)

    def popen(self, args=("sh", "-c", "true"), name="sh", env=None, **options):
        environment = {"MODALSH_SOCKET": self.socket} if env is None else env
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(list(args), executable=self.path(name), env=environment, **{**pipes, **options})

    def run(self, script=None, uid=None, **options):
        """Returns (code, stdout, stderr) of one shim; `script` plays the broker, None is no broker at all."""
        if script is None:
            return finish(self.popen(**options))
        with FakeBroker(self.socket, script, uid):
            return finish(self.popen(**options))

    def start(self, **options):
        """The START of one shim that is then told to exit 0."""
        seen = []

        def script(connection):
            seen.append(connection.greet())
            connection.send(hello_reply(), accepted(), started(), exit_frame(1, 0))

        code, out, err = self.run(script, **options)
        assert (code, out or b"", err or b"") == (0, b"", b""), (code, out, err)
        assert len(seen) == 1
        return seen[0]


def finish(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def playing(*frames, greet=True):
    """A script that takes HELLO and START, sends the frames and closes."""

    def script(connection):
        if greet:
            connection.greet()
        if frames:
            connection.send(*frames)

    return script


def expect_refusal(result, words, code=125):
    got, out, err = result
    assert got == code, (got, err)
    assert out == b"", out
    assert err.startswith(b"modalsh: ") and err.endswith(b"\n") and err.count(b"\n") == 1, err
    assert words in err, err
    if code == 125:
        assert (NOT_RUN in err) != (UNKNOWN in err), err


RUNNING = (hello_reply(), accepted())


# ---- no broker ----


@check
def no_socket(world):
    result = world.run()
    expect_refusal(result, NOT_RUN)
    assert b"start modalsh-broker" in result[2]


@check
def folder_of_the_socket_is_a_file(world):
    expect_refusal(world.run(env={"MODALSH_SOCKET": world.shim + "/socket"}), NOT_RUN)


@check
def dead_socket(world):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(world.socket)
    listener.close()
    try:
        result = world.run()
    finally:
        os.unlink(world.socket)
    expect_refusal(result, NOT_RUN)
    assert b"again" in result[2]


@check
def socket_is_a_plain_file(world):
    expect_refusal(world.run(env={"MODALSH_SOCKET": world.shim}), NOT_RUN)


@check
def socket_path_too_long(world):
    expect_refusal(world.run(env={"MODALSH_SOCKET": "/" + "a" * 200}), b"longer than 107")


@check
def socket_path_relative(world):
    expect_refusal(world.run(env={"MODALSH_SOCKET": "socket"}), b"absolute")


@check
def empty_socket_path_is_the_default(world):
    expect_refusal(world.run(env={"MODALSH_SOCKET": ""}), b"broker.sock")
    expect_refusal(world.run(env={}), b"broker.sock")


@root_check
def socket_not_permitted(world):
    folder = world.path("locked")
    os.mkdir(folder, 0o700)
    env = {"MODALSH_SOCKET": folder + "/socket"}
    expect_refusal(world.run(env=env, user=NOBODY, group=NOBODY, extra_groups=[]), b"not permitted")


def nothing_may_come(connection):
    assert connection.read_frame() is None, "something was sent"


@root_check
def wrong_owner(world):
    os.chmod(world.root, 0o777)
    try:
        expect_refusal(world.run(nothing_may_come, uid=NOBODY), b"user 65534")
        for wrong in ("65533", "65534x", "", " 65534", "99999999999999999999", "-1"):
            env = {"MODALSH_SOCKET": world.socket, "MODALSH_BROKER_UID": wrong}
            expect_refusal(world.run(nothing_may_come, uid=NOBODY, env=env), NOT_RUN)
        env = {"MODALSH_SOCKET": world.socket, "MODALSH_BROKER_UID": "65534"}
        good = playing(*RUNNING, exit_frame(1, 3))
        assert world.run(good, uid=NOBODY, env=env) == (3, b"", b"")
        own = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        assert world.run(good, uid=NOBODY, **own) == (3, b"", b"")
        assert world.run(good, **own) == (3, b"", b""), "root's broker serves everybody"
    finally:
        os.chmod(world.root, 0o755)


# ---- a broker that fails ----


@check
def end_before_accepted(world):
    expect_refusal(world.run(playing(greet=False)), NOT_RUN)
    expect_refusal(world.run(playing()), NOT_RUN)
    expect_refusal(world.run(playing(hello_reply())), NOT_RUN)


@check
def end_after_accepted(world):
    expect_refusal(world.run(playing(*RUNNING)), UNKNOWN)
    expect_refusal(world.run(playing(*RUNNING, started())), UNKNOWN)


@check
def end_with_unread_bytes(world):
    """The kernel reports a reset then, but what was sent before it counts."""

    def script(connection):
        connection.send(refused(1, b"too busy"))

    for _ in range(20):
        result = world.run(script)
        expect_refusal(result, b"too busy")


@check
def truncated_frames(world):
    whole = exit_frame(1, 0)
    for cut in range(1, len(whole)):
        expect_refusal(world.run(playing(*RUNNING, whole[:cut])), UNKNOWN)


@check
def malformed_frames(world):
    exit_body = struct.pack("<BBQQQ", 1, 0, 0, 0, 0)
    before = [
        b"\0" * 64,
        b"\xff" * 64,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack("<IB", 4, 0x81) + b"\0" * 8,
        struct.pack("<IBI", 4 * 1024 * 1024 - 3, 0x81, 0),
        struct.pack("<IBI", 8000, 0x81, 0) + b"\0" * 8000,
        frame(0x81, struct.pack("<I", 1) + bytes_field(b"x") + b"y"),
        frame(0x81, struct.pack("<I", 1) + struct.pack("<I", 100) + b"y"),
        accepted(),
        exit_frame(1, 0),
        hello_reply() + exit_frame(1, 0),
        hello_reply() + hello_reply(),
        hello_reply() + started(),
        hello_reply() + failed(5, 2),
        frame(0xA0, b"\x09" + bytes_field(b"kind 9")),
        frame(0xA0, b"\x00" + bytes_field(b"kind 0")),
        frame(0xA0, b"\x01" + bytes_field(b"x" * 1025)),
    ]
    after = [
        accepted(),
        frame(0xFF),
        frame(0x02),
        frame(0x86, struct.pack("<IQ", 1, 0) + b"output"),
        frame(0x88, exit_body, job=1),
        frame(0x88, exit_body + b"\0"),
        frame(0x88, exit_body[:-1]),
        frame(0x88),
        exit_frame(0, 0),
        exit_frame(3, 0),
        exit_frame(2, 0),
        exit_frame(2, 65),
        exit_frame(255, 255),
        failed(0, 2),
        failed(7, 2),
        frame(0x83, b"\x05"),
        frame(0xA1, bytes_field(b"{}")),
        frame(0x89, b"\0" * 8),
        frame(ACCEPTED, b"\0"),
    ]
    for bad in before:
        expect_refusal(world.run(playing(bad)), UNKNOWN)
    for bad in after:
        expect_refusal(world.run(playing(*RUNNING, bad, exit_frame(1, 0))), UNKNOWN)


@check
def other_version(world):
    result = world.run(playing(hello_reply(version=2)))
    expect_refusal(result, b"version 2")
    assert NOT_RUN in result[2]


@check
def refusals(world):
    expect_refusal(world.run(playing(refused(1, b"no token"))), b"no token; the command was not run\n")
    expect_refusal(world.run(playing(hello_reply(), refused(1, b"it was not run: no token"))), b"was not run: no token\n")
    expect_refusal(world.run(playing(*RUNNING, refused(2, b"the sandbox is gone"))), b"gone; its result is unknown\n")
    expect_refusal(world.run(playing(*RUNNING, refused(1, b"the sandbox is gone"))), NOT_RUN)
    expect_refusal(world.run(playing(*RUNNING, refused(3, b"timed out after 5 s"))), b"timed out after 5 s", code=124)
    expect_refusal(world.run(playing(*RUNNING, refused(2, b"x" * 1024))), UNKNOWN)
    expect_refusal(world.run(playing(*RUNNING, refused(1, b"a\nb\x1b[2Jc\x7f%s%n\0d"))), b"a b [2Jc %s%n; the command")


@check
def failures(world):
    for number in (errno.ENOENT, errno.ENOTDIR):
        expect_refusal(world.run(playing(*RUNNING, failed(5, number)), name="git", args=["git"]),
                       b"modalsh: git: not found in the sandbox", code=127)
    for number in (errno.EACCES, errno.ENOEXEC, errno.E2BIG, errno.ELOOP, errno.EISDIR, 0, 2**32 - 1):
        expect_refusal(world.run(playing(*RUNNING, failed(5, number)), name="git", args=["git"]),
                       b"modalsh: git: cannot be executed", code=126)
    expect_refusal(world.run(playing(*RUNNING, failed(5, errno.ENOENT)), name="modalsh"), b"the configured shell", code=127)
    for stage in (1, 2, 3, 4, 6):
        expect_refusal(world.run(playing(*RUNNING, failed(stage, errno.ENOENT))), NOT_RUN)


@check
def stderr_closed_or_broken(world):
    assert world.run(stderr=None, preexec_fn=lambda: os.close(2)) == (125, b"", None)
    reader, writer = os.pipe()
    os.close(reader)
    assert world.run(stderr=writer) == (125, b"", None), "nobody reads the line: no death by SIGPIPE"
    os.close(writer)
    with open(world.path("file"), "w+b") as file:
        os.dup2(file.fileno(), 199)
        try:
            # 2 is closed and the socket would get its number: the line must not go there
            assert world.run(stderr=None, preexec_fn=lambda: os.close(2), pass_fds=[199])[0] == 125
        finally:
            os.close(199)
        assert os.fstat(file.fileno()).st_size == 0


# ---- the end of the command ----


@check
def exit_codes(world):
    for code in range(256):
        assert world.run(playing(*RUNNING, started(), exit_frame(1, code))) == (code, b"", b""), code


@check
def signal_deaths(world):
    ignored_or_stopping = {17, 18, 19, 20, 21, 22, 23, 28}
    for number in set(range(1, 65)) - ignored_or_stopping:
        got = world.run(playing(*RUNNING, started(), exit_frame(2, number)))
        # the libc keeps 32 to 34 to itself and may leave only the shell's way to say it
        assert got == (-number, b"", b"") or (number in (32, 33, 34) and got == (128 + number, b"", b"")), (number, got)
    for number in (17, 18, 23, 28):
        assert world.run(playing(*RUNNING, exit_frame(2, number))) == (128 + number, b"", b"")


@check
def signal_death_of_an_ignored_signal(world):
    ignore = lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert world.run(playing(*RUNNING, exit_frame(2, 15)), preexec_fn=ignore) == (-15, b"", b"")


@check
def no_core_file(world):
    folder = world.path("cores")
    os.mkdir(folder)
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    big = lambda: resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    assert world.run(playing(*RUNNING, exit_frame(2, 11)), cwd=folder, preexec_fn=big) == (-11, b"", b"")
    assert os.listdir(folder) == []


@check
def replies_byte_by_byte(world):
    def script(connection):
        connection.greet()
        for byte in hello_reply() + accepted() + started() + exit_frame(1, 42):
            connection.send(bytes([byte]))
            time.sleep(0.001)

    assert world.run(script) == (42, b"", b"")


@check
def bytes_after_the_exit_do_not_count(world):
    assert world.run(playing(*RUNNING, exit_frame(1, 9), b"\xff" * 100)) == (9, b"", b"")


# ---- what is sent ----


@check
def arguments_exact(world):
    awkward = [b"sh", b"", b" ", b"a b", b"x\ny", b"*", b"$HOME", b"`id`", b"\\", b"'\"", "é".encode(), b"-n", b"--",
               b"\xff\xfe\x80a", b""]
    start = world.start(args=awkward)
    assert start["argv"] == awkward and start["program"] == b"sh"


@check
def large_arguments(world):
    args = [b"sh", b"x" * 130000, b"y" * 131071]
    assert world.start(args=args)["argv"] == args
    args = [b"sh"] + [bytes([65 + i]) * 100000 for i in range(20)]
    assert world.start(args=args)["argv"] == args
    args = [b"sh"] + [b"a"] * 100000
    assert world.start(args=args)["argv"] == args


@check
def too_many_arguments(world):
    """The kernel takes up to 6 MiB when the stack may be large; a frame does not."""
    more = lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 30, resource.RLIM_INFINITY))
    args = [b"sh"] + [b"x" * 100000] * 45
    expect_refusal(world.run(nothing_may_come, args=args, preexec_fn=more), b"argument list too long", code=126)


@check
def environment_exact(world):
    env = {b"MODALSH_SOCKET": world.socket.encode(), b"A.B": b"1", b"X-Y": b"2", b"1Z": b"3", b"E": b"",
           b"N": b"line\nline \xff\x01", b"MODAL_TOKEN_SECRET": b"the broker filters, not the shim"}
    start = world.start(env=env)
    assert sorted(start["env"]) == sorted(name + b"=" + value for name, value in env.items())
    assert start["env_base"] == 0


@check
def working_directory(world):
    for name in (b"with space", b"new\nline", b"qu'o\"te", b"\xff\xfe", b"ends in (deleted)"):
        path = os.path.join(world.root.encode(), name)
        os.mkdir(path)
        assert world.start(cwd=path)["cwd"] == path


@check
def working_directory_removed(world):
    for name in (b"gone", b"gone (deleted)"):
        path = os.path.join(world.root.encode(), name)
        os.mkdir(path)
        assert world.start(cwd=path, preexec_fn=lambda: os.rmdir(path))["cwd"] == path


@check
def working_directory_too_deep(world):
    top = world.path("deep")
    os.mkdir(top)

    def descend():
        os.chdir(top)
        for _ in range(30):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)

    try:
        expect_refusal(world.run(nothing_may_come, preexec_fn=descend), b"working directory")
    finally:
        subprocess.run(["rm", "-rf", top], check=True)


@check
def inherited_settings(world):
    def change():
        os.umask(0o077)
        os.nice(5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 456))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(64, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2, 35})

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    start = world.start(preexec_fn=change)
    assert start["umask"] == 0o077
    assert start["nice"] == min(nice + 5, 19)
    # glibc's posix_spawn() leaves the signals that it keeps for itself ignored, and make starts us with it
    own = 1 << 31 | 1 << 32
    assert start["ignored"] & ~own == 1 << (signal.SIGHUP - 1) | 1 << 63
    assert start["blocked"] == 1 << (signal.SIGUSR2 - 1) | 1 << 34
    assert start["limits"].pop(resource.RLIMIT_NOFILE) == (123, 456)
    unlimited = lambda value: 2**64 - 1 if value == resource.RLIM_INFINITY else value
    for number in set(range(16)) - {resource.RLIMIT_NOFILE}:
        assert start["limits"][number] == tuple(map(unlimited, resource.prlimit(0, number))), number
    assert len(start["limits"]) == 15
    assert start["winsize"] == (0, 0, 0, 0) and start["termios"] == b""


@check
def descriptors(world):
    """Every combination of closed descriptors; the open ones are the very same objects."""
    for combination in range(8):
        closed = [fd for fd in range(3) if combination >> fd & 1]
        pipes = [os.pipe() for _ in range(3)]
        ours = (pipes[0][0], pipes[1][1], pipes[2][1])
        seen = []

        def script(connection):
            start = connection.greet()
            seen.append((start["streams"], [os.fstat(fd).st_ino for fd in connection.fds]))
            connection.send(*RUNNING, exit_frame(1, 7))

        got = world.run(script, stdin=ours[0], stdout=ours[1], stderr=ours[2],
                        preexec_fn=lambda: [os.close(fd) for fd in closed])
        assert got[0] == 7, (closed, got)
        streams, inodes = seen[0]
        assert streams == [(fd, CLOSED if fd in closed else PASSED, 0, 0) for fd in range(3)]
        assert inodes == [os.fstat(ours[fd]).st_ino for fd in range(3) if fd not in closed]
        for fd in sum(pipes, ()):
            os.close(fd)


@check
def own_descriptors_are_closed_once_accepted(world):
    in_reader, in_writer = os.pipe()
    out_reader, out_writer = os.pipe()
    go_on = threading.Event()

    def script(connection):
        connection.greet()
        connection.send(*RUNNING)
        connection.release()
        go_on.wait(20)
        connection.send(exit_frame(1, 5))

    with FakeBroker(world.socket, script):
        process = world.popen(stdin=in_reader, stdout=out_writer)
        os.close(in_reader)
        os.close(out_writer)
        assert select.select([out_reader], [], [], 10)[0] and os.read(out_reader, 1) == b"", "end of file at once"
        poller = select.poll()
        poller.register(in_writer, 0)
        assert poller.poll(10000), "no reader is left"
        assert process.poll() is None, "and the shim still waits"
        go_on.set()
        assert finish(process)[0] == 5
    os.close(in_writer)
    os.close(out_reader)


# ---- by which name ----


@check
def personalities(world):
    for name in ("sh", "git", "hardlink", "a b"):
        start = world.start(name=name, args=["made-up", "x"])
        assert (start["program"], start["argv"]) == (name.encode(), [b"made-up", b"x"])
    start = world.start(name="sh", args=["-sh", "-c", ":"])
    assert (start["program"], start["argv"]) == (b"sh", [b"-sh", b"-c", b":"])
    start = world.start(name="modalsh", args=["whatever", "-c", ":"])
    assert (start["program"], start["argv"]) == (b"", [b"whatever", b"-c", b":"])
    start = world.start(name="sh", args=["sh", "--modalsh-version"])
    assert start["argv"] == [b"sh", b"--modalsh-version"], "another program's option"


@check
def personality_exec(world):
    start = world.start(name="exec", args=["exec", "ls", "-l"])
    assert (start["program"], start["argv"]) == (b"ls", [b"ls", b"-l"])
    start = world.start(name="exec", args=["exec", "/bin/ls"])
    assert (start["program"], start["argv"]) == (b"/bin/ls", [b"/bin/ls"])
    assert world.run(name="exec", args=["exec"]) == (0, b"", b"")
    expect_refusal(world.run(name="exec", args=["exec", ""]), b"not found", code=127)
    expect_refusal(world.run(name="exec", args=["exec", "x" * 5000]), NOT_RUN, code=126)


@check
def personality_of_a_script(world):
    script = world.path("tool.sh")
    for name in ("sh", "modalsh"):
        with open(script, "w", encoding="ascii") as file:
            file.write(f"#!{world.path(name)} -e\necho hi\n")
        os.chmod(script, 0o755)
        start = world.start(name="tool.sh", args=["ignored", "arg"])
        assert start["program"] == (b"sh" if name == "sh" else b"")
        assert start["argv"] == [world.path(name).encode(), b"-e", script.encode(), b"arg"]


@check
def personality_of_a_descriptor(world):
    env = {"MODALSH_SOCKET": world.socket}
    for target in ("fd", "'/proc/self/fd/%d' % fd", "'/proc/%d/fd/%d' % (os.getpid(), fd)", "'/dev/fd/%d' % fd"):
        seen = []

        def script(connection):
            seen.append(connection.greet())
            connection.send(*RUNNING, exit_frame(1, 0))

        code = ("import os, sys\nfd = os.open(sys.argv[1], os.O_RDONLY)\nos.set_inheritable(fd, True)\n"
                f"os.execve({target}, ['-/usr/bin/dash', '-c', ':'], dict(os.environ))")
        with FakeBroker(world.socket, script):
            done = subprocess.run([sys.executable, "-c", code, world.shim], env=env, capture_output=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), done
        assert (seen[0]["program"], seen[0]["argv"][0]) == (b"dash", b"-/usr/bin/dash")


@check
def no_name_at_all(world):
    script = ("import os, sys\nfd = os.open(sys.argv[1], os.O_RDONLY)\nos.set_inheritable(fd, True)\n"
              "os.execve(fd, [''], dict(os.environ))")
    done = subprocess.run([sys.executable, "-c", script, world.shim], env={}, capture_output=True, timeout=30)
    # the interpreter itself refuses an empty argv[0]; either way nothing runs
    assert done.returncode != 0 and done.stdout == b""


@check
def own_options(world):
    code, out, err = world.run(name="modalsh", args=["modalsh", "--modalsh-version"])
    assert code == 0 and out.startswith(b"modalsh ") and out.count(b"\n") == 1 and err == b""
    code, out, err = world.run(name="modalsh", args=["modalsh", "--modalsh-help"])
    assert code == 0 and b"MODALSH_SOCKET" in out and err == b""
    expect_refusal(world.run(name="modalsh", args=["modalsh", "--modalsh-nonsense"]), b"no option --modalsh-nonsense")
    start = world.start(name="modalsh", args=["modalsh", "-c", "--modalsh-version"])
    assert start["argv"][2] == b"--modalsh-version"


# ---- signals ----


def forwarding(world, numbers, **options):
    """Sends the signals to a waiting shim, one after the other, and returns the frames that came of them."""
    controls = []
    process = [None]
    started_up = threading.Event()

    def script(connection):
        connection.greet()
        connection.send(*RUNNING, started())
        started_up.wait(20)
        for number in numbers:
            os.kill(process[0].pid, number)
            controls.append(connection.control())
        connection.send(exit_frame(1, 6))

    with FakeBroker(world.socket, script):
        process[0] = world.popen(**options)
        started_up.set()
        code, out, err = finish(process[0])
    assert (code, out, err) == (6, b"", b""), (code, out, err)
    return controls


@check
def every_signal_is_forwarded(world):
    left_out = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    numbers = sorted(set(range(1, 65)) - left_out)
    controls = forwarding(world, numbers)
    assert [control["signal"] for control in controls] == numbers
    assert all(control["type"] == SIGNAL for control in controls), "SIGWINCH without a terminal is a signal"
    assert [control["sequence"] for control in controls] == list(range(1, len(numbers) + 1))
    scopes = {signal.SIGCONT: 2, signal.SIGINT: 4, signal.SIGQUIT: 4}
    if os.getpgrp() == os.getpid():
        scopes[signal.SIGTERM] = 4
    assert all(control["scope"] == scopes.get(control["signal"], 1) for control in controls)


@check
def termination_of_a_leader_is_meant_for_its_group(world):
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTERM]
    scopes = [4, 4, 4, 1, 4]
    for leader in ({"start_new_session": True}, {"preexec_fn": lambda: os.setpgid(0, 0)}):
        assert [control["scope"] for control in forwarding(world, numbers, **leader)] == scopes
    term = 4 if os.getpgrp() == os.getpid() else 1  # from a parent that leads the group it means the group
    assert [control["scope"] for control in forwarding(world, numbers)] == [1, 4, 4, 1, term]


@check
def ignored_signals_are_forwarded_too(world):
    controls = []
    process = [None]
    ready = threading.Event()

    def script(connection):
        connection.greet()
        connection.send(*RUNNING)
        ready.wait(20)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
            os.kill(process[0].pid, number)
        controls.extend((connection.control(), connection.control()))
        connection.send(exit_frame(1, 0))

    with FakeBroker(world.socket, script):
        process[0] = world.popen(preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
        ready.set()
        assert finish(process[0])[0] == 0
    assert {control["signal"] for control in controls} == {signal.SIGUSR1, signal.SIGTERM}


@check
def stop_and_continue(world):
    for number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        controls = []
        process = [None]
        ready, stopped = threading.Event(), threading.Event()

        def script(connection):
            connection.greet()
            connection.send(*RUNNING)
            ready.wait(20)
            os.kill(process[0].pid, number)
            controls.append(connection.control())
            connection.send(frame(STOPPED, bytes([number])))
            stopped.wait(20)
            os.kill(process[0].pid, signal.SIGCONT)
            controls.append(connection.control())
            connection.send(exit_frame(1, 8))

        with FakeBroker(world.socket, script):
            process[0] = world.popen(preexec_fn=lambda: os.setpgid(0, 0))
            ready.set()
            _, status = os.waitpid(process[0].pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == number, status
            stopped.set()
            assert finish(process[0])[0] == 8
        assert [control["signal"] for control in controls] == [number, signal.SIGCONT]


@check
def only_a_stopped_command_stops_it(world):
    assert forwarding(world, [signal.SIGTSTP, signal.SIGUSR1],
                      preexec_fn=lambda: os.setpgid(0, 0))[1]["signal"] == signal.SIGUSR1


@check
def blocked_stop_signal_does_not_stop(world):
    block = lambda: (os.setpgid(0, 0), signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP}))
    assert forwarding(world, [signal.SIGTSTP, signal.SIGUSR1], preexec_fn=block)[1]["signal"] == signal.SIGUSR1


@check
def sigstop_and_continue_lose_nothing(world):
    process = [None]
    ready = threading.Event()
    controls = []

    def script(connection):
        connection.greet()
        connection.send(*RUNNING)
        ready.wait(20)
        os.kill(process[0].pid, signal.SIGSTOP)
        time.sleep(0.1)
        with open(f"/proc/{process[0].pid}/stat", encoding="ascii") as file:
            assert file.read().rsplit(")", 1)[1].split()[0] == "T"
        os.kill(process[0].pid, signal.SIGCONT)
        controls.append(connection.control())
        connection.send(exit_frame(1, 4))

    with FakeBroker(world.socket, script):
        process[0] = world.popen()
        ready.set()
        assert finish(process[0]) == (4, b"", b"")
    assert controls[0]["signal"] == signal.SIGCONT


@check
def signals_while_waiting_for_accepted(world):
    process = [None]
    ready = threading.Event()

    def script(connection):
        connection.greet()
        ready.wait(20)
        os.kill(process[0].pid, signal.SIGTERM)
        assert connection.control()["signal"] == signal.SIGTERM
        connection.send(*RUNNING, exit_frame(2, 15))

    with FakeBroker(world.socket, script):
        process[0] = world.popen()
        ready.set()
        assert finish(process[0]) == (-15, b"", b"")


@check
def death_is_seen_by_the_broker(world):
    process = [None]
    ready = threading.Event()

    def script(connection):
        connection.greet()
        connection.send(*RUNNING)
        ready.wait(20)
        os.kill(process[0].pid, signal.SIGKILL)
        assert connection.read_frame() is None

    with FakeBroker(world.socket, script):
        process[0] = world.popen()
        ready.set()
        assert finish(process[0]) == (-9, b"", b"")


TERMINAL_HOST = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: None)
process = subprocess.Popen(["sh"], executable=sys.argv[1])
while True:
    try:
        sys.exit(process.wait() & 255)
    except KeyboardInterrupt:
        pass
"""


@check
def terminal(world):
    """Size and settings are sent, a change of size is a frame, and ^C is for the group."""
    results = {}
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 5, 6))
    settings = fcntl.ioctl(slave, termios.TCGETS, b"\0" * 36)

    def script(connection):
        results["start"] = connection.greet()
        connection.send(*RUNNING)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        results["winch"] = connection.control()
        os.write(master, b"\x03")
        results["int"] = connection.control()
        connection.send(exit_frame(1, 21))

    def attach():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with FakeBroker(world.socket, script):
        host = subprocess.Popen([sys.executable, "-c", TERMINAL_HOST, world.path("sh")], stdin=slave, stdout=slave, stderr=slave,
                                preexec_fn=attach, env={"MODALSH_SOCKET": world.socket})
        assert host.wait(30) == 21
    os.close(master)
    os.close(slave)
    assert results["start"]["winsize"] == (33, 77, 5, 6)
    assert results["start"]["termios"] == settings
    assert results["winch"]["type"] == WINCH and results["winch"]["winsize"] == (40, 100, 0, 0)
    assert results["int"]["signal"] == signal.SIGINT and results["int"]["scope"] == 2, "the shim is no leader here"


# ---- what it is while it waits ----


@root_check
def small_and_locked(world):
    seen = {}
    process = [None]
    ready = threading.Event()

    def script(connection):
        connection.greet()
        connection.send(*RUNNING, started())
        ready.wait(20)
        time.sleep(0.05)
        for file in ("status", "smaps_rollup"):
            with open(f"/proc/{process[0].pid}/{file}", encoding="ascii") as lines:
                seen.update(line.split(":", 1) for line in lines.read().splitlines())
        seen["owner"] = os.stat(f"/proc/{process[0].pid}/mem").st_uid
        connection.send(exit_frame(1, 0))

    with FakeBroker(world.socket, script):
        process[0] = world.popen(user=NOBODY, group=NOBODY, extra_groups=[])
        ready.set()
        assert finish(process[0]) == (0, b"", b"")
    kib = int(seen["Rss"].split()[0])
    print(f"# resident memory while waiting: {kib} KiB")
    with open(world.shim, "rb") as file:
        assert kib <= 1024 or b"__asan_init" in file.read(), "a sanitizer build has shadow memory"
    assert seen["Seccomp"].strip() == "2" and seen["NoNewPrivs"].strip() == "1"
    assert seen["owner"] == 0, "not dumpable"


@check
def exactly_one_execve(world):
    """Of a good run, of a refusal and of a missing broker."""
    traced = "trace=execve,execveat,fork,vfork,clone,clone3"
    log = world.path("trace")
    scripts = [playing(*RUNNING, exit_frame(1, 3)), playing(refused(1, b"no")), playing(*RUNNING, failed(5, errno.ENOENT)), None]
    for script, code in zip(scripts, (3, 125, 127, 125)):
        command = ["strace", "-f", "-o", log, "-e", traced, world.path("sh"), "-c", "true"]
        options = {"env": {"MODALSH_SOCKET": world.socket, "PATH": "/usr/bin:/bin"}, "capture_output": True, "timeout": 30}
        if script is None:
            done = subprocess.run(command, check=False, **options)
        else:
            with FakeBroker(world.socket, script):
                done = subprocess.run(command, check=False, **options)
        assert done.returncode == code, done
        with open(log, encoding="utf-8") as file:
            calls = [line for line in file if "(" in line]
        assert len(calls) == 1 and " execve(" in " " + calls[0].split(None, 1)[1], calls


def run_check(function, world):
    """Returns "ok", "not ok" or "skip"."""
    must_work = os.environ.get("MODALSH_MUST_WORK") == "1"
    if function in ROOT_CHECKS and os.geteuid() != 0 and not must_work:
        print(f"skip {function.__name__}: needs root", flush=True)
        return "skip"
    try:
        function(world)
    except Exception as error:
        print(f"not ok {function.__name__}: {type(error).__name__}: {error}", flush=True)
        return "not ok"
    print(f"ok {function.__name__}", flush=True)
    return "ok"


def main():
    build = os.environ.get("MODALSH_BUILD_DIR", ".")
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    world = World(sys.argv[1] if len(sys.argv) > 1 else os.path.join(build, "modalsh"))
    try:
        results = [run_check(function, world) for function in CHECKS if wanted in function.__name__]
    finally:
        shutil.rmtree(world.root, ignore_errors=True)
    print(f"{results.count('ok')} passed, {results.count('not ok')} failed")
    sys.exit("not ok" in results or "ok" not in results)


if __name__ == "__main__":
    main()
