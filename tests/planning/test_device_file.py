from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.devices import KINDS, parse_gpus
from tinyllama.errors import RecipeError
from tinyllama.planning import device_file
from tinyllama.planning.device_file import DeviceValues, read_devices

EXAMPLE = "\n".join(line.removeprefix("    ") for line in (device_file.__doc__ or "").splitlines()[2:])


def written(folder: Path, text: str) -> Path:
    path = folder / "devices.toml"
    path.write_text(text)
    return path


def test_the_example_of_the_docstring(tmp_path: Path):
    devices = read_devices(written(tmp_path, EXAMPLE))
    own, near = devices["MI300X"], devices["our-A100"]
    assert own.memory_bytes == 206_100_000_000
    assert own.peak("bf16") == own.peak("fp16") == 1307e12
    assert (own.memory_bandwidth, own.link_bandwidth, own.network_bandwidth) == (5300e9, 360e9, 50e9)
    assert own.gpus_per_node == 8
    assert own.efficiency_source == f"from {tmp_path / 'devices.toml'}"
    with pytest.raises(RecipeError, match="MI300X has no 'fp8' matmuls"):
        own.peak("fp8")
    known = KINDS["A100-40G"]
    assert (near.network_bandwidth, near.gpus_per_node) == (6e9, 4)
    assert (near.memory_bytes, near.peak_flops, near.link_bandwidth) == (
        known.memory_bytes, known.peak_flops, known.link_bandwidth,
    )  # fmt: skip
    assert parse_gpus("16 x our a100", devices) == (16, near)


def test_a_kind_of_the_file_goes_before_a_known_one(tmp_path: Path):
    devices = read_devices(written(tmp_path, '[H100]\nlike = "H100"\nmemory_gb = 94\n'))
    assert parse_gpus("h100", devices)[1].memory_bytes == 94_000_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no device; write a table"),
        ("memory_gb = 3", r"memory_gb is a value outside a table; write it below a device's name"),
        ("[x]\nmemory_gb = 3", r"\[x\] lacks bf16_tflops, .*; or say like = 'H100'"),
        ('[x]\nlike = "H10"', r"\[x\] like: unknown kind 'H10'; did you mean 'H100'\?"),
        ('[x]\nlike = "H100"\nmemory_gib = 3', r"\[x\] has an unknown key memory_gib; did you mean memory_gb\?"),
        ('[x]\nlike = "H100"\nmemory_gb = -3', r"\[x\] memory_gb = -3: should be greater than 0"),
        ('[x]\nlike = "H100"\nmemory_gb = "3"', r"\[x\] memory_gb = '3': should be a valid number"),
        ('[x]\nlike = "H100"\nmatmul_efficiency = 1.5', r"matmul_efficiency = 1\.5: should be less than or equal to 1"),
        ('[x]\nlike = "H100"\nmemory_gb = nan', r"memory_gb = nan"),
        ('[x]\nlike = "H100"\nmemory_gb = inf', r"memory_gb = inf"),
        ("[x", "not valid TOML"),
    ],
)
def test_faults_name_table_key_and_mend(tmp_path: Path, text: str, message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        read_devices(written(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "devices.toml"))
    assert "\n" not in str(caught.value)


NUMBERS = sorted(name for name in DeviceValues.model_fields if name != "like" and "efficiency" not in name)


@pytest.mark.parametrize("key", NUMBERS)
def test_a_figure_is_above_0_and_at_most_a_million(tmp_path: Path, key: str):
    assert "X" in read_devices(written(tmp_path, f'[X]\nlike = "H100"\n{key} = 1000000\n'))
    for value in ("0", "1000001", "inf"):
        with pytest.raises(RecipeError, match=key):
            read_devices(written(tmp_path, f'[X]\nlike = "H100"\n{key} = {value}\n'))


def test_no_file_and_a_large_one(tmp_path: Path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_devices(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_devices(tmp_path)
    with pytest.raises(RecipeError, match="larger than 1,000,000 bytes"):
        read_devices(written(tmp_path, "#" * 1_000_001))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"any\.toml: "):
        read_devices(path)
