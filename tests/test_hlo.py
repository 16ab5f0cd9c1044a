"""Of a program written by hand, in the form in which XLA prints one."""

import pytest

from bench.hlo import Operation, all_reduces, num_bytes, operations

PROGRAM = """HloModule jit_f

%fused_computation (a: f32[8,4]) -> f32[8,4] {
  ROOT %negate.1 = f32[8,4]{1,0} negate(%a)
}

%body.1 (t.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %item.1 = f32[8,4]{1,0} get-tuple-element(%t.1), index=1
  ROOT %add.1 = f32[8,4]{1,0} add(%item.1, %item.1)
}

ENTRY %main.1 (x.1: f32[8,4], n.1: s32[]) -> (f32[8,4]) {
  %x.1 = f32[8,4]{1,0} parameter(0), metadata={op_name="x"}
  %n.1 = s32[] parameter(1)
  %fusion.1 = f32[8,4]{1,0} fusion(%x.1), kind=kLoop, metadata={op_name="jit(f)/neg"}
  %conv.1 = (bf16[8,2]{1,0}, u8[0]{0}) custom-call(%fusion.1, %x.1), custom_call_target="__cudnn$c"
  %part.1 = bf16[8,2]{1,0} get-tuple-element(%conv.1), index=0
  %loop.1 = f32[8,4] while(%n.1), body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %tuple.1 = (f32[8,4]{1,0}) tuple(%fusion.1)
}
"""


def test_bytes_are_those_of_all_arrays_of_a_type():
    assert num_bytes("f32[8,4]{1,0:T(8,128)}") == 8 * 4 * 4
    assert num_bytes("(bf16[3]{0}, (pred[], u8[0]{0}))") == 3 * 2 + 1
    assert num_bytes("(f32[2]{0}, s8[33554432]{0})") == 8  # cuBLAS's workspace


def test_operations_are_the_entrys_and_its_loops_with_operands_and_results():
    array = 8 * 4 * 4
    assert list(operations(PROGRAM)) == [
        Operation("fusion", 2 * array, "jit(f)/neg"),
        Operation("cudnn$c", 2 * array + 8 * 2 * 2, ""),
        Operation("add", 3 * 3 * array, ""),
    ]


def test_a_loop_that_does_not_tell_its_rounds_is_refused():
    with pytest.raises(ValueError, match=r"%loop\.1"):
        list(operations(PROGRAM.replace("known_trip_count", "unknown")))


def test_all_reduces_are_found_and_other_collectives_refused():
    line = "  %{0} = (f32[4]{{0}}, f32[2]{{0}}) {0}(%a, %b), channel_id=1\n"
    assert all_reduces(line.format("all-reduce") + line.format("all-reduce-start")) == [24, 24]
    with pytest.raises(ValueError, match="all-gather"):
        all_reduces(line.format("all-gather"))
