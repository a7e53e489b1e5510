"""What else is trained: a LoRA, a word, and DreamBooth; and the files that others read."""

from __future__ import annotations

import json
from dataclasses import replace

import micro
import numpy as np
import pytest
from keras import ops
from micro import config, quiet
from tiny import TINY_2, TINY_XL

from keras_sd.adapters import open_adapter
from keras_sd.adapters.matching import match
from keras_sd.adapters.writing import LAYOUTS, save_lora
from keras_sd.backend import NAME, to_numpy
from keras_sd.checks import SettingError
from keras_sd.embeddings import open_embedding
from keras_sd.embeddings.writing import save_embedding
from keras_sd.image import read_image
from keras_sd.model import Model
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.noise import CLEAN, denoised, transfer
from keras_sd.training import run
from keras_sd.training.config import Log, LoRASettings, Prior, Samples, TextualInversion
from keras_sd.training.examples import ExamplesError
from keras_sd.training.lora import add_lora, chosen
from keras_sd.training.prior import read_prior
from keras_sd.training.run import train
from keras_sd.weights.load import arrays_of

RNG = np.random.default_rng(0)
INPUTS = (
    RNG.standard_normal((2, 8, 8, 4)).astype(np.float32),
    np.float32([10, 700]),
    RNG.standard_normal((2, 5, 32)).astype(np.float32),
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The folder of a model, and that of its pictures."""
    folder = tmp_path_factory.mktemp("given")
    micro.micro().save_preset(folder / "micro")
    return folder / "micro", micro.pictures(folder / "pictures")


@pytest.fixture(scope="module")
def given_xl(tmp_path_factory):
    """The folder of a model with two text encoders."""
    config_xl = replace(TINY_XL, defaults=replace(TINY_XL.defaults, height=16, width=16))
    networks = {name: TextEncoder(each) for name, each in config_xl.text_encoders.items()} | {
        "unet": UNet(config_xl.unet),
        "autoencoder": Autoencoder(config_xl.autoencoder),
    }
    small = micro.micro().tokenizers["text_encoder"]
    tokenizers = {"text_encoder": small, "text_encoder_2": small.padded("zero")}
    last = networks["unet"].conv_out.kernel  # which begins as zeros
    last.assign(np.random.default_rng(0).normal(0, 0.05, last.shape).astype(np.float32))
    folder = tmp_path_factory.mktemp("given_xl") / "xl"
    Model(config_xl, networks, tokenizers).save_preset(folder)
    return folder


def predicted(model):
    return to_numpy(model.parts["unet"](*map(ops.convert_to_tensor, INPUTS)))


# LoRA


def filled(lora):
    """Numbers in all arrays, so that nothing is 0 any more."""
    rng = np.random.default_rng(3)
    for variable in lora.variables:
        variable.assign(rng.normal(0, 0.1, variable.shape).astype(np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.thorough
def test_a_file_changes_a_model_as_the_arrays_in_it_do(tmp_path, layout):
    model, other = micro.micro(), micro.micro()
    before = predicted(model)
    parts = ["unet", "text_encoder"]
    networks = {part: model.parts[part] for part in parts}
    lora = add_lora(networks, chosen(model.config, "all", parts), rank=3, alpha=1.5, seed=1)
    np.testing.assert_array_equal(predicted(model), before)  # which change nothing at first
    filled(lora)
    path = tmp_path / ("peft" if layout == "PEFT" else "lora.safetensors")
    paths = save_lora(path, lora.changes(), model.config, layout=layout)
    assert paths == ([path / part for part in parts] if layout == "PEFT" else [path])
    count = 0
    for adapter in map(open_adapter, paths):
        found = match(adapter, model.config)
        found.check()
        assert found.layouts == {layout: len(adapter.changes)}
        assert {change.rank for change in adapter.changes} == {3}
        count += len(adapter.changes)
    assert count == len(lora.layers)
    other.merge_adapters(*paths)
    now = predicted(model)
    assert np.abs(now - before).max() > 0.1
    np.testing.assert_allclose(predicted(other), now, atol=2e-5)
    texts = [to_numpy(each.encode_text("cat dog")) for each in (model, other)]
    np.testing.assert_allclose(*texts, atol=2e-5)


def few_and_many(model):
    """Changes of all layers; two of each part have a rank and an alpha of their own."""
    parts = ["unet", "text_encoder"]
    networks = {part: model.parts[part] for part in parts}
    lora = add_lora(networks, chosen(model.config, "all", parts), rank=3, alpha=1.5)
    filled(lora)
    changes = lora.changes()
    for layer in lora.layers.values():
        layer.lora_enabled = False  # here the weights themselves are changed
    for number in (0, 1, -2, -1):  # the UNet's come first
        each = changes[number]
        changes[number] = replace(each, up=each.up[:, :2], down=each.down[:2], alpha=4.0)
    return changes


@pytest.mark.once
def test_settings_of_peft_have_what_its_tensors_do_not_say(tmp_path):
    model, other = micro.micro(), micro.micro()
    changes = few_and_many(model)
    folders = save_lora(tmp_path / "peft", changes, model.config, layout="PEFT")
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        of_part = [each for each in changes if each.place.part == folder.name]
        found = json.loads((folder / "adapter_config.json").read_bytes())
        assert (found["peft_type"], found["r"], found["lora_alpha"]) == ("LORA", 3, 1.5)
        assert found["target_modules"] == sorted(each.place.name for each in of_part)
        own = [each.place.name for each in of_part if each.rank == 2]
        assert len(own) == 2
        assert found["rank_pattern"] == dict.fromkeys(own, 2)
        assert found["alpha_pattern"] == dict.fromkeys(own, 4)
        said = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}[folder.name]
        assert found["auto_mapping"]["base_model_class"] == said
        scales = [(change.rank, change.alpha) for change in open_adapter(folder).changes]
        assert sorted(scales) == sorted((each.rank, each.alpha) for each in of_part)
    kohya = save_lora(tmp_path / "x.safetensors", changes, model.config)
    model.merge_adapters(*folders)
    other.merge_adapters(*kohya)
    for name, array in arrays_of(other.parts).items():
        np.testing.assert_allclose(arrays_of(model.parts)[name], array, atol=1e-6, err_msg=name)
    (folders[0] / "else").touch()
    with pytest.raises(FileExistsError):
        save_lora(tmp_path / "peft", changes, model.config, layout="PEFT")


def test_the_choices_of_layers_grow():
    config = micro.MICRO
    few, more, most = (
        {each.name for each in chosen(config, targets, ["unet"])}
        for targets in ("attention", "transformer", "all")
    )
    assert few < more < most
    assert {name.rpartition("attn")[2][2:] for name in few} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert "down_blocks.0.attentions.0.proj_in" in more
    assert "down_blocks.0.resnets.0.conv1" in most
    assert not any(name.startswith(("conv_", "time_")) for name in most)
    texts = [each.name for each in chosen(config, "attention", ["text_encoder"])]
    assert texts == [
        f"encoder.layers.0.self_attn.{end}_proj" for end in ("k", "v", "q", "out")
    ] or sorted(texts) == sorted(
        f"encoder.layers.0.self_attn.{end}_proj" for end in ("k", "v", "q", "out")
    )


@pytest.mark.thorough
def test_a_lora_alone_is_trained_and_written(given, tmp_path):
    made = train(
        config(
            given,
            tmp_path,
            method="lora",
            ema=0.9,
            steps=12,
            learning_rate=1e-2,
            schedule="constant",
            sections={"lora": LoRASettings(rank=4, targets="transformer")},
        ),
        report=quiet,
    )
    assert made.losses[-1] < made.losses[0]
    assert [path.name for path in (*made.files, *made.averaged)] == [
        "lora.safetensors",
        "pytorch_lora_weights.safetensors",
        "unet",
        "lora-ema.safetensors",
        "pytorch_lora_weights-ema.safetensors",
        "unet",
    ]
    assert (made.files[2].parent, made.averaged[2].parent) == (
        tmp_path / "peft",
        tmp_path / "peft-ema",
    )
    found = []
    for path in (*made.files, *made.averaged):
        model = Model.from_preset(given[0])
        model.merge_adapters(path)
        found.append(predicted(model))
    for one in (1, 2):
        np.testing.assert_allclose(found[0], found[one], atol=2e-5)
        np.testing.assert_allclose(found[3], found[3 + one], atol=2e-5)
    assert np.abs(found[0] - found[3]).max() > 1e-3
    assert np.abs(found[0] - predicted(Model.from_preset(given[0]))).max() > 1e-3


@pytest.mark.once
def test_only_the_arrays_change_and_flags_are_what_they_were(given, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "_model", lambda config: seen.append(micro.micro()) or seen[0])
    before = arrays_of(micro.micro().parts)
    wanted = config(given, tmp_path, method="lora", text_encoder=True, learning_rate=1e-2)
    train(replace(wanted, samples=Samples(prompts=("cat",), every=4, steps=2)), report=quiet)
    after = arrays_of(seen[0].parts)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert len(after) > len(before)
    assert (tmp_path / "samples" / "00000004.png").is_file()
    with pytest.raises(ValueError, match="has a LoRA already"):
        add_lora(dict(seen[0].parts), chosen(seen[0].config, "all", ["unet"]), rank=2)


@pytest.mark.once
def test_what_is_no_file_of_a_lora_is_not_written(tmp_path):
    model = micro.micro()
    lora = add_lora(
        {"unet": model.parts["unet"]}, chosen(model.config, "all", ["unet"])[:2], rank=2
    )
    changes = lora.changes()
    for wrong, message in (
        ({"path": tmp_path / "a.pt"}, "ends in .safetensors"),
        ({"layout": "A1111"}, "layout is 'kohya' or 'diffusers' or 'PEFT'"),
        ({"layout": "PEFT"}, "no name for a folder"),
        (
            {
                "layout": "PEFT",
                "path": tmp_path / "a",
                "changes": [changes[0], replace(changes[1], down=changes[1].down * np.inf)],
            },
            "not finite",
        ),
        ({"changes": []}, "at least one"),
        ({"changes": [replace(changes[0], up=changes[0].up * np.nan)]}, "not finite"),
    ):
        arguments = {"path": tmp_path / "a.safetensors", "changes": changes, **wrong}
        with pytest.raises(ValueError, match=message):
            save_lora(config=model.config, **arguments)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="at least one layer"):
        add_lora({}, [], rank=2)


# A word


@pytest.mark.thorough
def test_a_word_is_learned_and_nothing_else(given, tmp_path, monkeypatch):
    model, _ = given
    folder = micro.pictures(tmp_path / "pictures", ("a <new> cat", "<new>"))
    output = tmp_path / "out"
    settings = TextualInversion(token="<new>", initial="cat dog", vectors=3)
    wanted = config(
        (model, folder),
        output,
        method="textual_inversion",
        learning_rate=1e-2,
        steps=8,
        batch_size=2,
        data={"caption_dropout": 0.0},
        sections={
            "textual_inversion": settings,
            # Elsewhere compiling what draws takes most of the time.
            "samples": Samples(("a <new>",) if NAME == "torch" else (), every=8, steps=2),
        },
    )
    seen = []
    original = run._model
    monkeypatch.setattr(run, "_model", lambda config: seen.append(original(config)) or seen[0])
    made = train(wanted, report=quiet)
    assert [path.name for path in made.files] == ["learned_embeds.safetensors", "new.safetensors"]
    one, two = map(open_embedding, made.files)
    assert (one.layout, one.token, two.layout) == ("diffusers", "<new>", "kohya")
    np.testing.assert_array_equal(one.vectors, two.vectors)
    plain = Model.from_preset(model)
    table = to_numpy(plain.parts["text_encoder"].embedding.tokens.embeddings)
    ids = plain.tokenizers["text_encoder"].encode("cat dog")[1:-1]
    first = table[[*ids, ids[0]]]
    assert one.vectors.shape == first.shape
    assert 1e-3 < np.abs(one.vectors - first).max() < 0.2
    for name, array in arrays_of(plain.parts).items():
        np.testing.assert_array_equal(arrays_of(seen[0].parts)[name], array, err_msg=name)
    named = plain.with_embeddings(made.files[0])
    told = to_numpy(named.encode_text("a <new> cat"))
    assert np.abs(told - to_numpy(plain.encode_text("a <new> cat"))).max() > 1e-3
    assert (output / "samples" / "00000008.png").is_file() == (NAME == "torch")


@pytest.mark.once
def test_a_word_that_captions_lack_is_said(given, tmp_path):
    wanted = config(given, tmp_path, method="textual_inversion")
    with pytest.raises(ExamplesError, match=r"4 captions do not have '<new>' as a word of its own"):
        train(wanted, report=quiet)


@pytest.mark.once
def test_a_word_is_looked_for_as_the_tokenizer_does(given, tmp_path):
    """A part of a longer word is none; case and spaces do not count."""
    folder = micro.pictures(tmp_path / "pictures", ("two hoops", "a Big  HOOP.", "big hoop"))
    for token, lacking in (("hoop", ["0.png"]), ("big hoop", ["0.png"]), ("hoo", 3), ("two", 2)):
        wanted = config(
            (given[0], folder),
            tmp_path / "out",
            method="textual_inversion",
            sections={"textual_inversion": TextualInversion(token=token)},
        )
        count = lacking if isinstance(lacking, int) else len(lacking)
        with pytest.raises(ExamplesError, match=rf"^{count} captions do not have '{token}'"):
            run.check(wanted)


@pytest.mark.once
def test_a_word_begins_as_all_of_another_or_not_at_all(given, tmp_path):
    folder = micro.pictures(tmp_path / "pictures", ("a <new> cat", "<new>"))
    begins = TextualInversion(token="<new>", initial="cat dog", vectors=1)
    wanted = config(
        (given[0], folder),
        tmp_path / "out",
        method="textual_inversion",
        sections={"textual_inversion": begins},
    )
    with pytest.raises(SettingError, match=r"'cat dog' has 2: set textual_inversion.vectors = 2"):
        train(wanted, report=quiet)
    assert not (tmp_path / "out" / "latents").exists()


@pytest.mark.once
def test_what_is_no_embedding_is_not_written(tmp_path):
    for wrong, message in (
        ({"path": tmp_path / "a.pt"}, "ends in .safetensors"),
        ({"layout": "kohya"}, "layout is 'diffusers', 'A1111' or 'XL'"),
        ({"layout": "XL"}, "has vectors_2"),
        ({"vectors_2": np.ones((1, 5))}, "has vectors_2"),
        ({"layout": "XL", "vectors_2": np.ones((2, 5))}, "as many vectors .* not 1 and 2"),
        ({"layout": "XL", "vectors_2": np.full((1, 5), np.nan)}, "not finite"),
        ({"vectors": np.zeros(3)}, "1 to 75 vectors"),
        ({"vectors": np.full((1, 3), np.inf)}, "not finite"),
    ):
        given = {"path": tmp_path / "a.safetensors", "vectors": np.ones((1, 3)), "token": "x"}
        with pytest.raises(ValueError, match=message):
            save_embedding(**{**given, **wrong})
    assert not list(tmp_path.iterdir())


# DreamBooth


@pytest.mark.once
def test_the_prior_is_drawn_once_and_is_in_every_batch(given, tmp_path, monkeypatch):
    seen = []
    original = run._fit
    monkeypatch.setattr(run, "_fit", lambda t, b, c: seen.append(b) or original(t, b, c))
    prior = Prior(caption="dog", count=3, weight=0.5)
    wanted = config(given, tmp_path, steps=2, batch_size=2, sections={"prior": prior})
    lines = []
    train(wanted, report=lines.append)
    assert f"3 pictures of 'dog' are drawn to {tmp_path / 'prior'}" in lines
    names = [f"prior-{number:05}.png" for number in range(3)]
    files = sorted((tmp_path / "prior").iterdir())
    assert [path.name for path in files] == names
    assert len({path.read_bytes() for path in files}) == 3
    assert read_image(files[0]).shape == (16, 16, 3)
    batch = seen[0].batch(0)
    assert batch["weight"].tolist() == [1, 1, 0.5, 0.5]
    assert len(batch["latents"]) == 4
    dog = Model.from_preset(given[0]).tokenizers["text_encoder"](["dog"])[0]
    dropped = batch["text_encoder"][2:] != dog
    assert not dropped.all()
    # Those that are there are not drawn again, and those that lack are the same.
    before = files[0].read_bytes(), files[1].read_bytes()
    files[0].unlink()
    files[1].unlink()
    train(
        replace(
            wanted, output=str(tmp_path / "b"), prior=replace(prior, folder=str(files[0].parent))
        ),
        report=quiet,
    )
    assert (files[0].read_bytes(), files[1].read_bytes()) == before


def dreambooth(given, output, **settings):
    return config(
        given, output, steps=1, batch_size=2, sections={"prior": Prior(caption="dog", **settings)}
    )


@pytest.mark.once
def test_a_prior_whose_pictures_are_listed_is_not_drawn_to(given, tmp_path, monkeypatch):
    folder = tmp_path / "dogs"
    micro.pictures(folder, ("dog", "dog"))
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png"}')
    wanted = dreambooth(given, tmp_path / "out", folder=str(folder), count=4)
    before = sorted(folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Model, "from_preset", None)  # which is not asked
        with pytest.raises(SettingError, match=r"prior\.count is at most 1, not 4: so many"):
            train(wanted, report=quiet)
    assert sorted(folder.iterdir()) == before
    assert not (tmp_path / "out").exists()
    train(replace(wanted, prior=replace(wanted.prior, count=1)), report=quiet)


@pytest.mark.once
def test_hidden_files_are_none_of_the_prior(given, tmp_path):
    """What macOS leaves, and what a process that was killed while it wrote a picture."""
    folder = tmp_path / "dogs"
    folder.mkdir()
    for name in (".DS_Store", ".0123456789abcdef.prior-00001.png", "0.txt"):
        (folder / name).write_bytes(b"dog")
    wanted = dreambooth(given, tmp_path / "out", folder=str(folder), count=2)
    lines = []
    train(wanted, report=lines.append)
    assert f"2 pictures of 'dog' are drawn to {folder}" in lines
    names = sorted(path.name for path in folder.glob("[!.]*.png"))
    assert names == ["prior-00000.png", "prior-00001.png"]


@pytest.mark.once
@pytest.mark.parametrize("output", ["out", "."])
def test_what_is_drawn_among_the_pictures_is_not_trained_on(given, tmp_path, output):
    """An output in the folder of the pictures, or the folder itself, which a run goes on in."""
    folder = micro.pictures(tmp_path / "pictures", ("cat", "dog"))
    wanted = dreambooth((given[0], folder), folder / output, count=2)
    wanted = replace(
        wanted,
        data=replace(wanted.data, caption="all"),
        train=replace(wanted.train, steps=2),
        samples=Samples(("cat",), every=1, steps=2),
    )
    train(wanted, report=quiet, stop_at=1)
    assert (folder / output / "samples" / "00000001.png").is_file()
    assert len(list((folder / output / "prior").glob("*.png"))) == 2
    assert len(run.check(wanted)[1]) == 2
    assert train(wanted, report=quiet).batches == 2
    # Nor are the pictures of the prior the pictures that lie in their folder.
    turned = replace(wanted, prior=replace(wanted.prior, folder=str(tmp_path), count=9))
    assert read_prior(turned) == []


# Words


@pytest.mark.once
@pytest.mark.parametrize("words", [("cat",), None, ()])
def test_words_of_captions_are_known_afterwards(given, tmp_path, words, caplog):
    """In the files, and where samples are drawn, those of a prior too; not before it is drawn."""
    small = micro.micro()
    small.words = None if words is None else frozenset(words)
    small.save_preset(tmp_path / "micro")
    folder = micro.pictures(tmp_path / "pictures", ("A Cat's 2 crosses", "cat, on blue"))
    wanted = dreambooth((tmp_path / "micro", folder), tmp_path / "out", count=1)
    wanted = replace(
        wanted,
        train=replace(wanted.train, ema=0.9),
        samples=Samples(("crosses on blue",), every=1, steps=2),
    )
    made = train(wanted, report=quiet)
    told = "a", "cat", "2", "crosses", "on", "blue", "dog"
    for path in (*made.files, *made.averaged):
        found = Model.from_preset(path)
        assert found.words == (frozenset(told) if words else small.words)
        if words:
            assert found.unknown_words("a dog crosses 2 blue cats") == ["cats"]
    assert ("crosses" in caplog.text) == (words == ())
    assert ("does not know: dog" in caplog.text) == (words is not None)


# Other families


@pytest.mark.once
def test_two_text_encoders_and_what_xl_is_told(given, given_xl, tmp_path):
    model = Model.from_preset(given_xl)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = run._fit
        patch.setattr(run, "_fit", lambda t, b, c: seen.append((t, b)) or original(t, b, c))
        wanted = config(
            (given_xl, given[1]),
            tmp_path / "out",
            method="lora",
            text_encoder=True,
            steps=2,
            data={"caption_dropout": 0.0},
        )
        made = train(wanted, report=quiet)
    trainer, batches = seen[0]
    batch = batches.batch(0)
    assert batch["numbers"][0].tolist() == [16, 16, 0, 0, 16, 16]
    captions = [micro.CAPTIONS[i] for i in batches.orders[0][1][0]]
    plain = Model.from_preset(given_xl)
    tokens = plain.texts.tokens("prompt", captions)
    wanted_of = plain.texts.conditions(tokens, 77)
    fresh = run.DenoiserTrainer(
        {name: plain.parts[name] for name in ("text_encoder", "text_encoder_2", "unet")},
        trainer.objective,
    )
    found = fresh.conditions({name: ops.convert_to_tensor(each) for name, each in batch.items()})
    for name in ("context", "pooled"):
        np.testing.assert_allclose(to_numpy(found[name]), to_numpy(wanted_of[name]), atol=1e-5)
    whole, _, *of_peft = made.files
    parts = ("unet", "text_encoder", "text_encoder_2")
    assert set(match(open_adapter(whole), model.config).parts) == set(parts)
    # Both text encoders have layers of the same names: the settings of PEFT say which it is.
    found = [match(open_adapter(path), model.config) for path in of_peft]
    for path, part, each in zip(of_peft, parts, found, strict=True):
        each.check()
        assert (path.name, set(each.parts), each.layout) == (part, {part}, "PEFT")
    with pytest.raises(FileNotFoundError, match="its text_encoder and text_encoder_2 and unet"):
        open_adapter(of_peft[0].parent)
    merged = []
    for paths in ([whole], of_peft):
        model.merge_adapters(*paths)
        merged.append(arrays_of(model.parts))
    for name, array in merged[0].items():
        np.testing.assert_allclose(merged[1][name], array, atol=1e-6, err_msg=name)


@pytest.mark.once
def test_a_word_of_xl_has_vectors_for_both_text_encoders(given, given_xl, tmp_path):
    captions = ("a <new> cat", "<new>")
    folder = micro.pictures(tmp_path / "pictures", captions)

    def wanted(output):
        return config(
            (given_xl, folder),
            tmp_path / output,
            method="textual_inversion",
            learning_rate=2e-2,
            schedule="constant",
            steps=8,
            batch_size=2,
            ema=0.9,
            data={"caption_dropout": 0.0},
            sections={
                "textual_inversion": TextualInversion(token="<new>", initial="cat", vectors=2),
                "samples": Samples(("a <new>",), every=8, steps=2),
                "log": Log(save_every=3),
            },
        )

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = run._fit
        patch.setattr(run, "_fit", lambda t, b, c: seen.append((t, b)) or original(t, b, c))
        made = train(wanted("whole"), report=quiet)
    assert train(wanted("broken"), report=quiet, stop_at=6).batches == 6
    resumed = train(wanted("broken"), report=quiet)
    assert resumed.losses == made.losses[6:]
    for one, two in zip(
        (*made.files, *made.averaged), (*resumed.files, *resumed.averaged), strict=True
    ):
        assert one.read_bytes() == two.read_bytes()
    assert [path.name for path in (*made.files, *made.averaged)] == [
        "new.safetensors",
        "new-ema.safetensors",
    ]
    assert (tmp_path / "whole" / "samples" / "00000008.png").is_file()
    model = Model.from_preset(given_xl)
    found = open_embedding(made.files[0])
    assert found.layout == "XL"
    first, learned = {}, {"text_encoder": found.vectors, "text_encoder_2": found.vectors_2}
    for part, vectors in learned.items():
        table = to_numpy(model.parts[part].embedding.tokens.embeddings)
        first[part] = table[model.tokenizers[part].encode("cat")[1:-1] * 2]
        assert 1e-2 < np.abs(vectors - first[part]).max() < 1
    named = model.with_embeddings({"<new>": made.files[0]})
    # The loss of the same batches falls with the vectors of each text encoder, and most with both.
    trainer, batches = seen[0]
    networks = {part: model.parts[part] for part in (*learned, "unet")}

    def loss(*changed):
        vectors = first | {part: learned[part] for part in changed}
        fresh = run.DenoiserTrainer(networks, trainer.objective, vectors)
        each = [
            fresh({name: ops.convert_to_tensor(rows) for name, rows in batches.batch(i).items()})
            for i in range(8)
        ]
        return float(np.mean([to_numpy(losses) for losses in each]))

    before, after = loss(), loss(*learned)
    assert all(after < loss(part) < before for part in learned)
    told = [model.encode_text("a <new> cat"), named.encode_text("a <new> cat")]
    one, two = np.split(np.abs(to_numpy(told[0]) - to_numpy(told[1])), [64], axis=-1)
    assert min(one.max(), two.max()) > 1e-3


@pytest.mark.once
def test_a_model_that_cannot_be_trained_says_why(given, tmp_path):
    unet = replace(micro.MICRO.unet, in_channels=9)
    micro.micro(replace(micro.MICRO, unet=unet)).save_preset(tmp_path / "painting")
    with pytest.raises(ValueError, match="its UNet paints into pictures"):
        train(config((tmp_path / "painting", given[1]), tmp_path / "out"), report=quiet)
    assert TINY_2.noise.prediction == "v"


# Other programs


@pytest.mark.references
@pytest.mark.once
@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_diffusers_with_peft_draws_the_same_latents(tmp_path, layout):
    """A LoRA of random arrays in all blocks: four steps of DDIM, by our UNet with the arrays live
    and by diffusers' with the file.
    """
    import diffusers
    import torch

    model = micro.micro()
    model.save_preset(tmp_path / "model", layout="diffusers")
    places = chosen(model.config, "all", ["unet"])
    lora = add_lora({"unet": model.parts["unet"]}, places, rank=3, alpha=1.5)
    filled(lora)
    save_lora(tmp_path / "lora.safetensors", lora.changes(), model.config, layout=layout)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet")
    plain = {name: each.clone() for name, each in theirs.state_dict().items()}
    tensors, alphas = diffusers.StableDiffusionPipeline.lora_state_dict(
        tmp_path, weight_name="lora.safetensors", unet_config=theirs.config
    )
    theirs.load_lora_adapter(tensors, prefix="unet", network_alphas=alphas)
    found = {name for name in theirs.state_dict() if ".lora_A." in name}
    assert len(found) == len(places)
    assert plain.keys().isdisjoint(found)
    _, _, context = INPUTS
    levels = [model.path.level(t) for t in (900, 600, 300, 50)]

    def drawn(predict):
        x = INPUTS[0]
        for now, nxt in zip(levels, [*levels[1:], CLEAN], strict=True):
            x = transfer(x, denoised(x, predict(x, now.t), now), now, nxt)
        return x

    def ours(x, t):
        given = (x, np.full(2, t, np.float32), context)
        return to_numpy(model.parts["unet"](*map(ops.convert_to_tensor, given)))

    def of_diffusers(x, t):
        with torch.no_grad():
            sample = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
            found = theirs(sample, t, torch.from_numpy(context)).sample
        return found.permute(0, 2, 3, 1).numpy()

    latents = drawn(ours)
    np.testing.assert_allclose(drawn(of_diffusers), latents, atol=2e-5 * np.abs(latents).max())
    theirs.disable_adapters()
    assert np.abs(drawn(of_diffusers) - latents).max() > 0.01


@pytest.mark.references
@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_reads_the_folders(tmp_path):
    """UNet and text encoder, one layer of each with a rank and an alpha of its own: what diffusers
    and transformers compute with PEFT's arrays, by ours with the weights changed by kohya's file.
    """
    import diffusers
    import peft
    import torch
    import transformers

    model = micro.micro()
    before = predicted(model)
    model.save_preset(tmp_path / "model", layout="diffusers")
    changes = few_and_many(model)
    kohya = save_lora(tmp_path / "x.safetensors", changes, model.config)
    folders = save_lora(tmp_path / "peft", changes, model.config, layout="PEFT")
    model.merge_adapters(*kohya)
    latents, t, context = map(torch.from_numpy, INPUTS)
    ids = torch.tensor(model.tokenizers["text_encoder"](["cat dog", "dog"]))

    def of_peft(cls, folder):
        network = cls.from_pretrained(tmp_path / "model" / folder.name)
        found = peft.PeftModel.from_pretrained(network, folder).eval()
        arrays = [name for name in found.state_dict() if ".lora_A." in name]
        assert len(arrays) == len([each for each in changes if each.place.part == folder.name])
        return found

    with torch.no_grad():
        unet = of_peft(diffusers.UNet2DConditionModel, folders[0])
        theirs = unet(latents.permute(0, 3, 1, 2).contiguous(), t, context).sample
        texts = of_peft(transformers.CLIPTextModel, folders[1])(ids).last_hidden_state
    ours = predicted(model)
    size = np.abs(ours - before).max()
    assert size > 0.1
    np.testing.assert_allclose(theirs.permute(0, 2, 3, 1).numpy(), ours, atol=2e-5 * size)
    plain = micro.micro().parts["text_encoder"](ops.convert_to_tensor(ids.numpy()))
    ours = to_numpy(model.parts["text_encoder"](ops.convert_to_tensor(ids.numpy())))
    size = np.abs(ours - to_numpy(plain)).max()
    assert size > 0.1
    np.testing.assert_allclose(texts.numpy(), ours, atol=2e-5 * size)


@pytest.mark.references
@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_reads_the_folders_of_both_text_encoders(given_xl, tmp_path):
    import peft
    import torch
    import transformers

    model = Model.from_preset(given_xl)
    model.save_preset(tmp_path / "model", layout="diffusers")
    parts = list(model.config.text_encoders)
    networks = {part: model.parts[part] for part in parts}
    lora = add_lora(networks, chosen(model.config, "attention", parts), rank=2)
    filled(lora)
    folders = save_lora(tmp_path / "peft", lora.changes(), model.config, layout="PEFT")
    for folder, cls in zip(
        folders,
        (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection),
        strict=True,
    ):
        ids = model.tokenizers[folder.name](["cat dog", "dog"])
        network = cls.from_pretrained(tmp_path / "model" / folder.name)
        with torch.no_grad():
            plain = network(torch.tensor(ids), output_hidden_states=True).hidden_states[-2]
            changed = peft.PeftModel.from_pretrained(network, folder).eval()
            theirs = changed(torch.tensor(ids), output_hidden_states=True).hidden_states[-2]
        ours = to_numpy(networks[folder.name](ops.convert_to_tensor(ids)))
        assert (plain - theirs).abs().max() > 0.01
        np.testing.assert_allclose(theirs.numpy(), ours, atol=2e-5)


@pytest.mark.references
@pytest.mark.once
def test_diffusers_reads_the_word(tmp_path):
    from diffusers.loaders.textual_inversion import load_textual_inversion_state_dicts

    vectors = RNG.standard_normal((3, 32)).astype(np.float32)
    save_embedding(tmp_path / "learned_embeds.safetensors", vectors, "<new>")
    (found,) = load_textual_inversion_state_dicts(
        [str(tmp_path)], weight_name="learned_embeds.safetensors"
    )
    assert list(found) == ["<new>"]
    np.testing.assert_array_equal(found["<new>"].numpy(), vectors)
