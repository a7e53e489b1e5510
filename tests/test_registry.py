from __future__ import annotations

import subprocess
import sys
import sysconfig
import textwrap
import warnings

import pytest

from keras_sd import registry
from keras_sd.registry import (
    AmbiguousSamplerError,
    SamplerInfo,
    SamplerLoadError,
    SamplerNotFoundError,
    get_sampler,
    list_samplers,
)

SAMPLER = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Sampler:
    '''Made for these tests.'''
    strength: float = 0.5
    rounds: int = 1

    def __post_init__(self):
        if self.strength < 0:
            raise ValueError(f"strength must not be negative, got {self.strength}")

    def __call__(self, denoise, x, levels, noise):
        for now in levels[:-1]:
            yield x
"""


class Site:
    """A folder on sys.path with fake installed distributions."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, name, version, samplers, entry_points=None):
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
        )
        if entry_points is None:
            lines = [f"{key} = {value}" for key, value in samplers.items()]
            entry_points = "\n".join(["[keras_sd.samplers]", *lines, ""])
        (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")

    def module(self, name, source=SAMPLER):
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")


@pytest.fixture
def site(tmp_path, monkeypatch):
    # Only this folder and the standard library: what else is installed here does not matter.
    stdlib = sysconfig.get_path("stdlib")
    kept = [p for p in sys.path if p.startswith(stdlib) and not p.endswith("-packages")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *kept])
    monkeypatch.setattr(registry, "_warned", set())
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def core(site):
    site.module("core_ddim")
    site.module("core_euler")
    site.install("keras-sd", "0.1", {"ddim": "core_ddim:Sampler", "euler": "core_euler:Sampler"})
    return site


def of(name):
    return [info for info in list_samplers() if info.name == name]


def test_listing_reads_metadata_and_imports_nothing(core):
    core.install("acme-samplers", "2.0", {"foo": "no_such_module:Foo"})
    core.module("explodes", "raise SystemExit('imported')")
    core.install("acme-bomb", "1.0", {"bomb": "explodes:Bomb"})
    assert list_samplers() == [
        SamplerInfo("bomb", "acme-bomb", "1.0", "explodes:Bomb"),
        SamplerInfo("ddim", "keras-sd", "0.1", "core_ddim:Sampler"),
        SamplerInfo("euler", "keras-sd", "0.1", "core_euler:Sampler"),
        SamplerInfo("foo", "acme-samplers", "2.0", "no_such_module:Foo"),
    ]
    assert "core_ddim" not in sys.modules
    assert "explodes" not in sys.modules


def test_get_sampler_imports_that_one_and_passes_settings(core):
    sampler = get_sampler("ddim", strength=0.25)
    assert repr(sampler) == "Sampler(strength=0.25, rounds=1)"
    assert "core_ddim" in sys.modules
    assert "core_euler" not in sys.modules
    assert get_sampler("keras-sd:ddim") == get_sampler("Keras_SD:ddim") == type(sampler)()


def test_an_instance_is_returned_as_it_is(core):
    sampler = get_sampler("ddim")
    assert get_sampler(sampler) is sampler
    with pytest.raises(
        TypeError, match=r"Sampler\(strength=0.5, rounds=1\) is made already.*rounds"
    ):
        get_sampler(sampler, rounds=2)
    with pytest.raises(TypeError, match=r"Sampler is a class: pass a sampler, Sampler\(...\)"):
        get_sampler(type(sampler))
    with pytest.raises(TypeError, match="a name or a callable, got 3"):
        get_sampler(3)


def test_unknown_name(core):
    core.module("acme_foo")
    core.install("acme-samplers", "2.0", {"foo": "acme_foo:Sampler"})
    with pytest.raises(SamplerNotFoundError) as caught:
        get_sampler("dimm")
    assert str(caught.value) == (
        "No sampler 'dimm'. Did you mean 'ddim'? "
        "Installed: ddim, euler (keras-sd 0.1), foo (acme-samplers 2.0)."
    )
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(SamplerNotFoundError, match="Did you mean 'ddim'"):
        get_sampler("DDIM")
    with pytest.raises(SamplerNotFoundError, match=r"No sampler 'zzzzz'\. Installed"):
        get_sampler("zzzzz")
    with pytest.raises(SamplerNotFoundError, match="Did you mean 'acme-samplers:foo'"):
        get_sampler("acme-sampler:foo")


def test_nothing_installed(site):
    assert list_samplers() == []
    with pytest.raises(SamplerNotFoundError, match=r"none is installed.*pip install keras-sd"):
        get_sampler("ddim")


def test_unknown_setting_names_the_settings(core):
    with pytest.raises(TypeError) as caught:
        get_sampler("ddim", strenth=1)
    assert str(caught.value) == (
        "Sampler 'ddim' has no setting 'strenth'. Did you mean 'strength'? "
        "Its settings: strength=0.5, rounds=1."
    )
    with pytest.raises(ValueError, match="strength must not be negative, got -1"):
        get_sampler("ddim", strength=-1)


def test_a_plain_class_and_a_plain_function_are_samplers_too(core):
    core.module(
        "acme_plain",
        """
        class Plain:
            def __init__(self, power):
                self.power = power
            def __call__(self, denoise, x, levels, noise):
                yield x

        def function(denoise, x, levels, noise):
            yield x
        """,
    )
    core.install("acme", "1.0", {"plain": "acme_plain:Plain", "fn": "acme_plain:function"})
    assert get_sampler("plain", power=3).power == 3
    with pytest.raises(TypeError, match=r"cannot be made: missing a .*'power'.*settings: power\."):
        get_sampler("plain")
    assert get_sampler("fn").__name__ == "function"
    with pytest.raises(TypeError, match="has no settings, got power"):
        get_sampler("fn", power=3)


def test_the_same_value_twice_is_one_sampler(core):
    core.install("keras-sd-again", "0.1", {"ddim": "core_ddim:Sampler"})
    core.install("acme-a", "1.0", {"foo": "core_euler:Sampler"})
    core.install("acme-b", "1.0", {"foo": "core_euler:Sampler"})
    assert [info.distribution for info in of("ddim")] == ["keras-sd"]
    assert [info.distribution for info in of("foo")] == ["acme-a"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_sampler("ddim")
        get_sampler("foo")


def test_ours_wins_with_one_warning_naming_both(core):
    core.module("acme_ddim", SAMPLER.replace("class Sampler", "class Rival"))
    core.install("acme-samplers", "2.0", {"ddim": "acme_ddim:Rival"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(of("ddim")) == 2  # listing warns of nothing
        assert get_sampler("euler")
        assert not caught
        assert type(get_sampler("ddim")).__module__ == "core_ddim"
        assert type(get_sampler("ddim")).__module__ == "core_ddim"
    assert [str(w.message) for w in caught] == [
        "Sampler 'ddim' is declared by keras-sd 0.1 and by acme-samplers 2.0; keras-sd's is used. "
        "The other is 'acme-samplers:ddim'."
    ]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(get_sampler("acme-samplers:ddim")).__name__ == "Rival"


def test_two_strangers_are_an_error_only_when_asked_for(core):
    core.module("acme_a")
    core.module("acme_b")
    core.install("acme-b", "2.0", {"foo": "acme_b:Sampler"})
    core.install("acme-a", "1.0", {"foo": "acme_a:Sampler"})
    assert len(of("foo")) == 2
    assert get_sampler("ddim")
    with pytest.raises(AmbiguousSamplerError) as caught:
        get_sampler("foo")
    assert str(caught.value) == (
        "Sampler 'foo' is declared by acme-a 1.0 (acme_a:Sampler) and acme-b 2.0 (acme_b:Sampler): "
        "ask for 'acme-a:foo' or 'acme-b:foo', or uninstall one."
    )
    assert type(get_sampler("acme-b:foo")).__module__ == "acme_b"


@pytest.mark.parametrize(
    ("value", "source", "cause", "message"),
    [
        ("broken:Sampler", "import no_such_dependency", ModuleNotFoundError, "no_such_dependency"),
        ("broken:Sampler", "x = 1", AttributeError, "Sampler"),
        ("broken:Sampler", "1 / 0", ZeroDivisionError, "division by zero"),
        ("broken:Sampler", "raise SystemExit(3)", SystemExit, "3"),
        ("broken:Sampler", "def (", SyntaxError, "broken.py"),
        ("not a reference", "", Exception, ""),
    ],
)
def test_a_broken_plugin(core, value, source, cause, message):
    core.module("broken", source)
    core.install("acme-broken", "0.3", {"broken": value})
    assert len(of("broken")) == 1
    assert get_sampler("ddim")
    with pytest.raises(SamplerLoadError) as caught:
        get_sampler("broken")
    assert f"Sampler 'broken' of acme-broken 0.3 ({value}) could not be loaded" in str(caught.value)
    assert message in str(caught.value)
    assert isinstance(caught.value.__cause__, cause)


def test_a_declared_object_that_is_no_sampler(core):
    core.module("broken", "Number = 3\nclass Uncallable: pass")
    core.install("acme", "0.3", {"number": "broken:Number", "uncallable": "broken:Uncallable"})
    for name in ("number", "uncallable"):
        with pytest.raises(SamplerLoadError, match=rf"'{name}' of acme 0.3 .* is not callable"):
            get_sampler(name)


def test_unreadable_metadata_of_one_distribution_does_not_hide_the_others(core):
    core.install("acme-garbled", "1.0", {}, entry_points="[keras_sd.samplers]\nno equals sign\n")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        names = [info.name for info in list_samplers()]
    assert names == ["ddim", "euler"]


def test_a_distribution_without_metadata(core):
    info = core.folder / "nameless-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[keras_sd.samplers]\nfoo = core_ddim:Sampler\n")
    assert SamplerInfo("foo", "unknown", "unknown", "core_ddim:Sampler") in list_samplers()
    assert get_sampler("foo")


def test_no_module_of_this_layer_imports_more_than_the_standard_library():
    code = """
        import sys
        sys.modules.update(dict.fromkeys(("numpy", "keras", "jax", "torch", "tensorflow")))
        import keras_sd.noise, keras_sd.schedules, keras_sd.sampler
        import keras_sd.registry, keras_sd.sampling
        keras_sd.registry.list_samplers()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
