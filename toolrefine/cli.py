"""The command line: verbs only. Results go to standard output, everything else to standard error.

Exit status: 0 done, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from toolrefine.config import Dataset
    from toolrefine.rundir import Progress

P = ParamSpec("P")
T = TypeVar("T")

app = typer.Typer(
    help="Teach open-weight language models to call tools better (ToolACE-R, arXiv 2504.01400).",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Look at data, check it, convert it.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(data, name="data")

DEBUG = False

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Format = Annotated[str, typer.Option(help="canonical, openai, toolace, xlam, or toolworld.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Rows to read, at most.")]
ModelName = Annotated[str, typer.Option(help="nano, a folder, or a hub name.")]
Adapter = Annotated[str | None, typer.Option(help="Folder of a PEFT adapter for the model.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")]
Style = Annotated[str, typer.Option(help="template, or system for models whose chat template knows no tools.")]


def main() -> None:
    """Entry point of the toolrefine command."""
    app()


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Turn errors into one clear sentence and an exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from toolrefine.errors import ToolrefineError

        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except ToolrefineError as error:
            if DEBUG:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_status) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from here", err=True)
            raise typer.Exit(1) from None
        except Exception as error:
            if DEBUG:
                raise
            typer.echo(f"error: {type(error).__name__}: {error} (toolrefine --debug shows where)", err=True)
            raise typer.Exit(1) from None

    return run


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and log messages.")] = False,
) -> None:
    """Teach open-weight language models to call tools better (ToolACE-R, arXiv 2504.01400)."""
    global DEBUG
    DEBUG = debug
    if debug:
        import logging

        logging.basicConfig(level=logging.INFO)


@app.command()
@guarded
def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; see recipes/.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as rollout.k=16.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model: select what it can solve, fine-tune, again. Resumes where an earlier attempt stopped."""
    from toolrefine.config import load_config
    from toolrefine.loop import train as run_loop
    from toolrefine.report import write_report
    from toolrefine.rundir import open_run
    from toolrefine.show import print_table
    from toolrefine.summary import summarize

    config = load_config(recipe, overrides or [])
    with quiet_libraries(), progress_bar() as progress, open_run(config, progress) as run:
        model = run_loop(config, run)
        summary = summarize(run.path)
        report = write_report(run.path)
    if as_json:
        print_json({**summary.model_dump(mode="json"), "model": model.model_dump(), "report": str(report)})
    else:
        print_table(summary, console())
        typer.echo(f"\nreport  {report}\nmodel   {model.adapter or model.model}\nagain   toolrefine show {run.path}")


@app.command()
@guarded
def evaluate(
    source: Annotated[str, typer.Argument(metavar="FILE", help="Samples to answer; a domain with --format toolworld.")],
    model: ModelName,
    adapter: Adapter = None,
    refine: Annotated[int, typer.Option(min=0, help="Refinement rounds, at most.")] = 0,
    format: Format = "canonical",  # noqa: A002
    limit: Limit = None,
    style: Style = "template",
    max_new_tokens: MaxNewTokens = 512,
    out: Annotated[Path | None, typer.Option(help="Write each answer with its verdict to this JSONL file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on samples with known targets, greedily."""
    from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig
    from toolrefine.datasets import dataset_name, load_pool
    from toolrefine.engines import open_engine
    from toolrefine.evaluate import evaluate as run_evaluation
    from toolrefine.rundir import write_records
    from toolrefine.show import print_arms
    from toolrefine.summary import build_arms
    from toolrefine.types import Checkpoint

    dataset = make_dataset(source, format, limit)
    prompt = build(PromptConfig, style=style)
    refinement = RefinementConfig(max_rounds=refine)
    with quiet_libraries(), progress_bar() as progress:
        samples = load_pool([dataset])
        with open_engine(Checkpoint(model=model, adapter=adapter), EngineConfig(), prompt) as engine:
            progress.begin("evaluate", len(samples))
            items = []
            for chunk in run_evaluation(0, 128, engine, samples, refinement, prompt, max_new_tokens=max_new_tokens):
                items += chunk
                progress.advance(len(items))
            progress.end("evaluate", False)
    if out is not None:
        write_records(out, items)
    arms = build_arms(dataset_name(dataset), {model: items}, refined=refine > 0)
    if as_json:
        print_json({"model": model, "arms": [arm.model_dump(mode="json") for arm in arms]})
    else:
        print_arms(arms, console())


@app.command()
@guarded
def refine(
    model: ModelName,
    data: Annotated[Path, typer.Option(metavar="FILE", help="Prompts: rows with messages and tools.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL of final calls, one line a prompt.")],
    adapter: Adapter = None,
    max_rounds: Annotated[int, typer.Option(min=0, help="Refinement rounds, at most.")] = 2,
    limit: Limit = None,
    style: Style = "template",
    max_new_tokens: MaxNewTokens = 512,
    as_json: AsJson = False,
) -> None:
    """Answer prompts with adaptive self-refinement: refine until the calls no longer change."""
    from collections import Counter

    from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig
    from toolrefine.datasets.prompts import load_prompts
    from toolrefine.engines import SamplingParams, open_engine
    from toolrefine.matching import same_calls
    from toolrefine.refine import refine as run_refinement
    from toolrefine.types import Checkpoint

    prompt = build(PromptConfig, style=style)
    params = SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)
    prompts, num_bad = load_prompts(data, out.with_name(out.name + ".quarantine.jsonl"), limit)
    reasons: Counter[str] = Counter()
    num_changed = 0
    partial = out.with_name(out.name + ".partial")
    with (
        quiet_libraries(),
        progress_bar() as progress,
        partial.open("w", encoding="utf-8") as lines,
        open_engine(Checkpoint(model=model, adapter=adapter), EngineConfig(), prompt) as engine,
    ):
        progress.begin("refine", len(prompts))
        for start in range(0, len(prompts), 128):
            part = prompts[start : start + 128]
            for result in run_refinement(engine, part, RefinementConfig(max_rounds=max_rounds), prompt, params):
                changed = len(result.rounds) > 1 and not same_calls(result.draft, result.final)
                reasons[result.stop_reason.value] += 1
                num_changed += changed
                line = {
                    "id": result.prompt_id,
                    "calls": [call.model_dump() for call in result.final.calls],
                    "text": result.final.text,
                    "outcome": result.final.outcome.value,
                    "changed": changed,
                    "num_rounds": len(result.rounds) - 1,
                    "stop_reason": result.stop_reason.value,
                }
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            progress.advance(start + len(part))
        progress.end("refine", False)
    partial.replace(out)
    counts = {
        "num_prompts": len(prompts),
        "num_quarantined": num_bad,
        "num_changed": num_changed,
        "stop_reasons": dict(reasons),
        "out": str(out),
    }
    if as_json:
        print_json(counts)
    else:
        for name, value in counts.items():
            typer.echo(f"{name:15} {value}")


@app.command()
@guarded
def show(
    run: Annotated[Path, typer.Argument(help="A run directory, such as runs/demo.")],
    transcripts: Annotated[int, typer.Option(min=0, help="Print so many transcripts too.")] = 0,
    iteration: Annotated[int, typer.Option(min=0, help="Whose transcripts.")] = 1,
    sample: Annotated[str | None, typer.Option(help="The transcript of this sample.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run has measured so far."""
    from toolrefine.show import print_table, print_transcripts
    from toolrefine.summary import summarize

    summary = summarize(run)
    if as_json:
        print_json(summary.model_dump(mode="json"))
        return
    print_table(summary, console())
    if transcripts or sample:
        print_transcripts(run, iteration, console(), sample_id=sample, limit=transcripts or 1)


@data.command()
@guarded
def inspect(
    source: Annotated[str, typer.Argument(metavar="FILE")],
    format: Format = "canonical",  # noqa: A002
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Count samples by kind, tools and turns."""
    from collections import Counter

    from toolrefine.datasets import Quarantine, load_dataset

    bad = Quarantine()
    kinds: Counter[str] = Counter()
    tools: Counter[int] = Counter()
    turns: Counter[int] = Counter()
    for sample in load_dataset(make_dataset(source, format, limit), bad):
        kinds[sample.kind] += 1
        tools[len(sample.tools)] += 1
        turns[sum(message.role == "user" for message in sample.messages)] += 1
    counts = {
        "num_samples": kinds.total(),
        "num_bad_rows": bad.num_rows,
        "kinds": dict(sorted(kinds.items())),
        "tools": dict(sorted(tools.items())),
        "user_turns": dict(sorted(turns.items())),
    }
    if as_json:
        print_json(counts)
    else:
        for name, value in counts.items():
            typer.echo(f"{name:13} {value}")


@data.command()
@guarded
def validate(
    source: Annotated[str, typer.Argument(metavar="FILE")],
    format: Format = "canonical",  # noqa: A002
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """List every bad row with its place and reason; exit status 1 if there is one."""
    import io

    from toolrefine.datasets import Quarantine, load_dataset

    written = io.StringIO()
    num_samples = sum(1 for _ in load_dataset(make_dataset(source, format, limit), Quarantine(written)))
    findings = [json.loads(line) for line in written.getvalue().splitlines()]
    if as_json:
        print_json({"num_samples": num_samples, "findings": findings})
    else:
        for finding in findings:
            typer.echo(f"{finding['file']}:{finding['line']}: {finding['reason']}")
        typer.echo(f"{num_samples} samples, {len(findings)} bad rows", err=True)
    if findings:
        raise typer.Exit(1)


@data.command()
@guarded
def convert(
    source: Annotated[str, typer.Argument(metavar="FILE")],
    out: Annotated[Path, typer.Argument(help="Canonical JSONL to write; .gz compresses.")],
    format: Format = "canonical",  # noqa: A002
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="With --format toolworld.")] = 0,
    wrong_label_rate: Annotated[float, typer.Option(help="With --format toolworld.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Write any source, the tool world included, as canonical JSONL."""
    from toolrefine.datasets import load_pool
    from toolrefine.datasets.export import write_samples

    dataset = make_dataset(source, format, limit, seed=seed, wrong_label_rate=wrong_label_rate)
    samples = load_pool([dataset], out.with_name(out.name + ".quarantine.jsonl"))
    write_samples(out, samples)
    if as_json:
        print_json({"num_samples": len(samples), "out": str(out)})
    else:
        typer.echo(f"{len(samples)} samples in {out}")


def make_dataset(source: str, format_name: str, limit: int | None, **toolworld: Any) -> Dataset:
    """The data set that a command line names."""
    from toolrefine.config import FileDataset, ToolworldDataset

    if format_name == "toolworld":
        return build(ToolworldDataset, format="toolworld", domain=source, size=limit or 1000, **toolworld)
    return build(FileDataset, format=format_name, source=source, limit=limit)


def build(record: type[T], **fields: Any) -> T:
    """A config record from command-line values.

    Raises:
        ConfigError: a value does not fit.
    """
    from pydantic import ValidationError

    from toolrefine.config import describe
    from toolrefine.errors import ConfigError

    try:
        return record(**fields)
    except ValidationError as error:
        raise ConfigError(describe(error)) from None


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def console() -> Console:
    """Standard output, as wide as it is; wide enough for the table where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep progress bars and advice of the libraries off the screen, unless --debug asks for them."""
    import os
    import warnings

    if DEBUG:
        yield
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress on standard error."""
    from toolrefine.progress import RichProgress

    with RichProgress() as progress:
        yield progress


if __name__ == "__main__":
    main()
