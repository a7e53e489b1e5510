"""KerasCV's guides on fine-tuning and DreamBooth, with their imports changed and the lines
that docs/migrating-from-keras-cv.md has in its tables. Names, arguments, attributes and numbers are
the guides'; the model is a small one that has these.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import tarfile
from pathlib import Path

import keras
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
from keras_sd.models.stable_diffusion.clip_tokenizer import SimpleTokenizer
from keras_sd.models.stable_diffusion.diffusion_model import DiffusionModel
from keras_sd.models.stable_diffusion.image_encoder import ImageEncoder
from keras_sd.models.stable_diffusion.noise_scheduler import NoiseScheduler
from keras_sd.models.stable_diffusion.text_encoder import TextEncoder

PADDING_TOKEN = 49407
pytestmark = MARKS


def process_text(tokenizer, caption):
    tokens = tokenizer.encode(caption)
    return np.array(tokens + [PADDING_TOKEN] * (MAX_PROMPT_LENGTH - len(tokens)))


def process_image(image_path, text):
    import tensorflow as tf

    image = tf.io.decode_png(tf.io.read_file(image_path), 3)
    return tf.image.resize(image, (RESOLUTION, RESOLUTION)), text


def make_augmenter():
    return keras.Sequential(
        layers=[
            keras.layers.CenterCrop(RESOLUTION, RESOLUTION),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.Rescaling(scale=1.0 / 127.5, offset=-1),
        ]
    )


class Trainer(keras.Model):
    """Both guides that train the diffusion model have it; they differ in batches and losses."""

    def __init__(self, diffusion_model, vae, noise_scheduler, use_mixed_precision=False, **kwargs):
        super().__init__(**kwargs)
        self.diffusion_model = diffusion_model
        self.vae = vae
        self.noise_scheduler = noise_scheduler
        self.use_mixed_precision = use_mixed_precision
        self.vae.trainable = False

    def batch(self, inputs):
        return inputs["images"], inputs["encoded_text"]

    def loss_of(self, target, model_pred):
        loss = self.compiled_loss(target, model_pred)
        return loss

    def train_step(self, inputs):
        import tensorflow as tf
        import tensorflow.experimental.numpy as tnp

        images, encoded_text = self.batch(inputs)
        batch_size = tf.shape(images)[0]
        with tf.GradientTape() as tape:
            latents = sample_from_encoder_outputs(self.vae(images, training=False))
            latents = latents * 0.18215
            noise = tf.random.normal(tf.shape(latents))
            timesteps = tnp.random.randint(0, self.noise_scheduler.train_timesteps, (batch_size,))
            noisy_latents = self.noise_scheduler.add_noise(
                tf.cast(latents, noise.dtype), noise, timesteps
            )
            timestep_embedding = tf.map_fn(get_timestep_embedding, timesteps, dtype=tf.float32)
            model_pred = self.diffusion_model(
                [noisy_latents, timestep_embedding, encoded_text], training=True
            )
            loss = self.loss_of(noise, model_pred)
            self.metrics[0].update_state(loss)
            if self.use_mixed_precision:
                loss = self.optimizer.scale_loss(loss)
        trainable_vars = self.diffusion_model.trainable_variables
        gradients = tape.gradient(loss, trainable_vars)
        self.optimizer.apply_gradients(zip(gradients, trainable_vars, strict=True))
        return {m.name: m.result() for m in self.metrics}

    def save_weights(self, filepath, overwrite=True, save_format=None, options=None):
        self.diffusion_model.save_weights(
            filepath=filepath, overwrite=overwrite, save_format=save_format, options=options
        )


class DreamBoothTrainer(Trainer):
    def __init__(self, *args, prior_loss_weight=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.prior_loss_weight = prior_loss_weight

    def batch(self, inputs):
        import tensorflow as tf

        instances, classes = inputs
        return tf.concat([instances["instance_images"], classes["class_images"]], 0), tf.concat(
            [instances["instance_embedded_texts"], classes["class_embedded_texts"]], 0
        )

    def loss_of(self, target, model_pred):
        loss = self.compute_loss(target, model_pred)
        return loss

    def compute_loss(self, target, model_pred):
        import tensorflow as tf

        model_pred, model_pred_prior = tf.split(model_pred, num_or_size_splits=2, axis=0)
        target, target_prior = tf.split(target, num_or_size_splits=2, axis=0)
        loss = super().compute_loss(y=target, y_pred=model_pred)
        prior_loss = super().compute_loss(y=target_prior, y_pred=model_pred_prior)
        return loss + self.prior_loss_weight * prior_loss

    def load_weights(self, filepath, by_name=False, skip_mismatch=False, options=None):
        self.diffusion_model.load_weights(
            filepath=filepath, by_name=by_name, skip_mismatch=skip_mismatch, options=options
        )


def fit(trainer, dataset, ckpt_path):
    """Compiles and fits as both guides do."""
    import tensorflow as tf

    weight_decay = (1e-2,)
    optimizer = tf.keras.optimizers.AdamW(
        learning_rate=1e-3,
        weight_decay=weight_decay,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-08,
        clipnorm=1.0,
    )
    trainer.compile(optimizer=optimizer, loss="mse")
    ckpt_callback = tf.keras.callbacks.ModelCheckpoint(
        ckpt_path, save_weights_only=True, monitor="loss", mode="min"
    )
    return trainer.fit(dataset, epochs=2, callbacks=[ckpt_callback], verbose=0)


def archive(pictures, captions):
    """What the guide downloads: its address."""
    folder = Path("pokemon_dataset")
    folder.mkdir()
    rows = [("image_path", "caption")]
    for path, caption in zip(pictures, captions, strict=True):
        rows.append((shutil.copy(path, folder).rpartition("/")[2], caption))
    (folder / "data.csv").write_text("".join(f"{path},{text}\n" for path, text in rows))
    with tarfile.open("pokemon_dataset.tar.gz", "w:gz") as file:
        file.add(folder)
    return Path("pokemon_dataset.tar.gz").absolute().as_uri()


@pytest.mark.traced
def test_fine_tuning_stable_diffusion(pictures):
    import tensorflow as tf
    from tensorflow import keras

    data_path = tf.keras.utils.get_file(
        origin=archive(pictures, ["a cat", "a dog", "cat", "dog"]), untar=True, cache_dir="."
    )
    data_path = os.path.join(data_path, "pokemon_dataset")
    with open(os.path.join(data_path, "data.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    image_paths = np.array([os.path.join(data_path, row["image_path"]) for row in rows])
    captions = [row["caption"] for row in rows]
    tokenizer = SimpleTokenizer()
    tokenized_texts = np.empty((len(captions), MAX_PROMPT_LENGTH))
    for i, caption in enumerate(captions):
        tokenized_texts[i] = process_text(tokenizer, caption)
    augmenter = make_augmenter()
    text_encoder = TextEncoder(MAX_PROMPT_LENGTH)
    pos_ids = tf.convert_to_tensor([list(range(MAX_PROMPT_LENGTH))], dtype=tf.int32)
    auto = tf.data.AUTOTUNE
    dataset = tf.data.Dataset.from_tensor_slices((image_paths, tokenized_texts))
    dataset = dataset.shuffle(20).map(process_image, num_parallel_calls=auto).batch(2)
    dataset = dataset.map(lambda image, text: (augmenter(image), text), num_parallel_calls=auto)
    dataset = dataset.map(
        lambda image, text: {
            "images": image,
            "tokens": text,
            "encoded_text": text_encoder([text, pos_ids], training=False),
        },
        num_parallel_calls=auto,
    ).prefetch(auto)
    sample_batch = next(iter(dataset))
    assert sample_batch["images"].shape == (2, RESOLUTION, RESOLUTION, 3)
    assert np.abs(sample_batch["images"]).max() <= 1
    assert sample_batch["encoded_text"].shape == (2, MAX_PROMPT_LENGTH, 32)
    text = tokenizer.decode(sample_batch["tokens"][0].numpy().squeeze())
    text = text.replace("<|startoftext|>", "").replace("<|endoftext|>", "")
    assert text.strip() in captions

    keras.mixed_precision.set_global_policy("mixed_float16")
    image_encoder = ImageEncoder()
    trainer = Trainer(
        diffusion_model=DiffusionModel(RESOLUTION, RESOLUTION, MAX_PROMPT_LENGTH),
        vae=tf.keras.Model(image_encoder.input, image_encoder.layers[-2].output),
        noise_scheduler=NoiseScheduler(),
        use_mixed_precision=True,
    )
    diffusion_model = trainer.diffusion_model
    assert diffusion_model.compute_dtype == "float16"
    before = values(diffusion_model), values(trainer.vae)
    ckpt_path = "finetuned_stable_diffusion.weights.h5"
    losses = fit(trainer, dataset, ckpt_path).history["loss"]
    assert np.isfinite(losses).all()
    assert min(losses) > 0
    assert moved(before[0], diffusion_model) == len(before[0])
    assert moved(before[1], trainer.vae) == 0

    model = keras_cv.models.StableDiffusion(
        img_width=RESOLUTION, img_height=RESOLUTION, jit_compile=False
    )
    pretrained = model.text_to_image("cat", seed=1)
    model.diffusion_model.load_weights(ckpt_path)
    assert moved(values(diffusion_model), model.diffusion_model) == 0
    generated = model.text_to_image("cat", batch_size=3, unconditional_guidance_scale=40, seed=1)
    assert generated.shape == (3, RESOLUTION, RESOLUTION, 3)
    assert not np.array_equal(model.text_to_image("cat", seed=1), pretrained)
    plot_images(generated, "cat")


def test_dreambooth(pictures):
    import tensorflow as tf

    class_image_paths, instance_image_paths = pictures, pictures[:3]
    instance_image_paths = [
        instance_image_paths[index % len(instance_image_paths)]
        for index in range(len(class_image_paths))
    ]
    tokenizer = keras_cv.models.stable_diffusion.SimpleTokenizer()
    prompts = ["a photo of sks dog"] * 4 + ["a photo of dog"] * 4
    tokenized_texts = np.empty((len(prompts), MAX_PROMPT_LENGTH))
    for i, caption in enumerate(prompts):
        tokenized_texts[i] = process_text(tokenizer, caption)
    pos_ids = tf.convert_to_tensor([list(range(MAX_PROMPT_LENGTH))], dtype=tf.int32)
    text_encoder = keras_cv.models.stable_diffusion.TextEncoder(MAX_PROMPT_LENGTH)
    with tf.device(tf.config.list_logical_devices("CPU")[0].name):
        embedded_text = text_encoder(
            [tf.convert_to_tensor(tokenized_texts), pos_ids], training=False
        ).numpy()
    augmenter = make_augmenter()

    def assemble_dataset(image_paths, embedded_texts, of):
        dataset = tf.data.Dataset.from_tensor_slices((image_paths, embedded_texts))
        dataset = dataset.map(process_image).shuffle(5, reshuffle_each_iteration=True).batch(1)
        return dataset.map(
            lambda images, texts: {f"{of}_images": augmenter(images), f"{of}_embedded_texts": texts}
        )

    train_dataset = tf.data.Dataset.zip(
        (
            assemble_dataset(instance_image_paths, embedded_text[:4], "instance"),
            assemble_dataset(class_image_paths, embedded_text[4:], "class"),
        )
    )
    assert math.ceil(8 / train_dataset.cardinality()) == 2  # epochs

    # The guide lets one choose; this one is without mixed precision.
    image_encoder = keras_cv.models.stable_diffusion.ImageEncoder()
    trainer = DreamBoothTrainer(
        diffusion_model=keras_cv.models.stable_diffusion.DiffusionModel(
            RESOLUTION, RESOLUTION, MAX_PROMPT_LENGTH
        ),
        vae=tf.keras.Model(image_encoder.input, image_encoder.layers[-2].output),
        noise_scheduler=keras_cv.models.stable_diffusion.NoiseScheduler(),
        use_mixed_precision=False,
    )
    before = values(trainer.diffusion_model), values(trainer.vae)
    ckpt_path = "dreambooth-unet.weights.h5"
    losses = fit(trainer, train_dataset, ckpt_path).history["loss"]
    assert np.isfinite(losses).all()
    assert min(losses) > 0
    assert moved(before[0], trainer.diffusion_model) == len(before[0])
    assert moved(before[1], trainer.vae) == 0
    trained = values(trainer.diffusion_model)
    trainer.diffusion_model.set_weights(before[0])
    trainer.load_weights(ckpt_path)
    assert moved(trained, trainer.diffusion_model) == 0

    dreambooth_model = keras_cv.models.StableDiffusion(
        img_width=RESOLUTION, img_height=RESOLUTION, jit_compile=False
    )
    dreambooth_model.diffusion_model.load_weights(ckpt_path)
    options = {"batch_size": 3, "num_steps": 3, "seed": 1}
    images = dreambooth_model.text_to_image("a photo of sks dog in a bucket", **options)
    plot_images(images, "a photo of sks dog in a bucket")
    # The files of the guide's other experiment, where the text encoder learned too.
    text_encoder.layers[2].token_embedding.embeddings.assign_add(
        np.random.default_rng(0).normal(size=(49408, 32))
    )
    text_encoder.save_weights("text_encoder.h5")
    trainer.save_weights("unet.h5")
    dreambooth_model.diffusion_model.load_weights("unet.h5")
    dreambooth_model.text_encoder.load_weights("text_encoder.h5")
    others = dreambooth_model.text_to_image("a photo of sks dog in a bucket", **options)
    assert others.shape == (3, RESOLUTION, RESOLUTION, 3)
    assert not np.array_equal(images, others)
