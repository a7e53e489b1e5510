"""From what a picture says of itself to a request that makes it again, as far as that goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras_sd import aliases, registry
from keras_sd.checks import SettingError
from keras_sd.controls import Control
from keras_sd.prompts import parse, sections
from keras_sd.provenance.origin import Provenance
from keras_sd.request import Request
from keras_sd.start import Attachment

__all__ = ["Followed", "follow"]

_MOST_NAME = 100  # characters


@dataclass(frozen=True)
class Followed:
    """A request that makes a picture again.

    Attributes:
        request: of one picture, with its arrays.
        left: sentences about what it does not follow.
    """

    request: Request
    left: tuple[str, ...]


def follow(
    found: Provenance,
    *,
    start: Any = None,
    mask: Any = None,
    adapters: Sequence[Any] = (),
    controls: Sequence[Control] = (),
) -> Followed:
    """The request that makes a picture again.

    A picture of keras_sd is followed in all, or not at all. Of another program's, prompt, sampler,
    schedule, steps, guidance, size and strength are followed where they have a counterpart here,
    and `left` names the rest: noise is drawn in another way there, so the seed alone makes it
    another picture.

    Args:
        found: what the picture says.
        start: the picture that it began at, as `keras_sd.image.read_image` gives it.
        mask: what was painted of that, as `keras_sd.image.read_mask` gives it.
        adapters: the `keras_sd.adapters.Adapter`s of our request, found by their hashes.
        controls: those of our request with their hints, found likewise; the networks are put into
            the request that is given.

    Raises:
        SettingError: start or mask is needed and not given, or is another one, or there was none.
        ValueError: it cannot be made again, as with arrays that the file does not hold.
    """
    if found.request is not None:
        request = _attached(found, found.request, start, mask, adapters, controls)
        return Followed(request, ())
    if found.program == "keras_sd" and found.prompt is None:
        raise ValueError(f"The picture's request cannot be followed: {'; '.join(found.unread)}")
    return _Foreign(found).followed(start, mask)


# --- ours -----------------------------------------------------------------------------


def _attached(
    found: Provenance,
    request: Request,
    start: Any,
    mask: Any,
    adapters: Sequence[Any],
    controls: Sequence[Control],
) -> Request:
    """The request with its arrays."""
    began = request.start
    pictures = began.pictures if began else ()
    masks = began.masking.masks if began and began.masking else ()
    lacking = () if tuple(controls) == request.controls else request.controls
    for what, files in (
        ("ControlNets or T2I-Adapters", [each.net for each in lacking]),
        ("IP-Adapters", [each.adapter for each in request.image_prompts]),
    ):
        if files:
            nets = (f"{each.name or 'one'}, SHA-256 {each.sha256}" for each in files)
            raise ValueError(
                f"The picture was made with {what} ({'; '.join(nets)}), which its file has by "
                "their hashes alone: in Python, Request.attached gives them and their pictures to "
                "the request"
            )
    request = replace(request, controls=())
    if len(request.attachments()) > len(pictures) + len(masks) + len(request.adapters):
        raise ValueError(
            "The picture was made of noise or of encodings of a text, which its file has by their "
            "hash alone: in Python, Request.attached gives them back to the request"
        )
    if found.extended and start is not None:
        from keras_sd.image import read_mask
        from keras_sd.inpainting import extend_canvas

        if mask is not None:
            raise SettingError("mask", "is not needed: what was painted is around the picture")
        start, painted = extend_canvas(start, **found.extended)
        mask = read_mask(painted)
    elif found.extended:
        masks = ()  # which is made of the picture that is missing
    arrays = list(adapters)
    for name, wanted, array in (("start", pictures, start), ("mask", masks, mask)):
        if array is not None and not wanted:
            raise SettingError(name, "is given, and the picture began at none")
        if not wanted:
            continue
        (one,) = wanted[:1]
        called = f"{one.name} (pixels of SHA-256 {one.sha256})" if one.name else one.sha256
        if array is None:
            raise SettingError(name, f"is needed: the picture was made of {called}")
        if (digest := Attachment.of(array).sha256) != one.sha256:
            raise SettingError(
                name, f"is another: its pixels are of SHA-256 {digest}; it was made of {called}"
            )
        arrays.append(array)
    return replace(request.attached(arrays), controls=tuple(controls))


# --- others' --------------------------------------------------------------------------

# Where web UIs say "Automatic", or as much by saying nothing: by the sampler.
_AUTOMATIC = {
    "dpmpp_2m": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2s_ancestral": "karras",
    "dpmpp_3m_sde": "exponential",
    "dpm2": "karras",
    "dpm2_ancestral": "karras",
    "ddim": "leading",
    "pndm": "leading",
    "unipc": "leading",
}
_OF_TIMESTEPS = ("ddim", "pndm", "unipc")
_NO_KARRAS = "normal"

# InvokeAI's names where they are not ours; "_k" behind one is the schedule karras.
_INVOKEAI = {
    "euler_a": "euler_ancestral",
    "kdpm_2": "dpm2",
    "kdpm_2_a": "dpm2_ancestral",
    "k_dpm_2": "dpm2",
    "k_dpm_2_a": "dpm2_ancestral",
}

_NOVELAI = {"native": "normal"}

# Whose grammar a prompt is written in; it is read as words here.
_STYLES = {"A1111": "a1111", "ComfyUI": "comfy", "InvokeAI": "compel"}
_UNKNOWN_GRAMMAR = {
    "ComfyUI": (re.compile(r"\bembedding:\S{1,100}"), "an embedding"),
    "InvokeAI": (re.compile(r"<[\w \-]{1,100}>"), "an embedding"),
    "NovelAI": (re.compile(r"[{}\[\]]|-?\d+(?:\.\d+)?::"), "a weight"),
}

# Settings that change no picture, or that are followed by another way.
_HARMLESS = (
    "Version",
    "User",
    "Hashes",
    "Lora hashes",
    "TI hashes",
    "RNG",
    "Backend",
    "Mask blur",
    "Inpaint area",
    "Masked area padding",
    "Guidance rescale",
    "Image number",
    "Sampler settings",
    "Schedule settings",
    "cfg_rescale_multiplier",
    "cfg_rescale",
)


class _Foreign:
    """Follows what another program says; `left` grows meanwhile."""

    def __init__(self, found: Provenance) -> None:
        self.found, self.left = found, list[str]()
        self.done = set[str]()  # settings that are followed

    def followed(self, start: Any, mask: Any) -> Followed:
        found = self.found
        sampler, schedule = self.method()
        given = {
            "num_steps": self.fits("num_steps", found.num_steps, "steps"),
            "guidance_scale": self.fits("guidance_scale", found.guidance_scale, "guidance"),
            "guidance_rescale": self.fits("guidance_rescale", self.rescale(), "guidance rescale"),
            "sampler": sampler,
            "schedule": schedule,
        }
        sizes = {name: self.fits(name, getattr(found, name), name) for name in ("height", "width")}
        if None in sizes.values():
            sizes = {}
        pictures = self.pictures(start, mask)
        if "image" in pictures:
            shape = tuple(start.shape[:2])
            same = shape == (sizes.get("height"), sizes.get("width"))
            given |= {} if same or not sizes else self.resized(sizes, pictures)
        else:
            given |= sizes
        if found.prompt is None:
            self.left.append("its prompt is not said: nothing is asked for")
        for text in (found.prompt, found.negative_prompt):
            self.left += _grammar(found.program, text or "")
        request = Request.of(
            found.prompt or "",
            found.negative_prompt or "",
            1,
            self.seed(),
            first_image=self.number("Image number") if found.program == "keras_sd" else 0,
            **{name: value for name, value in given.items() if value is not None},
            **pictures,
        )
        self.left += [
            f"{name}: {value}"
            for name, value in found.others.items()
            if name not in _HARMLESS and name not in self.done
        ]
        return Followed(request, tuple(dict.fromkeys(self.left)))

    def fits(self, name: str, value: Any, called: str) -> Any:
        """A value that a request takes, else None, which is the model's."""
        if value is None:
            if name not in ("guidance_rescale", "height", "width"):
                self.left.append(f"{called}: not said, the model's is taken")
            return None
        try:
            Request(("",), **{name: value})
        except SettingError as error:
            self.left.append(f"{called}: {error}; the model's is taken")
            return None
        return value

    def seed(self) -> int | None:
        """The seed, and that it is not the same noise."""
        seed, program = self.found.seed, self.found.program
        if seed is None:
            self.left.append("seed: not said, a new one is taken")
            return None
        if not 0 <= seed < 2**64:
            self.left.append(f"seed: {seed} is none of ours, a new one is taken")
            return None
        if program != "keras_sd":
            self.left.append(
                f"noise: {program} draws it in another way, so the same seed is another picture"
            )
        return seed

    def rescale(self) -> float | None:
        others = self.found.others
        for name in ("Guidance rescale", "cfg_rescale_multiplier", "cfg_rescale"):
            if name in others and (value := _number(others[name])):
                return value
        return None

    def number(self, name: str) -> int:
        value = _number(self.found.others.get(name))
        return int(value) if value and value == int(value) and 0 < value < 2**53 else 0

    def pictures(self, start: Any, mask: Any) -> dict[str, Any]:
        """What it began at, as `Request.of` takes it."""
        found = self.found
        for name, array, needed, what in (
            ("start", start, found.starts, "the picture began at another, which the file lacks"),
            ("mask", mask, found.starts and found.masked, "a part of it was painted"),
        ):
            if needed and array is None:
                raise SettingError(name, f"is needed: {what}")
            if array is not None and not needed:
                raise SettingError(name, "is given, and the picture says of none")
        if not found.starts:
            return {}
        given: dict[str, Any] = {
            "image": (Attachment.of(start),),
            # What ComfyUI and we call steps are run; with the others a part of them is.
            "steps_mode": "run" if found.program in ("ComfyUI", "keras_sd") else "schedule",
        }
        if found.strength is None or not 0 < found.strength <= 1:
            self.left.append(f"strength: {found.strength}; the usual is taken")
        else:
            given["strength"] = found.strength
        if found.masked:
            given |= {"mask": (Attachment.of(mask),), **self.masking()}
        return given

    def masking(self) -> dict[str, Any]:
        others = self.found.others
        blur = _number(others.get("Mask blur"))
        given: dict[str, Any] = {"mask_blur": min(max(blur, 0), 1000)} if blur else {}
        if others.get("Inpaint area") == "Only masked":
            padding = _number(others.get("Masked area padding"))
            given |= {"only_masked": True, "padding": int(min(max(padding or 0, 0), 1000))}
        return given

    def resized(self, sizes: dict[str, Any], pictures: dict[str, Any]) -> dict[str, Any]:
        if pictures.get("only_masked"):
            return sizes
        self.left.append("resize: how the picture was brought to its size; it is stretched")
        return {**sizes, "resize": "stretch"}

    # --- the method -------------------------------------------------------------------

    def method(self) -> tuple[str | None, str | None]:
        """Sampler and schedule; None is the model's."""
        found = self.found
        name, named = found.sampler, found.schedule
        if name is None:
            self.left.append("sampler: not said, the model's is taken")
            sampler, by_name = None, None
        else:
            sampler, by_name = self.sampler(name)
        if named is not None and named.lower() != "automatic":
            return sampler, self.schedule(_NOVELAI.get(named, named))
        if by_name is not None:
            return sampler, by_name
        schedule = None
        if found.program == "A1111" and sampler is not None:
            own = sampler.partition(":")[0]
            schedule = _AUTOMATIC.get(own, _NO_KARRAS)
            if named is None and own not in _OF_TIMESTEPS:
                schedule = _NO_KARRAS  # of the years when the sampler's name said it
        elif found.program == "InvokeAI" and name is not None and not name.startswith("k_"):
            schedule = "leading"
        if schedule is None:
            self.left.append("schedule: not said, the model's is taken")
        return sampler, schedule

    def sampler(self, name: str) -> tuple[str | None, str | None]:
        program = self.found.program
        asked, schedule = name, None
        if program == "InvokeAI":
            if asked.endswith("_k"):
                asked, schedule = asked.removesuffix("_k"), "karras"
            asked = _INVOKEAI.get(asked, asked)
        if program in ("A1111", "keras_sd"):
            if match := re.fullmatch(r"DPM\+\+ 2M SDE Heun ?(.{0,40})", asked):
                solver = "dpmpp_2m_sde:solver=heun"
                return solver, self.schedule(match[1]) if match[1] else None
            if asked == "UniPC" and program == "A1111":
                return "unipc:variant=bh1", None
        own, by_name = aliases.resolve(asked)
        names = {"Eta DDIM": "eta"} if own == "ddim" else {}
        if own.endswith(("_ancestral", "sde")):  # those that have one there
            names = {"Eta": "eta"}
        spec = self.with_settings(own, "Sampler", names)
        if not self.is_installed("sampler", asked, spec, registry.get_sampler):
            return None, schedule or by_name
        return spec, schedule or by_name

    def schedule(self, name: str) -> str | None:
        own = aliases.resolve_schedule(name)
        spec = self.with_settings(own, "Schedule", {"Schedule rho": "rho"})
        return spec if self.is_installed("schedule", name, spec, registry.get_schedule) else None

    def with_settings(self, own: str, kind: str, names: dict[str, str]) -> str:
        """A name with the settings that the picture says of it: ours in a line, of web UIs those
        that the sampler or schedule has, too.
        """
        others, get = self.found.others, getattr(registry, f"get_{kind.lower()}")
        present = [name for name in names if name in others]
        if self.found.program == "keras_sd":
            self.done.update(("Eta DDIM", "Eta", "Schedule rho"))  # in the line, too
            return f"{own}:{line}" if (line := others.get(f"{kind} settings")) else own
        for name in present if self.found.program == "A1111" else ():
            spec = f"{own}:{names[name]}={_number(others[name])}"
            try:
                get(spec)
            except (LookupError, ValueError, TypeError):
                continue
            self.done.add(name)
            return spec
        return own

    def is_installed(self, kind: str, name: str, spec: str, get: Callable[[str], Any]) -> bool:
        """Whether there is one of this name; a stranger's name has no settings in it."""
        known = len(name) <= _MOST_NAME and not re.search("[:=]", name)
        if known:
            try:
                get(spec)
            except (LookupError, ValueError, TypeError):
                known = False
        if not known:
            self.left.append(f"{kind}: {name[:_MOST_NAME]!r} is none of ours, the model's is taken")
        return known


def _grammar(program: str, prompt: str) -> list[str]:
    """What of a prompt is grammar there and words here."""
    said = []
    style = _STYLES.get(program)
    if style is not None and not _is_plain(prompt, style):
        said.append(
            "prompt: it has weights or other grammar, which is read as words here; "
            f"`keras-sd prompt --style {style}` shows what it means there"
        )
    pattern, what = _UNKNOWN_GRAMMAR.get(program, (None, ""))
    if pattern is not None and (match := pattern.search(prompt)):
        said.append(f"prompt: {match[0]!r} is {what} there, and read as words here")
    return said


def _is_plain(prompt: str, style: str) -> bool:
    """Whether a grammar finds nothing in a prompt but its words."""
    try:
        read = parse(prompt, style)
        found = [segment for section in sections(prompt, style) for segment in section]
    except ValueError:  # it has no meaning there
        return False
    words = [(" ".join(each.text.split()), each.weight) for each in found if each.text.strip()]
    said = " ".join(prompt.split())
    one = len(read.parts) == 1 and not read.parts[0].changes and not read.tags
    return one and words == ([(said, 1)] if said else [])


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if abs(number) < 1e9 else 0.0  # NaN is not
