"""One check for each fault that was found in the broker once; see run.sh for the options.

The worlds, the commands and the run are those of fault.py.  What a client says on the local socket is written as
tests/unit/fake_broker.py reads it.
"""
import contextlib
import fcntl
import os
import pathlib
import pty
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

import fault
from fault import MIB, SHORT_LEASE_S, UNKNOWN, Hang, World, check, remote_processes, require, stop, wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "unit"))
import fake_broker  # pylint: disable=wrong-import-position

fault.CHECKS.clear()

# What a command takes at most while nothing is wrong with its own lane, on a machine that is busy.
SOON_S = 10
# A broker that has nothing to do uses less of a second than this; one that spins uses all of it.
IDLE_CPU_S = 0.1
# Together they fill HTTP/2's window, and each goes on for longer than is looked.
UPLOADS, UPLOAD_LEN = 14, 300 << 20
# A client that does not take its answer is let go after 30 s.
LET_GO_S = 30
PIPE_LEN = 64 * 1024
MEMORY_GROWTH_MAX = 10 * MIB
BROKERS_AT_ONCE = 8


# ---- helpers ----

def opened_count(world):
    return world.status()["lane"]["opened_count"]


def lane_break(world):
    """Ends the lane's exec, and returns when another is open."""
    before = opened_count(world)
    for pid in world.guest_processes()[1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: opened_count(world) > before, "another lane", SOON_S)


def lane_is_kept(world, meanwhile):
    before = opened_count(world)
    meanwhile()
    time.sleep(1)
    others_run(world)
    count = opened_count(world) - before
    require(count == 0, f"the lane broke {count} times")


def others_run(world):
    world.command("echo ok").expect(0, b"ok\n", SOON_S)


def runs_again(world):
    wait_for(lambda: world.command("sleep 0.5").finish() == 0, "a command that runs")


def start(world, script, **options):
    """A shim of which nobody reads the output unless the caller does."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([world.shim("sh"), "-c", script], env=world.client_env, cwd=world.share, **options)


def finish(process, wait_s=SOON_S):
    try:
        return process.communicate(timeout=wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Hang(f"`{process.args[2][:60]}` did not end within {wait_s} s") from None


def ended(process, wait_s=5):
    """Its status, while its output is not taken."""
    try:
        return process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Hang(f"`{process.args[2][:60]}` did not end within {wait_s} s") from None


def numbers(count):
    return b"".join(b"%d\n" % number for number in range(1, count + 1))


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def require_idle(world, what):
    before = cpu_s(world.broker.pid)
    time.sleep(1)
    used_s = cpu_s(world.broker.pid) - before
    require(used_s < IDLE_CPU_S, f"{what}: the broker used {used_s:.2f} s of 1 s")


def memory_len(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Client:
    """A local process that speaks to the broker by itself."""

    def __init__(self, world):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(world.client_env["MODALSH_SOCKET"])
        self.connection = fake_broker.Connection(self.sock)
        self.hello = fake_broker.frame(fake_broker.HELLO, struct.pack("<I", 1) + fake_broker.bytes_field(b"test"))
        self.share = world.share

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def start_frame(self, script, streams):
        def strings(items):
            return struct.pack("<I", len(items)) + b"".join(map(fake_broker.bytes_field, items))

        body = fake_broker.bytes_field(b"sh") + strings([b"sh", b"-c", script.encode()]) + strings([]) + b"\0"
        body += fake_broker.bytes_field(os.fsencode(self.share)) + struct.pack("<IiQQI", 0o22, 0, 0, 0, 0)
        body += struct.pack("<I", len(streams)) + b"".join(struct.pack("<IBII", *stream) for stream in streams)
        body += struct.pack("<HHHH", 0, 0, 0, 0) + fake_broker.bytes_field(b"")
        return fake_broker.frame(fake_broker.START, body)

    def last_frame(self):
        last = None
        while (frame := self.connection.read_frame()) is not None:
            last = frame
        return last


# ---- lanes that are taken up again ----

@check
def stalled_reader_when_the_lane_breaks(run):
    """The windows of a stream that nobody reads are said anew: the lane was broken again and again for them."""
    with World(run, "resumed") as world:
        process = start(world, "seq 1 200000; exit 3")
        time.sleep(0.7)
        for _ in range(2):
            lane_break(world)
        lane_is_kept(world, lambda: time.sleep(1))
        output = finish(process)[0]
        require(process.returncode == 3, f"it ended with {process.returncode}")
        require(output == numbers(200000), f"other bytes, {len(output)} of them")


@check
def file_that_grows_after_its_end(run):
    """The end of the input was told; after a break it is told again, and not what has been written to the file since."""
    with World(run, "grown") as world:
        path = world.share / "grown"
        path.write_bytes(b"one\n")
        with open(path, "rb") as file:
            process = start(world, "sleep 2; cat; exit 3", stdin=file)
        time.sleep(0.5)
        with open(path, "ab") as file:
            file.write(b"two\n")
        lane_break(world)
        lane_is_kept(world, lambda: None)
        output = finish(process)[0]
        require((process.returncode, output) == (3, b"one\n"), f"it ended with {process.returncode} and {output!r}")


@check
def guest_installed_anew(run):
    """The binary is written once more while its daemon runs a command, as after a long cut: the new one finds the daemon."""
    with World(run, "installed") as world:
        command = world.command("for i in 1 2 3 4 5 6; do echo $i; sleep 1; done; exit 7")
        wait_for(lambda: command.head, "its first line")
        time.sleep(1.2)  # the time of a file counts in seconds
        world.command("rm /run/modalsh/modalsh-guest-*").expect(0)
        lane_break(world)
        command.expect(7, b"1\n2\n3\n4\n5\n6\n")


@check
def daemon_that_is_silent_while_greeted(run):
    """The lane was closed because it was idle, and the daemon does not answer when it is wanted again."""
    with World(run, "silent", SHORT_LEASE_S, config={"idle_timeout": "1s", "command_timeout": "2s"}) as world:
        others_run(world)
        wait_for(lambda: world.status()["lane"]["state"] == "down", "the end of the idle lane", SOON_S)
        daemons = world.guest_processes()[0]
        require(daemons, "no daemon")
        try:
            for pid in daemons:
                os.kill(pid, signal.SIGSTOP)
            command = world.command("echo never")
            command.expect(UNKNOWN, b"", SOON_S)
            require(b"was not run" in command.errors, f"it said {command.errors!r}")
        finally:
            for pid in daemons:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        runs_again(world)
        return f"told after {command.took_s:.1f} s"


@check
def background_child_and_a_new_daemon(run):
    """A command has ended and its child holds stdout; the daemon dies, and another command brings a new one."""
    with World(run, "orphan") as world:
        process = start(world, "sleep 1000 & echo hi")
        require(process.wait(SOON_S) == 0, f"it ended with {process.returncode}")
        for pid in world.guest_processes()[0]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        others_run(world)
        require(finish(process)[0] == b"hi\n", "other bytes")


@check
def uploads_that_nobody_takes(run):
    """The guest reads nothing, until HTTP/2's window for its stdin is full: the broker waits, and does not spin."""
    with World(run, "full", 60) as world:
        path = world.share / "much"
        with open(path, "wb") as file:
            file.truncate(UPLOAD_LEN)
        processes = []
        for _ in range(UPLOADS):
            with open(path, "rb") as file:
                processes.append(start(world, "wc -c", stdin=file))
        time.sleep(1)
        daemons = world.guest_processes()[0]
        require(daemons, "no daemon")
        try:
            for pid in daemons:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(1)
            require_idle(world, "with the window full")
        finally:
            for pid in daemons:
                os.kill(pid, signal.SIGCONT)
        for process in processes:
            require(finish(process, 60)[0] == b"%d\n" % UPLOAD_LEN, "other bytes")


# ---- deadlines and signals ----

@check
def ended_before_its_deadline(run):
    """Its output is taken only after the deadline: the command's own status counts."""
    with World(run, "deadline", config={"command_timeout": "3s"}) as world:
        process = start(world, "seq 1 20000; exit 5")
        for late in [start(world, script) for script in ("sleep 60", "yes")]:
            require(ended(late) == 124, f"`{late.args[2]}` did not end, and then with {late.returncode}")
            finish(late)
        output, errors = finish(process)
        require(process.returncode == 5, f"it ended with {process.returncode}: {errors!r}")
        require(output == numbers(20000), f"other bytes, {len(output)} of them")


@check
def never_sent_before_its_deadline(run):
    with World(run, "unsent", config={"command_timeout": "2s", "start_early": False}) as world:
        canary = world.share / "canary"
        world.proxy.tell("hole on")
        command = world.command("echo run >canary; echo run")
        command.expect(UNKNOWN, b"", SOON_S)
        require(b"was not run" in command.errors, f"it said {command.errors!r}")
        world.proxy.tell("hole off")
        runs_again(world)
        require(not canary.exists(), "it was run after all")


@check
def signals_before_it_was_sent(run):
    """While the sandbox cannot be reached a command has not begun: a key on the terminal is a signal, and it dies of it."""
    with World(run, "unsent", config={"idle_timeout": "1s"}) as world:
        others_run(world)
        wait_for(lambda: world.status()["lane"]["state"] == "down", "the end of the idle lane", SOON_S)
        os.kill(world.loopback.pid, signal.SIGSTOP)
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                process = start(world, "echo never")
                time.sleep(0.3)
                process.send_signal(number)
                output, _ = finish(process)
                require(process.returncode == -number, f"it ended with {process.returncode}")
                require(output == b"", f"it printed {output!r}")
            master, slave = pty.openpty()
            process = start(world, "echo never", stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
            time.sleep(0.3)
            os.write(master, b"\x03")
            require(ended(process) == -signal.SIGINT, f"on a terminal it ended with {process.returncode}")
            os.close(slave)
            os.close(master)
        finally:
            os.kill(world.loopback.pid, signal.SIGCONT)
        runs_again(world)


def signals_after_the_end(name, count):
    """A command has ended and its output is not taken: locally it would still be there, and die of the signal."""
    def function(run):
        def stalled(**options):
            process = start(world, f"seq 1 {count}", **options)
            time.sleep(0.7)
            require(process.poll() is None, f"it ended with {process.returncode} before the signal")
            return process

        with World(run, name) as world:
            ignoring = stalled(preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                process = stalled()
                process.send_signal(number)
                require(ended(process) == -number, f"{number.name}: it ended with {process.returncode}")
                output = finish(process)[0]
                require(numbers(count).startswith(output) and len(output) > PIPE_LEN // 2, f"{len(output)} bytes came")
            ignoring.terminate()
            time.sleep(0.7)
            require(ignoring.poll() is None, "it died of a signal that it ignores")
            output = finish(ignoring)[0]
            require((ignoring.returncode, output) == (0, numbers(count)),
                    f"after a signal that it ignores: {ignoring.returncode}, {len(output)} bytes")
    function.__name__ = f"signals_after_the_end_{name}"
    check(function)


signals_after_the_end("in_the_broker", 20000)
signals_after_the_end("in_the_guest", 40000)


@check
def signals_while_the_output_is_stalled(run):
    """Locally a process that waits for room in its pipe ends at once."""
    with World(run, "stalled") as world:
        cases = [("yes", -signal.SIGTERM), ("yes | cat", -signal.SIGTERM), ("seq 1 10000; sleep 60", -signal.SIGTERM),
                 ("exec bash -c \"trap 'exit 3' TERM; while :; do echo line; done\"", 3)]
        running = [(start(world, script), status) for script, status in cases]
        time.sleep(1)
        for process, _ in running:
            process.terminate()
        for process, status in running:
            require(ended(process) == status, f"`{process.args[2]}` ended with {process.returncode}")
        for process, _ in running:
            finish(process)


@check
def many_signals_while_nothing_crosses(run):
    """They are kept once each: what others have to say gets through, and so does the last one."""
    mark = f"3600.{run.random.randrange(10**8):08d}"
    with World(run, "many", 30) as world, Client(world) as client:
        killed = start(world, f"sleep {mark}; :")
        wait_for(lambda: remote_processes(mark), "the command")
        closed = [(0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0)]
        client.sock.sendall(client.hello + client.start_frame("trap 'exit 3' TERM; trap '' USR1; : >trapped; "
                                                              "while :; do sleep 0.05; done", closed))
        wait_for((world.share / "trapped").exists, "the trap")
        before, daemons = memory_len(world.broker.pid), world.guest_processes()[0]
        for pid in daemons:
            os.kill(pid, signal.SIGSTOP)
        block = b"".join(fake_broker.frame(fake_broker.SIGNAL, struct.pack("<IBB", 0, signal.SIGUSR1, 1)) for _ in range(10000))
        for _ in range(200):
            client.sock.sendall(block)
        time.sleep(1)  # the broker has heard them all
        grown = memory_len(world.broker.pid) - before
        killed.kill()
        client.sock.sendall(fake_broker.frame(fake_broker.SIGNAL, struct.pack("<IBB", 0, signal.SIGTERM, 1)))
        finish(killed)
        time.sleep(0.3)
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not remote_processes(mark), "the end of a command whose shim was killed", SOON_S)
        frame = client.last_frame()
        require(frame == (fake_broker.EXIT, frame[1]) and frame[1][1] == 3, f"the last frame was {frame}")
        require(grown < MEMORY_GROWTH_MAX, f"the broker grew by {grown / MIB:.1f} MiB")
        others_run(world)
        return f"2,000,000 signals, {grown / MIB:.1f} MiB"


# ---- terminals ----

def terminal_output(master, held, piece_len=PIPE_LEN, pause_s=0.):
    """Everything that is written to a terminal until nobody has it open."""
    with contextlib.suppress(OSError):
        while data := os.read(master, piece_len):
            held.append(data)
            time.sleep(pause_s)


@check
def unread_terminals(run):
    """Nobody reads several terminals; lines of many lengths, so that some fill them up to the last byte."""
    script = ("i=0; while [ $i -lt 400 ]; do printf '%0{0}d\\n' 1; i=$((i + 1)); [ $((i % 4)) = 0 ] && sleep 0.003; done{1}; "
              "seq 1 30000{1}; exit 3")
    cases = [(length, "") for length in (7, 100, 300, 700, 1000, 1500, 3000)] + [(100, " >&2")]
    with World(run, "terminals") as world:
        running = []
        for length, where in cases:
            master, slave = pty.openpty()
            null = subprocess.DEVNULL
            streams = {"stdout": null, "stderr": slave} if where else {"stdout": slave, "stderr": null}
            running.append((start(world, script.format(length, where), **streams), master, length, []))
            os.close(slave)
        try:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                others_run(world)
            for process, master, length, held in running:
                reader = threading.Thread(target=terminal_output, args=(master, held), daemon=True)
                reader.start()
                finish(process, 30)
                require(process.returncode == 3, f"lines of {length}: it ended with {process.returncode}")
                reader.join(SOON_S)
                require(not reader.is_alive(), f"lines of {length}: the terminal is still open")
                output = b"".join(held).replace(b"\r\n", b"\n")
                expected = (b"1".rjust(length, b"0") + b"\n") * 400 + numbers(30000)
                require(output == expected, f"lines of {length}: {len(output)} bytes, not the {len(expected)} written")
        finally:
            for process, master, *_ in running:
                stop(process, signal.SIGKILL)
                os.close(master)


@check
def slowly_read_terminals(run):
    """More is on its way inside the terminal in the sandbox than it says: it still comes before the end, and is processed once."""
    expected = numbers(20000).replace(b"\n", b"\r\n")
    with World(run, "slow") as world:
        running = []
        for _ in range(3):
            master, slave = pty.openpty()
            running.append((start(world, "seq 1 20000; exit 3", stdout=slave, stderr=subprocess.DEVNULL), master, []))
            os.close(slave)
        try:
            readers = [threading.Thread(target=terminal_output, args=(master, held, 300, 0.004), daemon=True)
                       for _, master, held in running]
            for reader in readers:
                reader.start()
            for (process, _, held), reader in zip(running, readers):
                finish(process)
                reader.join(SOON_S)
                require(process.returncode == 3, f"it ended with {process.returncode}")
                output = b"".join(held)
                require(output == expected, f"{len(output)} bytes, not the {len(expected)} written; {output[-30:]!r}")
        finally:
            for process, master, _ in running:
                stop(process, signal.SIGKILL)
                os.close(master)


@check
def two_terminals(run):
    """A command has one terminal; another one is a pipe to it, and the lane holds."""
    with World(run, "two") as world:
        masters, slaves = zip(pty.openpty(), pty.openpty())

        def meanwhile():
            process = start(world, "read line; echo got $line; exit 3", stdin=slaves[0], stdout=slaves[1])
            for slave in slaves:
                os.close(slave)
            time.sleep(0.3)
            os.write(masters[0], b"word\n")
            finish(process)
            held = []
            terminal_output(masters[1], held)
            require(process.returncode == 3 and b"".join(held).strip() == b"got word",
                    f"it ended with {process.returncode} and {held}")

        lane_is_kept(world, meanwhile)
        for master in masters:
            os.close(master)


# ---- bad clients ----

def refused_streams(name, streams):
    def function(run):
        with World(run, name) as world, Client(world) as client:
            def meanwhile():
                client.sock.sendall(client.hello + client.start_frame("echo hello; sleep 30", streams))
                client.sock.settimeout(3)
                try:
                    frame = client.last_frame()
                except TimeoutError:
                    raise Hang("the client was not refused") from None
                require(frame is not None and frame[0] == fake_broker.REFUSED and b"was not run" in frame[1],
                        f"the last frame was {frame}")

            lane_is_kept(world, meanwhile)
    function.__name__ = f"refused_{name}"
    check(function)


refused_streams("kind_of_the_lane", [(1, 3, 0, 0)])
refused_streams("two_terminals_by_kind", [(0, 5, 0, 0), (1, 5, 0, 0)])
refused_streams("same_as_nothing", [(0, 0, 0, 0), (1, 4, 0, 0)])
refused_streams("huge_stream_number", [(1 << 31, 0, 0, 0)])


@check
def client_that_cannot_be_answered(run):
    """It shut its reading side down: the connection ends, and nothing spins."""
    with World(run, "deaf") as world, Client(world) as client:
        client.sock.shutdown(socket.SHUT_RD)
        client.sock.sendall(client.hello + fake_broker.frame(fake_broker.PING, struct.pack("<Q", 1)))
        time.sleep(0.2)
        require_idle(world, "a client that cannot be answered")
        others_run(world)


@check
def client_that_reads_nothing(run):
    """It asks and asks, and takes no answer: bounded memory, and the end of the connection."""
    with World(run, "greedy") as world, Client(world) as client:
        before = memory_len(world.broker.pid)
        client.sock.sendall(client.hello)
        client.sock.settimeout(2)
        block = fake_broker.frame(fake_broker.STATUS) * 1000
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            for _ in range(200):
                client.sock.sendall(block)
        grown = memory_len(world.broker.pid) - before
        others_run(world)
        require(grown < MEMORY_GROWTH_MAX, f"the broker grew by {grown / MIB:.1f} MiB")
        require_idle(world, "a client that reads nothing")
        end = select.poll()
        end.register(client.sock, 0)  # POLLHUP and POLLERR alone
        if not end.poll((LET_GO_S + SOON_S) * 1000):
            raise Hang("the connection was kept")
        require_idle(world, "after the client that reads nothing")


@check
def no_descriptor_is_left(run):
    """Nobody is let in, and nothing spins or fills the log, until there are descriptors again."""
    with World(run, "full") as world, contextlib.ExitStack() as clients:
        held = [int(name) for name in os.listdir(f"/proc/{world.broker.pid}/fd")]
        limits = resource.prlimit(world.broker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(world.broker.pid, resource.RLIMIT_NOFILE, (max(held) + 3, limits[1]))
        for _ in range(60):
            clients.enter_context(Client(world))
        log = world.dir / "broker.log"
        wait_for(lambda: "accept: " in log.read_text(), "a word about it", SOON_S)
        before = log.stat().st_size
        require_idle(world, "no descriptor is left")
        require(log.read_text().count("accept: ") == 1, "it was said more than once")
        require(log.stat().st_size - before < 4096, f"the log grew by {log.stat().st_size - before} bytes")
        waiting = world.command("echo waited")
        resource.prlimit(world.broker.pid, resource.RLIMIT_NOFILE, limits)
        waiting.expect(0, b"waited\n", SOON_S)
        others_run(world)


@check
def brokers_that_start_at_once(run):
    """Of several for one socket one serves it, and the others end and say why."""
    with World(run, "once") as world:
        for _ in range(3):
            stop(world.broker)
            brokers = []
            read_fd, write_fd = os.pipe()
            # all of them wait for the end of one pipe
            argv = ["sh", "-c", 'read -r go; exec "$@"', "sh", run.build_dir / "modalsh-broker", "--config",
                    world.dir / "config.json", "--foreground"]
            try:
                for number in range(BROKERS_AT_ONCE):
                    with world.log(f"once{number}") as log:
                        brokers.append(subprocess.Popen(argv, env=world.token_env, stdin=read_fd, stdout=log, stderr=log,
                                                        start_new_session=True))
                os.close(read_fd)
                time.sleep(0.1)
                os.close(write_fd)
                wait_for(lambda: sum(broker.poll() is None for broker in brokers) <= 1, "the end of all but one", SOON_S)
                living = [broker for broker in brokers if broker.poll() is None]
                require(len(living) == 1, "none is left")
                require(all(broker.returncode not in (0, None) for broker in brokers if broker not in living), "one ended with 0")
                world.broker = living[0]
                others_run(world)
                require(living[0].poll() is None, "the last one ended")
            finally:
                for broker in brokers:
                    if broker is not world.broker:
                        stop(broker, signal.SIGKILL)
        said = [(world.dir / f"once{number}.log").read_text() for number in range(BROKERS_AT_ONCE)]
        require(any("another modalsh-broker" in text for text in said), "nobody said why")


if __name__ == "__main__":
    sys.exit(fault.main())
