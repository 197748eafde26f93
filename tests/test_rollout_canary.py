"The controller and its evidence, on counts alone."

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_nb.core.errors import InputError
from mlops_nb.serving.canary import (
    ADVANCE,
    FINISH,
    HOLD,
    ROLL_BACK,
    Controller,
    RolloutPolicy,
    Seen,
    kept,
    load_rollout_policy,
    resumed,
)
from mlops_nb.serving.leader import seen_since
from mlops_nb.serving.routing import Arm, Routes, canary, choose, rolled_back, with_arms
from mlops_nb.stats.claims import run_topics
from mlops_nb.stats.eprocess import Bets, Pairing, both_marked, growth, pairs_needed
from mlops_nb.trial.canarysims import TOPICS

COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: (max(p), min(p)))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_what_is_marked_twice_is_possible(n: int, one: int, other: int, rng: random.Random) -> None:
    one, other = min(one, n), min(other, n)
    assert max(0, one + other - n) <= both_marked(rng, n, one, other) <= min(one, other)


def test_the_draw_is_hypergeometric() -> None:
    rng = random.Random(0)
    drawn = np.bincount([both_marked(rng, 12, 5, 7) for _ in range(20_000)], minlength=6)
    expected = stats.hypergeom(12, 5, 7).pmf(range(6)) * 20_000
    assert stats.chisquare(drawn[expected > 0], expected[expected > 0]).pvalue > 1e-3


@given(st.lists(st.tuples(COUNTS, COUNTS), max_size=30))
def test_pairs_never_exceed_what_there_was(looks: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    pairing, worse, better = Pairing(random.Random(0)), 0, 0
    for new, old in looks:
        w, b = pairing.see(new, old)
        assert w >= 0 <= b
        worse, better = worse + w, better + b
    assert worse <= sum(n[1] for n, _ in looks)
    assert better <= sum(o[1] for _, o in looks)
    assert pairing.pairs <= min(sum(n[0] for n, _ in looks), sum(o[0] for _, o in looks))


@given(st.floats(0.001, 0.9), st.floats(1.0, 3.0), st.lists(st.floats(0.0, 1.0), max_size=6))
def test_no_bet_gains_by_itself(p: float, margin: float, stakes: list[float]) -> None:
    "The expected capital after one discordant pair, at the edge of the claim, is the capital before it."
    null = margin / (1 + margin)
    worse, better = Bets(margin), Bets(margin)
    for bets in (worse, better):
        for amount in stakes:
            bets.stake(amount)
    worse.see(1, 0)
    better.see(0, 1)
    assert null * worse.capital + (1 - null) * better.capital == pytest.approx(1.0)
    inside = p * null
    assert inside * worse.capital + (1 - inside) * better.capital <= 1 + 1e-9


def test_growth_is_the_divergence_of_the_discordant_pairs() -> None:
    share = 0.06 * 0.99 / (0.06 * 0.99 + 0.01 * 0.94)
    per_pair = stats.entropy([share, 1 - share], [0.5, 0.5])
    assert growth(0.06, 0.01) == pytest.approx(per_pair * (0.06 * 0.99 + 0.01 * 0.94))
    assert growth(0.01, 0.01) == growth(0.011, 0.01, margin=1.25) == 0.0
    assert pairs_needed(0.01, 0.01, 100) is None


def looks(policy: RolloutPolicy, seconds: int, per_s: int = 40, new_bad: int = 0) -> list[str]:
    "What a controller says, second by second, to a steady rate without failures on the old side."
    controller, said = Controller(policy), []
    for second in range(seconds):
        old = (per_s, 0) if controller.share < 1 else (0, 0)
        said.append(controller.observe(second, {m: Seen(per_s, new_bad, *old) for m in controller.judges}).action)
        if said[-1] in (FINISH, ROLL_BACK):
            break
    return said


def test_each_step_is_held_as_long_as_it_must() -> None:
    said = looks(RolloutPolicy(hold_s=60), 1000)
    steps = [i for i, action in enumerate(said) if action != HOLD]
    assert [said[i] for i in steps] == [ADVANCE] * 4 + [FINISH]
    assert np.diff([0, *steps]).min() >= 60


def test_without_traffic_nothing_moves_and_the_verdict_says_what_is_missing() -> None:
    controller = Controller(RolloutPolicy(hold_s=0))
    for second in range(500):
        verdict = controller.observe(second, {m: Seen(0, 0, 0, 0) for m in controller.judges})
    assert (verdict.action, verdict.reason.key, verdict.wait_s) == (HOLD, "rollout.needs", None)
    first = verdict.needs
    for second in range(500, 505):
        verdict = controller.observe(second, {m: Seen(20, 0, 20, 0) for m in controller.judges})
    assert verdict.needs < first
    assert verdict.wait_s is not None
    assert verdict.wait_s > 0


def test_an_incident_on_both_sides_is_nobodys_fault() -> None:
    controller = Controller(RolloutPolicy(error_limit=0.9))
    for second in range(300):
        bad = 12 if 100 <= second < 160 else 0
        verdict = controller.observe(second, {"error": Seen(20, bad, 20, bad)})
        assert verdict.action != ROLL_BACK
    assert controller.evidence < 0.2


@pytest.mark.parametrize("metric", ["error", "degraded", "slow"])
def test_a_gross_fault_trips_at_once(metric: str) -> None:
    controller = Controller(RolloutPolicy())
    verdict = controller.observe(0.0, {metric: Seen(10, 9, 10, 0)})
    assert (verdict.action, verdict.reason.key, verdict.reason.args["metric"]) == (ROLL_BACK, "rollout.wire", metric)


def test_outcomes_count_when_they_come() -> None:
    policy = RolloutPolicy(auc_floor=0.7, kpi="revenue", outcome_pairs=40, hold_s=0)
    controller = Controller(policy, ("error", "ranking", "kpi"))
    for second in range(200):
        verdict = controller.observe(second, {"error": Seen(50, 0, 50, 0)})
    assert (verdict.action, verdict.reason.args["metric"]) == (HOLD, "ranking")
    for second in range(200, 300):
        verdict = controller.observe(second, {"ranking": Seen(2, 0, 2, 0), "kpi": Seen(4, 3, 4, 0)})
        if verdict.action == ROLL_BACK:
            break
    assert verdict.reason.args["metric"] == "kpi"


@given(st.integers(1, 60), st.integers(0, 2**31))
def test_a_leader_goes_on_where_another_stopped(seconds: int, seed: int) -> None:
    rng, controller = np.random.default_rng(seed), Controller(RolloutPolicy(hold_s=5), seed=3)
    for second in range(seconds):
        new, old = rng.integers(0, 30, 2).tolist()
        controller.observe(second, {m: Seen(new, int(new > 25), old, 0) for m in controller.judges})
    doc = json.loads(json.dumps(kept(controller, float(seconds))))
    again = resumed(controller.policy, doc, 1e6)
    told = kept(again, 1e6)
    assert told["metrics"] == doc["metrics"]
    assert (told["step"], told["minutes"]) == (doc["step"], doc["minutes"])
    assert (told["age_s"], told["held_s"]) == pytest.approx((doc["age_s"], doc["held_s"]))
    assert math.isclose(again.evidence, controller.evidence)


def test_counts_of_a_server_that_was_restarted_begin_anew() -> None:
    before = {
        f"{side}.{w}": 100.0 for side in ("new", "old") for w in ("requests", "error", "degraded", "slow", "high")
    }
    now = {k: 7.0 if k.endswith("requests") else 2.0 for k in before}
    assert seen_since(before, now)["error"] == Seen(7, 2, 7, 2)
    assert seen_since(before, before)["drift"] == Seen(0, 0, 0, 0)


@given(st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3), st.lists(st.integers(0, 10**9), max_size=30))
def test_shares_are_nested_and_add_up(shares: list[float], units: list[int]) -> None:
    base = Routes(1, "salt", (Arm("champion", "a", "a", 1.0),))
    arms = [Arm("challenger", f"c{i}", "b", s) for i, s in enumerate(shares)]
    routes = with_arms(base, *arms)
    assert sum(a.share for a in routes.arms) == pytest.approx(1.0)
    assert all(choose(routes, str(u)) in routes.arms for u in units)
    small, large = (canary(base, "n", "b", s) for s in (0.1, 0.4))
    for u in map(str, units):
        assert choose(small, u).side != "new" or choose(large, u).side == "new"
        assert choose(small, u).side != "old" or choose(large, u).side == "old"
    assert rolled_back(large).arms[0].version == "a"


def test_shares_that_do_not_fit_are_refused() -> None:
    base = Routes(1, "salt", (Arm("champion", "a", "a", 1.0),))
    with pytest.raises(InputError, match="from 0 to 1 in all"):
        with_arms(base, Arm("challenger", "b", "b", 0.7), Arm("challenger", "c", "c", 0.6))
    with pytest.raises(InputError, match="version a is the champion"):
        canary(base, "a", "a", 0.1)


def test_a_policy_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "rollout.toml"
    file.write_text("steps = [0.1, 1.0]\nhold_s = 60\n")
    assert load_rollout_policy(file).steps == (0.1, 1.0)
    file.write_text("margin = 0.5\n")
    with pytest.raises(InputError, match=r"rollout\.toml: 'margin' = 0\.5"):
        load_rollout_policy(file)


def test_the_claims_hold_at_a_small_size(tmp_path: Path) -> None:
    found = run_topics(TOPICS, tmp_path / "sims.json", seed=4, scale=0.012, names=("false", "delay"))
    assert [c.case for c in found if not c.holds] == []
