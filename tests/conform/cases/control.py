"""Rows 42 to 53: signals, groups, control."""

import os
import signal
import time

from cases import case
from trial import AWAIT_GO, HOLD, PIPE, SLEEP, WAIT_S, without_pids

STOP_POLL_S = 0.3
NUDGE_S = 0.05
GROUP_GONE_S = 2


def start_ready(t, script, **more):
    """Starts a script in its own session that says `ready` when it may be signalled."""
    more.setdefault("start_new_session", True)
    process = t.start("-c", script, **more)
    t.see("ready", t.read_until(process.stdout.fileno(), b"ready\n"), b"ready\n")
    return process


def see_end(t, process, status, out=b""):
    """Notes status, the rest of the output, and stderr."""
    t.see_status("status", t.wait(process), status)
    t.see("stdout", t.read_all(process.stdout.fileno()), out)
    t.see("stderr", without_pids(t.read_all(process.stderr.fileno())))


def trap_output(t, process):
    """The line that a trap prints in a shell that reads stdin. A shell may miss a signal that comes just
    before it reads, until the next line: so there are lines until the trap has run."""
    until = time.monotonic() + WAIT_S
    while not t.readable(process.stdout.fileno(), NUDGE_S) and time.monotonic() < until:
        process.stdin.write(b"\n")
    return t.read_until(process.stdout.fileno(), b"\n")


def group_dies(t, number):
    """Kills the group of a sleep; notes the status and that nothing is left."""
    process = start_ready(t, HOLD + SLEEP)
    os.killpg(process.pid, number)
    t.see_status("status", t.wait(process), -number)
    t.see_none_left("none left", GROUP_GONE_S)


@case(42, "group-term")
def group_term(t):
    """TERM to the group of a sleep: death by TERM, nothing left."""
    group_dies(t, signal.SIGTERM)


@case(42, "group-term-background")
def group_term_background(t):
    """TERM to the group reaches background children as well."""
    process = start_ready(t, HOLD + f"sleep 30 & {SLEEP} & wait")
    os.killpg(process.pid, signal.SIGTERM)
    t.see_status("status", t.wait(process), -signal.SIGTERM)
    t.see_none_left("none left")


@case(43, "group-int")
def group_int(t):
    """INT to the group of a sleep: death by INT."""
    group_dies(t, signal.SIGINT)


@case(44, "group-kill", alone=True)
def group_kill(t):
    """KILL to the group, which nothing can pass on: nothing is left after 2 s."""
    group_dies(t, signal.SIGKILL)


@case(44, "group-kill-blocked-writer", alone=True)
def group_kill_blocked_writer(t):
    """KILL to the group of a command that waits for its reader: nothing is left after 2 s."""
    process = start_ready(t, HOLD + "echo ready; yes")
    os.killpg(process.pid, signal.SIGKILL)
    t.see_status("status", t.wait(process), -signal.SIGKILL)
    process.stdout.close()
    t.see_none_left("none left", GROUP_GONE_S)


@case(45, "term-ignored")
def term_ignored(t):
    """A shell that ignores TERM survives it."""
    process = start_ready(t, f"trap '' TERM; echo ready; {AWAIT_GO} echo survived")
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(.1)
    t.go()
    see_end(t, process, 0, b"survived\n")


@case(45, "ignored-by-caller")
def ignored_by_caller(t):
    """Signals that the caller ignores are ignored by the command, and cannot be trapped."""
    def ignore():
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    t.sh("trap 'echo trapped' USR1; kill -HUP $$; kill -TERM $$; kill -USR1 $$; echo survived; "
         "grep SigIgn /proc/self/status", out=lambda text: text.startswith(b"survived\n"),
         preexec_fn=ignore)


@case(45, "blocked-by-caller")
def blocked_by_caller(t):
    """Signals that the caller blocks are blocked in the command."""
    t.direct("grep", "SigBlk", "/proc/self/status", status=0, out=b"SigBlk:\t0000000000004a00\n",
             preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, (10, 12, 15)))


@case(45, "default-dispositions")
def default_dispositions(t):
    """A command starts with nothing blocked, ignored or caught that the caller did not."""
    t.direct("grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status", status=0)


def term_trap_runs(t, **more):
    """A TERM trap in a loop."""
    process = start_ready(t, "trap 'echo T; exit 5' TERM; echo ready; while :; do sleep .05; done", **more)
    process.send_signal(signal.SIGTERM)
    see_end(t, process, 5, b"T\n")


@case(46, "term-trap")
def term_trap(t):
    """A TERM trap in a loop runs."""
    term_trap_runs(t, start_new_session=False)


@case(46, "leader-term-trap")
def leader_term_trap(t):
    """TERM to a group's leader alone: its trap runs, its child goes on."""
    term_trap_runs(t)


@case(46, "term-trap-group")
def term_trap_group(t):
    """TERM to the group of a shell with a trap: its child dies, the trap runs at once."""
    process = start_ready(t, HOLD + f"trap 'echo T; exit 5' TERM; {SLEEP}; :")
    os.killpg(process.pid, signal.SIGTERM)
    see_end(t, process, 5, b"T\n")
    t.see_none_left("none left")


def usr1_trap_runs(t, **more):
    """A USR1 trap while a child runs."""
    process = start_ready(t, f"trap 'echo U' USR1; echo ready; ({AWAIT_GO}); echo end", **more)
    process.send_signal(signal.SIGUSR1)
    time.sleep(.1)
    t.go()
    see_end(t, process, 0, b"U\nend\n")


@case(47, "usr1-trap")
def usr1_trap(t):
    """A USR1 trap runs after the child, which got no signal, has ended."""
    usr1_trap_runs(t, start_new_session=False)


@case(47, "leader-usr1-trap")
def leader_usr1_trap(t):
    """The same where the shell leads its group."""
    usr1_trap_runs(t)


def hup_trap_runs(t, **more):
    """A HUP trap during a sleep."""
    process = start_ready(t, "trap 'echo H; exit 1' HUP; /bin/sh -c 'echo ready; exec sleep 1'; echo end",
                          **more)
    process.send_signal(signal.SIGHUP)
    see_end(t, process, 1, b"H\n")


@case(47, "hup-trap")
def hup_trap(t):
    """A HUP trap during a sleep runs after it."""
    hup_trap_runs(t, start_new_session=False)


@case(47, "leader-hup-trap")
def leader_hup_trap(t):
    """The same where the shell leads its group."""
    hup_trap_runs(t)


@case(47, "every-signal-trapped")
def every_signal_trapped(t):
    """Every signal that can be trapped reaches its trap."""
    names = "HUP INT QUIT USR1 SEGV USR2 PIPE ALRM TERM URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS".split()
    traps = "; ".join(f"trap 'echo {name}' {name}" for name in names)
    process = start_ready(t, f"{traps}; trap 'echo CONT; exit 7' CONT; echo ready; while :; do read x; done",
                          stdin=PIPE)
    for name in names:
        process.send_signal(signal.Signals["SIG" + name])
        t.see(name, trap_output(t, process), name.encode() + b"\n")
    process.send_signal(signal.SIGCONT)
    t.see("CONT", trap_output(t, process), b"CONT\n")
    t.see_status("status", t.wait(process), 7)


def child_goes_on(t, **more):
    """TERM to a shell that waits for its background child."""
    process = start_ready(t, f"({AWAIT_GO} echo child) & echo ready; wait; echo no", **more)
    process.send_signal(signal.SIGTERM)
    t.see_status("status", t.wait(process), -signal.SIGTERM)
    t.go()
    t.see("stdout", t.read_all(process.stdout.fileno()), b"child\n")


@case(47, "kill-one-leaves-child")
def kill_one_leaves_child(t):
    """TERM to the shell alone leaves its background child alive."""
    child_goes_on(t, start_new_session=False)


@case(47, "leader-kill-one-leaves-child")
def leader_kill_one_leaves_child(t):
    """The same where the shell leads its group."""
    child_goes_on(t)


@case(47, "many-signals", shells=("dash",))
def many_signals(t):
    """Fifty signals, one at a time, are fifty traps.  (bash itself now and then leaves a trap waiting for its read.)"""
    process = start_ready(t, "trap 'i=$((i+1)); echo $i' USR1; trap 'echo end; exit 4' TERM; echo ready; "
                          "while :; do read x; done", stdin=PIPE)
    for number in range(1, 51):
        process.send_signal(signal.SIGUSR1)
        t.see(str(number), trap_output(t, process), b"%d\n" % number)
    process.send_signal(signal.SIGTERM)
    t.see("end", trap_output(t, process), b"end\n")
    t.see_status("status", t.wait(process), 4)


def state_of(pid):
    """The letter of a process's state."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


@case(48, "stop-and-continue")
def stop_and_continue(t):
    """STOP stops, CONT continues, the status is the command's."""
    process = start_ready(t, "echo ready; read x; echo end", stdin=PIPE)
    os.killpg(process.pid, signal.SIGSTOP)
    t.see("state", t.until(lambda: state_of(process.pid) == "T"), True)
    os.killpg(process.pid, signal.SIGCONT)
    process.stdin.write(b"go\n")
    see_end(t, process, 0, b"end\n")


@case(48, "stopped-does-nothing")
def stopped_does_nothing(t):
    """While it is stopped by STOP, a command does nothing."""
    process = start_ready(t, "echo ready; read x; echo end", stdin=PIPE)
    os.killpg(process.pid, signal.SIGSTOP)
    t.see("state", t.until(lambda: state_of(process.pid) == "T"), True)
    process.stdin.write(b"go\n")
    time.sleep(STOP_POLL_S)
    t.see("output while stopped", t.readable(process.stdout.fileno()), False)
    os.killpg(process.pid, signal.SIGCONT)
    see_end(t, process, 0, b"end\n")


@case(48, "tstp")
def tstp(t):
    """TSTP stops the command, its parent sees TSTP; CONT continues it, its parent sees that."""
    process = start_ready(t, "echo ready; read x; echo $x; read x; echo $x", stdin=PIPE,
                          start_new_session=False, process_group=0)
    os.killpg(process.pid, signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    t.see("stopped by", os.WIFSTOPPED(status) and os.WSTOPSIG(status), signal.SIGTSTP)
    process.stdin.write(b"one\n")
    time.sleep(STOP_POLL_S)
    t.see("output while stopped", t.readable(process.stdout.fileno()), False)
    os.killpg(process.pid, signal.SIGCONT)
    _, status = os.waitpid(process.pid, os.WCONTINUED)
    t.see("continued", os.WIFCONTINUED(status), True)
    t.see("on", t.read_until(process.stdout.fileno(), b"\n"), b"one\n")
    process.stdin.write(b"two\n")
    see_end(t, process, 0, b"two\n")


@case(48, "self-stop")
def self_stop(t):
    """A shell that stops itself is seen to be stopped by that signal, and can be continued."""
    process = t.start("-c", "kill -STOP $$; echo on; exit 3", process_group=0)
    t.see("state", t.until(lambda: state_of(process.pid) == "T", limit_s=5), True)
    os.killpg(process.pid, signal.SIGCONT)
    see_end(t, process, 3, b"on\n")


@case(50, "nohup")
def nohup(t):
    """A nohup child lives on after the shell's end."""
    t.write("later", (AWAIT_GO + "echo alive > file").encode())
    t.sh("nohup sh later >/dev/null 2>&1 & echo started", status=0, out=b"started\n")
    t.go()
    t.see("file", t.until(lambda: t.read("file") == b"alive\n"), True)


@case(50, "daemon")
def daemon(t):
    """A child in its own session lives on after the shell's end."""
    t.write("later", (AWAIT_GO + "echo alive > file").encode())
    t.sh("setsid sh later >/dev/null 2>&1 </dev/null & echo started", status=0, out=b"started\n")
    t.go()
    t.see("file", t.until(lambda: t.read("file") == b"alive\n"), True)


@case(51, "background-elsewhere")
def background_elsewhere(t):
    """A background job that does not hold the pipes does not delay EOF."""
    begun = time.monotonic()
    t.sh("sleep 8 >/dev/null 2>&1 & echo started", status=0, out=b"started\n")
    t.within("end", time.monotonic() - begun, 0, 6)


@case(52, "wait")
def wait(t):
    """wait waits for the background job."""
    begun = time.monotonic()
    t.sh("sleep .3 & wait; echo $?", status=0, out=b"0\n")
    t.within("end", time.monotonic() - begun, .3, 10)


@case(53, "ids")
def ids(t):
    """A command's parent, group and session exist and stay."""
    outcome = t.run("-c", 'ps -o pgid=,sid= $$; ps -o pgid=,sid= $$; ps -o ppid= $$')
    lines = [[int(word) > 0 for word in line.split()] for line in outcome.out.splitlines()]
    t.see("shape", lines, [[True, True], [True, True], [True]])
    t.see("stable", len(set(outcome.out.splitlines()[:2])), 1)


@case(42, "killed-at-once")
def killed_at_once(t):
    """TERM at any moment of the start: death by TERM, nothing left."""
    for delay_ms in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        process = t.start("-c", HOLD + "exec sleep 30", start_new_session=True)
        time.sleep(delay_ms / 1000)
        os.killpg(process.pid, signal.SIGTERM)
        t.see_status(f"after {delay_ms} ms", t.wait(process), -signal.SIGTERM)
    t.see_none_left("none left")


@case(44, "killed-at-once-hard")
def killed_at_once_hard(t):
    """KILL at any moment of the start: nothing is left."""
    for delay_ms in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        process = t.start("-c", HOLD + "exec sleep 30", start_new_session=True)
        time.sleep(delay_ms / 1000)
        os.killpg(process.pid, signal.SIGKILL)
        t.see_status(f"after {delay_ms} ms", t.wait(process), -signal.SIGKILL)
    t.see_none_left("none left")


@case(44, "parent-dies")
def parent_dies(t):
    """A caller that asked for TERM at its own death leaves nothing when it dies."""
    script = HOLD + SLEEP
    code = """
import ctypes, os, subprocess, sys
subprocess.Popen([sys.argv[1], "-c", sys.argv[2]], executable=sys.argv[1], start_new_session=True,
                 preexec_fn=lambda: ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)).wait()
"""
    process = t.start_program("/usr/bin/python3", "-c", code, t.shell, script)
    t.see("ready", t.read_until(process.stdout.fileno(), b"ready\n"), b"ready\n")
    process.kill()
    t.see_status("status", t.wait(process), -signal.SIGKILL)
    if t.dialect == "bash":                     # dash has forked, and its child did not ask
        t.see_none_left("none left")


@case(45, "child-ignored-by-caller")
def child_ignored_by_caller(t):
    """A caller that ignores SIGCHLD has shells that still know their children's codes."""
    t.sh("/bin/true; echo $?; /bin/true | /bin/false; echo $?; sleep .1 & wait $!; echo $?",
         preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
