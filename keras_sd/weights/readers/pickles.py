"""A pickle machine that can make nothing but plain data.

A pickle is a program. Python's own machine imports what the program names and calls it; this one
knows the instructions that plain data and tensors need, and a table of names that stand for
functions of ours. Any other instruction and any other name is an error before it has an effect.
What the program makes is bounded by its length and by the number of its instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from keras_sd.weights import readers
from keras_sd.weights.readers import WeightsError

MAX_BYTES = 32 * 2**20
"""Of a pickle. That of a full SD checkpoint with its optimizer has less than a million."""

_MAX_INSTRUCTIONS = 1_000_000
"""A tensor takes about 40, and a full SD checkpoint with its optimizer has 3,200 tensors."""

_MAX_NAME = 500
_MAX_INTEGER = 32
"""Bytes of a long integer."""


class Inert:
    """Stands for an object that is no tensor and that nobody looks at."""


INERT = Inert()


@dataclass(frozen=True, slots=True)
class Name:
    """What a name in a pickle stands for.

    Attributes:
        full: module and name, with a dot between.
        call: what a call of it makes of the arguments; None is a name that is not called.
        value: what it means to those who know it, such as the dtype of a storage.
        state: it is a class whose objects are made empty and then given a state, which is kept.
    """

    full: str
    call: Callable[[tuple[Any, ...]], Any] | None = None
    value: Any = None
    state: bool = False


class State:
    """An object of which the state is kept: the attributes of an instance.

    Attributes:
        named: the attributes.
    """

    __slots__ = ("named",)

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}


@dataclass(slots=True)
class Dict:
    """A dictionary. Keys that are no strings are not kept: their hash may be slow on purpose.

    Attributes:
        named: what has a string for its key.
        unnamed: the values of all other keys.
    """

    named: dict[str, Any] = field(default_factory=dict)
    unnamed: list[Any] = field(default_factory=list)

    def add(self, key: Any, value: Any) -> None:
        if type(key) is not str:
            self.unnamed.append(value)
        elif key in self.named:
            raise WeightsError(f"has {shown(key)} twice in one dictionary")
        else:
            self.named[key] = value


def load(
    data: bytes,
    start: int,
    names: Mapping[str, Name],
    persistent: Callable[[Any], Any],
) -> tuple[Any, int]:
    """What a pickle says, where it says nothing but data.

    Args:
        data: bytes with the pickle.
        start: where it begins.
        names: the names that it may use.
        persistent: what to make of a persistent id; it must check what it is given.

    Returns:
        The value, made of strings, bytes, numbers, tuples, lists, `Dict`, `State`, `Name`, `INERT`
        and what `names` and `persistent` make, and the position after the pickle.

    Raises:
        WeightsError: the pickle is damaged or wants more than that; the message goes on after the
            name of the file.
    """
    machine = _Machine(data, start, names, persistent)
    return machine.run(), machine.position


def shown(value: Any) -> str:
    """A short text for a message; of anything that can be large or deep only the type."""
    if isinstance(value, Name):
        return value.full
    if not isinstance(value, (str, bytes, int, float)):
        return type(value).__name__
    return readers.shown(value)


class _Machine:
    def __init__(
        self,
        data: bytes,
        start: int,
        names: Mapping[str, Name],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.data = data
        self.position = start
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        try:
            for _ in range(_MAX_INSTRUCTIONS):
                code = self.data[self.position]
                self.position += 1
                if code == _STOP:
                    return self.stack.pop()
                instruction = _INSTRUCTIONS.get(code)
                if instruction is None:
                    _refuse_instruction(code)
                instruction(self)
        # The stack is empty, the memo has no such entry, the bytes end, a text is none.
        except (IndexError, KeyError, UnicodeDecodeError):
            raise WeightsError(f"has a pickle that is damaged at byte {self.position}") from None
        raise WeightsError(f"has a pickle with more than {_MAX_INSTRUCTIONS:,} instructions")

    def take(self, count: int) -> bytes:
        start = self.position
        if count > len(self.data) - start:
            raise WeightsError(
                f"has a pickle that wants {count} bytes at byte {start}, where it has "
                f"{len(self.data) - start}"
            )
        self.position = start + count
        return self.data[start : start + count]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + _MAX_NAME)
        if end < 0:
            raise WeightsError(f"has a pickle with an endless name at byte {self.position}")
        text = self.data[self.position : end].decode()
        self.position = end + 1
        return text

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def push_name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        found = self.names.get(full)
        if found is None:
            if not full.isprintable() or len(full) > _MAX_NAME:
                full = shown(full)
            raise WeightsError(
                f"asks for {full}, which is no part of a tensor file; nothing was executed"
            )
        self.stack.append(found)

    # The instructions.

    def protocol(self) -> None:
        version = self.number(1)
        if not 2 <= version <= 5:
            raise WeightsError(f"has a pickle of protocol {version}; torch writes 2 to 5")

    def frame(self) -> None:
        if self.number(8) > len(self.data) - self.position:
            raise WeightsError("has a pickle with a frame that goes on after its end")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        self.stack.pop()

    def pop_mark(self) -> None:
        self.since_mark()

    def make_tuple(self) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def frozen_set(self) -> None:
        self.since_mark()
        self.stack.append(INERT)

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def global_name(self) -> None:
        self.push_name(self.line(), self.line())

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise WeightsError("has a pickle with a name that is no text")
        self.push_name(module, name)

    def instance(self) -> None:
        self.push_name(self.line(), self.line())
        _refuse_instruction(ord("i"))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or function.call is None:
            raise WeightsError(f"calls {shown(function)}; nothing was executed")
        if type(arguments) is not tuple:
            raise WeightsError(f"calls {function.full} with {shown(arguments)}, not a tuple")
        self.stack.append(function.call(arguments))

    def new_object(self) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if type(made) is not Name or not made.state or arguments != ():
            raise WeightsError(f"makes an object of {shown(made)}; nothing was executed")
        self.stack.append(State())

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], State):
            self.stack[-1].named = state.named if isinstance(state, Dict) else {}
            return
        # A state would be given to the object; ours have no use for it.
        if not isinstance(self.stack[-1], (Dict, Inert)):
            raise WeightsError(f"sets the state of {shown(self.stack[-1])}; nothing was executed")

    def persistent_id(self) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def long(self) -> None:
        size = self.number(1)
        if size > _MAX_INTEGER:
            raise WeightsError(f"has a pickle with an integer of {size} bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def append(self) -> None:
        value = self.stack.pop()
        self.extend([value])

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif target is not INERT:  # a set
            raise WeightsError(f"has a pickle that appends to {shown(target)}")

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not Dict or len(values) % 2:
            raise WeightsError(f"has a pickle that sets items of {shown(target)}")
        for index in range(0, len(values), 2):
            target.add(values[index], values[index + 1])

    def last(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items


def _push(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


def _text(size: int) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.take(m.number(size)).decode())


def _old_text(size: int) -> Callable[[_Machine], None]:
    """A string of Python 2, which is bytes in any encoding or none."""
    return lambda m: m.stack.append(m.take(m.number(size)).decode("latin-1"))


def _bytes(size: int) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.take(m.number(size)))


def _integer(size: int, signed: bool = False) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(int.from_bytes(m.take(size), "little", signed=signed))


def _put(size: int) -> Callable[[_Machine], None]:
    # Any index is one entry of a dictionary: a large one takes no memory.
    return lambda m: m.memo.__setitem__(m.number(size), m.stack[-1])


def _get(size: int) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.memo[m.number(size)])


def _refuse_instruction(code: int) -> NoReturn:
    what = _REFUSED.get(code, "is none that torch writes")
    raise WeightsError(
        f"has a pickle with the instruction {bytes([code])!r}, which {what}; nothing was executed"
    )


_STOP = ord(".")

_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    ord(code): instruction
    for code, instruction in {
        "\x80": _Machine.protocol,
        "\x95": _Machine.frame,
        "(": _Machine.mark,
        "0": _Machine.pop,
        "1": _Machine.pop_mark,
        # Constants.
        "N": _push(None),
        "\x88": _push(True),
        "\x89": _push(False),
        "J": _integer(4, signed=True),
        "K": _integer(1),
        "M": _integer(2),
        "\x8a": _Machine.long,
        "G": lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
        "X": _text(4),
        "\x8c": _text(1),
        "\x8d": _text(8),
        "U": _old_text(1),
        "T": _old_text(4),
        "B": _bytes(4),
        "C": _bytes(1),
        "\x8e": _bytes(8),
        "\x96": _bytes(8),
        # Containers.
        ")": _push(()),
        "t": _Machine.make_tuple,
        "\x85": lambda m: m.stack.append(m.last(1)),
        "\x86": lambda m: m.stack.append(m.last(2)),
        "\x87": lambda m: m.stack.append(m.last(3)),
        "]": lambda m: m.stack.append([]),
        "a": _Machine.append,
        "e": lambda m: m.extend(m.since_mark()),
        "}": lambda m: m.stack.append(Dict()),
        "s": _Machine.set_item,
        "u": lambda m: m.update(m.since_mark()),
        "\x8f": _push(INERT),
        "\x90": lambda m: m.extend(m.since_mark()),
        "\x91": _Machine.frozen_set,
        # The memo.
        "q": _put(1),
        "r": _put(4),
        "\x94": _Machine.memoize,
        "h": _get(1),
        "j": _get(4),
        # Names and what is made with them.
        "c": _Machine.global_name,
        "\x93": _Machine.stack_global,
        "i": _Machine.instance,
        "R": _Machine.reduce,
        "\x81": _Machine.new_object,
        "b": _Machine.build,
        "Q": _Machine.persistent_id,
    }.items()
}

_REFUSED = {
    ord("i"): "makes an object",
    ord("o"): "makes an object",
    0x92: "makes an object",
    0x82: "asks the registry of extensions",
    0x83: "asks the registry of extensions",
    0x84: "asks the registry of extensions",
}
"""Why those that do more than data are not carried out."""
