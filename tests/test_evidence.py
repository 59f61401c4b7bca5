from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.__main__ import STUDIES
from evidence.analysis import Group, group_cells, where_invalid, where_valid
from evidence.cells import Arm, Cell, Scale, marks, read_cells, run_cells
from evidence.doubts import RULES, run_doubt_cell
from evidence.page import aim_table, schedule_table, training_aims, training_tables, write_page
from evidence.policies import POLICIES, questions, run_mix_cell, run_policy_cell
from evidence.trainings import (
    ALL_FIRST,
    CHECKED_SCORED_ONE,
    EVERY_ARM,
    ONE_SCHEDULE,
    ORACLE,
    build_full,
    build_others,
    run_training_cell,
    tool_world,
)
from toolrefine.config import CorpusConfig, FileDataset
from toolrefine.datasets import load_pool
from toolrefine.datasets.export import write_samples
from toolrefine.datasets.toolworld import generate
from toolrefine.intervals import paired
from toolrefine.summary import summarize
from toolrefine.types import Checkpoint

TINY = Scale(num_held_out=12, num_pool=12, num_dev=6, steps=2, num_iterations=2, k=2)
ARMS = (
    "base",
    "plain SFT",
    "iteration 1",
    "iteration 2",
    "one round",
    "no refinement data",
    "frontier",
    "unsuspected",
    "unsuspected without refinement data",
    "labels scored",
    "labels checked",
    "labels checked and scored",
    "oracle",
)


def made_up(study: str, condition: str, seed: int, names: tuple[str, ...], n: int = 40) -> Cell:
    rng = Random(f"{study}/{condition}/{seed}")
    arms = [
        Arm(name=name, verdicts=marks(rng.random() < 0.6 for _ in range(n)), tokens=9.0, facts={"num_selected": 3})
        for name in names
    ]
    facts = {
        "num_parameters": 7,
        "num_samples": 12,
        "num_wrong_labels": 2,
        "invalid": marks(rng.random() < 0.3 for _ in range(n)),
        "kinds": "".join(rng.choice("spn") for _ in range(n)),
    }
    return Cell(study=study, condition=condition, seed=seed, arms=tuple(arms), facts=facts, scale=TINY)


def write_all(results: Path) -> None:
    results.mkdir()
    for study, conditions, names in (
        ("noise", ("20%", "0%"), ARMS),
        ("shift", ("foundry, 20%",), ARMS),
        (
            "policies",
            ("observatory, base", "observatory, trained", "foundry, trained"),
            ("draft", *POLICIES, "calibrated", "constrained decoding", "vote of 3 samples", "best of 5 samples"),
        ),
        ("mixes", ("greedy drafts, 50% right",), ("draft", "invalid: ask", "constrained decoding")),
        ("shifted-mixes", ("sampled drafts, 0% right",), ("draft", "invalid: ask", "constrained decoding")),
        ("real", ("real data", "BFCL"), ("draft", *POLICIES, "calibrated")),
        (
            "real-labels",
            ("real data, 20%",),
            ("base", "plain SFT", "iteration 1", "labels checked", "labels checked and scored", "oracle"),
        ),
        ("bases", ("llama-1.7M",), ("base", "plain SFT", "iteration 1", "iteration 2", "unsuspected", "oracle")),
        ("refined-bases", ("llama-1.7M",), ("draft", *POLICIES, "constrained decoding")),
    ):
        cells = [made_up(study, condition, seed, names) for seed in range(3) for condition in conditions]
        (results / f"{study}.jsonl").write_text("".join(cell.model_dump_json() + "\n" for cell in cells))
    doubts = []
    for seed in range(2):
        arms = [Arm(name="half of them agree", verdicts="", facts={"num_suspects": 10, "found": {"wrong:a_tool": 4}})]
        facts = {"num_samples": 50, "planted": {"wrong:a_tool": 4 + seed, "wrong:b": 7}}
        doubts.append(Cell(study="doubts", condition="real data", seed=seed, arms=tuple(arms), facts=facts, scale=TINY))
    (results / "doubts.jsonl").write_text("".join(cell.model_dump_json() + "\n" for cell in doubts))


def test_the_page_is_written_from_results_alone_and_the_same_every_time(tmp_path: Path) -> None:
    write_all(tmp_path / "results")
    pages = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        write_page(tmp_path / "results", folder / "evidence.md")
        pages.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")})
    assert pages[0] == pages[1]
    assert {str(path) for path in pages[0]} == {
        "evidence.md",
        "evidence/noise.svg",
        "evidence/shift.svg",
        "evidence/policies-observatory-base.svg",
        "evidence/policies-observatory-trained.svg",
        "evidence/policies-foundry-trained.svg",
        "evidence/policies-real-data.svg",
        "evidence/policies-BFCL.svg",
        "evidence/bases.svg",
    }
    text = pages[0][Path("evidence.md")].decode()
    assert "3 seeds, n = 40 held out a seed" in text
    assert all(f"| {name} |" in text for name in ARMS)
    assert "| nano, qwen3-1.7M | base |" in text
    assert "| foundry, 20% | labels checked |" in text
    assert "| llama-1.7M | base |" in text
    assert "| greedy drafts, 50% right |" in text
    familiar, shifted = text.split("In foundry:")
    assert "| sampled drafts, 0% right |" in shifted
    assert "| sampled drafts, 50% right |" in familiar
    assert "| sampled drafts, 50% right |" in shifted
    assert "| real data, 20% | base |" in text
    assert "| real data, 20% | labels checked |" in text
    assert "| real data, 20% | labels checked and scored | 3 of 12 |" in text
    assert "| suspected where | suspects | precision, % | 95 % | recall, % | 95 % | of a tool, % | of b, % |" in text
    assert "| half of them agree | 10 | 40.0 | 21.9 to 61.3 | 34.8 | 18.8 to 55.1 | 88.9 | 0.0 |" in text
    assert text.index("| 0% | base |") < text.index("| 20% | base |")


def test_a_page_can_be_written_before_anything_has_been_run(tmp_path: Path) -> None:
    write_page(tmp_path / "none", tmp_path / "evidence.md")
    assert "nothing has been run" in (tmp_path / "evidence.md").read_text()


def trained(condition: str, kinds: str = "ssnn", **verdicts: str) -> Group:
    arms = tuple(Arm(name=name.replace("_", " "), verdicts=marks) for name, marks in verdicts.items())
    facts = {"kinds": kinds}
    return Group(condition, (Cell(study="s", condition=condition, seed=0, arms=arms, facts=facts, scale=TINY),))


def test_an_aim_is_bold_where_it_is_met() -> None:
    arms = {"base": "0000", "plain_SFT": "0110", "iteration_1": "1010", "oracle": "1110", "labels_scored": "1110"}
    arms["frontier"] = "1111"  # in the studies' own tables alone
    text = aim_table([*training_aims([trained("20%", **arms)], [trained("foundry, 20%", **arms)], [])])
    assert text.splitlines()[0] == "| aim | n | iteration 1 | labels scored |"
    seven, oracle, base, behind = (line.split(" | ") for line in text.splitlines()[2:])
    assert [row[1] for row in (seven, oracle, base, behind)] == ["4"] * 4
    iteration = [row[2].split(" (")[0] for row in (seven, oracle, base, behind)]
    assert iteration == ["+0.0", "-25.0", "**+50.0**", "**+0.0**"]
    assert [row[3].split(" (")[0] for row in (seven, oracle)] == ["**+25.0**", "**+0.0**"]


def test_one_schedule_is_held_against_the_same_with_several() -> None:
    clean = {"iteration_3": "0110", "labels_scored": "0111", "labels_checked_and_scored_in_one_schedule": "1111"}
    noisy = {**clean, "labels_checked_and_scored": "0000", "iterated_in_one_schedule": "1010"}
    text = schedule_table([trained("0%", **clean), trained("20%", **noisy), trained("40%", iteration_3="0110")])
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["0%", "labels scored", "+25.0"],
        ["20%", "iteration 3", "+0.0"],
        ["20%", "labels checked and scored", "+100.0"],
    ]
    assert schedule_table([trained("40%", iteration_3="0110")]) == ""


def test_accuracy_is_told_for_each_kind_that_occurs() -> None:
    text = training_tables([trained("c", plain_SFT="0110", base="1100")])
    assert text.splitlines()[0].endswith("| single, % | parallel, % | no call, % |")
    assert [line.split(" | ")[-3:] for line in text.splitlines()[2:]] == [
        ["50.0", "", "50.0 |"],
        ["100.0", "", "0.0 |"],
    ]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20), st.integers(1, 3))
def test_seeds_are_pooled_sample_by_sample(verdicts: list[tuple[bool, bool, bool]], num_seeds: int) -> None:
    draft, other, invalid = (list(column) for column in zip(*verdicts, strict=True))
    arms = (Arm(name="draft", verdicts=marks(draft)), Arm(name="other", verdicts=marks(other)))
    cells = [
        Cell(study="s", condition="c", seed=seed, arms=arms, facts={"invalid": marks(invalid)}, scale=TINY)
        for seed in range(num_seeds)
    ]
    (group,) = group_cells(cells)
    assert group.compare("draft", "other") == paired(draft * num_seeds, other * num_seeds)
    parts = [group.accuracy("other", where) for where in (where_valid, where_invalid)]
    assert sum(part.n for part in parts) == group.accuracy("other").n
    assert sum(part.correct for part in parts) == group.accuracy("other").correct


class Instant:
    """Work that takes no time, and must not be done twice."""

    def __init__(self, seed: int, log: Path) -> None:
        self.seed, self.log = seed, log

    def __call__(self, folder: Path) -> Cell:
        with self.log.open("a") as log:
            log.write(f"{folder.name}\n")
        return made_up("noise", "0%", self.seed, ARMS)


def test_what_has_a_result_is_not_run_again_even_when_its_folder_is_lost(tmp_path: Path) -> None:
    results, log = tmp_path / "results" / "noise.jsonl", tmp_path / "log"
    works = {f"cell-{seed}": Instant(seed, log) for seed in range(3)}
    run_cells({"cell-1": works["cell-1"]}, tmp_path / "one", results, 1)
    run_cells(works, tmp_path / "two", results, 2)
    assert [(cell.name, cell.seed) for cell in read_cells(results)] == [(f"cell-{seed}", seed) for seed in range(3)]
    assert sorted(log.read_text().split()) == ["cell-0", "cell-1", "cell-2"]


def test_every_cell_of_a_study_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = {study: [name for name, _ in cells(tmp_path, study, range(3), TINY)] for study, cells in STUDIES.items()}
    assert all(len(set(every)) == len(every) for every in names.values())
    assert [len(names[study]) for study in ("noise", "shift", "policies")] == [12, 12, 12]


@pytest.mark.e2e
def test_a_cell_of_each_kind_runs_and_resumes(tmp_path: Path) -> None:
    material = tool_world("observatory", 0.5, 0, TINY)
    settings = {"study": "noise", "condition": "20%", "material": material, "seed": 0, "scale": TINY}
    arms = (ONE_SCHEDULE, CHECKED_SCORED_ONE, ORACLE)  # the others differ in settings alone
    cell = run_training_cell(tmp_path, **settings, arms=arms)
    assert run_training_cell(tmp_path, **settings, arms=arms) == cell
    names = ["base", "plain SFT", "iteration 1", "iteration 2", *(name.replace("-", " ") for name in arms)]
    assert [arm.name for arm in cell.arms] == names
    others = dict(build_others(build_full("nano", material, 0, TINY), tmp_path, summarize(tmp_path / "full")))
    assert {*others, ALL_FIRST} == {*EVERY_ARM}
    assert all(len(arm.verdicts) == TINY.num_held_out for arm in cell.arms)
    assert cell.facts["kinds"] == "".join(sample.kind[0] for sample in load_pool([material.held_out]))
    samples = list(generate("observatory", 16, 5))
    policies = run_policy_cell(
        tmp_path,
        study="policies",
        condition="c",
        checkpoint=Checkpoint(model=str(tmp_path / "full/iterations/002/model")),
        dev=lambda: samples[:6],
        held_out=lambda: questions(lambda: samples[6:]),
        seed=0,
        scale=TINY,
    )
    arms = {arm.name: arm for arm in policies.arms}
    assert {"draft", *POLICIES, "calibrated", "constrained decoding", "vote of 8 samples"} <= set(arms)
    assert arms["invalid: constrain"].calls <= 2.0
    assert arms["vote of 5 samples"].calls == 5.0
    mix = run_mix_cell(
        tmp_path / "mix",
        study="mixes",
        condition="c",
        material=material,
        corpus=CorpusConfig(drafts="greedy"),
        held_out=lambda: questions(lambda: samples[:6]),
        seed=0,
        scale=TINY,
        policies=["invalid: constrain"],
    )
    assert [arm.name for arm in mix.arms] == ["draft", "invalid: constrain", "constrained decoding"]
    assert mix.facts["num_parameters"] == 1_673_152
    assert [len(arm.verdicts) for arm in mix.arms] == [6] * len(mix.arms)
    file = tmp_path / "pool.jsonl"
    write_samples(file, samples)
    dataset = FileDataset(source=str(file), wrong_label_rate=1.0, invalid_targets="keep")
    doubts = run_doubt_cell(tmp_path, study="doubts", condition="c", dataset=dataset, seed=0, scale=TINY)
    assert [arm.name for arm in doubts.arms] == list(RULES)
    num_planted = sum(doubts.facts["planted"].values())
    assert 0.75 * 16 < num_planted <= doubts.facts["num_samples"] == 16
    for arm in doubts.arms:
        num_suspects, num_found = arm.facts["num_suspects"], sum(arm.facts["found"].values())
        assert sum(arm.rights) == num_found + (16 - num_planted) - (num_suspects - num_found)
    assert doubts.arms[1].facts["num_suspects"] > 0
