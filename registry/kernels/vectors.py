"""Sixteen float32 numbers as one value in compiled loops: one AVX-512 register, two of AVX2, four of NEON.

LLVM makes vector instructions of plain loops only where it can prove that they do not overlap and are long enough;
here they are written down. ``load`` and ``store`` take float32 arrays, or bfloat16 as its bits in uint16, which is
rounded to nearest (halves up).
"""

# Numba gives its decorators no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,misc,no-untyped-def"

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16

_FLOAT, _INT, _SHORT = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_FLOATS, _INTS = ir.VectorType(_FLOAT, WIDTH), ir.VectorType(_INT, WIDTH)
_SHORTS, _BITS = ir.VectorType(_SHORT, WIDTH), ir.VectorType(ir.IntType(1), WIDTH)
_FUSE = ("contract",)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


LANES = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _constant(kind: Any, value: Any) -> Any:
    return ir.Constant(kind, [value] * WIDTH)


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), _constant(_INTS, 0))


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _address(context: Any, builder: Any, signature: Any, array: Any, place: Any) -> tuple[Any, Any, int]:
    """Return the address of an element, the vector type there, and the element's size."""
    kind = signature.args[0]
    data = context.make_array(kind)(context, builder, array).data
    is_bits = kind.dtype == types.uint16
    vector, size = (_SHORTS, 2) if is_bits else (_FLOATS, 4)
    at = builder.gep(data, [place])
    return builder.bitcast(at, vector.as_pointer()), vector, size


def _widen(builder: Any, value: Any) -> Any:
    if value.type == _FLOATS:
        return value
    return builder.bitcast(builder.shl(builder.zext(value, _INTS), _constant(_INTS, 16)), _FLOATS)


def _narrow(builder: Any, value: Any, vector: Any) -> Any:
    if vector == _FLOATS:
        return value
    bits = builder.add(builder.bitcast(value, _INTS), _constant(_INTS, 0x8000))
    return builder.trunc(builder.lshr(bits, _constant(_INTS, 16)), _SHORTS)


def _before(builder: Any, count: Any) -> Any:
    """Return which lanes lie before ``count``."""
    lanes = ir.Constant(_INTS, list(range(WIDTH)))
    return builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, _INT), _INTS))


@intrinsic
def load(_context, array, place):
    """Return the sixteen elements from ``place`` on."""

    def generate(context, builder, signature, arguments):
        at, _, size = _address(context, builder, signature, *arguments)
        value = builder.load(at)
        value.align = size
        return _widen(builder, value)

    return LANES(array, types.intp), generate


@intrinsic
def load_some(_context, array, place, count):
    """Return the ``count`` elements from ``place`` on, and 0 behind them."""

    def generate(context, builder, signature, arguments):
        array, place, count = arguments
        at, vector, size = _address(context, builder, signature, array, place)
        name = "llvm.masked.load.v16i16.p0" if vector == _SHORTS else "llvm.masked.load.v16f32.p0"
        zero = ir.Constant(vector, None)
        value = _call(builder, name, vector, [at, _INT(size), _before(builder, count), zero])
        return _widen(builder, value)

    return LANES(array, types.intp, types.intp), generate


@intrinsic
def store(_context, array, place, value):
    """Write sixteen elements from ``place`` on."""

    def generate(context, builder, signature, arguments):
        array, place, value = arguments
        at, vector, size = _address(context, builder, signature, array, place)
        builder.store(_narrow(builder, value, vector), at).align = size

    return types.void(array, types.intp, LANES), generate


@intrinsic
def store_some(_context, array, place, value, count):
    """Write the first ``count`` lanes from ``place`` on."""

    def generate(context, builder, signature, arguments):
        array, place, value, count = arguments
        at, vector, size = _address(context, builder, signature, array, place)
        name = "llvm.masked.store.v16i16.p0" if vector == _SHORTS else "llvm.masked.store.v16f32.p0"
        value = _narrow(builder, value, vector)
        _call(builder, name, ir.VoidType(), [value, at, _INT(size), _before(builder, count)])

    return types.void(array, types.intp, LANES, types.intp), generate


@intrinsic
def splat(_context, value):
    """Return a float32 in all lanes."""

    def generate(_, builder, _signature, arguments):
        return _splat(builder, arguments[0], _FLOATS)

    return LANES(types.float32), generate


@intrinsic
def first(_context, value, count, other):
    """Return the first ``count`` lanes of ``value`` and the rest of ``other``."""

    def generate(_, builder, _signature, arguments):
        value, count, other = arguments
        return builder.select(_before(builder, count), value, other)

    return LANES(LANES, types.intp, LANES), generate


@intrinsic
def total(_context, value):
    """Return the sum of the lanes."""

    def generate(_, builder, _signature, arguments):
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _FLOATS])
        name = "llvm.vector.reduce.fadd.v16f32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [_FLOAT(0.0), arguments[0]], fastmath=("reassoc",))

    return types.float32(LANES), generate


@intrinsic
def highest(_context, value):
    """Return the largest of the lanes."""

    def generate(_, builder, _signature, arguments):
        return _call(builder, "llvm.vector.reduce.fmax.v16f32", _FLOAT, [arguments[0]])

    return types.float32(LANES), generate


@intrinsic
def larger(_context, one, other):
    """Return the larger of each lane."""

    def generate(_, builder, _signature, arguments):
        return _larger(builder, *arguments)

    return LANES(LANES, LANES), generate


def _larger(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def _smaller(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", one, other), one, other)


@intrinsic
def square_root(_context, value):
    """Return the square root of each lane."""

    def generate(_, builder, _signature, arguments):
        return _call(builder, "llvm.sqrt.v16f32", _FLOATS, [arguments[0]])

    return LANES(LANES), generate


LOG2_E = 1.4426950408889634
POWER_OF_TWO = (2.16129212e-04, 1.24678448e-03, 9.67545173e-03, 5.54852805e-02, 2.40229306e-01, 6.93147044e-01, 1.0)
"""2^x for x from 0 to 1, highest power first: a least-squares fit of ours with a relative error below 3e-9."""


@intrinsic
def exponential(_context, value):
    """Return e to the power of each lane, to 3e-7 of it; it stops at e^-87, and what is not a number remains so."""

    def generate(_, builder, _signature, arguments):
        power = builder.fmul(arguments[0], _constant(_FLOATS, LOG2_E))
        low, high = _constant(_FLOATS, -126.0), _constant(_FLOATS, 127.0)
        bounded = _smaller(builder, _larger(builder, power, low), high)
        whole = _call(builder, "llvm.floor.v16f32", _FLOATS, [bounded])
        part = builder.fsub(bounded, whole)
        result = _constant(_FLOATS, POWER_OF_TWO[0])
        for coefficient in POWER_OF_TWO[1:]:
            result = builder.fadd(builder.fmul(result, part, flags=_FUSE), _constant(_FLOATS, coefficient), flags=_FUSE)
        exponent = builder.add(builder.fptosi(whole, _INTS), _constant(_INTS, 127))
        scale = builder.bitcast(builder.shl(exponent, _constant(_INTS, 23)), _FLOATS)
        found = builder.fmul(result, scale)
        is_number = builder.fcmp_ordered("ord", power, power)
        return builder.select(is_number, found, power)

    return LANES(LANES), generate


def _arithmetic(name: str) -> Callable[[Any, Any], Any]:
    @intrinsic
    def operation(_context, one, other):
        def generate(_, builder, _signature, arguments):
            return getattr(builder, name)(
                *arguments, flags=_FUSE if name != "fdiv" else ("arcp", "afn", "contract", "reassoc")
            )

        return LANES(LANES, LANES), generate

    def chosen(one, other):
        def call(one, other):
            return operation(one, other)

        return call if one == LANES and other == LANES else None

    return chosen


for _operator, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    overload(_operator)(_arithmetic(_name))
