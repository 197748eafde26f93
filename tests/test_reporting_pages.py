"What the three templates show, run in this process: every number through its fact, in two languages, whatever the data."

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from string import Formatter

import polib
import pytest

from mlops_nb.core.facts import Fact
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.reporting.material import KINDS
from mlops_nb.reporting.page import Piece
from mlops_nb.reporting.publishing import template_file
from mlops_nb.reporting.rendering import outside_references
from mlops_nb.reporting.sealing import shown_facts, wrong_texts
from tests.reporting_workspace import add_monitoring, card, full_workspace, pieces_in_process, score_facts

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"(?<![\w-])\d[\d.,]*")
STAGE_OF = {"audit": "score", "drift": "monitor", "roi": "value"}
STAGES = ("data", "export", "trial", "poc", "score", "monitor", "value")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return full_workspace(tmp_path_factory.mktemp("pages"))


def html_of(pieces: list[Piece]) -> str:
    return "\n".join(str(p.html) for p in pieces)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_number_is_a_fact_and_reads_as_its_fact(ws: Workspace, kind: str, lang: str) -> None:
    pieces = pieces_in_process(kind, ws, lang=lang)
    html, facts = html_of(pieces), [f for p in pieces for f in p.facts]
    assert wrong_texts(html, facts, lang) == ()
    assert outside_references(html) == ()
    assert len({p.id for p in pieces}) == len(pieces)
    bare = re.sub(r"<svg.*?</svg>|<code.*?</code>|<q>.*?</q>|<span data-fact.*?</span>", " ", html, flags=re.S)
    bare = unescape(re.sub(r"<[^>]+>|\d{4}-\d{2}-\d{2}( \d{2}:\d{2})?", " ", bare))
    said = set(NUMBER.findall(" ".join(catalogue(lang).values())))
    assert set(NUMBER.findall(bare)) <= said


def other(fact: Fact) -> Fact:
    "The same fact with another number."
    value = fact.value
    moved = value * 1.5 + 0.01 if isinstance(value, float) else value + 1  # type: ignore[operator]
    return replace(fact, value=moved)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_changing_a_fact_changes_its_places_and_no_other(ws: Workspace, kind: str, tmp_path: Path, whole: bool) -> None:
    before = list(shown_facts(html_of(pieces_in_process(kind, ws, lang="en"))))
    seen, tried = {id for id, _, _ in before}, 0
    copy = Workspace(shutil.copytree(ws.root, tmp_path / "copy"))
    for stage in STAGES if whole else (STAGE_OF[kind],):
        evidence = stage_evidence(ws, stage)
        for fact in evidence.facts:
            number = isinstance(fact.value, int | float) and not isinstance(fact.value, bool) and fact.value
            if not number or fact.id not in seen:
                assert stage != STAGE_OF[kind] or not number, f"{fact.id} is shown nowhere"
                continue
            changed = tuple(other(f) if f is fact else f for f in evidence.facts)
            write_evidence(copy, replace(evidence, facts=changed))
            after = list(shown_facts(html_of(pieces_in_process(kind, copy, lang="en"))))
            moved = {b[0] for b, a in zip(before, after, strict=True) if a != b}
            assert moved == {fact.id}, moved or f"{fact.id} does not change"
            tried += 1
        write_evidence(copy, evidence)
    assert tried >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_of_a_page_hangs_on_its_fact(ws: Workspace, kind: str) -> None:
    pieces = pieces_in_process(kind, ws, lang="fr")
    html, facts = html_of(pieces), {f.id: f for p in pieces for f in p.facts}
    shown = shown_facts(html)
    assert {id for id, _, _ in shown} <= facts.keys()
    for fact in facts.values():
        if isinstance(fact.value, bool) or not isinstance(fact.value, int | float):
            continue
        wrong = wrong_texts(html, [other(f) if f is fact else f for f in facts.values()], "fr")
        places = [p for p in shown if p[0] == fact.id and p[1] in ("value", "text")]
        assert len(wrong) >= len(places)
        assert all(line.startswith(f"{fact.id} ") for line in wrong)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_text_is_in_the_catalogue(ws: Workspace, kind: str, lang: str) -> None:
    text = re.sub(
        r"<code.*?</code>|<svg.*?</svg>|<[^>]+>", " ", html_of(pieces_in_process(kind, ws, lang=lang)), flags=re.S
    )
    assert (
        re.findall(r"\b[a-z]+\.[a-z_-]+(?:\.[a-z_-]+)*\b", text.replace("facts.json", "").replace("manifest.json", ""))
        == []
    )


def test_catalogues_agree() -> None:
    by_lang = {lang: polib.pofile(str(ROOT / "reports" / "messages" / lang / "reporting.po")) for lang in LANGUAGES}
    texts = {lang: {e.msgid: e.msgstr for e in po} for lang, po in by_lang.items()}
    assert texts["en"].keys() == texts["fr"].keys()
    for key, english in texts["en"].items():
        fields = [sorted(n for _, n, _, _ in Formatter().parse(t) if n) for t in (english, texts["fr"][key])]
        assert fields[0] == fields[1], key
        assert texts["fr"][key], key


NASTY = [
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "x" * 300,
    "a & b",
    "naïve ☃",
    '"quoted"',
    "{braces}",
    "$dollar$",
]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_data_becomes_markup(kind: str, tmp_path: Path) -> None:
    ws = full_workspace(tmp_path, columns=NASTY)
    facts = (*score_facts(), *(Fact(f"fairness.recall/{name}", 0.5, low=0.4, high=0.6) for name in NASTY))
    write_evidence(ws, Evidence("score", facts, {"criteria": card(score_facts())}))
    html = html_of(pieces_in_process(kind, ws, lang="fr"))
    assert "<script" not in html
    assert outside_references(html) == ()
    if kind == "audit":
        assert {f[0] for f in shown_facts(html)} >= {f"fairness.recall/{n}" for n in NASTY}


def test_two_hundred_columns_stay_small(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path)
    add_monitoring(ws, [f"column_{i}" for i in range(200)])
    pieces = pieces_in_process("drift", ws, lang="en")
    assert len(html_of(pieces)) < 400_000
    left = [f.value for p in pieces for f in p.facts if f.id.startswith("window.columns_left_out")]
    assert left == [195, 188]


def test_an_empty_score_is_not_assessed(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path, ledger=False)
    write_evidence(ws, Evidence("score", (), {"criteria": []}))
    ws.decision_file.write_text("{}")
    text = html_of(pieces_in_process("audit", ws, lang="en"))
    assert "NOT ASSESSED" in text
    assert "There is no ledger" in text


def test_a_broken_ledger_is_said_on_the_first_screen(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path)
    lines = ws.ledger_file.read_text().splitlines(keepends=True)
    ws.ledger_file.write_text("".join([lines[0], *lines[2:]]))
    pieces = pieces_in_process("audit", ws, lang="fr")
    assert "Le registre n’est pas fiable" in pieces[0].html


@pytest.mark.parametrize("kind", KINDS)
def test_templates_define_nothing_and_keep_their_tag(kind: str) -> None:
    notebook = json.loads(template_file(kind).read_text())
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    source = "\n".join("".join(c["source"]) for c in code)
    assert not re.search(r"^\s*(def|class|lambda|for|while|if) ", source, re.M)
    assert sum("parameters" in c["metadata"].get("tags", ()) for c in code) == 1
    assert sum("import " in "".join(c["source"]) for c in code) == 1
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not any(c["outputs"] for c in code)
