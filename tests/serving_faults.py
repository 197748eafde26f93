"""The faults a server must live with: what is done to it, what is expected, and the guards that make the difference.

`tests/test_serving_faults.py` runs each fault against the real server, and again with each guard taken out, when it must
be seen to fail. `python -m tests.serving_faults` does the second and saves the table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from mlops_nb.core.files import read_json, write_json
from mlops_nb.core.processes import die_with_parent
from mlops_nb.serving.identity import new_key
from mlops_nb.serving.log import read_log
from tests.serving_bundle import ENDLESS, NOT_A_NUMBER, POISON, ROW, Running, expected
from tests.serving_lab import Lab, Raw, ask, breakers, counts, mood, patience, post, stopped, until
from tests.serving_patches import PATCHES

SLOW = {"sleep_s": 0.1}  # a batch of whatever size; too long for more than a row at a time
RULE = {"No": 0.75, "Yes": 0.25}  # what the rule of the bundle says about ROW


@dataclass(frozen=True)
class Fault:
    "A fault and the patches, each of which takes one of its guards out."

    id: str
    name: str
    expected: str
    guards: tuple[str, ...]
    run: Callable[[Lab], None]
    slow: bool


FAULTS: dict[str, Fault] = {}


def fault(id: str, expected: str, *guards: str, slow: bool = False) -> Callable[[Callable[[Lab], None]], Any]:
    "Register a fault."

    def register(run: Callable[[Lab], None]) -> Callable[[Lab], None]:
        assert set(guards) <= set(PATCHES), f"{id}: unknown guard"
        FAULTS[run.__name__] = Fault(id, run.__name__.replace("_", " "), expected, guards, run, slow)
        return run

    return register


def together(server: Running, requests: Iterable[dict[str, Any]], timeout_s: float = 60.0) -> list[httpx.Response]:
    "Requests that are all under way at once, and their answers in order."

    async def story() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=timeout_s, limits=limits) as client:
            return list(await asyncio.gather(*(client.post("/predict", **r) for r in requests)))

    return asyncio.run(story())


def request(*rows: dict[str, Any], **headers: str) -> dict[str, Any]:
    "A request to `/predict`."
    return {"json": {"rows": rows or [ROW]}, "headers": {k.replace("_", "-"): v for k, v in headers.items()}}


Reply = tuple[int, dict[bytes, bytes], dict[str, Any]]  # status, headers and body


def at_once(server: Running, times: int, *fields: bytes) -> Iterator[Reply]:  # As they come
    "As many requests for one row, on a connection each, that the server finds all there."
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        callers = [stack.enter_context(Raw(server)) for _ in range(times)]
        with stopped(server):
            for caller in callers:
                caller.send(post(json.dumps({"rows": [ROW]}).encode(), "/predict", *fields))
                waiting.register(caller.socket, selectors.EVENT_READ, caller)
        while waiting.get_map():
            came = waiting.select(patience["s"])
            assert came, "nobody is answered any more"
            for key, _ in came:
                waiting.unregister(key.fileobj)
                status, headers, body = key.data.answer()
                yield status, headers, json.loads(body)


def told_at_once(server: Running, replies: Iterable[Reply], wanted: Callable[[Reply], bool], n: int) -> list[Reply]:
    "All replies; before `n` of the wanted ones have come, the primary has not worked for two seconds."
    found, before = [], counts(server)["rows"]
    for reply in replies:
        found.append(reply)
        if wanted(reply) and sum(map(wanted, found)) == n:
            assert counts(server)["rows"] - before < 20, "they are not told at once"
    return found


def reason_in(server: Running, timeout_ms: int) -> str:
    "Why a caller in a hurry is not answered by the primary; refused, when a busy machine was not even in time for that."
    reply = server.client.post("/predict", json={"rows": [ROW]}, headers={"x-request-timeout-ms": str(timeout_ms)})
    return _reason(reply.json()) if reply.status_code == 200 else "refused"


def _reason(body: dict[str, Any]) -> str:
    return str(body["predictions"][0]["reason"])


def leave(caller: Raw) -> None:
    "Hang up without a word more."
    caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.socket.close()


def same(predictions: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> bool:
    "Whether each row got its own answer."
    found = [p["probability"]["Yes"] for p in predictions]
    return bool(np.allclose(found, [expected(r) for r in rows], atol=1e-6))


@fault("F1", "only that row fails; the breaker stays closed", "no_halving", "any_failure_is_the_models")
def a_row_that_raises(lab: Lab) -> None:
    server = lab.server()
    for _ in range(5):
        rows = [ROW, ROW | {"tenure": POISON}, ROW | {"tenure": 9}]
        found = ask(server, *rows)
        assert [p["reason"] for p in found] == ["", "row_failed", ""]
        assert found[1]["degraded"]
        assert found[1]["probability"] == RULE
        assert same(found[::2], rows[::2])
    assert breakers(server) == {"primary": "closed"}


@fault("F2", "only those rows go down the cascade", "answers_not_looked_at")
def an_answer_that_is_no_number(lab: Lab) -> None:
    found = ask(lab.server(), ROW, ROW | {"tenure": NOT_A_NUMBER}, ROW)
    assert [(p["degraded"], p["reason"]) for p in found] == [(False, ""), (True, "bad_output"), (False, "")]
    assert found[1]["probability"] == RULE


@fault("F3", "the others of its batch are answered; nothing is left behind", "cancelled_jobs_not_skipped")
def a_caller_that_leaves(lab: Lab) -> None:
    server = lab.moods(doubles=["moods", "leaving_cancels"], serve_lane="thread")
    rows = [ROW | {"tenure": t} for t in (1, 2, 3, 4)]
    # a deadline of its own takes a request out of the short way; two rows, so that batches are of several jobs
    bodies = [post(json.dumps({"rows": [r, r]}).encode(), "/predict", b"x-request-timeout-ms: 20000") for r in rows]
    with mood(server, sleep_s=0.25), Raw(server) as a, Raw(server) as b, Raw(server) as c, Raw(server) as d:
        for caller, body in zip((a, b, c, d), bodies, strict=True):
            caller.send(body)
            server.client.get("/v2/health/live")  # an answer from the loop: the request was read
        leave(b)  # queued behind a
        assert a.answer()[0] == 200
        leave(c)  # in the batch that runs
        status, _, body = d.answer()
        assert status == 200
        assert same(json.loads(body)["predictions"], [rows[3], rows[3]])
    leave_early = Raw(server)
    leave_early.send(bodies[0])
    leave(leave_early)
    assert same(ask(server, *rows), rows)
    until(lambda: server.metric("in_flight") == 0 and server.metric("backlog_seconds") == 0)


@fault("F3", "requests that were read together are answered, whoever of them leaves", "who_left_is_written_to")
def a_caller_that_leaves_its_turn(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread")
    rows = [ROW | {"tenure": t} for t in (1, 2, 3)]
    with mood(server, sleep_s=0.3), Raw(server) as a, Raw(server) as b, Raw(server) as c:
        for raw in (a, b, c):
            raw.send(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            raw.answer()
        with stopped(server):
            for raw, row in zip((a, b, c), rows, strict=True):
                raw.send(post(json.dumps({"rows": [row]}).encode()))
        server.client.get("/v2/health/live")
        leave(a)
        for raw, row in ((b, rows[1]), (c, rows[2])):
            status, _, body = raw.answer()
            assert status == 200
            assert same(json.loads(body)["predictions"], [row])
    until(lambda: server.metric("in_flight") == 0)


@fault(
    "F4",
    "the run is ended, the lighter model answers, the breaker opens and closes",
    "no_watchdog",
    "no_breaker",
    slow=True,
)
def a_graph_that_never_ends(lab: Lab) -> None:
    server = lab.server(lab.bundle(lite=True), serve_model_timeout_ms=400)
    row = ROW | {"tenure": ENDLESS}
    for _ in range(4):
        found = ask(server, row)[0]
        assert (found["degraded"], found["reason"] in ("timeout", "breaker_open")) == (True, True)
        assert same([found], [row]), "the lighter model's answer"
    until(lambda: ask(server, row)[0]["reason"] == "breaker_open")
    assert until(lambda: ask(server)[0]["reason"] == "")
    assert breakers(server)["primary"] == "closed"
    until(lambda: server.metric("runs_ended_total") >= 3)


@fault("F4", "its thread is replaced and counted, the lighter model answers", "no_thread_is_replaced", slow=True)
def a_model_that_hangs_in_native_code(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread", serve_model_timeout_ms=400)
    with mood(server, hang=True):
        for _ in range(3):
            found = ask(server)[0]
            assert (found["degraded"], found["reason"]) == (True, "timeout")
            assert same([found], [ROW])
        until(lambda: ask(server)[0]["reason"] == "breaker_open")
    assert until(lambda: ask(server)[0]["reason"] == "")
    assert until(lambda: server.metric("threads_replaced_total") >= 3)


@fault("F5", "the batch fails as a whole, rows never get another row's answer", "shapes_not_checked")
def an_answer_of_another_shape(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread")
    rows = [ROW | {"tenure": t} for t in (1, 30, 60)]
    for answer in ("fewer", "turned", "texts", "list"):
        with mood(server, answer=answer):
            found = ask(server, *rows)
            assert all(p["degraded"] for p in found), answer
            assert same(found, rows), answer
    assert until(lambda: ask(server)[0]["reason"] == "")


@fault("F6", "the breaker opens on slow batches; every caller is answered; it finds back", "slow_is_well", slow=True)
def a_model_that_gets_slower_and_slower(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread", serve_deadline_ms=100)  # what callers expect who do not say
    patient = {"x-request-timeout-ms": "20000"}
    for sleep_s in (0.01, 0.02, 0.05, 0.15, 0.15, 0.15, 0.15):
        with mood(server, sleep_s=sleep_s):
            assert same(ask(server, headers=patient), [ROW])
    with mood(server, sleep_s=0.15):
        until(lambda: ask(server, headers=patient)[0]["reason"] == "breaker_open")
    assert until(lambda: ask(server, headers=patient)[0]["reason"] == "")


@fault(
    "F6",
    "callers in a hurry get the lighter model, and the model again when it is well",
    "estimates_never_doubted",
    slow=True,
)
def a_slow_spell_under_short_deadlines(lab: Lab) -> None:
    server = lab.moods()
    with mood(server, sleep_s=0.2):
        for _ in range(5):
            ask(server)
        until(lambda: reason_in(server, 100) == "overload")
    until(lambda: reason_in(server, 100) == "")


@fault("F7", "the rule answers, flagged as degraded", "no_rule")
def every_model_down(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread")
    with mood(server, "model.onnx", "lite.onnx", **{"raise": True}):
        for _ in range(60):  # as long as good batches are remembered
            found = ask(server, ROW, ROW)
            assert all(p["degraded"] and p["reason"] and p["probability"] == RULE for p in found)
            if "closed" not in breakers(server).values():
                break
        assert "closed" not in breakers(server).values()
    assert until(lambda: ask(server)[0]["reason"] == "")


@fault(
    "F8", "what cannot be in time is refused with reason and Retry-After; the rest is answered", "everybody_is_admitted"
)
def five_times_too_many(lab: Lab) -> None:
    server = lab.moods(at_load=SLOW, serve_lane="thread", serve_overload="refuse")  # ten rows a second
    with mood(server, **SLOW):
        asked = at_once(server, 200, b"x-request-timeout-ms: 4000")
        replies = told_at_once(server, asked, lambda r: r[0] == 503, 100)
    told = Counter(status for status, _, _ in replies)
    assert set(told) <= {200, 503, 504}
    assert told[200] >= 5, told
    assert told[503] >= 100, told
    for status, headers, body in replies:
        if status == 503:
            assert (body["error"]["code"], int(headers[b"retry-after"]) >= 1) == ("overload", True)
    assert told[504] <= 60, "few are let in to be told later that it was in vain"
    assert ask(server)[0]["reason"] == ""


@fault("F8", "the lighter model answers what the primary has no time for", "everybody_is_admitted", slow=True)
def too_many_for_the_primary(lab: Lab) -> None:
    server = lab.moods(at_load=SLOW, serve_lane="thread", serve_overload="lite")
    with mood(server, **SLOW):
        asked = at_once(server, 100, b"x-request-timeout-ms: 6000")
        replies = told_at_once(server, asked, lambda r: r[0] == 200 and _reason(r[2]) == "overload", 30)
    told = Counter(_reason(body) if status == 200 else status for status, _, body in replies)
    assert set(told) <= {"", "overload", 503, 504}
    assert told["overload"] >= 30, told
    assert told[""] >= 5, told
    assert all(same(body["predictions"], [ROW]) for status, _, body in replies if status == 200)


@fault("F16", "not ready first; whoever was accepted is answered and logged", "stops_at_once", slow=True)
def sigterm_under_load(lab: Lab) -> None:
    server = lab.server(alone=True, serve_drain_s=2.0)  # longer than a busy machine lets a client wait for its turn
    answered: list[int] = []
    failures: list[str] = []

    def client() -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as c:
            while True:
                try:
                    answered.append(c.post("/predict", json={"rows": [ROW]}).status_code)
                except httpx.ConnectError:
                    return  # the port is closed: nothing was accepted
                except httpx.TransportError as e:
                    failures.append(repr(e))
                    return

    threads = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for t in threads:
        t.start()
    until(lambda: len(answered) > 50)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.client.get("/v2/health/ready").status_code == 503)
    for t in threads:
        t.join(timeout=60)
    assert server.process.wait(timeout=60) == 0
    assert not failures, failures
    assert set(answered) == {200}
    assert read_log(server.log_dir).num_rows == len(answered), "the log was flushed"


def _workers(server: Running) -> dict[str, int]:
    "Process ids of the workers that are ready."
    status = server.client.get("/admin/status").json()["workers"]
    pids = {p.stem: json.loads(p.read_text())["pid"] for p in (server.state_dir / "workers").glob("*.json")}
    return {w: pids[w] for w in status}


def _pair(lab: Lab) -> Running:
    "Two workers, both ready."
    server = lab.server(lab.bundle(), lab.bundle("base", shift=1.0), alone=True, arguments=["--workers", "2"])
    until(lambda: server.metric("ready_workers") == 2)
    return server


def _fresh(server: Running, times: int) -> list[dict[str, Any]]:
    "One prediction on each of several new connections."
    found = []
    for _ in range(times):
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as c:
            found.append(c.post("/predict", json={"rows": [ROW]}).json()["predictions"][0])
    return found


@fault(
    "F17",
    "the others serve, it is replaced, no count is lost",
    "workers_not_replaced",
    "counters_start_anew",
    slow=True,
)
def a_worker_that_is_killed(lab: Lab) -> None:
    server = _pair(lab)
    line = 'requests_total{route="predict",status="200"}'
    for _ in range(3):
        _fresh(server, 20)
    until(lambda: server.metric(line) == 60)
    before = _workers(server)
    for worker in ("0", "1"):  # whoever of them has counted more
        os.kill(before[worker], signal.SIGKILL)
        assert len(_fresh(server, 10)) == 10
        until(lambda w=worker: _workers(server).get(w, before[w]) != before[w])
        until(lambda: server.metric("ready_workers") == 2)
    until(lambda: server.metric(line) >= 70)
    gone = _workers(server)
    for pid in gone.values():  # all of them in the same moment
        os.kill(pid, signal.SIGKILL)
    assert len(_fresh(server, 5)) == 5
    until(lambda: len(_workers(server)) == 2 and not set(_workers(server).values()) & set(gone.values()))
    until(lambda: server.metric("ready_workers") == 2)
    until(lambda: server.metric(line) >= 75)  # nobody who began before is left: what they counted is
    assert server.stop() == 0


@fault(
    "F18",
    "the other worker answers; a change of routes names who does not obey",
    "late_workers_not_waited_for",
    slow=True,
)
def a_worker_that_is_stopped(lab: Lab) -> None:
    server = _pair(lab)
    victim = _workers(server)["1"]
    server.client.close()
    os.kill(victim, signal.SIGSTOP)
    try:
        server.client = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
        assert len(_fresh(server, 20)) == 20
        late = server.client.post("/admin/rollback")
        assert late.status_code == 504
        assert "workers 1 still serve an older generation" in late.json()["error"]["message"]
    finally:
        os.kill(victim, signal.SIGCONT)
    until(lambda: len(set(server.client.get("/admin/status").json()["workers"].values())) == 1)
    until(lambda: {round(p["probability"]["Yes"], 5) for p in _fresh(server, 10)} == {round(expected(ROW, 1.0), 5)})


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\n"


@fault("F19", "cut off after 64 KiB", "heads_not_bounded")
def a_head_without_end(lab: Lab) -> None:
    with Raw(lab.server(serve_body_timeout_s=1.0)) as raw:
        raw.send(HEAD + b"x: ")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 * 2**20:
                raw.socket.sendall(b"a" * 65536)
                sent += 65536
        assert sent < 16 * 2**20, "it is still listening"


@fault("F19", "the connection is ended in time", "no_end_of_patience")
def a_head_that_does_not_come(lab: Lab) -> None:
    server = lab.server(serve_body_timeout_s=1.0)
    with Raw(server, timeout_s=15) as silent, Raw(server, timeout_s=15) as half:
        half.send(HEAD)
        assert half.answer()[0] in (0, 408)
        assert silent.answer()[0] in (0, 408)


@fault("F19", "413 and 408; the connection is ended", "bodies_not_bounded")
def a_body_too_large_or_too_late(lab: Lab) -> None:
    server = lab.server(serve_body_timeout_s=1.0)
    for more, status in ((b"content-length: 100\r\n\r\n{", 408), (b"content-length: 1000000000\r\n\r\n", 413)):
        with Raw(server, timeout_s=15) as raw:
            raw.send(HEAD + more)
            assert raw.answer()[0] == status
            assert raw.closed()


def v2(
    values: bytes, *, shape: Sequence[int] = (2, 1), kind: str = "FP32", size: int | None = None, **more: Any
) -> bytes:
    "The JSON part of a V2 request about two rows whose tenure is in bytes."
    given: dict[str, Any] = {
        "charges": [1.0, 2.0],
        "plan": ["pro", None],
        "senior": [True, False],
        "since": ["2024-01-01"] * 2,
    }
    kinds = {"charges": "FP32", "plan": "BYTES", "senior": "BOOL", "since": "BYTES"}
    inputs = [{"name": n, "shape": [2], "datatype": kinds[n], "data": v} for n, v in given.items()]
    parameters = {"binary_data_size": len(values) if size is None else size} | more
    tenure = {"name": "tenure", "shape": list(shape), "datatype": kind, "parameters": parameters}
    return json.dumps({"inputs": [tenure, *inputs]}).encode()


@fault("F20", "400, and nothing is read as something else", "odd_bytes_are_dropped")
def bytes_that_do_not_fit(lab: Lab) -> None:
    server = lab.server()
    good = np.array([3, 40], "<f4").tobytes()

    def infer(values: bytes, header_size: int | None = None, **about: Any) -> httpx.Response:
        head = v2(values, **about)
        length = {"inference-header-content-length": str(len(head) if header_size is None else header_size)}
        return server.client.post("/v2/models/churn/infer", content=head + values, headers=length)

    assert infer(good).status_code == 200
    for wrong in (
        infer(good, header_size=10**6),
        infer(good, header_size=-1),
        infer(good, header_size=5),
        infer(good + b"\0\0"),
        infer(good[:-1]),
        infer(good, size=7),
        infer(good, size=-8),
        infer(good, size=10**12),
        infer(good, size=10),
        infer(good, kind=">f4"),
        infer(good, kind="FP64"),
        infer(good, shape=(2, 2)),
        infer(good, shape=(-1, -2)),
        infer(good, shape=(2**40, 2**40)),
        infer(b"\xff\xff\xff\x7fab", kind="BYTES"),
    ):
        assert wrong.status_code == 400, wrong.text
        assert wrong.json()["code"]
    swapped = infer(np.array([3, 40], ">f4").tobytes())  # nothing says so, but the contract notices
    assert swapped.status_code in (200, 422)
    assert infer(good).status_code == 200


@fault("F21", "401 for whatever is not signed by us and valid now; 403 without the role", "any_signature", "any_age")
def tokens_that_lie(lab: Lab) -> None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    def pair() -> tuple[bytes, bytes]:
        key = rsa.generate_private_key(65537, 2048)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    (ours, public), (theirs, _) = pair(), pair()
    file = lab.folder / "public.pem"
    file.write_bytes(public)
    server = lab.server(alone=True, serve_jwt_key_file=file, serve_jwt_audience="churn")
    now = int(time.time())
    claims = {"sub": "crm", "aud": "churn", "exp": now + 600, "roles": ["predict"]}

    def status(token: str) -> int:
        return server.client.post(
            "/predict", json={"rows": [ROW]}, headers={"authorization": f"Bearer {token}"}
        ).status_code

    def signed(key: bytes = ours, **other: Any) -> str:
        about = {k: v for k, v in (claims | other).items() if v is not None}
        return jwt.encode(about, key, "RS256")

    good = signed()
    head, body, signature = good.split(".")
    flat = json.dumps({"alg": "HS256", "typ": "JWT"}).encode()
    import base64
    import hashlib
    import hmac

    def b64(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    confused = f"{b64(flat)}.{body}"
    confused += "." + b64(hmac.new(public, confused.encode(), hashlib.sha256).digest())
    assert status(good) == 200
    for token in (
        "x.y.z",
        signed(theirs),
        signed(exp=now - 60),
        signed(exp=None),
        signed(nbf=now + 600),
        signed(aud="other"),
        jwt.encode(claims, None, "none"),
        confused,
        f"{head}.{b64(json.dumps(claims | {'roles': ['admin']}).encode())}.{signature}",
        f"{head}.{body}.",
    ):
        assert status(token) == 401, token
    assert status(signed(roles=["outcomes"])) == 403
    assert status(signed(roles=[])) == 403
    assert status(good) == 200


@fault(
    "F22",
    "a burst passes to the last request and no further, whatever the wall clock does",
    "no_rate_limit",
    "durations_by_the_wall_clock",
)
def a_burst_and_a_clock_that_is_wrong(lab: Lab) -> None:
    server = lab.server(doubles=["wall_clock"], alone=True, serve_rate_per_s=0.001, serve_rate_burst=10)
    told = Counter(r.status_code for r in together(server, [request()] * 30))
    assert told == {200: 10, 429: 20}
    for skew in (86_400, -86_400):
        (server.log_dir.parent / "clock").write_text(str(skew))
        refused = server.client.post("/predict", json={"rows": [ROW]})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit"
        assert 1 <= int(refused.headers["retry-after"]) <= 1000


@fault("F23", "one row is computed once however many ask for it at once", "nobody_joins")
def a_stampede(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread", serve_cache_rows=100, serve_dedup="off")
    row = ROW | {"tenure": 33}
    before = counts(server)["rows"]
    with mood(server, sleep_s=0.3):
        replies = together(server, [request(row)] * 20 + [request(row, row, x_request_timeout_ms="5000")] * 10)
    assert {r.status_code for r in replies} == {200}
    assert all(same(r.json()["predictions"], [row] * len(r.json()["predictions"])) for r in replies)
    assert counts(server)["rows"] - before == 1
    assert len({p["id"] for r in replies for p in r.json()["predictions"]}) == 40, "the ids are each answer's own"


@fault("F23", "a version never gives another version's answer", "one_key_for_all_versions", slow=True)
def a_cache_across_versions(lab: Lab) -> None:
    server = lab.server(lab.bundle(), lab.bundle("base", shift=1.0), alone=True, serve_cache_rows=100)
    for shift in (0.0, 1.0, 0.0, 1.0):
        for _ in range(3):
            found = ask(server, ROW)[0]["probability"]["Yes"]
            assert abs(found - expected(ROW, shift)) < 1e-6
        assert server.client.post("/admin/rollback").status_code == 200


@fault("F25", "predictions and the end of the server do not wait for it", "spans_are_sent_at_once", slow=True)
def a_dead_collector(lab: Lab) -> None:
    with socket.socket() as deaf:  # takes connections and never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/traces"
        server = lab.server(alone=True, serve_otel_endpoint=endpoint, serve_otel_ratio=1.0)
        replies = [server.client.post("/predict", json={"rows": [ROW]}) for _ in range(11)]
        assert {r.status_code for r in replies} == {200}
        assert statistics.median(r.elapsed.total_seconds() for r in replies) < 1.5, "each of them waited"
        assert server.stop() == 0
    server = lab.server(alone=True, serve_otel_endpoint=endpoint, serve_otel_ratio=1.0)  # now nobody listens there
    assert same(ask(server), [ROW])


def _small_files() -> None:
    "No file of this process may grow beyond 24 KiB: to a writer, a full disk."
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 * 1024, 24 * 1024))


@fault("F24", "predictions go on, what is lost is counted; audit refuses instead", "log_errors_not_caught", slow=True)
def a_full_disk(lab: Lab) -> None:
    server = lab.server(alone=True, preexec=_small_files, serve_log="audit", serve_body_limit_bytes=2**20)
    refused, answered = None, 0
    for _ in range(40):
        reply = server.client.post("/predict", json={"rows": [ROW] * 100})
        if reply.status_code != 200:
            refused = reply
            break
        answered += 100
    assert refused is not None, "the disk was never full"
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "log"
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: server.metric('log_rows_total{state="dropped"}') > 0)
    assert server.client.get("/v2/health/live").status_code == 200
    server.process.kill()
    assert server.process.wait() == -signal.SIGKILL
    assert read_log(server.log_dir)["status"].to_pylist().count("ok") == answered, "whoever was answered is on disk"


@fault("F24", "predictions do not wait; what does not fit into the queue is counted", "log_queue_unbounded", slow=True)
def a_slow_disk(lab: Lab) -> None:
    server = lab.server(doubles=["slow_disk"], alone=True, serve_log_queue_rows=50)
    with mood(server, "disk", slow=True):
        for _ in range(100):
            ask(server, *[ROW] * 5)
        until(
            lambda: server.metric('log_rows_total{state="dropped"}') >= 400
        )  # 50 wait for the thread, 50 at most it has
    assert server.metric('requests_total{route="predict",status="200"}') == 100
    until(lambda: sum(server.metric(f'log_rows_total{{state="{s}"}}') for s in ("written", "dropped")) == 500)


@fault("F26", "an open breaker closes, deadlines hold, the log goes on", "durations_by_the_wall_clock", slow=True)
def a_wall_clock_that_jumps(lab: Lab) -> None:
    bundle = lab.bundle(faults=False, lite=True)
    server = lab.server(bundle, doubles=["moods", "wall_clock"], alone=True, serve_log_seal_s=0.2, serve_lane="thread")
    for skew in (3600.0, -3600.0, 0.0):
        with mood(server, **{"raise": True}):
            until(lambda: ask(server, ROW, ROW)[0]["reason"] == "breaker_open")
        (server.log_dir.parent / "clock").write_text(str(skew))
        assert until(lambda: ask(server)[0]["reason"] == "")
    assert ask(server, headers={"x-request-timeout-ms": "5000"})[0]["reason"] == ""
    sealed = server.log_dir.glob("predictions/day=*/part-*.parquet")
    assert until(lambda: list(sealed))


def _few_files() -> None:
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@fault("F27", "who is connected is answered; afterwards all is as before", "memory_read_must_work", slow=True)
def no_file_descriptor_left(lab: Lab) -> None:
    server = lab.server(lab.bundle(), lab.bundle("base", shift=1.0), alone=True, preexec=_few_files)
    ask(server)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(Raw(server)) for _ in range(90)]
        deadline = time.monotonic() + 1.0  # the housekeeping of the server meets the shortage
        while time.monotonic() < deadline:
            assert same(ask(server), [ROW])
        assert len(idle) == 90
    assert until(lambda: _answers(server))
    assert server.client.post("/admin/rollback").status_code == 200, "the keeper of the routes is alive"


def _answers(server: Running) -> bool:
    "Whether a new connection is answered."
    with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=server.url, trust_env=False, timeout=10) as c:
        return c.post("/predict", json={"rows": [ROW]}).status_code == 200
    return False


@fault("F27", "a batch without memory goes to the lighter model", "memory_errors_end_the_thread")
def a_model_without_memory(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread")
    with mood(server, memory=True):
        assert [p["reason"] for p in ask(server, ROW, ROW)] == ["row_failed", "row_failed"]
    assert until(lambda: ask(server)[0]["reason"] == "")


@fault("F27", "rows for which there is no room together are answered one by one", "turns_are_lost", slow=True)
def a_turn_without_memory(lab: Lab) -> None:
    server = lab.moods(doubles=["moods", "no_turns"], alone=True)
    with mood(server, no_turns=True):
        replies = list(at_once(server, 8))
    assert all(status == 200 and same(body["predictions"], [ROW]) for status, _, body in replies)
    assert server.metric("in_flight") == 0


@fault("F27", "batches run without a thread of their own", "threads_must_be_had", slow=True)
def no_thread_to_be_had(lab: Lab) -> None:
    server = lab.moods(doubles=["moods", "no_new_threads"], alone=True, serve_lane="thread")
    with mood(server, no_threads=True):
        for _ in range(3):
            assert same(ask(server, ROW, ROW), [ROW, ROW])
    assert ask(server)[0]["reason"] == ""


@fault("F27", "requests fail, the other worker serves, who cannot go on is replaced", slow=True)
def a_worker_without_memory(lab: Lab) -> None:
    server = _pair(lab)
    victim = _workers(server)["1"]
    used = int(Path(f"/proc/{victim}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(victim, resource.RLIMIT_AS, (used + 24 * 2**20, resource.RLIM_INFINITY))
    big = json.dumps({"rows": [ROW] * 9_900}).encode()
    wide = b'{"rows": [' + b",".join([json.dumps(ROW | {"plan": "x" * 400}).encode()] * 9_900) + b"]}"
    told: Counter[int] = Counter()
    for body in (wide, big) * 6:
        with (
            contextlib.suppress(httpx.TransportError),  # no memory even to say so
            httpx.Client(base_url=server.url, trust_env=False, timeout=30) as c,
        ):
            told[c.post("/predict", content=body).status_code] += 1
    assert set(told) <= {200, 400, 422, 500, 503, 504}, told
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(victim, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    server.client.close()
    server.client = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
    until(lambda: server.metric("ready_workers") == 2)
    assert same(_fresh(server, 20), [ROW] * 20)


@fault("F28", "the noisy tenant is told to slow down, the other notices nothing", "shared_allowance", slow=True)
def a_noisy_tenant(lab: Lab) -> None:
    keys = lab.folder / "keys.json"
    noisy, quiet = new_key(keys, "noisy"), new_key(keys, "quiet")
    server = lab.server(alone=True, serve_keys_file=keys, serve_rate_per_s=1, serve_rate_burst=20)
    requests = [request(authorization=f"Bearer {noisy}")] * 200
    requests[10:200:10] = [request(authorization=f"Bearer {quiet}")] * 19
    replies = together(server, requests)
    told = {
        name: Counter(r.status_code for r in replies if name in r.request.headers["authorization"])
        for name in ("noisy", "quiet")
    }
    assert told["quiet"] == {200: 19}
    assert told["noisy"][429] >= 100


@fault("F29", "nobody waits for the scrape", "scrapes_block")
def scrapes_under_load(lab: Lab) -> None:
    server = lab.server()
    sizes: set[int] = set()
    stop = threading.Event()

    def scrape() -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as c:
            while not stop.is_set():
                sizes.add(len(c.get("/metrics").text.splitlines()))

    scraper = threading.Thread(target=scrape, daemon=True)
    scraper.start()
    try:
        replies = [server.client.post("/predict", json={"rows": [ROW], "unit_ids": [i]}) for i in range(11)]
        assert sorted(r.elapsed.total_seconds() for r in replies)[-3] < 1.0, "they wait for the scrapes"
        for i in range(100):
            ask(server, unit_ids=[i])
        until(lambda: sizes)
    finally:
        stop.set()
        scraper.join(timeout=60)
    assert len(sizes) == 1, "the number of series does not grow with the traffic"


@fault("F30", "the small one overtakes; the big one is cut into batches", "big_jobs_first")
def a_small_request_behind_a_big_one(lab: Lab) -> None:
    server = lab.moods(serve_lane="thread", serve_batch_rows=16, serve_deadline_ms=90_000, serve_queue_ms=90_000)
    rows = [ROW | {"tenure": t % 70} for t in range(512)]
    before = counts(server)
    with Raw(server) as big, Raw(server) as small:
        with mood(server, sleep_s=0.2):  # the big one would take six seconds
            big.send(post(json.dumps({"rows": rows}).encode()))
            until(lambda: counts(server)["batches"] > before["batches"])
            small.send(post(json.dumps({"rows": [ROW]}).encode()))
            status, _, body = small.answer()
            assert status == 200
            assert same(json.loads(body)["predictions"], [ROW])
            done = counts(server)["rows"] - before["rows"]
            assert done < 512, "the big one is not finished yet"
        status, _, body = big.answer()
    assert status == 200
    assert same(json.loads(body)["predictions"], rows)
    after = counts(server)
    assert (after["rows"] - before["rows"]) / (after["batches"] - before["batches"]) <= 16


NOTICED = (AssertionError, httpx.HTTPError, OSError, TimeoutError)


def seen_without(fault: Fault, guard: str, folder: Path) -> str:
    "Run a fault with a guard taken out, and say how it was noticed; empty when it was not."
    usual, patience["s"] = patience["s"], 15.0  # what does not come about is the point
    try:
        with Lab(folder, without=[guard]) as lab:
            fault.run(lab)
    except NOTICED as e:
        if not any(guard in f.read_text() for f in folder.glob("server*/server.err")):
            raise RuntimeError(f"the guard '{guard}' was never met") from e
        return (str(e) or type(e).__name__).splitlines()[0][:120]
    finally:
        patience["s"] = usual
    return ""


def main() -> int:
    "Take every guard out, once, and save how its fault was noticed."
    parser = argparse.ArgumentParser(description="Run every fault with each of its guards taken out.")
    parser.add_argument("faults", nargs="*", help="names; default: all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    table = (
        {(r["what"], r["guard"]): r for r in read_json(given.out)["faults"]} if given.out and given.out.exists() else {}
    )
    pairs = [(name, f, guard) for name, f in FAULTS.items() for guard in f.guards]
    order = [(f.name, guard) for _, f, guard in pairs]
    asked = [p for p in pairs if not given.faults or p[0] in given.faults]
    unseen = 0
    for name, f, guard in asked:
        with tempfile.TemporaryDirectory() as folder:
            seen = seen_without(f, guard, Path(folder))
        unseen += not seen
        module, change = PATCHES[guard]
        told = {"module": module, "guard": guard, "without": change.__doc__}
        table[f.name, guard] = {"fault": f.id, "what": f.name, "expected": f.expected, **told, "seen": bool(seen)}
        if given.out:
            write_json(given.out, {"v": 1, "faults": [table[k] for k in order if k in table]})
        print(f"{f.id:4} {'seen  ' if seen else 'UNSEEN'} {name} without {guard}: {seen}", flush=True)
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
