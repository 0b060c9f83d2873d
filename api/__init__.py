"""The HTTP edge: thin, typed, and without TensorFlow. `granian --interface wsgi --factory api:create_app`."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import structlog
from flask import Flask, Response, g, request
from flask_openapi3.models.info import Info
from flask_openapi3.models.security_scheme import SecurityScheme
from flask_openapi3.openapi import OpenAPI
from granian.utils.proxies import wrap_wsgi_with_proxy_headers
from pydantic import ValidationError

from api import bundles, health, pages
from api.batches import events as batch_events
from api.batches import results as batch_results
from api.batches import routes as batch_routes
from api.batches.schemas import ItemProblem
from api.http import problems
from api.http.auth import SAFE_METHODS, authenticate
from api.http.handover import raise_refusal
from api.http.headers import default_headers
from api.http.limits import rate_limits
from api.http.limits.backpressure import Admission
from api.http.limits.rate_limits import Limits
from api.http.limits.wait_slots import WaitSlots
from api.http.openapi.document import complete_document
from api.http.openapi.examples import with_examples
from api.http.requests import MAX_BODY_IN_MEMORY, MULTIPART, Request, Sessions, check_encoding
from api.http.services import EXTENSION, Services
from api.jobs import artifacts, group_commit
from api.jobs import routes as job_routes
from api.keys import audit_log
from api.keys import routes as key_routes
from api.studies import open_routes as open_study_routes
from api.studies import previews
from api.studies import routes as study_routes
from api.uploads import content as upload_content
from api.uploads import routes as upload_routes
from api.webhooks import routes as webhook_routes
from shared import metrics
from shared.config import Settings, settings
from shared.db.checks import check_for_api
from shared.db.engine import TenantDatabase
from shared.db.listen_notify import Listener
from shared.errors import ConfigError, NotFound, PayloadTooLarge, Unavailable, UnguardedDatabase
from shared.ids import new_id
from shared.log import set_up_logging
from shared.storage import open_storage
from shared.version import VERSION

log = structlog.get_logger(__name__)
BLUEPRINTS = (
    job_routes,
    artifacts,
    study_routes,
    open_study_routes,
    upload_routes,
    upload_content,
    batch_routes,
    batch_results,
    batch_events,
    bundles,
    webhook_routes,
    key_routes,
    audit_log,
    health,
)
SECURITY: dict[str, SecurityScheme | dict[str, Any]] = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: tq_..."}
}


def create_app(given: Settings | None = None) -> Flask:
    """Make the WSGI application; settings come from the environment unless given."""
    try:
        config = given or settings()
    except ConfigError as error:
        sys.exit(f"thoraq: {error.detail}")
    set_up_logging(config.log_level)
    database = TenantDatabase(config)
    _check_database_or_exit(config, database)
    app = OpenAPI(
        __name__,
        info=Info(
            title="Thoraq", version=VERSION, description="Chest X-ray and CT studies in, classified results out."
        ),
        security_schemes=SECURITY,
        doc_ui=False,
        validation_error_callback=_invalid,
        static_folder=None,
    )
    app.request_class, app.session_interface = Request, Sessions()
    storage = open_storage(config)
    service = Services(
        config,
        database,
        storage,
        Listener(config),
        Limits(config),
        Admission(config, database),
        WaitSlots(config.max_waits, config.max_waits_per_tenant),
        WaitSlots(config.max_event_streams, config.max_event_streams_per_tenant),
    )
    app.extensions[EXTENSION] = service
    app.extensions[group_commit.EXTENSION] = group_commit.Submissions(database)
    app.extensions[previews.EXTENSION] = previews.Previews(config, storage)
    _configure(app, config)
    for module in BLUEPRINTS:
        app.register_api(module.blueprint)
    app.register_blueprint(pages.blueprint)
    problems.install(app)
    _around_requests(app, service)
    if config.trusted_proxies:
        trusted = [str(network) for network in config.trusted_proxies]
        app.wsgi_app = wrap_wsgi_with_proxy_headers(app.wsgi_app, trusted)  # type: ignore[method-assign]
    document = with_examples(complete_document(app.api_doc, app, config.public_url or "/", ItemProblem))
    app.get("/openapi.json", doc_ui=False)(lambda: document)
    return app


def _check_database_or_exit(config: Settings, database: TenantDatabase) -> None:
    """Do not start over a database that cannot serve, or that would show one tenant the rows of another."""
    try:
        check_for_api(config)
        database.check_guards()
    except (ConfigError, UnguardedDatabase) as error:
        sys.exit(f"thoraq: {error.detail}")
    except Unavailable as error:
        # It may be back in a moment: /readyz looks again, and each new connection is looked at.
        log.warning("api.starts_without_database", error=error.type, detail=error.detail)


def _configure(app: Flask, config: Settings) -> None:
    app.config.update(
        SECRET_KEY=config.secret_key.get_secret_value(),
        MAX_CONTENT_LENGTH=config.max_upload_bytes,
        MAX_FORM_PARTS=max(config.max_files, config.max_batch_items) + 20,
        SESSION_COOKIE_NAME="thoraq",
        SESSION_COOKIE_HTTPONLY=True,
        # Strict would sign people out who follow a link from their mail; api/http/csrf.py guards what Lax leaves open.
        SESSION_COOKIE_SAMESITE="Lax",
        # A sign-in lasts as long as the setting says, however long a page stays open and asks for news.
        SESSION_REFRESH_EACH_REQUEST=False,
        SESSION_COOKIE_SECURE=config.session_secure,
        PERMANENT_SESSION_LIFETIME=timedelta(hours=config.session_hours),
    )


def _invalid(error: ValidationError) -> Response:
    raise problems.invalid(error)


def _check_length(config: Settings) -> None:
    """Raise PayloadTooLarge for a body that no route would take; each route asks for less as it reads."""
    most = max(config.max_upload_bytes, config.max_batch_bytes)
    if request.method in SAFE_METHODS:
        most = min(MAX_BODY_IN_MEMORY, most)  # read by nobody
    if (request.content_length or 0) > most:
        raise PayloadTooLarge(f"the body is announced as {request.content_length} bytes: at most {most}")


def _around_requests(app: Flask, service: Services) -> None:
    headers = default_headers(service.settings)
    log = structlog.get_logger("api")

    @app.before_request
    def begin() -> None:
        g.started, g.request_id = time.perf_counter(), new_id("req")
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)
        raise_refusal()
        if "\0" in request.path:
            raise NotFound("there is nothing at this path")  # PostgreSQL's text cannot hold it, so no id has it
        if request.path.startswith("/v1/"):
            authenticate()
            _check_length(service.settings)
            rate_limits.admit(service.limits, g.principal.key_id, g.principal.tenant_id)
        check_encoding(request)
        if request.mimetype != MULTIPART or "principal" not in g:
            request.max_content_length = min(MAX_BODY_IN_MEMORY, app.config["MAX_CONTENT_LENGTH"])

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.started
        # The rule, not the path: ids are no labels, and paths of strangers are without number, as are methods.
        route, method = (request.url_rule.rule, request.method) if request.url_rule else ("unknown", "unknown")
        metrics.REQUESTS.labels(method, route, response.status_code).observe(seconds)
        log.info(
            "request",
            method=method,
            route=route,
            status=response.status_code,
            ms=round(seconds * 1000, 1),
            address=request.remote_addr,
        )
        # Added, not set: nobody else tells these, and each that is set is compared with all that are there.
        response.headers.add("X-Request-Id", g.request_id)
        if "principal" in g:
            service.limits.add_headers(response, g.principal.key_id)
        there = {name.lower() for name, _ in response.headers}
        response.headers.extend([default for default in headers if default[0].lower() not in there])
        return response
