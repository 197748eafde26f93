"""The leak analysis on seeded leaks, their sound twins, and mechanical mutants of both."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_nb.refactor.inspection import inspect_file
from mlops_nb.refactor.leakage import Leak, leaks_of
from mlops_nb.refactor.source import source_of
from tests.leakage_cases import CLEAN, IMPORTS, LEAKS, PAIRS
from tests.test_refactor_source import notebook

Mutation = Callable[[str], list[str]]


def renamed(code: str) -> str:
    "Every name the script makes, numbered: nothing can be told from a name any more."
    tree = ast.parse(code)
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored |= {a.arg for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) for a in n.args.args}
    names = {name: f"v{i}" for i, name in enumerate(sorted(stored))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = names.get(node.arg, node.arg)
    return ast.unparse(tree)


def wrapped(code: str) -> str:
    "Everything but imports and classes inside a function that is called once."
    body = ast.parse(code).body
    kept = [s for s in body if isinstance(s, ast.Import | ast.ImportFrom | ast.ClassDef)]
    moved = "\n".join(ast.unparse(s) for s in body if s not in kept)
    inside = "\n".join(f"    {line}" for line in moved.splitlines())
    return "\n".join(map(ast.unparse, kept)) + f"\ndef main():\n{inside}\nmain()\n"


MUTATIONS: dict[str, Mutation] = {
    "as written": lambda code: [code],
    "cells split": lambda code: [s for s in re.split(r"\n(?=[^\s)])", code.strip()) if s.strip()],
    "renamed": lambda code: [renamed(code)],
    "wrapped": lambda code: [wrapped(code)],
    "renamed and wrapped": lambda code: [wrapped(renamed(code))],
}


def leaks(*cells: str) -> list[Leak]:
    return leaks_of(source_of(IMPORTS, *cells))


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("case", PAIRS)
def test_a_leak_survives_mutation_and_its_fixed_twin_has_none(case: str, mutation: str) -> None:
    pair, mutate = PAIRS[case], MUTATIONS[mutation]
    assert {leak.rule for leak in leaks(*mutate(pair.bad))} == pair.rules
    assert not leaks(*mutate(pair.fixed))


@pytest.mark.parametrize("mutation", ["as written", "cells split"])
@pytest.mark.parametrize("case", CLEAN)
def test_sound_notebooks_are_left_alone(case: str, mutation: str) -> None:
    assert not leaks(*MUTATIONS[mutation](CLEAN[case]))


def as_notebook(folder: Path, cells: list[str]) -> Path:
    "As it is saved after an afternoon of work: prose between the cells, counts out of order."
    made = notebook(folder / "a.ipynb", *cells)
    doc = json.loads(made.read_text())
    for number, cell in enumerate(doc["cells"]):
        cell["execution_count"] = 50 - number if number % 3 else None
    doc["cells"] = [
        c for cell in doc["cells"] for c in ({"cell_type": "markdown", "id": f"m{cell['id']}", "source": "why"}, cell)
    ]
    made.write_text(json.dumps(doc))
    return made


def as_percent_script(folder: Path, cells: list[str]) -> Path:
    file = folder / "a.py"
    file.write_text("".join(f"# %%\n{cell}\n\n# %% [markdown]\n# why\n\n" for cell in cells))
    return file


def as_converted(folder: Path, cells: list[str]) -> Path:
    "As nbconvert writes it."
    head = (
        "#!/usr/bin/env python\n# coding: utf-8\n\n# In[1]:\n\n\nget_ipython().run_line_magic('matplotlib', 'inline')\n"
    )
    file = folder / "a.py"
    file.write_text(head + "".join(f"\n\n# In[{n}]:\n\n\n{cell}\n" for n, cell in enumerate(cells, 2)))
    return file


@pytest.mark.parametrize("form", [as_notebook, as_percent_script, as_converted], ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", PAIRS)
def test_every_kind_of_file_says_the_same(case: str, form: Callable[[Path, list[str]], Path], tmp_path: Path) -> None:
    pair, split = PAIRS[case], MUTATIONS["cells split"]
    bad = [f for f in inspect_file(form(tmp_path, [IMPORTS.strip(), *split(pair.bad)])).findings if f.rule in LEAKS]
    assert {f.rule for f in bad} == pair.rules
    assert all(len(f.flow) > 1 and f.fix.text() and f.place.line > 0 for f in bad)
    fixed = inspect_file(form(tmp_path, [IMPORTS.strip(), *split(pair.fixed)])).findings
    assert not [f for f in fixed if f.rule in LEAKS]


def test_the_flow_leads_from_fit_to_score() -> None:
    (leak,) = leaks(PAIRS["minmax_all"].bad)
    assert [step.key.rpartition(".")[2] for step in leak.flow] == ["learned", "split", "fit", "judged"]
    assert [step.site for step in leak.flow] == [(2, 4), (2, 6), (2, 8), (2, 10)]


def test_a_budget_bounds_the_work(tmp_path: Path) -> None:
    "Functions that call each other many times over, in a notebook of 200 cells."
    calls = [f"def f{i}(x):\n    return [f{i - 1}(x) for _ in range(9)] + [f{i - 1}(x)]" for i in range(1, 20)]
    setup = IMPORTS + "\ndef f0(x):\n    return StandardScaler().fit_transform(x)\n"
    use = ["df = pd.read_csv('a.csv')", *["f19(df)"] * 180]
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "source": s}
        for i, s in enumerate([setup, *calls, *use])
    ]
    file = tmp_path / "many.ipynb"
    file.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    started = time.process_time()
    assert inspect_file(file).cells == 201
    assert time.process_time() - started < 20  # about 2 s on an idle core; a walk without budget never ends


def test_odd_code_does_not_stop_the_analysis() -> None:
    odd = """
async def work():
    async with lock as held:
        async for row in rows:
            yield row
        return await done
match shape:
    case {"n": n, **rest}:
        model.fit(n)
    case [first, *others]:
        pass
try:
    x: int = y[1:2, ::-1][..., None]
except* ValueError as group:
    raise
else:
    del x
with open("a") as a, open("b"):
    lambda *args, k=1, **kw: (args, kw)
f"{x!r:>{width}}"
(z := [i async for i in stream()])
global_ = {**a, "b": {*c}}
fit(*args, **kwargs)(1)(2)
"""
    assert leaks(odd, PAIRS["minmax_all"].bad)
