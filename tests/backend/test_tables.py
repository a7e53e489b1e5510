"""A table of prompts is drawn once, wherever the drawing is cut off."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_turns import attending

from keras_sd.cli import main
from keras_sd.image import read_image
from keras_sd.provenance import read_provenance
from keras_sd.run import run
from keras_sd.tables import painter as painters
from keras_sd.tables.painter import Painter
from keras_sd.tables.record import MANIFEST, Record
from keras_sd.tables.rows import chunks_of, read_rows

pytestmark = [pytest.mark.usefixtures("without_tracing"), pytest.mark.once]

SIZE = {"height": 32, "width": 24, "num_steps": 2}
PROMPTS = ["a cat", "a dog", "do", "cat cat", "", "dog dog"]


@pytest.fixture(scope="module")
def model():
    return attending().model


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "a.jsonl"
    cells = [
        {"prompt": prompt, **({"steps": 3} if i == 3 else {})} for i, prompt in enumerate(PROMPTS)
    ]
    path.write_text("\n".join(map(json.dumps, cells)))
    return read_rows(path, seed=5, defaults=SIZE)


def drawn(model, rows, folder, size=2):
    """As the command draws: what is left of the rows. Gives the files by name."""
    record = Record(folder)
    with record.alone({}):
        done = record.done()
        for chunk in chunks_of(rows, size):
            if chunk[0].number not in done:
                Painter(model, folder, {"model": "tiny", "version": "0"}).draw(chunk)
        record.finish([row for row in rows if row.request is None])
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_row_has_the_picture_of_its_request(model, rows, tmp_path):
    drawn(model, rows, tmp_path / "out")
    for row in rows:
        *_, last = run(model, row.request)
        picture = read_image(tmp_path / "out" / f"{row.id}.png")
        assert np.abs(picture.astype(int) - np.asarray(last.image())[0]).max() <= 1
        found = read_provenance(tmp_path / "out" / f"{row.id}.png")
        assert found.request.prompts == row.request.prompts
        assert found.request.images == ((5 + row.number, 0),)
    lines = (tmp_path / "out" / MANIFEST).read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [f"{row.id}.png" for row in rows]


def test_cut_off_anywhere_it_ends_the_same(model, rows, tmp_path, monkeypatch):
    whole = drawn(model, rows, tmp_path / "whole")
    assert len(whole) == len(rows) + 1
    save, write = painters.save_png, Record.write
    for cut in range(10):  # six pictures and four chunks
        events = iter(range(100))

        def killed(function, *given, cut=cut, events=events):
            if next(events) == cut:
                raise KeyboardInterrupt
            return function(*given)

        folder = tmp_path / f"cut{cut}"
        with monkeypatch.context() as patch:
            patch.setattr(painters, "save_png", lambda *given: killed(save, *given))
            patch.setattr(Record, "write", lambda *given: killed(write, *given))
            with pytest.raises(KeyboardInterrupt):
                drawn(model, rows, folder)
        assert not (folder / MANIFEST).exists()
        assert drawn(model, rows, folder) == whole, cut


def test_a_row_that_cannot_be_drawn_is_named_and_the_others_drawn(model, tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text("prompt\na cat\n" + "cat " * 100 + "\na dog\n")
    rows = read_rows(path, defaults=SIZE)
    files = drawn(model, rows, tmp_path / "out", size=4)
    lines = list(map(json.loads, files[MANIFEST].decode().splitlines()))
    assert ["file" in line for line in lines] == [True, False, True]
    assert "tokens" in lines[1]["error"]
    assert "Row 1" in caplog.text


def test_a_number_that_is_not_finite_is_of_its_row(model, rows, tmp_path, monkeypatch):
    def bad(model, request, **more):
        if "a dog" in request.prompts:

            def steps():
                raise FloatingPointError("not finite")
                yield

            return steps()
        return run(model, request, **more)

    monkeypatch.setattr(painters, "run", bad)
    files = drawn(model, rows, tmp_path / "out", size=3)
    lines = list(map(json.loads, files[MANIFEST].decode().splitlines()))
    assert [line["row"] for line in lines if "error" in line] == [1]
    assert len(files) == len(rows)  # five pictures and the manifest


def test_a_row_does_not_depend_on_its_neighbours(model, tmp_path):
    """A long prompt beside it would bring it to more chunks of text, which the UNet sees."""
    path = tmp_path / "a.csv"
    path.write_text("prompt,seed\na cat,1\n" + "cat " * 100 + ",2\na dog,3\n")
    rows = read_rows(path, defaults={**SIZE, "prompt_style": "a1111"})
    drawn(model, rows, tmp_path / "out", size=4)
    for row in rows:
        *_, last = run(model, row.request)
        picture = read_image(tmp_path / "out" / f"{row.id}.png")
        assert np.abs(picture.astype(int) - np.asarray(last.image())[0]).max() <= 1, row.number


def test_a_picture_that_is_gone_is_drawn_again(model, rows, tmp_path):
    whole = drawn(model, rows, tmp_path / "out")
    (tmp_path / "out" / f"{rows[2].id}.png").unlink()
    assert drawn(model, rows, tmp_path / "out") == whole


def test_a_full_disk_is_no_end_of_the_record(model, rows, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(painters, "save_png", full)
        with pytest.raises(OSError, match="No space"):
            drawn(model, rows, tmp_path / "out")
    assert len(drawn(model, rows, tmp_path / "out")) == len(rows) + 1


def test_the_command_draws_a_table(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("keras_sd.model.Model.from_preset", lambda *given, **more: model)
    path, out = tmp_path / "a.csv", tmp_path / "out"
    path.write_text("prompt,steps,shop\na cat,,x\na dog,0,y\n")
    command = ["draw-file", str(path), "--output", str(out), "--size", "24x32", "--steps", "2"]
    assert main(command) == 2
    assert "1 of 2 rows are wrong" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--skip-wrong"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out / MANIFEST)
    assert "1 pictures, 1 rows without one" in printed.err
    first, second = map(json.loads, (out / MANIFEST).read_text().splitlines())
    assert first["request"]["num_steps"] == 2
    assert first["kept"] == {"shop": "x"}
    assert "num_steps" in second["error"]
    assert main([*command, "--skip-wrong"]) == 0
    assert "1 rows are done, 0 are left" in capsys.readouterr().err
    assert main([*command, "--skip-wrong", "--guidance", "3"]) == 2
    assert "defaults was" in capsys.readouterr().err


def test_the_command_says_at_its_end_that_rows_failed(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("keras_sd.model.Model.from_preset", lambda *given, **more: model)
    path = tmp_path / "a.txt"
    path.write_text("a cat\n" + "cat " * 100 + "\n")
    command = ["draw-file", str(path), "--output", str(tmp_path / "out"), "--size", "24x32"]
    assert main([*command, "--steps", "2"]) == 1
    assert "1 rows could not be drawn" in capsys.readouterr().err
