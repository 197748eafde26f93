"The tables that a newcomer would try first, written as they would come: CSV files."

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets

TASKS = {"breast_cancer": "binary", "wine": "multiclass", "diabetes": "regression", "loans": "binary"}
TARGETS = {"breast_cancer": "target", "wine": "target", "diabetes": "target", "loans": "defaulted"}


def loans(rows: int = 1500, seed: int = 7) -> pd.DataFrame:
    "Text categories, gaps and a date column; the target follows from three of them."
    rng = np.random.default_rng(seed)
    amount = np.round(rng.lognormal(8.5, 0.6, rows), 2)
    purpose = rng.choice(["car", "house", "études", "other"], rows, p=[0.4, 0.3, 0.2, 0.1])
    income = np.round(rng.lognormal(10.2, 0.4, rows), 0)
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 700, rows)), unit="D")
    logit = 2.2 * np.log(amount / income * 5) + np.where(purpose == "other", 1.0, 0.0) + rng.normal(0, 0.7, rows)
    frame = pd.DataFrame(
        {"applied_on": day.strftime("%Y-%m-%d"), "amount": amount, "income": income, "purpose": purpose}
    )
    frame["defaulted"] = np.where(rng.random(rows) < 1 / (1 + np.exp(-logit)), "yes", "no")
    frame.loc[rng.random(rows) < 0.04, "income"] = np.nan
    frame.loc[rng.random(rows) < 0.02, "purpose"] = None
    return frame


def frame_of(name: str) -> pd.DataFrame:
    "One of the four tables."
    if name == "loans":
        return loans()
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame: pd.DataFrame = bunch.frame
    return frame


def write_csv(folder: Path, name: str, *, shuffled: bool = False) -> Path:
    "The table as a CSV file; with `shuffled`, the target no longer belongs to the row."
    frame = frame_of(name)
    if shuffled:
        target = TARGETS[name]
        frame[target] = frame[target].sample(frac=1, random_state=11).to_numpy()
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    return path
