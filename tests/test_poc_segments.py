from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlops_nb.poc.metrics import METRICS, Answers
from mlops_nb.poc.segments import FEWEST_ROWS, MISSING, slices_of, weak_segments
from mlops_nb.poc.sims import ranked, right, valued


def table(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    levels = {f"c{i}": rng.choice(list("abcd")[: 2 + i % 3], rows) for i in range(6)}
    return pd.DataFrame(levels | {f"x{i}": rng.normal(size=rows) for i in range(4)})


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "roc_auc", "r2"])
def test_an_even_model_is_hardly_ever_named(metric: str) -> None:
    rng, named, audits, rows = np.random.default_rng(6), 0, 60, 500
    for _ in range(audits):
        a = {"accuracy": right(0.8, rows, rng), "roc_auc": ranked(0.8, rows // 4, rows - rows // 4, rng)}.get(metric)
        a = (a or valued(2.0, 3.0, rows, rng)).take(rng.permutation(rows))
        t = table(rows, rng)
        named += bool(weak_segments(METRICS[metric], a, t, t.columns).weak)
    assert named <= 0.05 * audits + 2 * np.sqrt(0.05 * 0.95 * audits)


def test_a_weak_pair_is_found_though_neither_half_is_declared() -> None:
    rng = np.random.default_rng(1)
    t = table(4000, rng)
    corner = ((t["c1"] == "a") & (t["c2"] == "b")).to_numpy()
    even, bad = right(0.9, 4000, rng), right(0.45, 4000, rng)
    assert even.label is not None
    assert bad.label is not None
    a = Answers("binary", even.truth, np.where(corner, np.where(bad.truth == bad.label, even.truth, 1 - even.truth), even.label), classes=even.classes)  # fmt: skip
    found = weak_segments(METRICS["accuracy"], a, t, t.columns).weak
    assert any({"c1=a", "c2=b"} <= set(s.name.split(" & ")) or s.name in ("c1=a", "c2=b") for s in found)
    assert all(s.apart.low > 0 for s in found)


def test_missing_values_are_a_slice_and_small_ones_are_not() -> None:
    t = pd.DataFrame({"x": [None] * 40 + [1.0] * 60, "rare": ["a"] * (FEWEST_ROWS - 1) + ["b"] * 71})
    assert [s.name for s in slices_of(t, t.columns)] == [f"x={MISSING}"]
