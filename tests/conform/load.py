"""Puts load on modalsh: many commands at once, many in sequence, much data both ways. Every command has to
be right, and afterwards the broker's and the guest's memory and descriptors have to be where they were."""

import argparse
import hashlib
import os
import subprocess
import sys
import threading
import time

import product
import worker

RSS_MARGIN_KIB = 4096           # the heap of a process that has worked is never quite what it was
FDS_MARGIN = 2
SETTLE_S = 15
WARM_UP = 300
END_S = 120
MB = 1_000_000
PIECE = 100_000
RATE_MIN = .8                   # of what was asked for

SEQUENCE = """
i=0
while [ $i -lt "$1" ]; do
	code=0
	"$SH" -c "exit $((i % 251))" || code=$?
	[ $code -eq $((i % 251)) ] || { echo "command $i ended with $code"; exit 1; }
	i=$((i + 1))
done
"""


class Watched:
    """A process whose resources are looked at."""

    def __init__(self, name, pid):
        self.name, self.pid = name, pid
        self.first = None

    def figures(self):
        """Resident memory in KiB, and how many descriptors are open."""
        return self._kib("VmRSS"), len(os.listdir(f"/proc/{self.pid}/fd"))

    def peak_kib(self):
        """The most memory that it ever had."""
        return self._kib("VmHWM")

    def _kib(self, name):
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))

    def is_back(self):
        """Whether the figures are what they were, give or take the margins."""
        rss_kib, fds = self.figures()
        return rss_kib <= self.first[0] + RSS_MARGIN_KIB and fds <= self.first[1] + FDS_MARGIN


class Load:
    """The set-up under load, and what was found wrong."""

    def __init__(self, found):
        self.shell = os.path.join(found.bin, "sh")
        self.env = {"PATH": "/usr/bin:/bin", **found.env}
        self.folder = found.share
        self.watched = watched_of(os.path.dirname(found.env["MODALSH_SOCKET"]))
        self.same = self.different = 0

    def start(self, *args, **more):
        """Starts the shell."""
        return subprocess.Popen(["sh", *args], executable=self.shell, env=self.env, cwd=self.folder, **more)

    def verdict(self, what, holds, shown):
        """One line for one fact."""
        self.same += holds
        self.different += not holds
        print(f"{'same      ' if holds else 'different '} {what:<28} {shown}", flush=True)

    def look(self):
        """What the processes use before the load."""
        for each in self.watched:
            each.first = each.figures()

    def look_again(self, what):
        """What they use after it, when they had time to settle."""
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until and not all(each.is_back() for each in self.watched):
            time.sleep(.1)
        for each in self.watched:
            rss_kib, fds = each.figures()
            self.verdict(f"{what}: {each.name}", each.is_back(), f"{each.first[0]} KiB and {each.first[1]} descriptors "
                         f"before, {rss_kib} KiB and {fds} after, peak {each.peak_kib()} KiB")


def watched_of(folder):
    """The broker, and the guest's daemon in the broker's sandbox."""
    broker, loopback = (first_word(os.path.join(folder, f"modalsh-{name}.pid")) for name in ("broker", "loopback"))
    guests = [Watched("guest", pid) for pid in descendants(loopback) if is_guest(pid)]
    # beside the daemon there is the process that carries the lane, which has the lane's descriptors alone
    return [Watched("broker", broker), max(guests, key=lambda guest: guest.figures()[1])]


def is_guest(pid):
    """Whether the process is a modalsh-guest."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.path.basename(file.read().split(b"\0")[0]).startswith(b"modalsh-guest")
    except OSError:
        return False


def first_word(path):
    """The number that a file starts with."""
    with open(path, encoding="ascii") as file:
        return int(file.read().split()[0])


def descendants(pid):
    """All processes below this one."""
    below = worker.children_of(pid)
    return below + [each for child in below for each in descendants(child)]


def at_once(load, count):
    """All of them run at the same time; each has its own output and code."""
    begun = time.monotonic()
    running = [load.start("-c", f"echo {number}; sleep 1; exit {number % 256}", stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE) for number in range(count)]
    wrong = 0
    for number, process in enumerate(running):
        out = process.stdout.read()
        process.stdout.close()
        wrong += (process.wait(END_S), out) != (number % 256, b"%d\n" % number)
    load.verdict(f"{count} at once", wrong == 0, f"{wrong} wrong, {time.monotonic() - begun:.1f} s with a sleep of 1 s")


def in_sequence(load, count):
    """One after the other; each has its own code."""
    begun = time.monotonic()
    done = subprocess.run(["/bin/sh", "-c", SEQUENCE, "sh", str(count)], env={**load.env, "SH": load.shell},
                          cwd=load.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    took_s = time.monotonic() - begun
    load.verdict(f"{count} in sequence", done.returncode == 0 and not done.stdout,
                 f"{took_s:.1f} s, {took_s / count * 1000:.2f} ms each {done.stdout.decode(errors='replace')}".rstrip())


def both_ways(load, rate_mb, seconds):
    """The same data to and from one command, at a given rate."""
    process = load.start("-c", "exec cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    sent, got = hashlib.sha256(), hashlib.sha256()
    pieces = [os.urandom(PIECE) for _ in range(50)]
    total = rate_mb * MB * seconds // PIECE
    begun = time.monotonic()

    def write():
        for number in range(total):
            ahead_s = number * PIECE / (rate_mb * MB) - (time.monotonic() - begun)
            if ahead_s > 0:
                time.sleep(ahead_s)
            piece = pieces[number * 7 % 50]
            sent.update(piece)
            process.stdin.write(piece)
        process.stdin.close()
    writer = threading.Thread(target=write)
    writer.start()
    size = 0
    while piece := os.read(process.stdout.fileno(), 1 << 20):
        got.update(piece)
        size += len(piece)
    writer.join()
    status = process.wait(END_S)
    rate = size / MB / (time.monotonic() - begun)
    load.verdict(f"{rate_mb} MB/s both ways", status == 0 and sent.digest() == got.digest() and
                 rate >= rate_mb * RATE_MIN, f"{size / MB:.0f} MB each way at {rate:.1f} MB/s, "
                 f"{'identical' if sent.digest() == got.digest() else 'NOT identical'}, status {status}")


def options_from(argv):
    """The command line."""
    parser = argparse.ArgumentParser(prog="load.sh", description=__doc__)
    parser.add_argument("--at-once", type=int, default=1000, metavar="N")
    parser.add_argument("--sequence", type=int, default=10_000, metavar="N", help="default 10000; 100000 takes minutes")
    parser.add_argument("--rate", type=int, default=50, metavar="MB", help="each way and second, default 50")
    parser.add_argument("--seconds", type=int, default=4, metavar="S", help="of that rate, default 4")
    parser.add_argument("--env", metavar="FILE", default=os.environ.get("MODALSH_TRY_ENV"),
                        help="what `try.sh --up` wrote; default $MODALSH_TRY_ENV, else a set-up of our own")
    parser.add_argument("--share", metavar="DIR", help="the shared folder, when FILE does not name it")
    return parser.parse_args(argv)


def run(load, options):
    """All phases."""
    in_sequence(load, WARM_UP)
    both_ways(load, options.rate, 1)
    for what, phase in (("at once", lambda: at_once(load, options.at_once)),
                        ("in sequence", lambda: in_sequence(load, options.sequence)),
                        ("both ways", lambda: both_ways(load, options.rate, options.seconds))):
        load.look()
        phase()
        load.look_again(f"after {what}")


def main(argv):
    """Returns 0 when every command was right and the processes are as they were."""
    options = options_from(argv)
    found = product.find(options.env, options.share)
    try:
        load = Load(found)
        run(load, options)
    finally:
        found.stop()
    print(f"same {load.same}, different {load.different}, skipped 0")
    return 1 if load.different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
