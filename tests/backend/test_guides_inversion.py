"""KerasCV's guide on textual inversion, with its imports changed and the lines
that docs/migrating-from-keras-cv.md has in its tables. Names, arguments, attributes and numbers are
the guide's; the model is a small one that has these.
"""

from __future__ import annotations

import numpy as np
import pytest
from shaped import (
    MARKS,
    MAX_PROMPT_LENGTH,
    get_timestep_embedding,
    moved,
    plot_images,
    sample_from_encoder_outputs,
    values,
)
from shaped import SIZE as RESOLUTION

import keras_sd as keras_cv
from keras_sd.models.stable_diffusion import NoiseScheduler

pytestmark = MARKS


@pytest.mark.traced
def test_textual_inversion(pictures):
    import tensorflow as tf
    from keras import layers as cv_layers
    from tensorflow import keras

    stable_diffusion = keras_cv.models.StableDiffusion(jit_compile=False)

    def assemble_image_dataset(files):
        size = {"height": RESOLUTION, "width": RESOLUTION}
        resize = keras.layers.Resizing(**size, crop_to_aspect_ratio=True)
        images = [keras.utils.img_to_array(keras.utils.load_img(img)) for img in files]
        images = np.array([resize(img) for img in images]) / 127.5 - 1
        image_dataset = tf.data.Dataset.from_tensor_slices(images)
        image_dataset = image_dataset.shuffle(50, reshuffle_each_iteration=True)
        image_dataset = image_dataset.map(
            keras.Sequential([cv_layers.Resizing(17, 17), cv_layers.RandomCrop(16, 16)]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return image_dataset.map(
            cv_layers.RandomFlip(mode="horizontal"), num_parallel_calls=tf.data.AUTOTUNE
        )

    placeholder_token = "<my-funny-cat-token>"

    def pad_embedding(embedding):
        end = stable_diffusion.tokenizer.end_of_text
        return embedding + [end] * (MAX_PROMPT_LENGTH - len(embedding))

    stable_diffusion.tokenizer.add_tokens(placeholder_token)

    def assemble_text_dataset(prompts):
        prompts = [prompt.format(placeholder_token) for prompt in prompts]
        embeddings = [stable_diffusion.tokenizer.encode(prompt) for prompt in prompts]
        embeddings = [np.array(pad_embedding(embedding)) for embedding in embeddings]
        text_dataset = tf.data.Dataset.from_tensor_slices(embeddings)
        return text_dataset.shuffle(100, reshuffle_each_iteration=True)

    def assemble_dataset(files, prompts):
        image_dataset = assemble_image_dataset(files).repeat()
        return tf.data.Dataset.zip((image_dataset, assemble_text_dataset(prompts).repeat(2)))

    single_ds = assemble_dataset(pictures[:3], ["a photo of a {}", "the photo of a {}"])
    group_ds = assemble_dataset(pictures[3:], ["a photo of a group of {}"])
    train_ds = single_ds.concatenate(group_ds)
    train_ds = train_ds.batch(1).shuffle(train_ds.cardinality(), reshuffle_each_iteration=True)

    tokenized_initializer = stable_diffusion.tokenizer.encode("cat")[1]
    new_weights = stable_diffusion.text_encoder.layers[2].token_embedding(
        tf.constant(tokenized_initializer)
    )
    new_vocab_size = len(stable_diffusion.tokenizer.vocab)
    assert new_vocab_size == 49409
    old_encoder = stable_diffusion.text_encoder
    old_token_weights = old_encoder.layers[2].token_embedding.get_weights()[0]
    old_position_weights = old_encoder.layers[2].position_embedding.get_weights()
    new_weights = np.concatenate([old_token_weights, np.expand_dims(new_weights, axis=0)], axis=0)

    new_encoder = keras_cv.models.stable_diffusion.TextEncoder(
        keras_cv.models.stable_diffusion.stable_diffusion.MAX_PROMPT_LENGTH,
        vocab_size=new_vocab_size,
        download_weights=False,
    )
    for index, layer in enumerate(stable_diffusion.text_encoder.layers):
        if index != 2:
            new_encoder.layers[index].set_weights(layer.get_weights())
    new_encoder.layers[2].token_embedding.set_weights([new_weights])
    new_encoder.layers[2].position_embedding.set_weights(old_position_weights)
    cat = stable_diffusion.text_to_image("cat", seed=1337)
    stable_diffusion._text_encoder = new_encoder
    stable_diffusion._text_encoder.compile(jit_compile=True)
    drawn = {"batch_size": 3, "seed": 1337}
    generated = stable_diffusion.text_to_image(placeholder_token, **drawn)
    # The new word still means what it was made from.
    assert np.abs(generated[:1].astype(int) - cat).max() <= 1

    stable_diffusion.diffusion_model.trainable = False
    stable_diffusion.decoder.trainable = False
    stable_diffusion.text_encoder.trainable = True
    stable_diffusion.text_encoder.layers[2].trainable = True
    for layer in stable_diffusion.text_encoder.layers:
        layer.trainable = "clip_embedding" in layer.name
    new_encoder.layers[2].position_embedding.trainable = False
    all_models = [new_encoder, stable_diffusion.diffusion_model, stable_diffusion.decoder]
    shapes = [[tuple(w.shape) for w in model.trainable_weights] for model in all_models]
    assert shapes == [[(49409, 32)], [], []]

    training_image_encoder = keras.Model(
        stable_diffusion.image_encoder.input, stable_diffusion.image_encoder.layers[-2].output
    )

    class StableDiffusionFineTuner(keras.Model):
        def __init__(self, stable_diffusion, noise_scheduler, **kwargs):
            super().__init__(**kwargs)
            self.stable_diffusion = stable_diffusion
            self.noise_scheduler = noise_scheduler

        def train_step(self, data):
            images, embeddings = data
            with tf.GradientTape() as tape:
                latents = sample_from_encoder_outputs(training_image_encoder(images)) * 0.18215
                noise = tf.random.normal(tf.shape(latents))
                timesteps = tf.random.uniform(
                    (tf.shape(latents)[0],),
                    minval=0,
                    maxval=noise_scheduler.train_timesteps,
                    dtype=tf.int64,
                )
                noisy_latents = self.noise_scheduler.add_noise(latents, noise, timesteps)
                positions = tf.convert_to_tensor([list(range(MAX_PROMPT_LENGTH))], dtype=tf.int32)
                encoder_hidden_state = self.stable_diffusion.text_encoder([embeddings, positions])
                timestep_embeddings = tf.map_fn(
                    fn=get_timestep_embedding, elems=timesteps, fn_output_signature=tf.float32
                )
                noise_pred = self.stable_diffusion.diffusion_model(
                    [noisy_latents, timestep_embeddings, encoder_hidden_state]
                )
                loss = self.compiled_loss(noise_pred, noise)
                loss = tf.reduce_mean(loss, axis=2)
                loss = tf.reduce_mean(loss, axis=1)
                loss = tf.reduce_mean(loss)
            trainable_weights = self.stable_diffusion.text_encoder.trainable_weights
            grads = tape.gradient(loss, trainable_weights)
            condition = tf.expand_dims(grads[0].indices == 49408, axis=-1)
            grads[0] = tf.IndexedSlices(
                values=tf.where(condition, grads[0].values, 0),
                indices=grads[0].indices,
                dense_shape=grads[0].dense_shape,
            )
            self.optimizer.apply_gradients(zip(grads, trainable_weights, strict=True))
            self.metrics[0].update_state(loss)
            return {"loss": loss}

    noise_scheduler = NoiseScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", train_timesteps=1000
    )
    trainer = StableDiffusionFineTuner(stable_diffusion, noise_scheduler, name="trainer")
    epochs = 2
    learning_rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=1e-1, decay_steps=train_ds.cardinality() * epochs
    )
    optimizer = keras.optimizers.Adam(
        weight_decay=0.004, learning_rate=learning_rate, epsilon=1e-8, global_clipnorm=10
    )
    loss = keras.losses.MeanSquaredError(reduction="none")
    # Where there is a GPU, Keras compiles a step with XLA by itself.
    trainer.compile(optimizer=optimizer, loss=loss, jit_compile=True)
    seen = []

    class GenerateImages(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            images = stable_diffusion.text_to_image(placeholder_token, num_steps=2, **drawn)
            plot_images(images)
            seen.append(images)

    networks = [new_encoder, *all_models[1:], stable_diffusion.image_encoder]
    before = [values(network) for network in networks]
    history = trainer.fit(train_ds, epochs=epochs, callbacks=[GenerateImages()], verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all()
    assert min(losses) > 0
    assert [moved(*pair) for pair in zip(before, networks, strict=True)] == [1, 0, 0, 0]
    table = new_encoder.layers[2].token_embedding.get_weights()[0]
    assert np.abs(table[49408] - new_weights[49408]).min() > 1e-3
    # All words shrink a little, by the guide's `weight_decay`; the others by that alone.
    left = np.linalg.norm(table[:49408]) / np.linalg.norm(old_token_weights)
    assert 0.99 < left < 1
    assert np.allclose(table[:49408], left * old_token_weights, rtol=1e-4)
    # Each epoch's pictures are those of the weights of that moment.
    assert not np.array_equal(seen[0], generated)
    assert not np.array_equal(seen[0], seen[1])
    assert np.array_equal(stable_diffusion.text_to_image(placeholder_token, **drawn), seen[1])
