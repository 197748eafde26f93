"""How fast the server is beside its limits, a naive server and its peers: `make bench`, or `python -m tests.bench --quick`.

The server stands on one core and the load on another, all in one run, because a shared machine allows ratios and no absolute
figures. Ours is started by its public command with the settings of production and everything on: validation, an API key, a
rate limit, metrics, the prediction log; one request in a hundred is invalid and one carries no key, and both must be refused.

- echo: a bare ASGI app that reads the body and answers a constant, run with the same uvicorn options. The HTTP limit, L1.
- raw onnxruntime on the server's core without HTTP: the model's limit, L2. L3 = 1 / (1/L1 + 1/L2): both on one core.
- naive: FastAPI and pydantic with one call of onnxruntime a request.
- MLServer, BentoML, LitServe and MLflow, as their guides run them, as far as they can be installed.

Speed is measured here and asserted nowhere. Wrong answers, refusals that did not happen, and log records that are missing end
the run with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq

from mlops_nb.bundle.foreign import export_onnx
from mlops_nb.core.errors import InputError, MlopsError
from mlops_nb.core.files import atomic_write, write_json
from mlops_nb.core.settings import PREFIX
from mlops_nb.serving.identity import new_key
from tests.bench_load import LOAD, Measured, Target, measure, open_loop
from tests.bench_servers import (
    MODELS,
    PEER_SERVERS,
    ROOT,
    WIDTH,
    Peer,
    listening,
    matrix,
    ours,
    running_peer,
    serve_child,
    session_of,
    wait_answer,
)  # fmt: skip

TABLES = ROOT / "nbs" / "tables"
BATCHES = (1, 4, 16, 64, 256, 1024)
ECHO, OURS, OURS_ROWS, NAIVE = "echo", "ours, V2", "ours, rows", "naive"
MANY = 512  # rows of one binary request
DEADLINE_S = 0.25  # of the open loop


@dataclass(frozen=True)
class Plan:
    "How much is measured."

    seconds: int = 4
    repeats: int = 3
    connections: tuple[int, ...] = (1, 16, 64, 256)
    deep_connections: tuple[int, ...] = (1, 64)
    peers: bool = True
    parts: tuple[str, ...] = ("small", "deep", "many", "open", "workers")


QUICK = Plan(seconds=1, repeats=1, connections=(1, 16), deep_connections=(16,), peers=False)


@dataclass
class Bench:
    "A run: where it is, on which cores, and what was found."

    folder: Path
    plan: Plan
    server_cpu: str
    load_cpu: str
    key: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def script(self) -> Path:
        "The script of wrk."
        return self.folder / "load.lua"

    def model(self, name: str) -> Path:
        "The graph, made once."
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            path.write_bytes(MODELS[name]())
        return path

    def bundle(self, name: str) -> Path:
        "A bundle around it."
        path = self.folder / f"bundle-{name}"
        if not path.exists():
            export_onnx(self.model(name), matrix(), path, name=name, classes=("no", "yes"))
        return path

    def environ(self, **settings: Any) -> dict[str, str]:
        "Settings of our server beyond the profile's."
        keys = {"serve_keys_file": self.folder / "keys.json", "serve_rate_per_s": 1e6, "serve_drain_s": 0.2}
        keys["serve_require_approval"] = False  # asked before the port opens; behind these graphs stands no decision
        return {PREFIX + k.upper(): str(v) for k, v in {**keys, **settings}.items()}


# Bodies


def v2_body(row: list[float]) -> dict[str, Any]:
    "One row as a packed tensor."
    return {"inputs": [{"name": "X", "shape": [1, WIDTH], "datatype": "FP32", "data": row}]}


def rows_body(row: list[float]) -> dict[str, Any]:
    "One row by column name."
    return {"rows": [{f"x{k}": value for k, value in enumerate(row)}]}


BODIES: dict[str, Callable[[list[float]], dict[str, Any]]] = {
    "v2": v2_body,
    "rows": rows_body,
    "x": lambda row: {"x": row},
    "bento": lambda row: {"x": [row]},
    "mlflow": lambda row: {"inputs": {"X": [row]}},
}
INVALID = {"v2": json.dumps(v2_body([None] * WIDTH)), "rows": json.dumps(rows_body([None] * WIDTH))}  # type: ignore[list-item]


def bodies(bench: Bench, kind: str) -> Path:
    "Every row as a request, one a line."
    path = bench.folder / f"{kind}.jsonl"
    make = BODIES[kind]
    path.write_text("".join(json.dumps(make(row), separators=(",", ":")) + "\n" for row in matrix().tolist()))
    return path


def binary_body(bench: Bench, rows: int) -> tuple[Path, int]:
    "Many rows as one binary tensor, and the size of its JSON part."
    data, path = matrix(rows).tobytes(), bench.folder / f"binary-{rows}"
    tensor = {"name": "X", "shape": [rows, WIDTH], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    path.write_bytes(head + data)
    return path, len(head)


def v2_answer(answer: dict[str, Any]) -> list[float]:
    "The probabilities in a V2 answer."
    return next(o["data"] for o in answer["outputs"] if o["name"] in ("probability", "p"))


def rows_answer(answer: dict[str, Any]) -> list[float]:
    "The probabilities in an answer to /predict."
    return list(answer["predictions"][0]["probability"].values())


READERS: dict[str, Callable[[Any], list[float]]] = {
    "v2": v2_answer,
    "rows": rows_answer,
    "x": lambda answer: answer["p"],
    "bento": lambda answer: answer[0],
    "mlflow": lambda answer: next(iter(answer["predictions"].values()))[0],
}


# Checks


def wrong_answers(target: Target, kind: str, expected: np.ndarray, rows: int = 64) -> int:
    "How many of some rows, asked sixteen at a time, are not answered as onnxruntime does."
    headers = {"content-type": "application/json", "x-api-key": target.key}
    sent = target.bodies.read_bytes().splitlines()[:rows]
    with httpx.Client(trust_env=False, timeout=10) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: client.post(target.url, content=body, headers=headers), sent))
    wrong = 0
    for answer, right in zip(answers, expected, strict=False):
        good = answer.status_code == 200 and np.allclose(READERS[kind](answer.json()), right, rtol=0, atol=1e-5)
        wrong += not good
    return wrong


def checked(bench: Bench, target: Target, kind: str, model: str) -> None:
    "Hold the answers of a server to those of onnxruntime."
    (expected,) = session_of(bench.model(model)).run(["probability"], {"X": matrix()})
    if wrong := wrong_answers(target, kind, expected):
        bench.faults.append(f"{target.name}, {model}: {wrong} of 64 answers differ from onnxruntime")
    bench.found["checked"] = bench.found.get("checked", 0) + 64


def refusals(bench: Bench, m: Measured, mixed: bool) -> Measured:
    "Two requests in a hundred must be refused, and no others."
    expected = m.answers / 50 if mixed else 0
    if mixed and abs(m.refused - expected) > m.connections + 2:
        bench.faults.append(
            f"{m.server} at {m.connections}: {m.refused} refused of {m.answers}, expected {expected:.0f}"
        )
    if m.broken:
        bench.faults.append(f"{m.server} at {m.connections}: {m.broken} broken connections or time-outs")
    return m


def metric(url: str, key: str, name: str, *having: str) -> float:
    "The sum of some series of our server."
    text = httpx.get(httpx.URL(url).join("/metrics"), headers={"x-api-key": key}, trust_env=False, timeout=10).text
    lines = [x for x in text.splitlines() if x.startswith(f"mlops_nb_{name}") and all(h in x for h in having)]
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines)


def log_rows(folder: Path) -> int:
    "Rows of the prediction log."
    parts = (folder / "logs" / "predictions").rglob("*.parquet")
    return sum(pq.ParquetFile(p).metadata.num_rows for p in parts)


# The parts of a run


def raw_rows_per_s(model: Path, cpu: str, seconds: float = 0.4, sizes: Iterable[int] = BATCHES) -> dict[int, float]:
    """Rows a second of onnxruntime alone, by batch size, on the server's core.

    The rows change from call to call: trees that see the same sixteen rows again and again run three times as fast, because
    the processor has learnt the way (12.8 and 4.0 us a row).
    """
    session, before, found, rows = session_of(model), os.sched_getaffinity(0), {}, matrix()
    os.sched_setaffinity(0, {int(cpu.split(",")[0])})
    try:
        for size in sizes:
            session.run(None, {"X": rows[:size]})
            calls, begin = 0, time.perf_counter()
            now = begin
            while now - begin < seconds:
                at = calls * size % (len(rows) - size + 1)
                session.run(None, {"X": rows[at : at + size]})
                calls, now = calls + 1, time.perf_counter()
            found[size] = calls * size / (now - begin)
    finally:
        os.sched_setaffinity(0, before)
    return found


@contextmanager
def our_server(
    bench: Bench, model: str, tag: str, cpus: str, workers: int = 1, **settings: Any
) -> Iterator[tuple[int, str]]:
    "Our server on a model; afterwards its log must hold every answer that it counted."
    folder = bench.folder / f"run-{tag}"
    folder.mkdir()
    with listening(
        ours(bench.bundle(model), folder, workers), folder / "ours.out", cpus, bench.environ(**settings)
    ) as (pid, url):
        first = bodies(bench, "v2").read_bytes().splitlines()[0]
        wait_answer(f"{url}/v2/models/{model}/infer", first, bench.key)
        yield pid, url
        time.sleep(0.3)  # the counters are published ten times a second
        answered = sum(metric(url, bench.key, "requests_total", f'route="{r}"') for r in ("infer", "predict"))
        dropped = metric(url, bench.key, "log_rows_total", "dropped")
        bench.found.setdefault("resident_mib", {})[tag] = max(p.memory_info().rss for p in _family(pid)) / 2**20
    logged = log_rows(folder)
    bench.found.setdefault("log", {})[tag] = {"answered": answered, "logged": logged, "dropped": dropped}
    if not tag.startswith("many") and logged + dropped != answered:
        bench.faults.append(f"{tag}: {answered:.0f} answers, but {logged} log records and {dropped:.0f} counted drops")


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def closed(bench: Bench, servers: Sequence[tuple[Target, bool]], connections: Sequence[int]) -> list[Measured]:
    "Every load on every server, in turn, repeated: a slow minute of the machine meets all of them."
    plan, found = bench.plan, []
    for target, mixed in servers:
        refusals(bench, measure(target, 16, 1, bench.script, bench.load_cpu), mixed)
    for _ in range(plan.repeats):
        for c in connections:
            for target, mixed in servers:
                found.append(refusals(bench, measure(target, c, plan.seconds, bench.script, bench.load_cpu), mixed))
    return found


def single_rows(bench: Bench, model: str, connections: Sequence[int], rows_too: bool) -> None:
    "One row a request: ours, the echo and the naive server side by side, then the peers one after the other."
    folder, cpu, path = bench.folder / f"others-{model}", bench.server_cpu, f"/v2/models/{model}/infer"
    folder.mkdir()
    child = [sys.executable, "-m", "tests.bench", "--model", bench.model(model), "--child"]
    v2, raw = bodies(bench, "v2"), raw_rows_per_s(bench.model(model), cpu)
    with (
        our_server(bench, model, model, cpu) as (pid, url),
        listening([*child, ECHO], folder / "echo.out", cpu) as (echo_pid, echo_url),
        listening([*child, NAIVE], folder / "naive.out", cpu) as (naive_pid, naive_url),
    ):
        mine = Target(OURS, pid, url + path, v2, bench.key, INVALID["v2"])
        plain = Target(NAIVE, naive_pid, naive_url + "/v2/models/m/infer", v2)
        by_name = Target(OURS_ROWS, pid, url + "/predict", bodies(bench, "rows"), bench.key, INVALID["rows"])
        servers = [(Target(ECHO, echo_pid, echo_url + path, v2), False), (mine, True), (plain, False)]
        servers += [(by_name, True)] if rows_too else []
        checked(bench, mine, "v2", model)
        checked(bench, by_name, "rows", model)
        checked(bench, plain, "v2", model)
        measured = closed(bench, servers, connections)
        checked(bench, mine, "v2", model)
    measured += (
        [m for peer in PEER_SERVERS for m in measure_peer(bench, peer, model, connections)] if bench.plan.peers else []
    )
    bench.found[model] = {"raw": raw, "measured": [asdict(m) for m in measured]}


def measure_peer(bench: Bench, peer: Peer, model: str, connections: Sequence[int]) -> list[Measured]:
    "One peer; what cannot be installed or does not answer is told."
    sent = bodies(bench, peer.body)
    try:
        with running_peer(peer, bench.model(model), bench.folder / f"{peer.name}-{model}", bench.server_cpu) as (
            pid,
            url,
        ):
            wait_answer(url, sent.read_bytes().splitlines()[0], "none")
            target = Target(peer.name, pid, url, sent)
            checked(bench, target, peer.body, model)
            measure(target, 16, 1, bench.script, bench.load_cpu)
            return [measure(target, c, bench.plan.seconds, bench.script, bench.load_cpu) for c in connections]
    except (MlopsError, subprocess.CalledProcessError, OSError) as e:
        bench.found.setdefault("absent", {})[peer.name] = str(e)
        return []


def many_rows(bench: Bench) -> None:
    "Hundreds of rows in one binary request, against onnxruntime at its best batch, in turn."
    path, size = binary_body(bench, MANY)
    for model in ("mid", "deep"):
        ratios, rates = [], []
        with our_server(bench, model, f"many-{model}" if model == "mid" else "many", bench.server_cpu) as (pid, url):
            name = f"{MANY} rows, {model}"
            target = Target(name, pid, f"{url}/v2/models/{model}/infer", path, bench.key, rows=MANY, header_size=size)
            measure(target, 2, 1, bench.script, bench.load_cpu)
            for _ in range(bench.plan.repeats):
                raw = max(raw_rows_per_s(bench.model(model), bench.server_cpu).values())
                got = measure(target, 2, bench.plan.seconds, bench.script, bench.load_cpu)
                ratios.append(got.per_s / raw)
                rates.append((got.per_s, raw, got.cpu_us))
        bench.found.setdefault("many", {})[model] = {"rows_per_s_raw_cpu_us": rates, "of_l2": statistics.median(ratios)}


def overload(bench: Bench) -> None:
    "Poisson arrivals at half, once and twice of what a slow model can serve."
    settings = {"serve_deadline_ms": DEADLINE_S * 1e3, "serve_overload": "refuse"}
    with our_server(bench, "slow", "open", bench.server_cpu, **settings) as (pid, url):
        target = Target("open", pid, f"{url}/v2/models/slow/infer", bodies(bench, "v2"), bench.key)
        measure(target, 64, 1, bench.script, bench.load_cpu)
        peak = measure(target, 64, bench.plan.seconds, bench.script, bench.load_cpu)
        rates = {share: share * peak.per_s for share in (0.5, 1.0, 2.0)}
        seconds = 2 * bench.plan.seconds
        runs = {str(k): open_loop(target, r, seconds, DEADLINE_S, bench.load_cpu) for k, r in rates.items()}
        after = measure(target, 64, bench.plan.seconds, bench.script, bench.load_cpu)
    bench.found["open"] = {"peak": [asdict(peak), asdict(after)], "deadline_s": DEADLINE_S, "runs": runs}


def two_workers(bench: Bench) -> None:
    "One worker and two, on both cores, which the load shares with them."
    both = f"{bench.server_cpu},{bench.load_cpu}"
    found = {}
    for workers in (1, 2):
        with our_server(bench, "deep", f"workers-{workers}", both, workers) as (pid, url):
            target = Target(f"{workers} workers", pid, f"{url}/v2/models/deep/infer", bodies(bench, "v2"), bench.key)
            measure(target, 64, 1, bench.script, both)
            runs = [measure(target, 64, bench.plan.seconds, bench.script, both) for _ in range(bench.plan.repeats)]
        found[str(workers)] = [asdict(m) for m in runs]
    bench.found["workers"] = found


# Telling


def median_of(runs: Sequence[dict[str, Any]]) -> list[Measured]:
    "One line a server and connection count: the medians over the repeats."
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for r in runs:
        groups.setdefault((r["server"], r["connections"]), []).append(r)
    return [
        Measured(*key, **{k: statistics.median(r[k] for r in rs) for k in rs[0] if k not in ("server", "connections")})
        for key, rs in groups.items()
    ]


HEADER = (
    "server",
    "connections",
    "predictions/s",
    "p50 ms",
    "p99 ms",
    "CPU µs each",
    "core",
    "refused",
    "of L1",
    "of L3",
    "of naive",
)


def table(measured: Sequence[Measured], best_raw: float = 0.0) -> str:
    "The figures with their ratios, as an aligned table that is also markdown."
    rate = {(m.server, m.connections): m.per_s for m in measured}

    def ratio(m: Measured, base: float) -> str:
        return f"{m.per_s / base:.2f}" if base else "-"

    def cells(m: Measured) -> tuple[str, ...]:
        l1 = rate.get((ECHO, m.connections), 0.0)
        figures = (
            f"{m.per_s:,.0f}",
            f"{m.p50_ms:.2f}",
            f"{m.p99_ms:.2f}",
            f"{m.cpu_us:.1f}",
            f"{m.core:.0%}",
            f"{m.refused:,.0f}",
        )
        ratios = (ratio(m, l1), ratio(m, l3(l1, best_raw)), ratio(m, rate.get((NAIVE, m.connections), 0.0)))
        return (m.server, str(m.connections), *figures, *ratios)

    return aligned(HEADER, [cells(m) for m in measured])


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    "A markdown table with columns of one width."
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w) if k == 0 else ("-" * (w - 1) + ":") for k, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def l3(l1: float, l2: float) -> float:
    "What one core allows that does both."
    return 1 / (1 / l1 + 1 / l2) if l1 and l2 else 0.0


def at(measured: Sequence[Measured], server: str, connections: int) -> Measured | None:
    "One line of the table."
    return next((m for m in measured if (m.server, m.connections) == (server, connections)), None)


Goal = tuple[str, str, str, bool | None]  # what, goal, measured, met; None: not measured


def single_goals(found: dict[str, Any], model: str) -> list[Goal]:
    "The goals of one row a request."
    if model not in found:
        return []
    measured, best = median_of(found[model]["measured"]), max(found[model]["raw"].values())
    mine, echo, plain = (at(measured, s, 64) for s in (OURS, ECHO, NAIVE))
    if not (mine and echo and plain):
        return []
    batching = [m.per_s for m in measured if m.connections == 64 and m.server in ("MLServer", "BentoML", "LitServe")]
    of_naive, limits = mine.per_s / plain.per_s, {"small": (5, 10), "deep": (8, 5)}[model]
    limit = ("share of the echo", 0.6, mine.per_s / echo.per_s) if model == "small" else (
        "share of L3", 0.8, mine.per_s / l3(echo.per_s, best),
    )  # fmt: skip
    goals: list[Goal] = [
        (f"{model}, 64 connections: {limit[0]}", f"{limit[1]:.0%}", f"{limit[2]:.0%}", limit[2] >= limit[1]),
        (f"{model}, 64 connections: times naive", f"{limits[0]}", f"{of_naive:.1f}", of_naive >= limits[0]),
    ]
    if batching:
        times = mine.per_s / max(batching)
        goals.append(
            (
                f"{model}, 64 connections: times the best batching peer",
                f"{limits[1]}",
                f"{times:.1f}",
                times >= limits[1],
            )
        )
    return goals


def alone_goal(found: dict[str, Any]) -> list[Goal]:
    "The goal of one connection."
    measured = median_of(found["small"]["measured"]) if "small" in found else []
    if (mine := at(measured, OURS, 1)) is None:
        return []
    added = mine.p50_ms - 1e3 / found["small"]["raw"][min(found["small"]["raw"])]
    return [("one connection: p50 added to raw onnxruntime", "0.30 ms", f"{added:.2f} ms", added <= 0.3)]


def other_goals(found: dict[str, Any]) -> list[Goal]:
    "The goals of many rows, of overload, of two workers, of memory."
    goals: list[Goal] = [
        (f"{MANY} rows a binary request, {m}: share of L2", "85%", f"{v['of_l2']:.0%}", v["of_l2"] >= 0.85)
        for m, v in found.get("many", {}).items()
    ]
    if "open" in found:
        twice, peaks = found["open"]["runs"]["2.0"], found["open"]["peak"]
        share = twice["goodput_per_s"] / statistics.mean(p["per_s"] for p in peaks)
        p99, deadline = twice["p99_ms"], found["open"]["deadline_s"] * 1e3
        goals.append(("open loop at twice the capacity: goodput of the peak", "90%", f"{share:.0%}", share >= 0.9))
        goals.append(
            (
                "open loop at twice the capacity: p99 of the accepted",
                f"{deadline:.0f} ms",
                f"{p99:.0f} ms",
                p99 <= deadline,
            )
        )
    if "workers" in found:
        one, two = (median_of(found["workers"][w])[0] for w in ("1", "2"))
        times, more = two.per_s / one.per_s, two.cpu_us / one.cpu_us - 1
        goals.append(("two workers, deep: times one worker", "1.5", f"{times:.2f}", times >= 1.5))
        goals.append(("two workers, deep: CPU a prediction", "within 15%", f"{more:+.0%}", abs(more) <= 0.15))
    if "small" in found.get("resident_mib", {}):
        size = found["resident_mib"]["small"]
        goals.append(("resident memory of a worker, small", "200 MiB", f"{size:.0f} MiB", size <= 200))
    return goals


def goals_of(found: dict[str, Any]) -> list[Goal]:
    "Every goal that this run can tell about."
    return [*single_goals(found, "small"), *single_goals(found, "deep"), *alone_goal(found), *other_goals(found)]


def told(found: dict[str, Any], faults: Sequence[str]) -> str:
    "The page that is printed and saved."
    about = found["machine"]
    lines = [
        aligned(
            ("goal", "wanted", "measured", ""),
            [(g, w, m, "met" if ok else "NOT MET") for g, w, m, ok in goals_of(found)],
        )
    ]
    for model in ("small", "deep"):
        if model in found:
            raw = ", ".join(f"{rate:,.0f} at {size}" for size, rate in found[model]["raw"].items())
            shown = table(median_of(found[model]["measured"]), max(found[model]["raw"].values()))
            lines += [
                "",
                f"## {model}: one row a request",
                "",
                shown,
                "",
                f"L2, raw onnxruntime, rows/s by batch: {raw}.",
            ]
    for name, run in found.get("open", {}).get("runs", {}).items():
        lines += ["", f"Open loop at {name} of the capacity: " + json.dumps(run)]
    for name, why in found.get("absent", {}).items():
        lines += ["", f"{name} was not measured: {why}"]
    lines += [
        "",
        "Faults: " + ("; ".join(faults) or f"none; {found.get('checked', 0)} answers compared with onnxruntime"),
    ]
    lines += [f"Log records and counted drops against answers: {json.dumps(found.get('log', {}))}"]
    lines += [
        f"Server on cpu {about['server_cpu']}, load on cpu {about['load_cpu']}, medians of {about['repeats']} runs of {about['seconds']} s,"
        f" load average {about['load_average']:.1f} before: a shared machine allows ratios of one run only. 'core' is the share of"
        " a core the server got; where it is low, the load or a neighbour held it back: compare the CPU, not the rate."
    ]
    return "\n".join(lines)


def plot(found: dict[str, Any], out: Path) -> None:
    "Throughput and latency over connections."
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": "bench", "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
        for server in dict.fromkeys(r["server"] for r in found["small"]["measured"]):
            mine = sorted(
                (m for m in median_of(found["small"]["measured"]) if m.server == server), key=lambda m: m.connections
            )
            x = [m.connections for m in mine]
            (line,) = axes[0].loglog(x, [m.per_s for m in mine], "o-", label=server, markersize=3)
            axes[1].loglog(x, [m.p50_ms for m in mine], "o-", color=line.get_color(), markersize=3)
            axes[1].loglog(x, [m.p99_ms for m in mine], "o:", color=line.get_color(), markersize=3)
        axes[0].set(xlabel="connections", ylabel="predictions/s, one core")
        axes[1].set(xlabel="connections", ylabel="ms: p50 (line), p99 (dots)")
        axes[0].legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(out, metadata={"Date": None})
        plt.close(figure)


# The run


def cores() -> tuple[int, int]:
    "The core of the servers and the core of the load; the same one where there is no second."
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def run(bench: Bench) -> None:
    "Every part of the plan."
    plan = bench.plan
    bench.script.write_text(LOAD)
    bench.key = new_key(bench.folder / "keys.json", "bench", ("predict", "outcomes", "admin"))
    packages = {name: version(name) for name in ("fastapi", "onnxruntime", "pydantic", "uvicorn")}
    about = {
        "server_cpu": bench.server_cpu,
        "load_cpu": bench.load_cpu,
        "seconds": plan.seconds,
        "repeats": plan.repeats,
    }
    bench.found["machine"] = {
        **about,
        "load_average": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "packages": packages,
    }
    parts: dict[str, Callable[[], None]] = {
        "small": lambda: single_rows(bench, "small", plan.connections, rows_too=True),
        "deep": lambda: single_rows(bench, "deep", plan.deep_connections, rows_too=False),
        "many": lambda: many_rows(bench),
        "open": lambda: overload(bench),
        "workers": lambda: two_workers(bench),
    }
    for name in plan.parts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        parts[name]()


def save(bench: Bench, out: Path) -> str:
    "Write table, figures and plot."
    text = told(bench.found, bench.faults)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "bench_serving.json", {**bench.found, "faults": bench.faults, "goals": goals_of(bench.found)})
    atomic_write(out / "bench_serving.md", text + "\n")
    if "small" in bench.found:
        plot(bench.found, out / "bench_serving.svg")
    return text


def measured_plan(plan: Plan, out: Path) -> int:
    "Measure, print and save."
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise InputError(f"'{tool}' is not on PATH", where="bench", fix=f"install the Debian package {package}")
    for key in [k for k in os.environ if k.startswith(PREFIX)]:
        del os.environ[key]  # the profile's settings are what is measured
    server_cpu, load_cpu = map(str, cores())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), plan, server_cpu, load_cpu)
        run(bench)
    print(save(bench, out))
    return 1 if bench.faults else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the server beside its limits, a naive server and its peers.")
    parser.add_argument("--out", type=Path, default=TABLES, help="folder of bench_serving.json, .md and .svg")
    parser.add_argument("--quick", action="store_true", help="a second each, no peers: whether it works, not how fast")
    parser.add_argument("--part", action="append", choices=Plan.parts, help="only these parts")
    parser.add_argument("--no-peers", action="store_true", help="leave out MLServer, BentoML, LitServe and MLflow")
    parser.add_argument("--child", choices=(ECHO, NAIVE), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        return serve_child(given.child, given.model)
    plan = QUICK if given.quick else Plan()
    plan = Plan(**{**vars(plan), "parts": tuple(given.part or plan.parts), "peers": plan.peers and not given.no_peers})
    try:
        return measured_plan(plan, given.out)
    except MlopsError as e:
        print(e, file=sys.stderr)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main())
