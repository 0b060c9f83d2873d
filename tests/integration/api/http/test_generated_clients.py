"""Clients that strangers make of /openapi.json: they can be made, and read well; with the Python one a job is done."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from shared.db.engine import Database
from tests.support.api import PNG, json_of, new_key, work

CLIENTS = Path(__file__).parents[3] / "clients"


@pytest.fixture
def document(app: Flask, tmp_path: Path) -> Path:
    """/openapi.json as a file."""
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(json_of(app.test_client().get("/openapi.json"))), encoding="utf-8")
    return path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    # The generator calls ruff, which lies beside the Python that runs it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def generated(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package `thoraq_generated`, and what its generator said."""
    package = tmp_path / "thoraq_generated"
    options = ("--meta", "none", "--config", CLIENTS / "openapi-python-client.yaml", "--output-path", package)
    said = run("openapi-python-client", "generate", "--path", document, *options)
    (tmp_path / "said.txt").write_text(said, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


def of(module: str) -> Any:
    return importlib.import_module(f"thoraq_generated.{module}")


def test_the_python_client_submits_waits_and_reads(generated: Path, app: Flask, clean_database: Database) -> None:
    client = of("client").AuthenticatedClient(
        base_url="http://thoraq.example",
        token=new_key(clean_database),
        httpx_args={"transport": httpx.WSGITransport(app)},
        raise_on_unexpected_status=True,
    )
    models, files = of("models"), of("types")
    form = models.JobForm(
        files=[files.File(payload=BytesIO(PNG), file_name="x.png", mime_type="image/png")],
        classifier=models.Classifier.BINARY,
        modality=models.Modality.XRAY,
        external_id="A-1",
    )
    job = of("api.jobs.submit_job").sync(client=client, body=form, idempotency_key="k")
    assert (type(job).__name__, job.status.value, job.external_id) == ("JobEnvelope", "queued", "A-1")
    work(clean_database)
    done = of("api.jobs.get_job").sync(job.id, client=client, prefer="wait=30")
    assert (done.id, done.status.value, done.result.prediction) == (job.id, "succeeded", "not_covid19")
    (listed,) = of("api.jobs.list_jobs").sync(client=client).data
    assert listed.id == job.id
    problem = of("api.jobs.get_job").sync("job_0", client=client)
    assert (type(problem).__name__, problem.status, problem.title) == ("Problem", 404, "Not found")
    said = (generated.parent / "said.txt").read_text(encoding="utf-8")
    # Lines are no JSON document, which the generator leaves out; everything else it takes.
    assert said.count("WARNING") == said.count("Unsupported content type application/x-ndjson") <= 1


def test_the_names_of_the_python_client_read_well(generated: Path) -> None:
    calls = {path.stem for path in generated.glob("api/*/*.py")} - {"__init__"}
    assert {"submit_job", "get_job", "submit_batch", "get_batch_results", "create_webhook_endpoint"} <= calls
    models = {path.stem for path in generated.glob("models/*.py")}
    assert {"job_form", "job_request", "batch_form", "job_envelope", "batch_envelope", "problem"} <= models
    assert not [name for name in models | calls if "_v1_" in name or "body" in name]


def test_typescript_is_made_and_compiles(document: Path, tmp_path: Path) -> None:
    if not (CLIENTS / "node_modules").exists():
        run("npm", "ci", "--no-audit", "--no-fund", cwd=CLIENTS)
    types = tmp_path / "thoraq.d.ts"
    run(CLIENTS / "node_modules/.bin/openapi-typescript", document, "-o", types)
    text = types.read_text(encoding="utf-8")
    assert 'post: operations["submit_job"];' in text
    assert "JobForm: {" in text
    use = tmp_path / "use.ts"
    use.write_text(
        'import type { components, operations } from "./thoraq";\n'
        'type Job = operations["get_job"]["responses"][200]["content"]["application/json"];\n'
        'export const status = (job: Job): components["schemas"]["JobState"] => job.status;\n',
        encoding="utf-8",
    )
    run(CLIENTS / "node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "false", use)
