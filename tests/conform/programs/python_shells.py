"""Python's ways to start a shell."""

from programs import case, python


@case("python", "os-system")
def os_system(t):
    """os.system: codes, a death by a signal, streams inherited."""
    python(t, """
import os, sys
for text in ("exit 0", "exit 3", "exit 255", "kill -9 $$", "kill -TERM $$", "exit 143", "no-such-command", "if",
             "cat; echo out; echo err >&2"):
    status = os.system(text)
    print(text, status, os.waitstatus_to_exitcode(status), flush=True)
""", data=b"input\n", status=0)


@case("python", "os-popen")
def os_popen(t):
    """os.popen reads, writes and tells the status."""
    python(t, """
import os
pipe = os.popen("echo one; echo two; exit 4")
print(pipe.read().split(), pipe.close())
print(os.popen("seq 200000 | tail -n 1").read())
pipe = os.popen("tr a-z A-Z; exit 5", "w")
pipe.write("written\\n" * 3)
print(pipe.close())
with os.popen("yes") as pipe:
    print(pipe.readline())
""", status=0)


@case("python", "subprocess")
def subprocess_module(t):
    """subprocess with shell=True: run, check_output, input, timeouts, sessions, environment, folders."""
    python(t, """
import os, signal, subprocess, time
def see(*values):
    print(*values, flush=True)
see(subprocess.run("cat; exit 3", shell=True, input=b"in", capture_output=True))
see(subprocess.getstatusoutput("echo both; echo err >&2; exit 6"))
see(subprocess.call("exit 7", shell=True), subprocess.call("kill -USR1 $$", shell=True))
try:
    subprocess.check_output("echo partial; exit 8", shell=True)
except subprocess.CalledProcessError as error:
    see(error, error.output)
try:
    subprocess.run("echo before; exec sleep 20", shell=True, capture_output=True, timeout=.7)
except subprocess.TimeoutExpired as error:
    see(error, error.output)
os.mkdir("sub dir")
see(subprocess.check_output("pwd; echo $X", shell=True, cwd="sub dir", env={**os.environ, "X": "a\\nb"}))
see(subprocess.run(["bash", "-c", "echo ${BASH_VERSION%%.*} $0 $1", "zero", "one two"], capture_output=True))
p = subprocess.Popen("echo up; sleep 30; :", shell=True, stdout=subprocess.PIPE, start_new_session=True)
see(p.stdout.readline())
os.killpg(p.pid, signal.SIGTERM)
see(p.wait(), p.stdout.read())
p = subprocess.Popen("cat", shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
for line in (b"1\\n", b"2\\n", b"3\\n"):
    p.stdin.write(line)
    see(p.stdout.read(2))
see(p.communicate(), p.returncode)
a = subprocess.Popen("seq 30000", shell=True, stdout=subprocess.PIPE)
b = subprocess.Popen("grep 77 | wc -l", shell=True, stdin=a.stdout, stdout=subprocess.PIPE)
a.stdout.close()
see(b.communicate()[0], a.wait())
""", status=0)


@case("python", "subprocess-pass-fds")
def subprocess_pass_fds(t):
    """subprocess hands further descriptors to the shell."""
    python(t, """
import os, subprocess
r, w = os.pipe()
p = subprocess.Popen(f"echo through >&{w}", shell=True, pass_fds=[w])
os.close(w)
print(os.read(r, 100), p.wait())
""", status=0)


@case("python", "asyncio")
def asyncio_shell(t):
    """asyncio.create_subprocess_shell: twenty at once, lines as they come, a timeout, a kill."""
    python(t, """
import asyncio, asyncio.subprocess as sub
async def one(i):
    p = await asyncio.create_subprocess_shell(f"read x; echo $x{i}; read y; echo $y >&2; exit {i}",
                                              stdin=sub.PIPE, stdout=sub.PIPE, stderr=sub.PIPE)
    p.stdin.write(b"a\\n")
    line = await p.stdout.readline()
    out, err = await p.communicate(b"b\\n")
    return line, out, err, p.returncode
async def slow():
    p = await asyncio.create_subprocess_shell("echo up; exec sleep 30", stdout=sub.PIPE)
    line = await p.stdout.readline()
    try:
        await asyncio.wait_for(p.wait(), .3)
    except asyncio.TimeoutError:
        p.kill()
    return line, await p.wait()
async def main():
    for answer in await asyncio.gather(*map(one, range(20)), slow()):
        print(answer)
asyncio.run(main())
""", status=0)


@case("python", "order-of-streams")
def order_of_streams(t):
    """Who has read stdout to its end finds what was written to stderr before; and the other way round."""
    python(t, """
import select, subprocess
for first, second in ((1, 2), (2, 1)):
    late = 0
    for i in range(100):
        p = subprocess.Popen(f"echo x >&{second}", shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        streams = {1: p.stdout, 2: p.stderr}
        streams[first].read()
        late += not select.select([streams[second]], [], [], 0)[0]
        p.communicate()
    print(first, late)
""", status=0, out=b"1 0\n2 0\n")


@case("python", "threads")
def threads(t):
    """Shells from many threads and a process pool."""
    python(t, """
import concurrent.futures, os, subprocess
def one(i):
    done = subprocess.run(f"echo {i}; exit {i % 200}", shell=True, capture_output=True)
    return done.stdout == b"%d\\n" % i and done.returncode == i % 200
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print(all(pool.map(one, range(150))))
with concurrent.futures.ProcessPoolExecutor(4) as pool:
    print(all(pool.map(one, range(50))))
""", status=0, out=b"True\nTrue\n")


@case("python", "server-of-shells")
def server_of_shells(t):
    """socketserver style: a shell whose stdin and stdout are one socket."""
    python(t, """
import socket, subprocess
ours, theirs = socket.socketpair()
p = subprocess.Popen("while read x; do echo got $x; done; exit 9", shell=True, stdin=theirs, stdout=theirs)
theirs.close()
for word in (b"one\\n", b"two\\n"):
    ours.sendall(word)
    print(ours.recv(100))
ours.shutdown(socket.SHUT_WR)
print(p.wait(), ours.recv(100))
""", status=0)
