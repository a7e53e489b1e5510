"""Zip archives as torch writes them: which bytes of the file each entry is. Nothing is unpacked."""

from __future__ import annotations

import struct

import numpy as np

from keras_sd.weights.readers import MAX_TENSORS, WeightsError
from keras_sd.weights.readers.pickles import shown

_MAX_DIRECTORY = 32 * 2**20
_MAX_ENTRY_NAME = 500

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")


def entries_of(data: np.ndarray) -> dict[str, tuple[int, int, int]]:
    """First byte, byte after the last, and checksum of each entry of a zip archive.

    Two readers of one archive can disagree on what is in it, where its parts contradict each other.
    Here all of them must say the same.
    """
    count, directory, directory_end = _directory(data)
    if count > MAX_TENSORS or directory_end - directory > _MAX_DIRECTORY:
        raise WeightsError(
            f"is a zip archive that would have {count} entries in a directory of "
            f"{directory_end - directory} bytes"
        )
    central = bytes(data[directory:directory_end])
    entries: dict[str, tuple[int, int, int]] = {}
    taken: list[tuple[int, int, str]] = []
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(central):
            raise WeightsError("is a zip archive whose directory ends too early")
        fields = _CENTRAL.unpack_from(central, position)
        signature, _, _, flags, method, _, _, checksum, stored, size = fields[:10]
        name_size, extra_size, comment_size, disk, _, _, header = fields[10:]
        position += _CENTRAL.size
        tail = position + name_size + extra_size + comment_size
        if signature != b"PK\x01\x02" or tail > len(central) or name_size > _MAX_ENTRY_NAME:
            raise WeightsError("is a zip archive whose directory is damaged")
        raw = central[position : position + name_size]
        extra = central[position + name_size : position + name_size + extra_size]
        position = tail
        name = _entry_name(raw)
        if name in entries:
            raise WeightsError(f"is a zip archive that has {shown(name)} twice")
        size, stored, header = _long(extra, [size, stored, header])
        if flags & 0x2041 or disk not in (0, 0xFFFF):
            raise WeightsError(f"is a zip archive whose entry {shown(name)} is encrypted or apart")
        if method != 0 or stored != size:
            raise WeightsError(
                f"is a zip archive whose entry {shown(name)} is compressed; torch.save never does"
            )

        if header + _LOCAL.size > directory:
            raise WeightsError(f"is a zip archive whose entry {shown(name)} is not in the file")
        local = _LOCAL.unpack(bytes(data[header : header + _LOCAL.size]))
        start = header + _LOCAL.size + local[9] + local[10]
        stop = start + size
        if local[0] != b"PK\x03\x04" or stop > directory:
            raise WeightsError(f"is a zip archive whose entry {shown(name)} is not in the file")
        place = header + _LOCAL.size
        # With flag 8 the sizes are said after the data; before it may be 0.
        said = {size, 0xFFFFFFFF, *((0,) if local[2] & 8 else ())}
        if (
            bytes(data[place : place + local[9]]) != raw
            or local[3] != 0
            or local[7] not in said
            or local[8] not in said
        ):
            raise WeightsError(
                f"is a zip archive whose entry {shown(name)} is another one in its own header"
            )
        entries[name] = (start, stop, checksum)
        taken.append((header, stop, name))
    if position != len(central):
        raise WeightsError("is a zip archive with more in its directory than its entries")
    end = 0
    for header, stop, name in sorted(taken):
        if header < end:
            raise WeightsError(f"is a zip archive whose entry {shown(name)} overlaps another")
        end = stop
    return entries


def _directory(data: np.ndarray) -> tuple[int, int, int]:
    """Number of entries, first byte of the directory and byte after its last."""
    tail_start = max(0, len(data) - _END.size - 0xFFFF)
    tail = bytes(data[tail_start:])
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + _END.size > len(tail):
        raise WeightsError("is no whole zip archive: it has no directory at its end")
    _, disk, disk_start, here, count, size, start, comment = _END.unpack_from(tail, found)
    if found + _END.size + comment != len(tail):
        raise WeightsError("is a zip archive with bytes after its end")
    stop = tail_start + found
    place = stop - _LOCATOR_64.size
    if place >= 0 and bytes(data[place : place + 4]) == b"PK\x06\x07":
        _, disk_64, end_64, disks = _LOCATOR_64.unpack(bytes(data[place:stop]))
        stop = end_64
        if end_64 + _END_64.size > place:
            raise WeightsError("is a zip archive whose directory is not in the file")
        record = _END_64.unpack(bytes(data[end_64 : end_64 + _END_64.size]))
        long = record[6:]
        agree = all(
            short in (value, limit)
            for short, value, limit in zip(
                (here, count, size, start),
                long,
                (0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1),
                strict=True,
            )
        )
        if record[0] != b"PK\x06\x06" or not agree or disk_64 or disks != 1 or any(record[4:6]):
            raise WeightsError("is a zip archive with two directories that contradict each other")
        here, count, size, start = long
    elif disk or disk_start:
        raise WeightsError("is one part of a zip archive")
    if here != count or start + size != stop:
        raise WeightsError("is a zip archive whose directory is not in the file")
    return count, start, stop


def _long(extra: bytes, values: list[int]) -> list[int]:
    """The sizes and the position of an entry; where 32 bits are too few, they are in `extra`."""
    if 0xFFFFFFFF not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + size]
        position += 4 + size
        if kind == 1:
            wanted = [index for index, value in enumerate(values) if value == 0xFFFFFFFF]
            if len(body) < 8 * len(wanted):
                break
            values = list(values)
            for index, place in enumerate(wanted):
                values[place] = int.from_bytes(body[8 * index : 8 * index + 8], "little")
            return values
    raise WeightsError("is a zip archive with an entry whose size is not said")


def _entry_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise WeightsError("is a zip archive with a name that is no text") from None
    # They are only ever looked up here; but torch writes none of these.
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise WeightsError(f"is a zip archive with an entry {shown(name)}, which leaves it")
    return name
