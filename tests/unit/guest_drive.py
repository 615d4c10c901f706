#!/usr/bin/env python3
"""Speaks the lane's protocol (proto/PROTOCOL.md section 4) to a real modalsh-guest.

usage: guest_drive.py [PATH-TO-MODALSH-GUEST [NAME...]], by default that of MODALSH_BUILD_DIR; prints ok / not ok lines and "N passed, N failed"
"""
import glob
import fcntl
import os
import random
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import traceback

HELLO, START, IN, IN_EOF, ACK, OUT_CLOSE, SIGNAL, WINCH, EXIT_ACK, PING, CLOSE, KILL = range(1, 13)
HELLO_REPLY, STARTED, FAILED, IN_USED, IN_CLOSED, OUT, OUT_EOF, EXIT, PONG, DONE, STOPPED = range(0x81, 0x8c)
K_CLOSED, K_DEVICE, K_IN, K_OUT, K_SAME, K_TTY = range(6)
DEVICE_NULL = 3
VFORK_S = 0.05  # a shell cannot stop while its stopped child has not executed its program yet
EXITED, SIGNALED = 1, 2
WINDOW_MIN, WINDOW_MAX, IN_WINDOW = 64 << 10, 2 << 20, 2 << 20
WAIT_S = 20.0


def raw(data):
    return struct.pack("<I", len(data)) + data


def strings(items):
    return struct.pack("<I", len(items)) + b"".join(raw(item) for item in items)


def frame(kind, job, body=b""):
    return struct.pack("<IBI", len(body) + 5, kind, job) + body


def nbytes(value):
    return value if isinstance(value, bytes) else value.encode()


class Result:
    """What the lane has told about one job."""

    def __init__(self):
        self.pid = None
        self.failed = None
        self.exit = None
        self.usage = None
        self.done = False
        self.out = {}
        self.eof = {}
        self.used = {}
        self.closed = {}
        self.window = {}
        self.order = []
        self.stopped = []
        self.out_at_exit = None


class Lane:
    """A broker's end of one lane.  Several lanes in turn can share `jobs`."""

    def __init__(self, guest, jobs=None, broker_id=b"B" * 16, lease_ms=60000, hello=True, window=WINDOW_MIN,
                 ack=True):
        self.guest = guest
        self.jobs = {} if jobs is None else jobs
        self.ack = ack
        self.process = subprocess.Popen([guest.binary, "attach", "--dir", guest.dir], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=guest.env, bufsize=0)
        self.read_fd = self.process.stdout.fileno()
        self.buffer = b""
        self.outgoing = bytearray()
        self.writing = False
        self.pongs = []
        self.closed = False
        self.reads = 0
        self.chunks = []
        self.reply = None
        if hello:
            self.hello(broker_id, lease_ms, window)

    def hello(self, broker_id=b"B" * 16, lease_ms=60000, window=WINDOW_MIN, version=1):
        body = struct.pack("<I", version) + broker_id + struct.pack("<II", lease_ms, len(self.jobs))
        for number, job in self.jobs.items():
            body += struct.pack("<II", number, len(job.out))
            for stream, data in job.out.items():
                body += struct.pack("<IQI", stream, len(data), job.window.get(stream, window))
        self.send(HELLO, 0, body)
        self.wait(lambda: self.reply is not None or self.closed)

    def write(self, data):
        """Reads meanwhile; what is to be written because of that (ACK) follows."""
        self.outgoing += data
        if self.writing:
            return
        self.writing = True
        try:
            while self.outgoing:
                _, writable, _ = select.select([], [self.process.stdin], [], WAIT_S)
                if not writable:
                    raise AssertionError("the guest does not read")
                del self.outgoing[:os.write(self.process.stdin.fileno(), self.outgoing[:4096])]
                self.poll(0)
        finally:
            self.writing = False

    def send(self, kind, job, body=b""):
        self.write(frame(kind, job, body))

    def start(self, number, argv, streams=None, program=None, env=(), env_base=1, cwd="/", umask=0o22, nice=0,
              ignored=0, blocked=0, limits=(), winsize=(0, 0, 0, 0), tio=b"", more=b""):
        """Returns the START frame's Result; streams: list of (number, kind[, refers_to[, pipe_len]])."""
        if streams is None:
            streams = [(0, K_DEVICE, DEVICE_NULL), (1, K_OUT), (2, K_OUT)]
        argv = [nbytes(a) for a in argv]
        body = raw(nbytes(program) if program is not None else argv[0]) + strings(argv)
        body += strings([nbytes(e) for e in env]) + struct.pack("<B", env_base) + raw(nbytes(cwd))
        body += struct.pack("<IiQQI", umask, nice, ignored, blocked, len(limits))
        for item in limits:
            body += struct.pack("<BQQ", *item)
        body += struct.pack("<I", len(streams))
        job = Result()
        for stream in streams:
            stream = tuple(stream) + (0,) * (4 - len(stream))
            body += struct.pack("<IBII", *stream)
            if stream[1] in (K_OUT, K_TTY):
                job.out[stream[0]] = bytearray()
        body += struct.pack("<4H", *winsize) + raw(tio)
        self.jobs[number] = job
        self.write(frame(START, number, body) + more)
        return job

    def data(self, number, offset, data, stream=0):
        self.send(IN, number, struct.pack("<IQ", stream, offset) + data)

    def in_eof(self, number, offset, stream=0):
        self.send(IN_EOF, number, struct.pack("<IQ", stream, offset))

    def acknowledge(self, number, stream, offset, window):
        self.send(ACK, number, struct.pack("<IQI", stream, offset, window))

    def signal(self, number, sequence, signo, scope):
        self.send(SIGNAL, number, struct.pack("<IBB", sequence, signo, scope))

    def poll(self, timeout):
        """Reads once; returns False at the end of the lane."""
        if self.closed:
            return False
        readable, _, _ = select.select([self.read_fd], [], [], timeout)
        if not readable:
            return True
        data = os.read(self.read_fd, 1 << 20)
        if not data:
            self.closed = True
            return False
        self.reads += 1
        self.chunks.append(len(data))
        self.buffer += data
        acks = {}
        start = 0
        while len(self.buffer) - start >= 4:
            (length,) = struct.unpack_from("<I", self.buffer, start)
            if len(self.buffer) - start < 4 + length:
                break
            kind, number = struct.unpack_from("<BI", self.buffer, start + 4)
            self.take(kind, number, self.buffer[start + 9:start + 4 + length], acks)
            start += 4 + length
        self.buffer = self.buffer[start:]
        for (number, stream), offset in acks.items():
            job = self.jobs[number]
            job.window[stream] = WINDOW_MAX
            self.acknowledge(number, stream, offset, WINDOW_MAX)
        return True

    def take(self, kind, number, body, acks):
        if kind == PONG:
            self.pongs.append(struct.unpack("<Q", body)[0])
            return
        if kind == HELLO_REPLY:
            self.take_reply(body)
            return
        job = self.jobs[number]
        job.order.append(kind)
        if kind == STARTED:
            (job.pid,) = struct.unpack("<I", body)
        elif kind == FAILED:
            job.failed = struct.unpack("<BI", body)
        elif kind == OUT:
            stream, offset = struct.unpack_from("<IQ", body)
            assert offset == len(job.out[stream]), "gap or repetition at %d, have %d" % (offset, len(job.out[stream]))
            assert 0 < len(body) - 12 <= 256 << 10
            job.out[stream] += body[12:]
            if self.ack:
                acks[(number, stream)] = len(job.out[stream])
        elif kind == OUT_EOF:
            stream, offset = struct.unpack("<IQ", body)
            assert offset == len(job.out[stream]), "end at %d, have %d" % (offset, len(job.out[stream]))
            job.eof[stream] = True
        elif kind == IN_USED:
            stream, offset = struct.unpack("<IQ", body)
            assert offset >= job.used.get(stream, 0)
            job.used[stream] = offset
        elif kind == IN_CLOSED:
            stream, offset = struct.unpack("<IQ", body)
            job.closed[stream] = job.used[stream] = offset
        elif kind == EXIT:
            code, value, user, system, rss = struct.unpack("<BBQQQ", body)
            job.exit, job.usage = (code, value), (user, system, rss)
            job.out_at_exit = {stream: len(data) for stream, data in job.out.items()}
        elif kind == DONE:
            job.done = True
        elif kind == STOPPED:
            job.stopped.append(body[0])
        else:
            raise AssertionError("unknown type %#x" % kind)

    def take_reply(self, body):
        version, boot_id = struct.unpack_from("<I16s", body)
        (length,) = struct.unpack_from("<I", body, 20)
        position = 24 + length
        (count,) = struct.unpack_from("<I", body, position)
        position += 4
        jobs = {}
        for _ in range(count):
            number, sequence, streams = struct.unpack_from("<III", body, position)
            position += 12
            offsets = {}
            for _ in range(streams):
                stream, offset = struct.unpack_from("<IQ", body, position)
                position += 12
                offsets[stream] = offset
            jobs[number] = (sequence, offsets)
        assert position == len(body)
        self.reply = (version, boot_id, body[24:24 + length], jobs)

    def wait(self, condition, seconds=WAIT_S):
        until = time.monotonic() + seconds
        while not condition():
            left = until - time.monotonic()
            if left <= 0 or (not self.poll(min(left, 1.0)) and not condition()):
                raise AssertionError("waited in vain (lane %s)" % ("closed" if self.closed else "open"))

    def finish(self, number, seconds=WAIT_S):
        job = self.jobs[number]
        self.wait(lambda: job.done or job.failed, seconds)
        self.send(EXIT_ACK, number)
        return job

    def run(self, number, argv, **options):
        self.start(number, argv, **options)
        return self.finish(number)

    def ended(self, seconds=WAIT_S):
        """Waits for the guest to drop the lane; returns attach's exit code."""
        until = time.monotonic() + seconds
        while self.poll(0.2):
            if time.monotonic() > until:
                raise AssertionError("the lane is still open")
        return self.process.wait(seconds)

    def drop(self):
        """As a broken connection does it."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.closed = True

    def ping(self, token=7):
        self.send(PING, 0, struct.pack("<Q", token))
        self.wait(lambda: token in self.pongs)


class Guest:
    def __init__(self, binary, env=None):
        self.binary = os.path.abspath(binary)
        self.dir = tempfile.mkdtemp(prefix="guest-drive-")
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "BASE": "sandbox"} if env is None else env
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
            if name in os.environ:
                self.env[name] = os.environ[name]
        self.lanes = []

    def lane(self, **options):
        lane = Lane(self, **options)
        self.lanes.append(lane)
        return lane

    def daemon_pids(self):
        """The daemon is found by its socket's directory on no command line but attach's; its warden leads their session."""
        pids = []
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            pid = int(path.split("/")[2])
            try:
                with open(path, "rb") as cmdline:
                    if self.dir.encode() in cmdline.read():
                        pids.append((pid, os.getsid(pid)))
            except OSError:
                pass
        wardens = [pid for pid, session in pids if pid == session]
        return [pid for pid, session in pids if pid != session and session in wardens]

    def close(self):
        for lane in self.lanes:
            if not lane.closed or lane.process.poll() is None:
                lane.drop()
        for pid in self.daemon_pids():
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 6
        while self.daemon_pids() and time.monotonic() < until:
            time.sleep(0.02)
        left = self.daemon_pids()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not left, "the daemon did not end by SIGTERM"


TESTS = []


def test(function):
    TESTS.append(function)
    return function


def equal(got, wanted, what=""):
    if isinstance(got, (bytes, bytearray)) and len(got) > 300 and got != wanted:
        raise AssertionError("%s %d bytes differ from the %d wanted" % (what, len(got), len(wanted)))
    assert got == wanted, "%s got %r, wanted %r" % (what, got, wanted)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids, seconds=5.0):
    until = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < until, "still alive: %r" % [pid for pid in pids if alive(pid)]
        time.sleep(0.01)


# ---- one command ----

@test
def hello_says_who_it_is(g):
    lane = g.lane()
    version, boot_id, software, jobs = lane.reply
    equal(version, 1)
    assert boot_id != b"\0" * 16 and software.startswith(b"modalsh-guest ")
    equal(jobs, {})
    lane.drop()
    equal(g.lane().reply[1], boot_id, "boot id")


@test
def output_status_and_one_write(g):
    lane = g.lane()
    lane.run(1, ["true"])
    single = 0
    for number in range(2, 22):
        lane.chunks.clear()
        job = lane.run(number, ["sh", "-c", "echo a; exit 3"])
        equal(job.out[1], b"a\n")
        equal(job.exit, (EXITED, 3))
        assert job.order[0] == STARTED and job.order[-2:] == [EXIT, DONE], job.order
        single += len(lane.chunks) == 1
    assert single >= 10, "only %d of 20 in one write" % single


@test
def stderr_apart_and_usage(g):
    lane = g.lane()
    job = lane.run(1, ["sh", "-c", "echo out; echo err >&2; exit 2"])
    equal((job.out[1], job.out[2], job.exit), (b"out\n", b"err\n", (EXITED, 2)))
    assert job.usage[2] > 100, "max rss"
    job = lane.run(2, ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"])
    assert 10000 < job.usage[0] + job.usage[1] < 10 ** 8, job.usage


@test
def exit_codes_and_signal_deaths(g):
    lane = g.lane()
    for number, code in enumerate((0, 1, 126, 143, 255), 1):
        equal(lane.run(number, ["sh", "-c", "exit %d" % code]).exit, (EXITED, code))
    for number, sig in enumerate((15, 9, 2, 1, 13, 11, 6, 10, 14), 10):
        equal(lane.run(number, ["sh", "-c", "kill -%d $$" % sig]).exit, (SIGNALED, sig))


@test
def same_pipe_keeps_order(g):
    lane = g.lane()
    job = lane.run(1, ["sh", "-c", "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done"],
                   streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_OUT), (2, K_SAME, 1)])
    equal(job.out[1], b"".join(b"o%d\ne%d\n" % (i, i) for i in range(1, 6)))
    equal(list(job.eof), [1])


@test
def closed_null_and_high_descriptors(g):
    lane = g.lane()
    script = "for f in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$f ] && echo $f >&5; done; readlink /proc/$$/fd/0 >&5"
    job = lane.run(1, ["sh", "-c", script], streams=[(5, K_OUT)])
    lines = job.out[5].split()
    equal([x for x in lines if x.isdigit()], [b"5"])
    job = lane.run(2, ["python3", "-c", "import os;print(sorted(int(f) for f in os.listdir('/proc/self/fd')))"],
                   streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_OUT), (2, K_SAME, 1)])
    equal(job.out[1], b"[0, 1, 2, 3]\n")  # 3 is the directory itself
    job = lane.run(3, ["bash", "-c", "exec 2>&63; cat <&9 >&1; echo x >&2; [ -e /proc/$$/fd/8 ] || echo no8"],
                   streams=[(0, K_CLOSED), (1, K_OUT), (8, K_CLOSED), (9, K_DEVICE, DEVICE_NULL), (63, K_OUT)])
    equal((job.out[63], job.out[1]), (b"x\n", b"no8\n"))


@test
def devices(g):
    lane = g.lane()
    streams = [(1, K_OUT), (2, K_SAME, 1)]
    for number, (device, name) in enumerate(((3, "null"), (5, "zero"), (7, "full"), (8, "random"), (9, "urandom")), 1):
        job = lane.run(number, ["sh", "-c", "readlink /proc/self/fd/0"], streams=[(0, K_DEVICE, device)] + streams)
        equal(job.out[1], b"/dev/%s\n" % name.encode())
    job = lane.run(10, ["sh", "-c", "readlink /proc/self/fd/0"], streams=[(0, K_DEVICE, 0)] + streams)
    equal(job.out[1], b"/\n")
    assert lane.run(11, ["true"], streams=[(0, K_DEVICE, 1)]).failed[0] == 2
    assert lane.run(12, ["true"], streams=[(0, K_DEVICE, 4000000000)]).failed[0] == 2
    job = lane.run(13, ["sh", "-c", "echo x"], streams=[(0, K_DEVICE, 3), (1, K_DEVICE, 7), (2, K_OUT)])
    assert b"I/O error" in job.out[2], job.out


@test
def descriptors_that_collide_with_the_daemons(g):
    lane = g.lane()
    streams = [(n, K_OUT) for n in range(1, 32)]
    job = lane.run(1, ["python3", "-c", "import os\nfor n in range(1,32): os.write(n, b'%d' % n)"],
                   streams=[(0, K_IN)] + streams)
    for n in range(1, 32):
        equal(job.out[n], b"%d" % n)
    equal(job.exit, (EXITED, 0))


@test
def closed_stdout_is_closed(g):
    lane = g.lane()
    job = lane.run(1, ["sh", "-c", "echo x"], streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_CLOSED), (2, K_OUT)])
    equal(job.exit[0], EXITED)
    assert job.exit[1] != 0 and job.out[2], job.out


@test
def argv_bytes_and_argv0(g):
    lane = g.lane()
    args = [b"", b" ", b"a b", b"x\ny", b"*", b"$HOME", b"\\", b"\xff\xfe\x80a", b"-n", b"--", "é".encode()]
    job = lane.run(1, ["python3", "-c", "import sys,os\nfor a in sys.argv[1:]: print(os.fsencode(a))"] + args)
    equal(job.out[1], b"".join(repr(a).encode() + b"\n" for a in args))
    job = lane.run(2, ["weird-name", "-c", "echo $0"], program="sh")
    equal(job.out[1], b"weird-name\n")
    job = lane.run(3, ["sh", "-c", "printf %s \"$1\" | wc -c", "x", "y" * 131071])
    equal(job.out[1].strip(), b"131071")
    job = lane.run(4, ["sh", "-c", ":", "y" * 131072])
    equal(job.failed, (5, 7))


@test
def environment_with_and_without_base(g):
    lane = g.lane()
    env = ["A.B=1", "HOME=/elsewhere", "LINES=x\ny", b"BYTES=\xff\x01", "E="]
    show = ["env", "-0"]
    job = lane.run(1, show, env=env, env_base=0)
    equal(job.out[1], b"\0".join(nbytes(e) for e in env) + b"\0")
    job = lane.run(2, show, env=env, env_base=1)
    got = job.out[1].split(b"\0")
    assert b"BASE=sandbox" in got and b"HOME=/elsewhere" in got and b"HOME=/tmp" not in got, got
    equal(lane.run(3, show, env_base=0).out[1], b"")


@test
def lookup_in_the_daemons_path(g):
    os.mkdir(g.dir + "/denied")
    os.mkdir(g.dir + "/bin")
    for place, mode in (("denied", 0o644), ("bin", 0o755)):
        with open("%s/%s/tool" % (g.dir, place), "w") as tool:
            tool.write("echo script $0 $1\n")
        os.chmod("%s/%s/tool" % (g.dir, place), mode)
    with open(g.dir + "/denied/only", "w"):
        pass
    g.env["PATH"] = "%s/denied:/nonexistent:%s/bin:/bin:/usr/bin" % (g.dir, g.dir)
    lane = g.lane()
    job = lane.run(1, ["tool", "arg"])
    equal(job.out[1], nbytes("script %s/bin/tool arg\n" % g.dir))
    equal(lane.run(2, ["only"]).failed, (5, 13))
    equal(lane.run(3, ["nowhere-to-be-found"]).failed, (5, 2))
    equal(lane.run(4, ["/tmp"]).failed, (5, 13))
    equal(lane.run(5, [""]).failed, (5, 2))
    with open(g.dir + "/interpreter", "w") as tool:
        tool.write("#!/no/such/interpreter\n")
    os.chmod(g.dir + "/interpreter", 0o755)
    equal(lane.run(6, [g.dir + "/interpreter"]).failed, (5, 2))
    equal(lane.run(7, ["sh", "-c", "echo $PATH"]).out[1], nbytes(g.env["PATH"] + "\n"))


@test
def default_path_when_unset(g):
    del g.env["PATH"]
    equal(g.lane().run(1, ["true"]).exit, (EXITED, 0))


@test
def directory_umask_nice(g):
    lane = g.lane()
    equal(lane.run(1, ["true"], cwd="/no/such/directory").failed, (4, 2))
    equal(lane.run(2, ["true"], cwd="/etc/passwd").failed, (4, 20))
    os.mkdir(g.dir + "/a b\n'")
    job = lane.run(3, ["sh", "-c", "pwd; umask; nice"], cwd=g.dir + "/a b\n'", umask=0o77, nice=5)
    equal(job.out[1], nbytes(g.dir + "/a b\n'\n0077\n5\n"))


@test
def limits(g):
    lane = g.lane()
    job = lane.run(1, ["sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c"],
                   limits=[(resource.RLIMIT_NOFILE, 123, 456), (resource.RLIMIT_CORE, 0, 0)])
    equal(job.out[1], b"123\n456\n0\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    equal(lane.run(2, ["sh", "-c", "ulimit -n; ulimit -Hn"]).out[1], b"%d\n%d\n" % (soft, hard))
    job = lane.run(3, ["sh", "-c", "ulimit -n"], limits=[(resource.RLIMIT_NOFILE, 1 << 40, (1 << 64) - 1)])
    equal(job.out[1], b"%d\n" % hard)
    job = lane.run(4, ["true"], streams=[(0, K_IN), (1, K_OUT), (40, K_OUT)], limits=[(resource.RLIMIT_NOFILE, 0, 0)])
    assert job.failed is None, job.failed  # set-up itself is not hurt
    job = lane.run(5, ["sh", "-c", "while :; do :; done"], limits=[(resource.RLIMIT_CPU, 1, 1)])
    equal(job.exit, (SIGNALED, 9))
    job = lane.run(7, ["sh", "-c", "dd if=/dev/zero of=%s/f bs=1k count=20" % g.dir],
                   limits=[(resource.RLIMIT_FSIZE, 4096, 4096)])
    equal(job.exit, (EXITED, 153))


@test
def dispositions_and_mask(g):
    lane = g.lane()
    show = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    job = lane.run(1, show)
    equal(job.out[1], b"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n")
    ignored, blocked = (1 << 0) | (1 << 12) | (1 << 33), (1 << 9) | (1 << 63)
    job = lane.run(2, show, ignored=ignored, blocked=blocked)
    equal(job.out[1], b"SigBlk:\t%016x\nSigIgn:\t%016x\n" % (blocked, ignored))


@test
def own_session_and_group(g):
    lane = g.lane()
    job = lane.run(1, ["sh", "-c", "echo $$; ps -o pgid= -o sid= -p $$"])
    pid, rest = job.out[1].split(b"\n", 1)
    equal([int(x) for x in rest.split()], [job.pid, job.pid])
    equal(int(pid), job.pid)


@test
def nobody_below_is_left_a_zombie(g):
    lane = g.lane()
    job = lane.run(1, ["sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.05 </dev/null >/dev/null 2>&1 & ) ; done; echo $PPID"])
    daemon = int(job.out[1])
    time.sleep(0.3)
    with open("/proc/%d/task/%d/children" % (daemon, daemon)) as children:
        equal(children.read(), "")
    equal([os.readlink("/proc/%d/fd/%d" % (daemon, fd)) for fd in (0, 1, 2)], ["/dev/null"] * 3)
    equal(os.readlink("/proc/%d/cwd" % daemon), "/")


# ---- input ----

@test
def input_through_cat(g):
    lane = g.lane()
    data = random.Random(1).randbytes(3 << 20)
    job = lane.start(1, ["cat"], streams=[(0, K_IN), (1, K_OUT)])
    feed(lane, 1, data)
    lane.finish(1)
    equal(job.out[1], data)
    equal(job.used[0], len(data))
    equal(job.closed[0], len(data))


def feed(lane, number, data, offset=0, eof=True):
    job = lane.jobs[number]
    while offset < len(data) and 0 not in job.closed:
        room = job.used.get(0, 0) + IN_WINDOW - offset
        if room == 0:
            used = job.used.get(0, 0)
            lane.wait(lambda: job.used.get(0, 0) > used or 0 in job.closed)
            continue
        piece = data[offset:offset + min(room, 100000)]
        lane.data(number, offset, piece)
        offset += len(piece)
    if eof:
        lane.in_eof(number, offset)


@test
def empty_input(g):
    lane = g.lane()
    job = lane.start(1, ["cat"], streams=[(0, K_IN), (1, K_OUT)])
    lane.in_eof(1, 0)
    lane.finish(1)
    equal((job.out[1], job.exit, job.closed[0]), (b"", (EXITED, 0), 0))


@test
def read_takes_one_line(g):
    lane = g.lane()
    for number, eof in ((1, True), (2, False)):
        job = lane.start(number, ["sh", "-c", "read a; echo $a"], streams=[(0, K_IN), (1, K_OUT)])
        lane.data(number, 0, b"l1\nl2\nl3\n")
        if eof:
            lane.in_eof(number, 9)
        lane.finish(number)
        equal((job.out[1], job.used[0], job.closed[0]), (b"l1\n", 3, 3))
        assert job.order.index(IN_CLOSED) < job.order.index(EXIT), job.order


@test
def used_is_exact_before_exit_while_another_reads_on(g):
    lane = g.lane()
    script = "read a; (sleep 0.3; cat; echo end) <&0 & exit 4"
    job = lane.start(1, ["bash", "-c", script], streams=[(0, K_IN), (1, K_OUT), (2, K_SAME, 1)])
    lane.data(1, 0, b"l1\nl2\nl3\n")
    lane.in_eof(1, 9)
    lane.wait(lambda: job.exit)
    equal((job.exit, job.used[0], 0 in job.closed, job.done), ((EXITED, 4), 3, False, False))
    lane.finish(1)
    equal((job.out[1], job.closed[0]), (b"l2\nl3\nend\n", 9))


@test
def head_takes_five_bytes(g):
    lane = g.lane()
    job = lane.start(1, ["head", "-c", "5"], streams=[(0, K_IN), (1, K_OUT)])
    feed(lane, 1, b"0123456789" * 1000000, eof=False)
    lane.finish(1)
    equal((job.out[1], job.exit), (b"01234", (EXITED, 0)))
    assert job.closed[0] <= 65536, job.closed


@test
def reader_going_is_noticed_while_idle(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "read a; exec <&-; sleep 1"], streams=[(0, K_IN), (1, K_OUT)])
    lane.data(1, 0, b"x\nrest\n")
    began = time.monotonic()
    lane.wait(lambda: 0 in job.closed)
    assert time.monotonic() - began < 0.7 and job.exit is None
    equal(job.closed[0], 2)
    lane.data(1, 7, b"late")  # it crossed: no matter
    lane.finish(1)


@test
def exit_without_reading(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "exit 7"], streams=[(0, K_IN), (1, K_OUT)])
    feed(lane, 1, b"x" * 1000000, eof=False)
    lane.finish(1)
    equal((job.exit, job.closed[0]), ((EXITED, 7), 0))


@test
def request_and_response(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "while read x; do echo got $x; done"], streams=[(0, K_IN), (1, K_OUT)])
    sent = 0
    for i in range(5):
        line = b"line%d\n" % i
        lane.data(1, sent, line)
        sent += len(line)
        lane.wait(lambda: job.out[1].endswith(b"got " + line), 2)
        lane.wait(lambda: job.used.get(0) == sent, 2)
    lane.in_eof(1, sent)
    equal(lane.finish(1).exit, (EXITED, 0))


@test
def slow_reader_is_reported_in_time(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "sleep 0.6; head -c 10 >/dev/null; sleep 1"], streams=[(0, K_IN), (1, K_OUT)])
    lane.data(1, 0, b"x" * 10)
    began = time.monotonic()
    lane.wait(lambda: job.used.get(0) == 10)
    assert 0.5 < time.monotonic() - began < 1.0, time.monotonic() - began
    lane.send(KILL, 1, b"\x09")
    lane.finish(1)


@test
def idle_daemon_does_not_spin(g):
    lane = g.lane()
    lane.start(1, ["sh", "-c", "echo $PPID; sleep 30"], streams=[(0, K_IN), (1, K_OUT), (2, K_OUT)])
    lane.start(2, ["sh", "-c", "exec 2>&-; yes"])  # stalls: nobody acknowledges
    lane.start(3, ["sleep", "30"], streams=[(0, K_IN)])
    lane.data(3, 0, b"never read")
    lane.wait(lambda: lane.jobs[1].out[1].endswith(b"\n"))
    lane.ack = False
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        lane.poll(0.1)
    daemon = int(lane.jobs[1].out[1])

    def ticks():
        with open("/proc/%d/stat" % daemon) as stat:
            return sum(int(x) for x in stat.read().rsplit(")", 1)[1].split()[11:13])

    before = ticks()
    time.sleep(1.0)
    assert ticks() - before <= 3, "%d ticks in a second" % (ticks() - before)
    for number in (1, 2, 3):
        lane.send(KILL, number, b"\x09")


# ---- output ----

@test
def much_output(g):
    lane = g.lane()
    job = lane.run(1, ["sh", "-c", "head -c 50000000 /dev/zero; head -c 5000000 /dev/zero >&2; echo ok"])
    equal((len(job.out[1]), len(job.out[2]), job.exit), (50000003, 5000000, (EXITED, 0)))


@test
def nobody_acknowledges(g):
    lane = g.lane(ack=False)
    job = lane.start(1, ["sh", "-c", "head -c 300000 /dev/zero; exit 5"], streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_OUT)])
    lane.wait(lambda: len(job.out[1]) == WINDOW_MIN)
    time.sleep(0.2)
    lane.poll(0.1)
    equal((len(job.out[1]), job.exit), (WINDOW_MIN, None))
    lane.acknowledge(1, 1, 1000, WINDOW_MIN)
    lane.wait(lambda: len(job.out[1]) == WINDOW_MIN + 1000)
    lane.acknowledge(1, 1, WINDOW_MIN + 1000, WINDOW_MAX)
    lane.finish(1)
    equal((len(job.out[1]), job.exit), (300000, (EXITED, 5)))


@test
def stalled_job_stalls_alone(g):
    lane = g.lane(ack=False)
    lane.start(1, ["yes"], streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_OUT)])
    lane.wait(lambda: len(lane.jobs[1].out[1]) == WINDOW_MIN)
    equal(lane.run(2, ["echo", "free"]).out[1], b"free\n")
    lane.send(KILL, 1, b"\x09")
    equal(lane.finish(1).exit, (SIGNALED, 9))


@test
def pipe_length_is_as_asked(g):
    lane = g.lane()
    script = "import fcntl;print(fcntl.fcntl(0,1032),fcntl.fcntl(1,1032),fcntl.fcntl(2,1032))"
    job = lane.run(1, ["python3", "-c", script], streams=[(0, K_IN, 0, 131072), (1, K_OUT, 0, 4096), (2, K_OUT)])
    equal(job.out[1], b"131072 4096 65536\n")


@test
def background_output_follows_exit(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "(sleep 0.4; echo late) & echo early; exit 3"])
    began = time.monotonic()
    lane.wait(lambda: job.exit)
    assert time.monotonic() - began < 0.3
    equal((job.exit, job.out[1], job.done), ((EXITED, 3), b"early\n", False))
    lane.send(EXIT_ACK, 1)
    lane.wait(lambda: job.done)
    equal(job.out[1], b"early\nlate\n")


@test
def exit_waits_for_what_was_written(g):
    lane = g.lane()
    for number in range(1, 30):
        job = lane.start(number, ["sh", "-c", "sleep 5 & head -c 60000 /dev/zero; exit 1"])
        lane.wait(lambda: job.exit)
        equal(job.out_at_exit[1], 60000)
        lane.send(KILL, number, b"\x09")
        lane.finish(number)


@test
def background_writer_does_not_hold_exit(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "yes & sleep 0.2; exit 6"], streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_OUT), (2, K_DEVICE, DEVICE_NULL)])
    lane.wait(lambda: job.exit, 5)
    equal(job.exit, (EXITED, 6))
    lane.send(KILL, 1, b"\x09")
    lane.finish(1)


@test
def first_bytes_come_at_once(g):
    lane = g.lane()
    began = time.monotonic()
    job = lane.start(1, ["sh", "-c", "printf no-newline; sleep 0.5"])
    lane.wait(lambda: job.out[1] == b"no-newline")
    assert time.monotonic() - began < 0.3
    lane.finish(1)


@test
def out_close_is_a_broken_pipe(g):
    lane = g.lane(ack=False)
    job = lane.start(1, ["yes"], streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_OUT)])
    lane.wait(lambda: len(job.out[1]) > 10)
    lane.send(OUT_CLOSE, 1, struct.pack("<I", 1))
    lane.finish(1)
    equal(job.exit, (SIGNALED, 13))
    assert job.eof[1]


# ---- signals ----

@test
def signal_scopes(g):
    lane = g.lane()
    inner = "trap 'echo T; exit 5' TERM; echo r; while :; do sleep 0.05; done"
    job = lane.start(1, ["sh", "-c", inner])
    lane.wait(lambda: job.out[1] == b"r\n")
    lane.signal(1, 1, 15, 1)
    lane.finish(1)
    equal((job.out[1], job.exit), (b"r\nT\n", (EXITED, 5)))

    job = lane.start(2, ["sh", "-c", "sleep 30 & echo $!; wait"])
    lane.wait(lambda: job.out[1].endswith(b"\n"))
    lane.signal(2, 1, 15, 2)
    lane.finish(2)
    equal(job.exit, (SIGNALED, 15))
    gone([int(job.out[1])])

    # a job-control shell puts its child in a group of its own, in the same session
    job = lane.start(3, ["bash", "-mc", "sleep 30 & echo $!; wait"])
    lane.wait(lambda: job.out[1].endswith(b"\n"))
    lane.signal(3, 1, 15, 3)
    lane.finish(3)
    gone([int(job.out[1])])


@test
def signal_to_a_process_that_may_lead_a_group(g):
    lane = g.lane()
    waits = "sleep 30 & echo $!; wait; echo woken; wait"
    # scope 1: the rest of the group is spared as long as the process lives on, and follows it into death
    job = lane.start(1, ["sh", "-c", "trap 'echo T' TERM; " + waits])
    lane.wait(lambda: job.out[1].endswith(b"\n"))
    lane.signal(1, 1, 15, 1)
    lane.wait(lambda: b"T\n" in job.out[1])
    sleeper = int(job.out[1].split()[0])
    time.sleep(0.3)
    assert alive(sleeper)
    lane.signal(1, 2, 1, 1)
    lane.finish(1)
    equal(job.exit, (SIGNALED, 1))
    gone([sleeper], 2)
    job = lane.start(2, ["sh", "-c", "sleep 30 & echo $!; wait"])
    lane.wait(lambda: job.out[1].endswith(b"\n"))
    lane.signal(2, 1, 15, 1)
    lane.finish(2)
    gone([int(job.out[1])], 2)
    # scope 4: it follows in any case, a moment later
    job = lane.start(3, ["sh", "-c", "trap 'echo T' TERM; " + waits])
    lane.wait(lambda: job.out[1].endswith(b"\n"))
    sleeper = int(job.out[1])
    began = time.monotonic()
    lane.signal(3, 1, 15, 4)
    gone([sleeper], 2)
    assert time.monotonic() - began > 0.05
    lane.finish(3)


@test
def stop_and_continue(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "echo r; sleep 0.2; echo x"])
    lane.wait(lambda: job.pid and job.out[1])
    time.sleep(VFORK_S)
    lane.signal(1, 1, signal.SIGSTOP, 2)
    time.sleep(0.5)
    lane.poll(0)
    equal((job.out[1], job.exit), (b"r\n", None))
    lane.signal(1, 2, signal.SIGCONT, 2)
    equal(lane.finish(1).exit, (EXITED, 0))
    equal(job.stopped, [signal.SIGSTOP])


@test
def stops_are_told(g):
    """Also those of terminals, which have no effect in a group of its own session; a handler has its way."""
    lane = g.lane()
    for number, stop in enumerate((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU), 1):
        job = lane.start(number, ["sh", "-c", "echo r; sleep 0.2; kill -STOP $$; echo x"])
        lane.wait(lambda job=job: job.pid and job.out[1])
        time.sleep(VFORK_S)
        lane.signal(number, 1, stop, 2)
        lane.wait(lambda job=job: job.stopped == [stop])
        lane.signal(number, 2, signal.SIGCONT, 2)
        lane.wait(lambda job=job: job.stopped == [stop, signal.SIGSTOP])
        lane.signal(number, 3, signal.SIGCONT, 2)
        equal(lane.finish(number).exit, (EXITED, 0))
    job = lane.start(9, ["sh", "-c", "trap 'echo caught; exit 4' TSTP; echo r; while :; do sleep 0.05; done"])
    lane.wait(lambda: job.pid and job.out[1])
    lane.signal(9, 1, signal.SIGTSTP, 2)
    equal((lane.finish(9).exit, job.stopped), ((EXITED, 4), []))


@test
def controls_are_not_repeated(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "trap 'echo U' USR1; echo r; while :; do sleep 0.05; done"])
    lane.wait(lambda: job.out[1] == b"r\n")
    lane.signal(1, 5, 10, 1)
    lane.wait(lambda: job.out[1] == b"r\nU\n")
    lane.signal(1, 5, 10, 1)
    lane.signal(1, 4, 10, 1)
    time.sleep(0.3)
    lane.poll(0)
    equal(job.out[1], b"r\nU\n")
    lane.send(KILL, 1, b"\x09")
    lane.finish(1)


@test
def kill_ends_group_and_session(g):
    lane = g.lane()
    script = "sleep 30 & echo $!; set -m; sleep 31 & echo $!; setsid sleep 32 & sleep 0.2; pgrep -f '^sleep 32' -n; wait"
    job = lane.start(1, ["bash", "-c", script])
    lane.wait(lambda: job.out[1].count(b"\n") == 3)
    first, second, apart = (int(x) for x in job.out[1].split())
    began = time.monotonic()
    lane.send(KILL, 1, b"\x09")
    lane.finish(1)
    assert time.monotonic() - began < 1
    equal(job.exit, (SIGNALED, 9))
    gone([job.pid, first, second], 2)
    assert alive(apart), "a process that left the session was killed"
    os.kill(apart, 9)


@test
def kill_after_exit_reaches_the_background(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "sleep 30 & echo $!"])
    lane.wait(lambda: job.exit)
    assert not job.done
    lane.send(KILL, 1, b"\x09")
    lane.finish(1)
    gone([int(job.out[1])], 2)


@test
def kill_with_term_becomes_kill(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "trap '' TERM; echo r; while :; do sleep 0.1; done"])
    lane.wait(lambda: job.out[1])
    began = time.monotonic()
    lane.send(KILL, 1, b"\x0f")
    lane.finish(1)
    equal(job.exit, (SIGNALED, 9))
    assert 1.5 < time.monotonic() - began < 4


# ---- terminals ----

def terminal_settings():
    master, slave = os.openpty()
    settings = fcntl.ioctl(slave, termios.TCGETS, b"\0" * 36)
    os.close(master)
    os.close(slave)
    return settings


TTY = [(0, K_TTY), (1, K_SAME, 0), (2, K_SAME, 0)]


@test
def terminal(g):
    lane = g.lane()
    script = "stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo all; echo via >/dev/tty"
    job = lane.run(1, ["sh", "-c", script], streams=TTY, winsize=(33, 77, 0, 0))
    lines = job.out[0].split(b"\r\n")
    equal(lines[0], b"33 77")
    assert lines[1].startswith(b"/dev/pts/")
    equal(lines[2:], [b"all", b"via", b""])
    equal(job.exit, (EXITED, 0))
    for number in range(2, 12):
        job = lane.run(number, ["sh", "-c", "seq 2000; exit 9"], streams=TTY)
        equal(job.out[0].replace(b"\r", b""), b"".join(b"%d\n" % i for i in range(1, 2001)))
        equal(job.out_at_exit[0], len(job.out[0]))
        equal(job.exit, (EXITED, 9))


@test
def terminal_input_resize_and_interrupt(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "trap 'stty size' WINCH; echo r; while :; do sleep 0.05; done"], streams=TTY)
    lane.wait(lambda: b"r\r\n" in job.out[0])
    lane.send(WINCH, 1, struct.pack("<I4H", 1, 40, 100, 0, 0))
    lane.wait(lambda: b"40 100" in job.out[0])
    lane.data(1, 0, b"\x03")
    lane.finish(1)
    assert b"^C" in job.out[0]
    equal(job.exit, (SIGNALED, 2))
    equal(job.closed[0], 1)


@test
def terminal_settings_cross(g):
    raw_settings = bytearray(terminal_settings())
    (lflag,) = struct.unpack_from("<I", raw_settings, 12)
    struct.pack_into("<I", raw_settings, 12, lflag & ~termios.ECHO)
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "stty -a | tr ' ' '\\n' | grep -x -e -echo -e echo; read a; echo got $a"],
                     streams=TTY, tio=bytes(raw_settings))
    lane.wait(lambda: b"-echo" in job.out[0])
    lane.data(1, 0, b"word\n")
    lane.finish(1)
    equal(job.out[0], b"-echo\r\ngot word\r\n")
    equal(lane.run(2, ["true"], streams=TTY, tio=b"short").failed, (6, 22))


@test
def terminal_background_and_hangup(g):
    lane = g.lane()
    job = lane.start(1, ["sh", "-c", "sleep 30 & exit 2"], streams=TTY)
    lane.wait(lambda: job.exit, 3)
    equal(job.exit, (EXITED, 2))
    lane.send(KILL, 1, b"\x09")
    lane.finish(1)
    job = lane.start(2, ["sh", "-c", "trap 'exit 1' HUP; echo r; while :; do sleep 0.05; done"], streams=TTY)
    lane.wait(lambda: job.out[0])
    lane.send(OUT_CLOSE, 2, struct.pack("<I", 0))
    equal(lane.finish(2).exit, (EXITED, 1))


@test
def no_terminal(g):
    job = g.lane().run(1, ["bash", "-c", "tty; : </dev/tty"], streams=[(0, K_DEVICE, DEVICE_NULL), (1, K_OUT), (2, K_OUT)])
    equal(job.out[1], b"not a tty\n")
    assert b"No such device or address" in job.out[2], job.out


# ---- lanes ----

@test
def resume_in_the_middle_of_output(g):
    jobs = {}
    lane = g.lane(jobs=jobs)
    script = "import random,sys;sys.stdout.buffer.write(random.Random(5).randbytes(5000000))"
    job = lane.start(1, ["python3", "-c", script])
    boot_id = lane.reply[1]
    for step in range(1, 10):
        lane.wait(lambda: len(job.out[1]) >= step * 500000)
        lane.drop()
        lane = g.lane(jobs=jobs)
        equal(lane.reply[1], boot_id)
        equal(list(lane.reply[3]), [1])
    lane.finish(1)
    equal(job.out[1], random.Random(5).randbytes(5000000))
    equal(job.exit, (EXITED, 0))


@test
def resume_of_input(g):
    jobs = {}
    lane = g.lane(jobs=jobs)
    data = random.Random(6).randbytes(2000000)
    job = lane.start(1, ["sh", "-c", "sleep 0.2; md5sum; sleep 0.2"], streams=[(0, K_IN), (1, K_OUT), (2, K_OUT)])
    for upto in (200000, 900000, 1500000):
        feed(lane, 1, data[:upto], offset=lane.reply[3].get(1, (0, {0: 0}))[1][0], eof=False)
        lane.drop()
        lane = g.lane(jobs=jobs)
    feed(lane, 1, data, offset=lane.reply[3][1][1][0])
    import hashlib
    lane.finish(1)
    equal(job.out[1].split()[0].decode(), hashlib.md5(data).hexdigest())
    equal(job.closed[0], len(data))


@test
def resume_after_the_end(g):
    jobs = {}
    lane = g.lane(jobs=jobs, ack=False)
    job = lane.start(1, ["sh", "-c", "echo a; echo b >&2; exit 3"])
    lane.start(2, ["/no/such/program"])
    lane.wait(lambda: job.done and jobs[2].failed)
    lane.drop()
    job.exit, job.done, jobs[2].failed, job.eof = None, False, None, {}
    lane = g.lane(jobs=jobs)
    lane.wait(lambda: job.done and jobs[2].failed)
    equal((job.exit, job.out[1], job.eof, jobs[2].failed), ((EXITED, 3), b"a\n", {1: True, 2: True}, (5, 2)))
    job.order.clear()
    lane.send(EXIT_ACK, 1)
    lane.send(EXIT_ACK, 2)
    lane.acknowledge(1, 1, 2, WINDOW_MIN)
    lane.acknowledge(1, 2, 2, WINDOW_MIN)
    lane.ping()
    # the broker has not seen DONE: the job must not look as if it had never been started
    lane.drop()
    del jobs[2]
    job.done = False
    lane = g.lane(jobs=jobs)
    equal(list(lane.reply[3]), [1])
    lane.wait(lambda: job.done)
    equal(job.order, [DONE])


@test
def start_is_never_run_twice(g):
    lane = g.lane()
    marker = g.dir + "/marker"
    for _ in range(2):
        lane.run(1, ["sh", "-c", "echo x >>%s" % marker])
    lane.start(2, ["sh", "-c", "echo x >>%s; sleep 0.2" % marker])
    lane.start(2, ["sh", "-c", "echo x >>%s; sleep 0.2" % marker])
    lane.finish(2)
    with open(marker) as text:
        equal(text.read(), "x\nx\n")


@test
def controls_after_resume(g):
    jobs = {}
    lane = g.lane(jobs=jobs)
    job = lane.start(1, ["sleep", "30"], streams=[(0, K_DEVICE, DEVICE_NULL)])
    lane.signal(1, 3, signal.SIGCONT, 1)
    lane.ping()
    lane.drop()
    lane = g.lane(jobs=jobs)
    equal(lane.reply[3][1][0], 3)
    lane.signal(1, 4, 15, 1)
    equal(lane.finish(1).exit, (SIGNALED, 15))
    assert job.done


@test
def new_lane_takes_the_old_ones_place(g):
    first = g.lane()
    job = first.start(1, ["sleep", "0.5"])
    first.wait(lambda: job.pid)
    second = g.lane(jobs=first.jobs)
    equal(first.ended(), 0)
    equal(second.finish(1).exit, (EXITED, 0))


@test
def unlisted_jobs_end(g):
    lane = g.lane()
    job = lane.start(1, ["sleep", "30"])
    lane.wait(lambda: job.pid)
    lane.drop()
    lane = g.lane()
    equal(lane.reply[3], {})
    gone([job.pid])


@test
def new_broker_ends_the_old_ones_jobs(g):
    jobs = {}
    lane = g.lane(jobs=jobs)
    job = lane.start(7, ["sleep", "30"])
    lane.wait(lambda: job.pid)
    lane.drop()
    lane = g.lane(jobs=jobs, broker_id=b"C" * 16)
    equal(lane.reply[3], {})
    gone([job.pid])
    jobs.clear()
    equal(lane.run(1, ["echo", "x"]).out[1], b"x\n")


@test
def lease_ends_everything(g):
    lane = g.lane(lease_ms=700)
    job = lane.start(1, ["sh", "-c", "trap '' TERM; sleep 30 & echo $!; setsid sleep 31 & echo $!; echo $PPID; wait; sleep 30"])
    for _ in range(4):
        time.sleep(0.3)
        lane.ping(_ + 1)
    lane.wait(lambda: job.out[1].count(b"\n") == 3)
    pids = [int(x) for x in job.out[1].split()]
    assert all(alive(pid) for pid in pids)
    began = time.monotonic()
    equal(lane.ended(), 0)
    gone(pids + [job.pid], 4)
    assert 0.5 < time.monotonic() - began < 4.5, time.monotonic() - began
    assert g.daemon_pids() == []
    boot_id = lane.reply[1]
    assert g.lane().reply[1] != boot_id


@test
def lease_runs_between_lanes_but_not_after_close(g):
    lane = g.lane(lease_ms=500)
    lane.drop()
    gone(g.daemon_pids(), 3)
    lane = g.lane(lease_ms=300)
    lane.run(1, ["true"])
    lane.send(CLOSE, 0)
    equal(lane.ended(), 0)
    time.sleep(0.8)
    again = g.lane(lease_ms=300)
    equal(again.reply[1], lane.reply[1])


@test
def what_a_job_detached_outlives_it(g):
    script = "nohup sleep 30 </dev/null >/dev/null 2>&1 & echo $!"
    lane = g.lane(ack=False)
    first = lane.run(1, ["sh", "-c", script])
    lane.ping()
    lane.drop()
    lane = g.lane(ack=False)  # lists nothing
    equal(lane.reply[3], {})
    second = lane.run(2, ["sh", "-c", script])
    lane.send(CLOSE, 0)
    equal(lane.ended(), 0)
    lane = g.lane(broker_id=b"D" * 16)
    sleepers = [int(first.out[1]), int(second.out[1])]
    assert all(alive(pid) for pid in sleepers)
    for pid in g.daemon_pids():
        os.kill(pid, signal.SIGTERM)
    gone(sleepers, 4)  # but not the daemon


@test
def close_with_a_running_job_is_refused(g):
    lane = g.lane(lease_ms=600)
    job = lane.start(1, ["sleep", "30"])
    lane.wait(lambda: job.pid)
    lane.send(CLOSE, 0)
    equal(lane.ended(), 0)
    gone([job.pid], 4)  # the lease ran on


@test
def other_version_ends_the_lane(g):
    lane = g.lane(hello=False)
    lane.hello(version=99)
    equal(lane.reply[0], 1)
    equal(lane.ended(), 0)
    equal(g.lane().reply[1], lane.reply[1])


@test
def malformed_frames_end_the_lane_only(g):
    jobs = {}
    lane = g.lane(jobs=jobs)
    keeper = lane.start(1, ["sh", "-c", "sleep 20; exit 9"], streams=[(0, K_IN), (1, K_OUT)])
    lane.wait(lambda: keeper.pid)
    boot_id = lane.reply[1]
    u32 = lambda *v: struct.pack("<%dI" % len(v), *v)
    position = lambda stream, offset: struct.pack("<IQ", stream, offset)
    good = frame(START, 9, raw(b"sh") + strings([b"sh"]) + strings([]) + b"\1" + raw(b"/") + u32(0, 0) + bytes(16) +
                 u32(0, 0) + bytes(8) + raw(b""))
    bad = {
        "length 0": u32(0), "length 4": u32(4) + b"abcd", "length too large": u32((4 << 20) - 3),
        "length all ones": u32(0xffffffff), "type 0": frame(0, 0), "type 0x7f": frame(0x7f, 1),
        "a guest's type": frame(EXIT, 1, bytes(26)), "STATUS": frame(0x20, 0), "STOP": frame(0x21, 0),
        "second HELLO": frame(HELLO, 0, u32(1) + b"B" * 16 + u32(60000, 0)),
        "PING of a job": frame(PING, 1, bytes(8)), "short PING": frame(PING, 0, b"1"),
        "long PING": frame(PING, 0, bytes(9)), "CLOSE with a body": frame(CLOSE, 0, b"x"),
        "IN of job 0": frame(IN, 0, position(0, 0) + b"x"), "IN of job 99": frame(IN, 99, position(0, 0) + b"x"),
        "IN of no stream": frame(IN, 1, position(5, 0) + b"x"), "IN of an output": frame(IN, 1, position(1, 0) + b"x"),
        "empty IN": frame(IN, 1, position(0, 0)), "IN with a gap": frame(IN, 1, position(0, 1) + b"x"),
        "IN at the end of numbers": frame(IN, 1, position(0, 2 ** 64 - 1) + b"xy"),
        "IN beyond the window": b"".join(frame(IN, 1, position(0, i * 65536) + bytes(65536)) for i in range(35)),
        "IN beyond DATA_LEN_MAX": frame(IN, 1, position(0, 0) + bytes((256 << 10) + 1)),
        "IN_EOF with a gap": frame(IN_EOF, 1, position(0, 10 ** 9)), "IN_EOF short": frame(IN_EOF, 1, u32(0)),
        "ACK ahead": frame(ACK, 1, position(1, 1) + u32(WINDOW_MIN)), "ACK window": frame(ACK, 1, position(1, 0) + u32(WINDOW_MAX + 1)),
        "ACK of an input": frame(ACK, 1, position(0, 0) + u32(WINDOW_MIN)), "OUT_CLOSE of none": frame(OUT_CLOSE, 1, u32(77)),
        "SIGNAL 0": frame(SIGNAL, 1, u32(1) + b"\0\1"), "SIGNAL 65": frame(SIGNAL, 1, u32(1) + b"\x41\1"),
        "scope 5": frame(SIGNAL, 1, u32(1) + b"\1\5"), "scope 0": frame(SIGNAL, 1, u32(1) + b"\1\0"),
        "short WINCH": frame(WINCH, 1, u32(1)), "KILL 0": frame(KILL, 1, b"\0"), "KILL 200": frame(KILL, 1, b"\xc8"),
        "KILL without a signal": frame(KILL, 1), "EXIT_ACK with a body": frame(EXIT_ACK, 1, b"x"),
        "START of job 0": good[:5] + u32(0) + good[9:],
        "START with two terminals": frame(START, 9, raw(b"sh") + strings([b"sh"]) + strings([]) + b"\1" + raw(b"/") +
                                          u32(0, 0) + bytes(16) + u32(0, 2) + u32(0) + b"\5" + u32(0, 0) + u32(1) +
                                          b"\5" + u32(0, 0) + bytes(8) + raw(b"")),
        "START with PASSED": frame(START, 9, raw(b"sh") + strings([b"sh"]) + strings([]) + b"\1" + raw(b"/") + u32(0, 0) +
                                   bytes(16) + u32(0, 1) + u32(0) + b"\6" + u32(0, 0) + bytes(8) + raw(b"")),
        "START with a stream 2**31": frame(START, 9, raw(b"sh") + strings([b"sh"]) + strings([]) + b"\1" + raw(b"/") +
                                           u32(0, 0) + bytes(16) + u32(0, 1) + u32(2 ** 31) + b"\3" + u32(0, 0) + bytes(8) + raw(b"")),
    }
    for name, data in bad.items():
        try:
            os.write(lane.process.stdin.fileno(), data)
        except BrokenPipeError:
            pass
        try:
            equal(lane.ended(3), 0, name)
        except AssertionError as error:
            raise AssertionError("%s: %s" % (name, error))
        keeper.closed.clear()
        lane = g.lane(jobs=jobs)
        equal(lane.reply[1], boot_id, name)
        equal(list(lane.reply[3]), [1], name)
    assert alive(keeper.pid)
    # every truncation of a START, and noise
    rng = random.Random(11)
    for cut in range(9, len(good), 3):
        lane.write(frame(START, 9, good[9:cut]))
        lane.ended(3)
        lane = g.lane(jobs=jobs)
    for _ in range(40):
        try:
            kind = rng.choice(list(range(0, 14)) + [0x81, 0xff])
            lane.write(frame(kind, rng.choice([0, 1, 2]), rng.randbytes(rng.randrange(40))))
            lane.write(rng.randbytes(rng.randrange(1, 5000)))
        except (BrokenPipeError, AssertionError):
            pass
        lane.drop()
        keeper.out, keeper.eof = {1: bytearray()}, {}
        jobs.clear()
        jobs[1] = keeper
        lane = g.lane(jobs=jobs)
        if lane.reply is None or lane.reply[1] != boot_id:
            raise AssertionError("the daemon died")


@test
def before_hello_nothing_is_allowed(g):
    for data in (frame(PING, 0, bytes(8)), frame(EXIT_ACK, 1), frame(CLOSE, 0), frame(KILL, 1, b"\x09"),
                 frame(HELLO, 1, struct.pack("<I16sII", 1, b"B" * 16, 1000, 0)),
                 frame(HELLO, 0, struct.pack("<I16sII", 1, b"B" * 16, 0, 0)),
                 frame(HELLO, 0, struct.pack("<I16sII", 1, b"B" * 16, 1000, 1))):
        lane = g.lane(hello=False)
        lane.write(data)
        equal(lane.ended(3), 0)
    g.lane().ping()


@test
def many_pings_without_reading(g):
    lane = g.lane()
    pings = b"".join(frame(PING, 0, struct.pack("<Q", i)) for i in range(200000))
    lane.write(pings)
    lane.wait(lambda: len(lane.pongs) == 200000)
    equal(lane.pongs, list(range(200000)))


@test
def five_hundred_jobs_at_once(g):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lane = g.lane()
    began = time.monotonic()
    for number in range(1, 501):
        lane.start(number, ["sh", "-c", "sleep 0.3; echo %d; exit %d" % (number, number % 256)])
    for number in range(1, 501):
        job = lane.finish(number, 60)
        equal((job.out[1], job.exit), (b"%d\n" % number, (EXITED, number % 256)), "job %d" % number)
    print("# 500 jobs in %.2f s" % (time.monotonic() - began))
    lane.ping()
    with open("/proc/%d/status" % g.daemon_pids()[0]) as status:
        rss = [line for line in status if line.startswith("VmRSS")][0].split()[1]
    fds = len(os.listdir("/proc/%d/fd" % g.daemon_pids()[0]))
    print("# daemon afterwards: %s KiB, %d descriptors" % (rss, fds))
    assert fds < 15, "%d descriptors left" % fds


@test
def many_attaches_start_one_daemon(g):
    lanes = [subprocess.Popen([g.binary, "attach", "--dir", g.dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env=g.env) for _ in range(20)]
    time.sleep(1.0)
    equal(len(g.daemon_pids()), 1)
    running = [lane for lane in lanes if lane.poll() is None]
    equal(len(running), 1)
    equal({lane.returncode for lane in lanes if lane not in running}, {0})
    for lane in lanes:
        lane.kill()
        lane.wait()
        lane.stdin.close()
        lane.stdout.close()


@test
def command_line(g):
    run = lambda *args: subprocess.run([g.binary, *args], capture_output=True, stdin=subprocess.DEVNULL, env=g.env)
    version = run("--version")
    equal(version.returncode, 0)
    assert version.stdout.startswith(b"modalsh-guest ")
    for args in ((), ("attach", "x"), ("serve",), ("attach", "--dir")):
        equal(run(*args).returncode, 2)
    failed = run("attach", "--dir", "/no/such/dir")
    equal((failed.returncode, failed.stderr.count(b"\n")), (1, 1))


@test
def start_is_quick(g):
    lane = g.lane()
    lane.run(1, ["true"])
    best = []
    for number in range(2, 102):
        began = time.perf_counter()
        lane.run(number, ["/bin/true"])
        best.append(time.perf_counter() - began)
    best.sort()
    print("# START to DONE of /bin/true: p50 %.0f us, p99 %.0f us" % (best[50] * 1e6, best[98] * 1e6))
    assert best[50] < 0.05


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.environ["MODALSH_BUILD_DIR"], "modalsh-guest")
    names = sys.argv[2:]
    passed = failed = 0
    for function in TESTS:
        if names and function.__name__ not in names:
            continue
        guest = Guest(binary)
        try:
            try:
                function(guest)
            finally:
                guest.close()
        except Exception as error:
            failed += 1
            print("not ok %s: %s" % (function.__name__, error))
            for line in traceback.format_exc().splitlines():
                print("#   " + line)
        else:
            passed += 1
            print("ok %s" % function.__name__)
        sys.stdout.flush()
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
