"""A broker that says what a test tells it to: the local socket of proto/PROTOCOL.md, sections 1 to 3, seen from its other end.

Every frame that a client sends is decoded here from the prose, without the C codec, so that the two check each other."""

import array
import os
import socket
import struct
import threading

HELLO, START, SIGNAL, WINCH, PING, STATUS, STOP = 0x01, 0x02, 0x07, 0x08, 0x0A, 0x20, 0x21
HELLO_REPLY, STARTED, FAILED, EXIT, PONG, STOPPED = 0x81, 0x82, 0x83, 0x88, 0x89, 0x8b
REFUSED, REPLY, ACCEPTED = 0xA0, 0xA1, 0xA2
CLOSED, PASSED = 0, 6
WAIT_S = 20


def frame(kind, body=b"", job=0):
    return struct.pack("<IBI", len(body) + 5, kind, job) + body


def bytes_field(value):
    return struct.pack("<I", len(value)) + value


def hello_reply(version=1):
    return frame(HELLO_REPLY, struct.pack("<I", version) + bytes_field(b"fake broker"))


def accepted():
    return frame(ACCEPTED)


def started(pid=4711):
    return frame(STARTED, struct.pack("<I", pid))


def exit_frame(kind, value):
    return frame(EXIT, struct.pack("<BBQQQ", kind, value, 1, 2, 3))


def failed(stage, errno_value):
    return frame(FAILED, struct.pack("<BI", stage, errno_value))


def refused(kind, text):
    return frame(REFUSED, struct.pack("<B", kind) + bytes_field(text))


class Reader:
    """Takes fields off a body; whatever is left over or missing is an error."""

    def __init__(self, body):
        self.body = body
        self.at = 0

    def take(self, layout):
        values = struct.unpack_from("<" + layout, self.body, self.at)
        self.at += struct.calcsize("<" + layout)
        return values if len(values) > 1 else values[0]

    def bytes(self):
        length = self.take("I")
        value = self.body[self.at : self.at + length]
        assert len(value) == length, "a field is longer than its frame"
        self.at += length
        return value

    def strings(self):
        values = [self.bytes() for _ in range(self.take("I"))]
        assert all(b"\0" not in value for value in values), "NUL in a string"
        return values

    def end(self):
        assert self.at == len(self.body), "bytes left over in a frame"


def parse_hello(body):
    reader = Reader(body)
    hello = {"version": reader.take("I"), "client": reader.bytes()}
    reader.end()
    return hello


def parse_start(body):
    reader = Reader(body)
    start = {
        "program": reader.bytes(),
        "argv": reader.strings(),
        "env": reader.strings(),
        "env_base": reader.take("B"),
        "cwd": reader.bytes(),
        "umask": reader.take("I"),
        "nice": reader.take("i"),
        "ignored": reader.take("Q"),
        "blocked": reader.take("Q"),
    }
    start["limits"] = {resource: (soft, hard) for resource, soft, hard in [reader.take("BQQ") for _ in range(reader.take("I"))]}
    start["streams"] = [reader.take("IBII") for _ in range(reader.take("I"))]
    start["winsize"] = reader.take("HHHH")
    start["termios"] = reader.bytes()
    reader.end()
    return start


def parse_control(kind, body):
    reader = Reader(body)
    control = {"type": kind, "sequence": reader.take("I")}
    if kind == SIGNAL:
        control["signal"], control["scope"] = reader.take("BB")
    else:
        control["winsize"] = reader.take("HHHH")
    reader.end()
    return control


class Connection:
    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(WAIT_S)
        self.held = b""
        self.fds = []
        self.fds_came_with_byte = None
        self.received = 0
        self.start = None

    def fill(self):
        """Receives some bytes, and descriptors if there are any.  False at the end."""
        room = socket.CMSG_SPACE(32 * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self.sock.recvmsg(65536, room)
        except ConnectionResetError:  # the client was killed before it had read everything
            return False
        for level, kind, value in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds = array.array("i")
            fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
            self.fds += list(fds)
            self.fds_came_with_byte = self.received
        self.received += len(data)
        self.held += data
        return len(data) > 0

    def read_frame(self):
        """(type, body), or None when the client has closed between frames."""
        while len(self.held) < 4 or len(self.held) < 4 + struct.unpack_from("<I", self.held)[0]:
            if not self.fill():
                assert self.held == b"", "the client closed within a frame"
                return None
        length, kind, job = struct.unpack_from("<IBI", self.held)
        assert 5 <= length <= 4 * 1024 * 1024 - 4, "impossible length"
        assert job == 0, "a job number on the local socket"
        body = self.held[9 : 4 + length]
        self.held = self.held[4 + length :]
        return kind, body

    def greet(self):
        """Takes HELLO and START and checks what holds for every client."""
        kind, body = self.read_frame()
        assert kind == HELLO
        assert parse_hello(body)["version"] == 1
        kind, body = self.read_frame()
        assert kind == START
        self.start = parse_start(body)
        passed = [stream for stream in self.start["streams"] if stream[1] == PASSED]
        assert len(self.fds) == len(passed), "as many descriptors as PASSED streams"
        assert self.fds == [] or self.fds_came_with_byte == 0, "descriptors belong to the first byte"
        return self.start

    def control(self):
        kind, body = self.read_frame()
        return parse_control(kind, body)

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def release(self):
        """Closes the received descriptors."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def close(self):
        self.release()
        self.sock.close()


class FakeBroker:
    """Listens at `path` and lets `script(connection)` play the broker for each connection, in a thread of its own.
    What a script raises is raised again where the `with` block ends."""

    def __init__(self, path, script, uid=None):
        self.path = path
        self.script = script
        self.errors = []
        self.threads = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if uid is not None:
            os.seteuid(uid)
        try:
            self.listener.bind(path)
            self.listener.listen(64)
        finally:
            if uid is not None:
                os.seteuid(0)
        os.chmod(path, 0o666)

    def __enter__(self):
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()
        return self

    def __exit__(self, kind, value, trace):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(WAIT_S)
        self.listener.close()
        for thread in self.threads:
            thread.join(WAIT_S)
            if thread.is_alive():
                self.errors.append(AssertionError("the script has not ended"))
        os.unlink(self.path)
        if kind is None and self.errors:
            raise self.errors[0]

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(sock,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, sock):
        connection = Connection(sock)
        try:
            self.script(connection)
        except Exception as error:  # shown by __exit__, in the test's own thread
            self.errors.append(error)
        finally:
            connection.close()
