"""Peer: a synchronous Flask app around `predict`. The request is the queue; what is under way dies with the process."""

from __future__ import annotations

import threading

from flask import Flask, Response, jsonify, request

from bench.peers.model import XrayModel


def create_app() -> Flask:
    """Make the app with the model loaded; one process, several threads."""
    app = Flask(__name__)
    model = XrayModel()
    # One image at a time in the engine, which uses every core for it; requests decode beside it.
    engine = threading.Lock()

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.post("/classify")
    def classify() -> Response:
        pixels = model.read(request.files["file"].read())
        with engine:
            return jsonify(model.answer(pixels))

    return app
