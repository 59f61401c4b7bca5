"""Answers as BFCL's own result files, so that its own evaluation can score them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolrefine.benchmarks.answers import Answer
from toolrefine.benchmarks.bfcl.data import PREFIX
from toolrefine.benchmarks.bfcl.summary import LIVE, MULTI_TURN
from toolrefine.benchmarks.bfcl.tasks import answer_text
from toolrefine.benchmarks.task import Mode
from toolrefine.types import Completion

STAND_INS: dict[Mode, str] = {"prompt": "gpt-4o-2024-11-20", "tools": "gpt-4o-2024-11-20-FC"}
"""Models in BFCL's own table whose answers are read as these files hold them."""

_TURN = re.compile(r"/turn-(\d+)/step-\d+$")


def export_results(
    answers: Iterable[Answer], folder: Path, mode: Mode, model: str | None = None, round_index: int = -1
) -> list[Path]:
    """Write one result file a category into folder/model and return their paths; older files are replaced.

    model is a name in BFCL's table of models, one of STAND_INS where there is none. round_index says which answer to
    take, 0 for the draft; where refinement ended before, the last. Of episodes it is always the one that was acted on.
    """
    rows = defaultdict(list)
    for answer in answers:
        rows[answer.category].append({"id": answer.task_id, "result": _result(answer, mode, round_index)})
    paths = []
    for category, found in rows.items():
        path = folder / (model or STAND_INS[mode]).replace("/", "_") / _group(category)
        path.mkdir(parents=True, exist_ok=True)
        path /= f"{PREFIX}_{category}_result.json"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in found), encoding="utf-8")
        paths.append(path)
    return paths


def _group(category: str) -> str:
    if category in MULTI_TURN:
        return "multi_turn"
    return "live" if category in LIVE else "non_live"


def _result(answer: Answer, mode: Mode, round_index: int) -> Any:
    """What BFCL's handlers leave of an answer; of an episode a list a turn, with an entry a step."""
    if answer.category not in MULTI_TURN:
        rounds = answer.steps[0].rounds
        return _output(rounds[-1] if round_index < 0 else rounds[min(round_index, len(rounds) - 1)], mode)
    turns = defaultdict(list)
    for step in answer.steps:
        if found := _TURN.search(step.prompt_id):
            turns[int(found[1])].append(_output(step.final, mode))
    return [turns[turn] for turn in sorted(turns)]


def _output(completion: Completion, mode: Mode) -> Any:
    if mode == "prompt":
        return answer_text(completion)
    return [{call.name: json.dumps(call.arguments)} for call in completion.calls] or completion.text
