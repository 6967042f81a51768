"""Files from outside: what a file really is, and judging it before any of it is trusted."""

from __future__ import annotations

import difflib
import gzip
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, NoReturn

from maxslope.errors import InputError

LIMIT_BYTES = 16 << 30
# what zipfile raises on damaged archives
ZIP_ERRORS = (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, struct.error, zlib.error)
_DIRECTORY_LIMIT = 4 << 20  # a zip directory of 4 MiB holds some 40,000 members


_SHORT = (int, float, bool, type(None))


def shorten(value: object, limit: int = 120) -> str:
    """The `repr` of something from outside, cut to about `limit` characters: a message stays one.

    >>> shorten("a" * 1000, 8)
    "'aaa ..."
    >>> shorten(list(range(1000)))
    'a list of 1000 items'
    """
    # what is large, or holds one thing many times over, must not be spelled out before it is cut
    if isinstance(value, str | bytes):
        value = value[:limit]
    elif isinstance(value, dict | set) or (
        isinstance(value, list | tuple) and (len(value) > limit or any(type(v) not in _SHORT for v in value))
    ):
        return f"a {type(value).__name__} of {len(value)} items"
    spelled = repr(value)
    return spelled if len(spelled) <= limit else spelled[: limit - 4] + " ..."


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the entries of `known` closest to `name`, or an empty string.

    >>> nearest("digit_cnn", ["digits_cnn", "two_moons_relu"])
    "; did you mean 'digits_cnn'?"
    """
    close = difflib.get_close_matches(name[:200], [k[:200] for k in known[:5000]], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def human(count: int) -> str:
    """A number of bytes for a person.

    >>> human(16 << 30), human(1536), human(12)
    ('16 GiB', '1.5 KiB', '12 bytes')
    """
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.4g} {units[0]}"


def existing(path: str | os.PathLike[str], what: str, *, folder: bool = False) -> Path:
    """The path of a regular file that can be read (with `folder=True` a folder will do as well).

    Args:
        path: as the caller typed it; `~` is expanded.
        what: what was expected there, for the message, e.g. "a weights file".

    Raises:
        InputError: nothing there (the nearest names in that folder are suggested), a folder, a device, no
            permission.
    """
    typed = os.fspath(path)
    try:
        found = Path(typed).expanduser()
        if found.is_dir():
            if folder:
                return found
            inside = sorted(e.name for e in found.iterdir())[:5]
            hint = f"it contains {', '.join(map(repr, inside))}" if inside else "it is empty"
            raise InputError(f"{typed!r} is a folder, not {what} ({hint}): give the path of the file itself")
        if not found.exists():
            parent = found.parent
            if not parent.is_dir():
                raise InputError(
                    f"{shorten(typed)} does not exist: there is no folder {shorten(str(parent))}"
                )
            hint = nearest(found.name, sorted(e.name for e in parent.iterdir()))
            raise InputError(
                f"{shorten(typed)} does not exist in {str(parent.resolve())!r}{hint or ': check the path'}"
            )
        if not found.is_file():
            raise InputError(f"{typed!r} is a device, a pipe or a socket: give the path of {what}")
        with found.open("rb"):
            pass
    except (OSError, RuntimeError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        why = getattr(e, "strerror", None) or e
        raise InputError(f"{shorten(typed)} cannot be read ({why}): give the path of {what}") from e
    return found


_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"(\xb5/\xfd", "a zstd file"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (b"\x93NUMPY", "a single numpy array (.npy)"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF-", "a PDF document"),
    (b"\x7fELF", "a program (ELF)"),
    (b"#!", "a script"),
)
_REMEDY = {
    "an HTML page": "the download returned a web page; fetch the file itself (on GitHub, the raw link)",
    "an XML document": "the download returned an error document; fetch the file itself",
    "a git-lfs pointer": "run 'git lfs pull' in that repository to fetch the file itself",
    "an empty file": "fetch or save it again",
    "a file of zero bytes": "the copy or download was cut off; fetch it again",
    "a gzip file": "unpack it first with gunzip",
    "a tar archive": "unpack it first with tar",
}


def sniff(head: bytes) -> str:
    """What the first bytes of a file say it is, in words.

    >>> sniff(b"<!DOCTYPE html><html>"), sniff(b"version https://git-lfs.github.com/spec/v1")
    ('an HTML page', 'a git-lfs pointer')
    """
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "a file of zero bytes"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<error", b"<!doctype")):
        return "an XML document"
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:1] == b"\x80" and len(head) > 1 and 1 <= head[1] <= 5:
        return "a pickle"
    if len(head) > 8 and struct.unpack("<Q", head[:8])[0] < 1 << 32 and head[8:9] == b"{":
        return "a safetensors file"
    if re.match(rb"\s*(import |from \w|def \w|class \w|\"\"\")", head):
        return "Python source"
    if all(c >= 32 or c in b"\t\n\r\f\x1b" for c in head):
        return "a text file"
    return "a binary file of unknown kind"


def refuse(path: object, head: bytes, what: str, remedy: str) -> NoReturn:
    """Say what a file is instead of `what`; `remedy` is for the kinds of file that have none of their own.

    Raises:
        InputError: always.
    """
    kind = sniff(head)
    raise InputError(f"{str(path)!r} is {kind}, not {what}: {_REMEDY.get(kind, remedy)}")


def head_of(path: Path) -> bytes:
    """The first bytes of a file, enough for `sniff`."""
    with path.open("rb") as f:
        return f.read(1024)


def read_whole(path: str | os.PathLike[str], what: str, *, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """All bytes of a file, unpacked where gzip packed them, after judging their number.

    Raises:
        InputError: no file to read, one of more than `limit_bytes`, or a gzip file that is damaged or inflates out of proportion.
    """
    typed, found = os.fspath(path), existing(path, what)
    stored = found.stat().st_size
    if stored > limit_bytes:
        raise InputError(f"{typed!r} has {human(stored)}, over the limit of {human(limit_bytes)} for {what}")
    if sniff(head_of(found)) != "a gzip file":
        return found.read_bytes()
    whole = bytearray()
    try:
        with gzip.open(found) as f:
            while piece := f.read(1 << 20):
                whole += piece
                plausible(len(whole), stored, f"{typed!r}", limit_bytes=limit_bytes)
    except (EOFError, OSError, zlib.error) as e:
        raise InputError(f"{typed!r} is a damaged gzip file ({e}), not {what}: fetch it again") from e
    return bytes(whole)


def plausible(declared: int, stored: int, what: str, *, limit_bytes: int = LIMIT_BYTES) -> None:
    """Refuse what would inflate out of proportion: over `limit_bytes`, or large and over 200-fold.

    Raises:
        InputError: naming both sizes.

    >>> plausible(4000, 4, "member 'y.npy'")  # small arrays may well be all zeros
    """
    if declared > limit_bytes:
        raise InputError(
            f"{what} declares {human(declared)}, over the limit of {human(limit_bytes)}: "
            f"pass a larger limit_bytes if that is meant"
        )
    if declared > 64 << 20 and declared > 200 * stored:
        raise InputError(
            f"{what} declares {human(declared)} in {human(stored)} of compressed data (a decompression "
            f"bomb): refused; store it uncompressed if it is real"
        )


def open_zip(file: BinaryIO, typed: str, what: str, *, limit_bytes: int = LIMIT_BYTES) -> zipfile.ZipFile:
    """Open a zip archive after judging its directory alone: names, repetitions, overlaps, declared sizes.

    Nothing is inflated and nothing is extracted.

    Raises:
        InputError: a damaged archive, a name that leads outside, a name twice, an encrypted or overlapping
            member, or more than `limit_bytes` declared.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 98))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise InputError(f"{typed!r} is a truncated zip archive, not {what} (no directory): fetch it again")
    directory = struct.unpack("<I", tail[end + 12 : end + 16])[0]
    if end >= 76 and tail[end - 20 : end - 16] == b"PK\x06\x07":  # zip64: the true size stands before
        directory = struct.unpack("<Q", tail[end - 36 : end - 28])[0]
    if directory > _DIRECTORY_LIMIT:
        raise InputError(
            f"{typed!r} has a zip directory over {human(_DIRECTORY_LIMIT)}: {what} has far fewer members"
        )
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as e:
        raise InputError(f"{typed!r} is a damaged zip archive ({e}), not {what}: fetch it again") from e
    seen: set[str] = set()
    last = 0
    for m in sorted(archive.infolist(), key=lambda m: m.header_offset):
        # as it stands in the file: ZipFile has cut m.filename at a NUL
        name = m.orig_filename
        if re.match(r"[/\\]|[A-Za-z]:", name) or "\0" in name or ".." in re.split(r"[/\\]", name):
            raise InputError(
                f"{typed!r} has a member named {shorten(name)}, which leads outside the archive: nothing "
                f"was read or written; get {what} from a source you trust"
            )
        if name in seen:
            raise InputError(
                f"{typed!r} has two members named {shorten(name)}, so it is ambiguous: save it again"
            )
        seen.add(name)
        if m.flag_bits & 1:
            raise InputError(f"{typed!r} has an encrypted member {shorten(name)}: save it without a password")
        if m.header_offset < last:
            raise InputError(
                f"{typed!r} has members that overlap at {shorten(name)} (a zip bomb): not {what}"
            )
        last = m.header_offset + 30 + m.compress_size
    total = sum(m.file_size for m in archive.infolist())
    if total > limit_bytes:
        raise InputError(
            f"{typed!r} declares {human(total)} of contents, over the limit of {human(limit_bytes)}: "
            f"pass a larger limit_bytes if that is meant"
        )
    return archive
