"Second opinions: the real tools in children of their own, and an AUDIT that is complete without them."

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.hashing import sha256_file
from mlops_nb.core.messages import Message
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.poc.annexes import TOOLS, Tool, run_annexes, tools_named
from mlops_nb.reporting.material import input_files
from tests.conftest import Cli
from tests.reporting_workspace import full_workspace, pieces_in_process
from tests.scored_workspace import make

CHILD = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
assert (folder / "train.parquet").exists() and json.loads((folder / "about.json").read_text())["target"] == "y"
{body}
"""
GOOD = """
(folder / "page.html").write_text("<p>all is well</p>")
found = {"version": "1", "checks": 3, "failed": 1, "findings": [{"name": "<x>", "said": "drifts"}]}
(folder / "found.json").write_text(json.dumps(found))
"""


def child(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> Tool:
    "A tool of our own: a module that a child can run."
    (folder / f"{name}.py").write_text(CHILD.replace("{body}", body))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Tool(name, "json", "lab", name)


def mini(folder: Path) -> Workspace:
    "A workspace without a bundle, and with rows that a tool can read."
    ws = make(folder / "ws")
    (ws.evidence / "export.json").unlink()
    return ws


def test_a_tool_leaves_its_page_and_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = mini(tmp_path)
    found = run_annexes(ws, [child(tmp_path, "tool_a", GOOD, monkeypatch)])
    (annex,) = found.data["annexes"]
    assert (annex["name"], annex["checks"], annex["failed"]) == ("tool_a", 3, 1)
    assert annex["sha256"] == sha256_file(ws.root / annex["path"])
    assert found.inputs[annex["path"]] == annex["sha256"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no columns')", "ValueError: no columns"),
        ("pass", "found.json: no such file"),
        ("import time; time.sleep(60)", "longer than 2 s"),
    ],
)
def test_a_tool_that_fails_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    ws = mini(tmp_path)
    tool = child(tmp_path, "tool_b", GOOD, monkeypatch)
    run_annexes(ws, [tool])
    child(tmp_path, "tool_b", body, monkeypatch)
    (annex,) = run_annexes(ws, [tool], limit_s=2.0 if "sleep" in body else 60.0).data["annexes"]
    assert said in Message.from_dict(annex["reason"]).text()
    assert not (ws.annexes / "tool_b.html").exists()


def test_one_tool_keeps_what_the_other_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = mini(tmp_path)
    run_annexes(ws, [child(tmp_path, "tool_a", GOOD, monkeypatch)])
    run_annexes(ws, [Tool("other", "no_such_package", "audit", "no.such")])
    listed = stage_evidence(ws, "annex").data["annexes"]
    assert [(a["name"], "reason" in a) for a in listed] == [("other", True), ("tool_a", False)]


def test_a_tool_without_an_adapter_is_named() -> None:
    assert tools_named(()) == TOOLS
    with pytest.raises(InputError, match="no adapter for 'giskard'; use evidently or deepchecks"):
        tools_named(["giskard"])


@pytest.mark.parametrize("lang", ["en", "fr"])
def test_the_audit_is_complete_without_annexes_and_lists_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lang: str
) -> None:
    ws = full_workspace(tmp_path / "ws")
    told = {"en": "There are no annexes", "fr": "Il n’y a pas d’annexes"}[lang]
    before = next(p for p in pieces_in_process("audit", ws, lang=lang) if p.id == "opinions")
    assert told in before.html
    other = mini(tmp_path / "other")
    run_annexes(
        other, [child(tmp_path, "tool_a", GOOD, monkeypatch), Tool("gone", "no_such_package", "audit", "no.such")]
    )
    (ws.evidence / "annex.json").write_bytes((other.evidence / "annex.json").read_bytes())
    ws.annexes.mkdir()
    (ws.annexes / "tool_a.html").write_bytes((other.annexes / "tool_a.html").read_bytes())
    page = next(p for p in pieces_in_process("audit", ws, lang=lang) if p.id == "opinions")
    assert {f.id: f.value for f in page.facts} == {"annex.checks/tool_a": 3, "annex.failed/tool_a": 1}
    assert "<x>" not in page.html
    assert "mlops_nb[audit]" in page.html
    assert {"annex.json", "tool_a.html"} <= {p.name for p in input_files(ws, "audit")}


def test_numpy_is_patched_for_nobody_else() -> None:
    code = "import numpy, mlops_nb.poc.annexes, mlops_nb.poc.annex_deepchecks; print(hasattr(numpy, 'Inf'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_the_real_tools_run_on_real_rows(cli: Cli, tmp_path: Path) -> None:
    if find_spec("deepchecks") is None:
        pytest.skip("its own extra")
    ws = mini(tmp_path)
    rng = np.random.default_rng(0)
    for side in ("train", "test"):
        table = pd.read_parquet(ws.split(side)).head(600)
        table.loc[rng.random(len(table)) < 0.05, "x"] = np.nan
        table.to_parquet(ws.split(side))
    done = cli("annex", ws.root, timeout_s=600)
    assert done.returncode == 0, done.stderr
    listed = {a["name"]: a for a in stage_evidence(ws, "annex").data["annexes"]}
    for name in ("evidently", "deepchecks"):
        assert "reason" not in listed[name], listed[name]
        assert listed[name]["checks"] > 5
        assert (ws.root / listed[name]["path"]).stat().st_size > 10_000
