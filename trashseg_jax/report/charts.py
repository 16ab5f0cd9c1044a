"""Curves as SVG paths on axes with round numbers."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from trashseg_jax.report.history import History, Series, smooth, thin

POINTS = 400  # of a curve at most, as wide as it is drawn
ALL_POINTS = 6000  # of a chart
DOTS = 24  # points of a line up to which each is a dot
WINDOW = 0.05  # of the training loss's points, that the smoothed one is a mean of
Number = float | int
UNIT = 1000  # the side of a plot in SVG's own units, which are stretched


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve with the colour that it has on light and on dark pages ("": the page's own)."""

    name: str
    series: Series
    light: str = ""
    dark: str = ""
    style: str = "line"  # or faint
    shown: bool = True  # until it is toggled


@dataclasses.dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with `ticks`; logarithmic ones have positive ends."""

    low: Number
    high: Number
    ticks: tuple[Number, ...]
    logarithmic: bool = False

    def place(self, value: Number) -> float:
        """Returns where a value lies, from 0 to 1."""
        low, high = self._scale(self.low), self._scale(self.high)
        return (self._scale(value) - low) / (high - low)

    def label(self, tick: Number) -> str:
        """Returns a tick in few letters, all of an axis alike: 20k, 0.25, 0.5e-3."""
        largest = max(map(abs, self.ticks))
        if self.logarithmic or tick == 0:
            return f"{tick:g}"
        if largest < 0.01:
            power = math.floor(math.log10(largest))
            return f"{tick / 10.0**power:.3g}e{power}"
        return f"{tick / 1000:g}k" if largest >= 1e4 else f"{tick:g}"

    def _scale(self, value: Number) -> Number:
        return math.log10(max(value, self.low)) if self.logarithmic else value


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over the steps."""

    key: str
    title: str
    lines: tuple[Line, ...]
    x: Axis
    y: Axis
    legend: bool

    def path(self, line: Line) -> str:
        """Returns the path of a line through its points."""
        return "M" + "L".join(self._points(line))

    def dots(self, line: Line) -> str:
        """Returns the path of a dot at each point, "" where there are too many to tell apart."""
        points = self._points(line)
        return "".join(f"M{point}h0" for point in points) if len(points) <= DOTS else ""

    def _points(self, line: Line) -> list[str]:
        return [
            f"{UNIT * self.x.place(step):.0f} {UNIT * (1 - self.y.place(value)):.0f}"
            for step, value in zip(*line.series, strict=True)
        ]

    def tell(self) -> str:
        """Returns in words where the lines begin and end, for who cannot see them."""
        said = []
        for line in (one for one in self.lines if one.style == "line"):
            steps, values = line.series
            said.append(
                f"{line.name}: {values[0]:.3g} at step {steps[0]}, {values[-1]:.3g} at step "
                f"{steps[-1]}"
            )
        return f"{self.title}. {'; '.join(said)}."

    def to_json(self) -> dict[str, Any]:
        """Returns what the page's script needs to show values."""
        steps = list(dict.fromkeys(one.series.steps for one in self.lines))
        lines = [
            {
                "name": one.name,
                "steps": steps.index(one.series.steps),
                "values": _rounded(one.series.values),
            }
            for one in self.lines
        ]
        return {"first": self.x.low, "last": self.x.high, "steps": steps, "lines": lines}


def _rounded(values: Sequence[Number]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def make_chart(
    key: str,
    title: str,
    lines: Sequence[Line],
    *,
    legend: bool = False,
    bounds: tuple[Number, Number] | None = None,
    logarithmic: bool = False,
) -> Chart | None:
    """Returns a chart of the lines that have points, None where none has.

    `bounds` are the y axis's; without them it holds all values, from 0 on unless it is logarithmic.
    """
    most = max(min(POINTS, ALL_POINTS // max(len(lines), 1)), 2)
    lines = [dataclasses.replace(one, series=thin(one.series, most=most)) for one in lines]
    lines = [one for one in lines if one.series.steps]
    if not lines:
        return None
    values = [value for one in lines for value in one.series.values]
    logarithmic &= min(values) > 0 and max(values) > 10 * min(values)
    if logarithmic:
        y = logarithmic_axis(min(values), max(values))
    else:
        y = round_axis(*(bounds or (min(0.0, *values), max(values))), count=4)
    last = max(one.series.steps[-1] for one in lines)
    ticks = round_axis(0, max(last, 1), count=4).ticks
    x = Axis(0, max(last, 1), tuple(tick for tick in ticks if tick <= last))
    return Chart(key, title, tuple(lines), x, y, legend)


def round_axis(low: Number, high: Number, *, count: int) -> Axis:
    """Returns an axis over that range or more; ticks are 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # As texts first: 3 times 0.1 is not 0.3.
    ticks = tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def logarithmic_axis(low: Number, high: Number) -> Axis:
    """Returns an axis from and to a power of ten, of which each, or each second, has a tick."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, -(-(last - first) // 6))
    ticks = tuple(10.0**i for i in range(first, last + 1, every))
    return Axis(10.0**first, 10.0**last, ticks, logarithmic=True)


def training_charts(history: History) -> list[Chart]:
    """Returns the charts of a run's log, but for the classes' own."""
    loss = history.loss
    smoothed = smooth(loss, window=WINDOW * len(loss.steps))
    dots = "var(--curve-2)"
    charts = [
        make_chart(
            "loss",
            "Loss",
            [
                Line("training, as logged", loss, style="faint"),
                Line("training, smoothed", smoothed),
                Line("validation", history.eval_loss, dots, dots),
            ],
            legend=True,
        ),
        make_chart("miou", "Validation mIoU", [Line("mIoU", history.miou)], bounds=(0.0, 1.0)),
        make_chart("rate", "Learning rate", [Line("learning rate", history.learning_rate)]),
        make_chart("speed", "Images per second", [Line("images/s", history.images_per_second)]),
        make_chart(
            "norm",
            "Norm of the gradient",
            [Line("norm", history.grad_norm)],
            logarithmic=True,
        ),
    ]
    return [chart for chart in charts if chart]
