"""The profile `tls`: the proxy keeps slow clients from the API, lets streams through, and is believed, alone."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests import documented
from tests.compose.deployment import Deployment
from tests.compose.engine import run
from tests.compose.images import ROOT
from tests.support.waiting import EVENT_SECONDS, until

pytestmark = pytest.mark.compose
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FORGED = "203.0.113.9"
PICTURE = ROOT / "samples" / "xray-normal.png"
#: More than the API has threads, twice 64.
SLOW_CLIENTS = 140
#: Bytes of a file that goes through the proxy to the store: nearly THORAQ_MAX_UPLOAD_BYTES.
BIG = 1_900_000_000
BLOCK = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def proxied(deployment: Deployment) -> Iterator[httpx.Client]:
    """A client that comes through the proxy and checks its certificate."""
    deployment.shell("make certificate HOST=localhost")
    deployment.compose("--profile", "tls", "up", "-d", "proxy")
    deployment.wait_healthy(services=["proxy"])
    trust = ssl.create_default_context(cafile=str(deployment.folder / "secrets" / "tls_certificate.pem"))
    header = {"Authorization": f"Bearer {deployment.key}"}
    url = f"https://localhost:{deployment.tls_port}"
    with httpx.Client(base_url=url, verify=trust, headers=header, timeout=120, trust_env=False) as client:
        yield client
    deployment.compose("--profile", "tls", "rm", "--stop", "--force", "proxy")


def requests_logged(deployment: Deployment, request_id: str) -> list[dict[str, Any]]:
    lines = deployment.log(deployment.container("api")).splitlines()
    found = [json.loads(line) for line in lines if request_id in line and line.startswith("{")]
    return [line for line in found if line.get("event") == "request"]


def address_of(deployment: Deployment, answer: httpx.Response) -> str:
    """The client's address as the API knew it."""
    (line,) = requests_logged(deployment, answer.headers["X-Request-Id"])
    return str(line["address"])


@pytest.mark.usefixtures("proxied")
def test_http_leads_to_https(deployment: Deployment) -> None:
    answer = httpx.get(f"http://localhost:{deployment.http_port}/docs?a=b", trust_env=False)
    assert (answer.status_code, answer.headers["Location"]) == (308, "https://localhost/docs?a=b")


def test_the_proxy_is_believed_and_no_client(deployment: Deployment, proxied: httpx.Client) -> None:
    forged = {"X-Forwarded-For": FORGED, "X-Forwarded-Proto": "https", "Authorization": f"Bearer {deployment.key}"}
    through = proxied.get("/v1/jobs", headers=forged)
    direct = httpx.get(f"{deployment.url}/v1/jobs", headers=forged, trust_env=False)
    assert through.status_code == direct.status_code == 200
    proxy = deployment.environment["EDGE_PROXY"]
    assert address_of(deployment, through) not in {FORGED, proxy}
    assert address_of(deployment, direct) not in {FORGED, proxy}
    # Addresses that the API gives out are those by which it was asked.
    wrong = proxied.get("/v1/jobs/none").json()["type"], httpx.get(f"{deployment.url}/v1/none").json()["type"]
    assert [kind.partition(":")[0] for kind in wrong] == ["https", "http"]


def test_a_wait_and_a_stream_of_events_come_through(proxied: httpx.Client, new_xrays: list[Path]) -> None:
    form = {"classifier": "binary", "modality": "xray"}
    files = {"files": ("x.png", new_xrays[0].read_bytes())}
    waited = proxied.post("/v1/jobs", data=form, files=files, headers={"Prefer": "wait=60"})
    assert (waited.status_code, waited.json()["status"]) == (200, "succeeded")
    many = [("files", (path.name, path.read_bytes())) for path in new_xrays[1:41]]
    batch = proxied.post("/v1/batches", data=form | {"classifier": "ensemble"}, files=many)
    assert batch.status_code == 202, batch.text
    with proxied.stream("GET", f"/v1/batches/{batch.json()['id']}/events") as events:
        seen = [line for line in events.iter_lines() if line.startswith("event: ")]
    # Each by itself: an answer that was collected first would be one progress, with everything in it.
    assert len(seen) > 1


def served_certificate(deployment: Deployment) -> str:
    return ssl.get_server_certificate(("127.0.0.1", deployment.tls_port), timeout=60)


@pytest.mark.usefixtures("proxied")
def test_a_new_certificate_is_taken_up_without_a_stop(deployment: Deployment, tmp_path: Path) -> None:
    """By docs/operate/containers.md's lines, word for word."""
    before = {
        name: (deployment.folder / "secrets" / name).read_text() for name in ("tls_certificate.pem", "tls_key.pem")
    }
    (tmp_path / ".env.example").touch()
    run(["make", "-s", "-f", ROOT / "Makefile", "certificate", "HOST=other"], deployment.environment, cwd=tmp_path)
    new = {name: tmp_path / "secrets" / name for name in before}
    take_up(deployment, new["tls_certificate.pem"], new["tls_key.pem"])
    until(lambda: served_certificate(deployment).strip() == new["tls_certificate.pem"].read_text().strip())
    for name, text in before.items():
        new[name].write_text(text)
    take_up(deployment, new["tls_certificate.pem"], new["tls_key.pem"])
    until(lambda: served_certificate(deployment).strip() == before["tls_certificate.pem"].strip())


def take_up(deployment: Deployment, certificate: Path, key: Path) -> None:
    page = ROOT / "docs" / "operate" / "containers.md"
    (block,) = (block for block in documented.blocks(page, "console") if "HUP proxy" in block)
    lines = re.sub(r"^\$ ", "", block, flags=re.MULTILINE)
    deployment.shell(lines, CERTIFICATE=str(certificate), KEY=str(key), COMPOSE_PROFILES="cpu,tls")


@pytest.mark.usefixtures("proxied")
def test_the_page_in_a_browser(deployment: Deployment, new_xrays: list[Path]) -> None:
    """Over https, as its session cookie wants it: sign in, send, see the answer."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        url = f"https://localhost:{deployment.tls_port}"
        page = chromium.new_context(base_url=url, ignore_https_errors=True).new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(1000 * EVENT_SECONDS)
        page.goto("/")
        page.get_by_label("API key").fill(deployment.key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Recent jobs").wait_for()
        page.wait_for_load_state()
        page.get_by_label("Choose files").set_input_files(new_xrays[0])
        page.get_by_role("radio", name="X-ray", exact=True).check()
        page.get_by_role("button", name="Classify").click()
        job = page.get_by_role("link", name="See this job").get_attribute("href")
        page.locator("#live tbody tr", has=page.locator(f'a[href="{job}"]')).get_by_text("Classified").wait_for()
        chromium.close()
    assert complaints == []


def test_slow_clients_hold_no_thread_of_the_api(deployment: Deployment, proxied: httpx.Client) -> None:
    body = PICTURE.read_bytes()
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {deployment.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        for _ in range(SLOW_CLIENTS):
            slow = stack.enter_context(connected(deployment))
            slow.sendall(head + body[:1000])
        assert proxied.get("/v1/jobs").status_code == 200
        in_use = deployment.in_container("api", "cat /proc/net/tcp | awk '$4 == \"01\" && $2 ~ /:1F90$/' | wc -l")
        assert int(in_use) < SLOW_CLIENTS // 4


def connected(deployment: Deployment) -> ssl.SSLSocket:
    """A connection to the proxy, for what no HTTP client sends."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", deployment.tls_port), timeout=EVENT_SECONDS)
    return context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.usefixtures("proxied")
def test_a_head_that_does_not_end_is_given_up(deployment: Deployment) -> None:
    with connected(deployment) as slow:
        slow.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        said = slow.recv(100)
    assert not said or b" 408 " in said


def test_two_gigabytes_reach_the_api(deployment: Deployment, proxied: httpx.Client) -> None:
    """Through a proxy with 256 MB: the API hears of them, and says that they are no image."""
    opening = (
        b'--b\r\nContent-Disposition: form-data; name="classifier"\r\n\r\nbinary\r\n'
        b'--b\r\nContent-Disposition: form-data; name="modality"\r\n\r\nxray\r\n'
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
    )
    closing = b"\r\n--b--\r\n"
    size = len(opening) + BIG + len(closing)
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(size)}
    answer = proxied.post("/v1/jobs", content=chain([opening], blocks(), [closing]), headers=headers)
    assert answer.json()["type"].endswith("#unsupported-image"), answer.text
    for service in ("proxy", "api"):
        assert not deployment.state(service)["OOMKilled"]


def blocks() -> Iterator[bytes]:
    """BIG bytes."""
    for start in range(0, BIG, len(BLOCK)):
        yield BLOCK[: BIG - start]


def test_what_is_too_large_and_an_api_that_is_away_are_problems(deployment: Deployment, proxied: httpx.Client) -> None:
    with connected(deployment) as large:
        large.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000000\r\n\r\n")
        said = large.recv(4000)
    assert b" 413 " in said
    assert b"application/problem+json" in said
    deployment.compose("stop", "api")
    try:
        away = proxied.get("/v1/jobs")
        assert (away.status_code, away.headers["Content-Type"]) == (503, "application/problem+json")
        assert away.json()["status"] == 503
        assert away.headers["Retry-After"] == "5"
    finally:
        deployment.compose("start", "api")
    deployment.wait_healthy()
    assert proxied.get("/v1/jobs").status_code == 200
