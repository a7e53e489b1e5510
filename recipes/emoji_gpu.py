"""Trains the embedded model `emoji` on one GPU within minutes, on JAX.

    python3 recipes/emoji_gpu.py --bank bank.zip --subjects subjects.json --merges merges.txt \
        --out OUT --seconds 520

The pictures are composed on the GPU, the captions are made by the other processor cores, and the
learning rate follows the clock: whatever the card does in the time is what there is. `OUT` gets the
weights (a running average, float16) in files of at most 15 MiB, a log, and sheets of pictures of
every subject, measured. `keras_sd.training.emoji` reads the weights from there and writes the
preset. Only this recipe is bound to a backend: a loop of hundreds of steps in one compiled program
is what keeps a model of this size from waiting for its launches, and only JAX has that.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import threading
import time
from pathlib import Path

START = time.monotonic()
VARIANTS = 3  # captions of a scene
CHUNK = 4096  # scenes that a worker makes at a time


def scenes_and_tokens(task):
    """In a worker: scenes of a seed, as arrays, with `VARIANTS` captions each as token ids."""
    import numpy as np

    from keras_sd.tokenizer import Tokenizer
    from keras_sd.training import scenes, words

    seed, count, subjects_path, merges, styles, length, vocabulary = task
    if not hasattr(scenes_and_tokens, "known"):
        scenes_and_tokens.known = (
            words.load(Path(subjects_path)),
            Tokenizer(merges, max_length=length, vocab_size=vocabulary),
        )
    subjects, tokenizer = scenes_and_tokens.known
    rng = random.Random(seed)
    made, texts = [], []
    while len(made) < count:
        scene = scenes.random_scene(subjects, rng)
        captions = [scenes.strange(scene.caption(subjects, rng), rng) for _ in range(VARIANTS)]
        if max(len(tokenizer.encode(text)) for text in captions) > length:
            continue
        made.append(scene)
        texts += captions
    tokens = tokenizer(texts).astype(np.uint16).reshape(count, VARIANTS, length)
    return {**scenes.layout(made, styles, len(subjects)), "tokens": tokens}


def say(text: str) -> None:
    line = f"[{time.monotonic() - START:6.1f}] {text}"
    print(line, flush=True)
    if say.log:
        with open(say.log, "a", encoding="utf-8") as log:
            log.write(line + "\n")


say.log = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("bank", "subjects", "merges", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=520, help="of the whole run")
    parser.add_argument("--autoencoder-share", type=float, default=0.35, help="of the training")
    parser.add_argument("--scenes", type=int, default=524_288)
    parser.add_argument("--autoencoder-batch", type=int, default=192)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--scan", type=int, default=20, help="steps of one compiled program")
    parser.add_argument("--autoencoder-rate", type=float, default=1.5e-3)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tail", type=float, default=45, help="seconds kept for measuring")
    parser.add_argument("--state", type=Path, help="weights and moments: read if there, written")
    parser.add_argument("--tiny", action="store_true", help="a model for trying the program")
    options = parser.parse_args()
    if options.scenes % 256:
        parser.error(f"--scenes {options.scenes} is not a multiple of 256")
    options.out.mkdir(parents=True, exist_ok=True)
    say.log = options.out / "log.txt"

    os.environ["KERAS_BACKEND"] = "jax"
    platforms = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the workers, who only make arrays
    pool = multiprocessing.get_context("spawn").Pool(options.workers)
    if platforms is None:
        del os.environ["JAX_PLATFORMS"]
    else:
        os.environ["JAX_PLATFORMS"] = platforms
    try:
        run(options, pool)
    finally:
        pool.terminate()


def config_of(options):
    import dataclasses

    from keras_sd.config import (
        AutoencoderConfig,
        Defaults,
        ModelConfig,
        NoiseConfig,
        TextEncoderConfig,
        UNetConfig,
    )

    config = ModelConfig(
        name="emoji",
        text_encoder=TextEncoderConfig(
            vocab_size=4096, max_length=48, width=256, depth=3, heads=4, mlp_width=1024
        ),
        unet=UNetConfig(
            in_channels=16,
            out_channels=16,
            widths=(96, 192, 256),
            heads=(3, 6, 8),
            depths=(0, 1, 1),
            blocks=1,
            context_width=256,
            groups=16,
        ),
        autoencoder=AutoencoderConfig(
            latent_channels=16, widths=(32, 48, 96, 128), blocks=1, groups=16, scale=1.0
        ),
        noise=NoiseConfig(prediction="v"),
        defaults=Defaults(128, 128, "ddim", "trailing", 20, 3.0),
    )
    if options.tiny:
        config = dataclasses.replace(
            config,
            text_encoder=dataclasses.replace(config.text_encoder, width=64, mlp_width=64, depth=1),
            unet=dataclasses.replace(
                config.unet, widths=(32, 32, 32), heads=(2, 2, 2), context_width=64, groups=8
            ),
            autoencoder=dataclasses.replace(config.autoencoder, widths=(8, 8, 16, 16), groups=4),
        )
    return config


def run(options, pool) -> None:
    import jax
    import jax.numpy as jnp
    import keras
    import numpy as np

    from keras_sd.networks import Autoencoder, TextEncoder, UNet
    from keras_sd.training import drawings, scenes, words

    on_gpu = jax.default_backend() != "cpu"
    say(f"{jax.devices()}; jax {jax.__version__}, keras {keras.__version__}")
    keras.utils.set_random_seed(options.seed)
    keras.config.set_dtype_policy("mixed_bfloat16" if on_gpu else "float32")
    config = config_of(options)
    subjects = words.load(options.subjects)
    styles = list(scenes.STYLES)
    tasks = [
        (
            options.seed * 1_000_003 + start,
            min(CHUNK, options.scenes - start),
            str(options.subjects),
            str(options.merges),
            styles,
            config.text_encoder.max_length,
            config.text_encoder.vocab_size,
        )
        for start in range(0, options.scenes, CHUNK)
    ]
    coming = pool.imap(scenes_and_tokens, tasks)

    networks = {
        "text_encoder": TextEncoder(config.text_encoder),
        "unet": UNet(config.unet),
        "autoencoder": Autoencoder(config.autoencoder),
    }
    values = {
        name: [jnp.asarray(v.value) for v in network.trainable_variables]
        for name, network in networks.items()
    }
    for name, each in values.items():
        say(f"{name}: {sum(v.size for v in each) / 1e6:.2f} million")

    def scope(*names, given):
        pairs = [
            pair
            for name in names
            for pair in zip(networks[name].trainable_variables, given[name], strict=True)
        ]
        return keras.StatelessScope(state_mapping=pairs)

    bank = drawings.Bank(options.bank)
    if [*bank.styles, *scenes.DERIVED] != styles:
        raise SystemExit(f"the bank has the styles {bank.styles}, and {styles} are wanted")
    drawn = {style: bank.sprites(style) for style in bank.styles}
    pieces = np.array_split(drawn["noto"], options.workers * 2)
    for style, derive in scenes.DERIVED.items():
        drawn[style] = np.concatenate(pool.map(derive, pieces))
    sprites = jax.device_put(np.concatenate([scenes.times_alpha(each) for each in drawn.values()]))
    del drawn, pieces
    say(f"{sprites.shape[0]} drawings on the device")

    # --- steps ---------------------------------------------------------------------------------

    def adam(state, gradients, rate):
        """AdamW with gradients clipped to norm 1 (Loshchilov & Hutter 2019); and the average."""
        step = state["step"] + 1
        leaves = jax.tree.leaves(gradients)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in leaves))
        gradients = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / (norm + 1e-12)), gradients)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["first"], gradients)
        second = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g * g, state["second"], gradients)
        one, two = 1 - 0.9**step, 1 - 0.99**step
        changed = jax.tree.map(
            lambda p, m, v: p - rate * (m / one / (jnp.sqrt(v / two) + 1e-8) + 1e-4 * p),
            state["values"],
            first,
            second,
        )
        keep = jnp.minimum(0.998, (1.0 + step) / (10.0 + step))
        average = jax.tree.map(lambda a, p: a * keep + p * (1 - keep), state["average"], changed)
        return {
            "step": step,
            "values": changed,
            "first": first,
            "second": second,
            "average": average,
        }, norm

    def new_state(*names):
        given = {name: values[name] for name in names}
        copies = lambda: jax.tree.map(jnp.copy, given)  # noqa: E731
        zeros = lambda: jax.tree.map(jnp.zeros_like, given)  # noqa: E731
        return {
            "step": jnp.float32(0),
            "values": copies(),
            "first": zeros(),
            "second": zeros(),
            "average": copies(),
        }

    autoencoder = networks["autoencoder"]

    def autoencoder_loss(given, scene, key, spread, edge):
        image = scenes.compose(sprites_of["bank"], **scene)
        with scope("autoencoder", given=given):
            mean, log_variance = autoencoder.moments(image)
            noise = jax.random.normal(key, mean.shape) * spread
            latents = mean + jnp.exp(0.5 * log_variance) * noise
            decoded = autoencoder.decode(latents * config.autoencoder.scale)
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
        error = decoded - image
        across, down = error[:, :, 1:] - error[:, :, :-1], error[:, 1:] - error[:, :-1]
        loss = jnp.mean(jnp.abs(error)) + 1e-4 * kl
        loss += edge * (jnp.mean(jnp.abs(across)) + jnp.mean(jnp.abs(down)))
        return loss, jnp.mean(jnp.abs(jnp.clip(decoded, -1, 1) - image))

    sprites_of = {}
    encoder_count = len(autoencoder.encoder.trainable_variables)
    assert [id(v) for v in autoencoder.trainable_variables[:encoder_count]] == [
        id(v) for v in autoencoder.encoder.trainable_variables
    ]

    def autoencoder_steps(state, drawn, pool_of_scenes, key, rate, spread, edge, whole):
        sprites_of["bank"] = drawn

        def step(state, key):
            pick, noise = jax.random.split(key)
            chosen = jax.random.randint(
                pick, (options.autoencoder_batch,), 0, pool_of_scenes["split"].shape[0]
            )
            scene = {name: each[chosen] for name, each in pool_of_scenes.items()}
            gradients, error = jax.grad(autoencoder_loss, has_aux=True)(
                state["values"], scene, noise, spread, edge
            )
            before = state["values"]["autoencoder"][:encoder_count]
            state, _ = adam(state, gradients, rate)
            # In the second part the encoder stays as it is: the latents are fixed by then.
            state["values"]["autoencoder"] = [
                jnp.where(whole > 0, new, old)
                for new, old in zip(
                    state["values"]["autoencoder"][:encoder_count], before, strict=True
                )
            ] + state["values"]["autoencoder"][encoder_count:]
            return state, error

        return jax.lax.scan(step, state, jax.random.split(key, options.scan))

    abar = jnp.asarray(np.asarray(config.noise.table().alphas_cumprod, np.float32))

    def denoiser_loss(given, x0, tokens, key):
        parts = jax.random.split(key, 3)
        batch = x0.shape[0]
        start = jax.random.uniform(jax.random.fold_in(key, 1), (batch,)) < 0.04
        place = (jnp.arange(batch) + jax.random.uniform(parts[0], (batch,))) / batch
        timestep = (place * len(abar)).astype("int32")
        # A run begins with noise alone, of which the table's last level is 7 % short: what little
        # it shows of the image there is hidden, and the level comes up more often.
        last = len(abar) - 1
        timestep = jnp.where(start, last, timestep)
        signal = abar[timestep][:, None, None, None]
        noise = jax.random.normal(parts[1], x0.shape)
        x = jnp.sqrt(signal) * x0 + jnp.sqrt(1 - signal) * noise
        x = jnp.where((timestep == last)[:, None, None, None], noise, x)
        target = jnp.sqrt(signal) * noise - jnp.sqrt(1 - signal) * x0
        with scope("text_encoder", "unet", given=given):
            context = networks["text_encoder"](tokens)
            v = networks["unet"](x, timestep.astype("float32"), context)
        # min(SNR + 1, 6) / (SNR + 1): the weight of Hang et al. 2023 for v, that does not vanish
        # where there is only noise.
        weight = jnp.minimum(1.0, 6.0 * (1 - signal))
        return jnp.mean(weight * jnp.square(v - target))

    def denoiser_steps(state, latents, tokens, empty, key, rate):
        def step(state, key):
            parts = jax.random.split(key, 4)
            batch = options.batch
            chosen = jax.random.randint(parts[0], (batch,), 0, latents.shape[0])
            variant = jax.random.randint(parts[1], (batch,), 0, VARIANTS)
            texts = tokens[chosen, variant].astype("int32")
            without = jax.random.uniform(parts[2], (batch, 1)) < 0.1
            texts = jnp.where(without, empty, texts)
            loss, gradients = jax.value_and_grad(denoiser_loss)(
                state["values"], latents[chosen].astype("float32"), texts, parts[3]
            )
            state, _ = adam(state, gradients, rate)
            return state, loss

        return jax.lax.scan(step, state, jax.random.split(key, options.scan))

    def encode(given, drawn, scene):
        image = scenes.compose(drawn, **scene)
        with scope("autoencoder", given=given):
            mean, _ = autoencoder.moments(image)
        return mean.astype("float16")

    def reconstruct(given, drawn, scene):
        image = scenes.compose(drawn, **scene)
        with scope("autoencoder", given=given):
            mean, _ = autoencoder.moments(image)
            decoded = autoencoder.decode(mean * config.autoencoder.scale)
        return image, jnp.clip(decoded, -1, 1)

    def paint(given, tokens, empty, key, scale):
        """Pictures by DDIM in 20 trailing steps with guidance 3, in [-1, 1]."""
        batch = tokens.shape[0]
        size = scenes.SIZE // config.autoencoder.factor
        x = jax.random.normal(key, (batch, size, size, config.autoencoder.latent_channels))
        steps = jnp.asarray(np.arange(20, 0, -1) * 50 - 1)
        levels = jnp.concatenate([abar[steps], jnp.ones(1)])
        with scope("text_encoder", "unet", "autoencoder", given=given):
            context = networks["text_encoder"](
                jnp.concatenate([tokens, jnp.broadcast_to(empty, tokens.shape)])
            )

            def one(i, x):
                timestep = jnp.full((2 * batch,), steps[i], "float32")
                v = networks["unet"](jnp.concatenate([x, x]), timestep, context)
                asked, plain = jnp.split(v, 2)
                v = plain + 3.0 * (asked - plain)
                signal, noise = jnp.sqrt(levels[i]), jnp.sqrt(1 - levels[i])
                x0, epsilon = signal * x - noise * v, noise * x + signal * v
                return jnp.sqrt(levels[i + 1]) * x0 + jnp.sqrt(1 - levels[i + 1]) * epsilon

            x = jax.lax.fori_loop(0, 20, one, x)
            return jnp.clip(autoencoder.decode(x / scale * config.autoencoder.scale), -1, 1)

    # --- compiling: the denoiser's programs while the autoencoder trains ---------------------------

    shaped = lambda tree: jax.tree.map(  # noqa: E731
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), tree
    )
    key = jax.random.key(options.seed)
    scalar = jax.ShapeDtypeStruct((), "float32")
    length = config.text_encoder.max_length
    cells = scenes.SIZE // config.autoencoder.factor
    channels = config.autoencoder.latent_channels
    ids = jax.ShapeDtypeStruct((length,), "int32")
    compiled, failures = {}, []
    evaluated = 64

    def compile_rest():
        try:
            started = time.monotonic()
            compiled["denoiser"] = (
                jax.jit(denoiser_steps, donate_argnums=0)
                .lower(
                    shaped(denoiser_state_like),
                    jax.ShapeDtypeStruct((options.scenes, cells, cells, channels), "float16"),
                    jax.ShapeDtypeStruct((options.scenes, VARIANTS, length), "uint16"),
                    ids,
                    key,
                    scalar,
                )
                .compile()
            )
            say(f"denoiser compiled in {time.monotonic() - started:.0f} s")
            started = time.monotonic()
            compiled["paint"] = (
                jax.jit(paint)
                .lower(
                    shaped(values),
                    jax.ShapeDtypeStruct((evaluated, length), "int32"),
                    ids,
                    key,
                    scalar,
                )
                .compile()
            )
            say(f"sampler compiled in {time.monotonic() - started:.0f} s")
        except BaseException as error:
            failures.append(error)
            raise

    state = new_state("autoencoder")
    denoiser_state_like = jax.eval_shape(lambda: new_state("text_encoder", "unet"))
    first = next(coming)
    arrays = {name: [each] for name, each in first.items()}
    wanted = min(options.scenes, 16 * CHUNK)
    while sum(map(len, arrays["split"])) < wanted:
        for name, each in next(coming).items():
            arrays[name].append(each)
    names = ("sprite", "box", "ground", "split", "ink")
    early = {name: jax.device_put(np.concatenate(arrays[name])) for name in names}
    say(f"{early['split'].shape[0]} scenes for the autoencoder")
    started = time.monotonic()
    train_autoencoder = (
        jax.jit(autoencoder_steps, donate_argnums=0)
        .lower(shaped(state), sprites, early, key, scalar, scalar, scalar, scalar)
        .compile()
    )
    say(f"autoencoder compiled in {time.monotonic() - started:.0f} s")
    compiler = threading.Thread(target=compile_rest, daemon=True)
    compiler.start()

    # --- autoencoder ---------------------------------------------------------------------------

    begin = time.monotonic() - START
    end = begin + (options.seconds - options.tail - begin) * options.autoencoder_share
    fixed = begin + (end - begin) * 0.72

    def rate_at(now, begin, end, most):
        done = min(1.0, max(0.0, (now - begin) / (end - begin)))
        return most * min(1.0, done / 0.03 + 0.02) * 0.5 * (1 + math.cos(math.pi * done))

    count, shown = 0, 0.0
    while (now := time.monotonic() - START) < end:
        whole = now < fixed
        if whole:
            rate = rate_at(now, begin, begin + (end - begin) * 1.25, options.autoencoder_rate)
        else:
            rate = rate_at(now, fixed - (end - fixed) * 0.7, end, options.autoencoder_rate * 0.8)
        key, use = jax.random.split(key)
        state, errors = train_autoencoder(
            state,
            sprites,
            early,
            use,
            rate,
            1.0 if whole else 0.3,
            0.5 if whole else 0.2,
            1.0 if whole else 0.0,
        )
        errors.block_until_ready()
        count += options.scan
        if now - shown > 8:
            shown = now
            seen = count * options.autoencoder_batch
            say(f"autoencoder {count}: error {float(errors.mean()):.4f}, {seen} pictures")
    seen = {"autoencoder": count * options.autoencoder_batch}
    values["autoencoder"] = state["average"]["autoencoder"]
    # The running average of the encoder is still moving when it is fixed; the decoder has been
    # trained on the latents of the encoder itself.
    values["autoencoder"][:encoder_count] = state["values"]["autoencoder"][:encoder_count]
    del state, train_autoencoder
    save(options.out, "autoencoder", {"autoencoder": values["autoencoder"]})

    # --- latents -------------------------------------------------------------------------------

    for made in coming:
        for name, each in made.items():
            arrays[name].append(each)
    tokens = jax.device_put(np.concatenate(arrays.pop("tokens")))
    everything = {name: jax.device_put(np.concatenate(arrays[name])) for name in names}
    del arrays
    say(f"{tokens.shape[0]} scenes with {VARIANTS} captions each")
    given = {"autoencoder": values["autoencoder"]}
    batch = 256
    rows = {name: each.reshape(-1, batch, *each.shape[1:]) for name, each in everything.items()}
    latents = jax.jit(
        lambda given, drawn, rows: jax.lax.map(lambda row: encode(given, drawn, row), rows)
    )(given, sprites, rows).reshape(options.scenes, cells, cells, channels)
    del rows
    sample = latents[:: max(1, len(latents) // 8192)].astype("float32")
    scale = float(1 / sample.std())
    held_out = {name: each[:64] for name, each in everything.items()}
    original, decoded = jax.jit(reconstruct)(given, sprites, held_out)
    error = float(jnp.abs(decoded - original).mean())
    say(
        f"latents {latents.shape}, scale {scale:.4f}; autoencoder's mean absolute error {error:.4f}"
    )
    pictures = np.concatenate([original[:32], decoded[:32]])
    sheet(options.out / "autoencoder.webp", pictures.reshape(8, 8, *pictures.shape[1:]))
    latents = jax.jit(lambda x: (x.astype("float32") * scale).astype("float16"), donate_argnums=0)(
        latents
    )
    del everything

    # --- denoiser ------------------------------------------------------------------------------

    compiler.join()
    if failures:
        raise SystemExit("the denoiser did not compile")
    from keras_sd.tokenizer import Tokenizer

    tokenizer = Tokenizer(
        options.merges, max_length=length, vocab_size=config.text_encoder.vocab_size
    )
    empty = jnp.asarray(tokenizer("")[0])
    state = new_state("text_encoder", "unet")
    if options.state and options.state.exists():
        with np.load(options.state) as known:
            leaves = [jnp.asarray(known[str(i)]) for i in range(len(known.files))]
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        say(f"goes on at step {float(state['step']):.0f}")
    begin, end = time.monotonic() - START, options.seconds - options.tail
    count, shown, saved = 0, 0.0, begin
    while (now := time.monotonic() - START) < end:
        key, use = jax.random.split(key)
        state, losses = compiled["denoiser"](
            state, latents, tokens, empty, use, jnp.float32(rate_at(now, begin, end, options.rate))
        )
        losses.block_until_ready()
        count += options.scan
        if now - shown > 8:
            shown = now
            done = count * options.batch
            say(
                f"denoiser {count}: loss {float(losses.mean()):.4f}, {done} samples, "
                f"{done / (time.monotonic() - START - begin):.0f}/s"
            )
        if now - saved > 100:
            saved = now
            save(options.out, "denoiser", state["average"])
    seen["denoiser"] = count * options.batch
    values.update(state["average"])
    save(options.out, "denoiser", state["average"])
    facts = {
        "config": config.to_dict(),
        "scale": scale,
        "seen": seen,
        "autoencoder_error": error,
        "devices": str(jax.devices()),
        "seconds": options.seconds,
        "options": {name: str(value) for name, value in vars(options).items()},
    }
    (options.out / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if options.state:
        leaves = jax.tree.leaves(state)
        np.savez(options.state, **{str(i): np.asarray(v) for i, v in enumerate(leaves)})
    del state, latents

    # --- measuring -----------------------------------------------------------------------------

    say("measuring")
    single = jax.jit(scenes.compose)
    small = jax.jit(
        lambda x: jax.image.resize(x, (x.shape[0], 32, 32, 3), "linear").reshape(x.shape[0], -1)
    )
    ground = "light blue"
    measured = {}
    for style in styles:
        if time.monotonic() - START > options.seconds - 6:
            say("no time for more")
            break
        pictures = []
        before = scenes.STYLES[style][0][0]
        prompts = [
            scenes.on_ground(
                scenes.HELD_OUT[0], f"{before} {scenes.with_article(s.name, s.article)}", ground
            )
            for s in subjects
        ]
        if options.tiny:
            prompts = prompts[:evaluated]
        for at in range(0, len(prompts), evaluated):
            asked = tokenizer(prompts[at : at + evaluated])
            asked = np.concatenate([asked, np.repeat(asked[-1:], evaluated - len(asked), 0)])
            key, use = jax.random.split(key)
            made = compiled["paint"](values, jnp.asarray(asked), empty, use, jnp.float32(scale))
            pictures.append(np.asarray(made))
        pictures = np.concatenate(pictures)[: len(prompts)]
        best = np.full((len(prompts), len(prompts)), np.inf, np.float32)
        vectors = np.asarray(small(jnp.asarray(pictures)))
        for size in (98, 106):
            for dx in (-3, 0, 3):
                for dy in (-3, 0, 3):
                    shown_scenes = [
                        scenes.Scene(
                            "one", style, (scenes.Item(i, 64 + dx, 64 + dy, size),), (ground,)
                        )
                        for i in range(len(prompts))
                    ]
                    laid = scenes.layout(shown_scenes, styles, len(subjects))
                    drawn = []
                    for at in range(0, len(prompts), evaluated):
                        part = {
                            name: np.concatenate([each, np.repeat(each[-1:], evaluated, 0)])[
                                at : at + evaluated
                            ]
                            for name, each in laid.items()
                        }
                        drawn.append(small(single(sprites, **part)))
                    candidates = jnp.concatenate(drawn)[: len(prompts)]
                    distance = (
                        jnp.sum(jnp.square(candidates), 1)[None]
                        - 2 * jnp.asarray(vectors) @ candidates.T
                    )
                    best = np.minimum(best, np.asarray(distance))
        order = best.argsort(1)
        truth = np.arange(len(prompts))[:, None]
        top1 = float((order[:, :1] == truth).mean())
        top5 = float((order[:, :5] == truth).any(1).mean())
        measured[style] = {"top1": top1, "top5": top5}
        say(f"{style}: {top1:.1%} right, {top5:.1%} among five")
        if style == "noto":
            side = math.ceil(math.sqrt(len(pictures)))
        else:
            side = min(16, int(math.sqrt(len(pictures))))
            pictures = pictures[:: max(1, len(pictures) // side**2)]
        filled = np.zeros((side * side, *pictures.shape[1:]), np.float32)
        filled[: len(pictures[: side * side])] = pictures[: side * side]
        sheet(options.out / f"{style}.webp", filled.reshape(side, side, *pictures.shape[1:]))
    facts["measured"] = measured
    (options.out / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    say("done")


def sheet(path: Path, pictures) -> None:
    """Rows of pictures in [-1, 1] as one file in `sheets.zip`, beside `path`."""
    import io
    import zipfile

    import numpy as np
    from PIL import Image

    rows, columns, height, width, channels = pictures.shape
    flat = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(flat * 127.5 + 128, 0, 255))).save(file, "webp", quality=72)
    with zipfile.ZipFile(path.parent / "sheets.zip", "a") as sheets:
        sheets.writestr(path.name, file.getvalue())


def save(out: Path, name: str, values, most: int = 15 * 2**20) -> None:
    """Weights as float16, in files of at most `most` bytes: `NAME-0.npz` and so on.

    A variable is named by its network and its number there.
    """
    import numpy as np

    pieces, size = [{}], 0
    for network, each in sorted(values.items()):
        for i, value in enumerate(each):
            half = np.asarray(value, np.float16)
            if size + half.nbytes > most:
                pieces.append({})
                size = 0
            pieces[-1][f"{network}/{i}"] = half
            size += half.nbytes
    for i, piece in enumerate(pieces):
        np.savez(out / f"{name}-{i}.npz", **piece)


if __name__ == "__main__":
    sys.exit(main())
