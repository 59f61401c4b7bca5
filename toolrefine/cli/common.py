"""What the verbs share: options, the guard that turns errors into exit statuses, and how results are printed."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, get_args

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from toolrefine.config import Dataset, EngineConfig, RefinementConfig
    from toolrefine.rundir import Progress
    from toolrefine.types import Checkpoint, Record

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound="Record")

Adapter = Annotated[str | None, typer.Option(help="Folder of a PEFT adapter for the model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Format = Annotated[
    str,
    typer.Option(
        help="auto, canonical, openai, trl, hermes, sharegpt, glaive, toolace, toolbench, apibank, xlam, or toolworld."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Rows to read, at most.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")]
ModelName = Annotated[str, typer.Option(help="nano, a folder, or a hub name.")]
Policy = Annotated[Path | None, typer.Option(metavar="FILE", help="Refine as this file of toolrefine calibrate says.")]
Style = Annotated[
    str | None,
    typer.Option(
        help="template, or system for models whose chat template knows no tools; by default as the model was trained."
    ),
]
Settings = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as engine.dtype=bfloat16.")]
ServerURL = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="Ask this OpenAI-compatible server of the model.")
]
TemplateKwargs = Annotated[
    str | None, typer.Option(metavar="JSON", help='For the chat template, such as {"enable_thinking": false}.')
]

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SAVE_MEMORY = (
    "to sample in less, lower engine.max_batch_rows or engine.prefix_cache_gb; to train in less, halve sft.batch_size "
    "and double sft.gradient_accumulation, or set sft.gradient_checkpointing=true; a run goes on with these from here"
)

_debug = False


class Messages(logging.Handler):
    """What toolrefine has found out or chosen, on standard error, each sentence once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message that has not been printed yet."""
        text = record.getMessage()
        if text not in self._said:
            self._said.add(text)
            typer.echo(text, err=True)


def set_debug(on: bool) -> None:
    """Show tracebacks and what the libraries say, or toolrefine's own sentences alone."""
    global _debug
    _debug = on
    if on:
        logging.basicConfig(level=logging.INFO)
        return
    log = logging.getLogger("toolrefine")
    log.handlers = [Messages()]
    log.setLevel(logging.INFO)
    log.propagate = False


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
            if _debug:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_status) from None
        except BrokenPipeError:  # whoever reads the output, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from here", err=True)
            raise typer.Exit(1) from None
        except Exception as error:
            if _debug:
                raise
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                problem = f"{error}; make room, and the same command goes on from here"
            elif type(error).__name__ == "OutOfMemoryError":  # torch's; torch itself is not imported for that
                problem = f"{str(error).partition('. ')[0]}; {SAVE_MEMORY}"
            else:
                problem = f"{type(error).__name__}: {error} (toolrefine --debug shows where)"
            typer.echo(f"error: {problem}", err=True)
            raise typer.Exit(1) from None

    return run


def make_dataset(source: str, format_name: str, limit: int | None, **others: Any) -> Dataset:
    """The data set that a command line names.

    Raises:
        ConfigError: a value does not fit, or the source is a domain of the tool world under another format.
    """
    from toolrefine.config import FileDataset, ToolworldDataset
    from toolrefine.datasets.toolworld_domains import is_domain
    from toolrefine.errors import ConfigError

    if format_name == "toolworld":
        return build(ToolworldDataset, format="toolworld", domain=source, size=limit or 1000, **others)
    if is_domain(source) and not Path(source).exists():
        raise ConfigError(f"{source}: no such file; as a domain of the tool world it needs --format toolworld")
    return build(FileDataset, format=format_name, source=source, limit=limit, **others)


def given_prompt(style: str | None, template_kwargs: str | None) -> dict[str, Any]:
    """The prompt settings that a command line names.

    Raises:
        ConfigError: the arguments of the template are not JSON.
    """
    from toolrefine.errors import ConfigError

    given: dict[str, Any] = {} if style is None else {"style": style}
    if template_kwargs is not None:
        try:
            given["template_kwargs"] = json.loads(template_kwargs)
        except ValueError as error:
            raise ConfigError(f"--template-kwargs {template_kwargs}: not JSON: {error}") from None
    return given


def make_engine(server: str | None) -> EngineConfig:
    """The engine that a command line names: a server, or this process."""
    from toolrefine.config import EngineConfig

    return EngineConfig(kind="openai", base_url=server) if server else EngineConfig()


def make_refinement(policy: Path | None, max_rounds: int | None) -> RefinementConfig:
    """The refinement that a command line names: a policy's, or the paper's algorithm; max_rounds overrides it."""
    from toolrefine.config import RefinementConfig
    from toolrefine.recipes import load_policy

    found = load_policy(policy) if policy else RefinementConfig()
    return found if max_rounds is None else found.model_copy(update={"max_rounds": max_rounds})


def make_settings(record: type[R], checkpoint: Checkpoint, overrides: Sequence[str] | None, **values: Any) -> R:
    """The settings that a command line names for a model, KEY=VALUE last; prompt settings else as it was trained.

    Raises:
        ConfigError: a key is unknown, or a value does not fit.
        RequestError: the settings beside the model are not readable.
    """
    from toolrefine.models import settle_prompt
    from toolrefine.recipes import apply_override

    for override in overrides or ():
        apply_override(values, override)
    if isinstance(values["prompt"], dict):
        values["prompt"] = settle_prompt(checkpoint, values["prompt"])
    return build(record, **values)


def build(record: type[R], **fields: Any) -> R:
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
        raise ConfigError(describe(error, record)) from None


def claim_files(*outputs: Path, sources: Iterable[str | Path] = ()) -> None:
    """Make sure, before any work, that files can be written without harm to what is read, and make their folders.

    Each is written as X.partial first. A source may be no path at all.

    Raises:
        ConfigError: a file would overwrite a source or another output, is a folder, or cannot be written.
    """
    from toolrefine.errors import ConfigError

    for out, source in product(outputs, sources):
        if same_file(out, source) or same_file(beside(out, ".partial"), source):
            raise ConfigError(f"{out}: writing it would overwrite {source}, which is read; give it another name")
    for out, other in combinations(outputs, 2):
        if same_file(out, other):
            raise ConfigError(f"{out}: {other} would overwrite it; give them different names")
    for out in outputs:
        with _writing(out):
            if out.exists() and not out.is_file():
                raise ConfigError(f"{out}: {'a folder' if out.is_dir() else 'no plain file'}; name a file to write")
            _try_to_write(beside(out, ".partial"))


def claim_folder(folder: Path) -> None:
    """Make a folder, before any work, and make sure that files can be written there.

    Raises:
        ConfigError: they cannot.
    """
    with _writing(folder):
        _try_to_write(folder / "toolrefine.partial")


def _try_to_write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    was_there = path.exists()  # what an interrupted attempt has left stays as it is
    path.open("ab").close()
    if not was_there:
        path.unlink()


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Tell in one sentence why an output cannot be written."""
    from toolrefine.errors import ConfigError

    try:
        yield
    except OSError as error:
        is_in_file = isinstance(error, FileExistsError | NotADirectoryError)
        problem = "is no folder" if is_in_file else error.strerror
        raise ConfigError(f"{out}: cannot be written: {error.filename}: {problem}; name another place") from None


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to one file, through links too."""
    try:
        return Path(one).samefile(other)
    except OSError:  # one is not there yet, or no path
        return os.path.realpath(one) == os.path.realpath(other)


def beside(out: Path, ending: str) -> Path:
    """A file that stands beside an output, under its name and an ending."""
    return out.parent / f"{out.name}{ending}"


def files_of(dataset: Dataset) -> list[str]:
    """The files that a data set is read from; none of the tool world."""
    return [] if dataset.format == "toolworld" else [dataset.source]


def one_of(option: str, value: str, choices: Any) -> Any:
    """The value of an option that must be one of a Literal's.

    Raises:
        ConfigError: it is not.
    """
    from toolrefine.errors import ConfigError

    if value not in get_args(choices):
        raise ConfigError(f"{option} {value}: must be one of {', '.join(get_args(choices))}")
    return value


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
    import warnings

    if _debug:
        yield
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress on standard error."""
    from toolrefine.progress import RichProgress

    with RichProgress() as progress:
        yield progress
