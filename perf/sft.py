"""Rows: training on the corpus of one iteration, and on prompts with four targets each.

    python -m perf.sft

tries every setting of the peer's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from perf.harness import Facts, Row, Work, compare, describe_machine, make_row, measure
from perf.models import make_model, make_samples, make_tokenizer
from toolrefine.chat import Chat
from toolrefine.config import PromptConfig, SftConfig
from toolrefine.training.batches import pack_for_targets, pad, switch_to_packing
from toolrefine.training.packing import Tokens
from toolrefine.training.trainer import make_trainer

PAD_ID = 0
BATCH_SIZE = 16
NUM_TARGETS = 4
TARGET_TOKENS = 40
REQUEST_TOKENS = 30
"""Of the turn that asks to refine. nano's tokenizer, whose vocabulary is small, makes more of it."""
LEARNING_RATE = 1e-4

Dtype = Literal["float32", "bfloat16"]


class TrlSettings(NamedTuple):
    """How TRL batches the examples of a step."""

    batch_size: int = BATCH_SIZE
    """The rest of a step is accumulated."""
    layout: Literal["group_by_length", "padding_free", "packing"] = "group_by_length"
    dtype: Dtype = "bfloat16"

    def __str__(self) -> str:
        return f"{BATCH_SIZE // self.batch_size} batches of {self.batch_size}, {self.layout}, {self.dtype}"


CANDIDATES = [TrlSettings(4), TrlSettings(1), TrlSettings(1, dtype="float32")]
"""The settings that came near the best where all were tried."""
ALL = [
    TrlSettings(size, layout, dtype)
    for layout, size, dtype in product(
        ("group_by_length", "padding_free", "packing"), (16, 4, 2, 1), ("float32", "bfloat16")
    )
    if layout != "packing" or size == 1
]


def corpus(num_samples: int, *, seed: int = 0) -> list[Tokens]:
    """A direct example and one refinement of each sample, with random targets and drafts."""
    request = make_tokenizer()(PromptConfig().refine, add_special_tokens=False)["input_ids"][:REQUEST_TOKENS]
    examples = []
    for name, prompt, (target, draft) in with_targets(num_samples, 2, seed):
        refine = prompt + draft + request
        examples += [Tokens(prompt + target, len(prompt), name), Tokens(refine + target, len(refine), name)]
    return examples


def four_targets(num_samples: int, *, seed: int = 0) -> list[Tokens]:
    """Prompts with four random targets each."""
    return [
        Tokens(prompt + target, len(prompt), name)
        for name, prompt, targets in with_targets(num_samples, NUM_TARGETS, seed)
        for target in targets
    ]


def with_targets(num_samples: int, num_targets: int, seed: int) -> Iterator[tuple[str, list[int], list[list[int]]]]:
    """Ids of samples, prompts of the tool world of all lengths between 300 and 600 tokens, and random targets."""
    chat = Chat(make_tokenizer(), PromptConfig())
    generator = torch.Generator().manual_seed(seed)
    for place in range(num_samples):
        least = 300 + 300 * place // num_samples
        (sample,) = make_samples(1, range(least, least + 60), seed=seed + place)
        targets = torch.randint(2, 500, (num_targets, TARGET_TOKENS), generator=generator).tolist()
        yield sample.id, chat.prompt_ids(sample.messages, sample.tools), targets


def our_side(shape: str, examples: Sequence[Tokens], dtype: Dtype, packing: bool) -> Work:
    """Toolrefine's training, one epoch."""
    settings = SftConfig(
        batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, dtype=dtype, packing=packing, checkpoint_steps=10**6
    )
    model = make_model(shape, device="cuda" if torch.cuda.is_available() else "cpu", ends="by chance").train()

    def work() -> Facts:
        with tempfile.TemporaryDirectory() as folder:
            num_steps = len(examples) // BATCH_SIZE
            trainer = make_trainer(model, examples, settings, Path(folder), num_steps=num_steps, seed=0, pad_id=PAD_ID)
            return timed_training(trainer)

    return work


def trl_side(shape: str, examples: Sequence[Tokens], candidates: Sequence[TrlSettings]) -> Work:
    """TRL's training, one epoch, with the settings that are fastest on one step."""
    model = make_model(shape, device="cuda" if torch.cuda.is_available() else "cpu", ends="by chance").train()
    best = candidates[0]
    if len(candidates) > 1:
        few = list(islice(examples, BATCH_SIZE))
        best = min(candidates, key=lambda each: float(trl_work(model, few, each)["seconds"]))

    def work() -> Facts:
        return {**trl_work(model, examples, best), "settings": str(best)}

    return work


def trl_work(model: Any, examples: Sequence[Tokens], settings: TrlSettings) -> dict[str, Any]:
    """One epoch of TRL."""
    from datasets import Dataset
    from datasets.utils import disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    rows = [
        {"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start), "length": len(ids)}
        for ids, start, _ in examples
    ]
    with tempfile.TemporaryDirectory() as folder:
        packing = settings.layout == "packing"
        trainer = SFTTrainer(
            model=model,
            processing_class=make_tokenizer(),
            train_dataset=Dataset.from_list(rows),
            args=SFTConfig(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=settings.batch_size,
                gradient_accumulation_steps=1 if packing else BATCH_SIZE // settings.batch_size,
                train_sampling_strategy="random" if packing else "group_by_length",
                packing=packing,
                padding_free=settings.layout == "padding_free",
                max_length=4096 if packing else None,
                completion_only_loss=True,
                gradient_checkpointing=False,
                learning_rate=LEARNING_RATE,
                bf16=settings.dtype == "bfloat16",
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        return timed_training(trainer)


def timed_training(trainer: Any) -> dict[str, Any]:
    """The seconds of training alone, on both sides: tokenized rows and models are there."""
    start = time.perf_counter()
    trainer.train()
    return {"seconds": time.perf_counter() - start, "loss": round(trainer.state.log_history[-1]["train_loss"], 4)}


def gradient_difference(shape: str, examples: Sequence[Tokens]) -> float:
    """The largest difference of a gradient between packed and separate rows, in float32."""
    model = make_model(shape, ends="by chance").train()
    model(**pad(examples, PAD_ID)).loss.backward()
    separate = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    switch_to_packing(model, max(len(example.ids) for example in examples), partial(pad, pad_id=PAD_ID))
    model(**pack_for_targets(examples)).loss.backward()
    packed = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return max(float((one - other).abs().max()) for one, other in zip(separate, packed, strict=True))


def sft_row(shape: str = "30M", num_samples: int = 8, *, rounds: int = 3, budget_s: float = 0.0) -> Row:
    """The refinement corpus of one iteration, each side at its best."""
    examples = corpus(num_samples)
    timings = measure(
        {
            "ours": partial(our_side, shape, examples, "bfloat16", True),
            "peer": partial(trl_side, shape, examples, CANDIDATES),
        },
        rounds=rounds,
        budget_s=budget_s,
    )
    return make_row(
        f"SFT, {shape}, the refinement corpus of one iteration, against TRL",
        timings["ours"],
        timings["peer"],
        at_least=2.8,
        note=f"ours packed, bfloat16; TRL: {timings['peer'].facts['settings']}",
    )


def packing_row(shape: str = "30M", num_samples: int = 4, *, rounds: int = 3, budget_s: float = 0.0) -> Row:
    """Four targets a prompt, packed and separate, in float32."""
    examples = four_targets(num_samples)
    difference = gradient_difference(shape, examples[:NUM_TARGETS])
    return compare(
        f"packing, {shape}, {NUM_TARGETS} targets a prompt, against separate rows",
        partial(our_side, shape, examples, "float32", True),
        partial(our_side, shape, examples, "float32", False),
        at_least=2.5,
        rounds=rounds,
        budget_s=budget_s,
        note=f"float32, gradients within {difference:.0e}",
    )


def main() -> None:
    """Every setting of TRL's on one step, ours beside it."""
    examples = corpus(BATCH_SIZE // 2)
    print(describe_machine())
    for dtype in ("float32", "bfloat16"):
        print(f"ours, {dtype}", our_side("30M", examples, dtype, True)(), flush=True)
    model = make_model("30M", ends="by chance").train()
    for settings in ALL:
        print(settings, trl_work(model, examples, settings), flush=True)


if __name__ == "__main__":
    main()
