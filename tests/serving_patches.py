"""What tests do to a server from inside: models that misbehave, and guards that are taken out.

A patch names a module and changes it just after it was executed, before anybody else imports from it. It reaches the
real command and all its workers through `tests/child/sitecustomize.py`; the product knows nothing of it. A patch whose
target is gone fails the start of the server, so that no test passes for that reason.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

Change = Callable[[Any], None]
PATCHES: dict[str, tuple[str, Change]] = {}


def patch(name: str, module: str) -> Callable[[Change], Change]:
    "Register a change of a module of the serving package, or of another one named in full."

    def register(change: Change) -> Change:
        full = module if module.startswith("/") else f"mlops_nb.serving.{module}"
        PATCHES[name] = (full.removeprefix("/"), change)
        return change

    return register


def swap(owner: Any, name: str, new: Any) -> Any:
    "Replace what must be there, and give what it was."
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any, changes: Sequence[tuple[str, Change]]) -> None:
        self._inner, self._changes = inner, changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._inner.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        for name, change in self._changes:
            change(module)
            print(json.dumps({"event": "patched", "patch": name}), file=sys.stderr, flush=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, names: Iterable[str]) -> None:
        self._changes: dict[str, list[tuple[str, Change]]] = {}
        for name in names:
            module, change = PATCHES[name]
            self._changes.setdefault(module, []).append((name, change))

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Loader(spec.loader, self._changes[fullname])
        return spec


def install(names: Iterable[str]) -> None:
    "Called in the child before anything else is imported."
    sys.meta_path.insert(0, _Finder(names))


# Doubles: what is around the server misbehaves.

MOOD = "CHILD_MOOD"  # environment variable: file with the moods of the graphs


def _mood(file: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(os.environ[MOOD]).read_text()).get(file, {})
    except (OSError, ValueError, KeyError):
        return {}
    return found


@patch("moods", "runtime")
def moods(runtime: Any) -> None:
    "Graphs that sleep, hang, raise or answer nonsense while a file says so."
    import numpy as np

    real = runtime.ort

    class Moody(real.InferenceSession):  # type: ignore[misc,name-defined]
        def __init__(self, source: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(source, *args, **kwargs)
            self.file = Path(source).name if isinstance(source, str) else "model.onnx"

        def run(self, wanted: Any, feeds: Any, options: Any = None) -> Any:
            mood = _mood(self.file)
            n = len(next(iter(feeds.values())))
            while _mood(self.file).get("hang"):  # in native code, as far as anybody can tell
                time.sleep(0.01)
            time.sleep(mood.get("sleep_s", 0.0) + n * mood.get("sleep_row_s", 0.0))
            if mood.get("raise"):
                raise RuntimeError("the double was told to raise")
            if mood.get("memory"):
                raise MemoryError
            answer = super().run(wanted, feeds, options)
            match mood.get("answer"):
                case "fewer":
                    return [answer[0][:-1]]
                case "turned":
                    return [np.ascontiguousarray(answer[0].T)]
                case "texts":
                    return [answer[0].astype(object).astype(str).astype(object)]
                case "list":
                    return [answer[0].tolist()]
            return answer

    class Ort:
        InferenceSession = Moody

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    runtime.ort = Ort()


CLOCK = "CHILD_CLOCK"  # environment variable: file with the seconds the wall clock is wrong


@patch("wall_clock", "/mlops_nb")
def wall_clock(_: Any) -> None:
    "A wall clock that jumps when a file says so; the monotonic clock is left alone."
    real, real_ns = time.time, time.time_ns

    def skew() -> float:
        try:
            return float(Path(os.environ[CLOCK]).read_text())
        except (OSError, ValueError, KeyError):
            return 0.0

    time.time = lambda: real() + skew()
    time.time_ns = lambda: real_ns() + int(skew() * 1e9)


@patch("leaving_cancels", "hot")
def leaving_cancels(hot: Any) -> None:
    "A caller that leaves cancels its handler, as middlewares and other servers do."
    import asyncio

    real = hot.handle

    async def handle(engine: Any, route: Any, handler: Any, scope: Any, receive: Any, send: Any) -> None:
        first = await receive()
        messages = [first]

        async def replayed() -> Any:
            return messages.pop() if messages else await receive()

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.create_task(real(engine, route, handler, scope, replayed, send))
        watch = asyncio.create_task(gone())
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)

    hot.handle = handle


@patch("slow_disk", "parts")
def slow_disk(parts: Any) -> None:
    "A disk that takes its time for every table while a file says so."
    real = parts.PartWriter.add

    def add(self: Any, table: Any) -> Any:
        while _mood("disk").get("slow"):
            time.sleep(0.01)
        return real(self, table)

    parts.PartWriter.add = add


# Guards, taken out.


@patch("no_halving", "jobs")
def no_halving(jobs: Any) -> None:
    "A batch that fails, fails as a whole."

    def attempt(run: Any, pieces: Any) -> Any:
        n = jobs.count(pieces)
        try:
            return [jobs.Outcome(n, run([p.rows() for p in pieces]), None)]
        except Exception as e:
            return [jobs.Outcome(n, None, e)]

    swap(jobs, "attempt", attempt)


@patch("any_failure_is_the_models", "batching")
def any_failure_is_the_models(batching: Any) -> None:
    "One row that raises is taken for a broken model."
    swap(batching, "model_fault", lambda outcomes: next((o.error for o in outcomes if o.error), None))


@patch("answers_not_looked_at", "scoring")
def answers_not_looked_at(scoring: Any) -> None:
    "NaN is as good an answer as any."
    swap(scoring, "unusable", lambda answer, probabilities: None)


@patch("cancelled_jobs_not_skipped", "jobs")
def cancelled_jobs_not_skipped(jobs: Any) -> None:
    "An answer is set whether or not its caller still waits."

    def close(piece: Any) -> None:
        job = piece.job
        job.waiting -= piece.stop - piece.start
        if job.waiting == 0:
            job.parts.sort(key=lambda p: p.offset)
            job.future.set_result(job.parts)

    swap(jobs, "_close_if_whole", close)


@patch("no_thread_is_replaced", "batching")
def no_thread_is_replaced(batching: Any) -> None:
    "A batch that hangs is waited for."
    swap(batching.Executor, "expire", lambda self, now: None)


@patch("no_watchdog", "runtime")
def no_watchdog(runtime: Any) -> None:
    "Nobody ends a run."
    swap(runtime.Watchdog, "_work", lambda self: None)


@patch("no_breaker", "breaker")
def no_breaker(breaker: Any) -> None:
    "A model that fails is asked again at once."
    swap(breaker.Breaker, "allows", lambda self: True)


@patch("shapes_not_checked", "runtime")
def shapes_not_checked(runtime: Any) -> None:
    "Whatever the graph answers is dealt out in order."

    def run(self: Any, feeds: Any, n: int) -> Any:
        import numpy as np

        found = np.asarray(self._session.run(self._wanted, feeds, self._options)[0])
        return np.resize(found, (n, self.width))

    swap(runtime.Session, "run", run)


@patch("no_rule", "cascade")
def no_rule(cascade: Any) -> None:
    "The cascade ends with the last model."
    real = cascade.Cascade.answer

    async def answer(self: Any, rows: Any, n: int, deadline: float, depth: int = 0, why: str = "") -> Any:
        if depth == len(self.levels):
            raise cascade.Shed("overload")
        return await real(self, rows, n, deadline, depth, why)

    cascade.Cascade.answer = answer


@patch("everybody_is_admitted", "batching")
def everybody_is_admitted(batching: Any) -> None:
    "The queue takes whoever comes."
    swap(batching.Admission, "check", lambda self, n, now, deadline: deadline)


@patch("big_jobs_first", "batching")
def big_jobs_first(batching: Any) -> None:
    "What is left of a big job goes back to the head of the queue."

    class Queue(batching.Queue):  # type: ignore[misc,name-defined]
        def push(self, job: Any) -> None:
            if job.taken:
                self._jobs.appendleft(job)
                self.rows += job.n - job.taken
            else:
                super().push(job)

    swap(batching, "Queue", Queue)


@patch("shared_allowance", "gateway")
def shared_allowance(gateway: Any) -> None:
    "One allowance for all clients together."
    real = gateway.RateLimit.wait_s
    gateway.RateLimit.wait_s = lambda self, client: real(self, "all")


@patch("no_rate_limit", "gateway")
def no_rate_limit(gateway: Any) -> None:
    "Nobody is told to wait."
    swap(gateway.RateLimit, "wait_s", lambda self, client: 0.0)


@patch("log_queue_unbounded", "sink")
def log_queue_unbounded(sink: Any) -> None:
    "Records wait however many there are."
    swap(sink.Sink, "append", lambda self, item, rows: self._inbox.put(item, rows))


@patch("log_errors_not_caught", "sink")
def log_errors_not_caught(sink: Any) -> None:
    "A disk that refuses ends the log's thread."

    def write(self: Any, items: Any) -> None:
        for table in self._convert([i[1] for i in items]):
            self._parts.writer.add(table)
        sink.count(self.counts, sum(i[0] for i in items), None)
        for _, _, waiter in items:
            sink._answer(waiter, None)

    swap(sink.Sink, "_write", write)


@patch("durations_by_the_wall_clock", "/mlops_nb")
def durations_by_the_wall_clock(_: Any) -> None:
    "Durations are measured by the wall clock; goes with `wall_clock`, which comes first."
    time.monotonic = lambda: time.time()


@patch("memory_read_must_work", "engine")
def memory_read_must_work(engine: Any) -> None:
    "Reading one's own memory is not allowed to fail."

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    swap(engine, "resident_bytes", resident_bytes)


@patch("scrapes_block", "metrics")
def scrapes_block(metrics: Any) -> None:
    "A scrape that reads many files, as multiprocess collectors do."
    real = metrics.Exposition.text

    def text(self: Any) -> Any:
        time.sleep(1.5)
        return real(self)

    metrics.Exposition.text = text


@patch("stops_at_once", "server")
def stops_at_once(server: Any) -> None:
    "SIGTERM ends the server as uvicorn does it by itself."
    import uvicorn

    del server.GracefulServer.handle_exit
    del server.GracefulServer.shutdown
    assert server.GracefulServer.handle_exit is uvicorn.Server.handle_exit


@patch("workers_not_replaced", "server")
def workers_not_replaced(server: Any) -> None:
    "A worker that was killed is gone."
    swap(server.Supervisor, "_tend", lambda self: 0)


@patch("counters_start_anew", "metrics")
def counters_start_anew(metrics: Any) -> None:
    "A worker that replaces another begins at nought."
    real = metrics.Metrics.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        self.local = [0.0] * len(self.local)

    metrics.Metrics.__init__ = init


@patch("late_workers_not_waited_for", "moves")
def late_workers_not_waited_for(moves: Any) -> None:
    "A rollback is called done before every worker obeys."
    swap(moves, "wait_for_all", lambda *args, **kwargs: 0.0)


@patch("slow_is_well", "breaker")
def slow_is_well(breaker: Any) -> None:
    "Only errors count against a model."
    real = breaker.Breaker.record
    breaker.Breaker.record = lambda self, seconds, fault: real(self, 0.0, fault)


@patch("estimates_never_doubted", "batching")
def estimates_never_doubted(batching: Any) -> None:
    "What was slow once is taken for slow for ever."
    swap(batching, "DOUBT_S", float("inf"))


@patch("odd_bytes_are_dropped", "tensors")
def odd_bytes_are_dropped(tensors: Any) -> None:
    "A tensor's bytes are read as far as they go."
    real = tensors.from_binary

    def from_binary(tensor: Any, data: Any) -> Any:
        whole = 4 * tensors.size_of(tensor)
        return real(tensor, data[:whole] if tensor.datatype == "FP32" else data)

    tensors.from_binary = from_binary


@patch("any_signature", "identity")
def any_signature(identity: Any) -> None:
    "Tokens are read without a look at the signature."
    _loosen({"verify_signature": False, "verify_exp": True})


@patch("any_age", "identity")
def any_age(identity: Any) -> None:
    "Tokens are good for ever."
    real = identity._principal
    _loosen({"verify_exp": False})
    identity._principal = lambda claims: replace(real(claims), expires=float("inf"))


def _loosen(options: dict[str, bool]) -> None:
    import jwt

    real = jwt.decode

    def decode(token: str, *args: Any, **kwargs: Any) -> Any:
        kwargs["options"] = {**kwargs.get("options", {}), **options}
        return real(token, *args, **kwargs)

    jwt.decode = decode


@patch("memory_errors_end_the_thread", "jobs")
def memory_errors_end_the_thread(jobs: Any) -> None:
    "A batch without memory takes its thread with it."
    real = jobs._attempt

    def attempt(*args: Any) -> Any:
        found = real(*args)
        if any(isinstance(o.error, MemoryError) for o in found):
            sys.exit(1)
        return found

    jobs._attempt = attempt


@patch("no_new_threads", "batching")
def no_new_threads(batching: Any) -> None:
    "The system has no thread to spare while a file says so."
    real = batching.Lane.__init__

    def init(self: Any, *args: Any) -> None:
        if _mood("model.onnx").get("no_threads"):
            raise RuntimeError("can't start new thread")
        real(self, *args)

    batching.Lane.__init__ = init


@patch("no_turns", "desk")
def no_turns(desk: Any) -> None:
    "There is no room to encode the rows of a turn together while a file says so."
    real = desk.Counter.encode

    def encode(self: Any, *args: Any) -> Any:
        if _mood("model.onnx").get("no_turns"):
            raise MemoryError
        return real(self, *args)

    desk.Counter.encode = encode


@patch("turns_are_lost", "desk")
def turns_are_lost(desk: Any) -> None:
    "Nobody looks after the callers of a turn that cannot be encoded."
    swap(desk.Desk, "_singly", lambda self, tickets: None)


@patch("threads_must_be_had", "batching")
def threads_must_be_had(batching: Any) -> None:
    "A batch that needs a thread is begun before there is one."

    def has_lane(self: Any) -> bool:
        self._lane = self._lane or batching.Lane(batching.asyncio.get_running_loop(), self._name)
        return True

    swap(batching.Executor, "_has_lane", has_lane)


@patch("who_left_is_written_to", "wire")
def who_left_is_written_to(wire: Any) -> None:
    "An answer is written whether or not its caller is still there."
    real = wire.Wire.answered

    def answered(self: Any, ticket: Any, *rest: Any) -> None:
        self._ticket = ticket
        real(self, ticket, *rest)

    wire.Wire.answered = answered


@patch("nobody_joins", "cache")
def nobody_joins(cache: Any) -> None:
    "Whoever finds nothing in the cache computes for himself."
    real = cache.Shelf.__init__

    class Forgetful(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            return default

        def __delitem__(self, key: Any) -> None:
            self.pop(key, None)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        assert self._pending == {}
        self._pending = Forgetful()

    cache.Shelf.__init__ = init


@patch("one_key_for_all_versions", "cache")
def one_key_for_all_versions(cache: Any) -> None:
    "Answers are kept by row alone."
    real = cache.AnswerCache.answer
    cache.AnswerCache.answer = lambda self, owner, *rest: real(self, "any", *rest)


@patch("spans_are_sent_at_once", "tracing")
def spans_are_sent_at_once(tracing: Any) -> None:
    "Each span is sent when it ends."
    import opentelemetry.sdk.trace.export as export

    real = export.BatchSpanProcessor
    assert real is not export.SimpleSpanProcessor
    export.BatchSpanProcessor = lambda exporter, **_: export.SimpleSpanProcessor(exporter)


@patch("no_wake_up", "batching")
def no_wake_up(batching: Any) -> None:
    "A batch that ends does not begin the next one."

    def finished(self: Any, pieces: Any, outcomes: Any, seconds: float) -> None:
        batching.learn(self.cost, self.counts, outcomes, seconds)
        batching.deliver(pieces, outcomes)

    swap(batching.Batcher, "_finished", finished)


@patch("answers_shifted", "jobs")
def answers_shifted(jobs: Any) -> None:
    "Callers that share a batch get the answers of its first rows."
    real = jobs.Part

    def part(offset: int, rows: int, output: Any, start: int, error: Any = None) -> Any:
        return real(offset, rows, output, 0, error)

    jobs.Part = part


@patch("no_cap", "batching")
def no_cap(batching: Any) -> None:
    "A batch takes one row more than it may."
    real = batching.Queue.take
    batching.Queue.take = lambda self, cost, limit, now: real(self, cost, limit + 1, now)


@patch("last_first", "batching")
def last_first(batching: Any) -> None:
    "Who comes last is served first."

    def push(self: Any, job: Any) -> None:
        self._jobs.appendleft(job)
        self.rows += job.n - job.taken

    swap(batching.Queue, "push", push)


@patch("heads_not_bounded", "guarded")
def heads_not_bounded(guarded: Any) -> None:
    "uvicorn reads a head to its end, wherever that is."
    swap(guarded.Guarded, "data_received", guarded.HttpToolsProtocol.data_received)


@patch("no_end_of_patience", "guarded")
def no_end_of_patience(guarded: Any) -> None:
    "A head is waited for as long as it takes."
    swap(guarded.Guarded, "_be_patient", lambda self: None)


@patch("bodies_not_bounded", "http")
def bodies_not_bounded(http: Any) -> None:
    "A body is read to its end, however long and however late."
    real = http.read_body

    async def read_body(receive: Any, headers: Any, limit_bytes: int, timeout_s: float) -> Any:
        return await real(receive, headers, 2**40, 3600.0)

    http.read_body = read_body
