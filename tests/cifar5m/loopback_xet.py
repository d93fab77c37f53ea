"""The storage behind the Hub that hf_xet uploads to, on loopback: it takes apart what it is sent
and keeps whole files by their sha256, as the commits name them.

A xorb is a row of compressed chunks; a shard says of each file which chunks of which xorbs it is
made of (https://huggingface.co/docs/xet: xorb, shard, api). Every entry of a shard has 48 bytes.
"""

import hashlib
import struct
import time

import numpy as np
import pyarrow as pa

TOKEN = "xet_loopback"
ENTRY = 48
END = b"\xff" * 32
WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30


def write_token(handler, name, revision):
    """Where the storage is, and the token that it takes."""
    if handler.repo(name, write=True):
        place = f"{handler.server.url}/cas"
        token = {"accessToken": TOKEN, "exp": int(time.time()) + 3600, "casUrl": place}
        handler.answer(200, token)


def store_xorb(handler, name):
    handler.server.xorbs[name] = list(chunks_of(handler.body))
    handler.answer(200, {"was_inserted": True})


def store_shard(handler):
    for data in files_of(handler.body, handler.server.xorbs):
        handler.server.objects[hashlib.sha256(data).hexdigest()] = data
    handler.answer(200, {"result": 1})


def chunks_of(xorb):
    """The bytes of each chunk: 8 bytes of header, then the chunk as it was compressed."""
    start = 0
    while start < len(xorb) and xorb[start] == 0:  # the version; a footer may follow the chunks
        packed = int.from_bytes(xorb[start + 1 : start + 4], "little")
        scheme = xorb[start + 4]
        size = int.from_bytes(xorb[start + 5 : start + 8], "little")
        start += 8 + packed
        data = xorb[start - packed : start]
        if scheme:
            data = pa.Codec("lz4").decompress(data, size, asbytes=True)
        yield ungrouped(data) if scheme == 2 else data


def ungrouped(data):
    """Bytes that were sorted by their place in words of four, in order again."""
    found, start = np.empty(len(data), np.uint8), 0
    for place in range(4):
        count = len(found[place::4])
        found[place::4] = np.frombuffer(data, np.uint8, count, start)
        start += count
    return found.tobytes()


def files_of(shard, xorbs):
    """The content of each file of a shard; KeyError where a xorb was not sent before."""
    at = ENTRY
    while (head := shard[at : at + ENTRY])[:32] != END:
        flags, count = struct.unpack_from("<II", head, 32)
        content = b""
        for _ in range(count):
            at += ENTRY
            first, last = struct.unpack_from("<II", shard, at + 40)
            content += b"".join(xorbs[hex_of(shard[at : at + 32])][first:last])
        at += ENTRY * (1 + count * bool(flags & WITH_VERIFICATION) + bool(flags & WITH_METADATA))
        yield content


def hex_of(digest):
    """A hash as paths name it: four little-endian words of eight bytes."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))
