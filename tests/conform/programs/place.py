"""That modalsh is in the place of the shells: without this the other cases would compare a shell with itself."""

import os

from programs import case, python

HOST = os.uname().nodename.encode()


def elsewhere(value):
    """a name that is not this host's"""
    return value.strip() not in (b"", HOST)


@case("place", "every-path", twin=False)
def every_path(t):
    """By every path that leads to a shell, and by a script's first line, the command runs in the sandbox."""
    for shell in ("/bin/sh", "/usr/bin/sh", "/bin/dash", "/bin/bash", "/usr/bin/bash"):
        t.check(t.finish(t.start_program(shell, "-c", "uname -n")), shell, status=0, out=elsewhere)
        script = t.write("script", f"#!{shell}\nuname -n\n".encode(), mode=0o755)
        t.check(t.finish(t.start_program(script)), f"#!{shell}", status=0, out=elsewhere)


@case("place", "python-is-local", twin=False)
def python_is_local(t):
    """The program is the host's, its shell is not."""
    python(t, "import os\nprint(os.uname().nodename, flush=True)\nos.system('uname -n')",
           status=0, out=lambda out: out.split()[0] == HOST and elsewhere(out.split()[1]))
