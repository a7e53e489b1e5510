"""The same step as diffusers computes it, with its default attention: eager, or compiled."""

from __future__ import annotations

from typing import Any

from gpu.measuring import clock, row, steady
from gpu.memory import peak_mb, reset, wait
from gpu.ours import ALPHA, LATENT, SCALE, SIGMA, TOKENS, T


def prepare(options: dict[str, Any]) -> None:
    import torch  # noqa: F401
    from diffusers import UNet2DConditionModel  # noqa: F401


def measure(options: dict[str, Any]) -> None:
    import torch
    from diffusers import UNet2DConditionModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, tiny = getattr(torch, options["dtype"]), options["tiny"]
    size, width = (16, 32) if tiny else (LATENT, 768)

    def build() -> Any:
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with torch.device(device):
            made: Any = UNet2DConditionModel(**unet_config(tiny))
        torch.set_default_dtype(torch.float32)
        wait(made)
        return made.eval()

    unet, build_s = clock(build)
    if options["compile"]:
        unet = torch.compile(unet)
    system = f"diffusers {'compiled' if options['compile'] else 'eager'}"
    for batch in options["batches"]:
        reset()
        generator = torch.Generator(device).manual_seed(1)

        def drawn(*shape: int, generator: Any = generator) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)

        latent, context = drawn(batch, 4, size, size), drawn(2 * batch, TOKENS, width)
        t = torch.tensor(T, device=device)

        def step(latent: Any = latent, context: Any = context, t: Any = t) -> torch.Tensor:
            with torch.no_grad():
                both = unet(torch.cat([latent, latent]), t, context, return_dict=False)[0]
                without, told = both.chunk(2)
                epsilon = without + SCALE * (told - without)
                return (latent - SIGMA * epsilon) / ALPHA

        def first(step: Any = step) -> torch.Tensor:
            result = step()
            wait(result)
            return result

        found, first_s = clock(first)
        note = "" if bool(torch.isfinite(found).all()) else "not finite"
        about = {"dtype": options["dtype"], "batch": batch, "build_s": build_s, "first_s": first_s}
        times = steady(step, wait)
        row("steps", system=system, **about, **times, peak_mb=peak_mb("torch"), note=note)


def unet_config(tiny: bool) -> dict[str, Any]:
    """Of SD 1.5, as its folders have it; or one that a CPU computes in no time."""
    if tiny:
        return {
            "sample_size": 16,
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
        }
    return {"sample_size": LATENT, "cross_attention_dim": 768, "attention_head_dim": 8}
