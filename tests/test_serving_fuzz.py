"""What nobody thought of: requests drawn from the server's own OpenAPI, from its contract and from noise; and every
order in which callers, batches, clocks and ends can meet in a batcher."""

from __future__ import annotations

import asyncio
import json
import math
import os
import struct
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlops_nb.serving import batching
from mlops_nb.serving.batching import Batcher, Limits
from mlops_nb.serving.cost import CostModel
from mlops_nb.serving.jobs import Shed
from tests.serving_bundle import ROW, Running, make_bundle, running
from tests.serving_lab import ROOT, Raw, resident_mib

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.xdist_group("serving-fuzz")
FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
QUICK = settings(FUZZ, max_examples=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("fuzz")
    bundles = make_bundle(folder), make_bundle(folder, "base", shift=1.0)
    with running(folder / "run", *bundles, serve_body_limit_bytes=2**20, serve_body_timeout_s=2.0) as s:
        before = resident_mib(s.process.pid)
        yield s
        assert resident_mib(s.process.pid) < before + 96
        assert [e for e in s.events() if "exception" in e or e.get("level") == "critical"] == []


# The server's own description of itself.

OPERATIONS = (
    *("GET /v2/health/live", "GET /v2/health/ready", "GET /metrics", "GET /v2"),
    *("GET /v2/models/{model}", "GET /v2/models/{model}/ready"),
    *("GET /v2/models/{model}/versions/{version}", "GET /v2/models/{model}/versions/{version}/ready"),
    *("POST /predict", "POST /v2/models/{model}/infer", "POST /v2/models/{model}/versions/{version}/infer"),
    *("POST /outcomes", "GET /admin/status", "POST /admin/promote", "POST /admin/rollback"),
    *("GET /admin/rollout", "POST /admin/shadow", "POST /admin/canary", "POST /admin/split"),
)
# what a JSON schema cannot say, or this server need not
UNSAID = {
    "POST /predict": ("positive_data_acceptance",),  # unit_ids are as many as rows; see the test of the rows
    "POST /v2/models/{model}/infer": ("positive_data_acceptance",),  # data are as many as the shape says
    "POST /v2/models/{model}/versions/{version}/infer": ("positive_data_acceptance",),
}


@pytest.fixture(scope="module")
def operations(server: Running) -> dict[str, Any]:
    "What the server says it does."
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    return {o.ok().label: o.ok() for o in schema.get_all_operations()}


def check(operation: Any, label: str, examples: int) -> Counter[int]:
    "Requests for one operation, right and wrong ones; its answers by status."
    checks = schemathesis.checks
    names = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
    wanted = [getattr(checks, n) for n in (*names, "positive_data_acceptance") if n not in UNSAID.get(label, ())]
    told: Counter[int] = Counter()
    modes = schemathesis.GenerationMode

    for mode in (modes.POSITIVE, modes.NEGATIVE):
        if mode is modes.NEGATIVE and not len(operation.body):
            continue

        @given(operation.as_strategy(generation_mode=mode))
        @settings(FUZZ, max_examples=examples)
        def one(case: Any) -> None:
            response = case.call()
            told[response.status_code] += 1
            case.validate_response(response, checks=wanted)

        one()
    return told


def test_every_operation_is_known(operations: dict[str, Any]) -> None:
    assert set(operations) == set(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_the_server_keeps_to_its_own_description(operations: dict[str, Any], label: str) -> None:
    told = check(operations[label], label, 10)
    assert not [s for s in told if s >= 500]


@pytest.mark.slow
@pytest.mark.parametrize("label", [o for o in OPERATIONS if o.startswith("POST") or "{" in o])
def test_the_server_keeps_to_its_own_description_at_length(operations: dict[str, Any], label: str) -> None:
    told = check(operations[label], label, 100)
    assert not [s for s in told if s >= 500]


# The contract.

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30)
    | st.sampled_from(["", "pro", "2024-02-29", "1e400", "NaN", "\x00", "\ud83d\ude00", 1e308, -0.0, 5e-324]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
rows = st.lists(
    st.dictionaries(st.sampled_from([*ROW, "customer", "other"]), values, max_size=7).map(lambda r: {**ROW, **r})
    | values,
    max_size=4,
)
bodies = st.fixed_dictionaries(
    {"rows": rows | values}, optional={"unit_ids": values, "partial": st.booleans() | values, "more": values}
)


@given(bodies | values)
@QUICK
def test_any_json_is_answered_or_refused(server: Running, body: Any) -> None:
    reply = server.client.post("/predict", content=json.dumps(body))
    assert reply.status_code in (200, 400, 422), reply.text
    found = reply.json()
    if reply.status_code == 200:
        assert len(found["predictions"]) == len(body["rows"])
        for p in found["predictions"]:
            assert p["reason"] == "rejected" or math.isclose(sum(p["probability"].values()), 1, abs_tol=1e-6)
    else:
        assert found["error"]["code"]


@given(st.binary(max_size=200), st.sampled_from(["/predict", "/v2/models/churn/infer", "/outcomes", "/admin/promote"]))
@QUICK
def test_noise_is_refused(server: Running, body: bytes, path: str) -> None:
    assert server.client.post(path, content=body).status_code in (400, 422)


GOOD = json.dumps({"rows": [ROW], "unit_ids": ["a"]}).encode()


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
@QUICK
def test_a_good_body_with_some_bytes_changed(server: Running, changes: list[tuple[int, int]]) -> None:
    body = bytearray(GOOD)
    for place, byte in changes:
        body[place] = byte
    reply = server.client.post("/predict", content=bytes(body))
    assert reply.status_code in (200, 400, 422), bytes(body)


KINDS = ["BOOL", "UINT8", "INT16", "INT64", "FP16", "FP32", "FP64", "BYTES", "FP8", ""]
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*ROW, "other"]),
        "shape": st.lists(st.integers(-1, 3) | st.sampled_from([2**31, 2**63]), max_size=3) | values,
        "datatype": st.sampled_from(KINDS),
    },
    optional={
        "data": st.lists(values, max_size=4) | values,
        "parameters": st.dictionaries(st.just("binary_data_size"), values),
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=6) | values},
    optional={
        "id": values,
        "parameters": st.dictionaries(st.sampled_from(["timeout", "unit_ids", "binary_data_output"]), values),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["label", "probability", "x"])}), max_size=3)
        | values,
    },
)


@given(requests, st.binary(max_size=40), st.integers(-5, 50) | st.none())
@QUICK
def test_any_tensor_is_answered_or_refused(server: Running, body: Any, tail: bytes, off: int | None) -> None:
    head = json.dumps(body).encode()
    headers = {} if off is None else {"inference-header-content-length": str(len(head) + off)}
    reply = server.client.post("/v2/models/churn/infer", content=head + tail, headers=headers)
    assert reply.status_code in (200, 400, 422), reply.text
    assert reply.status_code == 200 or isinstance(reply.json()["error"], str)


@st.composite
def binary_tensors(draw: st.DrawFn) -> tuple[list[dict[str, Any]], bytes, int]:
    "Two rows, each column in bytes of some kind, with some of the sizes wrong."
    inputs, tail, n = [], b"", draw(st.integers(1, 3))
    for name in ROW:
        kind = (
            draw(st.sampled_from(KINDS[:8]))
            if draw(st.integers(0, 3)) == 0
            else {"tenure": "FP32", "charges": "FP64", "senior": "BOOL"}.get(name, "BYTES")
        )
        if kind == "BYTES":
            texts = draw(
                st.lists(st.binary(max_size=12) | st.just(b"pro") | st.just(b"2024-01-01"), min_size=n, max_size=n)
            )
            data = b"".join(struct.pack("<I", len(t)) + t for t in texts)
        elif kind == "BOOL":
            data = draw(st.binary(min_size=n, max_size=n))
        else:
            size = np.dtype(
                {"UINT8": "u1", "INT16": "i2", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8"}[kind]
            ).itemsize
            data = draw(st.binary(min_size=n * size, max_size=n * size))
        size = len(data) + (draw(st.integers(-3, 3)) if draw(st.integers(0, 9)) == 0 else 0)
        inputs.append({"name": name, "shape": [n, 1], "datatype": kind, "parameters": {"binary_data_size": size}})
        tail += data
    return inputs, tail, n


@given(binary_tensors(), st.booleans())
@QUICK
def test_any_bytes_are_answered_or_refused(server: Running, sent: tuple[list[Any], bytes, int], binary: bool) -> None:
    inputs, tail, n = sent
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": binary}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    reply = server.client.post("/v2/models/churn/infer", content=head + tail, headers=headers)
    assert reply.status_code in (200, 400, 422), reply.text
    if reply.status_code == 200:
        size = int(reply.headers.get("inference-header-content-length", len(reply.content)))
        told = json.loads(reply.content[:size])
        assert [o["shape"][0] for o in told["outputs"]] == [n, n]


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6))
@settings(FUZZ, max_examples=40)
def test_any_bytes_on_a_connection(server: Running, pieces: list[bytes]) -> None:
    with Raw(server, timeout_s=5) as raw:
        for piece in pieces:
            raw.send(piece.replace(b"\n", b"\r\n"))
        raw.send(b"\r\n\r\n")
        assert raw.answer()[0] in (0, 200, 400, 404, 405, 408)


# The batcher.


class Clock:
    "Time that stands still until it is moved."

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeLane:
    "A thread that works when it is told to."

    pending: list[tuple[Any, Any]]
    late = False  # a batch that was given up is ended now

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop, self.pending, self.stopped = loop, [], False
        LANES.append(self)

    def post(self, task: Any, done: Any) -> None:
        self.pending.append((task, done))

    def stop(self) -> None:
        self.stopped = True

    def work(self) -> None:
        "Finish a batch."
        task, done = self.pending.pop(0)
        FakeLane.late = self.stopped
        self._loop.call_soon(done, task())


LANES: list[FakeLane] = []
CAP = 4


class BatcherMachine(RuleBasedStateMachine):
    "Callers come, leave, expire; batches end, fail, hang; the batcher closes: in any order."

    def __init__(self) -> None:
        super().__init__()
        LANES.clear()
        self.clock = Clock()
        self._real = batching.time, batching.Lane
        batching.time = types.SimpleNamespace(monotonic=self.clock, perf_counter=self.clock)  # type: ignore[assignment]
        batching.Lane = FakeLane  # type: ignore[assignment,misc]
        self.loop = asyncio.SelectorEventLoop()
        self.loop.time = self.clock  # type: ignore[method-assign]
        self.rows, self.poison, self.taken = 0, set[int](), list[int]()
        self.sizes: list[int] = []
        self.jobs: list[tuple[Any, list[int]]] = []
        self.closing: asyncio.Task[None] | None = None
        limits = Limits(batch_rows=CAP, queue_s=0.2, timeout_s=0.1, lane="thread", sweep_s=0.02)
        self.batcher = Batcher(self.model, CostModel({1: 0.01, CAP: 0.02}), limits)

    def model(self, blocks: list[list[int]]) -> list[int]:
        "Doubles rows; remembers whom it saw first and how many at once."
        rows = [r for b in blocks for r in b]
        self.sizes.append(len(rows))
        self.taken += [r for r in rows if r not in self.taken and not FakeLane.late]
        self.clock.now += 0.01 + 0.003 * len(rows)
        if self.poison & set(rows):
            raise ValueError("poison")
        return [2 * r for r in rows]

    def settle(self) -> None:
        "Let the loop do what is due."
        for _ in range(4):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    @rule(
        n=st.integers(1, 9),
        patience_s=st.sampled_from([0.0, 0.015, 0.05, 0.3, 60.0]),
        bad=st.sets(st.integers(0, 8), max_size=2),
    )
    def submit(self, n: int, patience_s: float, bad: set[int]) -> None:
        rows = list(range(self.rows, self.rows + n))
        backlog, own = self.batcher.backlog_s(), self.batcher.cost.seconds(n)

        async def story() -> Any:
            return self.batcher.submit(rows, n, self.clock.now + patience_s)

        shed: Shed | None = None
        try:
            job = self.loop.run_until_complete(story())
        except Shed as e:
            shed = e
        if shed is not None:
            assert shed.reason == ("closing" if self.closing else "overload")
            assert shed.reason == "closing" or backlog > 0 or patience_s < batching.SLACK * own
            return
        assert backlog <= 0.2, "the queue is bounded in seconds of work"
        assert backlog == 0 or patience_s >= backlog + own, "nobody is let in who cannot be answered in time"
        self.rows += n
        self.poison |= {rows[i] for i in bad if i < n}
        self.jobs.append((job, rows))

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 10**6))
    def leave(self, which: int) -> None:
        self.jobs[which % len(self.jobs)][0].future.cancel()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.05, 0.2, 3.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.settle()

    @precondition(lambda self: any(lane.pending for lane in LANES))
    @rule(which=st.integers(0, 10**6), settled=st.booleans())
    def finish(self, which: int, settled: bool) -> None:
        busy = [lane for lane in LANES if lane.pending]
        busy[which % len(busy)].work()
        if settled:
            self.settle()

    @precondition(lambda self: self.closing is None)
    @rule(dice=st.integers(0, 9))
    def close(self, dice: int = 0) -> None:
        if dice == 0:
            self.closing = self.loop.create_task(self.batcher.close())

    @rule()
    def turn(self) -> None:
        self.settle()
        if self.batcher._queue.rows:
            assert self.batcher._executor.running is not None, "nobody waits for an idle model"

    @invariant()
    def batches_are_small_enough(self) -> None:
        assert all(size <= CAP for size in self.sizes)

    @invariant()
    def each_has_exactly_its_rows(self) -> None:
        for job, rows in self.jobs:
            if not job.future.done() or job.future.cancelled():
                continue
            if error := job.future.exception():
                assert isinstance(error, Shed)
                continue
            parts = job.future.result()
            assert [p.offset for p in parts] == [sum(q.rows for q in parts[:i]) for i in range(len(parts))]
            assert sum(p.rows for p in parts) == len(rows)
            for p in parts:
                mine = rows[p.offset : p.offset + p.rows]
                if p.error is None:
                    assert p.output[p.start : p.start + p.rows] == [2 * r for r in mine]
                elif isinstance(p.error, ValueError):
                    assert set(mine) & self.poison, "only who is poisonous fails"
                else:
                    assert isinstance(p.error, batching.ModelFault)

    @invariant()
    def first_come_first_served(self) -> None:
        firsts = [rows[0] for _, rows in self.jobs if rows[0] in self.taken]
        assert [r for r in self.taken if r in set(firsts)] == sorted(firsts)

    def teardown(self) -> None:
        try:
            if self.closing is None:
                self.close()
            for _ in range(400):
                self.settle()
                if self.closing is not None and self.closing.done():
                    break
                for lane in LANES:
                    if lane.pending:
                        lane.work()
                self.clock.now += 0.02
            assert self.closing is not None
            assert self.closing.done(), "it ends"
            assert all(job.future.done() for job, _ in self.jobs), "nobody is left waiting"
            assert self.batcher.backlog_s() == 0.0
            assert self.batcher._queue.rows == 0
            for job, _ in self.jobs:
                if not job.future.cancelled():
                    job.future.exception()
        finally:
            batching.time, batching.Lane = self._real  # type: ignore[assignment,misc]
            self.loop.close()


BatcherMachine.TestCase.settings = settings(FUZZ, max_examples=80, stateful_step_count=30)
TestBatcher = BatcherMachine.TestCase


MACHINE = """
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.test_serving_fuzz import BatcherMachine
steps = settings(BatcherMachine.TestCase.settings, max_examples=200, phases=[Phase.generate])
run_state_machine_as_test(BatcherMachine, settings=steps)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    ["everybody_is_admitted", "cancelled_jobs_not_skipped", "no_wake_up", "answers_shifted", "no_cap", "last_first"],
)
def test_a_batcher_that_is_broken_is_noticed(change: str) -> None:
    path = os.pathsep.join([str(ROOT / "tests" / "child"), str(ROOT)])
    environ = {**os.environ, "CHILD_PATCHES": change, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", MACHINE], env=environ, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert f'"patch": "{change}"' in done.stderr
