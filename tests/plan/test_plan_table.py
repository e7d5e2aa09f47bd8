from tinyllama.model.llama_config import PRESETS, preset
from tinyllama.plan.cost import plan
from tinyllama.plan.plan_table import duration, render, size
from tinyllama.train.train_config import TrainConfig


def test_the_table_shows_figures_parts_and_layouts():
    planned = plan(PRESETS["tinyllama-1.1b"], TrainConfig(), "16xA100-40G", price_per_gpu_hour=1.5)
    text = render(planned)
    for expected in ("16 x A100-40G: fits", "1,100,048,384", "90.", "optimizer", "weight traffic", "Layouts that fit"):
        assert expected in text
    assert f"{planned['cost']:,.2f}" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_table_of_what_does_not_fit():
    text = render(plan(preset("tinyllama-1.1b", n_layers=26), TrainConfig(), "RTX4090"))
    assert "does not fit: train.recompute: 'full' and train.optimizer_state: 'bf16' would fit" in text
    assert "Layouts that fit" not in text
    assert "is not a multiple" in render(plan(PRESETS["tinyllama-1.1b"], TrainConfig(), "7xH100")).replace("\n", " ")


def test_units():
    assert [size(n) for n in (1_500_000_000, 2e12, 5e6, 900)] == ["1.50 GB", "2.00 TB", "5.00 MB", "0.90 kB"]
    assert [duration(days) for days in (90.04, 0.5, 0.01)] == ["90.0 days", "12.0 hours", "14.4 minutes"]
