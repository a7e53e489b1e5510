"""What else is trained: a LoRA, a word, and DreamBooth; and the files that others read."""

from __future__ import annotations

from dataclasses import replace

import micro
import numpy as np
import pytest
from keras import ops
from micro import config, quiet
from tiny import TINY_2, TINY_XL

from keras_sd.adapters import open_adapter
from keras_sd.adapters.matching import match
from keras_sd.adapters.writing import save_lora
from keras_sd.backend import NAME, to_numpy
from keras_sd.checks import SettingError
from keras_sd.embeddings import open_embedding
from keras_sd.embeddings.writing import save_embedding
from keras_sd.image import read_image
from keras_sd.model import Model
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.noise import CLEAN, denoised, transfer
from keras_sd.training import run
from keras_sd.training.config import LoRASettings, Prior, Samples, TextualInversion
from keras_sd.training.examples import ExamplesError
from keras_sd.training.lora import add_lora, chosen
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


def predicted(model):
    return to_numpy(model.parts["unet"](*map(ops.convert_to_tensor, INPUTS)))


# LoRA


def filled(lora):
    """Numbers in all arrays, so that nothing is 0 any more."""
    rng = np.random.default_rng(3)
    for variable in lora.variables:
        variable.assign(rng.normal(0, 0.1, variable.shape).astype(np.float32))


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
@pytest.mark.thorough
def test_a_file_changes_a_model_as_the_arrays_in_it_do(tmp_path, layout):
    model, other = micro.micro(), micro.micro()
    before = predicted(model)
    parts = ["unet", "text_encoder"]
    networks = {part: model.parts[part] for part in parts}
    lora = add_lora(networks, chosen(model.config, "all", parts), rank=3, alpha=1.5, seed=1)
    np.testing.assert_array_equal(predicted(model), before)  # which change nothing at first
    filled(lora)
    path = tmp_path / "lora.safetensors"
    save_lora(path, lora.changes(), model.config, layout=layout)
    adapter = open_adapter(path)
    found = match(adapter, model.config)
    found.check()
    assert found.layouts == {layout: len(lora.layers)}
    assert {change.rank for change in adapter.changes} == {3}
    other.merge_adapters(path)
    now = predicted(model)
    assert np.abs(now - before).max() > 0.1
    np.testing.assert_allclose(predicted(other), now, atol=2e-5)
    texts = [to_numpy(each.encode_text("cat dog")) for each in (model, other)]
    np.testing.assert_allclose(*texts, atol=2e-5)


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
        "lora-ema.safetensors",
        "pytorch_lora_weights-ema.safetensors",
    ]
    found = []
    for path in (*made.files, *made.averaged):
        model = Model.from_preset(given[0])
        model.merge_adapters(path)
        found.append(predicted(model))
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)
    np.testing.assert_allclose(found[2], found[3], atol=2e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-3
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
        ({"layout": "A1111"}, "layout is 'kohya' or 'diffusers'"),
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
    with pytest.raises(ExamplesError, match=r"4 captions do not have the word '<new>': 0\.png"):
        train(wanted, report=quiet)


@pytest.mark.once
def test_what_is_no_embedding_is_not_written(tmp_path):
    for wrong, message in (
        ({"path": tmp_path / "a.pt"}, "ends in .safetensors"),
        ({"layout": "kohya"}, "layout is 'diffusers' or 'A1111'"),
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


# Other families


@pytest.mark.once
def test_two_text_encoders_and_what_xl_is_told(given, tmp_path):
    config_xl = replace(TINY_XL, defaults=replace(TINY_XL.defaults, height=16, width=16))
    networks = {name: TextEncoder(each) for name, each in config_xl.text_encoders.items()} | {
        "unet": UNet(config_xl.unet),
        "autoencoder": Autoencoder(config_xl.autoencoder),
    }
    small = micro.micro().tokenizers["text_encoder"]
    tokenizers = {"text_encoder": small, "text_encoder_2": small.padded("zero")}
    model = Model(config_xl, networks, tokenizers)
    model.save_preset(tmp_path / "xl")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = run._fit
        patch.setattr(run, "_fit", lambda t, b, c: seen.append((t, b)) or original(t, b, c))
        wanted = config(
            (tmp_path / "xl", given[1]),
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
    plain = Model.from_preset(tmp_path / "xl")
    tokens = plain.texts.tokens("prompt", captions)
    wanted_of = plain.texts.conditions(tokens, 77)
    fresh = run.DenoiserTrainer(
        {name: plain.parts[name] for name in ("text_encoder", "text_encoder_2", "unet")},
        trainer.objective,
    )
    found = fresh.conditions({name: ops.convert_to_tensor(each) for name, each in batch.items()})
    for name in ("context", "pooled"):
        np.testing.assert_allclose(to_numpy(found[name]), to_numpy(wanted_of[name]), atol=1e-5)
    model.merge_adapters(made.files[0])
    assert set(match(open_adapter(made.files[0]), config_xl).parts) == {
        "unet",
        "text_encoder",
        "text_encoder_2",
    }
    with pytest.raises(SettingError, match="learns for one text encoder"):
        train(
            replace(
                wanted,
                output=str(tmp_path / "o"),
                data=replace(
                    wanted.data,
                    caption="<new>",
                    folder=str(micro.pictures(tmp_path / "p", ("<new>",))),
                ),
                train=replace(wanted.train, method="textual_inversion", text_encoder=False),
            ),
            report=quiet,
        )


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
def test_diffusers_reads_the_word(tmp_path):
    from diffusers.loaders.textual_inversion import load_textual_inversion_state_dicts

    vectors = RNG.standard_normal((3, 32)).astype(np.float32)
    save_embedding(tmp_path / "learned_embeds.safetensors", vectors, "<new>")
    (found,) = load_textual_inversion_state_dicts(
        [str(tmp_path)], weight_name="learned_embeds.safetensors"
    )
    assert list(found) == ["<new>"]
    np.testing.assert_array_equal(found["<new>"].numpy(), vectors)
