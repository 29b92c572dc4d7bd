"""Convolutions in Triton's language: products of gathered rows, and depthwise sums. `gpu/convolutions.py` launches them.

Activations and results are channels_last, rows of `channels` numbers; channels are counted in units of a power of two, so that
the compiler sees how wide they can be loaded. Arguments are many and named as in the mathematics of convolutions.
"""

from __future__ import annotations

import triton
from triton import language as tl

NUMBERS = (
    *("images", "from_h", "from_w", "from_units", "to_h", "to_w", "to_units", "units", "pad_h", "pad_w"),
    *("step_n", "step_c", "step_h", "step_w", "boxes_h", "boxes_w", "pieces"),
)
"""What a kernel is not compiled anew for."""


@triton.jit
def _multiplied(total, a, weight, rest, at, is_weight, TERMS: tl.constexpr):
    """Total + a w, for the weights at these places.  bf16x3: h h' + h l' + l h' of float32 numbers h + l, smallest first."""
    w = tl.load(weight + at, mask=is_weight, other=0.0)
    r = tl.load(rest + at, mask=is_weight, other=0.0) if TERMS == 3 else w
    return _in_terms(total, a, w, r, TERMS)


@triton.jit
def _in_terms(total, a, w, r, TERMS: tl.constexpr):
    """Total + a (w + r), of which r is read in three terms only."""
    h = a.to(w.dtype)
    if TERMS == 3:
        l = (a - h.to(tl.float32)).to(w.dtype)
        total = tl.dot(l, w, total)
        total = tl.dot(h, r, total)
    return tl.dot(h, w, total)


@triton.jit
def _finished(total, bias, k, is_k, low, high, BIASED: tl.constexpr, CLAMPED: tl.constexpr):
    """What comes behind a sum: the bias and the rectifier. No number stays none."""
    if BIASED:
        total += tl.load(bias + k, mask=is_k, other=0.0).to(tl.float32)[None, :]
    if CLAMPED:
        total = tl.maximum(total, low, propagate_nan=tl.PropagateNan.ALL)
        total = tl.minimum(total, high, propagate_nan=tl.PropagateNan.ALL)
    return total


@triton.jit
def _added(total, plus, out, is_out, ADDED: tl.constexpr):
    """What is known of the sum already: of a residual connection, or of the gradient from elsewhere."""
    if ADDED:
        total += tl.load(plus + out, mask=is_out, other=0.0).to(tl.float32)
    return total


@triton.jit
def _gated(total, gate, out, is_out, low, high, GATED: tl.constexpr):
    """Nothing where the gate is not between the ends."""
    if GATED:
        passed = tl.load(gate + out, mask=is_out, other=0.0)
        total = tl.where((passed <= low) | (passed >= high), 0.0, total)
    return total


@triton.jit
def _phase_of(phase, to_h, to_w, pad_h, pad_w, SH: tl.constexpr, SW: tl.constexpr, BACK: tl.constexpr):
    """Of the pixels i * S + p one phase p: itself, how many there are across, and the first tap that meets them.

    Forward there is one phase, of all pixels.
    """
    if BACK:
        p_h, p_w = phase // SW, phase % SW
        return p_h, p_w, (to_h + SH - 1) // SH, (to_w + SW - 1) // SW, (p_h + pad_h) % SH, (p_w + pad_w) % SW
    else:  # noqa: RET505  # Triton follows one branch of a constant
        return 0, 0, to_h, to_w, 0, 0


@triton.jit(do_not_specialize=NUMBERS)
def product(
    x,
    gate,
    weight,
    rest,
    bias,
    plus,
    y,
    images,
    from_h,
    from_w,
    from_units,
    to_h,
    to_w,
    to_units,
    pad_h,
    pad_w,
    low,
    high,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    FROM_UNIT: tl.constexpr,
    TO_UNIT: tl.constexpr,
    POINTWISE: tl.constexpr,
    BACK: tl.constexpr,
    GATED: tl.constexpr,
    TERMS: tl.constexpr,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
    CLAMPED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A tile (PIXELS, CHANNELS) of the convolution's output, or with BACK of its input's gradient, in one phase of its pixels.

    POINTWISE, of kernels (1, 1) in steps of one pixel and without padding, it need not know where in its image a pixel lies.
    """
    from_channels, to_channels = from_units * FROM_UNIT, to_units * TO_UNIT
    phase_h, phase_w, across_h, across_w, first_h, first_w = _phase_of(
        tl.program_id(1), to_h, to_w, pad_h, pad_w, SH, SW, BACK
    )
    if BACK:
        taps_h, taps_w = (KH - first_h + SH - 1) // SH, (KW - first_w + SW - 1) // SW
    else:
        taps_h, taps_w = KH, KW
    columns = (to_channels + CHANNELS - 1) // CHANNELS
    tile = tl.program_id(0)
    pixel = tile // columns * PIXELS + tl.arange(0, PIXELS)
    k = tile % columns * CHANNELS + tl.arange(0, CHANNELS)
    is_pixel, is_k = pixel < images * across_h * across_w, k < to_channels
    if POINTWISE:
        origin, target = pixel, pixel
    else:
        image, within = pixel // (across_h * across_w), pixel % (across_h * across_w)
        i, j = within // across_w, within % across_w
        if BACK:
            base_h, base_w = i + (phase_h + pad_h) // SH, j + (phase_w + pad_w) // SW
            i, j = i * SH + phase_h, j * SW + phase_w
            is_pixel = is_pixel & (i < to_h) & (j < to_w)
        else:
            base_h, base_w = i * SH - pad_h, j * SW - pad_w
        origin, target = (image * from_h + base_h) * from_w + base_w, (image * to_h + i) * to_w + j
    origin, target = origin * from_channels, target * to_channels
    total = tl.full((PIXELS, CHANNELS), 0.0, tl.float32)
    pieces = (from_channels + DEPTH - 1) // DEPTH
    taps = taps_h * taps_w
    for step in range(taps * pieces):
        tap, c = step % taps, step // taps * DEPTH + tl.arange(0, DEPTH)  # taps of one piece read much the same
        tap_h, tap_w = tap // taps_w, tap % taps_w
        if BACK:
            down, right = -tap_h * DH, -tap_w * DW
            place = (first_h + tap_h * SH) * KW + first_w + tap_w * SW
            at = (c * (KH * KW * to_channels))[:, None] + (place * to_channels + k)[None, :]
        else:
            down, right = tap_h * DH, tap_w * DW
            at = (k * (KH * KW * from_channels))[None, :] + ((tap_h * KW + tap_w) * from_channels + c)[:, None]
        is_c, is_there = c < from_channels, is_pixel
        if not POINTWISE:
            row, column = base_h + down, base_w + right
            is_there = is_there & (row >= 0) & (row < from_h) & (column >= 0) & (column < from_w)
        where = (origin + (down * from_w + right) * from_channels)[:, None] + c[None, :]
        a = tl.load(x + where, mask=is_there[:, None] & is_c[None, :], other=0.0)
        total = _multiplied(total, a, weight, rest, at, is_c[:, None] & is_k[None, :], TERMS)
    out = target[:, None] + k[None, :]
    is_out = is_pixel[:, None] & is_k[None, :]
    total = _added(total, plus, out, is_out, ADDED)
    total = _finished(total, bias, k, is_k, low, high, BIASED, CLAMPED)
    total = _gated(total, gate, out, is_out, low, high, GATED)
    tl.store(y + out, total.to(y.dtype.element_ty), mask=is_out)


@triton.jit
def _box(tensor, n, i, j, k, IMAGES: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr):
    """The box at this place as a matrix, its pixels by its channels; zero where the tensor has none."""
    return tensor.load([n, i, j, k]).reshape(IMAGES * TALL * WIDE, CHANNELS)


@triton.jit
def _weights(weight, tap, c, k, BACK: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr):
    """(DEPTH, CHANNELS) of the weights (k, taps, c), or with BACK of those of the gradient, which are transposed."""
    if BACK:
        return weight.load([c, tap, k]).reshape(DEPTH, CHANNELS)
    else:  # noqa: RET505  # Triton follows one branch of a constant
        return weight.load([k, tap, c]).reshape(CHANNELS, DEPTH).T


@triton.jit(do_not_specialize=NUMBERS)
def product_of_boxes(
    x,
    gate,
    weight,
    rest,
    bias,
    plus,
    y,
    boxes_h,
    boxes_w,
    to_channels,
    pieces,
    pad_h,
    pad_w,
    low,
    high,
    KH: tl.constexpr,
    KW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    BACK: tl.constexpr,
    GATED: tl.constexpr,
    TERMS: tl.constexpr,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
    CLAMPED: tl.constexpr,
    IMAGES: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The same in steps of one pixel, a tile being a box of IMAGES x TALL x WIDE pixels by CHANNELS.

    All but the bias are descriptors of tensors (n, h, w, c), the weights' of (k, taps, c): the chip's copy engine finds the
    addresses and what lies outside, so that registers are left for the sums.
    """
    columns = (to_channels + CHANNELS - 1) // CHANNELS
    box, k = tl.program_id(0) // columns, tl.program_id(0) % columns * CHANNELS
    n, i, j = box // (boxes_h * boxes_w) * IMAGES, box // boxes_w % boxes_h * TALL, box % boxes_w * WIDE
    total = tl.full((IMAGES * TALL * WIDE, CHANNELS), 0.0, tl.float32)
    for step in range(KH * KW * pieces):
        tap, c = step % (KH * KW), step // (KH * KW) * DEPTH
        down, right = tap // KW * DH - pad_h, tap % KW * DW - pad_w
        if BACK:
            down, right = -down, -right
        a = _box(x, n, i + down, j + right, c, IMAGES, TALL, WIDE, DEPTH)
        w = _weights(weight, tap, c, k, BACK, CHANNELS, DEPTH)
        r = _weights(rest, tap, c, k, BACK, CHANNELS, DEPTH) if TERMS == 3 else w
        total = _in_terms(total, a, w, r, TERMS)
    if ADDED:
        total += _box(plus, n, i, j, k, IMAGES, TALL, WIDE, CHANNELS).to(tl.float32)
    each = k + tl.arange(0, CHANNELS)
    total = _finished(total, bias, each, each < to_channels, low, high, BIASED, CLAMPED)
    if GATED:
        passed = _box(gate, n, i, j, k, IMAGES, TALL, WIDE, CHANNELS)
        total = tl.where((passed <= low) | (passed >= high), 0.0, total)
    y.store([n, i, j, k], total.to(y.dtype).reshape(IMAGES, TALL, WIDE, CHANNELS))


@triton.jit(do_not_specialize=NUMBERS)
def product_of_few(
    x,
    weight,
    rest,
    bias,
    y,
    from_h,
    from_w,
    step_n,
    step_c,
    step_h,
    step_w,
    to_h,
    to_w,
    to_units,
    pad_h,
    pad_w,
    low,
    high,
    C: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    TO_UNIT: tl.constexpr,
    TERMS: tl.constexpr,
    BIASED: tl.constexpr,
    CLAMPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The same of an image of C channels in any strides: the product's depth is as many of the kernel's rows as DEPTH holds.

    Which tap and which channel a place of the depth is, and where that lies, is then the same at every step. Pixels are a tile
    (ROWS, COLUMNS) of one image, so that none needs a division to know its place.
    """
    TAPS: tl.constexpr = DEPTH // (KW * C)  # rows of the kernel
    to_channels = to_units * TO_UNIT
    columns = (to_channels + CHANNELS - 1) // CHANNELS
    across_h, across_w = (to_h + ROWS - 1) // ROWS, (to_w + COLUMNS - 1) // COLUMNS
    tile = tl.program_id(0) // columns
    k = tl.program_id(0) % columns * CHANNELS + tl.arange(0, CHANNELS)
    image, within = tile // (across_h * across_w), tile % (across_h * across_w)
    pixel, depth = tl.arange(0, ROWS * COLUMNS), tl.arange(0, DEPTH)
    i, j = within // across_w * ROWS + pixel // COLUMNS, within % across_w * COLUMNS + pixel % COLUMNS
    c, tap_h, tap_w = depth % C, depth // C // KW, depth // C % KW
    top, left = i * SH - pad_h, j * SW - pad_w
    column, row = left[:, None] + (tap_w * DW)[None, :], top[:, None] + (tap_h * DH)[None, :]
    # One comparison a number: below this row, as an unsigned number also those before the first one, it is read.
    end = tl.where((column >= 0) & (column < from_w) & (tap_h < TAPS)[None, :], from_h, 0).to(tl.uint32)
    is_k = k < to_channels
    start = x + image * step_n
    where = (top * step_h + left * step_w)[:, None] + (tap_h * DH * step_h + tap_w * DW * step_w + c * step_c)[None, :]
    total = tl.full((ROWS * COLUMNS, CHANNELS), 0.0, tl.float32)
    for first in range(0, KH, TAPS):
        is_tap = (tap_h < TAPS) & (first + tap_h < KH)
        is_read = (row + first * DH).to(tl.uint32) < end
        if KH % TAPS:
            is_read = is_read & is_tap[None, :]
        a = tl.load(start + first * DH * step_h + where, mask=is_read, other=0.0)
        at = (first * KW * C + depth)[:, None] * to_channels + k[None, :]
        total = _multiplied(total, a, weight, rest, at, is_tap[:, None] & is_k[None, :], TERMS)
    total = _finished(total, bias, k, is_k, low, high, BIASED, CLAMPED)
    out = ((image * to_h + i) * to_w + j)[:, None] * to_channels + k[None, :]
    tl.store(y + out, total.to(y.dtype.element_ty), mask=((i < to_h) & (j < to_w))[:, None] & is_k[None, :])


@triton.constexpr_function
def tap_between(to, from_, axis):
    """Of the taps along an axis the one that joins a tile's pixel with one that it reads; -1 where none does."""
    K, S, D, P, BACK = axis  # as the kernels name them
    reach = to + P - from_ * S if BACK else from_ + P - to * S
    return reach // D if reach >= 0 and reach % D == 0 and reach // D < K else -1


@triton.constexpr_function
def first_read(axis):
    """The first pixel that a tile reads, counted from the one that lies where the tile begins."""
    K, S, D, P, BACK = axis
    return -(((K - 1) * D - P) // S) if BACK else -P


@triton.constexpr_function
def last_read(size, axis):
    """The last pixel that a tile of this size reads."""
    K, S, D, P, BACK = axis
    return (size - 1 + P) // S if BACK else (size - 1) * S + (K - 1) * D - P


@triton.jit(do_not_specialize=NUMBERS)
def depthwise(
    x,
    gate,
    weight,
    bias,
    y,
    images,
    from_h,
    from_w,
    to_h,
    to_w,
    units,
    low,
    high,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    UNIT: tl.constexpr,
    BACK: tl.constexpr,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    CLAMPED: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """CHANNELS of TILES tiles (ROWS, COLUMNS) of a depthwise convolution's output, or with BACK of its input's gradient.

    A thread has a few channels of one tile. It holds their weights, reads each pixel once, and adds it to all sums of the tile
    that it has part in: which those are the compiler knows, as a tile begins at a multiple of the stride.
    """
    H: tl.constexpr = (KH, SH, DH, PH, BACK)
    W: tl.constexpr = (KW, SW, DW, PW, BACK)
    channels = units * UNIT
    chunks = (channels + CHANNELS - 1) // CHANNELS
    across_h, across_w = (to_h + ROWS - 1) // ROWS, (to_w + COLUMNS - 1) // COLUMNS
    tile = tl.program_id(0) // chunks * TILES + tl.arange(0, TILES)
    c = tl.program_id(0) % chunks * CHANNELS + tl.arange(0, CHANNELS)
    image, within = tile // (across_h * across_w), tile % (across_h * across_w)
    i, j = within // across_w, within % across_w
    is_tile, is_c = (tile < images * across_h * across_w)[:, None], (c < channels)[None, :]
    # The pixel of x that lies where the tile begins, a tile's size in x apart.
    top, left = i * (ROWS // SH if BACK else ROWS * SH), j * (COLUMNS // SW if BACK else COLUMNS * SW)
    own = tl.full((TILES, 1), 0, tl.int32) + c[None, :]  # each thread its own, that nobody needs to be asked
    total = tl.full((TILES, CHANNELS), 0.0, tl.float32)
    if BIASED:
        total += tl.load(bias + own, mask=is_c, other=0.0).to(tl.float32)
    totals = ()
    for _ in tl.static_range(ROWS * COLUMNS):
        totals = totals + (total,)
    weights = ()  # by rows of the kernel
    for _ in tl.static_range(KH):
        weights = weights + ((),)
    for down in tl.static_range(first_read(H), last_read(ROWS, H) + 1):
        row = top + down
        start = x + (((image * from_h + row) * from_w + left)[:, None] * channels + c[None, :])
        # One comparison a pixel: as an unsigned number a column before the first one is a large one.
        end = tl.where(is_tile & ((row >= 0) & (row < from_h))[:, None] & is_c, from_w, 0).to(tl.uint32)
        read = ()
        for right in tl.static_range(first_read(W), last_read(COLUMNS, W) + 1):
            is_read = (left + right).to(tl.uint32)[:, None] < end
            read = read + (tl.load(start + right * channels, mask=is_read, other=0.0).to(tl.float32),)
        for r in tl.static_range(SH if BACK else 1):  # whom a row of the kernel meets first
            if tap_between(r, down, H) >= 0:
                met = ()
                for place in tl.static_range(KW):
                    at = (tap_between(r, down, H) * KW + place) * channels
                    met = met + (tl.load(weight + at + own, mask=is_c, other=0.0),)
                weights = weights[: tap_between(r, down, H)] + (met,) + weights[tap_between(r, down, H) + 1 :]
        sums = ()
        for r in tl.static_range(ROWS):
            for s in tl.static_range(COLUMNS):
                total = totals[r * COLUMNS + s]
                if tap_between(r, down, H) >= 0:
                    for at in tl.static_range(len(read)):
                        if tap_between(s, first_read(W) + at, W) >= 0:
                            w = weights[tap_between(r, down, H)][tap_between(s, first_read(W) + at, W)]
                            total = tl.fma(read[at], w, total)
                sums = sums + (total,)
        totals = sums
    for r in tl.static_range(ROWS):
        row = i * ROWS + r
        start = ((image * to_h + row) * to_w + j * COLUMNS)[:, None] * channels + c[None, :]
        end = tl.where(is_tile & (row < to_h)[:, None] & is_c, to_w, 0)
        for s in tl.static_range(COLUMNS):
            total = _finished(totals[r * COLUMNS + s], bias, c, is_c, low, high, False, CLAMPED)
            out, is_out = start + s * channels, (j * COLUMNS + s)[:, None] < end
            total = _gated(total, gate, out, is_out, low, high, GATED)
            tl.store(y + out, total.to(y.dtype.element_ty), mask=is_out)
