"""One frozen config tree, read from a TOML recipe and key=value overrides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError

from toolrefine.types import Record, ViolationKind

InvalidTargets = Literal["quarantine", "repair", "keep"] | dict[ViolationKind, Literal["quarantine", "repair", "keep"]]


RIVAL = "^(vote|best):[1-9][0-9]*$"
"""How a rival of a benchmark is written."""


class PromptConfig(Record):
    """How a conversation becomes a prompt, and text becomes calls."""

    style: Literal["template", "system"] = "template"
    """template: tools and calls go through the model's chat template. system: tools are listed in
    the system message and calls written as text, for models whose template knows no tools."""
    format: Literal[
        "auto",
        "pythonic",
        "hermes",
        "llama3_json",
        "mistral",
        "xlam",
        "qwen3_xml",
        "granite",
        "deepseek_v3",
        "glm4",
        "kimi_k2",
        "phi4_json",
        "llama4_pythonic",
    ] = "auto"
    """Wire format of the calls. auto: found by rendering a call through the template; pythonic under style = system."""
    template_kwargs: dict[str, Any] = {}
    """Passed to the chat template, such as {enable_thinking = false}."""
    no_call_text: str = "None of the tools fits this request."
    """Target text of samples that call no tool and bring no text of their own."""
    own_replies: bool = True
    """Learn the text of their own that such samples bring. False: no_call_text for all, because an answer without calls
    is right whatever it says, and long replies outweigh the calls in the loss."""
    refine: str = "Check your answer. Repeat it if it is right, otherwise correct it."
    """The user turn that asks for a refinement."""


class FileDataset(Record):
    """Samples from a local file or from the Hugging Face hub."""

    format: Literal[
        "auto",
        "canonical",
        "openai",
        "trl",
        "hermes",
        "sharegpt",
        "glaive",
        "toolace",
        "toolbench",
        "apibank",
        "xlam",
    ] = "auto"
    """auto: found from the first rows."""
    source: str
    """Path of a .json, .jsonl, .json.gz, .jsonl.gz, .parquet or .arrow file, or hub:OWNER/NAME."""
    name: str = ""
    """Label in reports; the file's or data set's own name by default."""
    split: str = "train"
    """Split to read from the hub."""
    offset: int = Field(default=0, ge=0)
    """Rows to skip."""
    limit: int | None = Field(default=None, ge=1)
    """Rows to read after the offset."""
    invalid_targets: InvalidTargets = "quarantine"
    """What to do with a sample whose target contradicts the schema of its tools: for all kinds of faults, or by kind,
    such as {wrong_type = "repair"}, the others then being quarantined. What cannot be repaired without loss is
    quarantined."""
    wrong_label_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the targets to make wrong on purpose, before they are checked: what the suspects of a run are worth on
    data of this kind. For trials alone."""
    seed: int = 0
    """Of the wrong targets."""


class ToolworldDataset(Record):
    """Samples from the built-in generator."""

    format: Literal["toolworld"]
    domain: str
    """A domain of toolrefine.datasets.toolworld, or spliced-N for a generated one."""
    size: int = Field(ge=1)
    seed: int = 0
    name: str = ""
    """Label in reports; the domain by default."""
    wrong_label_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the targets to make wrong in the ways real labels are."""
    invalid_targets: InvalidTargets = "keep"
    """As of a file. Some 45 % of the wrong targets contradict the schema of their tools, and none of the right ones."""


def _kind_of_dataset(value: Any) -> str:
    kind = value.get("format") if isinstance(value, dict) else getattr(value, "format", None)
    return "toolworld" if kind == "toolworld" else "file"


Dataset = Annotated[
    Annotated[FileDataset, Tag("file")] | Annotated[ToolworldDataset, Tag("toolworld")],
    Discriminator(_kind_of_dataset),
]


class EngineConfig(Record):
    """What samples completions."""

    kind: Literal["transformers", "openai"] = "transformers"
    """transformers: in this process. openai: a server with OpenAI's API, such as vLLM's."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU."""
    constrain: bool = False
    """transformers: sample only what names the prompt's tools and fits their schemas, or calls none; needs
    toolrefine[grammar]. Formats pythonic, hermes, llama3_json and xlam."""
    max_batch_rows: int = Field(default=128, ge=1)
    """Completions worked on at once. The keys and values of what they say come on top of prefix_cache_gb."""
    prefix_cache_gb: float = Field(default=4.0, ge=0.0)
    """Memory for the keys and values of the prompts worked on at once, when answers are scored, too; there is room for
    one prompt always. While prompts are read they take a quarter more. Where each completion has a copy of its prompt
    (docs/engines.md) max_batch_rows alone bounds them."""
    trust_remote_code: bool = False
    """Run code that a model repository brings. Off unless you trust its author."""
    base_url: str = ""
    """openai: the server, such as http://localhost:8000/v1. It must serve the model that is asked for."""
    served_model: str = ""
    """openai: what the server calls the model; by default the model's own name or folder."""
    launch: str = ""
    """openai: command that starts a server for each checkpoint, such as "vllm serve {model} --port {port}"."""
    launch_s: float = Field(default=900.0, gt=0.0)
    """openai: seconds that a started server may take until it answers."""
    launch_log: str = "toolrefine-server.log"
    """openai: what started servers write."""
    api: Literal["auto", "tokens", "text", "chat"] = "auto"
    """openai: how to ask, see toolrefine.engines.openai. auto: the first of these that the server understands."""
    api_key_env: str = "OPENAI_API_KEY"
    """openai: environment variable with the key."""
    concurrency: int = Field(default=128, ge=1)
    """openai: requests at once."""
    completions_per_request: int = Field(default=1, ge=1)
    """openai: completions of a prompt that one request asks for at most (n). More than 1 is for servers that bill or
    compute the prompt for every request; they share a seed then, so that each depends on how many there are."""
    timeout_s: float = Field(default=600.0, gt=0.0)
    """openai: seconds that one request may take."""
    max_retries: int = Field(default=6, ge=0)
    """openai: further attempts of a request that failed for a reason that may pass."""
    retry_pause_s: float = Field(default=1.0, gt=0.0)
    """openai: pause before the first further attempt; it doubles from one to the next."""
    refused: Literal["stop", "skip"] = "stop"
    """openai: what becomes of a prompt that the server refuses by itself (400, 413, 422). stop: the work. skip: the
    prompt alone, which then has no answer and counts as one that left no room."""
    answers: str = ""
    """openai: file that keeps what has been answered of a chunk until all of it has, so that a further attempt asks for
    the rest alone."""


class MatchingConfig(Record):
    """When an answer is right."""

    ordered: bool = False
    """Calls must come in the target's order."""
    strings: Literal["exact", "bfcl"] = "exact"
    """bfcl: without letter case, blanks and ,./-_*^, and with ' as ", as BFCL's checker compares; nested ones too."""


class RolloutConfig(Record):
    """k completions a sample."""

    k: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, gt=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=512, ge=1)
    chunk_size: int = Field(default=256, ge=1)
    """Samples worked on and written together: what a kill can cost at most. Small chunks leave the engine idle more."""
    waves: bool | Literal["auto"] = "auto"
    """Sample 1, 1, 2, 4, ... completions and stop at a correct one, which selects the same samples by policy solvable.
    auto: where nothing else needs all k, as sampled drafts of refinement examples and any other policy do."""
    score_labels: bool = True
    """Also score the labels that no completion gives, to tell wrong ones from hard ones; see selection.suspect_doubt. A
    server must tell the log-probabilities of prompts, as vLLM does."""


class SelectionConfig(Record):
    """Which samples are trained on."""

    policy: Literal["solvable", "frontier", "unsuspected", "all"] = "solvable"
    """solvable: pass@k > 0, as the paper has it. frontier: solvable and not mastered. unsuspected: all but suspects, so
    that what the model cannot do yet stays in as long as it does not contradict the label. all: everything."""
    mastered_rate: float = Field(default=1.0, gt=0.0, le=1.0)
    """frontier drops a sample whose pass_rate reaches this."""
    min_solvable: float = Field(default=0.0, ge=0.0, le=1.0)
    """An iteration in which less than this share is solvable takes everything: what the model cannot do yet it learns
    from labels, wrong ones among them, and later iterations select."""
    stop_when_stalled: bool = True
    """End the loop when no more samples are solvable than in the iteration before."""
    suspect_agreement: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of completions that must agree on one answer to make a suspect of a label that none of them gives."""
    suspect_doubt: float = Field(default=10.0, gt=0.0)
    """Or nats by which the model must find the answer that most completions give likelier than such a label; e^10 is
    about 22,000 times. Needs rollout.score_labels."""
    suspect_min_logprob: float = Field(default=-10.0, le=0.0)
    """Summed log-probability that this answer must have to raise such a doubt: one that the model hardly believes in
    itself says nothing against a label, least of all against a long one."""


class CorpusConfig(Record):
    """Direct and refinement examples."""

    refine_per_sample: int = Field(default=1, ge=0)
    """Refinement examples a selected sample, at most; 0 trains on direct examples alone."""
    right_draft_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of refinement examples whose draft is already right (A1 = A)."""
    drafts: Literal["sampled", "greedy"] = "sampled"
    """sampled: distinct ones of a sample's completions. greedy: its greedy answer, one more completion a sample, which
    is what is refined at inference; one refinement example a selected sample then, at most."""


class LoraConfig(Record):
    """Low-rank adapters (arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: str | tuple[str, ...] = "all-linear"


class SftConfig(Record):
    """Supervised fine-tuning."""

    restart: bool = False
    """Train each iteration from the base instead of from the last iteration's model."""
    lora: LoraConfig | None = None
    """Absent: all weights are trained."""
    learning_rate: float = Field(default=1e-5, gt=0.0)
    lr_scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    lr_span: Literal["iteration", "run"] = "iteration"
    """What warmup_ratio and lr_scheduler span. run: all iterations, each of which takes up the learning rate where the
    last one has left it, as if they were one training. The models of all but the last have a high one then. With
    restart each iteration has a schedule of its own."""
    warmup_ratio: float = Field(default=0.1, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    batch_size: int = Field(default=16, ge=1)
    """Examples a device and step."""
    gradient_accumulation: int = Field(default=1, ge=1)
    num_epochs: float = Field(default=1.0, gt=0.0)
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps an iteration; overrides num_epochs."""
    max_length: int = Field(default=4096, ge=16)
    """Examples with more tokens are left out and counted."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """One device. CUDA_VISIBLE_DEVICES says which GPU where there are several."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weights: auto is bfloat16 for LoRA on a GPU, else float32 (with bfloat16 autocast where the hardware has it)."""
    packing: bool | Literal["auto"] = "auto"
    """Compute what the examples of a sample begin with once. auto: where the model allows it and a tenth of the tokens
    is saved."""
    gradient_checkpointing: bool = False
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between the checkpoints from which a killed training goes on."""
    report_to: tuple[str, ...] = ()
    """Trackers of the Hugging Face Trainer, such as wandb or tensorboard."""
    trust_remote_code: bool = False


class RefinementConfig(Record):
    """Adaptive self-refinement at inference: when, how, what to accept, when to stop.

    The defaults are the algorithm of arXiv 2504.01400.
    """

    max_rounds: int = Field(default=2, ge=0)
    """Refinement rounds after the draft, at most; 0 turns refinement off."""
    when: Literal["always", "invalid", "uncertain"] = "always"
    """Which answers. invalid: those that cannot be read or break the schema of their tools. uncertain: those, and where
    the mean log-probability is below min_logprob."""
    min_logprob: float = Field(default=-0.1, le=0.0)
    """uncertain: natural logarithm, mean over the tokens of an answer. Certain where a server does not tell it."""
    how: Literal["ask", "explain", "resample", "constrain"] = "ask"
    """ask: with prompt.refine. explain: what is wrong with an invalid answer is said before that. resample: the model
    sees nothing of its answers; each round is another sample, as long as `when` does not let the standing answer go.
    constrain: nor does it here; one round, in which it can only say what fits the tools, see engine.constrain."""
    temperature: float = Field(default=0.7, gt=0.0)
    """resample: of the samples."""
    shuffle: bool = False
    """resample: each is asked for with the tools, and the parameters of each, in another order, which makes the samples
    less alike. Nothing that is computed of the prompt can be used again then."""
    constrain: bool = False
    """The draft and every round can only say what fits the tools, see engine.constrain."""
    accept: Literal["always", "valid", "likelier"] = "always"
    """Which answers replace the one that stands. valid: those that can be read and fit the schema of their tools.
    likelier: a valid one an invalid one; where both are valid or both are not, the one that the model finds likelier
    with and without the other in its prompt, which takes two scoring passes a changed answer (resample and constrain:
    without, and none)."""
    margin: float = Field(default=0.0, ge=0.0)
    """likelier: nats by which it must be likelier. With shuffle the two were sampled behind different prompts: a margin
    keeps what is right from being replaced by chance."""
    stop: Literal["unchanged", "never"] = "unchanged"
    """ask, explain. unchanged: as soon as an answer has been given before. never: after max_rounds, a fixed number."""

    @property
    def acts(self) -> bool:
        """Whether answers can be others than the model gives by itself."""
        return self.max_rounds > 0 or self.constrain

    @property
    def asks_afresh(self) -> bool:
        """Whether the model sees nothing of its answers when it is asked again."""
        return self.how in ("resample", "constrain")

    @property
    def needs_constraint(self) -> bool:
        """Whether the engine must be able to keep answers to their tools."""
        return self.constrain or self.how == "constrain"


UNREFINED = RefinementConfig(max_rounds=0)


class EvaluationConfig(Record):
    """Held-out measurement after each iteration, greedy."""

    datasets: tuple[Dataset, ...] = ()
    max_new_tokens: int = Field(default=512, ge=1)
    chunk_size: int = Field(default=128, ge=1)
    """Samples worked on and written together."""


class BenchmarkConfig(Record):
    """One model on one benchmark."""

    benchmark: str
    """bfcl, acebench, apibank, toolalpaca, or a file of samples."""
    format: str = "auto"
    """Of the file."""
    data: str = ""
    """The user's copy of the benchmark."""
    categories: tuple[str, ...] = ()
    """Empty: all that can be run."""
    mode: Literal["tools", "prompt"] = "tools"
    """tools: through the model's chat template, or prompt.style. prompt: the benchmark's own prompt as text, where it
    has one (bfcl, apibank)."""
    limit: int | None = Field(default=None, ge=1)
    """Tasks of a category, at most."""
    model: str
    adapter: str | None = None
    fingerprint: str = ""
    """Tells the files of a local model from others in the same place, so that answers of two models are not mixed."""
    engine: EngineConfig = EngineConfig()
    prompt: PromptConfig = PromptConfig()
    matching: MatchingConfig = MatchingConfig()
    """Of a file of samples; benchmarks have rules of their own."""
    refinement: RefinementConfig = RefinementConfig(max_rounds=0)
    max_new_tokens: int = Field(default=512, ge=1)
    chunk_size: int = Field(default=256, ge=1)
    """Tasks worked on and written together."""
    rivals: tuple[Annotated[str, Field(pattern=RIVAL)], ...] = ()
    """Other ways to spend calls. vote:N: the answer that most of N samples agree on. best:N: the most probable of N."""
    temperature: float = Field(default=0.7, gt=0.0)
    """Of the rivals' samples."""
    seed: int = 0

    @property
    def num_rival_samples(self) -> int:
        """Samples that the rivals need of each task."""
        return max((int(rival.split(":")[1]) for rival in self.rivals), default=0)


class AnswerConfig(Record):
    """How one model answers prompts of the user's: toolrefine refine."""

    engine: EngineConfig = EngineConfig()
    prompt: PromptConfig = PromptConfig()
    refinement: RefinementConfig = RefinementConfig()
    max_new_tokens: int = Field(default=512, ge=1)


class CalibrationConfig(Record):
    """How one model answers a development set: toolrefine calibrate."""

    engine: EngineConfig = EngineConfig()
    prompt: PromptConfig = PromptConfig()
    matching: MatchingConfig = MatchingConfig()
    max_new_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.7, gt=0.0)
    """Of further samples."""


class Config(Record):
    """A whole run."""

    model: str
    """nano, a folder, or a hub name: M_0."""
    run: str = ""
    """Folder of the run; runs/RECIPE by default."""
    seed: int = 0
    num_iterations: int = Field(default=3, ge=1)
    """A run may be given more later, which it then goes on with, unless baseline or sft.lr_span depend on them all."""
    baseline: bool = False
    """Also train M_0 on every sample and label, with as many optimizer steps as the iterations took."""
    datasets: tuple[Dataset, ...] = Field(min_length=1)
    prompt: PromptConfig = PromptConfig()
    engine: EngineConfig = EngineConfig()
    matching: MatchingConfig = MatchingConfig()
    rollout: RolloutConfig = RolloutConfig()
    selection: SelectionConfig = SelectionConfig()
    corpus: CorpusConfig = CorpusConfig()
    sft: SftConfig = SftConfig()
    refinement: RefinementConfig = RefinementConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def may_grow(self) -> tuple[str, ...]:
        """What may be more when a run goes on, because nothing that it has done depends on it."""
        return () if self.baseline or self.sft.lr_span == "run" else ("num_iterations",)

    @property
    def samples_in_waves(self) -> bool:
        """Whether rollouts stop at the first correct completion."""
        solvable = self.selection.policy == "solvable"
        if self.rollout.waves == "auto":
            return solvable and (self.corpus.refine_per_sample == 0 or self.draws_greedy)
        return self.rollout.waves

    @property
    def draws_greedy(self) -> bool:
        """Whether rollouts draw the greedy answer too."""
        return self.corpus.drafts == "greedy" and self.corpus.refine_per_sample > 0


HOW = {
    "engine": {
        *("max_batch_rows", "prefix_cache_gb"),
        *("base_url", "served_model", "launch", "launch_s", "launch_log", "api_key_env"),
        *("concurrency", "timeout_s", "max_retries", "retry_pause_s", "refused"),
    },
    "sft": {
        "batch_size",
        "gradient_accumulation",
        "packing",
        "gradient_checkpointing",
        "checkpoint_steps",
        "report_to",
    },
}
"""Section -> what in it says how work is done, not what comes of it but for rounding: a run may go on with another."""


def essence(settings: Any, section: str = "") -> Any:
    """JSON of settings without HOW, but with the number of examples of an optimizer step."""
    if isinstance(settings, list):
        return [essence(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    found = {key: essence(value, key) for key, value in settings.items() if key not in HOW.get(section, ())}
    if section == "sft":
        factors = ("batch_size", "gradient_accumulation")
        found[" * ".join(factors)] = math.prod(settings.get(factor, 1) for factor in factors)
    return found


def describe(error: ValidationError, record: type[BaseModel] | None = None) -> str:
    """A pydantic error as one sentence a finding: where, what, and what was given.

    record: what did not fit, to name the key that an unknown one may stand for.
    """
    items = error.errors(include_url=False, include_context=False)
    keys = [tuple(part for part in item["loc"] if _is_key(part)) for item in items]
    findings = []
    for item, own in zip(items, keys, strict=True):
        where = ".".join(map(str, own)) or "the whole"
        if item["type"] == "extra_forbidden":
            findings.append(f"{where}: unknown key{_nearest(own, record) if record else ''}")
        elif item["type"] == "missing":
            findings.append(f"{where}: missing")
        elif item["type"] in ("model_type", "dict_type"):
            findings.append(f"{where}: must be a table, not {str(item['input'])[:80]!r}")
        elif item["type"] == "tuple_type":
            mend = f"; head each of its tables [[{where}]]" if isinstance(item["input"], dict) else ""
            findings.append(f"{where}: must be a list, not {str(item['input'])[:80]!r}{mend}")
        # A list whose entry is wrong is too short for pydantic as well.
        elif item["type"] != "too_short" or not any(key[: len(own)] == own and key != own for key in keys):
            findings.append(f"{where}: {item['msg'].lower()}, not {str(item['input'])[:80]!r}")
    return "; ".join(findings)


def _nearest(unknown: Sequence[str | int], record: type[BaseModel]) -> str:
    """The key that an unknown one may stand for: of its name elsewhere, or of nearly its name."""
    asked = ".".join(part for part in unknown if isinstance(part, str))
    keys = [*_known_keys(record)]
    elsewhere = [key for key in keys if key.rpartition(".")[2] == asked.rpartition(".")[2]]
    near = elsewhere or get_close_matches(asked, keys, 1, 0.8)
    return f", did you mean {near[0]}?" if near else ""


def _known_keys(record: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a record and of the records in it, with dots and without the indexes of lists."""
    for name, field in record.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _records_in(field.annotation):
            yield from _known_keys(inner, f"{prefix}{name}.")


def _records_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _records_in(inner)


def _is_key(part: str | int) -> bool:
    """Whether a part of a place is a key or an index, and not the member of a union that pydantic tried."""
    return isinstance(part, int) or (part not in ("file", "toolworld", "bool", "str") and "[" not in part)
