"""The statistical claims at full size: `make sims`, or `python -m tests.sims --seed 3 --scale 0.1 --floors poc`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlops_nb.monitoring.diagnosissims import TOPICS as DIAGNOSIS
from mlops_nb.monitoring.driftsims import TOPICS as DRIFT
from mlops_nb.monitoring.monitorsims import TOPICS as ALERTS
from mlops_nb.monitoring.sims import TOPICS as MONITORING
from mlops_nb.poc.beside_sims import TOPICS as BESIDE
from mlops_nb.poc.shortfall_sims import TOPICS as SHORTFALL
from mlops_nb.poc.sims import TOPICS as POC
from mlops_nb.reporting.sims import TOPICS as REPORTING
from mlops_nb.stats.claims import run_topics
from mlops_nb.trial.canarysims import TOPICS as ROLLOUT
from mlops_nb.value.sims import TOPICS as VALUE

TABLES = Path(__file__).resolve().parent.parent / "nbs" / "tables"
FLOORS = {
    "alerts": ALERTS,
    "poc": POC,
    "beside": BESIDE,
    "shortfall": SHORTFALL,
    "diagnosis": DIAGNOSIS,
    "drift": DRIFT,
    "monitoring": {**MONITORING},
    "reporting": REPORTING,
    "rollout": ROLLOUT,
    "value": VALUE,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure every stated error rate and save the tables.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is full size")
    parser.add_argument("--out", type=Path, default=TABLES)
    parser.add_argument("--floors", nargs="*", choices=FLOORS, default=list(FLOORS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    broken = 0
    for floor in given.floors:
        for claim in run_topics(FLOORS[floor], given.out / f"sims_{floor}.json", given.seed, given.scale):
            word, bar = "holds " if claim.holds else "BROKEN", f"{claim.low:.0%} to {claim.high:.0%}"
            print(f"{word} {floor} {claim.topic}, {claim.case}: {claim.rate:.1%} (bar {bar})", flush=True)
            broken += not claim.holds
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
