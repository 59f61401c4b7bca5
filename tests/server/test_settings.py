from __future__ import annotations

import asyncio
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from toolrefine.cli.serve import serve
from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.errors import ConfigError
from toolrefine.models import save_prompt
from toolrefine.server import run
from toolrefine.server.admission import Admission
from toolrefine.server.errors import RefusalError
from toolrefine.server.settings import ServerConfig, load_settings


def test_a_file_then_options_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(
        'upstream = "http://a/v1"\nport = 1\n[refinement]\nmax_rounds = 3\nwhen = "always"\n[limits]\ndeadline_s = 5\n'
    )
    config = load_settings(path, {"port": 2, "refinement": {"when": "uncertain"}}, ["limits.max_queue=7"])
    assert (config.upstream, config.port, config.limits.deadline_s, config.limits.max_queue) == ("http://a/v1", 2, 5, 7)
    assert (config.refinement.max_rounds, config.refinement.when) == (3, "uncertain")
    assert (config.refinement.how, config.refinement.accept) == ("explain", "valid")


@pytest.mark.parametrize(
    ("values", "overrides", "said"),
    [
        ({}, [], "upstream"),
        ({"upstream": "http://a", "model": "nano"}, [], "either"),
        ({"upstream": "a:8000"}, [], "http://"),
        ({"upstream": "http://a"}, ["limits.max_queue=-1"], "limits.max_queue"),
        ({"upstream": "http://a"}, ["no_such=1"], "no_such"),
        ({"upstream": "http://a"}, ["refinement.when='never'"], "refinement.when"),
        ({"upstream": "http://a"}, ["refinement.accept='likelier'"], "accept=valid"),
        ({"upstream": "http://a"}, ["refinement.how='constrain'"], "how=explain"),
        ({"upstream": "http://a"}, ["refinement.constrain=true"], "--model"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(values: dict[str, Any], overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(None, values, overrides)


def test_a_model_in_process_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    save_prompt(tmp_path, PromptConfig(style="system"))
    path = tmp_path / "serve.toml"
    path.write_text('[prompt]\nrefine = "Again."\n')
    trained, given = {"model": str(tmp_path)}, {"model": "nano", "adapter": str(tmp_path)}
    for values in (trained, given, {**trained, "prompt": {}}):
        assert load_settings(path, values).prompt == PromptConfig(style="system", refine="Again.")
    assert load_settings(path, trained, ["prompt.style=template"]).prompt.style == "template"
    assert load_settings(path, {"upstream": "http://a"}).prompt.style == "template"
    with pytest.raises(ConfigError, match="adapter"):
        load_settings(path, trained, ["adapter=3"])


@pytest.mark.parametrize("text", [None, "port = ", "refinement = 3\n"])
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "serve.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"serve\.toml"):
        load_settings(path, {"upstream": "http://a"})


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(serve)
    return app


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """The servers that would have run."""
    found: list[ServerConfig] = []
    monkeypatch.setattr(run, "run_server", lambda config, _: found.append(config))
    return found


def test_an_address_that_cannot_be_had_is_said_first(app: typer.Typer, started: list[ServerConfig]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = CliRunner().invoke(app, ["--model", "nano", "--port", port])
    assert result.exit_code == 2
    assert result.stderr == f"error: port {port} is in use; choose another with --port\n"
    result = CliRunner().invoke(app, ["--model", "nano", "--host", "no.such.host.invalid"])
    assert result.exit_code == 2
    assert "no.such.host.invalid:8080: cannot be bound" in result.stderr
    assert not started


def test_the_port_that_was_found_is_said(app: typer.Typer, started: list[ServerConfig]) -> None:
    result = CliRunner().invoke(app, ["--upstream", "http://a/v1", "--port", "0", "--host", "localhost"])
    assert result.exit_code == 0, result.output
    assert re.match(r"http://localhost:[1-9]\d+/v1 refines what http://a/v1 answers", result.stderr)


def test_the_verb(app: typer.Typer, started: list[ServerConfig]) -> None:
    options = [
        "--upstream",
        "http://a/v1",
        "--port",
        "0",
        "--max-rounds",
        "1",
        "--when",
        "always",
        "limits.max_queue=3",
    ]
    result = CliRunner().invoke(app, options, env={"TOOLREFINE_API_KEY": "secret"})
    assert result.exit_code == 0, result.output
    assert "secret" not in result.output
    assert started[0].api_key.get_secret_value() == "secret"
    assert (started[0].host, started[0].refinement.max_rounds, started[0].limits.max_queue) == ("127.0.0.1", 1, 3)
    assert CliRunner().invoke(app, []).exit_code == 2


def test_the_verb_takes_a_policy_and_options_come_after(
    app: typer.Typer, started: list[ServerConfig], tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    policy = RefinementConfig(
        max_rounds=4, when="uncertain", how="resample", accept="likelier", min_logprob=-0.3, constrain=True
    )
    path.write_text("[refinement]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in policy.model_dump().items()))
    result = CliRunner().invoke(app, ["--model", "nano", "--port", "0", "--policy", str(path), "--max-rounds", "2"])
    assert result.exit_code == 0, result.output
    assert started[0].refinement == policy.model_copy(update={"max_rounds": 2})


def test_places_are_handed_over_in_order_and_none_is_lost() -> None:
    async def run() -> list[int]:
        admission, order = Admission(2, 50), []

        async def work(number: int) -> None:
            async with admission.place():
                order.append(number)
                await asyncio.sleep(0.001)

        tasks = [asyncio.create_task(work(number)) for number in range(40)]
        await asyncio.sleep(0)
        for task in tasks[5:20:2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.num_active, admission.num_waiting) == (0, 0)
        return order

    order = asyncio.run(run())
    assert order == sorted(order)
    assert len(order) == 32


def test_a_place_handed_to_somebody_who_leaves_goes_on() -> None:
    async def run() -> None:
        admission = Admission(1, 5)
        entered = asyncio.Event()

        async def hold(event: asyncio.Event) -> None:
            async with admission.place():
                entered.set()
                await event.wait()

        go = asyncio.Event()
        first = asyncio.create_task(hold(go))
        await entered.wait()
        second, third = asyncio.create_task(hold(go)), asyncio.create_task(hold(go))
        await asyncio.sleep(0)
        go.set()
        await first
        second.cancel()
        await asyncio.gather(second, third, return_exceptions=True)
        assert (admission.num_active, admission.num_waiting) == (0, 0)

    asyncio.run(asyncio.wait_for(run(), 5))


def test_beyond_the_queue_nobody_waits() -> None:
    async def run() -> None:
        admission = Admission(1, 0)
        async with admission.place():
            with pytest.raises(RefusalError) as refused:
                async with admission.place():
                    pass
        assert refused.value.status == 429

    asyncio.run(run())
