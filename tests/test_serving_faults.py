"""Every fault of the list against the real server, and some once more with their guard taken out.

`python -m tests.serving_faults` takes out every guard and saves the table; `make soak` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving_faults import FAULTS, seen_without
from tests.serving_lab import Lab

pytestmark = pytest.mark.xdist_group("serving-faults")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as one:
        yield one


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * f.slow) for n, f in FAULTS.items()])
def test_the_server_lives_with(lab: Lab, name: str) -> None:
    FAULTS[name].run(lab)


GUARDS = [(n, g) for n, f in FAULTS.items() for g in f.guards]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # callers that a broken server left open
@pytest.mark.parametrize(("name", "guard"), GUARDS[::8])
def test_the_fault_is_noticed_when_its_guard_is_out(name: str, guard: str, tmp_path: Path) -> None:
    assert seen_without(FAULTS[name], guard, tmp_path)
