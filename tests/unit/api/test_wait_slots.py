"""Slots for requests that wait: a tenant has so many, all tenants together have so many, and none is lost."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from api.http.limits.wait_slots import WaitSlots


def test_one_tenant_leaves_slots_to_others() -> None:
    slots = WaitSlots(total=3, per_tenant=2)
    with ExitStack() as held:
        assert [held.enter_context(slots.slot("north")) for _ in range(3)] == [True, True, False]
        assert [held.enter_context(slots.slot("south")) for _ in range(2)] == [True, False]
    with slots.slot("south") as granted:
        assert granted


def wait_and_fail(slots: WaitSlots) -> None:
    with slots.slot("north"):
        raise RuntimeError


def test_a_slot_is_given_back_by_a_request_that_fails() -> None:
    slots = WaitSlots(total=1, per_tenant=1)
    with pytest.raises(RuntimeError):
        wait_and_fail(slots)
    with slots.slot("north") as granted:
        assert granted
