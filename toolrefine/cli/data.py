"""The verbs of toolrefine data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolrefine.cli.common import (
    AsJson,
    Format,
    Limit,
    Style,
    beside,
    build,
    claim_files,
    console,
    files_of,
    given_prompt,
    guarded,
    make_dataset,
    one_of,
    print_json,
    quiet_libraries,
)

if TYPE_CHECKING:
    from rich.console import Console

    from toolrefine.config import Dataset
    from toolrefine.curate.deduplication import Cluster
    from toolrefine.curate.statistics import Statistics
    from toolrefine.datasets import Quarantine
    from toolrefine.types import Sample

app = typer.Typer(
    help="Look at data, check it, convert it, split it, clean it.", rich_markup_mode=None, no_args_is_help=True
)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A file, hub:OWNER/NAME, or a domain of the tool world.")]
Seed = Annotated[int, typer.Option(help="What chance decides follows from it.")]

APART = "--apart requests keeps conversations apart instead"


@app.command()
@guarded
def inspect(
    source: Source,
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    model: Annotated[str | None, typer.Option(help="Measure prompts in tokens of this model.")] = None,
    style: Style = None,
    examples: Annotated[int, typer.Option(min=0, help="Samples to show, drawn at random.")] = 10,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Count samples, tools, turns and calls, and show some samples."""
    from toolrefine.config import PromptConfig
    from toolrefine.curate.statistics import measure
    from toolrefine.datasets import Quarantine
    from toolrefine.datasets.export import to_row
    from toolrefine.show import print_sample

    bad = Quarantine()
    samples = usable(make_dataset(source, format, limit), bad)
    if model is None:
        statistics, drawn = measure(samples, None, examples, seed)
    else:
        from toolrefine.chat import Chat
        from toolrefine.models import load_tokenizer, settle_prompt
        from toolrefine.types import Checkpoint

        with quiet_libraries():
            prompt = build(PromptConfig, **settle_prompt(Checkpoint(model=model), given_prompt(style, None)))
            chat = Chat(load_tokenizer(Checkpoint(model=model)), prompt)
            statistics, drawn = measure(samples, chat, examples, seed)
    if as_json:
        rows = [to_row(sample) for sample in drawn]
        print_json({**statistics.model_dump(), "num_bad_rows": bad.num_rows, "examples": rows})
        return
    print_statistics(statistics, bad.num_rows, console())
    for sample in drawn:
        print_sample(sample, console())
    say_bad(bad)


def print_statistics(statistics: Statistics, num_bad_rows: int, output: Console) -> None:
    """Counts, then a table of distributions."""
    from rich.table import Table

    kinds = ", ".join(f"{count} {kind}" for kind, count in statistics.kinds.items())
    output.print(f"{statistics.num_samples} samples: {kinds}; {num_bad_rows} bad rows")
    output.print(f"{statistics.num_tools} different tools, {statistics.num_called_tools} of them called\n")
    columns = ("mean", "min", "p25", "p50", "p75", "p95", "p99", "max")
    table = Table(box=None, pad_edge=False)
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name in ("tools", "calls", "turns", "user_turns", "prompt_tokens"):
        if distribution := getattr(statistics, name):
            values = (getattr(distribution, column) for column in columns)
            table.add_row(
                name.replace("_", " "),
                *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in values),
            )
    output.print(table)
    if statistics.num_refused:
        output.print(f"{statistics.num_refused} samples are refused by the model's chat template")


@app.command()
@guarded
def validate(
    source: Source,
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    errors_only: Annotated[bool, typer.Option("--errors-only", help="Leave out warnings.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is wrong or odd, its place and how to mend it; exit status 1 if a row is unusable, or there is none."""
    from toolrefine.curate.validation import Validation

    validation = Validation(make_dataset(source, format, limit))
    findings = (f for f in validation.findings() if f.severity == "error" or not errors_only)
    if as_json:  # one after the other: there may be more of them than fit into memory
        start = '{"findings": ['
        for finding in findings:
            typer.echo(start + finding.model_dump_json(), nl=False)
            start = ", "
        typer.echo(f'{start.removesuffix(", ")}], "num_samples": {validation.num_samples}}}')
    else:
        for finding in findings:
            place = f"{finding.file}:{finding.line}: {finding.severity} {finding.code}"
            typer.echo(f"{place}: {finding.message.rstrip('.')}. {finding.mend}")
        to_mend, odd = validation.counts["error"], validation.counts["warning"]
        typer.echo(f"{validation.num_samples} usable samples, {to_mend} findings to mend, {odd} warnings", err=True)
    if validation.counts["error"]:
        raise typer.Exit(1)


@app.command()
@guarded
def convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="JSONL to write; .gz compresses.")],
    to: Annotated[str, typer.Option(help="canonical, openai, trl, llamafactory, or hermes.")] = "canonical",
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of the tool world's samples, and of wrong labels.")] = 0,
    wrong_label_rate: Annotated[float, typer.Option(help="Share of the labels to make wrong on purpose.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Write any source, the tool world included, in the format of toolrefine or of another trainer."""
    from toolrefine.datasets import open_quarantine
    from toolrefine.datasets.export import ExportFormat, write_samples

    export_format = one_of("--to", to, ExportFormat)
    dataset = make_dataset(source, format, limit, seed=seed, wrong_label_rate=wrong_label_rate)
    quarantine = beside(out, ".quarantine.jsonl")
    claim_files(out, quarantine, sources=files_of(dataset))
    with open_quarantine(quarantine) as bad:
        num_samples = write_samples(out, usable(dataset, bad), export_format)
    report = {"num_samples": num_samples, "num_bad_rows": bad.num_rows, "out": str(out)}
    if as_json:
        print_json(report)
    else:
        typer.echo(f"{num_samples} samples in {out}")
        say_bad(bad)


@app.command()
@guarded
def split(
    source: Source,
    out_train: Annotated[Path, typer.Option(metavar="FILE", help="JSONL of the training part; .gz compresses.")],
    out_held_out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL of the held-out part.")],
    held_out: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the samples to hold out.")] = 0.1,
    apart: Annotated[
        str,
        typer.Option(
            metavar="tools|requests",
            help="What no two parts share: a tool's name, or, where all samples share their tools, the request that a "
            "conversation begins with.",
        ),
    ] = "tools",
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Hold out samples with tools of their own: no tool's name occurs in both parts."""
    from toolrefine.curate.splitting import Apart, first_requests, tool_names
    from toolrefine.curate.splitting import split as split_names
    from toolrefine.datasets import Quarantine
    from toolrefine.datasets.export import write_samples
    from toolrefine.errors import DataError

    name_all = first_requests if one_of("--apart", apart, Apart) == "requests" else tool_names
    bad = Quarantine()
    dataset = make_dataset(source, format, limit)
    claim_files(out_train, out_held_out, sources=files_of(dataset))
    parts = split_names(name_all(usable(dataset, bad)), held_out, seed)
    counts = {part: parts.count(part) for part in ("train", "held_out", "dropped")}
    if not counts["train"] or not counts["held_out"]:
        raise DataError(
            f"{source}: cannot be split: nearly all samples share {apart}, or the share leaves a part empty"
            + (f"; {APART}" if apart == "tools" else "")
        )
    for part, out in (("train", out_train), ("held_out", out_held_out)):
        samples = zip(parts.parts, usable(dataset, Quarantine()), strict=True)
        write_samples(out, (sample for where, sample in samples if where == part))
    if as_json:
        report = {"num_samples": counts, f"num_{apart}": parts.num_names, "num_bad_rows": bad.num_rows}
        print_json({**report, "out_train": str(out_train), "out_held_out": str(out_held_out)})
        return
    num_names = parts.num_names
    typer.echo(f"train     {counts['train']} samples, {num_names['train']} {apart} in {out_train}")
    typer.echo(f"held out  {counts['held_out']} samples, {num_names['held_out']} {apart} in {out_held_out}")
    if apart == "tools":
        lost = f"{num_names['dropped']} tools are lost"
        typer.echo(f"dropped   {counts['dropped']} samples, which have tools of both; {lost}")
    if counts["dropped"] > counts["train"]:
        typer.echo(f"most samples share tools, and are lost to the split; {APART}", err=True)
    say_bad(bad)


@app.command()
@guarded
def dedup(
    source: Source,
    out: Annotated[Path, typer.Argument(help="JSONL to write; .gz compresses.")],
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Similarity of near duplicates; 1 drops exact ones alone.")
    ] = 0.8,
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Drop samples that are there twice, in the same words or nearly so; the first of each cluster stays."""
    from toolrefine.curate.deduplication import drop_duplicates, find_duplicates
    from toolrefine.datasets import Quarantine
    from toolrefine.datasets.export import write_samples

    bad = Quarantine()
    dataset = make_dataset(source, format, limit)
    claim_files(out, sources=files_of(dataset))
    num_samples, clusters = find_duplicates(usable(dataset, bad), threshold)
    ids: dict[int, str] = {}
    num_kept = write_samples(out, drop_duplicates(usable(dataset, Quarantine()), clusters, ids))
    report = {
        "num_samples": num_samples,
        "num_exact": sum(len(cluster.exact) for cluster in clusters),
        "num_near": sum(len(cluster.near) for cluster in clusters),
        "num_kept": num_kept,
        "num_bad_rows": bad.num_rows,
        "out": str(out),
    }
    if as_json:
        print_json({**report, "clusters": [cluster_row(cluster, ids) for cluster in clusters]})
        return
    for cluster in clusters:
        row = cluster_row(cluster, ids)
        parts = (f"{kind} {', '.join(row[kind])}" for kind in ("exact", "near") if row[kind])
        typer.echo(f"{row['kept']}: {'; '.join(parts)}")
    typer.echo(
        f"\n{num_kept} of {num_samples} samples in {out}; dropped in {len(clusters)} clusters: "
        f"{report['num_exact']} exact and {report['num_near']} near duplicates"
    )
    say_bad(bad)


def cluster_row(cluster: Cluster, ids: dict[int, str]) -> dict[str, Any]:
    """A cluster by the ids of its samples."""
    exact, near = ([ids[index] for index in part] for part in (cluster.exact, cluster.near))
    return {"kept": ids[cluster.kept], "exact": exact, "near": near}


@app.command()
@guarded
def overlap(
    source: Source,
    benchmark: Annotated[Path, typer.Option("--with", metavar="PATH", help="A benchmark's file, or a folder of them.")],
    words: Annotated[int, typer.Option(min=4, help="Length of the runs of words to share.")] = 13,
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """List samples that share a run of words with the questions of a benchmark."""
    from toolrefine.curate.contamination import Benchmark, load_items
    from toolrefine.datasets import Quarantine
    from toolrefine.errors import DataError

    bad = Quarantine()
    items = Benchmark(load_items(benchmark), words)
    if not items.num_items:
        raise DataError(f"{benchmark}: no user's text under any known key; give the files that hold the questions")
    overlaps = list(items.overlaps(usable(make_dataset(source, format, limit), bad)))
    num_hit = len({found.item for found in overlaps})
    report = {
        "num_items": items.num_items,
        "num_too_short": items.num_too_short,
        "num_items_hit": num_hit,
        "share_hit": num_hit / items.num_items,
        "num_samples_hit": len({found.sample for found in overlaps}),
        "num_bad_rows": bad.num_rows,
    }
    if as_json:
        print_json({**report, "overlaps": [found.model_dump() for found in overlaps]})
        return
    for found in overlaps:
        typer.echo(f"{found.sample}  {found.item}  {found.words}")
    typer.echo(
        f"\n{num_hit} of {items.num_items} items ({report['share_hit']:.1%}) share words with "
        f"{report['num_samples_hit']} samples; {items.num_too_short} items are too short to tell"
    )
    say_bad(bad)


@app.command()
@guarded
def tools(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help='"stdio:COMMAND ...", a URL, or the path of an OpenAPI document.')
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSON list of tools as OpenAI has them.")],
    format: Annotated[str, typer.Option(help="auto, mcp, or openapi.")] = "auto",  # noqa: A002
    as_json: AsJson = False,
) -> None:
    """Import the tools of an MCP server or of an OpenAPI 3 document."""
    import logging

    from toolrefine.datasets.export import openai_tools
    from toolrefine.datasets.tool_sources import SourceKind, load_tools
    from toolrefine.rundir import write_text

    claim_files(out, sources=[source])
    logging.getLogger("mcp").addHandler(logging.NullHandler())  # its tracebacks are for --debug
    loaded = load_tools(source, one_of("--format", format, SourceKind))
    write_text(out, json.dumps(openai_tools(loaded), ensure_ascii=False, indent=1) + "\n")
    if as_json:
        print_json({"num_tools": len(loaded), "names": [tool.name for tool in loaded], "out": str(out)})
    else:
        typer.echo(f"{len(loaded)} tools in {out}")


def usable(dataset: Dataset, bad: Quarantine) -> Iterator[Sample]:
    """The samples of a data set, one after the other.

    Raises:
        DataError: there is not one.
    """
    from toolrefine.datasets import dataset_name, load_dataset
    from toolrefine.errors import DataError

    is_empty = True
    for sample in load_dataset(dataset, bad):
        is_empty = False
        yield sample
    if is_empty:
        raise DataError(f"{dataset_name(dataset)}: no usable sample: {bad.problem}; check --format")


def say_bad(bad: Quarantine) -> None:
    """Mention bad rows, on standard error."""
    if bad.num_rows:
        typer.echo(
            f"left out: {bad.num_rows} bad rows, the first at {bad.first.rstrip('.')}; data validate lists them",
            err=True,
        )
