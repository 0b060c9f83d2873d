"""Row-level security for the role of the API: PostgreSQL keeps tenants apart by itself.

Only the API connects in that role. Workers, the sweeper and thoraq-admin serve all tenants, and connect as the owner of
the tables, for whom no policy holds (hence ENABLE and not FORCE).
"""

from __future__ import annotations

from alembic import op

from shared.db.engine import API_ROLE, TENANT_SETTING

ALL = "SELECT, INSERT, UPDATE, DELETE"
# Roles belong to the server, not to a database: two migrators of two databases may meet here.
MAKE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{API_ROLE}') THEN
        CREATE ROLE {API_ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$ BEGIN
    IF NOT pg_has_role(current_user, '{API_ROLE}', 'MEMBER') THEN
        GRANT {API_ROLE} TO CURRENT_USER;
    END IF;
END $$;
"""


def make_role() -> None:
    """Make the role of the API, of which the owner is a member, so that the API may enter with the owner's address."""
    op.execute(MAKE_ROLE)
    op.execute(f"GRANT USAGE ON SCHEMA public TO {API_ROLE}")


def enable_row_level_security(table: str, rights: str = ALL, column: str = "tenant_id") -> None:
    """Let the API do this much with the table, and with the rows of the tenant alone that it speaks for.

    Every table with a `tenant_id` needs it: tests/integration/shared/test_row_level_security.py finds one without. The
    comparison is one that an index serves: the setting is the same for the whole statement, and equality of text leaks
    nothing.
    """
    mine = f"{column} = current_setting('{TENANT_SETTING}', true)"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} TO {API_ROLE} USING ({mine}) WITH CHECK ({mine})")
    allow(table, rights)


def allow(table: str, rights: str) -> None:
    """Let the API do this much with a table or view that belongs to no tenant."""
    op.execute(f"GRANT {rights} ON {table} TO {API_ROLE}")
