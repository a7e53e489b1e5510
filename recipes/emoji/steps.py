"""What the GPU computes: training steps, a few of them in one program, and pictures.

Only this recipe is bound to a backend: a loop of many steps in one compiled program is what keeps
a model of this size from waiting for its launches, and only JAX has that.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.training import painting, scenes, trainers
from keras_sd.training.objective import Noising, noised, target
from recipes.emoji.config import OBJECTIVE
from recipes.emoji.data import VARIANTS

ENCODED = 256
"""Pictures that are encoded at a time."""


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
    }


def new_state(given):
    """Of a training that begins with these values."""
    return {
        "step": jnp.float32(0),
        "values": jax.tree.map(jnp.copy, given),
        "first": jax.tree.map(jnp.zeros_like, given),
        "second": jax.tree.map(jnp.zeros_like, given),
        "average": jax.tree.map(jnp.copy, given),
    }


class Steps:
    """The networks, and the functions to compile.

    Args:
        config: of the model; its latents are those of the encoder, of scale 1.
        autoencoder_batch: pictures a step.
        batch: samples a step of the denoiser.
        scan: steps of one call.

    Attributes:
        networks: text encoder, UNet and autoencoder, in the global dtype policy.
        encoder_count: the first so many variables of the autoencoder are its encoder's.
    """

    def __init__(self, config: ModelConfig, autoencoder_batch: int, batch: int, scan: int):
        self.config, self.scan = config, scan
        self.autoencoder_batch, self.batch = autoencoder_batch, batch
        self.networks = {
            "text_encoder": TextEncoder(config.text_encoder),
            "unet": UNet(config.unet),
            "autoencoder": Autoencoder(config.autoencoder),
        }
        self.autoencoder = self.networks["autoencoder"]
        of_encoder = self.autoencoder.encoder.trainable_variables
        self.encoder_count = len(of_encoder)
        first = self.autoencoder.trainable_variables[: self.encoder_count]
        if [id(v) for v in first] != [id(v) for v in of_encoder]:
            raise AssertionError("the encoder's variables are not the autoencoder's first")
        self.abar = jnp.asarray(np.asarray(config.noise.table().alphas_cumprod, np.float32))

    def values(self):
        """The networks' weights, a list each."""
        return {
            name: [jnp.asarray(v.value) for v in network.trainable_variables]
            for name, network in self.networks.items()
        }

    def scope(self, *names, given):
        """Within it, these networks have the given values."""
        pairs = [
            pair
            for name in names
            for pair in zip(self.networks[name].trainable_variables, given[name], strict=True)
        ]
        return keras.StatelessScope(state_mapping=pairs)

    # --- autoencoder ----------------------------------------------------------------------

    def _autoencoder_loss(self, given, drawn, scene, key, spread, edge):
        image = painting.compose(drawn, **scene)
        with self.scope("autoencoder", given=given):
            mean, log_variance = self.autoencoder.moments(image)
            noise = jax.random.normal(key, mean.shape) * spread
            latents = mean + jnp.exp(0.5 * log_variance) * noise
            decoded = self.autoencoder.decode(latents)
        loss = trainers.reconstruction_loss(image, decoded, edge)
        loss += 1e-4 * trainers.divergence(mean, log_variance)
        return loss, jnp.mean(jnp.abs(jnp.clip(decoded, -1, 1) - image))

    def train_autoencoder(self, state, drawn, pool, key, rate, spread, edge, whole):
        """Some steps on scenes of a pool: the new state, and the mean absolute errors.

        Args:
            state: see `new_state`.
            drawn: the bank of drawings.
            pool: arrays of scenes.
            key: of the chance.
            rate: of learning.
            spread: of the noise in the latents: 1 is as the encoder says, 0 none.
            edge: weight of the differences between neighbouring pixels.
            whole: 0 leaves the encoder as it is, so that the latents stay.
        """

        def step(state, key):
            pick, noise = jax.random.split(key)
            chosen = jax.random.randint(pick, (self.autoencoder_batch,), 0, pool["split"].shape[0])
            scene = {name: each[chosen] for name, each in pool.items()}
            gradients, error = jax.grad(self._autoencoder_loss, has_aux=True)(
                state["values"], drawn, scene, noise, spread, edge
            )
            before = state["values"]["autoencoder"][: self.encoder_count]
            state = adam(state, gradients, rate)
            after = state["values"]["autoencoder"]
            state["values"]["autoencoder"] = [
                jnp.where(whole > 0, new, old)
                for new, old in zip(after[: self.encoder_count], before, strict=True)
            ] + after[self.encoder_count :]
            return state, error

        return jax.lax.scan(step, state, jax.random.split(key, self.scan))

    def encode(self, given, drawn, rows):
        """Latents, float16 and of scale 1, of scenes in rows of `ENCODED`."""

        def one(scene):
            image = painting.compose(drawn, **scene)
            with self.scope("autoencoder", given=given):
                mean, _ = self.autoencoder.moments(image)
            return mean.astype("float16")

        return jax.lax.map(one, rows)

    def reconstruct(self, given, drawn, scene):
        """Pictures of scenes, and what the autoencoder makes of them."""
        image = painting.compose(drawn, **scene)
        with self.scope("autoencoder", given=given):
            mean, _ = self.autoencoder.moments(image)
            decoded = self.autoencoder.decode(mean)
        return image, jnp.clip(decoded, -1, 1)

    # --- denoiser -------------------------------------------------------------------------

    def _denoiser_loss(self, given, x0, tokens, key):
        parts = jax.random.split(key, 3)
        batch = x0.shape[0]
        start = jax.random.uniform(jax.random.fold_in(key, 1), (batch,)) < 0.04
        place = (jnp.arange(batch) + jax.random.uniform(parts[0], (batch,))) / batch
        timestep = (place * len(self.abar)).astype("int32")
        # A run begins with noise alone, of which the table's last level is 7 % short: what little
        # it shows of the image there is hidden, and the level comes up more often.
        last = len(self.abar) - 1
        timestep = jnp.where(start, last, timestep)
        signal = self.abar[timestep]
        level = Noising(timestep, jnp.sqrt(signal), jnp.sqrt(1 - signal))
        alpha, sigma = (each[:, None, None, None] for each in (level.alpha, level.sigma))
        noise = jax.random.normal(parts[1], x0.shape)
        x = noised(x0, noise, alpha, sigma)
        x = jnp.where((timestep == last)[:, None, None, None], noise, x)
        with self.scope("text_encoder", "unet", given=given):
            context = self.networks["text_encoder"](tokens)
            v = self.networks["unet"](x, timestep.astype("float32"), context)
        return jnp.mean(OBJECTIVE.loss(v, target(OBJECTIVE.kind, x0, noise, alpha, sigma), level))

    def train_denoiser(self, state, latents, tokens, empty, key, rate):
        """Some steps on cached latents: the new state, and the losses.

        Args:
            state: see `new_state`.
            latents: `(n, height, width, channels)`, of about unit variance.
            tokens: `(n, VARIANTS, length)`.
            empty: `(length,)`: the tokens of no text, which a tenth of the samples have.
            key: of the chance.
            rate: of learning.
        """

        def step(state, key):
            parts = jax.random.split(key, 4)
            batch = self.batch
            chosen = jax.random.randint(parts[0], (batch,), 0, latents.shape[0])
            variant = jax.random.randint(parts[1], (batch,), 0, VARIANTS)
            texts = tokens[chosen, variant].astype("int32")
            without = jax.random.uniform(parts[2], (batch, 1)) < 0.1
            texts = jnp.where(without, empty, texts)
            loss, gradients = jax.value_and_grad(self._denoiser_loss)(
                state["values"], latents[chosen].astype("float32"), texts, parts[3]
            )
            return adam(state, gradients, rate), loss

        return jax.lax.scan(step, state, jax.random.split(key, self.scan))

    def paint(self, given, tokens, empty, key, scale):
        """Pictures by DDIM in 20 trailing steps, with the config's guidance, in [-1, 1]."""
        batch, guidance = tokens.shape[0], self.config.defaults.guidance_scale
        size = scenes.SIZE // self.config.autoencoder.factor
        x = jax.random.normal(key, (batch, size, size, self.config.autoencoder.latent_channels))
        steps = jnp.asarray(np.arange(20, 0, -1) * 50 - 1)
        levels = jnp.concatenate([self.abar[steps], jnp.ones(1)])
        with self.scope("text_encoder", "unet", "autoencoder", given=given):
            context = self.networks["text_encoder"](
                jnp.concatenate([tokens, jnp.broadcast_to(empty, tokens.shape)])
            )

            def one(i, x):
                timestep = jnp.full((2 * batch,), steps[i], "float32")
                v = self.networks["unet"](jnp.concatenate([x, x]), timestep, context)
                asked, plain = jnp.split(v, 2)
                v = plain + guidance * (asked - plain)
                signal, noise = jnp.sqrt(levels[i]), jnp.sqrt(1 - levels[i])
                x0, epsilon = signal * x - noise * v, noise * x + signal * v
                return jnp.sqrt(levels[i + 1]) * x0 + jnp.sqrt(1 - levels[i + 1]) * epsilon

            x = jax.lax.fori_loop(0, 20, one, x)
            return jnp.clip(self.autoencoder.decode(x / scale), -1, 1)
