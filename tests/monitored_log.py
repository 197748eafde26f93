"""A production log without a server: days of customers, their answers and what came true, as the server's parts have them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mlops_nb.bundle.format import Bundle
from mlops_nb.charter import Performance
from mlops_nb.monitoring.performance import with_answers
from mlops_nb.monitoring.policy import Policy
from mlops_nb.monitoring.scene import Backdrop
from mlops_nb.monitoring.stage import Setting
from mlops_nb.serving.parts import write_part
from mlops_nb.serving.predictor import Predictor
from mlops_nb.stats.profiles import Profile, build_profile
from tests.small_bundle import CONTRACT, small_bundle

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
STAMP = pa.timestamp("us", "UTC")


def draw(rng: np.random.Generator, n: int, factor: float = 1.0) -> dict[str, Any]:
    "Inputs, the model's score and what came true; the model ranks well."
    age = np.minimum(np.round(rng.gamma(3, 8, n) * factor), 99)
    plan = rng.choice(np.array(["a", "b"], object), n, p=[0.6, 0.4])
    since = [date(2020, 1, 1) + timedelta(days=int(d)) for d in rng.integers(0, 1500, n)]
    paperless = rng.choice(np.array(["true", "false"], object), n)
    score = 1 / (1 + np.exp(-0.1 * age))
    truth = np.where(rng.random(n) < 1 / (1 + np.exp(-0.15 * (age / factor - 22))), "Yes", "No")
    return {"age": age, "plan": plan, "since": since, "paperless": paperless, "score": score, "truth": truth}


@functools.cache
def bundle() -> Bundle:
    "The bundle behind the log, with a profile of what it was accepted on."
    folder = Path(tempfile.mkdtemp(prefix="monitored-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    drawn = draw(np.random.default_rng(99), 5000)
    inputs = {"age": drawn["age"].astype("f4"), "plan": drawn["plan"], "paperless": drawn["paperless"]}
    inputs["since"] = np.array(drawn["since"], "datetime64[D]").astype(np.int64)
    build_profile({c.name: inputs[c.name] for c in CONTRACT.columns}, CONTRACT).save(folder / "profile")
    files = {f"profile/{p.name}": p.read_bytes() for p in sorted((folder / "profile").iterdir())}
    return small_bundle(folder / "bundles", files)


def setting(policy: Policy | None = None, threshold: float = 0.7) -> Setting:
    "What the days are judged by."
    score = draw(np.random.default_rng(99), 5000)["score"]
    held_out = pa.table({"label": ["No"] * 5000, "p.No": 1 - score, "p.Yes": score})
    made = bundle()
    assert made.profile_path is not None
    reference = with_answers(Profile.load(made.profile_path), held_out, CONTRACT.target)
    promise = Performance(metric="roc_auc", threshold=threshold)
    return Setting(made, reference, policy or Policy(), promise, Backdrop(Predictor(made), None))


def log_table(drawn: dict[str, Any], day: datetime, *, version: str = "", arm: str = "champion") -> pa.Table:
    "One day of the log."
    n, version = len(drawn["score"]), version or bundle().version
    ids = [f"{arm}-{version}-{day:%Y%m%d%H}-{i}" for i in range(n)]
    times = [day + timedelta(seconds=i * 80000 / n) for i in range(n)]
    texts = {
        "model": "m",
        "version": version,
        "arm": arm,
        "level": "primary",
        "status": "ok",
        "reason": "",
        "basis": "measured",
    }
    return pa.table(
        {
            "prediction_id": ids,
            "request_id": ids,
            "unit_id": pa.nulls(n, pa.string()),
            "time": pa.array(times, STAMP),
            **{k: pa.repeat(pa.scalar(v), n) for k, v in texts.items()},
            "in.age": pa.array(drawn["age"], pa.float32(), from_pandas=True),
            "in.plan": pa.array(drawn["plan"].tolist(), pa.string()),
            "in.since": pa.array(drawn["since"], pa.date32()),
            "in.paperless": pa.array(drawn["paperless"].tolist(), pa.string()),
            "probability": drawn["score"],
            "p.No": 1 - drawn["score"],
            "p.Yes": drawn["score"],
            "label": ["Yes"] * n,
            "value": pa.nulls(n, pa.float64()),
            "threshold": pa.array([0.4] * n),
            "flags": pa.array([[]] * n, pa.list_(pa.string())),
        }
    )


def leaving_out(log: pa.Table, name: str) -> pa.Table:
    "The log of a server that was told not to write a column."
    place, n = log.column_names.index(f"in.{name}"), log.num_rows
    hidden = log.set_column(place, f"in.{name}", pa.nulls(n, log.schema.field(place).type))
    return hidden.append_column("withheld", pa.array([[name]] * n, pa.list_(pa.string())))


def outcomes_table(ids: Iterable[str], values: Iterable[Any], at: datetime, kind: str = "label") -> pa.Table:
    "Outcomes, all received at one moment."
    ids, values = list(ids), list(values)
    n, numbers = len(ids), kind != "label"
    return pa.table(
        {
            "prediction_id": pa.array(ids, pa.string()),
            "unit_id": pa.nulls(n, pa.string()),
            "time": pa.array([at] * n, STAMP),
            "kind": [kind] * n,
            "value": [str(v) for v in values],
            "number": pa.array(values if numbers else [None] * n, pa.float64()),
            "currency": pa.nulls(n, pa.string()),
            "basis": ["measured"] * n,
            "received": pa.array([at] * n, STAMP),
        }
    )


def write(folder: Path, kind: str, table: pa.Table, day: datetime, name: str = "0-000000") -> Path:
    "A sealed part."
    return write_part(folder / kind / f"day={day:%Y-%m-%d}" / f"part-{name}.parquet", table)


def write_day(
    folder: Path, day: int, n: int = 300, *, seed: int = 0, factor: float = 1.0, wrong: float = 0.0, told: float = 1.0
) -> pa.Table:
    "A day of production: its records, and on the next day the outcomes of a share of them."
    rng, at = np.random.default_rng([seed, day]), START + timedelta(days=day)
    drawn = draw(rng, n, factor)
    table = log_table(drawn, at)
    write(folder, "predictions", table, at)
    truth = np.where(rng.random(n) < wrong, np.where(drawn["truth"] == "Yes", "No", "Yes"), drawn["truth"])
    known = np.flatnonzero(rng.random(n) < told)
    if len(known):
        ids = [table["prediction_id"][i].as_py() for i in known]
        later = at + timedelta(days=1, hours=1)
        write(folder, "outcomes", outcomes_table(ids, truth[known].tolist(), later), later)
    return table
