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
from tests.leakage_cases import CASES, IMPORTS

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
@pytest.mark.parametrize("case", CASES)
def test_seeded_leaks_and_nothing_else(case: str, mutation: str) -> None:
    expected, code = CASES[case]
    assert {leak.rule for leak in leaks(*MUTATIONS[mutation](code))} == expected


def test_the_flow_leads_from_fit_to_score() -> None:
    (leak,) = leaks(CASES["minmax_all"][1])
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
    assert leaks(odd, CASES["minmax_all"][1])
