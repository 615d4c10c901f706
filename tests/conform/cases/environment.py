"""Rows 66 to 69: the environment."""

import ctypes

from cases import case
from trial import has

libc = ctypes.CDLL(None)


def c_strings(words):
    """A NULL-terminated array of C strings."""
    return (ctypes.c_char_p * (len(words) + 1))(*[word.encode() for word in words], None)

SORTED = "env -0 | sort -z"


@case(66, "raw-value")
def raw_value(t):
    """Values with newlines and odd bytes arrive unchanged."""
    value = b"one\ntwo\xff\x01\xfe '\"$`\\"
    t.sh('printf %s "$V"', env={**t.env(), b"V": value}, status=0, out=value)


@case(66, "whole")
def whole(t):
    """The command's environment is the caller's, no name more, no name less."""
    t.sh(SORTED, env=t.env(A="1", SHELL="/bin/false", TMPDIR="/tmp/x", TERM="dumb", USER="me"), status=0)


@case(66, "direct")
def direct(t):
    """Without a shell the environment keeps its order as well."""
    t.direct("env", env={"Z": "1", "A": "2", "PATH": "/usr/bin:/bin", "M": "", "B": "é"}, status=0)


@case(67, "odd-names")
def odd_names(t):
    """dash drops names that are no identifiers, bash keeps them; an empty value is kept."""
    env = t.env(**{"A.B": "1", "X-Y": "2", "1Z": "3", "E": ""})
    t.sh("env | grep -E '^(A.B|X-Y|1Z|E)=' | sort", env=env, status=0,
         out={"dash": b"E=\n", "bash": b"1Z=3\nA.B=1\nE=\nX-Y=2\n"})


@case(67, "raw-names")
def raw_names(t):
    """Names may have any bytes."""
    t.direct("env", env={b"PATH": b"/usr/bin", b"\xff\x80": b"1", b"a b": b"2", "é": "3"}, status=0)


@case(68, "empty")
def empty(t):
    """In an empty environment dash adds PWD, and bash PWD, SHLVL and _."""
    t.sh("/usr/bin/" + SORTED.replace("sort", "/usr/bin/sort"), env={}, status=0,
         out={"dash": has(b"PWD="), "bash": has(b"SHLVL=")})


@case(69, "bash-env")
def bash_env(t):
    """bash reads BASH_ENV, dash does not."""
    path = t.write("startup", b"echo startup\n")
    t.sh("echo end", env=t.env(BASH_ENV=path, ENV=path), status=0,
         out={"dash": b"end\n", "bash": b"startup\nend\n"})


@case(69, "functions")
def functions(t):
    """Functions that bash exports arrive."""
    t.sh("f 2>&1; env | grep -a BASH_FUNC", env=t.env(**{"BASH_FUNC_f%%": "() {  echo function\n}"}))


@case(69, "big")
def big(t):
    """An environment of 1 MB, and one variable of 130 kB."""
    more = {f"V{i}": "x" * 500 for i in range(2000)}
    t.sh("env | grep -c '^V[0-9]*=xxx'; echo ${#BIG}", env=t.env(BIG="y" * 130_000, **more), status=0,
         out=b"2000\n130000\n")


@case(69, "path")
def path(t):
    """Commands are found through the caller's PATH."""
    t.write("tool", b"#!/bin/sh\necho tool\n", 0o755)
    t.sh("tool", env=t.env(PATH=f"{t.dir}:/usr/bin:/bin"), status=0, out=b"tool\n")


@case(69, "shell-level")
def shell_level(t):
    """SHLVL counts as it does locally."""
    t.sh("echo $SHLVL", env=t.env(SHLVL="4"), status=0, out={"dash": b"4\n", "bash": b"5\n"})


@case(67, "duplicates")
def duplicates(t):
    """A name that is there twice arrives twice, in order."""
    def exec_with_both():
        path, argv = t.direct_command("env")
        entries = ["PATH=/usr/bin", "A=1", "B=2", "A=3"] + [f"{k}={v}" for k, v in t.side.env.items()]
        libc.execve(path.encode(), c_strings(argv), c_strings(entries))
    t.direct("env", status=0, out=b"PATH=/usr/bin\nA=1\nB=2\nA=3\n", preexec_fn=exec_with_both)
