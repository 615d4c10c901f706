"""GNU make: recipes, functions, recursion, the jobserver, many commands at once."""

import os
import signal

import cases
from programs import case, finish, run, start
from trial import SLEEP

# A source tree with a library in each of its folders and a program that links them all. Every line has a
# character that makes `make` start a shell for it; the inner makes are reached in four ways.
TREE = ("base", "text", "math", "list")
TOP = """\
MAKEFLAGS += --no-print-directory
CC = cc
CFLAGS = -O1 -Wall -Iinclude
PARTS = base text math list
LIBS = $(PARTS:%=lib/%.a)
VERSION := $(shell sed -n 's/^version //p' NEWS | head -n 1)

all: prog report
prog: main.o $(LIBS)
	@echo "LINK $@"; $(CC) -o $@ $^ || exit 1
main.o: main.c version.h
	@echo "CC $<"; $(CC) $(CFLAGS) -I. -c -o $@ $< && :
version.h: NEWS
	@printf '#define VERSION "%s"\\n' '$(VERSION)' > $@
lib/base.a: lib ; @cd base && $(MAKE)
lib/text.a: lib ; @$(MAKE) -C text
lib/math.a: lib ; +@for d in math; do (cd $$d; make) || exit 1; done
lib/list.a: lib ; @test -d list && exec $(MAKE) -f Makefile -C list
lib: ; @mkdir -p $@ && :
report: prog
	@./prog | sort > $@; wc -l < $@
clean:
	@rm -f *.o */*.o lib/*.a prog report version.h; echo clean
.PHONY: all clean $(LIBS)
"""
PART = """\
CC = cc
SOURCES := $(wildcard *.c)
OBJECTS := $(SOURCES:.c=.o)
../lib/%(part)s.a: $(OBJECTS)
	@echo "AR $@"; ar crD $@ $(sort $^) && :
%%.o: %%.c
	@echo "CC %(part)s/$<"; $(CC) -O1 -Wall -c -o $@ $< && :
"""
FILES_EACH = 6


def write_tree(t):
    """A program of 25 source files in five folders."""
    calls = [f"{part}_{number}" for part in TREE for number in range(FILES_EACH)]
    t.finish(t.start_program("/bin/mkdir", *TREE))
    for part in TREE:
        t.write(f"{part}/Makefile", (PART % {"part": part}).encode())
        for number in range(FILES_EACH):
            t.write(f"{part}/f{number}.c", f"#include <stdio.h>\nvoid {part}_{number}(void);\n"
                    f"void\n{part}_{number}(void)\n{{\n\tprintf(\"{part} %d\\n\", {number} * 3);\n}}\n".encode())
    t.write("Makefile", TOP.encode())
    t.write("NEWS", b"version 1.2\nversion 1.1\n")
    t.write("main.c", ("#include <stdio.h>\n#include \"version.h\"\n"
                       + "".join(f"void {call}(void);\n" for call in calls)
                       + "int\nmain(void)\n{\n\tputs(VERSION);\n" + "".join(f"\t{call}();\n" for call in calls)
                       + "\treturn 0;\n}\n").encode())


def lines(outcome):
    """What is the same in whichever order the jobs ran."""
    return sorted(outcome.out.splitlines())


@case("make", "tree", shells=cases.BOTH, limit_s=60)
def tree(t):
    """A real tree, built by one job at a time: same order, same objects, and nothing left to do."""
    write_tree(t)
    run(t, "make", f"SHELL={t.shell}", label="all", status=0)
    run(t, "make", f"SHELL={t.shell}", "-q", "report", label="again")
    run(t, "make", f"SHELL={t.shell}", "clean", label="clean", status=0, out=b"clean\n")


@case("make", "tree-parallel", limit_s=60)
def tree_parallel(t):
    """The same tree with -j6: the same objects; the inner makes take part in the jobserver."""
    write_tree(t)
    outcome = finish(t, "make", "-j6")
    t.see_status("status", outcome.status, 0)
    t.see("lines", lines(outcome))
    t.see("stderr", outcome.err, b"")


@case("make", "functions-and-modes", shells=cases.BOTH)
def functions(t):
    """$(shell …), !=, .ONESHELL, .SHELLFLAGS, exported variables, -n, -k, -i, errors and .DELETE_ON_ERROR."""
    t.write("Makefile", b"""\
A := $(shell echo one; echo two; exit 3)
B != printf '%s,' a b c
export C = it's "quoted" $$HOME
.DELETE_ON_ERROR:
all: show partial fails after ; @echo all done
show:
	@echo '$(A)' '$(B)' "$(.SHELLSTATUS)"; echo "$$C"
partial:
	echo half > $@; exit 4
fails:
	-@echo to stderr >&2; false
	@kill -9 $$$$; :
after: ; @echo after | cat
""")
    t.write("one.mk", b".ONESHELL:\n.SHELLFLAGS = -ec\nall:\n\t@x=kept\n\tcd /\n\techo $$x $$PWD; "
                      b"cat <<'end'\n\there $$x\n\tend\n\t(exit 0)\n\tfalse\n\techo not reached\n")
    for options in ([], ["-k"], ["-i"], ["-n"], ["-s", "-k", "-j3", "-O"]):
        outcome = finish(t, "make", f"SHELL={t.shell}", *options)
        label = " ".join(options)
        t.see_status(f"{label} status", outcome.status)
        t.see(f"{label} lines", lines(outcome) if "-j3" in options else outcome.out)
        t.see(f"{label} errors", sorted(outcome.err.splitlines()))
    run(t, "make", f"SHELL={t.shell}", "-f", "one.mk", label="one shell", status=2)


@case("make", "five-hundred", limit_s=60, alone=True)
def five_hundred(t):
    """make -j50 of 500 commands: each has run once, and never more than 50 at once."""
    t.write("Makefile", b"""\
all: $(shell seq 500) ; @:
%:
	@echo $@ >> log; echo out $@; test $$(ls slots | wc -l) -le 50 || echo too many; \\
	 mkdir slots/$@; sleep .02; rmdir slots/$@; echo $@ > done/$@
""")
    t.finish(t.start_program("/bin/mkdir", "slots", "done"))
    t.leave_out("log")
    outcome = finish(t, "make", "-j50")
    t.see_status("status", outcome.status, 0)
    t.see("lines", lines(outcome) == sorted(b"out %d" % i for i in range(1, 501)), True)
    t.see("stderr", outcome.err, b"")
    t.see("once each", sorted(t.read("log").split()) == sorted(b"%d" % i for i in range(1, 501)), True)


@case("make", "jobserver-inside", limit_s=40)
def jobserver_inside(t):
    """A make that a recipe's shell starts takes its second job from the jobserver: two jobs meet."""
    t.write("Makefile", b"all: ; +@cd . && $(MAKE) -f inner.mk --no-print-directory\n")
    t.write("inner.mk", b"""\
all: a b
a b:
	@touch here-$@; n=0; until [ -e here-a ] && [ -e here-b ] || [ $$n -ge 100 ]; do sleep .05; n=$$((n+1)); done; \\
	 [ $$n -lt 100 ] && echo met || echo alone
""")
    run(t, "make", "-j2", status=0, out=b"met\nmet\n", err=b"")


@case("make", "jobserver-bound", limit_s=60)
def jobserver_bound(t):
    """Three inner makes share four tokens with the outer one: never more than four jobs, and at the end all
    tokens are back, which make itself checks."""
    t.finish(t.start_program("/bin/mkdir", "slots"))
    t.write("Makefile", b"all: 1 2 3 ; @:\n1 2 3: ; +@: $@; $(MAKE) -f inner.mk --no-print-directory N=$@\n")
    t.write("inner.mk", b"""\
all: $(addprefix $(N)-,1 2 3 4 5 6 7 8) ; @:
%:
	@mkdir slots/$@; ls slots | wc -l; sleep .1; rmdir slots/$@
""")
    outcome = finish(t, "make", "-j4")
    t.see_status("status", outcome.status, 0)
    t.see("stderr", outcome.err, b"")
    counts = [int(word) for word in outcome.out.split()]
    t.see("jobs", len(counts), 24)
    t.see("more than one at once", max(counts, default=0) > 1, True)
    t.see("at most four at once", max(counts, default=0) <= 4, True)


@case("make", "interrupted")
def interrupted(t):
    """^C at a parallel make: its shells end, the half-made target is removed."""
    t.write("Makefile", b"all: a b\na b:\n\t@echo half > $@; " + SLEEP.replace("ready", "up").encode() + b"; echo whole > $@\n")
    process = start(t, "make", "-j2", start_new_session=True)
    t.see("up", t.read_until(process.stdout.fileno(), b"up\nup\n"), b"up\nup\n")
    os.killpg(process.pid, signal.SIGINT)
    # make itself ends by the signal or, when its children are quicker, with 2 and other words
    t.see("status", t.wait(process) in (-signal.SIGINT, 2), True)
    t.see("end of errors", t.read_all(process.stderr.fileno()).endswith(b"[no EOF]"), False)
