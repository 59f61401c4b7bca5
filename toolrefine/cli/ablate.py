"""The verb ablate."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from toolrefine.cli.benchmarks import open_task_set
from toolrefine.cli.common import AsJson, Limit, build, console, guarded, print_json, progress_bar, quiet_libraries

if TYPE_CHECKING:
    from toolrefine.config import BenchmarkConfig, Config


@guarded
def ablate(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; see recipes/.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as rollout.k=16.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Measure on this too, as evaluate takes it; may be given several times."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Your copy of the benchmark, or a folder with one for each.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="tools: chat template. prompt: the benchmark's own (bfcl, apibank).")
    ] = "tools",
    limit: Limit = None,
    refine: Annotated[
        int | None, typer.Option(min=0, help="Refinement rounds, at most; those of the recipe by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the method with itself less one part each, and with plain SFT. Resumes where an earlier attempt stopped.

    The recipe's evaluation sets are measured always. --limit is that of a category of a benchmark.
    """
    from toolrefine.ablation import Ablation
    from toolrefine.ablation import ablate as run_ablation
    from toolrefine.ablation.table import notes, sheets
    from toolrefine.recipes import load_config
    from toolrefine.rundir import open_run
    from toolrefine.scoreboard import print_sheets

    rounds = [] if refine is None else [f"refinement.max_rounds={refine}"]
    config = load_config(recipe, [*(overrides or []), *rounds])
    folder = Path(f"{config.run}-ablation")
    settings = [benchmark_settings(name, config, data, mode, limit) for name in benchmark or []]
    with quiet_libraries():
        task_sets = [open_task_set(each) for each in settings]
        plan = Ablation(recipe=config.model_copy(update={"run": ""}), benchmarks=tuple(settings))
        with progress_bar() as progress, open_run(folder, plan, progress) as run:
            result = run_ablation(plan, task_sets, run)
    if as_json:
        print_json({**result.model_dump(mode="json"), "folder": str(folder)})
    else:
        print_sheets(sheets(result), notes(result), console())
        typer.echo(f"\ntables  {folder / 'ablation.md'}\nruns    toolrefine show {quote(str(folder / 'full'))}")


def benchmark_settings(name: str, config: Config, data: Path | None, mode: str, limit: int | None) -> BenchmarkConfig:
    """How to run a benchmark with the models of a recipe.

    Raises:
        ConfigError: a value does not fit.
    """
    from toolrefine.config import BenchmarkConfig

    own = data / name if data and (data / name).is_dir() else data
    return build(
        BenchmarkConfig,
        benchmark=name,
        model=config.model,
        data=str(own or ""),
        mode=mode,
        limit=limit,
        engine=config.engine,
        prompt=config.prompt,
        matching=config.matching,
        refinement=config.refinement,
        max_new_tokens=config.evaluation.max_new_tokens,
        chunk_size=config.evaluation.chunk_size,
        seed=config.seed,
    )
