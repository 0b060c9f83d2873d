"""Peer: a bare Flask route, the most that a Flask application on this server could do."""

from __future__ import annotations

from flask import Flask, Response, jsonify


def create_app() -> Flask:
    """Make the app: no database, no authentication, one constant JSON object."""
    app = Flask(__name__)

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    return app
