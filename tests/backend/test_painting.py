"""Pictures of scenes on the backend, against what Pillow makes of the same drawings; styles that
are derived of others; a model whose weights have eight bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_int8 import rewrite
from tiny import MERGES, TINY

from keras_sd.backend import to_numpy
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.training import painting
from keras_sd.training.scenes import COLOURS, SIZE, STYLES, Item, Scene
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.load import arrays_of, build_networks
from keras_sd.weights.readers import WeightsError
from keras_sd.weights.save import save_preset

SUBJECTS = 2


def drawings():
    """Of each style that is drawn, a disc and a slanted bar, soft at the edges."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    disc = np.clip(50.5 - np.hypot(x - 64, y - 64), 0, 1)
    bar = np.clip(20.5 - np.abs(x - y / 2 - 30), 0, 1) * (np.abs(y - 60) < 45)
    made = {}
    for k, style in enumerate(style for style in STYLES if style not in painting.DERIVED):
        sprites = np.zeros((SUBJECTS, SIZE, SIZE, 4), np.uint8)
        for each, alpha, colour in zip(
            sprites, (disc, bar), ((250, 40, 10), (20, 60, 240)), strict=True
        ):
            each[..., :3] = np.roll(colour, k) if style != "line" else 0
            each[..., 1] = np.where(x > 70, each[..., 1], 0)  # not the same everywhere
            each[..., 3] = np.rint(alpha * 255)
        made[style] = sprites
    return made


BANK = painting.sprite_bank(drawings())


def composed(*shown):
    laid = painting.layout(shown, list(STYLES), SUBJECTS)
    return np.asarray(to_numpy(painting.compose(BANK, **laid)))


def ground_of(scene):
    ground = np.empty((SIZE, SIZE, 3), np.float32)
    ground[:] = COLOURS[scene.ground[0]]
    if scene.split == "beside":
        ground[:, SIZE // 2 :] = COLOURS[scene.ground[1]]
    elif scene.split == "above":
        ground[SIZE // 2 :] = COLOURS[scene.ground[1]]
    return ground


def pillow(scene):
    """The same picture, each drawing made smaller by Pillow's cubic filter and pasted."""
    picture = ground_of(scene)
    for item in scene.items:
        drawing = BANK[list(STYLES).index(scene.style) * SUBJECTS + item.subject] / np.float32(255)
        # Pillow takes nothing of what lies beside an image, compose takes it for transparent.
        rim = 32
        drawing = np.pad(drawing, ((rim, rim), (rim, rim), (0, 0)))
        corner = round(item.x - item.size / 2), round(item.y - item.size / 2)
        assert np.allclose(corner, (item.x - item.size / 2, item.y - item.size / 2))
        reach = rim * item.size / SIZE
        assert reach == round(reach)
        side, reach = round(item.size + 2 * reach), round(reach)
        planes = [
            np.asarray(
                Image.fromarray(drawing[..., c]).resize((side, side), Image.Resampling.BICUBIC)
            )
            for c in range(4)
        ]
        small = np.clip(np.stack(planes, -1), 0, 1)
        left, top = corner[0] - reach, corner[1] - reach
        for row in range(side):
            for column in range(side):
                y, x = top + row, left + column
                if 0 <= y < SIZE and 0 <= x < SIZE:
                    alpha = small[row, column, 3]
                    colour = np.minimum(small[row, column, :3], alpha) * 255
                    if scene.style == "line":
                        colour = 255 * alpha * (scene.ground[0] in ("black", "blue"))
                    picture[y, x] = picture[y, x] * (1 - alpha) + colour
    return picture / 127.5 - 1


SCENES = [
    Scene("one", "noto", (Item(0, 64, 64, 128),), ("light blue",)),
    Scene("one", "3d", (Item(1, 64, 64, 96),), ("red",)),
    Scene("placed", "flat", (Item(0, 30, 100, 32),), ("white", "green"), "beside"),
    Scene("placed", "noto", (Item(1, 100, 20, 32),), ("yellow", "purple"), "above"),
    Scene("one", "line", (Item(0, 64, 64, 96),), ("black",)),
    Scene("one", "line", (Item(1, 60, 68, 96),), ("white",)),
    Scene("two", "noto", (Item(0, 48, 64, 96), Item(1, 80, 64, 64)), ("grey",)),
    Scene("two", "noto", (Item(1, 80, 64, 64), Item(0, 48, 64, 96)), ("grey",)),
    Scene(
        "many",
        "3d",
        tuple(Item(0, x, y, 32) for x, y in ((20, 20), (64, 64), (100, 20), (20, 108), (108, 108))),
        ("pink",),
    ),
]


def test_a_picture_is_what_pillow_makes_of_the_same_drawings():
    pictures = composed(*SCENES)
    assert pictures.shape == (len(SCENES), SIZE, SIZE, 3)
    assert pictures.dtype == np.float32
    for scene, picture in zip(SCENES, pictures, strict=True):
        wanted = pillow(scene)
        assert np.abs(picture - wanted).max() < 0.02, scene
        assert np.abs(wanted - (ground_of(scene) / 127.5 - 1)).max() > 0.2


def test_what_is_drawn_later_hides_what_was_drawn_before():
    first, second = composed(*SCENES[6:8])
    assert np.abs(first[64, 72] - second[64, 72]).max() > 0.5  # where both are


def test_a_scene_is_painted_the_same_alone_and_among_others():
    together = composed(*SCENES)
    for scene, picture in zip(SCENES, together, strict=True):
        np.testing.assert_allclose(composed(scene)[0], picture, atol=1e-5)


def test_a_drawing_moves_by_parts_of_a_pixel():
    """A disc's middle is where it was asked for, in whatever size."""
    for x, y, size in ((64, 64, 100), (64.5, 63.25, 100), (40.3, 90.8, 50.5), (70.1, 30.6, 27.2)):
        (picture,) = composed(Scene("one", "line", (Item(0, x, y, size),), ("white",)))
        weight = COLOURS["white"][0] / 127.5 - 1 - picture[..., 0]
        centre = [(weight * axis).sum() / weight.sum() for axis in np.mgrid[:SIZE, :SIZE] + 0.5]
        np.testing.assert_allclose(centre, (y, x), atol=0.02)
        area = np.pi * (50 * size / SIZE) ** 2
        np.testing.assert_allclose(weight.sum() / (COLOURS["white"][0] / 127.5), area, rtol=0.03)


def test_pixel_art_has_few_cells_and_colours():
    made = painting.pixel_art(drawings()["noto"])
    assert made.shape == (SUBJECTS, SIZE, SIZE, 4)
    assert made.dtype == np.uint8
    for each, whole in zip(made, drawings()["noto"], strict=True):
        assert set(np.unique(each[..., 3])) == {0, 255}
        changes = np.flatnonzero((np.diff(each.astype(int), axis=0) != 0).any((1, 2)))
        edges = {round(SIZE * i / 20) for i in range(21)} | {int(SIZE * i / 20) for i in range(21)}
        assert len(changes) < 20
        assert all(min(abs(change + 1 - edge) for edge in edges) <= 1 for change in changes)
        solid = each[each[..., 3] > 0]
        assert 2 <= len(np.unique(solid[:, :3], axis=0)) <= 12
        inside = (each[..., 3] > 0) == (whole[..., 3] > 110)
        assert inside.mean() > 0.9


def test_a_sticker_is_smaller_and_has_a_white_rim():
    noto = drawings()["noto"]
    made = painting.sticker(noto)
    middle = made[0, 64]
    across = np.flatnonzero(middle[:, 3] > 127)
    red = np.flatnonzero((middle[:, 3] > 127) & (middle[:, 2] < 128))
    assert abs(len(red) - 100 * 112 / 128) <= 2
    for rim in (across[0], across[-1]):
        assert middle[rim, :3].min() > 240
    assert 3 <= red[0] - across[0] <= 10
    for axis in (0, 1):  # in the middle
        line = np.flatnonzero((made[0, ..., 3] > 127).any(axis=axis))
        assert abs((line[0] + line[-1]) / 2 - 63.5) <= 1
    assert not made[0, 0, 0, 3]


def test_the_bank_has_all_styles_in_order_times_alpha():
    assert BANK.shape == (len(STYLES) * SUBJECTS, SIZE, SIZE, 4)
    assert (BANK[..., :3] <= BANK[..., 3:]).all()
    made = drawings()
    made |= {name: derive(made["noto"]) for name, derive in painting.DERIVED.items()}
    for k, style in enumerate(STYLES):
        part = BANK[k * SUBJECTS : (k + 1) * SUBJECTS]
        assert (part[..., 3] == made[style][..., 3]).all()
    half = np.uint8([[100, 200, 255, 128]])
    assert painting.times_alpha(half).tolist() == [[50, 100, 128, 128]]


# Weights of eight bits


@pytest.fixture
def networks():
    return {
        "text_encoder": TextEncoder(TINY.text_encoder),
        "unet": UNet(TINY.unet),
        "autoencoder": Autoencoder(TINY.autoencoder),
    }


def test_networks_have_the_numbers_of_a_preset_of_int8(tmp_path, networks):
    wanted = arrays_of(networks)
    save_preset(tmp_path / "x", TINY, wanted, MERGES, dtype="int8")
    found = arrays_of(build_networks(open_checkpoint(tmp_path / "x")))
    assert found.keys() == wanted.keys()
    changed = 0
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        if value.ndim > 1:
            steps = np.abs(value).reshape(-1, value.shape[-1]).max(0) / 127
            assert (np.abs(found[name] - value) <= 0.51 * steps + 1e-9).all(), name
            changed += (found[name] != value).any()
    assert changed > 20


def test_a_scale_that_is_not_finite_is_refused(tmp_path, networks):
    save_preset(tmp_path / "x", TINY, arrays_of(networks), MERGES, dtype="int8")
    rewrite(tmp_path / "x", lambda tensors: tensors["unet/conv_in/kernel.scale"].fill(np.inf))
    with pytest.raises(WeightsError, match="not finite: unet/conv_in/kernel"):
        build_networks(open_checkpoint(tmp_path / "x"))
