"""One tree for everything that can go wrong.

Each class says what a client is told about it (RFC 9457: type, title, status), what the client can do,
and whether trying again with the same input could help (`permanent`). Vendor errors become one of these
at the edge where the vendor is called. The HTTP edge turns them into problem+json; the worker turns
permanent ones into failed images or jobs and gives the others another attempt.

`detail` is shown to clients and written to logs: it never holds patient data, file names or file contents.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, ClassVar


def meaning_of(kind: type[ThoraqError]) -> str:
    """Return what a type of problem means, in one sentence: the first of its class's docstring."""
    return cleandoc(kind.__doc__ or kind.title).splitlines()[0]


class ThoraqError(Exception):
    """The service failed in a way that has no better name."""

    type: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    permanent: ClassVar[bool] = False
    remedy: ClassVar[str] = "Try again later; quote the request id if it persists."
    #: Seconds after which the same may succeed, where the edge asks the client to come back (Retry-After)
    retry_after: ClassVar[int | None] = None

    def __init__(self, detail: str = "", **extensions: object) -> None:
        # Not the title: clients show both.
        self.detail = detail or meaning_of(type(self))
        super().__init__(self.detail)
        self.extensions = extensions
        #: set where an error stands for one that was stored before
        self.problem: dict[str, Any] | None = None


class ConfigError(ThoraqError):
    """A setting is unknown, missing or out of range; the process refuses to start."""

    type, title, permanent = "config", "Bad configuration", True
    remedy = "Correct the environment variable that the message names."


class InvalidRequest(ThoraqError):
    """The request is understood, and its content is wrong."""

    type, title, status, permanent = "invalid-request", "Invalid request", 422, True
    remedy = "Correct the fields listed in `errors`."


class BadRequest(ThoraqError):
    """The request is not well-formed HTTP or JSON."""

    type, title, status, permanent = "bad-request", "Malformed request", 400, True
    remedy = "Send well-formed JSON or multipart, with the Content-Type that says so."


class SlowBody(ThoraqError):
    """The body did not come in time, or nothing of it came for too long."""

    type, title, status = "slow-body", "The body came too slowly", 408
    remedy = "Send it again, over a better line or in smaller pieces."


class Unauthenticated(ThoraqError):
    """No API key, or one that is unknown, expired or revoked."""

    type, title, status, permanent = "unauthenticated", "Authentication required", 401, True
    remedy = "Send `Authorization: Bearer tq_...` with a key that is in force."


class Forbidden(ThoraqError):
    """The key is good and lacks the scope."""

    type, title, status, permanent = "forbidden", "Scope missing", 403, True
    remedy = "Use a key with the scope that the detail names."


class ForeignRequest(Forbidden):
    """A request with the page's session, and without the page's token: another site may have made it."""

    type, title = "foreign-request", "Not sent by the page"
    remedy = "Load the page again, or send an API key instead of the session."


class AddressRefused(Forbidden):
    """An upload's address that is not the one that was given out, or whose time is over."""

    type, title = "address-refused", "Upload address not in force"
    remedy = "Use the address as it was given, headers included; ask for another one when its time is over."


class NotFound(ThoraqError):
    """No such thing for this tenant; another tenant's thing looks exactly the same."""

    type, title, status, permanent = "not-found", "Not found", 404, True
    remedy = "Check the id, and that the key belongs to the tenant that owns it."


class MethodNotAllowed(ThoraqError):
    """The path exists, and does not take this method."""

    type, title, status, permanent = "method-not-allowed", "Method not allowed", 405, True
    remedy = "See the `Allow` header and /openapi.json."


class Conflict(ThoraqError):
    """The thing's state does not allow this act."""

    type, title, status, permanent = "conflict", "Conflict with the current state", 409, True
    remedy = "Read the resource again; it has moved on."


class TooManyEndpoints(Conflict):
    """The tenant has as many webhook endpoints as the operator allows one tenant."""

    type, title = "too-many-endpoints", "Too many webhook endpoints"
    remedy = "Delete an endpoint that is not needed any more; ask the operator about THORAQ_MAX_WEBHOOK_ENDPOINTS."


class StudyOpen(Conflict):
    """A study that images are still added to cannot be classified yet."""

    type, title = "study-open", "Study still open"
    remedy = "Complete the study, or name its classifiers when it is opened: its jobs are made when it closes."


class UploadMismatch(ThoraqError):
    """The bytes are not the ones that were announced."""

    type, title, status, permanent = "upload-mismatch", "Not the announced bytes", 422, True
    remedy = "Send the file again to the same address, whole, with the size and SHA-256 that were announced."


class IdempotencyKeyReused(ThoraqError):
    """An Idempotency-Key came back with a different request."""

    type, title, status, permanent = "idempotency-key-reused", "Idempotency-Key reused", 422, True
    remedy = "Use a fresh key for a different request."


class IdempotencyInProgress(ThoraqError):
    """A request with the same Idempotency-Key is still coming in."""

    type, title, status = "idempotency-in-progress", "The same request is under way", 409
    remedy = "Wait for the other request's answer; when its connection broke, try again after half a minute."


class UnreadableArchive(ThoraqError):
    """A ZIP of which nothing more can be read: it is none, or so damaged that no further member is found."""

    type, title, status, permanent = "unreadable-archive", "Archive cannot be read", 422, True
    remedy = "Make the archive again; `member` names the one that could not be read, where there is one."


class ArchiveRefused(ThoraqError):
    """A ZIP that is refused as a whole, wherever in it the reason lies."""

    type, title, status, permanent = "archive-refused", "Archive refused", 422, True
    remedy = "What had not run of it is withdrawn, and what was answered is kept. Send another archive, as a new batch."


class UnsafeArchive(ArchiveRefused):
    """A ZIP as it is made to do harm: a path out of it, a link, members that are not those of its directory."""

    type, title = "unsafe-archive", "Archive not safe"


class ArchiveLimits(ArchiveRefused):
    """A ZIP with more members or bytes than a batch may have, or that unpacks to many times its size."""

    type, title = "archive-limits", "Archive beyond the limits"


class PayloadTooLarge(ThoraqError):
    """The body exceeds the limit in bytes."""

    type, title, status, permanent = "payload-too-large", "Payload too large", 413, True
    remedy = "Send fewer or smaller files in one request."


class RateLimited(ThoraqError):
    """The key, or the tenant, has asked for more in a short time than it may; nothing was accepted."""

    type, title, status = "rate-limited", "Too many requests or bytes", 429
    remedy = "Wait for `Retry-After` seconds, then send it again; ask the operator about THORAQ_LIMIT_*."


class UnsupportedMediaType(ThoraqError):
    """The request's Content-Type is not one that the route takes."""

    type, title, status, permanent = "unsupported-media-type", "Unsupported media type", 415, True
    remedy = "See /openapi.json for the content types that the route takes."


class CompressedBody(UnsupportedMediaType):
    """The request's body is compressed (Content-Encoding), and bodies are read as they are."""

    type, title = "compressed-body", "Body is compressed"
    remedy = "Send the body as it is, without Content-Encoding; a ZIP of images may be compressed in itself."


class EncodedPart(UnsupportedMediaType):
    """A part of the form is encoded (Content-Transfer-Encoding, which RFC 7578, 4.7 deprecates), and read as it is."""

    type, title = "encoded-part", "Part of the form is encoded"
    remedy = "Send the part's bytes as they are, without Content-Transfer-Encoding, or as `binary`."


class Unavailable(ThoraqError):
    """A part that the promise depends on is not there; nothing was accepted."""

    type, title, status, retry_after = "unavailable", "Temporarily unavailable", 503, 5
    remedy = "Try again after `Retry-After` seconds, with the same Idempotency-Key."


class UnguardedDatabase(Unavailable):
    """The database does not keep tenants apart, or has no timeouts, as the system is deployed; nothing was accepted."""

    type, title = "unguarded-database", "Database without its guards"
    remedy = (
        "The operator runs `thoraq-admin migrate`; docs/operate/poolers.md says what to do if a pooler stands before "
        "PostgreSQL."
    )


class StorageError(Unavailable):
    """The object store failed or is unreachable."""

    type, title = "storage-unavailable", "Object store unavailable"


class DiskFull(Unavailable):
    """The disks of the API are nearly full; it says so while the system still works."""

    type, title, retry_after = "disk-full", "No room for more", 60
    remedy = "Try again later, with the same Idempotency-Key. Operators: see THORAQ_DISK_RESERVE_BYTES."


class Overloaded(Unavailable):
    """More jobs wait, of all tenants together, than the operator allows."""

    type, title, retry_after = "overloaded", "Too many jobs wait", 15


class Busy(Unavailable):
    """More requests of the same tenant, or address, wait than are kept waiting."""

    type, title, retry_after = "busy", "Too many requests at once", 1


class QueueFull(ThoraqError):
    """More jobs of this tenant wait than the operator allows one tenant."""

    type, title, status, retry_after = "queue-full", "Too many of your jobs wait", 429, 15
    remedy = "Go on after `Retry-After` seconds, with the same Idempotency-Key: `thoraq batch` does so by itself."


class TooManyUploads(ThoraqError):
    """More direct uploads of this tenant are announced and not complete than the operator allows one tenant."""

    type, title, status, retry_after = "too-many-uploads", "Too many uploads are pending", 429, 60
    remedy = (
        "Send and complete what was announced, or delete it, and go on after `Retry-After` seconds; ask the operator "
        "about THORAQ_MAX_PENDING_UPLOADS."
    )


class ObjectNotFound(ThoraqError):
    """The object store has no object under this key."""

    type, title, permanent = "object-not-found", "Stored object missing", True
    remedy = "Operators: run `thoraq-admin doctor`."


class ObjectCorrupt(ThoraqError):
    """A stored object's bytes no longer have the SHA-256 that was recorded on arrival."""

    type, title, permanent = "object-corrupt", "Stored object corrupt", True
    remedy = "Submit the study again. Operators: run `thoraq-admin doctor`."


class ImageError(ThoraqError):
    """An image cannot be classified; it fails alone, its study's other images go on."""

    type, title, status, permanent = "image", "Image cannot be read", 422, True
    remedy = "Send the image again as PNG, JPEG, TIFF or DICOM."


class EmptyFile(ImageError):
    """The file holds no bytes."""

    type, title = "empty-file", "Empty file"
    remedy = "Check the export, and send the file again."


class UnsupportedImage(ImageError):
    """The file's first bytes are of no format that is read, whatever the file is called."""

    type, title = "unsupported-image", "Not a PNG, JPEG, TIFF or DICOM file"


class UnsupportedEncoding(ImageError):
    """The format is read, and this compression or layout of pixels in it is not; the detail names it."""

    type, title = "unsupported-encoding", "Compression or pixel layout that is not read"
    remedy = (
        "Export the image again in a form that docs/reference/formats.md lists: 8 or 16 bits of grey, LZW or no "
        "compression."
    )


class CorruptImage(ImageError):
    """The format is known, and the bytes are truncated or damaged."""

    type, title = "corrupt-image", "Image truncated or damaged"
    remedy = "Export the image again and send the whole file."


class UnreadableMember(ImageError):
    """A file of a ZIP that is encrypted, or packed with a method that is not read; the others go on."""

    type, title = "unreadable-member", "Member cannot be unpacked"
    remedy = "Pack the file with Deflate, or store it, and without a password."


class NestedArchive(ImageError):
    """A file of a ZIP is itself an archive (ZIP, JAR, gzip, 7z, RAR, tar and others), which is not unpacked."""

    type, title = "nested-archive", "Archive inside an archive"
    remedy = "If there are images in it, unpack it, and send them as files of their own."


class ImageTooLarge(ImageError):
    """More pixels or frames than the limit; decided from the header, before decoding."""

    type, title = "image-too-large", "Image too large"
    remedy = "Reduce the image, or ask the operator about THORAQ_MAX_PIXELS and THORAQ_MAX_FRAMES."


class TooCostly(ImageError):
    """Decoding takes more time than the file's size allows: far more than any device or program writes by chance."""

    type, title = "too-costly", "Too costly to decode"
    remedy = "Export the image again, plainly; operators may raise THORAQ_DECODE_CPU_SECONDS."


class NoPixelData(ImageError):
    """A DICOM object without pixels: a report, a presentation state, a DICOMDIR."""

    type, title = "no-pixel-data", "DICOM object without pixel data"
    remedy = "Send the image objects of the series."


class UnsupportedDicom(ImageError):
    """A DICOM transfer syntax, photometric interpretation or modality that we do not read."""

    type, title = "unsupported-dicom", "Unsupported DICOM object"
    remedy = "Send CR, DX or CT images in a transfer syntax that docs/reference/formats.md lists."


class InvalidDicom(ImageError):
    """A DICOM object lacks an element, or has one whose value makes no sense; `detail` names it by keyword and tag."""

    type, title = "invalid-dicom", "DICOM element missing or wrong"
    remedy = "Correct the element that the detail names where the object is made, and export it again."


class UndecodableImage(ImageError):
    """Decoders crash or hang over it, each in a process of its own."""

    type, title = "undecodable-image", "The decoder crashed or hung over it"
    remedy = "Export the image again, in another transfer syntax or format."


class ProgramInPreamble(ImageError):
    """A DICOM file whose preamble makes it a program too: whoever is led to start it, starts that (PS3.10, 7.5)."""

    type, title = "program-in-preamble", "DICOM file that is also a program"
    remedy = "Find out where the file comes from: no device writes a program before its pictures."


class ModelError(ThoraqError):
    """A model bundle is missing, incomplete, or not the bytes that its card pins."""

    type, title, permanent = "model", "Model bundle unusable", True
    remedy = "Operators: restore the bundle directory, or point THORAQ_MODEL_DIR at a good one."


class EngineError(ThoraqError):
    """The engine failed for a reason that another attempt may not meet."""

    type, title = "engine", "Inference failed"


class EngineOutOfMemory(EngineError):
    """The inference device has no memory for so many images, or for one."""

    type, title = "engine-out-of-memory", "Inference ran out of memory"


class WorkerCrashed(ThoraqError):
    """Workers died while they ran the job, although it ran alone."""

    type, title, permanent = "worker-crashed", "Workers died of it", True
    remedy = "Check the files, and send them once more at the most; tell the operator."


class Expired(ThoraqError):
    """The job's time was over before a worker came to it."""

    type, title, permanent = "expired", "Not run before its time was over", True
    remedy = "Submit it again, with a later `expires_at` or none."


class QueueError(ThoraqError):
    """The broker is unreachable. Never shown to clients: the doorbell is best effort."""

    type, title = "queue", "Broker unavailable"


class WebhookDestinationRefused(ThoraqError):
    """The endpoint's URL, or an address that its host resolves to, is not allowed."""

    type, title, status, permanent = "webhook-destination-refused", "Webhook destination refused", 422, True
    remedy = (
        "Use https and a public address; for a receiver inside the network ask for THORAQ_WEBHOOK_ALLOWED_NETWORKS."
    )


def problem_of(error: ThoraqError) -> dict[str, Any]:
    """Return an error as it is stored with a job or an image, and shown to clients."""
    if error.problem is not None:
        return error.problem
    return {"type": error.type, "title": error.title, "detail": error.detail}
