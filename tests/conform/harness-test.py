#!/usr/bin/python3 -B
"""Shows that the conformance harness reports what differs: stand-ins for modalsh that are the real shells
but for one fault must be caught by the named cases, and the real shells themselves must be found the same."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, "run.sh")
AT_ONCE = 8

# A stand-in: starts the real shell as it was started itself, with one fault.
STAND_IN = """\
#!/usr/bin/python3 -IB
import fcntl, os, signal, subprocess, sys, time
for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)
name = os.path.basename(sys.argv[0])
real = "/bin/dash" if name == "sh" else "/bin/bash"
argv = [name, *sys.argv[1:]]
def start(**more):
    return subprocess.Popen(argv, executable=real, **more)
def finish(status):
    if status < 0:
        os.kill(os.getpid(), -status)
        time.sleep(9)
    os._exit(status)
%s
"""

# fault, what the stand-in does, a case that must notice, and what the report must say
FAULTS = (
    ("code",
     "finish(start().wait() ^ 1)",
     "1-every-code/dash", "exit 7: local exit 7, modalsh exit 6"),
    ("code-folded",
     "finish(min(start().wait(), 127))",
     "1-every-code/bash", "exit 128: local exit 128, modalsh exit 127"),
    ("signal-folded",
     "status = start().wait(); finish(status if status >= 0 else 128 - status)",
     "15-own-signal/dash", "local signal 15 (SIGTERM), modalsh exit 143"),
    ("code-as-signal",
     "status = start().wait(); finish(128 - status if status > 128 else status)",
     "18-exit-143/bash", "local exit 143, modalsh signal 15 (SIGTERM)"),
    ("byte-changed",
     "p = start(stdout=-1); out = p.communicate()[0]; os.write(1, out.replace(b'\\xff', b'?')); "
     "finish(p.returncode)",
     "30-every-byte/dash", "stdout: local"),
    ("byte-lost",
     "p = start(stdout=-1); out = p.communicate()[0]; os.write(1, out[:-1]); finish(p.returncode)",
     "30-separate/dash", "stdout: local b'out\\n', modalsh b'out'"),
    ("byte-repeated",
     "p = start(stdout=-1); out = p.communicate()[0]; os.write(1, out + out[-1:]); finish(p.returncode)",
     "21-three-mib/bash", "identical: local True, modalsh False"),
    ("streams-merged",
     "finish(start(stderr=1).wait())",
     "30-separate/bash", "stderr: local b'err\\n', modalsh b''"),
    ("order-lost",
     "p = start(stdout=-1, stderr=-1); out, err = p.communicate(); os.write(1, out); "
     "os.write(2, err); finish(p.returncode)",
     "31-same-pipe/dash", "stdout: local b'o1\\ne1"),
    ("output-held-back",
     "p = start(stdout=-1); out = p.communicate()[0]; os.write(1, out); finish(p.returncode)",
     "32-first-bytes/dash", "first: local b'no-newline', modalsh b''"),
    ("output-after-exit",
     "p = start(stdout=-1)\n"
     "if os.fork() == 0: out = p.stdout.read(); time.sleep(1); os.write(1, out); os._exit(0)\n"
     "finish(p.wait())",
     "30-before-exit/dash", "stdout: local 30000, modalsh 0"),
    ("stdin-drained",
     "import tempfile; f = tempfile.TemporaryFile(); f.write(sys.stdin.buffer.read()); f.seek(0); "
     "finish(start(stdin=f).wait())",
     "28-pipe-untouched/dash", "rest: local b'l1\\nl2\\nl3\\n', modalsh b''"),
    ("stdin-held-back",
     "data = sys.stdin.buffer.read(); p = start(stdin=-1); p.communicate(data); finish(p.returncode)",
     "24-request-response/bash", "modalsh b''"),
    ("offset-lost",
     "p = start(stdin=-1); p.communicate(os.read(0, 1 << 20)); finish(p.returncode)",
     "27-offset-part/dash", "offset: local 10, modalsh 10000"),
    ("null-for-closed",
     "finish(start(stdin=-3).wait())",
     "26-closed/dash", "local b'closed\\n', modalsh b'open\\n'"),
    ("no-epipe",
     "p = start(stdin=-1)\n"
     "if os.fork() == 0:\n"
     "    while os.read(0, 65536): pass\n"
     "    os._exit(0)\n"
     "finish(p.wait())",
     "23-nobody-reads/dash", "writer: local 'EPIPE', modalsh 'all written'"),
    ("waits-for-eof",
     "p = start(stdout=-1); os.write(1, p.stdout.read(8)); rest = p.stdout.read(); "
     "os.write(1, rest); finish(p.wait())",
     "40-background-holds-pipe/dash", "EOF while it runs: local False, modalsh True"),
    ("background-killed",
     "p = start(process_group=0); s = p.wait(); os.killpg(p.pid, 9); finish(s)",
     "50-nohup/dash", "file: local True, modalsh False"),
    ("group-survives",
     "p = start(start_new_session=True); finish(p.wait())",
     "42-group-term/dash", "none left: local True, modalsh False"),
    ("pipe-kept",
     "p = start()\n"
     "if os.fork() == 0: time.sleep(10); os._exit(0)\n"
     "finish(p.wait())",
     "39-eof-at-exit/bash", "stdout: local b'', modalsh b'[no EOF]'"),
    ("word-lost",
     "argv = [word for word in argv if word]\n"
     "finish(start().wait())",
     "59-empty-last/dash", "stdout: local b'3:<><><>', modalsh b'0:<>'"),
    ("argv0-lost",
     "finish(start().wait())",
     "65-argv0/bash", "weird-name stdout: local b'weird-name\\n', modalsh b'bash\\n'"),
    ("variable-added",
     "os.environ['ADDED'] = 'x'; finish(start().wait())",
     "66-whole/dash", "ADDED=x"),
    ("folder-lost",
     "os.chdir('/'); finish(start().wait())",
     "71-relative-script/dash", "stdout: local"),
    ("umask-lost",
     "os.umask(0o22); finish(start().wait())",
     "54-umask/bash", "stdout: local b'0077\\n', modalsh b'0022\\n'"),
    ("limit-lost",
     "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); finish(start().wait())",
     "55-open-files/dash", "stdout: local b'123\\n0\\n', modalsh b'64\\n0\\n'"),
    ("mask-lost",
     "signal.signal(signal.SIGHUP, signal.SIG_DFL); finish(start().wait())",
     "45-ignored-by-caller/dash", "status: local 'exit 0', modalsh 'signal 1 (SIGHUP)'"),
    ("descriptor-leaks",
     "fd = os.open('/', 0); finish(start(pass_fds=(fd,)).wait())",
     "73-none-leaks/dash", "stdout: local b'0\\n1\\n2\\n'"),
    ("file-left",
     "open('left', 'w').close(); finish(start().wait())",
     "13-empty-string/dash", "files: local [], modalsh [(b'left'"),
    ("flags-changed",
     "os.set_blocking(1, False); finish(start().wait())",
     "29-flags-untouched/dash", "during: local True, modalsh False"),
    ("hangs",
     "start().wait(); time.sleep(60)",
     "13-empty-string/bash", "modalsh 'no end within"),
    ("slow",
     "p = start(); s = p.wait(); time.sleep(7); finish(s)",
     "51-background-elsewhere/dash", "end: local 'in time', modalsh '7."),
    ("nothing-run",
     "sys.exit(0)",
     "30-separate/dash", "status: local 'exit 2', modalsh 'exit 0'"),
)


# The same where the stand-ins are in the place of the real shells.
PROGRAM_FAULTS = (
    ("program-code",
     "finish(start().wait() and 1)",
     "python-os-system/dash", "exit 255 65280 255"),
    ("program-descriptors",
     "finish(start(close_fds=True).wait())",
     "python-subprocess-pass-fds/dash", "Bad file descriptor"),
    ("program-bash-as-sh",
     "real = REALS + '/dash'; finish(start(close_fds=False).wait())",
     "scripts-first-lines/dash", "bash stdout: local b'v bash x"),
    ("program-folder",
     "os.chdir('/'); finish(start(close_fds=False).wait())",
     "git-hooks/dash", "cannot open .git/hooks/pre-commit"),
    ("program-output-lost",
     "p = start(stdout=-1); out = p.communicate()[0]; os.write(1, out[:-1]); finish(p.returncode)",
     "perl-every-way/dash", "stdout: local"),
    ("program-group",
     "p = start(close_fds=False, start_new_session=True); finish(p.wait())",
     "make-interrupted/dash", "end of errors: local False, modalsh True"),
    ("nothing", "finish(start(close_fds=False).wait())", "perl-*", None),
)


def make_set_up(top, name, shell_text=None):
    """A folder with sh, bash and exec, and the file that names it; without text they are the real ones."""
    folder = os.path.join(top, name)
    os.mkdir(folder)
    for shell, real in (("sh", "/bin/dash"), ("bash", "/bin/bash"), ("exec", "/usr/bin/env")):
        path = os.path.join(folder, shell)
        if shell_text is None or shell == "exec":
            os.symlink(real, path)
            continue
        with open(path, "w", encoding="ascii") as file:
            file.write(shell_text)
        os.chmod(path, 0o755)
    env = folder + ".env"
    with open(env, "w", encoding="ascii") as file:
        file.write(f"export PATH='{folder}':$PATH\n")
    return env


def run(*args, **env):
    """Runs the harness; returns its exit status and what it printed."""
    done = subprocess.run([RUN, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False, env={**os.environ, **env})
    return done.returncode, done.stdout


class Checks:
    """Counts what held and says what did not."""

    def __init__(self):
        self.passed = self.failed = 0

    def that(self, what, holds, shown=""):
        """One check."""
        if holds:
            self.passed += 1
            return
        self.failed += 1
        print(f"FAILED {what}\n{shown}", flush=True)


def check_faults(checks, top):
    """Every fault is reported by the case that is about it, in words."""
    def run_fault(fault):
        name, action, case, _ = fault
        return run("--env", make_set_up(top, name, STAND_IN % action), "--only", case)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(run_fault, FAULTS))
    for (name, _, case, says), (status, shown) in zip(FAULTS, outcomes):
        checks.that(f"{name}: {case} says {says}",
                    status == 1 and f"different  {case}: " in shown and says.replace("'", "") in
                    shown.replace("'", "") and "same 0, different 1, skipped 0" in shown, shown)


def check_program_faults(checks, top):
    """Programs whose shells have a fault differ, and only then. The stand-ins use copies: the real shells are
    hidden."""
    if subprocess.run([sys.executable, "-B", "-c", "import mounts; mounts.replace_shells('/bin')"], cwd=HERE, check=False,
                      stderr=subprocess.DEVNULL).returncode != 0:
        print("skipped: programs with a fault: no mount namespace may be made here")
        return
    for shell in ("dash", "bash"):
        shutil.copy(f"/bin/{shell}", top)
    text = STAND_IN.replace('"/bin/', 'REALS + "/').replace("real = ", f"REALS = {top!r}\nreal = ")

    def run_fault(fault):
        name, action, case, _ = fault
        return run("--programs", "--env", make_set_up(top, name, text % action), "--share", top, "--only", case)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(run_fault, PROGRAM_FAULTS))
    for (name, _, case, says), (status, shown) in zip(PROGRAM_FAULTS, outcomes):
        good = status == 0 and ", different 0, skipped 0" in shown
        if says is not None:
            good = status == 1 and f"different  {case}: " in shown and says in shown.replace("'exit", "exit")
        checks.that(f"{name}: {case} says {says}", good, shown)


def check_same(checks, real):
    """The real shells differ in nothing, and gaps that they close are reported."""
    status, shown = run("--env", real)
    checks.that("the real shells are the same", status == 0 and ", different 0, " in shown, shown)
    checks.that("a closed gap is reported", "gap closed " in shown, shown)
    checks.that("rows without a case are reported", "elsewhere  92: " in shown and "known gap  95: " in shown, shown)
    checks.that("promises are skipped aloud", "skipped    96-no-broker/dash: " in shown, shown)
    status, shown = run("--env", real, "--only", "96", MODALSH_MUST_WORK="1")
    checks.that("a skip fails where everything must work", status == 1, shown)


def check_gap(checks, top):
    """A known gap that differs is named with its reason and is no failure."""
    env = make_set_up(top, "gap", STAND_IN % "finish(start(stdin=-3).wait())")
    status, shown = run("--env", env, "--only", "27-is-a-file/dash")
    checks.that("a known gap is named", status == 0 and "known gap  27-is-a-file/dash: a file" in shown and
                "same 0, different 0, skipped 1" in shown, shown)


def check_oracle(checks, real):
    """A guard that the local shell does not meet is reported, also where modalsh is the same; and so are a
    case that fails itself, and one that is not over in time."""
    program = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import runner, time
from cases import Case
def guard(t):
    "One."
    t.sh("exit 3", status=4)
def broken(t):
    "Two."
    t.sh("exit 3", no_such_option=1)
def endless(t):
    "Three."
    t.see("before", 1)
    time.sleep(60)
sys.exit(runner.main(sys.argv[1:], [Case(1, each.__name__, each, ("dash",), 1, False, True)
                                    for each in (guard, broken, endless)]))
"""
    done = subprocess.run([sys.executable, "-B", "-c", program, HERE, "--env", real],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    checks.that("a wrong oracle is reported",
                "different  1-guard/dash: the local shell is not as expected: status: expected 'exit 4', got "
                "'exit 3'" in done.stdout, done.stdout)
    checks.that("a broken case is reported", "different  1-broken/dash: the case failed" in done.stdout,
                done.stdout)
    checks.that("an endless case is reported", "not over after 1 s" in done.stdout, done.stdout)
    checks.that("they make the run fail", done.returncode == 1, done.stdout)


def check_table(checks):
    """--list names every row; a set-up that does not exist is an error."""
    status, shown = run("--list")
    rows = {line.split("-")[0].split()[0] for line in shown.splitlines()}
    checks.that("every row is answered for", status == 0 and rows == {str(row) for row in range(1, 103)},
                shown)
    status, shown = run("--env", "/no/such/file")
    checks.that("no set-up is an error", status == 2 and "cannot be sourced" in shown, shown)


def main():
    """Returns 0 when every check held."""
    os.environ.pop("MODALSH_MUST_WORK", None)    # a stand-in has no broker, so its promises are skipped
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="harness-test-") as top:
        real = make_set_up(top, "real")
        check_table(checks)
        check_oracle(checks, real)
        check_gap(checks, top)
        check_faults(checks, top)
        check_same(checks, real)
        check_program_faults(checks, top)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
