from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from mlops_nb.charter import Business, load_charter
from mlops_nb.cli.common import guarded
from mlops_nb.cli.main import app
from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.value.templates import FIELDS, TEMPLATES, business_toml, in_charter, template, template_table
from tests.value_charter import charter


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", [t.kind for t in TEMPLATES])
def test_a_template_is_whole_and_makes_a_charter(kind: str, lang: str) -> None:
    t = template(kind)
    wanted = {f"template.{kind}.{f}" for f in (*FIELDS, "name")} | {f"guard_rail.{g}" for g in t.guard_rails}
    assert wanted <= set(catalogue(lang))
    business = Business.model_validate(tomllib.loads(business_toml(kind, lang))["business"])
    assert (business.unit, business.value_per_action) == (t.unit, 0)
    assert "template." not in template_table(t, lang).html()
    assert t._repr_html_()


def test_a_misspelt_kind_is_told() -> None:
    with pytest.raises(InputError, match="no template 'chrun'"):
        template("chrun")


CHARTER = charter(file="d.csv")


@pytest.mark.parametrize(
    "end", ["", "[business]\n", '[business] # old\nkpi = "x"', "[business]\n\n  [costs]\ncurrency = 'USD'\n"]
)
def test_only_the_business_of_a_charter_is_replaced(tmp_path: Path, end: str) -> None:
    file = tmp_path / "charter.toml"
    file.write_text(in_charter(CHARTER + end, "pricing", "fr"))
    found = load_charter(file)
    assert (found.business.unit, found.costs.currency) == ("offer", "USD" if "costs" in end else "EUR")
    assert found.problem.name == "demo"


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["kpi", "list", "--json"]) == 0
    kinds = [t["kind"] for t in json.loads(capsys.readouterr().out)["templates"]]
    assert kinds == [t.kind for t in TEMPLATES]
    assert guarded(app, ["kpi", "show", "churn", "--lang", "fr"]) == 0
    assert "Attrition" in capsys.readouterr().out
    (tmp_path / "charter.toml").write_text(CHARTER + "business = 3\n")
    before = (tmp_path / "charter.toml").read_bytes()
    assert guarded(app, ["kpi", "write", "churn", str(tmp_path)]) == 2
    assert (tmp_path / "charter.toml").read_bytes() == before
    assert guarded(app, ["kpi", "write", "churn", str(tmp_path / "kpi.toml")]) == 0
    assert guarded(app, ["kpi", "write", "churn", str(tmp_path / "kpi.toml")]) == 2
    assert guarded(app, ["kpi", "show", "chrun"]) == 2
    (tmp_path / "charter.toml").write_text(CHARTER + "[business]\nvalue_per_action = 300.0\n")
    assert guarded(app, ["kpi", "write", "churn", str(tmp_path)]) == 1
    assert load_charter(tmp_path / "charter.toml").business.value_per_action == 300
