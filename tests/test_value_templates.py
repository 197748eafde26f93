from __future__ import annotations

import tomllib

import pytest

from mlops_nb.charter import Business
from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.value.templates import FIELDS, TEMPLATES, business_toml, template, template_table


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
