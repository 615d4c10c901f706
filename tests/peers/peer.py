"""Modal's own Python SDK against the server named by MODAL_SERVER_URL.

Usage: peer.py LABEL, with MODAL_SANDBOX_V2 saying which sandboxes to ask for.  Each check prints one
line, "ok - LABEL: text" or "not ok - LABEL: text"; the last line is "end - N checks".  A topic that
raises, or that takes longer than TOPIC_WAIT_S, is a failed check of its own.
"""
import hashlib
import os
import re
import sys
import tempfile
import threading
import time
import traceback
import uuid

import modal
import modal.exception as failures

TOPIC_WAIT_S = 90
IS_V2 = os.environ.get("MODAL_SANDBOX_V2", "0") not in ("", "0", "false")
RUN = uuid.uuid4().hex[:12]
V1_SANDBOX_ID = re.compile(r"^sb-[0-9A-Za-z]{22}$")
MIB = 1 << 20
# What sh says about a signal death: 128 + number; SIGKILL is also how an exec timeout ends.
CODE_SIGKILL = 137
CODE_SIGTERM = 143
CODE_LIFETIME_OVER = 124
CODE_LOCAL_DEADLINE = -1


class Report:
    """Counts and prints the checks of one run."""

    def __init__(self, label):
        self.label = label
        self.checks = 0
        self.failed = 0
        self.lock = threading.Lock()

    def check(self, passed, text, seen=None):
        with self.lock:
            self.checks += 1
            if passed:
                print(f"ok - {self.label}: {text}", flush=True)
                return
            self.failed += 1
            print(f"not ok - {self.label}: {text}", flush=True)
            if seen is not None:
                print(f"# seen: {str(seen)[:600]!r}", flush=True)

    def equal(self, seen, wanted, text):
        self.check(seen == wanted, text, f"{str(seen)[:250]} instead of {str(wanted)[:250]}")

    def raises(self, kind, call, text):
        try:
            value = call()
        except Exception as error:
            self.check(isinstance(error, kind), text, f"{type(error).__name__}: {error}")
            return
        self.check(False, text, f"no error but {value!r}")

    def topic(self, function, *args):
        """Runs one topic in a thread, so that a call that never returns is a failure and not a hang."""
        result = []

        def body():
            try:
                result.append(function(self, *args))
            except BaseException:
                result.append(None)
                self.check(False, f"{function.__name__} ran to its end", traceback.format_exc()[-600:])

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        thread.join(TOPIC_WAIT_S)
        if thread.is_alive():
            self.check(False, f"{function.__name__} ended within {TOPIC_WAIT_S} s")
            return None
        return result[0]


def run(sandbox, *argv, **options):
    """One command to its end: exit code, stdout, stderr."""
    process = sandbox.exec(*argv, **options)
    out = process.stdout.read()
    err = process.stderr.read()
    return process.wait(), out, err


def shell(sandbox, script, **options):
    return run(sandbox, "sh", "-c", script, **options)


def output_of(call):
    """Runs call() and returns what it wrote to descriptors 1 and 2."""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as capture:
        saved = os.dup(1), os.dup(2)
        os.dup2(capture.fileno(), 1)
        os.dup2(capture.fileno(), 2)
        try:
            call()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
        capture.seek(0)
        return capture.read().decode("utf-8", "replace")


def pattern(length, seed):
    """Bytes that no text decoder would let pass, the same for the same seed."""
    block = hashlib.sha512(seed.encode()).digest() + bytes(range(256))
    return (block * (length // len(block) + 1))[:length]


def app_look_up(report):
    name = f"peer-app-{RUN}"
    report.raises(failures.NotFoundError, lambda: modal.App.lookup(name),
                  "an app that does not exist is NotFoundError")
    app = modal.App.lookup(name, create_if_missing=True)
    report.check(app.app_id.startswith("ap-"), "app id begins with ap-", app.app_id)
    report.equal(modal.App.lookup(name).app_id, app.app_id, "the second look-up finds the same app")
    return app


def image_build(report, app):
    def recipe():
        base = modal.Image.from_registry("debian:12").env({"PEER_IMAGE": RUN})
        return base.run_commands(f"echo built for {RUN} | tee /root/built")

    image = recipe()

    def build():
        with modal.enable_output():
            image.build(app)

    log = output_of(build)
    report.check(image.object_id.startswith("im-"), "image id begins with im-", image.object_id)
    report.check(f"built for {RUN}" in log, "the build's log shows what its RUN line wrote", log)
    again = recipe()
    again.build(app)
    report.equal(again.object_id, image.object_id, "the same recipe is the same image")
    return image


def sandbox_create(report, app, image):
    sandbox = modal.Sandbox.create(
        app=app, image=image, name=f"peer-{RUN}", tags={"peer": RUN, "kind": "main"},
        env={"PEER_ENV": "two words, \"quotes\" and $signs"}, timeout=600)
    is_v1_shape = V1_SANDBOX_ID.match(sandbox.object_id) is not None
    report.check(sandbox.object_id.startswith("sb-") and is_v1_shape != IS_V2,
                 "the sandbox id has the shape of its version", sandbox.object_id)
    report.equal(sandbox.poll(), None, "poll of a running sandbox is None")
    return sandbox


def exec_basics(report, sandbox):
    report.equal(run(sandbox, "echo", "a  b", "c"), (0, "a  b c\n", ""), "exec passes its arguments unsplit")
    report.equal(shell(sandbox, 'printf %s "$PEER_ENV"')[1], "two words, \"quotes\" and $signs",
                 "the sandbox's env arrives")
    report.equal(shell(sandbox, 'printf %s "$PEER_IMAGE"')[1], RUN, "an ENV line of the image arrives")
    report.equal(shell(sandbox, "cat /root/built")[1], f"built for {RUN}\n", "a RUN line of the image has been run")
    report.equal(run(sandbox, "sh", "-c", 'printf %s "$A-$PEER_ENV"', env={"A": "1", "PEER_ENV": "2"})[1], "1-2",
                 "the exec's env arrives and wins")
    report.equal(run(sandbox, "printf", "%s", "")[1], "", "no output is the empty string")
    report.equal(shell(sandbox, "echo out; echo err >&2"), (0, "out\n", "err\n"), "stdout and stderr are apart")
    process = sandbox.exec("sh", "-c", "echo first; sleep 0.3; echo second")
    report.equal("".join(process.stdout), "first\nsecond\n", "stdout can be iterated")
    report.equal(process.wait(), 0, "wait after the iteration is 0")
    process = sandbox.exec("echo", "late")
    process.wait()
    report.equal(process.stdout.read(), "late\n", "output can be read after wait")
    report.equal(process.returncode, 0, "returncode after wait")
    process = sandbox.exec("sh", "-c", "echo gone; echo kept >&2", stdout=modal.stream_type.StreamType.DEVNULL)
    report.equal((process.wait(), process.stderr.read()), (0, "kept\n"), "stdout can be discarded")


def exit_status(report, sandbox):
    for code in (0, 3, 125, 255):
        report.equal(shell(sandbox, f"exit {code}")[0], code, f"exit code {code}")
    report.equal(shell(sandbox, "no-such-command-here")[0], 127, "the shell's 127 for an unknown command")
    report.equal(shell(sandbox, "kill -TERM $$")[0], CODE_SIGTERM, "death by SIGTERM is 143")
    report.equal(shell(sandbox, "kill -KILL $$")[0], CODE_SIGKILL, "death by SIGKILL is 137")
    try:
        code = run(sandbox, "no-such-program-here")[0]
    except failures.Error as error:
        code = type(error).__name__
    report.check(code not in (0, None), "a program that is missing is an error or a code, never 0", code)
    process = sandbox.exec("sleep", "1")
    report.equal(process.poll(), None, "poll of a running command is None")
    process.wait()
    report.equal(process.poll(), 0, "poll of an ended command is its code")


def standard_input(report, sandbox):
    process = sandbox.exec("cat")
    process.stdin.write("one\n")
    process.stdin.drain()
    process.stdin.write(b"two\n")
    process.stdin.write_eof()
    process.stdin.drain()
    report.equal((process.stdout.read(), process.wait()), ("one\ntwo\n", 0), "stdin, small, in two writes")

    process = sandbox.exec("wc", "-c")
    process.stdin.write_eof()
    process.stdin.drain()
    report.equal(process.stdout.read().strip(), "0", "an EOF alone ends stdin")

    data = pattern(12 * MIB, "stdin")
    process = sandbox.exec("sha256sum")
    for start in range(0, len(data), 4 * MIB):
        process.stdin.write(data[start:start + 4 * MIB])
        process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    report.equal(process.stdout.read().split()[0], hashlib.sha256(data).hexdigest(), "12 MiB of stdin arrive whole")
    report.equal(process.wait(), 0, "the reader of 12 MiB ends with 0")

    process = sandbox.exec("true")
    process.wait()

    def write_late():
        process.stdin.write(b"late")
        process.stdin.drain()

    report.raises((failures.Error, ValueError), write_late, "a write after the command's end is an error")


def binary_data(report, sandbox):
    every_byte = bytes(range(256))
    process = sandbox.exec("cat", text=False)
    process.stdin.write(every_byte)
    process.stdin.write_eof()
    process.stdin.drain()
    report.equal(process.stdout.read(), every_byte, "every byte value goes there and back")

    data = pattern(5 * MIB, "echo")
    process = sandbox.exec("cat", text=False)
    received = []
    reader = threading.Thread(target=lambda: received.append(process.stdout.read()), daemon=True)
    reader.start()
    for start in range(0, len(data), MIB):
        process.stdin.write(data[start:start + MIB])
        process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    reader.join(60)
    report.check(received == [data], "5 MiB through cat come back the same", [len(part) for part in received])

    code, out, _ = shell(sandbox, "head -c 33554432 /dev/zero | tr '\\0' '\\377'", text=False)
    report.check(code == 0 and out == b"\xff" * (32 * MIB), "32 MiB of stdout arrive whole", (code, len(out)))
    text = "ä€😀" * 40000
    code, out, _ = shell(sandbox, "i=0; while [ $i -lt 400 ]; do printf '%s' \"$T\"; i=$((i+1)); done",
                         env={"T": "ä€😀" * 100})
    report.check(out == text, "UTF-8 survives being cut into chunks", (code, len(out), len(text)))


def exec_options(report, sandbox):
    report.equal(run(sandbox, "pwd", workdir="/usr/lib")[1], "/usr/lib\n", "workdir is used")
    started = time.monotonic()
    process = sandbox.exec("sh", "-c", "echo before; sleep 3; touch /root/too-late", timeout=1)
    code = process.wait()
    took_s = time.monotonic() - started
    report.check(code in (CODE_SIGKILL, CODE_LOCAL_DEADLINE), "an exec timeout ends the wait", code)
    report.check(0.9 <= took_s < 2.9, "an exec timeout of 1 s takes about 1 s", took_s)
    time.sleep(3)
    report.equal(shell(sandbox, "test -e /root/too-late")[0], 1, "an exec timeout stops the command itself")
    code, out, _ = run(sandbox, "sh", "-c", "test -t 1 && echo terminal; stty size", pty=True)
    report.check(code == 0 and out.startswith("terminal\r\n"), "pty gives the command a terminal", (code, out))
    results = {}

    def one(number):
        results[number] = shell(sandbox, f"sleep 0.2; echo {number}; exit {number}")

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    report.equal(results, {n: (n, f"{n}\n", "") for n in range(24)}, "24 commands at once keep their output and code")


def names_and_tags(report, sandbox, app, image):
    name = f"peer-{RUN}"
    found = modal.Sandbox.from_name(app.name, name)
    report.equal(found.object_id, sandbox.object_id, "from_name finds the sandbox")
    report.equal(run(found, "echo", "by name")[1], "by name\n", "exec works on a sandbox from from_name")
    found = modal.Sandbox.from_id(sandbox.object_id)
    report.equal(run(found, "echo", "by id")[1], "by id\n", "exec works on a sandbox from from_id")
    report.raises(failures.NotFoundError, lambda: modal.Sandbox.from_name(app.name, f"absent-{RUN}"),
                  "from_name of an unknown name is NotFoundError")
    report.raises(failures.AlreadyExistsError,
                  lambda: modal.Sandbox.create(app=app, image=image, name=name, timeout=60),
                  "a name that is taken is AlreadyExistsError")
    report.equal(sandbox.get_tags(), {"peer": RUN, "kind": "main"}, "the tags of create are read back")
    sandbox.set_tags({"peer": RUN, "kind": "second", "more": "yes"})
    report.equal(sandbox.get_tags(), {"peer": RUN, "kind": "second", "more": "yes"}, "set_tags replaces all tags")

    def ids(**tags):
        return [item.object_id for item in modal.Sandbox.list(app_id=app.app_id, tags=tags)]

    report.equal(ids(peer=RUN, kind="second"), [sandbox.object_id], "list finds by two tags")
    report.equal(ids(peer=RUN, kind="main"), [], "list asks for all tags together")
    other = modal.Sandbox.create(app=app, image=image, tags={"peer": RUN}, timeout=60)
    report.equal(ids(peer=RUN), [other.object_id, sandbox.object_id], "list gives the newest first")
    other.terminate(wait=True)
    report.equal(ids(peer=RUN), [sandbox.object_id], "list leaves out what has ended")


def snapshot(report, sandbox, app):
    shell(sandbox, "mkdir -p /root/kept && echo survives > /root/kept/file && chmod 750 /root/kept/file")
    image = sandbox.snapshot_filesystem()
    report.check(image.object_id.startswith("im-"), "a snapshot is an image", image.object_id)
    shell(sandbox, "echo changed > /root/kept/file")
    restored = modal.Sandbox.create(app=app, image=image, timeout=60)
    report.equal(shell(restored, "cat /root/kept/file; stat -c %a /root/kept/file")[1], "survives\n750\n",
                 "a sandbox from a snapshot has the file as it was")
    shell(restored, "echo theirs > /root/kept/file")
    report.equal(shell(sandbox, "cat /root/kept/file")[1], "changed\n", "it does not share the file")
    restored.terminate()
    by_id = modal.Sandbox.create(app=app, image=modal.Image.from_id(image.object_id), timeout=60)
    report.equal(shell(by_id, "cat /root/kept/file")[1], "survives\n", "the snapshot is unchanged and found by its id")
    by_id.terminate()


def volumes(report, app, image):
    name = f"peer-volume-{RUN}"
    report.raises(failures.NotFoundError, lambda: modal.Volume.from_name(f"absent-{RUN}").hydrate(),
                  "a volume that does not exist is NotFoundError")
    volume = modal.Volume.from_name(name, create_if_missing=True)
    first = modal.Sandbox.create(app=app, image=image, volumes={"/data": volume}, timeout=120)
    second = modal.Sandbox.create(app=app, image=image, volumes={"/data": volume}, timeout=120)
    report.equal(shell(first, "echo shared > /data/file && sync /data/file")[0], 0, "a volume can be written")
    second.reload_volumes()
    report.equal(shell(second, "cat /data/file")[1], "shared\n", "another sandbox reads it from the volume")
    read_only = modal.Sandbox.create(app=app, image=image, timeout=120,
                                     volumes={"/data": volume.with_mount_options(read_only=True)})
    report.equal(shell(read_only, "cat /data/file; echo no > /data/file || echo refused")[1], "shared\nrefused\n",
                 "a volume mounted read-only can be read and not written")
    for sandbox in (first, second, read_only):
        sandbox.terminate()


def secrets(report, app, image):
    name = f"peer-secret-{RUN}"
    modal.Secret.objects.create(name, {"PEER_NAMED": "named", "PEER_BOTH": "from the secret"})
    held = [modal.Secret.from_name(name), modal.Secret.from_dict({"PEER_DICT": "dict"})]
    sandbox = modal.Sandbox.create(app=app, image=image, secrets=held, env={"PEER_BOTH": "from env"}, timeout=120)
    report.equal(shell(sandbox, 'echo "$PEER_NAMED,$PEER_DICT,$PEER_BOTH"')[1], "named,dict,from env\n",
                 "secrets become environment, env wins")
    sandbox.terminate()
    plain = modal.Sandbox.create(app=app, image=image, timeout=120)
    report.equal(shell(plain, 'echo "$PEER_NAMED,$PEER_DICT"')[1], ",\n", "another sandbox does not have them")
    report.equal(shell(plain, 'echo "$PEER_NAMED,$PEER_DICT"', secrets=held)[1], "named,dict\n",
                 "secrets can be given to one command")
    plain.terminate()
    report.raises(failures.NotFoundError, lambda: modal.Secret.from_name(f"absent-{RUN}").hydrate(),
                  "a secret that does not exist is NotFoundError")


def network(report, app, image):
    port = os.environ["MODAL_SERVER_URL"].rsplit(":", 1)[1]
    sandbox = modal.Sandbox.create(app=app, image=image, block_network=True, timeout=60)
    code, out, _ = shell(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '")
    report.check(code == 0 and out in ("", "lo\n"), "a blocked sandbox has no network device but lo", (code, out))
    code, _, err = run(sandbox, "bash", "-c", f"echo > /dev/tcp/127.0.0.1/{port}")
    report.check(code == 1 and f"/dev/tcp/127.0.0.1/{port}" in err, "a blocked sandbox cannot connect to the host",
                 (code, err))
    sandbox.terminate()


def sandbox_end(report, app, image):
    sandbox = modal.Sandbox.create("sh", "-c", "echo main out; echo main err >&2; exit 7", app=app, image=image,
                                   timeout=60)
    sandbox.wait()
    report.equal(sandbox.returncode, 7, "the main command's exit code is the sandbox's")
    report.equal(sandbox.poll(), 7, "poll of an ended sandbox is its code")
    report.equal((sandbox.stdout.read(), sandbox.stderr.read()), ("main out\n", "main err\n"),
                 "the main command's output can be read")
    report.raises(failures.Error, lambda: run(sandbox, "true"), "exec in an ended sandbox is an error")

    name = f"peer-end-{RUN}"
    sandbox = modal.Sandbox.create(app=app, image=image, name=name, timeout=60)
    process = sandbox.exec("sleep", "100")
    report.equal(sandbox.terminate(wait=True), CODE_SIGKILL, "terminate and wait is 137")
    report.raises(failures.NotFoundError, lambda: modal.Sandbox.from_name(app.name, name),
                  "an ended sandbox is not found by name")
    report.equal(modal.Sandbox.from_id(sandbox.object_id).poll(), CODE_SIGKILL, "it is found by id, with its code")
    report.raises(failures.SandboxTerminatedError, modal.Sandbox.from_id(sandbox.object_id).wait,
                  "wait for a terminated sandbox raises")
    try:
        code = process.wait()
    except failures.Error as error:
        code = type(error).__name__
    report.check(code not in (0, None), "its running command did not end with 0", code)
    again = modal.Sandbox.create(app=app, image=image, name=name, timeout=60)
    report.check(again.object_id != sandbox.object_id, "its name is free again", again.object_id)
    again.terminate(wait=True)
    again.terminate()
    report.equal(again.poll(), CODE_SIGKILL, "a second terminate changes nothing")


def sandbox_limits(report, app, image):
    started = time.monotonic()
    short = modal.Sandbox.create(app=app, image=image, timeout=3)
    idle = modal.Sandbox.create(app=app, image=image, timeout=60, idle_timeout=2)
    report.equal(short.poll(), None, "a sandbox with a short life runs at first")
    report.raises(failures.SandboxTimeoutError, short.wait, "wait raises when the life-time is over")
    took_s = time.monotonic() - started
    report.check(2.5 <= took_s < 15, "a life-time of 3 s is about 3 s", took_s)
    report.equal(short.returncode, CODE_LIFETIME_OVER, "its code is 124")
    while idle.poll() is None and time.monotonic() - started < 20:
        time.sleep(0.2)
    report.check(idle.poll() is not None, "an idle sandbox ends by its idle timeout")


def readiness(report, app, image):
    probe = modal.Probe.with_exec("test", "-e", "/root/ready")
    sandbox = modal.Sandbox.create(app=app, image=image, readiness_probe=probe, timeout=60)
    report.raises(failures.TimeoutError, lambda: sandbox.wait_until_ready(timeout=1),
                  "a sandbox is not ready before its probe succeeds")
    shell(sandbox, "touch /root/ready")
    report.equal(sandbox.wait_until_ready(timeout=20), None, "a sandbox is ready when its probe succeeds")
    sandbox.terminate()


def main_stdin(report, app, image):
    sandbox = modal.Sandbox.create("cat", app=app, image=image, timeout=60)
    sandbox.stdin.write("to the main command\n")
    sandbox.stdin.write_eof()
    sandbox.stdin.drain()
    report.equal(sandbox.stdout.read(), "to the main command\n", "stdin of the main command reaches it")
    sandbox.wait()
    report.equal(sandbox.returncode, 0, "its EOF ends the sandbox with 0")


def directories(report, sandbox, app, image):
    sandbox.mount_image("/root/mounted", modal.Image.from_scratch())
    report.equal(shell(sandbox, "ls -A /root/mounted; echo in > /root/mounted/file")[0:2], (0, ""),
                 "an empty image can be mounted and written to")
    kept = sandbox.snapshot_directory("/root/mounted")
    other = modal.Sandbox.create(app=app, image=image, timeout=60)
    other.mount_image("/srv/there", kept)
    report.equal(shell(other, "cat /srv/there/file")[1], "in\n", "a directory snapshot can be mounted elsewhere")
    other.unmount_image("/srv/there")
    report.check(shell(other, "cat /srv/there/file")[0] != 0, "unmount takes it away")
    other.terminate()


def credentials(report):
    token_id, token_secret = os.environ["MODAL_TOKEN_ID"], os.environ["MODAL_TOKEN_SECRET"]
    for pair, which in (((token_id, "as-wrong"), "secret"), (("ak-wrong", token_secret), "id")):
        client = modal.Client.from_credentials(*pair)
        report.raises(failures.AuthError,
                      lambda client=client: modal.App.lookup(f"peer-app-{RUN}", client=client, create_if_missing=True),
                      f"a wrong token {which} is AuthError")


def main():
    report = Report(sys.argv[1])
    report.topic(credentials)
    app = report.topic(app_look_up)
    image = app and report.topic(image_build, app)
    sandbox = image and report.topic(sandbox_create, app, image)
    if sandbox:
        for topic in (exec_basics, exit_status, standard_input, binary_data, exec_options):
            report.topic(topic, sandbox)
        report.topic(names_and_tags, sandbox, app, image)
        report.topic(snapshot, sandbox, app)
        report.topic(directories, sandbox, app, image)
        for topic in (volumes, secrets, network, readiness, sandbox_end, sandbox_limits):
            report.topic(topic, app, image)
        if IS_V2:
            report.topic(main_stdin, app, image)
        sandbox.terminate()
    print(f"end - {report.checks} checks", flush=True)
    # Not sys.exit: threads of topics that hang must not keep the process.
    os._exit(1 if report.failed else 0)


main()
