"""The same answers without a server: predictor, files, mounted application."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI

from mlops_nb.bundle.format import load_bundle
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.settings import Settings
from mlops_nb.serving import fleet
from mlops_nb.serving.app import create_app
from mlops_nb.serving.batch import predict_file
from mlops_nb.serving.log import read_log
from mlops_nb.serving.predictor import Predictor
from mlops_nb.serving.rows import RowsRefused
from mlops_nb.serving.scoring import prove
from mlops_nb.serving.version import load_graphs
from tests.serving_bundle import NOT_A_NUMBER, POISON, ROW, expected, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"))


def test_rows_frames_and_iterators_are_answered_alike(bundle: Path) -> None:
    pd = pytest.importorskip("pandas")
    predictor = Predictor(bundle, chunk_rows=3)
    rows = [ROW | {"tenure": t, "charges": None if t % 2 else 20.0} for t in range(8)]
    by_rows, by_frame, by_iterator = (predictor.predict(r) for r in (rows, pd.DataFrame(rows), iter(rows)))
    told = [(p.label, p.probability) for p in by_rows]
    assert told == [(p.label, p.probability) for p in by_frame] == [(p.label, p.probability) for p in by_iterator]
    assert [p.probability["Yes"] for p in by_rows if p.probability] == pytest.approx(
        [expected(r) for r in rows], abs=1e-6
    )


def test_a_bad_row_refuses_all_or_is_marked(bundle: Path) -> None:
    predictor = Predictor(bundle)
    rows = [ROW, ROW | {"charges": 999.0}, ROW | {"tenure": POISON}, ROW | {"tenure": NOT_A_NUMBER}]
    with pytest.raises(RowsRefused, match=r"row 1, field 'charges': range '999\.0'"):
        predictor.predict(rows)
    assert [p.reason for p in predictor.predict(rows, partial=True)] == ["", "rejected", "row_failed", "bad_output"]


def test_loading_proves_the_golden_rows(tmp_path: Path) -> None:
    good = load_graphs(make_bundle(tmp_path, "good", lite=True))
    assert good.golden_rows == 4
    assert [name for name, _ in good.models] == ["primary", "lite"]
    assert prove(good.models[0][1].scorer) == 4
    with pytest.raises(Refused, match="4 of 4 golden rows get another answer here"):
        load_graphs(make_bundle(tmp_path, "wrong", offset=0.01))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    "Rows as CSV or Parquet, by the suffix."
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    "The answers, with numbers as numbers."
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
        return found
    with path.open(newline="") as f:
        return [{k: float(v) if k.startswith("p.") and v else v for k, v in row.items()} for row in csv.DictReader(f)]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_gets_the_answers_of_the_predictor(bundle: Path, tmp_path: Path, suffix: str) -> None:
    rows = [ROW | {"tenure": t % 70, "plan": None if t % 5 else "pro", "customer": f"c{t}"} for t in range(5000)]
    told = predict_file(bundle, write(tmp_path / f"in{suffix}", rows), tmp_path / f"out{suffix}")
    assert (told.rows, told.rejected, str(told)) == (5000, 0, "5000 (71 degraded)")
    here = Predictor(bundle).predict([{k: v for k, v in r.items() if k != "customer"} for r in rows])
    there = read(tmp_path / f"out{suffix}")
    assert [r["p.Yes"] for r in there] == [p.probability["Yes"] for p in here if p.probability]
    assert [r["label"] for r in there] == [p.label for p in here]


def test_bad_rows_of_a_file_keep_their_place(bundle: Path, tmp_path: Path) -> None:
    rows = [ROW, ROW | {"tenure": "many"}, ROW | {"charges": 500}, ROW | {"plan": "gold"}]
    told = predict_file(bundle, write(tmp_path / "in.csv", rows), tmp_path / "out.parquet")
    assert str(told) == "4 (2 rejected)"
    out = read(tmp_path / "out.parquet")
    assert [(r["row"], r["label"], r["reason"], r["flags"]) for r in out] == [
        (0, "Yes", "", ""),
        (1, None, "rejected", "type:tenure"),
        (2, None, "rejected", "range:charges"),
        (3, "Yes", "", "level:plan"),
    ]


def test_files_that_cannot_be_scored_say_why_and_leave_nothing(bundle: Path, tmp_path: Path) -> None:
    lacking = write(tmp_path / "lacking.csv", [{k: v for k, v in ROW.items() if k != "tenure"}])
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    for source, target, message in (
        (lacking, "out.csv", "no column 'tenure'"),
        (broken, "out.csv", "not a Parquet file"),
        (tmp_path / "none.csv", "out.csv", "no such file"),
        (lacking, "out.xlsx", "'.xlsx' files are not written"),
        (lacking, "nowhere/out.csv", "No such file"),
    ):
        with pytest.raises(InputError, match=message):
            predict_file(bundle, source, tmp_path / target)
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".out*"))


def asked(app: Any, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    "Requests to an application in this process."

    async def story() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return [await client.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(story())


def test_an_application_of_ours_mounts_in_somebody_elses(bundle: Path, tmp_path: Path) -> None:
    mine, ours = FastAPI(), create_app([bundle], Settings(serve_log_seal_s=0.1), log_dir=tmp_path)
    mine.mount("/churn", ours)

    @mine.get("/hello")
    def hello() -> str:
        return "mine"

    async def story() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(mine), base_url="http://here") as client:
            replies = [
                await client.post("/churn/predict", json={"rows": [ROW]}),
                await client.get("/churn/v2/models/churn"),
                await client.get("/hello"),
                await client.post("/churn/v2/models/churn/infer", json={"inputs": []}),
            ]
        await ours.stop()
        return replies

    answer, about, hello_reply, empty = asyncio.run(story())
    assert answer.json()["predictions"][0]["probability"]["Yes"] == pytest.approx(expected(ROW), abs=1e-6)
    assert about.json()["name"] == "churn"
    assert hello_reply.json() == "mine"
    assert empty.status_code == 400
    assert read_log(tmp_path).num_rows == 2


def test_two_applications_in_one_process_do_not_mix(bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path, "other", shift=2.0)

    async def story() -> list[float]:
        apps = [create_app([bundle]), create_app([other])]
        found = []
        for app in apps:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
                reply = await client.post("/predict", json={"rows": [ROW]})
                found.append(reply.json()["predictions"][0]["probability"]["Yes"])
                text = (await client.get("/metrics")).text
                assert 'mlops_nb_rows_total{arm="champion",level="primary"} 1.0' in text
        for app in apps:
            await app.stop()
        return found

    assert asyncio.run(story()) == pytest.approx([expected(ROW), expected(ROW, 2.0)], abs=1e-6)


def test_a_version_that_cannot_be_loaded_does_not_end_the_look_at_the_routes(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_bundle(tmp_path, "other", shift=2.0)

    def no_room(*_: Any) -> None:
        raise MemoryError

    async def story() -> list[httpx.Response]:
        app = create_app([bundle], state_dir=tmp_path / "state")
        transport = httpx.ASGITransport(app)
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            with monkeypatch.context() as patched:
                patched.setattr(fleet, "load_graphs", no_room)
                first = await client.post("/admin/promote", json={"bundle": str(other)})
            return [first, await asyncio.wait_for(client.post("/admin/promote", json={"bundle": str(other)}), 60)]

    refused, promoted = asyncio.run(story())
    assert (refused.status_code, "MemoryError" in refused.text) == (409, True)
    assert promoted.status_code == 200


def test_a_server_without_a_log_says_so_to_outcomes(bundle: Path) -> None:
    outcome = {"unit_id": "a", "time": "2026-03-01T10:00:00Z", "kind": "label", "value": True}

    async def story() -> httpx.Response:
        app = create_app([bundle])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            reply = await client.post("/outcomes", json={"outcomes": [outcome]})
        await app.stop()
        return reply

    reply = asyncio.run(story())
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "log")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    "A bundle around a graph with one tensor, made elsewhere."
    from onnx import TensorProto, helper

    from mlops_nb.bundle.foreign import export_onnx

    folder = tmp_path_factory.mktemp("packed")
    w = np.array([[1.0], [-2.0], [0.5]], np.float32)
    nodes = [helper.make_node("MatMul", ["X", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["p"])]
    nodes += [
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["probability"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [3, 1], w.ravel()),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "linear.onnx").write_bytes(model.SerializeToString())
    sample = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    return export_onnx(folder / "linear.onnx", sample, folder / "bundle").path, sample


def test_a_packed_tensor_is_served_by_name_by_json_and_in_bytes(packed: tuple[Path, np.ndarray]) -> None:
    path, sample = packed
    bundle = load_bundle(path)
    x = sample[:5]
    p = 1 / (1 + np.exp(-(x @ np.array([1.0, -2.0, 0.5], np.float32)).astype(np.float64)))
    head = json.dumps(
        {
            "inputs": [{"name": "X", "shape": [5, 3], "datatype": "FP32", "parameters": {"binary_data_size": 60}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    data = {"inputs": [{"name": "X", "shape": [5, 3], "datatype": "FP32", "data": x.tolist()}]}
    rows = [dict(zip(bundle.contract.feature_names, map(float, r), strict=True)) for r in x]

    async def story() -> list[httpx.Response]:
        app = create_app([path])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            url = f"/v2/models/{bundle.name}/infer"
            length = {"inference-header-content-length": str(len(head))}
            replies = [
                await client.post("/predict", json={"rows": rows}),
                await client.post(url, json=data),
                await client.post(url, content=head + x.tobytes(), headers=length),
                await client.post(url, content=head + x.tobytes()[:-4], headers=length),
            ]
        await app.stop()
        return replies

    named, by_json, in_bytes, cut = asyncio.run(story())
    assert [list(r["probability"].values())[1] for r in named.json()["predictions"]] == pytest.approx(
        p.tolist(), abs=1e-6
    )
    probability = next(o for o in by_json.json()["outputs"] if o["name"] == "probability")
    assert probability["data"][1::2] == pytest.approx(p.tolist(), abs=1e-6)
    size = int(in_bytes.headers["inference-header-content-length"])
    told = json.loads(in_bytes.content[:size])
    sizes = {o["name"]: o["parameters"]["binary_data_size"] for o in told["outputs"]}
    tail = in_bytes.content[size:]
    assert len(tail) == sum(sizes.values())
    binary = np.frombuffer(tail[sizes["label"] :], "<f8").reshape(5, 2)
    assert binary[:, 1].tolist() == pytest.approx(p.tolist(), abs=1e-6)
    assert (cut.status_code, cut.json()["code"]) == (400, "tensor")
