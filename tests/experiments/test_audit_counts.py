"""The audit's parser and counts, on programs whose numbers are worked out by hand."""

import json

import pytest

from experiments.benchmark.audit import table
from experiments.benchmark.audit.counts import count, divide, main_loop
from experiments.benchmark.audit.kernels import kernel_of
from experiments.benchmark.audit.launches import Launches, launches, loop_thunk, parse_thunks, read_thunks
from experiments.benchmark.audit.program_text import parse_instruction, parse_program
from experiments.benchmark.audit.target import BANDWIDTH, peak_flops


def lines(text):
    return "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())


def entry(text, *computations):
    """A program whose entry holds these instructions."""
    return parse_program("\n\n".join([*computations, f"ENTRY %main (x: f32[]) -> f32[] {{\n{lines(text)}\n}}"]))


def only_kernel(text, *computations):
    """The one kernel of an entry that is its root."""
    program = entry(text, *computations)
    return kernel_of(program.entry.root, program.entry, program)


def computation(name, text):
    return f"%{name} (x: f32[]) -> f32[] {{\n{lines(text)}\n}}"


def test_an_instruction_is_read_with_its_shapes_operands_and_attributes():
    found = parse_instruction(
        "  ROOT %conv.1 = (bf16[8,3,3,4]{0,3,2,1}, /*index=1*/u8[0]{0}) custom-call(%a.b, /*index=1*/%c-d), "
        'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", '
        'metadata={op_name="jit(f)/conv (1)/x, y" id=2}, backend_config={"known_trip_count":{"n":"3"},"a":"}"}'
    )
    assert (found.name, found.opcode, found.is_root) == ("conv.1", "custom-call", True)
    assert [shape.dtype for shape in found.shapes] == ["bf16", "u8"]
    assert found.shapes[0].dims == (8, 3, 3, 4)
    assert found.shapes[0].layout == (0, 3, 2, 1)
    assert found.operands == ("a.b", "c-d")
    assert found.word("custom_call_target") == "__cudnn$convForward"
    assert found.source == "jit(f)/conv (1)/x, y"
    assert found.trip_count == 3
    assert found.word("no_such_attribute") == ""


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("f32[2,3]{1,0}", 24), ("bf16[5]", 10), ("pred[7]", 7), ("f8e4m3fn[4]", 4), ("s4[6]", 3), ("f32[]", 4)],
)
def test_a_shape_knows_its_bytes(shape, expected):
    assert parse_instruction(f"  %x = {shape} parameter(0)").shapes[0].bytes == expected


@pytest.mark.parametrize("text", ["HloModule nothing", "ENTRY %main (x: f32[]) -> f32[] {\n  what is this\n}"])
def test_text_that_is_no_program_is_refused(text):
    with pytest.raises(ValueError, match=r"no ENTRY computation|not an instruction"):
        parse_program(text)


def test_a_programs_computations_and_loops_are_found():
    program = entry(
        """%start = s32[] constant(0)
        ROOT %w = s32[] while(%start), condition=%until, body=%turn, backend_config={"known_trip_count":{"n":"9"}}""",
        computation("until", "ROOT %p = pred[] constant(true)"),
        computation("turn", "ROOT %t = s32[] parameter(0)"),
    )
    assert list(program.computations) == ["until", "turn", "main"]
    loop = main_loop(program)
    assert loop is not None
    assert (loop.name, loop.word("body"), loop.trip_count) == ("w", "turn", 9)


def test_an_elementwise_fusion_reads_its_operands_once_and_writes_its_results():
    # 1000 floats in, used twice; 1000 halves and a float out.
    kernel = only_kernel(
        """%x = f32[1000]{0} parameter(0)
        ROOT %f = (bf16[1000]{0}, f32[]) fusion(%x), kind=kLoop, calls=%both""",
        computation(
            "both",
            """%p = f32[1000]{0} parameter(0)
            %h = bf16[1000]{0} convert(%p)
            %s = f32[] reduce(%p, %p), to_apply=%add
            ROOT %r = (bf16[1000]{0}, f32[]) tuple(%h, %s)""",
        ),
    )
    assert kernel.bytes == 4000 + 2000 + 4
    assert kernel.seconds == pytest.approx(6004 / BANDWIDTH)
    assert not kernel.moves


def test_a_fusion_that_takes_and_updates_parts_moves_only_these():
    # It reads 10 of 1000 floats and writes 10 of them back in place.
    kernel = only_kernel(
        """%x = f32[1000]{0} parameter(0)
        %i = s32[] parameter(1)
        ROOT %f = f32[1000]{0} fusion(%x, %i), kind=kLoop, calls=%part""",
        computation(
            "part",
            """%p = f32[1000]{0} parameter(0)
            %at = s32[] parameter(1)
            %s = f32[10]{0} dynamic-slice(%p, %at), dynamic_slice_sizes={10}
            %d = f32[10]{0} add(%s, %s)
            ROOT %u = f32[1000]{0} dynamic-update-slice(%p, %d, %at)""",
        ),
    )
    # The index is a number of 4 bytes, which two operations read: no more than itself.
    assert kernel.bytes == 40 + 40 + 4


@pytest.mark.parametrize(
    ("body", "moves"),
    [
        ("ROOT %t = f32[8,4]{1,0} transpose(%p), dimensions={1,0}", True),
        ("%c = bf16[4,8]{1,0} convert(%p)\nROOT %t = bf16[8,4]{1,0} transpose(%c), dimensions={1,0}", True),
        ("%n = f32[4,8]{1,0} negate(%p)\nROOT %t = f32[8,4]{1,0} transpose(%n), dimensions={1,0}", False),
        ("ROOT %c = bf16[4,8]{1,0} convert(%p)", False),
    ],
    ids=["transpose", "cast and transpose", "arithmetic and transpose", "cast"],
)
def test_a_layout_change_moves_data_and_computes_nothing(body, moves):
    kernel = only_kernel(
        "%x = f32[4,8]{1,0} parameter(0)\nROOT %f = f32[8,4]{1,0} fusion(%x), kind=kInput, calls=%body",
        computation("body", f"%p = f32[4,8]{{1,0}} parameter(0)\n{body}"),
    )
    assert kernel.moves is moves


def convolution(target, operands, result, dtype="bf16"):
    left, right, out = (f"{dtype}[{','.join(map(str, dims))}]" for dims in (*operands, result))
    attributes = f'dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv{target}"'
    return only_kernel(
        f"""%a = {left} parameter(0)
        %b = {right} parameter(1)
        ROOT %c = ({out}, u8[64]{{0}}) custom-call(%a, %b), window={{size=3x3 pad=1_1x1_1}}, {attributes}"""
    )


# Images of 2×8×8×4, a kernel of 3×3 from 4 to 16 channels, outputs of 2×8×8×16.
IMAGES, KERNEL, OUTPUTS = (2, 8, 8, 4), (16, 3, 3, 4), (2, 8, 8, 16)


@pytest.mark.parametrize(
    ("target", "operands", "result", "kind"),
    [
        ("Forward", (IMAGES, KERNEL), OUTPUTS, "forward"),
        ("BackwardInput", (OUTPUTS, KERNEL), IMAGES, "input gradient"),
        ("BackwardFilter", (IMAGES, OUTPUTS), KERNEL, "weight gradient"),
    ],
)
def test_a_convolution_and_its_gradients_take_the_same_arithmetic(target, operands, result, kind):
    kernel = convolution(target, operands, result)
    # 2·8·8·16 outputs, each of 3·3·4 multiply-adds.
    assert kernel.flop == 2 * 2048 * 36
    assert [(each.kind, each.dtype) for each in kernel.arithmetic] == [(kind, "bf16")]
    # 512 + 576 + 2048 halves; the library's scratch memory does not count.
    assert kernel.bytes == 2 * (512 + 576 + 2048)


def test_a_depthwise_convolution_sees_one_channel():
    assert convolution("Forward", ((2, 8, 8, 16), (16, 3, 3, 1)), OUTPUTS).flop == 2 * 2048 * 9


def test_a_convolution_in_float32_is_told_apart_and_takes_twice_the_time():
    slow, fast = (convolution("Forward", (IMAGES, KERNEL), OUTPUTS, dtype).arithmetic[0] for dtype in ("f32", "bf16"))
    assert slow.seconds == 2 * fast.seconds


@pytest.mark.parametrize(
    ("precision", "rate"),
    [("", peak_flops("f32")), (", operand_precision={highest,highest}", peak_flops("f32", exact=True))],
    ids=["TF32", "exact"],
)
def test_a_matrix_product_takes_the_rate_of_its_precision(precision, rate):
    attributes = f"lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}{precision}"
    kernel = only_kernel(
        """%a = f32[4096,64]{1,0} parameter(0)
        %b = f32[64,4096]{1,0} parameter(1)
        ROOT %f = f32[4096,4096]{1,0} fusion(%a, %b), kind=kCustom, calls=%inside""",
        computation(
            "inside",
            f"""%p = f32[4096,64]{{1,0}} parameter(0)
            %q = f32[64,4096]{{1,0}} parameter(1)
            ROOT %d = f32[4096,4096]{{1,0}} dot(%p, %q), {attributes}""",
        ),
    )
    assert kernel.flop == 2 * 4096 * 4096 * 64
    assert sum(each.seconds for each in kernel.arithmetic) == pytest.approx(2 * 4096 * 4096 * 64 / rate)


def test_a_librarys_matrix_product_is_counted_by_its_configuration():
    config = {"gemm_backend_config": {"dot_dimension_numbers": {"lhs_contracting_dimensions": ["0"]}}}
    kernel = only_kernel(
        f"""%a = bf16[64,128]{{1,0}} parameter(0)
        %b = bf16[64,256]{{1,0}} parameter(1)
        ROOT %d = (bf16[128,256]{{1,0}}, s8[99]{{0}}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", \
backend_config={json.dumps(config)}"""
    )
    assert kernel.flop == 2 * 64 * 128 * 256
    assert kernel.bytes == 2 * (64 * 128 + 64 * 256 + 128 * 256)


# A call does 16 steps: one copy before the loop, and 4 turns of 4 steps. A turn has a convolution in float32, an
# average over devices and a conditional, whose dearer branch has two kernels.
LOOP = """
HloModule tiny, is_scheduled=true

%cheap (x: f32[]) -> f32[] {
  %c = f32[100000]{0} parameter(0)
  ROOT %c1 = f32[100000]{0} negate(%c)
}

%dear (x: f32[]) -> f32[] {
  %d = f32[100000]{0} parameter(0)
  %d1 = f32[100000]{0} negate(%d)
  ROOT %d2 = f32[100000]{0} copy(%d1)
}

%until (x: f32[]) -> f32[] {
  %u = (f32[100000]{0}, s32[]) parameter(0)
  ROOT %u1 = pred[] constant(true)
}

%turn (x: f32[]) -> f32[] {
  %t = (f32[100000]{0}, s32[]) parameter(0)
  %t0 = f32[100000]{0} get-tuple-element(%t), index=0
  %t1 = s32[] get-tuple-element(%t), index=1
  %a = f32[2,8,8,4]{3,2,1,0} bitcast(%t0)
  %b = f32[16,3,3,4]{3,2,1,0} bitcast(%t0)
  %conv = (f32[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convForward"
  %mean = f32[100000]{0} all-reduce-start(%t0), to_apply=%add
  %means = f32[100000]{0} all-reduce-done(%mean)
  %choice = f32[100000]{0} conditional(%t1, %means, %means), branch_computations={%cheap, %dear}
  ROOT %next = (f32[100000]{0}, s32[]) tuple(%choice, %t1)
}

ENTRY %main (x: f32[]) -> f32[] {
  %x = f32[100000]{0} parameter(0)
  %x1 = f32[100000]{0} copy(%x)
  %x2 = s32[] constant(0)
  %x3 = (f32[100000]{0}, s32[]) tuple(%x1, %x2)
  %loop = (f32[100000]{0}, s32[]) while(%x3), condition=%until, body=%turn, \
backend_config={"known_trip_count":{"n":"4"}}
  ROOT %x4 = f32[100000]{0} get-tuple-element(%loop), index=0
}
"""


def test_a_step_is_its_share_of_the_loops_turn():
    work = divide(parse_program(LOOP), steps=16)
    step, call = count(work.step), count(work.call)
    assert work.steps_in_a_turn == 4
    # The convolution, the average, and two of the dearer branch, for four steps.
    assert step.kernels == 4 / 4
    # The convolution alone moves less than 0.2 MB: 4 bytes of 512 + 576 + 2048 numbers.
    assert step.small_kernels == 1 / 4
    assert step.bytes == (4 * 3136 + 3 * 800_000) / 4
    assert step.flop == 2 * 2048 * 36 / 4
    assert step.layout_changes == 1 / 4
    assert step.layout_change_bytes == 800_000 / 4
    assert step.convolutions == {"forward f32": 1 / 4}
    assert step.float32_convolutions == 1 / 4
    assert step.conditionals == 1 / 4
    assert step.collectives == {"all-reduce": 1 / 4}
    assert step.collective_bytes == 400_000 / 4
    assert step.endless_loops == 0
    assert step.seconds == pytest.approx((4 * 3136 + 3 * 800_000) / BANDWIDTH / 4)
    assert (call.kernels, call.bytes) == (1, 800_000)


def test_a_program_without_a_loop_is_one_turn():
    work = divide(entry("%x = f32[9]{0} parameter(0)\nROOT %z = f32[9]{0} negate(%x)"), steps=2)
    assert work.loop is None
    assert (count(work.step).kernels, count(work.call).kernels) == (1 / 2, 0)


def test_a_loop_of_unknown_length_is_told():
    text = LOOP.replace(', backend_config={"known_trip_count":{"n":"4"}}', "")
    # It cannot be divided into steps, so that the copy before it counts, too.
    step = count(divide(parse_program(text), steps=1).step)
    assert (step.kernels, step.endless_loops) == (5, 1)


# A buffer of two launches, then a loop: a buffer that holds one of two branches, a convolution, and a conditional with
# one launch or three.
THUNKS = """\
000: kCommandBuffer [source       | next=084 (1)]
    001: kCopy         [source | sink] kCopy
    002: kCustomKernel [source | sink] loop_add_fusion grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
003: kWhile         [prev=000 (1) | sink]
condition:
    004: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
  body:
    000: kCommandBuffer      [source        | next=000 (4) ]
        005: kConditional        [prev=144 (1)  | next=158 (1) ]
          branch_0:
            006: kCustomKernel [source | sink] a grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
          branch_1:
            007: kCustomKernel [source | sink] b grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
    008: kConvolution        [prev=000 (1)  | next=000 (1) ] kConvolution
    009: kDynamicSliceFusion [source        | next=000 (14)] params=1, results=1
        010: kCopy [source | sink] kCopy
    011: kConditional        [prev=000 (1)  | next=158 (1) ]
      branch_0:
        012: kCustomKernel [source | sink] c grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
      branch_1:
        013: kCustomKernel [source | sink] d grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
        014: kCustomKernel [source | sink] e grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
        015: kCustomKernel [source | sink] f grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
"""
NAMES = 'thunk_metadata {\n  thunk_info {\n    profile_annotation: "while.1"\n    thunk_id: 3\n  }\n}\n'


def test_launches_are_counted_inside_and_outside_command_buffers():
    thunks = parse_thunks(THUNKS, NAMES)
    loop = loop_thunk(thunks, "while.1")
    assert loop is not None
    assert {part: len(inside) for part, inside in loop.parts.items()} == {"condition": 1, "body": 4}
    # The buffer, the convolution, the copy, and of the conditional its number and the three of its longer branch.
    turn = Launches(launches=1 + 1 + 1 + 4, buffers=1, buffered=2, conditionals=1)
    assert launches(loop.parts["body"], {"while.1": 8}) == turn
    assert launches(thunks, {"while.1": 8}) == turn.times(8) + Launches(launches=1, buffers=1, buffered=2)
    assert turn.syncs == 1


def test_the_host_asks_for_the_end_of_a_loop_of_unknown_length():
    found = launches(parse_thunks(THUNKS, NAMES), {"while.1": None})
    assert (found.open_loops, found.syncs) == (1, 2)
    # The condition is launched as well.
    assert found.launches == 1 + 7 + 1


def test_the_dump_of_thunks_is_found_with_and_without_passes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dump"):
        read_thunks(tmp_path)
    (tmp_path / "module_1.f.thunk_sequence.txt").write_text("001: kCopy [source | sink] kCopy\n")
    assert [each.kind for each in read_thunks(tmp_path)] == ["Copy"]
    (tmp_path / "module_1.f.thunk_sequence_after_thunk_passes.txt").write_text(THUNKS)
    (tmp_path / "module_1.f.thunk_metadata.txt").write_text(NAMES)
    assert [(each.kind, each.name) for each in read_thunks(tmp_path)] == [("CommandBuffer", ""), ("While", "while.1")]


def test_the_dearest_kernels_are_listed_first():
    _, first, _ = table.top_kernels(divide(parse_program(LOOP), steps=16), 2).splitlines()
    assert first.split() == ["0.2", "0.1", "0.25", "mean"]
