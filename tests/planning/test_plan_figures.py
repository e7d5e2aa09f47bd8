"""Figures of a plan by hand, at every boundary, and how they are written."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinyllama.devices import KINDS, GpuKind
from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import PRESETS, LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning import cost
from tinyllama.planning.cost import _devices, _disk, _times, parse_tokens, plan
from tinyllama.planning.device_file import DeviceValues, read_devices
from tinyllama.planning.find_layouts import plan_layout
from tinyllama.planning.plan_table import MAX_LAYOUTS, duration, launch_command, render, size
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, H100 = PRESETS["tinyllama-1.1b"], KINDS["H100"]
SMALL = LlamaConfig(vocab_size=96, seq_len=16, dim=32, n_layers=4, n_heads=4, n_kv_heads=4, ffn_dim=48)
TRAIN = TrainConfig(tokens_per_step=64 * 16, seq_len=16, micro_batch_size=1, steps=1000)


# -- numbers of tokens, money, nodes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1", 1), ("0.001k", 1), ("1.5K", 1500), ("2M", 2 * 10**6), ("3b", 3 * 10**9), ("1.000000000001T", 10**12 + 1),
        ("1_0,0", 100), (" 7 ", 7), ("10.0", 10),
    ],
)  # fmt: skip
def test_tokens_at_the_edges(text: str, tokens: int):
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["0.5", "1.0000000000001T", "0.0", "1.5", "_1", ",1", "1 2", "1kk", "0k"])
def test_what_is_no_whole_number_of_tokens(text: str):
    with pytest.raises(RecipeError, match="tokens: "):
        parse_tokens(text)


def test_the_least_that_a_plan_takes():
    planned = plan(SMALL, TRAIN, "H100", tokens=1, price_per_gpu_hour=0.0)
    assert (planned["steps"], planned["tokens"], planned["cost"]) == (1, 1024, 0.0)
    assert [plan(SMALL, TRAIN, "H100", tokens=n)["steps"] for n in (1024, 1025, 2048)] == [1, 2, 2]
    assert plan(SMALL, TRAIN, "H100")["steps"] == 1000
    with pytest.raises(RecipeError, match="tokens: 0 must be at least 1"):
        plan(SMALL, TRAIN, "H100", tokens=0)


def test_nodes_at_the_edges():
    assert [_devices(gpus, None, None)[0] for gpus in ("8xH100", "16xH100")] == [8, 16]
    assert _devices("5xH100", None, None) == (5, H100)
    assert _devices("5xH100", 1, None)[1].gpus_per_node == 1
    for gpus, per_node, words in (("9xH100", None, "nodes of 8; 8 or 16"), ("7xH100", 3, "nodes of 3; 6 or 9")):
        with pytest.raises(RecipeError, match=words):
            _devices(gpus, per_node, None)
    assert plan(SMALL, TRAIN, "4xH100")["gpus_per_node"] == 4
    assert plan(SMALL, TRAIN, "16xH100")["gpus_per_node"] == 8


def test_times_and_money_by_hand():
    layout = plan_layout(SMALL, TRAIN, ParallelConfig(replicate=4), H100)
    found = _times(SMALL, TRAIN, H100, 1000, layout, 3.0)
    seconds = 1000 * layout.time.total
    speed = 1024 / layout.time.total
    assert found["days"] == pytest.approx(seconds / 86_400)
    assert found["gpu_hours"] == pytest.approx(seconds * 4 / 3600)
    assert found["cost"] == round(seconds * 4 / 3600 * 3, 2)
    assert found["tokens_per_second"] == round(speed, 1)
    flops = 6 * (4 * (4 * 32 * 32 + 3 * 32 * 48) + 9 * 32 + 96 * 32)
    assert found["mfu_causal"] == pytest.approx(speed * (flops + 6 * 4 * 32 * 16) / (4 * 989e12))
    assert found["mfu_palm"] == pytest.approx(speed * (flops + 12 * 4 * 32 * 16) / (4 * 989e12))
    assert found["step_seconds"] == pytest.approx(sum(found["step_seconds_parts"].values()))
    assert _times(SMALL, TRAIN, H100, 1000, layout, None)["cost"] is None
    assert set(_times(SMALL, TRAIN, H100, 1000, None, 3.0)) == set(found)
    assert not any(_times(SMALL, TRAIN, H100, 1000, None, 3.0).values())


@pytest.mark.parametrize(
    ("vocab_size", "values", "token_bytes", "kept", "each"),
    [
        (65_536, {}, 2, 3, 12),
        (65_537, {}, 4, 3, 12),
        (96, {"keep_checkpoints": 5, "keep_best": False}, 2, 5, 12),
        (96, {"keep_every_steps": 300}, 2, 3 + 3, 12),
        (96, {"keep_every_steps": 500, "optimizer_state": "bf16"}, 2, 3 + 2, 8),
        (96, {"keep_every_steps": 1001}, 2, 3, 12),
    ],
)
def test_disk_by_hand(vocab_size: int, values: dict[str, Any], token_bytes: int, kept: int, each: int):
    model = replace(SMALL, vocab_size=vocab_size)
    parts = _disk(model, TRAIN.model_copy(update=values), 1000)
    N = model.n_parameters
    expected = {"tokens": token_bytes * 1_024_000, "checkpoints": kept * each * N, "model": 4 * N}
    assert parts == {"disk_parts": expected, "disk_bytes": sum(expected.values())}


def test_of_several_layouts_that_do_not_fit_the_smallest_is_shown(monkeypatch: pytest.MonkeyPatch):
    small_card = replace(H100, memory_bytes=10**6)
    every = [
        plan_layout(SMALL, TRAIN.model_copy(update={"micro_batch_size": n}), ParallelConfig(replicate=2), small_card)
        for n in (4, 1, 2)
    ]
    assert not any(layout.fits for layout in every)
    monkeypatch.setattr(cost, "find_layouts", lambda *_: every)
    monkeypatch.setattr(cost, "changes_that_help", lambda *given: [str(given[-1].micro_batch_size)])
    planned = plan(SMALL, TRAIN, "2xmine", devices={"mine": small_card})
    assert (planned["fits"], planned["layouts"], planned["changes"]) == (False, [], ["1"])
    assert planned["micro_batch_size"] == 1
    assert planned["memory_bytes_per_gpu"] == every[1].memory_bytes == min(layout.memory_bytes for layout in every)


# -- devices of a file -------------------------------------------------------------------------------------------------

FULL = {
    "memory_gb": 10.5, "bf16_tflops": 11, "fp16_tflops": 12, "fp32_tflops": 13, "fp8_tflops": 14,
    "memory_gb_per_second": 15, "link_gb_per_second": 16, "network_gb_per_second": 17, "gpus_per_node": 3,
    "matmul_efficiency": 0.18, "attention_efficiency": 0.19,
}  # fmt: skip


def device(folder: Path, **values: Any) -> GpuKind:
    text = "".join(f"{key} = {value!r}\n" for key, value in values.items())
    path = folder / "devices.toml"
    path.write_text(f"[mine]\n{text}")
    return read_devices(path)["mine"]


def test_every_key_of_a_device_has_its_place(tmp_path: Path):
    source = f"from {tmp_path / 'devices.toml'}"
    expected = GpuKind(
        "mine", 10_500_000_000, {"bf16": 11e12, "fp16": 12e12, "fp32": 13e12, "fp8": 14e12}, 15e9, 16e9, 17e9, 0.18,
        0.19, source, 3,
    )  # fmt: skip
    assert device(tmp_path, **FULL) == expected
    assert device(tmp_path, like="L40S", **FULL) == expected
    for key, value in FULL.items():  # each alone leaves all others as they are
        near = device(tmp_path, like="L40S", **{key: value})
        own = {name: getattr(near, name) for name in vars(near) if getattr(near, name) != getattr(KINDS["L40S"], name)}
        own.pop("name")
        if "tflops" in key:
            precision = key.removesuffix("_tflops")
            assert own == {"peak_flops": KINDS["L40S"].peak_flops | {precision: value * 1e12}}
        elif key == "matmul_efficiency":
            assert own == {"matmul_efficiency": 0.18, "efficiency_source": source}
        else:
            assert len(own) == 1, key


@pytest.mark.parametrize("key", [key for key in FULL if key != "gpus_per_node"])
def test_bounds_of_a_device_s_values(tmp_path: Path, key: str):
    most = 1 if "efficiency" in key else 1_000_000
    for value in (0.001, most):
        device(tmp_path, like="H100", **{key: value})
    for value in (0, -1, most * 1.001):
        with pytest.raises(RecipeError, match=key):
            device(tmp_path, like="H100", **{key: value})


@pytest.mark.parametrize("key", ["memory_gb", "bf16_tflops", "fp32_tflops", "memory_gb_per_second",
                                 "link_gb_per_second", "network_gb_per_second", "matmul_efficiency",
                                 "attention_efficiency"])  # fmt: skip
def test_what_a_kind_of_its_own_must_have(tmp_path: Path, key: str):
    with pytest.raises(RecipeError, match=rf"lacks {key};"):
        device(tmp_path, **{name: value for name, value in FULL.items() if name != key})
    optional = {"fp16_tflops", "fp8_tflops", "gpus_per_node"}
    least = device(tmp_path, **{name: value for name, value in FULL.items() if name not in optional})
    assert least.peak_flops == {"bf16": 11e12, "fp16": 11e12, "fp32": 13e12}
    assert least.gpus_per_node == 8


def test_edges_of_a_device_file(tmp_path: Path):
    assert device(tmp_path, like="H100", gpus_per_node=1).gpus_per_node == 1
    for value in (0, 1_000_001):
        with pytest.raises(RecipeError, match="gpus_per_node"):
            device(tmp_path, like="H100", gpus_per_node=value)
    path = tmp_path / "large.toml"
    text = '[mine]\nlike = "H100"\n'
    path.write_text(text + "#" * (1_000_000 - len(text)))
    assert read_devices(path)["mine"].memory_bytes == H100.memory_bytes
    path.write_text('[mine]\nlike = "quite another"\n')
    with pytest.raises(RecipeError, match=r"unknown kind 'quite another'; known: A100-40G, "):
        read_devices(path)
    path.write_text('[mine]\nlike = "H100"\nzzz = 1\n')
    with pytest.raises(RecipeError, match=rf"unknown key zzz; known: {', '.join(DeviceValues.model_fields)}"):
        read_devices(path)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_units_at_the_edges():
    assert [size(n) for n in (1e12, 1e12 - 1e7, 1e9, 1e9 - 1e4, 1e6, 999_990, 0)] == [
        "1.00 TB", "999.99 GB", "1.00 GB", "999.99 MB", "1.00 MB", "999.99 kB", "0.00 kB",
    ]  # fmt: skip
    days = [duration(days) for days in (2, 1.99, 1 / 12, 1.9 / 24, 1500)]
    assert days == ["2.0 days", "47.8 hours", "2.0 hours", "114.0 minutes", "1,500.0 days"]


def rows(text: str) -> dict[str, str]:
    """First and other cells of a table's rows."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    return {first: " | ".join(others) for first, *others in cells}


def planned(**changes: Any) -> dict[str, Any]:
    layout = {"replicate": 2, "shard": 1, "tensor": 1, "pipeline": 2, "gather": "layer"}
    listed = layout | {"micro_batch_size": 4, "memory_bytes_per_gpu": 3e9, "tokens_per_second": 4000.6}
    return {
        "gpus": 4, "device": "H100", "fits": True, "flops_per_token": {"causal": 6000, "palm": 7000},
        "parameters": 1000, "tokens": 2_000_000, "steps": 3000, "disk_bytes": 4e9, "memory_bytes_per_gpu": 5e9,
        "usable_memory_bytes_per_gpu": 6e9, "parallel": layout, "micro_batch_size": 8, "stage_layers": [7, 5],
        "tokens_per_second": 1234.5, "mfu_causal": 0.401, "mfu_palm": 0.452, "days": 3.0, "gpu_hours": 288.0,
        "cost": 1234.5, "memory_stage": 1, "memory_parts": {"weights": 1e9, "compute_copy": 3e9},
        "step_seconds_parts": {"matmul": 0.75, "weight_traffic": 0.25}, "layouts": [listed], "changes": [], "notes": [],
    } | changes  # fmt: skip


def test_every_figure_has_its_place_in_the_table():
    text = render(planned(notes=["[one]"]))
    found = rows(text)
    assert "4 x H100: fits" in text
    expected = {
        "parameters": "1,000", "FLOPs per token": "6,000 causal, 7,000 palm", "tokens": "2,000,000 in 3,000 steps",
        "disk": "4.00 GB", "memory per device": "5.00 GB of 6.00 GB usable",
        "layout": "replicate 2 x pipeline 2, micro-batch 8", "stages": "7 + 5 layers", "tokens per second": "1,234",
        "MFU": "40.1% causal, 45.2% palm", "time": "3.0 days, 288.0 device hours", "cost": "1,234.50",
        "weights": "1.00 GB | 25.0%", "compute copy": "3.00 GB | 75.0%", "matmul": "750.0 ms | 75.0%",
        "weight traffic": "250.0 ms | 25.0%", "total": "1,000.0 ms | 100.0%",
        "replicate 2 x pipeline 2": "4 | 3.00 GB | 4,001",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert "Memory on stage 2 of 2, 5 layers" in text
    assert "note: [one]" in text
    assert "more; --json has all" not in text
    without = render(planned(cost=None, stage_layers=[12], memory_stage=0))
    assert "cost" not in rows(without)
    assert "stages" not in rows(without)
    assert "Memory of one device" in without


@pytest.mark.parametrize(("count", "caption"), [(MAX_LAYOUTS, ""), (MAX_LAYOUTS + 1, "and 1 more"), (15, "and 3 more")])
def test_the_first_layouts_are_listed(count: int, caption: str):
    listed = [
        {**planned()["layouts"][0], "replicate": number + 1, "pipeline": 1, "micro_batch_size": size}
        for number in range(count)
        for size in (8, 4)
    ]
    text = render(planned(layouts=listed)).split("best first")[1]
    assert len(re.findall(r"│ (?:one process|replicate \d+) +│ +8 ", text)) == 12
    assert (caption in text) == bool(caption) or not caption
    assert ("more; --json" in text) == bool(caption)
    alone = render(planned(layouts=listed[:2], gpus=1)).split("best first")[1]  # of one device each micro-batch
    assert len(re.findall(r"│ one process +│ +[84] ", alone)) == 2


def test_what_does_not_fit_in_the_table():
    text = render(planned(fits=False, layouts=[], changes=["this would help"], cost=None))
    assert "4 x H100: does not fit" in text
    assert "does not fit: this would help" in text
    assert not {"layout", "MFU", "time"} & rows(text).keys()
    nothing = planned(
        fits=False, layouts=[], cost=None, memory_bytes_per_gpu=None, memory_parts=None, step_seconds_parts=None
    )
    assert "memory per device" not in rows(render(nothing))


@pytest.mark.parametrize(
    ("gpus", "per_node", "words"),
    [
        (1, 1, "start it with: tinyllama pretrain 'a b' x=1"),
        (4, 4, "start it with: torchrun --nproc-per-node 4 -m tinyllama pretrain 'a b' x=1"),
        (
            16, 8,
            "start it on each node with: torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 "
            "--nproc-per-node 8 -m tinyllama pretrain 'a b' x=1",
        ),
    ],
)  # fmt: skip
def test_the_command_of_one_node_and_several(gpus: int, per_node: int, words: str):
    assert launch_command({"overrides": ["x=1"], "gpus": gpus, "gpus_per_node": per_node}, ["a b"]) == words
