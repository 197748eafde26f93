"A workspace that has been through data, poc, export and trial, made once for all tests that look at it."

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from mlops_nb.bundle.export import run_export
from mlops_nb.charter import freeze_file
from mlops_nb.core.workspace import Workspace
from mlops_nb.data.stage import run_data
from mlops_nb.lifecycle.scaffold import init_from_file
from mlops_nb.poc.runs import run_poc
from mlops_nb.trial.stage import run_trial
from tests.tables import TARGETS, write_csv


@functools.cache
def tried() -> Workspace:
    "Loans, to the end of the trial. Tests that change anything work on a `copy`."
    folder = Path(tempfile.mkdtemp(prefix="tried-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ws = init_from_file(folder / "loans", write_csv(folder, "loans"), TARGETS["loans"])
    run_data(ws)
    freeze_file(ws)
    run_poc(ws)
    run_export(ws)
    run_trial(ws)
    return ws


def copy(
    folder: Path,
) -> Workspace:  # Of the tried workspace
    "A workspace of one's own."
    shutil.copytree(tried().root, folder / "ws")
    return Workspace(folder / "ws")
