import pytest
import torch
from torch import nn

from tests.tiny_model import random_tokens, tiny_llama
from tinyllama.model.packed_llama import pack


def linears() -> list[nn.Linear]:
    return [nn.Linear(6, n, bias=False) for n in (4, 1, 3)]


def test_rows_follow_each_other_in_one_storage():
    parts = linears()
    values = torch.cat([part.weight.detach().clone() for part in parts])
    packed = pack(parts)
    assert torch.equal(packed, values)
    with torch.no_grad():
        parts[1].weight.fill_(7.0)
    assert (packed[4] == 7.0).all()


def test_what_is_packed_stays():
    parts = linears()
    packed = pack(parts)
    again = pack(parts)
    assert again.data_ptr() == packed.data_ptr()
    assert torch.equal(again, packed)
    assert pack(parts[::-1]).data_ptr() != packed.data_ptr()  # another order is another matrix


@pytest.mark.parametrize("opened_in_inference", [False, True])
@pytest.mark.parametrize("packed_in_inference", [False, True])
def test_the_network_is_the_same_and_can_be_used_in_every_mode(opened_in_inference: bool, packed_in_inference: bool):
    with torch.inference_mode(opened_in_inference):
        model = tiny_llama(dtype=torch.float64).to(torch.float32)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        logits = model(random_tokens(2, 9))
    with torch.inference_mode(packed_in_inference):
        for layer in model.layers:
            attention = layer.get_submodule("attention")
            pack([getattr(attention, name) for name in ("q", "k", "v")])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with torch.no_grad():
        assert torch.equal(model(random_tokens(2, 9)), logits)
    assert not any(value.is_inference() for name, value in model.named_parameters() if "attention.q" in name)
