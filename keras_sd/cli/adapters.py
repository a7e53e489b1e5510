"""What `keras-sd inspect` says of a LoRA, an embedding, or a network by which pictures steer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_sd.cli.terminal import printable, size, table

if TYPE_CHECKING:
    from keras_sd.addons import AdapterReport

_PARTS = {
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "unet": "UNet",
    "control": "ControlNet",
    "image_prompt": "IP-Adapter",
    "features": "T2I-Adapter",
    "image_encoder": "image encoder",
}
_NETWORKS = {
    "control": "a ControlNet",
    "image_prompt": "an IP-Adapter",
    "features": "a T2I-Adapter",
    "image_encoder": "an image encoder",
}
"""Those parts that are networks of their own."""


def lines(report: AdapterReport, most: int | None) -> Iterator[str]:
    """The report for people: a line a fact, its name in front.

    Args:
        report: of the file.
        most: names of a kind that are shown; None is all.
    """
    made = f", made for {report.base}" if report.base else ""
    network = next((_NETWORKS[part] for part in report.parts if part in _NETWORKS), None)
    what, places = (network, "tensors") if network else ("an adapter", "changes")
    if "embedding" in report.kinds:
        what, places = "an embedding", "vectors"
    if "image_encoder" in report.parts:
        made = f", {report.base}"
    yield printable(f"{report.path}: {what}{made}")
    rows = []
    if report.error:
        rows.append(("error", " ".join(report.error.split())))
    if report.kinds and what not in ("a ControlNet", "an embedding"):
        rows.append(("kind", _counts(report.kinds)))
    if report.layout:
        rows.append(("layout", report.layout))
    if report.ranks:
        rows.append(("rank", _range(report.ranks)))
        rows.append(("alpha", _range(report.alphas) if report.alphas else "not said"))
    for part, count in report.parts.items():
        rows.append((_PARTS[part], f"{count} {places}"))
    if report.error is None:
        rows.append(("can be used", f"no: {report.unsupported}" if report.unsupported else "yes"))
    dtypes = ", ".join(sorted(report.dtypes))
    rows.append(("tensors", f"{report.tensors}, {dtypes}, {size(report.bytes)}"))
    if report.words:
        rows.append(("words", printable(_counts(report.words))))
    rows += [(key, printable(text)) for key, text in report.said.items()]
    rows.append(("file", f"{size(report.size)} ({report.size} bytes)"))
    if report.sha256:
        rows.append(("sha256", report.sha256))
    rows += [("note", note) for note in report.notes]
    for kind, names in report.problems.items():
        shown = ", ".join(printable(name) for name in names[:most])
        more = len(names) - len(names[:most])
        rest = f" and {more} more (--full lists them)" if more else ""
        rows.append((f"{kind}!", f"{len(names)}: {shown}{rest}"))
    if report.good and not report.unsupported:
        looked = ", every number is finite" if report.numbers_read else "; numbers not looked at"
        rows.append(("result", f"whole: every {places[:-1]} has its layer{looked}"))
    yield from table([(f"  {name}", text) for name, text in rows])


def _range(values: tuple[float, float]) -> str:
    low, high = values
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
