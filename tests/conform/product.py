"""Finds modalsh, or sets it up: the one place that knows how try.sh is called and what it writes."""

import os
import shlex
import shutil
import subprocess
import tempfile

from worker import Side

HERE = os.path.dirname(os.path.abspath(__file__))
TRY = os.path.join(HERE, "..", "..", "install", "try.sh")

# Commands must see the caller's environment and nothing else, and a folder that is not in the sandbox
# must be refused.
CONFIG_EXTRA = """\
terminal:
  env_passthrough: ["*"]
modalsh:
  strict_cwd: true
  env_base: empty
  env_reasons:
    "*": the environment has to be the same as the local one
"""


class Product:
    """A set-up that can be used: bin with sh, bash and exec; env that they need; share, the folder that
    is at the same path on both sides; is_real, false for a stand-in without a broker."""

    def __init__(self, folder, env, share, stop):
        self.bin, self.env, self.share, self._stop = folder, env, share, stop
        self.is_real = "MODALSH_SOCKET" in env

    def stop(self):
        """Undoes what was set up here."""
        self._stop()


class NoProduct(Exception):
    """There is nothing to test; the text says why."""


def find(env_file, share):
    """The set-up that env_file describes, or one of our own when there is none."""
    if env_file:
        return _from_env_file(env_file, share, lambda: None)
    return _set_up()


def local_side(folder):
    """The oracle: a folder with the real shells under the same names."""
    for name, path in (("sh", "/bin/dash"), ("bash", "/bin/bash")):
        os.symlink(path, os.path.join(folder, name))
    return Side("local", folder, {}, True)


def replaced_sides(found):
    """The machine's shells as they are, and with those that were found in their place."""
    return [Side("local", "/bin", {}, True), Side("modalsh", "/bin", found.env, False, found.bin)]


def _set_up():
    top = tempfile.mkdtemp(prefix="conform-")
    up, share = os.path.join(top, "up"), os.path.join(top, "share")
    config = os.path.join(top, "config-extra.yaml")
    os.mkdir(share)
    with open(config, "w", encoding="ascii") as file:
        file.write(CONFIG_EXTRA)

    def stop():
        ended = subprocess.run([TRY, "--down", up], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(top, ignore_errors=True)
        ended.check_returncode()

    # try.sh itself tries a command where it was started, and strict_cwd holds for that as well.
    started = subprocess.run([os.path.abspath(TRY), "--up", up, "--share", share, "--config-extra", config,
                              *shlex.split(os.environ.get("MODALSH_TRY_ARGS", ""))],
                             check=False, cwd=share, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
    if started.returncode != 0:
        shutil.rmtree(top, ignore_errors=True)
        raise NoProduct(f"try.sh --up ended with {started.returncode}:\n"
                        + started.stdout.decode(errors="replace"))
    return _from_env_file(os.path.join(up, "env"), share, stop)


def _from_env_file(path, share, stop):
    shell = subprocess.run(["/bin/sh", "-c", '. "$1"; exec env -0', "sh", path], check=False,
                           env={"PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE)
    if shell.returncode != 0:
        raise NoProduct(f"{path} cannot be sourced")
    names = dict(entry.split("=", 1) for entry in os.fsdecode(shell.stdout).split("\0") if "=" in entry)
    folder = names["PATH"].split(":")[0]
    for name in ("sh", "bash", "exec"):
        if not os.access(os.path.join(folder, name), os.X_OK):
            raise NoProduct(f"{path}: no {name} in {folder}, the first entry of PATH")
    env = {name: value for name, value in names.items() if name == "MODALSH_SOCKET"}
    share = share or names.get("MODALSH_TRY_SHARE")
    if not share and env:
        raise NoProduct("the shared folder is not known: give --share, or MODALSH_TRY_SHARE in the file")
    return Product(folder, env, share, stop)
