"""Hot swaps and rollbacks under load on two workers, measured: `python -m tests.hot_swaps --swaps 100 --out FILE`.

Three bundles take turns, so that every swap loads, proves and times one that is not resident. Latencies are those of single
rows sent at a steady rate over kept connections, timed from the moment they were due.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from mlops_nb.core.files import write_json
from mlops_nb.core.settings import Settings
from mlops_nb.trial.client import Client
from mlops_nb.trial.drill import Traffic, roll_back
from mlops_nb.trial.server import serving
from tests.serving_bundle import ROW, make_bundle

THREADS = 4


@dataclass
class Steady:
    "Single rows at a steady rate, until it is stopped."

    url: str
    rate_per_s: float
    seen: list[tuple[float, float]] = field(default_factory=list)  # due, seconds until the answer
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def _send(self, k: int) -> None:
        client, gap = Client(self.url), THREADS / self.rate_per_s
        due = time.monotonic() + gap * k / THREADS
        while not self._stop.is_set():
            time.sleep(max(due - time.monotonic(), 0.0))
            try:
                reply = client.post("/predict", {"rows": [ROW], "unit_ids": [f"u{k}-{due:.3f}"]})
                said = "" if reply.ok else reply.said()
            except Exception as e:
                said = str(e)
            if said:
                self.failed.append(said)
            self.seen.append((due, time.monotonic() - due))
            due += gap
        client.close()

    def __enter__(self) -> Steady:
        self._threads = [threading.Thread(target=self._send, args=(k,)) for k in range(THREADS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def p99_ms(self, spans: list[tuple[float, float]]) -> float:
        "Of the requests due within some spans."
        found = [s for due, s in list(self.seen) if any(a <= due <= b for a, b in spans)]
        return float(np.percentile(found, 99) * 1e3)


def resident_mib(client: Client) -> float:
    "Memory of all workers."
    for line in str(client.get("/metrics").body).splitlines():
        if line.startswith("mlops_nb_resident_bytes "):
            return float(line.split()[1]) / 2**20
    return float("nan")


def swap_and_measure(url: str, bundles: list[Path], swaps: int, rate_per_s: float, calm_s: float) -> dict[str, Any]:
    "Calm, then swaps, then rollbacks."
    client, spans, memory = Client(url, timeout_s=120), [], []
    with Steady(url, rate_per_s) as load:
        time.sleep(1.0)
        began = time.monotonic()
        time.sleep(calm_s)
        calm = [(began, time.monotonic())]
        for bundle in islice(cycle([*bundles[1:], bundles[0]]), swaps):
            start = time.monotonic()
            reply = client.post("/admin/promote", {"bundle": str(bundle)})
            assert reply.ok, reply.said()
            spans.append((start, time.monotonic()))
            time.sleep(2.3)  # until the version that left is closed
            memory.append(resident_mib(client))
        after = time.monotonic()
        time.sleep(calm_s)
        calm.append((after, time.monotonic()))
        p99 = {"calm": load.p99_ms(calm), "swaps": load.p99_ms(spans)}
    late = memory[10:] or memory
    slope = float(np.polyfit(range(len(late)), late, 1)[0]) if len(late) > 1 else 0.0
    return {
        "swaps": swaps,
        "requests": len(load.seen),
        "failed": len(load.failed),
        "said": sorted(set(load.failed))[:5],
        "p99_ms": p99,
        "p99_ratio": p99["swaps"] / p99["calm"],
        "seconds_a_swap": float(np.median([b - a for a, b in spans])),
        "memory_mib": [round(m, 1) for m in memory],
        "memory_slope_mib": slope,
    }


def rollbacks(url: str, times: int) -> dict[str, Any]:
    "Rollbacks with traffic on them, as clients see them."
    client = Client(url, timeout_s=60)
    with Traffic(client, [ROW]) as traffic:
        moves = [roll_back(client, traffic) for _ in range(times)]
    seconds = [m.seconds for m in moves]
    within = sum(s <= 2.0 for s in seconds)
    return {"times": times, "within_2_s": within, "longest_s": max(seconds), "failed": sum(m.failed for m in moves)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Hot swaps and rollbacks under load.")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--rollbacks", type=int, default=20)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--calm-s", type=float, default=15.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)
        bundles = [make_bundle(folder / "b", n, shift=s, lite=True) for n, s in (("a", 0.0), ("b", 0.5), ("c", 1.0))]
        settings = Settings(serve_workers=2, serve_log_seal_s=5)  # what waits for the disk is no leak
        with serving(bundles[:1], log_dir=folder / "logs", state_dir=folder / "state", settings=settings) as server:
            time.sleep(2.0)  # the second worker
            found = swap_and_measure(server.url, bundles, given.swaps, given.rate, given.calm_s)
            found["rollbacks"] = rollbacks(server.url, given.rollbacks)
            found["exit_code"] = server.stop()
    if given.out:
        write_json(given.out, {"v": 1, **found})
    for key, value in found.items():
        print(f"{key}: {value}", flush=True)
    good = not found["failed"] and found["p99_ratio"] <= 3 and found["memory_slope_mib"] <= 1
    return 0 if good and found["rollbacks"]["within_2_s"] == given.rollbacks else 1


if __name__ == "__main__":
    sys.exit(main())
