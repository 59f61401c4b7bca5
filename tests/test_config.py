from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPO

from toolrefine.errors import ConfigError
from toolrefine.recipes import load_config

RECIPES = sorted((REPO / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_starts_with_its_command(path: Path) -> None:
    config = load_config(path)
    assert config.run == f"runs/{path.stem}"
    assert f"toolrefine train recipes/{path.name}" in path.read_text().split("\nmodel =")[0]


def test_the_recipe_for_own_data_takes_the_keys_of_its_header() -> None:
    plain = load_config(REPO / "recipes/own.toml", ["model=M", "datasets.0.source=my.jsonl"])
    assert (plain.model, plain.datasets[0].source, plain.evaluation.datasets) == ("M", "my.jsonl", ())  # type: ignore[union-attr]
    assert plain.sft.lora is not None
    rows = ["datasets.0.offset=200", "evaluation.datasets.0.source=my.jsonl", "evaluation.datasets.0.limit=200"]
    held_out = load_config(REPO / "recipes/own.toml", rows)
    assert held_out.evaluation.datasets[0].source == "my.jsonl"  # type: ignore[union-attr]
    assert held_out.datasets[0].offset == held_out.evaluation.datasets[0].limit == 200  # type: ignore[union-attr]


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    overrides = ["seed=7", "rollout.k=16", "datasets.0.size=5", "model=my/model", "sft.lora.rank=4", "run=x"]
    config = load_config(REPO / "recipes/demo.toml", overrides)
    assert (config.seed, config.rollout.k, config.model, config.run) == (7, 16, "my/model", "x")
    assert config.datasets[0].size == 5  # type: ignore[union-attr]
    assert config.sft.lora is not None
    assert config.sft.lora.rank == 4
    more = ["datasets.1.format=toolworld", "datasets.1.domain=museum", "datasets.1.size=3", "sft.report_to.0=wandb"]
    config = load_config(REPO / "recipes/demo.toml", more)
    assert [dataset.size for dataset in config.datasets] == [400, 3]  # type: ignore[union-attr]
    assert config.sft.report_to == ("wandb",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.kk=3", "rollout.kk: unknown key"),
        ("rollout.k=0", "rollout.k: input should be greater than or equal to 1"),
        ("rollout.k=many", "rollout.k: input should be a valid integer"),
        ("datasets.7.size=3", "7 is no index into a list of 1"),
        ("seed", "has the form key=value"),
        ("model.x.y=3", "below a plain value"),
        ("datasets.size=3", "size is no index into a list of 1"),
        ("evaluation.datasets.2.source=x", "2 is no index into a list of 1"),
        ("sft.0=3", "sft.0: unknown key"),
        ("selection.policy=best", "selection.policy"),
        ("rollout=3", "rollout: must be a table, not '3'"),
        ("evaluation.datasets={domain='farm'}", "must be a list, not \"{'domain': 'farm'}\"; head each of its tables"),
        ("datasets.0.domian=farm", "demo.toml: datasets.0.domian: unknown key, did you mean datasets.domain?"),
        ("learning_rate=1", "learning_rate: unknown key, did you mean sft.learning_rate?"),
        ("rollout.chunksize=1", "rollout.chunksize: unknown key, did you mean rollout.chunk_size?"),
        ("datasets.0.invalid_targets={wrong_typ='keep'}", "; datasets.0.invalid_targets.wrong_typ: input should be"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(REPO / "recipes/demo.toml", [override])
    assert message in str(caught.value)
    assert not any(word in str(caught.value) for word in ("tuple", "literal", "instance"))


def test_waves_need_a_policy_that_one_success_decides() -> None:
    path = REPO / "recipes/demo.toml"
    with pytest.raises(ConfigError, match=r"rollout\.waves=true needs selection.policy=solvable"):
        load_config(path, ["rollout.waves=true", "selection.policy=frontier"])
    solvable = "selection.policy=solvable"
    assert load_config(path, ["rollout.waves=true", solvable]).samples_in_waves
    assert load_config(path, [solvable]).samples_in_waves
    assert not load_config(path, [solvable, "corpus.refine_per_sample=1"]).samples_in_waves  # these want drafts
    assert load_config(path, [solvable, "corpus.refine_per_sample=1", "corpus.drafts=greedy"]).samples_in_waves
    assert not load_config(path).samples_in_waves


def test_greedy_answers_are_drawn_where_refinement_examples_show_them() -> None:
    path = REPO / "recipes/demo.toml"
    assert load_config(path, ["corpus.refine_per_sample=1", "corpus.drafts=greedy"]).draws_greedy
    assert not load_config(path, ["corpus.refine_per_sample=1"]).draws_greedy
    assert not load_config(path, ["corpus.refine_per_sample=0", "corpus.drafts=greedy"]).draws_greedy


def test_a_missing_recipe_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("model = ")
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        load_config(tmp_path / "bad.toml")
