"""Who may import whom, read from the sources; and what an import costs, seen in a new process."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = {"jax", "tensorflow", "torch"}

# Lower numbers know nothing of higher ones.
RANK = {
    "choose": 0,
    "executables": 0,
    "machine": 0,
    "checks": 0,
    "prompt_styles": 0,
    "delegates": 0,
    "noise": 0,
    "files": 0,
    "lock": 0,
    "settings": 0,
    "schedules": 1,
    "sampler": 1,
    "specs": 1,
    "grids": 1,
    "installed": 1,
    "guidance": 1,
    "guides": 1,
    "start": 1,
    "controls": 1,
    "image_prompts": 1,
    "adaptations": 1,
    "prompts": 1,
    "conditions": 2,
    "networks": 2,
    "config": 2,
    "network_configs": 2,
    "adapter_configs": 2,
    "costs": 2,
    "plans": 0,
    "conditioning": 1,
    "sparing": 1,
    "adaptive": 3,
    "caching": 4,
    "refining": 3,
    "backend": 2,
    "devices": 2,
    "precision": 3,
    "rules": 3,
    "compat": 3,
    "sampling": 3,
    "denoiser": 3,
    "inversion": 3,
    "levels": 3,
    "aliases": 3,
    "plugins": 3,
    "registry": 3,
    "weights": 3,
    "adapters": 3,
    "embeddings": 3,
    "tokenizer": 3,
    "image": 3,
    "hints": 3,
    "gallery": 3,
    "inpainting": 3,
    "infotext": 3,
    "provenance": 3,
    "random": 3,
    "choices": 3,
    "few_steps": 3,
    "request": 3,
    "forms": 3,
    "wording": 3,
    "texts": 3,
    "tiling": 3,
    "latents": 3,
    "low_memory": 3,
    "evaluations": 4,
    "planning": 4,
    "model": 4,
    "controlled": 4,
    "cluster": 4,
    "run": 4,
    "pipeline": 4,
    "benchmark": 5,
    "keras_cv": 5,
    "lab": 5,
    "new_sampler": 5,
    "serve": 5,
    "effect": 5,
    "addons": 4,
    "tables": 5,
    "cli": 5,
    "models": 5,
    "testing": 5,
    "training": 5,
}

# The two doors of the house to the wing for KerasCV, and who else knows it: its old names, and the
# benchmark, which runs KerasCV itself.
DOORS = {"compat.py", "weights/keras_cv_h5.py"}
OF_THE_WING = ("keras_cv/", "models/")

# Modules that promise to need nothing but what is named here, wherever in the file it is imported.
NEEDS_ONLY = {
    "choose": set(),
    "executables": set(),
    "machine": {"numpy"},
    "costs": set(),
    "evaluations": {"numpy"},
    "planning": set(),
    "plans": set(),
    "checks": set(),
    "prompt_styles": set(),
    "delegates": set(),
    "noise": set(),
    "files": set(),
    "lock": set(),
    "settings": set(),
    "start": set(),
    "controls": set(),
    "image_prompts": set(),
    "adaptations": set(),
    "choices": set(),
    "few_steps": set(),
    "request": set(),
    "infotext": set(),
    "provenance/__init__": set(),
    "provenance/origin": set(),
    "provenance/texts": {"numpy", "PIL"},  # of EXIF, and of what is hidden in pixels
    "provenance/own": set(),
    "provenance/webui": set(),
    "provenance/comfyui": set(),
    "provenance/invokeai": set(),
    "provenance/novelai": set(),
    "provenance/follow": set(),
    "provenance/difference": {"numpy"},
    "training/config": set(),
    "training/buckets": set(),
    "schedules": set(),
    "sampler": set(),
    "registry": set(),
    "specs": set(),
    "grids": set(),
    "installed": set(),
    "sampling": set(),
    "guidance": set(),
    "guides": set(),
    "plugins": set(),
    "inversion": set(),
    "levels": set(),
    "aliases": set(),
    "config": set(),
    "network_configs": set(),
    "conditioning": set(),
    "random": {"numpy"},
    "image": {"numpy", "PIL"},
    "hints": {"numpy", "PIL"},
    "gallery": {"numpy", "PIL", "matplotlib"},
    "serve/source": set(),
    "serve/jobs": {"numpy"},
    "serve/limits": set(),
    "serve/fields": set(),
    "serve/metrics": set(),
    "serve/about": set(),
    "serve/static": set(),
    "serve/ledger": {"numpy"},
    "serve/pictures": {"numpy", "PIL"},
    "serve/own_form": {"numpy"},
    "rules": {"numpy"},
    "compat": set(),
    "keras_cv/versions": {"numpy"},
    "keras_cv/constants": set(),
    "keras_cv/names": set(),
    "tokenizer": {"numpy", "ftfy", "regex"},
}


def folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


CORE = folder("keras_sd")
SAMPLERS = folder("keras_sd_samplers")


def imports(source: str) -> set[str]:
    """Full names of all that a source imports, at any depth of nesting, literal strings given to
    `import_module` included.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def files(root: Path) -> dict[str, set[str]]:
    """Path inside a package -> what that file imports."""
    return {
        path.relative_to(root).as_posix(): imports(path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob("*.py"))
    }


def part(path: str) -> str:
    """`weights/load.py` -> `weights`: the part of the house a file belongs to."""
    return path.split("/")[0].removesuffix(".py")


def parts_imported(names: set[str]) -> set[str]:
    """The parts of keras_sd among full names; the package itself is `__init__`."""
    ours = (name.split(".") for name in names if name.split(".")[0] == "keras_sd")
    return {words[1] if len(words) > 1 and words[1] in RANK else "__init__" for words in ours}


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def strangers(names: set[str]) -> set[str]:
    """What is neither ours nor the standard library's."""
    return tops(names) - {"keras_sd"} - set(sys.stdlib_module_names)


CORE_FILES = files(CORE)
SAMPLER_FILES = files(SAMPLERS)


def test_the_reader_of_imports_sees_them_all():
    source = (
        "import a.b\nfrom c import d as e\n"
        "def f():\n    import g\n    import_module('h')\n    importlib.import_module('i.j')\n"
    )
    assert imports(source) == {"a.b", "c.d", "g", "h", "i.j"}
    assert parts_imported({"keras_sd.noise.Level", "keras_sd.image", "numpy"}) == {"noise", "image"}
    assert parts_imported({"keras_sd.__version__", "keras_sd"}) == {"__init__"}


def test_every_file_has_a_place_in_the_house():
    assert {part(path) for path in CORE_FILES} - {"__init__"} <= set(RANK)


def test_imports_go_down_only():
    graph: dict[str, set[str]] = {}
    for path, names in CORE_FILES.items():
        importer = part(path)
        if importer == "__init__":
            continue
        for imported in parts_imported(names) - {importer}:
            if path in DOORS and imported == "keras_cv":
                continue
            if imported == "__init__":
                # It loads lazily, so it is as good as a layer above all; only the top may use it.
                assert RANK[importer] == max(RANK.values()), f"{path} imports keras_sd itself"
                continue
            assert RANK[imported] <= RANK[importer], f"{path} imports keras_sd.{imported}, above it"
            graph.setdefault(importer, set()).add(imported)
    graphlib.TopologicalSorter(graph).prepare()  # raises on a circle within one layer


def test_the_house_knows_the_wing_through_two_doors():
    knowing = {
        path
        for path, names in CORE_FILES.items()
        if "keras_cv" in parts_imported(names) and not path.startswith(OF_THE_WING)
    }
    assert knowing == DOORS


def test_only_backend_names_a_backend():
    naming = {path for path, names in CORE_FILES.items() if tops(names) & BACKENDS}
    assert naming == {"backend.py"}


@pytest.mark.parametrize("name", NEEDS_ONLY)
def test_a_module_that_promises_to_need_little_keeps_to_it(name):
    assert strangers(CORE_FILES[f"{name}.py"]) <= NEEDS_ONLY[name]


def test_pure_tables_of_weight_names_need_only_the_standard_library():
    tables = [path for path in CORE_FILES if path.startswith("weights/names/")]
    assert len(tables) > 3
    for path in tables:
        names = CORE_FILES[path]
        assert not strangers(names), path


def test_prompts_are_read_with_the_standard_library_alone():
    readers = [path for path in CORE_FILES if path.startswith("prompts/")]
    assert len(readers) > 3
    for path in readers:
        assert not strangers(CORE_FILES[path]), path


def test_of_the_weights_only_loading_needs_keras():
    needing = {
        path
        for path, names in CORE_FILES.items()
        if path.startswith("weights/") and "keras" in tops(names)
    }
    assert needing == {"weights/load.py"}


def test_of_the_adapters_only_what_has_networks_needs_keras():
    needing = {
        path
        for path, names in CORE_FILES.items()
        if path.startswith("adapters/")
        and ("keras" in tops(names) or parts_imported(names) & {"backend", "networks"})
    }
    with_networks = ("merging", "controlnet", "ip_adapter", "t2i_adapter")
    assert needing == {f"adapters/{name}.py" for name in with_networks}


def test_samplers_know_the_noise_and_nothing_else_of_keras_sd():
    assert SAMPLER_FILES.keys() > {"__init__.py"}
    for path, names in SAMPLER_FILES.items():
        # Of the contract's module only the names of types, for annotations.
        assert parts_imported(names) <= {"noise", "sampler"}, path
        assert strangers(names) <= {"numpy", "keras_sd_samplers"}, path


def test_the_extra_of_the_server_is_known_to_the_server_alone():
    web = {"starlette", "uvicorn", "python_multipart", "greenlet"}
    knowing = {path for path, names in CORE_FILES.items() if tops(names) & web}
    assert knowing
    assert all(path.startswith("serve/") for path in knowing)


def test_what_speaks_http_knows_no_model():
    drawing = {"engine", "batching", "previews", "on_ray"}
    for path, names in CORE_FILES.items():
        if not path.startswith("serve/") or part(path.split("/")[1]) in drawing:
            continue
        assert not tops(names) & {"keras", *BACKENDS}, path
        assert not parts_imported(names) & {"backend", "model", "run", "networks"}, path


def test_the_core_knows_no_sampler():
    for path, names in CORE_FILES.items():
        assert "keras_sd_samplers" not in tops(names), path


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a new process after it has run `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import keras_sd; dir(keras_sd); keras_sd.__version__",
        "import keras_sd; keras_sd.list_samplers(); keras_sd.list_schedules()",
        "import keras_sd; keras_sd.get_sampler('ddim', eta=0.5)",
        "import keras_sd.cli",
        "import keras_sd.models; dir(keras_sd.models.stable_diffusion)",
        "import keras_sd.weights.keras_cv_h5",
        "from keras_sd.models.stable_diffusion.constants import _ALPHAS_CUMPROD",
    ],
)
def test_what_needs_no_model_loads_neither_keras_nor_a_backend(code):
    assert not loaded_after(code) & {"keras", "numpy", "PIL", "starlette", "greenlet", *BACKENDS}


def test_a_listing_imports_no_sampler():
    loaded = loaded_after("import keras_sd; assert keras_sd.list_samplers()")
    assert "keras_sd_samplers" not in loaded


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.getaddrinfo("example.org", 80),
    ],
)
def test_no_test_reaches_the_network(reach):
    with pytest.raises(RuntimeError, match=r"looked up a host|connected to"):
        reach()
