"""The verb calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolrefine.cli.common import (
    Adapter,
    AsJson,
    Format,
    Limit,
    MaxNewTokens,
    ModelName,
    ServerURL,
    Settings,
    Style,
    TemplateKwargs,
    beside,
    claim_files,
    console,
    files_of,
    given_prompt,
    guarded,
    make_dataset,
    make_engine,
    make_settings,
    print_json,
    progress_bar,
    quiet_libraries,
)


@guarded
def calibrate(
    model: ModelName,
    data: Annotated[str, typer.Option(metavar="FILE", help="Samples with targets, or a tool-world domain.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="TOML file for the policy and every candidate's figures.")],
    overrides: Settings = None,
    adapter: Adapter = None,
    format: Format = "auto",  # noqa: A002
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of a tool-world domain's samples.")] = 0,
    budget_calls: Annotated[float | None, typer.Option(min=1, help="Calls a sample, on average, at most.")] = None,
    budget_tokens: Annotated[float | None, typer.Option(min=1, help="Sampled tokens a sample.")] = None,
    budget_broken: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of right drafts, of all, that may turn wrong.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of further samples, above 0.")] = 0.7,
    server: ServerURL = None,
    style: Style = None,
    template_kwargs: TemplateKwargs = None,
    max_new_tokens: MaxNewTokens = 512,
    as_json: AsJson = False,
) -> None:
    """Choose a refinement policy on a development set. Resumes where an earlier attempt stopped."""
    from toolrefine.calibration import Budget, policy_sheet, to_toml
    from toolrefine.calibration import calibrate as find_policy
    from toolrefine.config import UNREFINED, CalibrationConfig
    from toolrefine.datasets import load_pool
    from toolrefine.engines import SamplingParams, open_engine
    from toolrefine.engines.answers import Answers
    from toolrefine.engines.memory import RememberingEngine
    from toolrefine.models import fingerprint
    from toolrefine.rundir import write_text
    from toolrefine.scoreboard import print_sheet
    from toolrefine.types import Checkpoint

    checkpoint = Checkpoint(model=model, adapter=adapter)
    dataset = make_dataset(data, format, limit, seed=seed)
    kept = beside(out, ".answers.jsonl")
    claim_files(out, kept, sources=files_of(dataset))
    config = make_settings(
        CalibrationConfig,
        checkpoint,
        overrides,
        engine=make_engine(server).model_dump(exclude_defaults=True),
        prompt=given_prompt(style, template_kwargs),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    samples = load_pool([dataset])
    # The files of the model are part of what answers depend on.
    known_as = checkpoint.model_copy(update={"model": f"{model}@{fingerprint(checkpoint)}"})
    with (
        quiet_libraries(),
        progress_bar() as progress,
        open_engine(checkpoint, config.engine, config.prompt) as engine,
    ):
        found = find_policy(
            RememberingEngine(engine, Answers(str(kept), known_as, config.engine, config.prompt)),
            samples,
            config.prompt,
            Budget(calls=budget_calls, tokens=budget_tokens, broken=budget_broken),
            SamplingParams(temperature=config.temperature, max_new_tokens=config.max_new_tokens),
            config.matching,
            progress=progress,
        )
    write_text(out, to_toml(found, {"model": adapter or model, "data": data}))
    kept.unlink(missing_ok=True)
    if as_json:
        print_json({**found.model_dump(mode="json"), "out": str(out)})
        return
    print_sheet(policy_sheet(found), console())
    if found.refinement != UNREFINED:
        typer.echo(f"policy   {out}")
    else:
        typer.echo(f"policy   {out}: no refinement: no candidate within the budget is surely better than the drafts")
