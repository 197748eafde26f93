"""The statistical claims at full size: `make sims`, or `python -m tests.sims --seed 3 --scale 0.1`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlops_nb.value.sims import run_sims

TABLES = Path(__file__).resolve().parent.parent / "nbs" / "tables"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure every stated error rate and save the tables.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is full size")
    parser.add_argument("--out", type=Path, default=TABLES)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    claims = run_sims(given.out / "sims_value.json", given.seed, given.scale)
    for claim in claims:
        print(
            f"{'holds ' if claim.holds else 'BROKEN'} {claim.case}: {claim.rate:.1%} (bar {claim.low:.0%} to {claim.high:.0%})"
        )
    return 0 if all(c.holds for c in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
