"""How fast the server is beside its ceiling and a naive server: `make bench`, or `python -m tests.bench --seconds 2`.

The servers stand on one core and the load (`wrk`, a closed loop) on another, all in one run, because a shared machine
allows ratios and no absolute figures. Compared, on one small model and one row a request:

- echo: a bare ASGI app that reads the body and answers a constant, run with our uvicorn options. The HTTP ceiling, L1.
- ours, V2 and rows: `mlops-nb serve` with default settings and the prediction log on, asked with one packed V2 tensor
  and with `POST /predict` by column name.
- naive: FastAPI and pydantic with one onnxruntime call a request, run with our uvicorn options, on the event loop,
  which serves a model this small faster than a thread pool would.
- raw onnxruntime on the server's core without HTTP: the model's ceiling, L2.

Speed is measured here and asserted nowhere. Wrong answers end the run with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import psutil
import pyarrow.parquet as pq
import uvicorn
from fastapi import FastAPI
from onnx import TensorProto, helper
from pydantic import BaseModel

from mlops_nb.bundle.foreign import export_onnx
from mlops_nb.core.errors import InputError, MlopsError, Refused
from mlops_nb.core.files import atomic_write, write_json
from mlops_nb.core.processes import start
from mlops_nb.core.settings import PREFIX, Settings
from mlops_nb.serving.server import bind, uvicorn_config

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "nbs" / "tables"
WIDTH, ROWS = 30, 256
CONNECTIONS = (1, 16, 64)
BATCHES = (1, 4, 16, 64, 256)
ECHO, OURS, OURS_ROWS, NAIVE = "echo", "ours, V2", "ours, rows", "naive"

# Bodies differ, so that no server may answer a batch of equal rows with one computation.
LOAD = """
local requests, sent = {}, 0
function init(args)
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
  end
end
function request()
  sent = sent % #requests + 1
  return requests[sent]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\nMEASURED {"answers": %d, "us": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


# The model and its rows


def graph() -> bytes:
    "A logistic regression over one packed input X [N,30]."
    rng = np.random.default_rng(5)
    weights = np.stack([np.zeros(WIDTH), rng.normal(0, 0.4, WIDTH)], axis=1).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["X", "weights"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["logit"]),
        helper.make_node("Softmax", ["logit"], ["probability"], axis=1),
    ]
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, [WIDTH, 2], weights.ravel()),
        helper.make_tensor("shift", TensorProto.FLOAT, [2], [0.0, 0.1]),
    ]
    ends = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, WIDTH]),
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 2]),
    ]
    made = helper.make_graph(nodes, "small", ends[:1], ends[1:], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def matrix() -> np.ndarray:
    "Rows whose short decimals are exact in float32, so that what is sent is what was in the sample."
    drawn = np.random.default_rng(6).normal(0, 1, (ROWS, WIDTH))
    return (np.round(drawn * 64) / 64).astype(np.float32)


def session_of(model: Path) -> onnxruntime.InferenceSession:
    "The graph on one thread."
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def v2_body(row: list[float]) -> dict[str, Any]:
    "One row as a packed tensor."
    return {"inputs": [{"name": "X", "shape": [1, WIDTH], "datatype": "FP32", "data": row}]}


def rows_body(row: list[float]) -> dict[str, Any]:
    "One row by column name."
    return {"rows": [{f"x{k}": value for k, value in enumerate(row)}]}


def v2_answer(answer: dict[str, Any]) -> list[float]:
    "The probabilities in a V2 answer."
    return next(o["data"] for o in answer["outputs"] if o["name"] == "probability")


def rows_answer(answer: dict[str, Any]) -> list[float]:
    "The probabilities in an answer to /predict."
    return list(answer["predictions"][0]["probability"].values())


# The servers of the comparison, each in a child process


async def echo(scope: Any, receive: Any, send: Any) -> None:
    "Read the body, answer a constant."
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    while (await receive()).get("more_body"):
        pass
    answer = b'{"p":[0.5,0.5]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class V2Tensor(BaseModel):
    "A tensor of a request."

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class V2Request(BaseModel):
    "A request to the naive server."

    inputs: list[V2Tensor]


def naive(model: Path) -> FastAPI:
    "One call of onnxruntime a request, as a tutorial would write it."
    app, session = FastAPI(), session_of(model)

    @app.post("/v2/models/small/infer")
    async def infer(body: V2Request) -> dict[str, Any]:
        tensor = body.inputs[0]
        (found,) = session.run(None, {tensor.name: np.array(tensor.data, np.float32).reshape(tensor.shape)})
        output = {"name": "probability", "datatype": "FP32", "shape": list(found.shape), "data": found.ravel().tolist()}
        return {"model_name": "small", "outputs": [output]}

    return app


def serve_child(kind: str, model: Path) -> int:
    "Run one of the two servers above; says where it listens as our own server does."
    settings = Settings(serve_port=0)
    app: Any = echo if kind == ECHO else naive(model)
    with bind(settings) as sock:
        host, port = sock.getsockname()
        print(json.dumps({"event": "listening", "host": host, "port": port}), flush=True)
        uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[sock])
    return 0


def address(output: Path) -> str:
    "Where a server says that it listens; empty: not yet."
    for line in output.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.get("event") == "listening":
                return f"http://{event['host']}:{event['port']}"
    return ""


@contextmanager
def listening(command: Sequence[str | Path], output: Path, cpu: int) -> Iterator[tuple[int, str]]:
    "A server on one core for the length of a block: its pid and its address."
    with output.open("wb") as out:
        child = start(["taskset", "-c", str(cpu), *command], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while not (url := address(output)):
            if child.poll() is not None or time.monotonic() > end:
                said = (output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
                raise Refused(f"it does not listen: {said[:300]}", where=output.stem)
            time.sleep(0.05)
        yield child.pid, url
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@dataclass(frozen=True)
class Target:
    "A server and how it is asked."

    name: str
    pid: int
    url: str
    bodies: Path  # one a line
    read: Callable[[dict[str, Any]], list[float]] | None  # None: answers nothing about the row


def write_bodies(path: Path, make: Callable[[list[float]], dict[str, Any]]) -> Path:
    "Every row as a request, one a line."
    path.write_text("".join(json.dumps(make(row), separators=(",", ":")) + "\n" for row in matrix().tolist()))
    return path


@contextmanager
def targets(folder: Path, model: Path, bundle: Path, cpu: int) -> Iterator[list[Target]]:
    "All servers, up and warm enough to answer. They stay up together: while one is measured the others are idle."
    ours = [Path(sys.executable).with_name("mlops-nb"), "serve", bundle, "--port", "0"]
    ours += ["--log-dir", folder / "logs", "--state-dir", folder / "state"]
    child = [sys.executable, "-m", "tests.bench", "--model", model, "--child"]
    v2, rows = write_bodies(folder / "v2.jsonl", v2_body), write_bodies(folder / "rows.jsonl", rows_body)
    with ExitStack() as stack:

        def up(name: str, command: Sequence[str | Path]) -> tuple[int, str]:
            return stack.enter_context(listening(command, folder / f"{name}.out", cpu))

        echo_pid, echo_url = up("echo", [*child, ECHO])
        ours_pid, ours_url = up("ours", ours)
        naive_pid, naive_url = up("naive", [*child, NAIVE])
        infer = "/v2/models/small/infer"
        found = [
            Target(ECHO, echo_pid, echo_url + infer, v2, None),
            Target(OURS, ours_pid, ours_url + infer, v2, v2_answer),
            Target(OURS_ROWS, ours_pid, ours_url + "/predict", rows, rows_answer),
            Target(NAIVE, naive_pid, naive_url + infer, v2, v2_answer),
        ]
        for target in found:
            wait_answer(target)
        yield found


def wait_answer(target: Target, timeout_s: float = 60.0) -> None:
    "Until the server answers its first body."
    body, end, said = target.bodies.read_bytes().split(b"\n", 1)[0], time.monotonic() + timeout_s, "no answer"
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                answer = client.post(target.url, content=body, headers={"content-type": "application/json"})
                if answer.status_code == 200:
                    return
                said = f"{answer.status_code} {answer.text[:200]}"
            time.sleep(0.05)
    raise Refused(f"not ready after {timeout_s:.0f} s: {said}", where=target.name)


# Measuring


@dataclass(frozen=True)
class Measured:
    "What one server did under one load."

    server: str
    connections: int
    per_s: float  # answers with a 2xx status
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server's processes, a prediction
    answers: int
    errors: int  # refusals, broken connections, time-outs

    @property
    def core(self) -> float:
        "Share of the server's core that it got and used."
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


def measure(target: Target, connections: int, seconds: int, script: Path, cpu: int) -> Measured:
    "Ask one server for some seconds."
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
    command += ["-s", str(script), target.url, "--", str(target.bodies)]
    before = cpu_seconds(target.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    used = cpu_seconds(target.pid) - before
    load = read_load(done.stdout + done.stderr)
    good = load["answers"] - load["refused"]
    return Measured(
        target.name,
        connections,
        per_s=good / max(load["us"] / 1e6, 1e-9),
        p50_ms=load["p50_us"] / 1000,
        p99_ms=load["p99_us"] / 1000,
        cpu_us=used * 1e6 / max(good, 1),
        answers=good,
        errors=load["refused"] + load["broken"],
    )


def wrong_answers(target: Target, expected: np.ndarray, rows: int = 64) -> int:
    "How many of some rows, asked sixteen at a time, are not answered as onnxruntime does."
    if target.read is None:
        return 0
    bodies = target.bodies.read_bytes().splitlines()[:rows]
    with httpx.Client(trust_env=False, timeout=10) as client, ThreadPoolExecutor(16) as pool:
        headers = {"content-type": "application/json"}
        answers = list(pool.map(lambda body: client.post(target.url, content=body, headers=headers), bodies))
    wrong = 0
    for answer, right in zip(answers, expected, strict=False):
        good = answer.status_code == 200 and np.allclose(target.read(answer.json()), right, rtol=0, atol=1e-5)
        wrong += not good
    return wrong


def raw_rows_per_s(model: Path, cpu: int, seconds: float = 0.3) -> dict[int, float]:
    "Rows a second of onnxruntime alone, by batch size, on the server's core."
    session, rows, before, found = session_of(model), matrix(), os.sched_getaffinity(0), {}
    os.sched_setaffinity(0, {cpu})
    try:
        for size in BATCHES:
            feed, calls = {"X": rows[:size]}, 0
            begin = now = time.perf_counter()
            while now - begin < seconds:
                session.run(None, feed)
                calls, now = calls + 1, time.perf_counter()
            found[size] = calls * size / (now - begin)
    finally:
        os.sched_setaffinity(0, before)
    return found


def logged(folder: Path) -> dict[str, int]:
    "Rows of the prediction log, and those of them that the model itself did not answer."
    rows = other = 0
    for part in sorted((folder / "predictions").rglob("*.parquet")):
        status = pq.read_table(part, columns=["status"], partitioning=None)["status"].to_pylist()
        rows, other = rows + len(status), other + sum(s != "ok" for s in status)
    return {"rows": rows, "not_ok": other}


def dropped(url: str) -> int:
    "Records that our server says it has dropped."
    text = httpx.get(httpx.URL(url).join("/metrics"), trust_env=False, timeout=10).text
    lines = [line for line in text.splitlines() if "log_rows" in line and '"dropped"' in line]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


# Telling


def table(measured: Sequence[Measured]) -> str:
    "The figures with their ratios, as an aligned table that is also markdown."
    rate = {(m.server, m.connections): m.per_s for m in measured}

    def ratio(m: Measured, other: str) -> str:
        base = rate.get((other, m.connections), 0.0)
        return f"{m.per_s / base:.2f}" if base else "-"

    header = (
        "server",
        "connections",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU µs each",
        "core",
        "errors",
        "of L1",
        "of naive",
    )
    rows = [
        (
            m.server,
            str(m.connections),
            f"{m.per_s:,.0f}",
            f"{m.p50_ms:.2f}",
            f"{m.p99_ms:.2f}",
            f"{m.cpu_us:.1f}",
            f"{m.core:.0%}",
            str(m.errors),
            ratio(m, ECHO),
            ratio(m, NAIVE),
        )
        for m in measured
    ]
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w) if k == 0 else ("-" * (w - 1) + ":") for k, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def limits(measured: Sequence[Measured], raw: dict[int, float]) -> dict[str, float]:
    "L1 at the most connections, L2 at the best batch, and L3: what one core allows that does both."
    l1, l2 = max((m.connections, m.per_s) for m in measured if m.server == ECHO)[1], max(raw.values())
    return {"L1": l1, "L2": l2, "L3": 1 / (1 / l1 + 1 / l2) if l1 and l2 else 0.0}


def told(result: dict[str, Any], measured: Sequence[Measured]) -> str:
    "The page that is printed and saved."
    limit, log, m = result["limits"], result["log"], result["machine"]
    raw = ", ".join(f"{rate:,.0f} at {size}" for size, rate in result["raw_rows_per_s"].items())
    alone = "" if m["server_cpu"] != m["load_cpu"] else " ONE CORE FOR BOTH: the load took part of the server's time."
    return "\n".join(
        [
            table(measured),
            "",
            f"L1 (echo, {CONNECTIONS[-1]} connections) {limit['L1']:,.0f}/s; L2 (raw onnxruntime) {limit['L2']:,.0f} rows/s;"
            f" L3 (both on one core) {limit['L3']:,.0f}/s.",
            f"Raw onnxruntime, rows/s by batch: {raw}.",
            f"Answers that differ from onnxruntime: {result['wrong']} of {result['checked']}.",
            "Where a server used much less than its core, the load or a neighbour held it back: compare the CPU, not the rate.",
            f"Prediction log: {log['rows']:,} rows and {log['dropped']:,} dropped for {log['answers']:,} counted answers"
            f" (what is under way when a load ends is not counted);"
            f" {log['not_ok']:,} rows not answered by the model itself.",
            f"Server on cpu {m['server_cpu']}, load on cpu {m['load_cpu']}, {m['seconds']} s each, load average"
            f" {m['load_average']:.1f} before: a shared machine allows ratios of one run only.{alone}",
        ]
    )


def cores() -> tuple[int, int]:
    "The core of the servers and the core of the load; the same one where there is no second."
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def machine(seconds: int) -> dict[str, Any]:
    "Where and with what this was measured."
    server_cpu, load_cpu = cores()
    packages = {name: version(name) for name in ("fastapi", "onnxruntime", "pydantic", "uvicorn")}
    return {
        "server_cpu": server_cpu,
        "load_cpu": load_cpu,
        "seconds": seconds,
        "load_average": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "packages": packages,
    }


def run(folder: Path, seconds: int) -> tuple[dict[str, Any], list[Measured]]:
    "Build, serve, ask, compare."
    about = machine(seconds)
    server_cpu, load_cpu = about["server_cpu"], about["load_cpu"]
    model, script = folder / "small.onnx", folder / "load.lua"
    model.write_bytes(graph())
    script.write_text(LOAD)
    bundle = export_onnx(model, matrix(), folder / "bundle", name="small", classes=("no", "yes")).path
    (expected,) = session_of(model).run(None, {"X": matrix()})
    raw = raw_rows_per_s(model, server_cpu)
    with targets(folder, model, bundle, server_cpu) as servers:
        asked = [t for t in servers if t.read is not None]
        wrong = sum(wrong_answers(t, expected) for t in asked)
        warm = [measure(t, 16, 1, script, load_cpu) for t in servers]
        # One load after the other on every server, so that a slow minute of the machine meets all of them.
        measured = [measure(t, c, seconds, script, load_cpu) for c in CONNECTIONS for t in servers]
        wrong += sum(wrong_answers(t, expected) for t in asked)
        lost = dropped(servers[1].url)
    checks = 64 * len(asked) * 2
    mine = sum(m.answers for m in (*warm, *measured) if m.server in (OURS, OURS_ROWS)) + 2 + 64 * 2 * 2
    result = {
        "machine": about,
        "measured": [asdict(m) for m in measured],
        "raw_rows_per_s": {str(k): v for k, v in raw.items()},
        "limits": limits(measured, raw),
        "log": {**logged(folder / "logs"), "dropped": lost, "answers": mine},
        "wrong": wrong,
        "checked": checks,
    }
    return result, measured


def bench(out: Path, seconds: int) -> int:
    "Measure, print and save."
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise InputError(f"'{tool}' is not on PATH", where="bench", fix=f"install the Debian package {package}")
    for key in [k for k in os.environ if k.startswith(PREFIX)]:
        del os.environ[key]  # default settings are what is measured
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result, measured = run(Path(folder), seconds)
    text = told(result, measured)
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "bench_serving.json", result)
    atomic_write(out / "bench_serving.md", text + "\n")
    return 1 if result["wrong"] else 0


def whole_seconds(text: str) -> int:
    "Seconds of one measurement: wrk takes whole ones."
    if not text.isdigit() or not 1 <= int(text) <= 60:
        raise argparse.ArgumentTypeError(f"'{text}': a whole number from 1 to 60 is allowed")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the server beside its ceiling and a naive server.")
    parser.add_argument("--out", type=Path, default=TABLES, help="folder of bench_serving.json and .md")
    parser.add_argument("--seconds", type=whole_seconds, default=8, help="of each of the twelve measurements")
    parser.add_argument("--child", choices=(ECHO, NAIVE), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        return serve_child(given.child, given.model)
    try:
        return bench(given.out, given.seconds)
    except MlopsError as e:
        print(e, file=sys.stderr)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main())
