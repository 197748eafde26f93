"""From marked cells to a package: what moves, what is refused with its place, and what stays the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.refactor.extraction import refactor_notebook
from tests.conftest import BIN, Cli
from tests.test_refactor_source import notebook

BUILD = """#| export
def build_model(contract, seed):
    "The model."
    return Ridge(alpha=ALPHA, random_state=seed)"""
START = "import numpy as np\nfrom sklearn.linear_model import Lasso, Ridge\nALPHA = 0.5\ndata = [1, 2, 3]"


def refactored(tmp_path: Path, *cells: str) -> str:
    return refactor_notebook(notebook(tmp_path / "poc.ipynb", *cells), tmp_path / "src", "churn").module.read_text()


def test_only_what_is_needed_comes_along(tmp_path: Path) -> None:
    text = refactored(tmp_path, START, "print(data)", BUILD)
    assert "from sklearn.linear_model import Ridge\n" in text
    assert "ALPHA = 0.5" in text
    assert "data" not in text
    assert "numpy" not in text


def test_the_last_definition_counts(tmp_path: Path) -> None:
    text = refactored(tmp_path, START, BUILD.replace("Ridge(", "Lasso("), BUILD)
    assert "Lasso" not in text


def test_decorators_comments_and_needs_of_needs_move(tmp_path: Path) -> None:
    helpers = "import functools\n\ndef inner(x):\n    return x\n\n# Remembered: it is slow.\n@functools.cache\ndef outer(x):\n    return inner(x)"
    text = refactored(tmp_path, START, helpers, BUILD.replace("alpha=ALPHA", "alpha=outer(ALPHA)"))
    assert "# Remembered: it is slow.\n@functools.cache\ndef outer" in text
    assert text.index("def inner") < text.index("def outer")


def test_round_trip_gives_the_same_bytes(tmp_path: Path) -> None:
    first = refactored(tmp_path, START, BUILD)
    assert refactored(tmp_path, START, BUILD) == first
    again = [f"#| export\n{first}"]
    assert refactored(tmp_path, *again).splitlines()[1:] == first.splitlines()[1:]


def test_what_is_written_passes_ruff_and_runs_in_a_clean_process(tmp_path: Path) -> None:
    refactored(tmp_path, START, BUILD)
    subprocess.run(
        [BIN / "ruff", "check", "--isolated", "--select", "E,F,I,W", "--line-length", "120", tmp_path / "src"],
        check=True,
    )
    subprocess.run(
        [BIN / "ruff", "format", "--isolated", "--line-length", "120", "--check", tmp_path / "src"], check=True
    )
    code = "from churn.model import build_model; print(build_model(None, 3).random_state)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "src", capture_output=True, text=True, check=True
    )
    assert done.stdout == "3\n"


def test_its_own_test_is_collected_and_skips_without_a_workspace(tmp_path: Path) -> None:
    refactored(tmp_path, START, BUILD)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "churn/tests"]
    done = subprocess.run(command, cwd=tmp_path / "src", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 skipped" in done.stdout


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ((START,), "no model is fitted and asked: there is nothing to train or predict"),
        (
            (START, BUILD.replace("ALPHA", "data")),
            r"cell 2, line 4: 'data' is a variable of the notebook \(cell 1, line 4\)",
        ),
        ((START, BUILD.replace("ALPHA", "BETA")), r"cell 2, line 4: 'BETA' is never defined"),
        ((START, BUILD + "\nprint(1)"), "cell 2, line 5: a statement in an exported cell"),
        ((START, "#| export\nfrom numpy import *", BUILD), "cell 2, line 2: star import of 'numpy'"),
        ((START, "#| export\n%time x = 1\ny = = 2"), "cell 2, line 3: invalid syntax"),
        ((START, BUILD.replace("def build_model", "def build_model(")), "cell 2, line 2"),
    ],
)
def test_what_cannot_move_is_refused_with_its_place(tmp_path: Path, cells: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        refactored(tmp_path, *cells)
    assert not (tmp_path / "src").exists()


def test_a_name_that_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'my-model' cannot name a Python package"):
        refactor_notebook(notebook(tmp_path / "poc.ipynb", START, BUILD), tmp_path, "my-model")


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    file = notebook(tmp_path / "poc.ipynb", START, BUILD)
    assert cli("refactor", file, "--out", tmp_path / "src").returncode == 0
    assert (tmp_path / "src" / "poc" / "model.py").exists()
    refused = cli("refactor", notebook(tmp_path / "bad.ipynb", START), "--out", tmp_path / "src")
    assert refused.returncode == 2
    assert "nothing to train or predict" in refused.stderr
