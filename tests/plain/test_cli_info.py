"""`keras-sd info`: what it prints, without Keras."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image, PngImagePlugin

from keras_sd import cli
from keras_sd.config import Defaults
from keras_sd.forms import request_of
from keras_sd.image import save_png

GREY = np.full((64, 48, 3), 128, np.uint8)


def write(path, **texts):
    made = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        made.add_text(name, text)
    Image.fromarray(GREY).save(path, pnginfo=made)
    return str(path)


def test_a_row_a_fact(tmp_path, capsys):
    text = "a fox\nin snow\nSteps: 20, Sampler: Euler a, Seed: 7, Size: 48x64, Clip skip: 2, x"
    path = write(tmp_path / "p.png", parameters=text)
    assert cli.main(["info", path]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == f"{path}: A1111"
    assert [" ".join(row.split()) for row in rows] == [
        "prompt a fox",
        "in snow",
        "steps 20",
        "sampler Euler a",
        "seed 7",
        "size 48x64",
        "Clip skip 2",
        "not understood 'x' is no setting",
    ]


def test_of_ours_pictures_are_known_by_their_hash(tmp_path, capsys):
    request = request_of("a cat", image=GREY, seed=1, strength=0.5).resolved(Defaults())
    made = {"request": request.to_dict(), "model": "emoji", "dtype": "float16"}
    save_png(tmp_path / "p.png", GREY, {**made, "extended": {"left": 8}})
    assert cli.main(["info", str(tmp_path / "p.png")]) == 0
    said = capsys.readouterr().out
    (picture,) = request.start.pictures
    for words in (f"SHA-256 {picture.sha256}", "float16", "extended, left", "strength"):
        assert words in said


def test_json_has_all_of_it(tmp_path, capsys):
    request = request_of("a\ncat", seed=1).resolved(Defaults())
    save_png(tmp_path / "p.png", GREY, {"request": request.to_dict(), "model": "emoji"})
    assert cli.main(["info", str(tmp_path / "p.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["program"], found["prompt"], found["seed"]) == ("keras_sd", "a\ncat", 1)
    assert found["request"] == request.to_dict()


def test_nothing_in_a_picture_moves_the_cursor(tmp_path, capsys):
    evil = "a\x1b[2Jfox\rb\x9b31m\nSteps: 1, Sampler: \x1b[0m, Seed: 2, Evil\x1b: 3"
    made = json.dumps({"positive_prompt": "\x1b[1m", "\x1b]0;x\x07": "\u202e", "\ud800": 1})
    for texts in ({"parameters": evil}, {"invokeai_metadata": made}):
        assert cli.main(["info", write(tmp_path / "p.png", **texts)]) == 0
        said = capsys.readouterr().out
        assert all(char.isprintable() or char == "\n" for char in said)


def test_what_says_nothing_is_an_error(tmp_path, capsys):
    assert cli.main(["info", write(tmp_path / "p.png")]) == 2
    assert "does not say how it was made" in capsys.readouterr().err
    assert cli.main(["info", str(tmp_path / "none.png")]) == 2
    assert "There is no image" in capsys.readouterr().err
