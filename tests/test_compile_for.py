"""The compilers for GPUs and TPUs: programs pass the checks, the checks can fail, mistakes get one line."""

import json
import re
import resource
import subprocess
import sys

import pytest

from configs import final
from jaxresnet.system.errors import UserError
from scripts import compile_for
from scripts.compile_for import KINDS, Program, failures, flop_of, roofline, topology
from scripts.compiled_program import Summary, bytes_moved, cycles, structure
from tests.conftest import REPOSITORY

COMPILERS = REPOSITORY / ".venv-aot" / "bin" / "python"
PROGRAMS = json.loads((REPOSITORY / "results" / "measurements" / "compiled.json").read_text())["programs"]

# A program that trains four steps: a loop, in which images are gathered, convolved and summed over the devices.
TEXT = """
HloModule jit_train

%fused (p.0: u8[50000,3072], p.1: s32[8]) -> bf16[8,32,32,3] {
  ROOT %convert.1 = bf16[8,32,32,3]{3,2,1,0} convert(%p.0)
}

%body.1 (arguments: (f32[64], u8[50000,3072])) -> (f32[64], u8[50000,3072]) {
  %state = f32[64]{0} get-tuple-element(%arguments), index=0
  %images = u8[50000,3072]{1,0} get-tuple-element(%arguments), index=1, metadata={}
  %indices = s32[8]{0} copy(%state)
  %gather.1 = bf16[8,32,32,3]{3,2,1,0} fusion(%images, %indices), kind=kLoop, backend_config={"estimated_cycles":"1000"}
  %convolution.1 = bf16[8,32,32,3]{3,2,1,0} convolution(%gather.1), metadata={op_name="conv_general_dilated"}, \
backend_config={"estimated_cycles":"500"}
  %sum.1 = (f32[64]{0}, bf16[10]{0}) all-reduce-start(%state, %state), channel_id=1
  %all.1 = f32[1000]{0} all-gather(%state), dimensions={0}
}

ENTRY %main.1 (state: f32[64]) -> f32[64] {
  %state.1 = f32[64]{0} parameter(0)
  %copy.1 = u8[50000,3072]{1,0} copy(%state.1)
  %while.1 = (f32[64]{0}, u8[50000,3072]{1,0}) while(%tuple.1), condition=%condition.1, body=%body.1
}
"""
GPU_TEXT = """
  %cudnn-conv.1 = (bf16[8,32,32,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
"""


def test_structure_of_a_program_text():
    found = structure(TEXT)
    assert found["convolutions"] == 1 and found["loops"] == 1 and found["kernels"] == 1
    assert found["all_reduces"] == 1 and found["all_reduce_types"] == ["bf16", "f32"]
    assert found["all_reduce_bytes"] == 64 * 4 + 10 * 2 and found["other_collective_bytes"] == 4000
    assert found["large_copies"] == ["u8[50000,3072]{1,0}"]
    prefetch = TEXT.replace("%copy.1 = u8[50000,3072]{1,0}", "%copy.1 = (f32[20000000], f32[20000000], u32[])")
    assert not structure(prefetch)["large_copies"]
    assert not found["has_float64"] and not found["host_transfers"]
    assert cycles(TEXT) == 1500 and cycles(GPU_TEXT) is None
    image = 8 * 32 * 32 * 3 * 2
    # gather (without the data set), convolution, all-gather, sum, copy
    assert bytes_moved(TEXT) == image + 32 + 2 * image + 4000 + 256 + 276 + 512 + 32 + 256
    assert structure(GPU_TEXT)["convolutions"] == 1 and not structure(GPU_TEXT)["other_layouts"]
    assert structure(GPU_TEXT.replace("b01f_", "bf01_"))["other_layouts"]
    assert structure(TEXT.replace("all-gather", "infeed"))["host_transfers"] == ["infeed"]


GOOD = Summary(
    *(7 * 10**8, 10**8, 10**8, None, None, 10**9, 74, 500, 1, 49, 10**7, ["f32", "s32"], 0, [], [], False, False)
)
TRAINING, EVALUATION = Program("train", 130, 128, 50_000), Program("evaluate", 10, 1000, 10_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"convolutions": 75}, "75 convolutions, expected 74"),
        ({"other_layouts": True}, "NHWC"),
        ({"loops": 2}, "1 loops besides"),
        ({"has_float64": True}, "float64"),
        ({"host_transfers": ["infeed"]}, "the host takes part: infeed"),
        ({"large_copies": ["u8[50000,3072]"]}, r"copies of more than 100 MB: u8\[50000,3072\]"),
        ({"alias_bytes": 10**7}, "the state's memory is not used again"),
        ({"all_reduces": 0}, "do not sum"),
        ({"all_reduce_types": ["bf16"]}, "summed in bf16, expected float32"),
        ({"other_collective_bytes": 2 * 10**6}, "2.0 MB besides sums"),
        ({"peak_bytes": 9 * 10**8}, "900 MB at the peak, expected at most 800"),
    ],
)
def test_each_check_can_fail(change, message):
    assert not failures(TRAINING, "bfloat16", 8, 10**8, GOOD)
    (failure,) = failures(TRAINING, "bfloat16", 8, 10**8, GOOD._replace(**change))
    assert re.search(message, failure)


def test_evaluation_has_its_own_checks():
    summary = GOOD._replace(convolutions=25, alias_bytes=0, all_reduces=0)
    assert not failures(EVALUATION, "float32", 8, 10**8, summary)
    assert failures(TRAINING, "float32", 8, 10**8, summary)


def test_roofline_is_the_longer_time():
    kind = KINDS["h100"]
    assert roofline(kind, "bfloat16", 989.4e12, 0) == roofline(kind, "bfloat16", 0, 3.35e12) == 1
    assert roofline(kind, "float32", 989.4e12, 0) == 2
    config = final.get_config()
    assert flop_of(config, TRAINING) == pytest.approx(128 * 4.8e9, rel=0.01)
    assert flop_of(config, EVALUATION) == pytest.approx(1000 * 1.6e9, rel=0.01)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("h100", "'h100' is not a known target; expected a number of GPUs, such as h100:8"),
        ("h100:2x2", "is not a known target"),
        ("v5e:4", "is not a known target"),
        ("a100:1", "is not a known target"),
        ("h100:1", "jax-cuda13-plugin .* is not installed; run make .venv-aot/installed"),
        ("v5e:1x1", "libtpu .* is not installed; run make .venv-aot/installed"),
    ],
)
def test_missing_compiler_gets_one_line(monkeypatch, target, message):
    def missing(package):
        raise compile_for.importlib.metadata.PackageNotFoundError(package)

    real = compile_for.importlib.metadata.version
    monkeypatch.setattr(
        compile_for.importlib.metadata, "version", lambda name: real(name) if name == "jax" else missing(name)
    )
    with pytest.raises(UserError, match=message) as error:
        topology(target)
    assert "\n" not in str(error.value)


def test_compiler_of_another_version_is_refused(monkeypatch):
    versions = {"jax": "0.10.2", "jax-cuda13-plugin": "0.10.1"}
    monkeypatch.setattr(compile_for.importlib.metadata, "version", versions.__getitem__)
    with pytest.raises(UserError, match=r"jax-cuda13-plugin is 0\.10\.1, but this JAX needs 0\.10\.2; run make"):
        topology("h100:1")


def test_mistakes_end_the_command_at_once():
    command = [sys.executable, "-m", "scripts.compile_for", "h100:1", "b200:1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("jaxresnet: ")


def test_recorded_programs_pass():
    assert {record["target"] for record in PROGRAMS} >= {"h100:1", "h100:8", "v5e:1x1", "v5e:2x4", "v6e:2x2", "v5e:4x8"}
    assert not [record for record in PROGRAMS if record["failures"]]
    kinds = [(record["dtype"], record["name"], record["steps"]) for record in PROGRAMS]
    assert len(set(kinds)) == 6 and all(kinds.count(kind) == len(PROGRAMS) // 6 for kind in set(kinds))


@pytest.mark.reliability
def test_compilers_give_the_recorded_programs(tmp_path):
    """In bfloat16. The compilers' choices of kernels may differ a little between machines."""
    if not COMPILERS.exists():
        pytest.skip("make .venv-aot/installed")
    out = tmp_path / "compiled.json"
    command = [COMPILERS, "-m", "scripts.compile_for", "h100:1", "v5e:1x1", "--dtypes", "bfloat16", f"--json={out}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    # About a minute. Shared cores take more processor time for the same work.
    assert after.ru_utime - before.ru_utime < 180
    keys = ("target", "dtype", "name", "steps")
    expected = {tuple(record[key] for key in keys): record for record in PROGRAMS}
    programs = json.loads(out.read_text())["programs"]
    assert len(programs) == 6
    for record in programs:
        recorded = expected[tuple(record[key] for key in keys)]
        for figure in ("peak_bytes", "bytes", "kernels"):
            assert record[figure] == pytest.approx(recorded[figure], rel=0.1), (record["target"], figure)
        assert record["convolutions"] == recorded["convolutions"] and record["loops"] == recorded["loops"]
