"The trial: what it writes is what the server said, and a server that misbehaves is found out."

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from mlops_nb.core.errors import Refused
from mlops_nb.core.hashing import sha256_file
from mlops_nb.core.messages import catalogue
from mlops_nb.core.workspace import stage_evidence
from mlops_nb.serving.log import read_log, read_outcomes
from mlops_nb.stats.intervals import quantile
from mlops_nb.trial.checks import CHECKS, Subject, check_interface
from mlops_nb.trial.load import Load
from mlops_nb.trial.server import running
from mlops_nb.trial.stage import latency_facts, read_material, run_trial
from tests.tried_workspace import copy, tried

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tried")]  # one workspace for all of them


def test_the_answers_are_those_of_the_bundles_graph() -> None:
    ws = tried()
    bundle = read_material(ws).candidate
    test = pd.read_parquet(ws.split("test"))
    table = pd.read_parquet(ws.evidence / "trial.predictions.parquet")
    session = onnxruntime.InferenceSession(bundle.model_path)
    feed = {k: v.reshape(-1, 1) for k, v in bundle.contract.encode(test).items()}
    expected = session.run(["probability"], feed)[0]
    assert table["row"].tolist() == list(range(len(test)))
    assert not bundle.tolerance.differs(table[["p.no", "p.yes"]].to_numpy(), expected).any()
    assert set(table["label"]) == {"no", "yes"}


def test_no_label_is_read_and_every_number_has_its_sample() -> None:
    ws = tried()
    evidence = stage_evidence(ws, "trial")
    assert set(evidence.inputs) == {"charter.frozen.json", "evidence/export.json", "splits/test.parquet"}
    assert evidence.data["predictions"]["sha256"] == sha256_file(ws.evidence / "trial.predictions.parquet")
    p99 = evidence.fact("latency.p99")
    assert (p99.value, p99.n, p99.threshold) == (
        pytest.approx(quantile(evidence.data["latency_ms"], 0.99).value, abs=1e-3),
        len(evidence.data["latency_ms"]),
        200,
    )
    assert len(evidence.data["latency_ms"]) >= 299  # the fewest that bound a 99th percentile
    assert p99.high is not None
    assert evidence.fact("integration.pass_rate").value == 1.0, evidence.data["checks"]
    assert evidence.fact("rollback.failed_requests").value == 0
    assert 0 < evidence.fact("rollback.duration").value < 10  # type: ignore[operator]
    assert evidence.fact("trial.cpu_s").value > 0  # type: ignore[operator]
    assert [w for w in evidence.warnings if not w.key.startswith("trial.tenfold")] == []


def test_ten_times_the_expected_load_stands_beside_it() -> None:
    evidence = stage_evidence(tried(), "trial")
    for q in ("p50", "p95", "p99"):
        tenfold = evidence.fact(f"latency.{q}/x10")
        assert (tenfold.n, tenfold.threshold) == (600, None)
        assert tenfold.low is not None
        assert tenfold.high is not None
    assert evidence.fact("latency.rate/x10").value == 100
    assert 10 <= evidence.fact("latency.rate").value <= 100  # type: ignore[operator]
    assert evidence.fact("trial.cost_per_1000").value > 0  # type: ignore[operator]
    assert evidence.fact("trial.cost_per_1000").unit == "EUR"


def test_the_log_holds_the_answers_and_the_refusals() -> None:
    table = read_log(tried().logs / "trial").to_pandas()
    assert {"ok", "rejected"} <= set(table["status"])
    assert set(table["version"][table["status"] == "ok"]) == {
        b.version for b in (read_material(tried()).candidate, read_material(tried()).baseline)
    }
    assert len(read_outcomes(tried().logs / "trial")) == 1


def test_every_fact_and_check_has_a_name_in_both_languages() -> None:
    for stage in ("poc", "trial"):
        keys = {f.key for f in stage_evidence(tried(), stage).facts}
        for lang in ("en", "fr"):
            assert keys <= set(catalogue(lang))
    wanted = {f"trial.{kind}.{name}" for kind in ("check", "failed") for name in (*CHECKS, "stopped", "logged")}
    for lang in ("en", "fr"):
        assert wanted <= set(catalogue(lang))


def test_a_server_with_another_model_is_found_out(tmp_path: Path) -> None:
    material = read_material(tried())
    with running([material.baseline.path], log_dir=tmp_path / "l", state_dir=tmp_path / "s") as client:
        found = {c.name: c for c in check_interface(Subject(client, material.candidate, material.rows[:8]))}
        assert not found["version"].ok
        assert "answered by loans-baseline" in found["version"].detail
        assert not found["v2-metadata"].ok
        assert found["bad-value"].ok


def test_rows_that_break_the_contract_make_no_trial(tmp_path: Path) -> None:
    material = read_material(tried())
    bad = dataclasses.replace(material, rows=[{**material.rows[0], "amount": "many"}])
    with running([material.candidate.path], log_dir=tmp_path / "l", state_dir=tmp_path / "s") as client:
        found = {c.name: c for c in check_interface(Subject(client, material.candidate, bad.rows))}
    assert not found["single"].ok
    assert "amount" in found["single"].detail


def test_a_server_that_answers_nothing_is_refused() -> None:
    from mlops_nb.charter import load_frozen

    load = Load((), ("status 503: no time",) * 3, 1.0, 100.0)
    with pytest.raises(Refused, match="none of 3 requests was answered: status 503: no time"):
        list(latency_facts(load, load_frozen(tried()).charter))


def test_a_trial_again_replaces_the_one_before(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    before = pd.read_parquet(ws.evidence / "trial.predictions.parquet")
    rows = len(read_log(ws.logs / "trial"))
    run_trial(ws)
    pd.testing.assert_frame_equal(pd.read_parquet(ws.evidence / "trial.predictions.parquet"), before)
    assert abs(len(read_log(ws.logs / "trial")) - rows) < 2_000
    assert np.isfinite(stage_evidence(ws, "trial").fact("latency.p99").value)
