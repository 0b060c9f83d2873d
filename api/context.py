"""What every request needs, made once per process; and who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app, g

from shared.config import Settings
from shared.db import Database
from shared.errors import Forbidden, Unauthenticated
from shared.keys import Scope
from shared.storage import Storage

EXTENSION = "thoraq"


@dataclass(frozen=True)
class Services:
    """The process's ways to the outside."""

    settings: Settings
    database: Database
    storage: Storage


@dataclass(frozen=True)
class Principal:
    """Whose key it is and what it may do."""

    key_id: str
    tenant_id: str
    scopes: frozenset[str]

    def require(self, scope: Scope) -> None:
        """Forbidden unless the key has the scope; `admin` has all of its tenant."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise Forbidden(f"this needs a key with the scope {scope.value}")


def services() -> Services:
    """The current application's services."""
    return cast(Services, current_app.extensions[EXTENSION])


def principal(scope: Scope | None = None) -> Principal:
    """Who is asking; Unauthenticated without a key, Forbidden without the scope."""
    found: Principal | None = g.get("principal")
    if found is None:
        raise Unauthenticated("this needs an API key")
    if scope is not None:
        found.require(scope)
    return found
