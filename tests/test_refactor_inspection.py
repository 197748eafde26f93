"""Inspection as its users meet it: the command, its JSON, its exit code, and the notebooks of this project."""

from __future__ import annotations

import json
from pathlib import Path

import polib
import pytest

from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.poc.template import write_poc_notebook
from mlops_nb.refactor.hygiene import SEVERITY, violations
from mlops_nb.refactor.inspection import inspect_file, inspect_source, to_sarif
from mlops_nb.refactor.source import source_of
from tests.conftest import ROOT, Cli
from tests.hygiene_cases import FAULTS
from tests.test_refactor_source import notebook

LEAKY = (
    "import pandas as pd\nfrom sklearn.linear_model import Ridge\nfrom sklearn.preprocessing import StandardScaler",
    "df = pd.read_csv('a.csv')\nx = StandardScaler().fit_transform(df[['a']])",
    "model = Ridge().fit(x[:80], df['y'][:80])\nprint(model.score(x[80:], df['y'][80:]))",
)


def rules(*cells: str, counts: tuple[int | None, ...] = ()) -> list[str]:
    return [v.rule for v in violations(source_of(*cells, counts=counts))]


@pytest.mark.parametrize(("rule", "number"), [(rule, i) for rule, faults in FAULTS.items() for i in range(len(faults))])
def test_each_rule_finds_its_fault_and_nothing_else_and_spares_the_twin(rule: str, number: int) -> None:
    fault = FAULTS[rule][number]
    found = inspect_source(source_of(*fault.bad, counts=fault.counts)).rules()
    spared = {"unpinned-import"} - {rule}
    assert set(found) - spared == {rule}
    assert not set(inspect_source(source_of(*fault.fixed, counts=fault.fixed_counts)).rules()) - spared


def test_every_rule_has_its_faults() -> None:
    assert set(FAULTS) == set(SEVERITY)


@pytest.mark.parametrize(
    "cell",
    [
        "def f():\n    return LATER\nLATER = 1\nf()",
        "[x for x in range(3) if x]\n{k: v for k, v in {}.items()}",
        "try:\n    import a\nexcept ImportError:\n    a = None\nprint(a)",
        "from __future__ import annotations\nclass A:\n    def f(self) -> A:\n        return self",
        "with open('data/a.csv') as f:\n    lines = [line for line in f]",
        "import numpy as np\nrng = np.random.default_rng(3)\nrng.normal()",
        "path = '/predict'\nratio = '50/50'\ntext = 'a / b'",
        "token = None\npassword = ''\nsecret = 'TODO'",
        "x = 1\nx += 1\ndel x",
        "LIMIT = 3\ndef f():\n    return LIMIT",
        "x = (3\n     % 2)",
    ],
)
def test_sound_code_is_left_alone(cell: str) -> None:
    assert rules(cell) == []


def test_order_of_cells_and_counts() -> None:
    assert rules("print(x)", "x = 1") == ["used-before-definition"]
    assert rules("x = 1", "del x", "print(x)") == ["deleted-name"]
    assert rules("a = 1", "b = 1", counts=(2, 1)) == ["execution-order"]
    assert rules("a = 1", "b = 1", "c = 1", counts=(1, None, 2)) == []


def test_secrets_are_not_repeated() -> None:
    report = inspect_source(source_of("api_key = 'd41d8cd98f00b204e980'"))
    assert "d41d8cd9" not in json.dumps(report.to_dict()) + report.text() + report._repr_html_()


def test_the_command_prints_json_and_ends_with_1(cli: Cli, tmp_path: Path) -> None:
    file = notebook(tmp_path / "a.ipynb", *LEAKY)
    before = file.read_bytes()
    done = cli("inspect", file, "--json")
    finding = next(f for f in json.loads(done.stdout)["findings"] if f["severity"] == "error")
    assert done.returncode == 1
    assert (finding["rule"], finding["cell"], finding["line"]) == ("leakage-preprocessing", 2, 2)
    assert [s["cell"] for s in finding["flow"]] == [2, 3, 3]
    assert file.read_bytes() == before


def test_the_command_ends_with_0_on_a_sound_script_and_with_2_on_none(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    assert cli("inspect", tmp_path / "a.py").returncode == 0
    missing = cli("inspect", tmp_path / "b.py")
    assert missing.returncode == 2
    assert "no such file" in missing.stderr


def test_sarif_names_rules_places_and_flow(tmp_path: Path) -> None:
    log = to_sarif(inspect_file(notebook(tmp_path / "a.ipynb", *LEAKY)))
    (result,) = (r for r in log["runs"][0]["results"] if r["level"] == "error")
    assert len(result["codeFlows"][0]["threadFlows"][0]["locations"]) == 3
    assert {r["id"] for r in log["runs"][0]["tool"]["driver"]["rules"]} == {
        "leakage-preprocessing",
        "print-result",
        "unpinned-import",
    }


@pytest.mark.parametrize("lang", ["en", "fr"])
def test_every_rule_has_its_sentences(lang: str) -> None:
    known = {e.msgid for e in polib.pofile(str(ROOT / f"reports/messages/{lang}/refactor.po"))}
    every = [*SEVERITY, "training-score", "leakage-preprocessing", "leakage-overlap", "leakage-multi-test"]
    assert {f"inspect.{part}{r}" for r in every for part in ("", "fix.", "rule.")} <= known


@pytest.mark.parametrize("rows", [100, 10_000])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_generated_notebook_is_sound(tmp_path: Path, task: str, rows: int) -> None:
    classes = {"binary": ("a", "b"), "multiclass": ("a", "b", "c"), "regression": ()}[task]
    columns = (
        Column("n", "number", nullable=True),
        Column("c", "category", levels=("x", "y")),
        Column("d", "datetime"),
    )
    target = Target("y", task, classes, "b" if task == "binary" else "")  # type: ignore[arg-type]
    file = write_poc_notebook(Contract(columns, target), tmp_path / "poc.ipynb", rows=rows)
    assert inspect_file(file).text().splitlines() == ["poc.ipynb: 0 findings"]


@pytest.mark.parametrize("file", sorted((ROOT / "nbs").glob("3*.ipynb")), ids=lambda p: p.stem)
def test_no_leak_is_seen_where_there_is_none(file: Path) -> None:
    "This package's own notebooks fit models in their examples, and none of them leaks."
    assert not [f for f in inspect_file(file).findings if f.rule.startswith("leakage")]
