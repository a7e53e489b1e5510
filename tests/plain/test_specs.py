"""Names with settings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keras_sd.specs import format_spec, parse_spec

PARSED = {
    "ddim": ("ddim", {}),
    " DPM++ 2M Karras ": ("DPM++ 2M Karras", {}),
    "acme:foo": ("acme:foo", {}),
    "ddim:eta=1": ("ddim", {"eta": 1}),
    "ddim: eta = 1 , s_noise=1.003": ("ddim", {"eta": 1, "s_noise": 1.003}),
    "acme:foo:eta=-1e-3": ("acme:foo", {"eta": -1e-3}),
    "a:solver=heun,on=True,off=None": ("a", {"solver": "heun", "on": True, "off": None}),
    "a:steps=(1,2.5),name='x, y=1:2'": ("a", {"steps": (1, 2.5), "name": "x, y=1:2"}),
    "a:word='é'": ("a", {"word": "é"}),
    "a:b=1e999": ("a", {"b": math.inf}),
}


@pytest.mark.parametrize(("text", "parsed"), PARSED.items())
def test_a_line_is_read(text, parsed):
    assert parse_spec(text) == parsed


def test_a_mapping_is_read():
    assert parse_spec({"name": "ddim", "eta": 1}) == ("ddim", {"eta": 1})
    assert parse_spec({"name": "ddim:eta=1", "s": "x"}) == ("ddim", {"eta": 1, "s": "x"})
    given = {"name": "ddim", "eta": 1}
    parse_spec(given)
    assert given == {"name": "ddim", "eta": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "A name is needed"),
        ("  ", "A name is needed"),
        ("ddim:", "colon with nothing"),
        (":ddim", "colon with nothing"),
        ("a:b:c", "colon with nothing"),
        ("a:b::eta=1", "colon with nothing"),
        ("eta=1", "no name before"),
        (":eta=1", "no name before"),
        ("ddim:eta=", "cannot be read"),
        ("ddim:=1", "cannot be read"),
        ("ddim:eta=1,eta=2", "'eta' comes twice"),
        ("ddim:eta=1,2", "cannot be read|has no name"),
        ("ddim:eta=1,**{}", "cannot be read|has no name"),
        ("ddim:eta=1)(x=2", "cannot be read"),
        ("ddim:eta=1)#", "cannot be read"),
        ("ddim:eta=1+1", "no literal"),
        ("ddim:eta=f(1)", "no literal"),
        ("ddim:eta=(a,b)", "no literal"),
        ("ddim:eta=" + "(" * 500, "cannot be read"),
        ("ddim:eta=" + "9" * 5000, "cannot be read"),
        ("ddim:eta=1if x else 2", "cannot be read|no literal"),
    ],
)
def test_a_line_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


@pytest.mark.parametrize(
    "given", [3, None, ["ddim"], {}, {"eta": 1}, {"name": 3}, {"name": "a", 1: 2}]
)
def test_what_is_neither_a_line_nor_a_mapping_with_a_name(given):
    with pytest.raises(TypeError, match="mapping"):
        parse_spec(given)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eta": 1.0, "s": "heun", "t": "two words", "u": "True", "v": "", "w": "None"},
        {"a": (), "b": (1,), "c": ((1, "x"), -math.inf), "d": [1, {"k": 2}], "e": b"\0", "f": "if"},
        {"a": True, "b": None, "c": "a,b=c:d)('\"", "d": 1e-300, "e": "é"},
    ],
)
def test_what_is_written_is_read_back(settings):
    for name in ("ddim", "acme-x:foo", "DPM++ 2M"):
        read = parse_spec(format_spec(name, settings))
        assert read == (name, settings)
        assert repr(read[1]) == repr(settings)


def test_how_it_is_written():
    assert format_spec("ddim", {}) == "ddim"
    assert format_spec("ddim", {"eta": 1.0, "solver": "heun"}) == "ddim:eta=1.0,solver=heun"
    assert format_spec("ddim", {"eta": np.float64(0.5)}) == "ddim:eta=0.5"


@pytest.mark.parametrize("value", [math.nan, np.zeros(2), object(), len, {1: math.nan}])
def test_what_no_literal_writes_is_an_error(value):
    with pytest.raises(ValueError, match="cannot be written"):
        format_spec("ddim", {"eta": value})
