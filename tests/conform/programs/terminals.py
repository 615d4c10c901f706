"""Programs that give a shell a terminal: script, pexpect, tmux."""

import cases
from programs import case, finish, need, python, run, start
from trial import PIPE, Skip


def shell_env(t, **more):
    """An environment in which programs start the shell of this case, with a prompt that both sides have."""
    return t.env(SHELL=t.shell, PS1="P> ", TERM="xterm", **more)


def ends_in_upper_case(out):
    """the line in upper case at the end; its echo before it is luck"""
    return out.endswith(b"LINE\r\n")


@case("script", "command", shells=cases.BOTH)
def script_command(t):
    """script -c: the shell has a terminal; output, code, death by a signal, size, and what is typed."""
    t.leave_out("log", "typed")
    for label, command in (
            ("output", "tty >/dev/null && echo on a tty; echo err >&2; exit 7"),
            ("killed", "kill -TERM $$"),
            ("size", "stty rows 33 cols 77; stty size")):
        process = start(t, "script", "-q", "-e", "-c", command, "log", env=shell_env(t), stdin=PIPE)
        t.see(f"{label} output", t.read_all(process.stdout.fileno()))
        t.see_status(f"{label} status", t.wait(process))
    process = start(t, "script", "-q", "-e", "-I", "typed", "-O", "log", "-c",
                    "stty -echo; echo ready; read x; echo \"<$x>\"; cat", env=shell_env(t), stdin=PIPE)
    t.see("ready", t.read_until(process.stdout.fileno(), b"ready\r\n"), b"ready\r\n")
    process.stdin.write(b"line\nmore\n")
    t.see("typed", t.read_until(process.stdout.fileno(), b"more\r\n"), b"<line>\r\nmore\r\n")
    process.stdin.close()
    t.see("rest", t.read_all(process.stdout.fileno()), b"")
    t.see_status("typed status", t.wait(process), 0)


@case("script", "input-at-once", shells=cases.BOTH)
def script_input_at_once(t):
    """What is typed, a line or the key for the end of input, before the shell looks at its terminal is not lost."""
    t.leave_out("log")
    for number in range(5):
        run(t, "script", "-q", "-e", "-c", "echo out; exit 7", "log", env=shell_env(t), label=f"none {number}", status=7,
            out=b"out\r\n")
    for number in range(5):
        run(t, "script", "-q", "-e", "-c", "stty -echo; cat | tr a-z A-Z", "log", env=shell_env(t), data=b"line\n",
            label=f"line {number}", status=0, out=ends_in_upper_case)


PEXPECT = """
import sys, time, pexpect
def see(*values):
    print(*values, flush=True)
"""


def pexpect(t, text, **more):
    """Runs a pexpect program in the host's Python."""
    probe = t.finish(t.start_program("/usr/bin/python3", "-c", "import pexpect"))
    if probe.status != 0:
        raise Skip("python3-pexpect is not installed")
    python(t, PEXPECT + text, t.shell, env=shell_env(t), status=0, **more)


@case("pexpect", "run", shells=cases.BOTH)
def pexpect_run(t):
    """pexpect.run and spawn of one command: output, code, size, window change."""
    pexpect(t, """
sh = sys.argv[1]
see(pexpect.run(sh + " -c 'echo $0; stty size; exit 3'", withexitstatus=True))
child = pexpect.spawn(sh, ["-c", "trap 'stty size' WINCH; echo up; while :; do sleep .05; done"], dimensions=(30, 90))
child.expect("up")
child.setwinsize(41, 101)
child.expect("41 101")
child.terminate(force=True)
see(child.isalive())
child = pexpect.spawn(sh, ["-c", "read -r a; echo [$a]; cat"])
child.sendline("one")
child.expect_exact("[one]")
child.sendline("two")
child.expect_exact("two\\r\\ntwo\\r\\n")
child.sendeof()
child.expect(pexpect.EOF)
child.wait()
child.close()
see(child.exitstatus, child.signalstatus, child.before)
""")


@case("pexpect", "interactive", shells=cases.BOTH, limit_s=40)
def pexpect_interactive(t):
    """An interactive shell under pexpect: prompt, ^C, ^D, echo off, job control."""
    pexpect(t, """
sh = sys.argv[1]
args = ["--norc", "--noprofile", "--noediting"] if sh.endswith("bash") else []
child = pexpect.spawn(sh, args + ["-i"], timeout=8)
child.expect_exact("P> ")
def ask(line):
    child.sendline(line)
    child.expect_exact("P> ")
    see(child.before)
ask("echo $((6 * 7))")
ask("stty size")
ask("test -t 0 && test -t 2 && echo terminal")
child.sendline("sleep 30")
child.expect_exact("sleep 30")
time.sleep(.5)
child.sendintr()
child.expect_exact("P> ")
see("interrupted", child.before.replace(b"\\r\\n", b"|"))
ask("echo $?")
ask("cd / && pwd")
child.sendline("sleep 30")
time.sleep(.5)
child.sendcontrol("z")
child.expect_exact("P> ")
see("stopped", b"Stopped" in child.before)
child.sendline("fg")
time.sleep(.5)
child.sendintr()
child.expect_exact("P> ")
ask("jobs; echo none")
child.sendline("stty -echo")
child.expect_exact("P> ")
child.sendline("echo silent")
child.expect_exact("P> ")
see(child.before)
child.sendeof()
child.expect(pexpect.EOF)
child.wait()
child.close()
see(child.exitstatus, child.signalstatus)
""")


@case("pexpect", "replwrap", limit_s=40)
def pexpect_replwrap(t):
    """pexpect.replwrap's bash, the way in which agents keep a shell open."""
    pexpect(t, """
from pexpect import replwrap
bash = replwrap.bash()
for line in ("x=5; echo $x", "cd /usr; pwd", "for i in 1 2 3; do echo $i; done", "false", "echo $? $x",
             "seq 3000 | tail -n 1", "f() {\\n echo in f $1\\n}\\nf a"):
    see(repr(bash.run_command(line)))
""")


@case("tmux", "command", shells=cases.BOTH, limit_s=40)
def tmux_command(t):
    """tmux runs a command in a shell, shows what it prints, and passes keys, sizes and the end on."""
    need("tmux")
    t.leave_out("socket")
    env = shell_env(t)
    tmux = ("tmux", "-S", t.path("socket"), "-f", "/dev/null")
    run(t, *tmux, "new-session", "-d", "-x", "70", "-y", "12",
        "stty size; touch up; read -r a; echo \"<$a>\"; touch first; read -r b; stty size; echo done; touch second; sleep 30", env=env,
        label="start", status=0)
    t.see("up", t.until(lambda: t.read("up") is not None, 8), True)
    run(t, *tmux, "send-keys", "typed words", "Enter", env=env, label="keys", status=0)
    t.see("first", t.until(lambda: t.read("first") is not None, 8), True)
    run(t, *tmux, "capture-pane", "-p", env=env, label="screen")
    run(t, *tmux, "set-option", "-g", "window-size", "manual", env=env, label="option")
    run(t, *tmux, "resize-window", "-x", "60", "-y", "11", env=env, label="resize")
    run(t, *tmux, "send-keys", "Enter", env=env, label="keys")
    t.see("second", t.until(lambda: t.read("second") is not None, 8), True)
    run(t, *tmux, "capture-pane", "-p", env=env, label="screen after")
    run(t, *tmux, "kill-server", env=env, label="kill")


@case("tmux", "login-shell", shells=cases.BOTH, limit_s=40)
def tmux_login(t):
    """A plain session is a login shell; keys typed into it run commands, ^C ends one, exit ends the session."""
    need("tmux")
    t.leave_out("socket", ".bash_history")
    t.write(".profile", b"PS1='P> '; echo profile\n")
    env = shell_env(t)
    tmux = ("tmux", "-S", t.path("socket"), "-f", "/dev/null")

    def keys(*names):
        run(t, *tmux, "send-keys", *names, env=env, label="keys", status=0)

    def made(name):
        t.see(name, t.until(lambda: t.read(name) is not None, 8), True)
    run(t, *tmux, "new-session", "-d", "-x", "70", "-y", "14", env=env, label="start", status=0)

    def prompt_shown(count):
        shown = finish(t, *tmux, "capture-pane", "-p", env=env).out.splitlines()
        return sum(line.startswith(b"P>") for line in shown) == count
    t.see("prompt", t.until(lambda: prompt_shown(1), 8), True)
    keys("echo $0; touch one", "Enter")
    made("one")
    keys("/bin/sh -c 'touch two; exec sleep 30'", "Enter")
    made("two")
    keys("C-c")
    t.see("prompt again", t.until(lambda: prompt_shown(3), 8), True)
    keys("touch three", "Enter")
    made("three")
    t.see("last prompt", t.until(lambda: prompt_shown(4), 8), True)
    run(t, *tmux, "capture-pane", "-p", env=env, label="screen")
    keys("exit", "Enter")
    t.see("over", t.until(lambda: finish(t, *tmux, "ls", env=env).status != 0, 8), True)
