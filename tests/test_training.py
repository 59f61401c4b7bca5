from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from toolrefine.chat import Chat
from toolrefine.config import Config, PromptConfig
from toolrefine.corpus import direct_corpus
from toolrefine.errors import RequestError, TemplateError, ToolrefineError, WorkError
from toolrefine.models import load_tokenizer
from toolrefine.rundir import Silent
from toolrefine.training import check_template, num_steps_of, sft, trainer
from toolrefine.training.batches import schedule
from toolrefine.training.packing import Tokens
from toolrefine.types import Checkpoint, Example, Message, Sample


def make_config(**changes: Any) -> Config:
    settings = {"learning_rate": 3e-3, "batch_size": 4, "max_steps": 6, "checkpoint_steps": 2, "device": "cpu"}
    dataset = {"format": "toolworld", "domain": "museum", "size": 3}
    return Config.model_validate({"model": "x", "datasets": [dataset], "sft": {**settings, **changes}})


def fit(folder: Path, base: Checkpoint, corpus: list[Example], config: Config, **options: Any) -> Checkpoint:
    final, partial = folder / "model", folder / "model.partial"
    partial.mkdir(parents=True, exist_ok=True)
    options = {"iteration": 1, "progress": Silent(), **options}
    checkpoint = sft(partial, final, base, corpus, config, **options)
    partial.replace(final)
    return checkpoint


@pytest.fixture
def corpus(samples: list[Sample]) -> list[Example]:
    return direct_corpus(samples, PromptConfig())


def test_full_training_lowers_the_loss_and_can_be_loaded(
    tmp_path: Path, tiny_model: Path, corpus: list[Example]
) -> None:
    checkpoint = fit(tmp_path, Checkpoint(model=str(tiny_model)), corpus, make_config(max_steps=40))
    facts = json.loads((tmp_path / "model/training.json").read_text())
    assert facts["final_loss"] < 0.7 * facts["first_loss"]
    assert num_steps_of(checkpoint) == 40
    assert load_tokenizer(checkpoint).chat_template
    assert not (tmp_path / "model/checkpoints").exists()


def test_lora_trains_an_adapter_and_goes_on_with_it(tmp_path: Path, tiny_llama: Path, corpus: list[Example]) -> None:
    config = make_config(lora={"rank": 4, "alpha": 8})
    first = fit(tmp_path / "1", Checkpoint(model=str(tiny_llama)), corpus, config)
    assert (first.model, first.adapter) == (str(tiny_llama), str(tmp_path / "1/model"))
    modules = json.loads((tmp_path / "1/model/adapter_config.json").read_text())["target_modules"]
    assert len(modules) > 3 and modules == sorted(modules)  # in one order in every process
    second = fit(tmp_path / "2", first, corpus, config)
    weights = [load_file(Path(str(c.adapter)) / "adapter_model.safetensors") for c in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])


class Kill(Silent):
    """Kills after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def advance(self, done: int) -> None:
        if done == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}], ids=["all weights", "lora"])
def test_a_training_leaves_nothing_in_memory(
    tmp_path: Path,
    tiny_model: Path,
    corpus: list[Example],
    monkeypatch: pytest.MonkeyPatch,
    lora: dict[str, int] | None,
) -> None:
    models: list[weakref.ref[Any]] = []
    load = trainer.load_trainable

    def watched(*arguments: Any) -> Any:
        model = load(*arguments)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(trainer, "load_trainable", watched)
    fit(tmp_path, Checkpoint(model=str(tiny_model)), corpus, make_config(max_steps=2, lora=lora))
    assert [model() for model in models] == [None]


@pytest.mark.parametrize("span", ["iteration", "run"])
def test_a_killed_training_ends_in_the_same_weights(
    tmp_path: Path, tiny_model: Path, corpus: list[Example], span: str
) -> None:
    base, config = Checkpoint(model=str(tiny_model)), make_config(lr_span=span)
    fit(tmp_path / "whole", base, corpus, config, iteration=2)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", base, corpus, config, iteration=2, progress=Kill(5))
    checkpoints = tmp_path / "killed/model.partial/checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    shutil.copytree(checkpoints / "checkpoint-4", checkpoints / "checkpoint-6")
    (checkpoints / "checkpoint-6/trainer_state.json").write_text('{"global_st')
    fit(tmp_path / "killed", base, corpus, config, iteration=2)
    files = [load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "killed")]
    assert all((files[0][name] == files[1][name]).all() for name in files[0])


def test_a_killed_training_goes_on_with_smaller_batches(
    tmp_path: Path, tiny_model: Path, corpus: list[Example]
) -> None:
    base, large = Checkpoint(model=str(tiny_model)), {"batch_size": 4, "gradient_accumulation": 1}
    small = {"batch_size": 2, "gradient_accumulation": 2}
    fit(tmp_path / "whole", base, corpus, make_config(**large))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", base, corpus, make_config(**large), progress=Kill(5))
    fit(tmp_path / "killed", base, corpus, make_config(**small))
    assert [num_steps_of(Checkpoint(model=str(tmp_path / name / "model"))) for name in ("whole", "killed")] == [6, 6]
    files = [load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "killed")]
    for name in files[0]:
        torch.testing.assert_close(files[0][name], files[1][name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
def test_a_schedule_over_the_run_is_that_of_one_long_training(
    tmp_path: Path, tiny_model: Path, corpus: list[Example], monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    rates: list[float] = []

    class Recording(trainer.SequentialTrainer):
        def training_step(self, *arguments: Any, **options: Any) -> Any:
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().training_step(*arguments, **options)

    def rates_of(iterations: Sequence[int], **changes: Any) -> list[float]:
        start = len(rates)
        config = make_config(lr_scheduler=scheduler, warmup_ratio=0.25, **changes)
        for t in iterations:
            fit(tmp_path / f"{len(rates)}", Checkpoint(model=str(tiny_model)), corpus, config, iteration=t)
        return rates[start:]

    monkeypatch.setattr(trainer, "SequentialTrainer", Recording)
    long = rates_of([1], max_steps=12)
    assert scheduler == "constant" or len({*long}) > 8
    assert rates_of([1, 2, 3], max_steps=4, lr_span="run") == pytest.approx(long)
    plain_sft = 0
    assert rates_of([plain_sft], max_steps=12, lr_span="run") == long
    assert rates_of([3], max_steps=12, lr_span="run", restart=True) == long


def test_a_kill_while_checkpoints_are_deleted_repeats_no_step(
    tmp_path: Path, tiny_model: Path, corpus: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = shutil.rmtree

    def tear(folder: Path | str, **options: Any) -> None:
        found = sorted(Path(folder).glob("checkpoint-*"))
        delete(found[0] if found else folder, **options)
        if found:
            raise KeyboardInterrupt

    base, config = Checkpoint(model=str(tiny_model)), make_config()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", tear)
        fit(tmp_path, base, corpus, config)
    facts = (tmp_path / "model.partial/training.json").read_bytes()
    fit(tmp_path, base, corpus, config)
    assert (tmp_path / "model/training.json").read_bytes() == facts
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files >= {"model.safetensors", "tokenizer.json"}
    assert not any((tmp_path / "model").rglob("checkpoint-*"))


@pytest.mark.parametrize("step", [1, 5])
def test_an_adapter_is_the_same_every_time_and_after_a_kill(
    tmp_path: Path, tiny_llama: Path, corpus: list[Example], step: int
) -> None:
    base, config = Checkpoint(model=str(tiny_llama)), make_config(lora={"rank": 4, "dropout": 0.1})
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", base, corpus, config, progress=Kill(step))
    adapters: list[dict[str, torch.Tensor]] = []
    for name in ("killed", "whole", "again"):
        torch.manual_seed(len(adapters))  # as a run does that has done other work before
        fit(tmp_path / name, base, corpus, config)
        adapters.append(load_file(tmp_path / name / "model/adapter_model.safetensors"))
    assert all((other[name] == adapters[0][name]).all() for other in adapters for name in adapters[0])


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_token_that_the_model_lacks_is_named(
    tmp_path: Path, corpus: list[Example], lora: dict[str, int] | None
) -> None:
    base = Checkpoint(model=str(make_tiny_model(tmp_path / "base")))
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens([f"<unused{i}>" for i in range(512)], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "base")
    question = Message(role="user", content="What is <unused500>?")
    strange = corpus[0].model_copy(update={"messages": (question,)})
    with pytest.raises(RequestError, match=rf"^{strange.sample_id}: holds '<unused500>'.* resize"):
        fit(tmp_path, base, [*corpus[1:], strange], make_config(lora=lora, max_steps=1))
    fit(tmp_path, base, corpus, make_config(lora=lora, max_steps=1))


def test_long_examples_are_left_out_and_counted(tmp_path: Path, tiny_model: Path, corpus: list[Example]) -> None:
    base = Checkpoint(model=str(tiny_model))
    lengths = sorted(len(Chat(load_tokenizer(base), PromptConfig()).example_ids(e)[0]) for e in corpus)
    fit(tmp_path, base, corpus, make_config(max_length=lengths[20], max_steps=1))
    facts = json.loads((tmp_path / "model/training.json").read_text())
    assert facts["num_examples"] == sum(length <= lengths[20] for length in lengths)
    assert facts["num_left_out"] + facts["num_examples"] == len(corpus)
    with pytest.raises(WorkError, match=r"sft\.max_length=16"):
        fit(tmp_path / "none", base, corpus, make_config(max_length=16))


@given(
    sizes=st.lists(st.lists(st.integers(2, 50), min_size=1, max_size=5), min_size=1, max_size=30),
    batch_size=st.integers(1, 7),
    accumulation=st.integers(1, 3),
    steps=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_the_schedule_visits_every_example_equally(
    sizes: list[list[int]], batch_size: int, accumulation: int, steps: int, seed: int
) -> None:
    examples = [Tokens([0] * size, 1, str(i)) for i, sample in enumerate(sizes) for size in sample]
    order = schedule(examples, batch_size, steps, seed, gradient_accumulation=accumulation)
    assert len(order) == batch_size * accumulation * steps
    counts = [order.count(i) for i in range(len(examples))]
    assert max(counts) - min(counts) <= 1
    assert order == schedule(examples, batch_size, steps, seed, gradient_accumulation=accumulation)


def test_samples_stay_whole_where_they_fit() -> None:
    sizes = [1 + i % 3 for i in range(60)]
    examples = [Tokens([0] * (50 + i), 1, str(i)) for i, size in enumerate(sizes) for _ in range(size)]
    order = schedule(examples, 8, 15, 0)
    batches = [[examples[i].sample_id for i in order[start : start + 8]] for start in range(0, 120, 8)]
    assert sum(len({*batch}) for batch in batches) <= 60 + 2


def test_steps_stay_alike_in_length_over_many_epochs() -> None:
    examples, rows = [Tokens([0] * (100 + 37 * i % 500), 1, str(i)) for i in range(250)], 16
    order = schedule(examples, rows, 78, 0)
    steps = [[len(examples[i].ids) for i in order[start : start + rows]] for start in range(0, len(order), rows)]
    assert sum(max(step) * rows for step in steps) < 1.1 * sum(map(sum, steps))


def test_the_mask_covers_the_target_turn_and_nothing_else(corpus: list[Example]) -> None:
    tokenizer = load_tokenizer(Checkpoint(model="nano"))
    chat = Chat(tokenizer, PromptConfig())
    for example in corpus:
        ids, start = chat.example_ids(example)
        assert ids[:start] == chat.prompt_ids(example.messages, example.tools)
        wanted = chat.format.render(example.target.tool_calls) if example.target.tool_calls else example.target.content
        assert tokenizer.decode(ids[start:]) == f"{wanted}<|end|>"
        assert chat.parse(tokenizer.decode(ids[start:-1])).calls == example.target.tool_calls


QUESTION = Message(role="user", content="hi")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}", "ignores tools"),
        ("{{ raise_exception('no tools here') }}", "no tools here"),
        (
            "{{ tools }}{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}",
            "none of the known formats",
        ),
    ],
)
def test_a_template_that_cannot_serve_is_refused(template: str, message: str) -> None:
    tokenizer = load_tokenizer(Checkpoint(model="nano"))
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match=message) as caught:
        Chat(tokenizer, PromptConfig())
    assert "prompt.style=system" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ tools }}{{ messages | length }}{% for m in messages %}{{ m.content }}CALLS<|end|>{% endfor %}",
            "changes the prompt",
        ),
        (
            "{{ tools }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}CALLS{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}",
            "end-of-turn",
        ),
    ],
)
def test_a_template_that_would_mask_wrongly_is_refused(template: str, message: str) -> None:
    tokenizer = load_tokenizer(Checkpoint(model="nano"))
    calls = """{% for c in m.tool_calls or [] %}[{{ c.function.name }}(probe_key="a value")]{% endfor %}"""
    tokenizer.chat_template = template.replace("CALLS", calls)
    with pytest.raises(TemplateError, match=message):
        Chat(tokenizer, PromptConfig(format="pythonic")).check_training()


def test_style_system_serves_a_template_without_tools(corpus: list[Example]) -> None:
    tokenizer = load_tokenizer(Checkpoint(model="nano"))
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    chat = Chat(tokenizer, PromptConfig(style="system"))
    for example in corpus:
        ids, start = chat.example_ids(example)
        assert all(tool.name in tokenizer.decode(ids[:start]) for tool in example.tools)
        assert chat.parse(tokenizer.decode(ids[start:-1])).calls == example.target.tool_calls


def test_random_llama_takes_the_path_of_its_recipe(tmp_path: Path, samples: list[Sample]) -> None:
    """recipes/llama31_8b.toml on a tiny model of the same class: LoRA, tools in the system prompt."""
    path = make_tiny_model(tmp_path / "llama", "Llama", max_position_embeddings=8192)
    prompt = PromptConfig(style="system")
    config = make_config(lora={"rank": 4, "alpha": 8}, gradient_checkpointing=True, gradient_accumulation=2)
    config = config.model_copy(update={"prompt": prompt})
    checkpoint = fit(tmp_path / "run", Checkpoint(model=str(path)), direct_corpus(samples, prompt), config)
    assert (Path(str(checkpoint.adapter)) / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("sft", "message"),
    [
        ({"lora": {"target_modules": ["wrong_proj"]}}, r"sft\.lora\.target_modules=.*wrong_proj.*not found"),
        ({"lora": {"target_modules": "("}}, r"sft\.lora\.target_modules=\"\(\""),
        ({"report_to": ["pigeon"]}, r"sft\.report_to=pigeon: .*not supported"),
        pytest.param(
            {"device": "cuda"},
            r"device=cuda: cannot be used: .*; set engine\.device and sft\.device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_settings_that_no_training_can_use_are_refused_before_any_work(
    tiny_model: Path, sft: dict[str, Any], message: str
) -> None:
    config = make_config(**sft)
    with pytest.raises(ToolrefineError, match=message):
        check_template(Checkpoint(model=str(tiny_model)), config)


def test_an_adapter_is_not_taken_for_a_model_to_train(tmp_path: Path, tiny_model: Path, corpus: list[Example]) -> None:
    """Transformers loads one on its model, and a new adapter would silently take its place."""
    config = make_config(lora={"rank": 4})
    adapter = fit(tmp_path, Checkpoint(model=str(tiny_model)), corpus, config).adapter
    with pytest.raises(RequestError, match=r"is an adapter, .* merge it"):
        check_template(Checkpoint(model=str(adapter)), config)
    check_template(Checkpoint(model=str(tiny_model)), config)
