"""Bodies and rows: every way in gets the same verdict, and nothing but an `HttpError` ever comes out."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlops_nb.bundle.format import load_bundle
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.serving.gateway import HttpError, RateLimit
from mlops_nb.serving.protocol import Ask, Intake
from mlops_nb.serving.rows import Box, check_columns, encode, join, raw_rows, suspects
from mlops_nb.serving.tensors import TensorIn, from_binary
from tests.serving_bundle import CONTRACT, ROW, make_bundle

KINDS = {"tenure": "FP64", "charges": "FP64", "plan": "BYTES", "senior": "BOOL", "since": "BYTES"}


@pytest.fixture(scope="module")
def intake(tmp_path_factory: pytest.TempPathFactory) -> Intake:
    return Intake(load_bundle(make_bundle(tmp_path_factory.mktemp("b"))), rows_limit=50)


def verdict(call: Any, *arguments: Any) -> tuple[int, list[str]]:
    "200 and the flags, or the status and the fields refused."
    try:
        ask: Ask = call(*arguments)
    except HttpError as e:
        return e.status, sorted({f["field"] for f in e.fields})
    return 200, sorted({flag for flags in ask.flags for flag in flags})


def as_json(rows: list[dict[str, Any]]) -> bytes:
    data = [{"name": n, "shape": [len(rows)], "datatype": d, "data": [r[n] for r in rows]} for n, d in KINDS.items()]
    return json.dumps({"inputs": data}).encode()


def as_binary(rows: list[dict[str, Any]]) -> tuple[bytes, int]:
    inputs, tail = [], b""
    for name, kind in KINDS.items():
        values = [r[name] for r in rows]
        if kind == "BYTES":
            raw = b"".join(
                struct.pack("<I", len(v.encode())) + v.encode() for v in ["" if v is None else v for v in values]
            )
        elif kind == "BOOL":
            raw = np.array(values, np.bool_).tobytes()
        else:
            raw = np.array(values, "<f8").tobytes()
        inputs.append(
            {"name": name, "shape": [len(rows), 1], "datatype": kind, "parameters": {"binary_data_size": len(raw)}}
        )
        tail += raw
    head = json.dumps({"inputs": inputs}).encode()
    return head + tail, len(head)


rows_of = st.lists(
    st.fixed_dictionaries(
        {
            "tenure": st.one_of(st.integers(-5, 90), st.sampled_from([2**24 + 1, 0.5])),
            "charges": st.one_of(st.none(), st.floats(-10, 200, allow_nan=False), st.sampled_from([118.6, 120.0])),
            "plan": st.one_of(st.none(), st.sampled_from(["basic", "pro", "gold", "x" * 30, "a\x07"])),
            "senior": st.booleans(),
            "since": st.sampled_from(["2024-02-29", "2024-02-30", "soon"]),
        }
    ),
    min_size=1,
    max_size=4,
)


@given(rows_of)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_tensors_and_bytes_get_the_same_verdict(intake: Intake, rows: list[dict[str, Any]]) -> None:
    by_name = verdict(intake.predict, json.dumps({"rows": rows}).encode())
    assert verdict(intake.infer, as_json(rows)) == by_name
    assert verdict(intake.infer, *as_binary(rows)) == by_name


@given(rows_of)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_and_bytes_reach_the_model_as_the_same_arrays(intake: Intake, rows: list[dict[str, Any]]) -> None:
    try:
        named = intake.predict(json.dumps({"rows": rows}).encode())
    except HttpError:
        return
    sent = intake.infer(*as_binary(rows))
    a, b = join(CONTRACT, [named.rows]), join(CONTRACT, [sent.rows])
    assert {n: v.tolist() for n, v in a.columns.items() if n != "charges"} == {
        n: v.tolist() for n, v in b.columns.items() if n != "charges"
    }
    np.testing.assert_array_equal(a.columns["charges"], b.columns["charges"])


@given(st.binary(max_size=400), st.one_of(st.none(), st.integers(0, 500)))
@example(
    b'{"inputs": [{"name": "tenure", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": -4}}]}', None
)
@example(b'{"inputs": [{"name": "tenure", "shape": [-1], "datatype": "FP32", "data": []}]}', None)
@example(
    b'{"inputs": [{"name": "plan", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 4}}]}\xff\xff\xff\xff',
    96,
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_is_refused_in_order(intake: Intake, body: bytes, header_size: int | None) -> None:
    for call, arguments in ((intake.predict, (body,)), (intake.infer, (body, header_size))):
        status, _ = verdict(call, *arguments)
        assert status in (400, 422)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*ROW, "other"]), json_values, max_size=6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_in_a_row_is_answered_or_refused(intake: Intake, row: dict[str, Any]) -> None:
    status, _ = verdict(intake.predict, json.dumps({"rows": [row | {"tenure": 3}]}).encode())
    assert status in (200, 400, 422)


@given(rows_of)
@settings(max_examples=150, deadline=None)
def test_the_quick_look_suspects_whatever_the_contract_finds(rows: list[dict[str, Any]]) -> None:
    odd = {p.row for p in CONTRACT.check(rows)}
    columns = {
        "tenure": np.array([r["tenure"] for r in rows], np.float64),
        "charges": np.array([np.nan if r["charges"] is None else r["charges"] for r in rows], np.float64),
        "plan": np.array([r["plan"] for r in rows], object),
        "senior": np.array([r["senior"] for r in rows]),
        "since": np.array([r["since"] for r in rows], object),
    }
    suspected = np.logical_or.reduce([suspects(c, columns[c.name]) for c in CONTRACT.columns])
    assert odd <= set(np.flatnonzero(suspected).tolist())
    assert [(p.row, p.field, p.rule) for p in check_columns(CONTRACT, columns)] == [
        (p.row, p.field, p.rule) for p in CONTRACT.check(rows)
    ]


PACKED = Contract(
    (Column("a", "number", low=-1.5, high=118.6), Column("b", "number", integer=True, nullable=True, low=0)),
    Target("y", "binary", ("0", "1"), "1"),
)


@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=5))
@settings(deadline=None)
def test_the_box_suspects_whatever_the_columns_do(values: list[tuple[float, float]]) -> None:
    matrix = np.array(values, np.float32)
    odd = Box(PACKED.columns).suspects(matrix)
    by_column = suspects(PACKED.columns[0], matrix[:, 0]) | suspects(PACKED.columns[1], matrix[:, 1])
    assert (np.zeros(len(matrix), bool) if odd is None else odd).tolist() == by_column.tolist()


@given(rows_of)
@settings(deadline=None)
def test_encoded_rows_go_back_to_rows_with_the_same_encoding(rows: list[dict[str, Any]]) -> None:
    if any(p.action == "reject" for p in CONTRACT.check(rows)):
        return
    block = encode(CONTRACT, rows)
    again = encode(CONTRACT, raw_rows(CONTRACT, block))
    for name in CONTRACT.feature_names:
        np.testing.assert_array_equal(block.columns[name], again.columns[name])


@given(st.floats(0.5, 50), st.integers(1, 20), st.lists(st.floats(0, 0.5), min_size=1, max_size=80))
@settings(deadline=None)
def test_no_window_holds_more_than_burst_and_rate(per_s: float, burst: int, pauses: list[float]) -> None:
    now = [0.0]
    rate = RateLimit(per_s, burst, clock=lambda: now[0])
    passed = []
    for pause in pauses:
        now[0] += pause
        wait = rate.wait_s("client")
        if wait == 0:
            passed.append(now[0])
        else:
            assert 0 < wait <= 1 / per_s + 1e-9
    for i, start in enumerate(passed):
        for k, end in enumerate(passed[i:], start=1):
            assert k <= burst + per_s * (end - start) + 1e-6


def test_refusals_name_their_rows_only_to_the_log(tmp_path: Path) -> None:
    intake = Intake(load_bundle(make_bundle(tmp_path)), rows_limit=2)
    with pytest.raises(HttpError) as e:
        intake.predict(json.dumps({"rows": [ROW | {"plan": "secret" * 9}]}).encode())
    assert e.value.sent[0]["plan"] == "secret" * 9
    assert "sent" not in e.value.to_dict()["error"]
    with pytest.raises(HttpError, match="3 rows: 1 to 2 are allowed"):
        intake.predict(json.dumps({"rows": [ROW] * 3}).encode())


@pytest.mark.parametrize(
    ("kind", "data", "what"),
    [
        ("BYTES", struct.pack("<I", 10) + b"abc", "a length beyond its data"),
        ("BYTES", b"\x01\x00", "a length that is cut"),
        ("BYTES", struct.pack("<I", 2) + b"\xff\xfe", "not UTF-8"),
        ("FP32", b"\x00" * 6, "no whole number of FP32"),
        ("FP32", b"\x00" * 8, "2 elements for shape"),
        ("BOOL", b"\x02", "neither 0 nor 1"),
    ],
)
def test_bytes_that_lie_about_themselves_are_refused(kind: str, data: bytes, what: str) -> None:
    with pytest.raises(HttpError, match=what):
        from_binary(TensorIn("x", [1], kind), memoryview(data))
