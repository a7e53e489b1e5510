"""Makes the screenshots of docs/page.md, in Chromium, with the larger embedded model.

KERAS_BACKEND=torch python tests/page/make_screenshots.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from browsing import begun, made, opens, prompt
from conftest import CHROMIUM
from PIL import Image
from playwright.sync_api import expect, sync_playwright

FOLDER = Path(__file__).parents[2] / "docs" / "images"
expect.set_options(timeout=120_000)


def draw(page, text, count, *, steps=20, seed=3):
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill(f"{steps}")
    page.get_by_label("Seed", exact=True).fill(f"{seed}")
    page.locator("#part-settings").evaluate("each => each.open = false")
    prompt(page).fill(text)
    page.get_by_role("button", name="Generate").click()
    made(page, count)


def light(page):
    texts = ("a 3d render of a fox on purple", "pixel art of a rocket on dark green")
    texts += ("a sticker of an octopus on light blue", "a flat drawing of a mushroom on yellow")
    for count, text in enumerate(texts, 1):
        draw(page, text, count)
    page.get_by_label("Pictures").evaluate("each => each.value = 4")
    draw(page, "a 3d render of a rocket on yellow", 8, seed=5)
    page.get_by_label("Pictures").evaluate("each => each.value = 1")
    page.mouse.move(0, 0)
    save(page, "page-light.png")


def dark(page):
    page.emulate_media(color_scheme="dark")
    prompt(page).fill("a 3d render of a whale on light blue")
    page.get_by_role("button", name="Generate").click()
    prompt(page).fill("a 3d render of a zeppelin on red")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step (8|9|1\d) of 20"))
    expect(page.locator("#queue li")).to_have_count(2)
    save(page, "page-dark.png")
    made(page, 10)


def inpaint(page):
    """A fox, to the right of which a rocket is painted."""
    page.emulate_media(color_scheme="light")
    page.locator("#gallery button").nth(9).click()
    page.get_by_role("button", name="Paint on it").click()
    opens(page, "fit", "masking")
    page.get_by_label("Right", exact=True).fill("96")
    page.get_by_role("button", name="Extend").click()
    page.get_by_label("Draw its surroundings alone").check()
    page.get_by_label("Surroundings, pixels").fill("8")
    page.get_by_label("Blur, pixels").fill("3")
    prompt(page).fill("a 3d render of a rocket on purple")
    page.get_by_role("button", name="Generate").click()
    made(page, 11)
    for part in ("fit", "masking"):
        page.locator(f"#part-{part}").evaluate("each => each.open = false")
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.6 * box["height"])
    save(page, "page-inpaint.png")
    page.get_by_label("Draw its surroundings alone").evaluate("each => each.checked = false")
    page.get_by_role("button", name="Remove it").click()
    page.locator("#part-start").evaluate("each => each.open = false")


def grid(page):
    prompt(page).fill("a 3d render of a fox on purple")
    opens(page, "grid")
    page.get_by_label("Columns", exact=True).select_option("num_steps")
    page.get_by_label("Columns: values").fill("3, 6, 20")
    page.get_by_label("Rows", exact=True).select_option("words")
    page.get_by_label("Rows: values").fill("a 3d render, pixel art, a sticker")
    page.get_by_role("button", name="Draw the grid").click()
    made(page, 12)
    page.mouse.move(0, 0)
    page.set_viewport_size({"width": 1200, "height": 720})
    page.evaluate("scrollTo(0, 0)")
    save(page, "page-grid.png")
    page.locator("#part-grid").evaluate("each => each.open = false")


def phone(page):
    page.set_viewport_size({"width": 360, "height": 720})
    draw(page, "a 3d render of a fox on purple", 13)
    page.evaluate("scrollTo(0, 0)")
    save(page, "page-phone.png")
    page.locator("#gallery button").nth(3).click()
    save(page, "page-phone-picture.png")


def save(page, name):
    page.wait_for_timeout(400)
    path = FOLDER / name
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").save(path, optimize=True)


def main():
    """Starts a server, and takes the pictures of its page."""
    command = "from keras_sd.cli import main; raise SystemExit(main())"
    options = ("serve", "--model", "emoji-128", "--port", "0", "--grace", "0")
    with subprocess.Popen(
        [sys.executable, "-c", command, *options], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            take(server.stdout.readline().strip())
        finally:
            server.terminate()


def take(address):
    """All of them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(address)
        begun(page)
        for each in (light, dark, inpaint, grid, phone):
            each(page)
        browser.close()


if __name__ == "__main__":
    main()
