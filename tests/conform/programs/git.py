"""git: hooks, aliases with `!`, a pager, editors, filters, and its own shell scripts."""

from programs import case, run

DATES = {"GIT_AUTHOR_DATE": "2024-01-02T03:04:05+0000", "GIT_COMMITTER_DATE": "2024-01-02T03:04:05+0000"}


def env(t, **more):
    """Nothing of the machine's configuration, and the same commit ids in both runs. Temporary files are where
    the sandbox sees them."""
    return t.env(TMPDIR=t.dir, GIT_CONFIG_NOSYSTEM="1", GIT_AUTHOR_NAME="A", GIT_AUTHOR_EMAIL="a@example.org",
                 GIT_COMMITTER_NAME="C", GIT_COMMITTER_EMAIL="c@example.org", **DATES, **more)


def git(t, *args, label=None, also=(), **more):
    """Runs git and notes the outcome."""
    return run(t, "git", *args, label=label or " ".join(args[:3]), env=env(t, **dict(also)), **more)


def repository(t):
    """A repository with one commit. Its index has times in it, which differ between runs."""
    t.leave_out(".git")
    git(t, "init", "-q", "-b", "main", label="init", status=0)
    t.write("file", b"one\n")
    git(t, "add", "file", status=0)
    git(t, "commit", "-q", "-m", "first", status=0)


def hook(t, name, text):
    """Installs a hook."""
    t.write(f".git/hooks/{name}", text.encode(), mode=0o755)


@case("git", "hooks")
def hooks(t):
    """pre-commit, prepare-commit-msg, commit-msg and post-commit: they can look, change and refuse."""
    repository(t)
    hook(t, "pre-commit", "#!/bin/sh\necho pre-commit $# in \"$(basename \"$PWD\" | tr 0-9 N)\"\n"
         "git diff --cached --name-only | grep -q bad && { echo refused >&2; exit 1; }\nexit 0\n")
    hook(t, "prepare-commit-msg", "#!/bin/sh\necho 'added by hook' >> \"$1\"; echo \"prepare $2\"\n")
    hook(t, "commit-msg", "#!/bin/bash\nwhile read -r line; do [[ $line == *wip* ]] && exit 7; done < \"$1\"\n"
         "sed -i 's/secnod/second/' \"$1\"\n")
    hook(t, "post-commit", "#! /bin/sh -e\ngit log -1 --format=%s > subject\nfalse\necho not reached\n")
    t.write("two", b"two\n")
    git(t, "add", "two")
    git(t, "commit", "-m", "secnod", status=0)
    git(t, "commit", "--allow-empty", "-m", "wip", status=1, label="refused by commit-msg")
    t.write("bad", b"bad\n")
    git(t, "add", "bad")
    git(t, "commit", "-m", "third", status=1, label="refused by pre-commit")
    git(t, "commit", "--no-verify", "-m", "fourth", status=0, label="unasked")
    git(t, "log", "--format=%H %B")
    t.see("subject", t.read("subject"), b"fourth added by hook\n")


@case("git", "push-hooks")
def push_hooks(t):
    """The hooks of both ends of a push read their lines; the remote's output comes with its prefix."""
    repository(t)
    t.leave_out("bare.git", "clone")
    git(t, "init", "-q", "--bare", "-b", "main", "bare.git", label="bare")
    for name in ("pre-receive", "update", "post-receive"):
        text = "#!/bin/sh\n" + ("echo \"$1\"; " if name == "update" else "while read -r a b c; do echo \"$c\"; done; ")
        t.write(f"bare.git/hooks/{name}", f"{text}echo {name}; [ ! -e refuse ]\n".encode(), mode=0o755)
    hook(t, "pre-push", "#!/bin/sh\necho \"$@\" | sed 's,/.*/,/,g'; cut -d' ' -f1 >&2\n")
    git(t, "push", "./bare.git", "main", status=0)
    t.write("bare.git/refuse", b"")
    git(t, "commit", "-q", "--allow-empty", "-m", "next")
    git(t, "push", "./bare.git", "main", label="refused", status=1)
    git(t, "-c", "protocol.ext.allow=always", "clone", "-q", "ext::sh -c %S% ./bare.git", "clone",
        label="clone through a command", status=0)
    t.see("cloned", t.read("clone/file"), b"one\n")


@case("git", "alias")
def alias(t):
    """An alias with ! is a shell line with the arguments; it gets stdin and its code is git's."""
    repository(t)
    git(t, "config", "alias.shout", "!f() { echo \"$# $1 $GIT_PREFIX\" | tr a-z A-Z; cat; return 6; }; f")
    git(t, "config", "alias.die", "!kill -TERM $$")
    git(t, "config", "alias.big", "!seq 100000")
    git(t, "shout", "a b", "it's", "*", data=b"from stdin\n", label="shout", status=6)
    git(t, "die")
    git(t, "big", status=0)


@case("git", "pager")
def pager(t):
    """core.pager with a pipe gets all of the output; a pager that quits early is no error."""
    repository(t)
    for number in range(5):
        git(t, "commit", "-q", "--allow-empty", "-m", f"c{number}", label="commit")
    pager_env = {"GIT_PAGER_IN_USE": "true"}
    git(t, "config", "core.pager", "cat -n | sed 's/^/P:/'")
    script = "git -p log --oneline; echo \"code $?\"; git -p -c core.pager='head -n 1; exit 3' log -p; echo \"code $?\""
    run(t, "/usr/bin/env", "perl", "-e", "system {'/bin/sh'} 'sh', '-c', $ARGV[0]", script, label="forced",
        env=env(t, **pager_env), status=0)
    for name, value in (("GIT_PAGER", "sed 's/^/G:/' | head -n 2"), ("PAGER", "nl")):
        git(t, "-p", "log", "--oneline", also={name: value}, label=name)


@case("git", "editor")
def editor(t):
    """GIT_EDITOR with arguments and as a script; core.editor; the editor that fails; rebase's sequence editor."""
    repository(t)
    editor_path = t.write("my editor", b"#!/bin/sh\nsed -i '1s/^/edited /' \"$1\"; echo \"editing $(basename \"$1\")\"\n",
                          mode=0o755)
    t.write("two", b"two\n")
    git(t, "add", "two")
    git(t, "commit", label="script", also={"GIT_EDITOR": f"'{editor_path}'"})
    git(t, "commit", "--allow-empty", label="line", status=0,
        also={"GIT_EDITOR": "f() { printf 'by a line\\n\\nof shell\\n' > \"$1\"; }; f"})
    git(t, "-c", "core.editor=false", "commit", "--allow-empty", label="fails", status=1)
    git(t, "-c", "core.editor=exec cp /dev/null", "commit", "--amend", label="empties", status=1)
    git(t, "rebase", "-i", "HEAD~2", label="rebase", also={
        "GIT_SEQUENCE_EDITOR": "sed -i -e '1s/^pick/reword/' -e '$a exec git log -1 --format=now:%s | tee seen'",
        "GIT_EDITOR": "sed -i '1s/$/, reworded/'"})
    git(t, "log", "--format=%B")


@case("git", "filters")
def filters(t):
    """Clean and smudge filters, textconv, a credential helper, GIT_SSH_COMMAND, bisect run, a merge driver."""
    repository(t)
    t.write(".gitattributes", b"*.up filter=case diff=shown\n*.merge merge=ours\n")
    for name, value in (("filter.case.clean", "tr a-z A-Z"), ("filter.case.smudge", "tr A-Z a-z | sed 's/$/ %f/'"),
                        ("diff.shown.textconv", "sed 's/^/shown: /'"),
                        ("credential.helper", "!f() { cat > asked; echo username=u; echo password=p; }; f")):
        git(t, "config", name, value)
    t.write("x.up", b"hello\nworld\n")
    git(t, "add", ".gitattributes", "x.up")
    git(t, "commit", "-q", "-m", "filtered")
    git(t, "cat-file", "-p", ":x.up", out=b"HELLO\nWORLD\n")
    t.write("x.up", b"changed\n")
    git(t, "diff", label="diff", status=0)
    git(t, "checkout", "-f", "x.up", label="checkout")
    t.see("smudged", t.read("x.up"))
    git(t, "credential", "fill", data=b"protocol=https\nhost=example.org\n\n", status=0)
    git(t, "-c", "ssh.variant=simple", "ls-remote", "host.example:path", label="ssh", status=128,
        also={"GIT_SSH_COMMAND": "echo \"$@\" > asked-for; exit 4;"})
    for number in range(8):
        t.write("number", b"%d\n" % number)
        git(t, "add", "number", label="bisect")
        git(t, "commit", "-q", "-m", f"n{number}", label="bisect")
    git(t, "bisect", "start", "HEAD", "HEAD~7")
    git(t, "bisect", "run", "sh", "-c", "test $(cat number) -lt 5", status=0)
    git(t, "submodule", "status")
    git(t, "filter-branch", "-f", "--msg-filter", "sed s/^/F:/", "HEAD~2..HEAD", label="filter-branch",
        also={"FILTER_BRANCH_SQUELCH_WARNING": "1"})
    git(t, "log", "--format=%s")
