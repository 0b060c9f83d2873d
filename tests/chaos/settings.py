"""The settings of a chaos run."""

from __future__ import annotations

from dataclasses import dataclass

from shared.config import Settings


@dataclass(frozen=True)
class Pace:
    """How quickly the system notices a fault, and so how long a fault must last to be one."""

    settings: dict[str, str]
    lease_seconds: float
    #: Classify workers.
    workers: int = 2
    #: Seconds that one needs, from its start, to be of use.
    getting_up_seconds: float = 8.0

    @property
    def classifiers(self) -> list[str]:
        """The names of the classify workers."""
        return ["classify", *(f"classify-{n}" for n in range(2, self.workers + 1))]


#: Patient enough for every receiver fault of a run: a delivery that is given up is one that was lost.
PATIENT = {"THORAQ_WEBHOOK_RETRY_SECONDS": "1,1,2,2" + ",4" * 40, "THORAQ_WEBHOOK_TIMEOUT_SECONDS": "3"}
#: As it is shipped.
SHIPPED = Pace(PATIENT, Settings.model_fields["lease_seconds"].default)
#: What takes a minute in production takes seconds here.
QUICK = Pace(
    PATIENT
    | {
        "THORAQ_LEASE_SECONDS": "6",
        "THORAQ_HEARTBEAT_SECONDS": "1",
        "THORAQ_POLL_SECONDS": "1",
        "THORAQ_SWEEP_SECONDS": "1",
        "THORAQ_RETRY_BASE_SECONDS": "0.5",
    },
    lease_seconds=6.0,
)


def stand_in(rate: float) -> dict[str, str]:
    """Settings for workers that do so many images a second, and whose answers are known."""
    return {"THORAQ_ENGINE": "stand-in", "THORAQ_STAND_IN_RATE": f"{rate:.1f}"}
