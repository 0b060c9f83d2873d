"""Receives a batch: a request begins it with the first items that are in, or goes on where another one broke off."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from api.batches.grouping import GROUPS, write_groups
from api.batches.items import BatchContext, ReceivedItem
from api.batches.schemas import BatchForm
from api.http import audit, idempotency
from api.http.principal import Principal
from api.http.services import Services
from api.uploads.receive import count_bytes, discard, remove
from shared import batches, metrics
from shared.batches import Accepted, Rejected
from shared.db.tables import Batch, Grouping, Priority
from shared.doorbell import CLASSIFY, DELIVER, ring
from shared.errors import (
    ArchiveLimits,
    ArchiveRefused,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InvalidRequest,
    ThoraqError,
    UnsafeArchive,
    problem_of,
)
from shared.ids import new_id
from shared.jobs import states

Write = Callable[[Session, BatchContext, Sequence[ReceivedItem]], list[Accepted | Rejected]]


class BatchReceiver:
    """Used by one thread at a time. `write` says what the items become.

    Without an Idempotency-Key nobody can go on with what breaks off, so what is in then is all of the batch.
    """

    def __init__(
        self, service: Services, who: Principal, form: BatchForm, write: Write, key: str | None, fingerprint: str
    ) -> None:
        self.context = BatchContext(new_id("bat"), who.tenant_id, form)
        self.begun = False
        #: items that an earlier request has brought in
        self.known_until = 0
        self._service, self._who, self._write = service, who, write
        self._key, self._fingerprint = key, fingerprint
        self._receiver = new_id("rcv")
        self._next_item = 0
        self._known: dict[int, str] = {}
        #: files that were left out, by the item that comes next, until they are noted
        self._ignored: deque[tuple[int, str]] = deque()

    @property
    def batch_id(self) -> str:
        """The batch; it need not exist before `begun`."""
        return self.context.batch_id

    def take(self, first_item: int) -> bool:
        """Look for what an earlier request with the same key has left; False if that brought all of it in.

        InvalidRequest for a first item that leaves a gap; ArchiveRefused as the earlier request was.
        """
        with self._service.database.transaction() as session:
            found = self._key and idempotency.find(session, self._who, self._key, self._fingerprint)
            batch = batches.take_over(session, found, self._receiver) if found else None
            if batch is not None:
                self._go_on(session, batch, first_item)
            if first_item > self._next_item and (batch is None or batch.received_at is None):
                message = f"the next item of this batch is {self._next_item}"
                raise InvalidRequest(message, errors=[{"field": "first_item", "message": message}])
        return batch is None or batch.received_at is None

    def _go_on(self, session: Session, batch: Batch, first_item: int) -> None:
        if batch.problem is not None:
            raise _refused(batch)
        self.context = replace(self.context, batch_id=batch.id, expires_at=batch.expires_at)
        self.begun, self._next_item = True, batch.next_item
        self.known_until = batch.next_item
        if first_item < batch.next_item:
            self._known = batches.sent_before(session, batch.id, first_item)

    def check_known(self, item: int, sha256: str | None) -> None:
        """IdempotencyKeyReused when an item that is in was another file."""
        if self._known.get(item, sha256) != sha256:
            raise IdempotencyKeyReused(f"item {item} is not the file that came with this Idempotency-Key before")

    def ignore(self, item: int, name: str) -> None:
        """Note that a file was left out, before the item of this number; for the thread that reads the archive."""
        if item >= self.known_until:  # an earlier request has noted those before
            self._ignored.append((item, name))

    def _ignored_before(self, item: int | None) -> list[str]:
        """Return the names of files that were left out before an item, or of all, each once."""
        names = []
        while self._ignored and (item is None or self._ignored[0][0] < item):
            names.append(self._ignored.popleft()[1])
        return names

    def add(self, received: Sequence[ReceivedItem]) -> None:
        """Write items that follow one another; when that fails for good, their files are removed."""
        self._find_room(received)
        try:
            with self._service.database.transaction() as session:
                if not self.begun:
                    self._begin(session)
                items = self._write(session, self.context, received)
                batches.add_items(session, self.batch_id, self.context.tenant_id, items)
                done = received[-1].item + 1
                batches.advance(session, self.batch_id, self._receiver, items, done, ignored=self._ignored_before(done))
        except ThoraqError as error:
            # As where one study is sent: not when nobody knows whether it was committed.
            if error.permanent:
                self.discard(received)
            raise
        self.begun, self._next_item = True, received[-1].item + 1
        count_bytes(one.taken for one in received if one.taken is not None)
        refused = {item.item for item in items if isinstance(item, Rejected)}
        self.discard([one for one in received if one.item in refused])
        self._announce(items)

    def _find_room(self, received: Sequence[ReceivedItem]) -> None:
        """Check for room. Items are sent again when there is some: their files are not kept for that."""
        try:
            self._service.admission.check_capacity()
            self._service.admission.admit(
                self._who.tenant_id, len(received), stat=self.context.form.priority is Priority.STAT
            )
        except ThoraqError:
            self.discard(received)
            raise

    def _begin(self, session: Session) -> None:
        if self._remember(session):
            raise IdempotencyInProgress("a request with this Idempotency-Key is coming in")
        self._insert(session)

    def _remember(self, session: Session) -> str | None:
        if self._key is None:
            return None
        return idempotency.remember(session, self._who, self._key, self._fingerprint, self.batch_id)

    def _insert(self, session: Session) -> None:
        form = self.context.form
        expires_at = batches.begin(
            session,
            batch_id=self.batch_id,
            tenant_id=self.context.tenant_id,
            receiver=self._receiver,
            external_id=form.external_id,
            options=form.model_dump(mode="json", include={"classifier", "modality", "priority", "group_by", "force"}),
            expires_in=form.expires_in,
        )
        audit.record(session, self._who, "batch.submit", self.batch_id)
        self.context = replace(self.context, expires_at=expires_at)

    def add_whole(self, received: Sequence[ReceivedItem]) -> str | None:
        """Write a batch that is here as a whole; the earlier batch's id if this request came before.

        InvalidRequest when nothing of it can be classified. The caller removes the files of a request that fails.
        """
        self._find_room(received)
        with self._service.database.transaction() as session:
            first = self._remember(session)
            if first is not None:
                return first
            self._insert(session)
            items = self._write(session, self.context, received)
            groups, unused = write_groups(session, self.context, self._service.settings.max_files)
            batches.add_items(session, self.batch_id, self.context.tenant_id, [*items, *groups])
            _refuse_if_none([*items, *groups])
            self._close(session, [*items, *groups], len(received))
        refused = {item.item for item in items if isinstance(item, Rejected)}
        self.discard([one for one in received if one.item in refused])
        discard(self._service, unused)
        self._announce([*items, *groups])
        return None

    def _close(self, session: Session, items: Sequence[Accepted | Rejected] = (), next_item: int | None = None) -> None:
        batches.advance(session, self.batch_id, self._receiver, items, next_item, ignored=self._ignored_before(None))
        states.close_batch(session, self.batch_id)
        batches.let_go(session, self.batch_id, self._receiver)

    def _announce(self, items: Sequence[Accepted | Rejected]) -> None:
        accepted = [item.job for item in items if isinstance(item, Accepted)]
        for (classifier, priority), count in Counter((job.classifier, job.priority) for job in accepted).items():
            metrics.JOBS_SUBMITTED.labels(classifier, priority).inc(count)
        if accepted:
            ring(self._service.settings, CLASSIFY)

    def discard(self, received: Sequence[ReceivedItem]) -> None:
        """Remove the files of items that became nothing."""
        discard(self._service, [one.taken for one in received if one.taken is not None])

    def progress(self) -> None:
        """Bytes came in, though no item is complete. Conflict when another request receives the batch now."""
        if self.begun:
            with self._service.database.transaction() as session:
                batches.advance(session, self.batch_id, self._receiver)

    def finish(self) -> None:
        """All of it is in. InvalidRequest when that is nothing."""
        if not self.begun:
            left_out = f": all {len(self._ignored)} files in it are left out" if self._ignored else ""
            raise InvalidRequest(f"the body holds no item{left_out}")
        if self.context.form.group_by is not Grouping.FILE:
            while self._add_groups():
                pass
        with self._service.database.transaction() as session:
            self._close(session)

    def _add_groups(self) -> bool:
        with self._service.database.transaction() as session:
            items, unused = write_groups(session, self.context, self._service.settings.max_files, GROUPS)
            batches.add_items(session, self.batch_id, self.context.tenant_id, items)
            batches.advance(session, self.batch_id, self._receiver, items)
        discard(self._service, unused)
        self._announce(items)
        return bool(items)

    def break_off(self, error: ThoraqError) -> None:
        """End a request that failed: what is in stays in, and the error says where to go on.

        Unless it is a refusal of the whole archive: then nothing goes on.
        """
        if not self.begun:
            return
        if isinstance(error, ArchiveRefused):
            self._refuse(error)
            return
        error.extensions |= {"batch_id": self.batch_id, "next_item": self._next_item}
        with self._service.database.transaction() as session:
            if self._key is None:
                states.close_batch(session, self.batch_id)
            batches.let_go(session, self.batch_id, self._receiver)

    def _refuse(self, error: ArchiveRefused) -> None:
        error.extensions["batch_id"] = self.batch_id
        problem = problem_of(error) | {"member": error.extensions.get("member")}
        with self._service.database.transaction() as session:
            keys = batches.refuse(session, self.context.tenant_id, self.batch_id, problem)
            audit.record(session, self._who, "batch.refuse", self.batch_id)
        remove(self._service, keys)
        ring(self._service.settings, DELIVER)


def _refused(batch: Batch) -> ArchiveRefused:
    problem = batch.problem or {}
    kind = next(kind for kind in (UnsafeArchive, ArchiveLimits) if kind.type == problem["type"])
    member = {"member": problem["member"]} if problem.get("member") else {}
    return kind(problem["detail"], batch_id=batch.id, **member)


def _refuse_if_none(items: Sequence[Accepted | Rejected]) -> None:
    rejected = [{"file": item.item, "problem": item.problem} for item in items if isinstance(item, Rejected)]
    if len(rejected) == len(items):
        raise InvalidRequest("no file of the batch can be classified", rejected=rejected)
