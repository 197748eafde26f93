"What gets into the registry, what does not, and that it gets there once."

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mlops_nb.registry as registry
from mlops_nb.bundle.format import load_bundle
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.files import write_json
from mlops_nb.core.workspace import Workspace, stage_evidence, write_evidence
from mlops_nb.poc.tracking import mlflow_client, quiet_mlflow, tracking_uri
from mlops_nb.registry import mlflow_feeds, on_stage, register, registered
from mlops_nb.serving.predictor import Predictor
from tests.tried_workspace import copy

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tried")]  # one workspace for all of them


def decide(ws: Workspace, decision: str, bundle: str = "") -> str:
    id: str = bundle or stage_evidence(ws, "export").data["candidate"]["id"]
    write_json(ws.decision_file, {"decision": decision, "bundle": id})
    return id


@pytest.mark.parametrize("decision", ["no-go", "not-assessed"])
def test_what_was_not_accepted_stays_outside(tmp_path: Path, decision: str) -> None:
    ws = copy(tmp_path)
    decide(ws, decision)
    with pytest.raises(Refused, match=rf"decision\.json: the decision is {decision}"):
        register(ws)
    assert registered(ws) == ()


def test_without_a_decision_there_is_nothing_to_register(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no decision; run 'mlops-nb gate ws' first"):
        register(copy(tmp_path))


def test_a_decision_about_another_bundle_does_not_count(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    decide(ws, "go", "ab" * 32)
    with pytest.raises(Refused, match="the decision is about bundle abababababab"):
        register(ws)


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    decide(ws, "go")
    folder = ws.root / stage_evidence(ws, "export").data["candidate"]["path"]
    (folder / "rule.json").write_text("{}")
    with pytest.raises(Refused, match=r"rule\.json"):
        register(ws)


def test_registered_once_with_bundle_flavour_and_alias(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    id = decide(ws, "conditional")
    first = register(ws)
    assert (first.bundle_id, first.decision, first.aliases, first.version) == (id, "conditional", ("staging",), "1")
    assert register(ws) == first
    assert registered(ws) == (first,)
    assert register(ws, "challenger", ws).aliases == ("challenger", "staging"), "what a gate let in, once more"
    with mlflow_client(ws) as client:
        kept = [a.path for a in client.list_artifacts(first.run)]
        assert f"loans-{id[:12]}" in kept
        assert "model" in kept
        assert client.get_model_version_by_alias("loans", "staging").tags["bundle.id"] == id


def test_other_tools_of_mlflow_load_it_and_answer_as_we_do(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    decide(ws, "go")
    version = register(ws)
    bundle = load_bundle(ws.root / stage_evidence(ws, "export").data["candidate"]["path"])
    rows = [r for r in bundle.golden().rows if not [p for p in bundle.contract.check([r]) if p.action == "reject"]]
    ours = [list(p.probability.values()) for p in Predictor(bundle).predict(rows) if p.probability]
    with quiet_mlflow() as mlflow:
        mlflow.set_tracking_uri(tracking_uri(ws))
        mlflow.set_registry_uri(tracking_uri(ws))  # stays set: the tests behind this one must not be led there
        model = mlflow.pyfunc.load_model("models:/loans@staging")
        theirs = model.predict(mlflow_feeds(bundle, rows))[bundle.signature.answer]
        kept = Path(mlflow.artifacts.download_artifacts(run_id=version.run, dst_path=str(tmp_path / "kept")))
        example = model.predict(model.input_example)[bundle.signature.answer]
    assert np.array_equal(np.asarray(ours, np.float32), theirs)
    assert len(rows) > 100
    assert example.shape == (5, len(bundle.classes))
    assert model.metadata.metadata["bundle.id"] == bundle.id
    assert (kept / "model" / "model.onnx").read_bytes() == bundle.model_path.read_bytes()
    assert load_bundle(kept / bundle.path.name).id == bundle.id
    assert not [f for f in kept.rglob("*") if f.suffix in (".pkl", ".pickle", ".joblib", ".cloudpickle")]


def test_the_alias_moves_to_the_next_candidate(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    first_id = decide(ws, "go")
    register(ws)
    evidence = stage_evidence(ws, "export")
    data = {**evidence.data, "candidate": evidence.data["baseline"]}  # the next one, for this test
    write_evidence(ws, type(evidence)("export", evidence.facts, data, evidence.inputs))
    second_id = decide(ws, "go")
    second = register(ws)
    assert second.bundle_id == second_id != first_id
    assert on_stage(ws) == second


def test_a_process_killed_before_the_alias_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = copy(tmp_path)
    decide(ws, "go")

    class Killed(Exception):
        pass

    def make_and_die(*args: object) -> str:
        make(*args)  # type: ignore[arg-type]
        raise Killed

    make = registry._make_version
    monkeypatch.setattr(registry, "_make_version", make_and_die)
    with pytest.raises(Killed):
        register(ws)
    monkeypatch.undo()
    assert on_stage(ws) is None
    assert register(ws).version == "1"
    assert len(registered(ws)) == 1
