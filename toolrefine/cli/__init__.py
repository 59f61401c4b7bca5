"""The command line: verbs only. Results go to standard output, everything else to standard error.

Exit status: 0 done, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

import toolrefine
from toolrefine.cli import ablate, benchmarks, calibrate, serve
from toolrefine.cli import data as data_verbs
from toolrefine.cli.common import (
    Adapter,
    AsJson,
    Limit,
    MaxNewTokens,
    ModelName,
    Policy,
    ServerURL,
    Settings,
    Style,
    TemplateKwargs,
    beside,
    build,
    claim_files,
    console,
    given_prompt,
    guarded,
    make_engine,
    make_refinement,
    make_settings,
    print_json,
    progress_bar,
    quiet_libraries,
    set_debug,
)

if TYPE_CHECKING:
    from toolrefine.summary import RunSummary

app = typer.Typer(
    help="Teach open-weight language models to call tools better (ToolACE-R, arXiv 2504.01400).",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_verbs.app, name="data")


def main() -> None:
    """Entry point of the toolrefine command."""
    app()


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"toolrefine {toolrefine.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and log messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Teach open-weight language models to call tools better (ToolACE-R, arXiv 2504.01400)."""
    set_debug(debug)


Recipe = Annotated[Path, typer.Argument(help="A TOML file; see recipes/.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as rollout.k=16.")]


@app.command()
@guarded
def train(recipe: Recipe, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train a model: select what it can solve, fine-tune, again. Resumes where an earlier attempt stopped."""
    from toolrefine.loop import train as run_loop
    from toolrefine.recipes import load_config
    from toolrefine.report import write_report
    from toolrefine.rundir import open_run
    from toolrefine.summary import summarize

    config = load_config(recipe, overrides or [])
    folder = Path(config.run)
    with quiet_libraries(), progress_bar() as progress, open_run(folder, config, progress, config.may_grow) as run:
        model = run_loop(config, run)
        summary = summarize(run.path)
        report = write_report(run.path)
    if as_json:
        print_json({**summary.model_dump(mode="json"), "model": model.model_dump(), "report": str(report)})
    else:
        print_run(summary)
        again = f"toolrefine show {quote(str(run.path))}"
        typer.echo(f"\nreport  {report}\nmodel   {model.adapter or model.model}\nagain   {again}")


def print_run(summary: RunSummary) -> None:
    """The tables of a run, and how far it has come."""
    from toolrefine.report.words import tell_state
    from toolrefine.show import print_table

    print_table(summary, console())
    for sentence in tell_state(summary):
        typer.echo(sentence)


@app.command()
@guarded
def suspects(
    recipe: Recipe,
    overrides: Overrides = None,
    limit: Annotated[int, typer.Option(min=0, help="Print so many, most agreed first.")] = 10,
    as_json: AsJson = False,
) -> None:
    """List the labels that the model contradicts, before any training. The same recipe's train goes on from there."""
    from toolrefine.loop import doubt
    from toolrefine.recipes import load_config
    from toolrefine.rundir import POOL, SUSPECTS, open_run
    from toolrefine.show import print_suspects
    from toolrefine.summary import load, summarize

    config = load_config(recipe, overrides or [])
    with quiet_libraries(), progress_bar() as progress, open_run(Path(config.run), config, progress) as run:
        found = doubt(config, run)
        summary = summarize(run.path)
    (iteration, *_) = summary.iterations
    counts = {
        "num_samples": summary.num_samples,
        "num_quarantined": summary.num_quarantined,
        "num_suspects": len(found),
        "num_wrong_suspects": iteration.num_wrong_suspects,
        "num_wrong_labels": summary.num_wrong_labels,
        "out": str(run.iteration(1).path / SUSPECTS.path),
    }
    if as_json:
        print_json(counts)
        return
    print_suspects(found[:limit], load(run.path, POOL), console())
    for name, value in counts.items():
        if value is not None:
            typer.echo(f"{name:18} {value}")


app.command()(benchmarks.evaluate)
app.command()(benchmarks.compare)
app.command()(calibrate.calibrate)
app.command()(ablate.ablate)
app.command()(serve.serve)


@app.command()
@guarded
def refine(
    model: ModelName,
    data: Annotated[Path, typer.Option(metavar="FILE", help="Prompts: rows with messages and tools.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL of final calls, one line a prompt.")],
    overrides: Settings = None,
    adapter: Adapter = None,
    max_rounds: Annotated[int | None, typer.Option(min=0, help="Refinement rounds, at most; 2 by default.")] = None,
    policy: Policy = None,
    limit: Limit = None,
    style: Style = None,
    template_kwargs: TemplateKwargs = None,
    server: ServerURL = None,
    max_new_tokens: MaxNewTokens = 512,
    as_json: AsJson = False,
) -> None:
    """Answer prompts with adaptive self-refinement: refine until the calls no longer change."""
    from collections import Counter

    from toolrefine.config import AnswerConfig
    from toolrefine.datasets.prompts import load_prompts
    from toolrefine.engines import SamplingParams, open_engine
    from toolrefine.matching import same_calls
    from toolrefine.refine import refine as run_refinement
    from toolrefine.types import Checkpoint

    quarantine = beside(out, ".quarantine.jsonl")
    claim_files(out, quarantine, sources=[data, *([policy] if policy else [])])
    checkpoint = Checkpoint(model=model, adapter=adapter)
    config = make_settings(
        AnswerConfig,
        checkpoint,
        overrides,
        engine=make_engine(server).model_dump(exclude_defaults=True),
        prompt=given_prompt(style, template_kwargs),
        refinement=make_refinement(policy, max_rounds).model_dump(exclude_defaults=True),
        max_new_tokens=max_new_tokens,
    )
    params = SamplingParams(temperature=0.0, max_new_tokens=config.max_new_tokens)
    prompts, num_bad = load_prompts(data, quarantine, limit)
    reasons: Counter[str] = Counter()
    num_changed = 0
    partial = beside(out, ".partial")
    with (
        quiet_libraries(),
        progress_bar() as progress,
        partial.open("w", encoding="utf-8") as lines,
        open_engine(checkpoint, config.engine, config.prompt) as engine,
    ):
        progress.begin("refine", len(prompts))
        for start in range(0, len(prompts), 128):
            part = prompts[start : start + 128]
            for result in run_refinement(engine, part, config.refinement, config.prompt, params):
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
    run: Annotated[Path, typer.Argument(help="A folder of train, such as runs/demo, or of evaluate.")],
    transcripts: Annotated[int, typer.Option(min=0, help="Print so many transcripts too.")] = 0,
    iteration: Annotated[int, typer.Option(min=0, help="Whose transcripts.")] = 1,
    sample: Annotated[str | None, typer.Option(help="The transcript of this sample.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run has measured so far."""
    from toolrefine.results import read_result
    from toolrefine.scoreboard import notes, print_sheets, sheets
    from toolrefine.show import print_answers, print_transcripts
    from toolrefine.summary import summarize

    result = read_result(run)
    if result is not None:
        if as_json:
            print_json(result.model_dump(mode="json"))
            return
        print_sheets(sheets(result), notes(result), console())
        if transcripts or sample:
            print_answers(run, console(), task_id=sample, limit=transcripts or 1)
        return
    summary = summarize(run)
    if as_json:
        print_json(summary.model_dump(mode="json"))
        return
    print_run(summary)
    if transcripts or sample:
        print_transcripts(run, iteration, console(), sample_id=sample, limit=transcripts or 1)


@app.command()
@guarded
def doctor(
    model: ModelName,
    server: Annotated[str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server of it.")] = None,
    style: Style = None,
    template_kwargs: TemplateKwargs = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the model's repository brings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a model's chat template can be trained on, find its wire format, and compare a server's prompts."""
    from toolrefine.config import PromptConfig
    from toolrefine.doctor import diagnose
    from toolrefine.models import settle_prompt
    from toolrefine.types import Checkpoint

    with quiet_libraries():
        prompt = build(PromptConfig, **settle_prompt(Checkpoint(model=model), given_prompt(style, template_kwargs)))
        diagnosis = diagnose(model, prompt, server, trust_remote_code=trust_remote_code)
    if as_json:
        print_json({**diagnosis.model_dump(mode="json"), "healthy": diagnosis.healthy})
    else:
        marks = {"ok": "✓", "warning": "!", "error": "✗"}
        for finding in diagnosis.findings:
            typer.echo(f"{marks[finding.status]} {finding.check:45} {finding.text}")
    if not diagnosis.healthy:
        raise typer.Exit(1)
