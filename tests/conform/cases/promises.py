"""Rows 90 to 102: what modalsh promises where the local shell has no counterpart."""

import os
import shutil
import tempfile
import time

from cases import case
from trial import Skip


def one_line(text):
    """One line that starts with `modalsh: `"""
    return text.startswith(b"modalsh: ") and text.count(b"\n") == 1 and text.endswith(b"\n")


@case(96, "no-broker", twin=False)
def no_broker(t):
    """Without a broker: 125, one line, nothing run."""
    t.side.env = {"MODALSH_SOCKET": t.path("no-such-socket")}
    t.sh("echo ran > file; echo ran", status=125, out=b"", err=one_line)
    t.see("nothing run", t.read("file"), None)


@case(98, "one-exec", twin=False)
def one_exec(t):
    """On the host a command is one exec, that of modalsh itself, whatever it runs."""
    strace = shutil.which("strace")
    if strace is None:
        raise Skip("strace is not installed")
    process = t.start_program(strace, "-f", "-qq", "-e", "trace=execve,execveat", "-e", "signal=none", "-o",
                              t.path("trace"), t.shell, "-c", "ls | cat; sh -c 'exit 3'")
    t.check(t.finish(process), status=3)
    calls = [line for line in (t.read("trace") or b"").splitlines() if b"exec" in line]
    t.see("calls", len(calls), 1)


@case(99, "elsewhere", twin=False)
def elsewhere(t):
    """Commands see another host name, and another process list, than ours."""
    t.sh("uname -n", status=0, out=lambda text: text.strip() != os.fsencode(os.uname().nodename))
    t.sh(f"test -e /proc/{os.getpid()}/root/{t.dir} && cat /proc/{os.getpid()}/cmdline | grep -a runner.py",
         label="processes", out=b"")


@case(99, "host-file", twin=False)
def host_file(t):
    """A file that is only on the host cannot be read."""
    with tempfile.NamedTemporaryFile(prefix="canary-", dir="/var/tmp") as file:
        file.write(b"canary")
        file.flush()
        t.sh(f"cat {file.name}", status=1, out=b"")


@case(99, "sandbox-file", twin=False)
def sandbox_file(t):
    """A file made in the sandbox outside the shared folder stays there, for later commands."""
    path = f"/tmp/canary-{os.getpid()}-{t.name}"
    t.sh(f"echo canary > {path}", status=0)
    t.sh(f"cat {path}; rm {path}", label="later", status=0, out=b"canary\n")
    t.see("on the host", os.path.exists(path), False)


@case(100, "credentials", twin=False)
def credentials(t):
    """Modal's credentials do not cross, though everything else does."""
    env = t.env(MODAL_TOKEN_ID="canary-id", MODAL_TOKEN_SECRET="canary-secret", OTHER="crosses")
    t.sh("env | grep -a -E 'canary|crosses'", env=env, status=0, out=b"OTHER=crosses\n")


@case(100, "own-variables", twin=False)
def own_variables(t):
    """What tells modalsh where its broker is does not cross."""
    t.sh("env | grep -a -c MODALSH", status=1, out=b"0\n")


@case(102, "written-remotely")
def written_remotely(t):
    """A file that the command wrote is there right after its end: bytes, mode, time."""
    t.sh("umask 027; head -c 3000000 /dev/zero | tr '\\0' z > file; chmod 750 file; touch -d @1000000000 old",
         status=0)
    info = os.stat(t.path("file"))
    t.see("mode", oct(info.st_mode), oct(0o100750))
    t.see("size", info.st_size, 3_000_000)
    t.within("time", abs(time.time() - info.st_mtime), 0, 20)
    t.see("old", os.stat(t.path("old")).st_mtime, 1_000_000_000)
