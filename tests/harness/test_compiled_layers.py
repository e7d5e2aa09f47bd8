"""Compiled layers: the same numbers, few compilations, only when they pay, and none where they do not work."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.tiny_model import tiny_llama
from tinyllama.harness import compiled_layers
from tinyllama.harness.compiled_layers import CompiledLayers
from tinyllama.harness.token_rows import tree_mask
from tinyllama.model.llama import Llama


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches() -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Of many shapes, plain and with masks."""
    draw = torch.Generator().manual_seed(0)
    found: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    for rows, length in ((3, 7), (5, 12), (2, 30), (8, 9), (4, 21)):
        tokens = torch.randint(0, 512, (rows, length), generator=draw)
        branches = torch.tensor([[0] * 3 + [1] * 2 + [2] * (length - 5)] * rows)
        found += [(tokens, None), (tokens, tree_mask(branches))]
    return found


@torch.inference_mode()
def test_any_shape_is_compiled_a_few_times_and_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    counter, compile_as_is = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda layer, **how: compile_as_is(layer, backend=counter, **how))
    model = tiny_llama(n_layers=12).eval()
    layers = CompiledLayers(model, True)
    for tokens, mask in batches():
        torch.testing.assert_close(layers.hidden(tokens, None, mask), model.hidden(tokens, None, mask))
    assert layers.are_compiled
    assert counter.frame_count == 2  # with a mask and without, each as one graph, whatever the layer and the shape


def test_a_compiler_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def broken(model: Llama) -> Any:
        class Broken:
            def hidden(self, *given: Any) -> torch.Tensor:
                raise RuntimeError("no C++ compiler\nsecond line")

        return Broken()

    monkeypatch.setattr(compiled_layers, "with_compiled_layers", broken)
    model = tiny_llama().eval()
    layers = CompiledLayers(model, True)
    for tokens, mask in batches()[:4]:
        torch.testing.assert_close(layers.hidden(tokens, None, mask), model.hidden(tokens, None, mask))
    assert not layers.are_compiled
    said = capfd.readouterr().err
    assert said.count("layers are not compiled (RuntimeError: no C++ compiler)") == 1
    assert "second line" not in said


def test_too_little_memory_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch):
    class Full:
        def hidden(self, *given: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(compiled_layers, "with_compiled_layers", lambda model: Full())
    layers = CompiledLayers(tiny_llama().eval(), True)
    with pytest.raises(torch.OutOfMemoryError):
        layers.hidden(torch.zeros(1, 4, dtype=torch.int64))


def test_a_cpu_compiles_only_when_told(monkeypatch: pytest.MonkeyPatch):
    def unwanted(model: Llama) -> Llama:
        raise AssertionError("compiled")

    monkeypatch.setattr(compiled_layers, "with_compiled_layers", unwanted)
    monkeypatch.setattr(compiled_layers, "COMPILE_FROM_FLOP", 0.0)
    for wanted in (None, False):
        layers = CompiledLayers(tiny_llama().eval(), wanted)
        layers.hidden(torch.zeros(1, 4, dtype=torch.int64))
        assert not layers.are_compiled


@torch.inference_mode()
@pytest.mark.parametrize(("more", "are_compiled"), [(-1, False), (0, True)])
def test_two_operations_a_parameter_and_token_are_counted(
    monkeypatch: pytest.MonkeyPatch, more: int, are_compiled: bool
):
    monkeypatch.setattr(compiled_layers, "with_compiled_layers", lambda model: model)
    model = tiny_llama().eval()
    layers = CompiledLayers(model, True)
    layers._from_flop = 2 * model.config.n_parameters * 12
    layers.hidden(torch.zeros(2, 4, dtype=torch.int64))
    assert not layers.are_compiled
    layers.hidden(torch.zeros(1, 4 + more, dtype=torch.int64))
    assert layers.are_compiled is are_compiled
