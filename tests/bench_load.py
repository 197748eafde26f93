"""Loads for the benchmark: wrk as a closed loop, and Poisson arrivals whose latency counts from the intended moment."""

from __future__ import annotations

import json
import random
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from mlops_nb.core.errors import Refused

# Bodies differ, so that no server may answer a batch of equal rows with one computation. With a mix, one request in
# a hundred carries no key and one carries a row that breaks the contract: both must be refused.
LOAD = """
local good, anonymous, invalid, sent, mix = {}, nil, nil, 0, false
function init(args)
  local headers = { ["Content-Type"] = args[4], ["X-API-Key"] = args[2] }
  if args[5] ~= "" then headers["Inference-Header-Content-Length"] = args[5] end
  if args[6] == "" then
    for body in io.lines(args[1]) do good[#good + 1] = wrk.format("POST", nil, headers, body) end
  else
    local file = io.open(args[1], "rb")
    good[1] = wrk.format("POST", nil, headers, file:read("*a"))
  end
  mix = args[3] ~= ""
  if mix then
    anonymous = wrk.format("POST", nil, { ["Content-Type"] = args[4] }, (io.lines(args[1]))())
    invalid = wrk.format("POST", nil, headers, args[3])
  end
end
function request()
  sent = sent + 1
  if mix and sent % 100 == 50 then return invalid end
  if mix and sent % 100 == 0 then return anonymous end
  return good[sent % #good + 1]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\nMEASURED {"answers": %d, "us": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Target:
    "A server and how it is asked."

    name: str
    pid: int
    url: str
    bodies: Path  # one a line, or one whole
    key: str = "none"
    invalid: str = ""  # body that must be refused; empty: no mix
    rows: int = 1  # of one request
    header_size: int = 0  # of a binary body's JSON part


@dataclass(frozen=True)
class Measured:
    "What one server did under one load."

    server: str
    connections: int
    per_s: float  # predictions in answers with a 2xx status
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server's processes, a prediction
    answers: int  # of any status
    refused: int
    broken: int  # connections, time-outs

    @property
    def core(self) -> float:
        "Cores that the server got and used."
        return self.per_s * self.cpu_us / 1e6


def cpu_seconds(pid: int) -> float:
    "User and system time of a process and its descendants."
    process, total = psutil.Process(pid), 0.0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = each.cpu_times()
            total += used.user + used.system
    return total


def read_load(printed: str) -> dict[str, int]:
    "The line of our script in what wrk printed; raises `Refused`."
    for line in printed.splitlines():
        if line.startswith("MEASURED "):
            return json.loads(line.removeprefix("MEASURED "))
    raise Refused(f"no result: {printed.strip()[-300:]}", where="wrk")


def measure(target: Target, connections: int, seconds: int, script: Path, cpus: str) -> Measured:
    "Ask one server for some seconds."
    command = ["taskset", "-c", cpus, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
    kind = "application/octet-stream" if target.header_size else "application/json"
    size = str(target.header_size or "")
    options = [str(target.bodies), target.key, target.invalid, kind, size, "whole" if size else ""]
    before = cpu_seconds(target.pid)
    done = subprocess.run(
        [*command, "-s", str(script), target.url, "--", *options], capture_output=True, text=True, timeout=seconds + 60
    )
    used = cpu_seconds(target.pid) - before
    load = read_load(done.stdout + done.stderr)
    good = max(load["answers"] - load["refused"], 0) * target.rows
    return Measured(
        target.name,
        connections,
        per_s=good / max(load["us"] / 1e6, 1e-9),
        p50_ms=load["p50_us"] / 1000,
        p99_ms=load["p99_us"] / 1000,
        cpu_us=used * 1e6 / max(good, 1),
        answers=load["answers"],
        refused=load["refused"],
        broken=load["broken"],
    )


# Open loop


@dataclass
class Open:
    "A generator that sends when it meant to, whatever the server does."

    url: str
    bodies: Sequence[bytes]
    key: str
    rate: float  # a second
    seconds: float
    connections: int = 1024
    seed: int = 7
    answers: list[tuple[float, int]] = field(default_factory=list)  # seconds since the intended moment, status
    unsent: int = 0  # for want of a connection, at the end

    def run(self) -> None:
        "Send Poisson arrivals and collect the answers."
        parts = urlsplit(self.url)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nX-API-Key: {self.key}\r\n"
        wire = [head.encode() + b"Content-Length: %d\r\n\r\n" % len(b) + b for b in self.bodies]
        selector = selectors.DefaultSelector()
        free: list[socket.socket] = []
        for _ in range(self.connections):
            s = socket.create_connection((parts.hostname, parts.port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.setblocking(False)
            selector.register(s, selectors.EVENT_READ)
            free.append(s)
        draw, asked, waiting, sent = random.Random(self.seed), {}, deque[float](), 0
        begin = time.perf_counter()
        due, end = begin + draw.expovariate(self.rate), begin + self.seconds
        while (now := time.perf_counter()) < end + 5 and (now < end or asked or waiting):
            while due <= now and due < end:
                waiting.append(due)
                due += draw.expovariate(self.rate)
            while waiting and free:
                s = free.pop()
                asked[s] = waiting.popleft()
                s.send(wire[sent % len(wire)])
                sent += 1
            for key, _ in selector.select(max(0.0, min(due, end + 5) - time.perf_counter()) if due < end else 0.05):
                s = key.fileobj  # type: ignore[assignment]
                data = s.recv(65536)
                if not data:
                    selector.unregister(s)
                    self.answers.append((time.perf_counter() - asked.pop(s, end), 0))
                    continue
                self.answers.append((time.perf_counter() - asked.pop(s), int(data[9:12])))
                free.append(s)
        self.unsent = len(waiting) + len(asked)
        for s in {*free, *asked}:
            s.close()

    def told(self, deadline_s: float) -> dict[str, Any]:
        "What came of it."
        good = sorted(t for t, status in self.answers if status == 200)
        in_time = sum(t <= deadline_s for t in good)
        statuses = [status for _, status in self.answers]
        return {
            "offered_per_s": len(self.answers) / self.seconds,
            "goodput_per_s": in_time / self.seconds,
            "accepted": len(good),
            "late": len(good) - in_time,
            "p50_ms": percentile(good, 0.5) * 1e3,
            "p99_ms": percentile(good, 0.99) * 1e3,
            "statuses": {str(s): statuses.count(s) for s in sorted(set(statuses))},
            "unanswered": self.unsent,
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    "A quantile of sorted values; NaN for none."
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def open_loop(target: Target, rate: float, seconds: float, deadline_s: float, cpus: str) -> dict[str, Any]:
    "Run the generator in a process of its own."
    given = {"url": target.url, "bodies": str(target.bodies), "key": target.key, "rate": rate, "seconds": seconds}
    command = [
        "taskset",
        "-c",
        cpus,
        sys.executable,
        "-m",
        "tests.bench_load",
        json.dumps({**given, "deadline_s": deadline_s}),
    ]
    before = cpu_seconds(target.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise Refused(done.stderr.strip()[-300:], where="open loop")
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "rate": rate, "cpu_s": cpu_seconds(target.pid) - before}


def main() -> None:
    given = json.loads(sys.argv[1])
    bodies, deadline_s = Path(given.pop("bodies")).read_bytes().splitlines(), given.pop("deadline_s")
    generator = Open(bodies=bodies, **given)
    generator.run()
    print(json.dumps(generator.told(deadline_s)))


if __name__ == "__main__":
    main()
