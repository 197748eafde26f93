"""The Open Inference Protocol as its own client speaks it, and one contract behind every way to ask."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlops_nb.bundle.format import load_bundle
from mlops_nb.bundle.parts import Segment, Thresholds
from mlops_nb.serving.batch import predict_file
from mlops_nb.serving.predictor import Predictor
from mlops_nb.serving.rows import RowsRefused
from tests.serving_bundle import CONTRACT, NOT_A_NUMBER, ROW, Running, expected, make_bundle, running

tritonhttp = pytest.importorskip("tritonclient.http")
pytestmark = pytest.mark.xdist_group("serving-conformance")
KINDS = {"tenure": "FP32", "charges": "FP32", "plan": "BYTES", "senior": "BOOL", "since": "BYTES"}
OTHER = [ROW, ROW | {"plan": "basic", "tenure": 40, "senior": True}, ROW | {"charges": 99.5, "since": "2020-01-31"}]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder), make_bundle(folder, "base", shift=1.0)


@pytest.fixture(scope="module")
def server(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("run"), *bundles) as s:
        yield s


@pytest.fixture(scope="module")
def triton(server: Running) -> Iterator[Any]:
    client = tritonhttp.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


def version_of(server: Running) -> str:
    "The champion."
    return str(server.client.get("/v2/models/churn").json()["versions"][0])


def triton_inputs(rows: list[dict[str, Any]], binary: bool) -> list[Any]:
    "Rows as the client's own inputs."
    found = []
    for name, kind in KINDS.items():
        values = [r[name] for r in rows]
        given = {
            "FP32": lambda v: np.array(v, np.float32),
            "BOOL": lambda v: np.array(v, np.bool_),
            "BYTES": lambda v: np.array([x.encode() for x in v], np.object_),
        }[kind](values)
        tensor = tritonhttp.InferInput(name, [len(rows), 1], kind)
        tensor.set_data_from_numpy(given.reshape(-1, 1), binary_data=binary)
        found.append(tensor)
    return found


def test_health_and_metadata(server: Running, triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("churn")
    version = version_of(server)
    assert triton.is_model_ready("churn", version)
    assert not triton.is_model_ready("other")
    assert not triton.is_model_ready("churn", "000000000000")
    about = triton.get_server_metadata()
    assert about["name"]
    assert about["version"]
    assert "binary_tensor_data" in about["extensions"]
    model = triton.get_model_metadata("churn")
    assert [(i["name"], i["datatype"], i["shape"]) for i in model["inputs"]] == [
        (n, d, [-1, 1]) for n, d in KINDS.items()
    ]
    assert [(o["name"], o["datatype"]) for o in model["outputs"]] == [("label", "BYTES"), ("probability", "FP64")]
    assert version in triton.get_model_metadata("churn", version)["versions"]
    ready = server.client.get("/v2/health/ready").json()
    assert ready == {"ready": True, "live": True}, "servers differ in the name of the field: both stand there"


@pytest.mark.parametrize("sent", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("asked", [None, False, True], ids=["default", "json", "binary"])
def test_the_client_gets_its_numbers(server: Running, triton: Any, sent: bool, asked: bool | None) -> None:
    outputs = None
    if asked is not None:
        outputs = [tritonhttp.InferRequestedOutput(n, binary_data=asked) for n in ("probability", "label")]
    result = triton.infer("churn", triton_inputs(OTHER, sent), outputs=outputs, request_id="mine-7")
    answer = result.get_response()
    assert answer["id"] == "mine-7"
    assert answer["model_name"] == "churn"
    assert answer["model_version"] == version_of(server)
    assert result.as_numpy("probability").shape == (3, 2)
    assert result.as_numpy("probability")[:, 1] == pytest.approx([expected(r) for r in OTHER], abs=1e-6)
    labels = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("label").ravel()]
    assert labels == ["Yes" if expected(r) >= (0.3 if r["senior"] else 0.5) else "No" for r in OTHER]


def test_only_what_is_asked_for_comes_back(triton: Any) -> None:
    result = triton.infer("churn", triton_inputs(OTHER, True), outputs=[tritonhttp.InferRequestedOutput("label")])
    assert [o["name"] for o in result.get_response()["outputs"]] == ["label"]
    assert result.as_numpy("probability") is None


def test_one_answer_may_be_half_binary(triton: Any) -> None:
    outputs = [
        tritonhttp.InferRequestedOutput("label", binary_data=False),
        tritonhttp.InferRequestedOutput("probability", binary_data=True),
    ]
    result = triton.infer("churn", triton_inputs(OTHER, False), outputs=outputs)
    told = {o["name"]: o for o in result.get_response()["outputs"]}
    assert "data" in told["label"]
    assert told["probability"]["parameters"]["binary_data_size"] == 3 * 2 * 8
    assert result.as_numpy("probability")[0, 1] == pytest.approx(expected(OTHER[0]), abs=1e-6)


def test_a_version_can_be_named(server: Running, triton: Any, bundles: tuple[Path, Path]) -> None:
    versions = [b.name[-12:] for b in bundles]
    for version, shift in zip(versions, (0.0, 1.0), strict=True):
        result = triton.infer("churn", triton_inputs([ROW], True), model_version=version)
        assert result.get_response()["model_version"] == version
        assert result.as_numpy("probability")[0, 1] == pytest.approx(expected(ROW, shift), abs=1e-6)


def test_an_id_is_always_there(server: Running) -> None:
    body: dict[str, Any] = {"inputs": inputs_of([ROW])}
    for sent in ({}, {"id": None}, {"id": ""}, {"id": "a b"}):
        answer = server.client.post("/v2/models/churn/infer", json=body | sent).json()
        assert answer["id"] == (sent.get("id") or answer["parameters"]["request_id"])
        assert answer["model_version"]


def test_parameters_are_taken_as_they_come(triton: Any) -> None:
    result = triton.infer(
        "churn",
        triton_inputs([ROW], True),
        request_id="p",
        priority=3,
        timeout=2_000_000,
        sequence_id=5,
        sequence_start=True,
        sequence_end=True,
        parameters={"mine": "yes", "n": 3, "on": True},
    )
    assert result.as_numpy("probability").shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda t: t.infer("other", triton_inputs([ROW], True)), "404"),
        (lambda t: t.infer("churn", triton_inputs([ROW], True), model_version="9"), "404"),
        (lambda t: t.get_model_metadata("other"), "404"),
        (lambda t: t.infer("churn", triton_inputs([ROW], True)[1:]), "400"),
        (lambda t: t.infer("churn", triton_inputs([ROW | {"charges": 500.0}], True)), "422"),
        (lambda t: t.infer("churn", triton_inputs([ROW], True), outputs=[tritonhttp.InferRequestedOutput("x")]), "400"),
    ],
)
def test_an_error_is_told_as_the_protocol_wants_it(triton: Any, call: Any, status: str) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as e:
        call(triton)
    assert e.value.status() == status
    assert e.value.message()


def test_an_error_body_is_one_text(server: Running) -> None:
    for path, body in (
        ("/v2/models/other/infer", {"inputs": inputs_of([ROW])}),
        ("/v2/models/churn/infer", {"inputs": []}),
        ("/v2/models/churn/infer", {"inputs": inputs_of([ROW | {"charges": -1.0}])}),
        ("/v2/models/churn/infer", {}),
    ):
        reply = server.client.post(path, json=body)
        assert reply.status_code in (400, 404, 422)
        assert isinstance(reply.json()["error"], str)
    assert isinstance(server.client.get("/v2/models/other").json()["error"], str)
    assert isinstance(server.client.get("/v2/models/other/ready").json()["error"], str)


# One contract behind every way to ask.


def inputs_of(rows: list[dict[str, Any]], kinds: dict[str, str] | None = None) -> list[dict[str, Any]]:
    "Rows as V2 inputs in JSON."
    return [
        {"name": n, "shape": [len(rows), 1], "datatype": d, "data": [r[n] for r in rows]}
        for n, d in (kinds or KINDS).items()
    ]


def binary_of(rows: list[dict[str, Any]], kinds: dict[str, str]) -> tuple[bytes, int]:
    "Rows as a binary V2 body, and the size of its head."
    inputs, tail = [], b""
    for name, kind in kinds.items():
        values = [r[name] for r in rows]
        if kind == "BYTES":
            texts = [v.encode() for v in values]
            data = b"".join(struct.pack("<I", len(t)) + t for t in texts)
        else:
            numbers = [math.nan if v is None else v for v in values]
            data = np.array(numbers, {"FP32": "<f4", "FP64": "<f8", "BOOL": "?"}[kind]).tobytes()
        inputs.append(
            {"name": name, "shape": [len(rows), 1], "datatype": kind, "parameters": {"binary_data_size": len(data)}}
        )
        tail += data
    head = json.dumps({"inputs": inputs}).encode()
    return head + tail, len(head)


Told = tuple[str, Any]  # answered with numbers, or refused for fields


def by_name(server: Running, rows: list[dict[str, Any]]) -> Told:
    reply = server.client.post("/predict", content=json.dumps({"rows": rows}))
    if reply.status_code == 200:
        return "answered", [list(p["probability"].values()) for p in reply.json()["predictions"]]
    return refused_by(reply, reply.json()["error"])


def refused_by(reply: httpx.Response, error: dict[str, Any]) -> Told:
    "Fields of a refusal; a body that JSON cannot carry has none."
    assert reply.status_code == 422, reply.text
    return "refused", [(f["row"], f["field"], spelt(f["value"]), f["allowed"]) for f in error["fields"]]


def spelt(value: str) -> str | float:
    "A value as it was received; a tensor of floats cannot say whether a number was written as a whole one."
    try:
        return float(value)
    except ValueError:
        return value


def by_tensor(server: Running, rows: list[dict[str, Any]]) -> Told:
    reply = server.client.post(
        "/v2/models/churn/infer", json={"inputs": inputs_of(rows, KINDS | {"tenure": "FP64", "charges": "FP64"})}
    )
    if reply.status_code == 200:
        output = next(o for o in reply.json()["outputs"] if o["name"] == "probability")
        return "answered", np.array(output["data"]).reshape(-1, 2).tolist()
    return refused_by(reply, reply.json())


def by_bytes(server: Running, rows: list[dict[str, Any]]) -> Told:
    content, size = binary_of(rows, KINDS | {"tenure": "FP64", "charges": "FP64"})
    reply = server.client.post(
        "/v2/models/churn/infer", content=content, headers={"inference-header-content-length": str(size)}
    )
    if reply.status_code == 200:
        output = next(o for o in reply.json()["outputs"] if o["name"] == "probability")
        return "answered", np.array(output["data"]).reshape(-1, 2).tolist()
    return refused_by(reply, reply.json())


def by_predictor(predictor: Predictor, rows: list[dict[str, Any]]) -> Told:
    try:
        return "answered", [list((p.probability or {}).values()) for p in predictor.predict(rows)]
    except RowsRefused as e:
        return "refused", [(p.row, p.field, spelt(p.value), p.allowed) for p in e.problems]


number = st.one_of(
    st.integers(0, 60),
    st.integers(73, 98),
    st.integers(-5, -1),
    st.just(3.5),
    st.sampled_from([2**24 + 1, 1e39, NOT_A_NUMBER]),
)
charge = st.one_of(
    st.floats(0, 120, width=32).map(float),
    st.none(),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.sampled_from([120.0001, 1e300]),
)
plan = st.one_of(
    st.sampled_from(["basic", "pro", "Pro", " pro ", "", "NA", "gold", "p" * 20, "p" * 21]),
    st.text(st.characters(codec="utf-8"), max_size=25),
)
since = st.one_of(
    st.dates().map(str),
    st.sampled_from(["2024-02-30", "yesterday", "", "2024-02-29T10:00:00Z", "2024-02-29 10:00", "0"]),
)
rows_of = st.lists(
    st.fixed_dictionaries({"tenure": number, "charges": charge, "plan": plan, "senior": st.booleans(), "since": since}),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def predictor(bundles: tuple[Path, Path]) -> Predictor:
    return Predictor(bundles[0])


@given(rows_of)
@example([ROW | {"plan": "a\x00b"}])
@example([ROW | {"plan": "a\x7fb"}])
@example([ROW | {"plan": "secret" * 40}])
@example([ROW | {"tenure": 2**24 + 1}])
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_way_to_ask_says_the_same(server: Running, predictor: Predictor, rows: list[dict[str, Any]]) -> None:
    told = by_name(server, rows)
    assert told == by_tensor(server, rows)
    assert told == by_bytes(server, rows)
    assert told == by_predictor(predictor, rows)
    assert (told[0] == "refused") == any(p.action == "reject" for p in CONTRACT.check(rows))


bad_for_all = st.lists(
    st.fixed_dictionaries(
        {"tenure": st.integers(0, 60), "charges": charge, "plan": plan, "senior": st.booleans(), "since": since}
    ),
    min_size=200,
    max_size=200,
)


@given(bad_for_all)
@settings(max_examples=2, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_file_says_the_same(
    server: Running, bundles: tuple[Path, Path], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    predict_file(bundles[0], source, target)
    found = pq.ParquetFile(target).read().to_pylist()
    reply = server.client.post("/predict?partial=true", content=json.dumps({"rows": rows}))
    asked = reply.json()["predictions"]
    assert [f["reason"] for f in found] == [p["reason"] for p in asked]
    assert [f["label"] for f in found] == [p["label"] for p in asked]
    assert [f["p.Yes"] for f in found] == [p["probability"]["Yes"] if p["probability"] else None for p in asked]
    assert [f["flags"] or "" for f in found] == [" ".join(p["flags"]) for p in asked]


def test_numbers_json_cannot_carry_are_refused_everywhere(server: Running, predictor: Predictor) -> None:
    for value in (math.inf, -math.inf):
        rows = [ROW | {"charges": value}]
        assert server.client.post("/predict", content=json.dumps({"rows": rows})).status_code == 400
        told = by_predictor(predictor, rows)
        assert told[0] == "refused"
        assert by_bytes(server, rows) == told
    with_gap = [ROW | {"charges": None}]
    assert by_name(server, with_gap) == by_bytes(server, with_gap) == by_predictor(predictor, with_gap)


def test_float32_tensors_and_rows_by_name_agree(server: Running) -> None:
    rows = [ROW | {"charges": float(np.float32(v))} for v in (0.1, 33.3, 119.99, 1e-7)]
    reply = server.client.post("/v2/models/churn/infer", json={"inputs": inputs_of(rows)}).json()
    output = next(o for o in reply["outputs"] if o["name"] == "probability")
    assert by_name(server, rows)[1] == np.array(output["data"]).reshape(-1, 2).tolist()


# What follows the model stands in every protocol.


@pytest.fixture(scope="module")
def by_segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("segments")
    thresholds = Thresholds(0.9, "Yes", (Segment("plan", "pro", 0.2), Segment("senior", "true", 0.5)))
    with running(folder / "run", make_bundle(folder, thresholds=thresholds)) as s:
        yield s


def test_thresholds_of_the_bundle_hold_in_every_protocol(by_segment: Running) -> None:
    rows = [
        ROW | {"plan": p, "senior": s, "tenure": t}
        for p in ("pro", "basic")
        for s in (True, False)
        for t in (0, 12, 40)
    ]
    cut = [0.2 if r["plan"] == "pro" else 0.5 if r["senior"] else 0.9 for r in rows]
    wanted = ["Yes" if expected(r) >= c else "No" for r, c in zip(rows, cut, strict=True)]
    assert set(wanted) == {"Yes", "No"}
    answer = by_segment.client.post("/predict", json={"rows": rows}).json()["predictions"]
    assert [p["label"] for p in answer] == wanted
    singly = [by_segment.client.post("/predict", json={"rows": [r]}).json()["predictions"][0] for r in rows]
    assert [p["label"] for p in singly] == wanted
    assert all(
        set(p["probability"]) == {"No", "Yes"} and abs(sum(p["probability"].values()) - 1) < 1e-6 for p in answer
    )
    tensors = by_segment.client.post("/v2/models/churn/infer", json={"inputs": inputs_of(rows)}).json()
    assert next(o for o in tensors["outputs"] if o["name"] == "label")["data"] == wanted
    path = next(by_segment.log_dir.parent.parent.glob("churn-*"))
    assert [p.label for p in Predictor(path).predict(rows)] == wanted
    assert load_bundle(path).classes == ("No", "Yes")


def test_partial_answers_the_good_rows_and_names_the_others(server: Running, predictor: Predictor) -> None:
    rows = [ROW, ROW | {"charges": 500.0}, ROW | {"plan": "gold"}, {}, ROW | {"senior": "perhaps", "tenure": "x"}]
    assert server.client.post("/predict", json={"rows": rows}).status_code == 422
    for reply in (
        server.client.post("/predict", json={"rows": rows, "partial": True}),
        server.client.post("/predict?partial=true", json={"rows": rows}),
    ):
        assert reply.status_code == 200
        found = reply.json()["predictions"]
        assert [p["reason"] for p in found] == ["", "rejected", "", "rejected", "rejected"]
        assert found[1]["flags"] == ["range:charges"]
        assert found[2]["flags"] == ["level:plan"]
        assert set(found[4]["flags"]) == {"type:senior", "type:tenure"}
        assert [p["label"] for p in found] == [p.label for p in predictor.predict(rows, partial=True)]
        assert len({p["id"] for p in found}) == 5
    nothing = server.client.post("/predict?partial=true", json={"rows": [{}]}).json()["predictions"]
    assert [p["reason"] for p in nothing] == ["rejected"]


def test_a_degraded_answer_says_so_in_every_protocol(server: Running, predictor: Predictor) -> None:
    rows = [ROW | {"tenure": NOT_A_NUMBER}]
    named = server.client.post("/predict", json={"rows": rows}).json()["predictions"][0]
    assert (named["degraded"], named["reason"]) == (True, "bad_output")
    told = server.client.post("/v2/models/churn/infer", json={"inputs": inputs_of(rows)}).json()["parameters"]
    assert (told["degraded"], told["reason"]) == (True, "bad_output")
    here = predictor.predict(rows)[0]
    assert (here.degraded, here.reason) == (True, "bad_output")


def test_a_deadline_can_be_told_in_every_protocol(server: Running) -> None:
    named = server.client.post("/predict", json={"rows": [ROW]}, headers={"x-request-timeout-ms": "0"})
    tensors = {"inputs": inputs_of([ROW])}
    by_header = server.client.post("/v2/models/churn/infer", json=tensors, headers={"x-request-timeout-ms": "0"})
    by_parameter = server.client.post("/v2/models/churn/infer", json=tensors | {"parameters": {"timeout": 0}})
    for reply in (named, by_header, by_parameter):
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
    assert named.json()["error"]["code"] == by_header.json()["code"] == by_parameter.json()["code"] == "overload"
    enough = tensors | {"parameters": {"timeout": 5_000_000}}
    assert server.client.post("/v2/models/churn/infer", json=enough).status_code == 200
