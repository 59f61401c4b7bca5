"""The terminal view."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path

import pytest
from fake_run import build_run
from rich.console import Console

from toolrefine.errors import RequestError
from toolrefine.formats import get_format
from toolrefine.show import describe, plain, print_table, print_transcripts, signature
from toolrefine.summary import summarize
from toolrefine.types import Message, Tool, ToolCall


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("show") / "run", size=40)


def screen(width: int = 140) -> Console:
    return Console(record=True, width=width, highlight=False, file=StringIO())


def test_the_table_holds_every_arm_and_iteration(run: Path) -> None:
    console = screen()
    summary = summarize(run)
    print_table(summary, console)
    shown = console.export_text()
    assert all(arm.name in shown for arm in summary.arms)
    assert "40 samples" in shown and "wrong labels" in shown
    assert f"{100 * summary.arms[-1].accuracy.accuracy:.1f}" in shown


def test_an_empty_run_shows_without_error(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", num_iterations=1, evaluations=())
    shutil.rmtree(run / "iterations")
    console = screen()
    print_table(summarize(run), console)


def test_transcripts_of_a_sample(run: Path) -> None:
    sample_id = (run / "iterations/001/rollouts.jsonl").read_text().split('"')[3]
    console = screen()
    print_transcripts(run, 1, console, sample_id=sample_id)
    shown = console.export_text()
    assert shown.count("completion") == 8 and "target" in shown and sample_id in shown


def test_the_base_has_held_out_transcripts(run: Path) -> None:
    console = screen()
    print_transcripts(run, 0, console, limit=2)
    assert console.export_text().count("stopped:") == 2


def test_what_is_not_there_is_an_error(run: Path) -> None:
    with pytest.raises(RequestError, match="of sample nobody"):
        print_transcripts(run, 1, screen(), sample_id="nobody")
    with pytest.raises(RequestError, match="nothing to show"):
        print_transcripts(run, 9, screen())


def test_what_a_model_wrote_cannot_steer_the_terminal() -> None:
    console = screen()
    console.print(plain("\x1b]0;owned\x07\x9b31m [bold]x[/bold] [/]\u00e9\u00a0\n\ttab \ud800"))
    shown = console.export_text()
    assert "[bold]x[/bold] [/]\u00e9" in shown
    assert not {"\x1b", "\x07", "\x9b", "\ud800"} & set(shown)


def test_turns_and_signatures_never_fail() -> None:
    call = ToolCall(name="a b=(", arguments={"x y": [None]})
    assert "a b=(" in describe(Message(role="assistant", tool_calls=(call,)))
    call = ToolCall(name="f", arguments={"x": 1})
    assert describe(Message(role="assistant", tool_calls=(call,))) == get_format("pythonic").render([call])
    assert signature(Tool(name="f", parameters={"properties": {"a": {}, "b": {}}})) == "f(a, b)"
    assert signature(Tool(name="f", parameters={"properties": None})) == "f()"
