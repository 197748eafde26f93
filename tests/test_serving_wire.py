"""The short way from socket to desk: what it takes is answered as the general way answers, what it does not take is uvicorn's."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.serving.identity import new_key
from mlops_nb.serving.log import read_log
from mlops_nb.serving.quick import QuickRows
from tests.serving_bundle import CONTRACT, NOT_A_NUMBER, POISON, ROW, Running, expected, make_bundle, running
from tests.serving_lab import stopped, until

GENERAL = {"X-Request-Timeout-Ms": "2000"}  # a wish: the request takes the general way


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = make_bundle(tmp_path_factory.mktemp("bundle"))
    with running(tmp_path_factory.mktemp("run"), bundle, serve_log_seal_s=0.3) as s:
        yield s


def request(body: bytes, path: str = "/predict", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: h", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def rows(**changes: Any) -> bytes:
    return json.dumps({"rows": [{**ROW, **changes}]}).encode()


class Talk:
    "A raw connection."

    def __init__(self, server: Running) -> None:
        url = httpx.URL(str(server.client.base_url))
        self.socket = socket.create_connection((url.host, url.port), timeout=60)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, json.loads(self._file.read(int(headers["content-length"])))

    def ended(self) -> bool:
        return self._file.read(1) == b""

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()


def without_ids(answer: httpx.Response) -> tuple[int, str]:
    "Status and body without what differs between any two requests."
    ids = re.escape(answer.headers["x-request-id"])
    body = re.sub(rf"{ids}(\.\d+)?", "ID", answer.text)
    return answer.status_code, body


BODIES = [
    ({}, 200), ({"plan": None}, 200), ({"charges": None}, 200), ({"charges": 7}, 200), ({"tenure": 72}, 200),
    ({"tenure": 73}, 200), ({"tenure": 3.0}, 200), ({"tenure": 3.5}, 200), ({"plan": "PRO"}, 200), ({"plan": "gold"}, 200),
    ({"plan": ""}, 200), ({"charges": 121}, 422), ({"senior": None}, 422), ({"senior": "true"}, 200), ({"senior": 1}, 200),
    ({"since": "2024-02-30"}, 422), ({"since": "29/02/2024"}, 422), ({"extra": 1}, 422), ({"customer": "c"}, 200),
    ({"tenure": True}, 422), ({"tenure": "3"}, 422), ({"charges": "x"}, 422), ({"tenure": POISON}, 200),
    ({"tenure": NOT_A_NUMBER}, 200), ({"tenure": 1e300}, 422), ({"plan": "a\u0000b"}, 422), ({"plan": "x" * 99}, 422),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "status"), BODIES, ids=[json.dumps(c)[:30] for c, _ in BODIES])
def test_both_ways_say_the_same(server: Running, changes: dict[str, Any], status: int) -> None:
    both = [without_ids(server.client.post("/predict", content=rows(**changes), headers=h)) for h in ({}, GENERAL)]
    assert both[0] == both[1]
    assert both[0][0] == status


def test_the_same_values_as_the_graph(server: Running) -> None:
    for tenure in (0, 5, 71):
        answer = server.client.post("/predict", content=rows(tenure=tenure)).json()["predictions"][0]
        assert answer["probability"]["Yes"] == pytest.approx(expected({**ROW, "tenure": tenure}), abs=1e-6)


def test_the_short_way_is_taken(server: Running) -> None:
    # only the short way joins requests of one turn: both rows go through the model as one batch
    with Talk(server) as one, Talk(server) as two:
        for talk in (one, two):  # both are connected
            talk.send(request(rows()))
            assert talk.answer()[0] == 200
        before = batches(server)
        with stopped(server):  # so that one turn reads both
            for talk in (one, two):
                talk.send(request(rows()))
        for talk in (one, two):
            assert talk.answer()[0] == 200
        assert batches(server) - before == 1


def batches(server: Running) -> int:
    text = server.client.get("/metrics").text
    line = next(x for x in text.splitlines() if x.startswith('mlops_nb_batch_rows_count{level="primary"}'))
    return int(float(line.split()[-1]))


def test_requests_sent_ahead_are_answered_in_order(server: Running) -> None:
    with Talk(server) as talk:
        talk.send(b"".join(request(rows(tenure=t), "/predict", f"X-Request-ID: r{t}") for t in range(40)))
        for t in range(40):
            status, headers, body = talk.answer()
            assert (status, headers["x-request-id"], body["request_id"]) == (200, f"r{t}", f"r{t}")
            assert body["predictions"][0]["probability"]["Yes"] == pytest.approx(
                expected({**ROW, "tenure": t}), abs=1e-6
            )


def test_ways_alternate_on_one_connection(server: Running) -> None:
    with Talk(server) as talk:
        for i in range(12):
            more = ("X-Request-Timeout-Ms: 900",) if i % 3 == 1 else ()
            path = "/predict" if i % 3 < 2 else "/predict?partial=true"
            talk.send(request(rows(tenure=i), path, *more))
            _, _, body = talk.answer()
            assert body["predictions"][0]["probability"]["Yes"] == pytest.approx(
                expected({**ROW, "tenure": i}), abs=1e-6
            )


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 500), max_size=4), ahead=st.integers(1, 3))
def test_wherever_the_bytes_are_cut(server: Running, cuts: list[int], ahead: int) -> None:
    data = b"".join(request(rows(tenure=t)) for t in range(ahead))
    edges = [0, *sorted({min(c, len(data)) for c in cuts}), len(data)]
    with Talk(server) as talk:
        talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for a, b in pairwise(edges):
            talk.send(data[a:b])
            time.sleep(0.001)  # lets the server see the piece alone; the outcome does not depend on it
        for t in range(ahead):
            status, _, body = talk.answer()
            assert status == 200
            assert body["predictions"][0]["probability"]["Yes"] == pytest.approx(
                expected({**ROW, "tenure": t}), abs=1e-6
            )


def test_trace_and_request_id_are_carried(server: Running) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Talk(server) as talk:
        talk.send(request(rows(), "/predict", "X-Request-ID: mine", f"Traceparent: {trace}"))
        _, headers, _ = talk.answer()
        assert (headers["x-request-id"], headers["traceparent"]) == ("mine", trace)
        talk.send(request(rows(), "/predict", "X-Request-ID: not\tharmless"))
        assert talk.answer()[1]["x-request-id"] != "not\tharmless"


@pytest.mark.parametrize(
    "head",
    [
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 5",),
        ("Content-Length: +5",),
        ("Content-Length : 5",),
        (" folded: x",),
    ],
    ids=["both", "twice", "signed", "space", "folded"],
)
def test_what_could_smuggle_a_request_is_refused(server: Running, head: Sequence[str]) -> None:
    body = rows()
    with Talk(server) as talk:
        lines = ["POST /predict HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *head, "", ""]
        talk.send("\r\n".join(lines).encode() + body + request(rows()))
        status = int(talk._file.readline().split()[1])
        assert status == 400


def test_who_leaves_disturbs_nobody(server: Running) -> None:
    for _ in range(20):
        talks = [Talk(server) for _ in range(4)]
        for t in talks:
            t.send(request(rows()) * 3)
        for t in talks[::2]:
            t.socket.close()
        for t in talks[1::2]:
            assert [t.answer()[0] for _ in range(3)] == [200] * 3
            t.socket.close()
    until(lambda: server.metric("in_flight") == 0)  # requests of those who left are not counted for ever


def test_a_client_that_does_not_read_is_not_read_either(server: Running) -> None:
    with Talk(server) as talk:
        talk.socket.settimeout(0.5)
        flood = request(rows()) * 200_000  # 60 MB: more than any socket buffer holds
        with pytest.raises(TimeoutError):
            talk.socket.sendall(flood)
        assert server.client.post("/predict", content=rows()).status_code == 200


def test_keys_are_asked_for_on_every_request(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key, other = new_key(keys, "shop"), new_key(keys, "report", ("outcomes",))
    with running(
        tmp_path, make_bundle(tmp_path), serve_keys_file=str(keys), serve_rate_per_s=0.01, serve_rate_burst=4
    ) as s:
        with Talk(s) as talk:
            found = []
            for line in (
                f"X-API-Key: {key}",
                "X-API-Key: shop.wrong",
                f"X-API-Key: {other}",
                f"Authorization: Bearer {key}",
            ):
                talk.send(request(rows(), "/predict", line))
                found.append(talk.answer()[0])
            assert found == [200, 401, 403, 200]
            talk.send(request(rows(), "/predict", f"X-API-Key: {key}") * 6)
            assert [talk.answer()[0] for _ in range(6)] == [200, 200, 429, 429, 429, 429]
        s.stop()
        log = read_log(tmp_path / "logs").to_pylist()
    assert sorted({r["reason"] for r in log}) == ["", "forbidden", "rate_limit", "unauthenticated"]
    assert len(log) == 10


def columns() -> st.SearchStrategy[Column]:
    number = st.builds(
        lambda i, n, low, r: Column("c", "number", integer=i, nullable=n, low=low, high=None if low is None else low + r),
        st.booleans(), st.booleans(), st.none() | st.integers(-5, 5), st.integers(0, 9),
    )  # fmt: skip
    levels = st.lists(st.sampled_from(["a", "b", " c", "NA", "", "1", "true"]), unique=True).map(tuple)
    category = st.builds(lambda n, lv: Column("c", "category", nullable=n, levels=lv), st.booleans(), levels)
    text = st.builds(lambda n: Column("c", "text", nullable=n, max_length=5), st.booleans())
    return number | category | text | st.builds(lambda n: Column("c", "boolean", nullable=n), st.booleans())


VALUES = (
    st.none() | st.booleans() | st.integers(-20, 20) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["a", "b", " c", "c", "NA", "", " ", "1", "true", "x\u0001", "too long a text"])
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(column=columns(), values=st.lists(VALUES, min_size=1, max_size=4))
def test_a_quick_yes_is_a_yes_of_the_contract_with_the_same_values(column: Column, values: list[Any]) -> None:
    contract = Contract((column,), Target("y", "regression"))
    quick = QuickRows(contract)
    read = [quick.read(json.dumps({"rows": [{"c": v}]}).encode()) for v in values]
    taken = [(r[0], v) for r, v in zip(read, values, strict=True) if r is not None]
    assert not contract.check([{"c": v} for _, v in taken])
    if taken:
        block, right = quick.block([r for r, _ in taken]), contract.encode([{"c": v} for _, v in taken])
        found = block.columns["c"]
        assert found.dtype == right["c"].dtype
        assert str(found.tolist()) == str(right["c"].tolist())


def test_the_quick_decoder_takes_the_common_row() -> None:
    assert QuickRows(CONTRACT).read(rows()) is not None
    assert QuickRows(CONTRACT).read(rows(tenure=73)) is None
