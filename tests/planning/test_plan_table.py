from tinyllama.model.llama_config import PRESETS, preset
from tinyllama.planning.cost import plan
from tinyllama.planning.plan_table import MAX_LAYOUTS, duration, launch_command, render, size
from tinyllama.train.train_config import TrainConfig


def test_the_table_shows_figures_parts_and_layouts():
    planned = plan(PRESETS["tinyllama-1.1b"], TrainConfig(), "16xA100-40G", price_per_gpu_hour=1.5)
    text = render(planned)
    for expected in (
        "16 x A100-40G: fits",
        "1,100,048,384",
        "83.",
        "shard 16 by step, micro-batch 8",
        "optimizer",
        "weight traffic",
        "Layouts that fit",
    ):
        assert expected in text
    assert f"{planned['cost']:,.2f}" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_table_of_what_does_not_fit():
    text = render(plan(preset("tinyllama-1.1b", n_layers=26), TrainConfig(), "RTX4090"))
    assert "does not fit: train.recompute: 'full' and train.optimizer_state: 'bf16' would fit" in text
    assert "Layouts that fit" not in text
    none = plan(PRESETS["tinyllama-1.1b"], TrainConfig(), "23xH100", gpus_per_node=23)
    assert "is not a multiple" in render(none).replace("\n", " ")


def test_the_table_names_the_stages():
    """Seven devices cannot share the step's sequences, but stages can be seven."""
    text = render(plan(PRESETS["tinyllama-1.1b"], TrainConfig(), "7xH100"))
    assert "3 + 3 + 3 + 3 + 4 + 4 + 2 layers" in text
    assert "Memory on stage 1 of 7, 3 layers" in text


def test_units():
    assert [size(n) for n in (1_500_000_000, 2e12, 5e6, 900)] == ["1.50 GB", "2.00 TB", "5.00 MB", "0.90 kB"]
    assert [duration(days) for days in (90.04, 0.5, 0.01)] == ["90.0 days", "12.0 hours", "14.4 minutes"]


def test_the_table_lists_each_layout_once():
    planned = plan(PRESETS["tinyllama-1.1b"], TrainConfig(), "16xA100-40G")
    rows = [line.split("│")[1].strip() for line in render(planned).split("best first")[1].splitlines() if "│" in line]
    assert len(rows) == len(set(rows)) == MAX_LAYOUTS
    assert "more; --json has all" in render(planned)


def test_the_command_that_starts_it():
    def command(gpus: str, gpus_per_node: int | None = None) -> str:
        planned = plan(PRESETS["tinyllama-1.1b"], TrainConfig(), gpus, gpus_per_node=gpus_per_node)
        return launch_command(planned, ["mine.toml", "train.seed=3"])

    assert command("H100") == "start it with: tinyllama pretrain mine.toml train.seed=3 train.micro_batch_size=16"
    assert command("8xH100") == (
        "start it with: torchrun --nproc-per-node 8 -m tinyllama pretrain mine.toml train.seed=3 parallel.replicate=8 "
        "train.micro_batch_size=16"
    )
    assert command("8xA100-40G", gpus_per_node=4).startswith(
        "start it on each node with: torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 4 "
    )
