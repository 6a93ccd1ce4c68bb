"""Loops of the processor's runner: attention over its keys and values, and the products of each row's adapters.

A *row* is a text in progress, ``owners[t]`` the row of token t. The slot of a row: its first ``counts[row]`` of
``entries[row]`` and ``factors[row]``; ``pool[entry]`` is an adapter (see ``places``). What a token gets does not depend
on the tokens beside it, bit by bit: every sum has the same order for one token as for many.
"""

# Numba gives its decorators no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,misc,operator"

from __future__ import annotations

from typing import Any

import numpy as np

from registry.kernels.loops import LOWEST, Array, F, compile_loop, get, inline_loop, put
from registry.kernels.vectors import WIDTH, exponential, first, highest, larger, load, splat, store, total

TILE = 4
"""Tokens of one row that are computed together, so that an adapter's numbers are read once for them."""


@inline_loop
def _run(owners: Array, token: int) -> int:
    """Return where the tile that begins at ``token`` ends: as many tokens of one row as fit."""
    end = token + 1
    while end < min(len(owners), token + TILE) and owners[end] == owners[token]:
        end += 1
    return end


@compile_loop
def low_products(
    x: Array, owners: Array, pool: Array, entries: Array, factors: Array, counts: Array, at: int, rows: int, low: Array
) -> None:
    """Write factor * A x of every term: ``low[t, j * rows + q]`` for row q of term j's A ``[rows, in]`` at ``at``."""
    tokens, width = x.shape
    token = 0
    while token < tokens:
        owner, end = owners[token], _run(owners, token)
        for j in range(counts[owner]):
            own, factor = pool[entries[owner, j]], factors[owner, j]
            if end - token == TILE:
                _four_tokens(x, token, own, at, rows, width, factor, low, j * rows)
            else:
                for single in range(token, end):
                    _one_token(x[single], own, at, rows, width, factor, low[single], j * rows)
        token = end


@inline_loop
def _one_token(row: Array, own: Array, at: int, rows: int, width: int, factor: Any, low: Array, place: int) -> None:
    zero = splat(F(0))
    for q in range(0, rows, 4):
        a0 = at + q * width
        a1, a2, a3 = min(a0 + width, at + (rows - 1) * width), min(a0 + 2 * width, at + (rows - 1) * width), 0
        a3 = min(a0 + 3 * width, at + (rows - 1) * width)
        s0, s1, s2, s3 = zero, zero, zero, zero
        for i in range(0, width, WIDTH):
            value = get(row, i, width)
            s0 = s0 + value * get(own, a0 + i, a0 + width)
            s1 = s1 + value * get(own, a1 + i, a1 + width)
            s2 = s2 + value * get(own, a2 + i, a2 + width)
            s3 = s3 + value * get(own, a3 + i, a3 + width)
        low[place + q] = factor * total(s0)
        if q + 1 < rows:
            low[place + q + 1] = factor * total(s1)
        if q + 2 < rows:
            low[place + q + 2] = factor * total(s2)
        if q + 3 < rows:
            low[place + q + 3] = factor * total(s3)


@inline_loop
def _four_tokens(
    x: Array, token: int, own: Array, at: int, rows: int, width: int, factor: Any, low: Array, place: int
) -> None:
    row0, row1, row2, row3 = x[token], x[token + 1], x[token + 2], x[token + 3]
    zero = splat(F(0))
    for q in range(0, rows, 2):
        a0 = at + q * width
        a1 = min(a0 + width, at + (rows - 1) * width)
        s0, s1, s2, s3 = zero, zero, zero, zero
        t0, t1, t2, t3 = zero, zero, zero, zero
        for i in range(0, width, WIDTH):
            one, other = get(own, a0 + i, a0 + width), get(own, a1 + i, a1 + width)
            value = get(row0, i, width)
            s0, t0 = s0 + value * one, t0 + value * other
            value = get(row1, i, width)
            s1, t1 = s1 + value * one, t1 + value * other
            value = get(row2, i, width)
            s2, t2 = s2 + value * one, t2 + value * other
            value = get(row3, i, width)
            s3, t3 = s3 + value * one, t3 + value * other
        low[token, place + q], low[token + 1, place + q] = factor * total(s0), factor * total(s1)
        low[token + 2, place + q], low[token + 3, place + q] = factor * total(s2), factor * total(s3)
        if q + 1 < rows:
            low[token, place + q + 1], low[token + 1, place + q + 1] = factor * total(t0), factor * total(t1)
            low[token + 2, place + q + 1], low[token + 3, place + q + 1] = factor * total(t2), factor * total(t3)


@compile_loop
def add_products(
    y: Array,
    owners: Array,
    pool: Array,
    entries: Array,
    counts: Array,
    low: Array,
    rows: int,
    skip: int,
    at: int,
    rank: int,
    column: int,
    width: int,
) -> None:
    """Add B low to ``width`` columns of ``y`` from ``column`` on: B ``[rank, width]`` of every term is at ``at``.

    Its part of ``low`` begins behind the first ``skip`` of a term's ``rows``.
    """
    token = 0
    while token < len(y):
        owner, end = owners[token], _run(owners, token)
        count, own = counts[owner], entries[owner]
        t1, t2, t3 = min(token + 1, end - 1), min(token + 2, end - 1), min(token + 3, end - 1)
        if count > 0:
            y0, y1, y2, y3 = y[token], y[t1], y[t2], y[t3]
            low0, low1, low2, low3 = low[token], low[t1], low[t2], low[t3]
            for i in range(0, width, WIDTH):
                v0, v1 = get(y0, column + i, column + width), get(y1, column + i, column + width)
                v2, v3 = get(y2, column + i, column + width), get(y3, column + i, column + width)
                for j in range(count):
                    adapter = pool[own[j]]
                    for k in range(rank):
                        b = get(adapter, at + k * width + i, at + (k + 1) * width)
                        place = j * rows + skip + k
                        v0, v1 = v0 + splat(low0[place]) * b, v1 + splat(low1[place]) * b
                        v2, v3 = v2 + splat(low2[place]) * b, v3 + splat(low3[place]) * b
                # The last tokens of a short tile are one token: it gets the same number more than once.
                put(y0, column + i, v0, column + width)
                put(y1, column + i, v1, column + width)
                put(y2, column + i, v2, column + width)
                put(y3, column + i, v3, column + width)
        token = end


@compile_loop
def swiglu(
    gate_up: Array,
    out: Array,
    owners: Array,
    pool: Array,
    entries: Array,
    counts: Array,
    low: Array,
    rows: int,
    gate_at: int,
    up_at: int,
    rank: int,
) -> None:
    """Write silu(gate) * up ``[tokens, width]`` to ``out``, with the products of the terms of ``gate_up``'s rows.

    The B of gate and up ``[rank, width]`` are at ``gate_at`` and ``up_at``, below 0 where one has none.
    """
    tokens, width = out.shape
    one, zero = splat(F(1)), splat(F(0))
    up_skip = rank if gate_at >= 0 else 0
    token = 0
    while token < tokens:
        owner, end = owners[token], _run(owners, token)
        count, own = counts[owner], entries[owner]
        t1, t2, t3 = min(token + 1, end - 1), min(token + 2, end - 1), min(token + 3, end - 1)
        if count == 0 or end == token + 1:
            for single in range(token, end):
                row, to, own_low = gate_up[single], out[single], low[single]
                for i in range(0, width, WIDTH):
                    gate, up = get(row, i, width), get(row, width + i, 2 * width)
                    for j in range(count):
                        adapter = pool[own[j]]
                        for k in range(rank):
                            if gate_at >= 0:
                                b = get(adapter, gate_at + k * width + i, gate_at + (k + 1) * width)
                                gate = gate + splat(own_low[j * rows + k]) * b
                            if up_at >= 0:
                                b = get(adapter, up_at + k * width + i, up_at + (k + 1) * width)
                                up = up + splat(own_low[j * rows + up_skip + k]) * b
                    put(to, i, gate * up / (one + exponential(zero - gate)), width)
        else:
            r0, r1, r2, r3 = gate_up[token], gate_up[t1], gate_up[t2], gate_up[t3]
            l0, l1, l2, l3 = low[token], low[t1], low[t2], low[t3]
            o0, o1, o2, o3 = out[token], out[t1], out[t2], out[t3]
            for i in range(0, width, WIDTH):
                g0, g1, g2, g3 = get(r0, i, width), get(r1, i, width), get(r2, i, width), get(r3, i, width)
                u0, u1 = get(r0, width + i, 2 * width), get(r1, width + i, 2 * width)
                u2, u3 = get(r2, width + i, 2 * width), get(r3, width + i, 2 * width)
                for j in range(count):
                    adapter = pool[own[j]]
                    for k in range(rank):
                        if gate_at >= 0:
                            b, at = get(adapter, gate_at + k * width + i, gate_at + (k + 1) * width), j * rows + k
                            g0, g1 = g0 + splat(l0[at]) * b, g1 + splat(l1[at]) * b
                            g2, g3 = g2 + splat(l2[at]) * b, g3 + splat(l3[at]) * b
                        if up_at >= 0:
                            b = get(adapter, up_at + k * width + i, up_at + (k + 1) * width)
                            at = j * rows + up_skip + k
                            u0, u1 = u0 + splat(l0[at]) * b, u1 + splat(l1[at]) * b
                            u2, u3 = u2 + splat(l2[at]) * b, u3 + splat(l3[at]) * b
                put(o0, i, g0 * u0 / (one + exponential(zero - g0)), width)
                put(o1, i, g1 * u1 / (one + exponential(zero - g1)), width)
                put(o2, i, g2 * u2 / (one + exponential(zero - g2)), width)
                put(o3, i, g3 * u3 / (one + exponential(zero - g3)), width)
        token = end


@inline_loop
def _turned(row: Array, at: int, half: int, i: int, cosine: Array, sine: Array) -> Any:
    """Return the lanes at i of both halves of a head, rotated by the angles of a token (arXiv 2104.09864)."""
    c, s = get(cosine, i, half), get(sine, i, half)
    a, b = get(row, at + i, at + half), get(row, at + half + i, at + 2 * half)
    return a * c - b * s, b * c + a * s


@compile_loop
def remember(
    qkv: Array,
    owners: Array,
    positions: Array,
    heads: int,
    groups: int,
    width: int,
    scale: Any,
    cosine: Array,
    sine: Array,
    queries: Array,
    keys: Array,
    values: Array,
) -> None:
    """Take queries, keys and values ``[tokens, (heads + 2 groups) * width]``: rotate, and remember the last two.

    ``queries`` ``[tokens, heads * width]`` get the rotated ones times ``scale``, float32; ``keys`` ``[rows, groups,
    blocks, width, 16]`` have sixteen positions side by side, ``values`` ``[rows, groups, context, width]``.
    """
    half = width // 2
    rotated = np.empty(width + WIDTH, keys.dtype)
    for token in range(len(qkv)):
        row, position, source, to = owners[token], positions[token], qkv[token], queries[token]
        c, s = cosine[position], sine[position]
        for head in range(heads):
            at = head * width
            for i in range(0, half, WIDTH):
                low, high = _turned(source, at, half, i, c, s)
                put(to, at + i, low * splat(scale), at + half)
                put(to, at + half + i, high * splat(scale), at + width)
        block, lane = position // WIDTH, position % WIDTH
        for group in range(groups):
            at = (heads + group) * width
            for i in range(0, half, WIDTH):
                low, high = _turned(source, at, half, i, c, s)
                put(rotated, i, low, half)
                put(rotated, half + i, high, width)
            place = keys[row, group, block]
            for d in range(width):
                place[d, lane] = rotated[d]
            at = (heads + groups + group) * width
            into = values[row, group, position]
            for i in range(0, width, WIDTH):
                put(into, i, get(source, at + i, at + width), width)


@compile_loop
def attend(
    queries: Array,
    owners: Array,
    positions: Array,
    heads: int,
    groups: int,
    width: int,
    keys: Array,
    values: Array,
    out: Array,
) -> None:
    """Write what every token sees of its row up to its position, ``[tokens, heads * width]``; see ``remember``."""
    shared = heads // groups
    scores = np.empty((shared, (values.shape[2] // WIDTH + 1) * WIDTH), np.float32)
    for token in range(len(queries)):
        row, seen = owners[token], positions[token] + 1
        blocks = (seen + WIDTH - 1) // WIDTH
        query, to = queries[token], out[token]
        for group in range(groups):
            for head in range(shared):
                own = query[(group * shared + head) * width :]
                _weigh(own, keys[row, group], blocks, seen, width, scores[head])
                at = (group * shared + head) * width
                _gather(scores[head], values[row, group], seen, width, to, at)


@inline_loop
def _weigh(query: Array, keys: Array, blocks: int, seen: int, width: int, scores: Array) -> None:
    """Write the softmax of a query's products with the ``seen`` first keys."""
    low = splat(LOWEST)
    most = low
    for block in range(blocks):
        own = keys[block]
        s0, s1, s2, s3 = splat(F(0)), splat(F(0)), splat(F(0)), splat(F(0))
        for d in range(0, width - 3, 4):
            s0 = s0 + splat(query[d]) * load(own[d], 0)
            s1 = s1 + splat(query[d + 1]) * load(own[d + 1], 0)
            s2 = s2 + splat(query[d + 2]) * load(own[d + 2], 0)
            s3 = s3 + splat(query[d + 3]) * load(own[d + 3], 0)
        for d in range(width // 4 * 4, width):
            s0 = s0 + splat(query[d]) * load(own[d], 0)
        value = first((s0 + s1) + (s2 + s3), seen - block * WIDTH, low)
        store(scores, block * WIDTH, value)
        most = larger(value, most)
    middle, sums = splat(highest(most)), splat(F(0))
    for block in range(blocks):
        value = exponential(load(scores, block * WIDTH) - middle)
        value = first(value, seen - block * WIDTH, splat(F(0)))
        store(scores, block * WIDTH, value)
        sums = sums + value
    inverse = splat(F(1) / total(sums))
    for block in range(blocks):
        store(scores, block * WIDTH, load(scores, block * WIDTH) * inverse)


@inline_loop
def _gather(weights: Array, values: Array, seen: int, width: int, to: Array, at: int) -> None:
    """Write the weighted sum of the ``seen`` first values."""
    for i in range(0, width, 2 * WIDTH):
        s0, s1, s2, s3 = splat(F(0)), splat(F(0)), splat(F(0)), splat(F(0))
        other = min(i + WIDTH, (width - 1) // WIDTH * WIDTH)
        for j in range(0, seen - 1, 2):
            own, following = values[j], values[j + 1]
            w0, w1 = splat(weights[j]), splat(weights[j + 1])
            s0, s1 = s0 + w0 * get(own, i, width), s1 + w0 * get(own, other, width)
            s2, s3 = s2 + w1 * get(following, i, width), s3 + w1 * get(following, other, width)
        if seen % 2:
            own, w0 = values[seen - 1], splat(weights[seen - 1])
            s0, s1 = s0 + w0 * get(own, i, width), s1 + w0 * get(own, other, width)
        put(to, at + i, s0 + s2, at + width)
        if other > i:
            put(to, at + other, s1 + s3, at + width)


@compile_loop
def rounded(bits: Array, short: Array) -> None:
    """Write float32, given as its bits, as the bits of bfloat16: the upper half, to nearest (halves to even)."""
    for i in range(len(bits)):
        wide = bits[i]
        short[i] = (wide + np.uint32(0x7FFF) + ((wide >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@compile_loop
def unfold(body: Array, tensors: Array, entry: Array) -> None:
    """Prepare an adapter: copy every tensor of its flat vector to where it lies in an entry, B turned to ``[r, out]``.

    ``tensors`` ``[n, 5]`` int64: place in the body, place in the entry, rows, columns, whether it is to be turned.
    """
    for number in range(len(tensors)):
        source, to, rows, columns, is_turned = tensors[number]
        for column in range(columns if is_turned else 1):
            step = columns if is_turned else 1
            count = rows if is_turned else rows * columns
            own, into = body[source + column :], entry[to + column * count :]
            for i in range(count):
                into[i] = own[i * step]
