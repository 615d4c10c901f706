"""Rows 15 to 18: death by a signal."""

import signal

from cases import case
from trial import without_pids

DEADLY = {"TERM": 15, "KILL": 9, "INT": 2, "HUP": 1, "PIPE": 13, "SEGV": 11, "ABRT": 6, "USR1": 10,
          "ALRM": 14}
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


@case(15, "own-signal")
def own_signal(t):
    """A shell that kills itself is seen to die of that signal, not to exit with 128+n."""
    for name, number in DEADLY.items():
        t.sh(f"kill -{name} $$; sleep 1; exit 99", label=name, status=-number, out=b"", err=b"")


@case(15, "every-signal")
def every_signal(t):
    """Every signal of the kernel, real-time ones too, ends the shell as it does locally."""
    for number in sorted(set(range(1, 65)) - STOPPING):
        t.see_status(f"signal {number}", t.run("-c", f"kill -{int(number)} $$; exit 99").status)


@case(15, "direct-signal")
def direct_signal(t):
    """A program run without a shell is seen to die of its signal."""
    t.direct("perl", "-e", "kill 'SEGV', $$; sleep 1", status=-11)


@case(15, "killed-with-output")
def killed_with_output(t):
    """What was written before the death arrives."""
    t.sh("echo before; echo error >&2; kill -KILL $$", status=-9, out=b"before\n", err=b"error\n")


@case(16, "quit")
def quit_signal(t):
    """QUIT kills dash; bash ignores it."""
    t.sh("kill -QUIT $$; exit 0", status={"dash": -3, "bash": 0})


@case(17, "child-dies")
def child_dies(t):
    """A child's death gives the shell 128+n, and the shell's text on stderr."""
    names = "TERM KILL INT HUP PIPE SEGV ABRT USR1 ALRM QUIT".split()
    codes = (143, 137, 130, 129, 141, 139, 134, 138, 142, 131)
    for name, code in zip(names, codes):
        outcome = t.run("-c", f"/bin/sh -c 'kill -{name} $$'; echo $?")
        silent = name in ("INT", "PIPE")
        t.see_status(f"{name} status", outcome.status, 0)
        t.see(f"{name} $?", outcome.out, b"%d\n" % code)
        t.see(f"{name} stderr", without_pids(outcome.err),
              lambda text, silent=silent: (text == b"") == silent)


@case(18, "exit-143")
def exit_143(t):
    """exit 143 is an exit, not a death."""
    t.sh("exit 143", status=143)
