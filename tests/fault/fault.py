"""Breaks what modalsh relies on while commands run; see run.sh for the options.

Nothing here waits for ever: a command that does not end within its time is a failure (Hang), and every process that was
started is ended.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

MIB = 1 << 20
BLOCK_LEN = 64 * 1024
START_WAIT_S = 60
# How long anything may take that is not bound by a lease.
PATIENCE_S = 120
UNKNOWN = 125
SHORT_LEASE_S = 3
LONG_LEASE_S = 12
# After the lease the guest says TERM, waits 2 s, and kills.
REAP_S = 2
KILL_ROUNDS, KILL_ROUNDS_QUICK = 200, 20
CUTS, CUTS_QUICK = 1000, 50
STALLED_JOBS = 200
STALLED_FACTOR, STALLED_FACTOR_FAILS = 2, 5
CHECKS = []


class Wrong(Exception):
    """Something is not as it was promised."""


class Hang(Wrong):
    """Something did not end."""


def check(function):
    CHECKS.append(function)
    return function


def require(condition, text):
    if not condition:
        raise Wrong(text)


def wait_for(condition, what, wait_s=START_WAIT_S, process=None):
    until = time.monotonic() + wait_s
    while True:
        value = condition()
        if value:
            return value
        if process is not None and process.poll() is not None:
            raise Wrong(f"{what}: the process ended with {process.returncode}")
        if time.monotonic() > until:
            raise Hang(f"{what}: not within {wait_s:.0f} s")
        time.sleep(0.01)


# ---- processes ----

def process_facts():
    """Every process: pid, parent, program, argv."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            if stat[0] in "ZX":
                continue
            yield (int(entry), int(stat[1]), os.path.basename(os.readlink(f"/proc/{entry}/exe")).removesuffix(" (deleted)"),
                   pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])


def descendants(root):
    facts = list(process_facts())
    children = collections.defaultdict(list)
    for fact in facts:
        children[fact[1]].append(fact)
    found, todo = [], [root]
    while todo:
        for fact in children[todo.pop()]:
            found.append(fact)
            todo.append(fact[0])
    return found


def remote_processes(mark):
    """Processes of commands, not the shims that stand for them."""
    return [pid for pid, _, program, argv in process_facts()
            if program != "modalsh" and any(mark in word for word in argv)]


def stop(process, how=signal.SIGTERM):
    if process is None:
        return
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


# ---- bytes that show what is missing or there twice ----

class Stream:
    """`length` bytes that are never the same twice: blocks of noise that begin with their number."""

    def __init__(self, seed, length):
        self.noise = random.Random(seed).randbytes(BLOCK_LEN - 8)
        self.length = length

    def blocks(self):
        for number in range((self.length + BLOCK_LEN - 1) // BLOCK_LEN):
            block = number.to_bytes(8, "big") + self.noise
            yield block[:self.length - number * BLOCK_LEN]

    def digest(self):
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


class Command:
    """One shim, fed and read by threads.  finish() says how it ended."""

    def __init__(self, world, script, feed=None, name="sh", merged=False):
        self.script = script
        self.process = subprocess.Popen(
            [str(world.shim(name)), "-c", script], env=world.client_env, cwd=world.share,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE, start_new_session=True)
        self.digest, self.length, self.head, self.errors = hashlib.sha256(), 0, b"", b""
        self.began_s = time.monotonic()
        self.threads = [threading.Thread(target=self.read, daemon=True)]
        if feed:
            self.threads.append(threading.Thread(target=self.write, args=(feed,), daemon=True))
        if not merged:
            self.threads.append(threading.Thread(target=self.read_errors, daemon=True))
        for thread in self.threads:
            thread.start()
        world.commands.append(self)

    def read(self):
        while data := self.process.stdout.read1(MIB):
            self.digest.update(data)
            self.length += len(data)
            if len(self.head) < 4096:
                self.head += data[:4096 - len(self.head)]

    def read_errors(self):
        while data := self.process.stderr.read1(4096):
            self.errors = (self.errors + data)[-4096:]

    def write(self, feed):
        with contextlib.suppress(BrokenPipeError):
            for block in feed.blocks():
                self.process.stdin.write(block)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def finish(self, wait_s=PATIENCE_S):
        try:
            status = self.process.wait(max(0.1, self.began_s + wait_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise Hang(f"`{self.script[:60]}` did not end within {wait_s:.0f} s; {self.length} bytes came") from None
        for thread in self.threads:
            thread.join(10)
            if thread.is_alive():
                raise Hang(f"`{self.script[:60]}` ended with {status}, but its streams did not")
        self.took_s = time.monotonic() - self.began_s
        return status

    def expect(self, status, output=None, wait_s=PATIENCE_S):
        ended = self.finish(wait_s)
        require(ended == status, f"`{self.script[:60]}` ended with {ended}, not {status}: "
                                 f"{self.errors.decode(errors='replace').strip()[:300]}")
        if isinstance(output, Stream):
            require(self.length == output.length, f"`{self.script[:60]}`: {self.length} bytes, not {output.length}")
            require(self.digest.hexdigest() == output.digest(), f"`{self.script[:60]}`: other bytes")
        elif output is not None:
            require(self.head == output, f"`{self.script[:60]}` wrote {self.head[:200]!r}, not {output[:200]!r}")
        return self

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Proxy:
    def __init__(self, world, port):
        port_file = world.dir / f"proxy{next(world.numbers)}.port"
        self.process = subprocess.Popen(
            [world.run.tool_dir / "fault_proxy", "--to", f"127.0.0.1:{port}", "--rtt-ms", "0", "--control",
             "--port-file", port_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        wait_for(port_file.exists, "fault_proxy", process=self.process)
        self.port = int(port_file.read_text())

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answers = []
        while (answer := self.process.stdout.readline().strip()) != "ok":
            require(answer, f"fault_proxy ended: {line}")
            answers.append(answer)
        return answers

    def state(self):
        return [int(word) for word in self.tell("state")[0].split()[1:]]


class World:
    """A loopback, a proxy in front of it, and a broker."""

    def __init__(self, run, name, lease_s=LONG_LEASE_S, loopback=(), config=None):
        self.run, self.name, self.lease_s = run, name, lease_s
        self.dir = run.work / f"{name}{next(run.numbers)}"
        self.share = self.dir / "share"
        self.share.mkdir(parents=True)
        self.numbers = itertools.count()
        self.loopback_args, self.config = loopback, config or {}
        self.loopback = self.proxy = self.broker = None
        self.commands, self.proxies = [], []
        token = random.SystemRandom().randbytes(12).hex()
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("MODAL", "TERMINAL_"))}
        self.token_env = {**plain, "MODAL_TOKEN_ID": f"ak-{token}", "MODAL_TOKEN_SECRET": f"as-{token}"}
        self.client_env = {"PATH": os.environ["PATH"], "MODALSH_SOCKET": str(self.dir / "broker.sock")}

    def __enter__(self):
        try:
            self.start_loopback()
            self.start_broker()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.run.keep_log(self)
        self.stop()

    def log(self, name):
        return open(self.dir / f"{name}.log", "ab")

    def start(self, argv, name, **options):
        with self.log(name) as log:
            return subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    start_new_session=True, **options)

    def new_proxy(self, port):
        proxy = Proxy(self, port)
        self.proxies.append(proxy)
        return proxy

    def start_loopback(self):
        self.port_file, self.faults = self.dir / "port", self.dir / f"faults{next(self.numbers)}"
        self.port_file.unlink(missing_ok=True)
        port = self.run.free_port()
        self.proxy = self.new_proxy(port)
        self.loopback_port = port
        self.loopback = self.start(
            [self.run.build_dir / "modalsh-loopback", "--listen", f"127.0.0.1:{port}", "--port-file", self.port_file,
             "--advertise", f"127.0.0.1:{self.proxy.port}", "--ca-file", self.dir / "ca.pem", "--faults", self.faults,
             "--state-dir", self.dir / f"state{next(self.numbers)}", "--share", self.share, *self.loopback_args],
            "loopback", env=self.token_env)
        wait_for(self.port_file.exists, "modalsh-loopback", process=self.loopback)

    def start_broker(self, ready=True):
        config = self.dir / "config.json"
        config.write_text(json.dumps({
            "terminal": {"backend": "modal", "cwd": str(self.share), "modal_image": "debian:12",
                         "container_persistent": False},
            "modalsh": {"socket": str(self.dir / "broker.sock"), "guest": str(self.run.build_dir / "modalsh-guest"),
                        "session": self.name, "server_url": f"https://127.0.0.1:{self.proxy.port}",
                        "ca_file": str(self.dir / "ca.pem"), "lease": f"{self.lease_s}s", "log_level": "debug",
                        **self.config},
        }))
        config.chmod(0o600)
        read_fd, write_fd = os.pipe()
        self.broker = self.start([self.run.build_dir / "modalsh-broker", "--config", config, "--foreground", "--ready-fd",
                                  write_fd], "broker", env=self.token_env, pass_fds=[write_fd])
        os.close(write_fd)
        with os.fdopen(read_fd, "rb") as pipe:
            if ready:
                require(pipe.read(1), "modalsh-broker did not become ready")

    def fault(self, line):
        """Above TLS, by the loopback."""
        with open(self.faults, "w", encoding="ascii") as fifo:
            fifo.write(line + "\n")

    def shim(self, name):
        path = self.dir / "bin" / name
        if not path.is_symlink():
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(self.run.build_dir / "modalsh")
        return path

    def command(self, script, feed=None, **options):
        return Command(self, script, feed, **options)

    def status(self):
        done = subprocess.run([self.run.build_dir / "modalshctl", "status", "--json"], env=self.client_env,
                              capture_output=True, check=False, timeout=20)
        require(done.returncode == 0, f"modalshctl status: {done.stderr.decode(errors='replace')}")
        return json.loads(done.stdout)

    def guest_processes(self):
        """The daemon's and the lane's pids: attach has the lane as its stdin."""
        guests = [fact for fact in descendants(self.loopback.pid) if fact[2].startswith("modalsh-guest")]
        daemons = [pid for pid, *_ in guests if os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"]
        return daemons, [pid for pid, *_ in guests if pid not in daemons]

    def sandbox_processes(self):
        """What holds a sandbox together: either of them ends it."""
        return [pid for pid, _, program, _ in descendants(self.loopback.pid) if program in ("bwrap", "modalsh-init")]

    def stop(self):
        for command in self.commands:
            command.kill()
        stop(self.broker)
        stop(self.loopback)
        for proxy in self.proxies:
            stop(proxy.process)


# ---- the network ----

def payload(run, full_mib, quick_mib):
    return Stream(run.random.getrandbits(32), (quick_mib if run.quick else full_mib) * MIB)


class Company:
    """What runs while something breaks: a copy in both directions, a silent sleep, short commands one after the other."""

    def __init__(self, world, stream, silent_s=3):
        self.world, self.stream = world, stream
        self.copy = world.command("cat; exit 7", stream)
        self.silent = world.command(f"sleep {silent_s}; echo woke; exit 9")
        self.over = threading.Event()
        self.short_count, self.short_failure = 0, None
        self.short = threading.Thread(target=self.run_short, daemon=True)
        self.short.start()

    def run_short(self):
        try:
            while not self.over.is_set():
                number = self.short_count
                self.world.command(f"echo {number}; echo {number} >>short; exit {number % 100}").expect(
                    number % 100, b"%d\n" % number)
                self.short_count += 1
        except Wrong as wrong:
            self.short_failure = wrong

    def expect(self):
        try:
            self.copy.expect(7, self.stream)
            self.silent.expect(9, b"woke\n")
        finally:
            self.over.set()
            self.short.join(PATIENCE_S)
        if self.short_failure:
            raise self.short_failure
        require(not self.short.is_alive(), "the short commands did not end")
        # written by the commands themselves: each exactly once
        lines = (self.world.share / "short").read_text().split()
        require(lines == [str(number) for number in range(self.short_count)],
                f"{len(lines)} short commands were run, not {self.short_count}, or in another order")
        (self.world.share / "short").unlink()
        return self.short_count


def network_check(name, fault, full_mib=64, quick_mib=8, **world_options):
    """A check in which fault(run, world) happens while a Company is at work."""
    def function(run):
        with World(run, name, **world_options) as world:
            company = Company(world, payload(run, full_mib, quick_mib))
            fault(run, world)
            count = company.expect()
            opened = world.status()["lane"]["opened_count"]
            return f"{count} short commands, {opened} lanes, {world.proxy.state()[1]} connections cut"
    function.__name__ = name
    CHECKS.append(function)


def cut_often(action):
    def fault(run, world):
        for _ in range(5):
            world.proxy.tell(f"after {run.random.randrange(1, 2 * MIB)} {action}")
            time.sleep(0.4)
            world.proxy.tell(action)
            time.sleep(0.3)
    return fault


def stall_once(run, world):
    time.sleep(0.3)
    world.proxy.tell(f"after {run.random.randrange(1, MIB)} stall")
    time.sleep(0.5)
    world.proxy.tell("stall")


def hole_for(hole_s):
    def fault(run, world):
        time.sleep(run.random.uniform(0.1, 0.5))
        world.proxy.tell("hole on")
        time.sleep(hole_s)
        world.proxy.tell("hole off")
    return fault


def refuse_for(refuse_s):
    def fault(run, world):
        time.sleep(run.random.uniform(0.1, 0.5))
        world.proxy.tell("refuse on")
        world.proxy.tell("rst")
        time.sleep(refuse_s)
        world.proxy.tell("refuse off")
    return fault


def delay(run, world):
    world.proxy.tell("delay 80")
    time.sleep(1)
    world.proxy.tell("rst")
    time.sleep(1)
    world.proxy.tell("delay 5")


def loopback_fault(line, times=5, pause_s=0.3):
    def fault(run, world):
        for _ in range(times):
            time.sleep(pause_s)
            world.fault(line)
    return fault


network_check("cut_rst", cut_often("rst"))
network_check("cut_fin", cut_often("fin"))
network_check("half_open", stall_once)
network_check("hole_shorter_than_the_lease", hole_for(5))
network_check("refused_connections", refuse_for(2))
network_check("delay", delay, 16, 4)
network_check("goaway", loopback_fault("goaway"))
network_check("goaway_and_close", loopback_fault("terminate"))
network_check("reset_stream", loopback_fault("reset"))
network_check("unavailable", loopback_fault("unavailable 2000", 1))
network_check("unauthenticated_streams", loopback_fault("end 16"))
network_check("exec_not_found", loopback_fault("end 5", 3))
network_check("exec_unknown_error", loopback_fault("end 2", 3))
network_check("token_expiry", lambda run, world: None, 96, 16, loopback=("--jwt-seconds", "2", "--jwt-cut-streams"))
network_check("unary_stdin_cut", cut_often("rst"), 16, 4, loopback=("--unary-stdin-only",))


@check
def lane_recycled(run):
    """The lane's exec is replaced by another when so many bytes have gone through it."""
    limit = 2 * MIB
    with World(run, "recycle", config={"lane_recycle": limit}) as world:
        stream = payload(run, 200, 32)
        company = Company(world, stream)
        company.expect()
        opened = world.status()["lane"]["opened_count"]
        # what is sent again counts too, so there may be more
        require(opened >= 2 * stream.length / limit / 2, f"{opened} lanes for {2 * stream.length} bytes")
        return f"{opened} lanes for {2 * stream.length // MIB} MiB"


@check
def fragments_of_one_byte(run):
    stream = payload(run, 1, 1)
    with World(run, "fragments") as world:
        world.proxy.tell("piece 1")
        copy = world.command("cat; exit 7", stream)
        time.sleep(0.2)
        world.proxy.tell("rst")
        copy.expect(7, stream)
        world.proxy.tell("piece 0")


@check
def router_moves(run):
    """The router's address changes, and nobody listens at the old one."""
    with World(run, "moving") as world:
        direct = world.new_proxy(world.loopback_port)
        # a broker whose control plane is reached another way than the router
        stop(world.broker)
        world.config["server_url"] = f"https://127.0.0.1:{direct.port}"
        world.start_broker()
        for way in ("hole on",) if run.quick else ("refuse on", "hole on"):
            company = Company(world, payload(run, 64, 16), 4)
            time.sleep(0.5)
            other = world.new_proxy(world.loopback_port)
            world.fault(f"advertise {other.port}")
            time.sleep(0.1)
            world.proxy.tell(way)
            world.proxy.tell("rst")
            company.expect()
            require(other.state()[0] > 0, f"{way}: nothing went to the new address")
            world.proxy = other


@check
def longer_than_the_lease(run):
    mark = f"3600.{run.random.randrange(10**8):08d}"
    with World(run, "lease", SHORT_LEASE_S) as world:
        command = world.command(f"trap '' TERM HUP; sleep {mark}; echo no")
        last = world.command("sleep 1; echo end")
        wait_for(lambda: remote_processes(mark), "the command")
        world.proxy.tell("hole on")
        began_s = time.monotonic()
        command.expect(UNKNOWN, b"", wait_s=SHORT_LEASE_S * 4 + 10)
        last.expect(UNKNOWN, b"", wait_s=SHORT_LEASE_S * 4 + 10)
        said_s = time.monotonic() - began_s
        require(b"unknown" in command.errors, f"it said {command.errors!r}")
        wait_for(lambda: not remote_processes(mark), "the end of the remote process", SHORT_LEASE_S + REAP_S + 3)
        gone_s = time.monotonic() - began_s
        world.proxy.tell("hole off")
        world.command("echo back").expect(0, b"back\n")
        return f"lease {SHORT_LEASE_S} s: told after {said_s:.1f} s, gone after {gone_s:.1f} s"


@check
def last_frames_lost(run):
    """The command ends while nothing crosses, and nothing crosses until the lease is over: never its status."""
    with World(run, "lost", SHORT_LEASE_S) as world:
        commands = [world.command("sleep 0.5; echo end; exit 0") for _ in range(3)]
        time.sleep(0.25)
        world.proxy.tell("hole on")
        for command in commands:
            command.expect(UNKNOWN, b"", wait_s=SHORT_LEASE_S * 4 + 10)
        world.proxy.tell("hole off")


@check
def signals_during_an_outage(run):
    with World(run, "signals") as world:
        commands = [world.command(f"trap 'echo {name}; exit 3' {name}; echo ready; while :; do sleep 0.05; done")
                    for name in ("TERM", "USR1", "HUP")]
        counter = world.command("n=0; trap 'n=$((n+1)); echo $n' USR2; trap 'exit 4' TERM; echo ready; "
                                "while :; do sleep 0.05; done")
        for command in (*commands, counter):
            wait_for(lambda command=command: command.head == b"ready\n", "the trap")
        world.proxy.tell("hole on")
        for command, number in zip(commands, (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)):
            command.process.send_signal(number)
        counter.process.send_signal(signal.SIGUSR2)
        time.sleep(1)
        require(not any(command.process.poll() is not None for command in commands), "ended during the outage")
        world.proxy.tell("hole off")
        for command, name in zip(commands, (b"TERM", b"USR1", b"HUP")):
            command.expect(3, b"ready\n%s\n" % name)
        wait_for(lambda: counter.head == b"ready\n1\n", "USR2")
        time.sleep(0.5)
        counter.process.terminate()
        counter.expect(4, b"ready\n1\n")


@check
def shim_killed_during_an_outage(run):
    mark = f"3600.{run.random.randrange(10**8):08d}"
    with World(run, "gone") as world:
        command = world.command(f"trap '' TERM; sleep {mark}; echo no")
        wait_for(lambda: remote_processes(mark), "the command")
        world.proxy.tell("hole on")
        command.process.kill()
        time.sleep(1)
        require(remote_processes(mark), "ended although nobody could say so")
        world.proxy.tell("hole off")
        wait_for(lambda: not remote_processes(mark), "the end of the remote process", LONG_LEASE_S)


@check
def reader_gone_during_an_outage(run):
    with World(run, "reader") as world:
        script = "trap 'exit 3' PIPE; while echo line; do sleep 0.05; done; exit 4"
        process = subprocess.Popen([world.shim("bash"), "-c", script], env=world.client_env, cwd=world.share,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            require(process.stdout.readline() == b"line\n", "no line")
            world.proxy.tell("hole on")
            process.stdout.close()
            time.sleep(1)
            world.proxy.tell("hole off")
            # its own kernel tells it, as a local one would: PIPE, or EPIPE for what it does in the trap
            status = process.wait(LONG_LEASE_S + 10)
            require(status in (3, 4), f"it ended with {status}")
        except subprocess.TimeoutExpired:
            raise Hang("the writer did not notice that its reader has gone") from None
        finally:
            process.kill()
            process.wait()


def borrowed(world, stdin, meanwhile):
    """What a command leaves of its stdin to the next process when the lane breaks in between."""
    process = subprocess.Popen([world.shim("sh"), "-c", "read a; sleep 1; read b; echo $a-$b"], env=world.client_env,
                               cwd=world.share, stdin=stdin, stdout=subprocess.PIPE)
    time.sleep(0.3)
    meanwhile()
    output = process.communicate(timeout=PATIENCE_S)[0]
    require(process.returncode == 0, f"it ended with {process.returncode}")
    return output


@check
def stdin_is_still_borrowed(run):
    lines = b"".join(b"line %d\n" % number for number in range(5000))
    rest = lines.split(b"\n", 2)[2]
    with World(run, "borrow") as world:
        def lane_breaks():
            for pid in world.guest_processes()[1]:
                os.kill(pid, signal.SIGKILL)

        def connection_breaks():
            world.proxy.tell("rst")

        for breaks in (lane_breaks, connection_breaks):
            path = world.dir / "stdin"
            path.write_bytes(lines)
            with open(path, "rb", buffering=0) as file:
                require(borrowed(world, file, breaks) == b"line 0-line 1\n", "other lines of a file were read")
                left = file.read()
            require(left == rest, f"{len(left)} bytes of the file were left, not {len(rest)}")
            read_fd, write_fd = os.pipe()
            os.write(write_fd, lines[:4096 * 8])
            os.close(write_fd)
            with os.fdopen(read_fd, "rb", buffering=0) as pipe:
                require(borrowed(world, pipe, breaks) == b"line 0-line 1\n", "other lines of a pipe were read")
                left = pipe.read()
            require(left == rest[:len(left)] and len(left) == 4096 * 8 - (len(lines) - len(rest)),
                    f"{len(left)} bytes of the pipe were left")


@check
def large_starts(run):
    """Commands of which each takes several round trips to say, while the lane and the connection break."""
    return start_large(run)


@check
def large_starts_by_single_writes(run):
    return start_large(run, ("--unary-stdin-only",))


def start_large(run, loopback=()):
    with World(run, "large", loopback=loopback, config={"lane_recycle": 2 * MIB}) as world:
        words = [f"{number:06d}" + "x" * 100000 for number in range(12)]
        world.proxy.tell(f"random {run.seed} 30 200000")
        processes = [subprocess.Popen(
            [world.shim("bash"), "-c", 'printf %s "$@" | cksum; echo $0 >>large; exit 5', str(number), *words[:number]],
            env=world.client_env, cwd=world.share, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for number in range(12)]
        wrong = []
        for number, process in enumerate(processes):
            output = process.communicate(timeout=PATIENCE_S)[0]
            local = subprocess.run(["cksum"], input="".join(words[:number]).encode(), capture_output=True, check=True)
            if process.returncode != 5 or output != local.stdout:
                wrong.append(f"{number}: {process.returncode} {output!r}")
        require(not wrong, "; ".join(wrong))
        started = sorted(int(line) for line in (world.share / "large").read_text().split())
        require(started == list(range(12)), f"these were run: {started}")
        return f"{world.status()['lane']['opened_count']} lanes, {world.proxy.state()[1]} connections cut"


@check
def many_at_once(run):
    """Jobs that all have bytes under way in both directions when a lane ends."""
    count = 20 if run.quick else 100
    with World(run, "many", config={"lane_recycle": 4 * MIB}) as world:
        streams = [Stream(run.random.getrandbits(32), MIB + number) for number in range(count)]
        commands = [world.command(f"cat; exit {number}", stream) for number, stream in enumerate(streams)]
        for _ in range(5):
            time.sleep(0.2)
            for pid in world.guest_processes()[1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for number, (command, stream) in enumerate(zip(commands, streams)):
            command.expect(number, stream)
        return f"{world.status()['lane']['opened_count']} lanes"


@check
def cuts_from_the_start(run):
    """Connections are cut while the sandbox is created, while the guest is installed and while it is greeted."""
    with World(run, "start", config={"start_early": False}) as world:
        world.proxy.tell(f"random {run.seed} 25 12000")
        stream = Stream(run.random.getrandbits(32), MIB)
        commands = [world.command("cat; exit 7", stream) for _ in range(3)]
        for command in commands:
            command.expect(7, stream)
        status = world.status()
        require(status["sandbox"]["created_count"] == 1, f"{status['sandbox']['created_count']} sandboxes were created")
        return f"{status['lane']['opened_count']} lanes, {world.proxy.state()[1]} connections cut"


@check
def background_child_and_a_lost_daemon(run):
    """A command has ended and its child holds stdout; then the daemon dies.  The reader must see the end."""
    with World(run, "background") as world:
        command = world.command("sleep 3600 & echo gone")
        wait_for(lambda: command.process.poll() is not None, "the command's end")
        for pid in world.guest_processes()[0]:
            os.kill(pid, signal.SIGKILL)
        command.expect(0, b"gone\n")


# ---- killing ----

@check
def lane_killed(run):
    stream = payload(run, 64, 16)
    with World(run, "lane") as world:
        company = Company(world, stream)
        for _ in range(5):
            time.sleep(run.random.uniform(0.05, 0.3))
            for pid in world.guest_processes()[1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        company.expect()
        return f"{world.status()['lane']['opened_count']} lanes"


@check
def shim_killed(run):
    mark = f"3600.{run.random.randrange(10**8):08d}"
    with World(run, "shim") as world:
        commands = [world.command(f"sleep {mark} & sleep {mark}; echo no") for _ in range(3)]
        wait_for(lambda: len(remote_processes(mark)) >= 9, "the commands")
        for command in commands:
            command.process.kill()
        wait_for(lambda: not remote_processes(mark), "the end of the remote group", 2)


@check
def power_off(run):
    """Broker and shims vanish at once.  The lease ends what they had started, and a new broker finds the sandbox."""
    mark = f"3600.{run.random.randrange(10**8):08d}"
    with World(run, "power", SHORT_LEASE_S) as world:
        commands = [world.command(f"trap '' TERM HUP; sleep {mark} & setsid sleep {mark} & sleep {mark}")
                    for _ in range(3)]
        wait_for(lambda: len(remote_processes(mark)) >= 12, "the commands")
        sandbox = world.status()["sandbox"]["id"]
        for process in (world.broker, *(command.process for command in commands)):
            process.kill()
        wait_for(lambda: not remote_processes(mark), "the end of the remote processes", SHORT_LEASE_S + REAP_S + 3)
        world.start_broker()
        world.command("echo back").expect(0, b"back\n")
        require(world.status()["sandbox"]["id"] == sandbox, "the new broker runs commands in another sandbox")


class Kills:
    """One kind of process, killed at random moments while commands come, run and end."""

    def __init__(self, run, target):
        self.run, self.target, self.mark = run, target, f"3600.{run.random.randrange(10**8):08d}"
        self.world = None
        self.outcomes = collections.Counter()

    def victims(self):
        world = self.world
        if self.target == "broker":
            return [world.broker.pid]
        if self.target == "loopback":
            return [world.loopback.pid]
        if self.target == "sandbox":
            return [self.run.random.choice(wait_for(world.sandbox_processes, "a sandbox"))]
        daemons, lanes = world.guest_processes()
        if self.target == "lane":
            return lanes
        return self.run.random.sample(daemons, 1) if daemons else []

    def judge(self, command, status, output):
        ended = command.finish(SHORT_LEASE_S * 4 + 20)
        if ended == UNKNOWN:
            require(command.errors.startswith(b"modalsh: ") or b"\nmodalsh: " in command.errors,
                    f"125 without a word: {command.errors!r}")
            require(output is None or output.startswith(command.head), f"wrote {command.head!r}, then 125")
            self.outcomes["125"] += 1
            return
        require(ended == status, f"{self.target} killed: `{command.script}` ended with {ended}, not {status} or 125: "
                                 f"{command.errors!r}")
        require(output is None or command.head == output, f"{self.target} killed: `{command.script}` wrote "
                                                          f"{command.head!r}, not {output!r}")
        self.outcomes["right"] += 1

    def round(self):
        random_ = self.run.random
        world, stream = self.world, Stream(random_.getrandbits(32), 4 * MIB)
        sleepers = [world.command(f"trap '' TERM; sleep {self.mark}; exit 5")]
        # it runs in what is killed, or it would rightly go on in what comes next
        wait_for(lambda: remote_processes(self.mark), "the sleeper")
        copy = world.command("cat; exit 7", stream)
        few = []
        for number in range(6):
            few.append((world.command(f"sleep 0.{random_.randrange(40):02d}; echo {number}; exit {11 + number}"),
                        11 + number, b"%d\n" % number))
        time.sleep(random_.uniform(0, 0.5))
        for pid in self.victims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for number in range(2):
            few.append((world.command(f"echo {number}; exit {21 + number}"), 21 + number, b"%d\n" % number))
        for command, status, output in few:
            self.judge(command, status, output)
        self.judge(copy, 7, None)
        require(copy.process.returncode != 7 or copy.digest.hexdigest() == stream.digest(), "the copy has other bytes")
        self.end_sleepers(sleepers)

    def end_sleepers(self, sleepers):
        began_s = time.monotonic()
        if self.target == "lane":
            for command in sleepers:
                command.process.kill()
                command.process.wait()
        else:
            for command in sleepers:
                self.judge(command, None, b"")
        wait_for(lambda: not remote_processes(self.mark), f"{self.target} killed: the end of the remote processes",
                 SHORT_LEASE_S + REAP_S + 4)
        self.outcomes["slowest end (s)"] = max(self.outcomes["slowest end (s)"], round(time.monotonic() - began_s, 1))

    def restart(self):
        world = self.world
        if self.target == "loopback" and world.loopback.poll() is not None:
            stop(world.broker, signal.SIGKILL)
            world.start_loopback()
            world.start_broker()
        if self.target == "broker":
            stop(world.broker, signal.SIGKILL)
            world.start_broker()

    def go(self, rounds):
        with World(self.run, f"kill{self.target}", SHORT_LEASE_S) as self.world:
            for _ in range(rounds):
                self.round()
                self.restart()
        return f"{rounds} kills: " + ", ".join(f"{key} {value}" for key, value in sorted(self.outcomes.items()))


def kill_check(target):
    def function(run):
        return Kills(run, target).go((KILL_ROUNDS_QUICK if run.quick else KILL_ROUNDS) // 5)
    function.__name__ = f"kill_{target}"
    CHECKS.append(function)


for each in ("broker", "daemon", "lane", "sandbox", "loopback"):
    kill_check(each)


# ---- much ----

@check
def random_cuts(run):
    """So many cuts at random points while so much goes through in both directions at once."""
    cuts = CUTS_QUICK if run.quick else CUTS
    stream = payload(run, 200, 24)
    with World(run, "cuts", 60) as world:
        began_s = time.monotonic()
        # enough for all cuts to fall into the copy, whatever is sent again
        world.proxy.tell(f"random {run.seed} {cuts} {2 * stream.length // (2 * cuts)}")
        copies = [world.command("cat; exit 7", stream)]
        copies[0].expect(7, stream, 1200)
        took_s = time.monotonic() - began_s
        delivered, cut_count, _, left = world.proxy.state()
        require(left == 0, f"only {cuts - left} of {cuts} cuts fell into the copy")
        return (f"{stream.length // MIB} MiB each way, {cuts} cuts ({cut_count} connections), "
                f"{delivered / MIB:.0f} MiB delivered, {took_s:.1f} s, seed {run.seed}")


@check
def stalled_readers(run):
    with World(run, "stalled", 60) as world:
        argv = [world.shim("sh"), "-c", "true"]

        def latency_ms():
            times = []
            for _ in range(60):
                began_s = time.monotonic()
                subprocess.run(argv, env=world.client_env, cwd=world.share, check=True, stdin=subprocess.DEVNULL)
                times.append((time.monotonic() - began_s) * 1000)
            return sorted(times)[len(times) // 2]

        idle_ms = latency_ms()
        stalled = [subprocess.Popen([world.shim("sh"), "-c", "exec cat /dev/zero"], env=world.client_env, cwd=world.share,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for _ in range(STALLED_JOBS)]
        try:
            wait_for(lambda: world.status()["jobs"]["running"] >= STALLED_JOBS, "the stalled jobs")
            time.sleep(3)
            stalled_ms = latency_ms()
        finally:
            for process in stalled:
                stop(process, signal.SIGKILL)
        factor = stalled_ms / idle_ms
        require(factor < STALLED_FACTOR_FAILS, f"idle {idle_ms:.2f} ms, with {STALLED_JOBS} stalled {stalled_ms:.2f} ms")
        return (f"idle {idle_ms:.2f} ms, with {STALLED_JOBS} stalled readers {stalled_ms:.2f} ms: "
                f"{factor:.2f} times ({'within' if factor <= STALLED_FACTOR else 'above'} {STALLED_FACTOR})")


ALONE = (random_cuts, stalled_readers)

# ---- the run ----

class Run:
    """What one check is given, and where its logs go."""

    numbers = itertools.count()

    def __init__(self, args, work, function):
        self.quick, self.seed, self.function = args.quick, args.seed, function
        self.build_dir, self.tool_dir, self.work = args.build_dir.resolve(), args.tool_dir, work
        self.random = random.Random(f"{args.seed} {function.__name__}")
        self.logs = []

    @staticmethod
    def free_port():
        import socket
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()[1]

    def keep_log(self, world):
        for name in ("broker", "loopback"):
            path = world.dir / f"{name}.log"
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()[-15:]
                self.logs += [f"# {name}: {line[:200]}" for line in lines]

    def go(self):
        """Whether the check held, and what to print."""
        name, began_s = self.function.__name__, time.monotonic()
        try:
            text = self.function(self)
        except Wrong as wrong:
            return False, "\n".join([f"not ok {name}: {wrong}", *self.logs])
        except Exception:  # pylint: disable=broad-except
            return False, "\n".join([f"not ok {name}: {traceback.format_exc()}", *self.logs])
        return True, f"ok {name}" + (f"  # {text}" if text else "") + f"  ({time.monotonic() - began_s:.1f} s)"


def run_all(args, work, chosen):
    """Most checks wait most of the time, so some run at once; those that measure run alone."""
    held = []

    def tell(outcome):
        held.append(outcome[0])
        print(outcome[1])

    runs = [Run(args, work, function) for function in chosen]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        # the longest first
        futures = [pool.submit(run.go) for run in sorted(runs, key=lambda run: "kill_" not in run.function.__name__)
                   if run.function not in ALONE]
        for future in concurrent.futures.as_completed(futures):
            tell(future.result())
    for run in runs:
        if run.function in ALONE:
            tell(run.go())
    return held


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--tool-dir", type=pathlib.Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--jobs", type=int, default=6)
    args = parser.parse_args()
    chosen = [function for function in CHECKS if function.__name__.startswith(tuple(args.only.split(",")))]
    if args.list:
        print("\n".join(function.__name__ for function in chosen))
        return 0
    sys.stdout.reconfigure(line_buffering=True)
    print(f"# seed {args.seed}")
    work = pathlib.Path(tempfile.mkdtemp(prefix="fault-"))
    try:
        held = run_all(args, work, chosen)
    finally:
        if args.keep:
            print(f"# logs are in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{held.count(True)} passed, {held.count(False)} failed")
    return 0 if held and all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
