"""Small programs that start shells: find, xargs, timeout, awk, tar, sed, env, nice and their kind; C's own ways."""

import time

import cases
from programs import case, finish, need, run

C_PROGRAM = rb"""
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void
see(const char *label, int status)
{
	printf("%s: %s %d\n", label, WIFSIGNALED(status) ? "signal" : "exit",
	       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	fflush(stdout);
}

int
main(void)
{
	static char *argv[] = { "script", "one", "two words", NULL };
	char line[256];
	FILE *file;
	pid_t pid;
	int status;

	see("available", system(NULL) ? 0 : 1 << 8);
	see("system", system("echo from system; exit 3"));
	see("killed", system("kill -9 $$"));
	file = popen("echo a; echo b; exit 4", "r");
	while (fgets(line, sizeof line, file) != NULL)
		printf("read %s", line);
	see("popen r", pclose(file));
	file = popen("wc -c; exit 5", "w");
	for (int i = 0; i < 100000; i++)
		fputs("0123456789", file);
	see("popen w", pclose(file));
	/* a file without #!: execvp(3) hands it to /bin/sh */
	if ((pid = fork()) == 0) {
		execvp("./script", argv);
		_exit(99);
	}
	waitpid(pid, &status, 0);
	see("execvp", status);
	if (posix_spawnp(&pid, "sh", NULL, NULL, (char *[]){ "sh", "-c", "echo $0 $1; exit 7", "x", "y", NULL }, environ) == 0)
		waitpid(pid, &status, 0);
	see("posix_spawnp", status);
	if ((pid = vfork()) == 0) {
		execl("/bin/bash", "-bash", "-c", "echo $0; shopt -q login_shell", NULL);
		_exit(99);
	}
	waitpid(pid, &status, 0);
	see("login", status);
	return 0;
}
"""


@case("c", "system-popen")
def c_program(t):
    """C's system(), popen(), execvp() of a file without #!, posix_spawnp() and vfork()."""
    t.write("program.c", C_PROGRAM)
    t.write("script", b"echo \"script $0 $# $2\"; exit 6\n", mode=0o755)
    t.leave_out("program.c", "program")
    outcome = finish(t, "cc", "-o", "program", "program.c")
    t.see("compiled", (outcome.status, outcome.err), (0, b""))
    t.check(t.finish(t.start_program(t.path("program"))), status=0)


@case("find", "exec", shells=cases.BOTH)
def find_exec(t):
    """find -exec, -execdir, -ok and + with a shell; names with every odd byte."""
    t.finish(t.start_program("/bin/mkdir", "-p", "d/e"))
    for name in ("a", "b c", "d/new\nline", "d/e/quote'\"", "d/e/-dash", "d/e/*", "d/bytes\udcff\udc80"):
        t.write(name, name.encode("utf-8", "surrogateescape"))
    for label, args in (
            ("each", ("-exec", t.name, "-c", "printf '<%s>\\n' \"$1\"; wc -c < \"$1\"", "x", "{}", ";")),
            ("plus", ("-exec", t.name, "-c", "for f; do printf '<%s>' \"$f\"; done", "x", "{}", "+")),
            ("dir", ("-execdir", t.name, "-c", "printf '%s in %s\\n' \"$1\" \"${PWD##*/}\" | sed s/case-.*/case/", "x",
                     "{}", ";")),
            ("code", ("-exec", t.name, "-c", "case $1 in *a) exit 0 ;; *) exit 3 ;; esac", "x", "{}", ";",
                      "-print"))):
        outcome = finish(t, "find", ".", "-type", "f", *args)
        t.see_status(f"{label} status", outcome.status, 0)
        t.see(f"{label} output", outcome.out)
        t.see(f"{label} errors", outcome.err, b"")
    run(t, "find", ".", "-name", "a", "-ok", t.name, "-c", "echo ok", ";", data=b"y\n", label="ok", status=0)


@case("xargs", "fifty-at-once", shells=cases.BOTH, limit_s=60, alone=True)
def xargs_fifty(t):
    """xargs -P 50 with 300 shells: each has its arguments, its output and its code."""
    names = b"".join(b"%d item\n" % number for number in range(300))
    outcome = finish(t, "xargs", "-P", "50", "-d", "\\n", "-n", "1", t.name, "-c",
                     "echo \"$0 $$\" > \"f $0\"; echo \"$0\"; sleep .05; test -s \"f $0\"", data=names)
    t.leave_out(*(f"f {number} item" for number in range(300)))
    t.see_status("status", outcome.status, 0)
    t.see("every line once", sorted(outcome.out.splitlines()) == sorted(names.splitlines()), True)
    t.see("stderr", outcome.err, b"")
    t.see("files", sum(t.read(f"f {number} item") is not None for number in range(300)), 300)
    for script in ("exit 3", "exit 255", "kill -9 $$"):
        outcome = finish(t, "xargs", "-P", "5", "-n", "1", t.name, "-c", script, data=b"1 2 3")
        t.see_status(script, outcome.status)


@case("xargs", "stdin-and-size")
def xargs_stdin(t):
    """xargs gives its shells /dev/null as stdin, or with -o or -a what they should have; long command lines."""
    run(t, "xargs", "sh", "-c", "cat; echo \"$#\"", "x", data=b"a b c", label="null", status=0, out=b"3\n")
    t.write("list", b"a\nb\n")
    run(t, "xargs", "-a", "list", "-n", "1", "sh", "-c", "read x; echo \"$0 $x\"", data=b"1\n2\n", label="own stdin",
        status=0, out=b"a 1\nb 2\n")
    run(t, "xargs", "sh", "-c", "echo $#", data=b"word " * 60000, label="long", status=0)
    run(t, "xargs", "-I", "{}", "bash", "-c", "printf '%q ' {}", data=b"a\nb c\n", label="replaced", status=0)


@case("timeout", "kill-after", limit_s=40)
def timeout_kill(t):
    """timeout, -k, -s, --foreground and --preserve-status: codes, and nothing is left behind."""
    hold = "exec 9>>alive; flock -s 9; "
    for label, args, script in (
            ("term", (".5",), "echo up; sleep 30; :"),
            ("kill after", ("-k", ".4", ".4"), "trap '' TERM; echo up; sleep 30; sleep 30"),
            ("int", ("-s", "INT", ".5"), "echo up; sleep 30; :"),
            ("kill", ("-s", "KILL", ".5"), "echo up; sleep 30; :"),
            ("foreground", ("--foreground", ".5"), "echo up; exec sleep 30"),
            ("in time", ("20",), "cat; exit 9")):
        begun = time.monotonic()
        run(t, "timeout", *args, "sh", "-c", hold + script, label=label, data=b"in\n")
        t.within(f"{label} time", time.monotonic() - begun, 0, 6)
        t.see_none_left(f"{label} nothing left", limit_s=6)


@case("timeout", "trapped")
def timeout_trapped(t):
    """timeout's TERM is for the whole group: the trap runs, and the shell says that its child was terminated."""
    run(t, "timeout", "-k", "9", ".5", "sh", "-c", "trap 'echo caught; exit 7' TERM; echo up; sleep 30; :", status=124,
        out=b"up\ncaught\n", err=b"Terminated\n")
    run(t, "timeout", "--preserve-status", ".5", "sh", "-c", "trap 'exit 7' TERM; sleep 30; :", label="preserve", status=7)


@case("awk", "system-and-pipes")
def awk(t):
    """awk's system(), command | getline and print | command."""
    run(t, "awk", r"""BEGIN {
        print system("echo from system; exit 3")
        while (("seq 5 | tac" | getline line) > 0) text = text line ","
        print text, close("seq 5 | tac")
        print "b\na" | "sort; exit 4"
        print close("sort; exit 4") != 0
        "date +%s" | getline now; print now > 1700000000
        print "to stderr" | "cat >&2"
        fflush("")
        system("")
    } END { system("cat") }""", "/dev/null", data=b"rest\n", status=0)


@case("tar", "shell-filters")
def tar(t):
    """tar -I with a shell line, --to-command, --checkpoint-action=exec, and --use-compress-program both ways."""
    t.finish(t.start_program("/bin/mkdir", "d", "out"))
    for number in range(6):
        t.write(f"d/{number}", b"%d" % number * 5000)
    script = t.write("press", b"#!/bin/sh\necho \"press $*\" >&2; exec gzip -n \"$@\"\n", mode=0o755)
    common = ("--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner")
    run(t, "tar", *common, "-I", script, "-cf", "a.tgz", "d", label="create", status=0)
    run(t, "tar", *common, "-I", "sh -c 'exec gzip -9 -n'", "-cf", "b.tgz", "d", label="create with a line")
    run(t, "tar", "-I", script, "-tf", "a.tgz", label="list", status=0)
    run(t, "tar", "-xf", "a.tgz", "-I", script, "-C", "out", label="extract", status=0)
    run(t, "tar", "-xf", "a.tgz", "--to-command=echo $TAR_FILENAME $TAR_SIZE $(wc -c)", label="to command", status=0)
    run(t, "tar", "-cf", "/dev/null", "--checkpoint=1", "--checkpoint-action=exec=echo at $TAR_CHECKPOINT", "d",
        label="checkpoint", status=0)


@case("tools", "sed-split-sort-install")
def other_tools(t):
    """sed's e command, split --filter, sort --compress-program, watch-like loops of env, nice, setsid, nohup."""
    run(t, "sed", "s/^run //e", data=b"run echo one | tr a-z A-Z\nplain\n", label="sed", status=0, out=b"ONE\nplain\n")
    run(t, "split", "-l", "3", "--filter=echo $FILE; wc -l | tee $FILE", "-", "part-", data=b"x\n" * 7, label="split",
        status=0)
    press = t.write("press", b"#!/bin/sh\nexec gzip \"$@\"\n", mode=0o755)
    outcome = finish(t, "sort", "-S", "1M", f"--compress-program={press}", "-T", t.dir,
                     data=b"".join(b"%08d %s\n" % (number * 7919 % 400000, b"x" * 20) for number in range(200000)))
    lines = outcome.out.splitlines()
    t.see("sort", (outcome.status, len(lines), lines == sorted(lines)), (0, 200000, True))
    for wrapper in (("env", "-S", "A=b"), ("nice", "-n", "4"), ("setsid", "-w"), ("stdbuf", "-oL"), ("nohup",),
                    ("flock", "lock"), ("ionice", "-c", "3"), ("prlimit", "--nofile=77")):
        run(t, *wrapper, "sh", "-c", "echo \"$0 $A $(nice) $(ulimit -n)\" | sed 's/ [0-9]\\{3,\\}$//'; exit 5", "x",
            label=wrapper[0], status=5)
    run(t, "flock", "lock", "-c", "echo under a lock; exit 6", label="flock -c", status=6)


@case("scripts", "first-lines")
def first_lines(t):
    """Scripts are run by their first line, with options, by env, by a relative name, and through a link."""
    t.write("plain", b"#!/bin/sh\necho \"$0 $*\" | sed 's,.*/,,'; exit 3\n", mode=0o755)
    t.write("option", b"#!/bin/sh -e\nfalse\necho no\n", mode=0o755)
    t.write("bash", b"#!/usr/bin/env bash\ndeclare -A m=([k]=v); echo \"${m[k]} ${BASH_SOURCE##*/} $1\"\n", mode=0o755)
    t.write("split", b"#!/usr/bin/env -S bash -x\necho traced\n", mode=0o755)
    t.write("crlf", b"#!/bin/sh\r\necho no\n", mode=0o755)
    t.write("self", b"#!/bin/bash\n[ \"$1\" = 0 ] && exit 4\necho \"$1\"; exec \"$0\" $(($1 - 1))\n", mode=0o755)
    t.finish(t.start_program("/bin/ln", "-s", "plain", "link"))
    for name, args in (("plain", ("a b", "c")), ("option", ()), ("bash", ("x",)), ("split", ()), ("self", ("5",)),
                       ("link", ("by link",))):
        t.check(t.finish(t.start_program(f"./{name}", *args)), name)
        run(t, "env", f"./{name}", *args, label=f"env {name}")
    run(t, "env", "./crlf", label="crlf")
    need("run-parts")
    t.finish(t.start_program("/bin/mkdir", "parts"))
    for number in range(4):
        t.write(f"parts/{number}0-part", b"#!/bin/sh\necho \"part $0\" | sed 's,/.*/,,'; [ \"${0##*/}\" != 20-part ]\n",
                mode=0o755)
    run(t, "run-parts", "parts", label="run-parts")
