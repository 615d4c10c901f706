"""Row 89, continued: the forms in which agents start their shells."""

import asyncio
import os
import shutil
import signal

from cases import case
from trial import HOLD, PIPE, SLEEP, STDOUT


@case(89, "agent-login-option")
def login_option(t):
    """SHELL -lc COMMAND with stdin closed to /dev/null and its own session."""
    t.write(".profile", b"export FROM_PROFILE=1\n")
    t.write(".bash_profile", b"export FROM_PROFILE=2\n")
    t.check(t.run("-lc", "echo $FROM_PROFILE; cat; exit 3", start_new_session=True), status=3,
            out={"dash": b"1\n", "bash": b"2\n"})


@case(89, "agent-snapshot")
def snapshot(t):
    """A snapshot of the shell's state is sourced, the command evaluated, the state written back."""
    t.write("snapshot", b"export KEPT=one\ngreet() { echo \"hello $1\"; }\n")
    wrapper = """. ./snapshot >/dev/null 2>&1 || true
cd -- sub || exit 126
eval 'greet you; echo $KEPT; (exit 5)'
code=$?
umask 077
export -p > "../exports.$$"; mv "../exports.$$" ../exports
pwd -P > ../cwd
echo marker
exit $code"""
    os.mkdir(t.path("sub"))
    t.sh(wrapper, stderr=STDOUT, start_new_session=True, status=5, out=b"hello you\none\nmarker\n")
    t.leave_out("exports")
    t.see("exports", t.read("exports"))


@case(89, "agent-dot-and-exec")
def dot_and_exec(t):
    """A snapshot sourced by one shell that then becomes another one."""
    path = t.write("snapshot", b"export KEPT=one\n")
    t.sh('. "$1" && shift && exec "$@"', t.name, path, t.name, "-c", "echo $KEPT; exit 4", status=4,
         out=b"one\n")


@case(89, "agent-term-then-kill")
def term_then_kill(t):
    """A group that ignores TERM is gone after KILL."""
    process = t.start("-c", HOLD + f"trap '' TERM; {SLEEP}; :", start_new_session=True)
    t.see("ready", t.read_until(process.stdout.fileno(), b"ready\n"), b"ready\n")
    os.killpg(process.pid, signal.SIGTERM)
    t.see("after TERM", t.until(lambda: not t.is_running(process), limit_s=.3), False)
    os.killpg(process.pid, signal.SIGKILL)
    t.see_status("status", t.wait(process), -signal.SIGKILL)
    t.see_none_left("none left")


@case(89, "agent-asyncio")
def with_asyncio(t):
    """Python's asyncio: twenty at once, lines read as they come."""
    env = {**t.env(), **t.side.env}

    async def one(number):
        process = await asyncio.create_subprocess_exec(
            t.shell, "-c", f"read x; echo $x {number}; read y; echo $y; exit {number}", stdin=PIPE,
            stdout=PIPE, env=env)
        process.stdin.write(b"a\n")
        first = await process.stdout.readline()
        process.stdin.write(b"b\n")
        rest = await process.stdout.read()
        return first, rest, await process.wait()

    async def every():
        return await asyncio.gather(*(one(number) for number in range(20)))
    t.see("answers", asyncio.run(every()), [(b"a %d\n" % i, b"b\n", i) for i in range(20)])


@case(97, "inside-itself", twin=False)
def inside_itself(t):
    """modalsh in its own sandbox finds no broker: it refuses, and does not loop."""
    inner = t.path("sh")
    shutil.copy(os.path.realpath(t.shell), inner)
    t.leave_out("sh")
    t.sh(f"{inner} -c 'echo ran'", label="same socket", status=125, out=b"",
         err=lambda text: text.startswith(b"modalsh: no broker") and b"was not run" in text)
    t.sh(f"MODALSH_SOCKET=/nowhere {inner} -c 'echo ran'", label="another", status=125, out=b"",
         err=lambda text: text.startswith(b"modalsh: no broker") and b"was not run" in text)
