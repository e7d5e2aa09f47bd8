import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.errors import RecipeError
from tinyllama.gpu_kinds import KINDS, find_gpu, parse_gpus


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("16xA100-40G", 16, "A100-40G"),
        ("8xH100", 8, "H100"),
        ("1xRTX4090", 1, "RTX4090"),
        ("2xH200", 2, "H200"),
        ("cpu", 1, "CPU"),
        ("RTX 4090", 1, "RTX4090"),
        ("4 x RTX-4090", 4, "RTX4090"),
        ("4xrtx_4090", 4, "RTX4090"),
        ("a100-80gb", 1, "A100-80G"),
        (" 2X L40S ", 2, "L40S"),
        ("72xB200", 72, "B200"),
    ],
)
def test_known_devices(text: str, count: int, name: str):
    assert parse_gpus(text) == (count, KINDS[name])


def test_unknown_device_offers_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown kind 'H10'; did you mean H100\?") as caught:
        parse_gpus("8xH10")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "  ", "8x", "0xH100", "-1xH100", "1.5xH100", "99999999xH100", "H100x8", "zz"])
def test_bad_devices(text: str):
    with pytest.raises(RecipeError, match="gpus: "):
        parse_gpus(text)


@given(st.integers(1, 999_999), st.sampled_from(sorted(KINDS)))
def test_count_and_kind_round_trip(count: int, name: str):
    assert parse_gpus(f"{count}x{name}") == (count, KINDS[name])


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_in_words(text: str):
    try:
        count, kind = parse_gpus(text)
    except RecipeError as error:
        assert str(error).startswith("gpus: ")  # noqa: PT017 - both outcomes are right
    else:
        assert count >= 1
        assert kind.name in KINDS


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-40G"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
    ],
)
def test_driver_names(driver_name: str, name: str):
    assert find_gpu(driver_name) is KINDS[name]


@pytest.mark.parametrize(
    "driver_name", ["", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090 D", "Tesla T4"]
)
def test_unknown_driver_names(driver_name: str):
    assert find_gpu(driver_name) is None


@pytest.mark.parametrize(
    ("name", "fp8"), [("H100", 1979e12), ("H200", 1979e12), ("B200", 4500e12), ("L40S", 733e12), ("RTX4090", 330e12)]
)
def test_peaks_of_chips_with_fp8(name: str, fp8: float):
    assert KINDS[name].peak("fp8") == fp8
    assert KINDS[name].peak("fp16") == KINDS[name].peak("bf16") > KINDS[name].peak("fp32")


@pytest.mark.parametrize("name", ["A100-40G", "A100-80G", "CPU"])
def test_chips_without_fp8_say_so(name: str):
    with pytest.raises(
        RecipeError, match=f"train.precision: 'fp8', but {name} has no such products; 'bf16' would work"
    ):
        KINDS[name].peak("fp8")
    assert KINDS[name].peak("fp16") == KINDS[name].peak("bf16")
