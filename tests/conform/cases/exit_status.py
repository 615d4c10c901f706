"""Rows 1 to 14: the exit status."""

import os

from cases import case
from trial import has


@case(1, "every-code")
def every_code(t):
    """exit N for N from 0 to 255 is seen as N."""
    for code in range(256):
        t.see_status(f"exit {code}", t.run("-c", f"exit {code}").status, code)


@case(2, "code-256")
def code_256(t):
    """exit 256 wraps to 0."""
    t.sh("exit 256", status=0)


@case(3, "code-negative")
def code_negative(t):
    """exit -1 is an error for dash and 255 for bash."""
    t.sh("exit -1", status={"dash": 2, "bash": 255},
         err={"dash": has(b"Illegal number"), "bash": b""})


@case(4, "code-not-a-number")
def code_not_a_number(t):
    """exit abc gives 2."""
    t.sh("exit abc", status=2)


@case(5, "unknown-command")
def unknown_command(t):
    """An unknown command gives 127 and the shell's own words."""
    t.sh("no-such-command", status=127, err={
        "dash": b"sh: 1: no-such-command: not found\n",
        "bash": b"bash: line 1: no-such-command: command not found\n"})


@case(6, "folder-as-command")
def folder_as_command(t):
    """A folder as a command gives 126."""
    t.sh("/tmp", status=126)


@case(7, "not-executable")
def not_executable(t):
    """A file without an x bit gives 126."""
    t.write("file", b"#!/bin/sh\necho no\n", 0o644)
    t.sh("./file", status=126, out=b"")


@case(8, "no-interpreter")
def no_interpreter(t):
    """A script whose interpreter does not exist gives 127."""
    t.write("file", b"#!/no/such/interp\n", 0o755)
    t.sh("./file", status=127)


@case(8, "no-interpreter-line")
def no_interpreter_line(t):
    """A script without #! is run by the shell itself."""
    t.write("file", b"echo ran $0 $1; exit 6\n", 0o755)
    t.sh("./file one", status=6, out=b"ran ./file one\n")


@case(9, "syntax-error")
def syntax_error(t):
    """A syntax error gives 2 and a message on stderr."""
    t.sh("if", status=2, out=b"", err=lambda text: text != b"")


@case(10, "no-such-script")
def no_such_script(t):
    """A script that does not exist gives 2 in dash and 127 in bash."""
    t.check(t.run("/no/such/script"), status={"dash": 2, "bash": 127})


@case(10, "script-file")
def script_file(t):
    """A script file gets its arguments and gives its own code."""
    t.write("script", b"echo \"$0:$1:$#\"\nexit 9\n")
    t.check(t.run("script", "a b", ""), status=9, out=b"script:a b:2\n")


@case(11, "no-string")
def no_string(t):
    """-c without a string gives 2."""
    t.check(t.run("-c"), status=2)


@case(12, "unknown-option")
def unknown_option(t):
    """An unknown option gives 2."""
    t.check(t.run("-Z"), status=2)


@case(13, "empty-string")
def empty_string(t):
    """-c '' does nothing, successfully."""
    t.sh("", status=0, out=b"", err=b"")


@case(14, "errexit")
def errexit(t):
    """set -e ends the shell at the first failure."""
    t.sh("set -e; false; echo no", status=1, out=b"")


@case(14, "pipeline")
def pipeline(t):
    """A pipeline's status is that of its last command."""
    t.sh("false | true", status=0)
    t.sh("true | false", label="the other way", status=1)


@case(14, "exit-trap")
def exit_trap(t):
    """An EXIT trap may change the code."""
    t.sh("trap 'echo bye; exit 9' EXIT; exit 3", status=9, out=b"bye\n")


@case(14, "direct-code")
def direct_code(t):
    """A program run without a shell gives its own code."""
    t.direct("expr", "1", "-", "1", status=1, out=b"0\n")


@case(14, "direct-unknown", twin=False)
def direct_unknown(t):
    """A program without a shell that is not in the sandbox gives 127, and one line."""
    t.direct("no-such-program", status=127, out=b"",
             err=lambda text: text.startswith(b"modalsh: ") and text.count(b"\n") == 1)


@case(14, "direct-not-executable", twin=False)
def direct_not_executable(t):
    """A program without a shell that cannot be executed gives 126, and one line."""
    path = t.write("file", b"", 0o644)
    t.direct(path, status=126, out=b"",
             err=lambda text: text.startswith(b"modalsh: ") and text.count(b"\n") == 1)


@case(14, "interpreter")
def interpreter(t):
    """The shell as the interpreter of a script of the host."""
    path = t.write("script", b"#!" + os.fsencode(t.shell) + b' -e\necho "$0:$1:$#"\nfalse\necho no\n', 0o755)
    t.leave_out("script")
    process = t.start_program(path, "a b", "")
    t.check(t.finish(process), status=1, out=os.fsencode(path) + b":a b:2\n")
