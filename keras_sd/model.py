"""A model: its config, its parts by name, and what it can do, compiled.

A `Model` holds nothing of a run. Runs share it, from several threads too; what they ask for is in a
`keras_sd.request.Request`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from keras import ops

from keras_sd import precision
from keras_sd.adapters.merging import Adapts, Merging
from keras_sd.backend import JitCompile, compile_step, resolve_jit_compile, structure
from keras_sd.checks import check_sizes, flag
from keras_sd.conditions import CONTEXT, Conditions
from keras_sd.config import ModelConfig, Prediction
from keras_sd.denoiser import STEPS, compiled_steps, looking
from keras_sd.embeddings.using import Embeds
from keras_sd.latents import Latents
from keras_sd.low_memory import InTurn
from keras_sd.request import Request
from keras_sd.rules import OWN, Rules
from keras_sd.texts import Texts, Tokenized
from keras_sd.tokenizer import Tokenizer

if TYPE_CHECKING:
    from keras_sd.weights.files import Dtype, PresetDtype

__all__ = ["Model"]

logger = logging.getLogger("keras_sd")

Made = TypeVar("Made")


class Model(Adapts, Embeds, Latents):
    """Text encoders, UNet and autoencoder of one config.

    Args:
        config: the model's numbers, and what a run does by default.
        parts: the networks by the names of `config.parts`. One can be set anew at any time, and the
            next picture is made with it.
        tokenizers: by the names of their text encoders.
        rules: what a run does by convention: steps, first noise, rounding.
        words: those the model was trained on, where they are few enough to say.
        license: of the weights.
        jit_compile: `True`, `False` or `"auto"`; switched off by itself on torch.

    Attributes:
        defaults: what a run does where its request says nothing.
        path: the noise the model was trained with.
        refiner: the model that ends runs of this one; None is this one.

    Raises:
        ValueError: another `jit_compile`.
    """

    def __init__(
        self,
        config: ModelConfig,
        parts: MutableMapping[str, Any],
        tokenizers: MutableMapping[str, Tokenizer],
        *,
        rules: Rules = OWN,
        words: Iterable[str] | None = None,
        license: str | None = None,
        jit_compile: JitCompile = "auto",
    ):
        self.parts, self.tokenizers = parts, tokenizers
        self.rules = rules
        self.words = None if words is None else frozenset(words)
        self.license = license
        self.config = config
        possible = resolve_jit_compile(jit_compile)  # which says what is not
        self.jit: JitCompile = "auto" if jit_compile == "auto" else possible
        self._compiled: dict[str, tuple[Any, Any]] = {}
        if isinstance(parts, InTurn):
            parts.caches.append(self._compiled)
        self._lock = threading.RLock()
        self._merging = Merging()
        self.adapters_dir = None
        self.refiner: Model | None = None

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        *,
        text_encoder: str | Path | None = None,
        text_encoder_2: str | Path | None = None,
        unet: str | Path | None = None,
        autoencoder: str | Path | None = None,
        refiner: str | Path | None = None,
        tiled: bool | int = False,
        low_memory: bool = False,
        prediction: Prediction | None = None,
        ema: bool = False,
        variant: str | None = None,
        vocabulary: str | Path | None = None,
        compat: str | None = None,
        strict: bool = False,
        dtype: Any = None,
        jit_compile: JitCompile = "auto",
    ) -> Model:
        """Loads a model with everything it needs.

        Args:
            preset: `"emoji"`, the model in the package; the path of a checkpoint, a file or a
                folder of any layout in docs/checkpoints.md, for which the network is never used;
                a name such as `"sd-1.5"` or `hf://owner/name[@revision]`, which is fetched once.
            text_encoder: path of a file whose text encoder takes the place of the preset's.
            text_encoder_2: likewise, of SDXL's second one.
            unet: likewise.
            autoencoder: likewise; what others call a VAE file.
            refiner: what ends runs, see `with_refiner`: a preset like the first; `strict`,
                `vocabulary`, `dtype` and `jit_compile` hold for it too.
            tiled: see the attribute.
            low_memory: load networks when they are first needed, and let them go when others are:
                text encoders, UNet, autoencoder, at every picture. Takes no adapters.
            prediction: what the UNet gives, for files that cannot say it: `"epsilon"`, `"v"` or
                `"x0"`.
            ema: take the averaged weights of the UNet, from a file that has both.
            variant: of the files in a diffusers folder, such as `"fp16"`.
            vocabulary: path of CLIP's merges, where none lie beside the weights: `merges.txt` or
                `bpe_simple_vocab_16e6.txt.gz`.
            compat: computes, and draws noise and levels, as KerasCV did: `"keras_cv==0.9"` or
                another of `keras_sd.compat.NAMES`.
            strict: refuse a checkpoint for any tensor that is not known; otherwise what no part
                needs is left out, and a line of the log names it.
            dtype: dtype policy of the networks, one of `keras_sd.precision.POLICIES` such as
                `"mixed_float16"`; None is the global one.
            jit_compile: `True`, `False` or `"auto"`; switched off by itself on torch.

        Raises:
            ValueError: a dtype that does not work, or a checkpoint that is damaged, is of another
                kind or cannot be run (`WeightsError`).
            TypeError: the preset is no name and no path.
            FileNotFoundError: there is no such preset, or a file of it is missing.
            OSError: it is not on this machine and could not be fetched (`FetchError`).
        """
        from keras_sd.compat import rules_of
        from keras_sd.weights.load import build_networks
        from keras_sd.weights.presets import open_preset
        from keras_sd.weights.readers import WeightsError
        from keras_sd.weights.vocabulary import tokenizers_of

        rules = rules_of(compat)
        flag("low_memory", low_memory)
        precision.check_policy(dtype)
        resolve_jit_compile(jit_compile)
        if refiner is not None:  # at first, so that what is wrong with it is said at once
            both: dict[str, Any] = {"strict": strict, "vocabulary": vocabulary, "dtype": dtype}
            both["low_memory"] = low_memory
            refines = cls.from_preset(refiner, jit_compile=jit_compile, **both)
        checkpoint = open_preset(
            preset,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            unet=unet,
            autoencoder=autoencoder,
            prediction=prediction,
            ema=ema,
            variant=variant,
            compat=compat,
            strict=strict,
            needs_vocabulary=vocabulary is None,
        )
        if checkpoint.unsupported:
            raise WeightsError(checkpoint.unsupported)
        tokenizers = tokenizers_of(checkpoint, vocabulary)
        for note in checkpoint.notes:
            logger.warning("%s", note)
        policy = precision.check_policy(dtype)

        def build(names: tuple[str, ...]) -> dict[str, Any]:
            with precision.policy_scope(policy):
                return build_networks(checkpoint, names)

        networks: MutableMapping[str, Any]
        if low_memory:
            checkpoint.check()
            texts = tuple(checkpoint.config.text_encoders)
            networks = InTurn((texts, ("unet",), ("autoencoder",)), build)
        else:
            networks = build(tuple(checkpoint.config.parts))
        model = cls(
            checkpoint.config,
            networks,
            tokenizers,
            rules=rules,
            words=checkpoint.words,
            license=checkpoint.license,
            jit_compile=jit_compile,
        )
        model.tiled = tiled
        return model if refiner is None else model.with_refiner(refines)

    @property
    def config(self) -> ModelConfig:
        """The model's numbers; with another, runs have its noise and defaults."""
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._config = config
        self.path = config.noise.table()
        self.defaults = config.defaults
        if self.rules.timesteps(config.defaults.num_steps) is not None:
            self.defaults = replace(config.defaults, schedule=None)

    @property
    def height(self) -> int:
        """Of pictures whose request names none, in pixels."""
        return self.defaults.height

    @height.setter
    def height(self, height: int) -> None:
        self.resize(height, None)

    @property
    def width(self) -> int:
        """Likewise."""
        return self.defaults.width

    @width.setter
    def width(self, width: int) -> None:
        self.resize(None, width)

    def resize(self, height: int | None, width: int | None) -> None:
        """Sets the size of pictures whose request names none; None leaves one as it is."""
        sizes: dict[str, Any] = check_sizes(height, width)
        self.defaults = replace(self.defaults, **sizes)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())
        if isinstance(self.parts, InTurn):
            self.parts.caches.append(self._compiled)

    def save_preset(
        self,
        folder: str | Path,
        *,
        layout: Literal["keras_sd", "diffusers"] = "keras_sd",
        dtype: PresetDtype | None = None,
    ) -> None:
        """Writes the model as a folder that `from_preset` reads, whole or not at all.

        Args:
            folder: is made where there is none. An older model of the same layout in it is
                replaced; if anything goes wrong, it is as it was.
            layout: ours, or the one of diffusers' `StableDiffusionPipeline`.
            dtype: of the numbers; None is the networks' own. Ours may have int8, too.

        Raises:
            ValueError: another layout or dtype; a number that is not finite, or a model that the
                layout has no place for (`WeightsError`).
            FileExistsError: there is a model of another layout in the folder or, for diffusers',
                any file that would not be replaced.
        """
        from keras_sd.weights.diffusers_folder import write_folder
        from keras_sd.weights.files import plain_dtype
        from keras_sd.weights.load import arrays_of
        from keras_sd.weights.save import save_preset

        if layout not in ("keras_sd", "diffusers"):
            raise ValueError(f"layout is 'keras_sd' or 'diffusers', not {layout!r}")
        arrays, merges = arrays_of(self.parts), self.tokenizers["text_encoder"].merges
        if layout == "diffusers":
            write_folder(folder, self.config, arrays, merges, dtype=plain_dtype(dtype))
        else:
            save_preset(
                folder, self.config, arrays, merges, self.words, dtype=dtype, license=self.license
            )

    def save_checkpoint(self, path: str | Path, *, dtype: Dtype | None = None) -> None:
        """Writes the weights as one `.safetensors` file in the original layout, which most other
        programs read. It has no vocabulary: that is CLIP's for every Stable Diffusion.

        Args:
            path: of the file, which ends in `.safetensors`.
            dtype: of the numbers; None is the networks' own.

        Raises:
            ValueError: another dtype or ending; a number that is not finite, or a model that the
                layout has no place for (`WeightsError`).
        """
        from keras_sd.weights.load import arrays_of
        from keras_sd.weights.save import save_checkpoint

        save_checkpoint(path, self.config, arrays_of(self.parts), dtype=dtype)

    def with_refiner(self, refiner: Model) -> Model:
        """A model of the same networks whose runs another one ends, from `refine_at` on; see
        `keras_sd.conditioning.Conditioning`. Weights, adapters and compiled steps are shared.

        Args:
            refiner: of the same latents and noise, such as SDXL's.

        Raises:
            ValueError: its latents or its noise are others, or it needs more than noise and a text;
                or this model has embeddings that do not fit it (`WeightsError`).
        """
        for name in ("autoencoder.latent_channels", "autoencoder.scale", "noise"):
            ours, its = (attrgetter(name)(each.config) for each in (self, refiner))
            if ours != its:
                raise ValueError(
                    f"{refiner.config.name} cannot end runs of {self.config.name}: its {name} is "
                    f"{its}, not {ours}"
                )
        if refiner.paints:
            raise ValueError(f"{refiner.config.name} is an inpainting model and no refiner")
        if isinstance(self.parts, InTurn) and isinstance(refiner.parts, InTurn):
            refiner.parts.share(self.parts)
        known = [each.embedding for each in refiner.embeddings]
        refiner = refiner._with([each for each in self.embeddings if each.embedding not in known])
        return self.sharing(refiner=refiner)

    # --- what it can do ---------------------------------------------------------------

    @property
    def texts(self) -> Texts:
        """From prompts to what the UNet is told of them."""
        return Texts(self.config, self.parts, self.tokenizers, self._encode)

    def steps(self, merging: float = 0.0) -> Mapping[str, Callable[..., Any]]:
        """The UNet's compiled steps by the names of `keras_sd.denoiser.STEPS`.

        Args:
            merging: the part of the tokens that is merged, see `keras_sd.networks.UNet`. Steps that
                merge are compiled for the number; those of the last one are kept.
        """
        return self._lasting((), merging)

    def controlled(
        self, controls: tuple[Any, ...], merging: float = 0.0
    ) -> Mapping[str, Callable[..., Any]]:
        """The steps of the UNet with other networks beside it, ControlNets and IP-Adapters. Those
        of the last run are kept.

        Args:
            controls: the networks.
            merging: see `steps`.
        """
        return self._lasting(controls, merging)

    def embedding(self, networks: tuple[Any, ...]) -> tuple[Callable[..., Any], ...]:
        """What makes features of pictures, compiled: `embed` of each network. Those of the last run
        are kept.

        Args:
            networks: of a run.
        """

        def make(unet: Any) -> tuple[Callable[..., Any], ...]:
            return tuple(compile_step(each.embed, [each], self.jit) for each in networks)

        return self._current("unet", make, "embedding", networks)

    def looked_at(self, told: Conditions) -> Conditions:
        """What the UNet is told, and what it makes of the text; see `keras_sd.denoiser.looking`."""
        if isinstance(self.parts, InTurn):  # which would fetch it before its turn
            return told
        return self._current("unet", lambda unet: looking(unet, self.jit), "pairs")(told)

    def encode_text(self, prompt: Any, prompt_style: str = "plain", clip_skip: int = 1) -> Any:
        """Text encodings, a float32 tensor `(prompts, tokens, features)`; the tokens are those of
        the text encoder, or a multiple of them where a text has several chunks.

        Args:
            prompt: a text, or several in a list, an array or a column of a table.
            prompt_style: see `keras_sd.prompts`.
            clip_skip: see `keras_sd.request.Request`.

        Raises:
            ValueError: a prompt is too long (`PromptTooLongError`), or has no meaning in its style
                (`keras_sd.prompts.PromptError`).
        """
        request = Request.of(prompt, prompt_style=prompt_style, clip_skip=clip_skip)
        texts = self.texts
        tokens = texts.tokens("prompt", request.prompts, request.prompt_style, request.clip_skip)
        return ops.cast(texts.told(tokens)[0][CONTEXT], "float32")

    # --- what is known of it ----------------------------------------------------------

    @property
    def paints(self) -> bool:
        """Whether the UNet is given the mask and the masked image beside the latent."""
        return self.config.unet.in_channels == 2 * self.config.autoencoder.latent_channels + 1

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the model was not trained on; empty where that is not known."""
        if self.words is None:
            return []
        return self.tokenizers["text_encoder"].unknown_words(text, self.words)

    def note_unknown_words(self, *tokens: Tokenized) -> None:
        """Logs the words that the model does not know."""
        texts = dict.fromkeys(text for each in tokens for text in each.words)
        unknown = dict.fromkeys(word for text in texts for word in self.unknown_words(text))
        if unknown:
            logger.warning(
                "The model %r does not know: %s. It draws something all the same.",
                self.config.name,
                ", ".join(unknown),
            )

    # --- compiling --------------------------------------------------------------------

    def _unet_steps(
        self, controls: tuple[Any, ...], merging: float
    ) -> Mapping[str, Callable[..., Any]]:
        def make(unet: Any) -> Mapping[str, Callable[..., Any]]:
            return compiled_steps(unet, self.config.noise.prediction, self.jit, controls, merging)

        name = f"unet{', controlled' * bool(controls)}{', merging' * bool(merging)}"
        return self._current("unet", make, name, controls, merging)

    def _lasting(
        self, controls: tuple[Any, ...], merging: float
    ) -> Mapping[str, Callable[..., Any]]:
        """Steps for a whole run. Where networks come and go, a run holds none of them, and its
        steps find theirs at every call.
        """
        if not isinstance(self.parts, InTurn):
            return self._unet_steps(controls, merging)
        return {name: _Late(self, controls, merging, name) for name in STEPS}

    def _current(
        self,
        part: str,
        make: Callable[[Any], Made],
        name: str | None = None,
        beside: tuple[Any, ...] = (),
        merging: float = 0.0,
    ) -> Made:
        """What `make` gives for a part, made anew where the part, a network beside it, or the part
        of its tokens that is merged is another or has changed.
        """
        network = self.parts[part]
        name = name or part
        with self._lock:
            now = structure([network, *beside]), merging
            made = self._compiled.get(name)
            if made is None or made[0] != now:
                made = self._compiled[name] = now, make(network)
            found: Made = made[1]
            return found

    def _encode(
        self, part: str, skip: int, ids: np.ndarray, *seen: np.ndarray, ends: Any = None
    ) -> Any:
        """A text encoder's output, see `keras_sd.networks.TextEncoder`."""
        # Without an embedding in them, prompts are encoded by the step of a model without one.
        names: tuple[str, ...] = ("seen",)
        rest, name = seen, f"{part}, clip_skip {skip}"
        table = self._tables.get(part)
        if table is not None and ids.max() >= self.parts[part].config.vocab_size:
            names, rest, name = ("added", *names), (table, *seen), f"{name}, embeddings"
        if ends is not None:
            names, rest, name = ("ends", *names), (ends, *rest), f"{name}, pooled"

        def make(encoder: Any) -> Callable[..., Any]:
            def call(ids: Any, *rest: Any) -> Any:
                # What others put in place of ours need not know these.
                options = dict(zip(names, rest, strict=False))
                return encoder(ids, **options, **({} if skip == 1 else {"skip": skip}))

            return compile_step(call, [encoder], self.jit)

        step = self._current(part, make, name)
        return step(*(ops.convert_to_tensor(each) for each in (ids, *rest)))


@dataclass(frozen=True)
class _Late:
    """A step of the networks that are there when it is called. Equal ones are the same step, for
    those who put several runs into a call.
    """

    model: Model
    controls: tuple[Any, ...]
    merging: float
    name: str

    def __call__(self, *args: Any) -> Any:
        return self.model._unet_steps(self.controls, self.merging)[self.name](*args)
