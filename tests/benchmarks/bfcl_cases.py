"""Cases for BFCL's checker and decoder, made up from a seed: gold calls, right and wrong predictions, texts.

Needs nothing but the standard library, because BFCL's own environment imports it too (see bfcl_official.py). Whatever
is changed here changes the cases, and the golden files must be written anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from typing import Any

# By its path, because BFCL's own environment has no toolrefine.
_GOLDS = spec_from_file_location("golds", Path(__file__).parents[2] / "toolrefine" / "benchmarks" / "bfcl" / "golds.py")
assert _GOLDS and _GOLDS.loader
golds = module_from_spec(_GOLDS)
_GOLDS.loader.exec_module(golds)
gold_text = golds.gold_text

NUM_CHECKS = 12_000
NUM_TEXTS = 8_000

CATEGORIES = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)

WORDS = (
    "amber kiln", "North-East", "o'clock", "7.5 km/h", "Straße", "blue_green", "a*b^2", "May 3, 2031", 'the "old" mill',
    "ΣΑΣ", "x", "", "true", "12", "ovens.main", "Ünder way", "3/4", "kiln", "Clay,fine", "new",
)  # fmt: skip
NAMES = ("glaze", "kiln_id", "temperature", "cone", "batch", "shelf", "notes", "fuel", "class", "maxItems", "ratio")
VERBS = ("fire_kiln", "pottery.glaze", "clay.store.weigh_batch", "find-shelf", "order", "Kiln.heatUp", "mix")

PYTHON_TYPES = ("string", "integer", "float", "boolean", "array", "tuple", "dict", "any")
PYTHON_ITEMS = ("string", "integer", "float", "boolean", "dict", "array", "any", "tuple")
JAVA_TYPES = (
    "byte", "short", "integer", "long", "float", "double", "boolean", "char", "String", "any", "Array", "ArrayList",
    "HashMap", "Set", "Queue",
)  # fmt: skip
JAVA_ITEMS = ("integer", "long", "float", "double", "boolean", "char", "String", "any", "HashMap", "Array", "ArrayList")
JS_TYPES = ("String", "integer", "float", "Bigint", "Boolean", "dict", "array", "any")
JS_ITEMS = ("String", "integer", "float", "Bigint", "Boolean", "dict", "array", "any")

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -3, 2.0, 0.5, 1e300, float("inf"), "", "x", "12", "None", [], [1], ["x"], [[1]], [None],
    {}, {"x": 1}, [{"x": 1}], [{}], (), (1.5, 2), b"x", 2j, 10**400, [1, "x", None], {"a": {"b": [1]}},
)  # fmt: skip

Case = dict[str, Any]


def check_cases(seed: int = 7, count: int = NUM_CHECKS) -> Iterator[Case]:
    """The keyword arguments of check_calls, and a name for what was done to gold."""
    for number in range(count):
        yield CheckMaker(Random(f"check {seed} {number}")).case()


def decode_cases(seed: int = 7, count: int = NUM_TEXTS) -> Iterator[tuple[str, str]]:
    """Texts and their languages."""
    for number in range(count):
        yield text_case(Random(f"text {seed} {number}"))


def fingerprint(cases: Iterable[Any]) -> str:
    """A hash of cases; each must have a repr that is its own."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(repr(case).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def language_of(category: str) -> str:
    return {"simple_java": "java", "simple_javascript": "javascript"}.get(category, "python")


class CheckMaker:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.category = random.choice(CATEGORIES)
        self.language = language_of(self.category)

    def case(self) -> Case:
        random = self.random
        functions = [self.function(name) for name in random.sample(VERBS, random.randint(1, 3))]
        if "multiple" not in self.category and "parallel" not in self.category:
            functions = functions[:1]
        golds = [self.gold(random.choice(functions)) for _ in range(self.num_calls())]
        by_name = {function["name"]: function for function in functions}
        underscores = random.random() < 0.2
        prediction: Any = []
        for gold in golds:
            [(name, answers)] = gold.items()
            arguments = self.predicted(by_name[name], answers)
            prediction.append({name.replace(".", "_") if underscores else name: arguments})
        if len(prediction) > 1 and random.random() < 0.5:
            random.shuffle(prediction)
        for _ in range(random.choice((0, 1, 1, 1, 2))):
            prediction = self.mutated(prediction, functions)
        return {
            "functions": functions,
            "prediction": prediction,
            "possible_answer": golds,
            "category": self.category,
            "underscore_to_dot": underscores != (random.random() < 0.1),
        }

    def num_calls(self) -> int:
        return self.random.choice((1, 2, 2, 3)) if "parallel" in self.category else 1

    def function(self, name: str) -> dict[str, Any]:
        names = self.random.sample(NAMES, self.random.randint(0, 4) or self.random.randint(1, 4))
        properties = {name: self.schema() for name in names}
        required = [name for name in names if self.random.random() < 0.6]
        parameters = {"type": "dict", "properties": properties, "required": required}
        return {"name": name, "description": "Made up.", "parameters": parameters}

    def schema(self) -> dict[str, Any]:
        types, items = {
            "python": (PYTHON_TYPES, PYTHON_ITEMS),
            "java": (JAVA_TYPES, JAVA_ITEMS),
            "javascript": (JS_TYPES, JS_ITEMS),
        }[self.language]
        kind = (
            self.random.choice((*types, "dict", "array", "array"))
            if self.language == "python"
            else self.random.choice(types)
        )
        schema: dict[str, Any] = {"type": kind, "description": "Made up."}
        if schema["type"] in ("array", "tuple", "Array", "ArrayList"):
            schema["items"] = {
                "type": self.random.choice((*items, "dict", "dict") if self.language == "python" else items)
            }
        if schema["type"] in ("string", "String") and self.random.random() < 0.2:
            schema["enum"] = list(self.random.sample(WORDS, 3))
        return schema

    def gold(self, function: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
        answers = {}
        for name, schema in function["parameters"]["properties"].items():
            optional = name not in function["parameters"]["required"]
            if optional and self.random.random() < 0.15:
                continue
            answers[name] = self.alternatives(schema, optional)
        return {function["name"]: answers}

    def alternatives(self, schema: dict[str, Any], optional: bool) -> list[Any]:
        found = [self.gold_value(schema) for _ in range(self.random.choice((1, 1, 2, 3)))]
        if self.random.random() < 0.12:
            found.insert(
                self.random.randint(0, len(found)), self.gold_value({"type": self.random.choice(PYTHON_TYPES)})
            )
        if (optional and self.random.random() < 0.8) or self.random.random() < 0.05:
            found.insert(self.random.choice((0, len(found))), "")
        return [""] if optional and self.random.random() < 0.03 else found

    def gold_value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        random = self.random
        match schema["type"]:
            case "string" | "String" | "any":
                return random.choice(schema.get("enum", WORDS))
            case "integer" | "byte" | "short" | "long" | "Bigint":
                return random.choice((0, 1, 5, -2, 40, 1200, 10**12))
            case "float" | "double":
                return random.choice((0.5, 2.0, -1.25, 1e-7, 3, 1200.0))
            case "boolean" | "Boolean":
                return random.random() < 0.5
            case "char":
                return random.choice(("c", "'c'", "Z"))
            case "dict" | "HashMap":
                keys = random.sample(NAMES, random.randint(0, 3))
                return {key: self.dict_alternatives() for key in keys}
            case _:
                item = schema.get("items", {"type": random.choice(PYTHON_ITEMS)}) if depth < 2 else {"type": "integer"}
                return [self.gold_value(item, depth + 1) for _ in range(random.randint(0, 3))]

    def dict_alternatives(self) -> list[Any]:
        found: list[Any] = [self.dict_value() for _ in range(self.random.choice((1, 1, 2)))]
        if self.random.random() < 0.3:
            found.insert(self.random.choice((0, len(found))), "")
        return found

    def dict_value(self) -> Any:
        return self.random.choice((*WORDS, 1, 2.5, True, None, [1, 2], ["Red kiln"], {"deep": "Value"}, {"a": [1]}))

    def predicted(self, function: dict[str, Any], answers: dict[str, list[Any]]) -> dict[str, Any]:
        arguments = {}
        for name, alternatives in answers.items():
            given = [alternative for alternative in alternatives if alternative != ""]
            if not given or (len(given) < len(alternatives) and self.random.random() < 0.3):
                continue
            schema = function["parameters"]["properties"][name]
            value = self.plain(self.random.choice(given))
            arguments[name] = value if self.language == "python" else self.source(value, schema)
        return arguments

    def plain(self, gold: Any) -> Any:
        """A value that meets gold: objects hold a list of alternatives for each key there."""
        if isinstance(gold, dict):
            chosen = {
                key: self.random.choice(alternatives)
                if isinstance(alternatives, list) and alternatives
                else alternatives
                for key, alternatives in gold.items()
            }
            return {key: value for key, value in chosen.items() if value != ""}
        return [self.plain(item) for item in gold] if isinstance(gold, list) else gold

    def source(self, value: Any, schema: dict[str, Any]) -> Any:
        write = java_source if self.language == "java" else javascript_source
        return write(self.random, value, schema["type"], schema.get("items", {}).get("type", ""))

    def mutated(self, prediction: Any, functions: list[dict[str, Any]]) -> Any:
        random = self.random
        if not isinstance(prediction, list) or random.random() < 0.12:
            return self.mutated_shape(prediction)
        calls = [
            index
            for index, call in enumerate(prediction)
            if isinstance(call, dict) and all(isinstance(arguments, dict) for arguments in call.values()) and call
        ]
        if not calls:
            return self.mutated_shape(prediction)
        index = random.choice(calls)
        (name, arguments), *_ = prediction[index].items()
        function = next((each for each in functions if each["name"] == name), functions[0])
        if random.random() < 0.1:
            name = random.choice((*VERBS, name.replace(".", "_"), name.replace("_", "."), name.upper(), "", f" {name}"))
        elif not arguments or random.random() < 0.2:
            arguments = self.mutated_arguments(arguments, function)
        else:
            key = random.choice(list(arguments))
            schema = function["parameters"]["properties"].get(key, {"type": "any"})
            arguments = arguments | {key: self.mutated_value(arguments[key], schema)}
        return [*prediction[:index], {name: arguments}, *prediction[index + 1 :]]

    def mutated_shape(self, prediction: Any) -> Any:
        random = self.random
        first = prediction[0] if isinstance(prediction, list) and prediction else {}
        name = next(iter(first), "mix") if isinstance(first, dict) else "mix"
        shapes: tuple[Callable[[], Any], ...] = (
            lambda: prediction[1:] if isinstance(prediction, list) else [],
            lambda: [*prediction, first] if isinstance(prediction, list) else [prediction],
            lambda: [],
            lambda: first,
            lambda: [{**first, "mix": {}}] if isinstance(first, dict) else [],
            lambda: [random.choice(JUNK) for _ in prediction] if isinstance(prediction, list) else [{}],
            lambda: [{name: random.choice(JUNK)}],
            lambda: [name],
            lambda: random.choice(JUNK),
        )
        return random.choice(shapes)()

    def mutated_arguments(self, arguments: dict[str, Any], function: dict[str, Any]) -> dict[Any, Any]:
        random = self.random
        known = list(function["parameters"]["properties"])
        match random.randint(0, 5):
            case 0 | 5 if arguments:
                optional = [name for name in arguments if name not in function["parameters"]["required"]]
                dropped = random.choice(optional or list(arguments))
                return {key: value for key, value in arguments.items() if key != dropped}
            case 1:
                return {**arguments, random.choice((*NAMES, *known, "Unknown")): random.choice(JUNK)}
            case 2:
                return {random.choice((None, 3, "unknown")): "x", **arguments}
            case 3:
                return {key.upper(): value for key, value in arguments.items() if isinstance(key, str)}
            case _:
                return dict(reversed(arguments.items()))

    def mutated_value(self, value: Any, schema: dict[str, Any]) -> Any:
        random = self.random
        if random.random() < 0.15:
            return random.choice(JUNK)
        if self.language != "python" and random.random() < 0.4:
            return self.source(self.plain(self.gold_value(schema)), schema)
        match value:
            case bool():
                return random.choice((not value, int(value), str(value), str(value).lower()))
            case int() | float():
                changes = [value + 1, -value, str(value), f"{value} ", [value], True, f"variable_{value}"]
                return random.choice(
                    (*changes, int(value) if abs(value) < 1e9 else 0, float(value) if value < 1e9 else 0.0)
                )
            case str():
                return mutated_text(random, value)
            case list() | tuple():
                return self.mutated_list(list(value))
            case dict():
                return self.mutated_dict(value)
            case _:
                return random.choice(JUNK)

    def mutated_list(self, items: list[Any]) -> Any:
        random = self.random
        index = random.randrange(len(items)) if items else 0
        changed = [self.mutated_value(item, {"type": "any"}) if at == index else item for at, item in enumerate(items)]
        with_junk = [random.choice(JUNK) if at == index else item for at, item in enumerate(items)]
        return random.choice(
            (items[::-1], items[1:], [*items, random.choice(JUNK)], changed, changed, with_junk, tuple(items), [items])
        )

    def mutated_dict(self, entries: dict[Any, Any]) -> Any:
        random = self.random
        if not entries:
            return random.choice(({"extra": 1}, [{}], "{}"))
        key = random.choice(list(entries))
        without = {name: value for name, value in entries.items() if name != key}
        changed = entries | {key: self.mutated_value(entries[key], {"type": "any"})}
        two = {name: random.choice(JUNK) for name in without}
        return random.choice(
            (
                without,
                entries | {"extra": 1},
                changed,
                changed,
                changed,
                two,
                [entries],
                dict(reversed(entries.items())),
            )
        )


def mutated_text(random: Random, text: str) -> str:
    """A text with another look, or with a change that counts."""
    at = random.randint(0, len(text))
    char = random.choice("  ,./-_*^'\"`()[]{}<>:;=+\\\n#@é1aL")
    changes = (
        text.upper(),
        text.lower(),
        text.replace(" ", ""),
        text.replace("'", '"'),
        text[:at] + char + text[at:],
        text[:at] + char + text[at:],
        text[:at] + text[at + 1 :],
        text[:at] + text[at + 1 :],
        text[:at],
        f" {text}\n",
        f'"{text}"',
        f"'{text}'",
        "",
        random.choice(WORDS),
    )
    return random.choice(changes)


def java_source(random: Random, value: Any, kind: str, item_kind: str = "") -> str:
    """A value as Java writes it, in one of several ways, some of them wrong for the type."""
    match kind, value:
        case "Array", list():
            name = random.choice(("int", "String", "Object", "float"))
            items = ", ".join(java_item(random, item, item_kind) for item in value)
            return random.choice(
                (f"new {name}[]{{{items}}}", f"new {name}[] {{ {items} }}", f"new {name}[]{{\n{items}}}")
            )
        case "ArrayList", list():
            items = [java_item(random, item, item_kind) for item in value]
            joined, adds = ", ".join(items), " ".join(f"add({item});" for item in items)
            name = random.choice(("", "String", "Integer", "Map<String>"))
            return random.choice(
                (
                    f"new ArrayList<{name}>(Arrays.asList({joined}))",
                    f"new ArrayList<{name}>() {{{{ {adds} }}}}",
                    f"new ArrayList<{name}>(){{{{{adds}}}}}",
                    f"new ArrayList<{name}>()",
                    f"Arrays.asList({joined})",
                )
            )
        case "HashMap", dict():
            puts = " ".join(f'put("{key}", {java_item(random, item, "")});' for key, item in value.items())
            name = random.choice(("", "String, Object", "String, List<String>"))
            return random.choice(
                (
                    f"new HashMap<{name}>() {{{{ {puts} }}}}",
                    f"new HashMap<{name}>() {{ {{\n{puts}\n}} }}",
                    f"new HashMap<{name}>(){{{{{puts}}}}}",
                    f"new HashMap<{name}>()",
                    f"Map.of({puts})",
                )
            )
        case _:
            return java_item(random, value, kind) if random.random() < 0.3 else str_source(value)


def java_item(random: Random, value: Any, kind: str) -> str:
    match value:
        case bool() | None:
            return str_source(value)
        case int():
            return f"{value}{random.choice('Ll') if kind == 'long' else random.choice(('', '', '', 'L'))}"
        case float():
            return f"{value}{random.choice('fF') if kind == 'float' else random.choice(('', '', 'f', 'd'))}"
        case list():
            return java_source(random, value, random.choice(("Array", "ArrayList")))
        case dict():
            return java_source(random, value, "HashMap")
        case _:
            quote = "'" if kind == "char" else '"'
            return random.choice((f"{quote}{value}{quote}", f"{quote}{value}{quote}", f"{value}"))


def javascript_source(random: Random, value: Any, kind: str, item_kind: str = "") -> str:
    """A value as JavaScript writes it, in one of several ways, some of them wrong for the type."""
    match value:
        case bool() | None:
            return str_source(value)
        case int():
            return f"{value}{'n' if 'Bigint' in (kind, item_kind) else random.choice(('', '', '', 'n'))}"
        case float():
            return str(value)
        case list():
            items = ", ".join(javascript_source(random, item, item_kind) for item in value)
            return random.choice((f"[{items}]", f"[ {items} ]", f"new Array({items})", f"[{items.replace(', ', ',')}]"))
        case dict():
            quote = random.choice(("'", '"', ""))
            items = ", ".join(
                f"{quote}{key}{quote}: {javascript_source(random, item, '')}" for key, item in value.items()
            )
            return random.choice(
                (f"{{{items}}}", f"{{ {items} }}", f"{{{items.replace(': ', ':')}}}", f"{{\n{items}}}")
            )
        case _:
            return random.choice((f'"{value}"', f"'{value}'", f"{value}"))


def str_source(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or value in (True, False) else str(value)
    )


PYTHON_VALUES = (
    "1", "-5", "+5", "~5", "not 5", "- -5", "-x", "-'a'", "-True", "2.50", "1e400", "-1e3", "0x1F", "1_000", "1j",
    "-2j", "'a b'", '"it\'s"', "'''long\ntext'''", "r'\\d'", "'\\d'", "b'x'", "f'{x}'", "f'plain'", "'a' 'b'", "u'é'",
    "True", "False", "None", "true", "null", "...", "x", "a.b", "a.b.c", "a[0]", "a['k']", "a[1:2]", "a[1, 2]",
    "a.b[-1]", "[1, 'b', [2]]", "[]", "(1, 2)", "(1,)", "()", "(1)", "{'a': 1, 'b': [2]}", "{}", "{1: 2}", "{1, 2}",
    "{**a}", "{(1, 2): 3}", "{[1]: 2}", "{'a': 1, 'a': 2}", "[*a]", "{x: 1}", "{f(a=1): 2}", "{-1: +1}", "[None, True]",
    "1 + 2", "2 * (3 + 4)", "'a' + 'b'", "10 / 4", "[1, 2 + 3]", "{'k': 7 - 2}", "5 % 3", "1 + 2j", "x + 1", "1 / 0",
    "1 < 2", "a and b", "1 if x else 2", "lambda x: x", "lambda: 0", "[i for i in a]", "{i: i for i in a}",
    "(i for i in a)", "g()", "g(1, 2)", "g(1 + 2)", "g(b=1)", "g(1, b=2)", "a.g(b=c.h(d=1))", "g(b=1 + 1)",
    "datetime(2024, 1, 2)", "g()()", "g(h(1), 'x')", "g(*a)", "g(**a)", "g(b=lambda: 0)", "a.g('x').h(1)", "(y := 1)",
    "await z", "yield", "*a", "0777", "1if x else 2", "'unended", "\"", "1..2", "1.real", "café", "ﬁne", "x\\\ny",
    "'\\N{BULLET}'", "'\\ud800'", "'\x00'", "9" * 60, "[" * 60 + "]" * 60, "(" * 30 + "1" + ")" * 30,
    "[" * 240 + "]" * 240, "-" * 40 + "1", "a" + ".b" * 50,
)  # fmt: skip
JAVA_VALUES = (
    "1", "-5L", "2.5f", '"a b"', "'c'", "true", "null", "new int[]{1, 2}", "new int[3]", "new int[] { }", "x.y(2)",
    'new ArrayList<String>(Arrays.asList("a", "b"))', 'new HashMap<String, Object>() {{ put("k", 1); }}', "x", "a.b.c",
    "new String[][]{{\"a\"}, {\"b\"}}", "Foo.class", "x -> x + 1", "() -> { return 1; }", "a[0]", "(a + b)",
    "a * b - 1", 'new Foo(1, "x")', "new Foo()", "new a.b.Foo<>(x, y)", "new Foo() { int x = 1; }", "List.of(1, 2)",
    '"é"', '"日本" + x', "a ? b : c", "_", '"""t"""', "1_000", "yield", "record", "Map::get", "{1, 2}", "[1, 2]",
    "(String) x", "!x", "-x", "x++", "a == b", "a instanceof B", "this", "this.x", "super.x",
    "new int[]{1, /* two */ 2}", "\"esc \\\" aped\"", "''", "'\\n'", '""', "1e10", "0xFF", "Color.RED",
    "Arrays.asList(\"a\", \"b\")", "new Date(2024, 1, 2)", "x = 2", "List<String>",
)  # fmt: skip
JAVASCRIPT_VALUES = (
    "1", "-5n", "2.5", '"a b"', "'c'", "true", "false", "null", "undefined", "[1, 2]", '["a", "b"]', '{"k": 1}', "x",
    "a.b.c", "{k: 1, m: [2]}", "{ k }", "x => x + 1", "(a, b) => { return a; }", "function(a) { return a; }",
    "`t${x}`", "``", "new Array(1, 2)", "new Date()", "a.b(1)", "/re/g", "a ? b : c", "async () => {}", "...x", '"é"',
    "a[0]", "1_000", "x?.y", "a ?? b", "await z", "class {}", "<b>x</b>", "[[1, 2], [3]]", "[...a]", "{...a}", "-x",
    "!x", "typeof x", "'it\\'s'", "\"a\" + 'b'", "x = 2", "this", "0xff", "NaN", "Infinity", "document.body", "[]",
    "{}", "\"", "'a\"", "()", "{get: function() {}}", "new Map([[1, 2]])", "/* c */ 1", "a, b", "1 // c",
)  # fmt: skip
CALLEES = {
    "python": (
        "fire",
        "clay.weigh",
        "a.b.c",
        "get_kiln",
        "class",
        "f.import",
        "print",
        "None",
        "x[0]",
        "x[0].y",
        "f()",
        "é",
    ),
    "java": (
        "fire",
        "Kiln.heat",
        "a.b.c",
        "getKiln",
        "this.run",
        "super.run",
        "new Kiln().run",
        "class",
        "x[0].y",
        "f().g",
        "É.x",
    ),
    "javascript": (
        "fire",
        "kiln.heat",
        "a.b.c",
        "getKiln",
        "this.run",
        "new Kiln",
        "x[0].y",
        "f()",
        "f?.g",
        "await f",
        "f?.",
    ),
}
VALUES = {"python": PYTHON_VALUES, "java": JAVA_VALUES, "javascript": JAVASCRIPT_VALUES}
KEYS = ("glaze", "kiln_id", "temperature", "cone", "maxItems", "class", "lambda", "from", "x1", "a.b", "ключ")
PROSE = (
    "I cannot do that.", "Sure! Here is the call:", "", "None", "[]", "[[]]", "[{}]", "()", "```python\n```", "\n",
    "]", "[", '{"name": "fire", "arguments": {"cone": 6}}', '[{"name": "fire"}]', "fire", "fire kiln 3",
    "<tool_call>", "#", "[x]", "[f(a=1)](b=2) # ]", "[f(a=1)], [g(b=2)]", "[f](a=1), [g](b=2) # ]", "[f(a=1)][0]",
    "{f(a=1)}", "'[f(a=1)]'", "\ud800", "[f(a=1)] + [g(b=2)]", "[f(a=1) for x in y]", "[f(a=1), 2]",
    "[f(a=1) if x else g(b=2)]", "[*f(a=1)]", "f(a=1); g(b=2)",
)  # fmt: skip


def text_case(random: Random) -> tuple[str, str]:
    language = random.choice(("python", "python", "java", "javascript"))
    if random.random() < 0.06:
        return random.choice(PROSE), language
    num_calls = random.choice((1, 1, 2, 3)) if language == "python" or random.random() < 0.1 else 1
    calls = [call_text(random, language) for _ in range(num_calls)]
    text = random.choice((", ", ", ", ",\n ", " ", "; ")).join(calls)
    if random.random() < 0.8:
        text = f"[{text}]"
    for _ in range(random.choice((0, 0, 0, 0, 1, 1, 2))):
        text = wrapped(random, text)
    return text, language


def call_text(random: Random, language: str) -> str:
    callee = random.choice(CALLEES[language][: 4 if random.random() < 0.9 else None])
    assign = random.choice(("=", "=", "=", " = "))
    arguments = []
    for key in random.choices(KEYS[: 5 if random.random() < 0.92 else None], k=random.randint(0, 4)):
        value = argument_text(random, language)
        arguments.append(value if random.random() < 0.04 else f"{key}{assign}{value}")
    if random.random() < 0.02:
        arguments.append("**more")
    return f"{callee}({', '.join(arguments)}{random.choice(('', '', '', ',', ' '))})"


def argument_text(random: Random, language: str) -> str:
    if random.random() < 0.25:
        return random.choice(VALUES[language])
    kind = random.choice({"python": PYTHON_TYPES, "java": JAVA_TYPES, "javascript": JS_TYPES}[language])
    maker = CheckMaker(random)
    value = maker.plain(maker.gold_value({"type": kind}))
    if language == "python":
        return repr(value)
    return java_source(random, value, kind) if language == "java" else javascript_source(random, value, kind)


def wrapped(random: Random, text: str) -> str:
    """A text as models dress it, or damage it."""
    at = random.randint(0, len(text))
    changes = (
        f"`{text}`",
        f"```\n{text}\n```",
        f"```python\n{text}\n```",
        f"\n  {text} \n",
        f"\t{text}",
        text.removeprefix("["),
        text.removesuffix("]"),
        text.removesuffix(")]"),
        text.strip("[]"),
        f"[{text}]",
        f"'{text}'",
        f"{random.choice(PROSE)} {text}",
        f"{text} {random.choice(PROSE)}",
        f"{text} # a comment",
        f"# a comment ]\n{text}",
        text.replace("(", "(\n    "),
        text[:at],
        mutated_text(random, text),
        mutated_text(random, text),
        mutated_text(random, text),
    )
    return random.choice(changes)
