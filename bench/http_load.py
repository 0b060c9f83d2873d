"""HTTP load from `wrk`, which is written in C: a client in Python would be the bottleneck itself."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from typing import NamedTuple

from bench.lab import Lab
from shared.errors import ThoraqError

MARK = b"0000000000000000"
# Every request carries other bytes: what was answered before must not answer it.
SCRIPT = """
local file = assert(io.open("{body}", "rb"))
local body = file:read("*a")
file:close()
local at = assert(body:find("{mark}", 1, true))
local before, behind = body:sub(1, at - 1), body:sub(at + {length})
local count = 0
local run = "{run}"
wrk.method = "POST"
wrk.headers["Content-Type"] = "multipart/form-data; boundary={boundary}"
request = function()
  count = count + 1
  return wrk.format(nil, nil, nil, before .. run .. string.format("%08d", count) .. behind)
end
"""


class LoadFailed(ThoraqError):
    """The load could not be made, or was not answered as it should be."""

    type, title = "load-failed", "Load failed"
    remedy = "Install wrk (Debian: apt-get install wrk), or read what the server said."


class Load(NamedTuple):
    """What came of it."""

    requests_per_second: float
    requests: int


@dataclass(frozen=True)
class Body:
    """A form with one JPEG, as `field`; a comment in the picture is another one in every request."""

    field: str
    jpeg: bytes
    fields: dict[str, str]

    def encoded(self, boundary: str) -> bytes:
        """As multipart/form-data (RFC 7578), with MARK where the requests differ."""
        parts = [_part(boundary, f'name="{name}"', value.encode()) for name, value in self.fields.items()]
        parts.append(_part(boundary, f'name="{self.field}"; filename="a.jpg"', self._marked()))
        return b"".join(parts) + f"--{boundary}--\r\n".encode()

    def _marked(self) -> bytes:
        # A comment segment (ITU-T T.81, B.2.4.5) of fixed length.
        return self.jpeg[:2] + b"\xff\xfe" + (len(MARK) + 2).to_bytes(2, "big") + MARK + self.jpeg[2:]


def get(url: str, lab: Lab, headers: dict[str, str] | None = None) -> Load:
    """GET from every connection for as long as the lab says; LoadFailed when an answer is not 2xx or 3xx."""
    return _wrk(url, lab, [f"--header={name}: {value}" for name, value in (headers or {}).items()])


def post(url: str, body: Body, lab: Lab, key: str = "") -> Load:
    """POST the form from every connection; LoadFailed when an answer is not 2xx."""
    boundary = "thoraqbench"
    content, script = lab.folder / "body.bin", lab.folder / "post.lua"
    content.write_bytes(body.encoded(boundary))
    script.write_text(
        SCRIPT.format(body=content, mark=MARK.decode(), length=len(MARK), run=secrets.token_hex(4), boundary=boundary),
        encoding="utf-8",
    )
    return _wrk(url, lab, ["--script", str(script), *([f"--header=Authorization: Bearer {key}"] if key else [])])


def read(output: str) -> Load:
    """Return what wrk printed; LoadFailed when requests failed."""
    failed = re.search(r"Non-2xx or 3xx responses: .*|Socket errors: .*", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    count = re.search(r"(\d+) requests in", output)
    if failed or not rate or not count or count[1] == "0":
        raise LoadFailed(failed[0] if failed else f"wrk answered no requests: {output.strip()[:200]}")
    return Load(float(rate[1]), int(count[1]))


def _wrk(url: str, lab: Lab, arguments: list[str]) -> Load:
    program = shutil.which("wrk")
    if program is None:
        raise LoadFailed("wrk is not installed")
    # One thread does for tens of thousands of requests a second, and leaves the cores to the server.
    size = ["--threads", "1", "--connections", str(lab.sizes.clients), "--duration", f"{lab.sizes.load_seconds}s"]
    command = [program, *size, "--timeout", "30s", *arguments, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadFailed((done.stderr or done.stdout).strip())
    return read(done.stdout)


def _part(boundary: str, disposition: str, content: bytes) -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n"
    kind = "Content-Type: image/jpeg\r\n" if "filename" in disposition else ""
    return (head + kind + "\r\n").encode() + content + b"\r\n"
