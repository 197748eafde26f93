"Parts of reporting on their own: differences, texts of facts, seals, the kernel's end, Quarto's behaviour as measured."

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError, MlopsError
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import write_json
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.reporting.diff import compare_facts
from mlops_nb.reporting.page import MIME, compact
from mlops_nb.reporting.quarto import find_quarto, quarto_notebook, renderer
from mlops_nb.reporting.rendering import Heading, make_frame
from mlops_nb.reporting.sealing import (
    MANIFEST_GAP,
    ROOT_GAP,
    data_block,
    root_of,
    script_json,
    seal,
    unseal,
    wrong_texts,
)
from mlops_nb.reporting.values import fact_html, fact_text
from tests.reporting_workspace import full_workspace, pieces_in_process

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-(10**9), 10**9)
FACTS = st.builds(
    Fact,
    id=st.text(min_size=1, max_size=30).map(lambda t: f"a.b/{t}"),
    value=NUMBERS | st.none() | st.booleans() | st.text(max_size=20),
    unit=st.sampled_from(["", "1", "ms", "rows", "EUR", "p"]),
    low=NUMBERS | st.none(),
    high=NUMBERS | st.none(),
    threshold=NUMBERS | st.none(),
    n=st.integers(0, 10**7) | st.none(),
)


@given(FACTS, st.sampled_from(["en", "fr"]))
def test_a_page_says_what_its_facts_say(fact: Fact, lang: str) -> None:
    html = "".join(fact_html(fact, part, lang) for part in ("value", "interval", "threshold", "n", "text"))
    assert wrong_texts(html, [fact], lang) == ()
    assert Fact.from_dict(json.loads(json.dumps(compact(fact)))) == fact


@given(st.floats(1e-12, 1e12), st.sampled_from(["", "1", "ms", "EUR"]))
def test_a_number_is_never_shown_as_nought(value: float, unit: str) -> None:
    assert any(c in "123456789" for c in fact_text(Fact("a.b", value, unit, threshold=0.01)))


@given(st.text(max_size=200), st.dictionaries(st.text(max_size=10), st.text(max_size=10)))
def test_a_seal_opens_again(body: str, inputs: dict[str, str]) -> None:
    blocks = data_block("facts", script_json({"facts": []})) + data_block("manifest", MANIFEST_GAP)
    sealed = seal(f"<p>{script_json(body)}</p>{ROOT_GAP}{blocks}", {"inputs": inputs})
    opened = unseal(sealed.html)
    assert opened.page_sha256 == sealed.manifest["page"]
    assert root_of(opened.manifest) == sealed.root


def test_what_changed_is_told_with_its_meaning(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path)
    old = [f.to_dict() for p in pieces_in_process("audit", ws, lang="en") for f in p.facts]
    gone = Fact("fairness.gap/region", 0.3, low=0.2, high=0.4, threshold=0.1, state="no-go").to_dict()
    folder = ws.reports / "audit" / "2026-10-01-aaaaaaaaaaaa"
    write_json(folder / "facts.json", {"v": 1, "facts": [*old, gone]})
    write_json(
        folder / "manifest.json", {"root": "a" * 64, "as_of": "2026-10-01T00:00:00Z", "inputs": {"old.csv": "1"}}
    )
    score = stage_evidence(ws, "score")
    worse = Fact("performance.roc_auc", 0.7, low=0.66, high=0.74, level=0.95, n=1056, threshold=0.8, state="no-go")
    write_evidence(ws, Evidence("score", (worse, *score.facts[1:]), score.data))
    told = next(p for p in pieces_in_process("audit", ws, lang="en", previous=ws.relative(folder)) if p.id == "changes")
    assert "State GO → " in re.sub(r"<[^>]+>", "", told.html)
    assert "The intervals do not overlap." in told.html
    assert "not in the report" in told.html
    assert "no longer used" in told.html
    assert {f.id for f in told.facts} >= {
        "diff.old/performance.roc_auc",
        "performance.roc_auc",
        "diff.old/fairness.gap/region",
    }


def test_the_weightiest_change_comes_first() -> None:
    old = [Fact("a.x", 1), Fact("a.y", 2, state="go")]
    new = [Fact("a.x", 3), Fact("a.y", 2, state="no-go")]
    assert [c.id for c in compare_facts(old, new)] == ["a.y", "a.x"]
    assert compare_facts(new, new) == ()


def program(folder: Path, body: str, version: str = "1.7.34") -> str:
    "A stand-in for Quarto that behaves as was measured of it."
    file = folder / "quarto"
    file.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo {version}; exit 0; fi\n{body}\n')
    file.chmod(0o755)
    return str(file)


def test_quarto_gets_markdown_and_gives_a_page(tmp_path: Path) -> None:
    frame = make_frame(Heading("fr", "audit", "churn", "2026-11-20T00:00:00Z"), [], [])
    output = {"data": {"text/html": "<section><h1>Audit</h1><b>0,8</b></section>", MIME: {}}}
    notebook = {"cells": [{"cell_type": "code", "outputs": [output]}]}
    text = json.dumps(quarto_notebook(notebook, frame))
    assert "text/html" not in text
    assert "<h1>Audit" not in text
    assert "```{=html}" in text
    render = renderer(program(tmp_path, 'test "$1 $3" = "render --no-execute" && cp "$2" report.html'))
    assert "0,8" in render(notebook, frame)
    failing = renderer(
        program(tmp_path, "printf '\\033[91mERROR: No valid input files passed to render\\033[39m\\n at x' >&2; exit 1")
    )
    with pytest.raises(MlopsError, match="quarto: No valid input files passed to render"):
        failing(notebook, frame)
    with pytest.raises(MlopsError, match=r"longer than 0\.2 s"):
        renderer(program(tmp_path, "sleep 5"), limit_s=0.2)(notebook, frame)


def test_quarto_must_be_there_and_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"quarto 1\.2 is too old"):
        find_quarto(program(tmp_path, "", "1.2"))
    with pytest.raises(InputError, match="does not tell its version"):
        find_quarto(program(tmp_path, "", "hello"))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="quarto is not there"):
        find_quarto("auto")


REPORT = """
import sys
from mlops_nb.core.workspace import Workspace
from mlops_nb.reporting.runner import run_report
run_report(Workspace(sys.argv[1]), "audit", "en")
"""


def kernels_of(pid: int) -> list[int]:
    "The child processes of a process."
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(p) for f in found for p in f.read_text().split()]


def test_a_killed_run_leaves_no_kernel_and_no_report(tmp_path: Path) -> None:
    ws: Workspace = full_workspace(tmp_path)
    run = subprocess.Popen([sys.executable, "-c", REPORT, str(ws.root)])
    deadline = time.monotonic() + 60
    while not (kernels := kernels_of(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert kernels
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{k}").exists() for k in kernels) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{k}").exists() for k in kernels)
    assert not [p for p in ws.reports.rglob("*") if p.is_file()] if ws.reports.exists() else True


def test_a_killed_kernel_gives_a_failed_page(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path)
    run = subprocess.Popen([sys.executable, "-c", REPORT, str(ws.root)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (kernels := kernels_of(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.2)
    for kernel in kernels:
        os.kill(kernel, signal.SIGKILL)
    _, err = run.communicate(timeout=120)
    pages = list(ws.reports.glob("audit/*/audit.html")) if ws.reports.exists() else []
    assert len(pages) == 1
    failed = "FAILED" in pages[0].read_text()
    assert failed == (run.returncode != 0), err  # a kernel killed before its first cell is started again
