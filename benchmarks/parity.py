"""Full-size parity with diffusers, and the memory that loading takes.

    python benchmarks/parity.py FOLDER VOCABULARY

makes random Stable Diffusion 1.5 and 2.1 checkpoints of full size in FOLDER (10 GB; kept for the
next run), lets diffusers compute on them, then each installed backend, and prints how far apart
they are: the largest difference over the largest magnitude. The exit status is 1 where that is more
than the project is held to. Each computation is a process of its own; the largest needs 9 GB.

VOCABULARY is `bpe_simple_vocab_16e6.txt.gz`. `nox -s parity -- VOCABULARY` does all of this in an
environment of its own.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from keras_sd.backend import to_numpy

MODELS = ("sd-1.5", "sd-2.1")
BACKENDS = ("jax", "tensorflow", "torch")
PROMPT, NEGATIVE = "a photograph of an astronaut riding a horse", "blurry, low quality"
LATENT = (32, 40)
"""Height and width: a quarter of the pixels of 512x512, so that a CPU is done in minutes."""
TIMESTEP, STEPS, GUIDANCE = 501, 10, 7.5
LIMITS = {
    "text encoder": 2e-5,
    "unet": 2e-5,
    "decode": 2e-5,
    "encode": 2e-5,
    "ddim": 1e-3,
    "euler": 1e-3,
}
MEMORY_LIMIT = 1.3
"""Peak memory of loading a float16 file in float16, in sizes of the file."""


def inputs(channels: int = 4) -> dict[str, np.ndarray]:
    """What the networks are given; images and latents channels last."""
    generator = np.random.Generator(np.random.PCG64(7))
    height, width = LATENT
    return {
        "latent": generator.standard_normal((1, height, width, channels)).astype(np.float32),
        "image": generator.uniform(-1, 1, (1, 8 * height, 8 * width, 3)).astype(np.float32),
    }


def reference(model: Path) -> dict[str, np.ndarray]:
    """What diffusers makes of them."""
    import torch
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    given = {name: torch.from_numpy(x).permute(0, 3, 1, 2) for name, x in inputs().items()}
    found = {}
    with torch.no_grad():
        texts = [PROMPT, NEGATIVE]
        tokens = pipeline.tokenizer(
            texts, padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        found["tokens"] = tokens.numpy()
        both = pipeline.text_encoder(tokens).last_hidden_state
        found["text encoder"] = both.numpy()
        t = torch.tensor(TIMESTEP)
        found["unet"] = pipeline.unet(given["latent"], t, both[:1]).sample.numpy()
        found["decode"] = pipeline.vae.decode(given["latent"]).sample.numpy()
        found["encode"] = pipeline.vae.encode(given["image"]).latent_dist.mean.numpy()
        for name, kind in (("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)):
            # The folders are PNDM's, which knows nothing of the clipping that DDIM would begin.
            settings = {"timestep_spacing": "leading", "clip_sample": False}
            scheduler = kind.from_config(pipeline.scheduler.config, **settings)
            scheduler.set_timesteps(STEPS)
            x = given["latent"]
            if name == "euler":  # its latents are divided by alpha: x * sqrt(1 + sigma**2)
                x = x * (1 + scheduler.sigmas[0] ** 2) ** 0.5
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(x, t)
                predicted = pipeline.unet(torch.cat([scaled] * 2), t, both[[1, 0]]).sample
                unconditional, conditional = predicted.chunk(2)
                guided = unconditional + GUIDANCE * (conditional - unconditional)
                x = scheduler.step(guided, t, x).prev_sample
            found[name] = x.numpy()
    return {name: np.moveaxis(x, 1, 3) if x.ndim == 4 else x for name, x in found.items()}


def ours(model: Path) -> dict[str, np.ndarray]:
    """What we make of them, on the backend of this process, compiled as a user has it."""
    from keras import ops

    from keras_sd import StableDiffusion
    from keras_sd.backend import compile_step
    from keras_sd.schedules import leading

    given = inputs()
    height, width = (8 * size for size in LATENT)
    pipeline = StableDiffusion.from_preset(model, height=height, width=width)
    unet, autoencoder = pipeline.unet, pipeline.autoencoder
    found = {"tokens": pipeline.tokenizer([PROMPT, NEGATIVE])}
    both = pipeline.encode_text([PROMPT, NEGATIVE])
    found["text encoder"] = both
    # Given as tensors, as a run gives them.
    latent, image = (ops.convert_to_tensor(given[name]) for name in ("latent", "image"))
    t = ops.convert_to_tensor(np.full(1, TIMESTEP, np.float32))
    found["unet"] = compile_step(unet, [unet])(latent, t, both[:1])
    decode = compile_step(autoencoder.decode, [autoencoder])
    found["decode"] = decode(latent * autoencoder.config.scale)
    encode = compile_step(autoencoder.moments, [autoencoder])
    found["encode"] = encode(image)[0]
    for name in ("ddim", "euler"):
        # DDIM ends at the table's least noise, Euler at none, as diffusers' do.
        final = "zero" if name == "euler" else pipeline.config.noise.final_sigma
        *_, last = pipeline.stream(
            PROMPT,
            NEGATIVE,
            unconditional_guidance_scale=GUIDANCE,
            sampler=name,
            num_steps=STEPS,
            schedule=lambda table, n, final=final: leading(table, n, final_sigma=final),
            diffusion_noise=given["latent"],
        )
        found[name] = last.latent
    return {name: to_numpy(x) for name, x in found.items()}


def differences(found: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference over the largest magnitude, by what was computed."""
    if not np.array_equal(found["tokens"], known["tokens"]):
        raise SystemExit(f"The tokens differ: {found['tokens']} and {known['tokens']}")
    return {
        name: float(np.abs(found[name] - known[name]).max() / np.abs(known[name]).max())
        for name in LIMITS
    }


def memory(file: Path, vocabulary: Path) -> dict[str, float]:
    """The peak of this process' memory while it loads a float16 file in float16, in sizes of the
    file, over what the imports and a first computation took.
    """
    import keras
    from keras import ops

    keras.config.set_dtype_policy("float16")
    from keras_sd import StableDiffusion

    StableDiffusion.from_preset("emoji")
    to_numpy(ops.ones(3))
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.perf_counter()
    pipeline = StableDiffusion.from_preset(file, vocabulary=vocabulary)
    seconds = time.perf_counter() - start
    size = file.stat().st_size
    peak, after = (status(name) - before for name in ("VmHWM", "VmRSS"))
    assert pipeline.unet.conv_in.kernel.dtype == "float16"
    return {"peak": peak / size, "after": after / size, "file GB": size / 1e9, "seconds": seconds}


def status(name: str) -> int:
    """A number of bytes from Linux' account of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, name
    return int(found[1]) * 1024


def run(*arguments: str | Path, backend: str = "torch") -> dict[str, float]:
    """One computation in a process of its own; its last line is JSON."""
    environment = os.environ | {"KERAS_BACKEND": backend, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def make(folder: Path, vocabulary: Path) -> None:
    """The checkpoints: diffusers folders in float32, and a single file in float16."""
    path = Path(__file__).parents[1] / "tests" / "fixtures" / "make_checkpoints.py"
    spec = importlib.util.spec_from_file_location("make_checkpoints", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    from keras_sd.weights.checkpoint import open_checkpoint
    from keras_sd.weights.save import save_checkpoint

    for model in MODELS:
        if not (folder / model / "model_index.json").exists():
            script.full(model, folder / model, vocabulary)
    file = folder / "sd-1.5-fp16.safetensors"
    if not file.exists():
        checkpoint = open_checkpoint(folder / "sd-1.5")
        save_checkpoint(file, checkpoint.config, checkpoint.arrays(), dtype="float16")


def main(folder: Path, vocabulary: Path) -> int:
    """Everything; the exit status."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    folder.mkdir(parents=True, exist_ok=True)
    run("make", folder, vocabulary)
    worst = 0.0
    print(f"| model | backend | {' | '.join(LIMITS)} |")
    print(f"|---|---|{'---|' * len(LIMITS)}")
    for model in MODELS:
        known = folder / f"{model}.npz"
        if not known.exists():
            run("reference", folder / model, known)
        for backend in installed:
            found = run("ours", folder / model, known, backend=backend)
            cells = " | ".join(f"{found[name]:.1e}" for name in LIMITS)
            print(f"| {model} | {backend} | {cells} |", flush=True)
            worst = max(worst, *(found[name] / LIMITS[name] for name in LIMITS))
    print("\n| backend | peak / file | after / file | file, GB | seconds |\n|---|---|---|---|---|")
    for backend in installed:
        found = run("memory", folder / "sd-1.5-fp16.safetensors", vocabulary, backend=backend)
        print(f"| {backend} | {' | '.join(f'{x:.2f}' for x in found.values())} |", flush=True)
        worst = max(worst, found["peak"] / MEMORY_LIMIT)
    print(f"\nThe worst is {worst:.2f} of its limit.")
    return int(worst > 1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder, vocabulary]:
            make(Path(folder), Path(vocabulary))
            print("{}")
        case ["reference", model, known]:
            np.savez(known, **reference(Path(model)))
            print("{}")
        case ["ours", model, known]:
            print(json.dumps(differences(ours(Path(model)), dict(np.load(known)))))
        case ["memory", file, vocabulary]:
            print(json.dumps(memory(Path(file), Path(vocabulary))))
        case _:
            parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
            parser.add_argument("folder", type=Path, help="for the checkpoints: 10 GB")
            parser.add_argument("vocabulary", type=Path, help="bpe_simple_vocab_16e6.txt.gz")
            arguments = parser.parse_args()
            sys.exit(main(arguments.folder, arguments.vocabulary))
