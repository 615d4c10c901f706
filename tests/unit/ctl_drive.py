#!/usr/bin/env python3
"""Drives modalshctl against a fake broker: ctl_drive.py [PATH-OF-MODALSHCTL].  Without a path it takes the one of
MODALSH_BUILD_DIR.  Prints one line per check and `N passed, N failed`; ends 1 when anything failed."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # the source tree may be read-only, and stays clean

from fake_broker import (  # noqa: E402
    HELLO, PING, PONG, REPLY, STATUS, STOP, FakeBroker, bytes_field, frame, hello_reply, parse_hello, refused,
)

STATE = {
    "version": "0.1.0", "pid": 4711, "uptime_ms": 3725000, "state": "ready",
    "sandbox": {"id": "sb-1", "task_id": "ta-1", "name": "", "image_id": None, "created_count": 2, "age_ms": 61000},
    "lane": {"state": "open", "boot_id": "00ff", "opened_count": 1},
    "jobs": {"running": 3, "total": 12345678, "refused": 0},
    "server": "https://api.example", "token_source": "MODAL_TOKEN_ID", "rss_kib": 9216,
    "ignored_settings": ["terminal.a", "terminal.b"], "a_field_of_tomorrow": [], "odd": 1.5, "quick_ms": 12, "flag": True,
}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class World:
    def __init__(self, program):
        self.program = program
        self.root = tempfile.mkdtemp(prefix="ctl-")
        self.socket = os.path.join(self.root, "socket")

    def run(self, *args, script=None, env=None, **options):
        """Returns (code, stdout, stderr)."""
        def start():
            done = subprocess.run([self.program, *args], env=env or {"MODALSH_SOCKET": self.socket}, stdin=subprocess.DEVNULL,
                                  timeout=30, check=False, **(options or {"capture_output": True}))
            return done.returncode, done.stdout, done.stderr

        if script is None:
            return start()
        with FakeBroker(self.socket, script):
            return start()


def take_request(connection, wanted):
    kind, body = connection.read_frame()
    assert kind == HELLO and parse_hello(body)["client"].startswith(b"modalshctl ")
    kind, body = connection.read_frame()
    assert kind == wanted, hex(kind)
    return body


def replying(wanted, *frames):
    def script(connection):
        take_request(connection, wanted)
        connection.send(hello_reply(), *frames)

    return script


def text_reply(text):
    return frame(REPLY, bytes_field(text))


def expect_failure(result, words):
    assert result[0] == 1 and result[1] == b"", result
    assert result[2].startswith(b"modalshctl: ") and result[2].count(b"\n") == 1 and words in result[2], result


@check
def status_table(world):
    code, out, err = world.run("status", script=replying(STATUS, text_reply(json.dumps(STATE).encode())))
    assert (code, err) == (0, b""), err
    rows = {line[:24].strip(): line[24:] for line in out.decode().splitlines()}
    assert rows == {
        "version": "0.1.0", "pid": "4711", "uptime": "1 h 2 min", "state": "ready", "sandbox id": "sb-1",
        "sandbox task id": "ta-1", "sandbox name": "-", "sandbox image id": "-", "sandbox created count": "2",
        "sandbox age": "1 min 1 s", "lane state": "open", "lane boot id": "00ff", "lane opened count": "1",
        "jobs running": "3", "jobs total": "12345678", "jobs refused": "0", "server": "https://api.example",
        "token source": "MODAL_TOKEN_ID", "rss": "9216 KiB", "ignored settings": "terminal.a, terminal.b",
        "a field of tomorrow": "-", "odd": "1.5", "quick": "12 ms", "flag": "yes",
    }, rows


@check
def status_of_a_few_fields(world):
    assert world.run("status", script=replying(STATUS, text_reply(b'{"pid":1}')))[1].split() == [b"pid", b"1"]
    assert world.run("status", script=replying(STATUS, text_reply(b"{}"))) == (0, b"", b"")


@check
def status_cannot_command_a_terminal(world):
    out = world.run("status", script=replying(STATUS, text_reply(b'{"state":"a\\u001b[2Jb\\n"}')))[1]
    assert b"\x1b" not in out and out.count(b"\n") == 1


@check
def status_json(world):
    text = json.dumps(STATE).encode()
    for args in (("status", "--json"), ("--json", "status")):
        assert world.run(*args, script=replying(STATUS, text_reply(text))) == (0, text + b"\n", b"")
    large = json.dumps({"x": "y" * 1000000}).encode()
    assert world.run("status", "--json", script=replying(STATUS, text_reply(large))) == (0, large + b"\n", b"")


@check
def status_that_is_none(world):
    for text in (b"", b"nonsense", b"[1]", b"{"):
        expect_failure(world.run("status", script=replying(STATUS, text_reply(text))), b"no JSON object")


@check
def ping(world):
    def script(connection):
        token = take_request(connection, PING)
        assert len(token) == 8
        connection.send(hello_reply())
        time.sleep(0.05)
        connection.send(frame(PONG, token))

    code, out, err = world.run("ping", script=script)
    assert code == 0 and err == b"" and 50 <= float(out.split()[-2]) < 5000, out


@check
def ping_of_another(world):
    expect_failure(world.run("ping", script=replying(PING, frame(PONG, b"\1" * 8))), b"another ping")


@check
def stop_waits_for_the_end(world):
    ended = []

    def script(connection):
        take_request(connection, STOP)
        connection.send(hello_reply(), text_reply(b'{"stopping":true}'))
        time.sleep(0.3)
        ended.append(time.monotonic())

    code, _, err = world.run("stop", script=script)
    assert (code, err) == (0, b"") and ended and ended[0] <= time.monotonic()


@check
def stop_refused(world):
    expect_failure(world.run("stop", script=replying(STOP, refused(1, b"only its owner may stop it"))), b"only its owner")
    expect_failure(world.run("stop", script=replying(STOP, text_reply(b'{"error":"only root may"}'))), b"only root may")
    expect_failure(world.run("stop", script=replying(STOP, text_reply(b"yes"))), b"no JSON object")


@check
def refused_without_reading(world):
    """The broker says no before it takes anything."""
    for _ in range(20):
        expect_failure(world.run("status", script=lambda connection: connection.send(refused(1, b"too busy"))), b"too busy")


@check
def broker_that_misbehaves(world):
    expect_failure(world.run("status", script=replying(STATUS)), b"went away")
    expect_failure(world.run("status", script=lambda connection: None), b"went away")
    expect_failure(world.run("stop", script=replying(STOP)), b"went away")
    for bad in (b"\xff" * 64, frame(0xFF), frame(REPLY, b"\xff"), frame(REPLY, bytes_field(b"{}"), job=1), frame(PONG, b"\0" * 8),
                struct.pack("<IBI", 3 * 1024 * 1024, REPLY, 0) + b"\0" * (3 * 1024 * 1024)):
        try:
            result = world.run("status", script=replying(STATUS, bad))
        except (BrokenPipeError, ConnectionResetError):  # it hung up in the middle of too much
            continue
        expect_failure(result, b"protocol")
    expect_failure(world.run("status", script=lambda connection: connection.send(hello_reply(version=7))), b"version")


@check
def no_broker(world):
    for command in ("status", "ping", "stop"):
        expect_failure(world.run(command), b"start modalsh-broker")
    expect_failure(world.run("--socket", "/nonexistent/s", "ping"), b"/nonexistent/s")
    expect_failure(world.run("ping", env={"PATH": "/"}), b"broker.sock")


@check
def socket_option_wins(world):
    script = replying(STATUS, text_reply(b'{"pid":1}'))
    for args in (("--socket", world.socket, "status"), ("status", f"--socket={world.socket}")):
        assert world.run(*args, script=script, env={"MODALSH_SOCKET": "/nonexistent"})[0] == 0


@check
def usage(world):
    for args in ((), ("nonsense",), ("status", "more"), ("--nonsense",), ("ping", "--json"), ("status", "--socket"), ("",)):
        code, out, err = world.run(*args)
        assert code == 64 and out == b"" and b"usage: modalshctl" in err, (args, code)
    code, out, err = world.run("--help")
    assert code == 0 and out.startswith(b"usage: modalshctl") and err == b""
    code, out, err = world.run("--version")
    assert code == 0 and out.startswith(b"modalshctl ") and err == b""


@check
def full_disk(world):
    with open("/dev/full", "wb") as full:
        script = replying(STATUS, text_reply(b'{"pid":1}'))
        code, _, err = world.run("status", script=script, stdout=full, stderr=subprocess.PIPE)
    assert code == 1 and err.startswith(b"modalshctl: writing")


def run_check(function, world):
    try:
        function(world)
    except Exception as error:
        print(f"not ok {function.__name__}: {type(error).__name__}: {error}", flush=True)
        return False
    print(f"ok {function.__name__}", flush=True)
    return True


def main():
    build = os.environ.get("MODALSH_BUILD_DIR", ".")
    world = World(os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(build, "modalshctl")))
    try:
        results = [run_check(function, world) for function in CHECKS]
    finally:
        shutil.rmtree(world.root, ignore_errors=True)
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    sys.exit(False in results)


if __name__ == "__main__":
    main()
