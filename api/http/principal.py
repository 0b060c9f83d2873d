"""Who is asking: the API key of a request, its tenant and its scopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import g

from shared.errors import Forbidden, Unauthenticated
from shared.keys import Scope

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
#: The attribute of a view that holds the scope which it requires.
SCOPE = "required_scope"


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


def requires(scope: Scope) -> Callable[[Callable[Arguments, Answer]], Callable[Arguments, Answer]]:
    """Let only keys with this scope call a route, and have /openapi.json say so."""

    def decorate(view: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
        @wraps(view)
        def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
            principal(scope)
            return view(*args, **kwargs)

        setattr(checked, SCOPE, scope)
        return checked

    return decorate


def scope_of(view: Callable[..., object]) -> Scope | None:
    """Return the scope that a route requires; None if it requires none."""
    scope: Scope | None = getattr(view, SCOPE, None)
    return scope
