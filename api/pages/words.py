"""Numbers, labels and states in words, as the templates print them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from markupsafe import Markup, escape

from shared.db.tables import Classifier, JobState, Modality, ResultOutcome
from shared.jobs.batch_schemas import BatchStatus
from shared.jobs.schemas import JobEnvelope, Rejection

#: Classes of the classifiers, and labels of the data that a card speaks of.
CLASSES = {
    "covid19": "COVID-19",
    "not_covid19": "Not COVID-19",
    "non_covid19": "Not COVID-19",
    "normal": "Normal",
    "pneumonia": "Pneumonia",
}
#: Classes that say that nothing was found. Any other, of a bundle that is new here too, is a finding.
WITHOUT_FINDING = frozenset({"not_covid19", "non_covid19", "normal"})
MODALITIES = {Modality.XRAY: "Chest X-ray", Modality.CT: "Chest CT"}
CLASSIFIERS = {Classifier.BINARY: "binary", Classifier.ENSEMBLE: "ensemble"}
TERMINAL_WORDS = {
    JobState.FAILED: "The study could not be classified",
    JobState.CANCELLED: "This job was cancelled",
    JobState.QUARANTINED: "This job was set aside: workers died of it",
}
REJECTIONS = {
    Rejection.NOT_A_CHEST_IMAGE: "Neither a chest X-ray nor a chest CT slice",
    Rejection.ENSEMBLE_NEEDS_XRAY: "A CT slice, and the ensemble classifies X-rays only",
    Rejection.OTHER_MODALITY: "Of another modality than most of the study's images",
}
STATUSES = {
    JobState.QUEUED: "Queued",
    JobState.RUNNING: "Running",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
    JobState.QUARANTINED: "Quarantined",
}
BATCH_STATUSES = {
    BatchStatus.RECEIVING: "Arriving",
    BatchStatus.RUNNING: "Running",
    BatchStatus.COMPLETED: "Completed",
    BatchStatus.COMPLETED_WITH_ERRORS: "Completed with errors",
    BatchStatus.CANCELLED: "Cancelled",
    BatchStatus.EXPIRED: "Expired",
}
#: Of heads that were made without the source of the image.
LEFT_OUT_SCORES = {
    "auc": "ROC AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ece": "Calibration error",
    "to_review": "Sent to review",
    "confident_and_wrong": "Wrong, and not sent to review",
}
SCORES = {"accuracy": "Accuracy", "macro_f1": "Macro F1", "auc": "ROC AUC", "ece": "Calibration error"}


def class_name(label: str) -> str:
    """covid19 -> COVID-19; a label that is new here loses its underscores."""
    return CLASSES.get(label) or label.replace("_", " ").capitalize()


def percent(probability: float) -> str:
    """0.9321 -> 93.2 %. Never 100 % and never 0 %: no classifier is certain."""
    if probability > 0.999:
        return "> 99.9\u00a0%"
    if probability < 0.001:
        return "< 0.1\u00a0%"
    return f"{probability * 100:.1f}\u00a0%"


def duration(seconds: float) -> str:
    """0.0123 -> 12 ms, 3.456 -> 3.46 s, 95 -> 1 min 35 s."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}\u00a0ms"
    if seconds < 60:
        return f"{seconds:.2f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min {rest}\u00a0s"


def moment(time: datetime) -> str:
    """Return a time in UTC, to the second; the page's script shows it in local time."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def short_id(identifier: str) -> str:
    """Return the end of an id: ids sort by time, so their beginnings are alike."""
    return identifier[-6:]


def score(value: float | None) -> str:
    """Three decimals, or a dash where there was nothing to measure."""
    return "\u2013" if value is None else f"{value:.3f}"


def file_size(size: int) -> str:
    """Bytes in kB or MB."""
    return f"{size / 1e6:.1f}\u00a0MB" if size >= 1e6 else f"{max(size / 1e3, 0.1):.1f}\u00a0kB"


def marked(text: str) -> str:
    """Our own sentences with `code` in them, as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def what(job: JobEnvelope) -> str:
    """Return what was asked, and of what, as far as it is known by now: 'Chest X-ray, ensemble'."""
    modality = job.result.modality if job.result else job.modality
    return f"{MODALITIES[modality]}, {CLASSIFIERS[job.classifier]}"


def is_finding(label: str) -> bool:
    """Whether a class says that something was found."""
    return label not in WITHOUT_FINDING


def status_word(job: JobEnvelope) -> str:
    """Where a job is; one that succeeded is 'Classified' only when it has an answer."""
    if job.result is None:
        return STATUSES.get(job.status, "Classified")
    return "Classified" if job.result.outcome is ResultOutcome.ANSWERED else "Not classified"


TESTS: dict[str, Callable[[str], bool]] = {"finding": is_finding}
FILTERS: dict[str, Callable[..., str]] = {
    "class_name": class_name,
    "percent": percent,
    "duration": duration,
    "moment": moment,
    "short_id": short_id,
    "score": score,
    "file_size": file_size,
    "marked": marked,
    "what": what,
    "modality_name": MODALITIES.__getitem__,
    "rejection": REJECTIONS.__getitem__,
    "status_word": status_word,
    "batch_status_word": BATCH_STATUSES.__getitem__,
}
