"""The sessions of `nox`: each builds its own environment and holds the project to something.

    nox                                  all of them that a change has to pass
    nox -s tests-plain-3.13              the tests that need no Keras, on one Python
    nox -s "tests(backend='jax')"        the tests that do, on one backend
    nox -s "tests-3.13(backend='torch')" the same with another Python than the one that runs nox
    nox -R ...                           again, in the environments that are there already

A Python that is not installed is skipped with a line that says so.
"""

from __future__ import annotations

import platform
import shutil
import time
import zipfile
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13")
THIS = ".".join(platform.python_version_tuple()[:2])
BACKENDS = ("jax", "tensorflow", "torch")
ROOT = Path(__file__).parent
CONSTRAINTS = ("-c", str(ROOT / "tests" / "constraints.txt"))
HEAVIEST = 40_000_000
"""Bytes of our wheel, with the models in it, that are too many."""
# The build for CPUs is a third of the size of the one the extra names; it is the same module.
PACKAGE = {"tensorflow": "tensorflow-cpu"}
# The client that Starlette tests with.
PYTEST = ("pytest", "pytest-xdist", "httpx2")
ORDINARY = "not references and not examples and not fuzz and not web_clients"
# Two processes, which take over from each other the tests that wait.
PARALLEL = ("-n", "2", "--dist", "worksteal", "--durations=20", "--durations-min=1")
QUICK_TO_COMPILE = (
    "backend_optimization_level=0",
    "llvm_disable_expensive_passes=true",
    "cpu_use_fusion_emitters=false",
    "cpu_parallel_codegen_split_count=1",
)

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

_wheels: list[Path] = []


def ours(session: nox.Session, extras: str = "") -> str:
    """Our wheel, as a requirement: built once a run of nox, by the first session that asks."""
    if not _wheels:
        folder = Path(session.cache_dir) / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        session.run(
            *("python", "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", str(folder), str(ROOT)),
        )
        _wheels.extend(folder.resolve().glob("*.whl"))  # sessions change their folder
    (wheel,) = _wheels
    # In an environment that is used again, pip would keep an older build of the same version.
    session.run_install("python", "-m", "pip", "uninstall", "--quiet", "--yes", "keras-sd")
    return f"{wheel}{extras}"


def install(session: nox.Session, *requirements: str) -> None:
    """Pip's install, without compiling all files, which takes longest: few are ever imported."""
    # Where it is set, each process would compile all that it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    began = time.perf_counter()
    session.install("--no-compile", *requirements)
    session.log(f"installed in {time.perf_counter() - began:.0f} s")


def prepare(session: nox.Session, backend: str) -> None:
    """Quiet, and on one thread: two starve each other on small models and few cores."""
    session.env.update(
        KERAS_BACKEND=backend,
        KERAS_HOME=session.create_tmp(),  # not the settings of whoever runs this
        OMP_NUM_THREADS="1",
        TF_CPP_MIN_LOG_LEVEL="3",
        TF_ENABLE_ONEDNN_OPTS="0",
    )
    if backend == "jax":  # compiling small models takes most of the time, and running them none
        session.env["XLA_FLAGS"] = " ".join(f"--xla_{flag}" for flag in QUICK_TO_COMPILE)
        # What one process has compiled, another one and the next session need not.
        session.env.update(
            JAX_COMPILATION_CACHE_DIR=str(Path(session.cache_dir).resolve() / "jax"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
        )


def absent(session: nox.Session, *modules: str) -> None:
    """What must not be installed, so that the tests cannot lean on it."""
    session.run(
        "python",
        "-c",
        "import sys; from importlib.util import find_spec\n"
        "found = [name for name in sys.argv[1:] if find_spec(name)]\n"
        "sys.exit(f'also installed: {found}' if found else 0)",
        *modules,
    )


def run_tests(session: nox.Session, backend: str, marked: str, *constraints: str) -> None:
    """The tests that need Keras on one backend, where the other two are not installed."""
    package = PACKAGE.get(backend, backend)
    install(session, *constraints, ours(session, "[hub,plot,web]"), package, *PYTEST)
    prepare(session, backend)
    absent(session, *(name for name in BACKENDS if name != backend))
    session.run("pytest", *PARALLEL, "-m", marked, *(session.posargs or ["tests/backend"]))


@nox.session(name="tests-plain", python=sorted({*PYTHONS, THIS}))
def tests_plain(session: nox.Session) -> None:
    """The tests that need no Keras, on every Python, where no backend is installed."""
    install(session, *CONSTRAINTS, ours(session, "[hub,plot,web]"), *PYTEST, "ruff")
    prepare(session, "jax")  # which is not there: whoever needs it fails
    absent(session, *BACKENDS)
    session.run("pytest", *PARALLEL, "-m", ORDINARY, *(session.posargs or ["tests/plain"]))


@nox.session
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The tests that need Keras on one backend, with the Python that runs nox."""
    # Most of the time of all sessions went into compiling: for tests of what lies above the
    # backend, and for those that see on a whole run what others see on a network.
    compiles = f"{ORDINARY} and not once and not thorough"
    run_tests(session, backend, ORDINARY if backend == "torch" else compiles, *CONSTRAINTS)


@nox.session(default=False)
@nox.parametrize("backend", [name for name in BACKENDS if name != "torch"])
def thorough(session: nox.Session, backend: str) -> None:
    """The tests that `tests` runs on torch alone, for they compile long elsewhere."""
    run_tests(session, backend, f"{ORDINARY} and thorough", *CONSTRAINTS)


@nox.session(default=False)
@nox.parametrize("backend", BACKENDS)
def latest(session: nox.Session, backend: str) -> None:
    """All tests with the newest release of everything that `tests` pins."""
    run_tests(session, backend, ORDINARY)
    session.run("python", "-m", "pip", "list")


def tests_with(python: str) -> None:
    """The tests with another Python, by name only."""
    for backend in BACKENDS:

        @nox.session(name=f"tests-{python}(backend={backend!r})", python=python, default=False)
        def tests_python(session: nox.Session, backend: str = backend) -> None:
            """The tests that need Keras on one backend, with another Python."""
            run_tests(session, backend, f"{ORDINARY} and not guides", *CONSTRAINTS)


for version in PYTHONS:
    if version != THIS:
        tests_with(version)


@nox.session(default=False)
def ray(session: nox.Session) -> None:
    """Tables and engines on a real Ray of this machine, whose processes are killed; 700 MB."""
    install(session, *CONSTRAINTS, ours(session, "[jax,web,ray]"), "pytest", "pandas", "httpx")
    prepare(session, "jax")
    # Its warnings are its own.
    session.run("pytest", "-m", "", "-W", "default", *(session.posargs or ["tests/ray"]))


@nox.session(default=False)
@nox.parametrize("backend", BACKENDS)
def training(session: nox.Session, backend: str) -> None:
    """The trainings of docs/training.md on the embedded model, measured: some minutes each."""
    install(session, *CONSTRAINTS, ours(session), PACKAGE.get(backend, backend), "pytest")
    prepare(session, backend)
    session.env.pop("XLA_FLAGS", None)  # here programs run longer than they are compiled
    session.run("pytest", "-s", "-m", "", *(session.posargs or ["tests/training"]))


@nox.session
def plugin(session: nox.Session) -> None:
    """Our wheel and a stranger's, installed together, far from the source tree."""
    tmp = Path(session.create_tmp()).resolve()
    wheels, away = tmp / "wheels", tmp / "away"
    for folder in (wheels, away):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    session.run(
        *("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels)),
        str(ROOT / "tests" / "plugin"),
    )
    (theirs,) = wheels.glob("acme_heun-*.whl")
    check_wheel(session, Path(ours(session)))

    # Without a backend: the listing works, and the command says what to install.
    install(session, *CONSTRAINTS, ours(session), str(theirs), "pytest")
    session.chdir(away)
    prompt = "a cat face on a blue background"
    listing = session.run("keras-sd", "samplers", silent=True)
    session.log(listing)
    for name in ("ddim", "pndm", "euler", "acme_heun"):
        if name not in listing:
            session.error(f"keras-sd samplers does not list {name}")
    refusal = session.run("keras-sd", "generate", prompt, silent=True, success_codes=[2])
    for backend in BACKENDS:
        if f'pip install "keras-sd[{backend}]"' not in refusal:
            session.error(f"without a backend, the command does not say how to install {backend}")

    # With one: a picture by the stranger's sampler, and the kit on it.
    install(session, *CONSTRAINTS, ours(session, "[jax]"))
    prepare(session, "jax")
    where = session.run("python", "-c", "import keras_sd; print(keras_sd.__file__)", silent=True)
    if "site-packages" not in where:
        session.error(f"not the wheel was imported, but {where}")
    picture = away / "heun.png"
    session.run(
        *("keras-sd", "generate", prompt, "--sampler", "ACME++ Heun Karras", "--steps", "8"),
        *("--seed", "1", "--output", str(picture)),
    )
    if not picture.read_bytes().startswith(b"\x89PNG"):
        session.error(f"{picture} is no PNG file")
    session.run("pytest", str(ROOT / "tests" / "plugin"), "-p", "no:cacheprovider")

    # What `keras-sd new-sampler` writes installs, registers, passes its tests and draws.
    session.run("keras-sd", "new-sampler", "acme-zorb")
    install(session, *CONSTRAINTS, "./acme-zorb[test]")
    if "acme_zorb" not in session.run("keras-sd", "samplers", silent=True):
        session.error("keras-sd samplers does not list acme_zorb")
    session.run("pytest", "acme-zorb", "-p", "no:cacheprovider")
    session.run(
        *("keras-sd", "generate", prompt, "--sampler", "acme_zorb", "--steps", "8"),
        *("--seed", "1", "--output", str(away / "zorb.png")),
    )


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """What a wheel must hold, and weigh, since no test of the source tree can see it."""
    if (size := wheel.stat().st_size) >= HEAVIEST:
        session.error(f"{wheel.name} has {size} bytes: {HEAVIEST} are too many")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (n for n in names if n.endswith(".dist-info/entry_points.txt"))
        declared = archive.read(entry_points).decode()
    for needed in (
        "keras_sd/presets/emoji/model.safetensors",
        "keras_sd/presets/emoji/config.json",
        "keras_sd/presets/emoji-128/model.safetensors",
        "keras_sd/presets/add-ons/cyanotype.safetensors",
        "keras_sd/presets/add-ons/hoop.safetensors",
        "keras_sd/templates/sampler/noxfile.py.template",
        "keras_sd/serve/page/index.html",
        "keras_sd/serve/page/app.js",
        "keras_sd_samplers/ddim.py",
        "keras_sd/py.typed",
        ".dist-info/licenses/LICENSE",
        ".dist-info/licenses/NOTICE",
    ):
        if not any(name.endswith(needed) for name in names):
            session.error(f"{wheel.name} does not hold {needed}")
    for needed in ("[console_scripts]", "[keras_sd.samplers]"):
        if needed not in declared:
            session.error(f"{wheel.name} declares no {needed}")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types."""
    install(session, *CONSTRAINTS, ours(session, "[web]"), "ruff", "mypy")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages and the API reference; a warning is an error. `-- serve` shows them."""
    install(session, *CONSTRAINTS, "mkdocs-material", "mkdocstrings[python]", "ruff")
    session.env["NO_MKDOCS_2_WARNING"] = "1"  # an announcement, printed at every start
    if session.posargs:
        session.run("mkdocs", *session.posargs)
    else:
        session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp())


@nox.session
def doc_examples(session: nox.Session) -> None:
    """Every Python and `keras-sd` example of the README and the pages, run."""
    notebooks = ("nbclient", "nbformat", "ipykernel")
    install(session, *CONSTRAINTS, ours(session, "[torch,plot,web]"), *PYTEST, *notebooks)
    prepare(session, "torch")  # which compiles nothing
    session.run("pytest", *PARALLEL, "-m", "examples", *(session.posargs or ["tests/backend"]))


@nox.session
def references(session: nox.Session) -> None:
    """Makes the golden fixtures again with diffusers, transformers, k-diffusion, and compares.

    What adapters make of a weight is compared with PEFT and LyCORIS.
    """
    install(session, *CONSTRAINTS, ours(session, "[torch,web]"), *PYTEST)
    install(session, *CONSTRAINTS, "diffusers", "transformers")
    install(session, *CONSTRAINTS, "peft")
    # It declares to need what its training needs.
    install(session, *CONSTRAINTS, "einops", "toml")
    install(session, *CONSTRAINTS, "--no-deps", "lycoris-lora")
    # Its samplers are one file, which needs torch and SciPy; what it declares to need is far more.
    install(session, *CONSTRAINTS, "scipy")
    install(session, "--no-deps", "k-diffusion==0.1.1.post1")
    install(session, "--no-deps", "tomesd==0.1.3")  # which needs torch alone
    prepare(session, "torch")
    session.env["HF_HUB_OFFLINE"] = "1"
    session.run("pytest", *PARALLEL, "-m", "references", *session.posargs)


@nox.session(default=False)
def web_clients(session: nox.Session) -> None:
    """Programs of others, as they are, against the server with the embedded model."""
    clients = ("webuiapi", "aiohttp", "sd-backend-client", "image-generation-mcp", "openai")
    install(session, *CONSTRAINTS, ours(session, "[web,torch]"), *PYTEST, *clients)
    prepare(session, "torch")  # which compiles nothing
    # Sessions of requests that they leave open are theirs.
    quiet = ("-W", "ignore::pytest.PytestUnraisableExceptionWarning")
    file = "tests/backend/test_serve_clients.py"
    session.run("pytest", *quiet, "-m", "web_clients", *(session.posargs or [file]))


@nox.session(default=False)
def page(session: nox.Session) -> None:
    """The server's page in a headless Chromium, which has to be installed: four minutes."""
    if not any(map(shutil.which, ("chromium", "chromium-browser"))):
        session.error("Chromium is not installed: apt-get install chromium")
    install(session, *CONSTRAINTS, ours(session, "[torch,web]"), *PYTEST, "playwright")
    prepare(session, "torch")
    session.run("pytest", *(session.posargs or ["tests/page"]))


@nox.session(default=False)
def parity(session: nox.Session) -> None:
    """Checkpoints of full size against diffusers, on each backend; and the memory of a load.

    `nox -s parity -- bpe_simple_vocab_16e6.txt.gz [FOLDER]`: an hour on two cores, 16 GB of memory,
    15 GB of disk in FOLDER, where the checkpoints are kept for another time.
    """
    if not session.posargs:
        session.error("give the path of bpe_simple_vocab_16e6.txt.gz: nox -s parity -- PATH")
    vocabulary, *folder = session.posargs
    backends = [PACKAGE.get(backend, backend) for backend in BACKENDS]
    install(session, *CONSTRAINTS, ours(session), *backends, "diffusers", "transformers")
    prepare(session, "torch")
    del session.env["OMP_NUM_THREADS"]  # these models are large
    where = folder[0] if folder else session.create_tmp()
    session.run("python", "benchmarks/parity.py", where, vocabulary)


@nox.session(default=False)
def stable_diffusion_cpp(session: nox.Session) -> None:
    """stable-diffusion.cpp draws from a checkpoint that we saved what we draw ourselves.

    `nox -s stable_diffusion_cpp -- bpe_simple_vocab_16e6.txt.gz [FOLDER]`: 20 minutes to compile it
    (CMake and a C++ compiler are needed), 10 GB of memory, 4 GB of disk in FOLDER.
    """
    if not session.posargs:
        session.error("give the path of the vocabulary: nox -s stable_diffusion_cpp -- PATH")
    vocabulary, *folder = session.posargs
    install(session, *CONSTRAINTS, ours(session), "torch", "stable-diffusion-cpp-python==0.4.7")
    prepare(session, "torch")
    del session.env["OMP_NUM_THREADS"]  # these models are large
    where = folder[0] if folder else session.create_tmp()
    session.run("python", "benchmarks/sd_cpp.py", where, vocabulary)


@nox.session(default=False, python="3.11")
def keras_cv_reference(session: nox.Session) -> None:
    """KerasCV's own classes: the fixture, then full size (8 GB of memory, 4 GB of disk)."""
    tmp, script = Path(session.create_tmp()), "tests/fixtures/make_keras_cv_goldens.py"
    # Keras 2 and its TensorFlow, apart from ours.
    session.run("python", "-m", "venv", "--clear", str(tmp / "old"))
    old = str(tmp / "old" / "bin" / "python")
    pip = (old, "-m", "pip", "install", "--quiet")
    session.run(*pip, "--no-deps", "keras-cv==0.9.0", external=True)
    needed = ("tensorflow-cpu==2.15.1", "keras-core==0.1.7", "numpy<2", "packaging", "regex")
    session.run(*pip, *needed, external=True)
    install(session, *CONSTRAINTS, ours(session, "[jax,web]"), *PYTEST)
    prepare(session, "jax")
    theirs = {"KERAS_BACKEND": "tensorflow"}
    session.run(old, script, "--check", external=True, env=theirs)
    session.env["KERAS_CV_FULL"] = str(tmp)
    for parts in (
        ["text_encoder"],
        ["text_encoder_v2"],
        ["image_encoder", "decoder"],
        ["diffusion_model"],
        ["diffusion_model_v2"],
    ):
        session.run(old, script, "--full", str(tmp), *parts, external=True, env=theirs)
        test = "tests/backend/test_keras_cv.py::test_full_networks_give_what_keras_cv_gives"
        session.run("pytest", "-s", "-m", "references", *(f"{test}[{part}]" for part in parts))
        for file in (*tmp.glob("*.h5"), *tmp.glob("*.npz")):
            file.unlink()


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Ten thousand damaged files of each format."""
    install(session, *CONSTRAINTS, ours(session, "[jax,web]"), *PYTEST)
    prepare(session, "jax")
    session.run("pytest", "-m", "fuzz", *session.posargs)


@nox.session
def tokenizer_reference(session: nox.Session) -> None:
    """Compares the tokenizer's golden ids with those of the slow tokenizer of transformers 4."""
    install(session, ours(session), "transformers<5", "ftfy")
    session.env["HF_HUB_OFFLINE"] = "1"
    session.run("python", "tests/fixtures/make_tokenizer_goldens.py", "--check")
