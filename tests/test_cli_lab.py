"What a command prints is in the reader's language, whole, and says where help is."

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from typer.main import get_command

from mlops_nb.cli.common import guarded
from mlops_nb.cli.lab import language, show_facts
from mlops_nb.cli.main import app
from mlops_nb.core.errors import InputError
from tests.reporting_workspace import full_workspace


def test_facts_are_printed_as_on_the_page_and_in_the_language_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ws = full_workspace(tmp_path / "ws")
    show_facts(ws, "value", False)
    english = capsys.readouterr().out
    assert "Net value a month: €" in english
    assert " [" in english
    assert " to €" in english
    show_facts(ws, "value", False, "fr")
    french = capsys.readouterr().out
    assert "Valeur nette mensuelle\u00a0: " in french
    assert len(french.splitlines()) == len(english.splitlines())
    assert language(ws) == "en"
    with pytest.raises(InputError, match="unknown language 'de'"):
        language(ws, "de")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rollout", "canary"], "; see 'mlops-nb rollout canary --help'"),
        (["run"], "; see 'mlops-nb run --help'"),
        (["report", "audti"], "; see 'mlops-nb report --help'"),
        (["gate", "churn", "--lang", "de"], "--lang: unknown language 'de'; use en or fr"),
    ],
)
def test_bad_usage_names_the_command_to_ask(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["mlops-nb"])
    assert guarded(app, arguments) == 2
    assert says in capsys.readouterr().err


def commands(group: object, path: str = "") -> dict[str, str]:
    "Every command by its path, with its help as written."
    found: dict[str, str] = {}
    for name, command in getattr(group, "commands", {}).items():
        found |= commands(command, f"{path} {name}".strip()) or {f"{path} {name}".strip(): command.help or ""}
    return found


@pytest.mark.parametrize(("path", "text"), commands(get_command(app)).items())
def test_help_has_an_example_of_its_own_command_and_loses_nothing_to_markup(path: str, text: str) -> None:
    examples = [line for line in inspect.cleandoc(text).splitlines() if line.startswith("Example: ")]
    assert examples, "no line that begins with an example"
    assert all(line.startswith(f"Example: mlops-nb {path} ") for line in examples)
    assert "[" not in text, "rich takes it for markup"
