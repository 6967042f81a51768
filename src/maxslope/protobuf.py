"""Protobuf messages from files that nobody vouches for: their fields, counted."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

Bytes = bytes | memoryview
_MOST = 1_000_000  # fields and packed integers of one file; their contents count as one each


class Fields:
    """Reads the fields of the messages of one file, and stops at more of them than a sound file has.

    Raises (reading):
        ValueError: a field that ends behind its message, of an unknown type, or one too many.
        IndexError: a message that ends in the middle of a number.

    >>> list(Fields()(bytes([0x08, 0x96, 0x01])))
    [(1, 150)]
    """

    def __init__(self, most: int = _MOST):
        self.left = most

    def __call__(self, raw: Bytes) -> Iterator[tuple[int, Any]]:
        """(number, integer or float, or the bytes of a string, a message or a packed list) for each field."""
        at = 0
        while at < len(raw):
            self._count()
            tag, at = varint(raw, at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, at = varint(raw, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value, at = struct.unpack("<d" if kind == 1 else "<f", raw[at : at + size])[0], at + size
            elif kind == 2:
                size, at = varint(raw, at)
                if at + size > len(raw):
                    raise ValueError("it ends in the middle of a field")
                value, at = raw[at : at + size], at + size
            else:
                raise ValueError(f"wire type {kind} at byte {at}")
            yield number, value

    def integers(self, value: Any) -> list[int]:
        """One integer, or a packed list of them, signed."""
        if isinstance(value, int):
            return [signed(value)]
        out, at = [], 0
        while at < len(value):
            self._count()
            number, at = varint(value, at)
            out.append(signed(number))
        return out

    def first(self, raw: Bytes, number: int) -> Any:
        """The first field of this number.

        Raises:
            ValueError: there is none.
        """
        for n, value in self(raw):
            if n == number:
                return value
        raise ValueError(f"field {number} of a message is missing")

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it has far more fields than a network")


def varint(raw: Bytes, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where it ends.

    >>> varint(bytes([0x96, 0x01]), 0)
    (150, 2)
    """
    value = 0
    for k in range(10):
        byte = raw[at + k]
        value |= (byte & 0x7F) << 7 * k
        if byte < 0x80:
            return value & (1 << 64) - 1, at + k + 1
    raise ValueError(f"a number of more than ten bytes at byte {at}")


def signed(value: int) -> int:
    """A 64-bit number with its sign.

    >>> signed((1 << 64) - 1)
    -1
    """
    return value - (1 << 64) if value >> 63 else value


def text(value: Any, errors: str = "strict") -> str:
    """The text of a field.

    Raises:
        ValueError: the field is a number, or no UTF-8.
    """
    if isinstance(value, int | float):  # bytes(n) would be n zeros
        raise ValueError(f"a number, {value}, in the place of a text")
    return bytes(value).decode(errors=errors)


def fields(raw: Bytes) -> Iterator[tuple[int, Any]]:
    """The fields of one message: (number, integer, or the bytes of a string, a message or a packed list).

    >>> list(fields(bytes([0x08, 0x96, 0x01])))
    [(1, 150)]
    """
    return Fields()(raw)
