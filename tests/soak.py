"""Ten minutes at 70 % of capacity with a bad client in the room: `make soak`, or `python -m tests.soak --minutes 0.3`.

The server is started by its public command with keys, a rate limit, metrics and the best-effort log. Capacity is measured
first: sixteen connections as fast as they can. Then the same connections ask on a schedule at 70 % of that rate while a bad client
sends what no server should be sent, leaves before it is answered, reads its answers a few bytes a second, and guesses keys.

The soak holds when
- every good request is answered with 200, and every bad one with a refusal that fits it;
- the memory of the server does not grow: the slope of the last two thirds, by least squares on the minima of twenty blocks
  (between two seals of the log the buffers of a part come and go), has a 95 % interval that begins below 0.1 MiB a minute;
- when everybody has left, no thread and no descriptor is left that was not there before;
- the log holds a row for each answer, or a counted drop;
- SIGTERM ends it with exit code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import uvloop
from scipy import stats

from mlops_nb.core.files import atomic_write, write_json
from mlops_nb.core.settings import Settings
from mlops_nb.serving.identity import new_key
from tests.serving_bundle import PATIENT, ROW, Running, make_bundle, running

TABLES = Path(__file__).resolve().parent.parent / "nbs" / "tables"
CONNECTIONS, SHARE = 16, 0.7
GROWTH_MIB_MIN = 0.1


# The good client


class Caller(asyncio.Protocol):
    "One connection that asks on a schedule and waits for each answer."

    def __init__(self, traffic: Traffic, place: int) -> None:
        self._traffic, self._place = traffic, place
        self._data, self._asked = b"", 0.0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._due = time.monotonic() + self._place * self._traffic.every_s / CONNECTIONS
        self._next()

    def _next(self) -> None:
        traffic, now = self._traffic, time.monotonic()
        if now >= traffic.end:
            self._transport.close()
            return
        wait = self._due - now
        self._due = max(self._due, now - 1.0) + traffic.every_s
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._ask)
        else:
            self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        self._transport.write(random.choice(self._traffic.requests))

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self._data = b""
        self._traffic.answers[head[9:12].decode()] += 1
        self._traffic.seconds.append(time.monotonic() - self._asked)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.monotonic() < self._traffic.end:
            self._traffic.answers["lost"] += 1
        self.ended.set_result(None)


@dataclass
class Traffic:
    "Good requests for a while."

    requests: Sequence[bytes]
    end: float  # clock of `time.monotonic`
    every_s: float = 0.0  # between the requests of a connection; 0: at once
    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    async def run(self, port: int) -> None:
        "Until the end."
        loop, callers = asyncio.get_running_loop(), []
        for place in range(CONNECTIONS):
            _, caller = await loop.create_connection(lambda p=place: Caller(self, p), "127.0.0.1", port)  # type: ignore[misc]
            callers.append(caller.ended)
        await asyncio.wait_for(asyncio.gather(*callers), self.end - time.monotonic() + 60)


def request(body: bytes, key: str, path: str = "/predict", **headers: Any) -> bytes:
    "A request as bytes."
    given = {"host": "x", "content-type": "application/json", "content-length": len(body)}
    given |= {"authorization": f"Bearer {key}"} if key else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def good_requests(key: str) -> list[bytes]:
    "Rows that differ."
    rows = [ROW | {"tenure": t, "charges": 20 + t, "plan": p} for t in range(72) for p in ("pro", "basic", None)]
    return [request(json.dumps({"rows": [row]}).encode(), key) for row in rows]


# The bad client


@dataclass
class Bad:
    "What a bad client does, and what it may be told."

    name: str
    send: Callable[[str], bytes]  # from a valid key
    allowed: tuple[str, ...]  # statuses; empty: it leaves without looking
    reads_slowly: bool = False


def _rows(*rows: dict[str, Any], times: int = 1) -> bytes:
    return json.dumps({"rows": list(rows) * times}).encode()


WRONG = _rows(ROW | {"tenure": "many", "colour": "red"})
BADNESS = (
    Bad("no JSON", lambda k: request(b'{"rows": [{', k), ("400",)),
    Bad("deep JSON", lambda k: request(b"[" * 50_000, k), ("400", "422")),
    Bad("wrong values", lambda k: request(WRONG, k), ("422",)),
    Bad("unknown form", lambda k: request(b'{"rows": [], "x": 1}', k), ("422",)),
    Bad(
        "bad tensor",
        lambda k: request(b'{"inputs": [{"name": "tenure"}]}', k, "/v2/models/churn/infer"),
        ("400", "422"),
    ),
    Bad(
        "torn binary",
        lambda k: request(b"{}", k, "/v2/models/churn/infer", inference_header_content_length=99),
        ("400",),
    ),
    Bad("no key", lambda k: request(_rows(ROW), ""), ("401",)),
    Bad("guessed key", lambda k: request(_rows(ROW), f"crm.{random.random()}"), ("401",)),
    Bad("not its role", lambda k: request(b"{}", k, "/admin/rollback"), ("403",)),
    Bad("body too large", lambda k: request(b"", k, content_length=10**12), ("413",)),
    Bad("no HTTP", lambda k: b"\x16\x03\x01\x02\x00" + bytes(200), ("400", "gone")),
    Bad("half a head", lambda k: request(_rows(ROW), k)[:60], ()),
    Bad("half a body", lambda k: request(_rows(ROW), k)[:-20], ()),
    Bad("leaves at once", lambda k: request(_rows(ROW, times=200), k), ()),
    Bad("reads slowly", lambda k: request(_rows(ROW, times=5000), k), ("200",), reads_slowly=True),
    Bad("all at once", lambda k: request(_rows(ROW), k) * 20, ("200",)),
)


async def misbehave(bad: Bad, port: int, key: str) -> str:  # Status, gone, or silent
    "Do one bad thing."
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
    try:
        writer.write(bad.send(key))
        if not bad.allowed:
            await asyncio.sleep(0.02)
            return "left"
        if bad.reads_slowly:
            for _ in range(20):
                await asyncio.sleep(0.05)
                if not await reader.read(64):
                    return "gone"
        first = await asyncio.wait_for(reader.read(2**16), 20)
        return "200" if bad.reads_slowly else first[9:12].decode() if first else "gone"
    except TimeoutError:
        return "silent"
    except OSError:
        return "gone"
    finally:
        writer.transport.abort() if random.random() < 0.5 else writer.close()


async def bad_client(port: int, key: str, end: float, seen: Counter[tuple[str, str]]) -> None:
    "All bad things, over and over."
    while time.monotonic() < end:
        for bad in random.sample(BADNESS, len(BADNESS)):
            seen[bad.name, await misbehave(bad, port, key)] += 1
            await asyncio.sleep(0.05)


def faults_of(seen: Counter[tuple[str, str]]) -> list[str]:
    "Answers to bad requests that do not fit them."
    allowed = {b.name: b.allowed or ("left",) for b in BADNESS}
    return [f"{name}: {said} ({n} times)" for (name, said), n in sorted(seen.items()) if said not in allowed[name]]


# What the server holds


@dataclass(frozen=True)
class Holds:
    "What the server's processes hold at a moment."

    minute: float
    rss_mib: float
    threads: int
    descriptors: int


def holds(pid: int, since: float) -> Holds:
    "Look at a process and its children."
    main = psutil.Process(pid)
    family = [main, *main.children(recursive=True)]
    rss = sum(p.memory_info().rss for p in family) / 2**20
    return Holds(
        (time.monotonic() - since) / 60, rss, sum(p.num_threads() for p in family), sum(p.num_fds() for p in family)
    )


async def watch(pid: int, start: float, end: float, found: list[Holds]) -> None:
    "Look every now and then."
    every_s = max(0.2, (end - start) / 600)
    while time.monotonic() < end:
        found.append(holds(pid, start))
        await asyncio.sleep(every_s)


def slope(found: Sequence[Holds], blocks: int = 20) -> tuple[float, float, float]:  # MiB a minute, and its interval
    "How memory grows after the first third."
    late = found[len(found) // 3 :]
    blocks = min(blocks, len(late))  # a machine that was busy was looked at seldom
    parts = [late[i * len(late) // blocks : (i + 1) * len(late) // blocks] for i in range(blocks)]
    floors = [(statistics.mean(h.minute for h in part), min(h.rss_mib for h in part)) for part in parts]
    fit = stats.linregress(*np.array(floors).T)
    half = float(stats.t.ppf(0.975, blocks - 2) * fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half


# The soak


@dataclass
class Soak:
    "What was seen."

    minutes: float
    capacity_per_s: float
    asked_per_s: float
    answers: dict[str, int]
    p50_ms: float
    p99_ms: float
    bad_requests: int
    bad_kinds: dict[str, int]
    bad_faults: list[str]
    rss_start_mib: float
    rss_end_mib: float
    slope_mib_min: tuple[float, float, float]
    threads: tuple[int, int]  # before, and when everybody has left
    descriptors: tuple[int, int]
    log_ok_rows: int
    log_dropped: int
    exit_code: int
    problems: list[str] = field(default_factory=list)


def log_ok_rows(folder: Path) -> int:
    "Answers in the log."
    found = 0
    for part in folder.rglob("part-*.parquet"):
        found += pq.ParquetFile(part).read(["status"])["status"].to_pylist().count("ok")
    return found


LATER = 1  # the model's thread is made with the first batch that is expected to be long


async def settle(server: Running, before: Holds, start: float, timeout_s: float = 15.0) -> Holds:
    "Wait until what the callers held is let go."
    end = time.monotonic() + timeout_s
    while True:
        now = holds(server.process.pid, start)
        if time.monotonic() > end or (now.threads <= before.threads + LATER and now.descriptors <= before.descriptors):
            return now
        await asyncio.sleep(0.25)


async def soak(server: Running, key: str, minutes: float, capacity_s: float = 5.0) -> Soak:
    "Measure, then soak."
    requests = good_requests(key)
    warm = Traffic(requests, time.monotonic() + capacity_s)
    await warm.run(server.port)
    capacity = sum(warm.answers.values()) / capacity_s
    await asyncio.sleep(0.5)
    start = time.monotonic()
    before = await settle(server, Holds(0, 0, 0, 0), start, 1.0)
    end = start + minutes * 60
    traffic = Traffic(requests, end, CONNECTIONS / (SHARE * capacity))
    seen: Counter[tuple[str, str]] = Counter()
    found: list[Holds] = []
    await asyncio.gather(
        traffic.run(server.port), bad_client(server.port, key, end, seen), watch(server.process.pid, start, end, found)
    )
    after = await settle(server, before, start)
    dropped = int(server.metric('log_rows_total{state="dropped"}'))
    server.client.close()
    code = server.stop(signal.SIGTERM)
    ok = log_ok_rows(server.log_dir)
    times = sorted(traffic.seconds)
    kinds: Counter[str] = Counter()
    for (name, _), n in seen.items():
        kinds[name] += n
    told = Soak(
        minutes,
        capacity,
        sum(traffic.answers.values()) / (minutes * 60),
        dict(traffic.answers),
        1e3 * statistics.median(times),
        1e3 * times[int(0.99 * (len(times) - 1))],
        sum(seen.values()),
        dict(sorted(kinds.items())),
        faults_of(seen),
        found[0].rss_mib,
        found[-1].rss_mib,
        slope(found),
        (before.threads, after.threads),
        (before.descriptors, after.descriptors),
        ok,
        dropped,
        code,
    )
    told.problems = problems_of(told, warm.answers["200"])
    return told


def problems_of(s: Soak, warm: int) -> list[str]:
    "Why the soak does not hold; empty when it does."
    found = [f"{n} good requests were answered {status}" for status, n in s.answers.items() if status != "200"]
    found += s.bad_faults
    if s.slope_mib_min[1] > GROWTH_MIB_MIN:
        found.append(f"memory grows by {s.slope_mib_min[0]:.2f} MiB a minute")
    for what, (before, after), later in (("threads", s.threads, LATER), ("descriptors", s.descriptors, 0)):
        if after > before + later:
            found.append(f"{after} {what} are left where there were {before}")
    if s.log_ok_rows + s.log_dropped < s.answers.get("200", 0) + warm:
        found.append(
            f"{s.log_ok_rows} rows in the log and {s.log_dropped} dropped for {s.answers.get('200', 0) + warm} answers"
        )
    return found + ([f"exit code {s.exit_code}"] if s.exit_code else [])


def table(s: Soak) -> str:
    "The soak as a page."
    low, high = s.slope_mib_min[1:]
    lines = [
        ("length", f"{s.minutes:g} min"),
        ("capacity, measured first", f"{s.capacity_per_s:,.0f} requests/s"),
        ("asked by the good client", f"{s.asked_per_s:,.0f} requests/s ({s.asked_per_s / s.capacity_per_s:.0%})"),
        ("answers to the good client", ", ".join(f"{n:,} x {status}" for status, n in sorted(s.answers.items()))),
        ("latency at the client", f"p50 {s.p50_ms:.2f} ms, p99 {s.p99_ms:.2f} ms"),
        (
            "bad requests",
            f"{s.bad_requests:,} of {len(s.bad_kinds)} kinds, {len(s.bad_faults)} answered otherwise than they must",
        ),
        ("memory", f"{s.rss_start_mib:.1f} MiB at first, {s.rss_end_mib:.1f} MiB at last"),
        (
            "slope of its floor after the first third",
            f"{s.slope_mib_min[0]:+.3f} MiB/min, 95 % [{low:+.3f}, {high:+.3f}]",
        ),
        ("threads", f"{s.threads[0]} before, {s.threads[1]} after"),
        ("descriptors", f"{s.descriptors[0]} before, {s.descriptors[1]} after"),
        ("log", f"{s.log_ok_rows:,} answers written, {s.log_dropped:,} rows dropped"),
        ("verdict", "holds" if not s.problems else "; ".join(s.problems)),
    ]
    return "| what | seen |\n|---|---|\n" + "\n".join(f"| {a} | {b} |" for a, b in lines)


def run(minutes: float, folder: Path, capacity_s: float = 5.0, **more: Any) -> Soak:
    "Start the server, soak it."
    keys = folder / "keys.json"
    key = new_key(keys, "crm")
    settings = {"serve_keys_file": keys, "serve_rate_per_s": 1e6, "serve_rate_burst": 100_000, "serve_log_seal_s": 5}
    usual = {k: Settings.model_fields[k].default for k in PATIENT}  # as in production
    settings = {**usual, **settings, "serve_drain_s": 0.2, **more}
    with running(folder, make_bundle(folder, faults=False), **settings) as server:
        return uvloop.run(soak(server, key, minutes, capacity_s))


def main() -> int:  # Exit code
    "The command."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=TABLES)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, suppress(KeyboardInterrupt):
        told = run(a.minutes, Path(folder))
        text = table(told)
        print(text)
        a.out.mkdir(parents=True, exist_ok=True)
        write_json(a.out / "soak.json", asdict(told))
        atomic_write(a.out / "soak.md", text + "\n")
        return 1 if told.problems else 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
