"""Every engine of this machine against TensorFlow in float32, on labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared.errors import ModelError
from shared.inference.bundle import Bundle, Head
from shared.inference.engine import REFERENCE, EngineName
from shared.inference.engines import candidates, make_engine
from training.data.images import Record
from training.evaluation.answers import Answers, ask
from training.evaluation.measure import Bootstrap, flat, ratio, share
from training.tasks import class_numbers


def parity(bundle: Bundle, sets: Mapping[str, list[Record]]) -> dict[str, dict[str, Any]]:
    """How far each engine that this machine would try agrees, by head (and `gate`) and engine.

    An engine that cannot be opened has only `refused`, the reason.
    """
    reference = ask(bundle, sets, make_engine(REFERENCE, bundle))
    parts = [name for part in reference.values() for name in part.probabilities] + ["gate"] * bool(bundle.card.gate)
    found: dict[str, dict[str, Any]] = {name: {} for name in parts}
    for engine in candidates(bundle, "auto"):
        if engine != REFERENCE:
            for name, compared in _compared(bundle, sets, engine, reference).items():
                found[name][engine] = compared
    return found


def _compared(
    bundle: Bundle, sets: Mapping[str, list[Record]], engine: EngineName, reference: Mapping[str, Answers]
) -> dict[str, dict[str, Any]]:
    """One engine's agreement by head, and of the gate."""
    try:
        answers = ask(bundle, sets, make_engine(engine, bundle))
    except ModelError as error:
        return {name: {"refused": error.detail} for part in reference.values() for name in part.probabilities}
    found = {
        name: head_agreement(bundle.heads[name], part, answers[modality])
        for modality, part in reference.items()
        for name in part.probabilities
    }
    if bundle.card.gate:
        found["gate"] = gate_agreement(list(reference.values()), [answers[modality] for modality in reference])
    return found


def head_agreement(head: Head, reference: Answers, other: Answers) -> dict[str, Any]:
    """How often an image gets the same label, what that does to accuracy, and how far probabilities are apart."""
    wanted, got = reference.probabilities[head.name], other.probabilities[head.name]
    numbers = class_numbers(reference.labels.tolist(), head.classes, any_label=True)
    same, known = wanted.argmax(1) == got.argmax(1), numbers >= 0
    gained = (got.argmax(1) == numbers).astype(np.float64) - (wanted.argmax(1) == numbers)
    estimates = Bootstrap.of(reference.patients).estimate(
        lambda weights: {
            "same_label": share(weights, same),
            "accuracy_difference": ratio(weights @ (gained * known), weights @ known),
        }
    )
    apart = np.abs(wanted - got)
    largest, mean = float(apart.max()), float(apart.mean())
    return {"images": len(same), **flat(estimates), "mean_difference": mean, "largest_difference": largest}


def gate_agreement(reference: Sequence[Answers], other: Sequence[Answers]) -> dict[str, Any]:
    """How often the gate takes an image for the same kind."""
    same = np.concatenate([one.kinds == two.kinds for one, two in zip(reference, other, strict=True)])
    bootstrap = Bootstrap.of(np.concatenate([answers.patients for answers in reference]))
    return {"images": len(same), **flat(bootstrap.shares(same_kind=same))}
