"""Reads the user's own kinds of devices: a TOML file with one table per kind, in full or as changes to a known kind.

[MI300X]                        # a new kind: all values
memory_gb = 206.1
bf16_tflops = 1307
fp32_tflops = 163
memory_gb_per_second = 5300
link_gb_per_second = 360
network_gb_per_second = 50
matmul_efficiency = 0.5
attention_efficiency = 0.2

[our-A100]                      # a known kind in another cluster
like = "A100-40G"
network_gb_per_second = 6
gpus_per_node = 4
"""

import difflib
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tinyllama.config import Config, setting
from tinyllama.devices import KINDS, GpuKind
from tinyllama.errors import RecipeError

MAX_FILE_BYTES = 1_000_000
MAX_VALUE = 1_000_000  # of any value; excludes infinity
PRECISIONS = ("bf16", "fp16", "fp32", "fp8")


class DeviceValues(Config):
    """One table of the file. None: the value of the kind given as `like`."""

    like: str | None = setting(None, "A known kind that supplies the missing values.")
    memory_gb: float | None = setting(None, "Memory as the driver reports it, in 10^9 bytes.", gt=0, le=MAX_VALUE)
    bf16_tflops: float | None = setting(None, "Dense peak of bf16 matmuls, in 10^12 FLOP/s.", gt=0, le=MAX_VALUE)
    fp16_tflops: float | None = setting(None, "The same for fp16; without like: that of bf16.", gt=0, le=MAX_VALUE)
    fp32_tflops: float | None = setting(None, "The same for fp32, without TF32.", gt=0, le=MAX_VALUE)
    fp8_tflops: float | None = setting(None, "The same for fp8; without like: none.", gt=0, le=MAX_VALUE)
    memory_gb_per_second: float | None = setting(None, "Bandwidth of its memory.", gt=0, le=MAX_VALUE)
    link_gb_per_second: float | None = setting(
        None, "Bandwidth to the other devices of a node, one way.", gt=0, le=MAX_VALUE
    )
    network_gb_per_second: float | None = setting(None, "Its share of the network, one way.", gt=0, le=MAX_VALUE)
    gpus_per_node: int | None = setting(None, "Devices per node; without like: 8.", ge=1, le=MAX_VALUE)
    matmul_efficiency: float | None = setting(None, "Share of the peak that matmuls reach.", gt=0, le=1)
    attention_efficiency: float | None = setting(None, "Share of the peak that attention reaches.", gt=0, le=1)


REQUIRED = tuple(
    name for name in DeviceValues.model_fields if name not in ("like", "fp16_tflops", "fp8_tflops", "gpus_per_node")
)


def read_devices(path: Path) -> dict[str, GpuKind]:
    """The kinds of a file by name. Raises RecipeError that names the file, table, key and fix."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, not a file of devices")
        tables = tomllib.loads(text.decode())
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid TOML ({error})") from None
    if not tables:
        raise RecipeError(f"{path}: no device; write a table such as [our-A100] with like = 'A100-40G'")
    return {name: _kind(name, table, str(path)) for name, table in tables.items()}


def _kind(name: str, table: Any, origin: str) -> GpuKind:
    if not isinstance(table, dict):
        raise RecipeError(
            f"{origin}: {name} is a value outside a table; write it below a device's name, such as [our-A100]"
        )
    try:
        values = DeviceValues.model_validate(table)
    except ValidationError as error:
        raise RecipeError(_explain(error, name, origin)) from None
    if values.like is None:
        missing = [key for key in REQUIRED if getattr(values, key) is None]
        if missing:
            raise RecipeError(
                f"{origin}: [{name}] lacks {', '.join(missing)}; or say like = 'H100' and give what differs"
            )
        base = GpuKind(name, 0, {}, 0, 0, 0, 0, 0, "")
    elif values.like in KINDS:
        base = KINDS[values.like]
    else:
        near = difflib.get_close_matches(values.like, KINDS, n=1, cutoff=0.4)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"{origin}: [{name}] like: unknown kind {values.like!r}; {meant}known: {', '.join(KINDS)}")
    return _filled(name, base, values, origin)


def _filled(name: str, base: GpuKind, values: DeviceValues, origin: str) -> GpuKind:
    """`base` with the values of the file."""
    given = {key: value for key, value in values.model_dump().items() if value is not None}
    peaks = base.peak_flops | {
        precision: given[f"{precision}_tflops"] * 1e12 for precision in PRECISIONS if f"{precision}_tflops" in given
    }
    if "bf16" in peaks:
        peaks.setdefault("fp16", peaks["bf16"])
    plain: dict[str, Any] = {
        key: given[key] for key in ("matmul_efficiency", "attention_efficiency", "gpus_per_node") if key in given
    }
    for key in ("memory_bandwidth", "link_bandwidth", "network_bandwidth"):
        gigabytes = given.get(f"{key.removesuffix('_bandwidth')}_gb_per_second")
        if gigabytes is not None:
            plain[key] = gigabytes * 1e9
    if "memory_gb" in given:
        plain["memory_bytes"] = int(given["memory_gb"] * 1e9)
    source = f"from {origin}" if "matmul_efficiency" in given else base.efficiency_source
    return replace(base, name=name, peak_flops=peaks, efficiency_source=source, **plain)


def _explain(error: ValidationError, name: str, origin: str) -> str:
    """The first error of a table as one line."""
    fault = error.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, DeviceValues.model_fields, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(DeviceValues.model_fields)}"
        return f"{origin}: [{name}] has an unknown key {key}; {meant}"
    return f"{origin}: [{name}] {key} = {fault['input']!r}: {fault['msg'].removeprefix('Input ')}"
