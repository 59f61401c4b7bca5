"""ACEBench's data as published: one folder a language, one file a category, golds beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolrefine.benchmarks.rows import read_rows
from toolrefine.errors import DataError

LANGUAGES = ("en", "zh")
ATOM = (
    "normal_atom_bool",
    "normal_atom_enum",
    "normal_atom_number",
    "normal_atom_list",
    "normal_atom_object_deep",
    "normal_atom_object_short",
)
SINGLE_TURN = ("normal_single_turn_single_function", "normal_single_turn_parallel_function")
MULTI_TURN = ("normal_multi_turn_user_adjust", "normal_multi_turn_user_switch")
NORMAL = (*SINGLE_TURN, *MULTI_TURN, "normal_similar_api", "normal_preference", *ATOM)
SPECIAL = ("special_incomplete", "special_error_param", "special_irrelevant")
AGENT = ("agent_multi_turn", "agent_multi_step")

_HOW = "git clone https://github.com/ACEBench/ACEBench and point --data at its folder data_all"

Row = dict[str, Any]


def find_languages(data: Path | None) -> dict[str, Path]:
    """The folder of each language that the data have; data is data_all, or the folder that holds it.

    Raises:
        DataError: there are none; says how to get them.
    """
    if data is not None:
        for root in (data, data / "data_all"):
            found = {name: root / f"data_{name}" for name in LANGUAGES if (root / f"data_{name}").is_dir()}
            if found:
                return found
    where = f"{data} holds neither data_en nor data_zh" if data else "ACEBench's data are not part of toolrefine"
    raise DataError(f"{where}: {_HOW}")


def read_pairs(folder: Path, category: str) -> list[tuple[Row, Any]]:
    """The rows of a category with their golds.

    Raises:
        DataError: they are missing, not readable, or do not belong together.
    """
    name = f"data_{category}.json"
    rows, answers = (read_rows(path / name, _HOW) for path in (folder, folder / "possible_answer"))
    for path, objects, keys in (
        (folder / name, rows, ("id", "question", "function")),
        (folder / "possible_answer" / name, answers, ("id", "ground_truth")),
    ):
        for number, row in enumerate(objects, start=1):
            missing = [key for key in keys if key not in row]
            if missing:
                raise DataError(f"{path}: row {number} has no {missing[0]}; {_HOW}")
            if not all(
                isinstance(each, dict) and isinstance(each.get("name"), str) for each in row.get("function", ())
            ):
                raise DataError(f"{path}: row {number} has a function without a name; {_HOW}")
    if [row["id"] for row in rows] != [answer["id"] for answer in answers]:
        raise DataError(f"{folder / name}: its ids are not those of possible_answer/{name}; {_HOW}")
    return [(row, answer["ground_truth"]) for row, answer in zip(rows, answers, strict=True)]
