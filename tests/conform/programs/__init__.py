"""Programs that nobody here wrote, with modalsh in the place of the machine's `sh` and `bash`.

A case runs twice: with the real shells, and in a mount namespace in which the files behind /bin/sh and
/bin/bash are modalsh. Every other program is the host's; what its shells start runs in the sandbox, which
sees the case's folder at the same path. Instead of a row a case has the name of a family of programs.
"""

import importlib
import pkgutil
import shutil

import cases
from trial import ANY, PIPE, Skip

SH_ONLY = ("dash",)             # the program itself decides which shell it starts
PROGRAM_PATH = "/usr/local/bin:/usr/bin:/bin"


def case(family, name, shells=SH_ONLY, **more):
    """Registers a case. With shells=cases.BOTH the case tells the program to use t.shell."""
    return cases.case(family, name, shells=shells, **more)


def load_all():
    """Imports every module of this package; returns the cases, family by family."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(cases.CASES, key=lambda each: each.row)


def need(program):
    """The path of a program; skips the case when the host does not have it."""
    path = shutil.which(program, path=PROGRAM_PATH)
    if path is None:
        raise Skip(f"{program} is not installed")
    return path


def start(t, program, *args, **more):
    """Starts a program of the host."""
    return t.start_program(need(program), *args, **more)


def finish(t, program, *args, data=None, **more):
    """Runs a program of the host to its end; returns the outcome."""
    if data is not None:
        more["stdin"] = PIPE
    return t.finish(start(t, program, *args, **more), data)


def run(t, program, *args, label="", status=ANY, out=ANY, err=ANY, **more):
    """Runs a program of the host to its end and notes the outcome."""
    return t.check(finish(t, program, *args, **more), label, status, out, err)


def python(t, text, *args, **more):
    """Runs a program text in the host's Python and notes the outcome."""
    path = t.write("program.py", text.encode())
    t.leave_out("program.py")
    return run(t, "/usr/bin/python3", "-E", "-s", "-B", path, *args, **more)
