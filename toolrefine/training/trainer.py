"""One supervised fine-tuning with the Hugging Face Trainer."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import get_reporting_integration_callbacks

from toolrefine.chat import Chat
from toolrefine.config import Config, LoraConfig, SftConfig
from toolrefine.errors import ConfigError, ExampleError, WorkError
from toolrefine.models import (
    check_ids,
    eos_token_ids,
    load_model,
    load_outline,
    load_tokenizer,
    resolve_device,
    save_prompt,
)
from toolrefine.rundir import Progress, read_json, write_json
from toolrefine.seeds import derive_seed
from toolrefine.training import CHECKPOINTS, FACTS
from toolrefine.training.batches import choose_collator, pack_for_targets, schedule
from toolrefine.training.packing import Tokens
from toolrefine.types import Checkpoint, Example

log = logging.getLogger(__name__)

CPU_NUMBERS = 4_096 * 512
"""Tokens times hidden size of one forward pass on a CPU: with 8,700 tokens of a model of width 512 a token was measured
to take 1.4 times as long, as its activations no longer fit into memory that the allocator keeps."""


def fit(
    partial: Path,
    final: Path,
    base: Checkpoint,
    corpus: Sequence[Example],
    config: Config,
    *,
    iteration: int,
    progress: Progress,
    max_steps: int | None,
) -> None:
    """See toolrefine.training.sft. Checkpoints stay beside the model; the facts of the training are written last."""
    started = time.monotonic()
    settings = config.sft
    device = resolve_device(settings.device)
    tokenizer = load_tokenizer(base, trust_remote_code=settings.trust_remote_code)
    seed = derive_seed(config.seed, "sft", iteration) % 2**32
    set_seed(seed)  # a new adapter is drawn
    model = load_trainable(base, settings, device)
    chat = Chat(tokenizer, config.prompt, eos_token_ids(model, tokenizer))
    rows = tokenize(corpus, chat)
    kept = [row for row in rows if len(row.ids) <= settings.max_length]
    if not kept:
        raise WorkError(
            f"no example of {len(corpus)} has at most sft.max_length={settings.max_length} tokens; raise it"
        )
    for row in kept:
        check_ids(row.ids, model, tokenizer, row.sample_id)
    rows_a_step = settings.batch_size * settings.gradient_accumulation
    num_steps = max_steps or settings.max_steps or math.ceil(len(kept) * settings.num_epochs / rows_a_step)
    trainer = make_trainer(
        model, kept, settings, partial / CHECKPOINTS, num_steps=num_steps, seed=seed, pad_id=tokenizer.pad_token_id
    )
    if settings.lr_span == "run" and iteration and not settings.restart:  # the baseline is no iteration
        trainer.lr_part = (iteration - 1, config.num_iterations)
    trainer.add_callback(Steps(progress))
    progress.begin(f"{final.parent.name}/model", num_steps)
    trainer.train(resume_from_checkpoint=newest_checkpoint(partial / CHECKPOINTS))
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(partial)
    order_modules(partial / "adapter_config.json")
    tokenizer.save_pretrained(partial)
    save_prompt(partial, config.prompt)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    write_json(
        partial / FACTS,
        {
            "num_steps": num_steps,
            "num_examples": len(kept),
            "num_left_out": len(corpus) - len(kept),
            "packed": trainer.data_collator is pack_for_targets,
            "first_loss": losses[0] if losses else None,
            "final_loss": losses[-1] if losses else None,
            "wall_s": round(time.monotonic() - started, 2),
        },
    )


def order_modules(path: Path) -> None:
    """Put the modules of an adapter in order, if there is one: PEFT writes a set, in another order in every process."""
    if path.exists():
        adapter = read_json(path)
        if isinstance(adapter["target_modules"], list):
            write_json(path, {**adapter, "target_modules": sorted(adapter["target_modules"])})


def make_trainer(
    model: Any, examples: Sequence[Tokens], settings: SftConfig, out: Path, *, num_steps: int, seed: int, pad_id: int
) -> SequentialTrainer:
    """A Trainer over the schedule of these examples, which writes its checkpoints to a folder."""
    most = (
        CPU_NUMBERS // getattr(model.config.get_text_config(), "hidden_size", 512)
        if model.device.type == "cpu"
        else None
    )
    size = batch_at_once(examples, settings.batch_size, most)
    accumulation = settings.gradient_accumulation * settings.batch_size // size
    settings = settings.model_copy(update={"batch_size": size, "gradient_accumulation": accumulation})
    scheduled = [examples[i] for i in schedule(examples, size, num_steps, seed, gradient_accumulation=accumulation)]
    batches = [scheduled[i : i + size] for i in range(0, len(scheduled), size)]
    trainer = SequentialTrainer(
        model=model,
        args=training_arguments(out, settings, model.device.type, num_steps, seed),
        train_dataset=scheduled,
        data_collator=choose_collator(model, batches, settings.packing, pad_id),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def batch_at_once(examples: Sequence[Tokens], batch_size: int, max_tokens: int | None) -> int:
    """The largest divisor of a batch size whose examples have at most max_tokens tokens on average.

    The gradients of the parts are added up, and the loss is that of the whole step all the same.
    """
    if max_tokens is None:
        return batch_size
    fitting = max_tokens * len(examples) // sum(len(example.ids) for example in examples)
    return max((size for size in range(1, fitting + 1) if batch_size % size == 0), default=1)


def tokenize(corpus: Sequence[Example], chat: Chat) -> list[Tokens]:
    """Examples as Chat.example_ids gives them, without those that the template cannot say.

    Raises:
        TemplateError: the template cannot be trained on, or can say no example.
    """
    rows: list[Tokens] = []
    faults: list[ExampleError] = []
    for example in corpus:
        try:
            rows.append(Tokens(*chat.example_ids(example), example.sample_id))
        except ExampleError as error:
            faults.append(error)
    if faults:
        log.warning("%d of %d examples are left out of training; the first: %s", len(faults), len(corpus), faults[0])
        if not rows:
            raise faults[0]
    return rows


def load_trainable(base: Checkpoint, settings: SftConfig, device: str) -> Any:
    """The model to train: whole, or frozen under a new or continued adapter."""
    half = settings.lora is not None and (
        settings.dtype == "bfloat16" or (settings.dtype == "auto" and device != "cpu")
    )
    if settings.lora is None and base.adapter is not None:
        raise WorkError(f"{base.adapter} is an adapter; set sft.lora to train it further, or sft.restart=true")
    model = load_model(
        base,
        dtype="bfloat16" if half else "float32",
        device=device,
        trust_remote_code=settings.trust_remote_code,
        trainable=True,
    )
    if settings.lora is not None and base.adapter is None:
        model = add_adapter(model, settings.lora)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return model


def add_adapter(model: Any, lora: LoraConfig) -> Any:
    """The model, frozen, under a new adapter.

    Raises:
        ConfigError: it has no such modules, or PEFT cannot adapt them.
    """
    import peft

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
    )
    try:
        return peft.get_peft_model(model, adapter)
    except (ValueError, re.error) as error:
        raise ConfigError(
            f"sft.lora.target_modules={json.dumps(targets)}: {error} Name linear modules of the model, such as "
            '["q_proj", "v_proj"]'
        ) from error


def check_settings(base: Checkpoint, settings: SftConfig) -> None:
    """Make sure of the settings that only the libraries can judge: the modules of an adapter, and the trackers.

    Raises:
        ConfigError: they cannot be used.
    """
    if settings.lora is not None:
        add_adapter(load_outline(base, trust_remote_code=settings.trust_remote_code), settings.lora)
    for name in {*settings.report_to} - {"none", "all"}:
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"sft.report_to={name}: {error} Install what it needs, or leave it out") from error


def training_arguments(out: Path, settings: SftConfig, device: str, num_steps: int, seed: int) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    mixed = settings.dtype == "bfloat16" or (settings.dtype == "auto" and multiplies_bfloat16(device))
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=num_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        bf16=mixed,
        use_cpu=device == "cpu",
        seed=seed,
        data_seed=seed,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=max(1, num_steps // 20),
        logging_nan_inf_filter=False,
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device != "cpu",
    )
    # The Trainer would split every batch over all GPUs that it sees (DataParallel); the schedule is made for one.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device multiplies matrices of bfloat16 by instructions of its own, and so faster than of float32."""
    if device != "cpu":
        return True
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


class SequentialTrainer(Trainer):
    """A Trainer that takes the rows as they come: their order is the schedule."""

    lr_part = (0, 1)
    """Which part of the learning rate's schedule this training is, from 0, of how many that are as long."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's, for all parts, at the beginning of this one."""
        part, num_parts = self.lr_part
        for group in (optimizer or self.optimizer).param_groups:
            group["initial_lr"] = group["lr"]  # what a scheduler needs that does not begin at 0
        self.args.lr_scheduler_kwargs = {"last_epoch": part * num_training_steps - 1}
        return super().create_scheduler(num_parts * num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)


class Steps(TrainerCallback):
    """Passes the Trainer's steps on."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One optimizer step is done."""
        self.progress.advance(state.global_step)


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written whole (its state file is written last), torn ones being deleted."""
    if not folder.exists():
        return None
    whole = []
    for path in folder.glob("checkpoint-*"):
        try:
            whole.append((json.loads((path / "trainer_state.json").read_text())["global_step"], path))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path, ignore_errors=True)
    return str(max(whole)[1]) if whole else None
