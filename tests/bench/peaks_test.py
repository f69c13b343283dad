"""A device's peak is the maker's by its name, a CPU's is found, and no other is made up."""

import pytest

from gptjax.bench import peaks
from gptjax.runtime import fast_paths

dtypes = peaks.dtypes  # conftest.py puts another in its place


@pytest.mark.parametrize(
    ("kind", "float32", "bfloat16"),
    [
        ("TPU v2", 22.5, 22.5),
        ("TPU v4", 275, 275),
        ("TPU v4 lite", None, None),
        ("TPU v5 lite", 197, 197),
        ("TPU v5", 459, 459),
        ("TPU v5p", 459, 459),
        ("TPU v6 lite", 918, 918),
        ("Tesla T4", 8.1, None),
        ("NVIDIA L4", 60.5, 121),
        ("NVIDIA L40S", None, None),
        ("NVIDIA A100-SXM4-40GB", 156, 312),
        ("NVIDIA H100 80GB HBM3", 494.5, 989),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA H100 PCIe", 378, 756),
        ("NVIDIA H200", 494.5, 989),
        ("NVIDIA GH200 480GB", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
    ],
)
def test_a_peak_is_the_makers_or_none(kind, float32, bfloat16):
    for dtype, tera in (("float32", float32), ("bfloat16", bfloat16)):
        assert peaks.known(kind, dtype) == (tera and tera * 1e12)


def test_a_cpus_peak_is_its_largest_product(monkeypatch):
    seconds = iter([2e-6, 1e-6, 8e-6])
    monkeypatch.setattr(peaks, "SIZES", (16, 8, 24))
    monkeypatch.setattr(peaks, "_best", lambda call: (call(), next(seconds))[1])
    found = peaks.find("bfloat16", with_peers=False)
    assert found["flops_per_second"] == 2 * 16**3 / 2e-6 and "16²" in found["source"]


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_measured_where_a_device_is_quick_in_it(monkeypatch, has):
    monkeypatch.setattr(fast_paths, "has_bfloat16", lambda device, n_embd: has)
    assert dtypes() == (("float32", "bfloat16") if has else ("float32",))
