"The house rules that a machine can check: bands, cells, catalogues, templates, texts, imports of the server."

from __future__ import annotations

import ast
import configparser
import json
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polib
import pytest

from mlops_nb.core.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULE_NOTEBOOKS = [n for n in NOTEBOOKS if re.match(r"\d", n.name)]
TEMPLATES = sorted((ROOT / "reports").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return found


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def module_of(notebook: Path) -> str:
    return "mlops_nb." + notebook.stem.partition("_")[2]


def order() -> dict[str, str]:
    "Module to the prefix that orders it: 07b comes after 07."
    return {module_of(n): n.stem.partition("_")[0] for n in MODULE_NOTEBOOKS}


def own_imports(module: str) -> Iterator[str]:
    file = ROOT / (module.replace(".", "/") + ".py")
    package = module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base]) if base else ".".join(up)
            yield from (f"{base}.{a.name}" if f"{base}.{a.name}" in order() else base for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


@pytest.mark.parametrize("module", sorted(order()))
def test_imports_point_down(module: str) -> None:
    bands = order()
    up = [i for i in own_imports(module) if i in bands and bands[i] >= bands[module] and i != module]
    assert not up, f"{module} imports {up}, which stand in its own band's place or above it"


@pytest.mark.parametrize("module", sorted(m for m in order() if m.startswith("mlops_nb.serving.")))
def test_serving_pays_for_what_it_uses(module: str) -> None:
    heavy = (
        "mlflow",
        "pandas",
        "sklearn",
        "scipy",
        "statsmodels",
        "mlops_nb.poc",
        "mlops_nb.reporting",
        "pyarrow.dataset",
    )
    assert not [i for i in own_imports(module) if i.startswith(heavy)]


def test_every_generated_module_has_a_notebook() -> None:
    generated = {p for p in (ROOT / "mlops_nb").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")}
    assert generated == {ROOT / (m.replace(".", "/") + ".py") for m in order()}


@pytest.mark.parametrize("notebook", [*NOTEBOOKS, *TEMPLATES], ids=lambda n: n.name)
def test_cells_have_readable_ids_and_a_kernel(notebook: Path) -> None:
    doc = json.loads(notebook.read_text())
    ids = [c.get("id", "") for c in doc["cells"]]
    assert doc["metadata"]["kernelspec"]["name"] == "python3"
    assert len(ids) == len(set(ids))
    assert not [i for i in ids if not re.fullmatch(r"[a-z][a-z0-9-]{1,40}", i)]


@pytest.mark.parametrize("notebook", MODULE_NOTEBOOKS, ids=lambda n: n.name)
def test_a_notebook_opens_with_what_it_is_for(notebook: Path) -> None:
    first = source(cells(notebook)[0])
    assert re.match(r"# [a-z_.0-9]+\n\n> \S", first), first[:80]


@pytest.mark.parametrize("notebook", MODULE_NOTEBOOKS, ids=lambda n: n.name)
def test_exported_cells_can_be_held_in_the_head(notebook: Path) -> None:
    for cell in cells(notebook):
        text = source(cell)
        if not text.startswith("#| export"):
            continue
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) <= 60, f"{cell['id']} has {len(lines)} lines"
        assert "import *" not in text
        assert "@patch" not in text
        assert not re.search(r"^\s*(from|import) (nbdev|fastcore)", text, re.M)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda n: n.name)
def test_a_template_has_one_parameters_cell_and_defines_nothing(template: Path) -> None:
    tagged = [c for c in cells(template) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for cell in cells(template):
        if cell["cell_type"] == "code":
            defined = [
                n
                for n in ast.walk(ast.parse(source(cell)))
                if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda)
            ]
            assert not defined, cell["id"]


def test_nbdev_keeps_the_tag_that_papermill_needs() -> None:
    import tomllib

    doc = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "tags" in doc["tool"]["nbdev"]["allowed_cell_metadata_keys"]


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def catalogues(lang: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted((ROOT / "reports" / "messages" / lang).glob("*.po")):
        for entry in polib.pofile(str(file)):
            assert entry.msgid not in found, f"{entry.msgid} stands in two catalogues"
            found[entry.msgid] = entry.msgstr
    return found


def test_both_languages_are_complete_and_take_the_same_values() -> None:
    english, french = catalogues("en"), catalogues("fr")
    assert set(english) == set(french)
    for key, text in english.items():
        assert text, key
        assert french[key], key
        assert placeholders(text) == placeholders(french[key]), key


def test_every_message_key_in_the_code_has_a_text() -> None:
    known = catalogues("en")
    missing = {}
    for file in (ROOT / "mlops_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Message" and node.args:
                key = node.args[0]
                if isinstance(key, ast.Constant) and key.value not in known:
                    missing[key.value] = file.name
    assert not missing


def test_settings_file_holds_only_known_keys_in_every_profile() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini")
    assert set(parser.sections()) == {"dev", "test", "prod"}
    for profile in parser.sections():
        assert isinstance(load_settings(profile, ROOT / "settings.ini", environ={}), Settings)


def test_no_index_address_stands_in_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert all("==" in line for line in lock.splitlines() if line and not line.startswith("#"))


def test_packaged_folders_are_listed() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"mlops_nb." + p.parent.name for p in (ROOT / "mlops_nb").glob("*/__init__.py")}
    assert listed == found | {"mlops_nb", "mlops_nb.templates"}


def test_readme_is_what_the_index_notebook_says(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "markdown",
        "--output-dir",
        tmp_path,
        "--output",
        "README",
        ROOT / "nbs" / "index.ipynb",
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text(), "run 'make readme'"
