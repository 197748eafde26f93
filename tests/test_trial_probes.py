from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_nb.bundle.format import load_bundle
from mlops_nb.poc.metrics import METRICS
from mlops_nb.trial.probes import Asked, asked, permuted, robustness, shapley
from tests.serving_bundle import expected, make_bundle


@pytest.fixture
def tried(tmp_path: Path) -> tuple[Asked, pd.DataFrame, np.ndarray]:
    "A logistic model in three inputs of four, and rows it is right about on average."
    model, rng, rows = asked(load_bundle(make_bundle(tmp_path, faults=False))), np.random.default_rng(2), 600
    table = pd.DataFrame(
        {
            "tenure": rng.integers(0, 60, rows),
            "charges": np.where(rng.random(rows) < 0.1, np.nan, rng.uniform(10, 120, rows).round(2)),
            "plan": rng.choice(["pro", "basic"], rows),
            "senior": rng.random(rows) < 0.2,
            "since": ["2024-05-01"] * rows,
        }
    )
    p = [expected({**r, "charges": None if r["charges"] != r["charges"] else r["charges"]}) for r in table.to_dict("records")]  # fmt: skip
    return model, table, (rng.random(rows) < np.array(p)).astype(np.int64)


def test_what_is_disturbed_costs_something_and_what_is_not_read_costs_nothing(
    tried: tuple[Asked, pd.DataFrame, np.ndarray],
) -> None:
    model, table, truth = tried
    lost = permuted(model, METRICS["roc_auc"], table, truth)
    assert next(iter(lost)) in ("tenure", "charges")
    assert lost["senior"].value == 0
    assert lost["tenure"].low > 0


def test_every_change_that_touches_something_is_reported(tried: tuple[Asked, pd.DataFrame, np.ndarray]) -> None:
    model, table, truth = tried
    found = {loss.change: loss for loss in robustness(model, METRICS["roc_auc"], table, truth)}
    assert {"noise", "missing", "swapped", "unseen", "outside"} == set(found)
    assert found["outside"].lost is not None or found["outside"].refused > 0


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning")  # of shap's import
def test_shap_ranks_inputs_as_the_weights_do(tried: tuple[Asked, pd.DataFrame, np.ndarray]) -> None:
    model, table, _ = tried
    found = shapley(model, table)
    assert found is not None
    assert set(list(found.importance)[:2]) == {"tenure", "charges"}
    assert found.importance["senior"] == pytest.approx(0, abs=1e-9)
    assert found.stability >= 0.9
