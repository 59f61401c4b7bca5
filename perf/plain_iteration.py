"""One iteration of ToolACE-R written plainly, with Hugging Face's generate and TRL's SFTTrainer.

    python -m perf.plain_iteration

Rollouts, selection, corpus, training and an evaluation with one refinement round, as one writes them in an afternoon
who knows both libraries: batches sorted by length, the loss on completions alone, bfloat16 where it helps. Parser,
matcher and corpus are toolrefine's, so that the work is the same.
"""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from perf.peers import Settings, cut, generate
from toolrefine.chat import Chat
from toolrefine.config import CorpusConfig, PromptConfig, SelectionConfig
from toolrefine.corpus import build_corpus, refine_messages
from toolrefine.datasets.toolworld import generate as generate_samples
from toolrefine.matching import score
from toolrefine.nano import NANO_DIR
from toolrefine.selection import select
from toolrefine.types import Completion, Example, Group, Message, Record, Sample


class IterationTask(Record):
    """One iteration of nano on a domain of the tool world."""

    domain: str = "observatory"
    pool_size: int = 64
    pool_seed: int = 1
    held_out_size: int = 64
    held_out_seed: int = 2
    wrong_label_rate: float = 0.2
    k: int = 8
    max_new_tokens: int = 96
    num_steps: int = 10
    batch_size: int = 16
    learning_rate: float = 1e-3


PROMPT = PromptConfig()


def run_iteration(task: IterationTask, folder: Path, sampling: Settings, greedy: Settings) -> dict[str, Any]:
    """The whole iteration; returns counts, and the seconds of its parts."""
    times = [time.perf_counter()]
    model = AutoModelForCausalLM.from_pretrained(NANO_DIR, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(NANO_DIR)
    chat = Chat(tokenizer, PROMPT)
    torch.manual_seed(0)

    pool = list(generate_samples(task.domain, task.pool_size, task.pool_seed, task.wrong_label_rate))
    answers = answer(model, chat, [(s.messages, s) for s in pool], task.k, task.max_new_tokens, sampling)
    groups = [
        Group(sample_id=s.id, completions=tuple(group), scores=tuple(score(c, s) for c in group))
        for s, group in zip(pool, answers, strict=True)
    ]
    times.append(time.perf_counter())

    selected = select(pool, groups, SelectionConfig())
    corpus = build_corpus(pool, selected, groups, CorpusConfig(), PROMPT, seed=0)

    model = train(model, tokenizer, chat, corpus, task, folder)
    times.append(time.perf_counter())

    held_out = list(generate_samples(task.domain, task.held_out_size, task.held_out_seed))
    drafts = answer(model, chat, [(s.messages, s) for s in held_out], 1, task.max_new_tokens, greedy)
    refine = [(refine_messages(s.messages, draft, PROMPT), s) for s, (draft,) in zip(held_out, drafts, strict=True)]
    finals = answer(model, chat, refine, 1, task.max_new_tokens, greedy)
    times.append(time.perf_counter())
    return {
        "parts_s": [round(end - start, 1) for start, end in pairwise(times)],
        "corpus": len(corpus),
        "right_drafts": sum(score(draft, s).correct for s, (draft,) in zip(held_out, drafts, strict=True)),
        "right_finals": sum(score(final, s).correct for s, (final,) in zip(held_out, finals, strict=True)),
    }


def answer(
    model: Any,
    chat: Chat,
    asked: list[tuple[tuple[Message, ...], Sample]],
    k: int,
    max_new_tokens: int,
    settings: Settings,
) -> list[list[Completion]]:
    """Completions of some conversations, parsed; one of each is greedy, more are sampled."""
    prompts = [chat.prompt_ids(messages, sample.tools) for messages, sample in asked]
    rows = generate(model, prompts, k, max_new_tokens, settings, greedy=k == 1)
    return [[read(chat, ids, sample) for ids in group] for group, (_, sample) in zip(rows, asked, strict=True)]


def read(chat: Chat, ids: list[int], sample: Sample) -> Completion:
    """One row of generate as a completion."""
    ids = cut(ids, chat.eos_ids)
    ended = ids[-1] in chat.eos_ids
    text = chat.tokenizer.decode(ids[:-1] if ended else ids, clean_up_tokenization_spaces=False)
    parsed = chat.parse(text, truncated=not ended, tools=sample.tools)
    return Completion(text=text, calls=parsed.calls, outcome=parsed.outcome, num_tokens=len(ids), mean_logprob=None)


def train(model: Any, tokenizer: Any, chat: Chat, corpus: list[Example], task: IterationTask, folder: Path) -> Any:
    """SFT on the completions alone."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = []
    for example in corpus:
        ids, start = chat.example_ids(example)
        rows.append({"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start), "length": len(ids)})
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=task.num_steps,
            per_device_train_batch_size=task.batch_size,
            train_sampling_strategy="group_by_length",
            learning_rate=task.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            completion_only_loss=True,
            max_length=None,
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def main() -> None:
    """Run it once and print what came out."""
    with tempfile.TemporaryDirectory() as folder:
        facts = run_iteration(IterationTask(), Path(folder), Settings(1), Settings(8))
    print(facts)


if __name__ == "__main__":
    main()
