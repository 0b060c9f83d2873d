"""Peer: LitServe with batching. The request is the queue; what is under way dies with the process.

Annotations are not postponed here: LitServe reads from them what a request is.
"""

import os

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from bench.peers.environment import LITSERVE_PORT
from bench.peers.model import XrayModel
from standalone.services import HOST


class Xrays(litserve.LitAPI):
    """One worker process with the model, which uses every core."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's own name for it
        """Load the model in the worker process."""
        self._model = XrayModel()

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        """One request's file to pixels; LitServe has made the form's fields of the request."""
        return self._model.read(request["file"].file.read())

    def batch(self, inputs: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """They are stacked by the model."""
        return inputs

    def predict(self, x: list[NDArray[np.uint8]]) -> list[dict[str, float]]:
        """Probability by class of several images."""
        return self._model.answers(x)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        """One answer per request already."""
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        """JSON as it is."""
        return output


if __name__ == "__main__":
    api = Xrays(max_batch_size=16, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host=HOST, port=int(os.environ[LITSERVE_PORT]), generate_client_file=False, log_level="warning")
