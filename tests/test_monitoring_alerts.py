"Alerts over many windows: opened once, closed once, told as the cool-down allows, in the forms of their receivers."

from __future__ import annotations

import email.policy
import itertools
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES, Message, catalogue
from mlops_nb.monitoring.alerts import Alert, Board, Change, Seen, Symptom, is_on, next_board, symptoms_of
from mlops_nb.monitoring.channels import mail_bytes, pagerduty_body, slack_body, tell
from mlops_nb.monitoring.delivery import Outbox
from mlops_nb.monitoring.policy import Alerting, Channel, LookPlan, load_policy

START = datetime(2026, 1, 1, tzinfo=UTC)
DRIFT = Symptom("drift", "warning", (Message("alert.drift", {"columns": "price", "count": 1}),))
FAULT = Symptom("fault", "error", (), chance=False)


def seen(day: int, drift: bool | None, fault: bool = False) -> Seen:
    symptoms: dict[str, Symptom | None] = {"fault": FAULT if fault else None}
    if drift is not None:
        symptoms["drift"] = DRIFT if drift else None
    return Seen(f"d{day:03d}", START + timedelta(days=day + 1), symptoms)


def live(days: list[Seen], rule: Alerting, looks_a_day: int = 1, kept: int = 12) -> list[Change]:
    "Every look of many days, each over the newest windows."
    board, changes = Board(), []
    for i in range(1, len(days) + 1):
        for look in range(looks_a_day):
            at = days[i - 1].end + timedelta(hours=1 + look)
            board, found = next_board(board, days[max(0, i - kept) : i], rule, at)
            changes += found
    return changes


@pytest.mark.parametrize("seed", range(5))
def test_openings_and_closings_alternate_however_often_one_looks(seed: int) -> None:
    rng = random.Random(seed)
    days = [seen(d, rng.choice([None, False, False, True]), rng.random() < 0.05) for d in range(300)]
    rule = Alerting(windows=2, of=3, cooldown_hours=0)
    once, often = live(days, rule), live(days, rule, looks_a_day=7)
    assert [(c.what, c.alert.id) for c in once] == [(c.what, c.alert.id) for c in often]
    for subject in ("drift", "fault"):
        own = [c.what for c in once if c.alert.subject == subject]
        assert own[:2] == ["opened", "closed"]
        assert all(a != b for a, b in itertools.pairwise(own))
    assert len({c.alert.id for c in once if c.what == "opened"}) == sum(c.what == "opened" for c in once)


def test_each_opening_rests_on_windows_of_its_own() -> None:
    rng = random.Random(1)
    shown = [rng.random() < 0.3 for _ in range(2000)]
    opened = [
        c for c in live([seen(d, s) for d, s in enumerate(shown)], Alerting(windows=2, of=3)) if c.what == "opened"
    ]
    assert 50 < len(opened) <= sum(shown) / 2, "the bound that is printed"


def test_silence_neither_opens_nor_closes() -> None:
    rule = Alerting(windows=2, of=2)
    assert live([seen(0, True), *(seen(d, None) for d in range(1, 9))], rule) == []
    changes = live([seen(0, True), seen(1, True), *(seen(d, None) for d in range(2, 30))], rule)
    assert [c.what for c in changes] == ["opened"], "still open when its windows are gone"


def test_a_flapping_alert_is_told_once_a_cool_down() -> None:
    days = [seen(d, False, fault=d % 2 == 0) for d in range(40)]
    changes = live(days, Alerting(cooldown_hours=24 * 10))
    told = [c for c in changes if c.told and c.what != "closed"]
    assert sum(c.what == "opened" for c in changes) == 20
    assert len(told) == 4


def test_a_lost_board_finds_the_same_alerts() -> None:
    rule, days = Alerting(), [seen(0, False), seen(1, True), seen(2, True)]
    board, _ = next_board(Board(), days, rule, START + timedelta(days=4))
    again, changes = next_board(Board(), days, rule, START + timedelta(days=4))
    assert (board, [c.what for c in changes]) == (again, ["opened"])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [([], False), ([True], False), ([True, False, True], True), ([True] * 3 + [False] * 2, False)],
)
def test_two_of_three(shown: list[bool], expected: bool) -> None:
    assert is_on(shown, 2, 3)[0] is expected


def doc(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "w",
        "rows": 500,
        "drift": {"verdict": "stable", "drifted": []},
        "diagnosis": [],
        "facts": [{"id": "window.refused/w", "value": 0.0, "low": 0.0, "threshold": None, "state": ""}],
        "layers": {"model": {"promise": "go"}, "business": {}},
    }
    return base | changes


def test_what_each_window_can_tell() -> None:
    clean = symptoms_of(doc(), 0.05)
    assert {k for k, v in clean.items() if v is None} == {"volume", "refused", "fault", "drift", "promise"}
    few = symptoms_of(doc(drift={"verdict": "inconclusive", "drifted": []}), 0.05)
    assert "drift" not in few, "too few rows do not close an alert"
    broken = {"id": "window.roc_auc/w", "value": 0.6, "low": 0.55, "high": 0.65, "threshold": 0.8, "state": "no-go"}
    bad = symptoms_of(doc(facts=[broken], layers={"model": {"promise": "no-go"}, "business": {}}), 0.05)
    assert bad["promise"] is not None
    assert "0.6" in bad["promise"].reasons[0].text()
    refused = [{"id": "window.refused/w", "value": 0.3, "low": 0.2, "threshold": None, "state": ""}]
    gone = symptoms_of(doc(facts=refused), 0.05)["refused"]
    assert gone is not None
    assert not gone.chance
    kpis = [{"name": "revenue", "state": "out-of-control", "value": 1.0, "low": 2.0, "high": 3.0}]
    assert (
        symptoms_of(doc(layers={"model": {"promise": "go"}, "business": {"kpis": kpis}}), 0.05)["kpi.revenue"]
        is not None
    )
    assert symptoms_of(doc(rows=0, others=7), 0.05) == {}, "another version answered"


def alert(subject: str = "drift", reason: str = "price") -> Alert:
    why = (Message("alert.drift", {"columns": reason, "count": 1}),)
    return Alert(f"{subject}@d1", subject, "critical", "d1", START.isoformat(), why, START.isoformat(), "a" * 64)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("subject", ["drift", "promise", "fault", "refused", "volume", "silent", "kpi.revenue"])
def test_every_alert_has_words(lang: str, subject: str) -> None:
    assert not alert(subject).title(lang).startswith("alert.")
    assert "{" not in alert(subject).title(lang)


def test_pagerduty_takes_the_event() -> None:
    long = Change("opened", alert(reason="x" * 5000), True)
    body = pagerduty_body(long, "churn")
    assert set(body) == {"dedup_key", "client", "event_action", "payload"}
    assert len(body["dedup_key"]) <= 255
    assert len(body["payload"]["summary"]) <= 1024
    assert {"summary", "source", "severity"} <= set(body["payload"]), "what the API requires"
    assert body["payload"]["severity"] in ("critical", "error", "warning", "info")
    closed = pagerduty_body(Change("closed", alert(), True), "churn")
    assert (closed["event_action"], closed["dedup_key"]) == ("resolve", body["dedup_key"])


def test_slack_takes_the_message() -> None:
    body = slack_body(Change("opened", alert(reason="<!channel> & " + "y" * 5000), True), "churn")
    assert "<!channel>" not in json.dumps(body), "a column's name rings no bell"
    assert all(b["type"] == "section" and len(b["text"]["text"]) <= 3000 for b in body["blocks"])


def test_a_mail_cannot_be_given_headers() -> None:
    channel = Channel(kind="email", to="a@example.org, b@example.org")
    raw = mail_bytes(Change("opened", alert(), True), "churn\nBcc: evil@example.org", channel, START)
    said = email.message_from_bytes(raw, policy=email.policy.default)
    assert said["Bcc"] is None
    assert "price" in said.get_content()
    assert said["X-Priority"] == "1"


def test_telling_twice_is_telling_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    channels = [Channel(kind="webhook", url="http://127.0.0.1:9/"), Channel(kind="email", to="a@example.org")]
    for _ in range(2):
        tell([Change("opened", alert(), True)], channels, "m", tmp_path, outbox, START)
    assert len(outbox.waiting()) == 1
    assert len(list((tmp_path / "state" / "mail").iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[look]\nevery = "fortnight"', "every"),
        ("[look]\nwindow = 3", "unknown key 'look.window'; did you mean 'windows'"),
        ("[alert]\nwindows = 5\nof = 3", "5 windows of 3 can never be"),
        ('[[alert.channel]]\nkind = "slack"\nurl = "hooks.slack.com/x"', "url"),
        ('[[alert.channel]]\nkind = "email"', "needs 'to'"),
        (
            '[[kpi]]\nname = "revenue"\nkind = "revenue"\n[[kpi]]\nname = "revenue"\nkind = "x"',
            "two indicators have the same name",
        ),
        ("[retrain]\nrows = 3", "rows"),
    ],
)
def test_a_policy_that_cannot_be_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as e:
        load_policy(file)
    assert len(str(e.value).splitlines()) == 1


def test_the_defaults_wake_nobody_and_retrain_nothing(tmp_path: Path) -> None:
    policy = load_policy(tmp_path / "none.toml")
    assert (policy.alert.channel, policy.retrain.when, policy.look) == ((), "never", LookPlan())


def test_the_catalogues_have_every_key() -> None:
    for lang in LANGUAGES:
        keys = {k for k in catalogue(lang) if k.startswith(("alert.", "look.", "retrain."))}
        assert len(keys) > 40, lang
