"""The world of BFCL's multi-turn tasks: calls executed on the official classes of the user's own copy.

BFCL hands the text of a call to eval. Here it is parsed, and all that ever runs is a public method of one of the task's
own instances, with literal values or results of such methods as arguments. Results and error texts are BFCL's, down to
the names of instances that it writes into arguments wherever a method's name and a bracket stand in a text. What
differs, none of which a gold call needs:

- What the classes list in an order that differs between processes is sorted.
- Python's builtins and BFCL's own imports are not defined, and arithmetic is not computed: either is an error.
- A call may have MAX_CHARS characters, results of nested calls included, and roots and logarithms MAX_PRECISION digits.
  A search through directories that hold each other, or more than MAX_PATH_CHARS, is an error. So a call takes
  milliseconds, and what it leaves behind is bounded. Powers beyond MAX_DIGITS digits are not computed, because printing
  them is an error in BFCL too.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import localcontext
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from toolrefine.benchmarks.bfcl.decode import MAX_FIELD_STEPS
from toolrefine.errors import DataError

MODULES = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
"""Class -> the name of the files with its source and with its documents."""

MAX_CHARS = 100_000
MAX_PRECISION = 2000
MAX_DIGITS = 4300  # what Python prints of an integer by default
MAX_PATH_CHARS = 10_000_000

_FORBIDDEN = frozenset({"kill", "exit", "quit", "remove", "unlink", "popen", "Popen", "run"})
_NAME = re.compile(r"\b([a-zA-Z_]\w*)\s*(?=\()")
_UNORDERED = re.compile(r"(?<=Must be one of \{)[^}]*+|(?<=Invalid fields for update: )[^\"]*+")
"""What the classes write in the order of a set, which differs between processes."""

_FOLDER = Path("eval_checker", "multi_turn_eval", "func_source_code")
_CONSTANTS = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code.long_context"
_LOADING = threading.Lock()


class Simulation:
    """The instances of one task, and what calls make of them."""

    def __init__(self, instances: Mapping[str, Any], owner: str) -> None:
        """Take instances by class; owner begins their names, which calls may come to see."""
        self.instances = instances
        self._methods: dict[str, tuple[str, Callable[..., Any]]] = {}
        for class_name, instance in instances.items():
            name = re.sub(r"[-./:]", "_", f"{owner}_{class_name}_instance")
            for method_name, method in inspect.getmembers(instance, inspect.ismethod):
                if not method_name.startswith("_"):
                    self._methods[method_name] = name, method
        self._room = MAX_CHARS

    def execute(self, call: str) -> str:
        """The result of a call as text, or BFCL's text for an error; never raises."""
        try:
            with localcontext():  # where square_root sets its precision
                text = _UNORDERED.sub(_sorted, _as_text(self._execute(call)))
        except Exception as error:
            text = f"Error during execution: {_message(error)}"
        return text.encode(errors="backslashreplace").decode()  # half a character cannot be sent

    def same_state(self, gold: Simulation) -> bool:
        """Whether all public attributes of the gold instances have the same values here."""
        try:
            return all(
                getattr(self.instances[class_name], attribute) == value
                for class_name, instance in gold.instances.items()
                for attribute, value in vars(instance).items()
                if not attribute.startswith("_")
            )
        except RecursionError:
            return False

    def _execute(self, call: str) -> Any:
        if len(call) > MAX_CHARS or len(call) * call.count("{") > MAX_FIELD_STEPS:
            raise ValueError(f"the call has more than {MAX_CHARS} characters, or too many braces")
        self._room = MAX_CHARS
        text = _NAME.sub(self._qualified, call)
        name = text.split("(")[0]
        if "." in name:
            name = name.split(".")[1]
        if name in _FORBIDDEN:
            raise ValueError(f"Function call {name} is not allowed.")
        return self._value(ast.parse(text.lstrip(" \t"), "<string>", "eval").body)

    def _qualified(self, found: re.Match[str]) -> str:
        owned = self._methods.get(found[1])
        return f"{owned[0]}.{found[1]}" if owned else found[1]

    def _value(self, node: ast.expr | None) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.List():
                return [self._value(element) for element in node.elts]
            case ast.Tuple():
                return tuple([self._value(element) for element in node.elts])
            case ast.Dict():
                entries = zip(node.keys, node.values, strict=True)
                return {self._value(key): self._value(value) for key, value in entries}
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() | complex() as number)):
                return -number
            case ast.Name():
                raise NameError(f"name '{node.id}' is not defined")
            case ast.Call():
                return self._call(node)
            case _:
                raise ValueError("an expression that is no value")

    def _call(self, node: ast.Call) -> Any:
        match node.func:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if self._methods.get(name, ("",))[0] == owner:
                method = self._methods[name][1]
            case function:
                while isinstance(function, ast.Attribute):
                    function = function.value
                return self._value(function)  # which is an error, as a rule that a name is not defined
        arguments = [self._argument(argument) for argument in node.args]
        named = {str(keyword.arg): self._argument(keyword.value) for keyword in node.keywords}
        if name in _BOUNDS:
            try:
                bound = inspect.signature(method).bind(*arguments, **named)
            except TypeError:
                return method(*arguments, **named)  # for its own message
            bound.apply_defaults()
            _BOUNDS[name](getattr(method, "__self__", None), bound.arguments)
            return method(*bound.args, **bound.kwargs)
        return method(*arguments, **named)

    def _argument(self, node: ast.expr) -> Any:
        value = self._value(node)
        if any(isinstance(part, ast.Call) for part in ast.walk(node)):
            # Copied, so that no value comes to hold itself, and no text grows without bounds.
            self._room -= len(_as_text(value))
            if self._room < 0:
                raise ValueError(f"the arguments have more than {MAX_CHARS} characters")
            return copy.deepcopy(value)
        return value


def open_simulations(
    root: Path, classes: Sequence[str], config: Mapping[str, Any], long_context: bool, owners: Sequence[str]
) -> tuple[Simulation, ...]:
    """A fresh simulation for each owner, of a row's involved_classes and initial_config.

    As in BFCL they share the objects that long contexts add to them; nothing outlives them.

    Raises:
        DataError: the classes are missing, or lack a package.
    """
    worlds = []
    for _ in owners:
        instances = {}
        for class_name in classes:
            instance = load_class(root, class_name)()
            if hasattr(instance, "_load_scenario"):
                instance._load_scenario(copy.deepcopy(config.get(class_name, {})), long_context=long_context)
            instances[class_name] = instance
        worlds.append(instances)
    # Copied together, away from the constants of the modules, which methods would change.
    return tuple(map(Simulation, copy.deepcopy(worlds), owners))


def _message(error: Exception) -> str:
    try:
        return str(error)
    except ValueError:  # it tells of an integer too long to print
        return type(error).__name__


def _sorted(listing: re.Match[str]) -> str:
    return ", ".join(sorted(listing[0].split(", ")))


def _as_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except (TypeError, ValueError, RecursionError):
            pass
    return str(result)


def _bound_power(instance: Any, arguments: dict[str, Any]) -> None:
    base, exponent = arguments["base"], arguments["exponent"]
    if isinstance(base, int) and isinstance(exponent, int):
        min_bits = (base.bit_length() - 1) * exponent
        if min_bits > 4 * MAX_DIGITS:
            raise ValueError(
                f"Exceeds the limit ({MAX_DIGITS} digits) for integer string conversion; "
                "use sys.set_int_max_str_digits() to increase the limit"
            )


def _bound_precision(instance: Any, arguments: dict[str, Any]) -> None:
    try:
        too_high = int(arguments["precision"]) > MAX_PRECISION
    except (TypeError, ValueError, OverflowError):
        return
    if too_high:
        raise ValueError(f"a precision of more than {MAX_PRECISION} digits")


def _bound_places(instance: Any, arguments: dict[str, Any]) -> None:
    places = arguments["decimal_places"]
    if isinstance(places, int):
        arguments["decimal_places"] = max(places, -2 * MAX_DIGITS)  # which leaves nothing of a number either


def _bound_paths(instance: Any, arguments: dict[str, Any]) -> None:
    room = MAX_PATH_CHARS
    pending = [(instance.root, 0), (instance._current_dir, 0)]
    while pending:
        directory, length = pending.pop()
        for name, item in directory.contents.items():
            path_length = length + 1 + len(name)
            content = getattr(item, "content", None)
            room -= path_length + (len(content) if isinstance(content, str) else 0)
            if room < 0:
                raise ValueError("the directories hold each other, or too much")
            if content is None:
                pending.append((item, path_length))


_BOUNDS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "power": _bound_power,
    "logarithm": _bound_precision,
    "square_root": _bound_precision,
    "round_number": _bound_places,
    "find": _bound_paths,
    "du": _bound_paths,
}


@cache
def load_class(root: Path, name: str) -> Callable[[], Any]:
    """One of MODULES.

    Raises:
        DataError: it is missing, or needs a package that is.
    """
    folder = root / _FOLDER
    with _LOADING:
        before = sys.modules.get(_CONSTANTS)
        sys.modules[_CONSTANTS] = _constants(folder)
        try:
            loaded: Callable[[], Any] = getattr(_load_module(folder / f"{MODULES[name]}.py"), name)
        except (KeyError, AttributeError):
            raise DataError(f"{folder}: no class {name}; BFCL's multi-turn tasks need bfcl-eval==2026.3.23") from None
        finally:
            if before is None:
                del sys.modules[_CONSTANTS]
            else:
                sys.modules[_CONSTANTS] = before
    return loaded


@cache
def _constants(folder: Path) -> ModuleType:
    return _load_module(folder / "long_context.py")


def _load_module(path: Path) -> ModuleType:
    """A module by its file, which is not entered in sys.modules.

    Raises:
        DataError: it is missing, or needs a package that is.
    """
    name = f"bfcl_{path.stem}"
    module = ModuleType(name)
    try:
        SourceFileLoader(name, str(path)).exec_module(module)
    except ModuleNotFoundError as error:
        raise DataError(f"{path} needs {error.name}: pip install {error.name}") from None
    except (OSError, ImportError, SyntaxError) as error:
        raise DataError(f"{path}: {error}; BFCL's multi-turn tasks need bfcl-eval==2026.3.23") from None
    return module
