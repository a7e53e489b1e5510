"""Tables of prompts: how rows become requests, which are drawn together, and what is recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from keras_sd.image import save_png
from keras_sd.tables.record import MANIFEST, Record
from keras_sd.tables.rows import chunks_of, joined, read_rows


def table(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_a_request(tmp_path):
    path = table(
        tmp_path,
        "id,prompt,negative,seed,steps,guidance,sampler,height,guidance_interval,shop\n"
        'one,"a cat, a dog",red,7,5,2.5,ddim:eta=1,64,"[0.5, 4]",x\n'
        ",a rocket,,,,,,,,\n",
    )
    first, second = read_rows(path, seed=40, defaults={"num_steps": 9, "height": 32})
    assert (first.number, first.id, second.id) == (0, "one", "000001")
    assert (first.kept, second.kept) == ({"shop": "x"}, {"shop": ""})
    request = first.request
    assert request.prompts == ("a cat, a dog",)
    assert request.negative_prompts == ("red",)
    assert request.images == ((7, 0),)
    assert (request.num_steps, request.guidance_scale, request.height) == (5, 2.5, 64)
    assert request.sampler == "ddim:eta=1"
    assert request.guidance_interval == (0.5, 4)
    request = second.request
    assert (request.images, request.num_steps, request.height) == (((41, 0),), 9, 32)
    assert request.sampler is None


def test_every_format_gives_the_same(tmp_path):
    cells = [{"prompt": "a cat", "num_steps": 4, "id": "x"}, {"prompt": "ä 🐸", "seed": 9}]
    lines = table(tmp_path, "\n".join(map(json.dumps, cells)), "a.jsonl")
    commas = table(tmp_path, "id,prompt,num_steps,seed\nx,a cat,4,\n,ä 🐸,,9\n")
    found = [read_rows(path) for path in (lines, commas)]
    assert [[row.request for row in rows] for rows in found] == [
        [row.request for row in found[0]]
    ] * 2
    assert [row.id for row in found[1]] == ["x", "000001"]
    text = read_rows(table(tmp_path, "a cat\n\na dog, big\n", "a.txt"))
    assert [row.request.prompts[0] for row in text] == ["a cat", "a dog, big"]


def test_parquet_is_read_where_pyarrow_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = {"prompt": ["a cat", "a dog"], "num_steps": [4.0, None], "seed": [None, 3]}
    parquet.write_table(pyarrow.table(cells), tmp_path / "a.parquet")
    first, second = read_rows(tmp_path / "a.parquet")
    assert (first.request.num_steps, first.request.images) == (4, ((0, 0),))
    assert (second.request.num_steps, second.request.images) == (None, ((3, 0),))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="no Parquet file"):
        read_rows(tmp_path / "b.parquet")


def test_pictures_of_a_row_lie_beside_the_table(tmp_path):
    import numpy as np

    save_png(tmp_path / "in.png", np.zeros((32, 32, 3), np.uint8))
    path = table(tmp_path, "prompt,image,strength\na cat,in.png,0.5\na dog,gone.png,\na,,0.5\n")
    first, second, third = read_rows(path)
    assert first.request.start.strength == 0.5
    assert first.request.start.pictures[0].data.shape == (32, 32, 3)
    assert "gone.png" in second.error
    assert "is of an image" in third.error


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,x,0", "num_steps is a whole number from 1"),
        ("a,x,many", "num_steps is a whole number"),
        ("../a,x,", "names a file"),
        ("a/b,x,", "names a file"),
        ("a.,x,", "names a file"),
        ("con.b,x,", "Windows"),
        (f"{'字' * 90},x,", "200 bytes"),
    ],
)
def test_a_fault_is_of_its_row(tmp_path, line, says):
    rows = read_rows(table(tmp_path, f"id,prompt,steps\n{line}\nb,a cat,4\n"))
    assert rows[0].request is None
    assert says in rows[0].error
    assert rows[1].error is None


def test_names_are_looked_up_before_anything_is_drawn(tmp_path):
    rows = read_rows(table(tmp_path, "prompt,sampler,schedule\na,dimm,\nb,,karas\nc,ddim,karras\n"))
    assert "dimm" in rows[0].error
    assert "karas" in rows[1].error
    assert rows[2].error is None


def test_whole_numbers_may_have_a_point_and_what_is_kept_is_json(tmp_path):
    (row,) = read_rows(table(tmp_path, "prompt,height,seed,steps\na cat,64.0,3.0,5.0\n"))
    assert (row.request.height, row.request.images, row.request.num_steps) == (64, ((3, 0),), 5)
    (row,) = read_rows(table(tmp_path, '{"prompt": "a", "score": NaN}', "a.jsonl"))
    assert row.kept == {"score": None}


def test_a_picture_that_rows_share_is_read_once(tmp_path):
    import numpy as np

    save_png(tmp_path / "in.png", np.zeros((32, 32, 3), np.uint8))
    one, two = read_rows(table(tmp_path, "prompt,image\na,in.png\nb,in.png\n"))
    assert one.request.start.pictures[0].data is two.request.start.pictures[0].data
    assert one.request.start.pictures[0].name == "in.png"


def test_an_id_is_of_one_row(tmp_path):
    first, second = read_rows(table(tmp_path, "id,prompt\na,x\nA,y\n"))
    assert first.error is None
    assert "another row's" in second.error
    assert second.id == "000001"


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("text\nx\n", "a.csv", "no column prompt"),
        ("", "a.csv", "no column prompt"),
        ("prompt\n", "a.csv", "has no rows"),
        ("prompt,steps\nx\n", "a.csv", "line 2: another number"),
        ("prompt,steps\nx,1,2\n", "a.csv", "line 2: another number"),
        ("steps,num_steps,prompt\n1,2,x\n", "a.csv", "twice"),
        ('prompt\na\n"x\n', "a.csv", "line 2"),
        ('{"prompt": "x"}\n[1]\n', "a.jsonl", "line 2 is no object"),
        ("{\n", "a.jsonl", "line 1 is no JSON"),
        ("[" * 100_000, "a.jsonl", "no JSON"),
        ("x", "a.xls", "no table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, name, says):
    with pytest.raises(ValueError, match=says):
        read_rows(table(tmp_path, text, name))
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "gone.csv")


def test_a_table_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"prompt\n\xff\xfe\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_rows(tmp_path / "a.csv")


def test_rows_that_differ_in_text_alone_are_drawn_together(tmp_path):
    path = table(
        tmp_path,
        "prompt,steps,seed,negative\na,4,,\nb,4,9,x\nc,5,,\nd,4,,\ne,5,,\nf,4,,\ng,wrong,,\n",
    )
    rows = read_rows(path)
    chunks = chunks_of(rows, 3)
    assert [[row.number for row in chunk] for chunk in chunks] == [[0, 1, 3], [2, 4], [5]]
    request = joined(chunks[0])
    assert request.prompts == ("a", "b", "d")
    assert request.negative_prompts == ("", "x", "")
    assert request.images == ((0, 0), (9, 0), (3, 0))
    assert request.num_steps == 4


def rows_of(tmp_path, count):
    return read_rows(table(tmp_path, "prompt,shop\n" + "x,s\n" * count))


def test_the_record_has_each_row_once(tmp_path):
    rows, folder = rows_of(tmp_path, 4), tmp_path / "out"
    record = Record(folder)
    with record.alone({"table": "t"}):
        assert record.done() == set()
        for name in "abc":
            (folder / f"{name}.png").touch()
        record.write(rows[2:], [{"file": "c.png"}, {"error": "no"}])
        assert record.done() == {2, 3}
        record.write(rows[:2], [{"file": "a.png"}, {"file": "b.png"}])
        record.write(rows[:2], [{"file": "a.png"}, {"file": "b.png"}])  # drawn again
        assert record.finish([]) == (3, 1)
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2, 3]
    assert lines[0] == {"row": 0, "id": "000000", "file": "a.png", "kept": {"shop": "s"}}
    assert lines[3]["error"] == "no"
    # A picture that is gone is drawn again, with those beside it.
    (folder / "a.png").unlink()
    assert record.done() == {2, 3}
    # A row that was drawn, and is wrong now, has one line.
    record.finish([replace(rows[0], request=None, error="its picture is gone")])
    assert len((folder / MANIFEST).read_text().splitlines()) == 4


def test_a_folder_is_of_one_job(tmp_path):
    record = Record(tmp_path / "out")
    busy = pytest.raises(ValueError, match="Another process")
    with record.alone({"table": "t", "batch": 4}), busy, record.alone({"table": "t"}):
        pass
    with record.alone({"table": "t", "batch": 4}):
        pass
    other = pytest.raises(ValueError, match="batch was 4, now 8")
    with other, Record(tmp_path / "out").alone({"table": "t", "batch": 8}):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.png").touch()
    with pytest.raises(ValueError, match="not empty"):
        Record(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    Record(tmp_path / "empty")
