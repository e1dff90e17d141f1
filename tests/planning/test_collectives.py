"""Collectives are counted as often as they run, with the bytes of the ring algorithm."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from mlvlab_jax.planning.collectives import count_collectives
from mlvlab_jax.planning.program import Program


def compile_on_four(function, *shapes):
    """Text of the program of `function`, run by four devices along "x", each on its own part."""
    mesh = Mesh(jax.devices()[:4], "x")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(mapped).lower(*arguments).compile().as_text())


def measure(function, *shapes):
    found = count_collectives(compile_on_four(function, *shapes), num_devices=4)
    return {c.kind: (c.count, c.array_bytes, c.sent_bytes) for c in found}


@pytest.mark.parametrize(
    ("kind", "function", "array_bytes", "sent_bytes"),
    [
        # Each device holds 256 float32: 1024 bytes.
        ("all-reduce", lambda x: jax.lax.psum(x, "x")[:64], 1024, 2 * 768),
        ("all-gather", lambda x: jax.lax.all_gather(x, "x", tiled=True)[:256], 4096, 3072),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "x", tiled=True), 1024, 768),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "x", [(i, (i + 1) % 4) for i in range(4)]), 1024, 1024),
        ("all-to-all", lambda x: jax.lax.all_to_all(x.reshape(4, 64), "x", 0, 0).reshape(-1), 1024, 768),
    ],
)
def test_one_exchange_has_the_bytes_of_its_ring(kind, function, array_bytes, sent_bytes):
    assert measure(function, (1024,)) == {kind: (1, array_bytes, sent_bytes)}


def test_a_loop_counts_as_often_as_it_turns():
    def five_times(x):
        return jax.lax.scan(lambda carry, _: (jax.lax.psum(carry, "x") * 0.5, None), x, None, length=5)[0]

    mapped = jax.shard_map(
        five_times,
        mesh=Mesh(jax.devices()[:4], "x"),
        in_specs=PartitionSpec("x"),
        out_specs=PartitionSpec("x"),
        check_vma=False,
    )
    text = jax.jit(mapped).lower(jax.ShapeDtypeStruct((1024,), jnp.float32)).compile().as_text()
    (found,) = count_collectives(Program(text), num_devices=4)
    assert (found.kind, found.count, found.sent_bytes) == ("all-reduce", 5, 5 * 2 * 768)


def test_devices_of_a_group_are_those_the_program_names():
    text = "ENTRY %main (p: f32[8]) -> f32[8] {\n  %r = f32[8]{0} all-reduce(%p), replica_groups={{0,1},{2,3}}\n}\n"
    (found,) = count_collectives(Program(text), num_devices=4)
    assert found.sent_bytes == 32
    iota = text.replace("{{0,1},{2,3}}", "[1,4]<=[4]")
    assert count_collectives(Program(iota), num_devices=2)[0].sent_bytes == 48


#: As a TPU's compiler writes a product whose result is summed piece by piece round a ring, and a gather that goes on
#: behind other work; shortened.
TPU = """
%fused.1 (p.1: bf16[2,8]) -> (bf16[2,8], bf16[32,8]) {
  %all-gather.1 = bf16[32,8]{1,0:T(8,128)(2,1)} all-gather(%p.1), replica_groups=[1,16]<=[16], dimensions={0}
}

%async_collective_fusion.2 (p.2: bf16[2,8]) -> (bf16[2,8], bf16[32,8]) {
  %all-gather.2 = bf16[32,8]{1,0:T(8,128)(2,1)} all-gather(%p.2), replica_groups=[1,16]<=[16], dimensions={0}
}

%all-reduce-scatter.3 (p.3: f32[64]) -> f32[4] {
  %all-reduce.3 = f32[64]{0} all-reduce(%p.3), replica_groups=[1,16]<=[16], to_apply=%add
  ROOT %dynamic-slice.3 = f32[4]{0} dynamic-slice(%all-reduce.3, %o), dynamic_slice_sizes={4}
}

%condition (p.4: (bf16[4,8], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(8), metadata={op_name="x"}
  %turn = u32[]{:T(128)} get-tuple-element(%p.4), index=1
  ROOT %compare = pred[]{:T(512)} compare(%turn, %limit), direction=LT
}

%wide.windowed_dot_general_body_rs.1 (p.5: (bf16[4,8], u32[])) -> (bf16[4,8], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %turn.5 = u32[]{:T(128)} get-tuple-element(%p.5), index=1
  %piece = (bf16[4,8], bf16[4,8], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %done = bf16[4,8]{1,0} collective-permute-done(%piece)
  %next = u32[]{:T(128)} add(%turn.5, %two)
  ROOT %tuple = (bf16[4,8], u32[]) tuple(%done, %next)
}

ENTRY %main (p: bf16[2,8]) -> bf16[2,8] {
  %async-collective-start = (bf16[2,8], bf16[32,8]) fusion(%p), kind=kCustom, calls=%fused.1
  %fusion.2 = (bf16[2,8], bf16[32,8]) fusion(%p), kind=kOutput, calls=%async_collective_fusion.2, metadata={}
  %async-collective-done = bf16[32,8] fusion(%p), kind=kCustom, calls=%fused.1
  %summed = f32[4]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  %while.1 = (bf16[4,8], u32[]) while(%t), condition=%condition, body=%wide.windowed_dot_general_body_rs.1
}
"""


def test_a_tpu_program_is_read_as_its_compiler_means_it():
    found = {c.kind: (c.count, c.sent_bytes) for c in count_collectives(Program(TPU), num_devices=16)}
    assert found == {
        "all-gather": (1, 32 * 8 * 2 * 15 / 16),
        # The fused sum, and a ring of four turns that each send a piece of 64 bytes (and 4 of its bookkeeping).
        "reduce-scatter": (2, 256 * 15 / 16 + 4 * (64 + 4)),
    }
