"""Score result files with BFCL's own, untouched evaluation and print what it says as one JSON object.

    BFCL/bin/python tests/benchmarks/bfcl_score.py RESULTS SCORES [tools]

BFCL is an environment as in bfcl_official.py; RESULTS is what export_results has written, SCORES an empty folder.
Models whose names end in FC have called tools; with the last word, all have. The client libraries of model vendors,
which the evaluation imports and never uses, have stand-ins. Per model: accuracy and the error types of wrong answers by
category, and the row of the leaderboard.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

STUBS: dict[str, dict[str, Any]] = {
    "dotenv": {"load_dotenv": print},
    "numpy": {},
    "openai": {"OpenAI": lambda **options: None, "RateLimitError": ConnectionError},
    "overrides": {"final": lambda method: method},
    "pandas": {},
    "tqdm": {"tqdm": lambda items, desc: items},
}


def stand_in() -> None:
    os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp())
    for name, members in STUBS.items():
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(members)


class Models(dict):  # type: ignore[type-arg]
    """A table with every model."""

    all_call_tools = False

    def __missing__(self, name: str) -> types.SimpleNamespace:
        from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler

        calls_tools = self.all_call_tools or name.endswith("FC")
        self[name] = types.SimpleNamespace(
            model_name=name,
            display_name=name,
            url="",
            org="",
            license="",
            model_handler=OpenAICompletionsHandler,
            input_price=None,
            output_price=None,
            is_fc_model=calls_tools,
            underscore_to_dot=calls_tools,
        )
        return self[name]


def scores(folder: Path) -> dict[str, Any]:
    """What the evaluation has written about a model."""
    found = {}
    for path in folder.rglob("*_score.json"):
        head, *wrong = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        errors = {row["id"]: row.get("error_type") or row["error"]["error_type"] for row in wrong}
        category = path.stem.removeprefix("BFCL_v4_").removesuffix("_score")
        found[category] = head | {"wrong": errors}
    return found


def main() -> None:
    results, out = (Path(argument).resolve() for argument in sys.argv[1:3])
    Models.all_call_tools = sys.argv[3:] == ["tools"]
    stand_in()
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = Models()  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    with contextlib.redirect_stdout(sys.stderr):
        from bfcl_eval.constants.category_mapping import ALL_CATEGORIES
        from bfcl_eval.eval_checker import eval_runner

        out.mkdir(parents=True, exist_ok=True)
        eval_runner.runner(None, ALL_CATEGORIES, results, out, allow_missing=True)
    with (out / "data_overall.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["Model"]: row for row in csv.DictReader(file)}
    print(
        json.dumps(
            {
                folder.name: {"categories": scores(folder), "leaderboard": rows[folder.name.replace("_", "/")]}
                for folder in out.iterdir()
                if folder.is_dir()
            }
        )
    )


if __name__ == "__main__":
    main()
