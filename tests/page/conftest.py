"""The page in Chromium, against the program itself: `keras-sd serve` with the embedded model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_sd.config import EMOJI

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
TOKEN = "of-the-tests"
SECONDS = 30  # for a picture of the small model on a busy machine
sync_api.expect.set_options(timeout=1000 * SECONDS)

# Chromium's own line for an answer that the page understands: a wrong field, or a full queue.
REFUSED = re.compile(r"error: Failed to load resource: .* a status of (422|503) \(.*\)$")


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """A folder with one that changes what the model makes of words, by PEFT's names."""
    place = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    width, context = EMOJI.unet.widths[1], EMOJI.text_encoder.width
    numbers = np.random.default_rng(0)
    shapes = {"lora_A": (4, context), "lora_B": (width, 4)}
    tensors = {
        f"{place}.{name}.weight": numbers.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    folder = tmp_path_factory.mktemp("adapters")
    save_file(tensors, folder / "style.safetensors")
    return folder


@pytest.fixture(scope="session")
def address(adapters):
    """Of a server that runs as long as the tests; it says so on its first line."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    main = "from keras_sd.cli import main; raise SystemExit(main())"
    options = ("serve", "--port", "0", "--grace", "0", "--max-waiting", "4", "--token", TOKEN)
    options += ("--adapters-dir", str(adapters))
    environment = {"KERAS_BACKEND": "torch", **os.environ}
    with subprocess.Popen(
        [sys.executable, "-c", main, *options], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline().strip()
        address, _, token = line.partition("?token=")
        assert address.startswith("http://127.0.0.1:"), line
        assert token == TOKEN
        yield address
        server.terminate()


@pytest.fixture(scope="session")
def browser():
    """One for all tests."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser):
    """A browser that knows nothing of the tests before."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
        reduced_motion="reduce",
    )
    context.set_default_timeout(1000 * SECONDS)
    yield context
    context.close()


@pytest.fixture
def opened(context, address):
    """Opens the page; at the end nothing was asked of another host, and the console is empty."""
    asked, said, expected = [], [], [REFUSED]

    def open_page():
        page = context.new_page()
        page.expected = expected
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.goto(f"{address}?token={TOKEN}")
        page.wait_for_selector("html[data-begun]", state="attached")
        return page

    yield open_page
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert asked
    assert [each for each in said if not any(one.match(each) for one in expected)] == []


@pytest.fixture
def page(opened):
    """The page, open."""
    return opened()


@pytest.fixture
def pictures(tmp_path):
    """A folder for files."""
    return Path(tmp_path)
