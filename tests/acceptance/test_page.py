"""The page in a real browser: Debian's Chromium, headless, against the whole system.

`PAGE_PICTURES=docs` keeps the screenshots in that folder instead of the test's own; docs/result.png is the README's.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright
from pydicom import dcmread
from pydicom.uid import generate_uid

from shared import keys
from shared.db.engine import Database
from shared.db.tables import Classifier, Job, Modality, Priority, Study, Tenant
from shared.ids import new_id
from shared.jobs import states
from shared.jobs.new_jobs import NewJob
from standalone.process import ROOT
from standalone.stack import Stack
from tests.support.waiting import EVENT_SECONDS

SAMPLES = ROOT / "samples"
XRAY = SAMPLES / "xray-normal.png"
VIEWS = [SAMPLES / "xray-two-views-1.jpg", SAMPLES / "xray-two-views-2.jpg"]
CHROMIUM = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
NOTICE = "not a medical device"
#: Refusals that a test asks for; the browser reports every answer from 400 on as an error of the console.
ASKED_FOR = ("401 (", "403 (", "409 (", "422 (")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # A worker may be loading its models; nothing here says how long that takes.
        expect.set_options(timeout=1000 * EVENT_SECONDS)
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A stranger's page; whatever the browser complains of, the content policy included, fails the test."""
    complaints: list[str] = []
    with browser.new_context(base_url=stack.url, viewport={"width": 1280, "height": 900}) as context:
        context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        context.on("weberror", lambda fault: complaints.append(str(fault.error)))
        page = context.new_page()
        page.set_default_timeout(60_000)
        yield page
    assert [text for text in complaints if not any(status in text for status in ASKED_FOR)] == []


@pytest.fixture
def signed_in(page: Page, stack: Stack) -> Page:
    page.goto("/")
    sign_in(page, stack.key)
    expect(page.get_by_role("heading", name="Recent jobs")).to_be_visible()
    # A drop that comes before the scripts is nobody's.
    page.wait_for_load_state()
    return page


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("PAGE_PICTURES", tmp_path))


@pytest.fixture
def database(stack: Stack) -> Iterator[Database]:
    database = Database(stack.settings, pool_size=1)
    yield database
    database.close()


@pytest.fixture(scope="module")
def answered(stack: Stack) -> str:
    """The path of a job with a result."""
    with stack.client() as client:
        job = client.submit(VIEWS, classifier="ensemble", modality="xray")
        return f"/jobs/{client.wait(job, EVENT_SECONDS).id}"


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def send(page: Page, files: list[Path], *choices: str) -> None:
    """Choose files and answers, and press Classify."""
    page.get_by_label("Choose files").set_input_files(files)
    for choice in choices:
        page.get_by_role("radio", name=re.compile(f"^{choice}")).check()
    page.get_by_role("button", name="Classify").click()


def sent_job(page: Page) -> str:
    """The path of the job that was just sent."""
    link = page.get_by_role("link", name="See this job")
    expect(link).to_be_visible(timeout=1000 * EVENT_SECONDS)
    return link.get_attribute("href") or ""


def open_when(page: Page, job: str, status: str) -> None:
    """Wait for the job's status in the list, and open it from there."""
    row = page.locator("#live tbody tr", has=page.locator(f'a[href="{job}"]'))
    expect(row.get_by_text(status)).to_be_visible(timeout=1000 * EVENT_SECONDS)
    row.get_by_role("link").click()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the control of that name has the focus; it must come within a few."""
    for _ in range(5):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if (focused.evaluate("element => (element.labels?.[0] ?? element).textContent") or "").strip().startswith(name):
            return
    pytest.fail(f"Tab does not come to {name}")


def queue_for_later(database: Database, stack: Stack) -> str:
    """A job that no worker takes for an hour, as after a passing error."""
    with database.transaction() as session:
        key = keys.find(session, stack.key)
        assert key is not None
        study = Study(id=new_id("stu"), tenant_id=key.tenant_id, modality=Modality.XRAY, extra={}, image_count=1)
        session.add(study)
        session.flush()
        job_id = new_id("job")
        states.submit(
            session,
            [NewJob(job_id, key.tenant_id, study.id, Classifier.BINARY, Priority.BULK, external_id="<b>4711</b>")],
        )
        later = sa.update(Job).where(Job.id == job_id).values(not_before=sa.func.now() + timedelta(hours=1))
        session.execute(later)
        return job_id


def test_a_wrong_key_is_refused_in_words_and_a_right_one_opens_the_page(page: Page, stack: Stack) -> None:
    page.goto("/")
    with page.expect_response("**/sign-in") as answer:
        sign_in(page, "tq_wrong")
    assert answer.value.status == 401
    expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")
    sign_in(page, stack.key)
    expect(page.get_by_role("heading", name="Classify a study")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.request.get("/v1/jobs").status == 401


def test_a_study_goes_from_the_drop_zone_to_its_result_without_reloading(signed_in: Page, pictures: Path) -> None:
    page = signed_in
    page.evaluate("window.stillHere = true")
    data = base64.b64encode(XRAY.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """data => {
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "chest.png", { type: "image/png" }));
            return transfer;
        }""",
        data,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.get_by_text("1 file,")).to_be_visible()
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_text("Say whether this is an X-ray or a CT")).to_be_visible()
    page.get_by_role("radio", name="X-ray", exact=True).check()
    page.get_by_role("radio", name="Ensemble").check()
    page.get_by_role("button", name="Classify").click()
    job = sent_job(page)
    expect(page.locator("#live tbody tr", has=page.locator(f'a[href="{job}"]'))).to_contain_text("Classified")
    assert page.evaluate("window.stillHere")
    page.screenshot(path=pictures / "studies.png")
    open_when(page, job, "Classified")

    expect(page.get_by_role("heading", name="Most probable:")).to_be_visible()
    expect(page.get_by_role("main").get_by_text(NOTICE)).to_be_visible()
    picture = page.get_by_role("img", name="Chest X-ray, ensemble: image 1 of 1")
    expect(picture).to_be_visible()
    assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 0
    heatmap = page.get_by_role("img", name="Where the network looked")
    assert heatmap.evaluate("heatmap => heatmap.decode().then(() => heatmap.naturalWidth)") > 0
    shares = [float(bar.get_attribute("aria-valuenow") or "nan") for bar in page.get_by_role("meter").all()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=0.001)
    page.screenshot(path=pictures / "result.png", full_page=True)
    page.get_by_role("link", name="Model card").click()
    for title in ("What it is", "How well it does", "Where it stops", "What it was made from"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.get_by_text("Research use only.")).to_be_visible()


def test_the_keyboard_alone_is_enough(page: Page, stack: Stack) -> None:
    # The system's own dialogue for files, which no test can type into, picks this one when it is opened.
    page.on("filechooser", lambda chooser: chooser.set_files(XRAY))
    page.goto("/")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.insert_text(stack.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Classify a study")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose files")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 file,")).to_be_visible()
    tab_to(page, "Binary")
    tab_to(page, "Automatic")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="X-ray", exact=True)).to_be_checked()
    tab_to(page, "Classify")
    page.keyboard.press("Enter")
    assert sent_job(page).startswith("/jobs/job_")


def test_one_bad_image_of_a_study_is_named_beside_the_answers_of_the_others(signed_in: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(XRAY.read_bytes()[:5000])
    send(signed_in, [*VIEWS, broken], "X-ray", "Ensemble")
    open_when(signed_in, sent_job(signed_in), "Classified")
    rows = signed_in.get_by_role("region", name="Images").get_by_role("row")
    expect(rows).to_have_count(4)
    expect(rows.nth(3)).to_contain_text("Image truncated or damaged")
    rows.nth(2).get_by_role("link").click()
    expect(signed_in.get_by_role("img", name="image 2 of 3")).to_be_visible()
    expect(signed_in.get_by_text("The mean over")).to_be_visible()


def test_a_failed_job_says_why_and_what_helps(signed_in: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(XRAY.read_bytes()[:5000])
    send(signed_in, [broken], "X-ray")
    open_when(signed_in, sent_job(signed_in), "Failed")
    expect(signed_in.get_by_text("Image truncated or damaged")).to_be_visible()
    signed_in.get_by_role("link", name="What this problem means").click()
    expect(signed_in.locator("tr:target")).to_contain_text("Export the image again")


def test_files_that_are_a_study_each_become_jobs_and_the_refused_ones_are_named(
    signed_in: Page, tmp_path: Path
) -> None:
    words = tmp_path / "words.png"
    words.write_text("no picture")
    send(signed_in, [*VIEWS, words], "X-ray", "a study each")
    outcome = signed_in.locator("#outcome")
    expect(outcome).to_contain_text("2 of 3 files")
    expect(outcome).to_contain_text("words.png: Not a PNG, JPEG, TIFF or DICOM file")
    for view in VIEWS:
        link = outcome.get_by_role("link", name=view.name)
        expect(link).to_have_attribute("href", re.compile("^/jobs/job_"))
    outcome.get_by_role("link", name="See this batch").click()
    expect(signed_in.get_by_role("region", name="Refused files")).to_contain_text("words.png: Not a PNG")
    signed_in.get_by_role("link", name="All studies").click()
    signed_in.wait_for_load_state()
    send(signed_in, [words], "X-ray")
    expect(signed_in.locator("#files-problem")).to_contain_text("words.png: Not a PNG, JPEG, TIFF or DICOM file")


def test_a_reference_of_the_readers_own_is_sent_along_and_not_kept_for_the_next_study(signed_in: Page) -> None:
    reference = signed_in.get_by_label("Your reference")
    reference.fill("A\ufffd")
    send(signed_in, [XRAY], "X-ray")
    expect(signed_in.locator("#external_id-problem")).not_to_be_empty()
    expect(reference).to_be_focused()
    reference.fill("ACC-4711")
    signed_in.get_by_role("button", name="Classify").click()
    job = sent_job(signed_in)
    expect(signed_in.locator("#outcome")).to_contain_text(XRAY.name)
    expect(reference).to_have_value("")
    row = signed_in.locator("#live tbody tr", has=signed_in.locator(f'a[href="{job}"]'))
    expect(row).to_contain_text("ACC-4711")
    expect(row.get_by_role("link")).to_contain_text(XRAY.name)


def test_many_pictures_are_a_study_each_unless_told_otherwise(signed_in: Page) -> None:
    content = XRAY.read_bytes()
    many: list[FilePayload] = [
        {"name": f"{number:03}.png", "mimeType": "image/png", "buffer": content} for number in range(200)
    ]
    signed_in.get_by_label("Choose files").set_input_files(many)
    expect(signed_in.get_by_role("group", name="These 200 files are")).to_be_visible()
    expect(signed_in.get_by_role("radio", name=re.compile("^a study each"))).to_be_checked()
    expect(signed_in.get_by_text("200 files become 200 studies with an answer each.")).to_be_visible()
    signed_in.get_by_role("radio", name=re.compile("^one study")).check()
    expect(signed_in.get_by_text("200 files become one study with one answer.")).to_be_visible()
    signed_in.get_by_label("Choose files").set_input_files(VIEWS)
    expect(signed_in.get_by_role("radio", name=re.compile("^one study"))).to_be_checked()


def test_a_zip_is_a_batch(signed_in: Page, tmp_path: Path) -> None:
    archive = tmp_path / "ward.zip"
    with ZipFile(archive, "w") as file:
        for view in VIEWS:
            file.write(view, f"patient/{view.name}")
    send(signed_in, [archive], "X-ray", "a study for each folder")
    outcome = signed_in.locator("#outcome")
    expect(outcome).to_contain_text("Sent: 1 of 1 studies were taken in.")
    outcome.get_by_role("link", name="patient").click()
    expect(signed_in.get_by_role("heading", name="Chest X-ray, binary")).to_be_visible()
    expect(signed_in.locator(".names").first).to_have_text(f"patient/{VIEWS[0].name} and 1 more")


def test_a_folder_is_a_batch_and_what_is_no_picture_of_it_is_named(signed_in: Page, tmp_path: Path) -> None:
    ward = tmp_path / "ward"
    for patient, view in zip(("one", "two"), VIEWS, strict=True):
        (ward / patient).mkdir(parents=True)
        (ward / patient / "a.jpg").write_bytes(view.read_bytes())
        (ward / patient / "b.jpg").write_bytes(XRAY.read_bytes())
    (ward / ".DS_Store").write_bytes(b"no picture")
    signed_in.get_by_label("Choose a folder").set_input_files(ward)
    expect(signed_in.get_by_text("Left out, as they are no pictures: ward/.DS_Store")).to_be_visible()
    expect(signed_in.get_by_text("4 files become 4 studies")).to_be_visible()
    signed_in.get_by_role("radio", name=re.compile("^a study for each folder")).check()
    expect(signed_in.get_by_text("4 files become 2 studies, one for each folder.")).to_be_visible()
    signed_in.get_by_role("radio", name="X-ray", exact=True).check()
    signed_in.get_by_role("button", name="Classify").click()
    outcome = signed_in.locator("#outcome")
    expect(outcome).to_contain_text("Sent: 2 of 2 studies were taken in.")
    expect(outcome.get_by_role("link", name="ward/one")).to_be_visible()


def test_a_folder_that_is_dropped_is_read_to_its_last_file(signed_in: Page, tmp_path: Path) -> None:
    """Dropped as a person does: a folder's reader gives a hundred entries at a time."""
    ward = tmp_path / "ward"
    for number in range(300):
        (ward / f"patient {number}").mkdir(parents=True)
        shutil.copy(VIEWS[number % 2], ward / f"patient {number}" / "a.jpg")
    (ward / "Thumbs.db").write_bytes(b"no picture")
    drop(signed_in, ward)
    expect(signed_in.get_by_text("Left out, as they are no pictures: ward/Thumbs.db")).to_be_visible()
    expect(signed_in.get_by_text("300 files become 300 studies with an answer each.")).to_be_visible()
    signed_in.get_by_role("radio", name="X-ray", exact=True).check()
    signed_in.get_by_role("button", name="Classify").click()
    outcome = signed_in.locator("#outcome")
    expect(outcome).to_contain_text("Sent: 300 of 300 files are now studies of their own.")


def drop(page: Page, path: Path) -> None:
    """Drop a file or a folder of this machine on the zone, by the browser's own drag and drop."""
    box = page.locator("#drop").bounding_box()
    assert box is not None
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **at, "data": data})


def test_a_stack_of_ct_slices_is_one_study_with_one_answer(signed_in: Page, tmp_path: Path, pictures: Path) -> None:
    slices = []
    for number in range(6):
        dataset = dcmread(SAMPLES / "ct-slice.dcm")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number + 1
        slices.append(tmp_path / f"IM{number:06}.dcm")
        dataset.save_as(slices[-1])
    signed_in.get_by_label("Choose files").set_input_files(slices)
    expect(signed_in.get_by_text("6 files become a study for each DICOM study among them.")).to_be_visible()
    signed_in.get_by_role("button", name="Classify").click()
    outcome = signed_in.locator("#outcome")
    expect(outcome).to_contain_text("Sent: 1 of 1 studies were taken in.", timeout=1000 * EVENT_SECONDS)
    outcome.get_by_role("link", name="See this batch").click()
    signed_in.get_by_role("link", name="IM000000.dcm and 5 more").click()
    expect(signed_in.get_by_role("heading", name="Chest CT, binary")).to_be_visible()
    expect(signed_in.get_by_role("img", name=re.compile("^Chest CT, binary: image . of 6"))).to_be_visible()
    signed_in.screenshot(path=pictures / "ct-stack.png", full_page=True)


def test_an_ended_session_offers_to_sign_in_and_keeps_what_was_chosen(
    page: Page, stack: Stack, database: Database
) -> None:
    with database.transaction() as session:
        tenant = session.scalars(sa.select(Tenant).limit(1)).one()
        made = keys.create(session, tenant, "page", [keys.Scope.JOBS_READ, keys.Scope.JOBS_WRITE], None, "test")
    page.goto("/")
    sign_in(page, made.key)
    expect(page.get_by_role("heading", name="Classify a study")).to_be_visible()
    page.wait_for_load_state()
    page.get_by_label("Choose files").set_input_files(XRAY)
    page.get_by_role("radio", name="X-ray", exact=True).check()
    with database.transaction() as session:
        assert keys.revoke(session, made.id, "test")
    expect(page.locator("#ended")).to_be_visible()
    # Each process of the API takes a key for a while after it was last looked up, from the page by its id as well.
    time.sleep(stack.settings.key_seconds)
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#files-problem")).to_contain_text("You are signed out")
    with page.expect_popup() as opened:
        page.locator("#files-problem").get_by_role("link", name="Sign in").click()
    sign_in(opened.value, stack.key)
    expect(opened.value.get_by_role("heading", name="Recent jobs")).to_be_visible()
    page.get_by_role("button", name="Classify").click()
    assert sent_job(page)


def test_a_waiting_job_is_cancelled_on_its_page_and_the_page_shows_it(
    page: Page, stack: Stack, database: Database
) -> None:
    job = queue_for_later(database, stack)
    page.goto(f"/jobs/{job}")
    sign_in(page, stack.key)
    expect(page.get_by_role("heading", name="Waiting for its turn")).to_be_visible()
    assert page.url.endswith(f"/jobs/{job}")
    expect(page.get_by_text("<b>4711</b>")).to_be_visible()
    cancel = page.get_by_role("button", name="Cancel this job")
    cancel.focus()
    # Twice: the first answer comes after the page has loaded, the second only after the first was taken over.
    for _ in range(2):
        page.wait_for_event("response", lambda response: response.url == page.url)
    expect(cancel).to_be_focused()
    cancel.press("Enter")
    expect(page.get_by_role("heading", name="This job was cancelled")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("Cancelled")


def test_a_session_changes_nothing_without_the_pages_token(signed_in: Page, stack: Stack) -> None:
    token = signed_in.locator('meta[name="csrf-token"]').get_attribute("content") or ""
    fields: dict[str, str | float | bool | bytes | FilePayload] = {"classifier": "binary", "modality": "xray"}
    foreign = signed_in.request.post("/v1/jobs", multipart=fields)
    assert foreign.status == 403
    assert foreign.headers["content-type"] == "application/problem+json"
    assert foreign.json()["type"] == f"{stack.url}/problems#foreign-request"
    ours = signed_in.request.post("/v1/jobs", multipart=fields, headers={"X-CSRF-Token": token})
    assert ours.status == 422
    assert signed_in.request.post("/sign-out").status == 403
    assert signed_in.request.get("/v1/jobs").status == 200


def test_revoking_the_key_ends_its_sessions(page: Page, database: Database) -> None:
    with database.transaction() as session:
        tenant = session.scalars(sa.select(Tenant).limit(1)).one()
        made = keys.create(session, tenant, "page", [keys.Scope.JOBS_READ], None, "test")
    page.goto("/")
    sign_in(page, made.key)
    expect(page.get_by_role("heading", name="Recent jobs")).to_be_visible()
    expect(page.get_by_role("heading", name="Classify a study")).to_have_count(0)
    with database.transaction() as session:
        assert keys.revoke(session, made.id, "test")
    # The page that is open notices by itself.
    expect(page.get_by_role("alert")).to_contain_text("no longer in force")


def test_looking_works_without_javascript(browser: Browser, stack: Stack, answered: str) -> None:
    with browser.new_context(base_url=stack.url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/")
        sign_in(page, stack.key)
        page.locator(f'a[href="{answered}"]').click()
        expect(page.get_by_role("heading", name="Most probable:")).to_be_visible()
        expect(page.get_by_role("meter").first).to_be_visible()


def test_a_phone_shows_every_page_without_scrolling_sideways(signed_in: Page, answered: str, pictures: Path) -> None:
    signed_in.set_viewport_size({"width": 360, "height": 740})
    signed_in.goto(answered)
    card = signed_in.get_by_role("link", name="Model card").get_attribute("href")
    for name, path in {"home": "/", "job": answered, "model": card, "problems": "/problems", "docs": "/docs"}.items():
        signed_in.goto(str(path), wait_until="networkidle" if name == "docs" else "load")
        signed_in.screenshot(path=pictures / f"phone-{name}.png", full_page=True)
        assert signed_in.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_the_documentation_is_drawn_from_the_description_without_any_other_server(page: Page, stack: Stack) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/docs")
    expect(page.get_by_text("Withdraw a queued or running job")).to_be_visible()
    assert [url for url in asked if not url.startswith((stack.url, "data:"))] == []
    page.goto("/problems")
    refused = httpx.get(f"{stack.url}/v1/jobs").json()
    expect(page.locator(f"#{refused['type'].partition('#')[2]}")).to_contain_text("Authorization: Bearer")


def test_a_request_is_tried_in_the_documentation(signed_in: Page) -> None:
    signed_in.goto("/docs")
    operation = signed_in.locator("#operations-jobs-submit_job")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_label("files", exact=True).set_input_files(XRAY)
    operation.get_by_placeholder("metadata").fill('{"ward": "7"}')
    operation.get_by_role("button", name="Execute").click()
    answered = operation.locator(".live-responses-table")
    expect(answered.get_by_role("cell", name="202", exact=True)).to_be_visible()


def test_the_examples_of_the_documentation_work(page: Page, stack: Stack, tmp_path: Path) -> None:
    page.goto("/docs")
    shutil.copy(XRAY, tmp_path / "chest.png")
    blocks = [page.locator(f'[data-example="{name}"]').inner_text() for name in ("wait", "poll", "stored")]
    script = "\n".join(["set -eo pipefail", f"export URL={stack.url} KEY={stack.key}", *blocks])
    ran = subprocess.run(["/bin/bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert '"prediction"' in ran.stdout
    assert ran.stdout.splitlines()[-2:] == ["succeeded", "succeeded"]
