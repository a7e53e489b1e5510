"""SDXL beside diffusers, on small models with random weights: networks, texts, whole runs.

What diffusers makes of them is a file, written by `fixtures/make_sdxl_goldens.py` in double
precision; differences are relative to the largest number of an output.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file
from test_parity import FIXTURES, difference

import keras_sd
from keras_sd.cli import loading
from keras_sd.conditions import CONTEXT, NUMBERS, POOLED
from keras_sd.config import NoiseConfig
from keras_sd.guidance import embedded
from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.serve.engine import Engine
from keras_sd.weights.readers import WeightsError

TOLERANCE = 2e-5


@cache
def script():
    """The script that makes the goldens, and what the models are made of."""
    path = FIXTURES / "make_sdxl_goldens.py"
    spec = importlib.util.spec_from_file_location("make_sdxl_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def goldens():
    with np.load(FIXTURES / "sdxl_goldens.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A model as it is read from a folder of diffusers' layout, once."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def read(model):
        return keras_sd.StableDiffusion.from_preset(script().write(model, folder))

    return read


models = pytest.mark.parametrize("model", ["xl", "refiner", "ssd", "lcm"])
samplers = pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
SCHEDULES = {"euler": "leading", "dpmpp_2m": {"name": "leading", "inside": True}}


@pytest.mark.usefixtures("without_tracing")
@pytest.mark.parametrize("model", ["xl", "refiner"])
def test_a_text_is_a_context_and_a_vector(pipeline, model):
    texts = pipeline(model).model.texts
    found = texts.told(texts.tokens("prompt", script().PROMPTS))[0]
    assert difference(found[CONTEXT], goldens()[f"{model}/context"]) < TOLERANCE
    assert difference(found[POOLED], goldens()[f"{model}/pooled"]) < TOLERANCE


@pytest.mark.usefixtures("without_tracing")
@models
def test_the_unet_is_told_a_vector_and_numbers(pipeline, model):
    unet, known = pipeline(model).unet, goldens()
    count = unet.config.numbers
    told = {
        "pooled": known[f"{model}/pooled"],
        "numbers": 37 * np.arange(2, 2 + 2 * count, dtype="float32").reshape(2, count),
    }
    if unet.config.guidance_width:
        row = embedded(7.5, unet.config.guidance_width)
        told["guidance"] = np.array([row, row], "float32")
    given = (script().noise(), np.array([3, 801], "float32"), known[f"{model}/context"])
    found = unet(*map(ops.convert_to_tensor, given), **told)
    assert difference(found, known[f"{model}/unet"]) < TOLERANCE
    for name, value in told.items():  # each of them counts
        other = unet(*map(ops.convert_to_tensor, given), **{**told, name: value + 1})
        assert difference(other, known[f"{model}/unet"]) > 1e-3, name


def last(pipeline, run, sampler, **settings):
    """The last latents of one of our runs."""
    asked = script().RUNS[run]
    negative = asked.get("negative", script().NEGATIVES)
    settings = {"diffusion_noise": script().noise(), **settings}
    *_, step = pipeline.stream(
        script().PROMPTS,
        negative,
        num_steps=script().STEPS,
        guidance_scale=script().GUIDANCE,
        sampler=sampler,
        schedule=SCHEDULES[sampler],
        **settings,
        **asked.get("sizes", {}),
    )
    return step.latent


def of_size():
    height, width = script().SIZE
    return {"height": height, "width": width}


@samplers
@pytest.mark.parametrize("run", ["xl/plain", "xl/none", "xl/sizes", "ssd/plain"])
def test_a_run_is_that_of_diffusers(pipeline, run, sampler):
    found = last(pipeline(run.split("/")[0]), run, sampler, **of_size())
    assert difference(found, goldens()[f"{run}/{sampler}"]) < TOLERANCE


@samplers
@pytest.mark.parametrize("run", ["xl/image", "refiner/image"])
def test_a_run_from_a_picture_is_that_of_diffusers(pipeline, run, sampler):
    start = {"image": script().picture(), "strength": 0.6, "steps_mode": "schedule"}
    found = last(pipeline(run.split("/")[0]), run, sampler, **start)
    assert difference(found, goldens()[f"{run}/{sampler}"]) < TOLERANCE


@samplers
@pytest.mark.parametrize("run", ["xl/inpaint", "nine/inpaint"])
def test_a_run_that_paints_a_part_is_that_of_diffusers(pipeline, run, sampler):
    start = {"image": script().picture(), "mask": script().mask(), "strength": 1.0}
    found = last(pipeline(run.split("/")[0]), run, sampler, **start)
    assert difference(found, goldens()[f"{run}/{sampler}"]) < TOLERANCE


@samplers
def test_a_run_that_the_refiner_ends_is_that_of_both_pipelines(pipeline, sampler):
    both = pipeline("xl").with_refiner(pipeline("refiner"))
    settings = {**of_size(), "refine_at": 0.6, **script().SCORES}
    found = last(both, "xl/refined", sampler, **settings)
    assert difference(found, goldens()[f"xl/refined/{sampler}"]) < TOLERANCE
    assert pipeline("xl").model.refiner is None


@samplers
@pytest.mark.parametrize("kind", ["large", "small"])
def test_a_run_with_a_controlnet_is_that_of_diffusers(pipeline, tmp_path, kind, sampler):
    save_file(script().control(kind), tmp_path / "x.safetensors")
    net = keras_sd.ControlNet.from_file(tmp_path / "x.safetensors", model=pipeline("xl"))
    control = keras_sd.Control(net, script().hint(), strength=0.8)
    run = "xl/control" + " small" * (kind == "small")
    found = last(pipeline("xl"), run, sampler, control=control, **of_size())
    assert difference(found, goldens()[f"{run}/{sampler}"]) < TOLERANCE


@pytest.mark.usefixtures("without_tracing")
def test_a_model_is_loaded_with_its_refiner(pipeline, tmp_path):
    base, refiner = (script().write(model, tmp_path) for model in ("xl", "refiner"))
    found = keras_sd.StableDiffusion.from_preset(base, refiner=refiner, dtype="float16").model
    assert found.refiner.config == pipeline("refiner").config
    for model in (found, found.refiner):
        assert {each.dtype_policy.name for each in model.parts.values()} == {"float16"}
    digests = loading.fingerprints(base, {"refiner": refiner, "dtype": "float16"})
    parts = ("text_encoder", "text_encoder_2", "unet", "autoencoder")
    assert set(digests) == {*parts, *(f"refiner, {part}" for part in parts if part != parts[1])}
    assert digests["refiner, unet"] != digests["unet"]


@pytest.mark.usefixtures("without_tracing")
def test_a_text_in_a_style_has_the_vector_of_its_first_chunk(pipeline):
    texts = pipeline("xl").model.texts
    plain = texts.told(texts.tokens("prompt", ["cat dog"]))[0]
    weighted, long = (
        texts.told(texts.tokens("prompt", [text], "a1111"))[0]
        for text in ("cat (dog:1.5)", "cat dog BREAK " + "do " * 80)
    )
    for other in (weighted, long):
        assert difference(other[POOLED], ops.convert_to_numpy(plain[POOLED])) < TOLERANCE
    assert long[CONTEXT].shape[1] > 2 * 77
    assert difference(weighted[CONTEXT], ops.convert_to_numpy(plain[CONTEXT])) > 0.01


@pytest.mark.usefixtures("without_tracing")
def test_an_empty_negative_prompt_is_zeros_or_its_text(pipeline):
    model = pipeline("xl").model

    def untold(negative, **settings):
        request = Request.of(["cat", "dog"], negative, **settings).resolved(model.defaults)
        return model.texts.told(*model.texts.read(request))[1]

    for name in (CONTEXT, POOLED):
        none, some = ops.convert_to_numpy(untold(["", "do"])[name])
        assert np.abs(none).max() == 0
        assert np.abs(some).max() > 0.1
        assert np.abs(ops.convert_to_numpy(untold("", empty_negative="encoded")[name])).max() > 0.1
    np.testing.assert_array_equal(
        ops.convert_to_numpy(untold("")[NUMBERS]), [[16, 16, 0, 0, 16, 16]] * 2
    )


@pytest.mark.usefixtures("without_tracing")
def test_a_picture_is_the_same_alone_and_in_an_engine(pipeline):
    model = pipeline("xl").model
    asked = [
        Request.of("cat", "do", seed=1, num_steps=1, crop=(0, 8)),
        Request.of("dog dog", seed=2, num_steps=2, original_size=(8, 8)),
    ]
    alone = [[step.latent for step in run(model, each)][-1] for each in asked]
    with Engine(model) as engine:
        jobs = [engine.submit(each) for each in asked]
        shared = [job.result() for job in jobs]
    for images, latent in zip(shared, alone, strict=True):
        assert np.abs(images.astype(int) - model.decode(latent)).max() <= 1


def test_a_scale_that_the_unet_is_told_costs_no_second_evaluation(pipeline):
    model = pipeline("lcm").model
    rows = []

    def through(steps):
        def counted(step):
            return lambda x, *rest: (rows.append(x.shape[0]), step(x, *rest))[1]

        return {name: counted(step) for name, step in steps.items()}

    found = []
    for scale in (2.0, 8.0):
        request = Request.of("cat", seed=1, num_steps=2, sampler="euler", guidance_scale=scale)
        found.append([each.latent for each in run(model, request, through=through)][-1])
    assert rows == [1] * 4
    assert difference(found[0], ops.convert_to_numpy(found[1])) > 1e-3


REFUSED = [
    ("xl", {"aesthetic_score": 7.0}, "aesthetic_score is not told to this model"),
    ("refiner", {"target_size": (8, 8)}, "target_size is not told to this model"),
    ("xl", {"refine_at": 0.5}, "is for a pipeline with a refiner"),
    ("xl", {"clip_skip": 3}, "clip_skip is at most 2 here"),
]


@pytest.mark.parametrize(("model", "settings", "words"), REFUSED)
def test_what_a_model_is_not_told_is_refused(pipeline, model, settings, words):
    with pytest.raises(ValueError, match=words):
        pipeline(model).stream("cat", **settings)


def test_an_encoding_cannot_stand_for_a_text(pipeline):
    encoded = np.zeros((77, 192), "float32")
    with pytest.raises(ValueError, match="a vector of the whole text too"):
        pipeline("xl").stream(encoded)


def test_an_adapter_changes_both_text_encoders_and_comes_out_again(pipeline, tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    layers = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": ("text_encoder", 64, 128),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1": ("text_encoder_2", 128, 96),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": ("unet", 192, 128),
    }
    tensors = {}
    for name, (_, width_in, width) in layers.items():
        tensors[f"{name}.lora_down.weight"] = rng.normal(size=(2, width_in)).astype("float32")
        tensors[f"{name}.lora_up.weight"] = rng.normal(size=(width, 2)).astype("float32")
    save_file(tensors, tmp_path / "style.safetensors")
    model = pipeline("xl").model

    def kernels():
        texts = [model.parts[part].blocks[0].hidden for part in model.config.text_encoders]
        unet = model.parts["unet"].middle.transformer.blocks[0].cross_attention.key
        return [np.array(ops.convert_to_numpy(each.kernel)) for each in (*texts, unet)]

    before = kernels()
    strengths = {"text_encoder": 0.5, "unet": 0.5}
    with model.with_adapters((tmp_path / "style.safetensors", strengths)) as (use,):
        assert use.match.parts == {"text_encoder": 1, "text_encoder_2": 1, "unet": 1}
        for name, clean, merged in zip(layers, before, kernels(), strict=True):
            change = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
            np.testing.assert_allclose(merged, clean + 0.5 * change.T, atol=1e-5)
    for clean, after in zip(before, kernels(), strict=True):
        np.testing.assert_array_equal(clean, after)


@pytest.mark.usefixtures("without_tracing")
def test_an_embedding_has_vectors_for_both_text_encoders(pipeline, tmp_path):
    """Vectors that are those of words are those words, in context and pooled vector."""
    ours, refiner = pipeline("xl"), pipeline("refiner")
    ids = ours.tokenizer.encode("cat dog")[1:-1]
    pair = {
        key: ops.convert_to_numpy(ours.model.parts[part].embedding.tokens.embeddings)[ids]
        for key, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2"))
    }
    second = ops.convert_to_numpy(refiner.text_encoder.embedding.tokens.embeddings)[ids]
    save_file(pair, tmp_path / "duo.safetensors")
    save_file({**pair, "clip_g": second}, tmp_path / "fine.safetensors")
    named = ours.with_embeddings(tmp_path / "duo.safetensors")

    def told(model, *texts, **settings):
        asked = Request(prompts=texts, **settings).resolved(model.model.defaults)
        return model.model.texts.turns(*model.model.texts.read(asked))[0][1].told

    for style in ("plain", "keras_sd"):
        texts = ("a duo", "a cat dog") if style == "plain" else ("(duo:1.3)", "(cat dog:1.3)")
        found = told(named, texts[0], prompt_style=style)
        wanted = told(ours, texts[1], prompt_style=style)
        for name in (CONTEXT, POOLED):
            np.testing.assert_array_equal(*(ops.convert_to_numpy(e[name]) for e in (found, wanted)))
    # A refiner has the second text encoder alone, and is given what its base is given.
    both = ours.with_refiner(refiner).with_embeddings(tmp_path / "fine.safetensors")
    other = ours.with_embeddings(tmp_path / "fine.safetensors").with_refiner(refiner)
    for made in (both.model.refiner, other.model.refiner):
        found = made.encode_text("a fine")
        np.testing.assert_array_equal(
            *map(ops.convert_to_numpy, (found, refiner.encode_text("a cat dog")))
        )
    assert refiner.embeddings == ()


def test_embeddings_of_other_families_are_refused(pipeline, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"emb_params": np.ones((1, 64), "float32")}, path)
    with pytest.raises(WeightsError, match=r"64 features. The model .*XL, takes those of 64 and"):
        pipeline("xl").with_embeddings(path)
    save_file({"clip_l": np.ones((1, 64), "f4"), "clip_g": np.ones((1, 128), "f4")}, path)
    with pytest.raises(WeightsError, match=r"a pair of vectors .*clip_l_alone=True"):
        keras_sd.StableDiffusion.from_preset("emoji").with_embeddings(path)


def test_what_cannot_end_a_run_is_no_refiner(pipeline):
    other = replace(pipeline("refiner").config, noise=NoiseConfig(beta_end=0.02))
    model = copy.copy(pipeline("refiner").model)
    model.config = other
    with pytest.raises(ValueError, match="cannot end runs of tiny-xl: its noise is"):
        pipeline("xl").with_refiner(model)


@pytest.mark.references
@pytest.mark.parametrize("model", ["xl", "refiner"])  # it has no name for LCM's layer there
def test_diffusers_reads_our_single_file(pipeline, model, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    folder = script().write(model, tmp_path)
    file = tmp_path / "model.safetensors"
    pipeline(model).save_checkpoint(file)
    name = f"StableDiffusionXL{'Img2Img' if model == 'refiner' else ''}Pipeline"
    theirs = getattr(diffusers, name)
    read = theirs.from_single_file(str(file), config=str(folder), local_files_only=True)
    expected = theirs.from_pretrained(folder)
    for part in ("text_encoder", "text_encoder_2", "unet", "vae"):
        one, other = (getattr(each, part) for each in (read, expected))
        if other is None:
            continue
        found, wanted = one.state_dict(), other.state_dict()
        assert found.keys() == wanted.keys(), part
        for key, value in wanted.items():
            np.testing.assert_array_equal(found[key].numpy(), value.numpy(), err_msg=key)


@pytest.mark.references
@pytest.mark.parametrize("model", ["xl", "refiner", "lcm"])
def test_we_read_what_diffusers_saves(pipeline, model, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    name = f"StableDiffusionXL{'Img2Img' if model == 'refiner' else ''}Pipeline"
    theirs = getattr(diffusers, name).from_pretrained(script().write(model, tmp_path))
    theirs.save_pretrained(tmp_path / "saved")
    found = keras_sd.StableDiffusion.from_preset(tmp_path / "saved").model
    ours = pipeline(model).model
    assert found.config.unet == ours.config.unet
    assert found.config.text_encoders == ours.config.text_encoders
    assert [each.pad for each in found.tokenizers.values()] == [
        each.pad for each in ours.tokenizers.values()
    ]
    assert found.config.defaults.empty_negative == ours.config.defaults.empty_negative
    for part, network in ours.parts.items():
        for one, other in zip(network.weights, found.parts[part].weights, strict=True):
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, other)))


@pytest.mark.references
@pytest.mark.filterwarnings("ignore:Passing `image` as torch tensor:FutureWarning")  # of theirs
def test_the_goldens_are_those_of_diffusers(tmp_path):
    pytest.importorskip("diffusers")
    made = script().make(tmp_path)
    assert made.keys() == goldens().keys()
    for name, value in made.items():
        assert difference(value, goldens()[name]) < 1e-6, name
