"""Train nano, the small base model that toolrefine ships, from scratch on a CPU.

    python scripts/train_nano.py --minutes 50 --out build/nano [--real ../shared/data/train.jsonl.gz]

It learns from tool-world domains that the demo never uses, from endless made-up domains, and, where --real names a
canonical file, from its first rows (recipes/real.toml trains on later ones). The learning rate follows the clock:
warm up, hold, then fall to zero over the last part of the time. Killed, the same command goes on from the newest
checkpoint; --publish copies the result over toolrefine/nano.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from toolrefine.chat import Chat
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.datasets.toolworld import generate, served_exchange, unserved_exchange
from toolrefine.datasets.toolworld_domains import get_domain
from toolrefine.datasets.wrong_labels import make_wrong
from toolrefine.engines import SamplingParams
from toolrefine.engines.transformers import TransformersEngine
from toolrefine.formats import get_format
from toolrefine.matching import score
from toolrefine.nano import NANO_DIR
from toolrefine.rollout import to_prompt
from toolrefine.types import Example, Message, Sample, Tool, ToolCall

TRAIN_DOMAINS = ["dining", "travel", "smarthome", "finance", "clinic", "logistics", "music", "office", "farm"]
HELD_OUT_DOMAINS = ["museum", "observatory"]
REAL_ROWS = 8_000
ROLES = ["<|tools|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
VOCABULARY = 512
MAX_TOKENS = 1_024
BATCH_TOKENS = 2_048
"""Of each worker."""
SHARD = 384
SPLICED_SHARE, REAL_SHARE = 0.63, 0.25
"""The rest is of TRAIN_DOMAINS."""
REFINE_SHARE = 0.3
HISTORY_SHARE = 0.5
"""Conversations with other requests before them: several targets for one listing of the tools."""
UNSERVED_SHARE = 0.3
"""Of those requests: without them a first request would nearly always be one to serve."""
SYSTEM_SHARE = 0.1
"""Of spliced worlds: tools as JSON in the system message, as prompt.style = "system" writes them."""
FIRST_TOKEN_WEIGHT = 4.0
"""The first token of a turn decides whether to call at all, and is one of thirty."""
EASY_SHARDS = 24
PROMPT = PromptConfig()

Row = tuple[list[int], list[int]]
"""Token ids and labels of one conversation."""


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.start:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(arguments.start / name, arguments.out / name)
    load_or_train_tokenizer(arguments.out, read_real(arguments.real) if arguments.real else [])
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (arguments, f"file://{folder}/rendezvous"), arguments.workers)
    if arguments.publish:
        for name in (
            "model.safetensors",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "curve.jsonl",
        ):
            shutil.copy(arguments.out / name, NANO_DIR / name)


def train(rank: int, arguments: argparse.Namespace, rendezvous: str) -> None:
    """One of the workers, each on one core: they train on batches of their own and average their gradients.

    For a model this small that is twice as fast as one process with as many threads.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=arguments.workers)
    real = read_real(arguments.real) if arguments.real else []
    tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.out)
    state_path = arguments.out / "state.pt"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model_config(tokenizer, arguments))
    parameters = list(model.parameters())
    optimizers = build_optimizers(model, arguments.rate)
    step = num_tokens = 0
    shard = EASY_SHARDS if arguments.start else 0
    elapsed = 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, shard, num_tokens, elapsed = state["step"], state["shard"], state["num_tokens"], state["elapsed"]
    elif arguments.start:
        take_over(AutoModelForCausalLM.from_pretrained(arguments.start), model, probe(tokenizer))
    report(rank, f"{sum(p.numel() for p in parameters):,} parameters, from step {step}")
    batches = Batches(tokenizer, real, shard + rank, arguments.workers)
    budget = arguments.minutes * 60
    started = time.monotonic() - elapsed
    saved_at = elapsed
    losses: list[float] = []
    for shard, ids, labels in DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=16):
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
            wanted = labels[:, 1:] != -100
            logits = model.lm_head(hidden[wanted])
        weights = 1 + (FIRST_TOKEN_WEIGHT - 1) * (wanted & (labels[:, :-1] == -100))[wanted]
        losses_of_tokens = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="none")
        loss = (losses_of_tokens * weights).sum()
        loss.backward()
        # One message: gradients, and what every worker must agree on. Rank 0's clock counts.
        clock = time.monotonic() - started if rank == 0 else 0.0
        sums = torch.tensor([loss.item(), weights.sum(), ids.numel(), clock], dtype=torch.float64)
        message = torch.cat([*(p.grad.flatten() for p in parameters), sums.float()])
        dist.all_reduce(message)
        total_loss, num_targets, batch_tokens, elapsed = message[-4:].tolist()
        gradients = message[:-4].div_(num_targets).split([p.numel() for p in parameters])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scale = learning_rate_scale(step, elapsed / budget)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        num_tokens += round(batch_tokens)
        losses.append(total_loss / num_targets)
        recent = sum(losses[-100:]) / len(losses[-100:])
        if step % 100 == 0:
            report(rank, f"{elapsed:6.0f} s  step {step}  {num_tokens / 1e6:.1f} M tokens  loss {recent:.4f}")
        finished = elapsed >= budget
        if finished or elapsed - saved_at > 600:
            saved_at = elapsed
            scores = evaluate(model, tokenizer, HELD_OUT_DOMAINS[rank :: arguments.workers])
            if rank == 0:
                save_state(
                    state_path,
                    {
                        "model": model.state_dict(),
                        "optimizers": [o.state_dict() for o in optimizers],
                        "step": step,
                        "shard": shard + arguments.workers,
                        "num_tokens": num_tokens,
                        "elapsed": elapsed,
                    },
                )
                model.save_pretrained(arguments.out)
                record = {
                    "step": step,
                    "tokens": num_tokens,
                    "seconds": round(elapsed),
                    "loss": round(recent, 4),
                    "exact_match": scores,
                }
                report(rank, json.dumps(record))
                with (arguments.out / "curve.jsonl").open("a") as curve:
                    curve.write(json.dumps(record) + "\n")
            started = time.monotonic() - elapsed  # evaluation is not training time
        if finished:
            break
    dist.barrier()


def report(rank: int, line: str) -> None:
    if rank == 0:
        print(line, flush=True)


def save_state(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/nano"))
    parser.add_argument("--real", type=Path)
    parser.add_argument("--workers", type=int, default=4, help="processes, one core each")
    parser.add_argument("--family", choices=["qwen3", "llama"], default="qwen3", help="of other bases than nano")
    parser.add_argument("--width", type=int, default=192, help="of the model; a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--start", type=Path, help="take over the weights of this model of the same width")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of all learning rates")
    parser.add_argument("--publish", action="store_true")
    return parser.parse_args()


def model_config(tokenizer: PreTrainedTokenizerFast, arguments: argparse.Namespace) -> PretrainedConfig:
    family = Qwen3Config if arguments.family == "qwen3" else LlamaConfig
    return family(
        vocab_size=VOCABULARY,
        hidden_size=arguments.width,
        intermediate_size=arguments.width * 8 // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 32,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def take_over(source: PreTrainedModel, model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Start a model of another depth or family with the weights of one of the same width.

    A shallower model takes layers at even distances, the first and the last among them; a deeper one puts layers
    that add nothing yet between those of the source. A Llama has no norms of queries and keys: their weights, and
    their mean over the tokens ids (batch, length), go into the projections.
    """
    weights = source.state_dict()
    if source.config.model_type == "qwen3" and model.config.model_type == "llama":
        fold_norms(source, weights, ids)
    ours, theirs = model.config.num_hidden_layers, source.config.num_hidden_layers
    places = [round(layer * (theirs - 1) / (ours - 1)) for layer in range(ours)]
    taken = {name: tensor for name, tensor in weights.items() if ".layers." not in name}
    for layer, place in enumerate(places):
        prefix = f"model.layers.{place}."
        is_new = place in places[:layer]
        for name, tensor in weights.items():
            if name.startswith(prefix):
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                value = torch.zeros_like(tensor) if is_new and adds else tensor
                taken[f"model.layers.{layer}.{name.removeprefix(prefix)}"] = value
    missing, unexpected = model.load_state_dict(taken, strict=False)
    if missing or unexpected:
        raise ValueError(f"no weights for {missing}, no place for {unexpected}")


def fold_norms(source: PreTrainedModel, weights: dict[str, torch.Tensor], ids: torch.Tensor) -> None:
    """Write the norms of queries and keys into their projections, as a mean over the tokens ids (batch, length)."""
    scales: dict[str, torch.Tensor] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in source.named_modules():
            if name.endswith(("q_norm", "k_norm")):
                # heads (batch, length, heads, head_dim) -> (heads, 1)
                def note(_: Any, heads: tuple[torch.Tensor], __: Any, name: str = name) -> None:
                    scales[name] = heads[0].pow(2).mean(-1, keepdim=True).rsqrt().mean((0, 1))

                hooks.callback(module.register_forward_hook(note).remove)
        source(ids)
    for name, scale in scales.items():
        projection = name.replace("_norm", "_proj") + ".weight"
        rows = scale * weights.pop(f"{name}.weight")  # (heads, head_dim)
        weights[projection] = weights[projection] * rows.reshape(-1, 1)


def probe(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Token ids (batch, length) of some shards' beginning."""
    _, ids, _ = next(iter(Batches(tokenizer, [], EASY_SHARDS, 1)))
    return ids


def build_optimizers(model: PreTrainedModel, rate: float) -> list[torch.optim.Optimizer]:
    """Muon drives the matrices, AdamW embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01)
    adamw = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak_lr"] = rate * group["lr"]
    return [muon, adamw]


def learning_rate_scale(step: int, progress: float) -> float:
    """Warm-up over 100 steps, constant, then a cosine to zero over the last 40 % of the time."""
    warm = min(1.0, (step + 1) / 100)
    fall = max(0.0, (progress - 0.6) / 0.4)
    return warm * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))


def read_real(path: Path) -> list[Sample]:
    samples = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in islice(lines, REAL_ROWS):
            row = json.loads(line)
            messages = [real_message(m) for m in row["messages"]]
            tools = tuple(Tool(**t["function"]) for t in row["tools"])
            calls = tuple(ToolCall(**c) for c in row["target"])
            target = Message(role="assistant", tool_calls=calls, content="" if calls else PROMPT.no_call_text)
            samples.append(Sample(id=row["id"], messages=tuple(messages), tools=tools, target=target))
    return samples


def real_message(message: dict[str, Any]) -> Message:
    calls = [c["function"] for c in message.get("tool_calls") or []]
    return Message(
        role=message["role"],
        content=message.get("content") or "",
        tool_calls=tuple(ToolCall(name=c["name"], arguments=json.loads(c["arguments"])) for c in calls),
    )


def load_or_train_tokenizer(out: Path, real: list[Sample]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred tokens; words, single digits, blanks and punctuation never share a token."""
    if (out / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(out)
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r"\p{Lu}?\p{Ll}+|\p{Lu}+|\p{N}|\s|[^\p{L}\p{N}\s]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", *ROLES]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    samples = [s for d in TRAIN_DOMAINS for s in generate(d, 300, 1)]
    samples += [s for n in range(300) for s in generate(f"spliced-{n}", 5, 1)] + real[:3000]
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    bare.chat_template = (NANO_DIR / "chat_template.jinja").read_text()
    tokenizer.train_from_iterator((render(bare, s.messages, s.tools, s.target)[1] for s in samples), trainer)
    trained = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=ROLES,
        model_max_length=4096,
    )
    trained.chat_template = bare.chat_template
    trained.save_pretrained(out)
    return trained


def render(tokenizer: PreTrainedTokenizerFast, messages: Any, tools: Any, target: Message) -> tuple[str, str]:
    """The prompt and the target turn as text."""

    def turn(m: Message) -> dict[str, Any]:
        calls = [{"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in m.tool_calls]
        return {"role": m.role, "content": m.content, **({"tool_calls": calls} if calls else {})}

    functions = [{"type": "function", "function": t.model_dump()} for t in tools]
    turns = [turn(m) for m in messages]
    prompt = tokenizer.apply_chat_template(turns, tools=functions, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, turn(target)], tools=functions, tokenize=False)
    assert whole.startswith(prompt)
    return prompt, whole


class Batches(IterableDataset):
    """Endless (shard, ids, labels): shard N holds the same batches whenever it is asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, real: list[Sample], first_shard: int, stride: int) -> None:
        self.tokenizer, self.real, self.first_shard, self.stride = tokenizer, real, first_shard, stride

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        torch.set_num_threads(1)
        chat = Chat(self.tokenizer, PromptConfig(style="system"))
        for shard in count(self.first_shard, self.stride):
            rng = Random(f"nano/{shard}")
            rows = []
            while len(rows) < SHARD:
                for sample, domain in self.draw(rng, easy=shard < EASY_SHARDS):
                    sample, messages = as_example(sample, domain, rng)
                    in_system = domain.startswith("spliced") and rng.random() < SYSTEM_SHARE
                    rows.append(
                        tokenize_in_system(chat, sample, messages) if in_system else self.tokenize(sample, messages)
                    )
                get_domain.cache_clear()
            rows = sorted((r for r in rows if len(r[0]) <= MAX_TOKENS), key=lambda r: len(r[0]))
            batches, batch = [], []
            for row in rows:
                if batch and (len(batch) + 1) * len(row[0]) > BATCH_TOKENS:
                    batches.append(batch)
                    batch = []
                batch.append(row)
            batches.append(batch)
            rng.shuffle(batches)
            for batch in batches:
                yield shard, *self.pad(batch)

    def draw(self, rng: Random, *, easy: bool) -> list[tuple[Sample, str]]:
        chance = rng.random()
        seed = rng.randrange(10**9)
        if easy or chance < SPLICED_SHARE:
            domain = f"spliced-{seed}"
        elif chance < SPLICED_SHARE + REAL_SHARE and self.real:
            return [(s, "") for s in rng.choices(self.real, k=3)]
        else:
            domain = rng.choice(TRAIN_DOMAINS)
        samples = list(generate(domain, 4, seed))
        if easy:
            samples = [s for s in samples if len(s.tools) <= 3 and s.kind == "single" and len(s.messages) == 1]
        return [(s, domain) for s in samples]

    def tokenize(self, sample: Sample, messages: tuple[Message, ...]) -> Row:
        """Token ids and labels; every turn that calls tools, or says why not, is learned, and the target."""
        turns = (*messages, sample.target)
        ids: list[int] = []
        labels: list[int] = []
        done = ""
        for index, turn in enumerate(turns):
            if index == len(turns) - 1 or (turn.role == "assistant" and is_lesson(sample, turns, index)):
                prompt, whole = render(self.tokenizer, turns[:index], sample.tools, turn)
                head = self.tokenizer.encode(prompt.removeprefix(done), add_special_tokens=False)
                tail = self.tokenizer.encode(whole.removeprefix(prompt), add_special_tokens=False)
                ids += head + tail
                labels += [-100] * len(head) + tail
                done = whole
        return ids, labels

    def pad(self, batch: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.full((len(batch), longest), self.tokenizer.pad_token_id)
        labels = torch.full((len(batch), longest), -100)
        for row, (tokens, wanted) in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, : len(tokens)] = torch.tensor(wanted)
        return ids, labels


def tokenize_in_system(chat: Chat, sample: Sample, messages: tuple[Message, ...]) -> Row:
    """Token ids and labels of the target alone; tools and calls are text."""
    ids, start = chat.example_ids(
        Example(
            id=sample.id,
            sample_id=sample.id,
            kind="direct",
            messages=messages,
            tools=sample.tools,
            target=sample.target,
        )
    )
    return ids, [-100] * start + ids[start:]


def as_example(sample: Sample, domain: str, rng: Random) -> tuple[Sample, tuple[Message, ...]]:
    """The sample's prompt, or, for a share, a refinement prompt with a draft that is right half of the time."""
    if domain and rng.random() < HISTORY_SHARE:
        world = get_domain(domain)
        offered = [w for w in world.tools if w.tool in sample.tools]
        history: list[Message] = []
        for _ in range(rng.choice([1, 2, 3])):
            if rng.random() < UNSERVED_SHARE:
                history += unserved_exchange(rng, world, offered)
            else:
                history += served_exchange(rng, rng.choice(offered))
        return sample, (*history, *sample.messages)
    if rng.random() >= REFINE_SHARE:
        return sample, sample.messages
    draft = sample.target
    if rng.random() < 0.5:
        if domain and rng.random() < 0.4:
            draft = make_wrong(sample, rng, get_domain(domain)).target
        elif draft.tool_calls:
            text = misspell(get_format("pythonic").render(draft.tool_calls), rng)
            draft = Message(role="assistant", content=text)
    return sample, (*sample.messages, draft, Message(role="user", content=PROMPT.refine))


def is_lesson(sample: Sample, turns: tuple[Message, ...], index: int) -> bool:
    """Whether to learn an earlier turn: one that decides about tools, and no draft, which may be wrong."""
    decides = turns[index].tool_calls or (sample.source == "toolworld" and turns[index - 1].role == "user")
    return bool(decides) and turns[index + 1].content != PROMPT.refine


def misspell(text: str, rng: Random) -> str:
    """Drop, double or swap one or two letters: how a small model mis-copies."""
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.choice([i for i, c in enumerate(text) if c.isalnum()])
        text = text[:at] + rng.choice(["", text[at] * 2, rng.choice("abcdeinorst0123")]) + text[at + 1 :]
    return text


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, domains: list[str], size: int = 150
) -> dict[str, float]:
    """Exact match, greedy, on held-out domains; the workers share the domains."""
    engine = TransformersEngine(copy.deepcopy(model).eval(), tokenizer, EngineConfig(), PROMPT)
    scores = {}
    for domain in domains:
        samples = list(generate(domain, size, 7))
        answers = engine.sample([to_prompt(s) for s in samples], 1, SamplingParams(temperature=0.0, max_new_tokens=120))
        right = sum(score(answer, s).correct for s, (answer,) in zip(samples, answers, strict=True))
        scores[domain] = round(right / size, 4)
    gathered: list[dict[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(gathered, scores)
    return {domain: value for part in gathered for domain, value in part.items()}


if __name__ == "__main__":
    main()
