"""A result in a real browser: the heatmap over the picture, review, rejected input. The test is the worker.

`PAGE_PICTURES=dir` keeps screenshots of every kind of result there, wide and narrow, light and dark.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from flask import Flask
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from werkzeug.serving import make_server

from shared.db.engine import Database
from shared.db.tables import Modality
from shared.errors import CorruptImage
from shared.imaging.decode import Limits, decode_one
from shared.jobs.claims import Claim, Outcome
from shared.jobs.schemas import Rejection, ReviewReason
from tests.support.answers import answered, rejected, spot
from tests.support.api import CT_DICOM, PNG, SAMPLES, TEXT, Caller, claim_all, finish, json_of, multipart, part
from tests.support.axe import violations
from tests.support.batches import packed, post_zip
from tests.support.rows import BUNDLE
from tests.support.waiting import EVENT_SECONDS

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WIDE_PICTURE = (SAMPLES / "xray-covid19.jpg").read_bytes()
LIMITS = Limits(max_pixels=10**6, max_frames=1)
CT_PICTURE = cv2.imencode(".png", decode_one(CT_DICOM, LIMITS, frame=0))[1].tobytes()
NOT_CHEST = "Neither a chest X-ray nor a chest CT slice, as far as the network can tell."
Finish = Callable[[Claim], Outcome]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=1000 * EVENT_SECONDS)  # the machine may be busy with something else
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def address(app: Flask) -> Iterator[str]:
    """The application on a free port."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def page(browser: Browser, address: str, north: Caller) -> Iterator[Page]:
    """A reader who has signed in; whatever the browser complains of, the content policy included, fails the test."""
    complaints: list[str] = []
    with browser.new_context(base_url=address, viewport={"width": 1280, "height": 900}) as context:
        context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page = context.new_page()
        sign_in(page, north.key)
        yield page
    assert complaints == []


@pytest.fixture
def unscripted(browser: Browser, address: str, north: Caller) -> Iterator[Page]:
    """The same without JavaScript."""
    with browser.new_context(base_url=address, java_script_enabled=False) as context:
        page = context.new_page()
        sign_in(page, north.key)
        yield page


def sign_in(page: Page, key: str) -> None:
    page.goto("/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Recent jobs")).to_be_visible()


@pytest.fixture
def answer(north: Caller, clean_database: Database) -> Callable[..., str]:
    """Sends files and ends their job as told; the path of its page."""

    def made(end: Finish, *files: bytes, **fields: str) -> str:
        job_id = north.submit(*files, **fields)["id"]
        finish(clean_database, *map(end, claim_all(clean_database)))
        return f"/jobs/{job_id}"

    return made


def answer_batch(caller: Caller, database: Database, count: int = 2) -> str:
    """A batch of so many X-rays with answers, and a file that was refused; the path of its page."""
    members = [(f"ward/{number:02}.png", PNG + bytes([number])) for number in range(count)]
    batch = json_of(post_zip(caller, packed(*members, ("ward/notes.txt", TEXT)), classifier="ensemble"), 202)
    finish(database, *map(answered, claim_all(database)))
    return f"/batches/{batch['id']}"


def with_heatmap(claim: Claim) -> Outcome:
    return answered(claim, spot())


def to_review(claim: Claim) -> Outcome:
    other = {
        "classifier": "binary",
        "prediction": "not_covid19",
        "probabilities": {"covid19": 0.31, "not_covid19": 0.7},
    }
    reasons = [ReviewReason.THIN_MARGIN, ReviewReason.CLASSIFIERS_DISAGREE]
    return answered(claim, spot(3, 4), review_reasons=reasons, second_opinion=other)


def no_chest(claim: Claim) -> Outcome:
    return rejected(claim, Rejection.NOT_A_CHEST_IMAGE, NOT_CHEST)


def corrected(claim: Claim) -> Outcome:
    reasons = [ReviewReason.MODALITY_CORRECTED]
    return answered(claim, spot(2, 3), corrected_modality=Modality.CT, review_reasons=reasons)


def one_of_each(claim: Claim) -> Outcome:
    outcome = answered(claim, spot())
    assert outcome.answer
    del (left_out := outcome.answer.images[0])["prediction"], left_out["probabilities"], left_out["heatmap"]
    left_out["rejected"] = Rejection.OTHER_MODALITY
    outcome.answer.review_reasons.append(ReviewReason.IMAGES_LEFT_OUT)
    return outcome


def disagreeing(claim: Claim) -> Outcome:
    """The last image of a study shows clearly something else than the study as a whole."""
    outcome = answered(claim, spot())
    assert outcome.answer
    outcome.answer.images[-1] |= {
        "prediction": "normal",
        "probabilities": {"normal": 0.97, "pneumonia": 0.02, "covid19": 0.01},
    }
    outcome.answer.review_reasons.append(ReviewReason.IMAGES_DISAGREE)
    return outcome


def failed(claim: Claim) -> Outcome:
    return Outcome(claim, error=CorruptImage("the picture ends too early"))


def send_named(caller: Caller, *names: str, **fields: str) -> str:
    """A job of X-rays with these names, still waiting; the path of its page."""
    files = [(f'Content-Disposition: form-data; name="files"; filename="{name}"', PNG) for name in names]
    given = {"classifier": "ensemble", "modality": "xray"} | fields
    body = multipart(*files, *(part(name, value.encode()) for name, value in given.items()))
    return f"/jobs/{json_of(caller.post('/v1/jobs', **body), 202)['id']}"


def over_and_under(page: Page) -> tuple[Locator, Locator]:
    return page.get_by_role("img", name="Where the network looked"), page.get_by_role("img", name="image 1 of 1")


@pytest.mark.parametrize("window", [(1280, 900), (360, 740), (900, 400)])
@pytest.mark.parametrize("picture", [PNG, WIDE_PICTURE])
def test_the_heatmap_covers_the_picture_exactly(
    window: tuple[int, int], picture: bytes, page: Page, answer: Callable[..., str]
) -> None:
    page.set_viewport_size({"width": window[0], "height": window[1]})
    page.goto(answer(with_heatmap, picture, classifier="ensemble"))
    heatmap, under = over_and_under(page)
    for image in (heatmap, under):
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert heatmap.bounding_box() == under.bounding_box()
    # Nothing of the box is empty: the picture fills it in its own shape.
    box = under.bounding_box()
    natural = under.evaluate("image => image.naturalWidth / image.naturalHeight")
    assert box
    assert box["width"] / box["height"] == pytest.approx(natural, rel=0.01)
    assert page.evaluate("document.documentElement.scrollWidth") <= window[0]


@pytest.mark.parametrize("shape", [(1000, 40), (40, 1000)])
def test_a_picture_that_is_much_longer_than_wide_stays_on_the_screen(
    shape: tuple[int, int], page: Page, answer: Callable[..., str]
) -> None:
    page.goto(answer(with_heatmap, cv2.imencode(".png", np.full(shape, 90, np.uint8))[1].tobytes()))
    heatmap, under = over_and_under(page)
    box, over = under.bounding_box(), heatmap.bounding_box()
    assert box
    assert over == pytest.approx(box, abs=0.5)  # where a whole pixel does not fit
    assert box["height"] <= 900
    assert box["width"] / box["height"] == pytest.approx(shape[1] / shape[0], rel=0.05)


def test_the_keyboard_hides_the_heatmap_and_shows_it_again(page: Page, answer: Callable[..., str]) -> None:
    page.goto(answer(with_heatmap, WIDE_PICTURE, classifier="ensemble"))
    heatmap, under = over_and_under(page)
    expect(heatmap).to_be_visible()
    expect(
        page.get_by_text("Where the network looked for its answer, COVID-19; not where the disease is.")
    ).to_be_visible()
    before = under.bounding_box()
    page.get_by_role("link", name="All studies").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("checkbox", name="Heatmap")).to_be_focused()
    page.keyboard.press("Space")
    expect(heatmap).to_be_hidden()
    expect(under).to_be_visible()
    assert under.bounding_box() == before
    page.keyboard.press("Space")
    expect(heatmap).to_be_visible()


def test_the_switch_works_without_javascript(unscripted: Page, answer: Callable[..., str]) -> None:
    unscripted.goto(answer(with_heatmap, WIDE_PICTURE, classifier="ensemble"))
    heatmap, _ = over_and_under(unscripted)
    expect(heatmap).to_be_visible()
    unscripted.get_by_text("Heatmap", exact=True).click()
    expect(heatmap).to_be_hidden()


def test_an_answer_without_a_heatmap_has_no_switch(page: Page, answer: Callable[..., str]) -> None:
    page.goto(answer(answered))
    expect(page.get_by_role("heading", name="Most probable: Not COVID-19")).to_be_visible()
    expect(page.get_by_role("checkbox")).to_have_count(0)
    expect(page.get_by_text("Needs review")).to_have_count(0)


def test_an_answer_that_needs_review_says_why_before_its_numbers(page: Page, answer: Callable[..., str]) -> None:
    path = answer(to_review, classifier="ensemble")
    page.goto("/")
    expect(page.locator("#live")).to_contain_text("Needs review")
    page.goto(path)
    why = page.get_by_role("group", name="Needs review")
    expect(why.get_by_role("listitem")).to_have_count(2)
    expect(why).to_contain_text("disagree about COVID-19")
    first_bar = page.get_by_role("meter").first.bounding_box()
    said = why.bounding_box()
    assert first_bar
    assert said
    assert said["y"] < first_bar["y"]
    expect(page.get_by_text("The binary classifier, on the same images: Not COVID-19, 70.0")).to_be_visible()


def test_a_rejected_input_has_a_reason_and_no_number(page: Page, answer: Callable[..., str]) -> None:
    path = answer(no_chest, classifier="ensemble")
    page.goto("/")
    row = page.locator("#live tbody tr")
    expect(row).to_contain_text("Not classified")
    expect(row).to_contain_text("Neither a chest X-ray nor a chest CT slice")
    expect(row.locator(".succeeded")).to_have_count(0)
    page.goto(path)
    expect(page.locator(".succeeded")).to_have_count(0)
    expect(page.get_by_role("heading", name="Not classified")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(NOT_CHEST)
    expect(page.get_by_role("meter")).to_have_count(0)
    expect(page.get_by_role("checkbox")).to_have_count(0)
    expect(page.get_by_role("main")).not_to_contain_text("Most probable")
    expect(page.get_by_role("img", name="image 1 of 1")).to_be_visible()


def test_a_corrected_modality_is_told(page: Page, answer: Callable[..., str]) -> None:
    page.goto(answer(corrected))
    expect(page.get_by_role("heading", name="Chest CT, binary")).to_be_visible()
    expect(page.get_by_text("Sent as Chest X-ray, but it looks like Chest CT")).to_be_visible()


def test_an_image_that_is_left_out_is_named_and_an_answered_one_is_shown_first(
    page: Page, answer: Callable[..., str]
) -> None:
    page.goto(answer(one_of_each, PNG, WIDE_PICTURE))
    expect(page.get_by_role("img", name="image 2 of 2")).to_be_visible()
    rows = page.get_by_role("region", name="Images").get_by_role("row")
    expect(rows.nth(1)).to_contain_text("Of another modality than most")
    rows.nth(1).get_by_role("link").click()
    expect(page.get_by_role("img", name="image 1 of 2")).to_be_visible()
    expect(page.get_by_role("checkbox")).to_have_count(0)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_every_page_fits_the_screen_and_axe_finds_nothing(
    width: int,
    scheme: str,
    browser: Browser,
    address: str,
    north: Caller,
    answer: Callable[..., str],
    clean_database: Database,
    tmp_path: Path,
) -> None:
    folder = Path(os.environ.get("PAGE_PICTURES", tmp_path))
    pending = send_named(north, "waits.png", external_id="ACC-4711")
    paths = {
        "batch": answer_batch(north, clean_database),
        "answered": answer(with_heatmap, WIDE_PICTURE, classifier="ensemble"),
        "review": answer(to_review, WIDE_PICTURE, classifier="ensemble"),
        "rejected": answer(no_chest, classifier="ensemble"),
        "corrected": answer(corrected, CT_PICTURE),
        "images": answer(one_of_each, PNG, WIDE_PICTURE),
        "disagreeing": answer(disagreeing, PNG, WIDE_PICTURE, classifier="ensemble"),
        "failed": answer(failed),
        "waiting": pending,
        "list": "/",
        "earlier": f"/?cursor={pending.rpartition('/')[2]}",
        "problems": "/problems",
        "unknown": "/jobs/job_0",
        "model": f"/models/{BUNDLE}",
    }
    options = {"base_url": address, "viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with browser.new_context(**options) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto("/")
        assert violations(page) == []
        sign_in(page, north.key)
        for name, path in paths.items():
            page.goto(path, wait_until="load")
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
            assert violations(page) == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            if name == "answered":
                page.get_by_role("checkbox").uncheck()
                page.screenshot(path=folder / f"hidden-{width}-{scheme}.png", full_page=True)


def test_a_study_whose_images_disagree_opens_on_the_one_that_does(page: Page, answer: Callable[..., str]) -> None:
    page.goto(answer(disagreeing, PNG, WIDE_PICTURE, classifier="ensemble"))
    expect(page.get_by_role("img", name="image 2 of 2")).to_be_visible()
    expect(page.get_by_text("Differs from the study as a whole")).to_be_visible()
    why = page.get_by_role("group", name="Needs review")
    expect(why).to_contain_text("The study as a whole shows COVID-19, but image 2")
    expect(why).not_to_contain_text("equally probable")
    rows = page.get_by_role("region", name="Images").get_by_role("row")
    expect(rows.nth(2)).to_contain_text("Differs")
    expect(rows.nth(1)).not_to_contain_text("Differs")
    rows.nth(1).get_by_role("link").click()
    expect(page.get_by_role("img", name="image 1 of 2")).to_be_visible()
    expect(page.get_by_text("Differs from the study as a whole")).to_have_count(0)


def test_names_of_files_are_shown_as_they_are_whatever_they_hold(
    page: Page, north: Caller, clean_database: Database
) -> None:
    names = ["<b>a</b> & 'b'.png", "\u05e6\u05d9\u05dc\u05d5\u05dd (2).png"]
    path = send_named(north, *names, external_id="<i>4711</i>")
    page.goto("/")
    row = page.locator("#live tbody tr")
    expect(row.get_by_role("link")).to_contain_text(f"{names[0]} and 1 more")
    expect(row).to_contain_text("<i>4711</i>")
    finish(clean_database, *map(with_heatmap, claim_all(clean_database)))
    page.goto(path)
    assert page.title().startswith(f"COVID-19 · {names[0]}")
    rows = page.get_by_role("region", name="Images").get_by_role("row")
    for number, name in enumerate(names, 1):
        expect(rows.nth(number)).to_contain_text(name)
        # Each name keeps to itself: its direction turns nothing beside it.
        assert rows.nth(number).locator("bdi").inner_text() == name


def test_a_failed_job_names_its_file(page: Page, north: Caller, clean_database: Database) -> None:
    path = send_named(north, "broken.png")
    finish(clean_database, *map(failed, claim_all(clean_database)))
    page.goto(path)
    expect(page.locator(".alert", has_text="ends too early")).to_contain_text("broken.png")


def test_the_switch_stays_as_it_was_set(page: Page, answer: Callable[..., str]) -> None:
    two, other = answer(with_heatmap, PNG, WIDE_PICTURE), answer(with_heatmap, WIDE_PICTURE)
    page.goto(two)
    switch = page.get_by_role("checkbox", name="Heatmap")
    switch.uncheck()
    page.get_by_role("region", name="Images").get_by_role("link", name="Image 2").click()
    expect(page.get_by_role("img", name="image 2 of 2")).to_be_visible()
    expect(switch).not_to_be_checked()
    page.goto(other)
    expect(switch).not_to_be_checked()
    expect(page.get_by_role("img", name="Where the network looked")).to_be_hidden()
    switch.check()
    page.go_back()
    expect(switch).to_be_checked()


def test_print_leaves_what_is_pressed_out_and_the_legend_in(page: Page, answer: Callable[..., str]) -> None:
    page.goto(answer(with_heatmap, WIDE_PICTURE, classifier="ensemble"))
    page.emulate_media(media="print", color_scheme="dark")
    for gone in (page.get_by_role("navigation"), page.get_by_role("button"), page.get_by_role("checkbox")):
        expect(gone).to_have_count(0)
    expect(page.locator(".scale")).to_be_visible()
    expect(page.locator(".scale")).to_contain_text("less")
    gradient = page.locator(".scale span").first
    assert gradient.evaluate("one => getComputedStyle(one, '::after').printColorAdjust") == "exact"
    expect(page.get_by_role("img", name="Where the network looked")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 10_000


def test_a_phone_keeps_every_images_probability(page: Page, answer: Callable[..., str]) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    path = answer(disagreeing, PNG, WIDE_PICTURE, classifier="ensemble")
    page.goto("/")
    listed = page.locator("#live tbody tr").get_by_text("85.9")
    listed.scroll_into_view_if_needed()
    expect(listed).to_be_in_viewport(ratio=1)
    page.goto(path)
    last = page.get_by_role("region", name="Images").get_by_role("row").nth(2)
    last.scroll_into_view_if_needed()
    for label, probability in (("Normal", "97.0"), ("Pneumonia", "2.0"), ("COVID-19", "1.0")):
        cell = last.locator(f'td[data-label="{label}"]')
        expect(cell).to_contain_text(probability)
        expect(cell).to_be_in_viewport(ratio=1)


def test_a_finding_is_told_by_more_than_its_colour(page: Page, answer: Callable[..., str]) -> None:
    answer(with_heatmap, WIDE_PICTURE, classifier="ensemble")
    answer(answered)
    page.goto("/")
    nothing, found = page.locator("#live tbody tr").all()
    expect(found.locator("strong.finding svg")).to_be_visible()
    assert found.locator(".finding").evaluate("one => getComputedStyle(one).borderTopWidth") == "1px"
    expect(nothing.locator(".finding")).to_have_count(0)
    expect(nothing).to_contain_text("Not COVID-19")


def test_a_batch_is_one_row_and_a_page_of_its_own(page: Page, north: Caller, clean_database: Database) -> None:
    before = send_named(north, "before.png")
    path = answer_batch(north, clean_database, count=60)
    after = send_named(north, "after.png")
    page.goto("/")
    links = page.locator("#live tbody tr").get_by_role("link")
    assert [link.get_attribute("href") for link in links.all()] == [after, path, before]
    expect(page.locator("#live tbody tr").nth(1)).to_contain_text("60 of 61 answered, 1 refused")
    links.nth(1).click()
    expect(page.get_by_role("heading", name="Batch of 61 studies, ensemble")).to_be_visible()
    expect(page.get_by_role("region", name="Refused files")).to_contain_text("ward/notes.txt: Not a PNG")
    expect(page.get_by_role("region", name="61 of 61 ended").get_by_role("definition").first).to_have_text("60")
    studies = page.get_by_role("region", name="Studies").get_by_role("row")
    expect(studies).to_have_count(51)
    page.get_by_role("link", name="Further studies").click()
    expect(studies).to_have_count(11)
    page.get_by_role("link", name="ward/55.png").click()
    expect(page.locator(".names", has_text="ward/55.png").first).to_be_visible()
    page.get_by_role("link", name="Its batch").click()
    expect(page).to_have_url(re.compile(path))


@pytest.mark.parametrize("path", ["/?cursor=%00", "/?cursor=x", "/?cursor=job_1", "/batches/{batch}?after=%00"])
def test_a_place_in_a_list_that_is_none_is_said_to_be(path: str, page: Page, north: Caller) -> None:
    batch = json_of(post_zip(north, packed(("a.png", PNG))), 202)["id"]
    # The browser's console reports the status, which is what this test asks for.
    answer = page.request.get(path.format(batch=batch))
    assert answer.status == 422
    assert "Invalid request" in answer.text()


def test_a_key_with_a_nul_is_an_unknown_one(page: Page) -> None:
    token = page.locator('meta[name="csrf-token"]').get_attribute("content") or ""
    answer = page.request.post("/sign-in", form={"csrf_token": token, "key": "tq_\0"})
    assert answer.status == 401
    assert "unknown, expired or revoked" in answer.text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_documentation_follows_the_screen_and_axe_finds_nothing(
    scheme: Literal["light", "dark"], page: Page
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/docs")
    expect(page.get_by_text("Withdraw a queued or running job")).to_be_visible()
    dark = page.evaluate("document.documentElement.classList.contains('dark-mode')")
    assert dark == (scheme == "dark")
    assert violations(page) == []
