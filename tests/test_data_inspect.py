from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import REAL_DATA
from data_samples import call, conversation, sample, write
from hypothesis import given
from hypothesis import strategies as st
from test_cli import run, run_json

from toolrefine.config import PromptConfig
from toolrefine.curate.statistics import describe, measure
from toolrefine.models import save_prompt
from toolrefine.nano import NANO_DIR
from toolrefine.types import Sample


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
def test_quantiles_are_the_nearest_ranks(values: list[int]) -> None:
    distribution = describe(Counter(values))
    assert distribution is not None
    ordered = sorted(values)
    assert (distribution.min, distribution.max) == (ordered[0], ordered[-1])
    assert distribution.mean == pytest.approx(sum(values) / len(values))
    for percent in (25, 50, 75, 95, 99):
        wanted = ordered[-(-len(values) * percent // 100) - 1]
        assert getattr(distribution, f"p{percent}") == wanted


def test_counts(samples: list[Sample]) -> None:
    statistics, _ = measure([sample("a", "Hi", "f", calls=[call("f")]), sample("b", "Hi", "f", "g"), conversation()])
    assert statistics.kinds == {"no_call": 1, "single": 2}
    assert (statistics.num_tools, statistics.num_called_tools) == (4, 2)
    assert statistics.turns is not None
    assert (statistics.turns.min, statistics.turns.max) == (1, 7)
    assert statistics.prompt_tokens is None


def test_examples_are_drawn_with_equal_chances_and_in_order(samples: list[Sample]) -> None:
    ids = [sample.id for sample in samples]
    draws = [[drawn.id for drawn in measure(samples, None, 10, seed)[1]] for seed in range(300)]
    assert all(sorted(draw, key=ids.index) == draw for draw in draws)
    assert draws[0] == [drawn.id for drawn in measure(samples, None, 10, 0)[1]]
    counts = Counter(sample_id for draw in draws for sample_id in draw)
    assert len(counts) == 40
    assert all(45 <= count <= 105 for count in counts.values())  # 75 expected, 4 standard deviations


def test_inspect_measures_prompts_in_tokens(tmp_path: Path, samples: list[Sample]) -> None:
    path = write(tmp_path / "pool.jsonl.gz", *samples)
    counts = run_json("data", "inspect", path, "--model", "nano", "--examples", "3")
    assert counts["prompt_tokens"]["min"] > 50
    assert len(counts["examples"]) == 3
    shown = run("data", "inspect", path, "--examples", "1")
    assert shown.exit_code == 0
    assert "40 samples" in shown.stdout
    assert "target" in shown.stdout


def test_inspect_asks_a_model_as_it_was_trained(tmp_path: Path, samples: list[Sample]) -> None:
    path, trained = write(tmp_path / "pool.jsonl", *samples), tmp_path / "model"
    shutil.copytree(NANO_DIR, trained)
    save_prompt(trained, PromptConfig(style="system"))
    counts = [
        run_json("data", "inspect", path, "--model", str(model), *style)["prompt_tokens"]
        for model, style in ((trained, []), (trained, ["--style", "template"]), ("nano", ["--style", "system"]))
    ]
    assert counts[0] == counts[2] != counts[1]


def test_inspect_says_what_is_left_out(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "pool.jsonl", sample("a", "Hi", "f", calls=[call("f")])))
    path.write_text(path.read_text() + '{"messages": 3, "target": []}\n')
    assert run_json("data", "inspect", str(path))["num_bad_rows"] == 1
    assert f"{path}:2:" in run("data", "inspect", str(path)).stderr


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data are not beside the project")
def test_inspect_real_data() -> None:
    counts = run_json("data", "inspect", str(REAL_DATA / "dev_new_tools.jsonl.gz"), "--examples", "0")
    assert counts["num_samples"] + counts["num_bad_rows"] == 323
    assert "no_call" not in counts["kinds"]
