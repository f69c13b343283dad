"""What a program moves, read from its text: sizes by hand, and programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from gptjax.aot import hlo

# A loop of 3 rounds as a TPU's compiler writes it: its condition alone says how many.
LOOP = """HloModule m, num_partitions=8

%cond (c: (s32[], f32[8,128])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %three = s32[]{:T(128)} constant(3)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)S(1)} compare(%i, %three), direction=LT
}

%body (b: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %b = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%b), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%b), index=1
  %y = f32[8,128]{1,0:T(8,128)} negate(%x), metadata={op_name="a (strange) %name"}
  ROOT %t = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%i.1, /*index=1*/%y)
}

ENTRY %main (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%p), condition=%cond, body=%body
}
"""
ARRAY, COUNTER = 8 * 128 * 4, 4


def test_a_loop_counts_as_often_as_it_runs():
    rounds = 3 * (2 * ARRAY + 2 * COUNTER)  # negate; the condition reads the counter and the 3
    assert hlo.traffic(LOOP).memory == rounds and hlo.traffic(LOOP).unknown_loops == 0
    known = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert hlo.traffic(known).memory == rounds / 3 * 5
    two = "%two = s32[] constant(2)\n  %i.2 = s32[]{:T(128)S(6)} add(%i.1, %two)\n  ROOT"
    by_two = LOOP.replace("ROOT %t =", f"{two} %t =").replace("tuple(%i.1", "tuple(%i.2")
    assert hlo.traffic(by_two).memory == rounds / 3 * 2 + 2 * COUNTER  # 0 and 2; the 2 is read
    unknown = hlo.traffic(LOOP.replace("direction=LT", "direction=NE"))
    assert (unknown.memory, unknown.unknown_loops) == (rounds / 3, 1)


@pytest.mark.parametrize(
    ("text", "expected", "in_memory"),
    [
        ("f32[8,128]{1,0:T(8,128)}", 4096, True),
        ("f32[84,384]{1,0:T(8,128)}", 88 * 384 * 4, True),
        ("bf16[6,384,64]{1,2,0:T(8,128)(2,1)}", 6 * 384 * 64 * 2, True),  # 64 rows of 384
        ("bf16[6,384,64]{2,1,0:T(8,128)(2,1)}", 6 * 384 * 128 * 2, True),
        ("pred[10]{0}", 10, True),
        ("s4[6]{0}", 3, True),
        ("f32[]", 4, True),
        ("u32[2]{0:T(128)S(1)}", 512, False),
        ("f32[2,3]{1,0:S(0)}", 24, True),
    ],
)
def test_an_array_lies_in_tiles_and_in_one_of_two_memories(text, expected, in_memory):
    assert hlo.shapes(text) == (hlo.Shape(expected, in_memory),)
    assert len(hlo.shapes(f"({text}, /*index=1*/s32[], ({text}))")) == 3


FUSED = """HloModule m

%reads (p0: f32[12,40], p1: s32[], p2: f32[12,40]) -> f32[12,40] {
  %p0 = f32[12,40]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[12,40]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,40]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,40}
  %twice = f32[1,40]{1,0} add(%row, %row)
  ROOT %put = f32[12,40]{1,0} dynamic-update-slice(%p2, %twice, %p1, %zero)
}

ENTRY %main (a: f32[12,40], i: s32[], b: f32[12,40]) -> f32[12,40] {
  %a = f32[12,40]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[12,40]{1,0} parameter(2)
  ROOT %f = f32[12,40]{1,0} fusion(%a, %i, %b), kind=kLoop, calls=%reads
}
"""


def test_a_fusion_reads_what_it_slices_and_writes_what_it_updates():
    row, index = 40 * 4, 4
    assert hlo.traffic(FUSED).memory == row + index + row
    whole = FUSED.replace("dynamic-slice(%p0, %p1, %zero)", "reduce(%p0, %zero)")
    assert hlo.traffic(whole).memory == 12 * row + index + row


MOVES = """HloModule m

ENTRY %main (a: f32[16,128]) -> f32[16,128] {
  %a = f32[16,128]{1,0:T(8,128)} parameter(0)
  %s = ((f32[16,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a)
  %sd = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%s)
  %e = f32[8,128]{1,0:T(8,128)S(1)} exponential(%sd)
  %c = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%e)
  ROOT %cd = f32[8,128]{1,0:T(8,128)} copy-done(%c)
}
"""


def test_what_stays_in_fast_memory_is_not_counted():
    assert hlo.traffic(MOVES).memory == 2 * ARRAY  # read into it, and written from it


COLLECTIVE = """HloModule m, num_partitions=8

ENTRY %main (a: f32[10,40]) -> f32[10,40] {{
  %a = f32[10,40]{{1,0}} parameter(0)
  ROOT %r = {type} {kind}(%a), channel_id=1, replica_groups={groups}, use_global_device_ids=true
}}
"""
A = 10 * 40 * 4


@pytest.mark.parametrize(
    ("kind", "groups", "size", "sent"),
    [
        ("all-reduce", "{{0,1,2,3},{4,5,6,7}}", A, 2 * A * 3 / 4),
        ("all-reduce-start", "[2,4]<=[8]", A, 2 * A * 3 / 4),
        ("all-reduce", "mesh['data'=2,'fsdp'=4] {'fsdp'}", A, 2 * A * 3 / 4),
        ("all-reduce", "mesh['data'=2,'fsdp'=4] {'data','fsdp'}", A, 2 * A * 7 / 8),
        ("all-reduce", "{}", A, 2 * A * 7 / 8),
        ("all-gather", "[4,2]<=[2,4]T(1,0)", 2 * A, A),
        ("reduce-scatter", "[1,8]<=[8]", A, A * 7 / 8),
        ("all-to-all", "[1,8]<=[8]", A, A * 7 / 8),
        ("collective-permute", "{}", A, A),
    ],
)
def test_a_collective_sends_what_a_ring_of_its_group_would(kind, groups, size, sent):
    text = COLLECTIVE.format(kind=kind, groups=groups, type="f32[10,40]{1,0}")
    found = hlo.traffic(text)
    assert found.collectives == {kind.removesuffix("-start"): (1, size, sent)}
    assert found.link_bytes == sent


def test_whole_collectives_of_one_channel_are_as_many_as_there_are():
    one = COLLECTIVE.format(kind="all-reduce", groups="{}", type="f32[10,40]{1,0}")
    line = next(line for line in one.splitlines() if "ROOT" in line)
    two = one.replace(line, line.replace("ROOT %r", "%q") + "\n" + line)
    assert hlo.traffic(two).collectives == {"all-reduce": (2, 2 * A, 2 * 2 * A * 7 / 8)}


PIECES = """HloModule m, num_partitions=4

%piece (p0: f32[2,8], p1: f32[8,8], p2: f32[16]) -> (f32[16], f32[2,8], f32[8,8]) {
  %p0 = f32[2,8]{1,0} parameter(0)
  %p1 = f32[8,8]{1,0} parameter(1)
  %p2 = f32[16]{0} parameter(2)
  %gathered = f32[8,8]{1,0} all-gather(%p0), channel_id=7, replica_groups=[1,4]<=[4]
  %other = f32[16]{0} negate(%p2)
  ROOT %t = (f32[16], f32[2,8], f32[8,8]) tuple(%other, %p0, %gathered)
}

ENTRY %main (a: f32[2,8], b: f32[8,8], c: f32[16]) -> f32[16] {
  %a = f32[2,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  %c = f32[16]{0} parameter(2)
  %one = (f32[16]{0}, f32[2,8]{1,0}, f32[8,8]{1,0}) fusion(%a, %b, %c), kind=kOutput, calls=%piece
  %a.1 = f32[2,8]{1,0} get-tuple-element(%one), index=1
  %b.1 = f32[8,8]{1,0} get-tuple-element(%one), index=2
  %c.1 = f32[16]{0} get-tuple-element(%one), index=0
  ROOT %two = (f32[16]{0}, f32[2,8]{1,0}, f32[8,8]{1,0}) fusion(%a.1, %b.1, %c.1), calls=%piece
}
"""


def test_a_collective_done_piece_by_piece_beside_other_work_is_one():
    found = hlo.traffic(PIECES)
    part, whole, other = 2 * 8 * 4, 8 * 8 * 4, 16 * 4
    assert found.collectives == {"all-gather": (1, whole, whole - part)}
    assert found.memory == part + whole + 2 * (other + other)
    found = hlo.traffic(PIECES.replace("%piece", "%async_collective_fusion.1"))
    assert (found.collectives, found.memory) == ({}, 2 * (other + other))  # begun elsewhere


def test_of_a_condition_the_costliest_branch_counts():
    branch = "%{0} (p: f32[8]) -> f32[8] {{\n  %p = f32[8]{{0}} parameter(0)\n{1}\n}}\n"
    idle = branch.format("idle", "  ROOT %b = f32[8]{0} bitcast(%p)")
    works = branch.format("works", "  ROOT %n = f32[8]{0} negate(%p)")
    entry = """ENTRY %main (i: s32[], a: f32[8]) -> f32[8] {
  %i = s32[] parameter(0)
  %a = f32[8]{0} parameter(1)
  ROOT %r = f32[8]{0} conditional(%i, %a, %a), branch_computations={%idle, %works}
}
"""
    assert hlo.traffic("\n".join([idle, works, entry])).memory == 2 * 8 * 4


def of(function, *args):
    return hlo.traffic(jax.jit(function).lower(*args).compile().as_text())


def test_a_compiled_program_moves_what_arithmetic_says():
    x = jax.ShapeDtypeStruct((250, 4), jnp.float32)
    assert of(lambda x: x + 1, x).memory == 2 * 4000 + 4 * (of(lambda x: x + 1, x).memory > 8000)

    def rounds(n):
        return of(lambda x: lax.fori_loop(0, n, lambda i, x: jnp.cos(x), x), x).memory

    # A round reads and writes the array; the counter's few bytes beside it.
    assert 7 * 8000 <= rounds(11) - rounds(4) <= 7 * 8100
