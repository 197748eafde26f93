"""Notebooks and scripts of every kind become cells, or one clear refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError
from mlops_nb.refactor.source import code_cell, read_source, without_magics


def notebook(path: Path, *sources: str, **more: Any) -> Path:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "source": s, "metadata": {}, "outputs": []} for i, s in enumerate(sources)
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more}))
    return path


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_any_text_is_a_cell(text: str) -> None:
    cell = code_cell(1, text)
    assert (cell.tree is None) == (cell.error is not None)


@given(
    st.lists(
        st.sampled_from(["%time x", "!ls", "x = !ls", "x = 1", "    y = 2", "?x", "%%bash", "", "# %m"]), max_size=8
    )
)
def test_blanking_keeps_every_line_in_its_place(lines: list[str]) -> None:
    source = "\n".join(lines)
    assert len(without_magics(source)[0].splitlines()) <= len(source.splitlines())
    assert without_magics(source)[0].count("\n") == source.rstrip("\n").count("\n") or source.endswith("\n")


def test_worksheets_of_old_notebooks(tmp_path: Path) -> None:
    old = {
        "worksheets": [{"cells": [{"cell_type": "code", "input": ["x = 1\n", "y = 2"], "prompt_number": 3}]}],
        "nbformat": 3,
    }
    (tmp_path / "old.ipynb").write_text(json.dumps(old))
    (cell,) = read_source(tmp_path / "old.ipynb").cells
    assert (cell.source, cell.count) == ("x = 1\ny = 2", 3)


def test_a_byte_order_mark_is_no_syntax_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert read_source(tmp_path / "a.py").cells[0].tree is not None


def test_a_script_is_read_in_the_encoding_it_names(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("# -*- coding: latin-1 -*-\r\nx = 'é'\r\n".encode("latin-1"))
    (cell,) = read_source(tmp_path / "a.py").cells
    assert cell.source.splitlines()[1] == "x = 'é'"
    assert cell.tree is not None


def test_lines_of_a_script_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\n\n# %% load\nx = 1\n# %%\ny = 2\n")
    cells = read_source(tmp_path / "a.py").cells
    assert [(c.offset, c.source.strip()) for c in cells] == [(0, "import os"), (3, "x = 1"), (5, "y = 2")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.ipynb", b"", "not valid JSON"),
        ("a.ipynb", b'{"cells": 3}', "no list of cells"),
        ("a.ipynb", b'{"nbformat": 4, "cells": [', "not valid JSON"),
        ("a.ipynb", b"[" * 100_000, "not valid JSON"),
        ("a.py", b"\xff\xfe\x00", "cannot be read"),
        ("a.txt", b"x", "a '.txt' file"),
        ("a.py", b"# coding: nonsense\nx = 1\n", "unknown encoding"),
        ("a.ipynb", b'{"worksheets": 3}', "no list of cells"),
        ("a.ipynb", b'{"worksheets": [{"cells": 5}, 4]}', "no list of cells"),
        ("a.ipynb", b'{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}', "of the language R"),
        ("a.ipynb", b'{"cells": [], "metadata": {"language_info": {"name": "julia"}}}', "of the language julia"),
    ],
)
def test_what_is_no_notebook_is_refused_in_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_source(tmp_path / "none.ipynb")
    with pytest.raises(InputError, match="a folder"):
        read_source(tmp_path)
