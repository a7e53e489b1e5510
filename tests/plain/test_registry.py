from __future__ import annotations

import subprocess
import sys
import sysconfig
import textwrap
import warnings

import numpy as np
import pytest

from keras_sd import installed, plugins
from keras_sd.noise import NoiseTable
from keras_sd.registry import (
    AmbiguousSamplerError,
    AmbiguousScheduleError,
    SamplerInfo,
    SamplerLoadError,
    SamplerNotFoundError,
    ScheduleInfo,
    ScheduleLoadError,
    ScheduleNotFoundError,
    format_spec,
    get_sampler,
    get_schedule,
    list_samplers,
    list_schedules,
    settings_of,
)
from keras_sd.schedules import karras, trailing

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

    def install(self, name, version, samplers, entry_points=None, schedules=None):
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
        )
        if entry_points is None:
            groups = {"samplers": samplers, "schedules": schedules or {}}
            lines = []
            for group, declared in groups.items():
                lines += [f"[keras_sd.{group}]"]
                lines += [f"{key} = {value}" for key, value in declared.items()]
            entry_points = "\n".join([*lines, ""])
        (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")

    def module(self, name, source=SAMPLER):
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")


@pytest.fixture
def site(tmp_path, monkeypatch):
    # Only this folder and the standard library: what else is installed here does not matter.
    stdlib = sysconfig.get_path("stdlib")
    kept = [p for p in sys.path if p.startswith(stdlib) and not p.endswith("-packages")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *kept])
    monkeypatch.setattr(plugins, "_warned", set())
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
    ours = {"karras": "keras_sd.schedules:karras", "trailing": "keras_sd.schedules:trailing"}
    samplers = {"ddim": "core_ddim:Sampler", "euler": "core_euler:Sampler"}
    site.install("keras-sd", "0.1", samplers, schedules=ours)
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

        def powerful(denoise, x, levels, noise, *, power=2):
            yield power * x

        powerful.order = 3
        """,
    )
    declared = {name: f"acme_plain:{name}" for name in ("Plain", "function", "powerful")}
    core.install("acme", "1.0", {name.lower(): value for name, value in declared.items()})
    assert get_sampler("plain", power=3).power == 3
    with pytest.raises(TypeError, match=r"cannot be made: missing a .*'power'.*settings: power\."):
        get_sampler("plain")
    assert get_sampler("function").__name__ == "function"
    with pytest.raises(TypeError, match=r"'function' has no setting 'power'. Its settings: none\."):
        get_sampler("function", power=3)
    # The contract's arguments are none of its settings.
    with pytest.raises(TypeError, match=r"no setting 'levels'. Its settings: power=2\."):
        get_sampler("powerful", levels=3)
    sampler = get_sampler("powerful", power=3)
    assert list(sampler(None, 5, None, None)) == [15]
    assert (sampler.__name__, sampler.order) == ("powerful", 3)
    assert list(get_sampler(get_sampler("powerful"), power=4)(None, 5, None, None)) == [20]


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


# Schedules: what differs


TABLE = NoiseTable.scaled_linear()


def test_schedules_are_listed_from_a_group_of_their_own(core):
    core.install("acme", "2.0", {}, schedules={"karras": "no_such_module:f", "ddim": "other:g"})
    assert list_schedules() == [
        ScheduleInfo("ddim", "acme", "2.0", "other:g"),
        ScheduleInfo("karras", "keras-sd", "0.1", "keras_sd.schedules:karras"),
        ScheduleInfo("karras", "acme", "2.0", "no_such_module:f"),
        ScheduleInfo("trailing", "keras-sd", "0.1", "keras_sd.schedules:trailing"),
    ]
    assert [info.name for info in list_samplers()] == ["ddim", "euler"]
    assert list_schedules()[0].qualified_name == "acme:ddim"
    assert ScheduleInfo("a", "b", "c", "d") != SamplerInfo("a", "b", "c", "d")


def test_get_schedule_binds_settings(core):
    assert get_schedule("karras") is karras
    assert get_schedule(karras) is karras
    assert get_schedule("keras_sd:trailing") is trailing
    for bound in (get_schedule("karras", rho=5.0), get_schedule(karras, rho=5.0)):
        assert bound(TABLE, 4) == karras(TABLE, 4, rho=5.0) != karras(TABLE, 4)
        assert bound(TABLE, 4, final_sigma="first")[-1] == TABLE.level(0)
        assert bound.__name__ == "karras"
    with pytest.raises(TypeError) as caught:
        get_schedule("karras", roh=5.0)
    assert str(caught.value) == (
        "Schedule 'karras' has no setting 'roh'. Did you mean 'rho'? "
        "Its settings: final_sigma=None, rho=7.0, spacing='linspace', whole=None."
    )
    with pytest.raises(TypeError, match="no setting 'num_steps'"):
        get_schedule("karras", num_steps=5)
    with pytest.raises(TypeError, match="is made already: give rho where it is made"):
        get_schedule(get_schedule("karras", rho=5.0), rho=6.0)
    with pytest.raises(TypeError, match="A schedule is a name or a callable, got 3"):
        get_schedule(3)


def test_a_class_is_a_schedule_too(core):
    core.module(
        "acme_class",
        """
        class Every:
            def __init__(self, gap):
                self.gap = gap
            def __call__(self, table, num_steps):
                return self.gap
        """,
    )
    core.install("acme", "1.0", {}, schedules={"every": "acme_class:Every"})
    assert get_schedule("every", gap=3)(TABLE, 5) == 3
    with pytest.raises(TypeError, match=r"Schedule 'every' cannot be made: .*'gap'"):
        get_schedule("every")


def test_errors_of_schedules_say_so(core):
    with pytest.raises(ScheduleNotFoundError) as caught:
        get_schedule("Karas")
    assert str(caught.value) == (
        "No schedule 'Karas'. Did you mean 'karras'? Installed: karras, trailing (keras-sd 0.1)."
    )
    assert isinstance(caught.value, ValueError)
    core.module("broken", "f = 3")
    core.install("acme-a", "1.0", {}, schedules={"foo": "a:f", "bar": "broken:f", "baz": "none:f"})
    core.install("acme-b", "1.0", {}, schedules={"foo": "b:f"})
    with pytest.raises(AmbiguousScheduleError, match=r"'foo' is declared by acme-a 1\.0 .* and ac"):
        get_schedule("foo")
    with pytest.raises(ScheduleLoadError, match=r"'bar' of acme-a .* is no schedule: 3 is not ca"):
        get_schedule("bar", rho=3)
    with pytest.raises(ScheduleLoadError, match=r"'baz' of acme-a .* could not be loaded"):
        get_schedule("baz")


def test_a_name_is_warned_of_once_for_each_noun(site):
    site.module("core_lcm")
    ours = {"lcm": "keras_sd.schedules:karras"}
    site.install("keras-sd", "0.1", {"lcm": "core_lcm:Sampler"}, schedules=ours)
    site.install("acme", "1.0", {"lcm": "acme_lcm:Sampler"}, schedules={"lcm": "acme_lcm:f"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            get_sampler("lcm")
            assert get_schedule("lcm") is karras
    nouns = [str(w.message).split(" is declared")[0] for w in caught]
    assert nouns == ["Sampler 'lcm'", "Schedule 'lcm'"]
    assert {w.filename for w in caught} == {__file__}


def test_no_module_of_this_layer_imports_more_than_the_standard_library():
    code = """
        import sys
        sys.modules.update(dict.fromkeys(("numpy", "keras", "jax", "torch", "tensorflow")))
        import keras_sd.noise, keras_sd.schedules, keras_sd.sampler
        import keras_sd.registry, keras_sd.sampling, keras_sd.levels, keras_sd.aliases
        keras_sd.registry.list_samplers()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


# Settings in the name


def test_a_name_may_have_settings(core):
    assert get_sampler("ddim:strength=0.25") == get_sampler("ddim", strength=0.25)
    assert get_sampler("keras-sd:ddim:strength=0.25,rounds=3") == get_sampler(
        {"name": "ddim", "strength": 0.25, "rounds": 3}
    )
    assert get_sampler("ddim:rounds=2", strength=0) == get_sampler("ddim", rounds=2, strength=0)
    table = NoiseTable.scaled_linear()
    assert get_schedule("karras:rho=5")(table, 5) == karras(table, 5, rho=5)
    with pytest.raises(ValueError, match="'rounds' is in 'ddim' already"):
        get_sampler("ddim:rounds=2", rounds=2)
    with pytest.raises(TypeError, match=r"no setting 'round'. Did you mean 'rounds'"):
        get_sampler("ddim:round=2")
    with pytest.raises(ValueError, match="strength must not be negative, got -1"):
        get_sampler("ddim:strength=-1")
    with pytest.raises(SamplerNotFoundError, match=r"'ddim:strength'.*'ddim:strength=VALUE'"):
        get_sampler("ddim:strength")
    with pytest.raises(TypeError, match=r"'ddim' cannot be made with strength='x': TypeError"):
        get_sampler("ddim:strength=x")


@pytest.mark.parametrize("asked", ["", "ddim:", {"strength": 1}, {900: 1}, 0, [], None, b"ddim"])
def test_what_is_no_name_is_an_error_of_ours(core, asked):
    with pytest.raises(
        (TypeError, ValueError), match=r"ddim:eta=1|'name': 'ddim'|a name or a call"
    ):
        get_sampler(asked)


@pytest.mark.parametrize(
    ("get", "given", "takes"),
    [
        (get_sampler, lambda: 1, r"is no sampler: <lambda> .*\(denoise, x, levels, noise\)"),
        (get_sampler, lambda denoise, x, levels, noise, more: 1, "missing a required argument"),
        (get_schedule, lambda table: 1, r"\(path, num_steps\): too many"),
        (get_sampler, SamplerInfo("a", "b", "c", "d"), "a name or a callable"),
    ],
)
def test_a_callable_of_other_arguments_is_found_before_a_run(get, given, takes):
    with pytest.raises(TypeError, match=takes):
        get(given)


def test_what_is_bound_already_counts(core):
    def shifted(path, num_steps, *, shift):
        return karras(path, num_steps)

    with pytest.raises(TypeError, match="'shift'"):
        get_schedule(shifted)
    bound = get_schedule(shifted, shift=3.0)
    assert get_schedule(bound) is bound


def test_what_a_sampler_was_made_from(core):
    core.module(
        "acme",
        """
        def run(denoise, x, levels, noise, *, eta=0.0, table=None):
            yield x

        class Plain:
            def __call__(self, denoise, x, levels, noise):
                yield x

        made = Plain()
        """,
    )
    core.install("acme", "1.0", {"run": "acme:run", "plain": "acme:Plain", "made": "acme:made"})
    assert settings_of(get_sampler("ddim")) == ("ddim", {})
    assert settings_of(get_sampler("ddim", strength=0.25)) == ("ddim", {"strength": 0.25})
    assert settings_of(get_sampler("ddim", strength=0.5, rounds=1)) == ("ddim", {})
    assert settings_of(get_sampler("run")) == ("run", {})
    assert settings_of(get_sampler("run", eta=1)) == ("run", {"eta": 1})
    assert settings_of(get_sampler("run", table=np.zeros(2))) is None  # no literal
    assert settings_of(get_sampler("made")) == ("made", {})
    assert settings_of(get_schedule("karras", rho=5)) == ("karras", {"rho": 5})
    assert settings_of(trailing) == ("trailing", {})
    assert settings_of(lambda denoise, x, levels, noise: x) is None
    assert settings_of(3) is None
    settings = settings_of(get_sampler("ddim:strength=0.25"))
    assert format_spec(*settings) == "ddim:strength=0.25"
    # Not the name alone where that is another's.
    core.module("rival", SAMPLER)
    core.install("rival", "1.0", {"euler": "rival:Sampler"})
    assert settings_of(get_sampler("rival:euler", rounds=2)) == ("rival:euler", {"rounds": 2})


@pytest.mark.parametrize(
    "source",
    [
        "class B(BaseException): pass\nraise B('boom')",
        "import sys\nsys.exit(0)",
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E",
        "class S:\n    def __init__(self): raise RuntimeError('boom')",
        "class S:\n    def __init__(self): raise ValueError('boom')",
        "class S:\n    def __init__(self): raise SystemExit(0)",
        "class S:\n    def __call__(self): yield 1",
        "class S:\n    def __repr__(self): raise ValueError\nS = S()",
    ],
)
def test_no_plugin_ends_the_process_or_hides_its_name(core, source):
    core.module("broken", source)
    core.install("acme", "0.3", {"bad": "broken:S"})
    with pytest.raises(SamplerLoadError, match=r"Sampler 'bad' of acme 0\.3 "):
        get_sampler("bad")


def test_an_error_about_a_setting_that_cannot_speak_names_the_plugin(core):
    source = """
        class E(ValueError):
            def __str__(self): raise RuntimeError

        class S:
            def __init__(self, eta=0): raise E
        """
    core.module("broken", source)
    core.install("acme", "0.3", {"bad": "broken:S"})
    with pytest.raises(SamplerLoadError, match=r"'bad' of acme 0\.3 .*: E, and no more"):
        get_sampler("bad:eta=1")


def test_a_keyboard_interrupt_is_no_broken_plugin(core):
    core.module("broken", "raise KeyboardInterrupt")
    core.install("acme", "0.3", {"bad": "broken:S"})
    with pytest.raises(KeyboardInterrupt):
        get_sampler("bad")


def test_metadata_in_another_encoding_hides_nobody(core):
    core.install("acme-latin", "1.0", {"foo": "core_ddim:Sampler"})
    metadata = core.folder / "acme_latin-1.0.dist-info" / "METADATA"
    metadata.write_bytes("Metadata-Version: 2.1\nName: acme\nAuthor: André\n".encode("latin-1"))
    assert {info.name for info in list_samplers()} == {"ddim", "euler", "foo"}
    assert get_sampler("ddim")
    assert of("foo")[0].distribution in ("acme-latin", "acme_latin")
    assert get_sampler("acme-latin:foo")


def test_a_listing_is_read_once_and_again_after_a_change(core, monkeypatch):
    assert of("ddim")
    reads = []
    real = installed.metadata.entry_points
    monkeypatch.setattr(
        installed.metadata, "entry_points", lambda **kw: reads.append(kw) or real(**kw)
    )
    assert of("ddim")
    assert reads == []
    core.install("acme", "1.0", {"foo": "acme:Foo"})
    assert of("foo")
    assert len(reads) == 1
    declared = core.folder / "acme-1.0.dist-info" / "entry_points.txt"
    declared.write_text("[keras_sd.samplers]\nfoo_renamed = acme:Foo\n", encoding="utf-8")
    assert of("foo_renamed")
    assert not of("foo")
