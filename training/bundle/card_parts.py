"""Sections of a bundle's README: tables in Markdown of what its card holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.inference.bundle import Card, Head
from training.evaluation.measure import RATES, ranged

KINDS = {"confusion": "confusion matrix", "roc": "ROC curves", "reliability": "reliability diagram"}


def bullets(lines: Iterable[str]) -> str:
    """Return a list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def scored(found: Mapping[str, Any], *names: str) -> list[str]:
    """Scores of what `measure` found, with intervals."""
    flat = {"ece": found.get("ece"), **found["scores"], "intervals": found["intervals"]}
    return [ranged(flat, name) for name in names]


def head_section(card: Card, head: Head) -> list[str]:
    """Rates by class, the confusion matrix, thresholds, review and engines of one head, on the test part."""
    metrics = head.metrics
    rates = [[label, *(ranged(row, rate) for rate in RATES)] for label, row in metrics["classes"].items()]
    pairs = [
        f"COVID-19 against {other} alone: accuracy {ranged(found, 'accuracy')}, ROC AUC {ranged(found, 'auc')}."
        for other, found in metrics.get("against", {}).items()
    ]
    return [
        f"### {head.name}",
        table(["class", *(rate.replace("auc", "ROC AUC") for rate in RATES)], rates),
        confusion_table("truth", metrics["confusion"]),
        *pairs,
        *review_lines(head),
        *point_lines(head),
        *engine_lines(metrics.get("engines", {})),
        *figures(card, head.name),
    ]


def confusion_table(title: str, confusion: Mapping[str, Any]) -> str:
    """Count truth (rows) and prediction (columns)."""
    truth = zip(confusion["order"], confusion["counts"], strict=True)
    return table([f"{title}, predicted as:", *confusion["order"]], [[label, *map(str, row)] for label, row in truth])


def review_lines(head: Head) -> list[str]:
    """Return what goes to review, and what that buys."""
    found = head.metrics.get("review")
    if not found:
        return []
    cause = f"margin below {head.review_margin:.3f}"
    if head.classifier == "ensemble":
        cause += ", or binary and ensemble disagree on COVID-19"
    kept, sent = ranged(found, "accuracy_kept"), ranged(found, "accuracy_sent")
    return [
        f"Sent to review ({cause}): {ranged(found, 'share')} of images. Accuracy of the others {kept}, of these {sent}."
    ]


def point_lines(head: Head) -> list[str]:
    """Thresholds, what they did where they were chosen, and what they do on the test part."""
    tested = {found["target_sensitivity"]: found for found in head.metrics.get("operating_points", ())}
    rows = [
        [
            f"{point.target_sensitivity:.2f}", f"{point.threshold:.4f}",
            f"{point.sensitivity:.3f} / {point.specificity:.3f}",
            *(ranged(tested.get(point.target_sensitivity, {}), rate) for rate in ("sensitivity", "specificity")),
        ]
        for point in head.operating_points
    ]  # fmt: skip
    header = [
        "wanted sensitivity",
        "threshold",
        "where chosen: sens. / spec.",
        "test: sensitivity",
        "test: specificity",
    ]
    text = "Thresholds on the probability of COVID-19, chosen on held-out validation images:"
    return [text, table(header, rows)] if rows else []


def engine_lines(engines: Mapping[str, Any]) -> list[str]:
    """How far other engines agree with the one that the figures were measured with."""
    rows = [
        [name, f"refused: {row['refused']}", "", ""]
        if "refused" in row
        else [name, str(row["images"]), ranged(row, "same_label"), ranged(row, "accuracy_difference")]
        for name, row in engines.items()
    ]
    header = ["engine", "images", "same label as TensorFlow float32", "accuracy difference"]
    return [table(header, rows)] if rows else []


def gate_section(card: Card) -> list[str]:
    """Return what the gate lets through and what it turns away."""
    if card.gate is None or not card.gate.metrics:
        return []
    found = card.gate.metrics
    spread = {title: found.get(key, {}) for key, title in CHANGED.items()}
    groups = {"Pictures of other things, by kind": found["not_chest"].get("by_kind", {}), **spread}
    return [
        "## The gate",
        "Told apart before any probability is given: chest X-ray, chest CT slice, neither. Shares rejected:",
        table(["images", "number", "rejected (95 %)"], [gated(found, *named) for named in GATED.items()]),
        f"Of the chest images let through, {found['modality_accuracy']:.1%} are taken for the right modality.",
        *(
            f"{title}: {', '.join(f'{n} {v:.1%}' for n, v in group.items())}."
            for title, group in groups.items()
            if group
        ),
    ]


GATED = {
    "not_chest": "no chest images, of sources that fitting never saw (wanted: 95 % or more)",
    "chest": "chest images of patients that fitting never saw (wanted: 2 % or less)",
}
CHANGED = {
    "chest_changed": "Rejected of chest images that were changed, and are still readable",
    "chest_spoiled": "Rejected of chest images that were spoiled",
}


def gated(found: Mapping[str, Any], key: str, title: str) -> list[str]:
    """Return a row of the gate's table."""
    low, high = found[key]["interval"]
    return [title, str(found[key]["images"]), f"{found[key]['rejected']:.1%} ({low:.1%} to {high:.1%})"]


def figures(card: Card, name: str) -> list[str]:
    """Return the pictures among the bundle's files that belong to a head (or, without a name, to the whole)."""
    wanted = {f"{name}-{kind}.png": f"{name}: {title}" for kind, title in KINDS.items()} if name else CURVES
    return [f"![{title}]({file})" for file, title in wanted.items() if file in card.files]


CURVES = {"curves.png": "training curves"}
