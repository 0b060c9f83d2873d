"""A role for the API, and row-level security for it: whatever it asks, it sees the rows of one tenant.

Workers of the revision before may go on beside it; an API of the revision before may too, as it connects as the owner.
"""

from __future__ import annotations

from alembic import op

from migrations.row_level_security import allow, enable_row_level_security, make_role

revision = "0007"
down_revision = "0006"

ATTEMPTS = """
ALTER TABLE delivery_attempts
    ADD COLUMN tenant_id text CONSTRAINT fk_delivery_attempts_tenant_id REFERENCES tenants (id);
UPDATE delivery_attempts a SET tenant_id = d.tenant_id FROM deliveries d WHERE d.id = a.delivery_id;
ALTER TABLE delivery_attempts ALTER COLUMN tenant_id SET NOT NULL;
CREATE FUNCTION delivery_attempts_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT tenant_id INTO NEW.tenant_id FROM deliveries WHERE id = NEW.delivery_id;
    RETURN NEW;
END $$;
CREATE TRIGGER delivery_attempts_tenant BEFORE INSERT ON delivery_attempts FOR EACH ROW
    WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION delivery_attempts_tenant();
"""

# Views are read with their owner's rights: these are the exceptions, as narrow as what they are for.
VIEWS = """
CREATE VIEW queue AS
    SELECT tenant_id, rank, priority, state, not_before, queued_at, started_at, finished_at FROM jobs;
CREATE VIEW queue_tenants AS SELECT id FROM tenants;
CREATE VIEW pending_deliveries AS SELECT next_attempt_at FROM deliveries WHERE state = 'pending';
"""

# The third hole: a key's tenant is not known before its row is found.
KEYS = """
CREATE FUNCTION keys_in_force(wanted_prefix text, wanted_id text)
RETURNS TABLE (id text, tenant_id text, hash text, scopes text[], expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.tenant_id, k.hash, k.scopes, k.expires_at FROM public.api_keys k
    WHERE (k.prefix = wanted_prefix OR k.id = wanted_id) AND k.revoked_at IS NULL
        AND (k.expires_at IS NULL OR k.expires_at > now())
$$;
REVOKE ALL ON FUNCTION keys_in_force FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keys_in_force TO thoraq_api;
"""

# Nobody rewrites what was done, not even the owner.
APPEND_ONLY = """
CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever added to' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse();
"""

WRITTEN = (
    "studies", "images", "batches", "batch_files", "batch_rejections", "uploads", "jobs", "webhook_endpoints",
    "events", "deliveries", "idempotency_keys",
)  # fmt: skip
#: what workers write, and the API removes at the most
WRITTEN_BY_WORKERS = ("results", "artifacts", "delivery_attempts")


def upgrade() -> None:
    make_role()
    for statements in (ATTEMPTS, VIEWS, KEYS, APPEND_ONLY):
        op.execute(statements)
    op.create_index("ix_api_keys_prefix", "api_keys", ["prefix"])
    enable_row_level_security("tenants", "SELECT", column="id")
    enable_row_level_security("api_keys", "SELECT, INSERT, UPDATE")
    enable_row_level_security("audit_log", "SELECT, INSERT")
    for table in WRITTEN:
        enable_row_level_security(table)
    for table in WRITTEN_BY_WORKERS:
        enable_row_level_security(table, "SELECT, DELETE")
    for table in ("workers", "queue", "queue_tenants", "pending_deliveries"):
        allow(table, "SELECT")
    allow("model_bundles", "SELECT, UPDATE")
