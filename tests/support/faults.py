"""What the tests of faults have in common: requests that are repeated or not, waiting for a state, counting rows."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count as numbers

import httpx
import sqlalchemy as sa

from tests.chaos.pictures import brightness, picture
from tests.chaos.system import System
from tests.support.waiting import EVENT_SECONDS, until

# What takes a minute in production takes seconds here; tests wait for states, never for a time.
QUICK = {
    "THORAQ_LEASE_SECONDS": "6",
    "THORAQ_HEARTBEAT_SECONDS": "1",
    "THORAQ_POLL_SECONDS": "1",
    "THORAQ_SWEEP_SECONDS": "1",
    "THORAQ_RETRY_BASE_SECONDS": "0.5",
    "THORAQ_WEBHOOK_RETRY_SECONDS": "1,1,2,2,5",
}
#: A delivery that its worker died of is sent again after four times the timeout.
FAULTY = QUICK | {
    "THORAQ_ENGINE": "stand-in",
    "THORAQ_STAND_IN_RATE": "20",
    "THORAQ_WEBHOOK_TIMEOUT_SECONDS": "3",
    "THORAQ_KEY_SECONDS": "60",
}

#: Every picture of a session is another one: the same bytes would be answered from the first result.
fresh: Iterator[int] = numbers(1)


def count(database: sa.Engine, query: str, **values: object) -> int:
    """A number out of the database, as it is now."""
    with database.connect() as connection:
        return int(connection.scalar(sa.text(query), values) or 0)


class Hospital:
    """Requests to a system, each tried once; `try_again` gives a request that is made until it is answered well."""

    def __init__(self, system: System, database: sa.Engine) -> None:
        self.system, self.database = system, database
        headers = {"Authorization": f"Bearer {system.key}"}
        self.http = httpx.Client(base_url=system.url, headers=headers, timeout=60, trust_env=False)
        #: The number of the picture of every job that was asked for, by its key.
        self.asked: dict[str, int] = {}
        self._batches: dict[str, list[int]] = {}

    def submit(self, key: str | None = None) -> httpx.Response:
        """A job about a picture of its own; the key is its Idempotency-Key and its external_id."""
        key = key or f"one-{next(fresh)}"
        number = self.asked.setdefault(key, next(fresh))
        return self.http.post(
            "/v1/jobs",
            data={"classifier": "binary", "modality": "xray", "external_id": key},
            files={"files": (f"{number}.png", picture(number))},
            headers={"Idempotency-Key": key},
        )

    def submit_batch(self, key: str, size: int) -> httpx.Response:
        """A batch in one form, of a picture each; the same key sends the same again."""
        pictures = self._batches.setdefault(key, [next(fresh) for _ in range(size)])
        files = [("files", (f"{number}.png", picture(number))) for number in pictures]
        fields = {"classifier": "binary", "modality": "xray", "external_id": key}
        return self.http.post("/v1/batches", data=fields, files=files, headers={"Idempotency-Key": key})

    def submit_archive(self, size: int) -> str:
        """A batch as a ZIP; its id."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for _ in range(size):
                number = next(fresh)
                file.writestr(f"{number}.png", picture(number))
        query = {"classifier": "binary", "modality": "xray"}
        answer = self.http.post(
            "/v1/batches", params=query, content=archive.getvalue(), headers={"Content-Type": "application/zip"},
            timeout=EVENT_SECONDS,
        )  # fmt: skip
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def ids(self, how_many: int) -> list[str]:
        """Of so many jobs, newly accepted."""
        answers = [self.submit() for _ in range(how_many)]
        assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
        return [str(answer.json()["id"]) for answer in answers]

    def of_batch(self, batch_id: str, size: int) -> list[str]:
        """The batch's jobs, which are so many."""
        with self.database.connect() as connection:
            ids = connection.scalars(sa.text("SELECT id FROM jobs WHERE batch_id = :id"), {"id": batch_id}).all()
        assert len(ids) == size
        return list(ids)

    def count(self, query: str, **values: object) -> int:
        return count(self.database, query, **values)

    def running(self, ids: Sequence[str]) -> int:
        """How many of the jobs are running now."""
        return self.count("SELECT count(*) FROM jobs WHERE id = ANY (:ids) AND state = 'running'", ids=list(ids))

    def all_ended(self, ids: Sequence[str]) -> bool:
        left = "SELECT count(*) FROM jobs WHERE id = ANY (:ids) AND finished_at IS NULL"
        return self.count(left, ids=list(ids)) == 0

    def assert_each_answered_once(self, ids: Sequence[str], seconds: float = EVENT_SECONDS) -> None:
        """Every job succeeds, with one result, which is the right one."""
        until(lambda: self.all_ended(ids), seconds)
        rows = self._ends(ids)
        assert len(rows) == len(set(ids))
        assert {(row.state, row.results) for row in rows} == {("succeeded", 1)}
        for row in rows:
            if row.external_id in self.asked:
                assert abs(row.covid19 - brightness(self.asked[row.external_id])) < 0.01

    def _ends(self, ids: Iterable[str]) -> Sequence[sa.Row[tuple[str, str, float, int]]]:
        query = sa.text("""
            SELECT j.external_id, j.state, CAST(r.probabilities ->> 'covid19' AS float) AS covid19,
                (SELECT count(*) FROM results WHERE job_id = j.id) AS results
            FROM jobs j LEFT JOIN results r ON r.job_id = j.id WHERE j.id = ANY (:ids)
        """)
        with self.database.connect() as connection:
            return connection.execute(query, {"ids": list(ids)}).all()

    def try_again(self, request: Callable[[], httpx.Response], seconds: float = EVENT_SECONDS) -> httpx.Response:
        """The first 202 that the request gets."""
        deadline = time.monotonic() + seconds
        while True:
            assert time.monotonic() < deadline, "nobody accepts it"
            try:
                answer = request()
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                return answer
            time.sleep(0.2)
