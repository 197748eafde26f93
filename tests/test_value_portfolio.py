from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES
from mlops_nb.ledger import Entry
from mlops_nb.value.portfolio import Line, maturity, portfolio_tables, ranked, rhythm, scorecard

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def entry(event: str, days_ago: float, subject: str = "x", **data: object) -> Entry:
    return Entry(1, 1, (NOW - timedelta(days=days_ago)).isoformat(), event, "a", subject, dict(data), "", "")


def line(name: str, net: float | None, half: float = 100.0) -> Line:
    low, high = (net - half, net + half) if net is not None else (None, None)
    return Line(name, "go", "keep", "EUR", "measured", net, low, high, None, "", 0, "")


def test_a_model_without_interval_stays_last() -> None:
    order = ranked([line("unknown", None), line("poor", -50), line("good", 500)])
    assert [x.name for x in order] == ["good", "poor", "unknown"]
    assert order[-1].chance is None
    assert ranked([line("unknown", None)])[0].name == "unknown"


def test_uncertainty_pulls_the_chance_to_one_half() -> None:
    chances = {x.name: x.chance or 0 for x in ranked([line("a", 100, 5000), line("b", 0, 5000)])}
    assert chances["a"] == pytest.approx(0.5, abs=0.05)
    assert {x.name: x.chance for x in ranked([line("a", 100, 5), line("b", 0, 5)])} == {"a": 1.0, "b": 0.0}


def test_the_rhythm() -> None:
    assert rhythm([entry("charter.frozen", 90)], NOW) == ()
    book = [
        entry("decision.made", 90),
        entry("report.published", 6, kind="drift"),
        entry("roi.decided", 85),
        entry("drill.done", 90),
    ]
    states = {d.kind: d.state for d in rhythm(book, NOW)}
    assert states == {"drift": "due", "roi": "due", "drill": "on-time", "audit": "late"}


def test_maturity_climbs_step_by_step() -> None:
    book: list[Entry] = []
    levels = [maturity([book], NOW).level]
    for more in (
        [entry("charter.frozen", 60)],
        [entry("decision.made", 50), entry("drill.done", 50), entry("version.moved", 49)],
        [entry("report.published", 2, kind="drift")],
        [entry("report.published", 3, kind="audit"), entry("roi.decided", 3)],
    ):
        book = book + more
        levels.append(maturity([book], NOW).level)
    assert levels == [1, 2, 3, 4, 5]
    broken = [*book, entry("incident.opened", 4, "i")]
    assert maturity([broken], NOW).level == 3
    slow = [*broken, entry("incident.closed", 1, "i")]
    assert maturity([slow], NOW).level == 4
    assert maturity([slow], NOW).recovery_h == pytest.approx(72)
    assert maturity([], NOW).level == 1


def test_folders_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no workspace"):
        scorecard([])
    with pytest.raises(InputError, match=r"no charter\.toml"):
        scorecard([tmp_path])
    for parent in "ab":
        (tmp_path / parent / "same").mkdir(parents=True)
        (tmp_path / parent / "same" / "charter.toml").write_text("")
    with pytest.raises(InputError, match="the same name twice: same"):
        scorecard([tmp_path / "a" / "same", tmp_path / "b" / "same"])
    empty = scorecard([tmp_path / "a" / "same"])
    assert empty.lines[0].value_decision == "not-assessed"
    for lang in LANGUAGES:
        assert "portfolio." not in "".join(t.html() for t in portfolio_tables(empty, lang))
