"""What a tenant's admins ask: its keys, its audit log, and which model bundle answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from client.calls import Calls, given, route
from client.models import ApiKey, AuditEntry, Model


class AdminCalls(Calls):
    """Calls for keys with the scope `admin`; `activate_model` needs `models:manage`."""

    def create_key(
        self,
        name: str,
        scopes: Sequence[str],
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> ApiKey:
        """Make a key; `expires_at` has a time zone. The answer alone holds the key itself: keep it."""
        expires = None if expires_at is None else expires_at.isoformat()
        body = given(name=name, scopes=list(scopes), expires_at=expires)
        return ApiKey.model_validate(self._post("/v1/keys", idempotency_key, json=body).json())

    def keys(self) -> Iterator[ApiKey]:
        """Return the tenant's keys, newest first, those that have ended too."""
        return map(ApiKey.model_validate, self._pages("/v1/keys", {}))

    def revoke_key(self, key_id: str) -> ApiKey:
        """End a key now."""
        return ApiKey.model_validate(self._post(route("keys", key_id, "revoke")).json())

    def audit(
        self, *, actor: str | None = None, action: str | None = None, subject: str | None = None
    ) -> Iterator[AuditEntry]:
        """Return what was done to the tenant's things, newest first."""
        query = given(actor=actor, action=action, subject=subject)
        return map(AuditEntry.model_validate, self._pages("/v1/audit", query))

    def activate_model(self, sha256: str) -> Model:
        """Have the workers serve a bundle that is in the object store."""
        return Model.model_validate(self._post(route("models", sha256, "activate")).json())
