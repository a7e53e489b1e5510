"""Programs of others, as they are, against the server: webuiapi, sd-backend-client,
image-generation-mcp and OpenAI's own client. They are installed in `nox -s web_clients` alone.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sd.provenance import read_provenance

pytestmark = [
    pytest.mark.web_clients,
    # What their own code warns of is theirs.
    pytest.mark.filterwarnings("default"),
]

PROMPT = "a cat face on a blue background"
TOKEN = "correct horse"


def listening(emoji, token=None):
    """A server with the real engine on a free port; gives the port and what ends it."""
    from keras_sd.serve import listen
    from keras_sd.serve.about import About
    from keras_sd.serve.app import make_app
    from keras_sd.serve.engine import Engine
    from keras_sd.serve.guard import Rules

    bound = listen.bound("127.0.0.1", 0)
    port = bound.getsockname()[1]
    about = About.of(emoji.model, backend=keras.backend.backend())
    app = make_app(Engine(emoji.model), about, Rules(port, token=token), grace=5.0)
    ready = threading.Event()
    server = listen.server_of(app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert ready.wait(10)

    def end():
        server.should_exit = True
        thread.join(15)
        bound.close()
        assert not thread.is_alive()

    return port, end


@pytest.fixture(scope="module")
def port(emoji):
    port, end = listening(emoji)
    yield port
    end()


@pytest.fixture(scope="module")
def locked(emoji):
    port, end = listening(emoji, TOKEN)
    yield port
    end()


def picture(color=(250, 220, 0), size=(64, 64)):
    return Image.new("RGB", size, color)


def mask(mode="L"):
    if mode == "L":
        made = Image.new("L", (64, 64), 0)
        made.paste(255, (0, 0, 64, 32))
        return made
    made = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    made.paste((0, 0, 0, 0), (0, 0, 64, 32))
    return made


def file(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


# --- webuiapi -------------------------------------------------------------------------


@pytest.fixture
def webui(port):
    import webuiapi

    return webuiapi.WebUIApi(port=port, steps=3)


def test_webuiapi_draws(webui):
    found = webui.txt2img(
        prompt=PROMPT, seed=5, cfg_scale=3, width=64, height=64, n_iter=2, save_images=True
    )
    assert [image.size for image in found.images] == [(64, 64)] * 2
    assert found.info["all_seeds"] == [5, 6]
    alone = webui.txt2img(prompt=PROMPT, seed=6, cfg_scale=3, width=64, height=64)
    assert np.abs(np.asarray(alone.image, int) - np.asarray(found.images[1], int)).max() <= 1
    assert webui.txt2img(prompt=PROMPT).image.size == (64, 64)  # it asks for 512
    hires = webui.txt2img(
        prompt=PROMPT, width=64, height=64, enable_hr=True, hr_scale=2, denoising_strength=0.5
    )
    assert hires.image.size == (128, 128)


def test_webuiapi_draws_from_pictures(webui):
    found = webui.img2img(images=[picture()], prompt=PROMPT, width=64, height=64, cfg_scale=3)
    assert found.image.size == (64, 64)
    painted = webui.img2img(
        images=[picture()], mask_image=mask(), mask_blur=0, prompt=PROMPT, width=64, height=64
    )
    assert (np.asarray(painted.image)[40:] == (250, 220, 0)).all()


def test_webuiapi_resizes_and_reads(webui):
    assert webui.extra_single_image(picture(), upscaling_resize=2).image.size == (128, 128)
    assert len(webui.extra_batch_images([picture(), picture()]).images) == 2
    drawn = webui.txt2img(prompt=PROMPT, seed=5, width=64, height=64).image
    assert "Seed: 5" in webui.png_info(drawn).info


def test_webuiapi_gets_all_its_lists(webui):
    names = """get_options get_cmd_flags get_progress get_samplers get_sd_vae get_upscalers
    get_latent_upscale_modes get_loras get_sd_models get_hypernetworks get_face_restorers
    get_realesrgan_models get_prompt_styles refresh_checkpoints get_scripts get_embeddings
    get_memory get_schedulers util_get_model_names util_get_sampler_names
    util_get_scheduler_names"""
    for name in names.split():
        getattr(webui, name)()
    assert webui.util_get_current_model() == "emoji"
    webui.util_set_model("emoji")
    webui.util_wait_for_ready(check_interval=0.1)
    assert webui.interrupt() == {}
    webui.skip()


def test_webuiapi_in_the_background_and_interrupted(webui):
    async def both():
        drawing = asyncio.ensure_future(
            webui.txt2img(prompt=PROMPT, steps=149, width=256, height=256, use_async=True)
        )
        for _ in range(400):
            await asyncio.sleep(0.05)
            progress = await asyncio.to_thread(webui.get_progress)
            if drawing.done() or progress["state"]["sampling_step"]:
                break
        webui.interrupt()
        return await drawing

    assert len(asyncio.run(both()).images) == 1
    assert webui.get_progress()["state"]["job_count"] == 0


def test_webuiapi_with_a_password(locked):
    import webuiapi

    api = webuiapi.WebUIApi(port=locked, username="me", password=TOKEN)
    assert api.util_get_current_model() == "emoji"
    with pytest.raises(RuntimeError, match="401"):
        webuiapi.WebUIApi(port=locked, username="me", password="wrong").txt2img(prompt="x")


# --- sd-backend-client ----------------------------------------------------------------


@pytest.fixture
def backend(port):
    import sd_backend_client as client

    found = client.connect_to_backend(f"http://127.0.0.1:{port}")
    assert isinstance(found, client.A1111Webservice)
    return found


def params(**more):
    from sd_backend_client import DiffusionRequestBody

    small = {"prompt": PROMPT, "steps": 3, "width": 64, "height": 64, "seed": 5}
    return DiffusionRequestBody(**small | more)


def test_sd_backend_client_draws(backend):
    result = backend.submit_txt2img(params()).wait(timeout=60)
    assert result.images[0].size == (64, 64)
    result = backend.submit_img2img(params(init_images=[picture()])).wait(timeout=60)
    assert result.images[0].size == (64, 64)
    painted = backend.submit_inpaint(params(init_images=[picture()], mask=mask()))
    assert painted.wait(timeout=60).images[0].size == (64, 64)
    assert backend.submit_upscale(picture(), 128, 128).wait(timeout=60).images[0].size == (128, 128)


def test_sd_backend_client_gets_all_its_lists(backend):
    names = """get_config get_styles get_scripts get_script_info get_samplers get_upscalers
    get_latent_upscale_modes get_hypernetworks get_models get_vae get_loras list_checkpoints
    list_vaes list_loras list_hypernetworks list_samplers list_schedulers list_upscalers
    get_capabilities progress_check refresh_checkpoints refresh_vae refresh_loras"""
    for name in names.split():
        getattr(backend, name)()
    backend.set_config({"sd_model_checkpoint": "emoji"})
    assert backend.interrupt() == {}
    assert not backend.get_capabilities().interrogate


def test_sd_backend_client_cancels(backend):
    handle = backend.submit_txt2img(params(steps=149, width=256, height=256))
    end = time.monotonic() + 30
    while not handle.poll().progress and time.monotonic() < end:
        time.sleep(0.05)
    assert handle.cancel()


# --- image-generation-mcp -------------------------------------------------------------


def test_image_generation_mcp_draws(port):
    from image_generation_mcp.providers import sd_webui as provider

    async def drawn():
        webui = provider.SdWebuiImageProvider(f"http://127.0.0.1:{port}")
        try:
            found = await webui.discover_capabilities()
            return found, await webui.generate(PROMPT)
        finally:
            await webui.aclose()

    found, result = asyncio.run(drawn())
    assert [each.model_id for each in found.models] == ["emoji"]
    with Image.open(io.BytesIO(result.image_data)) as image:
        assert image.size == (64, 64)  # it asks for 768
    assert read_provenance(result.image_data).seed == result.provider_metadata["seed"]


# --- openai ---------------------------------------------------------------------------


@pytest.fixture
def openai(port):
    import openai as module

    url = f"http://127.0.0.1:{port}/v1"
    with module.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_openai_draws(openai):
    assert [each.id for each in openai.models.list()] == ["emoji"]
    made = openai.images.generate(
        prompt=PROMPT, model="emoji", n=2, size="64x64", extra_body={"seed": 7, "steps": 3}
    )
    for number, each in enumerate(made.data):
        data = base64.b64decode(each.b64_json)
        assert read_provenance(data).request.images == ((7, number),)


def test_openai_edits(openai):
    made = openai.images.edit(
        image=("a.png", file(picture())),
        mask=("m.png", file(mask("RGBA"))),
        prompt=PROMPT,
        extra_body={"steps": 2},
    )
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(made.data[0].b64_json))))
    assert (pixels[32:] == (250, 220, 0)).all()
    streamed = openai.images.edit(
        image=[("a.png", file(picture()))], prompt=PROMPT, stream=True, extra_body={"steps": 2}
    )
    assert [each.type for each in streamed][-1] == "image_edit.completed"


def test_openai_streams(openai):
    stream = openai.images.generate(
        prompt=PROMPT, stream=True, partial_images=1, extra_body={"steps": 100}
    )
    kinds = [each.type for each in stream]
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]


def test_openai_says_what_is_wrong(openai, locked):
    import openai as module

    with pytest.raises(module.UnprocessableEntityError, match="at most 150"):
        openai.images.generate(prompt=PROMPT, extra_body={"steps": 999})
    with pytest.raises(module.NotFoundError, match="no model"):
        openai.images.generate(prompt=PROMPT, model="sd-9")
    url = f"http://127.0.0.1:{locked}/v1"
    stranger = module.OpenAI(base_url=url, api_key="x", max_retries=0)
    with stranger, pytest.raises(module.AuthenticationError):
        stranger.models.list()
    with module.OpenAI(base_url=url, api_key=TOKEN) as known:
        assert [each.id for each in known.models.list()] == ["emoji"]
