"""The page's files: a browser gets all of them from the server, and nothing from elsewhere.

What they do is tested in a browser, by the session `page`.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from keras_sd.serve.static import page_files

FOLDER = resources.files("keras_sd.serve") / "page"
FILES = {each.name: each.read_text(encoding="utf-8") for each in FOLDER.iterdir()}
HTML = FILES["index.html"]
# The name of a format, which is not fetched.
SVG = 'xmlns="http://www.w3.org/2000/svg"'


class Elements(HTMLParser):
    """All elements of a page, as (tag, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


ELEMENTS = Elements(HTML).found


def referred():
    """Names of files that the page or another file asks for."""
    for _, attributes in ELEMENTS:
        for name in ("href", "src"):
            if attributes.get(name, "").startswith("page/"):
                yield attributes[name].removeprefix("page/")
    for name, text in FILES.items():
        if name.endswith(".js"):
            yield from re.findall(r'from "\./([^"]+)"', text)


def test_each_file_is_served_and_each_is_asked_for():
    served = page_files()
    assert set(served) == {"/"} | {f"/page/{name}" for name in FILES if name != "index.html"}
    assert set(referred()) == set(FILES) - {"index.html"}
    assert served["/"].data.decode() == HTML
    assert served["/page/app.js"].kind.startswith("text/javascript")


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name):
    text = FILES[name].replace(SVG, "")
    assert not re.search(r"""(https?:)?//[a-z0-9-]+\.[a-z]|https?:|url\(|@import""", text)
    assert len(text.splitlines()) < 500
    if name.endswith(".js"):
        # A text of a client or of a picture is never taken for HTML, or for a program.
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        # Behind a prefix of a proxy an address from the root leads elsewhere.
        assert not re.search(r"""["'`]/api""", text)


def test_the_policy_of_the_server_forbids_nothing_that_the_page_does():
    for tag, attributes in ELEMENTS:
        assert tag != "style"
        assert tag != "script" or "src" in attributes
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_ids_are_of_one_element_and_those_that_are_meant_are_there():
    ids = [attributes["id"] for _, attributes in ELEMENTS if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in ELEMENTS:
        for name in ("for", "aria-describedby", "aria-labelledby"):
            assert set(attributes.get(name, "").split()) <= set(ids)
    for name, text in FILES.items():
        if name.endswith(".js"):
            made = set(re.findall(r'\bid: "([a-z_-]+)"', text))
            wanted = set(re.findall(r'byId\("([^"`$]+)"\)', text))
            assert wanted <= set(ids) | made, name


def test_every_field_of_the_page_has_a_label():
    labelled = {attributes.get("for") for tag, attributes in ELEMENTS if tag == "label"}
    within = set(re.findall(r'<label[^>]*><input id="([^"]+)"', HTML))
    fields = [each for tag, each in ELEMENTS if tag in ("input", "select", "textarea")]
    assert len(fields) > 35
    for each in fields:
        if each.get("type") != "radio" and "aria-label" not in each:
            assert each["id"] in labelled | within, each


def test_a_name_of_a_field_is_one_of_the_api():
    from fake_source import about

    from keras_sd.serve.own_form import form

    tags = ("input", "select", "textarea")
    fields = [each for tag, each in ELEMENTS if tag in tags and each.get("type") != "radio"]
    names = {each["name"] for each in fields if "name" in each}
    assert names <= set(form(about().limits).fields)
    assert {"prompt", "seed", "sampler", "strength", "only_masked", "clip_skip"} <= names
