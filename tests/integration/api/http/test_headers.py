"""What browsers are told about every answer, and about the cookie of a session."""

from __future__ import annotations

import re

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from shared.db.engine import Database
from tests.support.api import Caller, MakeApp, new_key

LOOSE = re.compile(r"unsafe-|\*|https?:|data:")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/nowhere", "/openapi.json", "/healthz", "/", "/problems", "/nowhere"])
def test_every_answer_says_what_may_be_done_with_it(path: str, north: Caller) -> None:
    headers = north.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert not LOOSE.search(policy)
    assert headers["Cache-Control"] == "no-store"
    assert not [name for name, _ in headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("path", ["/", "/problems", "/docs"])
def test_pages_are_in_no_frame_and_tell_nobody_where_they_were(path: str, north: Caller) -> None:
    headers = north.client.get(path).headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "script-src 'self'" in headers["Content-Security-Policy"]


def sign_in(make_app: MakeApp, database: Database, *, secure: bool) -> TestResponse:
    return sign_in_at(make_app(session_secure=secure).test_client(), database, secure=secure)


def sign_in_at(client: FlaskClient, database: Database, *, secure: bool = False) -> TestResponse:
    url = f"{'https' if secure else 'http'}://localhost"
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/", base_url=url).text)
    assert token is not None
    return client.post("/sign-in", data={"csrf_token": token[1], "key": new_key(database)}, base_url=url)


def test_a_session_is_for_this_server_alone_and_no_script(make_app: MakeApp, clean_database: Database) -> None:
    response = sign_in(make_app, clean_database, secure=True)
    assert response.status_code == 303
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(response.headers["Set-Cookie"].split("; "))
    assert response.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_a_cookie_that_was_copied_ends_with_its_session(make_app: MakeApp, clean_database: Database) -> None:
    app = make_app(session_secure=False, key_seconds=0)
    client, thief, another = (app.test_client() for _ in range(3))
    for browser in (client, another):
        assert sign_in_at(browser, clean_database).status_code == 303
    cookie = client.get_cookie("thoraq")
    assert cookie is not None
    thief.set_cookie("thoraq", cookie.value)
    assert (thief.get("/v1/jobs").status_code, client.get("/v1/jobs").status_code) == (200, 200)
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/").text)
    assert token is not None
    assert client.post("/sign-out", data={"csrf_token": token[1]}).status_code == 303
    thief.set_cookie("thoraq", cookie.value)
    assert (thief.get("/v1/jobs").status_code, client.get("/v1/jobs").status_code) == (401, 401)
    assert another.get("/v1/jobs").status_code == 200


def test_without_tls_nobody_is_told_to_expect_it(make_app: MakeApp, clean_database: Database) -> None:
    response = sign_in(make_app, clean_database, secure=False)
    assert response.status_code == 303
    assert "Strict-Transport-Security" not in response.headers


@pytest.mark.parametrize(("peer", "scheme"), [("10.1.2.3", "https"), ("10.1.2.4", "http"), ("203.0.113.9", "http")])
def test_what_is_forwarded_is_believed_of_trusted_proxies_alone(make_app: MakeApp, peer: str, scheme: str) -> None:
    """Seen by the address that an answer gives out, which is the one by which it was asked."""
    client = make_app(trusted_proxies=("10.1.2.3/32",)).test_client()
    forwarded = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    answer = client.get("/v1/jobs", headers=forwarded, environ_overrides={"REMOTE_ADDR": peer})
    assert answer.json is not None
    assert answer.json["type"].startswith(f"{scheme}://")


def test_nobody_is_believed_unless_it_is_said(make_app: MakeApp) -> None:
    answer = make_app().test_client().get("/v1/jobs", headers={"X-Forwarded-For": "::1", "X-Forwarded-Proto": "https"})
    assert answer.json is not None
    assert answer.json["type"].startswith("http://")
