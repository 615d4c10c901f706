"""Modal's Python SDK, kept warm: one request per line on stdin, one JSON answer per line on stdout.

Requests are JSON objects with "op": latency {count}, stdout {bytes}, stdin {bytes}, parallel {count}, end.
"""
import asyncio
import json
import os
import sys
import time
import zlib

import modal

STDIN_PIECE = 8 << 20
SANDBOX_LIFE_S = 3600
SOURCE = "/tmp/bench-source"


def stdin_piece(length):
    return (b"0123456789abcdef" * (length // 16 + 1))[:length]


class Worker:
    def __init__(self):
        self.app = modal.App.lookup("modalsh-bench", create_if_missing=True)
        image = modal.Image.from_registry("debian:12")
        self.sandbox = modal.Sandbox.create(app=self.app, image=image, timeout=SANDBOX_LIFE_S)
        self.expect(self.sandbox.exec("true").wait(), 0)

    @staticmethod
    def expect(seen, wanted):
        if seen != wanted:
            raise SystemExit(f"the SDK's command gave {seen!r} instead of {wanted!r}")

    def latency(self, count):
        samples_us = []
        for _ in range(count):
            start = time.perf_counter_ns()
            code = self.sandbox.exec("true").wait()
            samples_us.append((time.perf_counter_ns() - start) / 1e3)
            self.expect(code, 0)
        return {"samples_us": samples_us}

    def stdout(self, **request):
        length = request["bytes"]
        script = f"seq 1 200000000 | head -c {length} > {SOURCE}"
        self.expect(self.sandbox.exec("sh", "-c", script).wait(), 0)
        start = time.perf_counter()
        process = self.sandbox.exec("cat", SOURCE, text=False)
        total = crc = 0
        for piece in process.stdout:
            total += len(piece)
            crc = zlib.crc32(piece, crc)
        self.expect(process.wait(), 0)
        return {"bytes": total, "crc": crc, "seconds": time.perf_counter() - start}

    def stdin(self, **request):
        left = request["bytes"]
        start = time.perf_counter()
        process = self.sandbox.exec("cksum")
        while left > 0:
            piece = stdin_piece(min(left, STDIN_PIECE))
            process.stdin.write(piece)
            process.stdin.drain()
            left -= len(piece)
        process.stdin.write_eof()
        process.stdin.drain()
        answer = process.stdout.read().split()
        self.expect(process.wait(), 0)
        return {"cksum": answer[:2], "seconds": time.perf_counter() - start}

    def parallel(self, count):
        async def one(number):
            process = await self.sandbox.exec.aio(
                "sh", "-c", "sleep 1; echo $0; exit $(($0 % 100))", str(number))
            return await process.stdout.read.aio(), await process.wait.aio()

        async def every():
            return await asyncio.gather(*(one(number) for number in range(count)))

        start = time.perf_counter()
        answers = asyncio.run(every())
        seconds = time.perf_counter() - start
        wrong = sum(answer != (f"{number}\n", number % 100) for number, answer in enumerate(answers))
        self.expect(wrong, 0)
        return {"count": count, "seconds": seconds}

    def end(self):
        self.sandbox.terminate()
        return {}


def main():
    worker = Worker()
    print(json.dumps({"ready": modal.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        print(json.dumps(getattr(worker, op)(**request)), flush=True)
        if op == "end":
            break
    # The SDK's own threads would hold the process for a while.
    os._exit(0)


main()
