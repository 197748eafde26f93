from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_nb.cli.common import guarded
from mlops_nb.cli.main import app
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import write_json
from mlops_nb.core.messages import LANGUAGES
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.ledger import Entry, Ledger
from mlops_nb.reporting.portfolio import portfolio_page, read_portfolio
from mlops_nb.value.portfolio import Line, in_production, maturity, ranked, recoveries, retired_on, rhythm

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def entry(event: str, days_ago: float, subject: str = "x", **data: object) -> Entry:
    return Entry(1, 1, (NOW - timedelta(days=days_ago)).isoformat(), event, "a", subject, dict(data), "", "")


def line(name: str, net: float | None, half: float = 100.0) -> Line:
    low, high = (net - half, net + half) if net is not None else (None, None)
    return Line(name, "go", "keep", "", 0, "", "", "EUR", "measured", net, low, high)


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
        [entry("decision.made", 50), entry("drill.done", 50), entry("version.moved", 49, to="production")],
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


def test_poc_to_production_counts_production_and_only_those_whose_time_is_over() -> None:
    def book(moved: float, **data: object) -> list[Entry]:
        return [entry("charter.frozen", 400), entry("decision.made", 300), entry("version.moved", moved, **data)]

    reached, staged, tardy = book(250, to="production"), book(250, to="staging"), book(100, to="production")
    routed, young = book(250, champion="abc"), [entry("charter.frozen", 20), entry("decision.made", 10)]
    found = maturity([reached, staged, tardy, routed, young], NOW).served
    assert found is not None
    assert (found.value, found.n) == (0.5, 4)
    assert 0.1 < found.low < 0.5 < found.high < 0.9
    assert maturity([young], NOW).served is None
    assert [in_production(e) for e in (*staged, *routed)] == [False] * 5 + [True]


def test_time_to_recover_is_of_incidents_and_critical_alerts_and_open_ones_are_long() -> None:
    book = [
        entry("alert.opened", 9, "window-2"),  # of a rehearsal
        entry("alert.opened", 8, "a", severity="warning"),
        entry("alert.opened", 7, "b", severity="critical"),
        entry("alert.closed", 6.5, "b"),
        entry("alert.opened", 6, "b", severity="critical"),  # the same again
        entry("incident.opened", 3, "i"),
        entry("incident.closed", 1, "i"),
    ]
    assert recoveries(book)[::2] == pytest.approx([12, 48])
    found = maturity([book], NOW)
    assert (found.recovery_h, found.recoveries, found.open_now) == (pytest.approx(48), 3, 1)
    assert maturity([book[:5]], NOW).recovery_h is None  # half of them are open
    assert maturity([book[:2]], NOW).recoveries == 0


def test_a_retired_model_owes_nothing_and_is_not_ranked() -> None:
    book = [entry("decision.made", 400), entry("model.retired", 30)]
    assert (rhythm(book, NOW), retired_on(book)) == ((), "2026-06-01")
    assert retired_on([*book, entry("decision.made", 3)]) == ""


def space(root: Path, name: str, net: float, unit: str = "EUR") -> Workspace:
    ws = Workspace(root / name)
    ws.root.mkdir(parents=True)
    ws.charter_file.write_text("")
    facts = (Fact("roi.net_monthly", net, unit, net - 100, net + 100), Fact("roi.ratio", 1.5))
    write_evidence(ws, Evidence("value", facts, {"decision": "keep"}))
    write_evidence(ws, Evidence("monitor", (), {"windows": [{"state": "drift"}]}))
    write_json(ws.decision_file, {"decision": "conditional", "conditions": [{}, {}]})
    Ledger(ws.ledger_file).append("decision.made", name, {})
    return ws


@pytest.mark.parametrize("lang", LANGUAGES)
def test_page_terminal_and_json_say_the_same(tmp_path: Path, lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    spaces = {n: space(tmp_path, n, net) for n, net in (("poor", -500.0), ("good", 700.0), ("old", 900.0))}
    Ledger(spaces["old"].ledger_file).append("model.retired", "old", {})
    both = read_portfolio([tmp_path], datetime.now(UTC) + timedelta(days=40))
    told, html, plain = both.to_dict(), portfolio_page(both, tmp_path / "p.html", lang), both.text(lang)
    assert [m["name"] for m in told["models"]] == ["good", "poor", "old"]
    assert [bool(m["due"]) for m in told["models"]] == [True, True, False]
    good, old = told["models"][0], told["models"][2]
    assert (good["drift"], good["open_conditions"], good["chance"], old["next_review"]) == ("drift", 2, 1.0, "")
    for shown in (html, plain):
        assert good["next_review"] in shown
        assert {"en": "RETIRED", "fr": "RETIRÉ"}[lang] in shown
        assert not [k for k in ("portfolio.", "maturity.", "state.", "due.") if f" {k}" in shown or f">{k}" in shown]
    assert guarded(app, ["portfolio", str(tmp_path), "--lang", lang]) == 0
    assert "good" in capsys.readouterr().out


def test_what_cannot_be_ranked_or_read_is_said(tmp_path: Path) -> None:
    for n, unit in (("a", "EUR"), ("b", "USD")):
        space(tmp_path, n, 100.0, unit)
    (space(tmp_path, "c", 1.0).evidence / "value.json").write_text("{}")
    found = read_portfolio([tmp_path])
    assert found.unranked == "several currencies: EUR, USD"
    assert [r.line is None for r in found.rows] == [False, False, True]
    assert "not an evidence file" in found.text()
    assert found._repr_html_()
