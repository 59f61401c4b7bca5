"""All measurements: a table, and perf/results.json.

    make perf
    python -m perf --only waves --only 30M
    python -m perf --bfcl-python BFCL/bin/python

A group that --only names by a part of its name is measured alone; other rows of the results file stay, which must be of
this machine. The exit status is 1 where a measurement failed, whatever the ratios are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perf.harness import Results, Row, describe_machine, missing_row
from toolrefine.errors import WorkError
from toolrefine.rundir import differences, write_json

RESULTS = Path(__file__).parent / "results.json"
GPU_RESULTS = Path(__file__).parent / "RESULTS.md"
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
"""Environment of the sides."""
HEADINGS = ("what", "ratio", "at least", "seconds", "peak MB", "rounds", "note")
Group = Callable[[argparse.Namespace], list[Row]]


def small_models(_: argparse.Namespace) -> list[Row]:
    from perf.sampling import Task, sampling_rows

    return [
        *sampling_rows("5M, k=8", Task(shape="5M", num_prompts=16), share=0.25, search_s=6),
        *sampling_rows(
            "5M, k=8, varying lengths",
            Task(shape="5M", num_prompts=16, ends="by chance", max_new_tokens=96),
            share=0.25,
            search_s=5,
            with_expand=False,
        ),
    ]


def nano(_: argparse.Namespace) -> list[Row]:
    from perf.sampling import Task, sampling_rows

    task = Task(shape="nano", num_prompts=16, max_new_tokens=96, min_prompt_tokens=1)
    return sampling_rows("nano, real prompts, k=8", task, search_s=12)


def middle_model(_: argparse.Namespace) -> list[Row]:
    from perf.sampling import Task, sampling_rows

    return sampling_rows(
        "30M, k=8",
        Task(shape="30M", num_prompts=16),
        share=0.25,
        search_s=12,
        with_bf16=True,
        targets=(5.0, 1.8, 8.0),
    )


def large_model(_: argparse.Namespace) -> list[Row]:
    from perf.peers import Settings
    from perf.sampling import Task, sampling_rows

    return sampling_rows(
        "120M, k=8",
        Task(shape="120M", num_prompts=4),
        share=0.25,
        candidates=[Settings(1, "static"), Settings(1, "dynamic")],
        with_bf16=True,
        with_expand=False,
    )


def waves(_: argparse.Namespace) -> list[Row]:
    from perf.sampling import Task
    from perf.waves import waves_rows

    task = Task(shape="5M", num_prompts=128)
    return [
        *waves_rows("success rates Beta(0.5, 0.5), k=8: all k", task, "mixed", at_least=1.35, saved_at_least=0.55),
        *waves_rows(
            "no success at all, k=8: all k", Task(shape="5M", num_prompts=48), "none", at_least=0.98, budget_s=15
        ),
        *waves_rows("success always, k=8: all k", Task(shape="5M", num_prompts=32), "all", at_least=0.98),
    ]


def refinement(_: argparse.Namespace) -> list[Row]:
    from perf.refinement import refinement_row
    from perf.sampling import Task

    return [
        refinement_row("30M", Task(shape="30M", num_prompts=6), at_least=5.0),
        refinement_row("nano", Task(shape="nano", num_prompts=16, max_new_tokens=96), budget_s=10),
    ]


def judging(_: argparse.Namespace) -> list[Row]:
    from perf.judging import judging_row
    from perf.sampling import Task

    task = Task(shape="nano", num_prompts=32, max_new_tokens=96, min_prompt_tokens=1)
    return [judging_row(task, at_least=100.0)]


def options(_: argparse.Namespace) -> list[Row]:
    from perf.options import option_rows
    from perf.sampling import Task

    return option_rows(Task(shape="nano", num_prompts=128, max_new_tokens=96, min_prompt_tokens=1), rounds=5)


def sft(_: argparse.Namespace) -> list[Row]:
    from perf.sft import packing_row, sft_row

    return [sft_row(), packing_row()]


def iteration(_: argparse.Namespace) -> list[Row]:
    from perf.iteration import iteration_row
    from perf.plain_iteration import IterationTask

    return [iteration_row(IterationTask(), at_least=4.0)]


def bfcl(arguments: argparse.Namespace) -> list[Row]:
    from perf.bfcl import AT_LEAST, ROW_NAME, compare

    if arguments.bfcl_python is None:
        return [missing_row(ROW_NAME, "needs an environment with bfcl-eval: --bfcl-python", AT_LEAST)]
    return [compare(arguments.bfcl_python, arguments.bfcl_data)[0]]


def gpu(_: argparse.Namespace) -> list[Row]:
    import torch

    from perf.refinement import refinement_row
    from perf.sampling import Task, sampling_rows
    from perf.waves import waves_rows

    if not torch.cuda.is_available():
        return [missing_row(f"GPU, {shape}, bf16: all rows", "no GPU on this machine") for shape in ("1B", "8B")]
    rows = []
    for shape, num_prompts in (("1B", 128), ("8B", 64)):
        task = Task(shape=shape, num_prompts=num_prompts, device="cuda", dtype="bfloat16", max_batch_rows=512)
        rows += sampling_rows(f"GPU, {shape}, bf16, k=8", task, search_s=30)
        rows += waves_rows(f"GPU, {shape}, bf16, Beta(0.5, 0.5), k=8: all k", task, "mixed", at_least=1.35)
        rows.append(refinement_row(f"GPU, {shape}, bf16", task))
    return rows


GROUPS: dict[str, Group] = {
    "sampling-5M": small_models,
    "sampling-nano": nano,
    "sampling-30M": middle_model,
    "sampling-120M": large_model,
    "waves": waves,
    "refinement": refinement,
    "judging": judging,
    "options": options,
    "sft": sft,
    "iteration": iteration,
    "bfcl": bfcl,
    "gpu": gpu,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help=f"of {', '.join(GROUPS)}; may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--bfcl-python", help="Python of an environment with bfcl-eval")
    parser.add_argument("--bfcl-data", type=Path, help="bfcl-eval's folder of data, for its gold calls")
    arguments = parser.parse_args(argv)
    wanted = [name for name in GROUPS if not arguments.only or any(part in name for part in arguments.only)]
    if not wanted:
        parser.error(f"--only: no group of {', '.join(GROUPS)} has such a name")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    console = Console(stderr=True)
    machine = describe_machine()
    try:
        rows = read_rows(arguments.out, machine) if arguments.only else {}
    except WorkError as error:
        parser.error(str(error))
    failed = False
    for name in wanted:
        started = time.monotonic()
        try:
            found = GROUPS[name](arguments)
        except Exception as error:  # one failed measurement must not cost the others
            console.print(traceback.format_exc(), markup=False)
            failed = True
            found = [missing_row(name, f"failed: {str(error).strip().splitlines()[-1]}")]
        rows.pop(name, None)
        rows |= {row.name: row for row in found}
        write_json(arguments.out, Results(machine=machine, rows=list(rows.values())).model_dump())
        console.print(f"{name}: {time.monotonic() - started:.0f} s")
    print_table(Console(), machine, list(rows.values()))
    gpu_rows = [row for row in rows.values() if "GPU" in row.name and row.ratio is not None]
    if gpu_rows:
        write_markdown(GPU_RESULTS, machine, gpu_rows)
    return int(failed)


def read_rows(path: Path, machine: dict[str, object]) -> dict[str, Row]:
    """The rows of an earlier run on the same machine with the same packages.

    Raises:
        WorkError: on another one.
    """
    if not path.exists():
        return {}
    results = Results.model_validate(json.loads(path.read_text()))
    changed = [f"{key} {there}, here it is {here}" for key, there, here in differences(results.machine, machine)]
    if changed:
        raise WorkError(f"{path} was measured with {', with '.join(changed)}: measure all groups, or use another --out")
    return {row.name: row for row in results.rows}


def print_table(console: Console, machine: dict[str, object], rows: Sequence[Row]) -> None:
    """The rows, and below them what there is to say about them."""
    table = Table(title=", ".join(f"{key} {value}" for key, value in machine.items()), caption="ours / peer")
    for heading in HEADINGS[:-1]:
        table.add_column(heading, justify="left" if heading == "what" else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, cells(row)[:-1]), style="red" if row.reached is False else None)
    console.print(table)
    for row in rows:
        console.print(f"[bold]{escape(row.name)}[/]: {escape(cells(row)[-1])}", highlight=False)


def cells(row: Row) -> list[str]:
    """A row as text; a ratio below its target has a mark."""
    return [
        row.name,
        "-" if row.ratio is None else f"{row.ratio:.2f}" + (" (missed)" if row.reached is False else ""),
        "" if row.at_least is None else f"{row.at_least:g}",
        "" if row.ours_s is None else f"{row.ours_s:.3g} / {row.peer_s:.3g}",
        "" if row.ours_peak_mb is None else f"{row.ours_peak_mb:.0f} / {row.peer_peak_mb:.0f}",
        str(row.rounds or ""),
        row.reason or row.note,
    ]


def write_markdown(path: Path, machine: dict[str, object], rows: Sequence[Row]) -> None:
    """Put the table of a GPU into a page of its own sections, one a device."""
    heading = f"## {machine['device']}\n"
    sections = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    kept = [f"## {section}".strip() for section in sections if not f"## {section}".startswith(heading)]
    lines = [
        heading,
        f"torch {machine['torch']}, transformers {machine['transformers']}. Seconds and peak memory: ours / peer.\n",
        f"| {' | '.join(HEADINGS)} |",
        "|---" * len(HEADINGS) + "|",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    text = "# Measured on GPUs\n\n`python -m perf --only gpu`, random-initialised Llama shapes.\n\n"
    path.write_text(text + "\n\n".join([*kept, "\n".join(lines)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
