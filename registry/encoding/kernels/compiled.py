"""Loops compiled for the processor by Numba: each goes through memory as seldom as can be, on one thread.

PyTorch computes a norm, an activation or a rotation in up to a dozen passes over memory, which with bf16 units takes
longer than the matrix products between them. bfloat16 comes as its bits in uint16; everything is computed in float32
and rounded once. Widths need not be multiples of a vector's.
"""

# Numba gives its decorators no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,misc,operator"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from registry.kernels.loops import LOWEST, Array, F, along, compile_loop, get, inline_loop, put
from registry.kernels.vectors import (
    WIDTH,
    exponential,
    first,
    highest,
    larger,
    load,
    load_some,
    splat,
    square_root,
    store,
    total,
)

TILE = 4
"""Tokens of one member whose gradients go to the adapter together."""


@compile_loop
def rms_norm_backward(slope: Array, x: Array, weight: Array, inverse: Array, into: Array) -> None:
    """See ``Kernels.rms_norm_backward``."""
    tokens, width = x.shape
    for token in range(tokens):
        above, row, to = slope[token], x[token], into[token]
        scale = inverse[token]
        products = splat(F(0))
        for i in range(0, width, WIDTH):
            products = products + get(above, i, width) * get(weight, i, width) * get(row, i, width)
        along = splat(total(products) * scale * scale * scale / F(width))
        for i in range(0, width, WIDTH):
            own = get(above, i, width) * get(weight, i, width) * splat(scale) - get(row, i, width) * along
            put(to, i, get(to, i, width) + own, width)


@compile_loop
def low_product(x: Array, owners: Array, a: Array, low: Array) -> None:
    """Write A x to ``low`` ``[tokens, r]``, with the A of every token's owner, ``[members, r * in]``."""
    tokens, width = x.shape
    for token in range(tokens):
        row, own = x[token], a[owners[token]]
        for k in range(low.shape[1]):
            low[token, k] = along(row, own, k * width, width)


@inline_loop
def _add(to: Array, at: int, factor: Any, row: Array, width: int) -> None:
    """Add ``factor * row`` to what is at ``at``."""
    scale = splat(factor)
    for i in range(0, width, WIDTH):
        put(to, at + i, get(to, at + i, at + width) + scale * get(row, i, width), at + width)


@inline_loop
def _plus(value: Any, low: Array, scale: Any, b: Array, i: int, width: int) -> Any:
    """Return the lanes ``value`` and the sum of scale * low[k] times those of ``b`` ``[r * width]`` at ``i``."""
    if len(low) == 2:  # without a loop, it is a third faster
        value = value + splat(low[0] * scale) * get(b, i, width)
        return value + splat(low[1] * scale) * get(b, width + i, 2 * width)
    for k in range(len(low)):
        value = value + splat(low[k] * scale) * get(b, k * width + i, (k + 1) * width)
    return value


@compile_loop
def add_product(y: Array, owners: Array, low: Array, b: Array, scale: Any) -> None:
    """Add scale * B low to ``y`` ``[tokens, out]``; ``b`` ``[members, r * out]``."""
    tokens, width = y.shape
    if low.shape[1] == 0:
        return
    for token in range(tokens):
        row, own = y[token], b[owners[token]]
        for i in range(0, width, WIDTH):
            put(row, i, _plus(get(row, i, width), low[token], scale, own, i, width), width)


@compile_loop
def product_backward(slope: Array, owners: Array, low: Array, b: Array, scale: Any, of_b: Array, of_low: Array) -> None:
    """Undo ``add_product``: write the gradient of ``low`` and add that of B."""
    tokens, width = slope.shape
    for token in range(tokens):
        row, own, of_own = slope[token], b[owners[token]], of_b[owners[token]]
        for k in range(low.shape[1]):
            of_low[token, k] = scale * along(row, own, k * width, width)
            _add(of_own, k * width, scale * low[token, k], row, width)


@compile_loop
def low_backward(x: Array, owners: Array, of_low: Array, a: Array, of_a: Array, into: Array, is_wanted: bool) -> None:
    """Undo ``low_product``: add the gradient of A, and that of ``x`` to ``into`` if it is wanted."""
    tokens, width = x.shape
    rank = of_low.shape[1]
    if rank == 0:
        return
    for token in range(tokens):
        row, own, of_own = x[token], a[owners[token]], of_a[owners[token]]
        for k in range(rank):
            _add(of_own, k * width, of_low[token, k], row, width)
        if is_wanted:
            to = into[token]
            for i in range(0, width, WIDTH):
                put(to, i, _plus(get(to, i, width), of_low[token], F(1), own, i, width), width)


@compile_loop
def swiglu(
    gate_up: Array,
    out: Array,
    owners: Array,
    scale: Any,
    low_gate: Array,
    b_gate: Array,
    low_up: Array,
    b_up: Array,
    a_down: Array,
    low_down: Array,
) -> None:
    """Write silu(gate) * up ``[tokens, width]`` with the adapters' products added to ``gate_up``, and A_down of it.

    ``gate_up`` ``[tokens, 2 * width]`` itself stays as it is.
    """
    tokens, width = out.shape
    one, zero = splat(F(1)), splat(F(0))
    for token in range(tokens):
        gates, ups, to, member = gate_up[token], gate_up[token][width:], out[token], owners[token]
        own_gate, own_up, own_down = b_gate[member], b_up[member], a_down[member]
        for i in range(0, width, WIDTH):
            gate = _plus(get(gates, i, width), low_gate[token], scale, own_gate, i, width)
            up = _plus(get(ups, i, width), low_up[token], scale, own_up, i, width)
            put(to, i, gate * up / (one + exponential(zero - gate)), width)
        for k in range(low_down.shape[1]):
            low_down[token, k] = along(to, own_down, k * width, width)


@compile_loop
def swiglu_backward(
    slope: Array,
    gate_up: Array,
    owners: Array,
    scale: Any,
    low_gate: Array,
    b_gate: Array,
    of_b_gate: Array,
    of_low_gate: Array,
    low_up: Array,
    b_up: Array,
    of_b_up: Array,
    of_low_up: Array,
    a_down: Array,
    of_a_down: Array,
    of_low_down: Array,
) -> None:
    """Overwrite ``gate_up`` with its gradient, and make those of everything that ``swiglu`` used.

    ``slope`` ``[tokens, width]`` lacks what comes by A_down, and ``of_low_down`` is given.
    """
    tokens, width = slope.shape
    one, zero = splat(F(1)), splat(F(0))
    of_gates, of_ups = np.zeros((TILE, width + WIDTH), np.float32), np.zeros((TILE, width + WIDTH), np.float32)
    activated = np.zeros((TILE, width + WIDTH), np.float32)
    begin = 0
    while begin < tokens:
        member, end = owners[begin], begin + 1
        while end < min(tokens, begin + TILE) and owners[end] == member:
            end += 1
        own_gate, own_up, own_down = b_gate[member], b_up[member], a_down[member]
        for token in range(begin, end):
            above, gates, ups = slope[token], gate_up[token], gate_up[token][width:]
            to_gates, to_ups, to_activated = of_gates[token - begin], of_ups[token - begin], activated[token - begin]
            for i in range(0, width, WIDTH):
                gate = _plus(get(gates, i, width), low_gate[token], scale, own_gate, i, width)
                up = _plus(get(ups, i, width), low_up[token], scale, own_up, i, width)
                outer = _plus(get(above, i, width), of_low_down[token], F(1), own_down, i, width)
                sigmoid = one / (one + exponential(zero - gate))
                silu, own = gate * sigmoid, outer * sigmoid
                of_gate, of_up = own * up * (one + gate * (one - sigmoid)), outer * silu
                store(to_gates, i, of_gate)
                store(to_ups, i, of_up)
                store(to_activated, i, silu * up)
                put(gates, i, of_gate, width)
                put(ups, i, of_up, width)
        for missing in range(end - begin, TILE):
            of_gates[missing], of_ups[missing], activated[missing] = F(0), F(0), F(0)
        _outer_products(activated, begin, end, of_low_down, F(1), of_a_down[member], width)
        _inner_products(of_gates, begin, end, own_gate, scale, of_low_gate, width)
        _outer_products(of_gates, begin, end, low_gate, scale, of_b_gate[member], width)
        _inner_products(of_ups, begin, end, own_up, scale, of_low_up, width)
        _outer_products(of_ups, begin, end, low_up, scale, of_b_up[member], width)
        begin = end


@inline_loop
def _inner_products(rows: Array, begin: int, end: int, b: Array, scale: Any, low: Array, width: int) -> None:
    """Write scale * (a row . b[k]) to ``low`` for the tokens of a tile."""
    row0, row1, row2, row3 = rows[0], rows[1], rows[2], rows[3]
    zero = splat(F(0))
    for k in range(low.shape[1]):
        s0, s1, s2, s3 = zero, zero, zero, zero
        for i in range(0, width, WIDTH):
            value = get(b, k * width + i, (k + 1) * width)
            s0, s1 = s0 + load(row0, i) * value, s1 + load(row1, i) * value
            s2, s3 = s2 + load(row2, i) * value, s3 + load(row3, i) * value
        low[begin, k] = scale * total(s0)
        if begin + 1 < end:
            low[begin + 1, k] = scale * total(s1)
        if begin + 2 < end:
            low[begin + 2, k] = scale * total(s2)
        if begin + 3 < end:
            low[begin + 3, k] = scale * total(s3)


@inline_loop
def _outer_products(rows: Array, begin: int, end: int, low: Array, scale: Any, of_b: Array, width: int) -> None:
    """Add scale * low[k] * a row to ``of_b[k]`` for the tokens of a tile; rows behind its end are zero."""
    row0, row1, row2, row3 = rows[0], rows[1], rows[2], rows[3]
    last = end - 1
    for k in range(low.shape[1]):
        f0, f1 = splat(scale * low[begin, k]), splat(scale * low[min(begin + 1, last), k])
        f2, f3 = splat(scale * low[min(begin + 2, last), k]), splat(scale * low[min(begin + 3, last), k])
        for i in range(0, width, WIDTH):
            at, stop = k * width + i, (k + 1) * width
            value = get(of_b, at, stop) + f0 * load(row0, i) + f1 * load(row1, i)
            put(of_b, at, value + f2 * load(row2, i) + f3 * load(row3, i), stop)


@inline_loop
def _turn(
    source: Array,
    at: int,
    step: int,
    heads: int,
    width: int,
    cosine: Array,
    sine: Array,
    sign: Any,
    scale: Any,
    to: Array,
    place: int,
    to_step: int,
) -> None:
    """Write ``heads`` vectors, ``step`` apart, rotated by ``sign`` times the angles of a token, and times ``scale``."""
    half = width // 2
    for i in range(0, half, WIDTH):
        c, s = get(cosine, i, half) * splat(scale), get(sine, i, half) * splat(scale * sign)
        for head in range(heads):
            low, to_low = at + head * step, place + head * to_step
            high, to_high = low + half, to_low + half
            a, b = get(source, low + i, high), get(source, high + i, high + half)
            put(to, to_low + i, a * c - b * s, to_high)
            put(to, to_high + i, b * c + a * s, to_high + half)


@inline_loop
def _move(source: Array, at: int, step: int, heads: int, width: int, to: Array, place: int, to_step: int) -> None:
    """Copy ``heads`` vectors that are ``step`` apart."""
    for head in range(heads):
        low, to_low = at + head * step, place + head * to_step
        for i in range(0, width, WIDTH):
            put(to, to_low + i, get(source, low + i, low + width), to_low + width)


@compile_loop
def _clear(to: Array, place: int, count: int) -> None:
    for i in range(place, place + count, WIDTH):
        put(to, i, splat(F(0)), place + count)


@compile_loop
def _clear_behind(to: Array, place: int, heads: int, length: int, rows: int, width: int) -> None:
    """Zero the rows behind the first ``length`` of every head's ``rows``."""
    for head in range(heads):
        _clear(to, place + (head * rows + length) * width, (rows - length) * width)


@compile_loop
def spread(
    rows: Array,
    heads: int,
    groups: int,
    width: int,
    cosine: Array,
    sine: Array,
    scale: Any,
    segments: Array,
    queries: Array,
    keys: Array,
    values: Array,
) -> None:
    """Lay out queries, keys and values ``[tokens, (heads + 2 groups) * width]``, rotated, segment by segment.

    A segment's queries are ``[heads, queries, width]``, times ``scale``; its keys and values ``[groups, keys, width]``,
    those of its prefix before its own. ``segments`` ``[n, 8]``: see ``processor``.
    """
    for number in range(len(segments)):
        start, length, prefix, before, queries_at, most, keys_at, seen = segments[number]
        own, key = queries_at * heads * width, keys_at * groups * width
        for j in range(before + length):
            row = rows[prefix + j] if j < before else rows[start + j - before]
            at, angles, turns = heads * width, cosine[j], sine[j]
            _turn(row, at, width, groups, width, angles, turns, F(1), F(1), keys, key + j * width, seen * width)
            at += groups * width
            _move(row, at, width, groups, width, values, key + j * width, seen * width)
            if j >= before:
                place = own + (j - before) * width
                _turn(row, 0, width, heads, width, angles, turns, F(1), scale, queries, place, most * width)
        _clear_behind(queries, own, heads, length, most, width)
        _clear_behind(keys, key, groups, before + length, seen, width)
        _clear_behind(values, key, groups, before + length, seen, width)


@compile_loop
def spread_slope(rows: Array, heads: int, width: int, segments: Array, to: Array) -> None:
    """Lay out ``[tokens, heads * width]`` as queries are, as it is."""
    for number in range(len(segments)):
        start, length, _, _, queries_at, most, _, _ = segments[number]
        own = queries_at * heads * width
        for j in range(length):
            _move(rows[start + j], 0, width, heads, width, to, own + j * width, most * width)
        _clear_behind(to, own, heads, length, most, width)


@compile_loop
def collect(found: Array, heads: int, width: int, segments: Array, rows: Array) -> None:
    """Undo ``spread_slope``."""
    for number in range(len(segments)):
        start, length, _, _, queries_at, most, _, _ = segments[number]
        own = queries_at * heads * width
        for j in range(length):
            _move(found, own + j * width, most * width, heads, width, rows[start + j], 0, width)


@compile_loop
def collect_slopes(
    queries: Array,
    keys: Array,
    values: Array,
    heads: int,
    groups: int,
    width: int,
    cosine: Array,
    sine: Array,
    scale: Any,
    segments: Array,
    followers: Array,
    follower_starts: Array,
    rows: Array,
) -> None:
    """Undo ``spread`` for gradients: a token of a prefix gets the sum over the segments that follow it."""
    summed = np.empty(groups * width, np.float32)
    for number in range(len(segments)):
        start, length, _, before, queries_at, most, keys_at, seen = segments[number]
        own, key = queries_at * heads * width, keys_at * groups * width
        first, last = follower_starts[number], follower_starts[number + 1]
        for j in range(length):
            row, angles, turns = rows[start + j], cosine[before + j], sine[before + j]
            place = own + j * width
            _turn(queries, place, most * width, heads, width, angles, turns, F(-1), scale, row, 0, width)
            place, at = key + (before + j) * width, heads * width
            if first == last:
                _turn(keys, place, seen * width, groups, width, angles, turns, F(-1), F(1), row, at, width)
                _move(values, place, seen * width, groups, width, row, at + groups * width, width)
                continue
            _sum(keys, place, seen, groups, width, segments, followers[first:last], j, summed)
            _turn(summed, 0, width, groups, width, angles, turns, F(-1), F(1), row, at, width)
            _sum(values, place, seen, groups, width, segments, followers[first:last], j, summed)
            _move(summed, 0, width, groups, width, row, at + groups * width, width)


@compile_loop
def _sum(
    spread: Array,
    place: int,
    seen: int,
    groups: int,
    width: int,
    segments: Array,
    followers: Array,
    j: int,
    to: Array,
) -> None:
    """Write token j's gradients, its own and those of the segments in whose prefix it lies, ``[groups * width]``."""
    for group in range(groups):
        at = place + group * seen * width
        for i in range(0, width, WIDTH):
            value = get(spread, at + i, at + width)
            for number in range(len(followers)):
                follower, offset = segments[followers[number, 0]], followers[number, 1]
                own = (follower[6] * groups + group * follower[7] + offset + j) * width
                value = value + get(spread, own + i, own + width)
            put(to, group * width + i, value, (group + 1) * width)


@compile_loop
def softmax(scores: Array, heads: int, segments: Array) -> None:
    """Turn the scores of all segments ``[heads, queries, keys]`` into weights: query j sees ``before + j + 1`` keys.

    Keys are a multiple of ``WIDTH``.
    """
    at = 0
    widest = 0
    for number in range(len(segments)):
        widest = max(widest, segments[number][7])
    values = np.empty(widest, np.float32)
    low = splat(LOWEST)
    for number in range(len(segments)):
        _, length, _, before, _, queries, _, keys = segments[number]
        for _head in range(heads):
            for j in range(queries):
                row = scores[at : at + keys]
                at += keys
                seen = before + j + 1 if j < length else 0
                whole = (seen + WIDTH - 1) // WIDTH * WIDTH
                most = low
                for i in range(0, whole, WIDTH):
                    value = first(load(row, i), seen - i, low)
                    store(values, i, value)
                    most = larger(value, most)
                middle = splat(highest(most))
                sums = splat(F(0))
                for i in range(0, whole, WIDTH):
                    value = first(exponential(load(values, i) - middle), seen - i, splat(F(0)))
                    store(values, i, value)
                    sums = sums + value
                inverse = splat(F(1) / total(sums))
                for i in range(0, whole, WIDTH):
                    store(row, i, load(values, i) * inverse)
                for i in range(whole, keys, WIDTH):
                    store(row, i, splat(F(0)))


@compile_loop
def softmax_backward(weights: Array, slope: Array, heads: int, segments: Array) -> None:
    """Turn the slope of the weights into that of the scores, in place."""
    at = 0
    for number in range(len(segments)):
        _, length, _, before, _, queries, _, keys = segments[number]
        for _head in range(heads):
            for j in range(queries):
                row, above = weights[at : at + keys], slope[at : at + keys]
                at += keys
                seen = before + j + 1 if j < length else 0
                whole = (seen + WIDTH - 1) // WIDTH * WIDTH
                sums = splat(F(0))
                for i in range(0, whole, WIDTH):
                    sums = sums + load(row, i) * load(above, i)
                along = splat(total(sums))
                for i in range(0, whole, WIDTH):
                    store(above, i, load(row, i) * (load(above, i) - along))
                for i in range(whole, keys, WIDTH):
                    store(above, i, splat(F(0)))


@compile_loop
def cross_entropy(logits: Array, targets: Array, weights: Array, losses: Array) -> None:
    """See ``Kernels.cross_entropy``; ``losses`` ``[n]`` is written."""
    positions, vocabulary = logits.shape
    values = np.empty(vocabulary + WIDTH, np.float32)
    low = splat(LOWEST)
    for position in range(positions):
        row = logits[position]
        target, weight = targets[position], weights[position]
        most = low
        for i in range(0, vocabulary, WIDTH):
            most = larger(first(get(row, i, vocabulary), vocabulary - i, low), most)
        middle = highest(most)
        sums = splat(F(0))
        for i in range(0, vocabulary, WIDTH):
            value = exponential(get(row, i, vocabulary) - splat(middle))
            value = first(value, vocabulary - i, splat(F(0)))
            store(values, i, value)
            sums = sums + value
        all_of_them = total(sums)
        at_target = total(first(load_some(row[target:], 0, 1), 1, splat(F(0))))
        losses[position] = math.log(all_of_them) + middle - at_target
        values[target] -= all_of_them  # the slope is the probability less one, and exact where that is small
        scale = splat(weight / all_of_them)
        for i in range(0, vocabulary, WIDTH):
            put(row, i, load(values, i) * scale, vocabulary)


@compile_loop
def adamw(
    parameters: Array,
    gradients: Array,
    mean: Array,
    square: Array,
    rate: Any,
    shrink: Any,
    mean_scale: Any,
    square_scale: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
) -> None:
    """Move one adapter ``[elements]``.

    ``rate``, ``shrink`` = 1 - rate * decay, and the scales 1 / (1 - beta^t) are of its own step.
    """
    count = len(parameters)
    for i in range(0, count, WIDTH):
        slope, moment = get(gradients, i, count), get(mean, i, count)
        moment = moment + (slope - moment) * splat(F(1) - beta1)
        power = get(square, i, count) * splat(beta2) + slope * slope * splat(F(1) - beta2)
        put(mean, i, moment, count)
        put(square, i, power, count)
        put(gradients, i, splat(F(0)), count)
        step = moment * splat(mean_scale) / (square_root(power * splat(square_scale)) + splat(epsilon))
        put(parameters, i, get(parameters, i, count) * splat(shrink) - step * splat(rate), count)
