"""One Triton kernel makes a block of batches: which samples, their crops and flips, their pixels in
the range asked for, and their labels.

A program makes one small image, or a part of a large one. A thread makes eight values that are
neighbors in memory, so that they are written at once, and the arithmetic of their row is done once.
The kernel draws its own Philox words: a launch needs no more than where the block begins.

`fill` is held equal to `worlds.loaders.blocks.fill_plain` by tests/worlds/loaders/test_cuda.py.
"""

import math
from typing import Final

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]

from worlds.loaders.augment import SCALE, Augment
from worlds.loaders.blocks import Block

_VECTOR: Final = 8  # values of a thread: 16 bytes in half precision
_GROUPS: Final = 64  # threads of a program, two warps
_TURNS: Final = 6  # vectors that a thread makes: 6 * 64 * 8 values are an image of 32 x 32


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Return ten rounds on uint32; products and key schedule wrap."""
    m0 = tl.full((), 0xD2511F53, tl.uint32)
    m1 = tl.full((), 0xCD9E8D57, tl.uint32)
    w0 = tl.full((), 0x9E3779B9, tl.uint32)
    w1 = tl.full((), 0xBB67AE85, tl.uint32)
    for _ in tl.static_range(10):
        a, b = c0, c2
        c0 = tl.umulhi(b, m1) ^ c1 ^ k0
        c1 = b * m1
        c2 = tl.umulhi(a, m0) ^ c3 ^ k1
        c3 = a * m0
        k0 = k0 + w0
        k1 = k1 + w1
    return c0, c1, c2, c3


@triton.jit
def _reflected(i, size):  # type: ignore[no-untyped-def]
    return (size - 1) - tl.abs((size - 1) - tl.abs(i))


@triton.jit
def _place(  # type: ignore[no-untyped-def]
    order, next_order, positions, first, start, pass_size, listed: tl.constexpr
):
    """Return which sample of the pool a program makes, and its position in the stream."""
    sample = tl.program_id(0).to(tl.int64)
    if listed:
        position = tl.load(positions + sample)
        place = tl.load(order + sample).to(tl.int64)
    else:
        position = first + sample
        within = start + sample
        here = within < pass_size
        place = tl.load(order + within, mask=here, other=0)
        place += tl.load(next_order + within - pass_size, mask=within >= pass_size, other=0)
        place = place.to(tl.int64)
    return place, position


@triton.jit
def _choices(  # type: ignore[no-untyped-def]
    name,
    position,
    height: tl.constexpr,
    width: tl.constexpr,
    pad: tl.constexpr,
    can_flip: tl.constexpr,
    cutout: tl.constexpr,
):
    """Return the choices of a position: shift down and right, step along a row, the hole's top left
    corner.
    """
    stream, trial = tl.load(name + 2), tl.load(name + 3)
    w0, w1, w2, w3 = _philox(
        tl.full((), 0, tl.uint32),
        trial.to(tl.uint32),
        (position & 0xFFFFFFFF).to(tl.uint32),
        ((stream << 24) | (position >> 32)).to(tl.uint32),
        tl.load(name).to(tl.uint32),
        tl.load(name + 1).to(tl.uint32),
    )
    # Where the crop begins; a flip turns the direction along a row.
    shifts: tl.constexpr = 2 * pad + 1
    down = ((w0.to(tl.int64) * shifts) >> 32).to(tl.int32) - pad
    right = ((w1.to(tl.int64) * shifts) >> 32).to(tl.int32) - pad
    sign = tl.full((), 1, tl.int32)
    if can_flip:
        flipped = (w2 >> 31) != 0
        sign = tl.where(flipped, -1, 1)
        right += tl.where(flipped, width - 1, 0)
    hole_top = (((w3 >> 16).to(tl.int64) * height) >> 16).to(tl.int32) - cutout // 2
    hole_left = (((w3 & 0xFFFF).to(tl.int64) * width) >> 16).to(tl.int32) - cutout // 2
    return down, right, sign, hole_top, hole_left


@triton.jit
def _fill(  # type: ignore[no-untyped-def]
    pool,  # uint8 (N, height, width, 3)
    labels,  # int64 (N,)
    order,  # int32: of the pass; where `listed`, of the block
    next_order,  # int32: of the pass after it
    positions,  # int64 (B,), read where `listed`
    name,  # int64 (4,)
    table,  # (3, 257): of a channel, the values of each byte and of a hole; read where `mapped`
    out,
    out_labels,
    scale,
    first: tl.int64,  # position of the block
    start: tl.int64,  # of the block in its pass
    pass_size: tl.int64,
    height: tl.constexpr,
    width: tl.constexpr,
    pad: tl.constexpr,
    reflect: tl.constexpr,
    can_flip: tl.constexpr,
    cutout: tl.constexpr,
    mapped: tl.constexpr,
    channels_last: tl.constexpr,
    listed: tl.constexpr,
    vector: tl.constexpr,
    groups: tl.constexpr,
    turns: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    place, position = _place(order, next_order, positions, first, start, pass_size, listed)
    if tl.program_id(1) == 0:
        tl.store(out_labels + sample, tl.load(labels + place))
    down, right, sign, hole_top, hole_left = _choices(
        name, position, height, width, pad, can_flip, cutout
    )

    # A line of memory: a row of pixels, or of one channel of them.
    plane: tl.constexpr = height * width * 3  # values of an image
    line_values: tl.constexpr = width * 3 if channels_last else width
    line_vectors: tl.constexpr = line_values // vector
    source = pool + place * plane
    target = out + sample * plane
    lane = tl.arange(0, vector)[None, :]
    for turn in tl.static_range(turns):
        # Each thread's vector: its line, and the places of its values there.
        group = (tl.program_id(1) * turns + turn) * groups + tl.arange(0, groups)
        wanted = group < plane // vector
        line = group // line_vectors
        value_at = ((group % line_vectors) * vector)[:, None] + lane
        if channels_last:
            y, x, channel = line, value_at // 3, value_at % 3
        else:
            y, x, channel = line % height, value_at, (line // height)[:, None] + lane * 0
        # The pixel it comes from, if there is one.
        from_y, from_x = y + down, x * sign + right
        if reflect:
            from_y, from_x = _reflected(from_y, height), _reflected(from_x, width)
        inside = (wanted & (from_y >= 0) & (from_y < height))[:, None]
        inside = inside & (from_x >= 0) & (from_x < width)
        at = (from_y * (width * 3))[:, None] + from_x * 3 + channel  # (groups, vector)
        byte = tl.load(source + at, mask=inside, other=0).to(tl.int32)
        # The hole, where the augmentation has one.
        if cutout:
            hole = ((y >= hole_top) & (y < hole_top + cutout))[:, None]
            hole = hole & (x >= hole_left) & (x < hole_left + cutout)
        else:
            hole = x < 0
        # The value: looked up for a range of the user's, else computed.
        if mapped:
            value = tl.load(table + channel * 257 + tl.where(hole, 256, byte))
        else:
            value = tl.where(hole, 0.0, (2 * byte - 255).to(tl.float32) * scale)
            value = value.to(out.dtype.element_ty)
        tl.store(target + (group * vector)[:, None] + lane, value, mask=wanted[:, None])


def fill(
    pool: torch.Tensor,
    labels: torch.Tensor,
    block: Block,
    name: torch.Tensor,
    augment: Augment,
    table: torch.Tensor | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images (B, 3, H, W) and labels (B,) of a block by one launch.

    pool uint8 (N, H, W, 3), contiguous; labels int64 (N,); `name` as of
    `worlds.loaders.blocks.name_of`; `table` as of `value_table`, whose type the images then have;
    all on the current device.
    """
    # The memory of the batches.
    count, (_, height, width, _) = block.count, pool.shape
    shape = (count, height, width, 3) if channels_last else (count, 3, height, width)
    dtype = dtype if table is None else table.dtype
    out = torch.empty(shape, dtype=dtype, device=pool.device)
    out_labels = torch.empty(count, dtype=torch.int64, device=pool.device)
    # A vector never crosses the end of a line.
    vector = math.gcd(width, _VECTOR)
    parts = triton.cdiv(height * width * 3 // vector, _GROUPS * _TURNS)
    if count:  # a launch must have a program
        _fill[(count, parts)](
            pool,
            labels,
            block.order,
            block.next_order,
            name if block.positions is None else block.positions,
            name,
            name if table is None else table,
            out,
            out_labels,
            SCALE,
            block.first,
            block.start,
            block.pass_size,
            height=height,
            width=width,
            pad=augment.pad,
            reflect=augment.reflect,
            can_flip=augment.flip,
            cutout=augment.cutout,
            mapped=table is not None,
            channels_last=channels_last,
            listed=block.positions is not None,
            vector=vector,
            groups=_GROUPS,
            turns=_TURNS,
            num_warps=_GROUPS // 32,
            enable_fp_fusion=False,
        )
    return (out.permute(0, 3, 1, 2) if channels_last else out), out_labels
