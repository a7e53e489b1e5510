"""The config of a training: all that can be wrong with it is said before anything is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from keras_sd.checks import SettingError
from keras_sd.cli import main
from keras_sd.settings import settings
from keras_sd.training.config import _SECTIONS, Data, LoRASettings, TrainConfig, read_config
from keras_sd.training.examples import read_examples

ROOT = Path(__file__).parents[2]
WHOLE = """
model = "emoji"
output = "out"

[data]
folder = "pictures"
resolution = 64
buckets = false

[train]
method = "lora"
steps = 20
learning_rate = 1
ema = 0.99

[lora]
rank = 4

[prior]
caption = "a dog"

[samples]
prompts = ["a cat", "a dog"]
"""


def written(folder, text):
    path = folder / "train.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_a_config_with_paths_beside_it(tmp_path):
    config = read_config(written(tmp_path, WHOLE))
    assert config.model == "emoji"
    assert config.output == str(tmp_path / "out")
    assert config.data.folder == str(tmp_path / "pictures")
    assert config.data.latents is None
    assert config.train.learning_rate == 1.0
    assert config.lora == LoRASettings(rank=4)
    assert config.samples.prompts == ("a cat", "a dog")
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_model_that_lies_beside_the_file_is_a_path(tmp_path):
    (tmp_path / "mine").mkdir()
    config = read_config(written(tmp_path, WHOLE.replace('"emoji"', '"mine"')))
    assert config.model == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 20", "stepps = 20", r"\[train\] has no 'stepps'. Did you mean 'steps'"),
        ("[lora]", "[lorra]", "A training has no 'lorra'. Did you mean 'lora'"),
        ("steps = 20", "steps = 0", "train.steps is a whole number from 1 up, not 0"),
        ("steps = 20", 'steps = "20"', "train.steps is a whole number"),
        ("steps = 20", "steps = 20\nwarmup = 20", "train.warmup is less than the 20 steps"),
        ("resolution = 64", "resolution = 60", "data.resolution 60 is not a multiple of 8"),
        ('"lora"', '"lore"', "train.method is one of 'full', 'lora', 'textual_inversion'"),
        ("buckets = false", "", "data.buckets is false with a prior"),
        *(
            (
                '"lora"',
                f'"{method}"',
                f"prior.caption goes with full and lora; here only the {what}",
            )
            for method, what in (
                ("controlnet", "ControlNet's weights change"),
                ("textual_inversion", "word's vectors change"),
            )
        ),
        ('"lora"', '"full"', "lora.rank goes with the method 'lora', not 'full'"),
        (
            *("[prior]", '[textual_inversion]\ninitial = "dog"\n[prior]'),
            "textual_inversion.initial goes with the method 'textual_inversion', not 'lora'",
        ),
        (
            *("[prior]", '[controlnet]\nhint = "ready"\n[prior]'),
            "controlnet.hint goes with the method 'controlnet', not 'lora'",
        ),
        (
            *('caption = "a dog"', 'folder = "dogs"\nweight = 2'),
            "prior.folder goes with prior.caption, without which there is no prior",
        ),
        *(
            (
                *("[prior]", f'[textual_inversion]\ntoken = "{word}"\n[prior]'),
                "textual_inversion.token has a letter or a digit, at most 200 signs, and no mark",
            )
            for word in ("***", "<|endoftext|>", "a" * 201)
        ),
        (
            *('caption = "a dog"', 'caption = "a dog"\nfolder = "x/../pictures"'),
            r"data.folder is another folder than .*pictures, to which the pictures of the prior",
        ),
        (
            *('folder = "pictures"', 'folder = "out/samples"'),
            r"data.folder is another folder than .*samples, to which the samples are",
        ),
        (
            'method = "lora"',
            'method = "controlnet"\ntext_encoder = true',
            "here only the ControlNet's weights change",
        ),
        ("[prior]", '[controlnet]\nhint = "depth"\n[prior]', "controlnet.hint is one of 'canny'"),
        ('folder = "pictures"', "", "data.folder is a path"),
        ('folder = "pictures"', "folder = 3", "data.folder is a path"),
        ('model = "emoji"', "", "model is missing"),
        ('["a cat", "a dog"]', '"a cat"', "samples.prompts is a list of texts"),
        ('["a cat", "a dog"]', "3", "samples.prompts is a list of texts"),
        ("[data]", "[[data]]", "data is a table"),
        ("[data]", "[data", "is no TOML"),
        ('"lora"', '"textual_inversion"\ntext_encoder = true', "train.text_encoder"),
    ],
)
def test_what_does_not_fit_is_said_with_the_file_and_the_setting(tmp_path, old, new, message):
    assert old in WHOLE
    path = written(tmp_path, WHOLE.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as found:
        read_config(path)
    assert str(path) in str(found.value)


def test_a_section_that_is_wrong_has_the_error_of_its_setting():
    with pytest.raises(SettingError) as found:
        TrainConfig.from_dict(
            {"model": "m", "output": "o", "data": {"folder": "f"}, "lora": {"rank": 0}}
        )
    assert found.value.name == "lora.rank"


def test_settings_of_another_method_may_be_what_they_are_by_themselves():
    given = {"model": "m", "output": "o", "data": {"folder": "f"}, "lora": {"rank": 8}}
    assert TrainConfig.from_dict(given) == TrainConfig("m", "o", Data("f"))


def test_a_folder_of_hints_goes_with_those_that_are_ready():
    given = {"model": "m", "output": "o", "data": {"folder": "f"}}
    given |= {"train": {"method": "controlnet"}, "controlnet": {"folder": "hints"}}
    with pytest.raises(SettingError, match=r"controlnet.folder goes with the hint 'ready'; by 'c"):
        TrainConfig.from_dict(given)
    given["controlnet"]["hint"] = "ready"
    assert TrainConfig.from_dict(given).controlnet.ready


def test_the_page_has_every_setting_with_its_default_and_its_sentence():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.\w+)` \| [^|]+ \| ([^|]*) \| (.+) \|$", page, re.MULTILINE)
    wanted = []
    for section, kind in _SECTIONS.items():
        for name, each in settings(kind).items():
            default = {None: "", "": "needed", (): "`[]`"}.get(each.default)
            if default is None:
                default = f"`{json.dumps(each.default)}`"
            wanted.append((f"{section}.{name}", default, each.metadata["help"]))
    assert rows == wanted


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "shapes").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_page_shows_each_recipe_as_it_is(path):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"```toml\n{path.read_text(encoding='utf-8')}```" in page
    assert read_config(path).model == "emoji"


def test_drawings_are_made_with_captions(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from recipes.shapes import draw

    draw.main(tmp_path)
    folders = sorted((tmp_path / "drawings").iterdir())
    found = {folder.name: read_examples(folder) for folder in folders}
    assert {name: len(each) for name, each in found.items()} == {
        **dict.fromkeys(("shapes", "shapes-held"), 36),
        **dict.fromkeys(("thing", "thing-held", "word", "word-held"), 8),
    }
    assert {each.size for examples in found.values() for each in examples} == {(64, 64)}
    assert found["shapes"][0].caption == "a green ring on red"
    assert all("<hoop>" in each.caption for each in found["word"])
    assert found["shapes"][0].sha256 != found["shapes-held"][0].sha256


def test_the_command_says_what_is_wrong_before_keras_is_there(tmp_path, capsys):
    path = written(tmp_path, WHOLE.replace("rank = 4", "ranks = 4"))
    assert main(["train", "--config", str(path)]) == 2
    assert "Did you mean 'rank'" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path / "none.toml")]) == 2
