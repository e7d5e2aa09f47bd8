import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.devices import KINDS, find_gpu, parse_gpus
from tinyllama.errors import RecipeError


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
    with pytest.raises(RecipeError, match=f"train.precision: {name} has no 'fp8' matmuls; 'bf16' would work"):
        KINDS[name].peak("fp8")
    assert KINDS[name].peak("fp16") == KINDS[name].peak("bf16")


@pytest.mark.parametrize(
    ("name", "mib", "bf16", "fp32", "memory", "link", "network", "products", "attention", "source"),
    [
        ("A100-40G", 40_960, 312, 19.5, 1555, 240, 25, 0.74, 0.25, "assumed: the shares measured on an H100"),
        ("A100-80G", 81_920, 312, 19.5, 2039, 240, 25, 0.74, 0.25, "assumed: the shares measured on an H100"),
        ("H100", 81_559, 989, 67, 3350, 360, 50, 0.74, 0.25, "measured: "),
        ("H200", 143_771, 989, 67, 4800, 360, 50, 0.70, 0.25, "measured: "),
        ("B200", 183_359, 2250, 75, 8000, 720, 50, 0.6, 0.25, "assumed: not measured"),
        ("L40S", 46_068, 362, 91.6, 864, 20, 6, 0.55, 0.3, "assumed: not measured"),
        ("RTX4090", 24_564, 165, 82.6, 1008, 20, 6, 0.65, 0.35, "assumed: not measured"),
        ("CPU", 16_384, 0.192, 0.192, 20, 1, 1, 0.4, 0.3, "assumed: two cores of a server"),
    ],
)
def test_figures_of_the_data_sheets(
    name: str,
    mib: int,
    bf16: float,
    fp32: float,
    memory: float,
    link: float,
    network: float,
    products: float,
    attention: float,
    source: str,
):
    """Who changes one on purpose changes it here too: plans rest on them."""
    kind = KINDS[name]
    assert kind.memory_bytes == mib * 1024 * 1024
    assert (kind.peak("bf16"), kind.peak("fp32")) == (bf16 * 1e12, fp32 * 1e12)
    bandwidths = (kind.memory_bandwidth, kind.link_bandwidth, kind.network_bandwidth)
    assert bandwidths == (memory * 1e9, link * 1e9, network * 1e9)
    assert (kind.matmul_efficiency, kind.attention_efficiency, kind.gpus_per_node) == (products, attention, 8)
    assert kind.efficiency_source.startswith(source)
    assert kind.is_cpu == (name == "CPU")


def test_every_kind_is_pinned():
    assert list(KINDS) == ["A100-40G", "A100-80G", "H100", "H200", "B200", "L40S", "RTX4090", "CPU"]


@pytest.mark.parametrize(
    ("text", "name"), [("A100", "A100-40G"), ("A100 40GB", "A100-40G"), ("h100-sxm", "H100"), ("H100 80G", "H100")]
)
def test_other_names_of_a_kind(text: str, name: str):
    assert parse_gpus(text) == (1, KINDS[name])


def test_kinds_of_the_users_own_come_before_the_known_ones():
    mine = dataclasses.replace(KINDS["H100"], name="H100", gpus_per_node=4)
    other = dataclasses.replace(KINDS["H100"], name="My Card-X")
    more = {"H100": mine, "My Card-X": other}
    assert parse_gpus("3xh100", more) == (3, mine)
    assert parse_gpus("2*mycard_x", more) == (2, other)
    assert parse_gpus("2×A100", more) == (2, KINDS["A100-40G"])
    with pytest.raises(RecipeError) as caught:
        parse_gpus("MyCardY", more)
    assert str(caught.value) == (
        "gpus: unknown kind 'MyCardY'; did you mean My Card-X? known: A100-40G, A100-80G, H100, H200, B200, L40S, RTX4090, "
        "CPU, My Card-X"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0xH100", "gpus: '0xH100' has a count of 0; give at least 1, such as '1xH100'"),
        ("", "gpus: '' is not COUNTxKIND, such as '8xH100'"),
        ("qq", "gpus: unknown kind 'qq'; known: A100-40G, A100-80G, H100, H200, B200, L40S, RTX4090, CPU"),
        ("L4", "gpus: unknown kind 'L4'; did you mean L40S? known: A100-40G, "),  # 2 of 4 letters: 2 x 2 / 6
        ("H1", "gpus: unknown kind 'H1'; did you mean H100? known: A100-40G, "),
        ("B2x", "gpus: unknown kind 'B2x'; did you mean B200? known: A100-40G, "),  # 2 x 2 / 7
        ("B1x9", "gpus: unknown kind 'B1x9'; known: A100-40G, "),  # 2 x 1 / 8
    ],
)
def test_what_is_said_of_devices_that_cannot_be(text: str, words: str):
    with pytest.raises(RecipeError) as caught:
        parse_gpus(text)
    assert str(caught.value).startswith(words)


def test_a_count_has_at_most_six_digits():
    assert parse_gpus("999999xH100")[0] == 999_999
    with pytest.raises(RecipeError, match="unknown kind '1000000xH100'"):
        parse_gpus("1000000xH100")


@pytest.mark.parametrize(
    "driver_name",
    ["NVIDIA A100-PCIE-40GB", "NVIDIA H200 NVL", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100", "NVIDIA A100"],
)
def test_variants_with_other_peaks_are_not_known(driver_name: str):
    assert find_gpu(driver_name) is None


def test_a_drivers_name_is_read_whatever_its_case():
    assert find_gpu("nvidia a100-sxm4-40gb") is KINDS["A100-40G"]
