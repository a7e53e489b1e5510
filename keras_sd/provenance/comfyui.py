"""What ComfyUI says: `prompt`, the graph that was run, and `workflow`, the graph as it was drawn.

A graph is nodes by number, each with a class and inputs; an input is a value or a link, the pair of
a node's number and of one of its outputs. From the node that saved the picture the links lead back
to the sampler, from there to the texts, the model, the size. Each walk visits a node once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_sd.provenance.origin import Provenance, parsed, plain, real, text, whole

__all__ = ["read"]

Node = Mapping[str, Any]

_MOST_NODES = 10_000
_MOST_HOPS = 100  # from an input to its value

# Inputs that lead to conditions of the sampler, and not to what made them.
_CONDITIONS = (
    "conditioning",
    "conditioning_1",
    "conditioning_2",
    "conditioning_to",
    "conditioning_from",
    "cond",
    "positive",
    "negative",
)
_LATENTS = ("latent_image", "latent", "samples")
_PICTURES = (*_LATENTS, "image", "images", "pixels")
_VALUES = ("value", "seed", "noise_seed", "int", "float", "string", "text", "populated_text")
_TEXTS = ("text", "text_g", "text_l", "prompt", "clip_l", "t5xxl", "string", "value")
_MODELS = ("ckpt_name", "unet_name", "model_name")

# Inputs of a sampler that runs a part of its steps, and the values with which it runs all.
_PART_OF_STEPS: dict[str, tuple[Any, ...]] = {
    "add_noise": ("enable", True),
    "start_at_step": (0,),
    "end_at_step": (10_000,),
    "return_with_leftover_noise": ("disable", False),
}

# What a node of `workflow` calls the values that it lists without names.
_WIDGETS = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise",
        "noise_seed",
        "",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "start_at_step",
        "end_at_step",
        "return_with_leftover_noise",
    ),
    "CLIPTextEncode": ("text",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "LoadImage": ("image",),
    "LoadImageMask": ("image",),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "PrimitiveNode": ("value",),
    "SaveImage": ("filename_prefix",),
}


def read(texts: Mapping[str, str]) -> Provenance | None:
    """How a picture with these texts was made, or None where ComfyUI did not make it."""
    unread: list[str] = []
    for name, nodes_of in (("prompt", _of_prompt), ("workflow", _of_workflow)):
        if not texts.get(name, "").lstrip().startswith("{"):  # of another program
            continue
        nodes = nodes_of(parsed(name, texts[name], unread))
        if nodes:
            return _Reader(nodes, unread).read()
    if not unread:
        return None
    return Provenance(program="ComfyUI", unread=tuple(unread))


def _of_prompt(made: Any) -> dict[str, Node]:
    if not isinstance(made, dict):
        return {}
    found: dict[str, Node] = {}
    for number, node in made.items():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str):
            inputs = node.get("inputs")
            found[number] = {
                "class_type": node["class_type"],
                "inputs": inputs if isinstance(inputs, dict) else {},
            }
    return found


def _of_workflow(made: Any) -> dict[str, Node]:
    """The drawn graph in the form of the one that is run."""
    if not isinstance(made, dict) or not isinstance(made.get("nodes"), list):
        return {}
    drawn = made.get("links")
    links = {
        link[0]: [str(link[1]), link[2]]
        for link in (drawn if isinstance(drawn, list) else ())
        if isinstance(link, list) and len(link) >= 5 and isinstance(link[0], int | str)
    }
    found: dict[str, Node] = {}
    for node in made["nodes"]:
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            continue
        inputs: dict[str, Any] = {}
        values = node.get("widgets_values")
        if isinstance(values, dict):
            inputs.update(values)
        elif isinstance(values, list):
            names = _WIDGETS.get(node["type"], ())
            if len(values) == len(names) - 1:  # as drawn before there was a choice behind a seed
                names = tuple(filter(None, names))
            inputs.update((n, value) for n, value in zip(names, values, strict=False) if n)
        joined = node.get("inputs")
        for each in joined if isinstance(joined, list) else ():
            number = each.get("link") if isinstance(each, dict) else None
            if isinstance(number, int | str) and number in links:
                inputs[str(each.get("name"))] = links[number]
        # Muted (2) and bypassed (4) nodes did nothing.
        if node.get("mode") not in (2, 4):
            found[str(node.get("id"))] = {"class_type": node["type"], "inputs": inputs}
    return found


@dataclass
class _Reader:
    nodes: Mapping[str, Node]
    unread: list[str]
    others: dict[str, Any] = field(default_factory=dict)
    walked: set[str] = field(default_factory=set)  # behind text encoders

    def read(self) -> Provenance:
        if len(self.nodes) > _MOST_NODES:
            self.unread.append(f"the graph has more than {_MOST_NODES} nodes: it is not followed")
            return Provenance(program="ComfyUI", unread=tuple(self.unread))
        chain = self._samplers()
        if not chain:
            self.unread.append("the graph has no sampler that is known: nothing of it is followed")
            return Provenance(program="ComfyUI", unread=tuple(self.unread))
        number = chain[-1]
        node = self.nodes[number]
        for later in chain[:-1]:
            self.unread.append(
                f"a sampler more, node {later} ({self._class(later)}), works on what the first made"
            )
        guider = self._node(node, "guider") or node
        sigmas = self._node(node, "sigmas") or node
        positive = self._text(guider, "positive" if "positive" in guider["inputs"] else "")
        negative = self._text(guider, "negative") if "negative" in guider["inputs"] else None
        latent = self._latent(node)
        model = self._model(guider if "model" in guider["inputs"] else node)
        strength = real("denoise", self._value(sigmas, "denoise"), self.unread)
        starts = bool(latent.get("starts"))
        if not starts and strength is not None and strength != 1:
            self.others["denoise"] = strength
        for name, usual in _PART_OF_STEPS.items():
            value = plain(self._value(node, name))
            if value is not None and value not in usual and value != self._value(sigmas, "steps"):
                self.others[name] = value
        return Provenance(
            program="ComfyUI",
            prompt=positive,
            negative_prompt=negative,
            num_steps=whole("steps", self._value(sigmas, "steps"), self.unread),
            sampler=text(self._value(self._node(node, "sampler") or node, "sampler_name")),
            schedule=text(self._value(sigmas, "scheduler")),
            guidance_scale=real("cfg", self._value(guider, "cfg"), self.unread),
            seed=self._seed(self._node(node, "noise") or node),
            width=whole("width", latent.get("width"), self.unread),
            height=whole("height", latent.get("height"), self.unread),
            model=model,
            strength=strength if starts else None,
            starts=starts,
            masked=bool(latent.get("masked")),
            others=self.others,
            unread=tuple(dict.fromkeys(self.unread)),
        )

    # --- the graph --------------------------------------------------------------------

    def _link(self, value: Any) -> tuple[str, int] | None:
        """Number of the node and output that a link leads to, if there is such a node."""
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str | int):
            return None
        number = str(value[0])
        slot = value[1] if isinstance(value[1], int) else 0
        return (number, slot) if number in self.nodes else None

    def _class(self, number: str) -> str:
        return str(self.nodes[number]["class_type"])[:60]

    def _behind(self, number: str, names: Collection[str] | None = None) -> list[str]:
        """The nodes that inputs lead to, of these names or all."""
        inputs = self.nodes[number]["inputs"]
        found = [
            link
            for name, value in inputs.items()
            if (names is None or name in names) and (link := self._link(value))
        ]
        return [each for each, _ in found]

    def _reached(self, starts: Collection[str], seen: set[str] | None = None) -> Iterator[str]:
        """Some nodes and all behind them, the nearest first. Of a sampler, what is behind is the
        latent or picture that it begins with, or else a graph would have no order.

        Args:
            starts: their numbers.
            seen: those that were reached before, and are left out.
        """
        seen = set() if seen is None else seen
        order = [each for each in dict.fromkeys(starts) if each not in seen]
        seen.update(order)
        for number in order:  # which grows meanwhile
            yield number
            for each in self._behind(number, _PICTURES if self._samples(number) else None):
                if each not in seen:
                    seen.add(each)
                    order.append(each)

    def _node(self, node: Node, name: str) -> Node | None:
        link = self._link(node["inputs"].get(name))
        return self.nodes[link[0]] if link else None

    def _value(self, node: Node, name: str) -> Any:
        """An input's value; where it is a link, that of the node behind it."""
        value = node["inputs"].get(name)
        for _ in range(_MOST_HOPS):
            if (found := self._link(value)) is None:
                break
            inputs = self.nodes[found[0]]["inputs"]
            for each in (name, *_VALUES):
                if each in inputs:
                    value = inputs[each]
                    break
            else:  # a node of one input passes it on
                value = next(iter(inputs.values())) if len(inputs) == 1 else None
        return None if isinstance(value, list | dict) else value

    # --- what is looked for -----------------------------------------------------------

    def _samplers(self) -> list[str]:
        """The samplers that made the picture, the last one first."""
        saving = [number for number in self.nodes if self._class(number) == "SaveImage"]
        saving = saving or [n for n in self.nodes if "Preview" in self._class(n)]
        if len(saving) > 1:
            self.unread.append("the graph saves several pictures: this one is taken for the first")
        return [n for n in self._reached(saving[:1] or list(self.nodes)) if self._samples(n)]

    def _samples(self, number: str) -> bool:
        inputs = self.nodes[number]["inputs"]
        named = "sampler_name" in inputs and ("positive" in inputs or "cfg" in inputs)
        return named or ("sampler" in inputs and "sigmas" in inputs)

    def _seed(self, node: Node) -> int | None:
        name = "seed" if "seed" in node["inputs"] else "noise_seed"
        return whole("seed", self._value(node, name), self.unread)

    def _text(self, node: Node, name: str) -> str | None:
        """The text of a condition, "" of the guider's only one."""
        names = (name,) if name else _CONDITIONS
        found: list[str] = []
        seen: set[tuple[str, int]] = set()
        waiting = [
            (link, name or "positive")
            for each in names
            if (link := self._link(node["inputs"].get(each)))
        ]
        for (number, slot), side in waiting:  # which grows meanwhile
            if (number, slot) in seen:
                continue
            seen.add((number, slot))
            here = self.nodes[number]
            if (said := self._said(here)) is not None:
                found.append(said)
                self._clip(here)
                continue
            inputs = here["inputs"]
            if isinstance(inputs.get(side), str):  # a node that loads and encodes at once
                found.append(inputs[side])
                continue
            if "positive" in inputs and "negative" in inputs:
                side = ("positive", "negative")[slot] if slot in (0, 1) else side
                follow: tuple[str, ...] = (side,)
            else:
                follow = _CONDITIONS
            links = [link for each in follow if (link := self._link(inputs.get(each)))]
            if not links and len(inputs) == 1:  # Reroute
                links = [link for value in inputs.values() if (link := self._link(value))]
            if self._class(number) != "Reroute":
                self.unread.append(f"node {number} ({self._class(number)}) is left out")
            waiting += [(link, side) for link in links]
        if len(set(found)) > 1:
            self.unread.append(f"the {name or 'positive'} prompt is of {len(found)} texts: joined")
        return ", ".join(dict.fromkeys(found)) if found else None

    def _said(self, node: Node) -> str | None:
        """The text that a node encodes; of several encoders', the first."""
        if "clip" not in node["inputs"] and "Encode" not in str(node["class_type"]):
            return None
        inputs = node["inputs"]
        values = {name: self._value(node, name) for name in _TEXTS if name in inputs}
        said = [value for value in values.values() if isinstance(value, str)]
        for name in values:
            if values[name] is None and (link := self._link(inputs[name])):
                self.unread.append(f"a text is made by node {link[0]} ({self._class(link[0])})")
        several = list(dict.fromkeys(filter(None, said))) or said
        if len(several) > 1:
            self.unread.append("a text encoder of two has a text of its own: it is left out")
        return several[0] if several else None

    def _clip(self, node: Node) -> None:
        for number in self._reached(self._line_of(node, "clip"), self.walked):
            self._adapter(number)
            stop = self._value(self.nodes[number], "stop_at_clip_layer")
            if isinstance(stop, int) and stop != -1:
                self.others["Clip skip"] = abs(stop)

    def _model(self, node: Node) -> str | None:
        found = None
        for number in self._reached(self._line_of(node, "model")):
            self._adapter(number)
            for name in _MODELS:
                value = self._value(self.nodes[number], name)
                if found is None and isinstance(value, str):
                    found = value
        return found

    def _adapter(self, number: str) -> None:
        node = self.nodes[number]
        name = self._value(node, "lora_name")
        if isinstance(name, str):
            self.others[f"lora {name[:100]}"] = plain(self._value(node, "strength_model")) or 1

    def _line_of(self, node: Node, name: str) -> list[str]:
        link = self._link(node["inputs"].get(name))
        return [link[0]] if link else []

    def _latent(self, node: Node) -> dict[str, Any]:
        """Size of the latent that a sampler begins with, and whether it is a picture's."""
        starts = [each for name in _LATENTS for each in self._line_of(node, name)]
        found: dict[str, Any] = {}
        for number in self._reached(starts):
            kind, inputs = self._class(number), self.nodes[number]["inputs"]
            if "VAEEncode" in kind:
                found["starts"] = True
                found["masked"] = found.get("masked") or "Inpaint" in kind
            if kind == "SetLatentNoiseMask":
                found["masked"] = True
            if kind == "LoadImage":
                self.others.setdefault("image", plain(self._value(self.nodes[number], "image")))
            for before in ("", "empty_latent_"):
                names = {side: f"{before}{side}" for side in ("width", "height")}
                if inputs.keys() >= set(names.values()) and "width" not in found:
                    found |= {side: self._value(self.nodes[number], n) for side, n in names.items()}
        return found
