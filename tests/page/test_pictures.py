"""Pictures to start from, masks, the gallery, settings from files, grids."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from browsing import CAT, begun, made, opens, prompt
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import expect


def generate(page, count):
    page.get_by_role("button", name="Generate").click()
    made(page, count)


def quick(page, steps=3):
    opens(page, "settings")
    page.get_by_label("Steps", exact=True).fill(f"{steps}")
    page.get_by_label("Seed", exact=True).fill("7")


def view(page, number=0):
    """Opens a picture of the gallery, the newest first."""
    page.locator("#gallery button").nth(number).click()


def act(page, name):
    page.locator("#viewer-actions").get_by_role("button", name=name).click()


def saved(page, path):
    """The picture that is open, as its download."""
    with page.expect_download() as download:
        act(page, "Download")
    download.value.save_as(path)
    return path


def array(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def dropped(page, path, where):
    """A file dropped on one of the two places that show while it is dragged."""
    data = base64.b64encode(path.read_bytes()).decode()
    handle = page.evaluate_handle(
        """data => {
          const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
          return transfer;
        }""",
        data,
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": handle})
    target = page.locator(f"[data-drop={where}]")
    expect(target).to_be_visible()
    target.dispatch_event("drop", {"dataTransfer": handle})
    expect(target).to_be_hidden()


def test_only_the_painted_part_changes(page, pictures):
    prompt(page).fill(CAT)
    quick(page)
    generate(page, 1)
    view(page)
    before = array(saved(page, pictures / "before.png"))
    act(page, "Paint on it")
    page.get_by_label("Strength", exact=True).fill("1")
    prompt(page).fill("a rocket on a red background")

    page.get_by_role("button", name="Generate").click()
    mask = page.get_by_label("Mask: the part that is painted")
    expect(mask).to_have_accessible_description(re.compile("Nothing is painted"))

    mask.scroll_into_view_if_needed()
    box = mask.bounding_box()
    unit = box["width"] / 64
    page.mouse.move(box["x"] + 10 * unit, box["y"] + 10 * unit)
    page.mouse.down()
    page.mouse.move(box["x"] + 25 * unit, box["y"] + 10 * unit, steps=5)
    page.mouse.up()
    generate(page, 2)
    view(page)
    expect(page.locator("#viewer-settings")).to_contain_text("a picture and a mask")
    after = array(saved(page, pictures / "after.png"))
    changed = np.abs(after - before).max(axis=2) > 0
    radius = 13 / 2 + 1  # the brush of a picture of 64 pixels is 13
    rows, columns = np.nonzero(changed)
    assert changed[6:14, 8:26].mean() > 0.9
    assert rows.max() <= 10 + radius
    assert 10 - radius <= columns.min()
    assert columns.max() <= 25 + radius


def painted(page):
    """Pixels that the mask has."""
    return page.locator("#mask").evaluate(
        """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
          .filter((value, i) => i % 4 === 3 && value > 127).length"""
    )


def test_strokes_are_undone_erased_inverted_and_cleared(page, pictures):
    path = pictures / "white.png"
    Image.new("RGB", (64, 64), "white").save(path)
    dropped(page, path, "start")
    page.get_by_label("Paint a part").check()
    mask = page.locator("#mask")
    mask.scroll_into_view_if_needed()
    mask.focus()
    assert painted(page) == 0
    page.keyboard.press("Space")  # by keys: a dab in the middle
    dab = painted(page)
    assert 80 < dab < 200
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowLeft")
    assert painted(page) == dab  # nothing is painted between
    page.keyboard.press("x")
    expect(page.get_by_role("button", name="Eraser")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Space")
    assert painted(page) == 0
    page.keyboard.press("Control+z")
    assert painted(page) == dab
    page.get_by_role("button", name="Invert").click()
    assert painted(page) == 64 * 64 - dab
    page.get_by_role("button", name="Undo").click()
    assert painted(page) == dab
    page.get_by_role("button", name="Redo").click()
    assert painted(page) == 64 * 64 - dab
    page.locator("#brush-tools").get_by_role("button", name="Clear").click()
    assert painted(page) == 0


def test_a_picture_is_extended_and_what_was_there_stays(page, pictures):
    prompt(page).fill(CAT)
    quick(page)
    generate(page, 1)
    view(page)
    before = array(saved(page, pictures / "before.png"))
    act(page, "Start from it")
    opens(page, "fit")
    page.get_by_label("Left", exact=True).fill("24")
    page.get_by_label("Bottom", exact=True).fill("8")
    page.get_by_role("button", name="Extend").click()
    expect(page.locator("#status")).to_contain_text("88 × 72")
    assert painted(page) == 88 * 72 - 64 * 64
    generate(page, 2)
    view(page)
    after = array(saved(page, pictures / "after.png"))
    assert after.shape == (72, 88, 3)
    np.testing.assert_array_equal(after[:64, 24:], before)


def test_a_large_picture_is_brought_to_what_is_drawn(page, pictures):
    path = pictures / "large.png"
    noise = np.random.default_rng(0).integers(0, 255, (300, 420, 3), np.uint8)
    Image.fromarray(noise).save(path)
    dropped(page, path, "start")
    expect(page.locator("#status")).to_contain_text("420 × 300")
    expect(page.locator("#fit-brief")).to_have_text("64 × 64")
    opens(page, "fit")
    page.get_by_label("How it fits").select_option("keep")
    expect(page.locator("#fit-brief")).to_have_text("296 × 216")
    quick(page)
    page.get_by_label("How it fits").select_option("pad")
    generate(page, 1)


def test_the_settings_of_a_png_come_back(page, pictures):
    opens(page, "settings", "more")
    prompt(page).fill("a pig on yellow")
    opens(page, "negative")
    page.get_by_label("Negative prompt", exact=True).fill("red")
    page.get_by_label("Seed", exact=True).fill("18446744073709551615")  # no number of JavaScript
    page.get_by_label("Pictures").fill("2")
    page.get_by_label("Steps", exact=True).fill("3")
    page.get_by_label("Guidance", exact=True).fill("2.5")
    page.get_by_label("Size", exact=True).select_option("72x56")
    page.get_by_label("Sampler", exact=True).select_option("ddim")
    page.get_by_label("eta", exact=True).fill("0.3")
    page.get_by_label("Schedule", exact=True).select_option("karras")
    page.get_by_label("rho", exact=True).fill("5")
    page.get_by_label("Grammar of the prompts").select_option("a1111")
    page.get_by_label("Other settings").fill("empty_negative=zorb")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_label("Other settings")).to_have_accessible_description(
        re.compile("empty_negative .*zorb")
    )
    page.get_by_label("Other settings").fill("empty_negative=zeros")
    generate(page, 2)
    view(page)
    path = saved(page, pictures / "pig.png")
    expect(page.locator("#viewer-settings")).to_contain_text("18446744073709551615")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="The model's settings").click()
    prompt(page).fill("")
    page.get_by_label("Size", exact=True).select_option("64x64")
    dropped(page, path, "read")
    expect(page.locator("#status")).to_contain_text("made by keras_sd")
    found = {
        "Prompt": "a pig on yellow",
        "Negative prompt": "red",
        "Seed": "18446744073709551615",
        "Number in its row": "1",
        "Steps": "3",
        "Guidance": "2.5",
        "Width": "72",
        "Height": "56",
        "Sampler": "ddim",
        "eta": "0.3",
        "Schedule": "karras",
        "rho": "5",
        "Grammar of the prompts": "a1111",
        "Other settings": 'empty_negative="zeros"',
    }
    for label, value in found.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    page.get_by_label("Pictures").fill("1")
    generate(page, 3)
    view(page)
    again = saved(page, pictures / "again.png")
    assert np.abs(array(again) - array(path)).max() <= 1


def test_the_settings_of_another_program_come_and_what_is_not_here_is_named(page, pictures):
    path = pictures / "other.png"
    text = PngInfo()
    text.add_text(
        "parameters",
        "a pig\nNegative prompt: red\nSteps: 9, Sampler: DPM++ 2M, Schedule type: Zorb, "
        "CFG scale: 4, Seed: 11, Size: 64x64, Model: other",
    )
    Image.new("RGB", (64, 64)).save(path, pnginfo=text)
    opens(page, "settings", "negative")
    page.get_by_label("Pictures").fill("3")
    dropped(page, path, "read")
    expect(page.get_by_role("alert")).to_contain_text("The schedule “Zorb” is not installed here.")
    expect(prompt(page)).to_have_value("a pig")
    expect(page.get_by_label("Negative prompt", exact=True)).to_have_value("red")
    expect(page.get_by_label("Sampler", exact=True)).to_have_value("dpmpp_2m")
    expect(page.get_by_label("Schedule", exact=True)).to_have_value("trailing")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("9")


def test_a_png_without_settings_says_so(page, pictures):
    path = pictures / "plain.png"
    Image.new("RGB", (8, 8)).save(path)
    prompt(page).fill(CAT)
    dropped(page, path, "read")
    expect(page.get_by_role("alert")).not_to_be_empty()
    expect(prompt(page)).to_have_value(CAT)


def test_a_grid_is_made_of_single_pictures(page, pictures):
    prompt(page).fill("a cat face on red")
    quick(page)
    opens(page, "grid")
    page.get_by_label("Columns", exact=True).select_option("num_steps")
    page.get_by_label("Columns: values").fill("2, 3-4")
    page.get_by_label("Rows", exact=True).select_option("words")
    page.get_by_label("Rows: values").fill("dog, pig")
    page.get_by_role("button", name="Draw the grid").click()
    expect(page.get_by_label("Rows: values")).to_have_accessible_description(
        re.compile("“dog” is not in the prompts")
    )
    page.get_by_label("Rows: values").fill("cat face, pig")
    page.get_by_label("Keep each picture of it, too").check()
    page.get_by_role("button", name="Draw the grid").click()
    expect(page.locator("#status")).to_have_text("The grid is done: 6 pictures.")
    made(page, 7)
    view(page)
    expect(page.locator("#viewer-settings")).to_contain_text("cat face, pig")
    grid = array(saved(page, pictures / "grid.png"))
    page.get_by_role("button", name="Older").click()
    steps = page.locator("#viewer-settings")
    expect(steps).to_contain_text("a pig on red")
    height, width = grid.shape[:2]
    assert height > 2 * 192
    assert width > 3 * 192
    cells = [grid[-6 - 192 : -6, -6 - 192 - x : -6 - x].mean(axis=(0, 1)) for x in (0, 198)]
    assert all(cell[0] > cell[1] + 40 for cell in cells)  # red grounds
    page.keyboard.press("Escape")
    page.get_by_label("Rows", exact=True).select_option("sampler")
    page.get_by_label("Rows: samplers").select_option(["ddim", "euler"])
    page.get_by_label("Columns: values").fill("150")
    page.get_by_role("button", name="Draw the grid").click()
    page.get_by_role("button", name="Stop the grid").click()
    expect(page.locator("#status")).to_contain_text("The grid was stopped")
    expect(page.get_by_role("button", name="Draw the grid")).to_be_enabled()


def test_the_second_pass_and_enlarging(page, pictures):
    prompt(page).fill(CAT)
    quick(page)
    opens(page, "refine")
    page.get_by_label("Draw each picture again, larger").check()
    page.get_by_label("Times as large").fill("1.5")
    generate(page, 2)
    view(page)
    expect(page.locator("#viewer-settings")).to_contain_text("96 × 96")
    act(page, "Enlarge 2×")
    expect(page.locator("#viewer-status")).to_contain_text("192 × 192")
    made(page, 3)
    path = saved(page, pictures / "large.png")
    with Image.open(path) as image:
        assert image.size == (192, 192)
        assert "Steps: 3" in image.info["parameters"]  # its settings went along
    page.get_by_role("button", name="Older").click()
    small = saved(page, pictures / "small.png")
    with Image.open(small) as image:
        ours = array(path)
        theirs = np.asarray(image.convert("RGB").resize((192, 192), Image.Resampling.LANCZOS))
    assert np.abs(ours - theirs.astype(int)).mean() < 1


def test_an_adapter_is_added_to_the_prompt_and_changes_the_picture(page, pictures):
    prompt(page).fill(CAT)
    quick(page)
    opens(page, "adapters", "more")
    page.get_by_label("Grammar of the prompts").select_option("a1111")
    generate(page, 1)
    page.get_by_label("Grammar of the prompts").select_option("plain")
    page.get_by_label("Adapter", exact=True).select_option("style")
    page.get_by_label("Its strength here").fill("2")
    page.get_by_role("button", name="Add to the prompt").click()
    expect(prompt(page)).to_have_value(f"{CAT} <lora:style:2>")
    expect(page.get_by_label("Grammar of the prompts")).to_have_value("a1111")
    expect(page.locator("#prompt-unknown")).to_contain_text("Adapters: <lora:style:2>")
    generate(page, 2)
    view(page, 0)
    changed = array(saved(page, pictures / "changed.png"))
    page.get_by_role("button", name="Older").click()
    plain = array(saved(page, pictures / "plain.png"))
    assert np.abs(changed - plain).mean() > 2


def test_the_gallery_hands_things_on(page):
    prompt(page).fill(CAT)
    quick(page)
    generate(page, 1)
    page.get_by_role("button", name="A new seed each time").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")
    page.get_by_role("button", name="The seed of the last picture").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    prompt(page).fill("")
    view(page)
    act(page, "Copy settings")
    expect(page.locator("#viewer-status")).to_have_text("Copied.")
    assert "Seed: 7\n" in page.evaluate("navigator.clipboard.readText()")
    act(page, "Copy picture")
    expect(page.locator("#viewer-status")).to_have_text("Copied.")
    kinds = page.evaluate("navigator.clipboard.read().then(all => all.flatMap(x => x.types))")
    assert kinds == ["image/png"]
    act(page, "Use its settings")
    expect(prompt(page)).to_have_value(CAT)
    view(page)
    act(page, "Delete")
    page.get_by_role("button", name="Yes").click()
    made(page, 0)
    page.reload()
    begun(page)
    made(page, 0)


def test_a_pasted_picture_is_started_from(page, pictures):
    data = io.BytesIO()
    Image.new("RGB", (72, 64), "green").save(data, format="PNG")
    page.evaluate(
        """data => {
          const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
          window.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        base64.b64encode(data.getvalue()).decode(),
    )
    expect(page.locator("#start-brief")).to_have_text("72 × 64")
