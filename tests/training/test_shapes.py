"""The trainings of recipes/shapes on the model in the package: each learns what it should."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from keras_sd.embeddings import open_embedding
from keras_sd.model import Model
from keras_sd.training.run import train

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the recipes are in no package

from recipes.shapes import cyanotype, draw  # noqa: E402
from recipes.shapes.measure import held_loss  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    draw.main(folder)
    for path in (ROOT / "recipes" / "shapes").glob("*.toml"):
        shutil.copy(path, folder)
    return folder


def trained(folder, name):
    began = time.perf_counter()
    made = train(folder / f"{name}.toml", report=print)
    print(f"{name}: {time.perf_counter() - began:.0f} s")
    return made


def loss(folder, model, pictures, **options):
    found = held_loss(model, folder / "drawings" / pictures, folder / "latents", **options)
    print(f"{pictures}: {found:.5f}")
    return found


def test_fine_tuning_learns_the_drawings(folder):
    before = loss(folder, Model.from_preset("emoji"), "shapes-held")
    made = trained(folder, "fine-tune")
    for path in (*made.files, *made.averaged):
        assert loss(folder, Model.from_preset(path), "shapes-held") < 0.8 * before
    assert (folder / "out" / "fine-tune" / "samples" / "00000040.png").is_file()


def test_a_lora_learns_the_drawings(folder):
    model = Model.from_preset("emoji")
    before = loss(folder, model, "shapes-held")
    one, two, *of_peft = trained(folder, "lora").files
    for paths in ([one], [two], of_peft):
        model.merge_adapters(*paths)
        assert loss(folder, model, "shapes-held") < 0.8 * before
    model.merge_adapters()
    assert loss(folder, model, "shapes-held") == before


def test_a_lora_learns_a_style(folder):
    cyanotype.main(folder)
    model = Model.from_preset("emoji")
    before = loss(folder, model, "cyanotype-held")
    file = trained(folder, "cyanotype").files[0]
    model.merge_adapters(file)
    assert loss(folder, model, "cyanotype-held") < 0.6 * before
    told, plain = cyanotype.measure(file)
    print(f"off the colours of a print: {told:.2f}, without it {plain:.2f}")
    assert told < 0.5 * plain


def test_a_word_learns_its_thing(folder):
    model = Model.from_preset("emoji")
    made = trained(folder, "word")
    vectors = {"text_encoder": open_embedding(made.files[0]).vectors}
    named = model.with_embeddings(made.files[0])
    learned = loss(folder, named, "word-held", vectors=vectors)
    assert learned < 0.9 * loss(folder, model, "word-held", caption="a doughnut")


def test_dreambooth_learns_its_thing_and_keeps_the_kind(folder):
    model = Model.from_preset("emoji")
    before = loss(folder, model, "thing-held")
    made = trained(folder, "dreambooth")
    kind = folder / "out" / "dreambooth" / "prior"
    learned = Model.from_preset(made.files[0])
    assert loss(folder, learned, "thing-held") < 0.7 * before
    for path in kind.iterdir():
        path.with_suffix(".txt").write_text("a doughnut")
    kept = [held_loss(each, kind, folder / "latents") for each in (model, learned)]
    print(f"the kind: {kept[0]:.5f}, then {kept[1]:.5f}")
    assert kept[1] < 1.3 * kept[0]
