"""The page for everybody: keys alone, labels, contrast, a phone."""

from __future__ import annotations

import pytest
from browsing import CAT, made, opens, prompt
from playwright.sync_api import expect

PARTS = ("negative", "settings", "start", "refine", "grid", "more")

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = rgb(getComputedStyle(each).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const each of document.querySelectorAll("body *")) {
    const text = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !each.checkVisibility() || each.disabled || each.closest("canvas")) continue;
    const [one, other] = [light(rgb(getComputedStyle(each).color)), light(ground(each))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push([contrast, each.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


def test_it_is_used_by_keys_alone(page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # from the place that the link led to
    if not prompt(page).evaluate("each => each === document.activeElement"):
        page.keyboard.press("Shift+Tab")
    expect(prompt(page)).to_be_focused()
    page.keyboard.type(CAT)
    for _ in range(3):
        page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_contain_text("Settings")
    outline = focused.evaluate("each => getComputedStyle(each).outlineStyle")
    assert outline == "solid"  # one sees where one is
    page.keyboard.press("Enter")
    for _ in range(5):
        page.keyboard.press("Tab")
    expect(page.get_by_label("Steps", exact=True)).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("150")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#progress-text")).to_contain_text("of 150")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("Stopped.")
    page.keyboard.press("Control+a")
    page.keyboard.type("2")
    page.keyboard.press("Control+Enter")
    made(page, 1)
    page.locator("#gallery button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#gallery button")).to_be_focused()


def test_every_input_has_a_label_and_every_button_a_name(page):
    opens(page, *PARTS, "fit", "masking")
    for axis in ("x", "y"):
        page.locator(f"#{axis}_axis").select_option("sampler")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea")]
          .filter((each) => !each.labels.length && !each.getAttribute("aria-label"))
          .map((each) => each.id)"""
    )
    assert nameless == []
    assert page.locator("input, select, textarea").count() > 45
    names = page.locator("button").evaluate_all(
        "all => all.filter(each => !(each.textContent.trim() || each.ariaLabel)).map(e => e.id)"
    )
    assert names == []
    ids = page.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(ids) == len(set(ids))
    status = page.locator("#status")
    assert (status.get_attribute("role"), status.get_attribute("aria-live")) == ("status", "polite")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out(page, theme):
    page.emulate_media(color_scheme=theme)
    opens(page, *PARTS)
    prompt(page).fill("a zeppelin")
    expect(page.locator("#prompt-unknown")).to_contain_text("zeppelin")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 60
    assert [each for each in found if each[0] < 4.5] == []


def test_the_theme_is_the_systems_until_one_is_chosen(page):
    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    button = page.get_by_role("button", name="Theme:")
    button.click()
    expect(button).to_have_accessible_name("Theme: light")
    assert ground() == light
    page.reload()
    assert ground() == light


def test_a_phone_scrolls_down_and_never_sideways(page):
    page.set_viewport_size({"width": 360, "height": 740})

    def widths():
        return page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")

    assert widths() == [360, 360]
    prompt(page).fill("a cat face " * 4)
    opens(page, *PARTS)
    assert widths() == [360, 360]
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_label("Pictures").fill("4")
    page.get_by_role("button", name="Generate").click()  # always in reach
    made(page, 4)
    assert widths() == [360, 360]
    expect(page.locator("#tiles img").first).to_be_in_viewport()
    page.locator("#gallery button").first.click()
    inside = page.locator("#viewer").evaluate("each => [each.scrollWidth, each.clientWidth]")
    assert inside[0] <= inside[1]
    small = page.locator("#viewer button").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect().height).filter(each => each < 40)"
    )
    assert small == []  # large enough for a thumb
