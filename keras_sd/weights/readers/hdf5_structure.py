"""What an HDF5 file is made of: headers of objects, trees, heaps; read within a bound.

Nothing here knows what a group or a dataset is. `hdf5` does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_sd.weights.readers import WeightsError

NOWHERE = 2**64 - 1
"""The address of what is not there."""

MAX_STRUCTURE = 32 * 2**20
"""Bytes that are read of all but the numbers. A full SD UNet in layers of Keras takes 2 million."""

STEP = 64
"""Bytes that any step counts as, at the least: what it takes is time."""

_CONTINUATION = 0x10
"""The type of the message that says where a header goes on."""


@dataclass(frozen=True, slots=True)
class Message:
    """One thing that the header of an object says; `start` is where its body is in the file."""

    kind: int
    shared: bool
    start: int
    body: bytes


class Structure:
    """The bytes of an HDF5 file, and how much of them may still be looked at."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.size = len(data)
        self.left = MAX_STRUCTURE
        self.seen: set[int] = set()
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}

    # Bytes of the file, within bounds.

    def spend(self, count: int) -> None:
        self.left -= max(count, STEP)
        if self.left < 0:
            raise WeightsError(f"says more than {MAX_STRUCTURE} bytes of itself")

    def at(self, address: int, count: int) -> bytes:
        if address + count > self.size:
            raise WeightsError(
                f"is damaged: it has {self.size} bytes and refers to byte {address + count}"
            )
        self.spend(count)
        return bytes(self.data[address : address + count])

    def once(self, address: int, what: str) -> None:
        """Nothing is to be found twice: it would be a loop, or a way to make much of little."""
        if address in self.seen:
            raise WeightsError(f"is damaged: the {what} at byte {address} is in two places")
        self.seen.add(address)

    def signed(self, address: int, count: int, signature: bytes, version: int) -> bytes:
        found = self.at(address, count)
        if not found.startswith(signature) or found[4] != version:
            raise WeightsError(
                f"is damaged: there is no {signature.decode()} of version {version} at {address}"
            )
        return found

    # Headers of objects.

    def header(self, address: int) -> list[Message]:
        start = self.at(address, 6)
        if start[:4] == b"OHDR":
            return self.new_header(address, start)
        if start[0] != 1:
            raise WeightsError(f"is damaged: there is no object at byte {address}")
        (size,) = struct.unpack("<L", self.at(address + 8, 4))
        return self.messages([(address + 16, size)], "<HHB3x", b"")

    def new_header(self, address: int, start: bytes) -> list[Message]:
        version, flags = start[4:]
        if version != 2:
            raise WeightsError(f"has an object of version {version}")
        place = address + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
        width = 1 << (flags & 3)
        size = int.from_bytes(self.at(place, width), "little")
        layout = "<BHB2x" if flags & 4 else "<BHB"
        return self.messages([(place + width, size)], layout, b"OCHK")

    def messages(
        self, blocks: list[tuple[int, int]], layout: str, signature: bytes
    ) -> list[Message]:
        """What the header of an object says, in the blocks that it is in."""
        found = []
        head = struct.calcsize(layout)
        first = True
        while blocks:
            start, size = blocks.pop()
            block = self.at(start, size)
            place, end = 0, size
            if signature and not first:  # these have a signature before and a checksum after
                place, end = 4, size - 4
                if not block.startswith(signature):
                    raise WeightsError(f"is damaged: an object does not go on at byte {start}")
            first = False
            while place + head <= end:
                kind, length, flags = struct.unpack_from(layout, block, place)
                place += head
                body = block[place : place + length]
                if place + length > end:
                    raise WeightsError(f"is damaged: an object ends before byte {start + place}")
                self.spend(STEP)
                if kind == _CONTINUATION:
                    following = struct.unpack_from("<2Q", body)
                    self.once(following[0], "part of an object")
                    blocks.append(following)
                elif kind:
                    found.append(Message(kind, bool(flags & 2), start + place, body))
                place += length
        return found

    # Trees and heaps.

    def tree(self, address: int, kind: int, key_size: int) -> Iterator[tuple[int, bytes]]:
        """What a tree (version 1) leads to: addresses, and the key before each."""
        stack: list[tuple[int, int | None]] = [(address, None)]
        while stack:
            node, expected = stack.pop()
            self.once(node, "tree")
            head = self.at(node, 24)
            found, level, count = struct.unpack_from("<2BH", head, 4)
            if head[:4] != b"TREE" or found != kind or expected not in (None, level):
                raise WeightsError(f"is damaged: there is no part of a tree at byte {node}")
            entries = self.at(node + 24, count * (key_size + 8))
            children = []
            for index in range(count):
                self.spend(STEP)
                place = index * (key_size + 8)
                (child,) = struct.unpack_from("<Q", entries, place + key_size)
                children.append((child, entries[place : place + key_size]))
            if level == 0:
                yield from children
            else:
                stack += [(child, level - 1) for child, _ in reversed(children)]

    def records(self, address: int, kind: int) -> Iterator[bytes]:
        """The records of a tree of the later form (version 2)."""
        head = self.signed(address, 34, b"BTHD", 0)
        found, node_size, size, depth, root, count = struct.unpack_from("<BLHH2xQH", head, 5)
        if found != kind or depth > 8 or size < 11 or not size <= node_size <= 2**20:
            raise WeightsError(f"is damaged: there is no tree of links at byte {address}")
        # Numbers of records are as many bytes long as the largest needs.
        most = (node_size - 10) // size
        width = _width(most)
        totals = [0]
        for _ in range(depth):
            inner = (node_size - 10 - 8 - width - totals[-1]) // (size + 8 + width + totals[-1])
            most = (inner + 1) * most + inner
            totals.append(_width(most))
        stack = [(root, count, depth)]
        while stack:
            node, count, level = stack.pop()
            if root == NOWHERE or (not count and level == 0):
                continue
            self.once(node, "tree")
            body = self.signed(node, 6 + count * size, b"BTIN" if level else b"BTLF", 0)
            for index in range(count):
                self.spend(STEP)
                yield body[6 + index * size : 6 + (index + 1) * size]
            if level:
                step = 8 + width + totals[level - 1]
                pointers = self.at(node + 6 + count * size, (count + 1) * step)
                for place in range(0, len(pointers), step):
                    (child,) = struct.unpack_from("<Q", pointers, place)
                    inside = int.from_bytes(pointers[place + 8 : place + 8 + width], "little")
                    stack.append((child, inside, level - 1))

    def long_text(self, reference: bytes) -> bytes:
        """A text that is not in the attribute, but in a collection of such."""
        length, address, index = struct.unpack("<LQL", reference)
        if length == 0:
            return b""
        if address not in self.heaps:
            head = self.signed(address, 16, b"GCOL", 1)
            end = address + struct.unpack_from("<Q", head, 8)[0]
            place = address + 16
            objects: dict[int, tuple[int, int]] = {}
            while place + 16 <= end:
                number, size = struct.unpack("<H6xQ", self.at(place, 16))
                if number == 0:
                    break
                objects[number] = (place + 16, size)
                place += 16 + -(-size // 8) * 8
            self.heaps[address] = objects
        start, size = self.heaps[address].get(index, (0, 0))
        if length > size:
            raise WeightsError("is damaged: a text of an attribute is not there")
        return self.at(start, length)

    def heap_object(self, address: int, identity: bytes) -> bytes:
        """An object of a heap of the later form, where links and attributes are kept."""
        head = self.signed(address, 142, b"FRHP", 0)
        filters, _, largest = struct.unpack_from("<HBL", head, 7)
        width, start, most, bits, _, block, rows = struct.unpack_from("<H2Q2HQH", head, 110)
        if filters or not 0 < bits <= 64 or not width or not 0 < start <= most:
            raise WeightsError("has names or attributes that are compressed or damaged")
        if start & (start - 1) or most & (most - 1) or width & (width - 1) or most >= 2**40:
            raise WeightsError(f"is damaged: the heap at byte {address} is none")
        if identity[0] & 0xF0:
            raise WeightsError("has a name or an attribute that is too long to be read")
        split = 1 + (bits + 7) // 8
        offset = int.from_bytes(identity[1:split], "little")
        length_end = split + min(_width(most), _width(largest))
        length = int.from_bytes(identity[split:length_end], "little")
        size = start
        if rows:
            block, offset, size = self.heap_block(block, rows, offset, width, start, most, bits)
        if offset + length > size:
            raise WeightsError(f"is damaged: an object of the heap at byte {address} is not in it")
        return self.at(block + offset, length)

    def heap_block(
        self, block: int, rows: int, offset: int, width: int, start: int, most: int, bits: int
    ) -> tuple[int, int, int]:
        """The block with an offset of a heap, the offset in it, and its size.

        A block of blocks has rows of `width`: two rows of the smallest size, then each row twice as
        large as the one before. Those larger than `most` are blocks of blocks again.
        """
        for _ in range(bits):
            head = 13 + (bits + 7) // 8
            self.signed(block, head, b"FHIB", 0)
            row, size, before = 0, start, 0
            while offset >= before + width * size:
                before += width * size
                size *= 2 if row else 1
                row += 1
            if row >= rows:
                raise WeightsError("is damaged: a heap ends before an object that is in it")
            column, offset = divmod(offset - before, size)
            (block,) = struct.unpack("<Q", self.at(block + head + 8 * (row * width + column), 8))
            if size <= most:
                return block, offset, size
            rows = (size // (start * width)).bit_length()
        raise WeightsError("is damaged: a heap has no end")


def _width(number: int) -> int:
    """Bytes that HDF5 takes for numbers up to this one."""
    return max(number.bit_length() - 1, 0) // 8 + 1
