"""Supervised fine-tuning on the Hugging Face stack. Heavy libraries are imported on use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from toolrefine.config import Config
from toolrefine.rundir import Progress
from toolrefine.types import Checkpoint, Example

__all__ = ["check_template", "num_steps_of", "sft"]

CHECKPOINTS = "checkpoints"
FACTS = "training.json"


def sft(
    partial: Path,
    final: Path,
    base: Checkpoint,
    corpus: Sequence[Example],
    config: Config,
    *,
    iteration: int,
    progress: Progress,
    max_steps: int | None = None,
) -> Checkpoint:
    """Fine-tune base on the target turns of a corpus.

    Args:
        partial: folder to work in; checkpoints that a killed attempt has left there are gone on from.
        final: what partial will be renamed to.
        base: weights to start from; an adapter of it is trained further.
        corpus: what to learn.
        config: sft, prompt and seed of it.
        iteration: number of the outer loop, part of the seed.
        progress: hears of the steps.
        max_steps: optimizer steps; overrides those of config.sft.

    Raises:
        RequestError: the base cannot be loaded or its template cannot be trained on.
        WorkError: no example fits into max_length.
    """
    # A kill while the checkpoints were deleted has left the whole model.
    if not (partial / FACTS).exists():
        from accelerate.utils.memory import clear_device_cache

        from toolrefine.training.trainer import fit

        fit(partial, final, base, corpus, config, iteration=iteration, progress=progress, max_steps=max_steps)
        # The Trainer holds weights and optimizer in cycles, and the next model needs their memory.
        clear_device_cache(garbage_collection=True)
    shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)
    if config.sft.lora is None:
        return Checkpoint(model=str(final), iteration=iteration)
    return Checkpoint(model=base.model, adapter=str(final), iteration=iteration)


def check_template(base: Checkpoint, config: Config) -> None:
    """Make sure, before any work, that a model, its chat template, and the settings of sft go together.

    Prompt settings other than those of an earlier training of it are said to be so.

    Raises:
        RequestError: they do not, or there is no such model.
    """
    from toolrefine.chat import Chat
    from toolrefine.models import generation_eos_ids, load_tokenizer, refuse_adapter, resolve_device, settle_prompt

    refuse_adapter(base.model)
    resolve_device(config.sft.device)
    settle_prompt(base, config.prompt.model_dump())
    trust = config.sft.trust_remote_code
    tokenizer = load_tokenizer(base, trust_remote_code=trust)
    Chat(tokenizer, config.prompt, generation_eos_ids(base)).check_training()
    if config.sft.report_to or config.sft.lora is not None:
        from toolrefine.training.trainer import check_settings

        check_settings(base, config.sft)


def num_steps_of(checkpoint: Checkpoint) -> int:
    """Optimizer steps of the training that made a checkpoint."""
    folder = Path(checkpoint.adapter or checkpoint.model)
    num_steps: int = json.loads((folder / FACTS).read_text())["num_steps"]
    return num_steps
