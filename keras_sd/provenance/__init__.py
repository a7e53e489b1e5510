"""How a picture says that it was made: `read_provenance`.

Programs that draw write their settings into the file: keras_sd its request, A1111's web UI a text
`parameters`, ComfyUI its graph, InvokeAI and NovelAI objects of JSON. All are read into one value,
`Provenance`. A file is anybody's: texts are bounded, graphs may be circles, what is damaged is said
and left out, and no name in it is looked up, opened or fetched. `follow` makes a request of it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice

from keras_sd.checks import MAX_AREA
from keras_sd.provenance import comfyui, invokeai, novelai, own, webui
from keras_sd.provenance.origin import Provenance
from keras_sd.provenance.texts import MAX_TEXT, MAX_TEXTS, read_texts

__all__ = ["MAX_TEXT", "MAX_TEXTS", "Provenance", "read_provenance"]

_MOST = 200  # settings without a name of ours, and sentences


def read_provenance(
    source: str | os.PathLike[str] | bytes, max_pixels: int = MAX_AREA
) -> Provenance:
    """How a picture says that it was made.

    Args:
        source: path of a PNG, JPEG or WebP file, or the bytes of one. Its pixels are decoded only
            if it has no text, since it may be hidden in them.
        max_pixels: of a picture with more, they are not.

    Returns:
        What the first of these says: keras_sd, A1111, InvokeAI, NovelAI, ComfyUI; the next one, if
        it says nothing that can be read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be opened.
        ValueError: it is no such file, or says nothing of how it was made.
    """
    texts, unread = read_texts(source, max_pixels)
    found: list[Provenance] = []
    for program in (own, webui, invokeai, novelai, comfyui):
        each = program.read(texts)
        if each is not None:
            found.append(each)
            if each.request is not None or each.prompt is not None or each.seed is not None:
                break
    if not found:
        name = "The file" if isinstance(source, bytes) else source
        more = f" ({'; '.join(unread)})" if unread else ""
        raise ValueError(
            f"{name} does not say how it was made: there is no text of keras_sd, A1111, ComfyUI, "
            f"InvokeAI or NovelAI in it{more}."
        )
    last = found[-1]
    sentences = [*unread, *(sentence for each in found for sentence in each.unread)]
    if len(last.others) > _MOST:
        sentences.insert(0, f"of {len(last.others)} more settings the first {_MOST} are kept")
    others = dict(islice(last.others.items(), _MOST))
    return replace(last, others=others, unread=tuple(dict.fromkeys(sentences))[:_MOST])
