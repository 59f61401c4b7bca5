"""Study 4: how well the suspects of a model that has not been trained tell wrong labels in real data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from evidence.cells import Arm, Cell, Scale, marks
from toolrefine.config import EngineConfig, FileDataset, PromptConfig, RolloutConfig, SelectionConfig
from toolrefine.datasets import load_pool
from toolrefine.engines import open_engine
from toolrefine.rollout import rollout
from toolrefine.selection import find_suspects
from toolrefine.types import Checkpoint

NEVER, ALWAYS = 1e6, -1e6
RULES = {
    "all completions agree": SelectionConfig(suspect_agreement=1.0, suspect_doubt=NEVER),
    "half of them agree": SelectionConfig(suspect_doubt=NEVER),
    "half of them agree, or likelihood": SelectionConfig(),
    "the same, however unlikely the rival": SelectionConfig(suspect_min_logprob=ALWAYS),
}
"""The third is the default."""
PROMPT = PromptConfig(own_replies=False)
ROLLOUT = RolloutConfig(max_new_tokens=160, chunk_size=128)


def run_doubt_cell(
    folder: Path, *, study: str, condition: str, dataset: FileDataset, seed: int, scale: Scale, model: str = "nano"
) -> Cell:
    """Plant wrong labels in a file and find suspects by each of RULES.

    An arm's verdicts tell of each label whether it is suspected just if it has been planted; what was wrong before
    counts as right. Facts count the suspects and, by kind, the planted labels among them.
    """
    pool = load_pool([dataset])
    config = ROLLOUT.model_copy(update={"k": scale.k})
    with open_engine(Checkpoint(model=model), EngineConfig(max_batch_rows=512), PROMPT) as engine:
        groups = [group for chunk in rollout(0, config.chunk_size, engine, pool, config, seed=seed) for group in chunk]
    planted = {sample.id: sample.meta["label"] for sample in pool if sample.meta["label"] != "ok"}
    arms = []
    for name, rule in RULES.items():
        found = {suspect.sample_id for suspect in find_suspects(pool, groups, rule)}
        arms.append(
            Arm(
                name=name,
                verdicts=marks((sample.id in found) == (sample.id in planted) for sample in pool),
                facts={"num_suspects": len(found), "found": Counter(planted[each] for each in found & planted.keys())},
            )
        )
    facts = {"num_samples": len(pool), "planted": Counter(planted.values())}
    return Cell(study=study, condition=condition, seed=seed, arms=tuple(arms), facts=facts, scale=scale)
