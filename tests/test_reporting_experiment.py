"The announced experiment on the ROI page: every number through its fact, in both languages."

from __future__ import annotations

import re
from html import unescape

import pytest

from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.core.workspace import Workspace, write_evidence
from mlops_nb.reporting.sealing import wrong_texts
from mlops_nb.value.stage import run_value
from tests.reporting_workspace import full_workspace, pieces_in_process
from tests.test_reporting_pages import NUMBER, html_of
from tests.test_value_enrolment import workspace


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    "A workspace with all material, whose value rests on an experiment."
    root = tmp_path_factory.mktemp("experiment")
    (root / "log").mkdir()
    made = full_workspace(root / "pages")
    assert "demo-1" not in html_of(pieces_in_process("roi", made))
    write_evidence(made, run_value(workspace(root / "log")))
    return made


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_experiment_is_shown_with_its_plan_rails_and_notes(ws: Workspace, lang: str) -> None:
    pieces = pieces_in_process("roi", ws, lang=lang)
    html = str(next(p.html for p in pieces if p.id == "experiment"))
    facts = [f for p in pieces for f in p.facts]
    assert wrong_texts(html_of(pieces), facts, lang) == ()
    assert {"experiment.effect", "experiment.rail/complaints", "experiment.segment/plan = a", "realised.ratio"} <= {
        f.id for f in facts
    }
    assert "<code>demo-1</code>" in html
    assert catalogue(lang)["state.safe"] in unescape(html)
    bare = re.sub(r"<svg.*?</svg>|<code.*?</code>|<span data-fact.*?</span>", " ", html, flags=re.S)
    said = set(NUMBER.findall(" ".join(catalogue(lang).values())))
    assert set(NUMBER.findall(unescape(re.sub(r"<[^>]+>", " ", bare)))) <= said
