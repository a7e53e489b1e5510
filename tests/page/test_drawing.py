"""What is drawn, seen while it is drawn, stopped, and found again."""

from __future__ import annotations

import re

from browsing import CAT, begun, made, opens, prompt
from playwright.sync_api import expect


def test_it_draws_with_previews_and_tells_how_far_it_is(page):
    prompt(page).fill(CAT)
    opens(page, "settings")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_label("Pictures").fill("2")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_alt_text("Preview of picture 2")).to_be_visible()
    preview = page.get_by_alt_text("Preview of picture 1").get_attribute("src")
    assert preview.startswith("data:image/png;base64,")
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step \d+ of 40"))
    expect(page.locator("#left")).to_have_text(re.compile(r"\d+ s left"))
    made(page, 2)
    expect(page.locator("#tiles").get_by_alt_text(CAT)).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("2 pictures")
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    sizes = page.locator("#tiles img").evaluate_all("all => all.map(each => each.naturalWidth)")
    assert sizes == [64, 64]


def test_an_example_is_drawn_at_a_click(page):
    expect(page.get_by_text("Nothing is drawn yet")).to_be_visible()
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_role("button", name=CAT).click()
    made(page, 1)
    expect(prompt(page)).to_have_value(CAT)
    expect(page.get_by_text("Nothing is drawn yet")).to_be_hidden()


def test_stop_stops_before_the_end_and_the_next_one_is_drawn(page):
    prompt(page).fill(CAT)
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill("150")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step [1-9]\d* of 150"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("#progress")).to_be_hidden()
    made(page, 0)
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_role("button", name="Generate").click()
    made(page, 1)


def test_more_requests_than_the_server_holds_wait_here_and_each_can_be_stopped(page):
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill("150")
    page.get_by_label("Pictures").fill("8")
    subjects = ["cat face", "rocket", "ghost", "pig", "dog", "frog", "cow", "ox"]
    for subject in subjects:
        prompt(page).fill(f"a {subject} on red")
        page.get_by_role("button", name="Generate").click()
    rows = page.locator("#queue li")
    expect(rows).to_have_count(len(subjects))
    expect(page.locator("#queue")).to_contain_text("before it")
    expect(page.locator("#queue")).to_contain_text("The queue is full; it is asked again")
    for left in range(len(subjects), 2, -1):
        rows.last.get_by_role("button").click()
        expect(rows).to_have_count(left - 1)
    for _ in range(2):
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
    expect(page.locator("#progress")).to_be_hidden()
    made(page, 0)


def test_a_reload_finds_the_running_request_and_the_settings(page):
    prompt(page).fill(CAT)
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill("60")
    page.get_by_label("Sampler", exact=True).select_option("dpmpp_2m")
    page.get_by_label("eta", exact=True).fill("0.5")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step [1-9]\d* of 60"))
    page.reload()
    begun(page)
    expect(page.locator("#status")).to_have_text("1 request of before goes on.")
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step [1-9]\d* of 60"))
    expect(prompt(page)).to_have_value(CAT)
    expect(page.get_by_label("Steps", exact=True)).to_have_value("60")
    expect(page.get_by_label("eta", exact=True)).to_have_value("0.5")
    made(page, 1)
    page.locator("#gallery button").click()
    expect(page.locator("#viewer-settings")).to_contain_text("dpmpp_2m:eta=0.5")
    page.reload()  # the picture is kept by the browser
    begun(page)
    made(page, 1)


def test_another_tab_leaves_a_running_request_to_the_first(page, opened):
    prompt(page).fill(CAT)
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill("40")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step [1-9]\d* of 40"))
    other = opened()
    expect(prompt(other)).to_have_value(CAT)
    expect(other.locator("#status")).to_have_text("")
    page.close()  # now it is nobody's
    other.reload()
    begun(other)
    expect(other.locator("#status")).to_have_text("1 request of before goes on.")
    made(other, 1)


def test_what_is_wrong_is_said_next_to_its_field(page):
    opens(page, "settings")
    page.get_by_label("Width", exact=True).fill("70")
    page.get_by_role("button", name="Generate").click()
    width = page.get_by_label("Width", exact=True)
    expect(width).to_have_attribute("aria-invalid", "true")
    expect(width).to_have_accessible_description(re.compile("multiple of 8.* 64 and 72"))
    expect(width).to_be_focused()
    width.fill("64")
    expect(width).not_to_have_attribute("aria-invalid", "true")
    page.get_by_label("Seed", exact=True).fill("-1")
    page.get_by_role("button", name="Generate").click()
    seed = page.get_by_label("Seed", exact=True)
    expect(seed).to_have_accessible_description(re.compile("whole number"))
    page.get_by_label("Seed", exact=True).fill("5")
    opens(page, "refine")
    page.get_by_label("Draw each picture again, larger").check()
    page.get_by_label("Times as large").fill("4")
    page.get_by_label("Width", exact=True).fill("128")
    page.get_by_role("button", name="Generate").click()
    scale = page.get_by_label("Times as large")
    expect(scale).to_have_accessible_description(re.compile("512 × 256; at most 65536 pixels"))
    made(page, 0)


def test_a_server_that_is_gone_is_named_and_asked_again(page):
    page.expected.append(re.compile(r"error: Failed to load resource: net::"))
    prompt(page).fill(CAT)
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill("100")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step [1-9]\d* of 100"))
    page.context.set_offline(True)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    made(page, 1)
    page.get_by_role("alert").get_by_role("button", name="Close").click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_prompts_are_counted_and_unknown_words_named(page):
    prompt(page).fill("a zeppelin on a blue background")
    expect(page.locator("#prompt-count")).to_have_text(re.compile(r"\d+ of 38 tokens"))
    expect(page.locator("#prompt-unknown")).to_have_text("Not known to the model: zeppelin")
    page.get_by_role("button", name="Words it knows").click()
    page.get_by_label("Find").fill("rock")
    page.locator("#words-list").get_by_role("button").click()
    page.keyboard.press("Escape")
    expect(prompt(page)).to_have_value("a zeppelin on a blue background rocket")
    prompt(page).fill("cat " * 60)
    expect(page.locator("#prompt-unknown")).to_contain_text("Too long")


def test_samplers_and_schedules_are_those_of_the_server(page, address):
    info = page.request.get(f"{address}api/info").json()
    for kind in ("sampler", "schedule"):
        options = page.locator(f"#{kind} option").evaluate_all("all => all.map(each => each.value)")
        assert options == [each["name"] for each in info[f"{kind}s"]]
    assert len(info["samplers"]) > 20
