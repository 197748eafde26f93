"Notebooks that fail, hang, die or lie: each is one clear error, and no kernel is left behind."

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.files import read_json, write_json
from mlops_nb.poc.execution import execute_notebook


def notebook(folder: Path, *sources: str, parameters: str = "n = 1", tags: tuple[str, ...] = ("parameters",)) -> Path:
    blank: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [{**blank, "id": "values", "metadata": {"tags": list(tags)}, "source": parameters}]
    cells += [{**blank, "id": f"cell-{i}", "source": source} for i, source in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    doc = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return write_json(folder / "given.ipynb", doc)


def run(folder: Path, *sources: str, cell_timeout_s: int = 60, **parameters: Any) -> Path:
    given = notebook(folder, *sources)
    return execute_notebook(given, folder / "out.ipynb", parameters, cwd=folder, cell_timeout_s=cell_timeout_s)


def test_the_same_run_gives_the_same_bytes_and_names_no_place(tmp_path: Path) -> None:
    folder = tmp_path / "a {brace} é"
    folder.mkdir()
    first = run(folder, "object()", "n + 1", n=4).read_bytes()
    assert run(folder, "object()", "n + 1", n=4).read_bytes() == first
    assert str(tmp_path).encode() not in first
    assert read_json(folder / "out.ipynb")["cells"][-1]["outputs"][0]["data"]["text/plain"] == "5"


def test_a_kernel_that_dies_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"given\.ipynb: the kernel died"):
        run(tmp_path, "import os\nos._exit(9)", n=1)


def test_a_cell_that_hangs_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a cell took longer than it may"):
        run(tmp_path, "import time\ntime.sleep(60)", n=1, cell_timeout_s=2)


def test_the_failing_cell_is_named_and_its_copy_kept(tmp_path: Path) -> None:
    given = notebook(tmp_path, "1", "{}['missing']")
    out = tmp_path / "folder" / "out.ipynb"
    out.parent.mkdir()
    with pytest.raises(InputError, match=r"cell 'cell-1': KeyError: 'missing'; open .*kept\.ipynb"):
        execute_notebook(given, out, {"n": 1}, cwd=tmp_path, failed=tmp_path / "kept.ipynb")
    assert (tmp_path / "kept.ipynb").exists()


@pytest.mark.parametrize("tags", [(), ("parameter",)])
def test_without_the_tag_nothing_runs(tmp_path: Path, tags: tuple[str, ...]) -> None:
    given = notebook(tmp_path, "open('ran', 'w')", tags=tags)
    with pytest.raises(InputError, match="exactly one cell tagged 'parameters'"):
        execute_notebook(given, tmp_path / "out.ipynb", {"n": 2}, cwd=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the parameters cell does not set 'm'; add a line such as: m = 3"):
        run(tmp_path, "open('ran', 'w')", m=3)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_a_killed_run_leaves_no_kernel(tmp_path: Path) -> None:
    given = notebook(tmp_path, "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    code = (
        f"from mlops_nb.poc.execution import execute_notebook as e; e({str(given)!r}, 'out.ipynb', {{'n': 1}}, cwd='.')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    file, until = tmp_path / "pid", time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    kernel = psutil.Process(int(file.read_text()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    kernel.wait(timeout=10)
    assert not kernel.is_running()
