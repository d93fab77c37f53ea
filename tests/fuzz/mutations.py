"""One fault in the files of a directory, drawn from a generator: bits, structure, the file itself.

Containers carry checksums that would hide what a program does with a wrong content. So a fault is
also put inside a zip, a gzip, a tar or a PNG, and the checksums are made to fit it.
"""

import ast
import gzip
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DEEP = "[" * 10_000 + "]" * 10_000
VALUES = [
    *(
        "null",
        "NaN",
        "-Infinity",
        "1e999",
        "-1",
        "0",
        "1e30",
        str(10**12),
        str(10**30),
        "9" * 5_000,
    ),
    *("true", "[]", "{}", '""', '"x"', '"a\\u0000\\nb"', '"\\ud800"', "[[1]]", '{"a": null}', DEEP),
    *('"/etc/passwd"', '"../../x"', '"\\u001b[2J"', '"<script>"'),
]
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40)
_NUMBERS += (0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_TYPES = ("|O", "|V0", "|V8", "<U4", "|S0", "<f8", ">i4", "<c16", "|b1", "<M8[s]", "<f2", "|u1")
_SHAPES = ("()", "(0,)", "(1,)", "(-1, 3)", "(1000000000000,)", "(99999999999999999999,)")
_SHAPES += ("(2, 2, 2, 2)", "'x'", "(True,)", "(1.5,)", "(0, 32, 32, 3)")

Random = np.random.Generator


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def damaged(value: Any, path: tuple[Any, ...], fault: str, text: str) -> str:
    """The document with a fault at a place: another value, none, another name, or twice the key."""
    if not path:
        return text if fault == "value" else json.dumps(value)
    key, *rest = path
    if isinstance(value, list):
        items = [
            damaged(inner, tuple(rest), fault, text) if index == key else json.dumps(inner)
            for index, inner in enumerate(value)
        ]
        return f"[{', '.join(items)}]"
    parts = []
    for name, inner in value.items():
        whole = f"{json.dumps(name)}: {json.dumps(inner)}"
        if name != key:
            parts.append(whole)
        elif rest or fault == "value":
            parts.append(f"{json.dumps(name)}: {damaged(inner, tuple(rest), fault, text)}")
        elif fault == "unknown":
            parts.append(f'"not\\na field": {json.dumps(inner)}')
        elif fault == "twice":
            parts += [whole, whole]
    return f"{{{', '.join(parts)}}}"


def mutate(rng: Random, folder: Path) -> str:
    """Put one fault, rarely several, into the files of a directory; return what was done."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    done = []
    for _ in range(1 if rng.random() < 0.9 else 3):
        path = files[rng.integers(len(files))]
        kind = "file" if rng.random() < 0.08 else "content"
        what = _change_file(rng, path, files) if kind == "file" else _change_content(rng, path)
        done.append(f"{path.relative_to(folder)}: {what}")
        if kind == "file":
            break
    return "; ".join(done)


def _change_file(rng: Random, path: Path, files: list[Path]) -> str:
    """Replace a file by none, or by something that is no file of its kind."""
    other = files[rng.integers(len(files))].read_bytes()
    path.unlink()
    fault = rng.choice(["missing", "empty", "directory", "loop", "dangling", "other", "fifo"])
    if fault == "empty":
        path.touch()
    elif fault == "directory":
        path.mkdir()
    elif fault == "loop":
        path.symlink_to(path.name)
    elif fault == "dangling":
        path.symlink_to("/nowhere/at/all")
    elif fault == "other":
        path.write_bytes(other)
    elif fault == "fifo":
        os.mkfifo(path)
    return str(fault)


def _change_content(rng: Random, path: Path) -> str:
    data = path.read_bytes()
    structured = _structured_of(data)
    if structured is not None and rng.random() < 0.6:
        try:
            changed, what = structured(rng, data)
        except Exception:
            changed, what = change_bytes(rng, data)  # a second fault in what is broken already
    else:
        changed, what = change_bytes(rng, data)
    path.write_bytes(changed)
    return what


def change_bytes(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Flip, overwrite, cut, insert, repeat or move some bytes."""
    size = len(data)
    if not size:
        return rng.bytes(8), "bytes"
    at = int(rng.integers(size)) if rng.random() < 0.5 else int(rng.integers(min(size, 600)))
    length = int(min(rng.integers(1, 64), size - at))
    kind = rng.choice(["flip", "number", "cut", "drop", "insert", "repeat", "zero", "text"])
    before, after = data[:at], data[at + length :]
    if kind == "flip":
        flipped = data[at] ^ (1 << int(rng.integers(8)))
        return before + bytes([flipped]) + data[at + 1 :], f"flip at {at}"
    if kind == "number":
        number, width = _NUMBERS[rng.integers(len(_NUMBERS))], int(rng.choice([1, 2, 4, 8]))
        order = "little" if rng.random() < 0.6 else "big"
        value = (number & ((1 << 8 * width) - 1)).to_bytes(width, order)
        return before + value + data[at + width :], f"number {number:#x} at {at}"
    if kind == "cut":
        return before, f"cut at {at}"
    if kind == "drop":
        return before + after, f"drop {length} at {at}"
    if kind == "insert":
        return before + rng.bytes(length) + data[at:], f"insert {length} at {at}"
    if kind == "repeat":
        return before + data[at : at + length] * 3 + after, f"repeat {length} at {at}"
    if kind == "zero":
        return before + bytes(length) + after, f"zero {length} at {at}"
    return before + b"-9.5e9 \xff\n" + data[at:], f"text at {at}"


def _structured_of(data: bytes) -> Callable[[Random, bytes], tuple[bytes, str]] | None:
    if data[:4] == b"PK\x03\x04":
        return _in_zip
    if data[:2] == b"\x1f\x8b":
        return _in_gzip
    if data[:6] == b"\x93NUMPY":
        return _in_npy
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _in_png
    if data[257:262] == b"ustar":
        return _in_tar
    if data[:1] in (b"{", b"["):
        return _in_json
    if data[8:9] == b"{" and len(data) > 16:
        return _in_safetensors
    return None


def _inner(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A fault inside a container's member, by the member's own structure if it has one."""
    structured = _structured_of(data)
    return (structured or change_bytes)(rng, data)


def _in_zip(rng: Random, data: bytes) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    number = int(rng.integers(len(members)))
    fault = rng.choice(["content", "content", "content", "name", "missing", "twice", "bomb"])
    what = f"{fault} of {members[number][0].filename}"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for k, (info, content) in enumerate(members):
            name, method, repeats = info.filename, info.compress_type, 1
            if k == number and fault == "content":
                content, inner = _inner(rng, content)
                what += f", {inner}"
            elif k == number and fault == "name":
                name = ["../x.npy", "a\x00b", "X", "é" * 50, "/etc/x"][rng.integers(5)]
            elif k == number and fault == "bomb":
                content, method = content + bytes(1 << 24), zipfile.ZIP_DEFLATED
            repeats = {"missing": 0, "twice": 2}.get(str(fault), 1) if k == number else 1
            for _ in range(repeats):
                one = zipfile.ZipInfo(name.replace("\x00", "?"))
                one.compress_type = method
                archive.writestr(one, content)
    return stream.getvalue(), what


def _in_gzip(rng: Random, data: bytes) -> tuple[bytes, str]:
    content, what = _inner(rng, gzip.decompress(data))
    return gzip.compress(content, 1), f"inside gzip, {what}"


def _in_npy(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Another type, order or shape in the header of an array; its bytes stay."""
    length = int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10 : 10 + length].decode("latin1"))
    fault = rng.choice(["descr", "fortran_order", "shape", "text"])
    shape = str(header["shape"])
    if fault == "descr":
        header["descr"] = _TYPES[rng.integers(len(_TYPES))]
    elif fault == "fortran_order":
        header["fortran_order"] = True
    elif fault == "shape":
        shape = _SHAPES[rng.integers(len(_SHAPES))]
    text = (
        f"{{'descr': {header['descr']!r}, 'fortran_order': {header['fortran_order']}, "
        f"'shape': {shape}, }}"
    )
    if fault == "text":
        text = ["{", "", "__import__('os')", "{'descr': 1}", "(" * 3000, "[]"][rng.integers(6)]
    padded = text.encode().ljust(length - 1) + b"\n"
    size = len(padded).to_bytes(2, "little")
    return data[:8] + size + padded + data[10 + length :], f"npy {fault} {header['descr']} {shape}"


def _in_png(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A fault in a chunk, whose CRC fits it."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = int(rng.integers(len(chunks)))
    name, content = chunks[number]
    if name == b"IHDR" and rng.random() < 0.6:  # sizes, depth and color type
        values = list(struct.unpack(">IIBBBBB", content))
        field = int(rng.integers(7))
        values[field] = int(rng.choice([0, 1, 2, 3, 6, 16, 255, 20_000])) & (
            255 if field > 1 else -1
        )
        content, what = struct.pack(">IIBBBBB", *values), f"IHDR {values}"
    elif name == b"IDAT" and rng.random() < 0.3:
        content, what = zlib.compress(bytes(1 << 24)), "IDAT bomb"
    else:
        content, what = change_bytes(rng, content)
    chunks[number] = (name, content)
    out = data[:8]
    for name, content in chunks:
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        out += len(content).to_bytes(4, "big") + name + content + crc
    return out, f"png {what}"


def _in_tar(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A fault in a header, whose checksum fits it, or in a member."""
    starts, at = [], 0
    while at + 512 <= len(data) and data[at : at + 512].strip(b"\0"):
        starts.append(at)
        at += 512 + -(-int(data[at + 124 : at + 135].strip(b" \0") or b"0", 8) // 512) * 512
    at = starts[rng.integers(len(starts))]
    header = bytearray(data[at : at + 512])
    fault = rng.choice(["name", "size", "type", "prefix", "member"])
    if fault == "member":
        size = int(header[124:135].strip(b" \0") or b"0", 8)
        inner, what = _inner(rng, data[at + 512 : at + 512 + size])
        inner = inner[:size].ljust(size, b"\0")
        return data[: at + 512] + inner + data[at + 512 + size :], f"tar member at {at}, {what}"
    if fault == "name":
        names = [
            b"../../evil.png",
            b"/abs.png",
            b"",
            b"\xff\xfe.png",
            b"a\nb.cls",
            b"000000001.cls",
        ]
        header[:100] = names[rng.integers(len(names))].ljust(100, b"\0")
    elif fault == "size":
        sizes = [b"77777777777", b"00000000000", b"-0000000001", b"xyz", b"\x80" + b"\xff" * 10]
        header[124:136] = sizes[rng.integers(len(sizes))].ljust(12, b"\0")
    elif fault == "type":
        header[156:157] = bytes([int(rng.choice(list(b"12356xgLK\xffS")))])
    else:
        header[345:500] = (b"../" * 20).ljust(155, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :], f"tar {fault} at {at}"


def _in_json(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Another value, none, another name, or twice the key, in a document or one of its lines."""
    lines = data.decode().splitlines()
    number = 0
    try:
        value = json.loads(data)
    except ValueError:
        number = int(rng.integers(len(lines)))
        value = json.loads(lines[number])
    paths = list(places(value))
    path = paths[rng.integers(len(paths))]
    fault = str(rng.choice(["value", "value", "missing", "unknown", "twice"]))
    inserted = VALUES[rng.integers(len(VALUES))]
    text = damaged(value, path, fault, inserted)
    if len(lines) > 1 and number:
        text = "\n".join([*lines[:number], text, *lines[number + 1 :]])
    return (text + "\n").encode(), f"json {fault} at {'.'.join(map(str, path))}: {inserted[:20]}"


def _in_safetensors(rng: Random, data: bytes) -> tuple[bytes, str]:
    length = int.from_bytes(data[:8], "little")
    header, what = _in_json(rng, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :], f"safetensors {what}"
