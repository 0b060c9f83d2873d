"""Every engine of this machine by itself; see bench/engines.py."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.lab import Lab
from bench.report import Found


def run(lab: Lab) -> Found:
    """In a process of its own: an engine's threads and memory do not get in the bench's way."""
    out = lab.folder / "engines.json"
    command = [sys.executable, "-m", "bench.engines", "--bundle", str(lab.bundle), "--out", str(out)]
    subprocess.run([*command, "--rounds", str(lab.sizes.rounds)], check=True)
    return Found(figures=json.loads(out.read_text(encoding="utf-8"))["engines"])
