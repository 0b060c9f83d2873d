"""Drawn pictures that are no chest images: what the gate is fitted against, and other kinds that it is measured on.

A drawing is a function of a random generator and the side in pixels, and returns grey (side, side) uint8.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Drawing = Callable[[np.random.Generator, int], Grey]
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
MAPS = ("gray", "viridis", "magma", "coolwarm", "binary")


def blank(rng: np.random.Generator, side: int) -> Grey:
    """One grey level, black and white among them, with or without a trace of noise."""
    level = float(rng.choice([0, 255, rng.uniform(0, 255)]))
    return _grey(level + rng.choice([0, 2]) * rng.standard_normal((side, side)))


def grain(rng: np.random.Generator, side: int) -> Grey:
    """Noise whose amplitude falls slowly with frequency: static, film grain."""
    return _grey(128 + rng.uniform(15, 70) * _spectrum(rng, side, rng.uniform(0, 1.2)))


def clouds(rng: np.random.Generator, side: int) -> Grey:
    """Noise whose amplitude falls steeply with frequency: soft shadows, and nothing in them."""
    return _grey(rng.uniform(90, 160) + rng.uniform(30, 60) * _spectrum(rng, side, rng.uniform(1.7, 3)))


def ramp(rng: np.random.Generator, side: int) -> Grey:
    """Return a linear gradient in any direction."""
    x, y = _plane(side)
    angle = rng.uniform(0, 2 * np.pi)
    return _grey(128 + rng.uniform(40, 127) * (np.cos(angle) * x + np.sin(angle) * y))


def glow(rng: np.random.Generator, side: int) -> Grey:
    """Bright spots with soft edges, or dark ones."""
    x, y = _plane(side)
    picture = np.zeros((side, side))
    for _ in range(rng.integers(1, 4)):
        a, b, width = rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), rng.uniform(0.2, 0.8)
        picture += np.exp(-((x - a) ** 2 + (y - b) ** 2) / width**2)
    picture = 255 * picture / picture.max()
    return _grey(picture if rng.random() < 0.5 else 255 - picture)


def stripes(rng: np.random.Generator, side: int) -> Grey:
    """Return a sinusoidal grating, or two that cross."""
    x, y = _plane(side)
    picture = np.zeros((side, side))
    for _ in range(rng.integers(1, 3)):
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(4, 80)
        picture += np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 6))
    return _grey(128 + rng.uniform(30, 120) * picture)


def blocks(rng: np.random.Generator, side: int) -> Grey:
    """Return a chessboard, a bar code or a matrix code."""
    rows, columns = [(8, 8), (1, int(rng.integers(20, 60))), (int(rng.integers(15, 40)),) * 2][rng.integers(3)]
    cells = rng.integers(0, 2, (rows, columns)) if rows != 8 else np.indices((rows, columns)).sum(0) % 2
    inner = cv2.resize((cells * 255).astype(np.uint8), (side * 3 // 4, side * 3 // 4), interpolation=cv2.INTER_NEAREST)
    return _grey(np.pad(inner, side // 8, constant_values=255))


def shapes(rng: np.random.Generator, side: int) -> Grey:
    """Rectangles, ellipses and lines, sharp or blurred."""
    picture = np.full((side, side), int(rng.integers(256)), np.uint8)
    for _ in range(rng.integers(3, 25)):
        (a, b, c, d), level = rng.integers(0, side, 4).tolist(), int(rng.integers(256))
        fill = int(rng.choice([-1, 1, 3]))
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(picture, (a, b), (c, d), level, fill)
        elif kind == 1:
            cv2.ellipse(picture, (a, b), (c // 3 + 1, d // 3 + 1), float(rng.uniform(0, 180)), 0, 360, level, fill)
        else:
            cv2.line(picture, (a, b), (c, d), level, int(rng.integers(1, 6)), cv2.LINE_AA)
    return _soft(picture, rng.uniform(0, 4))


def page(rng: np.random.Generator, side: int) -> Grey:
    """Lines of text, dark on light or light on dark."""
    picture = np.full((side, side), 255, np.uint8)
    size, font = rng.uniform(0.25, 0.9), int(rng.choice(FONTS))
    step = int(38 * size) + 2
    for line in range(step, side, step):
        if rng.random() < 0.9:
            cv2.putText(picture, _words(rng, 12), (int(rng.integers(4, 16)), line), font, size, 0, 1, cv2.LINE_AA)
    return picture if rng.random() < 0.7 else np.asarray(255 - picture, np.uint8)


def bars(rng: np.random.Generator, side: int) -> Grey:
    """Return a bar chart with axes, or several lines."""
    picture = np.full((side, side), 255, np.uint8)
    x = np.linspace(side * 0.12, side * 0.92, int(rng.integers(4, 14))).astype(int)
    for _ in range(rng.integers(1, 4)):
        heights, level = (side * rng.uniform(0.1, 0.85, len(x))).astype(int), int(rng.integers(0, 200))
        if rng.random() < 0.5:
            for a, b in zip(x, heights, strict=True):
                cv2.rectangle(picture, (int(a), int(b)), (int(a) + side // 25, side * 9 // 10), level, -1)
        else:
            cv2.polylines(picture, [np.stack([x, heights], 1).astype(np.int32)], False, level, 2, cv2.LINE_AA)
    cv2.line(picture, (side // 10, side * 9 // 10), (side, side * 9 // 10), 0, 1)
    cv2.line(picture, (side // 10, 0), (side // 10, side * 9 // 10), 0, 1)
    return picture


def chart(rng: np.random.Generator, side: int) -> Grey:
    """Return a scatter plot, a histogram, a pie or a grid of values, as matplotlib draws them."""
    figure = Figure((4, 4), side / 4)
    axes: Any = figure.subplots()
    kind = rng.integers(4)
    if kind == 0:
        axes.scatter(*rng.standard_normal((2, 80)), s=rng.uniform(5, 60, 80), c=rng.random(80))
    elif kind == 1:
        axes.hist(rng.gamma(2, 1, 500), bins=int(rng.integers(8, 40)), color=str(rng.uniform(0, 0.8)))
    elif kind == 2:
        axes.pie(rng.uniform(1, 5, 6), labels=_words(rng, 6).split()[:6])
    else:
        axes.imshow(rng.random((12, 12)), cmap=str(rng.choice(MAPS)))
    axes.set_title(_words(rng, 3))
    return _rendered(figure, side)


def screenshot(rng: np.random.Generator, side: int) -> Grey:
    """Windows with title bars, buttons and text over a desktop."""
    figure = Figure((4, 4), side / 4, facecolor=str(rng.uniform(0.1, 0.9)))
    for _ in range(rng.integers(1, 4)):
        x, y, width, height = *rng.uniform(0, 0.4, 2), *rng.uniform(0.4, 0.6, 2)
        dark = rng.random() < 0.4
        axes: Any = figure.add_axes((x, y, width, height), facecolor="0.15" if dark else "0.97", xticks=[], yticks=[])
        axes.axhspan(0.9, 1, color=str(rng.uniform(0.2, 0.7)))
        for line in np.arange(0.82, 0.05, -0.07):
            axes.text(0.04, line, _words(rng, 5), fontsize=6, color="w" if dark else "k", clip_on=True)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    return _rendered(figure, side)


def head(rng: np.random.Generator, side: int) -> Grey:
    """Return a slice through a head, roughly: a bright ring, tissue within, dark or bright chambers."""
    picture = np.full((side, side), int(rng.choice([0, 0, int(rng.integers(0, 40))])), np.uint8)
    centre, axes = (side // 2, side // 2), (side * rng.uniform(0.25, 0.55), side * rng.uniform(0.3, 0.6))
    angle = float(rng.uniform(-20, 20))
    tissue = int(rng.integers(60, 160))
    for scale, level in ((1.0, int(rng.integers(150, 256))), (rng.uniform(0.85, 0.94), tissue)):
        cv2.ellipse(picture, centre, (int(axes[0] * scale), int(axes[1] * scale)), angle, 0, 360, level, -1)
    for _ in range(rng.integers(1, 5)):
        _blob(picture, rng, 0.15, (0.02, 0.12), int(rng.integers(0, 220)))
    inside = picture == tissue
    textured = picture + inside * rng.uniform(0, 25) * _spectrum(rng, side, rng.uniform(0.5, 1.5))
    return _soft(_grey(textured), rng.uniform(0.3, 2))


def belly(rng: np.random.Generator, side: int) -> Grey:
    """Return a slice below the lungs, roughly: a wide oval of fat and muscle that is full of organs, and a vertebra."""
    picture = np.full((side, side), int(rng.choice([0, 0, int(rng.integers(0, 40))])), np.uint8)
    axes = (side * rng.uniform(0.38, 0.55), side * rng.uniform(0.28, 0.45))
    fat, muscle = (int(level) for level in rng.integers(60, 200, 2))
    for scale, level in ((1.0, muscle), (0.96, fat), (rng.uniform(0.75, 0.9), muscle), (0.7, int(fat * 0.8))):
        size = (int(axes[0] * scale), int(axes[1] * scale))
        cv2.ellipse(picture, (side // 2, side // 2), size, 0, 0, 360, level, -1)
    for _ in range(rng.integers(5, 16)):
        _blob(picture, rng, 0.25, (0.03, 0.14), int(rng.integers(80, 230)))
    cv2.circle(picture, (side // 2, int(side / 2 + axes[1] * 0.7)), side // 16, int(rng.integers(200, 256)), -1)
    textured = picture + (picture > 40) * rng.uniform(2, 15) * _spectrum(rng, side, rng.uniform(0.3, 1.2))
    return _soft(_grey(textured), rng.uniform(0.3, 2))


def _blob(picture: Grey, rng: np.random.Generator, spread: float, sizes: tuple[float, float], level: int) -> None:
    """Fill an ellipse somewhere about the middle; lengths are fractions of the side."""
    side = len(picture)
    at = (side / 2 + side * rng.uniform(-spread, spread, 2)).astype(int).tolist()
    size = (side * rng.uniform(*sizes, 2)).astype(int).tolist()
    cv2.ellipse(picture, at, size, float(rng.uniform(0, 180)), 0, 360, level, -1)


def limb(rng: np.random.Generator, side: int) -> Grey:
    """Return a radiograph of an arm or a leg, roughly: one or two long bones in soft tissue, perhaps with a joint."""
    picture = np.zeros((side, side))
    width = rng.uniform(0.25, 0.6) * side
    _tube(picture, rng, (0.5, -0.1), (0.5, 1.1), width, rng.uniform(40, 110))
    gap = rng.uniform(0.35, 0.65) if rng.random() < 0.6 else 1.1
    for place in rng.uniform(0.5 - 0.25 * width / side, 0.5 + 0.25 * width / side, rng.integers(1, 3)):
        for top, bottom in ((-0.1, gap - 0.02), (gap + 0.02, 1.1)):
            _tube(picture, rng, (place, top), (place, bottom), width * rng.uniform(0.18, 0.35), rng.uniform(70, 140))
    return _radiograph(rng, picture)


def hand(rng: np.random.Generator, side: int) -> Grey:
    """Return a radiograph of a hand, roughly: five rays of short bones that meet in a wrist."""
    picture = np.zeros((side, side))
    wrist = np.array([rng.uniform(0.42, 0.58), rng.uniform(0.85, 0.95)])
    for angle in np.radians(np.linspace(-38, 38, 5) + rng.normal(0, 3, 5)):
        ray = np.array([np.sin(angle), -np.cos(angle)]) * rng.uniform(0.6, 0.8)
        _tube(picture, rng, tuple(wrist), tuple(wrist + ray), 0.11 * side, 60)
        for start, end in ((0.3, 0.56), (0.6, 0.78), (0.82, 0.96)):
            _tube(picture, rng, tuple(wrist + start * ray), tuple(wrist + end * ray), 0.045 * side, 110)
    return _radiograph(rng, picture)


def _tube(
    picture: NDArray[np.float64],
    rng: np.random.Generator,
    start: tuple[float, ...],
    end: tuple[float, ...],
    width: float,
    level: float,
) -> None:
    """Add a cylinder as X-rays see it: dense where the path through it is long."""
    side = len(picture)
    mask = np.full((side, side), 255, np.uint8)
    ends = [
        tuple((np.array(point) * side + rng.normal(0, 0.01 * side, 2)).astype(int).tolist()) for point in (start, end)
    ]
    cv2.line(mask, ends[0], ends[1], 0, max(1, int(width / 2)))
    away = np.minimum(cv2.distanceTransform(mask, cv2.DIST_L2, 5), side)  # a bone outside the picture is far away
    picture += level * np.sqrt(np.clip(1 - (away / (width / 4 + 1)) ** 2, 0, 1))


def _radiograph(rng: np.random.Generator, picture: NDArray[np.float64]) -> Grey:
    """Return a sum of densities as a detector shows it: turned, blurred, grainy."""
    side = len(picture)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(-40, 40)), float(rng.uniform(0.8, 1.2)))
    turned = cv2.warpAffine(picture, turn, (side, side))
    noise = rng.uniform(1, 6) * rng.standard_normal((side, side))
    return _soft(_grey(turned + rng.uniform(0, 40) + noise), rng.uniform(0.3, 1.5))


def _grey(values: NDArray[Any]) -> Grey:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _soft(picture: Grey, sigma: float) -> Grey:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma) if sigma > 0.2 else picture, np.uint8)


def _plane(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Horizontal and vertical coordinates of a square, -1 to 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    return x, y


def _spectrum(rng: np.random.Generator, side: int, slope: float) -> NDArray[np.float64]:
    """Noise of mean 0 and deviation 1 whose amplitude falls as frequency to the power -slope."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, np.newaxis], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * frequency**-slope, (side, side))
    return np.asarray((noise - noise.mean()) / noise.std())


def _words(rng: np.random.Generator, count: int) -> str:
    letters = np.array(list(string.ascii_letters + string.digits))
    return " ".join("".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(count))


def _rendered(figure: Figure, side: int) -> Grey:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    grey = cv2.cvtColor(np.asarray(canvas.buffer_rgba()), cv2.COLOR_RGBA2GRAY)
    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


FITTING: Mapping[str, Drawing] = {
    draw.__name__: draw for draw in (blank, grain, ramp, stripes, shapes, page, bars, head, limb, belly)
}
MEASURING: Mapping[str, Drawing] = {draw.__name__: draw for draw in (clouds, glow, blocks, chart, screenshot, hand)}
