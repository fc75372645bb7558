"""Content that is damaged at random: bytes, JSON, PNGs whose checksums stay right."""

import json
import struct
import zlib
from copy import deepcopy

NUMBERS = (-1, 0, 1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (*NUMBERS, 2**63 - 1, 2**64 - 1, 10**30)
WORDS = (
    "",
    " ",
    "none",
    "../a",
    "\n",
    "\x00",
    "\x1b[31m",
    "\u200b",
    "\ud800",
    "9" * 5000,
)
VALUES = (*NUMBERS, *WORDS, None, True, 0.5, 1e308, float("nan"), float("-inf"), [], {})


def damaged(content, draw):
    """Bytes with one to four changes: of a bit, a number, a length or an order."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        last = min(last, first + draw.choice((1, 2, 4, 8, 100, len(content))))
        kind = draw.randrange(6)
        if kind == 0 and first < last:
            content[first] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[first:last] = draw.randbytes(last - first)
        elif kind == 2:
            number, size = draw.choice(NUMBERS), draw.choice((1, 2, 4, 8))
            order = draw.choice(("little", "big"))
            number %= 256**size
            content[first : first + size] = number.to_bytes(size, order)
        elif kind == 3:
            del content[first:last]
        elif kind == 4:
            content[first:first] = content[first:last] * draw.choice((1, 2, 50))
        else:
            del content[first + draw.randrange(len(content) - first + 1) :]
    return bytes(content)


def damaged_json(content, draw):
    """A file of JSON with other values or names in it, or with other bytes."""
    if draw.random() < 0.3:
        return damaged(content, draw)
    text = json.dumps(_other_tree(json.loads(content), draw))
    if draw.random() < 0.1:
        depth = draw.choice((1, 10, 100_000))
        text = "[" * depth + text + "]" * depth
    return text.encode()


def _other_tree(tree, draw):
    """A tree of JSON in which one to three values or names are others."""
    for _ in range(draw.randint(1, 3)):
        places = [*_places(tree)]
        if not places:
            return draw.choice(VALUES)
        inside, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind == 0:
            del inside[key]
        elif kind == 1 and isinstance(inside, dict):
            inside[draw.choice(WORDS)] = inside.pop(key)
        elif kind == 2:
            other, name = draw.choice(places)
            inside[key] = deepcopy(other[name])
        elif kind == 3:
            inside[key] = [inside[key]] * draw.choice((0, 1, 3, 1000))
        elif kind == 4 and type(inside[key]) in (int, float):
            inside[key] *= draw.choice((-1, 0.5, 2, 1000, 10**9))
        else:
            inside[key] = draw.choice(VALUES)
    return tree


def _places(tree):
    """All values in a tree, each as what it is in and its key there."""
    if isinstance(tree, dict | list):
        for key in [*tree] if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def damaged_network(content, draw):
    """A safetensors file with other metadata, another header, or other bytes."""
    (size,) = struct.unpack("<Q", content[:8])
    header, numbers = content[8:][:size], content[8 + size :]
    kind = draw.randrange(3)
    if kind == 0:
        return damaged(content, draw)
    if kind == 1:
        header = damaged_json(header, draw)
    else:
        tree = json.loads(header)
        (key,) = tree["__metadata__"]
        told = damaged_json(tree["__metadata__"][key].encode(), draw)
        tree["__metadata__"][key] = told.decode("latin1")
        header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + numbers


def damaged_png(content, draw):
    """A picture with other bytes; the checksums of a PNG may be right all the same."""
    if content[:4] != b"\x89PNG" or draw.random() < 0.3:
        return damaged(content, draw)
    chunks, first = [], 8
    while first < len(content):
        (size,) = struct.unpack(">I", content[first : first + 4])
        chunks.append((content[first + 4 :][:4], content[first + 8 :][:size]))
        first += 12 + size
    place = draw.randrange(len(chunks))
    name, body = chunks[place]
    if name == b"IDAT" and draw.random() < 0.5:
        body = zlib.compress(damaged(zlib.decompress(body), draw))
    else:
        body = damaged(body, draw)
    kind = draw.randrange(8)
    if kind == 0:
        del chunks[place]
    elif kind == 1:
        chunks.insert(draw.randrange(len(chunks)), (name, body))
    else:
        chunks[place] = (name, body)
    return content[:8] + b"".join(
        struct.pack(">I", len(body))
        + name
        + body
        + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
