"""Rows 59 to 65: argv."""

import errno
import os

from cases import case

SHOW = 'printf "%d:" $#; printf "<%s>" "$@"'
ODD = ["", " ", "a b", "x\ny", "*", "$HOME", "`id`", "\\", "'", '"', "é", "-n", "--", "~", "\t", "a\r"]


@case(59, "odd-words")
def odd_words(t):
    """Words that a quoting mistake would change arrive unchanged."""
    t.sh(SHOW, "name", *ODD, status=0,
         out=(f"{len(ODD)}:" + "".join(f"<{word}>" for word in ODD)).encode())


@case(59, "odd-words-direct")
def odd_words_direct(t):
    """The same words without a shell."""
    t.direct("printf", "<%s>", *ODD, status=0, out="".join(f"<{word}>" for word in ODD).encode())


@case(59, "empty-last")
def empty_last(t):
    """Empty words at the end are kept, and counted."""
    t.sh(SHOW, "name", "", "", "", status=0, out=b"3:<><><>")


@case(59, "no-words")
def no_words(t):
    """No words are no words."""
    t.sh('echo $0 $#', status=0, out={"dash": b"sh 0\n", "bash": b"bash 0\n"})


@case(60, "raw-bytes")
def raw_bytes(t):
    """Bytes that are not UTF-8 arrive unchanged."""
    t.sh(SHOW, b"name", b"\xff\xfe\x80a", bytes(range(1, 256)), status=0,
         out=b"2:<\xff\xfe\x80a><" + bytes(range(1, 256)) + b">")


@case(60, "raw-bytes-script")
def raw_bytes_script(t):
    """Bytes in the -c string arrive unchanged."""
    t.sh(b"printf %s '\xff\xfe\x80a\x01'", status=0, out=b"\xff\xfe\x80a\x01")


def exec_status(t, label, *args):
    """Notes the length that arrived, or the error of the exec in the caller."""
    try:
        outcome = t.run("-c", 'n=0; for a; do n=$((n+${#a})); done; echo $# $n', "name", *args)
    except OSError as error:
        t.see(label, errno.errorcode[error.errno])
        return
    t.check(outcome, label)


@case(61, "long-word")
def long_word(t):
    """A word may have 131,071 bytes; one more is refused by the kernel in the caller."""
    exec_status(t, "131071", "x" * 131_071)
    exec_status(t, "131072", "x" * 131_072)


@case(62, "many-words")
def many_words(t):
    """All words may have 1.5 MB together; 2.2 MB are refused by the kernel in the caller."""
    exec_status(t, "1.5 MB", *["x" * 100_000] * 15)
    exec_status(t, "1.5 MB in small words", *["x" * 60] * 22_000)
    exec_status(t, "2.2 MB", *["x" * 100_000] * 22)


@case(63, "long-script")
def long_script(t):
    """A -c string of 130 kB works."""
    t.sh(": " + "x" * 129_900 + "; echo end; exit 3", status=3, out=b"end\n")


@case(64, "script-of-3-mb")
def script_of_3_mb(t):
    """A script of 3 MB on stdin works."""
    line = b": " + b"x" * 97 + b"\n"
    t.check(t.run(data=line * 30_000 + b"echo end; exit 3\n"), status=3, out=b"end\n")


@case(65, "argv0")
def argv0(t):
    """A made-up argv[0] is kept."""
    for name in ("weird-name", "/bin/sh", "with space", "é"):
        t.sh('echo "$0"', argv0=name, label=name, status=0, out=name.encode() + b"\n")


@case(65, "argv0-empty")
def argv0_empty(t):
    """An empty argv[0] is kept."""
    t.sh('echo "<$0>"', argv0="", status=0)


@case(65, "argv0-login")
def argv0_login(t):
    """A leading dash makes a login shell, which reads its profile."""
    t.write(".profile", b"echo profile\n")
    t.sh("echo \"$0:$-\"", argv0="-" + t.name, status=0,
         out={"dash": b"profile\n-sh:\n", "bash": b"profile\n-bash:hBc\n"})


@case(65, "argv0-posix")
def argv0_posix(t):
    """bash called sh is in POSIX mode."""
    t.sh('set -o | grep "^posix"; echo $0', argv0="sh")


@case(65, "options-before")
def options_before(t):
    """Options in any form reach the shell."""
    t.check(t.run("-e", "-u", "-c", 'echo $-; echo $no_such; echo no'), status={"dash": 2, "bash": 1})


@case(65, "tool-name", twin=False)
def tool_name(t):
    """modalsh under a tool's name is that tool, in the sandbox."""
    os.symlink(os.path.realpath(t.shell), t.path("printf"))
    process = t.start_program(t.path("printf"), "<%s>", "a b", "")
    t.check(t.finish(process), status=0, out=b"<a b><>")
