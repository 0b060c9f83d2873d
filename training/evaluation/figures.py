"""Figures as PNG files, 900 pixels wide: training curves, confusion matrix, ROC curves, reliability diagram.

Colours are Okabe and Ito's (2008), which people with any kind of colour vision tell apart; lines differ in their
dashes too, and every matrix cell holds its number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from shared.errors import ConfigError
from training.evaluation.measure import BINS, Bootstrap, Numbers, Probabilities, area, calibration_error, share

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5A5A5A"
LINES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."))
STYLE: dict[Any, Any] = {"font.size": 15, "axes.titlesize": 17, "axes.spines.top": False, "axes.spines.right": False}
WIDTH, DPI = 9.0, 100
TITLES = {"covid19": "COVID-19", "not_covid19": "not COVID-19", "normal": "normal", "pneumonia": "pneumonia"}
UNBROKEN = "\N{NO-BREAK SPACE}"
FEWEST = 10  # images in a bin of the reliability diagram: of fewer, a share says nothing
FALSE_ALARMS = np.linspace(0, 1, 201)


@contextmanager
def drawn(out: Path, height: float) -> Iterator[Figure]:
    """Draw a figure that is written to `out` when its block ends; the same bytes for the same numbers."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        yield figure
        figure.savefig(out, metadata={"Software": None})


def head_figures(
    out: Path,
    name: str,
    probabilities: Probabilities,
    numbers: Numbers,
    classes: Sequence[str],
    patients: Sequence[str],
) -> list[str]:
    """Return the three figures of N predictions (N, classes), as `out`/NAME-KIND.png; returns the files' names."""
    files = [f"{name}-{kind}.png" for kind in ("confusion", "roc", "reliability")]
    confusion(out / files[0], name, probabilities, numbers, classes)
    roc(out / files[1], name, probabilities, numbers, classes, patients)
    reliability(out / files[2], name, probabilities, numbers, patients)
    return files


def curves(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Training curves: a panel per measure, validation (`val_NAME`) beside training (`NAME`).

    Rows are points in order, as csv.DictReader gives them: `stage` (a name; may be absent), what sets a point apart
    (`step`, or `strength` and `share`) and any measures, empty where there is none. Raises ConfigError when none is
    there to draw.
    """
    columns = dict.fromkeys(name for row in rows for name in row if name not in {"stage", "strength", "share", "step"})
    panels = list(dict.fromkeys(name.removeprefix("val_") for name in columns))
    if not panels:
        raise ConfigError("the training log holds no measures to draw")
    stages = [(name, len(list(part))) for name, part in groupby(rows, key=lambda row: str(row.get("stage", "")))]
    with drawn(out, 1.5 + 3.3 * len(panels)) as figure:
        boxes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0].tolist()
        for axes, measure in zip(boxes, panels, strict=True):
            axes.set_ylabel(measure.replace("_", " "))
            for column, label, line in ((measure, "training", LINES[0]), (f"val_{measure}", "validation", LINES[1])):
                if column in columns:
                    values = [math.nan if row.get(column) in {None, ""} else float(row[column]) for row in rows]
                    stage_lines(axes, values, [length for _, length in stages], label, line)
            axes.legend(frameon=False)
        name_stages(boxes, stages)


def stage_lines(axes: Axes, values: Sequence[float], lengths: Sequence[int], label: str, line: tuple[str, str]) -> None:
    """One measure over the epochs, not joined from one stage to the next."""
    start, (colour, dash) = 0, line
    for length in lengths:
        epochs, part = range(start + 1, start + length + 1), values[start : start + length]
        axes.plot(epochs, part, dash, color=colour, label=None if start else label, marker=".", linewidth=2)
        start += length


def name_stages(boxes: Sequence[Axes], stages: Sequence[tuple[str, int]]) -> None:
    """Lines between the stages, a number for each above the first panel, and below the last what they stand for."""
    start, above = 0, boxes[0].get_xaxis_transform()
    for number, (_, length) in enumerate(stages, 1):
        boxes[0].text(start + (length + 1) / 2, 1.03, str(number), transform=above, color=GREY, ha="center")
        start += length
        for axes in boxes if number < len(stages) else ():
            axes.axvline(start + 0.5, color=GREY, linestyle=":")
    # Unbreakable, so that a line ends between two stages.
    names = [f"{number} {name}".replace(" ", UNBROKEN) for number, (name, _) in enumerate(stages, 1)]
    key = wrap(", ".join(names), 66, break_on_hyphens=False)
    boxes[-1].set_xlabel("\n".join(["point, over all stages:", *key]))
    boxes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def confusion(out: Path, title: str, probabilities: Probabilities, numbers: Numbers, classes: Sequence[str]) -> None:
    """How many images of each class (rows) were taken for which (columns); shades are shares of the row."""
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (numbers, probabilities.argmax(1)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [TITLES.get(name, name) for name in classes]
    with drawn(out, 7) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            text = f"{count}\n{shares[row, column]:.1%}"
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=18)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set(title=f"{title}: {counts.sum()} images", xlabel="predicted", ylabel="truth")
        axes.spines[:].set_visible(False)


def roc(
    out: Path,
    title: str,
    probabilities: Probabilities,
    numbers: Numbers,
    classes: Sequence[str],
    patients: Sequence[str],
) -> None:
    """Sensitivity over false alarms, each class against the rest, with 95 % bands by patient.

    Of two classes only the first: the other's curve is its mirror image.
    """
    bootstrap = Bootstrap.of(patients)
    shown = range(len(classes) if len(classes) > 2 else 1)
    with drawn(out, 7.5) as figure:
        axes = figure.subplots()
        for k, (colour, dash) in zip(shown, LINES, strict=False):
            truth = numbers == k
            if truth.any() and not truth.all():
                label = TITLES.get(classes[k], classes[k])
                one_curve(axes, bootstrap, probabilities[:, k], truth, label=label, colour=colour, dash=dash)
        axes.plot([0, 1], [0, 1], ":", color=GREY, label="chance")
        axes.set(title=title, xlabel="false alarms (1 - specificity)", ylabel="sensitivity")
        axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
        axes.legend(loc="lower right", frameon=False, title="area under the curve (95 %)")


def one_curve(
    axes: Axes,
    bootstrap: Bootstrap,
    scores: Probabilities,
    truth: NDArray[np.bool_],
    *,
    label: str,
    colour: str,
    dash: str,
) -> None:
    """One class's ROC curve, its band and its area."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    heights = np.array([heights_of(counts[bootstrap.owner][order], truth[order], ends) for counts in bootstrap.counts])
    low, high = np.nanpercentile(heights[1:], [2.5, 97.5], axis=0)
    values, spans = bootstrap.estimate(lambda weights: {"auc": area(scores, truth, weights)})
    text = f"{label}: {values['auc']:.3f} ({spans['auc'][0]:.3f} to {spans['auc'][1]:.3f})"
    axes.fill_between(FALSE_ALARMS, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(FALSE_ALARMS, heights[0], dash, color=colour, linewidth=2.5, label=text)


def heights_of(weights: NDArray[np.int64], truth: NDArray[np.bool_], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sensitivity at each of FALSE_ALARMS, of images in falling order of score; `ends` close runs of equal scores."""
    hits, alarms = (weights * truth).cumsum()[ends], (weights * ~truth).cumsum()[ends]
    if not hits[-1] or not alarms[-1]:
        return np.full_like(FALSE_ALARMS, np.nan)
    found: NDArray[np.float64] = np.interp(
        FALSE_ALARMS, np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1])
    )
    return found


def reliability(out: Path, title: str, probabilities: Probabilities, numbers: Numbers, patients: Sequence[str]) -> None:
    """How often answers of each confidence are right, with 95 % intervals by patient, and how many there are."""
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == numbers
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    used = np.flatnonzero(np.bincount(bins, minlength=BINS) >= FEWEST)
    mean = np.array([confidence[bins == number].mean() for number in used])
    bootstrap = Bootstrap.of(patients)
    values, spans = bootstrap.estimate(lambda w: {str(number): share(w, right, bins == number) for number in used})
    heights, ends = np.array(list(values.values())), np.array(list(spans.values())).reshape(-1, 2)
    with drawn(out, 8) as figure:
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        above.plot([0, 1], [0, 1], ":", color=GREY, label="as sure as right")
        above.vlines(mean, ends[:, 0], ends[:, 1], color=BLUE, alpha=0.5, linewidth=3)
        above.plot(
            mean, heights, "o-", color=BLUE, markersize=9, linewidth=2, label=f"bins of {FEWEST} images or more (95 %)"
        )
        above.set(title=f"{title}: calibration error {calibration_error(probabilities, numbers):.3f}")
        above.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
        above.legend(loc="upper left", frameon=False)
        below.hist(confidence, bins=np.linspace(0, 1, BINS + 1).tolist(), color=BLUE, edgecolor="white")
        below.set(xlabel="probability of the predicted class", ylabel="images")
