"""Who is asking: the API key of a request, its tenant and its scopes."""

from __future__ import annotations

from dataclasses import dataclass

from flask import g

from shared.errors import Forbidden, Unauthenticated
from shared.keys import Scope


@dataclass(frozen=True)
class Principal:
    """Whose key it is and what it may do."""

    key_id: str
    tenant_id: str
    scopes: frozenset[str]

    def has(self, scope: Scope) -> bool:
        """Whether the key may do this; `admin` may do everything of its tenant."""
        return scope in self.scopes or (Scope.ADMIN in self.scopes and scope is not Scope.MODELS_MANAGE)

    def require(self, scope: Scope) -> None:
        """Forbidden unless the key has the scope."""
        if not self.has(scope):
            raise Forbidden(f"this needs a key with the scope {scope.value}")


def principal(scope: Scope | None = None) -> Principal:
    """Who is asking; Unauthenticated without a key, Forbidden without the scope."""
    found: Principal | None = g.get("principal")
    if found is None:
        raise Unauthenticated("this needs an API key")
    if scope is not None:
        found.require(scope)
    return found
