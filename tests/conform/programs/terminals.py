"""Programs that give a shell a terminal: script, pexpect, tmux."""

import time

import cases
from programs import case, finish, need, python, run, start
from trial import PIPE, Skip


SETTLE_S = .3                   # what is drawn after the text that a step waits for


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


class Tmux:
    """A tmux server of this case's own with one window that runs a command, or by default a login shell."""

    def __init__(self, t, env, columns, rows, *command):
        need("tmux")
        t.leave_out("socket")
        self._t, self._env = t, env
        self("new-session", "-d", "-x", str(columns), "-y", str(rows), *command)

    def _argv(self, *args):
        return ("tmux", "-S", self._t.path("socket"), "-f", "/dev/null", *args)

    def __call__(self, *args):
        """Runs a command of tmux, which has to succeed."""
        run(self._t, *self._argv(*args), env=self._env, label=args[0], status=0)

    def keys(self, *names):
        """Types keys into the window."""
        self("send-keys", *names)

    def screen(self):
        """What the window shows; None when there is none."""
        outcome = finish(self._t, *self._argv("capture-pane", "-p"), env=self._env)
        return outcome.out if outcome.status == 0 else None

    def shows(self, text, limit_s=8):
        """Waits until the window shows the text; whether it does."""
        return self._t.until(lambda: text in (self.screen() or b""), limit_s)


@case("tmux", "command", shells=cases.BOTH, limit_s=40)
def tmux_command(t):
    """tmux runs a command in a shell, shows what it prints, and passes keys, sizes and the end on."""
    tmux = Tmux(t, shell_env(t), 70, 12, "stty size; echo up; read -r a; echo \"<$a>\"; read -r b; stty size; sleep 30")
    t.see("up", tmux.shows(b"up\n"), True)
    tmux.keys("typed words", "Enter")
    t.see("read", tmux.shows(b"<typed words>\n"), True)
    t.see("screen", tmux.screen())
    tmux("set-option", "-g", "window-size", "manual")
    tmux("resize-window", "-x", "60", "-y", "11")
    tmux.keys("Enter")
    t.see("size", tmux.shows(b"11 60\n"), True)
    t.see("screen after", tmux.screen())
    tmux("kill-server")


@case("tmux", "login-shell", shells=cases.BOTH, limit_s=40)
def tmux_login(t):
    """A plain session is a login shell; keys typed into it run commands, ^C ends one, exit ends the session."""
    t.leave_out(".bash_history")
    t.write(".profile", b"PS1='P> '; echo profile\n")
    tmux = Tmux(t, shell_env(t), 70, 14)
    t.see("prompt", tmux.shows(b"P>\n"), True)
    tmux.keys("echo $0", "Enter")
    t.see("name", tmux.shows(b"sh\nP>\n"), True)
    tmux.keys("/bin/sh -c 'echo up; exec sleep 30'", "Enter")
    t.see("up", tmux.shows(b"\nup\n"), True)
    tmux.keys("C-c")
    t.see("interrupted", tmux.shows(b"^C\nP>\n"), True)
    t.see("screen", tmux.screen())
    tmux.keys("exit", "Enter")
    t.see("over", t.until(lambda: tmux.screen() is None, 8), True)


def screens(t, script, *steps):
    """Starts a script in tmux, types, and notes the screen as soon as it shows what each step waits for."""
    tmux = Tmux(t, shell_env(t, EXINIT="set nocompatible", LESS="", LESSHISTFILE="-"), 60, 12, script)
    for number, (command, text) in enumerate(steps):
        if command:
            tmux(*command)
        t.see(f"screen {number} shows {text!r}", tmux.shows(text), True)
        time.sleep(SETTLE_S)
        t.see(f"screen {number}", tmux.screen())
    tmux("kill-server")


def typed(*keys):
    """Keys as a step of screens()."""
    return ("send-keys", *keys)


def resized(columns, rows):
    """Another size of the terminal as a step of screens()."""
    return ("resize-window", "-x", str(columns), "-y", str(rows))


@case("tmux", "vi", shells=cases.BOTH, limit_s=40)
def tmux_vi(t):
    """vi: what it draws, typed text, a resize, a shell escape, the file that it writes."""
    need("vi")
    t.leave_out(".viminfo")
    t.write("text", b"".join(b"line %d\n" % number for number in range(40)))
    screens(t, "vi -u NONE -N -i NONE text; echo left; sleep 30",
            (None, b"line 5"),
            (typed("G", "o", "typed in vi", "Escape"), b"typed in vi"),
            (resized(50, 9), b"typed in vi"),
            (typed("gg", "/line 20", "Enter"), b"line 20"),
            (typed(":!echo from $((40+2))", "Enter"), b"from 42"),
            (typed("Enter"), b"line 20"),
            (typed(":wq", "Enter"), b"left"))


@case("tmux", "less", shells=cases.BOTH, limit_s=40)
def tmux_less(t):
    """less: from a file and from a pipe, where it reads keys from /dev/tty; a page, a search, ^C, the end."""
    need("less")
    screens(t, "seq 1 200 | less; echo left; sleep 30",
            (None, b"11\n"),
            (typed("Space"), b"22\n"),
            (typed("/^150", "Enter"), b"150"),
            (resized(40, 8), b"150"),
            (typed("G"), b"200"),
            (typed("q"), b"left"))


@case("tmux", "line-editing", shells=("bash",), limit_s=40)
def tmux_line_editing(t):
    """bash's line editor: cursor keys, history, completion, ^C, ^Z and fg, a long line that wraps."""
    t.leave_out(".bash_history")
    t.write("a-file-with-a-name", b"its content\n")
    screens(t, "PS1='P> ' exec bash --norc --noprofile -i",
            (None, b"P>"),
            (typed("echo wrld", "Left", "Left", "Left", "o", "C-a", "C-e", "Enter"), b"\nworld\n"),
            (typed("cat a-fi", "Tab", "Enter"), b"its content"),
            (typed("Up", "Up", "C-e", " again", "Enter"), b"world again\n"),
            (typed("echo " + "0123456789" * 7, "C-a", "Right", "Right", "X", "BSpace", "Enter"), b"789\nP>"),
            (typed("some typing", "C-c"), b"^C\nP>"),
            (typed("clear; (trap 'echo int; exit' INT; echo sleeping; while :; do sleep .1; done)", "Enter"), b"sleeping"),
            (typed("C-c"), b"int\nP>"),
            (typed("clear", "Enter"), b"P>"),
            (typed("cat", "Enter"), b"P> cat\n"),
            (typed("C-z"), b"Stopped"),
            (typed("fg", "Enter"), b"fg\ncat"),
            (typed("through cat", "Enter", "C-d"), b"through cat\nthrough cat\nP>"))


@case("tmux", "top", limit_s=40)
def tmux_top(t):
    """top draws itself anew, takes keys, and leaves the terminal as it was."""
    need("top")
    t.leave_out("state", "after", ".toprc", ".config")
    tmux = Tmux(t, shell_env(t), 90, 20, "stty -g > state; top -d .2; stty -g > after; cmp state after && echo left; sleep 30")
    t.see("drawn", tmux.shows(b"PID USER"), True)
    tmux.keys("q")
    t.see("left", tmux.shows(b"left\n"), True)
    tmux("kill-server")
