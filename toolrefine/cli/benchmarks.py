"""The verbs of benchmarks: evaluate and compare."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from toolrefine.cli.common import (
    Adapter,
    AsJson,
    Format,
    Limit,
    MaxNewTokens,
    ModelName,
    Policy,
    ServerURL,
    Settings,
    Style,
    TemplateKwargs,
    claim_folder,
    console,
    given_prompt,
    guarded,
    make_dataset,
    make_engine,
    make_refinement,
    make_settings,
    print_json,
    progress_bar,
    quiet_libraries,
)

if TYPE_CHECKING:
    from toolrefine.benchmarks.task import Benchmark
    from toolrefine.config import BenchmarkConfig


@guarded
def evaluate(
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK", help="bfcl, acebench, apibank, toolalpaca, a file of samples, or a tool-world domain."
        ),
    ],
    model: ModelName,
    overrides: Settings = None,
    adapter: Adapter = None,
    server: ServerURL = None,
    refine: Annotated[int | None, typer.Option(min=0, help="Refinement rounds, at most; 0 by default.")] = None,
    policy: Policy = None,
    compare: Annotated[str, typer.Option(metavar="RIVALS", help="At equal cost, such as vote:5,best:5.")] = "",
    categories: Annotated[str, typer.Option(metavar="NAMES", help="With commas between them; all by default.")] = "",
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Your copy of the benchmark.")] = None,
    mode: Annotated[
        str, typer.Option(help="tools: chat template. prompt: the benchmark's own (bfcl, apibank).")
    ] = "tools",
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    style: Style = None,
    template_kwargs: TemplateKwargs = None,
    max_new_tokens: MaxNewTokens = 512,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Answers and results; evals/BENCHMARK-MODEL or -RUN-ITERATION by default."),
    ] = None,
    export_bfcl: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write result files for the official `bfcl evaluate`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on a benchmark or on samples with known targets. Resumes where an earlier attempt stopped."""
    from toolrefine.config import RIVAL, BenchmarkConfig
    from toolrefine.errors import ConfigError
    from toolrefine.models import fingerprint
    from toolrefine.report import write_benchmark_report
    from toolrefine.results import measure_benchmark
    from toolrefine.scoreboard import notes, print_sheets, sheets, to_markdown
    from toolrefine.types import Checkpoint

    if export_bfcl is not None:
        if benchmark != "bfcl":
            raise ConfigError(f"--export-bfcl: {benchmark} is not bfcl; leave it out")
        claim_folder(export_bfcl)
    rivals = [name.strip() for name in compare.split(",") if name.strip()]
    for rival in rivals:
        if not re.search(RIVAL, rival):
            raise ConfigError(f"--compare {rival}: must be vote:N or best:N, with commas between several")
    checkpoint = Checkpoint(model=model, adapter=adapter)
    config = make_settings(
        BenchmarkConfig,
        checkpoint,
        overrides,
        benchmark=benchmark,
        model=model,
        adapter=adapter,
        fingerprint=fingerprint(checkpoint),
        format=format,
        data=str(data or ""),
        categories=[name.strip() for name in categories.split(",") if name.strip()],
        mode=mode,
        limit=limit,
        engine=make_engine(server).model_dump(exclude_defaults=True),
        prompt=given_prompt(style, template_kwargs),
        refinement=make_refinement(policy, refine if policy else refine or 0).model_dump(exclude_defaults=True),
        max_new_tokens=max_new_tokens,
        rivals=rivals,
    )
    if config.mode == "prompt" and benchmark not in ("bfcl", "apibank"):
        raise ConfigError(f"--mode prompt: {benchmark} has no prompt of its own; leave it out")
    with quiet_libraries():
        task_set = open_task_set(config)
        folder = out or Path("evals") / slug(f"{task_set.name}-{short_name(adapter or model)}")
        with progress_bar() as progress:
            answered, result = measure_benchmark(task_set, checkpoint, config, folder, progress)
    (folder / "result.md").write_text(to_markdown(sheets(result), notes(result)), encoding="utf-8")
    report = write_benchmark_report(folder, answered, result)
    if export_bfcl is not None:
        from toolrefine.benchmarks.bfcl.export import export_results

        export_results(answered.answers, export_bfcl, model=slug(short_name(adapter or model)), mode=config.mode)
    if as_json:
        print_json({**result.model_dump(mode="json"), "folder": str(folder)})
    else:
        print_sheets(sheets(result), notes(result), console())
        again = f"toolrefine show {quote(str(folder))}"
        typer.echo(f"\nreport   {report}\nanswers  {again} --sample ID\nagain    {again}")


@guarded
def compare(
    before: Annotated[Path, typer.Argument(help="A folder that evaluate has written.")],
    after: Annotated[Path, typer.Argument(help="Another, of the same benchmark.")],
    arm: Annotated[str, typer.Option(help="draft, refined, vote:N or best:N; the final answers by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Compare two runs of one benchmark, task by task (McNemar's exact test)."""
    from toolrefine.results import compare_runs
    from toolrefine.scoreboard import comparison_sheet, print_sheet

    comparisons = compare_runs(before, after, arm)
    if as_json:
        print_json({"comparisons": [each.model_dump(mode="json") for each in comparisons]})
    else:
        print_sheet(comparison_sheet(comparisons), console())


def open_task_set(config: BenchmarkConfig) -> Benchmark:
    """The benchmark of a config: a public one, or a file of samples.

    Raises:
        RequestError: there is none, it cannot be read, or a category is unknown.
    """
    from toolrefine.benchmarks import BENCHMARKS, open_benchmark
    from toolrefine.benchmarks.samples import SampleBenchmark
    from toolrefine.datasets import dataset_name, load_pool, local_files
    from toolrefine.errors import ConfigError

    if config.benchmark in BENCHMARKS:
        return open_benchmark(
            config.benchmark, Path(config.data) if config.data else None, config.mode, config.categories
        )
    if config.format != "toolworld" and not config.benchmark.startswith("hub:") and not Path(config.benchmark).exists():
        raise ConfigError(
            f"{config.benchmark}: no such file, and no benchmark, which are {', '.join(BENCHMARKS)}; a domain of "
            "the tool world needs --format toolworld"
        )
    if config.categories:
        raise ConfigError(f"--categories: {config.benchmark} is a file of samples and has none")
    dataset = make_dataset(config.benchmark, config.format, config.limit)
    return SampleBenchmark(dataset_name(dataset), load_pool([dataset]), config.matching, local_files([dataset]))


def short_name(model: str) -> str:
    """The last part of a model's name; run and iteration of one that a run has trained."""
    iteration = Path(model).resolve().parent
    run = iteration.parent.parent if iteration.parent.name == "iterations" else iteration.parent
    if Path(model).name != "model" or not (run / "config.json").exists():
        return Path(model).name
    outer = f"{run.parent.name}-" if (run.parent / "config.json").exists() else ""  # an ablation's
    return f"{outer}{run.name}-{iteration.name}"


def slug(text: str) -> str:
    """A text as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")
