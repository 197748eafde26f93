"""F19: what a socket can be sent, byte by byte. The server answers 4xx or hangs up, keeps its memory, and serves on."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving_bundle import ROW, Running, expected, make_bundle, running
from tests.serving_lab import Raw, post, resident_mib, until

pytestmark = pytest.mark.xdist_group("serving-http")
LIMIT = 256 * 1024
GOOD = json.dumps({"rows": [ROW]}).encode()
HUNG_UP = 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("http")
    settings = {"serve_body_limit_bytes": LIMIT, "serve_body_timeout_s": 2.0}
    with running(folder, make_bundle(folder), **settings) as s:
        assert s.client.post("/predict", content=GOOD).status_code == 200
        yield s


@pytest.fixture(autouse=True)
def serves_on(server: Running) -> Iterator[None]:
    "Whatever a test did, afterwards the server answers, holds no connection but ours, and has not grown."
    before, files = resident_mib(server.process.pid), open_files(server)
    yield
    assert right(server.client.post("/predict", content=GOOD).content)
    until(lambda: open_files(server) <= files + 1)
    assert resident_mib(server.process.pid) < before + 80


def open_files(server: Running) -> int:
    "File descriptors of the server."
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def right(body: bytes, row: dict[str, Any] = ROW) -> bool:
    "Whether an answer is the one for `row`."
    found = json.loads(body)["predictions"][0]["probability"]["Yes"]
    return bool(abs(found - expected(row)) < 1e-6)


def rows_with(text: str) -> bytes:
    "A body whose one row has its tenure spelt like this."
    return GOOD.replace(b'"tenure": 3', b'"tenure": ' + text.encode())


BODIES: dict[str, tuple[bytes, set[int]]] = {
    "empty": (b"", {400}),
    "null": (b"null", {422}),
    "a list": (b"[]", {422}),
    "cut": (GOOD[:-3], {400}),
    "two documents": (GOOD + GOOD, {400}),
    "trailing comma": (GOOD[:-1] + b",}", {400}),
    "latin-1": (GOOD.replace(b"pro", "pré".encode("latin-1")), {400}),
    "half a surrogate": (GOOD.replace(b"pro", b"\\ud800"), {400, 422}),
    "utf-16": (GOOD.decode().encode("utf-16"), {400}),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, {400}),
    "gzip": (gzip.compress(GOOD), {400}),
    "NaN": (rows_with("NaN"), {400}),
    "Infinity": (rows_with("-Infinity"), {400}),
    "1e400": (rows_with("1e400"), {400, 422}),
    "1e308": (rows_with("1e308"), {422}),
    "a number of a megabyte": (rows_with("1" * (LIMIT - 200)), {400, 422}),
    "leading zero": (rows_with("03"), {400}),
    "hexadecimal": (rows_with("0x3"), {400}),
    "a number as text": (rows_with('"3"'), {422}),
    "true as a number": (rows_with("true"), {422}),
    "null where there must be a value": (rows_with("null"), {422}),
    "a list as a value": (rows_with("[3]"), {422}),
    "an object as a value": (rows_with('{"a": 3}'), {422}),
    "deep lists": (b"[" * 100_000, {400, 422}),
    "deep lists in a row": (rows_with("[" * 50_000 + "]" * 50_000), {400, 422}),
    "deep objects in a row": (rows_with('{"a":' * 30_000 + "1" + "}" * 30_000), {400, 422}),
    "an unknown field": (GOOD.replace(b'"tenure"', b'"ten"'), {422}),
    "a missing field": (GOOD.replace(b'"tenure": 3, ', b""), {422}),
    "an unknown key": (GOOD[:-1] + b', "more": 1}', {422}),
    "no rows": (b'{"rows": []}', {422}),
    "rows that are none": (b'{"rows": [1, "a", null]}', {422}),
    "a row of nulls": (b'{"rows": [null]}', {422}),
    "control characters": (GOOD.replace(b"pro", b"a\\u0000b"), {422}),
    "an overlong text": (GOOD.replace(b"pro", b"p" * 5000), {422}),
    "unit ids for other rows": (GOOD[:-1] + b', "unit_ids": ["a", "b"]}', {422}),
    "rows twice": (GOOD[:-1] + b', "rows": []}', {400, 422}),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_not_right_is_refused(server: Running, name: str) -> None:
    body, statuses = BODIES[name]
    reply = server.client.post("/predict", content=body)
    assert reply.status_code in statuses, reply.text[:300]
    error = reply.json()["error"]
    assert error["code"]
    assert len(reply.content) < 20_000, "the answer does not throw the body back"
    if reply.status_code == 422 and error["code"] == "contract":
        assert all(f["field"] and f["allowed"] for f in error["fields"])


def test_a_whole_number_may_be_written_as_a_float(server: Running) -> None:
    assert right(server.client.post("/predict", content=rows_with("3.0")).content)
    assert right(server.client.post("/predict", content=rows_with("0.3e1")).content)


def test_of_a_field_that_stands_twice_the_last_is_taken(server: Running) -> None:
    body = GOOD.replace(b'"tenure": 3', b'"tenure": 9, "tenure": 3')
    assert right(server.client.post("/predict", content=body).content)
    worse = GOOD.replace(b'"tenure": 3', b'"tenure": 3, "tenure": "x"')
    assert server.client.post("/predict", content=worse).status_code == 422


def infer(server: Running, change: Callable[[list[dict[str, Any]]], Any]) -> int:
    "Status of a V2 request of two rows after a change of its inputs."
    kinds = {"tenure": "FP32", "charges": "FP32", "plan": "BYTES", "senior": "BOOL", "since": "BYTES"}
    inputs: list[dict[str, Any]] = [
        {"name": n, "shape": [2, 1], "datatype": d, "data": [ROW[n]] * 2} for n, d in kinds.items()
    ]
    change(inputs)
    return server.client.post("/v2/models/churn/infer", json={"inputs": inputs}).status_code


@pytest.mark.parametrize(
    "about",
    [
        {"shape": [3]},
        {"shape": [2, 2]},
        {"shape": [-2, -1]},
        {"shape": [0]},
        {"shape": []},
        {"shape": [2**31, 2**31]},
        {"shape": [1] * 40 + [2]},
        {"shape": [2.5]},
        {"shape": "2"},
        {"datatype": "FP31"},
        {"datatype": "BOOL"},
        {"datatype": "UINT8", "data": [-1, 3]},
        {"data": ["3", "3"]},
        {"data": [3, [3]]},
        {"data": {"a": 3}},
        {"data": None},
        {"name": "other"},
        {"name": "charges"},
        {"parameters": {"binary_data_size": 8}},
        {"parameters": []},
        {"parameters": {"binary_data_size": True}},
        {"parameters": {"binary_data_size": 1.5}},
    ],
)
def test_a_tensor_that_is_not_right_is_refused(server: Running, about: dict[str, Any]) -> None:
    assert infer(server, lambda inputs: None) == 200
    assert infer(server, lambda inputs: inputs[0].update(about)) in (400, 422)


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\n"


def chunked(*chunks: bytes) -> bytes:
    "A body in chunks."
    return b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"


TE = b"transfer-encoding: chunked\r\n"
MESSAGES: dict[str, tuple[bytes, set[int]]] = {
    "nothing but noise": (b"\x00\x01\xff" * 50, {HUNG_UP, 400}),
    "a TLS greeting": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 300, {HUNG_UP, 400}),
    "an HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {HUNG_UP, 400, 404, 405, 505}),
    "no version": (b"POST /predict\r\n\r\n", {HUNG_UP, 400}),
    "version 9": (b"POST /predict HTTP/9.9\r\nhost: x\r\ncontent-length: 0\r\n\r\n", {HUNG_UP, 400, 505}),
    "no such method": (b"BREW /predict HTTP/1.1\r\nhost: x\r\n\r\n", {HUNG_UP, 400, 405}),
    "a length far beyond": (HEAD + b"content-length: 1000000000\r\n\r\n", {413}),
    "a length beyond numbers": (HEAD + b"content-length: " + b"9" * 40 + b"\r\n\r\n", {HUNG_UP, 400, 413}),
    "a negative length": (HEAD + b"content-length: -5\r\n\r\n", {HUNG_UP, 400}),
    "a length with a sign": (HEAD + b"content-length: +5\r\n\r\nabcde", {HUNG_UP, 400}),
    "a length in hexadecimal": (HEAD + b"content-length: 0x5\r\n\r\nabcde", {HUNG_UP, 400}),
    "two lengths": (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", {HUNG_UP, 400}),
    "two lengths in one": (HEAD + b"content-length: 5, 5\r\n\r\nabcde", {HUNG_UP, 400}),
    "length and chunks": (HEAD + b"content-length: 5\r\n" + TE + b"\r\n" + chunked(GOOD), {HUNG_UP, 400}),
    "chunks and length": (HEAD + TE + b"content-length: 5\r\n\r\n" + chunked(GOOD), {HUNG_UP, 400}),
    "chunks that are not last": (
        HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n" + chunked(GOOD),
        {HUNG_UP, 400, 501},
    ),
    "nearly chunked": (HEAD + b"transfer-encoding: xchunked\r\n\r\n" + chunked(GOOD), {HUNG_UP, 400, 501}),
    "chunked with a blank": (HEAD + b"transfer-encoding : chunked\r\n\r\n" + chunked(GOOD), {HUNG_UP, 400}),
    "a chunk size that is none": (HEAD + TE + b"\r\nzz\r\nabc\r\n0\r\n\r\n", {HUNG_UP, 400}),
    "a chunk size beyond numbers": (HEAD + TE + b"\r\n" + b"f" * 20 + b"\r\nabc", {HUNG_UP, 400}),
    "a chunk longer than it says": (HEAD + TE + b"\r\n3\r\nabcdef\r\n0\r\n\r\n", {HUNG_UP, 400}),
    "too many bytes in chunks": (HEAD + TE + b"\r\n" + chunked(*[b" " * 4096] * (LIMIT // 4096 + 2)), {413}),
    "a folded header": (HEAD + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n", {HUNG_UP, 400}),
    "a header without a name": (HEAD + b": a\r\ncontent-length: 0\r\n\r\n", {HUNG_UP, 400}),
    "a nought in a header": (HEAD + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n", {HUNG_UP, 400}),
    "a bare return in a header": (HEAD + b"x: a\rb: c\r\ncontent-length: 0\r\n\r\n", {HUNG_UP, 400}),
    "a thousand headers": (HEAD + b"".join(b"x-%d: a\r\n" % i for i in range(1000)) + b"\r\n", {HUNG_UP, 400, 431}),
    "a header of a megabyte": (HEAD + b"x: " + b"a" * 2**20 + b"\r\n\r\n", {HUNG_UP, 400, 431}),
    "a path of a megabyte": (b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nhost: x\r\n\r\n", {HUNG_UP, 400, 414, 431}),
    "a path that climbs": (b"GET /v2/models/..%2f..%2fetc/ready HTTP/1.1\r\nhost: x\r\n\r\n", {404}),
    "a nought in a path": (b"GET /v2/models/a%00b HTTP/1.1\r\nhost: x\r\n\r\n", {400, 404}),
    "a path that is no UTF-8": (b"GET /v2/models/%ff%fe HTTP/1.1\r\nhost: x\r\n\r\n", {400, 404}),
    "the wrong method": (b"GET /predict HTTP/1.1\r\nhost: x\r\n\r\n", {405}),
    "asking for a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n", {HUNG_UP, 400, 404, 405}),
    "a body in gzip": (post(gzip.compress(GOOD), "/predict", b"content-encoding: gzip"), {400, 415}),
    "a header length that is none": (
        post(GOOD, "/v2/models/churn/infer", b"inference-header-content-length: 5x"),
        {400},
    ),
    "outcomes far beyond": (b"POST /outcomes HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n", {413}),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_is_not_right_is_refused(server: Running, name: str) -> None:
    message, statuses = MESSAGES[name]
    with Raw(server) as raw:
        raw.send(message)
        status, _, body = raw.answer()
        assert status in statuses, (status, body[:200])


def test_requests_in_one_piece_are_answered_in_order(server: Running) -> None:
    rows = [ROW | {"tenure": i % 60} for i in range(200)]
    bodies = [json.dumps({"rows": [r]}).encode() for r in rows]
    bodies[50] = b"{"
    health = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    with Raw(server) as raw:
        pieces = [post(b, "/predict", b"x-request-id: r%d" % i) for i, b in enumerate(bodies)]
        pieces.insert(100, health)
        threading.Thread(target=raw.send, args=(b"".join(pieces),)).start()
        for i, row in enumerate(rows):
            if i == 100:
                assert raw.answer()[2] == b'{"live":true}'
            status, headers, body = raw.answer()
            assert (status, headers[b"x-request-id"]) == (400 if i == 50 else 200, b"r%d" % i)
            assert status == 400 or right(body, row)


def test_a_request_may_come_byte_by_byte(server: Running) -> None:
    with Raw(server) as raw:
        message = post(GOOD)
        for i in range(0, len(message), 7):
            raw.send(message[i : i + 7])
        assert right(raw.answer()[2])
        raw.send(HEAD + TE + b"\r\n" + chunked(GOOD[:1], GOOD[1:50], GOOD[50:]))
        assert right(raw.answer()[2])


def test_what_follows_a_body_that_is_too_short_is_another_request(server: Running) -> None:
    with Raw(server) as raw:
        raw.send(HEAD + b"content-length: %d\r\n\r\n" % (len(GOOD) - 5) + GOOD)
        assert raw.answer()[0] == 400
        assert raw.answer()[0] in (HUNG_UP, 400)


def test_connections_end_when_they_should(server: Running) -> None:
    for head, ends in (
        (b"POST /predict HTTP/1.0\r\n", True),
        (HEAD + b"connection: close\r\n", True),
        (HEAD + b"Connection: Close\r\n", True),
        (HEAD, False),
        (HEAD + b"connection: keep-alive\r\n", False),
    ):
        with Raw(server) as raw:
            raw.send(head + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD)
            status, _, body = raw.answer()
            assert status == 200, head
            assert right(body)
            if ends:
                assert raw.closed()
            else:
                raw.send(post(GOOD))
                assert right(raw.answer()[2])


def test_who_waits_for_leave_to_send_gets_it_or_a_refusal(server: Running) -> None:
    with Raw(server) as raw:
        raw.send(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(GOOD))
        while b"\r\n\r\n" not in raw._read:
            assert raw.more()
        assert raw._read.startswith(b"HTTP/1.1 100 ")
        raw.send(GOOD)
        assert right(raw.answer()[2])
    with Raw(server) as raw:
        raw.send(HEAD + b"expect: 100-continue\r\ncontent-length: 1000000000\r\n\r\n")
        while b"\r\n\r\n" not in raw._read:
            assert raw.more()
        assert raw._read.startswith(b"HTTP/1.1 413 ")


def test_a_target_may_be_absolute(server: Running) -> None:
    with Raw(server) as raw:
        raw.send(post(GOOD).replace(b"POST /predict", b"POST http://somewhere/predict"))
        assert right(raw.answer()[2])
        raw.send(post(GOOD).replace(b"POST /predict", b"POST /predict?a=%20b"))
        assert right(raw.answer()[2])


def test_a_body_that_does_not_come_is_not_waited_for(server: Running) -> None:
    with Raw(server) as raw, Raw(server) as drips:
        raw.send(HEAD + b"content-length: 100\r\n\r\n{")
        drips.send(HEAD + b"content-length: 100000\r\n\r\n{")
        done = threading.Event()

        def drip() -> None:
            while not done.wait(0.1):
                drips.send(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert raw.answer()[0] == 408
            assert raw.closed()
            assert drips.answer()[0] == 408
            assert drips.closed()
        finally:
            done.set()
            thread.join()


def test_a_head_that_does_not_come_is_not_waited_for(server: Running) -> None:
    with Raw(server) as silent, Raw(server) as half, Raw(server) as drips, Raw(server) as second:
        half.send(HEAD)
        drips.send(HEAD + b"x: ")
        second.send(post(GOOD))
        assert second.answer()[0] == 200
        second.send(HEAD)
        done = threading.Event()

        def drip() -> None:
            while not done.wait(0.1):
                drips.send(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            for raw in (half, drips, second, silent):
                assert raw.answer()[0] in (HUNG_UP, 400, 408)
        finally:
            done.set()
            thread.join()


def test_a_head_without_end_is_cut_off(server: Running) -> None:
    before = resident_mib(server.process.pid)
    for piece in (b"a" * 65536, b"a: b\r\n" * 10_000):
        with Raw(server) as raw:
            raw.send(HEAD + (b"x: " if b"\r" not in piece else b""))
            sent = 0
            try:
                while sent < 200 * 2**20:
                    raw.socket.sendall(piece)
                    sent += len(piece)
            except OSError:
                pass
            assert sent < 16 * 2**20, "it is still listening"
            assert resident_mib(server.process.pid) < before + 32


def test_a_caller_that_does_not_read_holds_nobody_up(server: Running) -> None:
    big = json.dumps({"rows": [ROW] * 900}).encode()
    with Raw(server) as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.socket.settimeout(0.5)
        try:
            for _ in range(400):
                deaf.socket.sendall(post(big))
        except TimeoutError:
            pass
        for _ in range(20):
            assert right(server.client.post("/predict", content=GOOD).content)
        assert resident_mib(server.process.pid) < 400


def test_callers_that_hang_up_anywhere_leave_nothing_behind(server: Running) -> None:
    message = post(GOOD)
    for cut in [*range(1, len(message), 23), len(message)]:
        raw = Raw(server)
        raw.send(message[:cut])
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", cut % 2, 0))
        raw.socket.close()
    until(lambda: server.metric("in_flight") == 0)


def test_a_hundred_connections_that_say_nothing_hold_nobody_up(server: Running) -> None:
    idle = [Raw(server) for _ in range(100)]
    try:
        for _ in range(20):
            assert right(server.client.post("/predict", content=GOOD).content)
    finally:
        for raw in idle:
            raw.socket.close()
