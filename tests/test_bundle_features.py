"""Derived columns: what may be in them, what may not, and that they look at one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlops_nb.bundle.features import check_features, extract_features, load_features, prove_features
from mlops_nb.bundle.format import load_bundle, write_bundle
from mlops_nb.bundle.parity import verify_bundle
from mlops_nb.core.errors import InputError, MlopsError, Refused
from tests.small_bundle import FILES, HEAD, SIGNATURE

GOOD = """
import math

import numpy as np

LIMIT = 3.0
NAMES = {"a": 1.0}


def score(value: float, name: str) -> float:
    for letter in name:
        if letter in NAMES and value > LIMIT:
            return NAMES[letter] * math.floor(value)
    return float("nan")


def derive_columns(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with np.errstate(divide="ignore"):
        logged = np.log(np.abs(columns["x"]))
    pairs = zip(columns["x"].tolist(), columns["name"].tolist())
    return {"logged": logged, "score": np.array([score(x, n) for x, n in pairs]), "upper": np.array([n.upper() for n in columns["name"].tolist()])}
"""


@given(
    x=hnp.arrays(np.float32, 7, elements=st.floats(width=32, allow_nan=True, allow_infinity=False)),
    names=st.lists(st.text(max_size=5), min_size=7, max_size=7),
)
def test_a_row_at_a_time(x: Any, names: list[str]) -> None:
    derive = load_features(GOOD.encode(), ["logged", "score", "upper"])
    columns = {"x": x, "name": np.array(names, dtype=object)}
    found = prove_features(derive, columns)
    assert [v.dtype.kind for v in found.values()] == ["f", "f", "O"]
    assert columns["x"].flags.writeable


ESCAPES = [
    "().__class__",
    "columns.__class__",
    "(c for c in columns).gi_frame.f_back.f_builtins",
    "getattr(np, 'load')",
    "vars()",
    "type(columns)",
    "'{0.__class__}'.format(columns)",
    "np.lib.npyio",
    "np.ctypeslib",
    "columns['x'].ctypes.data",
    "columns['x'].tofile('/tmp/x')",
    "columns['x'].dump('/tmp/x')",
    "np.random.default_rng(0)",
    "np.vectorize(open)('/etc/passwd')",
    "__import__('os').system('id')",
    "__builtins__",
    "exec('1')",
    "math.sys",
    "datetime.datetime.now()",
    "[x for x in columns if (y := 1)]",
    "(yield 1)",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_ways_out_are_refused_before_anything_runs(escape: str) -> None:
    with pytest.raises(Refused, match=r"features\.py, line \d+: .* is not allowed"):
        check_features(
            f"import math, datetime\nimport numpy as np\ndef derive_columns(columns):\n    return {escape}\n"
        )


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x = 1",
            "def other(c): return {}",
            "def derive_columns(): return {}",
            "def derive_columns(*c): return {}",
        ),
        *("import os", "from os import path", "from . import x", "from numpy import *", "import numpy.lib.npyio"),
        *("class A: pass", "print(1)", "async def f(): pass", "for i in []: pass", "derive_columns = 1", "\0", "def"),
        *("import functools\n@functools.cache\ndef derive_columns(columns):\n    return {}", "(" * 5000, "del x"),
    ],
)
def test_modules_that_are_none(text: str) -> None:
    with pytest.raises(Refused, match=r"features\.py"):
        load_features(text.encode())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[]", "returned list"),
        ("{'x': columns['x']}", "'x' is a column of the contract"),
        ("{'n': 3}", "'n' is int"),
        ("{'n': columns['x'][:1]}", r"'n' is shape \(1,\)"),
        ("{'n': columns['x'].reshape(-1, 1)}", r"'n' is shape \(2, 1\)"),
        ("{'n': np.array([None, None])}", "neither numbers nor texts"),
        ("{'n': columns['x'] * 1j}", "neither numbers nor texts"),
        ("{3: columns['x']}", "'3' is shape"),
    ],
)
def test_answers_that_are_no_columns(returned: str, message: str) -> None:
    derive = load_features(f"import numpy as np\ndef derive_columns(columns):\n    return {returned}\n".encode())
    with pytest.raises(InputError, match=message):
        derive({"x": np.array([1.0, 2.0], np.float32)})


def test_the_extracted_module_is_the_same_function() -> None:
    module = (
        GOOD + "\n\nfrom sklearn.linear_model import Ridge\n\n\ndef build_model(contract, seed):\n    return Ridge()\n"
    )
    made = extract_features(module)
    assert made is not None
    assert b"sklearn" not in made
    columns = {"x": np.array([4.5, np.nan], np.float32), "name": np.array(["a", "b"], dtype=object)}
    a, b = load_features(GOOD.encode())(columns), load_features(made)(columns)
    assert all(np.array_equal(a[n], b[n], equal_nan=a[n].dtype.kind == "f") for n in a)
    assert extract_features(module) == made


def test_a_bundle_whose_features_do_not_fit_its_graph(tmp_path: Any) -> None:
    "Code in a bundle is refused unless the graph takes exactly what it gives."
    code = b"def derive_columns(columns):\n    return {'twice': columns['age'] * 2}\n"
    made = load_bundle(write_bundle(tmp_path / "a", HEAD, {**FILES, "features.py": code}))
    with pytest.raises(MlopsError, match="'twice'"):
        verify_bundle(made.path)
    inputs = [*SIGNATURE.to_dict()["inputs"], {"name": "twice", "dtype": "float32", "width": 1}]
    head = {**HEAD, "signature": {**SIGNATURE.to_dict(), "inputs": inputs}}
    with pytest.raises(Refused, match=r"model\.onnx: its inputs are not those of the manifest"):
        load_bundle(write_bundle(tmp_path / "b", head, {**FILES, "features.py": code}))
