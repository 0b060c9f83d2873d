"""Settings: what is accepted, what is refused, and that every one of them is documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.config import PREFIX, Settings, is_secret, parse
from shared.errors import ConfigError

ROOT = Path(__file__).parents[3]
DATABASE_URL = "postgresql+psycopg://thoraq:hunter2@db/thoraq"
REQUIRED = {
    "THORAQ_DATABASE_URL": DATABASE_URL,
    "THORAQ_REDIS_URL": "redis://redis:6379/0",
    "THORAQ_SECRET_KEY": "k" * 32,
}
# .env.example's lines for compose itself.
COMPOSE_VARIABLES = {
    "API_BIND",
    "COMPOSE_PROFILES",
    "TLS_BIND",
    "HTTP_BIND",
    "EDGE_NETWORK",
    "EDGE_RANGE",
    "EDGE_PROXY",
}


def example_lines() -> list[str]:
    return (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()


def example_variables() -> dict[str, str]:
    """Every variable of .env.example, those that are commented out too."""
    lines = [line.removeprefix("#") for line in example_lines()]
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith(" "))


def test_required_settings_suffice() -> None:
    settings = parse(REQUIRED)
    assert settings.database_url.get_secret_value() == DATABASE_URL
    assert settings.storage == "folder"


def test_other_programs_variables_are_none_of_ours() -> None:
    assert parse({**REQUIRED, "PATH": "/bin", "XTHORAQ_A": "1"}) == parse(REQUIRED)


def test_values_are_typed() -> None:
    settings = parse(
        {
            **REQUIRED,
            "THORAQ_BATCH_SIZE": "8",
            "THORAQ_SESSION_SECURE": "false",
            "THORAQ_WEBHOOK_RETRY_SECONDS": "1, 2.5,",
            "THORAQ_WEBHOOK_ALLOWED_NETWORKS": "10.0.0.0/8,fd00::/8",
        }
    )
    assert (settings.batch_size, settings.session_secure) == (8, False)
    assert settings.webhook_retry_seconds == (1.0, 2.5)
    assert [str(network) for network in settings.webhook_allowed_networks] == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize("variable", sorted(REQUIRED))
def test_missing_setting_is_named(variable: str) -> None:
    given = {name: value for name, value in REQUIRED.items() if name != variable}
    with pytest.raises(ConfigError, match=variable):
        parse(given)


@pytest.mark.parametrize("variable", ["THORAQ_BATCHSIZE", "THORAQ_", "THORAQ_BATCH_SIZE_FILE", "THORAQ__FILE"])
def test_unknown_variable_is_refused(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is not a setting"):
        parse({**REQUIRED, variable: "8"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("THORAQ_BATCH_SIZE", "many"),
        ("THORAQ_BATCH_SIZE", "0"),
        ("THORAQ_STORAGE", "floppy"),
        ("THORAQ_LOG_LEVEL", "info"),
        ("THORAQ_METRICS_PORT", "70000"),
        ("THORAQ_WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/8,office"),
        ("THORAQ_SESSION_SECURE", "perhaps"),
    ],
)
def test_bad_value_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: "):
        parse({**REQUIRED, variable: value})


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_database_s_url_needs_no_driver(scheme: str) -> None:
    for variable in ("THORAQ_DATABASE_URL", "THORAQ_API_DATABASE_URL"):
        settings = parse({**REQUIRED, variable: DATABASE_URL.replace("postgresql+psycopg", scheme)})
        assert getattr(settings, variable.removeprefix(PREFIX).lower()).get_secret_value() == DATABASE_URL


def test_a_certificate_of_redis_is_checked_unless_it_says_otherwise() -> None:
    for url, expected in (
        ("rediss://:x@h:6380/0", "rediss://:x@h:6380/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca.pem", "rediss://h/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
    ):
        assert parse({**REQUIRED, "THORAQ_REDIS_URL": url}).redis_url.get_secret_value() == expected


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("THORAQ_REDIS_URL", "sentinel://hunter2@s1:26379;s2:26379/0", "write redis://"),
        ("THORAQ_REDIS_URL", "redis+cluster://h", "write redis://"),
        ("THORAQ_REDIS_URL", "unix:///run/redis.sock", "write redis://"),
        ("THORAQ_REDIS_URL", "redis:6379", "write redis://"),
        ("THORAQ_REDIS_URL", "", "write redis://"),
        ("THORAQ_DATABASE_URL", "mysql://hunter2@h/d", "write postgresql://"),
        ("THORAQ_DATABASE_URL", "postgresql+psycopg2://hunter2@h/d", "write postgresql://"),
        ("THORAQ_DATABASE_URL", "host=h dbname=d password=hunter2", "write postgresql://"),
        ("THORAQ_API_DATABASE_URL", "postgresql+asyncpg://hunter2@h/d", "write postgresql://"),
        ("THORAQ_DATABASE_URL", "", "write postgresql://"),
        ("THORAQ_DATABASE_URL", "postgresql://u:hunter2@h:99999/d", "the port must be between"),
        ("THORAQ_DATABASE_URL", "postgresql://u:hunter2@h:port/d", "the port must be a number"),
        ("THORAQ_DATABASE_URL", "postgresql://u:hunter2@h/d?sslmod=require", "PostgreSQL knows no such parameter"),
        ("THORAQ_REDIS_URL", "redis://:hunter2@h:99999", "the port must be a number between 1 and 65535"),
        ("THORAQ_REDIS_URL", "redis://:hunter2#1@h:6379/0", "the port must be a number .* in the password, %40"),
        ("THORAQ_REDIS_URL", "redis://:hunter2@h/main", "what follows the address is the number of a database"),
        ("THORAQ_REDIS_URL", "redis://:hunter2@h1,h2/0", "one address"),
    ],
)
def test_an_url_that_is_not_supported_says_what_to_write(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: {said}") as caught:
        parse({**REQUIRED, variable: value})
    assert "hunter2" not in str(caught.value)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"THORAQ_MAX_FILES: .*; THORAQ_BATCH_SIZE: "):
        parse({**REQUIRED, "THORAQ_BATCH_SIZE": "0", "THORAQ_MAX_FILES": "none"})


def test_messages_never_show_a_secret() -> None:
    with pytest.raises(ConfigError, match="THORAQ_SECRET_KEY") as caught:
        parse({**REQUIRED, "THORAQ_SECRET_KEY": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(parse(REQUIRED))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"THORAQ_STORAGE": "minio"}, "THORAQ_MINIO_ENDPOINT"),
        ({"THORAQ_LEASE_SECONDS": "10", "THORAQ_HEARTBEAT_SECONDS": "5"}, "THORAQ_LEASE_SECONDS"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(values: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse({**REQUIRED, **values})


def test_secret_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "database_url"
    secret.write_text(f"{DATABASE_URL}\n", encoding="utf-8")
    given = {name: value for name, value in REQUIRED.items() if name != "THORAQ_DATABASE_URL"}
    assert parse({**given, "THORAQ_DATABASE_URL_FILE": str(secret)}) == parse(REQUIRED)


def test_secret_as_value_and_as_file_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "database_url"
    secret.write_text(DATABASE_URL, encoding="utf-8")
    with pytest.raises(ConfigError, match="THORAQ_DATABASE_URL is given twice"):
        parse({**REQUIRED, "THORAQ_DATABASE_URL_FILE": str(secret)})


def test_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="THORAQ_MINIO_SECRET_KEY_FILE: cannot read the file: No such file"):
        parse({**REQUIRED, "THORAQ_MINIO_SECRET_KEY_FILE": str(tmp_path / "nothing")})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(REQUIRED).batch_size = 1  # type: ignore[misc]


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_in_the_example_with_its_description(field: str) -> None:
    lines = example_lines()
    variable = f"#{PREFIX}{field.upper()}="
    found = [number for number, line in enumerate(lines) if line.startswith(variable)]
    assert len(found) == 1, f".env.example needs one line {variable}..."
    assert lines[found[0] - 1] == f"# {Settings.model_fields[field].description}"


def test_the_example_holds_the_defaults_and_nothing_else() -> None:
    variables = example_variables()
    ours = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
    assert variables.keys() - ours.keys() == COMPOSE_VARIABLES
    assert all(ours[name] == "" for name in REQUIRED)
    assert parse({**ours, **REQUIRED}) == parse(REQUIRED)


def test_the_example_sets_no_secret() -> None:
    variables = example_variables()
    assert all(variables[f"{PREFIX}{field.upper()}"] == "" for field in Settings.model_fields if is_secret(field))
