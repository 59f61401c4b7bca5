"""The verb of the server: serve."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from toolrefine.cli.common import Adapter, Policy, Style, TemplateKwargs, given_prompt, guarded, quiet_libraries


@guarded
def serve(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as limits.deadline_s=60.")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server, such as http://localhost:8000/v1.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Answer in this process instead: nano, a folder, or a hub name.")
    ] = None,
    adapter: Adapter = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in TOML; options come after.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8080 by default.")] = None,
    policy: Policy = None,
    max_rounds: Annotated[int | None, typer.Option(min=0, help="Rounds after a draft, at most; 2 by default.")] = None,
    when: Annotated[
        str | None, typer.Option(help="invalid (default), uncertain, or always: which drafts are refined.")
    ] = None,
    min_logprob: Annotated[
        float | None, typer.Option(max=0.0, help="uncertain: refine below this mean log-probability.")
    ] = None,
    opt_in: Annotated[
        bool, typer.Option("--opt-in", help="Refine for requests alone that ask for it, as MODEL:refined does.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="TOOLREFINE_API_KEY", show_envvar=True, help="What clients must show."),
    ] = None,
    upstream_key: Annotated[
        str | None,
        typer.Option(envvar="TOOLREFINE_UPSTREAM_KEY", show_envvar=True, help="What the upstream is shown."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Add a field toolrefine to refined answers.")] = False,
    log_contents: Annotated[bool, typer.Option("--log-contents", help="Log drafts and answers too.")] = False,
    style: Style = None,
    template_kwargs: TemplateKwargs = None,
) -> None:
    """Refine tool calls behind the OpenAI API: before any compatible server, or with a model in this process."""
    from toolrefine.errors import RequestError
    from toolrefine.recipes import load_policy
    from toolrefine.server.settings import load_settings

    try:
        from toolrefine.server.run import bound, run_server
    except ModuleNotFoundError as error:
        raise RequestError(f"serve needs {error.name}; pip install '.[serve]' in the checkout") from None

    options = {
        "upstream": upstream,
        "model": model,
        "adapter": adapter,
        "host": host,
        "port": port,
        "opt_in": opt_in or None,
        "api_key": api_key,
        "upstream_key": upstream_key,
        "report": report or None,
        "log_contents": log_contents or None,
        "refinement": {
            **(load_policy(policy).model_dump() if policy else {}),
            **given({"max_rounds": max_rounds, "when": when, "min_logprob": min_logprob}),
        },
        "prompt": given_prompt(style, template_kwargs),
    }
    settings = load_settings(config, given(options), overrides or [])
    with bound(settings.host, settings.port) as sockets, quiet_libraries() if settings.model else nullcontext():
        where = f"http://{settings.host}:{sockets[0].getsockname()[1]}/v1"
        typer.echo(f"{where} refines what {settings.upstream or settings.model} answers; Ctrl+C ends it", err=True)
        run_server(settings, sockets)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that a command line names."""
    return {name: value for name, value in options.items() if value is not None}
