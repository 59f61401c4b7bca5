"""docs/evidence.md and its plots, from result files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2

from evidence.analysis import Group, Where, corrected, group_cells, where_invalid, where_kind, where_valid
from evidence.cells import Arm, read_cells
from evidence.plots import plot_compute, plot_costs, plot_growth, plot_noise
from toolrefine.benchmarks.samples import KINDS
from toolrefine.intervals import Accuracy, Paired, measure
from toolrefine.scoreboard import interval, percent

TEMPLATE = "evidence.md.j2"
STUDIES = (
    "noise",
    "shift",
    "policies",
    "mixes",
    "shifted-mixes",
    "real",
    "doubts",
    "real-labels",
    "bases",
    "refined-bases",
)
GOAL_NOISE, GOAL_CLEAN = "20%", "0%"
TRAINED, SHIFTED_TRAINED = "observatory, trained", "foundry, trained"
NANO = "nano, qwen3-1.7M"
USUAL_MIX = "sampled drafts, 50% right"
FACTS = ("num_selected", "num_wrong_selected", "num_suspects", "num_wrong_suspects")
OTHER_SELECTIONS = (
    "iterated in one schedule",
    "frontier",
    "all labels first",
    "unsuspected",
    "unsuspected without refinement data",
    "labels scored",
    "labels checked and scored",
    "labels checked and scored in one schedule",
)
"""Other ways to select, shown beside the iterations of the method."""
AIMING = tuple(name for name in OTHER_SELECTIONS if name not in {"frontier", "unsuspected"})
"""Those that are held against the aims."""
IN_ONE_SCHEDULE = {
    "iterated in one schedule": ("iteration 3",),
    "labels checked and scored in one schedule": ("labels checked and scored", "labels scored"),
}
"""Arms whose learning rate goes down once, and the same where it does in every iteration; of several the first that
there is, for of right labels none is checked."""


def write_page(results: Path, page: Path) -> None:
    """Write the page, and the plots into a folder of its name beside it."""
    plots = page.with_suffix("")
    noise, shift, policies, mixes, shifted_mixes, real, doubts, real_labels, bases, refined = (
        group_cells(read_cells(results / f"{study}.jsonl")) for study in STUDIES
    )
    noise.sort(key=lambda group: float(group.condition.rstrip("%")))
    if noise:
        plot_noise(noise, plots / "noise.svg")
    if shift:
        plot_growth(shift, plots / "shift.svg")
    bases = beside(NANO, noise, GOAL_NOISE, bases)
    refined = beside(NANO, policies, TRAINED, refined)
    mixes = beside(USUAL_MIX, policies, TRAINED, mixes)
    shifted_mixes = beside(USUAL_MIX, policies, SHIFTED_TRAINED, shifted_mixes)
    if refined:
        plot_compute(refined, plots / "bases.svg")
    for group in (*policies, *real):
        plot_costs(group, plots / plot_name(group))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown of our own figures
    )
    text = environment.get_template(TEMPLATE).render(
        training_aims=aim_table([*training_aims(noise, shift, real_labels)]),
        policy_aims=policy_aims(policies),
        noise=training_tables(noise),
        noise_labels=label_table(noise),
        checked=checked_table([*noise, *shift]),
        schedules=schedule_table([*noise, *shift]),
        shift=training_tables(shift),
        shift_labels=label_table(shift),
        bases=training_tables(bases),
        refined=gain_table("base", refined),
        policies=policy_sections(policies, plots.name),
        mixes=gain_table("refinement data", mixes),
        shifted_mixes=gain_table("refinement data", shifted_mixes),
        real=policy_sections(real, plots.name),
        doubts=doubt_table(doubts),
        real_trainings=training_tables(real_labels),
        real_labels=label_table(real_labels),
        real_checked=checked_table(real_labels),
        sizes=describe(noise + shift + policies),
        plots=plots.name,
    )
    page.write_text(text, encoding="utf-8")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first column to the left, numbers to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def training_tables(groups: Sequence[Group]) -> str:
    """Every arm of every condition against plain SFT; empty where there is none."""
    if not groups:
        return ""
    compared = [
        (group, name, group.compare("plain SFT", name))
        for group in groups
        for name in group.arm_names
        if name != "plain SFT"
    ]
    p_values = dict(
        zip(
            [(group.condition, name) for group, name, _ in compared],
            corrected([pair for *_, pair in compared]),
            strict=True,
        )
    )
    rows = []
    for group in groups:
        for number, name in enumerate(group.arm_names):
            accuracy = group.accuracy(name)
            against = [""] * 5
            if name != "plain SFT":
                pair = group.compare("plain SFT", name)
                seeds = " ".join(f"{100 * each:+.1f}" for each in group.differences("plain SFT", name))
                against = [*points(pair), seeds, f"{p_values[group.condition, name]:.2g}"]
            split = [kind_share(group, name, kind) for kind in KINDS]
            condition = "" if number else group.condition
            rows.append([condition, name, percent(accuracy), interval(accuracy), *against, *split])
    columns = (
        "condition",
        "arm",
        "right, %",
        "95 %",
        "against plain SFT",
        "95 %",
        "fixed / broken",
        "by seed",
        "Holm",
        *(f"{kind.replace('_', ' ')}, %" for kind in KINDS),
    )
    return table(columns, rows)


def kind_share(group: Group, name: str, kind: str) -> str:
    """How many of the samples of a kind an arm gets right; empty where there are none."""
    found = group.accuracy(name, partial(where_kind, kind))
    return percent(found) if found.n else ""


def points(pair: Paired) -> list[str]:
    """Difference, its interval, fixed and broken."""
    return [f"{100 * pair.difference:+.1f}", interval(pair), f"{pair.fixed} / {pair.broken}"]


def label_table(groups: Sequence[Group]) -> str:
    """What was selected, and which labels were doubted, iteration by iteration; empty where nothing was."""
    if not groups:
        return ""
    rows = []
    for group in groups:
        facts = group.cells[0].facts
        wrong = sum(cell.facts["num_wrong_labels"] for cell in group.cells) / len(group.cells)
        iterations = [name for name in group.arm_names if name.startswith("iteration ")]
        for name in (*iterations, *those_of(group, OTHER_SELECTIONS)):
            selected, kept, suspects, right = (group.mean(name, partial(fact, key)) for key in FACTS)
            rows.append(
                [
                    group.condition,
                    name,
                    f"{selected:.0f} of {facts['num_samples']}",
                    f"{kept:.1f} of {wrong:.0f}",
                    f"{suspects:.0f}",
                    f"{100 * right / suspects:.0f} %" if suspects else "",
                    f"{100 * right / wrong:.0f} %" if wrong else "",
                ]
            )
    columns = (
        "condition",
        "before training",
        "selected",
        "wrong ones among them",
        "suspects",
        "precision",
        "recall",
    )
    return table(columns, rows)


def fact(key: str, arm: Arm) -> float:
    """A fact of an arm; 0 where it does not have it."""
    return float(arm.facts.get(key, 0))


def beside(name: str, groups: Sequence[Group], condition: str, others: Sequence[Group]) -> list[Group]:
    """Groups behind one of another study, by a name of its own and with the others' seeds and arms alone."""
    if not others:
        return []
    seeds = {cell.seed for cell in others[0].cells}
    names = others[0].arm_names
    cells = [
        cell.model_copy(update={"arms": tuple(arm for arm in cell.arms if arm.name in names)})
        for group in groups
        if group.condition == condition
        for cell in group.cells
        if cell.seed in seeds
    ]
    return [Group(name, tuple(cells)), *others]


def gain_table(what: str, groups: Sequence[Group]) -> str:
    """What refinement gives each model, against its drafts; empty where there is none. what tells models apart."""
    if not groups:
        return ""
    rows = []
    for group in groups:
        for number, name in enumerate(name for name in group.arm_names if name != "draft"):
            pair = group.compare("draft", name)
            head = ["", ""] if number else [group.condition, percent(group.accuracy("draft"))]
            cost = f"{group.mean(name, calls):.2f}"
            rows.append([*head, name, *points(pair), cost, f"{group.mean(name, tokens):.0f}", f"{pair.n:,}"])
    columns = (what, "drafts right, %", "", "points", "95 %", "fixed / broken", "calls", "tokens", "n")
    return table(columns, rows)


def checked_table(groups: Sequence[Group]) -> str:
    """Checked and scored labels against what they are to be measured by; empty where no condition has them."""
    name, rivals = "labels checked and scored", ("labels checked", "labels scored", "oracle")
    rows = [
        [group.condition, rival, *points(pair), f"{pair.n:,}"]
        for group in groups
        if name in group.arm_names
        for rival in (last_iteration(group), *those_of(group, rivals))
        for pair in [group.compare(rival, name)]
    ]
    return table(("condition", "against", "points", "95 %", "fixed / broken", "n"), rows) if rows else ""


def schedule_table(groups: Sequence[Group]) -> str:
    """What one schedule over all iterations is worth; empty where no condition has it."""
    rows = []
    for group in groups:
        for once, names in IN_ONE_SCHEDULE.items():
            if once in group.arm_names:
                name = those_of(group, names)[0]
                seeds = " ".join(f"{100 * each:+.1f}" for each in group.differences(name, once))
                rows.append([group.condition, name, *points(group.compare(name, once)), seeds])
    columns = ("condition", "in one schedule against", "points", "95 %", "fixed / broken", "by seed")
    return table(columns, rows) if rows else ""


def doubt_table(groups: Sequence[Group]) -> str:
    """How well planted labels are found by each rule, seeds added up; empty where none have been planted."""
    if not groups:
        return ""
    (group,) = groups
    planted = add_up(cell.facts["planted"] for cell in group.cells)
    rows = []
    for name in group.arm_names:
        arms = [arm for cell in group.cells for arm in cell.arms if arm.name == name]
        found = add_up(arm.facts["found"] for arm in arms)
        precision = share(found.total(), sum(arm.facts["num_suspects"] for arm in arms))
        recall = share(found.total(), planted.total())
        kinds = [percent(share(found[kind], planted[kind])) for kind in sorted(planted)]
        numbers = [percent(precision), interval(precision), percent(recall), interval(recall), *kinds]
        rows.append([name, f"{precision.n / len(arms):.0f}", *numbers])
    kinds = [f"of {kind.removeprefix('wrong:').replace('_', ' ')}, %" for kind in sorted(planted)]
    return table(("suspected where", "suspects", "precision, %", "95 %", "recall, %", "95 %", *kinds), rows)


def add_up(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """Counts by name."""
    return sum(map(Counter, counts), Counter())


def share(part: int, whole: int) -> Accuracy:
    """A part of a whole with its interval."""
    return measure([True] * part + [False] * (whole - part))


def policy_sections(groups: Sequence[Group], plots: str) -> list[tuple[str, str, str]]:
    """Title, plot and table of each condition."""
    return [(group.condition, f"{plots}/{plot_name(group)}", policy_table(group)) for group in groups]


def policy_table(group: Group) -> str:
    """Every way to answer against the greedy draft: on all samples, and on those with a valid or an invalid draft."""
    names = [name for name in group.arm_names if name != "draft"]
    p_values = corrected([group.compare("draft", name) for name in names])
    places: tuple[Where, ...] = (where_valid, where_invalid) if "invalid" in group.cells[0].facts else ()
    rows = [
        [
            "draft",
            percent(group.accuracy("draft")),
            "",
            "",
            "",
            *(percent(group.accuracy("draft", where)) for where in places),
            "1.00",
            f"{group.mean('draft', tokens):.0f}",
            "",
        ]
    ]
    for name, p_value in zip(names, p_values, strict=True):
        pair = group.compare("draft", name)
        split = [group.compare("draft", name, where) for where in places]
        rows.append(
            [
                name,
                percent(group.accuracy(name)),
                *points(pair),
                *(f"{100 * each.difference:+.1f}" for each in split),
                f"{group.mean(name, calls):.2f}",
                f"{group.mean(name, tokens):.0f}",
                f"{p_value:.2g}",
            ]
        )
    columns = (
        "",
        "right, %",
        "points",
        "95 %",
        "fixed / broken",
        *("valid drafts", "invalid drafts")[: len(places)],
        "calls",
        "tokens",
        "Holm",
    )
    return table(columns, rows)


@dataclass(frozen=True)
class Aim:
    """What the arms of a condition are to be above a rival by, at least."""

    text: str
    group: Group
    rival: str
    at_least: float


def training_aims(noise: Sequence[Group], shift: Sequence[Group], real: Sequence[Group]) -> Iterator[Aim]:
    """The aims of the studies that train."""
    for group in noise:
        if group.condition in (GOAL_NOISE, GOAL_CLEAN):
            yield from label_aims(f"observatory, {group.condition}", group)
    for group in real:
        yield from label_aims(group.condition, group)
    for group in shift:
        where = f"{group.condition} wrong labels"
        yield Aim(f"{where}: at least 15 points above the base", group, "base", 0.15)
        yield Aim(f"{where}: not behind plain SFT", group, "plain SFT", 0.0)


def label_aims(where: str, group: Group) -> Iterator[Aim]:
    """The aims where a fifth of the labels is wrong, for which there is an oracle, and where none is."""
    if "oracle" in group.arm_names:
        yield Aim(f"{where} wrong labels: at least 7 points above plain SFT", group, "plain SFT", 0.07)
        yield Aim(f"{where} wrong labels: within 1 point of the oracle", group, "oracle", -0.01)
    else:
        yield Aim(f"{where} wrong labels: at most 0.5 points below plain SFT", group, "plain SFT", -0.005)


def aim_table(aims: Sequence[Aim]) -> str:
    """What each way to select is ahead of the rival by, an aim a line; empty where there is none."""
    if not aims:
        return ""
    arms = [
        name for name in (last_iteration(aims[0].group), *AIMING) if any(name in aim.group.arm_names for aim in aims)
    ]
    rows = [
        [
            aim.text,
            f"{aim.group.accuracy(aim.rival).n:,}",
            *(against_aim(aim, name) if name in aim.group.arm_names else "" for name in arms),
        ]
        for aim in aims
    ]
    return table(("aim", "n", *arms), rows)


def against_aim(aim: Aim, name: str) -> str:
    """A cell of the table of aims."""
    pair = aim.group.compare(aim.rival, name)
    return judged(pair, pair.difference >= aim.at_least)


def judged(pair: Paired, met: bool) -> str:
    """A difference with its interval, bold where it is what was aimed at."""
    figure = f"{100 * pair.difference:+.1f}"
    return f"{f'**{figure}**' if met else figure} ({interval(pair)})"


def those_of(group: Group, names: Sequence[str]) -> list[str]:
    """Those of some arms that a condition has."""
    return [name for name in names if name in group.arm_names]


def last_iteration(group: Group) -> str:
    """The arm of the last iteration."""
    return max(name for name in group.arm_names if name.startswith("iteration "))


def policy_aims(groups: Sequence[Group]) -> str:
    """The calibrated policy of each condition and the aims of the third study; empty where there is none."""
    if not groups:
        return ""
    rows = []
    for group in groups:
        pair = group.compare("draft", "calibrated")
        valid = group.compare("draft", "calibrated", where_valid)
        cost, broken = group.mean("calibrated", calls), pair.broken / pair.n
        rivals = [
            name
            for name in group.arm_names
            if name.startswith(("vote of", "best of", "constrained", "draft"))
            and group.mean(name, calls) <= max(2.0, cost)
        ]
        best = max(rivals, key=lambda name: group.accuracy(name).accuracy)
        ahead = group.compare(best, "calibrated")
        rows.append(
            [
                group.condition,
                f"{pair.n:,}",
                judged(pair, pair.difference >= 0.03 and cost <= 1.5 and broken <= 0.001),
                f"{cost:.2f}",
                f"{100 * broken:.2f} %",
                judged(valid, valid.difference >= 0.01),
                f"{judged(ahead, ahead.difference > 0)}, *{best}*",
            ]
        )
    columns = (
        "",
        "n",
        "against drafts",
        "calls",
        "broken",
        "on valid drafts",
        "against the best other use of two calls",
    )
    return table(columns, rows)


def calls(arm: Arm) -> float:
    """Calls a sample."""
    return arm.calls


def tokens(arm: Arm) -> float:
    """Sampled tokens a sample."""
    return arm.tokens


def plot_name(group: Group) -> str:
    """The file of a condition's plot."""
    return f"policies-{group.condition.replace(', ', '-').replace(' ', '-')}.svg"


def describe(groups: Sequence[Group]) -> str:
    """How many seeds and samples there are."""
    if not groups:
        return "nothing has been run"
    seeds = sorted({len(group.cells) for group in groups})
    sizes = sorted({len(cell.arms[0].verdicts) for group in groups for cell in group.cells})
    counted = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    return f"{counted} seeds, n = {' or '.join(f'{n:,}' for n in sizes)} held out a seed"
