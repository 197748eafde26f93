"""Inspection as its users meet it: the command, its JSON, its exit code, and the notebooks of this project."""

from __future__ import annotations

import json
import re
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


def test_sarif_has_the_structure_of_its_standard(cli: Cli, tmp_path: Path) -> None:
    "What SARIF 2.1.0 requires of a log, a run, a result and a code flow."
    done = cli("inspect", notebook(tmp_path / "a b.ipynb", *LEAKY), "--sarif", "--lang", "fr")
    log = json.loads(done.stdout)
    assert done.returncode == 1
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    ids = [r["id"] for r in run["tool"]["driver"]["rules"]]
    assert run["tool"]["driver"]["name"]
    assert len(ids) == len(set(ids))
    for result in run["results"]:
        assert result["ruleId"] in ids
        assert result["level"] in ("none", "note", "warning", "error")
        flows = [s["location"] for c in result.get("codeFlows", []) for f in c["threadFlows"] for s in f["locations"]]
        for place in [*result["locations"], *flows]:
            physical = place["physicalLocation"]
            assert re.fullmatch(r"[\w./%~-]+", physical["artifactLocation"]["uri"])
            assert physical["region"]["startLine"] >= 1
            assert place["message"]["text"]
            assert result["message"]["text"]


NESTED = "from sklearn.svm import SVC\n" + "".join(f"{' ' * i}for a{i} in {list(range(12))}:\n" for i in range(15))
HARD: dict[str, str] = {
    "deep parentheses": "x = " + "(" * 5_000 + "1" + ")" * 5_000,
    "deep signs": "x = " + "-" * 50_000 + "1",
    "a long sum": "from sklearn.svm import SVC\nx = " + " + ".join(["a"] * 5_000) + "\nSVC().fit(x)",
    "a long chain": "df.fit()" + ".a()" * 3_000,
    "a long text": f"x = '{'a' * 3_000_000}'\nm.fit(x)",
    "functions that call each other": "def f(x):\n    return g(x)\ndef g(x):\n    return f(x) + f(x) + g(x)\nf(1)\nm.fit(f(2))",
    "a list in itself": "x = []\nx.append(x)\nfor i in range(9):\n    x = [x, x, x]\nm.fit(x)",
    "a class of itself": "class A(A):\n    def __init__(self): self.b = A()\n    def fit(self, X): return self.b.fit(X)\nA().fit(1)",
    "lambdas": "f = lambda x: f(f(f(x)))\nm.fit(f(f(f(1))))",
}


@pytest.mark.parametrize("case", HARD)
def test_hard_code_is_reported_and_never_followed_forever(case: str) -> None:
    assert inspect_source(source_of(HARD[case])).cells == 1


@pytest.mark.slow
def test_loops_within_loops_end_with_the_budget() -> None:
    found = inspect_source(source_of(NESTED + " " * 15 + "SVC().fit(a0)"))
    assert "not-analysed" in found.rules()


def test_python_2_is_named_and_its_leak_found() -> None:
    setup = (
        "from sklearn.preprocessing import StandardScaler\nfrom sklearn.linear_model import Ridge\nimport pandas as pd"
    )
    use = "d = pd.read_csv('a')\nX = StandardScaler().fit_transform(d)\nprint X[0], 1"
    judge = (
        "m = Ridge().fit(X[:8], d.y[:8])\ntry:\n    print m.score(X[8:], d.y[8:])\nexcept Exception, e:\n    print e"
    )
    found = inspect_source(source_of(setup, use, judge)).rules()
    assert found["leakage-preprocessing"] == 1
    assert found["syntax-error"] == 2


def test_what_time_hides_in_a_converted_script_is_read(tmp_path: Path) -> None:
    hidden = "import pandas as pd\nfrom sklearn.preprocessing import scale\nd = scale(pd.read_csv('a.csv'))"
    code = f"get_ipython().run_cell_magic('time', '', {hidden!r})\n"
    use = "from sklearn.linear_model import Ridge\nm = Ridge().fit(d[:80, 1:], d[:80, 0])\nm.score(d[80:, 1:], d[80:, 0])\n"
    (tmp_path / "a.py").write_text(code + use)
    found = inspect_file(tmp_path / "a.py").rules()
    assert "leakage-preprocessing" in found
    assert "undefined-name" not in found


def test_versions_are_looked_for_up_to_the_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("scikit-learn==1.7\npandas\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "helper.py").write_text("")
    file = notebook(tmp_path / "sub" / "a.ipynb", "import sklearn, pandas, helper, json")
    (finding,) = [f for f in inspect_file(file).findings if f.rule == "unpinned-import"]
    assert finding.place.message.args == {"names": "pandas", "count": 1}
    assert inspect_file(file).exit_code == 0


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
