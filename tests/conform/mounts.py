"""Puts a program in the place of the machine's shells, for this process and what it starts alone."""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
SHELLS = ("/bin/sh", "/bin/bash")

libc = ctypes.CDLL(None, use_errno=True)


def replace_shells(folder):
    """Moves into a mount namespace of its own in which the files behind SHELLS are those of the same name
    in the folder. Links are resolved first, so that every path to a shell leads there."""
    _enter_namespace()
    _mount(b"none", b"/", MS_REC | MS_PRIVATE)
    for shell in SHELLS:
        instead = os.path.realpath(os.path.join(folder, os.path.basename(shell)))
        _mount(os.fsencode(instead), os.fsencode(os.path.realpath(shell)), MS_BIND)


def _enter_namespace():
    """Who is not root gets a user namespace as well, in which he stays who he is."""
    uid, gid = os.geteuid(), os.getegid()
    _checked(libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)), "unshare")
    if uid:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)


def _mount(source, target, flags):
    _checked(libc.mount(source, target, None, ctypes.c_ulong(flags), None), f"mount on {os.fsdecode(target)}")


def _checked(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
