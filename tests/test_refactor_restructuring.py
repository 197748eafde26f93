"""Unmarked proofs of concept become modules that predict the same bytes, or are refused with the place."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.refactor.extraction import Refactored, refactor_notebook
from mlops_nb.refactor.source import read_source
from tests.conftest import BIN
from tests.refactor_cases import CSV, MOVED, REFUSED, Case, write_notebook

QUICK = {"cross_validation"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
NOTEBOOK = """
import json, sys
import numpy as np
space = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1])):
    exec(compile(cell, "cell", "exec"), space)
np.savez("notebook.npz", **{name: np.asarray(space[name]) for name in sys.argv[2:]})
"""
MODULE = """
import sys
import numpy as np
sys.path.insert(0, "src")
from poc.model import run
np.savez("module.npz", **{name: np.asarray(value) for name, value in run().items()})
"""


def run(code: str, folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def write_data(folder: Path) -> None:
    space: dict[str, Any] = {}
    exec(CSV, space)
    space["write"](folder / "customers.csv", 5)


def refactored(case: Case, folder: Path, **more: Any) -> Refactored:
    return refactor_notebook(write_notebook(case, folder), folder / "src", "poc", golden=False, **more)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[] if c.name in QUICK else [pytest.mark.slow]) for c in MOVED]
)
def test_the_module_predicts_the_notebooks_bytes(case: Case, tmp_path: Path) -> None:
    write_data(tmp_path)
    made = refactored(case, tmp_path)
    cells = [c.code for c in read_source(tmp_path / f"{case.name}.ipynb").code]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    run(NOTEBOOK, tmp_path, "cells.json", *made.predictions)
    run(MODULE, tmp_path)
    with (
        np.load(tmp_path / "notebook.npz", allow_pickle=True) as notebook,
        np.load(tmp_path / "module.npz", allow_pickle=True) as module,
    ):
        assert sorted(notebook) == sorted(module)
        for name in notebook:
            assert notebook[name].dtype == module[name].dtype
            assert notebook[name].shape == module[name].shape
            assert notebook[name].size > 0
            assert (
                notebook[name].tolist() == module[name].tolist()
                if notebook[name].dtype == object
                else notebook[name].tobytes() == module[name].tobytes()
            )


@pytest.mark.slow
def test_every_module_passes_ruff_and_mypy(tmp_path: Path) -> None:
    for case in MOVED:
        refactor_notebook(write_notebook(case, tmp_path), tmp_path / "src", case.name, golden=False)
    options = ["--isolated", "--no-cache", "--line-length", "120", str(tmp_path / "src")]
    for command in (["ruff", "check", *options], ["ruff", "format", "--check", *options]):
        done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    files = [str(tmp_path / "src" / c.name / "model.py") for c in MOVED]
    done = subprocess.run(
        [BIN / "mypy", "--ignore-missing-imports", "--config-file=", "--cache-dir", str(tmp_path / "cache"), "--explicit-package-bases", *files],
        cwd=tmp_path / "src", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_refactoring_again_changes_nothing(tmp_path: Path) -> None:
    check_stable(next(c for c in MOVED if c.name == "cross_validation"), tmp_path)


@pytest.mark.slow
def test_all_modules_are_stable(tmp_path: Path) -> None:
    for case in MOVED:
        (tmp_path / case.name).mkdir()
        check_stable(case, tmp_path / case.name)


def check_stable(case: Case, folder: Path) -> None:
    first = refactored(case, folder).module.read_bytes()
    assert refactored(case, folder).module.read_bytes() == first
    as_it_is = folder / "src" / "poc" / "model.py"
    assert refactor_notebook(as_it_is, folder / "again", "poc", golden=False).module.read_bytes() == first
    cells = folder / "cells.py"
    cells.write_text(first.decode().replace("\n\n\n", "\n\n\n# %%\n"))
    assert refactor_notebook(cells, folder / "cells", "poc", golden=False).module.read_bytes() == first


@pytest.mark.parametrize(("case", "message"), REFUSED, ids=lambda c: getattr(c, "name", ""))
def test_what_cannot_move_is_refused_with_its_place(case: Case, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        refactored(case, tmp_path)
    assert not (tmp_path / "src").exists()


@pytest.mark.slow
def test_golden_values_are_measured_and_hold(tmp_path: Path) -> None:
    write_data(tmp_path)
    case = next(c for c in MOVED if c.name == "papermill")
    made = refactor_notebook(write_notebook(case, tmp_path), tmp_path / "src", "poc")
    assert made.golden == "measured"
    golden = json.loads((made.test.parent / "golden.json").read_text())
    assert golden["predictions"]["y_hat"]["shape"] == [100]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(made.test)]
    assert "1 passed" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    made.module.write_text(made.module.read_text().replace("alpha: float = 0.7", "alpha: float = 0.71"))
    assert "1 failed" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_without_the_data_the_golden_test_says_so(tmp_path: Path) -> None:
    case = next(c for c in MOVED if c.name == "papermill")
    made = refactor_notebook(write_notebook(case, tmp_path), tmp_path / "src", "poc")
    assert "customers.csv" in made.golden
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(made.test)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 skipped" in done.stdout
    assert "customers.csv" in done.stdout


def test_a_person_may_choose_the_predictions(tmp_path: Path) -> None:
    case = next(c for c in MOVED if c.name == "ensemble")
    made = refactored(case, tmp_path, predictions="s2")
    assert "s2" in made.predictions
    assert "SVC" not in made.module.read_text()
    with pytest.raises(InputError, match=r"'sc' holds no predictions; choose one of: .*blend"):
        refactored(case, tmp_path, predictions="sc")


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    case = next(c for c in MOVED if c.name == "messy")
    notes = [str(n) for n in refactored(case, tmp_path).notes]
    assert "cell 3, line 1: left out: print(df.shape)" in notes
    assert "cell 2, line 3: changed: star import of 'numpy' names what is used" in notes
    assert any("magic '!pip install pandas'" in n for n in notes)


def test_a_secret_that_is_left_out_is_not_repeated(tmp_path: Path) -> None:
    case = next(c for c in MOVED if c.name == "messy")
    leaky = replace(case, cells=(*case.cells, "API_KEY = 'sk-proj-0123456789abcdefghij'\nretries = 3"))
    notes = [str(n) for n in refactored(leaky, tmp_path).notes]
    assert any("left out: API_KEY = '...'" in n for n in notes)
    assert not any("sk-proj" in n for n in notes)


@pytest.mark.slow
def test_what_draws_without_a_seed_is_not_pinned(tmp_path: Path) -> None:
    write_data(tmp_path)
    case = next(c for c in MOVED if c.name == "papermill")
    drawn = replace(case, cells=tuple(re.sub(r"random_state\s*=\s*\w+", "random_state=None", c) for c in case.cells))
    made = refactor_notebook(write_notebook(drawn, tmp_path), tmp_path / "src", "poc")
    assert "two runs predict differently; give a seed to" in made.golden
