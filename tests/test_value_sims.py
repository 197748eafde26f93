from __future__ import annotations

from pathlib import Path

import pytest

from mlops_nb.core.files import read_json
from mlops_nb.stats.claims import claim_table, run_topics
from mlops_nb.value.sims import TOPICS


def test_a_small_run_of_every_topic_saves_its_table(tmp_path: Path) -> None:
    claims = run_topics(TOPICS, tmp_path / "value.json", seed=8, scale=0.001)
    assert len(read_json(tmp_path / "value.json")["claims"]) == len(claims)
    assert {c.topic for c in claims} == {"roi", "false wins", "power", "coverage", "placebo", "sample ratio", "chain"}
    assert "NO" not in claim_table(c for c in claims if c.holds).html()


@pytest.mark.slow
@pytest.mark.parametrize("topic", [t for t in TOPICS if t != "prepost"])
def test_the_claims_hold_for_another_seed(tmp_path: Path, topic: str) -> None:
    claims = run_topics(TOPICS, tmp_path / "value.json", seed=77, scale=0.3, names=[topic])
    assert [c for c in claims if not c.holds] == []
