"""How fast `mlops-nb drift` is beside evidently: part of `make bench`, or `python -m tests.bench_drift --quick`.

Every figure is that of a whole command in a process of its own, on one core, start of the interpreter included, beside its
processor time and its peak memory. evidently's DataDriftPreset gets the same two Parquet files. Nothing is asserted here: the
table is saved under nbs/tables and says which limits are met.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_nb.core.files import atomic_write, write_json

TABLES = Path(__file__).resolve().parent.parent / "nbs" / "tables"
EVIDENTLY = """
import os, sys, warnings
os.environ["DO_NOT_TRACK"] = "1"
warnings.simplefilter("ignore")
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
reference, current = (pd.read_parquet(f) for f in sys.argv[1:3])
Report([DataDriftPreset()]).run(current, reference).dict()
"""


@dataclass(frozen=True)
class Timed:
    "One command."

    what: str
    wall_s: float
    cpu_s: float
    peak_mib: float
    limit_s: float = 0.0
    limit_mib: float = 0.0

    @property
    def met(self) -> str:
        "Whether it stays within its limits."
        slow, large = self.limit_s and self.wall_s > self.limit_s, self.limit_mib and self.peak_mib > self.limit_mib
        return "–" if not self.limit_s and not self.limit_mib else "no" if slow or large else "yes"


def batch(rng: np.random.Generator, rows: int, columns: int) -> pa.Table:
    "Numbers of three shapes, whole numbers, and one column of levels in five."
    levels = pa.array([f"level {i}" for i in range(20)])
    made: dict[str, pa.Array] = {}
    for i in range(columns):
        z = rng.standard_normal(rows)
        made[f"x{i}"] = (
            pa.array(z),
            pa.array(np.exp(z).astype(np.float32)),
            pa.array(rng.poisson(40, rows)),
            pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 20, rows).astype(np.int32)), levels),
            pa.array(np.where(rng.random(rows) < 0.05, np.nan, z), from_pandas=True),
        )[i % 5]
    return pa.table(made)


def write(path: Path, seed: int, rows: int, columns: int, group: int = 1_000_000) -> Path:
    "A Parquet file, written by row group."
    rng = np.random.default_rng(seed)
    first = batch(rng, min(rows, group), columns)
    with pq.ParquetWriter(path, first.schema) as out:
        out.write_table(first)
        for start in range(group, rows, group):
            out.write_table(batch(rng, min(group, rows - start), columns))
    return path


def timed(what: str, command: list[str], limit_s: float = 0.0, limit_mib: float = 0.0, core: int = 0) -> Timed:
    "Run a command on one core and take its whole cost; raises when it fails."
    start = time.perf_counter()
    pid = os.posix_spawn(
        "/usr/bin/env",
        ["env", "taskset", "-c", str(core), *command],
        {**os.environ, "OMP_NUM_THREADS": "1"},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 3):
        raise RuntimeError(f"{what}: exit code {code}")
    found = Timed(what, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, limit_s, limit_mib)
    print(f"{what}: {wall:.2f} s, {found.cpu_s:.2f} s of processor, {found.peak_mib:.0f} MiB", flush=True)
    return found


def best(runs: int, again: Callable[[], Timed]) -> Timed:
    "The quickest of a few: a shared machine only ever adds."
    return min((again() for _ in range(runs)), key=lambda t: t.wall_s)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure drift on large files and save the table.")
    parser.add_argument("--quick", action="store_true", help="small files, to see that it works")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--long", type=int, default=100_000_000, help="rows of the file of five columns")
    parser.add_argument("--runs", type=int, default=3, help="the quickest counts")
    parser.add_argument("--out", type=Path, default=TABLES)
    parser.add_argument("--core", type=int, default=0)
    given = parser.parse_args()
    rows, long, given.runs = (20_000, 300_000, 1) if given.quick else (given.rows, given.long, given.runs)
    with tempfile.TemporaryDirectory() as d:
        found = [
            *wide(Path(d), rows, given),
            *beside_evidently(Path(d), rows, given),
            *tall(Path(d), rows, long, given),
        ]
    save(given.out, found, quick=given.quick)
    return 0


COMMAND = [sys.executable, "-m", "mlops_nb.cli.main"]


def drift(reference: Path, current: Path) -> list[str]:
    return [*COMMAND, "drift", "--reference", str(reference), "--current", str(current), "--json"]


def wide(here: Path, rows: int, given: argparse.Namespace) -> list[Timed]:
    "Fifty columns, against their limits."
    files = write(here / "reference.parquet", 1, rows, 50), write(here / "current.parquet", 2, rows, 50)
    profile, size = here / "profile", f"{rows:,} x 50"
    found = [timed(f"profile, {size}", [*COMMAND, "profile", str(files[0]), "--out", str(profile)], core=given.core)]
    stored, raw = f"drift, {size}, stored profile", f"drift, {size}, raw reference"
    found.append(best(given.runs, lambda: timed(stored, drift(profile, files[1]), 3, 1_536, given.core)))
    found.append(best(given.runs, lambda: timed(raw, drift(*files), 10, 0, given.core)))
    for file in files:
        file.unlink()
    return found


def beside_evidently(here: Path, rows: int, given: argparse.Namespace) -> list[Timed]:
    "Twenty-five columns: evidently and ours on the same two files, each on one core, one after the other."
    files = write(here / "a.parquet", 5, rows, 25), write(here / "b.parquet", 6, rows, 25)
    profile, size = here / "profile25", f"{rows:,} x 25"
    timed(f"profile, {size}", [*COMMAND, "profile", str(files[0]), "--out", str(profile)], core=given.core)
    stored, raw = OURS.format(size), f"drift, {size}, raw reference"
    found = [best(given.runs, lambda: timed(stored, drift(profile, files[1]), core=given.core))]
    found.append(best(given.runs, lambda: timed(raw, drift(*files), core=given.core)))
    theirs = [sys.executable, "-c", EVIDENTLY, *map(str, files)]
    found.append(timed(THEIRS.format(size), theirs, core=given.core))
    for file in files:
        file.unlink()
    return found


OURS, THEIRS = "drift, {}, stored profile, beside evidently", "evidently DataDriftPreset, {}"


def tall(here: Path, rows: int, long: int, given: argparse.Namespace) -> list[Timed]:
    "Five columns and very many rows, and a tenth of them: memory must not follow the rows."
    profile = here / "profile5"
    reference = write(here / "r.parquet", 4, rows, 5)
    timed(f"profile, {rows:,} x 5", [*COMMAND, "profile", str(reference), "--out", str(profile)], core=given.core)
    found = []
    for n in (long // 10, long):
        file = write(here / f"{n}.parquet", 3, n, 5)
        found.append(timed(f"drift, {n:,} x 5, stored profile", drift(profile, file), 0, 1_536, given.core))
        file.unlink()
    return found


def save(out: Path, found: list[Timed], *, quick: bool) -> None:
    "The table, as JSON and for a reader."
    ours, theirs = (next(t for t in found if word in t.what) for word in ("beside", "DataDriftPreset"))
    ratio, less = theirs.wall_s / ours.wall_s, theirs.cpu_s / ours.cpu_s
    doc = {"v": 1, "quick": quick, "times_faster_than_evidently": ratio, "times_less_processor": less}
    write_json(out / "bench_drift.json", doc | {"runs": [asdict(t) | {"met": t.met} for t in found]})
    lines = ["| command, one core | wall s | processor s | peak MiB | limit | met |", "|---|---|---|---|---|---|"]
    for t in found:
        limit = " and ".join([f"{t.limit_s:g} s"] * bool(t.limit_s) + [f"{t.limit_mib:g} MiB"] * bool(t.limit_mib))
        lines.append(f"| {t.what} | {t.wall_s:.2f} | {t.cpu_s:.2f} | {t.peak_mib:.0f} | {limit or '–'} | {t.met} |")
    told = (
        f"{ratio:.0f} times faster than evidently in the same run (bar: 30), with {less:.0f} times less processor time"
    )
    lines.append(f"\nAgainst a stored profile {told}.")
    atomic_write(out / "bench_drift.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
