"""affinity.html: heat maps of every measure, the proposed groups, what predicts the gains, and how it was measured."""

from collections.abc import Sequence

from mtlcli.affinity.gradients import TOTAL
from mtlcli.affinity.results import Affinity, Cell, Measure
from mtlcli.report import page, svg
from mtlcli.report.page import Section, charts, facts, folded, paragraph, section, table

DIGITS = {
    "gain": 1,
    "gain-without-leaks": 1,
    "transfer": 1,
    "lookahead": 4,
    "lookahead-first-order": 4,
    "logme": 3,
    "label-overlap": 5,
}
"""Decimals in the cells of a measure; 2 for the others."""


def affinity_page(affinity: Affinity) -> str:
    """Return the whole page."""
    return page.page(
        f"mtl affinity: {', '.join(affinity.tasks)}",
        [
            _groups(affinity),
            _matrices(affinity),
            _predicted(affinity),
            _tasks(affinity),
            _curves(affinity),
            _method(affinity),
        ],
    )


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for a table: `-` for none, and no sign on a rounded zero."""
    # + 0.0 turns -0.0 into 0.0.
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def digits_of(measure: Measure) -> int:
    """Return the decimals with which a measure is shown."""
    return DIGITS.get(measure.name, 2)


def interval(values: Sequence[float | None], digits: int = 2) -> str:
    """Return `0.42 (0.10 to 0.66)` for a value and the ends of its interval."""
    value, low, high = values
    if value is None or low is None or high is None:
        return number(value, digits)
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def _groups(affinity: Affinity) -> Section:
    proposal = affinity.proposal
    warnings = "".join(paragraph(f"Warning: {line}.") for line in affinity.warnings)
    if proposal is None:
        return section(
            "Groups",
            ("", paragraph("No groups are proposed: neither gains nor a lookahead that repeats were measured.")),
            ("", warnings),
        )
    rows = [
        (f"{number_}", ", ".join(group), ", ".join(served))
        for number_, (group, served) in enumerate(zip(proposal.groups, proposal.served, strict=True), 1)
    ]
    unit = "percent" if proposal.source == "gain" else "units of the measure"
    stable = (
        "" if proposal.share is None else f"{100 * proposal.share:.0f} % of {proposal.draws} draws from the intervals"
    )
    together = ""
    if proposal.together is not None:
        together = svg.heat(
            "how often two tasks stand together",
            affinity.tasks,
            _without_diagonal(proposal.together),
            [[f"{value:.2f}" for value in row] for row in proposal.together],
        )
    shown = facts(
        [
            ("by", proposal.source),
            ("models", f"at most {proposal.models}"),
            (
                "sum over the tasks",
                f"{number(proposal.value)} {unit}; one model for all {number(proposal.one_model)}; every task alone 0",
            ),
            ("same groups in", stable),
            *(
                (f"trained again, {name}", f"mean gain over the tasks {interval([cell.value, cell.low, cell.high])} %")
                for name, cell in proposal.confirmed.items()
            ),
        ]
    )
    return section(
        "Groups",
        ("", table(["group", "trained on", "used for"], rows, text_columns=3)),
        ("", shown),
        ("", charts([together])),
        ("", warnings),
    )


def _without_diagonal(values: Sequence[Sequence[float]]) -> list[list[float | None]]:
    # No pair holds a task twice, so the diagonal is always 0; None leaves these cells empty.
    return [[None if i == j else value for j, value in enumerate(row)] for i, row in enumerate(values)]


def note_of(cell: Cell | None, digits: int) -> str:
    """Return what a tooltip says of a cell: value, interval, repetitions, or why there is none."""
    if cell is None:
        return "the same task"
    if cell.value is None:
        return cell.why or "no value"
    repeated = f", n {cell.n}" if cell.n is not None else ""
    details = "".join(f", {name} {number(value, digits)}" for name, value in cell.details.items() if value is not None)
    return f"{interval([cell.value, cell.low, cell.high], digits)}{repeated}{details}"


def heat_of(measure: Measure, tasks: Sequence[str]) -> str:
    """Return the heat map of a measure."""
    digits = digits_of(measure)
    reliability = "" if measure.reliability is None else f" (reliability {measure.reliability:.2f})"
    return svg.heat(
        f"{measure.title}{reliability}",
        tasks,
        [[None if cell is None else cell.value for cell in row] for row in measure.cells],
        [[note_of(cell, digits) for cell in row] for row in measure.cells],
        digits=digits,
    )


def _matrices(affinity: Affinity) -> Section:
    # The prefix ends with a space, which the total, `gradient-cosine`, does not have.
    whole = [measure for measure in affinity.measures if not measure.name.startswith("gradient-cosine ")]
    blocks = [measure for measure in affinity.measures if measure.name.startswith("gradient-cosine ")]
    text = (
        "Row: what this task does; column: for that one. Blue is above 0, orange below; empty cells have no value. Point at a cell for "
        "its 95 % interval and the reason of an empty one."
    )
    return section(
        "Matrices",
        ("", charts([heat_of(measure, affinity.tasks) for measure in whole], text)),
        ("Gradient cosines by layer", charts([heat_of(measure, affinity.tasks) for measure in blocks])),
        ("Pairs", folded("Every pair in numbers", _pairs(whole, affinity.tasks))),
    )


def _pairs(measures: Sequence[Measure], tasks: Sequence[str]) -> str:
    rows = []
    for i, source in enumerate(tasks):
        for j, name in enumerate(tasks):
            if i != j:
                shown = []
                for measure in measures:
                    cell = measure.cells[i][j]
                    shown.append(
                        "-" if cell is None else interval([cell.value, cell.low, cell.high], digits_of(measure))
                    )
                rows.append((f"{source} for {name}", *shown))
    return table(["pair", *(measure.name for measure in measures)], rows)


def _predicted(affinity: Affinity) -> Section:
    rows = [
        (
            row.measure,
            f"{row.pairs}",
            interval(row.rho),
            interval(row.within),
            "-" if row.over_tasks is None else interval(row.over_tasks),
            number(row.ceiling),
        )
        for row in affinity.predictions
    ]
    reliability = affinity.gain_reliability
    shown = "" if reliability is None else f"Reliability of the gains: {interval(reliability)}."
    note = (
        "Spearman's rho of each measure with the measured gains, with the 95 % interval from redrawing pairs (within receivers: "
        "sources) and seeds; within receivers: the mean over the tasks of rho among the others, which answers "
        "whom to add to a task; ceiling: the most that a measure of its "
        "reliability can reach. The last rows need no measurement."
        if rows
        else ""
    )
    head = ["measure", "pairs", "all pairs", "within receivers", "redrawing tasks", "ceiling"]
    return section(
        "What predicts the gains",
        ("", paragraph(affinity.verdict)),
        ("", paragraph(shown)),
        ("", table(head, rows)),
        ("", paragraph(note)),
    )


def _tasks(affinity: Affinity) -> Section:
    labels = [
        (
            name,
            f"{of_task.rows}",
            "-" if of_task.classes is None else f"{of_task.classes}",
            number(of_task.entropy),
            number(of_task.normalized_entropy),
            number(of_task.share_kurtosis),
            number(of_task.score_kurtosis),
        )
        for name, of_task in affinity.labels.items()
    ]
    heads = [
        (
            name,
            number(_as_float(fit["loss"]), 3),
            number(_as_float(fit["guess"]), 3),
            f"{fit['steps']:.0f}",
            "yes" if fit["beats_guess"] else "no",
        )
        for name, fit in affinity.heads.items()
    ]
    directions = [
        (
            name,
            f"{values['batches']:.0f}",
            number(values["share"], 3),
            number(values["share of word embeddings"], 3),
            number(values["reliability"]),
        )
        for name, values in affinity.directions.items()
    ]
    leaks = "".join(paragraph(f"{line}.") for line in affinity.leaks)
    return section(
        "Tasks",
        (
            "Labels",
            table(
                [
                    "task",
                    "rows",
                    "classes",
                    "entropy (bits)",
                    "entropy / log2 C",
                    "kurtosis of the class shares",
                    "excess kurtosis of the scores",
                ],
                labels,
            ),
        ),
        ("Fitted heads", table(["task", "held-out loss", "a guess", "updates", "better than a guess"], heads)),
        ("Gradients", table(["task", "batches", "signal share", "of the word embeddings", "reliability"], directions)),
        ("Rows in common", leaks),
    )


def _as_float(value: float | bool | None) -> float | None:
    return None if value is None else float(value)


def _curves(affinity: Affinity) -> Section:
    drawn = [
        svg.lines(
            f"{name}: dev metric by update",
            {title: [(x, y) for x, y in points] for title, points in series.items()},
            unit="update",
        )
        for name, series in affinity.curves.items()
    ]
    text = "First seed. Where a task alone still climbs at the end, a gain measures speed."
    return section("Curves", ("", charts(drawn, text)))


def _method(affinity: Affinity) -> Section:
    settings = affinity.settings
    shown = facts(
        [
            ("measures", ", ".join(settings["measures"])),
            ("updates of the joint run", f"{settings['updates']}"),
            ("most batches of a gradient", f"{settings['batches']}"),
            ("seeds", ", ".join(map(str, settings["seeds"]))),
            (
                "budget of a pair",
                "as many updates as alone" if settings["budget"] == "rows" else "as many batches as alone",
            ),
            *((f"time of {name}, estimated", f"{seconds / 60:.1f} min") for name, seconds in affinity.cost.items()),
        ]
    )
    text = (
        f"Gradient cosines are those of the mean gradients ({TOTAL}), debiased, at three times of one joint run, after heads were fitted "
        "on features of the frozen encoder. docs/affinity.md has the formulas."
    )
    return section("How it was measured", ("", shown), ("", paragraph(text)))
