"""The figure of several swept options at once."""

from matplotlib.figure import Figure

from agejax.metrics import UNITS
from experiments import plots

COLOURS, STYLES = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.INK), ("-", "--", ":")


def lines(name: str, points: list[tuple], target: str) -> Figure:
    """Mean test MAE against the option `name`, one line a setting, whiskers of one SD: points are
    (setting, value, mean, SD).

    Numbers stand where they are on the axis, or on a logarithmic one where they span a hundredfold; words stand in
    their order, and no line joins them.
    """
    figure, axes = plots.new_axes(plots.WIDE, name, f"mean of the mean absolute errors ({UNITS[target]})")
    values = list(dict.fromkeys(value for _, value, _, _ in points))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numeric and min(values) > 0 and max(values) / min(values) >= 100:
        axes.set_xscale("log")
    names = list(dict.fromkeys(point[0] for point in points))
    for i, setting in enumerate(names):
        mine = [point[1:] for point in points if point[0] == setting]
        aside = 0.0 if numeric else 0.3 * (i - (len(names) - 1) / 2) / len(names)  # or whiskers would hide each other
        places = [value if numeric else values.index(value) + aside for value, _, _ in mine]
        order = sorted(range(len(mine)), key=places.__getitem__)
        x, mean, sd = ([column[j] for j in order] for column in (places, *list(zip(*mine))[1:]))
        style = STYLES[i // len(COLOURS) % len(STYLES)] if numeric else ""
        axes.errorbar(x, mean, sd, label=setting, marker="o", markersize=3.5, linewidth=1.2, capsize=2,
                      linestyle=style, color=COLOURS[i % len(COLOURS)])  # fmt: skip
    ticks = sorted(values) if numeric else range(len(values))
    if not numeric or len(values) <= 8:
        axes.set_xticks(ticks, [str(value) for value in (sorted(values) if numeric else values)], parse_math=False)
        axes.minorticks_off()
    axes.margins(x=0.08 if numeric else 0.2, y=0.12)
    return plots.with_legend(figure, axes, "best")
