"""A small bundle whose graph misbehaves on request, and a server around it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from onnx import TensorProto, helper

from mlops_nb.bundle.format import golden_bytes, write_bundle
from mlops_nb.bundle.manifest import json_bytes
from mlops_nb.bundle.parts import Answer, Condition, Golden, Rule, Segment, Signature, Tensor, Thresholds
from mlops_nb.core.processes import die_with_parent
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target

POISON, NOT_A_NUMBER, ENDLESS = 999, 66, 77  # values of tenure that hurt

CONTRACT = Contract(
    (
        Column("tenure", "number", integer=True, low=0, high=72),
        Column("charges", "number", nullable=True, low=0.0, high=120.0, on_range="reject"),
        Column("plan", "category", nullable=True, levels=("basic", "pro"), max_length=20),
        Column("senior", "boolean"),
        Column("since", "datetime"),
    ),
    Target("churn", "binary", ("No", "Yes"), "Yes"),
    unit_id="customer",
)
ROW: dict[str, Any] = {"tenure": 3, "charges": 20.5, "plan": "pro", "senior": False, "since": "2024-02-29"}


def expected(row: dict[str, Any], shift: float = 0.0) -> float:
    "The probability of Yes, as the graph computes it."
    z = shift - 0.05 * row["tenure"] + 0.02 * (row["charges"] or 0.0) + {"pro": 0.5}.get(row["plan"], 0.0)
    return float(1 / (1 + np.exp(-z)))


def _values(name: str, kind: int, values: Any, shape: Sequence[int]) -> Any:
    return helper.make_tensor(name, kind, shape, values)


def graph(shift: float = 0.0, faults: bool = True) -> bytes:
    "Logistic in tenure, charges and plan; tenure 999 raises, 66 answers NaN, 77 never ends."
    table = np.zeros(100, np.float32)
    table[NOT_A_NUMBER] = np.nan
    trips = np.zeros(100, np.int64)
    trips[ENDLESS] = 2_000_000_000
    f, node = TensorProto.FLOAT, helper.make_node
    nodes = [
        node("IsNaN", ["charges"], ["no_charges"]),
        node("Where", ["no_charges", "zero", "charges"], ["charges0"]),
        node("Mul", ["charges0", "w_charges"], ["z_charges"]),
        node("Mul", ["tenure", "w_tenure"], ["z_tenure"]),
        node(
            "LabelEncoder",
            ["plan"],
            ["z_plan"],
            domain="ai.onnx.ml",
            keys_strings=["pro"],
            values_floats=[0.5],
            default_float=0.0,
        ),
        node("Sum", ["z_charges", "z_tenure", "z_plan", "shift"], ["z0"]),
    ]
    if faults:
        body = helper.make_graph(
            [node("Identity", ["c_in"], ["c_out"]), node("Identity", ["v_in"], ["v_out"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("c_in", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v_in", f, None),
            ],
            [
                helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v_out", f, None),
            ],
        )
        nodes += [
            node("Cast", ["tenure"], ["place"], to=TensorProto.INT64),
            node("Gather", ["table", "place"], ["extra"]),
            node("Gather", ["trips", "place"], ["trips_each"]),
            node("ReduceMax", ["trips_each"], ["trips_max"], keepdims=0),
            node("Add", ["z0", "extra"], ["z1"]),
            node("Loop", ["trips_max", "", "z1"], ["z"], body=body),
        ]
    else:
        nodes.append(node("Identity", ["z0"], ["z"]))
    nodes += [
        node("Sigmoid", ["z"], ["p"]),
        node("Sub", ["one", "p"], ["q"]),
        node("Concat", ["q", "p"], ["probability"], axis=1),
        node("Identity", ["senior"], ["senior_seen"]),
        node("Identity", ["since"], ["since_seen"]),
    ]
    kinds = {
        "tenure": f,
        "charges": f,
        "plan": TensorProto.STRING,
        "senior": TensorProto.STRING,
        "since": TensorProto.INT64,
    }
    constants = [
        _values("zero", f, [0.0], [1]),
        _values("one", f, [1.0], [1]),
        _values("w_charges", f, [0.02], [1]),
        _values("w_tenure", f, [-0.05], [1]),
        _values("shift", f, [shift], [1]),
    ]
    if faults:
        constants += [_values("table", f, table, [100]), _values("trips", TensorProto.INT64, trips, [100])]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, k, [None, 1]) for n, k in kinds.items()],
        [
            helper.make_tensor_value_info("probability", f, [None, 2]),
            helper.make_tensor_value_info("senior_seen", TensorProto.STRING, [None, 1]),
            helper.make_tensor_value_info("since_seen", TensorProto.INT64, [None, 1]),
        ],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString()


RULE = Rule(Answer("No", (0.75, 0.25)), (Condition("tenure", "<", 2, Answer("Yes", (0.4, 0.6))),))
SIGNATURE = Signature(
    "columns",
    (
        Tensor("tenure", "float32"),
        Tensor("charges", "float32"),
        Tensor("plan", "string"),
        Tensor("senior", "string"),
        Tensor("since", "int64"),
    ),
    {"probability": "probability"},
)


def golden(shift: float = 0.0, offset: float = 0.0) -> Golden:
    "A few rows and their answers; `offset` makes the answers wrong."
    rows = [ROW, ROW | {"plan": None}, ROW | {"charges": None, "tenure": 40}, ROW | {"senior": True, "plan": "basic"}]
    p = np.array([expected(r, shift) for r in rows]) + offset
    return Golden(tuple(rows), np.stack([1 - p, p], axis=1), ("sample",) * len(rows))


def make_bundle(
    parent: Path,
    name: str = "churn",
    *,
    shift: float = 0.0,
    faults: bool = True,
    lite: bool = False,
    offset: float = 0.0,
    thresholds: Thresholds | None = None,
    contract: Contract = CONTRACT,
) -> Path:
    "Write the bundle."
    thresholds = thresholds or Thresholds(0.5, "Yes", (Segment("senior", "true", 0.3),))
    files = {
        "contract.json": json_bytes(contract.to_dict()),
        "model.onnx": graph(shift, faults),
        "rule.json": json_bytes(RULE.to_dict()),
        "thresholds.json": json_bytes(thresholds.to_dict()),
        "golden.parquet": golden_bytes(golden(shift, offset), CONTRACT),
        "baseline.json": b"{}\n",
        "card.md": b"# test\n",
        "licences.json": b"[]\n",
        "environment.txt": b"\n",
    }
    if lite:
        files["lite.onnx"] = graph(shift, faults=False)
    head = {"name": name, "task": "binary", "signature": SIGNATURE.to_dict(), "tolerance": {"atol": 1e-5, "rtol": 0.0}}
    return write_bundle(parent, head, files)


SERVE = (str(Path(sys.executable).parent / "mlops-nb"), "serve")


def free_port() -> int:
    "A port nobody listens on."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# A busy machine stands still for longer than callers wait; tests of deadlines and time limits set their own.
PATIENT = {"serve_deadline_ms": 20_000, "serve_model_timeout_ms": 5_000}


@dataclass
class Running:
    "A server in a process of its own."

    process: subprocess.Popen[bytes]
    client: httpx.Client
    url: str
    port: int
    log_dir: Path
    state_dir: Path
    errors: Path

    def events(self) -> list[dict[str, Any]]:
        "What the server said."
        lines = self.errors.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def stop(self, sig: int = signal.SIGTERM) -> int:
        "Stop it and give its exit code."
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(timeout=120)

    def metric(self, line: str) -> float:
        "The value of one metric."
        for text in self.client.get("/metrics").text.splitlines():
            if text.startswith(f"mlops_nb_{line} "):
                return float(text.rsplit(" ", 1)[1])
        raise KeyError(line)


@contextlib.contextmanager
def running(
    folder: Path,
    *bundles: Path,
    arguments: Sequence[str] = (),
    headers: dict[str, str] | None = None,
    scheme: str = "http",
    verify: Any = True,
    environ: Mapping[str, str] | None = None,
    preexec: Callable[[], None] = die_with_parent,
    **settings: Any,
) -> Iterator[Running]:
    "The real server, through its command, with settings from the environment."
    folder.mkdir(parents=True, exist_ok=True)
    told = {f"MLOPS_NB_{k.upper()}": str(v) for k, v in (PATIENT | settings).items()}
    environ = {**os.environ, **(environ or {}), **told}
    command = [*SERVE, *map(str, bundles), "--port", "0"]  # its own choice: one that was free may be taken by now
    command += ["--log-dir", str(folder / "logs"), "--state-dir", str(folder / "state"), *arguments]
    errors = folder / "server.err"
    with errors.open("wb") as err:
        process = subprocess.Popen(command, env=environ, stderr=err, preexec_fn=preexec)
    try:
        port = listening(process, errors)
        url = f"{scheme}://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers=headers, timeout=60, verify=verify, trust_env=False) as client:
            server = Running(process, client, url, port, folder / "logs", folder / "state", errors)
            wait_ready(server)
            yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def looks(process: subprocess.Popen[bytes], errors: Path, timeout_s: float) -> Iterator[None]:
    "As long as a server may still become what it should; raises when it ends, or takes too long."
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}: {errors.read_text()}")
        yield
        time.sleep(0.05)
    raise RuntimeError(f"not ready: {errors.read_text()}")


def listening(process: subprocess.Popen[bytes], errors: Path, timeout_s: float = 120.0) -> int:  # Port
    "Where a server listens, once it says so."
    for _ in looks(process, errors, timeout_s):
        for line in errors.read_bytes().rpartition(b"\n")[0].splitlines():
            if b'"listening"' in line:
                return int(json.loads(line)["port"])
    raise AssertionError("looks() ends by raising")


def wait_ready(server: Running, timeout_s: float = 120.0) -> None:
    "Until the server says so."
    for _ in looks(server.process, server.errors, timeout_s):
        with contextlib.suppress(httpx.TransportError):
            if server.client.get("/v2/health/ready").status_code == 200:
                return
