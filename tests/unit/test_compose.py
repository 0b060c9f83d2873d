"""docker-compose.yml, docker/Dockerfile and `make secrets`, held to the code that they start."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config import PREFIX, Settings, is_secret, parse
from shared.doorbell import QUEUES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENGINES = {"postgres", "redis", "minio"}
CLASSIFIERS = {"worker-gpu", "worker-cpu"}
OURS = {"migrate", "api", "deliver", "beat"} | CLASSIFIERS
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
CONTAINERS = (ROOT / "docs" / "operate" / "containers.md").read_text(encoding="utf-8")
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


def make_secrets(folder: Path) -> dict[str, str]:
    """`make secrets` in a folder of its own: path below the folder -> content."""
    shutil.copy(ROOT / ".env.example", folder)
    subprocess.run(["make", "--silent", "-f", ROOT / "Makefile", "secrets"], cwd=folder, check=True)
    files = [folder / ".env", *(folder / "secrets").iterdir()]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in files}


@pytest.fixture(scope="module")
def secrets_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where `make secrets` ran."""
    folder = tmp_path_factory.mktemp("deployment")
    make_secrets(folder)
    return folder


def environment(service: str, secrets_root: Path) -> dict[str, str]:
    """A service's environment, with /run/secrets/NAME replaced by the file that compose mounts there."""
    return {
        name: _mounted(str(value), service, secrets_root) for name, value in SERVICES[service]["environment"].items()
    }


def _mounted(value: str, service: str, secrets_root: Path) -> str:
    if not value.startswith("/run/secrets/"):
        return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)  # a variable of compose that is not set
    name = value.removeprefix("/run/secrets/")
    assert name in SERVICES[service]["secrets"]
    return str(secrets_root / COMPOSE["secrets"][name]["file"])


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def option(service: str, name: str) -> str:
    command = SERVICES[service]["command"]
    return str(command[command.index(name) + 1])


def test_the_services_are_these() -> None:
    assert set(SERVICES) == ENGINES | OURS | {"proxy"}


@pytest.mark.parametrize("service", sorted(OURS))
def test_environment_is_accepted_by_the_settings(service: str, secrets_root: Path) -> None:
    settings = parse(environment(service, secrets_root))
    assert settings.storage == "minio"
    assert settings.minio_endpoint.split(":")[0] in SERVICES
    assert re.match(r"redis://:[0-9a-f]{64}@redis:6379/0$", settings.redis_url.get_secret_value())


@pytest.mark.parametrize("service", sorted(OURS))
def test_secret_settings_come_from_files(service: str) -> None:
    names = {name.removeprefix(PREFIX).lower() for name in SERVICES[service]["environment"] if name.startswith(PREFIX)}
    assert {name for name in names if name in DEFAULTS and is_secret(name)} == set()
    assert {f"{name}_file" for name in DEFAULTS if is_secret(name)} <= names


@pytest.mark.parametrize("service", sorted(OURS))
def test_command_is_one_that_its_program_understands(service: str, secrets_root: Path) -> None:
    """--help comes last: the program reads every argument before it, loads the named app, prints, and ends."""
    program, *arguments = SERVICES[service]["command"]
    executable = Path(sys.executable).with_name(program)
    run = subprocess.run(
        [executable, *arguments, "--help"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment(service, secrets_root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "usage" in run.stdout.lower()


def test_the_api_counts_into_a_folder_that_is_empty_at_start() -> None:
    folder = SERVICES["api"]["environment"]["PROMETHEUS_MULTIPROC_DIR"]
    assert folder in {mount.partition(":")[0] for mount in SERVICES["api"]["tmpfs"]}


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_tmpfs_that_the_image_has_no_folder_for_names_its_owner(service: str) -> None:
    """From a container's second start on such a folder is root's, with mode 0755, unless an owner is named."""
    for mount in SERVICES[service].get("tmpfs", []):
        folder, _, options = mount.partition(":")
        if folder not in {"/tmp", "/data", "/run/postgresql"}:  # noqa: S108 - the images have these
            assert {"uid=10001", "gid=10001"} <= set(options.split(","))


def test_beat_is_asked_for_its_heartbeat() -> None:
    assert SERVICES["beat"]["healthcheck"]["test"] == ["CMD", "python", "-m", "worker.beat_check"]
    assert SERVICES["beat"]["environment"]["THORAQ_METRICS_PORT"] != "0"


def test_every_queue_has_its_workers() -> None:
    consumed = {name: option(name, "--queues").split(",") for name in CLASSIFIERS | {"deliver"}}
    assert consumed["worker-gpu"] == consumed["worker-cpu"]
    assert sorted(consumed["worker-gpu"] + consumed["deliver"]) == sorted(QUEUES)


def test_either_profile_runs_one_classifier() -> None:
    profiles = {name: SERVICES[name].get("profiles") for name in SERVICES}
    assert {name: found for name, found in profiles.items() if found} == {
        "worker-gpu": ["gpu"],
        "worker-cpu": ["cpu"],
        "proxy": ["tls"],
    }
    assert "COMPOSE_PROFILES=gpu" in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()


def test_only_the_gpu_worker_reserves_a_gpu() -> None:
    reserving = {name: service["deploy"] for name, service in SERVICES.items() if "deploy" in service}
    assert list(reserving) == ["worker-gpu"]
    [device] = reserving["worker-gpu"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_only_the_proxy_is_published_and_the_api_to_this_host() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "api": [f"${{API_BIND:-127.0.0.1:8080}}:{option('api', '--port')}"],
        "proxy": ["${TLS_BIND:-0.0.0.0:443}:8443", "${HTTP_BIND:-0.0.0.0:80}:8080"],
    }


def test_only_the_api_and_deliver_reach_outside_and_the_proxy_is_reached() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert COMPOSE["networks"]["edge"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "outside" in service["networks"]} == {"api", "deliver"}
    assert {name for name, service in SERVICES.items() if "front" in service["networks"]} == {"proxy"}
    assert {name for name, service in SERVICES.items() if "inside" not in service["networks"]} == {"proxy"}


def test_the_api_believes_the_proxy_and_nobody_else() -> None:
    """They meet in one network only: elsewhere the proxy would come from an address that nobody knows."""
    address = SERVICES["proxy"]["networks"]["edge"]["ipv4_address"]
    assert set(SERVICES["proxy"]["networks"]) & set(SERVICES["api"]["networks"]) == {"edge"}
    assert SERVICES["api"]["environment"]["THORAQ_TRUSTED_PROXIES"] == address
    assert {name for name, service in SERVICES.items() if "edge" in service["networks"]} == {"api", "proxy"}


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_container_is_hardened(service: str) -> None:
    made = SERVICES[service]
    assert made["read_only"] is True
    assert made["cap_drop"] == ["ALL"]
    assert made["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in made
    assert service == "postgres" or "cap_add" not in made


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_long_running_service_restarts_and_has_a_health_check(service: str) -> None:
    one_shot = service == "migrate"
    assert SERVICES[service]["restart"] == ("no" if one_shot else "unless-stopped")
    assert ("healthcheck" in SERVICES[service]) is not one_shot


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {"worker-gpu"}))
def test_memory_is_limited_and_reserved(service: str) -> None:
    """As measured (docs/operate/containers.md); worker-gpu's needs were not measured yet: a limit would be a guess."""
    limit, reserved = (megabytes(SERVICES[service][name]) for name in ("mem_limit", "mem_reservation"))
    assert 0 < reserved < limit
    row = next(line for line in CONTAINERS.splitlines() if line.startswith(f"| {service} |"))
    measured, shown_reserved, shown_limit = (cell.strip() for cell in row.strip("|").split("|")[1:4])
    assert (int(shown_reserved), int(shown_limit)) == (reserved, limit)
    if service == "migrate":  # it has ended before anybody could read its control group
        assert measured == "not measured"
    else:
        assert int(measured) * 1.2 < limit


def megabytes(size: str) -> int:
    """As docker reads it."""
    return int(size[:-1]) * {"m": 1, "g": 1024}[size[-1]]


@pytest.mark.parametrize("service", sorted(OURS))
def test_waits_for_what_it_needs(service: str) -> None:
    conditions = {name: wait["condition"] for name, wait in SERVICES[service]["depends_on"].items()}
    expected = dict.fromkeys(sorted(ENGINES), "service_healthy")
    if service != "migrate":
        expected["migrate"] = "service_completed_successfully"
    assert conditions == expected


@pytest.mark.parametrize("service", sorted(CLASSIFIERS | {"deliver"}))
def test_health_check_asks_the_port_that_the_worker_opens(service: str) -> None:
    port = SERVICES[service]["environment"]["THORAQ_METRICS_PORT"]
    assert f"http://127.0.0.1:{port}/metrics" in SERVICES[service]["healthcheck"]["test"][-1]


def test_containers_are_given_the_time_to_finish() -> None:
    assert seconds(SERVICES["api"]["stop_grace_period"]) > DEFAULTS["max_wait_seconds"]
    for worker in CLASSIFIERS:
        assert seconds(SERVICES[worker]["stop_grace_period"]) > DEFAULTS["drain_seconds"]


def test_redis_keeps_no_file_and_asks_for_a_password(secrets_root: Path) -> None:
    assert option("redis", "--appendonly") == "no"
    assert option("redis", "--save") == ""
    assert option("redis", "--maxmemory-policy") == "noeviction"
    assert option("redis", "redis-server") == "/run/secrets/redis_conf"
    configuration = (secrets_root / COMPOSE["secrets"]["redis_conf"]["file"]).read_text(encoding="utf-8")
    password = parse(environment("api", secrets_root)).redis_url.get_secret_value()
    assert configuration.split() == ["requirepass", password.split("@")[0].removeprefix("redis://:")]


def test_the_database_password_is_the_one_that_postgres_was_given(secrets_root: Path) -> None:
    given = environment("postgres", secrets_root)
    password = Path(given["POSTGRES_PASSWORD_FILE"]).read_text(encoding="utf-8")
    url = parse(environment("migrate", secrets_root)).database_url.get_secret_value()
    expected = f"postgresql+psycopg://{given['POSTGRES_USER']}:{password}@postgres:5432/{given['POSTGRES_DB']}"
    assert url == expected


def test_the_api_has_a_login_of_its_own_and_nothing_of_the_owner(secrets_root: Path) -> None:
    made = parse(environment("migrate", secrets_root)).api_database_url.get_secret_value()
    assert re.match(r"postgresql\+psycopg://thoraq_api_login:[0-9a-f]{64}@postgres:5432/thoraq$", made)
    assert parse(environment("api", secrets_root)).database_url.get_secret_value() == made
    assert "database_url" not in SERVICES["api"]["secrets"]


def test_minio_and_thoraq_share_their_keys(secrets_root: Path) -> None:
    minio, ours = environment("minio", secrets_root), environment("api", secrets_root)
    assert minio["MINIO_ROOT_USER_FILE"] == ours["THORAQ_MINIO_ACCESS_KEY_FILE"]
    assert minio["MINIO_ROOT_PASSWORD_FILE"] == ours["THORAQ_MINIO_SECRET_KEY_FILE"]


def test_secrets_are_made_once_and_differ_everywhere(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, second = (make_secrets(folder) for folder in folders)
    assert make_secrets(folders[0]) == first
    kept = {made["file"] for name, made in COMPOSE["secrets"].items() if not name.startswith("tls_")}
    assert first.keys() == second.keys() == {".env"} | kept
    assert not {text for name, text in first.items() if name != ".env"} & set(second.values())
    # The containers' users read the mounted files; the folder keeps the host's other users out.
    assert (folders[0] / "secrets").stat().st_mode & 0o777 == 0o700
    assert all((folders[0] / name).stat().st_mode & 0o444 == 0o444 for name in first)


def test_every_secret_is_declared_and_used() -> None:
    used = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])


def test_no_password_stands_in_the_file() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY|ROOT_USER|URL", name):
                assert name.endswith("_FILE")
                assert str(value).startswith("/run/secrets/")
    assert not re.search(r"://[^\s/]*:[^\s/]*@", TEXT)


def test_named_volumes_are_declared() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(("/", "./"))}
    assert named == set(COMPOSE["volumes"])


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_image_is_pinned_to_a_version(service: str) -> None:
    name, tag = SERVICES[service]["image"].rsplit(":", 1)
    assert re.search(r"\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\d", tag)
    assert (service in OURS) is name.startswith("thoraq-")
    if service in OURS:
        assert tag == importlib.metadata.version("thoraq")


@pytest.mark.parametrize("service", sorted(OURS))
def test_image_is_built_from_files_that_exist(service: str) -> None:
    build = SERVICES[service]["build"]
    lock = {"worker-gpu": "gpu", "worker-cpu": "cpu"}.get(service, "api")
    assert build == {"context": ".", "dockerfile": "docker/Dockerfile", "args": {"LOCK": lock}}
    assert (ROOT / "locks" / f"{lock}.lock").is_file()


def test_the_api_image_has_no_tensorflow_and_the_workers_have() -> None:
    locks = {name: (ROOT / "locks" / f"{name}.lock").read_text(encoding="utf-8") for name in ("api", "cpu", "gpu")}
    assert not re.search(r"^(tensorflow|keras)", locks["api"], re.MULTILINE)
    assert re.search(r"^tensorflow-cpu==", locks["cpu"], re.MULTILINE)
    assert re.search(r"^nvidia-cudnn", locks["gpu"], re.MULTILINE)


def test_the_dockerfile_copies_what_exists_and_what_the_context_lets_through() -> None:
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE))
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied - {"locks/${LOCK}.lock"} == allowed - {"locks/*.lock"}
    assert all((ROOT / name).is_dir() for name in allowed - {"locks/*.lock"})


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users[-1] == "10001:10001"
