"""The domains of the tool world: which tools exist, what their parameters may hold, and how people say it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from random import Random
from typing import Any

from toolrefine.errors import DataError
from toolrefine.types import Tool

NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]

PHRASES = {
    "string": ["with {name} {}", "{name} {}", "the {name} is {}", "using {} as the {name}", "{name}: {}"],
    "integer": ["with {name} {}", "{name} {}", "{name} set to {}", "{name}: {}"],
    "number": ["with {name} {}", "{name} {}", "{name} set to {}", "{name}: {}"],
    "array": ["with {name} {}", "{name}: {}", "the {name} are {}"],
    "object": ["with {name} ({})", "{name}: {}", "where the {name} has {}"],
    "true": ["with {name}", "{name} on", "{name}: yes", "make it {name}"],
    "false": ["without {name}", "{name} off", "{name}: no", "not {name}"],
}
"""Ways to say any parameter; {name} is its name in words, {} the value."""

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]

GENERIC_SHARE = 0.4
"""How often a parameter with phrases of its own is said in a generic way."""


def words(name: str) -> str:
    """An identifier as words: departDate and depart_date are both 'depart date'."""
    spaced = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return " ".join(spaced.replace("_", " ").replace(".", " ").split())


def say_list(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def say_number(rng: Random, value: float) -> str:
    """Digits mostly; small integers now and then as a word."""
    if isinstance(value, int) and 0 <= value < len(NUMBER_WORDS) and rng.random() < 0.25:
        return NUMBER_WORDS[value]
    return str(value)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a domain's tools."""

    name: str
    type: str
    """A JSON Schema type, or code: a string of a prefix and digits; date: a string like 2027-05-03 that people say in
    words; items: an array of objects."""
    values: tuple[Any, ...] = ()
    enum: tuple[str, ...] = ()
    range: tuple[float, float] = (0, 1)
    prefix: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of an object or of items: field -> its strings, or its [lowest, highest] integers."""
    phrases: tuple[str, ...] = ()
    spoken: dict[str, str] = field(default_factory=dict)
    """Value, as text -> what people say for it, where that is something else."""

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the value."""
        described = {"description": words(self.name).capitalize() + "."}
        match self.type:
            case "code":
                return {"type": "string", **described}
            case "array":
                return {"type": "array", "items": {"type": "string"}, **described}
            case "date":
                return {"type": "string", "description": "YYYY-MM-DD."}
            case "object":
                return {**self._fields_schema([next(iter(self.fields))]), **described}
            case "items":
                return {"type": "array", "items": self._fields_schema(list(self.fields)), **described}
            case "string" if self.enum:
                return {"type": "string", "enum": list(self.enum), **described}
            case _:
                return {"type": self.type, **described}

    def _fields_schema(self, required: list[str]) -> dict[str, Any]:
        properties = {name: {"type": "string" if _is_text(v) else "integer"} for name, v in self.fields.items()}
        return {"type": "object", "properties": properties, "required": required}

    def draw(self, rng: Random) -> Any:
        """A random value."""
        match self.type:
            case "code":
                return f"{self.prefix}-{rng.randint(100, 99999)}"
            case "date":
                return f"{rng.randint(2026, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
            case "integer" if not self.values:
                return rng.randint(int(self.range[0]), int(self.range[1]))
            case "number":
                return round(rng.uniform(*self.range), 1)
            case "boolean":
                return rng.random() < 0.6
            case "array":
                return rng.sample(self.values, rng.randint(1, min(3, len(self.values))))
            case "object":
                names = list(self.fields)
                kept = names if rng.random() < 0.7 else names[:1]
                return {name: _draw_field(rng, self.fields[name]) for name in kept}
            case "items":
                count = rng.choice([1, 2, 2, 3])
                return [{name: _draw_field(rng, of) for name, of in self.fields.items()} for _ in range(count)]
            case _:
                return rng.choice(self.enum or self.values)

    def say(self, rng: Random, value: Any) -> str:
        """The parameter with this value as a piece of a request."""
        name = words(self.name)
        kind = {"code": "string", "date": "string", "items": "array"}.get(self.type, self.type)
        if kind == "boolean":
            return rng.choice(PHRASES["true" if value else "false"]).format(name=name)
        own = self.phrases and rng.random() >= GENERIC_SHARE
        return rng.choice(self.phrases if own else PHRASES[kind]).format(self._say_value(rng, value), name=name)

    def _say_value(self, rng: Random, value: Any) -> str:
        if self.type == "date":
            return _say_date(rng, value)
        if self.type == "items":
            return " + ".join(" x ".join(str(v) for v in item.values()) for item in value)
        if str(value) in self.spoken:
            return self.spoken[str(value)]
        if isinstance(value, list):
            return say_list(value)
        if isinstance(value, dict):
            return say_list([f"{words(name)} {_plain(rng, v)}" for name, v in value.items()])
        if isinstance(value, str):
            spoken = value.replace("_", " ") if self.enum else value
            return f"'{spoken}'" if rng.random() < 0.1 else spoken
        return say_number(rng, value)


def _say_date(rng: Random, value: str) -> str:
    """2027-05-03 as '3 May 2027' or 'May 3, 2027'."""
    year, month, day = map(int, value.split("-"))
    name = MONTHS[month - 1]
    return rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}"])


def _is_text(values: Sequence[Any]) -> bool:
    return isinstance(values[0], str)


def _draw_field(rng: Random, values: Sequence[Any]) -> Any:
    return rng.choice(values) if _is_text(values) else rng.randint(values[0], values[1])


def _plain(rng: Random, value: Any) -> str:
    return value if isinstance(value, str) else say_number(rng, value)


@dataclass(frozen=True)
class WorldTool:
    """A tool of a domain with what a request for it needs to know."""

    tool: Tool
    verb: str
    object: str
    parameters: tuple[Parameter, ...]
    num_required: int
    """The first so many parameters are required."""
    object_first: bool = False
    """Asked for as in 'table: book it for four people'."""


@dataclass(frozen=True)
class Domain:
    """A closed vocabulary: no tool name, parameter name or string value of it occurs in another domain."""

    name: str
    style: str
    """How names are written: snake, camel or dotted."""
    objects: tuple[str, ...]
    verbs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    object_first: bool = False
    """See WorldTool."""

    @property
    def tools(self) -> tuple[WorldTool, ...]:
        """Every verb on every object. Tools of one object share most parameters: they look alike."""
        return _tools(self.name)

    def change(self, tool: Tool, arguments: dict[str, Any], key: str, rng: Random) -> dict[str, Any]:
        """Arguments with another value for one of them, see toolrefine.datasets.wrong_labels.Values."""
        parameter = next(p for p in self.parameters if p.name == key)
        old = arguments[key]
        new = not old if isinstance(old, bool) else parameter.draw(rng)
        while new == old:
            new = parameter.draw(rng)
        return {**arguments, key: new}

    def fill(self, tool: Tool, rng: Random) -> dict[str, Any]:
        """Arguments for a call that nobody asked for."""
        wanted = next(t for t in self.tools if t.tool.name == tool.name)
        return {p.name: p.draw(rng) for p in wanted.parameters[: wanted.num_required]}

    def build_tools(self) -> Iterator[WorldTool]:
        """The tools in a fixed order."""
        for number, thing in enumerate(self.objects):
            shared = Random(f"{self.name}/{thing}").sample(self.parameters, min(4, len(self.parameters)))
            for verb in self.verbs:
                rng = Random(f"{self.name}/{verb}/{thing}")
                chosen = rng.sample(shared, rng.randint(1, min(3, len(shared))))
                if rng.random() < 0.25:
                    chosen += [rng.choice([p for p in self.parameters if p not in chosen])]
                num_required = rng.randint(1, min(2, len(chosen)))
                name = join_name(self.style, [verb, *thing.replace("-", " ").split()])
                tool = Tool(
                    name=name,
                    description=f"{verb.capitalize()} {article(thing, number)}.",
                    parameters={
                        "type": "object",
                        "properties": {p.name: p.schema() for p in chosen},
                        "required": [p.name for p in chosen[:num_required]],
                    },
                )
                yield WorldTool(tool, verb, thing, tuple(chosen), num_required, self.object_first)


def article(thing: str, number: int) -> str:
    """'a telescope', 'the telescope'."""
    return f"the {thing}" if number % 2 else f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def join_name(style: str, parts: Sequence[str]) -> str:
    """Words as an identifier: reserve_wine_list, reserveWineList, wine_list.reserve."""
    match style:
        case "camel":
            return parts[0] + "".join(part.capitalize() for part in parts[1:])
        case "dotted":
            return f"{'_'.join(parts[1:])}.{parts[0]}"
        case _:
            return "_".join(parts)


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads(resources.files("toolrefine.datasets").joinpath("toolworld.toml").read_text("utf-8"))


def verb_phrases() -> dict[str, list[str]]:
    """Verb of a tool name -> the ways to say it in a request."""
    phrases: dict[str, list[str]] = _words()["verbs"]
    return phrases


def domain_names() -> list[str]:
    """The domains with a vocabulary written by hand."""
    return list(_words()["domains"])


def is_domain(name: str) -> bool:
    """Whether a name is that of a domain: one written by hand, or spliced-N."""
    head, _, number = name.partition("-")
    return name in domain_names() or (head == "spliced" and number.isdecimal())


@lru_cache(maxsize=64)
def get_domain(name: str) -> Domain:
    """A domain by name; spliced-N is made up from pieces of words, and differs for every N.

    Raises:
        DataError: there is no such domain.
    """
    if name.startswith("spliced-"):
        return spliced_domain(name)
    entry = _words()["domains"].get(name)
    if entry is None:
        raise DataError(f"toolworld has no domain {name!r}; it has {', '.join(domain_names())} and spliced-N")
    parameters = []
    for key, spec in entry["params"].items():
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
        parameters.append(Parameter(name=key, **given))
    return Domain(
        name=name,
        style=entry["style"],
        objects=tuple(entry["objects"]),
        verbs=tuple(entry["verbs"]),
        parameters=tuple(parameters),
        object_first=entry.get("object_first", False),
    )


@lru_cache(maxsize=64)
def _tools(name: str) -> tuple[WorldTool, ...]:
    return tuple(get_domain(name).build_tools())


def spliced_word(rng: Random) -> str:
    """A pronounceable word that means nothing."""
    count = rng.choice([1, 1, 2, 2, 2, 3])
    onsets, vowels, codas = (_splicing()[part] for part in ("onsets", "vowels", "codas"))
    return "".join(
        rng.choice(onsets) + rng.choice(vowels) + (rng.choice(codas) if rng.random() < 0.4 else "")
        for _ in range(count)
    )


@cache
def _splicing() -> dict[str, list[str]]:
    return {key: text.split() for key, text in _words()["splicing"].items()}


def spliced_domain(name: str) -> Domain:
    """A small domain of plain and made-up words: endless variety of names, values and phrases to learn copying from."""
    rng = Random(name)
    made_up = rng.choice([0.1, 0.5, 0.9])
    style = rng.choice(["snake", "snake", "camel", "dotted"])
    parts = _splicing()

    def word() -> str:
        return spliced_word(rng) if rng.random() < made_up else rng.choice(parts["nouns"])

    def key() -> str:
        names = [word() for _ in range(rng.choice([1, 1, 2]))]
        if rng.random() < 0.25:
            names.insert(rng.choice([0, len(names)]), rng.choice(parts["affixes"]))
        return join_name("camel" if style == "camel" else "snake", names)

    parameters: dict[str, Parameter] = {}
    kinds = ["string", "enum", "integer", "number", "boolean", "array", "object", "code"]
    for kind in rng.choices(kinds, [6, 2, 3, 2, 2, 2, 1, 2], k=8):
        parameter = key()
        own = tuple(_spliced_phrase(rng, parameter) for _ in range(2)) if rng.random() < 0.6 else ()
        match kind:
            case "enum":
                enum = _distinct("_".join(word() for _ in range(rng.choice([1, 1, 2]))) for _ in range(4))
                made = Parameter(parameter, "string", enum=enum, phrases=own)
            case "integer" | "number":
                low = rng.choice([0, 0, 1, 10, 100, -100])
                made = Parameter(parameter, kind, range=(low, low + 10 ** rng.randint(1, 4)), phrases=own)
            case "object":
                fields = {word(): list(_spliced_values(rng, word, 3)), word(): [0, 10 ** rng.randint(1, 3)]}
                made = Parameter(parameter, kind, fields=fields)
            case "code":
                made = Parameter(parameter, kind, prefix=word()[: rng.choice([2, 3, 3, 4])].upper(), phrases=own)
            case _:
                made = Parameter(parameter, kind, values=_spliced_values(rng, word, 6), phrases=own)
        parameters[parameter] = made
    objects = _distinct(" ".join(word() for _ in range(rng.choice([1, 1, 2]))) for _ in range(5))
    domain_verbs = tuple(rng.sample(sorted(verb_phrases()), 4))
    return Domain(name, style, objects, domain_verbs, tuple(parameters.values()))


def _spliced_phrase(rng: Random, parameter: str) -> str:
    """A way to say a parameter; it names the parameter, another thing, or nothing."""
    parts = _splicing()
    noun = rng.choice(words(parameter).split() if rng.random() < 0.5 else parts["nouns"])
    link, manner = rng.choice(parts["prepositions"]), rng.choice(parts["participles"])
    return rng.choice(
        [
            f"{link} {{}}",
            f"{manner} {{}}",
            f"{manner} {link} {{}}",
            f"{noun} {{}}",
            f"{link} {noun} {{}}",
            f"with {noun} number {{}}",
            f"{link} the {{}} {noun}",
            f"for {{}} {noun}s",
            f"for a {noun} of {{}}",
            f"at {{}} a {noun}",
            f"{{}} {noun}s {link}",
        ]
    )


def _spliced_values(rng: Random, word: Callable[[], str], size: int) -> tuple[str, ...]:
    """Different strings of one kind: names, titles, dates, addresses, designations."""

    def title() -> str:
        return " ".join(word().capitalize() for _ in range(rng.choice([1, 2, 2, 3])))

    def long_title() -> str:
        middle = rng.choice(["of", "with", "for", "in", "from", "on the", "at the"])
        return rng.choice([f"The {title()}", f"{title()} {middle} {title()}", f"A {title()}"])

    def plain() -> str:
        return " ".join(word() for _ in range(rng.choice([1, 1, 2, 3])))

    def date() -> str:
        return f"{rng.randint(2019, 2032)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"

    def clock() -> str:
        return f"{rng.randint(0, 23):02}:{rng.choice([0, 5, 15, 30, 45]):02}"

    def address() -> str:
        return f"{word()}@{word()}.{rng.choice(['com', 'org', 'io'])}"

    def designation() -> str:
        number, short = rng.randint(1, 9999), word()[: rng.choice([2, 3, 3])].upper()
        return rng.choice([f"{title()} {number}", f"{short} {number}", f"{short}{number}", f"{title()}-{number}"])

    kinds = [title, long_title, plain, date, clock, address, designation]
    make = rng.choices(kinds, [6, 2, 4, 2, 1, 1, 2])[0]
    return _distinct(make() for _ in range(size))


def _distinct(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
