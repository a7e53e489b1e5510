"""The texts of a picture's file: found where they are, and files that were made to do harm."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import sys
import time
import zlib
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from fuzz import bounded, nothing_executed
from PIL import Image, PngImagePlugin

from keras_sd.provenance import MAX_TEXT, read_provenance, texts
from keras_sd.provenance.texts import read_texts

GREY = np.full((64, 48, 3), 128, np.uint8)
LINE = "a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 48x64"


@contextmanager
def quickly(seconds: float = 5):
    """Less than this much time of the processor, of which an honest file takes milliseconds."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(path, *chunks: bytes, after: bool = False):
    """A picture with these chunks, before its pixels or after them."""
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, format="PNG")
    data = file.getvalue()
    at = len(data) - 12 if after else 8 + 25
    path.write_bytes(data[:at] + b"".join(chunks) + data[at:])
    return path


def zipped(name: str, text: bytes) -> bytes:
    return chunk(b"zTXt", name.encode() + b"\0\0" + zlib.compress(text))


def international(name: str, text: bytes, packed: bool) -> bytes:
    body = zlib.compress(text) if packed else text
    return chunk(b"iTXt", name.encode() + (b"\0\1\0" if packed else b"\0\0\0") + b"en\0N\0" + body)


# --- where they are -------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_texts_of_all_kinds_are_read(tmp_path, after):
    fox = "狐".encode()
    for made in (
        chunk(b"tEXt", b"parameters\0" + fox),
        zipped("parameters", fox),
        international("parameters", fox, False),
        international("parameters", fox, True),
    ):
        path = with_chunks(tmp_path / "p.png", made, after=after)
        assert read_texts(path) == ({"parameters": "狐"}, [])
    path = with_chunks(tmp_path / "p.png", chunk(b"tEXt", b"parameters\0" + "né".encode("latin-1")))
    assert read_texts(path) == ({"parameters": "né"}, [])


def test_texts_that_nobody_asks_for_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_unpacked", None)
    path = with_chunks(tmp_path / "p.png", zipped("XML:com.adobe.xmp", b"x"))
    assert read_texts(path) == ({}, [])


def test_the_first_of_two_counts(tmp_path):
    two = [chunk(b"tEXt", b"parameters\0" + each) for each in (b"one", b"two")]
    found, unread = read_texts(with_chunks(tmp_path / "p.png", *two))
    assert found == {"parameters": "one"}
    assert "twice" in unread[0]


def test_exif_of_a_png_is_read(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + LINE.encode("utf-16-be")
    Image.fromarray(GREY).save(tmp_path / "p.png", exif=exif.tobytes())
    assert read_provenance(tmp_path / "p.png").sampler == "Euler"


def test_what_is_no_such_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image"):
        read_provenance(tmp_path / "none.png")
    with pytest.raises(ValueError, match="a folder"):
        read_provenance(tmp_path)
    for content in (b"", b"GIF89a", b"\x89PNG", b"RIFF\0\0\0\0WAVE"):
        (tmp_path / "p.png").write_bytes(content)
        with pytest.raises(ValueError, match="no PNG, JPEG or WebP"):
            read_provenance(tmp_path / "p.png")
    Image.fromarray(GREY).save(tmp_path / "p.png")
    with pytest.raises(ValueError, match="does not say how it was made"):
        read_provenance(tmp_path / "p.png")


# --- hidden in pixels -----------------------------------------------------------------


def hide(path, content: bytes, *, where="A", packed=True, length=None, size=(64, 96)):
    """Writes as the descriptions say, bit by bit and column by column."""
    signature = f"stealth_{'png' if where == 'A' else 'rgb'}{'comp' if packed else 'info'}"
    body = gzip.compress(content) if packed else content
    bits = len(body) * 8 if length is None else length
    data = signature.encode() + struct.pack(">I", bits) + body
    stream = iter([byte >> (7 - i) & 1 for byte in data for i in range(8)])
    width, height = size
    pixels = np.full((height, width, 4 if where == "A" else 3), 254, np.uint8)
    for x in range(width):
        for y in range(height):
            for channel in (3,) if where == "A" else (0, 1, 2):
                pixels[y, x, channel] |= next(stream, 0)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("where", ["A", "RGB"])
@pytest.mark.parametrize("packed", [True, False])
def test_texts_in_the_lowest_bits_are_read(tmp_path, where, packed):
    path = hide(tmp_path / "p.png", LINE.encode(), where=where, packed=packed)
    assert read_provenance(path).prompt == "a fox"
    comment = json.dumps({"prompt": "a fox", "uc": "", "scale": 5, "seed": 9})
    made = json.dumps({"Software": "NovelAI", "Comment": comment, "other": "x"})
    path = hide(tmp_path / "q.png", made.encode(), where=where, packed=packed)
    found = read_provenance(path)
    assert (found.program, found.prompt, found.seed) == ("NovelAI", "a fox", 9)


def test_of_a_picture_with_too_many_pixels_none_is_decoded(tmp_path, monkeypatch):
    path = hide(tmp_path / "p.png", LINE.encode())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 96 - 1)  # where Pillow begins to warn
    assert read_provenance(path).prompt == "a fox"
    assert read_texts(path, 64 * 96 - 1) == ({}, [])
    assert read_texts(path.read_bytes(), 64 * 96)[0]


def test_a_hidden_text_that_is_damaged_or_too_long_is_said(tmp_path):
    def unread(content, **more):
        return read_texts(hide(tmp_path / "p.png", content, **more))[1]

    assert "too small" in unread(b"x", length=8 * 5000)[0]
    assert f"more than {MAX_TEXT}" in unread(b"x", length=2**32 - 1)[0]
    assert f"more than {MAX_TEXT}" in unread(b"\0" * (MAX_TEXT + 1), size=(512, 512))[0]
    assert "damaged" in unread(b"x" * 100, length=8 * 20)[0]
    assert "no JSON" in unread(b"{" * 1000)[0]


# --- harm -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_a_text_that_grows_without_end_is_left_out_and_the_others_are_read(tmp_path, kind):
    bomb = zlib.compress(b"\0" * 2**26)  # of 64 MB; some hundred kilobytes
    head = b"keras_sd\0\0" if kind == "zTXt" else b"keras_sd\0\1\0\0\0"
    path = with_chunks(
        tmp_path / "p.png",
        chunk(kind.encode(), head + bomb),
        chunk(b"tEXt", b"parameters\0" + LINE.encode()),
    )
    with bounded(), quickly():
        found = read_provenance(path)
    assert found.prompt == "a fox"
    assert any("keras_sd has more than" in each for each in found.unread)


def test_all_texts_together_are_bounded(tmp_path):
    many = [zipped(name, b"x" * (MAX_TEXT - 1)) for name in texts.NAMES]
    with bounded(), quickly():
        found, unread = read_texts(with_chunks(tmp_path / "p.png", *many))
    assert sum(map(len, found.values())) <= texts.MAX_TEXTS
    assert 0 < len(found) < len(many)
    assert any("is left out" in each for each in unread)


def test_a_long_chunk_is_not_read(tmp_path):
    path = tmp_path / "p.png"
    with_chunks(path, chunk(b"tEXt", b"parameters\0" + b"x" * MAX_TEXT))
    found, unread = read_texts(path)
    assert found == {}
    assert f"more than {MAX_TEXT}" in unread[0]


def test_a_damaged_chunk_is_said(tmp_path):
    good = chunk(b"tEXt", b"parameters\0abc")
    for made, said in (
        (good[:-1] + b"?", "checksum"),
        (chunk(b"zTXt", b"parameters\0\0abc"), "damaged"),
        (chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"abc" * 99)[:-6]), "too early"),
        (chunk(b"eXIf", b"MM\0*\0\0"), "EXIF is damaged"),
    ):
        found, unread = read_texts(with_chunks(tmp_path / "p.png", made))
        assert found == {}
        assert said in unread[0]


def test_a_file_of_nothing_but_parts_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_MOST_PARTS", 100)
    many = [chunk(b"teSt", b"")] * 200
    found, unread = read_texts(
        with_chunks(tmp_path / "p.png", *many, chunk(b"tEXt", b"parameters\0x"))
    )
    assert (found, "more than 100 parts" in unread[0]) == ({}, True)


DEEP = 100_000
NESTED = ['{"a":' * DEEP, '{"request":' + "[" * DEEP + "]" * DEEP + "}"]


@pytest.mark.parametrize("content", NESTED, ids=["objects", "lists"])
@pytest.mark.parametrize(
    "name", ["keras_sd", "prompt", "workflow", "invokeai_metadata", "sd-metadata"]
)
def test_json_that_nests_deep_is_said(tmp_path, name, content):
    path = with_chunks(tmp_path / "p.png", zipped(name, content.encode()))
    with bounded(), quickly():
        found = read_provenance(path)
    assert any("no JSON: it nests too deep" in each for each in found.unread)


def test_json_that_nests_deep_among_settings_is_a_word(tmp_path):
    value = "[" * 500 + "]" * 500
    made = '{"positive_prompt": "a", "x": ' + value + "}"
    found = read_provenance(
        with_chunks(tmp_path / "p.png", zipped("invokeai_metadata", made.encode()))
    )
    assert found.prompt == "a"
    assert len(str(found.others["x"])) < 1100
    line = f"a\nSteps: 1, Sampler: b, Seed: 3, Hashes: {{{'[' * 99_999}"
    path = with_chunks(tmp_path / "p.png", zipped("parameters", line.encode()))
    with quickly():
        assert read_provenance(path).seed == 3


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def circles() -> dict[str, dict]:
    circle = {
        "1": node("SaveImage", images=["2", 0]),
        "2": node("VAEDecode", samples=["3", 0], vae=["2", 0]),
        "3": node(
            "KSampler",
            sampler_name="euler",
            cfg=7,
            seed=["4", 0],
            steps=["5", 0],
            positive=["6", 0],
            negative=["7", 0],
            model=["8", 0],
            latent_image=["3", 0],
        ),
        "4": node("Int", value=["4", 0]),
        "5": node("Int", value=["9", 0]),
        "9": node("Int", value=["5", 0]),
        "6": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["7", 0]),
        "7": node("ConditioningCombine", conditioning_1=["6", 1], conditioning_2=["10", 0]),
        "8": node("LoraLoader", lora_name=["8", 0], model=["8", 0]),
        "10": node("CLIPTextEncode", text="a fox", clip=["11", 0]),
        "11": node("CLIPSetLastLayer", clip=["11", 0], stop_at_clip_layer=["11", 1]),
    }
    return circle


def test_a_graph_of_circles_ends(tmp_path):
    path = with_chunks(tmp_path / "p.png", zipped("prompt", json.dumps(circles()).encode()))
    with quickly():
        found = read_provenance(path)
    assert (found.prompt, found.seed, found.num_steps) == ("a fox", None, None)


def chain(count):
    """Every sampler begins with the one before, every condition combines the two before."""
    made = {"s0": node("KSampler", sampler_name="euler", cfg=1, positive=["c0", 0])}
    made["c0"] = node("CLIPTextEncode", text="a", clip=["l0", 0])
    made["l0"] = node("LoraLoader", lora_name="x", clip=["l1", 0])
    for i in range(1, count):
        latent = {"latent_image": [f"s{i - 1}", 0], "positive": [f"c{i}", 0]}
        made[f"s{i}"] = node("KSampler", sampler_name="euler", cfg=1, **latent)
        two = {f"conditioning_{k}": [f"c{max(i - k, 0)}", k] for k in (1, 2)}
        made[f"c{i}"] = node("ConditioningCombine", **two)
        made[f"l{i}"] = node("LoraLoader", lora_name=f"x{i}", clip=[f"l{i + 1}", 0])
    made["s0"]["inputs"]["positive"] = [f"c{count - 1}", 0]
    made["9"] = node("SaveImage", images=[f"s{count - 1}", 0])
    return made


@pytest.mark.parametrize("count", [3000, 5000])
def test_a_graph_of_thousands_of_nodes_takes_no_longer_than_its_length(tmp_path, count):
    path = with_chunks(tmp_path / "p.png", zipped("prompt", json.dumps(chain(count)).encode()))
    with quickly():
        found = read_provenance(path)
    assert len(found.unread) <= 200
    assert len(found.others) <= 200
    if count == 3000:
        assert found.sampler == "euler"
    else:
        assert "more than 10000 nodes" in found.unread[0]


LONG = 2**18 - 100
LINES = {
    "words": "a" * LONG,
    "spaces": "a" + " " * LONG,
    "colons": "Steps:" + ":" * LONG,
    "commas": "Steps: 1, Sampler: a, Seed: 2" + "," * LONG,
    "keys": ("ab: " * (LONG // 4))[:LONG],
    "pairs": "Steps: 1, " + ("ab: c, " * (LONG // 7)),
    "quotes": "Steps: 1, " + ('ab: ", ' * (LONG // 7)),
    "braces": "Steps: 1, " + ("ab: {, " * (LONG // 7)),
    "objects": "Steps: 1, " + ('ab: {"c":[1, ' * (LONG // 13)),
    "lines": "Steps: 1\n" * (LONG // 9),
    "brackets": "(" * LONG,
    "negatives": "Negative prompt:\n" * (LONG // 17),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_no_line_of_settings_takes_long(tmp_path, line):
    path = with_chunks(tmp_path / "p.png", zipped("parameters", line.encode()))
    with quickly():
        found = read_provenance(path)
    assert len(found.unread) <= 200
    assert len(found.others) <= 200


@pytest.mark.parametrize("name", ["parameters", "Dream"])
def test_a_text_that_is_too_long_to_take_apart_is_said(tmp_path, name):
    path = with_chunks(tmp_path / "p.png", zipped(name, b"a" * (MAX_TEXT - 1)))
    with quickly():
        found = read_provenance(path)
    assert any("is not taken apart" in each for each in found.unread)


def test_no_path_in_a_picture_is_opened(tmp_path, imported):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    made = {"model": str(secret), "autoencoder": str(secret), "request": {"prompts": ["a"]}}
    graph = {"1": node("KSampler", sampler_name=str(secret), cfg=1, latent_image=["2", 0])}
    graph["2"] = node("LoadImage", image=str(secret))
    for name, content in (("keras_sd", made), ("prompt", graph)):
        path = with_chunks(tmp_path / "p.png", zipped(name, json.dumps(content).encode()))
        with nothing_executed(), only_opens(path):
            found = read_provenance(path)
        assert str(secret) in json.dumps(found.to_dict())


@contextmanager
def only_opens(path):
    opened: list[str] = []
    watching = [True]

    def watch(event, arguments):
        if watching and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(watch)
    try:
        yield
    finally:
        watching.clear()
    assert {each for each in opened if each.startswith(str(path.parent))} == {str(path)}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut out, doubled, or the end missing."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(made))
        what = chance.randrange(4)
        if what == 0:
            made[at] = chance.randrange(256)
        elif what == 1:
            del made[at : at + chance.randint(1, 20)]
        elif what == 2:
            made[at:at] = made[at : at + chance.randint(1, 200)]
        else:
            made[at : at + 4] = chance.randbytes(4)
    return bytes(made[: chance.randrange(len(made))] if chance.random() < 0.2 else made)


def examples(tmp_path) -> list[bytes]:
    graph = json.dumps(circles()).encode()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + LINE.encode("utf-16-be")
    exif[0x0110] = "prompt:" + graph.decode()
    made = [
        with_chunks(
            tmp_path / "p.png",
            *(
                chunk(b"tEXt", b"parameters\0" + LINE.encode()),
                zipped("keras_sd", b'{"request": 1}'),
            ),
            *(international("prompt", graph, True), chunk(b"eXIf", exif.tobytes()[6:])),
        ),
    ]
    for ending in ("jpg", "webp"):
        Image.fromarray(GREY).save(tmp_path / f"p.{ending}", exif=exif)
        made.append(tmp_path / f"p.{ending}")
    made.append(hide(tmp_path / "h.png", LINE.encode()))
    return [path.read_bytes() for path in made]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Pillow imports the readers of formats when it first needs them, Python its encodings."""
    for encoding in ("utf-8", "latin-1", "utf-16-be", "utf-16-le"):
        "".encode(encoding)
    folder = tmp_path_factory.mktemp("first")
    for data in (*examples(folder), b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"):
        (folder / "one").write_bytes(data)
        with suppress(ValueError):
            read_provenance(folder / "one")


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("which", range(4), ids=["png", "jpg", "webp", "hidden"])
def test_damaged_files_are_refused_or_read(tmp_path, which, count, imported):
    data = examples(tmp_path)[which]
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    read = 0
    for seed in range(count):
        path, chance = tmp_path / "damaged", random.Random(f"{which} {seed}")
        if which < 3:
            path.write_bytes(damaged(data, chance))
        else:  # what is hidden, where the picture itself is whole
            flipped = pixels.copy()
            for _ in range(chance.randint(1, 3)):
                flipped[chance.randrange(96), chance.randrange(12), 3] ^= 1
            Image.fromarray(flipped).save(path, format="PNG", compress_level=1)
        with nothing_executed(), quickly():
            try:
                found = read_provenance(path)
            except ValueError:
                continue
        json.dumps(found.to_dict(), allow_nan=False)
        read += 1
    assert 0.05 * count < read <= count


def test_the_examples_are_read_whole(tmp_path):
    for data in examples(tmp_path):
        (tmp_path / "whole").write_bytes(data)
        assert read_provenance(tmp_path / "whole").prompt == "a fox"


def test_pillow_writes_what_is_read_here(tmp_path):
    made = PngImagePlugin.PngInfo()
    made.add_text("parameters", LINE, zip=True)
    made.add_itxt("prompt", json.dumps(circles()), zip=True)
    Image.fromarray(GREY).save(tmp_path / "p.png", pnginfo=made)
    found, unread = read_texts(tmp_path / "p.png")
    assert (found["parameters"], unread) == (LINE, [])
    assert json.loads(found["prompt"]) == circles()
