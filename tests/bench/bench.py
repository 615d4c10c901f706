"""Measures modalsh beside a local process, ssh and Modal's Python SDK, in one run; see run.sh for the options.

Nothing here fails because of a number.  Wrong bytes, a wrong exit status or a program that does not start end the run.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib

HERE = pathlib.Path(__file__).resolve().parent
COLUMNS = ("local", "modalsh", "ssh", "sdk")
SECTIONS = ("latency", "stdout", "stdin", "parallel", "memory", "stalled", "instructions")
FAR_RTT_MS = 40
START_WAIT_S = 60
MIB = 1 << 20
WARMUP = 5
ROUNDS = 4
PARALLEL_SCRIPT = "sleep 1; echo $0; exit $(($0 % 100))"
STALLED_SETTLE_S = 30
# How many commands the two broker runs under callgrind differ by.
INSTRUCTION_RUNS = (100, 600)
GUEST_INSTRUCTIONS = re.compile(r"guest instrs:\s+([\d,]+)")
CKSUM_LINE = re.compile(r"^(\d+) (\d+)\s")


class Failure(Exception):
    """Wrong bytes, a wrong status, or something that does not start."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(condition, what, process=None):
    until = time.monotonic() + START_WAIT_S
    while not condition():
        if process is not None and process.poll() is not None:
            raise Failure(f"{what}: the process ended with {process.returncode}")
        if time.monotonic() > until:
            raise Failure(f"{what}: not within {START_WAIT_S} s")
        time.sleep(0.02)


def stop(process):
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def memory_kib(pid, field="Rss"):
    """Rss is counted page by page; VmHWM, the peak, comes from the kernel's counters, which may lag by some pages."""
    file = "smaps_rollup" if field == "Rss" else "status"
    for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise Failure(f"process {pid} has no {field}")


class Proxied:
    """A port on this host and, when rtt_ms is not 0, the delaying proxy in front of it."""

    def __init__(self, bench, port, rtt_ms, name):
        self.process = None
        self.port = port
        if rtt_ms == 0:
            return
        port_file = bench.work / f"{name}.port"
        self.process = bench.start([bench.tool("fault_proxy"), "--to", f"127.0.0.1:{port}", "--rtt-ms", str(rtt_ms),
                                    "--port-file", port_file], f"{name}.log")
        wait_for(port_file.exists, "fault_proxy", self.process)
        self.port = int(port_file.read_text())


class Server:
    """One modalsh-loopback, whose clients all go through its proxy."""

    def __init__(self, bench, rtt_ms):
        name = f"loopback{rtt_ms}"
        port, port_file = free_port(), bench.work / f"{name}.port"
        self.ca_file = bench.work / f"{name}.pem"
        self.proxied = Proxied(bench, port, rtt_ms, f"{name}-proxy")
        self.process = bench.start(
            [bench.program("modalsh-loopback"), "--listen", f"127.0.0.1:{port}", "--port-file", port_file,
             "--ca-file", self.ca_file, "--state-dir", bench.work / name,
             "--advertise", f"127.0.0.1:{self.proxied.port}"], f"{name}.log", env=bench.token_env)
        wait_for(port_file.exists, "modalsh-loopback", self.process)

    def url(self, scheme):
        return f"{scheme}://127.0.0.1:{self.proxied.port}"


class Broker:
    """One modalsh-broker with its sandbox and lane up; prefix is what it is started under, more_env what it gets too."""

    def __init__(self, bench, server, name, prefix=(), more_env=None):
        self.socket = bench.work / f"{name}.sock"
        config = bench.work / f"{name}.json"
        config.write_text(json.dumps({
            "terminal": {"backend": "modal", "cwd": "/tmp", "modal_image": "debian:12",
                         "container_persistent": False},
            "modalsh": {"socket": str(self.socket), "guest": str(bench.program("modalsh-guest")), "session": name,
                        "server_url": server.url("https"), "ca_file": str(server.ca_file), "start_early": True},
        }))
        config.chmod(0o600)
        ready_read, ready_write = os.pipe()
        self.process = bench.start(
            [*prefix, bench.program("modalsh-broker"), "--config", config, "--foreground", "--ready-fd",
             str(ready_write)], f"{name}.log", env={**bench.token_env, **(more_env or {})}, pass_fds=[ready_write])
        os.close(ready_write)
        with os.fdopen(ready_read, "rb") as ready:
            if not ready.read(1):
                raise Failure(f"modalsh-broker did not become ready: {bench.log_tail(f'{name}.log')}")
        self.env = {**bench.plain_env, "MODALSH_SOCKET": str(self.socket)}


class Ssh:
    """A private sshd and one master connection to it."""

    def __init__(self, bench, rtt_ms):
        self.dir = bench.work / f"ssh{rtt_ms}"
        self.dir.mkdir(mode=0o700)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.dir / key], check=True)
        shutil.copy(self.dir / "user.pub", self.dir / "authorized")
        port = free_port()
        (self.dir / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {self.dir}/host\nAuthorizedKeysFile {self.dir}/authorized\n"
            f"PidFile {self.dir}/pid\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
            # The user's own shell start-up files are not what is measured.
            f"SetEnv HOME={self.dir}\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxSessions 4096\nMaxStartups 4096\n"
            "PrintMotd no\nUseDNS no\n")
        if os.geteuid() == 0:
            pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.sshd = bench.start([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", self.dir / "sshd_config"],
                                f"sshd{rtt_ms}.log")
        wait_for((self.dir / "pid").exists, "sshd", self.sshd)
        proxied = Proxied(bench, port, rtt_ms, f"ssh{rtt_ms}-proxy")
        host_key = " ".join((self.dir / "host.pub").read_text().split()[:2])
        (self.dir / "known").write_text(f"[127.0.0.1]:{proxied.port} {host_key}\n")
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        (self.dir / "config").write_text(
            f"Host bench\n HostName 127.0.0.1\n Port {proxied.port}\n User {user}\n IdentityFile {self.dir}/user\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {self.dir}/known\n GlobalKnownHostsFile none\n"
            f" ControlPath {self.dir}/master\n BatchMode yes\n")
        self.client = ["ssh", "-F", str(self.dir / "config")]
        self.master = bench.start([*self.client, "-M", "-N", "bench"], f"ssh-master{rtt_ms}.log")
        wait_for((self.dir / "master").exists, "ssh master", self.master)

    def command(self, script):
        return [*self.client, "bench", script]


class Sdk:
    """sdk_worker.py, warm, with a sandbox of its own."""

    def __init__(self, bench, server):
        empty = bench.work / "modal.toml"
        empty.touch()
        env = {**bench.token_env, "MODAL_SERVER_URL": server.url("http"), "MODAL_CONFIG_PATH": str(empty),
               "MODAL_SANDBOX_V2": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.bench = bench
        self.log = f"sdk-{server.proxied.port}.log"
        self.process = bench.start([bench.args.sdk_dir / "venv/bin/python", HERE / "sdk_worker.py"], self.log, env=env,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self.answer()["ready"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"the SDK's process ended: {self.bench.log_tail(self.log)}")
        return json.loads(line)

    def ask(self, op, **request):
        self.process.stdin.write(json.dumps({"op": op, **request}) + "\n")
        self.process.stdin.flush()
        return self.answer()


class Bench:
    def __init__(self, args, work):
        self.args = args
        self.work = work
        self.processes = []
        self.rows = []
        self.local_p50_us = None
        self.made = {}
        self.plain_env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL")}
        self.token_env = {**self.plain_env, "MODAL_TOKEN_ID": f"ak-bench{os.urandom(8).hex()}",
                          "MODAL_TOKEN_SECRET": f"as-bench{os.urandom(16).hex()}"}

    # Programs and processes

    def program(self, name):
        path = self.args.build_dir / name
        if not os.access(path, os.X_OK):
            raise Failure(f"{path} is not there: build it first, or leave its column out (--columns)")
        return path

    def tool(self, name):
        return self.args.tool_dir / name

    def start(self, argv, log, **options):
        options.setdefault("env", self.plain_env)
        options.setdefault("stdin", subprocess.DEVNULL)
        with open(self.work / log, "ab") as stream:
            options.setdefault("stdout", stream)
            process = subprocess.Popen([str(part) for part in argv], stderr=stream, **options)
        self.processes.append(process)
        return process

    def log_tail(self, log):
        return (self.work / log).read_text(errors="replace")[-600:].strip()

    def stop_all(self):
        for process in reversed(self.processes):
            stop(process)

    def once(self, key, make):
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def server(self, rtt_ms):
        return self.once(("server", rtt_ms), lambda: Server(self, rtt_ms))

    def broker(self, rtt_ms):
        return self.once(("broker", rtt_ms), lambda: Broker(self, self.server(rtt_ms), f"broker{rtt_ms}"))

    def ssh(self, rtt_ms):
        return self.once(("ssh", rtt_ms), lambda: Ssh(self, rtt_ms))

    def sdk(self, rtt_ms):
        return self.once(("sdk", rtt_ms), lambda: Sdk(self, self.server(rtt_ms)))

    def shim_as(self, name):
        """The path of a link to the shim: the name by which it is started says what it runs."""
        path = self.work / "bin" / name
        path.parent.mkdir(exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(self.program("modalsh"))
        return path

    def remote(self, column, rtt_ms, script):
        """argv and environment that run a script for sh."""
        if column == "local":
            return ["dash", "-c", script], self.plain_env
        if column == "modalsh":
            return [str(self.shim_as("sh")), "-c", script], self.broker(rtt_ms).env
        return self.ssh(rtt_ms).command(script), self.plain_env

    def measure(self, options, argv, env, **popen):
        """One run of spawn_bench and what it found."""
        done = subprocess.run([self.tool("spawn_bench"), *options, "--", *argv], env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **popen)
        if done.returncode != 0:
            raise Failure(f"{' '.join(argv)[:120]}: {done.stderr.strip()[-600:]}")
        return json.loads(done.stdout)

    def wanted(self, *names):
        return [name for name in names if name in self.args.columns]

    def row(self, section, column, rtt_ms, **values):
        self.rows.append({"section": section, "column": column, "rtt_ms": rtt_ms, **values})

    # What is measured

    def latency_samples(self, column, rtt_ms, stdio, count):
        if column == "sdk":
            return self.sdk(rtt_ms).ask("latency", count=count)["samples_us"]
        argv, env = self.remote(column, rtt_ms, "true")
        options = ["--count", str(count), "--warmup", str(WARMUP), "--stdio", stdio]
        return self.measure(options, argv, env)["samples_us"]

    def latency_row(self, column, rtt_ms, stdio, samples_us):
        ordered = sorted(samples_us)
        p50_us = ordered[(len(ordered) - 1) // 2]
        if column == "local" and stdio == "pipe":
            self.local_p50_us = p50_us
        self.row("latency", column, rtt_ms, stdio=stdio, count=len(ordered), p50_us=p50_us,
                 p99_us=ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], mean_us=sum(ordered) / len(ordered),
                 ratio_to_local=p50_us / self.local_p50_us if self.local_p50_us else None)

    def latency(self):
        """Columns take turns, so that what else happens on the machine hits all of them."""
        near = {"local": 2000, "modalsh": 2000, "ssh": 400, "sdk": 400}
        far = {"modalsh": 80, "ssh": 80, "sdk": 80}
        if self.args.quick:
            near, far = {"local": 400, "modalsh": 400, "ssh": 60, "sdk": 60}, {"modalsh": 20, "ssh": 20, "sdk": 12}
        for rtt_ms, counts in ((0, near), (FAR_RTT_MS, far)):
            series = [(column, "pipe") for column in self.wanted(*counts)]
            if rtt_ms == 0:
                series += [(column, "null") for column in self.wanted("local", "modalsh")]
            samples = {key: [] for key in series}
            for _ in range(ROUNDS):
                for column, stdio in series:
                    samples[column, stdio] += self.latency_samples(column, rtt_ms, stdio, counts[column] // ROUNDS)
            for (column, stdio), samples_us in samples.items():
                self.latency_row(column, rtt_ms, stdio, samples_us)

    def source(self):
        """A local file of the bytes that are sent, and its name."""
        path = self.work / "source"
        if not path.exists():
            subprocess.run(["sh", "-c", f"seq 1 200000000 | head -c {self.stdout_len()} > {path}"], check=True)
        return path

    def stdout_len(self):
        return (128 if self.args.quick else 1024) * MIB

    def speed_row(self, section, column, rtt_ms, length, seconds):
        self.row(section, column, rtt_ms, mib=length // MIB, seconds=seconds, mb_per_s=length / 1e6 / seconds)

    def stdout_one(self, column, rtt_ms, length):
        source = self.source() if column in ("local", "ssh") else "/tmp/bench-source"
        if column == "modalsh":
            argv, env = self.remote(column, rtt_ms, f"seq 1 200000000 | head -c {length} > {source}")
            subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL)
        wanted = self.measure(["--sink"], ["head", "-c", str(length), str(self.source())], self.plain_env)
        argv, env = self.remote(column, rtt_ms, f"head -c {length} {source}")
        found = self.measure(["--sink"], argv, env, stdin=subprocess.DEVNULL)
        if (found["bytes"], found["sum"]) != (wanted["bytes"], wanted["sum"]):
            raise Failure(f"stdout through {column}: {found} instead of {wanted}")
        self.speed_row("stdout", column, rtt_ms, length, found["seconds"])

    def stdout_sdk(self, rtt_ms, length):
        crc = 0
        with open(self.source(), "rb") as stream:
            for _ in range(length // MIB):
                crc = zlib.crc32(stream.read(MIB), crc)
        found = self.sdk(rtt_ms).ask("stdout", bytes=length)
        if (found["bytes"], found["crc"]) != (length, crc):
            raise Failure(f"stdout through the SDK: {found} instead of {length} bytes with CRC {crc}")
        self.speed_row("stdout", "sdk", rtt_ms, length, found["seconds"])

    def stdout(self):
        for rtt_ms in (0, FAR_RTT_MS):
            length = self.stdout_len() if rtt_ms == 0 else self.stdout_len() // 4
            for column in self.wanted(*(["local"] if rtt_ms == 0 else []), "modalsh", "ssh"):
                self.stdout_one(column, rtt_ms, length)
            if self.wanted("sdk"):
                self.stdout_sdk(rtt_ms, length // 8)

    def stdin_check(self, column, answer, wanted):
        line = CKSUM_LINE.match(answer + " ")
        if line is None or list(line.groups()) != wanted:
            raise Failure(f"stdin through {column}: cksum said {answer!r} instead of {wanted}")

    def stdin_one(self, column, rtt_ms, path, piped):
        """cksum at the far end both proves the bytes and is fast enough not to be what is measured."""
        argv, env = self.remote(column, rtt_ms, "cksum")
        start = time.perf_counter()
        with open(path, "rb") as source:
            feeder = subprocess.Popen(["cat"], stdin=source, stdout=subprocess.PIPE) if piped else None
            done = subprocess.run(argv, env=env, stdin=feeder.stdout if feeder else source, text=True,
                                  stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - start
        if feeder:
            feeder.stdout.close()
            feeder.wait()
        self.stdin_check(column, done.stdout, self.cksum(path))
        self.speed_row("stdin, pipe" if piped else "stdin, file", column, rtt_ms, path.stat().st_size, seconds)

    @staticmethod
    def cksum(path):
        return subprocess.run(["cksum", path], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[:2]

    def stdin(self):
        """Less of it at the far end, where a window's worth for each round trip can be slow."""
        for rtt_ms in (0, FAR_RTT_MS):
            length = (32 if self.args.quick else 256) * MIB // (1 if rtt_ms == 0 else 4)
            path = self.work / f"stdin{rtt_ms}"
            subprocess.run(["sh", "-c", f"seq 1 200000000 | head -c {length} > {path}"], check=True)
            for column in self.wanted(*(["local"] if rtt_ms == 0 else []), "modalsh", "ssh"):
                self.stdin_one(column, rtt_ms, path, piped=True)
                self.stdin_one(column, rtt_ms, path, piped=False)
            if self.wanted("sdk"):
                self.stdin_sdk(rtt_ms, length // 4)

    def stdin_sdk(self, rtt_ms, length):
        data = b"0123456789abcdef" * (length // 16)
        wanted = subprocess.run(["cksum"], input=data, check=True, stdout=subprocess.PIPE).stdout.split()[:2]
        found = self.sdk(rtt_ms).ask("stdin", bytes=length)
        if found["cksum"] != [part.decode() for part in wanted]:
            raise Failure(f"stdin through the SDK: cksum said {found['cksum']} instead of {wanted}")
        self.speed_row("stdin, pipe", "sdk", rtt_ms, length, found["seconds"])

    def parallel(self):
        count = 200 if self.args.quick else 1000
        for column in self.wanted(*COLUMNS):
            if column == "sdk":
                found = self.sdk(0).ask("parallel", count=count)
            else:
                argv, env = self.remote(column, 0, PARALLEL_SCRIPT)
                if column == "ssh":
                    # ssh joins its arguments and hands them to a shell; the number arrives behind the closing quote.
                    argv = [*argv[:-1], f"sh -c '{PARALLEL_SCRIPT}'"]
                found = self.measure(["--parallel", str(count)], argv, env)
            self.row("parallel", column, 0, count=count, seconds=found["seconds"])

    def memory(self):
        broker = self.broker(0)
        self.row("memory", "broker, idle", 0, kib=memory_kib(broker.process.pid),
                 peak_kib=memory_kib(broker.process.pid, "VmHWM"))
        sleeper = subprocess.Popen([self.shim_as("sh"), "-c", "echo up; exec sleep 60"], env=broker.env,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        if sleeper.stdout.readline() != b"up\n":
            raise Failure("the command whose shim is weighed did not start")
        self.row("memory", "shim, waiting", 0, kib=memory_kib(sleeper.pid), peak_kib=memory_kib(sleeper.pid, "VmHWM"))
        sleeper.send_signal(signal.SIGTERM)
        if sleeper.wait(15) != -signal.SIGTERM:
            raise Failure(f"the shim ended with {sleeper.returncode} instead of SIGTERM")
        sleeper.stdout.close()

    def stalled(self):
        """Readers that stop reading must cost the broker no more than their windows."""
        broker, count = self.broker(0), 50 if self.args.quick else 200
        before_kib = memory_kib(broker.process.pid)
        commands = [subprocess.Popen([self.shim_as("sh"), "-c", "exec cat /dev/zero"], env=broker.env,
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for _ in range(count)]
        try:
            for command in commands:
                if command.stdout.read(1) != b"\0":
                    raise Failure("a command whose reader is to stall wrote nothing")
            settled_kib = self.settled_kib(broker.process.pid)
            argv, env = self.remote("modalsh", 0, "true")
            samples_us = sorted(self.measure(["--count", "50"], argv, env)["samples_us"])
        finally:
            for command in commands:
                command.stdout.close()
        for command in commands:
            if command.wait(30) != -signal.SIGPIPE:
                raise Failure(f"a command whose reader is gone ended with {command.returncode} instead of SIGPIPE")
        self.row("memory", f"broker, {count} stalled readers", 0, kib=settled_kib, before_kib=before_kib,
                 peak_kib=memory_kib(broker.process.pid, "VmHWM"))
        self.row("memory", "broker, after them", 0, kib=memory_kib(broker.process.pid))
        self.row("latency", "modalsh beside stalled ones", 0, stdio="pipe", count=50, p50_us=samples_us[24],
                 p99_us=samples_us[49], mean_us=sum(samples_us) / 50,
                 ratio_to_local=samples_us[24] / self.local_p50_us if self.local_p50_us else None)

    @staticmethod
    def settled_kib(pid):
        """The resident memory once it has stopped growing for two seconds."""
        until = time.monotonic() + STALLED_SETTLE_S
        seen, since = memory_kib(pid), time.monotonic()
        while time.monotonic() < until and time.monotonic() - since < 2:
            time.sleep(0.1)
            now_kib = memory_kib(pid)
            if now_kib > seen:
                seen, since = now_kib, time.monotonic()
        return seen

    def shim_instructions(self):
        """By lackey, which counts what callgrind counts: the shim's lock keeps callgrind from writing its file."""
        argv = ["valgrind", "--tool=lackey", self.program("modalsh"), "-c", "true"]
        done = subprocess.run(argv, env=self.broker(0).env, check=True, stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
        found = GUEST_INSTRUCTIONS.search(done.stderr)
        if found is None:
            raise Failure(f"valgrind counted nothing: {done.stderr[-600:]}")
        return int(found.group(1).replace(",", ""))

    def broker_instructions(self, runs):
        """The whole life of a broker that served so many commands, by callgrind."""
        name = f"weighed{runs}"
        out = self.work / f"{name}.callgrind"
        prefix = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}"]
        broker = Broker(self, self.server(0), name, prefix, {"LD_PRELOAD": str(self.tool("no_seccomp.so"))})
        self.measure(["--count", str(runs), "--warmup", "0"], [str(self.shim_as("sh")), "-c", "true"], broker.env)
        stop(broker.process)
        for line in out.read_text().splitlines():
            if line.startswith(("summary:", "totals:")):
                return int(line.split()[1])
        raise Failure(f"{out} has no total")

    def instructions(self):
        """Of user space: the shim's from one run, the broker's as the difference of two runs of different length."""
        self.row("instructions", "shim", 0, per_command=self.shim_instructions())
        few, many = INSTRUCTION_RUNS
        per_command = (self.broker_instructions(many) - self.broker_instructions(few)) / (many - few)
        self.row("instructions", "broker", 0, per_command=round(per_command))

    def run(self):
        needs_modalsh = ("memory", "stalled", "instructions")
        for section in self.args.only:
            if section in needs_modalsh and not self.wanted("modalsh"):
                continue
            print(f"# {section}", file=sys.stderr, flush=True)
            getattr(self, section)()


def table_line(row):
    def number(name, scale=1.0, digits=2):
        return f"{row[name] * scale:.{digits}f}" if row.get(name) is not None else "-"

    section = row["section"]
    head = f"{section:<14}{row['column']:<30}{row['rtt_ms']:>4} ms  "
    if section == "latency":
        return head + (f"n {row['count']:>5}  stdio {row['stdio']:<5} p50 {number('p50_us', 1e-3):>8} ms  p99 "
                       f"{number('p99_us', 1e-3):>8} ms  mean {number('mean_us', 1e-3):>8} ms  x local "
                       f"{number('ratio_to_local'):>7}")
    if section == "stdout" or section.startswith("stdin"):
        return head + f"{row['mib']:>5} MiB in {number('seconds'):>7} s  {number('mb_per_s', digits=0):>6} MB/s"
    if section == "parallel":
        return head + f"{row['count']:>5} x sleep 1 in {number('seconds'):>7} s"
    if section == "memory":
        return head + f"{row['kib']:>7} KiB resident  peak {row.get('peak_kib', '-'):>7} KiB"
    return head + f"{row['per_command']:>9} instructions per warm command"


def names(allowed):
    def parse(text):
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(allowed)}")
        return chosen
    return parse


def arguments():
    parser = argparse.ArgumentParser(prog="run.sh", description="Measures modalsh beside local, ssh and the SDK.")
    parser.add_argument("--build-dir", type=lambda text: pathlib.Path(text).resolve(), required=True)
    parser.add_argument("--tool-dir", type=pathlib.Path, required=True)
    parser.add_argument("--sdk-dir", type=pathlib.Path, required=True)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under a minute")
    parser.add_argument("--stalled", action="store_true", help="the stalled readers also with --quick")
    parser.add_argument("--only", type=names(SECTIONS), help="sections, by comma")
    parser.add_argument("--columns", type=names(COLUMNS), default=list(COLUMNS), help="columns, by comma")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON; - is stdout, without the table")
    args = parser.parse_args()
    if args.only is None:
        args.only = [name for name in SECTIONS if not args.quick or name != "instructions"]
        if args.quick and not args.stalled:
            args.only.remove("stalled")
    return args


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="modalsh-bench-") as work:
        bench = Bench(args, pathlib.Path(work))
        failure = None
        try:
            bench.run()
        except (Failure, subprocess.SubprocessError, OSError) as error:
            failure = error
        finally:
            bench.stop_all()
    result = {"cpus": os.cpu_count(), "kernel": os.uname().release, "quick": args.quick, "rows": bench.rows}
    text = json.dumps(result, indent=1) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
    else:
        print(f"{result['cpus']} CPUs, Linux {result['kernel']}; far is {FAR_RTT_MS} ms of round-trip time through fault_proxy")
        print("\n".join(table_line(row) for row in bench.rows))
    if args.json not in (None, "-"):
        pathlib.Path(args.json).write_text(text)
    if failure is not None:
        sys.exit(f"run.sh: {failure}")


main()
