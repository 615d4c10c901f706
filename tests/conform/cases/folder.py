"""Rows 70 to 72: the working folder."""

import os

from cases import case
from trial import has

ODD = [b"with space", b"with\nnewline", b"quote'\"`$", b"-dash", b"\xff\xfe", "é".encode(), b"x" * 255]


@case(70, "removed-while-running")
def removed_while_running(t):
    """pwd prints the old path, /bin/pwd fails, the shell goes on."""
    os.mkdir(t.path("gone"))
    t.sh('rmdir "$PWD"; pwd; /bin/pwd; echo code:$?; echo on', cwd=t.path("gone"), status=0,
         out=f"{t.path('gone')}\ncode:1\non\n".encode())


@case(71, "odd-names")
def odd_names(t):
    """Folders with odd names are printed as they are."""
    for name in ODD:
        path = os.path.join(os.fsencode(t.dir), name)
        os.mkdir(path)
        t.sh("pwd; /bin/pwd; echo x > file", cwd=path, label=repr(name), status=0,
             out=path + b"\n" + path + b"\n")


@case(71, "deep")
def deep(t):
    """A folder with a path of more than 3,000 bytes."""
    path = t.path("/".join(["d" * 200] * 15))
    os.makedirs(path)
    t.sh("pwd | wc -c; echo x > file", cwd=path, status=0, out=b"%d\n" % (len(path) + 1))


@case(71, "logical")
def logical(t):
    """A PWD that names the folder through a symbolic link is kept."""
    os.mkdir(t.path("real"))
    os.symlink("real", t.path("link"))
    t.sh("pwd; pwd -P", cwd=t.path("link"), env=t.env(PWD=t.path("link")), status=0,
         out=f"{t.path('link')}\n{t.path('real')}\n".encode())


@case(71, "stale-pwd")
def stale_pwd(t):
    """A PWD that names another folder is not believed."""
    t.sh("pwd", env=t.env(PWD="/usr"), status=0, out=f"{t.dir}\n".encode())


@case(71, "relative-script")
def relative_script(t):
    """Relative names are relative to the caller's folder."""
    os.makedirs(t.path("a/b"))
    t.write("a/script", b"echo script in $(pwd)\n")
    t.check(t.run("../script", cwd=t.path("a/b")), status=0,
            out=f"script in {t.path('a/b')}\n".encode())


@case(72, "no-mapping", twin=False)
def no_mapping(t):
    """A folder that is not in the sandbox is refused, and nothing is run."""
    t.sh(f"echo ran > {t.path('file')}; echo ran", cwd="/var", status=125, out=b"",
         err=lambda text: text.startswith(b"modalsh: ") and text.count(b"\n") == 1)
    t.see("nothing run", t.read("file"), None)


@case(72, "removed-before", twin=False)
def removed_before(t):
    """A folder that was removed before the start is refused."""
    os.mkdir(t.path("gone"))

    def remove():
        os.chdir(t.path("gone"))
        os.rmdir(t.path("gone"))
    t.sh("echo ran", preexec_fn=remove, status=125, out=b"", err=has(b"modalsh: "))
