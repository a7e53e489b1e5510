"""Token merging: the ways to fewer tokens and back beside the paper's algorithm written down in
NumPy, a UNet that has it beside one whose blocks are called by hand, and runs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from keras import ops
from test_control_network import drawn as filled
from test_pipeline import TINY, make
from test_sparing import SMALL, asked, close, network, random
from test_turns import MASK, PICTURE, attending, drawn, far

from keras_sd import Control, ControlNet
from keras_sd.backend import compile_step, to_numpy
from keras_sd.checks import SettingError
from keras_sd.config import SDXL, SDXL_REFINER
from keras_sd.forms import request_of
from keras_sd.networks.token_merging import merged
from keras_sd.request import Request
from keras_sd.serve.engine import Engine

pytestmark = pytest.mark.usefixtures("without_tracing")

RNG = np.random.default_rng(17)


@pytest.fixture(scope="module")
def tiny():
    """Whose finest level has attention; filled, so that attention counts."""
    made = make(replace(TINY, unet=SMALL))
    filled(made.unet, size=0.3)
    return made


def by_the_paper(compared, tokens, height, width, ratio):
    """Of one picture: the fewer tokens, as sets of those that they are the mean of; float64."""
    corners = [
        row * width + column
        for row in range(0, height - height % 2, 2)
        for column in range(0, width - width % 2, 2)
    ]
    others = [each for each in range(height * width) if each not in corners]
    unit = compared.astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit[others] @ unit[corners].T
    best = np.argsort(-cosines.max(1), kind="stable")[: int(ratio * height * width)]
    groups = {corner: [corner] for corner in corners}
    for each in best:
        groups[corners[cosines[each].argmax()]].append(others[each])
    left = [others[each] for each in range(len(others)) if each not in best]
    sets = [*([each] for each in left), *groups.values()]
    return {min(each): (each, tokens[each].astype(float).mean(0)) for each in sets}


def there_and_back(*merging):
    def both(compared, tokens):
        fewer, back = merged(compared, merging)
        few = fewer(tokens)
        return few, back(few)

    return both


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.75])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (2, 2)])
def test_there_and_back_it_is_the_papers(height, width, ratio):
    shape = 2, height * width, 5
    compared, tokens = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))

    given = [ops.convert_to_tensor(each) for each in (compared, tokens)]
    step = compile_step(there_and_back(height, width, ratio), [])
    few, found = map(to_numpy, step(*given))
    goes = min(int(ratio * height * width), height * width - (height // 2) * (width // 2))
    assert few.shape == (2, height * width - goes, 5)
    for image in range(2):
        expected = np.full(shape[1:], np.nan)
        sets = by_the_paper(compared[image], tokens[image], height, width, ratio)
        for members, mean in sets.values():
            expected[members] = mean
        np.testing.assert_allclose(found[image], expected, rtol=0, atol=1e-6)
        means = np.array([mean for _, mean in sets.values()])
        rows = [np.lexsort(each.round(4).T) for each in (few[image], means)]
        np.testing.assert_allclose(few[image][rows[0]], means[rows[1]], rtol=0, atol=1e-6)


def test_equal_tokens_have_one_order():
    """The first of equals goes first, into the first that is like it; and zeros are no division."""
    step = compile_step(there_and_back(4, 4, 0.5), [])
    numbers = ops.reshape(ops.arange(16, dtype="float32"), (1, 16, 1))
    for value in (1.0, 0.0):
        few, found = (to_numpy(x)[0, :, 0] for x in step(ops.full((1, 16, 3), value), numbers))
        gone = [1, 3, 4, 5, 6, 7, 9, 11]
        np.testing.assert_allclose(few, [12, 13, 14, 15, np.mean([0, *gone]), 2, 8, 10], rtol=1e-6)
        np.testing.assert_allclose(found[[0, *gone]], np.mean([0, *gone]), rtol=1e-6)
        np.testing.assert_array_equal(found[[2, 8, 10, 12, 15]], [2, 8, 10, 12, 15])


@pytest.mark.parametrize("size", [(1, 6, 0.5), (4, 4, 0.01)])
def test_where_nothing_can_go_nothing_does(size):
    tokens = random(1, size[0] * size[1], 3)
    fewer, back = merged(tokens, size)
    assert fewer(tokens) is tokens
    assert back(tokens) is tokens


@pytest.mark.references
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 9)])
def test_it_is_tomesds(height, width):
    """Whose choice of the corners is by chance, unless it is told otherwise."""
    theirs = pytest.importorskip("tomesd.merge")
    import torch

    shape = 2, height * width, 16
    compared, tokens = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    count = int(0.5 * height * width)
    given = torch.from_numpy(compared), width, height, 2, 2, count
    merge, unmerge = theirs.bipartite_soft_matching_random2d(*given, no_rand=True)
    expected = unmerge(merge(torch.from_numpy(tokens)) * 2 + 1).numpy()
    fewer, back = merged(ops.convert_to_tensor(compared), (height, width, 0.5))
    found = to_numpy(back(fewer(ops.convert_to_tensor(tokens)) * 2 + 1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


# --- the network ----------------------------------------------------------------------------------


def test_the_finest_attention_has_it_alone():
    """Beside a UNet whose self-attention in these blocks is wrapped by hand."""
    unet, given = network(SMALL, depths=(1, 1)), asked()
    found = to_numpy(compile_step(partial(unet, merging=0.5), [unet])(*given))
    plain = to_numpy(compile_step(partial(unet), [unet])(*given))
    assert abs(found - plain).max() > 1e-3
    assert unet.config.finest_attention == ("down_0_0", "up_0_0", "up_0_1")
    for block in (unet.down[0], unet.up[2], unet.up[3]):
        for each in block.transformer.blocks:
            own = each.self_attention.call

            def call(tokens, each=each, own=own):
                fewer, back = merged(each.seen, (8, 6, 0.5))
                return back(own(fewer(tokens)))

            each.self_attention.call = call
            norm = each.norm1.call

            def normed(x, each=each, norm=norm):
                each.seen = x
                return norm(x)

            each.norm1.call = normed
    close(compile_step(partial(unet), [unet])(*given), found)


@pytest.mark.once
def test_of_sdxl_it_is_the_second_resolution():
    unet, given = network(SMALL, depths=(0, 1), pooled_width=8, numbers=6), asked()
    told = {"pooled": random(2, 8), "numbers": ops.ones((2, 6))}
    difference = to_numpy(unet(*given, merging=0.5, **told)) - to_numpy(unet(*given, **told))
    assert abs(difference).max() > 1e-3


@pytest.mark.once
def test_which_attention_is_the_finest():
    assert SDXL.unet.finest_attention == (
        *("down_1_0", "down_1_1"),
        *("up_1_0", "up_1_1", "up_1_2"),
    )
    assert SDXL_REFINER.unet.finest_attention[0] == "down_1_0"
    none = replace(SMALL, depths=(0, 0), middle_depth=1)
    assert none.finest_attention == ()
    up = replace(SMALL, depths=(0, 0), middle_depth=1, up_depths=(0, 0, 0, 1))
    assert up.finest_attention == ("up_0_1",)


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_has_it_and_the_next_has_not(tiny):
    plain, steps = drawn(tiny, "a cat"), tiny.model.steps()
    found = drawn(tiny, "a cat", token_merging=0.5)
    far(found, plain)
    assert tiny.model.steps() is steps
    np.testing.assert_array_equal(drawn(tiny, "a cat")[-1], plain[-1])
    np.testing.assert_array_equal(drawn(tiny, "a cat", token_merging=0)[-1], plain[-1])


@pytest.mark.once
def test_another_number_is_another_picture(tiny):
    half = drawn(tiny, "a cat", token_merging=0.5)
    far(drawn(tiny, "a cat", token_merging=0.25), half)
    np.testing.assert_array_equal(drawn(tiny, "a cat", token_merging=0.5)[-1], half[-1])


def test_every_picture_is_the_one_that_it_is_alone(tiny):
    both = drawn(tiny, ["a cat", "dog"], token_merging=0.5)[-1]
    for number, prompt in enumerate(("a cat", "dog")):
        alone = drawn(tiny, prompt, token_merging=0.5, first_image=number)[-1]
        # A batch is summed in another order, and a run of steps makes more of it.
        np.testing.assert_allclose(both[number], alone[0], rtol=0, atol=5e-5)


@pytest.mark.once
def test_it_goes_with_what_else_a_run_may_have(tiny):
    """Each run is another with it, and is drawn; the network itself is whole where it is beside."""
    net = ControlNet.from_unet(tiny)
    filled(net.network, size=0.2)
    hint = np.full((32, 24, 3), 90, np.uint8)
    start = {"image": PICTURE, "height": None, "width": None}
    for settings in (
        {"feature_caching": 2},
        {"control": Control(net, hint)},
        {**start, "mask": MASK, "strength": 0.9},
        {"guidance_method": "pag", "freeu": (1.2, 1.3, 0.9, 0.6)},
    ):
        given = {"num_steps": 3, "seed": 1, "sampler": "ddim", **settings}
        found, plain = (
            to_numpy(list(tiny.stream(request_of("a cat", **given, token_merging=r)))[-1].latent)
            for r in (0.5, 0)
        )
        assert np.isfinite(found).all()
        assert abs(found - plain).max() > 1e-4, settings


@pytest.mark.once
def test_the_engine_draws_such_runs_beside_others(tiny):
    rows = [{"token_merging": 0.5}, {}, {"token_merging": 0.5, "seed": 4}]
    requests = [request_of(**{"prompt": "a cat", "num_steps": 2, "seed": 3, **row}) for row in rows]
    with Engine(tiny.model) as engine:
        jobs = [engine.submit(request) for request in requests]
        found = [np.asarray(job.result(60)) for job in jobs]
    for request, images in zip(requests, found, strict=True):
        alone = np.asarray(tiny.draw(request))
        assert abs(images.astype(int) - alone).max() <= 1


@pytest.mark.once
def test_what_has_no_place_is_said_before_the_run(tiny):
    for wrong in (0.8, -0.1, float("nan"), "half", True, (0.5,)):
        with pytest.raises((ValueError, TypeError), match="token_merging"):
            Request(("a cat",), token_merging=wrong)
    other = "token_merging is for a keras_sd.networks.UNet"
    with pytest.raises(SettingError, match=other):
        attending().stream("a cat", num_steps=2, token_merging=0.5)
    bare = make(replace(TINY, unet=replace(SMALL, depths=(0, 0), middle_depth=1)))
    with pytest.raises(SettingError, match=r"token_merging is for a UNet with attention.*tiny"):
        bare.stream("a cat", num_steps=2, token_merging=0.5)
    with pytest.raises(SettingError, match="token_merging is for runs of samplers alone"):
        tiny.invert("a cat", PICTURE, num_steps=2, token_merging=0.5)


@pytest.mark.once
def test_json_has_it_where_it_is_on():
    plain = Request(("a cat",))
    assert "token_merging" not in plain.to_dict()
    asked = replace(plain, token_merging=0.5)
    assert Request.from_json(asked.to_json()) == asked
    assert asked.to_dict()["token_merging"] == 0.5
