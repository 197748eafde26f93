"""The batcher under many callers, deadlines, faults and cancellations."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import statistics
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.serving import batching
from mlops_nb.serving.batching import Batcher, Counts, Executor, Limits
from mlops_nb.serving.cost import CostModel, batch_limit
from mlops_nb.serving.jobs import Job, ModelFault, Part, Piece, Shed

FAST = CostModel({1: 1e-5, 64: 2e-5})


def flat(blocks: Sequence[Sequence[Any]]) -> list[Any]:
    return [row for block in blocks for row in block]


class Model:
    "Doubles numbers; remembers its batches; refuses those it was told to."

    def __init__(self, poison: Sequence[Any] = (), seconds: float = 0.0) -> None:
        self.batches: list[int] = []
        self.poison, self.seconds = set(poison), seconds

    def __call__(self, blocks: Sequence[Sequence[int]]) -> list[int]:
        rows = flat(blocks)
        self.batches.append(len(rows))
        if self.seconds:
            time.sleep(self.seconds)
        if self.poison & set(rows):
            raise ValueError("poison")
        return [2 * row for row in rows]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    "The batcher's clock stands still unless it is told to go on."
    double = SimpleNamespace(now=100.0)
    time_of = dict.fromkeys(("monotonic", "perf_counter"), lambda: double.now)
    monkeypatch.setattr(batching, "time", SimpleNamespace(**time_of))
    return double


def answers(parts: Sequence[Part]) -> list[Any]:
    "What a job got, row by row; errors by their class."
    found: list[Any] = []
    for p in parts:
        found += [type(p.error)] * p.rows if p.error else p.output[p.start : p.start + p.rows]
    return found


jobs = st.lists(st.integers(1, 12), min_size=1, max_size=25)


@given(sizes=jobs, limit=st.integers(1, 16), seed=st.integers(0, 2**16), lane=st.sampled_from(["inline", "thread"]))
@settings(max_examples=60, deadline=None)
def test_every_caller_gets_exactly_its_rows(sizes: list[int], limit: int, seed: int, lane: str) -> None:
    rng = random.Random(seed)
    rows = iter(range(10_000))
    blocks = [[next(rows) for _ in range(n)] for n in sizes]
    every = flat(blocks)
    poison = set(rng.sample(every, k=min(len(every), rng.choice([0, 0, 1, 2]))))
    leaving = {i for i in range(len(blocks)) if rng.random() < 0.1}
    model = Model(poison)

    async def story() -> list[Any]:
        batcher = Batcher(model, FAST, Limits(batch_rows=limit, lane=lane, queue_s=60))
        sent = []
        for i, block in enumerate(blocks):
            sent.append(batcher.submit(block, len(block), time.monotonic() + 60))
            if i in leaving:
                sent[-1].future.cancel()
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        got = await asyncio.gather(*(j.future for j in sent), return_exceptions=True)
        await batcher.close()
        return got

    for i, (block, got) in enumerate(zip(blocks, asyncio.run(story()), strict=True)):
        if i in leaving:
            assert isinstance(got, asyncio.CancelledError)
        else:
            assert answers(got) == [ValueError if row in poison else 2 * row for row in block]
    assert max(model.batches, default=0) <= limit


def test_no_caller_waits_while_the_model_is_idle() -> None:
    async def story() -> list[float]:
        batcher, waits = Batcher(Model(), FAST, Limits(lane="inline")), []
        for row in range(200):
            start = time.perf_counter()
            await batcher.submit([row], 1, time.monotonic() + 1).future
            waits.append(time.perf_counter() - start)
        return waits

    assert statistics.median(asyncio.run(story())) < 0.004, "a window of 5 ms would show"


def test_what_arrives_in_one_turn_runs_together() -> None:
    model = Model()

    async def story() -> None:
        batcher = Batcher(model, FAST, Limits(batch_rows=64, lane="inline"))
        await asyncio.gather(*(batcher.submit([i], 1, time.monotonic() + 1).future for i in range(64)))

    asyncio.run(story())
    assert model.batches == [64]


def test_the_batch_fills_while_the_thread_works() -> None:
    model = Model(seconds=0.05)

    async def story() -> None:
        batcher = Batcher(model, CostModel({1: 0.05, 64: 0.05}), Limits(batch_rows=64, lane="thread"))
        first = batcher.submit([0], 1, time.monotonic() + 5)
        await asyncio.sleep(0.01)
        rest = [batcher.submit([i], 1, time.monotonic() + 5) for i in range(1, 30)]
        await asyncio.gather(first.future, *(j.future for j in rest))
        await batcher.close()

    asyncio.run(story())
    assert model.batches == [1, 29]


def test_small_requests_pass_a_huge_one() -> None:
    order: list[str] = []

    async def story() -> None:
        batcher = Batcher(Model(seconds=0.002), CostModel({1: 0.002}), Limits(batch_rows=16, lane="inline", queue_s=60))
        huge = batcher.submit(list(range(512)), 512, time.monotonic() + 60)
        small = [batcher.submit([i], 1, time.monotonic() + 60) for i in range(4)]
        for name, job in [("huge", huge), *(("small", j) for j in small)]:
            job.future.add_done_callback(lambda _, name=name: order.append(name))
        await asyncio.gather(huge.future, *(j.future for j in small))

    asyncio.run(story())
    assert order == ["small"] * 4 + ["huge"]


def test_a_dead_model_is_not_run_for_every_row() -> None:
    calls = []
    faults: list[Exception | None] = []

    def dead(blocks: Sequence[Sequence[int]]) -> None:
        calls.append(1)
        raise RuntimeError("dead")

    async def story() -> list[Part]:
        batcher = Batcher(
            dead,
            FAST,
            Limits(batch_rows=64, lane="inline"),
            on_batch=lambda outcomes, seconds, fault: faults.append(fault),
        )
        return await batcher.submit(list(range(64)), 64, time.monotonic() + 1).future

    parts = asyncio.run(story())
    assert sum(p.rows for p in parts) == 64
    assert all(p.error for p in parts)
    assert len(calls) <= 4 * math.log2(64) + 1
    assert isinstance(faults[0], RuntimeError)


def test_one_poisonous_row_is_no_fault_of_the_model() -> None:
    faults: list[Exception | None] = []

    async def story() -> None:
        batcher = Batcher(
            Model([7]), FAST, Limits(lane="inline"), on_batch=lambda outcomes, seconds, fault: faults.append(fault)
        )
        await batcher.submit(list(range(32)), 32, time.monotonic() + 1).future
        await batcher.submit([7], 1, time.monotonic() + 1).future

    asyncio.run(story())
    assert faults == [None, None]


def test_overload_is_refused_at_once_and_says_when_to_come_back(clock: SimpleNamespace) -> None:
    def model(blocks: Sequence[Sequence[int]]) -> list[int]:
        clock.now += 0.1
        return flat(blocks)

    async def story() -> tuple[list[Any], Shed]:
        batcher = Batcher(model, CostModel({1: 0.1, 2: 0.2}), Limits(batch_rows=1, lane="inline", queue_s=10))
        taken, refused = [], None
        for i in range(20):
            try:
                taken.append(batcher.submit([i], 1, clock.now + 0.5))
            except Shed as e:
                refused = e
        done = await asyncio.gather(*(j.future for j in taken))
        await batcher.close()
        assert refused is not None
        return [answers(parts) for parts in done], refused

    told, refused = asyncio.run(story())
    assert told == [[0], [1], [2]], "what was accepted is answered in time"
    assert refused.reason == "overload"
    assert refused.retry_after_s == pytest.approx(0.4)


def test_a_thread_that_hangs_is_replaced_and_the_queue_goes_on(clock: SimpleNamespace) -> None:
    begun, release = threading.Event(), threading.Event()

    def model(blocks: Sequence[Sequence[int]]) -> list[int]:
        if flat(blocks) == [0]:
            begun.set()
            release.wait(60)
        return flat(blocks)

    async def story() -> tuple[Any, Any, Batcher]:
        batcher = Batcher(model, CostModel({1: 1e-3}), Limits(lane="thread", timeout_s=0.1, queue_s=10))
        stuck = batcher.submit([0], 1, clock.now + 5)
        await asyncio.to_thread(begun.wait, 60)
        behind = batcher.submit([1], 1, clock.now + 5)
        clock.now += 0.11
        got = await asyncio.gather(stuck.future, behind.future)
        release.set()
        await batcher.close()
        return got[0], got[1], batcher

    stuck, behind, batcher = asyncio.run(story())
    assert isinstance(stuck[0].error, ModelFault)
    assert stuck[0].error.reason == "timeout"
    assert answers(behind) == [1]
    assert batcher.counts.timeouts == 1


def test_who_expires_behind_a_slow_batch_is_told_so_in_time(clock: SimpleNamespace) -> None:
    release = threading.Event()

    async def story() -> bool:
        batcher = Batcher(
            lambda blocks: release.wait(60), CostModel({1: 0.001}), Limits(lane="thread", timeout_s=9, queue_s=10)
        )
        first = batcher.submit([0], 1, clock.now + 9)
        await asyncio.sleep(0)  # it runs
        late = batcher.submit([1], 1, clock.now + 0.1)
        clock.now += 0.2
        with pytest.raises(Shed, match="deadline"):
            await late.future
        still_running = not first.future.done()
        release.set()
        await first.future
        await batcher.close()
        return still_running

    assert asyncio.run(story())


def told(deadline: float, now: float) -> BaseException | None:
    "What a caller in a batch that began at 0 and should end at 1 hears when somebody looks."
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        job = Job([0], 1, deadline, loop.create_future(), 0.0)
        executor = Executor(lambda _: None, Limits(sweep_s=0.02), lambda *_: None, "model", Counts())
        executor.running, executor.started = [Piece(job, 0, 1)], 0.0
        executor.release(now, expected_s=1.0)
        return job.future.exception() if job.future.done() else None


def test_what_is_nearly_done_is_not_thrown_away_and_who_cannot_wait_is_told_at_once() -> None:
    assert [told(1.01, now) for now in (0.5, 0.99, 1.05)] == [None] * 3
    assert isinstance(told(0.9, now=0.1), Shed)
    assert isinstance(told(1.41, now=1.4), Shed), "a batch that is late may never come"
    assert told(1.5, now=1.4) is None


def test_closing_finishes_what_was_accepted() -> None:
    async def story() -> tuple[list[Any], str]:
        batcher = Batcher(Model(seconds=0.01), CostModel({1: 0.01}), Limits(batch_rows=2, lane="thread", queue_s=10))
        sent = [batcher.submit([i], 1, time.monotonic() + 5) for i in range(6)]
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Shed) as refused:
            batcher.submit([9], 1, time.monotonic() + 5)
        await closing
        return [answers(j.future.result()) for j in sent], refused.value.reason

    got, reason = asyncio.run(story())
    assert got == [[2 * i] for i in range(6)]
    assert reason == "closing"


def test_an_endless_stream_of_cancelled_callers_leaves_nothing_behind() -> None:
    async def story() -> Batcher:
        batcher = Batcher(Model(), FAST, Limits(lane="inline"))
        for _ in range(500):
            batcher.submit([1], 1, time.monotonic() + 1).future.cancel()
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return batcher

    batcher = asyncio.run(story())
    assert batcher.backlog_s() == 0.0
    assert batcher.counts.rows == 0


timings_of = st.dictionaries(st.sampled_from([1, 2, 4, 8, 16, 32]), st.floats(1e-6, 1.0), min_size=1)


@given(timings_of, st.floats(0.1, 10.0))
@settings(deadline=None)
def test_a_slower_machine_is_slower_at_every_size(timings: dict[int, float], factor: float) -> None:
    cost = CostModel(timings)
    before = [cost.seconds(n) for n in (1, 5, 40)]
    for _ in range(300):
        cost.update(1, factor * before[0])
    assert [cost.seconds(n) for n in (1, 5, 40)] == pytest.approx([factor * b for b in before], rel=0.02)


@given(timings_of, st.floats(1e-7, 100.0))
@settings(deadline=None)
def test_what_fits_takes_no_longer_than_there_is(timings: dict[int, float], left: float) -> None:
    cost = CostModel(timings)
    rows = int(min(cost.rows_within(left), 10**6))
    assert rows == 0 or cost.seconds(rows) <= left * (1 + 1e-9)


@given(timings_of)
@settings(deadline=None)
def test_a_limit_is_one_of_the_measured_sizes(timings: dict[int, float]) -> None:
    assert batch_limit(timings) in timings
