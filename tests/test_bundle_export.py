"""The export of a real workspace: exact, proven, repeatable; and every way in which it says no."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression

from mlops_nb.bundle.export import package_name, read_inputs, run_export
from mlops_nb.bundle.foreign import export_onnx
from mlops_nb.bundle.format import load_bundle, write_bundle
from mlops_nb.bundle.parity import verify_bundle
from mlops_nb.bundle.sealing import pack_bundle
from mlops_nb.charter import freeze_file
from mlops_nb.core.errors import InputError, MlopsError, Refused
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.data.frames import rows as frame_rows
from mlops_nb.data.stage import run_data
from mlops_nb.lifecycle.scaffold import init_from_file
from mlops_nb.serving.predictor import Predictor
from mlops_nb.stats.profiles import Profile
from tests.conftest import Cli
from tests.serving_bundle import running

pytestmark = pytest.mark.slow  # the lifecycle of `make test` runs this stage once


def table(task: str) -> pd.DataFrame:
    "Numbers, categories, a date and gaps."
    rng = np.random.default_rng(3)
    n = 700
    frame = pd.DataFrame(
        {
            "tenure": rng.integers(0, 72, n),
            "charge": rng.uniform(18, 119, n).round(2),
            "plan": rng.choice(["free", "pro", "max"], n),
            "paperless": rng.choice(np.array([True, False, None], object), n),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
        }
    )
    frame.loc[::9, "charge"] = np.nan
    frame.loc[::13, "plan"] = None
    signal = frame["tenure"] / 20 - (frame["plan"] == "pro") + rng.normal(0, 0.4, n)
    answer = {
        "binary": np.where(signal > 1.5, "yes", "no"),
        "multiclass": np.array(["low", "mid", "high"])[np.digitize(signal, [0.8, 2.2])],
        "regression": (signal * 50).round(3),
    }[task]
    return frame.assign(y=answer)


def run_cells(ws: Workspace) -> None:
    "Run the notebook for seed 0 in a clean process, as the suite does, without a kernel."
    cells = [c for c in json.loads(ws.notebook.read_text())["cells"] if c["cell_type"] == "code"]
    given = {"workspace": str(ws.root), "seed": 0, "out": str(ws.runs / "seed-0")}
    given |= {s: str(ws.split(s)) for s in ("train", "valid")}
    parts = []
    for cell in cells:
        if cell["id"] == "importance":  # slow, and nothing after it needs it
            continue
        parts.append("".join(cell["source"]))
        if "parameters" in cell["metadata"].get("tags", ()):
            parts.append("\n".join(f"{k} = {v!r}" for k, v in given.items()))
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)], cwd=ws.notebook.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


MADE: dict[str, Workspace] = {}  # finished workspaces of this session, by task


def finished_workspace(factory: pytest.TempPathFactory, task: str) -> Workspace:
    "A workspace whose notebook has run; made once."
    if task not in MADE:
        here = factory.mktemp(task)
        table(task).to_csv(here / "rows.csv", index=False)
        ws = init_from_file(here / "ws", here / "rows.csv", "y")
        run_data(ws)
        freeze_file(ws)
        run_cells(ws)
        MADE[task] = ws
    return MADE[task]


@pytest.fixture(scope="session", params=["binary", "multiclass", "regression"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    "A workspace after its export."
    ws = finished_workspace(tmp_path_factory, request.param)
    if not ws.bundles.exists():
        run_export(ws)
    return ws


@pytest.fixture
def binary(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Workspace:
    "A copy of a finished binary workspace, to be spoilt."
    ws = finished_workspace(tmp_path_factory, "binary")
    shutil.copytree(ws.root, tmp_path / "ws", ignore=shutil.ignore_patterns("bundles", "src", "export.json"))
    return Workspace(tmp_path / "ws")


def change_cell(ws: Workspace, id: str, old: str, new: str) -> None:
    doc = json.loads(ws.notebook.read_text())
    (cell,) = [c for c in doc["cells"] if c["id"] == id]
    text = "".join(cell["source"])
    assert old in text
    cell["source"] = text.replace(old, new)
    ws.notebook.write_text(json.dumps(doc))


def test_evidence_names_two_verified_bundles(exported: Workspace) -> None:
    evidence = stage_evidence(exported, "export")
    for role in ("candidate", "baseline"):
        bundle, parity = verify_bundle(exported.root / evidence.data[role]["path"])
        assert bundle.id == evidence.data[role]["id"]
        assert parity.beyond == 0
        assert bundle.manifest["task"] == bundle.task
    valid = len(pd.read_parquet(exported.split("valid")))
    assert evidence.fact("export.notebook_rows").value == valid
    assert evidence.fact("export.rows").value > valid
    assert evidence.fact("export.parity_max_abs").value <= evidence.fact("export.parity_max_abs").threshold
    assert set(evidence.inputs) >= {
        "contract.json",
        "charter.frozen.json",
        "splits/train.parquet",
        "notebooks/poc.ipynb",
    }


def test_a_bundle_is_complete(exported: Workspace) -> None:
    candidate = load_bundle(exported.root / stage_evidence(exported, "export").data["candidate"]["path"])
    assert candidate.lite_path is not None
    assert candidate.manifest["lite"]["lite"] >= 0
    assert set(Profile.load(candidate.profile_path).columns) == set(candidate.contract.feature_names)  # type: ignore[arg-type]
    about = candidate.json("baseline.json")
    assert {c["column"] for c in about["importance"]} == set(candidate.contract.feature_names)
    assert (candidate.thresholds.default is not None) == (candidate.task == "binary")
    assert "bundle.card" not in (candidate.path / "card.md").read_text()
    assert not list(candidate.path.rglob("*.pkl"))
    if candidate.task != "regression":
        assert sum(candidate.rule.otherwise.probability) == pytest.approx(1, abs=1e-5)


def test_a_second_export_gives_the_same_bytes(exported: Workspace, tmp_path: Path) -> None:
    shutil.copytree(exported.root, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("bundles", "src"))
    again = run_export(Workspace(tmp_path / "elsewhere")).data
    before = stage_evidence(exported, "export").data
    assert [again[r]["id"] for r in ("candidate", "baseline")] == [before[r]["id"] for r in ("candidate", "baseline")]


def test_the_module_passes_its_own_test(exported: Workspace) -> None:
    if load_bundle(exported.root / stage_evidence(exported, "export").data["candidate"]["path"]).task != "binary":
        return  # one task is enough: it is the same text
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(exported.src)]
    done = subprocess.run(command, cwd=exported.src, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_rows_sent_as_json_are_encoded_as_in_training(exported: Workspace) -> None:
    assert len(read_inputs(exported).target) == len(pd.read_parquet(exported.split("valid")))


def test_a_module_that_predicts_otherwise_is_refused(binary: Workspace) -> None:
    change_cell(binary, "model", "max_iter=2_000", "max_iter=3")
    with pytest.raises(Refused, match=r"predictions of the model: \d+ of \d+ rows differ from the notebook's"):
        run_export(binary)
    assert not binary.bundles.exists()
    assert not (binary.evidence / "export.json").exists()


def test_one_bit_is_enough(binary: Workspace) -> None:
    file = binary.runs / "seed-0" / "predictions.parquet"
    told = pd.read_parquet(file)
    told.loc[0, "p.no"] = np.nextafter(told.loc[0, "p.no"], 1)
    told.to_parquet(file, index=False)
    with pytest.raises(Refused, match=r"1 of \d+ rows differ"):
        run_export(binary)


@pytest.mark.parametrize(
    ("cell", "old", "new", "message"),
    [
        ("model", "#| export", "", "no function build_model"),
        (
            "model",
            "    return Pipeline",
            "    raise ValueError('not today')\n    return Pipeline",
            r"model\.py, line \d+: ValueError: not today",
        ),
        ("model", "max_iter=2_000", "max_iter=charter", r"'charter' is a variable of the notebook"),
    ],
)
def test_faults_in_the_notebook_are_told_with_their_place(
    binary: Workspace, cell: str, old: str, new: str, message: str
) -> None:
    change_cell(binary, cell, old, new)
    with pytest.raises(InputError, match=message):
        run_export(binary)


SPREADING = """return Pipeline([("features", features(contract, number)), ("model", LabelSpreading(max_iter=5))])
    tree = """


def test_a_pipeline_that_does_not_convert(binary: Workspace) -> None:
    change_cell(binary, "imports", "#| export\n", "#| export\nfrom sklearn.semi_supervised import LabelSpreading\n")
    change_cell(binary, "baseline", "tree = ", SPREADING)
    doc = json.loads(binary.notebook.read_text())
    doc["cells"] = [c for c in doc["cells"] if c["id"] != "tree"]  # it has no tree to be read aloud
    binary.notebook.write_text(json.dumps(doc))
    run_cells(binary)
    with pytest.raises(Refused, match="does not convert to ONNX"):
        run_export(binary)


def test_the_stages_before_must_have_run(binary: Workspace) -> None:
    shutil.rmtree(binary.runs)
    with pytest.raises(InputError, match="the notebook left no predictions"):
        run_export(binary)
    binary.split("valid").unlink()
    with pytest.raises(InputError, match="no such split"):
        run_export(binary)


def test_a_killed_child_is_told(binary: Workspace) -> None:
    change_cell(
        binary, "model", "    return Pipeline", "    import os\n    os.kill(os.getpid(), 9)\n    return Pipeline"
    )
    with pytest.raises(MlopsError, match="the clean process failed"):
        run_export(binary)


def test_a_slug_becomes_a_package() -> None:
    assert package_name("churn-2") == "churn_2"
    assert package_name("class") == "model_class"


def test_another_runtime_that_answers_otherwise_is_found(tmp_path: Path) -> None:
    "The golden rows of one graph beside another graph: only the answers can tell."
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 2)).astype("float32")
    graphs = [to_onnx(LinearRegression().fit(rows, rows @ w), rows[:1]).SerializeToString() for w in ([1, 2], [1, 2.1])]
    (tmp_path / "a.onnx").write_bytes(graphs[0])
    made = export_onnx(tmp_path / "a.onnx", rows, tmp_path / "a")
    files = {n: (made.path / n).read_bytes() for n in made.manifest["files"]} | {"model.onnx": graphs[1]}
    head = {k: v for k, v in made.manifest.items() if k not in ("files", "format")}
    with pytest.raises(Refused, match="golden rows are answered differently here"):
        verify_bundle(write_bundle(tmp_path, head, files))


def test_the_command_makes_a_bundle_around_a_graph(cli: Cli, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    (tmp_path / "m.onnx").write_bytes(to_onnx(LinearRegression().fit(rows, rows[:, 0]), rows[:1]).SerializeToString())
    pd.DataFrame(rows, columns=["a", "b", "c"]).to_csv(tmp_path / "rows.csv", index=False)
    done = cli("export", "--onnx", tmp_path / "m.onnx", "--sample", tmp_path / "rows.csv", "--out", tmp_path / "made")
    assert done.returncode == 0, done.stderr
    bundle, _ = verify_bundle(tmp_path / "made")
    assert bundle.contract.feature_names == ("a", "b", "c")
    assert bundle.task == "regression"


DERIVE = """#| export
import re

import numpy as np

WORD = re.compile(r"[a-z]+")


def initial(plan: str) -> str:
    return WORD.findall(plan)[0][:1]


def derive_columns(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    "What a month has cost, and the first letter of the plan."
    return {
        "charge_each": columns["charge"] / (columns["tenure"] + 1),
        "initial": np.array([initial(plan) for plan in columns["plan"].tolist()]),
    }
"""


def deriving(ws: Workspace) -> None:
    "Let the notebook derive two columns."
    change_cell(
        ws,
        "data",
        "X_train.head()",
        "X_train, X_valid = derive_frame(X_train, derive_columns), derive_frame(X_valid, derive_columns)\nX_train.head()",
    )
    change_cell(
        ws,
        "tools",
        "import encode_frame, labels",
        "import encode_frame, labels\nfrom mlops_nb.bundle.features import derive_frame",
    )
    change_cell(ws, "features", 'contract.names("number"))', '[*contract.names("number"), "charge_each"])')
    change_cell(ws, "features", "sparse_output=False), few)", 'sparse_output=False), [*few, "initial"])')
    doc = json.loads(ws.notebook.read_text())
    at = next(i for i, c in enumerate(doc["cells"]) if c["id"] == "tools")
    cell = {**doc["cells"][at], "id": "derive", "metadata": {}, "source": DERIVE}
    doc["cells"].insert(at, cell)
    ws.notebook.write_text(json.dumps(doc))


@pytest.fixture
def derived(binary: Workspace) -> Workspace:
    "A workspace whose model sees derived columns, exported."
    deriving(binary)
    run_cells(binary)
    run_export(binary)
    return binary


def candidate(ws: Workspace) -> Path:
    return ws.root / str(stage_evidence(ws, "export").data["candidate"]["path"])


def test_derived_columns_are_the_same_in_the_notebook_and_over_http(derived: Workspace, tmp_path: Path) -> None:
    bundle, parity = verify_bundle(candidate(derived))
    assert "features.py" in bundle.manifest["files"]
    assert [t.name for t in bundle.signature.inputs][-2:] == ["charge_each", "initial"]
    assert parity.beyond == 0
    notebook = pd.read_parquet(derived.runs / "seed-0" / "predictions.parquet")["p.yes"].to_numpy()
    rows = frame_rows(bundle.contract, pd.read_parquet(derived.split("valid")))
    packed = pack_bundle(bundle, tmp_path / "b.mlb")
    with running(tmp_path / "server", packed) as server:
        said = server.client.post("/predict", json={"rows": rows}).json()["predictions"]
        one = server.client.post("/predict", json={"rows": rows[:1]}).json()["predictions"]
    over_http = np.array([p["probability"]["yes"] for p in said])
    assert np.abs(over_http - notebook).max() <= bundle.tolerance.atol
    assert one[0]["probability"] == pytest.approx(said[0]["probability"], abs=1e-6)
    local = [p.probability["yes"] for p in Predictor(bundle).predict(rows)]  # type: ignore[index]
    assert np.abs(over_http - local).max() <= 1e-6


def test_a_changed_feature_function_is_refused_at_load(derived: Workspace) -> None:
    folder = candidate(derived)
    file, text = folder / "features.py", (folder / "features.py").read_text()
    file.write_text(text.replace("+ 1", "+ 2"))
    with pytest.raises(Refused, match=r"features\.py: the content is not what the manifest says"):
        load_bundle(folder)
    made = {n: (folder / n).read_bytes() for n in json.loads((folder / "manifest.json").read_bytes())["files"]}
    head = {
        k: v for k, v in json.loads((folder / "manifest.json").read_bytes()).items() if k not in ("files", "format")
    }
    other = write_bundle(folder.parent.parent / "other", head, made)  # with hashes that fit: another id, other answers
    with pytest.raises(Refused, match="golden rows are answered differently here"):
        verify_bundle(other)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0][:1]", "[0][:1] + open('/etc/hostname').read()", r"features\.py, line \d+: 'open' is not allowed"),
        ('columns["charge"] /', 'columns["charge"] - columns["charge"].max() +', "depends on the rows beside it"),
        ('"charge_each":', '"charge":', "'charge' is a column of the contract"),
    ],
)
def test_functions_that_may_not_be_in_a_bundle(binary: Workspace, old: str, new: str, message: str) -> None:
    deriving(binary)
    change_cell(binary, "derive", old, new)
    with pytest.raises(MlopsError, match=message):
        run_export(binary)
    assert not binary.bundles.exists()
