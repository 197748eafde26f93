"""The real server, started by its command, on a real socket."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlops_nb.serving.identity import new_key
from mlops_nb.serving.log import read_log, read_outcomes
from tests.serving_bundle import (
    NOT_A_NUMBER,
    ROW,
    Running,
    expected,
    free_port,
    make_bundle,
    running,
)
from tests.serving_lab import until


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder), make_bundle(folder, "base", shift=1.0)


@pytest.fixture(scope="module")
def server(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("run"), *bundles, serve_log_seal_s=0.3) as s:
        yield s


def ask(server: Running, *rows: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    "Predictions for rows."
    reply = server.client.post("/predict", json={"rows": rows, **more})
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["predictions"]
    return found


def tensors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    "Rows as V2 inputs."
    kinds = {"tenure": "FP32", "charges": "FP32", "plan": "BYTES", "senior": "BOOL", "since": "BYTES"}
    return [{"name": n, "shape": [len(rows), 1], "datatype": d, "data": [r[n] for r in rows]} for n, d in kinds.items()]


def test_rows_by_name_get_the_answers_of_the_graph(server: Running) -> None:
    rows = [ROW | {"tenure": t, "plan": p} for t in (0, 5, 60) for p in ("pro", "basic", None)]
    found = ask(server, *rows)
    assert [f["probability"]["Yes"] for f in found] == pytest.approx([expected(r) for r in rows], abs=1e-6)
    assert len({f["id"] for f in found}) == 9
    assert not any(f["degraded"] or f["flags"] for f in found)


def test_a_bad_row_is_refused_by_field_value_and_what_is_allowed(server: Running) -> None:
    reply = server.client.post("/predict", json={"rows": [ROW, ROW | {"charges": 500.0, "senior": "perhaps"}]})
    assert reply.status_code == 422
    fields = reply.json()["error"]["fields"]
    assert [(f["row"], f["field"], f["value"]) for f in fields] == [(1, "charges", "500.0"), (1, "senior", "perhaps")]
    assert all(f["allowed"] for f in fields)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"tenure": None}, "tenure"),
        ({"tenure": 1.5e300}, "tenure"),
        ({"plan": "x" * 21}, "plan"),
        ({"plan": "a\u0000b"}, "plan"),
        ({"plan": ["pro"]}, "plan"),
        ({"since": "yesterday"}, "since"),
        ({"colour": "red"}, "colour"),
        ({"charges": True}, "charges"),
    ],
)
def test_each_bad_value_names_its_field(server: Running, row: dict[str, Any], field: str) -> None:
    reply = server.client.post("/predict", json={"rows": [ROW | row]})
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["fields"][0]["field"] == field


def test_names_travel_with_the_answer(server: Running) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "order-17", "traceparent": trace}
    reply = server.client.post("/predict", json={"rows": [ROW]}, headers=headers)
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == "order-17"
    assert reply.headers["traceparent"] == trace
    assert reply.headers["x-arm"] == "champion"
    reply = server.client.post(
        "/predict", json={"rows": [ROW]}, headers={"x-request-id": "a b\u00e9".encode("latin-1")}
    )
    assert reply.headers["x-request-id"].isalnum()


def test_v2_tells_what_it_serves(server: Running) -> None:
    assert server.client.get("/v2/health/live").json() == {"live": True}
    assert server.client.get("/v2/health/ready").json()["ready"] is True
    about = server.client.get("/v2/models/churn").json()
    assert [i["name"] for i in about["inputs"]] == list(ROW)
    version = about["versions"][0]
    pinned = server.client.post(f"/v2/models/churn/versions/{version}/infer", json={"inputs": tensors([ROW])})
    assert pinned.json()["model_version"] == version
    for path in ("/v2/models/other", "/v2/models/churn/versions/000000000000/ready"):
        assert server.client.get(path).status_code == 404
    missing = server.client.post("/v2/models/other/infer", json={"inputs": tensors([ROW])})
    assert (missing.status_code, missing.json()["error"]) == (404, "no model 'other'")


def test_the_documentation_describes_the_rows_of_the_contract(server: Running) -> None:
    doc = server.client.get("/openapi.json").json()
    schema = doc["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    row = schema["properties"]["rows"]["items"]
    assert list(row["properties"]) == list(ROW)
    assert row["properties"]["charges"] == {"type": ["number", "null"], "minimum": 0.0, "maximum": 120.0}
    assert server.client.get("/docs").status_code == 200


def test_a_deadline_that_cannot_be_met_is_refused_with_a_reason(server: Running) -> None:
    reply = server.client.post("/predict", json={"rows": [ROW]}, headers={"x-request-timeout-ms": "0"})
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "overload"
    assert int(reply.headers["retry-after"]) >= 1
    reply = server.client.post("/predict", json={"rows": [ROW]}, headers={"x-request-timeout-ms": "soon"})
    assert reply.status_code == 400
    reply = server.client.post("/v2/models/churn/infer", json={"inputs": tensors([ROW]), "parameters": {"timeout": 0}})
    assert (reply.status_code, reply.json()["code"]) == (503, "overload")


def test_every_answer_and_every_refusal_is_in_the_log(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    with running(tmp_path, bundles[0]) as server:
        good = ask(server, ROW, ROW | {"plan": "gold"}, unit_ids=["a", 7])
        server.client.post("/predict", json={"rows": [ROW | {"tenure": "x"}, ROW]})
        ask(server, ROW | {"tenure": NOT_A_NUMBER})
        server.client.post("/predict", json={"rows": [ROW]}, headers={"x-request-timeout-ms": "0"})
        server.client.post("/v2/models/churn/infer", json={"inputs": tensors([ROW | {"plan": None}])})
        assert server.stop() == 0
    log = read_log(tmp_path / "logs").to_pylist()
    assert [r["status"] for r in log] == ["ok", "ok", "rejected", "rejected", "degraded", "shed", "ok"]
    assert [r["prediction_id"] for r in log[:2]] == [p["id"] for p in good]
    assert [r["unit_id"] for r in log[:2]] == ["a", "7"]
    assert (log[0]["in.tenure"], log[0]["in.since"].isoformat(), log[0]["label"]) == (3.0, "2024-02-29", "Yes")
    assert log[0]["probability"] == log[0]["p.Yes"] == pytest.approx(expected(ROW), abs=1e-6)
    assert log[1]["flags"] == ["level:plan"]
    assert (log[2]["in.tenure"], log[2]["in.charges"], log[2]["label"], log[2]["reason"]) == (
        None,
        20.5,
        None,
        "contract",
    )
    assert (log[4]["level"], log[4]["reason"], log[5]["reason"]) == ("rule", "bad_output", "overload")
    assert log[6]["in.plan"] is None
    assert all(r["basis"] == "measured" and r["version"] == bundles[0].name[-12:] for r in log)


def test_outcomes_are_kept_before_they_are_confirmed(server: Running) -> None:
    prediction = ask(server, ROW)[0]["id"]
    when = "2026-03-01T10:00:00+01:00"
    outcomes = [
        {"prediction_id": prediction, "time": when, "kind": "label", "value": "Yes"},
        {"unit_id": "c-1", "time": when, "kind": "revenue", "value": 12.5, "currency": "EUR"},
    ]
    reply = server.client.post("/outcomes", json={"outcomes": outcomes})
    assert reply.json() == {"accepted": 2}
    kept = [
        r
        for r in read_outcomes(server.log_dir).to_pylist()
        if prediction == r["prediction_id"] or r["unit_id"] == "c-1"
    ]
    assert [(r["value"], r["number"], r["currency"]) for r in kept] == [("Yes", None, None), ("12.5", 12.5, "EUR")]
    assert kept[0]["time"] == datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"prediction_id": "a", "unit_id": "b"},
        {"prediction_id": "a", "time": "2026-03-01T10:00:00"},
        {"prediction_id": "a", "more": 1},
    ],
)
def test_an_outcome_that_says_too_little_or_too_much_is_refused(server: Running, wrong: dict[str, Any]) -> None:
    outcome = {"time": "2026-03-01T10:00:00Z", "kind": "label", "value": "Yes"} | wrong
    assert server.client.post("/outcomes", json={"outcomes": [outcome]}).status_code == 422


def test_metrics_count_what_happened(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    with running(tmp_path, bundles[0], serve_price_cpu_hour=0.05) as server:
        ask(server, ROW, ROW)
        ask(server, ROW | {"tenure": NOT_A_NUMBER})
        server.client.post("/predict", json={"rows": [{}]})
        assert server.metric('requests_total{route="predict",status="200"}') == 2
        assert server.metric('requests_total{route="predict",status="422"}') == 1
        assert server.metric('rows_total{arm="champion",level="primary"}') == 2
        assert server.metric('rows_total{arm="champion",level="rule"}') == 1
        assert server.metric('refused_total{reason="contract"}') == 1
        assert server.metric("ready_workers") == 1
        assert server.metric("resident_bytes") > 2**20
        until(lambda: server.metric('log_rows_total{state="written"}') == 4)  # off the hot path
        assert server.metric("cost_per_1000_predictions") > 0
        lines = server.client.get("/metrics").text.splitlines()
        for i in range(20):
            server.client.post(
                f"/predict?{i}", json={"rows": [ROW | {"plan": f"p{i}"}]}, headers={"x-request-id": f"r{i}"}
            )
        assert len(server.client.get("/metrics").text.splitlines()) == len(lines), "labels must not grow"


def test_rollback_flips_to_the_resident_version_and_back(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    new, old = (b.name[-12:] for b in bundles)
    with running(tmp_path, *bundles) as server:
        before = ask(server, ROW)[0]["probability"]["Yes"]
        done = server.client.post("/admin/rollback").json()
        assert (done["champion"], done["previous"]) == (old, new)
        after = ask(server, ROW)[0]["probability"]["Yes"]
        assert (before, after) == pytest.approx((expected(ROW), expected(ROW, 1.0)), abs=1e-6)
        assert server.client.post("/admin/promote", json={"version": new}).json()["champion"] == new
        assert ask(server, ROW)[0]["probability"]["Yes"] == before
        server.client.post("/admin/rollback")
    events = [json.loads(line) for line in (tmp_path / "state" / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["rollout.rolled_back", "version.moved", "rollout.rolled_back"]
    with running(tmp_path, *bundles) as server:
        assert ask(server, ROW)[0]["probability"]["Yes"] == after, "a rollback outlives a restart"


def test_a_new_bundle_is_proven_before_it_serves(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    third = make_bundle(tmp_path, "third", shift=-1.0)
    wrong = make_bundle(tmp_path, "wrong", offset=0.1)
    broken = make_bundle(tmp_path, "broken", shift=-2.0)
    (broken / "model.onnx").write_bytes(b"x" + (broken / "model.onnx").read_bytes()[1:])
    with running(tmp_path / "run", bundles[0]) as server:
        for bundle, why in (
            (wrong, "golden rows get another answer"),
            (broken, "model.onnx"),
            (tmp_path / "no", "not a bundle"),
        ):
            reply = server.client.post("/admin/promote", json={"bundle": str(bundle)})
            assert reply.status_code == 409, reply.text
            assert why in reply.json()["error"]["message"]
            assert ask(server, ROW)[0]["probability"]["Yes"] == pytest.approx(expected(ROW), abs=1e-6)
        assert server.client.post("/admin/promote", json={"bundle": str(third)}).status_code == 200
        assert ask(server, ROW)[0]["probability"]["Yes"] == pytest.approx(expected(ROW, -1.0), abs=1e-6)
        assert server.client.post("/admin/rollback").json()["champion"] == bundles[0].name[-12:]


def test_a_bundle_whose_golden_rows_differ_never_gets_a_port(tmp_path: Path) -> None:
    wrong, port = make_bundle(tmp_path, offset=0.1), free_port()
    command = [sys.executable, "-m", "mlops_nb.serving.server", str(wrong), "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "4 of 4 golden rows get another answer here" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--host", "0.0.0.0"], {}, "there is no authentication"),
        (["--port", "99999"], {}, "port"),
        ([], {"MLOPS_NB_SERVE_KEYS_FILE": "/nowhere/keys.json"}, "no such file"),
        ([], {"MLOPS_NB_SERVE_TLS_CERT": "/nowhere/cert.pem"}, "TLS needs a certificate and a key"),
        ([], {"MLOPS_NB_SERVE_LANE": "fast"}, "'serve_lane' = 'fast'"),
    ],
)
def test_a_wrong_setting_is_one_line_before_the_port_opens(
    bundles: tuple[Path, Path], arguments: list[str], environ: dict[str, str], message: str
) -> None:
    command = [sys.executable, "-m", "mlops_nb.serving.server", str(bundles[0]), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | environ)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_roles_and_rates(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    asking, governing = new_key(keys, "crm"), new_key(keys, "ops", ["admin"])
    settings: dict[str, Any] = {"serve_keys_file": keys, "serve_rate_per_s": 0.01, "serve_rate_burst": 3}
    with running(tmp_path / "run", bundles[0], **settings) as server:

        def post(path: str, key: str = "") -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return server.client.post(path, json={"rows": [ROW]}, headers=headers)

        assert post("/predict").status_code == post("/predict", "crm.guess").status_code == 401
        assert post("/predict", governing).status_code == post("/admin/rollback", asking).status_code == 403
        assert post("/outcomes").status_code == 401
        assert [post("/predict", asking).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert 1 <= int(post("/predict", asking).headers["retry-after"]) <= 100
        assert server.client.get("/v2/health/ready").status_code == 200
        assert server.stop() == 0
    log = read_log(tmp_path / "run" / "logs").to_pylist()
    assert [r["reason"] for r in log if r["status"] == "rejected"][:2] == ["unauthenticated", "unauthenticated"]
    assert asking.encode() not in (tmp_path / "run" / "server.err").read_bytes()


def both_ready(server: Running) -> None:
    "Wait for the second worker too."
    until(lambda: server.metric("ready_workers") == 2)
    assert set(server.client.get("/admin/status").json()["workers"]) == {"0", "1"}


def test_two_workers_share_port_routes_and_counters(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    with running(tmp_path, *bundles, arguments=["--workers", "2"]) as server:
        both_ready(server)

        def one(i: int) -> str:
            with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as c:
                return str(c.post("/predict", json={"rows": [ROW]}).json()["predictions"][0]["id"])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(one, range(60)))
            for _ in range(50):  # the system decides who takes a connection
                if len({i[:12] for i in ids}) == 2:
                    break
                ids += pool.map(one, range(60))
        assert len(set(ids)) == len(ids)
        assert len({i[:12] for i in ids}) == 2, "both workers answer"
        done = server.client.post("/admin/rollback").json()
        workers = server.client.get("/admin/status").json()["workers"]
        assert set(workers.values()) == {done["generation"]}
        until(lambda: server.metric('requests_total{route="predict",status="200"}') == len(ids))
        assert server.stop() == 0
    assert read_log(tmp_path / "logs").num_rows == len(ids)


def test_the_audit_log_is_on_disk_before_the_answer(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    with running(tmp_path, bundles[0], serve_log="audit") as server:
        ids = [ask(server, ROW | {"tenure": t})[0]["id"] for t in range(20)]
        server.process.kill()
        server.process.wait()
    assert [r["prediction_id"] for r in read_log(tmp_path / "logs").to_pylist()] == ids
    with running(tmp_path, bundles[0], serve_log="audit") as server:
        ask(server, ROW)
        assert server.stop() == 0
    assert not list((tmp_path / "logs").rglob(".ahead-*")), "what the dead one left is sealed"
    assert read_log(tmp_path / "logs").num_rows == 21


def test_sealed_parts_can_be_read_while_the_server_writes(server: Running) -> None:
    import pyarrow.parquet as pq

    ask(server, ROW)
    parts = until(lambda: list(server.log_dir.glob("predictions/day=*/part-*.parquet")))
    assert all("prediction_id" in pq.ParquetFile(p).schema_arrow.names for p in parts)


def test_importing_the_server_is_light() -> None:
    code = """
import json, re, sys
import mlops_nb.serving.app
heavy = [m for m in ("mlflow", "pandas", "sklearn", "scipy", "statsmodels", "pyarrow.dataset") if m in sys.modules]
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # unlike ru_maxrss, not the parent's
print(json.dumps([peak / 1024, heavy]))
"""
    runs = [
        json.loads(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain()).stdout
        )
        for _ in range(3)
    ]
    assert runs[0][1] == []
    assert max(r[0] for r in runs) <= 150


def plain() -> dict[str, str]:
    "The environment without coverage of child processes, which is slow."
    return {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
