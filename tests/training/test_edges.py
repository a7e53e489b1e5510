"""A ControlNet on edges for the model in the package: its hints steer pictures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from keras_sd.training.run import train

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the recipes are in no package

from recipes.shapes import edges  # noqa: E402


def test_a_controlnet_learns_edges(tmp_path):
    edges.main(tmp_path)
    shutil.copy(ROOT / "recipes" / "shapes" / "edges.toml", tmp_path)
    made = train(tmp_path / "edges.toml", report=print)
    told, plain = edges.measure(made.files[0])
    print(f"edges: {told:.3f}, without {plain:.3f}")
    assert told > 1.3 * plain
