"""A short run of `make siege`: under all of it, nothing of another hospital fails, is lost or waits for a lease.

How long things take is what `make siege` measures, on a machine that does nothing else.
"""

from __future__ import annotations

from rich.console import Console

from standalone.stack import Stack
from tests.siege.run import Options, run


def test_strangers_and_one_hospital_do_not_stop_another(stand_in_stack: Stack) -> None:
    console = Console(highlight=False)
    verdict = run(
        stand_in_stack, Options(seed=1, quiet_seconds=2, attack_seconds=10, alone=False, crowd=400), console.out
    )
    console.print(verdict.table)
    assert verdict.broken == []
