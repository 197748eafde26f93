"""The statistical claims at full size: `make sims`, or `python -m tests.sims --seed 3 --scale 0.1 --floors poc`."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from mlops_nb.core.processes import die_with_parent
from mlops_nb.monitoring.diagnosissims import TOPICS as DIAGNOSIS
from mlops_nb.monitoring.driftsims import TOPICS as DRIFT
from mlops_nb.monitoring.monitorsims import TOPICS as ALERTS
from mlops_nb.monitoring.sims import TOPICS as MONITORING
from mlops_nb.poc.beside_sims import TOPICS as BESIDE
from mlops_nb.poc.shortfall_sims import TOPICS as SHORTFALL
from mlops_nb.poc.sims import TOPICS as POC
from mlops_nb.reporting.sims import TOPICS as REPORTING
from mlops_nb.stats.claims import Claim, measure_topic, save_claims
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


LONGEST = ("drift", "monitoring")  # begun first, so that nobody waits for them alone


def measured(floor: str, topic: str, seed: int, scale: float) -> tuple[Claim, ...]:
    "One topic, in whatever process."
    return measure_topic(FLOORS[floor][topic], seed, scale)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure every stated error rate and save the tables.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is full size")
    parser.add_argument("--out", type=Path, default=TABLES)
    parser.add_argument("--floors", nargs="*", choices=FLOORS, default=list(FLOORS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # read by processes yet to begin
    order = sorted(given.floors, key=lambda floor: floor not in LONGEST)
    broken = 0
    with ProcessPoolExecutor(given.processes, get_context("spawn"), die_with_parent) as pool:
        topics = [(floor, topic) for floor in order for topic in FLOORS[floor]]
        begun = {t: pool.submit(measured, *t, given.seed, given.scale) for t in topics}
        for floor in given.floors:
            claims = [c for topic in FLOORS[floor] for c in begun[floor, topic].result()]
            save_claims(claims, given.out / f"sims_{floor}.json", given.seed, given.scale)
            broken += sum(told(floor, claim) for claim in claims)
    return 1 if broken else 0


def told(floor: str, claim: Claim) -> bool:
    "Print a claim; whether it is broken."
    word, bar = "holds " if claim.holds else "BROKEN", f"{claim.low:.0%} to {claim.high:.0%}"
    print(f"{word} {floor} {claim.topic}, {claim.case}: {claim.rate:.1%} (bar {bar})", flush=True)
    return not claim.holds


if __name__ == "__main__":
    sys.exit(main())
