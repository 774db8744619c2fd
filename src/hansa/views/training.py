"""Parts of pages on what training gave: members alone against together, learning curves, where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hansa.views.chart import Bar, Bars, Dot, Dots, Lines, Series, View, number

Values = Mapping[str, float | None]


def members_view(metric: str, higher_is_better: bool, alone: Values, runs: Mapping[str, Values]) -> View:
    """Each member's own model against the common one, on its own test rows.

    Args:
        alone: by member; None where it could not train or be judged alone. runs: by name, such as a mode, the common model's metric by
            member.
    """
    better = "higher" if higher_is_better else "lower"
    names = tuple("together" if len(runs) == 1 else f"together, {run}" for run in runs)
    dots = tuple(
        Dot(name=member, alone=own, together=tuple(values.get(member) for values in runs.values()))
        for member, own in alone.items()
    )
    seen = "; ".join(
        f"{dot.name} {number(dot.alone)} alone, {' / '.join(map(number, dot.together))} together" for dot in dots[:8]
    )
    return View(
        name="members",
        title="Alone against together",
        note=f"{metric} on each member's own test rows; {better} is better.",
        table=(
            ("member", "alone", *names),
            *((dot.name, number(dot.alone), *map(number, dot.together)) for dot in dots),
        ),
        chart=Dots(x=f"{metric}, {better} is better", runs=names, dots=dots),
        alt=f"{metric} of each member alone and together: {seen}",
    )


def curves_view(metric: str, higher_is_better: bool, series: Mapping[str, Sequence[tuple[int, float | None]]]) -> View:
    """A metric after so many rounds of boosting.

    Args:
        series: by name, (rounds, value).
    """
    better = "higher" if higher_is_better else "lower"
    lines = tuple(
        Series(name=name, x=tuple(float(at) for at, _ in points), y=tuple(value for _, value in points))
        for name, points in series.items()
    )
    ends = [f"{name} {number(points[-1][1])} after {points[-1][0]}" for name, points in series.items() if points]
    steps = sorted({at for points in series.values() for at, _ in points})
    shown = (
        steps if len(steps) <= MOST_ROWS else [steps[k * (len(steps) - 1) // (MOST_ROWS - 1)] for k in range(MOST_ROWS)]
    )
    known = {name: dict(points) for name, points in series.items()}
    return View(
        name="curves",
        title=f"Learning curve: {metric}",
        note=f"{metric} while the model grows; {better} is better.",
        table=(("rounds", *series), *((str(at), *(number(own.get(at)) for own in known.values())) for at in shown)),
        chart=Lines(x="rounds of boosting", y=f"{metric}, {better} is better", series=lines, low=not higher_is_better),
        alt=f"Learning curve of {metric}: {'; '.join(ends)} rounds",
    )


MOST_ROWS = 12
"""Of a table of a learning curve; its picture shows every round."""


def phases_view(seconds: Mapping[str, float]) -> View:
    """Where a run's time went, in seconds by phase."""
    bars = tuple(Bar(name=name, value=value, text=f"{value:.2f} s") for name, value in seconds.items())
    return View(
        name="phases",
        title="Where the time went",
        table=(("phase", "seconds"), *((name, f"{value:.2f}") for name, value in seconds.items())),
        chart=Bars(x="seconds", bars=bars),
        alt="Seconds by phase: " + ", ".join(f"{bar.name} {bar.text}" for bar in bars),
    )
