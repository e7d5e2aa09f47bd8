"""The kinds of devices that a plan knows: data-sheet values, and the shares of them that training reaches."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tinyllama.errors import RecipeError

MIB = 2**20


@dataclass(frozen=True)
class GpuKind:
    """One kind of device.

    `memory_bytes` is what its driver reports. `peak_flops` are dense matmul FLOP/s by precision, without sparsity; fp8 only
    where the chip has it. Bandwidths are in bytes per second, one way, for one device: `memory_bandwidth` of its memory,
    `link_bandwidth` to the other devices of its node (of `gpus_per_node`), `network_bandwidth` to other nodes.
    `matmul_efficiency` is the share of the peak that large matmuls reach, `attention_efficiency` that of attention, of the
    16-bit (or fp32) peak; `efficiency_source` says whether they were measured or are assumed.
    """

    name: str
    memory_bytes: int
    peak_flops: dict[str, float]
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    matmul_efficiency: float
    attention_efficiency: float
    efficiency_source: str
    gpus_per_node: int = 8

    @property
    def is_cpu(self) -> bool:
        """Whether it is a CPU: no driver context, no kernel launches."""
        return self.name == "CPU"

    def peak(self, precision: str) -> float:
        """FLOP/s of matmuls in `precision`. Raises RecipeError when the chip has none."""
        if precision not in self.peak_flops:
            raise RecipeError(f"train.precision: {self.name} has no {precision!r} matmuls; 'bf16' would work")
        return self.peak_flops[precision]


def _gpu(
    name: str,
    memory_mib: int,
    bf16_tflops: float,
    fp32_tflops: float,
    fp8_tflops: float | None,
    memory_gb_per_second: float,
    link_gb_per_second: float,
    network_gb_per_second: float,
    matmul_efficiency: float,
    attention_efficiency: float,
    efficiency_source: str,
) -> GpuKind:
    tflops = {"bf16": bf16_tflops, "fp16": bf16_tflops, "fp32": fp32_tflops, "fp8": fp8_tflops}
    return GpuKind(
        name,
        memory_mib * MIB,
        {precision: peak * 1e12 for precision, peak in tflops.items() if peak is not None},
        memory_gb_per_second * 1e9,
        link_gb_per_second * 1e9,
        network_gb_per_second * 1e9,
        matmul_efficiency,
        attention_efficiency,
        efficiency_source,
    )


_MEASURED_H100 = "measured: tinyllama-1.1b trained by this code on one H100, 80,200 tokens/s"
_MEASURED_H200 = "measured: tinyllama-1.1b trained by this code on one H200, 78,700 tokens/s"
_AS_ON_H100 = "assumed: the shares measured on an H100"
_ASSUMED = "assumed: not measured"

# Links: NVLink at about 80% of its data-sheet rate, PCIe 4.0 x16 for cards without it. Network: one adapter per device of
# 200 Gb/s for A100 and 400 Gb/s for Hopper and Blackwell; 100 Gb/s shared by two cards elsewhere.
# fp32: without TF32; fp16: as bf16; fp8: accumulated in fp32.
KINDS: dict[str, GpuKind] = {
    kind.name: kind
    for kind in (
        #    name         MiB     bf16  fp32  fp8  memory link network matmul attention
        _gpu("A100-40G", 40_960, 312, 19.5, None, 1555, 240, 25, 0.74, 0.25, _AS_ON_H100),
        _gpu("A100-80G", 81_920, 312, 19.5, None, 2039, 240, 25, 0.74, 0.25, _AS_ON_H100),
        _gpu("H100", 81_559, 989, 67, 1979, 3350, 360, 50, 0.74, 0.25, _MEASURED_H100),
        _gpu("H200", 143_771, 989, 67, 1979, 4800, 360, 50, 0.70, 0.25, _MEASURED_H200),
        _gpu("B200", 183_359, 2250, 75, 4500, 8000, 720, 50, 0.6, 0.25, _ASSUMED),
        _gpu("L40S", 46_068, 362, 91.6, 733, 864, 20, 6, 0.55, 0.3, _ASSUMED),
        _gpu("RTX4090", 24_564, 165, 82.6, 330, 1008, 20, 6, 0.65, 0.35, _ASSUMED),
        # A machine for the quickstart: 2 cores x 32 FLOP per cycle (AVX2) x 3 GHz.
        _gpu("CPU", 16_384, 0.192, 0.192, None, 20, 1, 1, 0.4, 0.3, "assumed: two cores of a server and 16 GiB"),
    )
}
_ALIASES = {"A100": "A100-40G", "A10040GB": "A100-40G", "A10080GB": "A100-80G", "H100SXM": "H100", "H10080G": "H100"}


def _plain(name: str) -> str:
    """A name without the differences in spelling: case, spaces, hyphens, underscores."""
    return re.sub(r"[\s_-]+", "", name).upper()


_BY_PLAIN_NAME = {_plain(name): name for name in KINDS} | _ALIASES


def parse_gpus(text: str, more: Mapping[str, GpuKind] | None = None) -> tuple[int, GpuKind]:
    """`16xA100-40G` to (16, its kind); without a count: 1. Case, spaces and hyphens do not matter.

    `more`: additional kinds, which take precedence. Raises RecipeError for an unknown kind, with the nearest name, and for
    a count below 1.
    """
    match = re.fullmatch(r"\s*(?:(\d{1,6})\s*[xX×*]\s*)?(\S.*?)\s*", text)
    if not match:
        raise RecipeError(f"gpus: {text!r} is not COUNTxKIND, such as '8xH100'")
    count = int(match[1] or 1)
    if count < 1:
        raise RecipeError(f"gpus: {text!r} has a count of 0; give at least 1, such as '1x{match[2]}'")
    kinds = KINDS | dict(more or {})
    by_plain_name = _BY_PLAIN_NAME | {_plain(name): name for name in more or {}}
    name = by_plain_name.get(_plain(match[2]))
    if name is None:
        near = difflib.get_close_matches(_plain(match[2]), by_plain_name, n=1, cutoff=0.4)
        meant = f"did you mean {by_plain_name[near[0]]}? " if near else ""
        raise RecipeError(f"gpus: unknown kind {match[2]!r}; {meant}known: {', '.join(kinds)}")
    return count, kinds[name]


# A device name of the driver (`NVIDIA A100-SXM4-40GB`) that contains all these words is of this kind. PCIe and NVL
# variants have other peaks and are not listed.
_DRIVER_WORDS = {
    ("A100", "40GB"): "A100-40G",
    ("A100", "80GB"): "A100-80G",
    ("H100", "80GB", "HBM3"): "H100",
    ("H200",): "H200",
    ("B200",): "B200",
    ("L40S",): "L40S",
    ("RTX", "4090"): "RTX4090",
}


def find_gpu(driver_name: str) -> GpuKind | None:
    """The kind of a device by the name its driver gives; None when unknown or a variant with another peak."""
    words = set(re.split(r"[\s_-]+", driver_name.upper()))
    if words & {"PCIE", "NVL", "LAPTOP", "D"}:
        return None
    return next((KINDS[name] for wanted, name in _DRIVER_WORDS.items() if words.issuperset(wanted)), None)
