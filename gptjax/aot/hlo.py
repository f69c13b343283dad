"""What a compiled program moves: read from the text of its HLO, with loops counted as they run.

In: ``compiled.as_text()``. Out: bytes read from and written to a device's memory, and bytes that
collectives bring over the links, of one call on one device. XLA's own ``cost_analysis`` counts the
body of a loop once, and moves inside a TPU's fast memory as if they were of the large one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "token": 0, "opaque": 0}  # of others the name ends in them: f32, bf16, s4
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What names a place and moves nothing, and the ends of what its beginning was counted for.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "add-dependency"}
FREE_CALLS = ("AllocateBuffer", "Sharding", "ConcatBitcast", "AssumeGatherIndicesInBound")
PIECE = "async_collective_fusion"
SLICES = {"dynamic-slice", "slice", "gather"}  # of a large operand they read what they give
SEES_THROUGH = {"bitcast", "reshape"}
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass
class Traffic:
    """Bytes of one call on one device; ``collectives``: kind -> (calls, bytes, bytes over links).

    ``bytes`` are those of the array, as the whole group of devices has it; over the links goes what
    a ring would send from each device. ``unknown_loops``: how many loops of a length that only the
    call knows were counted as one round.
    """

    memory: float = 0.0
    collectives: dict[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    @property
    def link_bytes(self) -> float:
        """Bytes that each device sends, over all kinds."""
        return sum(sent for *_, sent in self.collectives.values())

    def add(self, other: Traffic, times: float = 1) -> None:
        """Count ``other`` in, so many times."""
        self.memory += times * other.memory
        self.unknown_loops += other.unknown_loops
        for kind, counted in other.collectives.items():
            before = self.collectives.get(kind, (0.0, 0.0, 0.0))
            self.collectives[kind] = tuple(
                b + times * c for b, c in zip(before, counted, strict=True)
            )


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: its bytes as they lie in memory, padded to tiles, and whether in the large one."""

    bytes: float
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Op:
    """One line of a computation."""

    name: str
    kind: str
    shapes: tuple[Shape, ...]  # of its result, a tuple's one by one
    operands: tuple[str, ...]
    rest: str  # what stands after the operands, of a parameter or constant in their place
    is_root: bool

    def called(self, attribute: str) -> list[str]:
        """The computations that an attribute names."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest)
        return re.findall(r"[\w.\-]+", found[1]) if found else []


Computation = dict[str, Op]


def traffic(text: str) -> Traffic:
    """Bytes of one call of a compiled program, from its text."""
    return _Program(text).of(_Program.ENTRY)


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type as HLO writes it: "(f32[8,128]{1,0:T(8,128)S(1)}, s32[])"."""
    return tuple(_shape(*found.groups("")) for found in _SHAPE.finditer(text))


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    bits = BITS.get(dtype) if dtype in BITS else int(re.search(r"\d+", dtype)[0])
    sizes = [int(size.lstrip("<=")) for size in dims.split(",") if size]
    order, _, tiles = layout.partition(":")
    if sizes and (tile := re.match(r"T\(([\d,]+)\)", tiles)):
        # Minor dimensions first, as the layout lists them; the last of a tile is the most minor.
        minor = [int(axis) for axis in order.split(",")]
        for axis, step in zip(minor, reversed(tile[1].split(",")), strict=False):
            sizes[axis] = math.ceil(sizes[axis] / int(step)) * int(step)
    space = re.search(r"S\((\d+)\)", tiles)
    return Shape(math.prod(sizes) * bits / 8, not space or space[1] == "0")


class _Program:
    """A module: its computations, and what each moves when it is run once."""

    ENTRY = "ENTRY"

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.parts = 1
        if found := re.search(r"num_partitions=(\d+)", text):
            self.parts = int(found[1])
        ops: Computation = {}
        for line in text.splitlines():
            if begins := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
                ops = self.computations[self.ENTRY if begins[1] else begins[2]] = {}
            elif op := _op(line):
                ops[op.name] = op
        self.done: dict[str, Traffic] = {}

    def of(self, name: str) -> Traffic:
        """Of a computation that is run as such, not fused into one operation."""
        if name not in self.done:
            self.done[name], channels = Traffic(), set()
            for op in self.computations[name].values():
                self._count(op, self.computations[name], self.done[name], channels)
        return self.done[name]

    def _count(self, op: Op, ops: Computation, total: Traffic, channels: set[str]) -> None:
        kind = op.kind
        if kind == "while":
            trips = self._trips(op)
            total.unknown_loops += trips is None
            for part in op.called("body") + op.called("condition"):
                total.add(self.of(part), 1 if trips is None else trips)
        elif kind == "conditional":
            names = op.called("branch_computations")
            names = names or op.called("true_computation") + op.called("false_computation")
            # The costliest: a step that is not run costs nothing.
            total.add(max(map(self.of, names), key=lambda part: part.memory + part.link_bytes))
        elif kind in ("call", "async-start"):
            for part in op.called("to_apply") + op.called("calls"):
                total.add(self.of(part))
        elif kind not in FREE and not kind.endswith(("-done", "-update")):
            total.memory += self._moved(op, ops)
            for channel, each in self._collectives(op, ops):
                # Beside other work a TPU begins one, does pieces of it (in rounds of a loop, too)
                # and ends it: beginning and end each have it in them, and so has every piece.
                # Whole ones beside each other may have one channel.
                if _collective(op) or not channel or channel not in channels:
                    total.add(each)
                channels.add(channel)

    def _trips(self, op: Op) -> int | None:
        """How many rounds a loop has: a TPU's program says it by its counter alone."""
        if found := _TRIPS.search(op.rest):
            return int(found[1])
        condition, body = (self.computations[op.called(name)[0]] for name in ("condition", "body"))
        test = _root(condition)
        if test.kind != "compare" or "direction=LT" not in test.rest:
            return None
        counter, end = (condition[operand] for operand in test.operands)
        index = re.search(r"index=(\d+)", counter.rest)
        if not index or end.kind != "constant" or not end.rest.isdigit():
            return None
        # It counts from 0; products that send pieces on between them do two in a round.
        after = body[_root(body).operands[int(index[1])]]
        given = [body[operand] for operand in after.operands if operand in body]
        steps = [int(o.rest) for o in given if o.kind == "constant" and o.rest.isdigit()]
        return math.ceil(int(end.rest) / (steps[0] if after.kind == "add" and steps else 1))

    def _moved(self, op: Op, ops: Computation) -> float:
        """Bytes of the large memory that one operation reads and writes."""
        if op.kind == "custom-call" and any(name in op.rest for name in FREE_CALLS):
            return 0.0
        if op.kind in ("copy-start", "slice-start"):
            to, of = op.shapes[:2] if op.kind == "copy-start" else (op.shapes[-2], op.shapes[0])
            return to.bytes * (to.in_memory + of.in_memory)
        if _collective(op):
            return 0.0  # its memory is counted with it
        given = [shape for name in op.operands for shape in ops[name].shapes]
        if op.kind == "fusion":
            return self._fused(op, ops)
        if op.kind in SLICES:
            return _bytes(op.shapes) * (1 + given[0].in_memory)
        if op.kind == "dynamic-update-slice":
            return given[1].bytes * (given[1].in_memory + given[0].in_memory)
        return _bytes(given) + _bytes(op.shapes)

    def _fused(self, op: Op, ops: Computation) -> float:
        """Of a fusion: of what it only slices it reads the slices; what it updates, in place."""
        (name,) = op.called("calls")
        inside = self.computations[name]
        read = 0.0
        for i, operand in enumerate(op.operands):
            if (whole := _bytes(ops[operand].shapes)) > 0:
                read += min(whole, self._reads(inside, i, whole))
        root = _root(inside)
        roots = [inside[n] for n in root.operands] if root.kind == "tuple" else [root]
        written = 0.0
        for result, shape in zip(roots, op.shapes, strict=False):
            while result.kind in SEES_THROUGH:
                result = inside[result.operands[0]]
            if result.kind == "parameter" or _collective(result):
                continue  # handed on as it came
            update = result.kind == "dynamic-update-slice"
            size = _all(inside[result.operands[1]].shapes) if update else shape.bytes
            written += size * shape.in_memory
        return read + written

    def _reads(self, inside: Computation, i: int, whole: float) -> float:
        """Bytes that a fused computation reads of its operand i, which has ``whole`` of them."""
        names = {op.name for op in inside.values() if op.kind == "parameter" and op.rest == str(i)}
        total = 0.0
        for op in inside.values():  # in which an operand stands before its users
            for place, operand in enumerate(op.operands):
                if operand not in names or op.kind == "tuple" or _collective(op):
                    continue
                if op.kind in SEES_THROUGH:
                    names.add(op.name)
                elif op.kind in SLICES and not place:
                    total += _all(op.shapes)
                elif op.kind == "fusion":
                    (name,) = op.called("calls")
                    total += self._reads(self.computations[name], place, whole)
                elif op.kind != "dynamic-update-slice" or place:
                    total += whole
        return total

    def _collectives(self, op: Op, ops: Computation) -> Iterator[tuple[str, Traffic]]:
        """The collectives that an operation is, or has in it, each with its channel."""
        if kind := _collective(op):
            operands = [shape for name in op.operands for shape in ops[name].shapes]
            given, n = _all(operands), self._group(op)
            size, sent = {
                "all-reduce": (given, 2 * given * (n - 1) / n),
                "all-gather": (given * n, given * (n - 1)),
                "reduce-scatter": (given, given * (n - 1) / n),
                "all-to-all": (given, given * (n - 1) / n),
                "collective-permute": (given, given),
            }[kind]
            results = op.shapes
            if op.kind in ("all-gather-start", "collective-permute-start"):  # operands, results
                results = op.shapes[len(operands) : 2 * len(operands)]
            channel = re.search(r"channel_id=(\d+)", op.rest)
            memory = _bytes(operands) + _bytes(results)
            yield channel[1] if channel else "", Traffic(memory, {kind: (1, size, sent)})
        elif op.kind == "fusion":
            for name in op.called("calls"):
                if name.startswith(PIECE):
                    continue
                for inner in self.computations[name].values():
                    yield from self._collectives(inner, self.computations[name])

    def _group(self, op: Op) -> int:
        """How many devices take part in one group of a collective."""
        if found := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", op.rest):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
            return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
        if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", op.rest):
            return int(found[2])
        if found := re.search(r"replica_groups=\{\{([\d,]+)\}", op.rest):
            return found[1].count(",") + 1
        return self.parts


def _op(line: str) -> Op | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
    if not found:
        return None
    rest = found[3]
    end = _closing(rest, 0) + 1 if rest[0] == "(" else rest.index(" ")
    of, rest = shapes(rest[:end]), rest[end:].lstrip()
    kind, _, rest = rest.partition("(")
    end = _closing(f"({rest}", 0) - 1
    inside, rest = rest[:end], rest[end + 1 :]
    operands = re.findall(r"%([\w.\-]+)", inside)
    if kind in ("parameter", "constant"):
        rest = inside  # its number, its value
    return Op(found[2], kind, of, tuple(operands), rest, bool(found[1]))


def _root(computation: Computation) -> Op:
    """The operation whose result is the computation's."""
    return next(op for op in computation.values() if op.is_root)


def _collective(op: Op) -> str:
    """Which one an operation is; "" of others."""
    kind = op.kind.removesuffix("-start")
    return kind if kind in COLLECTIVES else ""


def _closing(text: str, at: int) -> int:
    """Where the bracket at a place is closed."""
    depth = 0
    for found in re.finditer(r"[()]", text[at:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return at + found.start()
    return len(text)


def _bytes(arrays: tuple[Shape, ...] | list[Shape]) -> float:
    """Of those that lie in the large memory."""
    return sum(shape.bytes for shape in arrays if shape.in_memory)


def _all(arrays: tuple[Shape, ...] | list[Shape]) -> float:
    return sum(shape.bytes for shape in arrays)
