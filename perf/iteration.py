"""Row: one whole iteration, beside the same iteration written plainly."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

from perf.harness import Facts, Row, Work, make_row, measure
from perf.peers import Settings, find_settings, generate
from perf.plain_iteration import PROMPT, IterationTask, run_iteration
from toolrefine.chat import Chat
from toolrefine.config import (
    Config,
    EngineConfig,
    EvaluationConfig,
    RefinementConfig,
    RolloutConfig,
    SftConfig,
    ToolworldDataset,
)
from toolrefine.datasets.toolworld import generate as generate_samples
from toolrefine.loop import train
from toolrefine.models import load_model, load_tokenizer
from toolrefine.rundir import CORPUS, RunDir, evaluation_stage, read_records
from toolrefine.types import Checkpoint

NANO = Checkpoint(model="nano")
HELD_OUT = "held-out"
TRAINING = ("selected", "suspects", "corpus", "model")


def our_side(task: IterationTask) -> Work:
    """toolrefine.loop; its seconds are those of the iteration's stages, without those of the base's evaluation."""
    config = Config(
        model=NANO.model,
        num_iterations=1,
        datasets=(
            ToolworldDataset(
                format="toolworld",
                domain=task.domain,
                size=task.pool_size,
                seed=task.pool_seed,
                wrong_label_rate=task.wrong_label_rate,
            ),
        ),
        engine=EngineConfig(max_batch_rows=512),
        rollout=RolloutConfig(
            k=task.k, max_new_tokens=task.max_new_tokens, chunk_size=task.pool_size, score_labels=False
        ),
        sft=SftConfig(
            learning_rate=task.learning_rate, batch_size=task.batch_size, max_steps=task.num_steps, dtype="bfloat16"
        ),
        refinement=RefinementConfig(max_rounds=1),
        evaluation=EvaluationConfig(
            datasets=(
                ToolworldDataset(
                    format="toolworld",
                    name=HELD_OUT,
                    domain=task.domain,
                    size=task.held_out_size,
                    seed=task.held_out_seed,
                ),
            ),
            max_new_tokens=task.max_new_tokens,
            chunk_size=task.held_out_size,
        ),
    )

    def work() -> Facts:
        with tempfile.TemporaryDirectory() as folder:
            run = RunDir(Path(folder))
            train(config, run)
            iteration = run.iteration(1).path
            events = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
            seconds = {event["stage"].removeprefix("iterations/001/"): event["wall_s"] for event in events}
            parts = [seconds["rollouts"], sum(map(seconds.__getitem__, TRAINING)), seconds[f"eval/{HELD_OUT}"]]
            answered = evaluation_stage(HELD_OUT)
            scores = [item.scores for item in read_records(iteration / answered.path, answered.record)]
            return {
                "seconds": sum(parts),
                "parts_s": [round(part, 1) for part in parts],
                "corpus": len(list(read_records(iteration / CORPUS.path, CORPUS.record))),
                "right_drafts": sum(each[0].correct for each in scores),
                "right_finals": sum(each[-1].correct for each in scores),
            }

    return work


def peer_side(task: IterationTask, search_s: float) -> Work:
    """plain_iteration.py, with the batch sizes that are best for generate on this pool."""
    model = load_model(NANO, dtype="float32", device="cpu")
    chat = Chat(load_tokenizer(NANO), PROMPT)
    samples = generate_samples(task.domain, task.pool_size, task.pool_seed)
    prompts = [chat.prompt_ids(sample.messages, sample.tools) for sample in samples]
    sampled, greedy = (
        find_settings(
            lambda ids, settings, k=k: generate(model, ids, k, task.max_new_tokens, settings, greedy=k == 1),  # type: ignore[misc]
            prompts,
            [Settings(size, cache) for size in (4, 8, 16, 2, 1) for cache in ("static", "dynamic")],
            search_s / 2,
        )[0]
        for k in (task.k, 1)
    )

    def work() -> Facts:
        with tempfile.TemporaryDirectory() as folder:
            facts = run_iteration(task, Path(folder), sampled, greedy)
        return facts | {"settings": f"rollouts in {sampled}, evaluation in {greedy}"}

    return work


def iteration_row(
    task: IterationTask, *, at_least: float | None = None, rounds: int = 3, search_s: float = 12.0
) -> Row:
    """Rollouts, selection, corpus, training, evaluation with a refinement round."""
    timings = measure(
        {"ours": partial(our_side, task), "peer": partial(peer_side, task, search_s)}, rounds=rounds, warm_up=False
    )
    ours, peer = timings["ours"], timings["peer"]
    counts = [
        "/".join(str(side.facts[key]) for side in (ours, peer)) for key in ("corpus", "right_drafts", "right_finals")
    ]
    note = (
        f"nano, pool {task.pool_size}, k={task.k}, {task.num_steps} steps, held out {task.held_out_size}; ours/peer: "
        f"examples {counts[0]}, right drafts {counts[1]}, after refinement {counts[2]}, seconds of rollouts, training, "
        f"evaluation {ours.facts['parts_s']}/{peer.facts['parts_s']}; peer: {peer.facts['settings']}"
    )
    return make_row("one whole iteration: generate + SFTTrainer", ours, peer, at_least=at_least, note=note)
