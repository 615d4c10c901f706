"""Rows 87 and 89: load, and programs that start shells."""

import os
import shutil
import subprocess
import time

from cases import case
from trial import PIPE, STDOUT, Skip

COMMANDS = 200
AT_ONCE = 50


def need(program):
    """Skips the case when the host has no such program; returns its path."""
    path = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin")
    if path is None:
        raise Skip(f"{program} is not installed")
    return path


@case(87, "many-at-once", alone=True)
def many_at_once(t):
    """200 commands, 50 at once: each has its own output and code."""
    left, running, wrong = list(range(COMMANDS)), {}, []
    until = time.monotonic() + 25
    while (left or running) and time.monotonic() < until:
        while left and len(running) < AT_ONCE:
            number = left.pop()
            running[number] = t.start("-c", f"echo out{number}; echo err{number} >&2; sleep .2; "
                                            f"exit {number}")
        for number, process in list(running.items()):
            if process.poll() is None:
                continue
            got = (process.returncode, process.stdout.read(), process.stderr.read())
            if got != (number, b"out%d\n" % number, b"err%d\n" % number):
                wrong.append((number, got))
            process.stdout.close()
            process.stderr.close()
            del running[number]
        time.sleep(.005)
    t.see("not ended", len(left) + len(running), 0)
    t.see("wrong", wrong, [])


@case(87, "one-stalled")
def one_stalled(t):
    """A command whose reader has stalled does not hold up others."""
    stalled = [t.start("-c", "yes", stdin=PIPE) for _ in range(10)]
    for number in range(10):
        t.sh(f"cat; exit {number}", data=b"x" * 300_000, label=str(number), status=number,
             out=b"x" * 300_000)
    for process in stalled:
        t.see("runs", t.is_running(process), True)
        process.kill()
        t.see_status("killed", t.wait(process), -9)


@case(87, "in-sequence", alone=True)
def in_sequence(t):
    """200 commands one after the other: each its own output and code."""
    t.outer('i=0; while [ $i -lt 200 ]; do x=$($SH -c "echo $i; exit $i"); '
            '[ "$x:$?" = "$i:$i" ] || echo "$i $x"; i=$((i+1)); done; echo end', status=0, out=b"end\n")


@case(89, "python-timeout")
def python_timeout(t):
    """When Python's subprocess gives up, what was printed until then is there."""
    env = {**t.env(), **t.side.env}
    try:
        subprocess.run([t.name, "-c", "echo partial; sleep 20"], executable=t.shell, env=env, stdout=PIPE,
                       stderr=STDOUT, timeout=1.5)
        t.see("timeout", False, True)
    except subprocess.TimeoutExpired as error:
        t.see("timeout", True, True)
        t.see("output", error.output, b"partial\n")


@case(89, "python-shell")
def python_shell(t):
    """Python's shell=True with executable."""
    env = {**t.env(), **t.side.env}
    done = subprocess.run("echo $0 | tr a-z A-Z; exit 5", shell=True, executable=t.shell, env=env,
                          stdout=PIPE, stderr=STDOUT, text=True)
    t.see("output", done.stdout.replace(t.shell.upper(), "SHELL"), "SHELL\n")
    t.see_status("status", done.returncode, 5)


@case(89, "node")
def node(t):
    """Node's spawn: streams, exit and close, detached and killed by group."""
    program = need("node")
    t.write("spawn.js", rb"""
const { spawn, execSync } = require('child_process');
const shell = process.env.SH;
const see = (label, value) => console.log(label + ' ' + JSON.stringify(value));
function run(label, script, options, input, next) {
    const child = spawn(script, { shell, ...options });
    let out = '', err = '';
    if (child.stdout) child.stdout.on('data', (data) => { out += data; });
    if (child.stderr) child.stderr.on('data', (data) => { err += data; });
    if (child.stdin) { child.stdin.on('error', () => {}); child.stdin.end(input); }
    child.on('close', (code, signal) => { see(label, [code, signal, out, err]); next(); });
    return child;
}
run('streams', 'cat; echo err >&2; exit 3', {}, 'input', () =>
run('ignored', 'echo out; cat', { stdio: ['ignore', 'pipe', 'pipe'] }, '', () =>
run('big', 'head -c 2000000 | wc -c', {}, 'x'.repeat(3000000), () => {
    see('sync', execSync('echo sync', { shell }).toString());
    const child = run('killed', 'echo ready; sleep 30', { detached: true }, '', () => {});
    child.stdout.once('data', () => process.kill(-child.pid, 'SIGTERM'));
})));
""")
    outcome = t.finish(t.start_program(program, "spawn.js", env=t.env(SH=t.shell)))
    t.leave_out("spawn.js")
    t.check(outcome, status=0, out=(b'streams [3,null,"input","err\\n"]\nignored [0,null,"out\\n",""]\n'
                                    b'big [0,null,"2000000\\n",""]\nsync "sync\\n"\n'
                                    b'killed [null,"SIGTERM","ready\\n",""]\n'))


@case(89, "perl")
def perl(t):
    """Perl's list open and its system()."""
    need("perl")
    t.write("run.pl", rb"""
$| = 1;
open(my $from, '-|', $ENV{SH}, '-c', 'echo from shell; exit 3') or die;
print <$from>; close $from; print $? >> 8, "\n";
open(my $into, '|-', $ENV{SH}, '-c', 'tr a-z A-Z') or die;
print $into "into shell\n"; close $into; print $?, "\n";
my $status = system { $ENV{SH} } 'sh', '-c', 'kill -9 $$'; print $status & 127, "\n";
""")
    t.leave_out("run.pl")
    t.outer("exec perl run.pl", status=0, out=b"from shell\n3\nINTO SHELL\n0\n9\n")


@case(89, "xargs")
def xargs(t):
    """xargs -P starts shells in parallel."""
    outcome = t.finish(t.start_outer("seq 60 | xargs -P 20 -n 1 $SH -c 'echo $0:$((1$0 - 1))'"))
    t.see("lines", sorted(outcome.out.split()),
          sorted(b"%d:%d" % (i, int(f"1{i}") - 1) for i in range(1, 61)))
    t.see_status("status", outcome.status, 0)


@case(89, "xargs-codes")
def xargs_codes(t):
    """xargs tells a code of 255 and a death by signal from other codes."""
    for script in ("exit 1", "exit 255", "kill -9 $$"):
        status = t.finish(t.start_outer(f"echo 1 | xargs $SH -c '{script}' 2>/dev/null")).status
        t.see_status(script, status)


@case(89, "find")
def find(t):
    """find -exec runs shells."""
    for name in ("a", "b c", "d\ne"):
        t.write(name, b"")
    t.outer("find . -type f -exec $SH -c 'for f; do echo \"<$f>\"; done' name {} + | sort", status=0)


@case(89, "timeout")
def timeout(t):
    """timeout(1) ends a shell and reports 124, or 137 with KILL."""
    t.outer("timeout 1 $SH -c 'echo out; sleep 30'", label="TERM", status=124, out=b"out\n")
    t.outer("timeout -s KILL 1 $SH -c 'echo out; sleep 30'", label="KILL", status=137)
    t.outer("timeout 20 $SH -c 'exit 6'", label="none", status=6)


@case(89, "make")
def make(t):
    """make with this shell: recipes, failures, $(shell …)."""
    need("make")
    t.write("Makefile", b"X := $(shell echo from shell)\nall: a b\n\ta=1; echo $$a '$(X)'\n"
            b"a:\n\techo a > a; :\nb:\n\t@exit 3; :\n")
    t.outer("make SHELL=$SH a; make -k SHELL=$SH; echo $?", status=0)


@case(89, "make-jobserver")
def make_jobserver(t):
    """make -j: every shell inherits the jobserver's pipe."""
    need("make")
    t.write("Makefile", b"all: 1 2 3 4 5 6 7 8\n%:\n\t+@sleep .01; echo done > $@; :\n")
    t.outer("make -s -j4 SHELL=$SH", status=0, out=b"", err=b"")


@case(89, "env-nice-setsid")
def wrappers(t):
    """Programs that start another one."""
    t.outer("nice -n 3 $SH -c nice; setsid -w $SH -c 'exit 4'; echo $?; nohup $SH -c 'echo out' 2>/dev/null",
            status=0, out=b"3\n4\nout\n")


@case(89, "command-substitution")
def command_substitution(t):
    """The outer shell's $(…) waits for EOF and has the code."""
    t.outer("x=$($SH -c 'echo a; (sleep .2; echo b) & exit 3'); echo \"$?\" $x", status=0, out=b"3 a b\n")


@case(89, "coprocess")
def coprocess(t):
    """bash's coproc talks to the shell."""
    t.outer("coproc $SH -c 'while read x; do echo \"<$x>\"; done'; echo one >&${COPROC[1]}; "
            "read y <&${COPROC[0]}; echo $y; exec {COPROC[1]}>&-; wait", outer="/bin/bash", status=0,
            out=b"<one>\n")


@case(89, "outer-pipeline")
def outer_pipeline(t):
    """Several of them in one pipeline."""
    t.outer("seq 1 20000 | $SH -c 'cat' | $SH -c 'grep 7' | $SH -c 'tail -n 1; exit 2'; "
            "echo ${PIPESTATUS[@]}", outer="/bin/bash", status=0, out=b"19997\n0 0 0 2\n")


@case(89, "nested-use")
def nested_use(t):
    """A shell started by a shell."""
    t.sh("sh -c 'bash -c \"echo deep; exit 8\"; echo $?'; exit 9", status=9, out=b"deep\n8\n")


@case(89, "file-read-right-after")
def file_read_right_after(t):
    """Files go both ways between commands of the host and of the shell."""
    t.outer("echo 1 > f; $SH -c 'cat f; echo 2 >> f'; cat f; mv f g; $SH -c 'cat g; rm g'; ls",
            status=0, out=b"1\n1\n2\n1\n2\n")


@case(89, "cwd-file")
def cwd_file(t):
    """The way in which agents keep their folder between commands."""
    os.mkdir(t.path("sub"))
    t.sh("eval 'cd sub && echo in' < /dev/null && pwd -P >| ../cwd", status=0, out=b"in\n")
    t.see("file", t.read("cwd"), f"{t.path('sub')}\n".encode())
