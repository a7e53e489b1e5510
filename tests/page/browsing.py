"""What the tests of the page do again and again."""

from __future__ import annotations

from playwright.sync_api import expect

CAT = "a cat face on a blue background"


def begun(page):
    """Waits until the page's scripts have run."""
    page.wait_for_selector("html[data-begun]", state="attached")


def opens(page, *parts):
    """Unfolds parts of the form."""
    for part in parts:
        page.locator(f"#part-{part}").evaluate("each => each.open = true")


def prompt(page):
    """The field."""
    return page.get_by_label("Prompt", exact=True)


def made(page, count):
    """Waits until the gallery has so many pictures."""
    expect(page.locator("#gallery li")).to_have_count(count)
