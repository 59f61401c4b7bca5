"""Run the studies of docs/evidence.md, and write it.

python -m evidence run                        # everything: hours on four cores; goes on where it was stopped
python -m evidence run noise shift --jobs 2
python -m evidence run noise --held-out 300 --seeds 1 --out runs/small --results runs/small
python -m evidence write                      # docs/evidence.md and its plots, from evidence/results
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from evidence.cells import Cell, Scale, Work, run_cells
from evidence.doubts import run_doubt_cell
from evidence.policies import Questions, Samples, questions, run_mix_cell, run_policy_cell
from evidence.real import TRAINING_SEEDS, bfcl_questions, real_dev, real_held_out, real_material, real_pool
from evidence.trainings import (
    ALL_FIRST,
    CHECKED,
    CHECKED_SCORED,
    CHECKED_SCORED_ONE,
    EVERY_ARM,
    FULL,
    NO_REFINEMENT,
    ONE_SCHEDULE,
    ORACLE,
    SCORED,
    UNSUSPECTED,
    run_training_cell,
    tool_world,
)
from toolrefine.config import CorpusConfig
from toolrefine.datasets.toolworld import generate
from toolrefine.types import Checkpoint

RESULTS = Path(__file__).parent / "results"
NOISE_RATES = (0.2, 0.0, 0.4, 0.1)
FAMILIAR, OTHER_STYLE, OTHER_KINDS = "observatory", "foundry", "brewery"
SHIFT_ARMS = {
    0.2: EVERY_ARM,
    0.0: (ONE_SCHEDULE, NO_REFINEMENT, SCORED, ALL_FIRST, CHECKED_SCORED_ONE),
}
"""Beside the full method and plain SFT, by the share of labels made wrong."""
REAL_DATA = Path("../shared/data")
"""Files of real samples beside the checkout; recipes/real.toml reads them too."""
BASES = Path("build/bases")
BASE_ARMS = (UNSUSPECTED, ORACLE)
"""Beside the full method and plain SFT."""
REAL_ARMS = {0.2: (CHECKED, CHECKED_SCORED, ORACLE), 0.0: (SCORED,)}
"""Beside the same, by the share of labels made wrong."""
MIXES: tuple[tuple[Literal["sampled", "greedy"], float], ...] = (("sampled", 0.0), ("greedy", 0.75), ("greedy", 0.9))
"""Refinement data: which drafts they show, and the share of them that is right already. Beside sampled ones half of
which are right, which the policies are measured on."""
MIX_POLICIES = (
    "ask, the paper's algorithm, 1 round",
    "ask, the paper's algorithm, 2 rounds",
    "ask, accept likelier",
    "invalid: ask",
)
BASE_POLICIES = (
    "ask, the paper's algorithm, 1 round",
    "ask, the paper's algorithm, 2 rounds",
    "ask, accept likelier",
    "invalid: resample, 1 round",
    "invalid: resample, 4 rounds",
    "invalid: resample, 8 rounds",
)


def main() -> None:
    arguments = parse_arguments()
    if arguments.command == "write":
        from evidence.page import write_page

        write_page(arguments.results, arguments.page)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # cells run side by side: more threads would only wait for each other
    scale = Scale(
        num_held_out=arguments.held_out,
        num_dev=max(1, arguments.held_out // 2),
        num_pool=arguments.pool,
        steps=arguments.steps,
    )
    for study in arguments.studies or STUDIES:
        works = dict(STUDIES[study](arguments.out, study, range(arguments.seeds), scale))
        run_cells(works, arguments.out / study, arguments.results / f"{study}.jsonl", arguments.jobs)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}; all by default")
    run.add_argument("--seeds", type=int, default=3)
    run.add_argument("--held-out", type=int, default=3_000, help="samples that every arm answers")
    run.add_argument("--pool", type=int, default=400, help="samples to train on")
    run.add_argument("--steps", type=int, default=50, help="optimizer steps of an iteration")
    run.add_argument("--jobs", type=int, default=os.cpu_count(), help="cells side by side, one core each")
    run.add_argument("--out", type=Path, default=Path("runs/evidence"), help="models and answers")
    write = commands.add_parser("write")
    write.add_argument("--page", type=Path, default=Path("docs/evidence.md"))
    for command in (run, write):
        command.add_argument("--results", type=Path, default=RESULTS, help="verdicts, which the page is written from")
    arguments = parser.parse_args()
    unknown = [name for name in getattr(arguments, "studies", []) if name not in STUDIES]
    if unknown:
        parser.error(f"no study {unknown[0]!r}; there are {', '.join(STUDIES)}")
    return arguments


def noise_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """1: wrong labels, in a domain that is new to the model but like those it knows."""
    for rate in NOISE_RATES:
        for seed in seeds:
            yield training_cell(study, f"{rate:.0%}", FAMILIAR, rate, seed, scale)


def shift_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """2: domains unlike all that the model knows."""
    for rate, arms in SHIFT_ARMS.items():
        for domain in (OTHER_STYLE, OTHER_KINDS):
            for seed in seeds:
                name, work = training_cell(study, f"{domain}, {rate:.0%}", domain, rate, seed, scale)
                yield name, partial(work, arms=arms)


def base_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """5: other bases, as scripts/train_nano.py makes them: every folder of BASES."""
    for seed in seeds:
        for base in find_bases():
            name, work = training_cell(study, base.name, FAMILIAR, 0.2, seed, scale)
            yield f"{base.name}-{name}", partial(work, model=str(base), arms=BASE_ARMS)


def refined_base_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """5: refinement policies on those bases, trained."""
    for seed in seeds:
        for base in find_bases():
            trained = out / "bases" / f"{base.name}-{training_name(FAMILIAR, 0.2, seed)}"
            held_out = partial(questions, partial(generate, FAMILIAR, scale.num_held_out, 4_000 + seed))
            model = str(last_model(trained, scale))
            work = policy_work(study, base.name, model, None, held_out, seed, scale)
            yield f"{base.name}-{seed}", partial(work, policies=BASE_POLICIES, num_samples=0)


def find_bases() -> list[Path]:
    """The folders of BASES."""
    return sorted(path.parent for path in BASES.glob("*/config.json"))


def last_model(cell: Path, scale: Scale) -> Path:
    """The model of the last iteration of the full method in the folder of a training cell."""
    return cell / FULL / f"iterations/{scale.num_iterations:03d}/model"


def training_cell(
    study: str, condition: str, domain: str, rate: float, seed: int, scale: Scale
) -> tuple[str, partial[Cell]]:
    material = tool_world(domain, rate, seed, scale)
    work = partial(run_training_cell, study=study, condition=condition, material=material, seed=seed, scale=scale)
    return training_name(domain, rate, seed), work


def training_name(domain: str, rate: float, seed: int) -> str:
    return f"{domain}-{round(rate * 100)}-{seed}"


def policy_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """3: refinement policies on the base, and on models that have been trained on refining their own drafts."""
    for seed in seeds:
        for domain, source in ((FAMILIAR, "noise"), (OTHER_STYLE, "shift")):
            last = last_model(out / source / training_name(domain, 0.2, seed), scale)
            dev = partial(generate, domain, scale.num_dev, 3_000 + seed)
            held_out = partial(questions, partial(generate, domain, scale.num_held_out, 4_000 + seed))
            for name, model in {"base": "nano", "trained": str(last)}.items():
                work = policy_work(study, f"{domain}, {name}", model, dev, held_out, seed, scale)
                yield f"{domain}-{name}-{seed}", work


def mix_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """3: refinement data of other drafts, and of more or fewer right ones."""
    for drafts, share in MIXES:
        for seed in seeds:
            yield mix_cell(study, FAMILIAR, drafts, share, seed, scale)


def shifted_mix_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """3: refinement data of wrong drafts alone, in a domain unlike all that the model knows."""
    for seed in seeds:
        yield mix_cell(study, OTHER_STYLE, "sampled", 0.0, seed, scale)


def mix_cell(
    study: str, domain: str, drafts: Literal["sampled", "greedy"], share: float, seed: int, scale: Scale
) -> tuple[str, Work]:
    work = partial(
        run_mix_cell,
        study=study,
        condition=f"{drafts} drafts, {share:.0%} right",
        material=tool_world(domain, 0.2, seed, scale),
        corpus=CorpusConfig(drafts=drafts, right_draft_share=share),
        held_out=partial(questions, partial(generate, domain, scale.num_held_out, 4_000 + seed)),
        policies=MIX_POLICIES,
        seed=seed,
        scale=scale,
    )
    return f"{drafts}-{round(share * 100)}-{seed}", work


def real_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """4: real data and BFCL; what is drawn has one seed, for nothing but sampling changes with it.

    Prompts and answers are several times as long as the tool world's, so that there are fewer of them.
    """
    if REAL_DATA.exists():
        dev = partial(real_dev, REAL_DATA, max(1, scale.num_dev // 3))
        held_out = partial(questions, partial(real_held_out, REAL_DATA, scale.num_held_out))
        yield "real", policy_work(study, "real data", "nano", dev, held_out, 0, scale)
    bfcl = partial(bfcl_questions, max(1, scale.num_held_out // 15))
    yield "bfcl", policy_work(study, "BFCL", "nano", None, bfcl, 0, scale)


def doubt_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """4: label suspects in real data, with wrong labels planted."""
    for seed in seeds if REAL_DATA.exists() else ():
        dataset = real_pool(REAL_DATA, scale.num_held_out // 2, wrong_label_rate=0.2, seed=seed)
        work = partial(run_doubt_cell, study=study, condition="real data", dataset=dataset, seed=seed, scale=scale)
        yield f"real-20-{seed}", work


def real_label_cells(out: Path, study: str, seeds: range, scale: Scale) -> Iterator[tuple[str, Work]]:
    """4: training on real data, with wrong labels planted, and as it is."""
    for rate, arms in REAL_ARMS.items() if REAL_DATA.exists() else ():
        for seed in seeds[:TRAINING_SEEDS]:
            yield (
                training_name("real", rate, seed),
                partial(
                    run_training_cell,
                    study=study,
                    condition=f"real data, {rate:.0%}",
                    material=real_material(REAL_DATA, rate, seed, scale),
                    seed=seed,
                    scale=scale,
                    arms=arms,
                ),
            )


def policy_work(
    study: str, condition: str, model: str, dev: Samples | None, held_out: Questions, seed: int, scale: Scale
) -> partial[Cell]:
    return partial(
        run_policy_cell,
        study=study,
        condition=condition,
        checkpoint=Checkpoint(model=model),
        dev=dev,
        held_out=held_out,
        seed=seed,
        scale=scale,
    )


STUDIES = {
    "noise": noise_cells,
    "shift": shift_cells,
    "policies": policy_cells,
    "mixes": mix_cells,
    "shifted-mixes": shifted_mix_cells,
    "real": real_cells,
    "doubts": doubt_cells,
    "real-labels": real_label_cells,
    "bases": base_cells,
    "refined-bases": refined_base_cells,
}

if __name__ == "__main__":
    main()
