"Fixtures that several tests share."

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Tests measure what is right, not how fast a shared machine is today.
# Examples are the same in every run, so that what passes here passes elsewhere; `make explore` draws new ones.
settings.register_profile("shared", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "shared"))

# A trial at the charter's ten requests a second would take half a minute; sent faster, it judges more strictly.
os.environ.setdefault("MLOPS_NB_TRIAL_LOAD_S", "5")

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cli() -> Cli:
    "Run the real command line; the answer holds the exit code and both streams."

    def run(
        *arguments: object, cwd: Path | None = None, timeout_s: float = 300, **env: str
    ) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "mlops-nb"), *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    return run
