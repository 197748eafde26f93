"Messages against a receiver that really fails: refuses, drops the line, answers too late, goes away."

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.monitoring.delivery import LONGEST_PAUSE_S, Outbox, Parcel, Receipt, Round, post_outcomes, send_json

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Hook:
    "A receiver and what it does next: a status, 'drop' (take it and cut the line) or 'late'."

    url: str = ""
    plan: list[int | str] = field(default_factory=list)  # one a request; empty: 200
    always: int | str = 200
    requests: int = 0
    got: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def hook(always: int | str = 200) -> Iterator[Hook]:
    state = Hook(always=always)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests += 1
            does = state.plan.pop(0) if state.plan else state.always
            state.headers.append(dict(self.headers))
            if does in (200, 202, "drop"):
                state.got.append(body)
            if does == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(int(does))
            if does == 429:
                self.send_header("Retry-After", "120")
            if does == 302:
                self.send_header("Location", state.url)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def parcel(n: int, url: str, receiver: str = "slack") -> Parcel:
    return Parcel(f"{receiver}-{n}", receiver, {"n": n}, url, made=(NOON + timedelta(seconds=n)).isoformat())


def filled(folder: Path, url: str, count: int) -> Outbox:
    outbox = Outbox(folder / "outbox")
    assert all(outbox.put(parcel(n, url)) for n in range(count))
    return outbox


def until_empty(outbox: Outbox, rounds: int = 200) -> list[Round]:
    "Rounds, each after the longest pause."
    done = []
    for i in range(rounds):
        done.append(outbox.deliver(now=NOON + timedelta(seconds=2 * LONGEST_PAUSE_S * i)))
        if not outbox.waiting():
            return done
    pytest.fail(f"still waiting after {rounds} rounds")


def test_nothing_is_lost_and_the_order_holds_when_a_receiver_fails_at_random(tmp_path: Path) -> None:
    rng = random.Random(3)
    with hook() as receiver:
        receiver.plan = [rng.choice([200, 200, 500, 503, 502, 429, "drop"]) for _ in range(60)]
        outbox = filled(tmp_path, receiver.url, 15)
        rounds = until_empty(outbox)
        first = list(dict.fromkeys(body["n"] for body in receiver.got))
    assert first == list(range(15)), "every message, in its order"
    assert sorted(id for r in rounds for id in r.sent) == sorted(f"slack-{n}" for n in range(15)), "each leaves once"
    assert not outbox.refused()


def test_a_receiver_that_is_down_is_not_stormed(tmp_path: Path) -> None:
    with hook(503) as receiver:
        outbox = filled(tmp_path, receiver.url, 4)
        for second in range(0, 3600, 20):  # a look every twenty seconds for an hour
            outbox.deliver(now=NOON + timedelta(seconds=second))
        assert receiver.requests <= 2 * 9, "30 s, 1, 2, 4, 8, 16, 32 min: eight rounds, each with one retry"
        assert len(outbox.waiting()) == 4


def test_retries_keep_within_their_budget(tmp_path: Path) -> None:
    with hook() as receiver:
        receiver.plan = [500, 200] * 40  # every first attempt fails
        outbox = filled(tmp_path, receiver.url, 20)
        done = outbox.deliver(now=NOON)
        assert done.attempts - len(done.sent) <= 1 + 0.2 * len(done.sent) + 1, "retries, and the last failure"
        assert len(done.sent) < 20


def test_one_receiver_that_fails_does_not_hold_up_another(tmp_path: Path) -> None:
    with hook(500) as bad, hook() as good:
        outbox = filled(tmp_path, bad.url, 3)
        for n in range(3):
            outbox.put(parcel(n, good.url, "pager"))
        done = outbox.deliver(now=NOON)
    assert [b["n"] for b in good.got] == [0, 1, 2]
    assert len(done.waiting) == 3


def test_the_receivers_own_pause_counts(tmp_path: Path) -> None:
    with hook() as receiver:
        receiver.plan = [429]
        outbox = filled(tmp_path, receiver.url, 1)
        assert outbox.deliver(now=NOON).attempts == 1, "who asks for a pause gets no retry"
        assert outbox.deliver(now=NOON + timedelta(seconds=119)).attempts == 0
        assert outbox.deliver(now=NOON + timedelta(seconds=121)).sent == ("slack-0",)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_what_will_never_be_taken_is_set_aside_and_kept(tmp_path: Path, status: int) -> None:
    with hook() as receiver:
        receiver.plan = [status]
        outbox = filled(tmp_path, receiver.url, 2)
        done = outbox.deliver(now=NOON)
    assert [p.id for p in done.refused] == ["slack-0"]
    assert done.sent == ("slack-1",)
    assert outbox.refused()[0].body == {"n": 0}
    assert str(status) in outbox.refused()[0].said


def test_a_redirect_is_not_taken_for_a_delivery(tmp_path: Path) -> None:
    with hook() as receiver:
        receiver.plan = [302, 302]
        outbox = filled(tmp_path, receiver.url, 1)
        assert not outbox.deliver(now=NOON).sent
        assert receiver.got == []


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        outbox = filled(tmp_path, url, 1)
        (left,) = outbox.deliver(now=NOON).waiting
    assert "no answer" in left.said
    assert left.tries == 1


def test_a_crash_after_the_receiver_took_it_tells_it_again_and_no_more(tmp_path: Path) -> None:
    outbox = filled(tmp_path, "http://127.0.0.1:9/", 3)
    got: list[str] = []

    def send_and_die(p: Parcel) -> Receipt:
        got.append(p.id)
        if len(got) == 2:
            raise KeyboardInterrupt
        return Receipt(200)

    with pytest.raises(KeyboardInterrupt):
        outbox.deliver(send_and_die, NOON)
    again = Outbox(tmp_path / "outbox")
    assert [p.id for p in again.waiting()] == ["slack-1", "slack-2"]
    again.deliver(lambda p: got.append(p.id) or Receipt(200), NOON)
    assert got == ["slack-0", "slack-1", "slack-1", "slack-2"]
    assert not again.put(parcel(1, "http://127.0.0.1:9/")), "what was sent is not kept again"


def test_secrets_stand_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as receiver:
        outbox = Outbox(tmp_path / "outbox")
        outbox.put(
            Parcel(
                "a",
                "pd",
                {"event_action": "trigger"},
                url_env="HOOK_URL",
                token_env="HOOK_TOKEN",
                secrets={"routing_key": "HOOK_KEY"},
            )
        )
        (left,) = outbox.deliver(now=NOON).waiting
        assert "HOOK_URL is not set" in left.said
        for name, value in {"HOOK_URL": receiver.url, "HOOK_TOKEN": "t0ken", "HOOK_KEY": "r0uting"}.items():
            monkeypatch.setenv(name, value)
        assert outbox.deliver(now=NOON + timedelta(hours=2)).sent == ("a",)
    assert receiver.got == [{"event_action": "trigger", "routing_key": "r0uting"}]
    assert receiver.headers[0]["Authorization"] == "Bearer t0ken"
    kept = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert not [s for s in (b"t0ken", b"r0uting", receiver.url.encode()) if s in kept]


def test_a_broken_file_of_the_spool_is_named(tmp_path: Path) -> None:
    outbox = filled(tmp_path, "http://127.0.0.1:9/", 1)
    (tmp_path / "outbox" / "waiting" / "0.json").write_text('{"n": 1}')
    with pytest.raises(InputError, match="is no message of the spool"):
        outbox.deliver(now=NOON)


def test_outcomes_survive_a_server_that_is_down(tmp_path: Path) -> None:
    told = [{"prediction_id": f"p{i}", "time": NOON.isoformat(), "kind": "label", "value": "yes"} for i in range(1200)]
    with hook(503) as server:
        url = server.url.removesuffix("/hook")
        outbox = Outbox(tmp_path / "outbox")
        assert not post_outcomes(outbox, url, told).sent
        assert not post_outcomes(outbox, url, told).sent, "the job ran again: the same lots"
        assert len(outbox.waiting()) == 3
        server.always = 200
        outbox.deliver(now=datetime.now(UTC) + timedelta(hours=2))
        assert [o["prediction_id"] for body in server.got for o in body["outcomes"]] == [
            o["prediction_id"] for o in told
        ]
        assert not post_outcomes(outbox, url, told).attempts, "what was sent is not sent again"


def test_an_address_that_is_none(tmp_path: Path) -> None:
    assert send_json(Parcel("a", "x", {}, "file:///etc/passwd")).status == 0
