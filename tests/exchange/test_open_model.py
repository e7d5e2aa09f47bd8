import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tests.tiny_model import make_run, random_tokens, save_checkpoint, tiny_llama
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import _add_bos, open_model, open_tokenizer


@pytest.fixture(scope="module")
def run_dir(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one checkpoint. Not to be written to."""
    return make_run(prepared_run, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(run_dir: Path) -> Path:
    """The same model as a Hugging Face folder. Not to be written to."""
    export_hugging_face(open_model(run_dir, "cpu"), run_dir / "model")
    return run_dir / "model"


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of the Hugging Face folder to damage."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_run_its_checkpoint_and_its_export_are_one_model(run_dir: Path, exported: Path):
    wanted = weights_sha256(tiny_llama())
    checkpoint = run_dir / "checkpoints" / "step_00000003"
    for path in (run_dir, checkpoint, exported, str(run_dir)):
        opened = open_model(path, "cpu")
        assert weights_sha256(opened.model) == wanted
        assert opened.config == tiny_llama().config
        assert not opened.model.training
        assert opened.tokenizer.vocab_size == 512
    assert open_model(run_dir, "cpu").origin == checkpoint
    assert open_model(run_dir, "cpu").state == form.read_state(checkpoint)
    assert open_model(exported, "cpu").state is None


def test_the_newest_valid_checkpoint_is_taken(prepared_run: Path, tmp_path: Path):
    run = make_run(prepared_run, tmp_path / "run")
    damaged = save_checkpoint(run / "checkpoints", run / "tokenizer", tiny_llama(seed=9), step=200)
    assert open_model(run, "cpu").origin == damaged
    (damaged / form.WEIGHTS).write_bytes(b"")
    assert open_model(run, "cpu").origin.name == "step_00000003"


def test_number_format(run_dir: Path):
    opened = open_model(run_dir, "cpu", torch.bfloat16)
    assert {value.dtype for value in opened.model.parameters()} == {torch.bfloat16}
    assert opened.model(random_tokens(1, 4)).dtype == torch.bfloat16


def test_old_and_new_spelling_of_rope(folder: Path):
    theta = 12_345.0
    change_config(folder, rope_theta=1.0, rope_parameters={"rope_type": "default", "rope_theta": theta})
    assert open_model(folder, "cpu").config.rope_theta == theta
    change_config(folder, rope_theta=theta, rope_parameters=None, rope_scaling=None)
    assert open_model(folder, "cpu").config.rope_theta == theta
    change_config(folder, rope_theta=None, rope_scaling={"type": "default"})
    with pytest.raises(InputError, match="rope_theta: None"):
        open_model(folder, "cpu")


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}, ("linear", 5e5, 2.0)),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 7e4}}, ("linear", 7e4, 2.5)),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, ("llama3", 5e5, 8.0)),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}, ("llama3", 5e5, 8.0)),
    ],
)
def test_stretched_rope_is_read_as_transformers_reads_it(folder: Path, given: dict[str, Any], wanted: tuple):
    change_config(folder, **({"rope_theta": None, "rope_parameters": None} | given))
    opened = open_model(folder, "cpu")
    config = opened.config
    assert (config.rope_scaling, config.rope_theta, config.rope_factor) == wanted
    tokens = random_tokens(1, 48)
    assert torch.allclose(LlamaForCausalLM.from_pretrained(folder)(tokens).logits, opened.model(tokens), atol=2e-5)


def test_a_tied_head_may_be_left_out_or_written_twice(prepared_run: Path, tmp_path: Path):
    run = make_run(prepared_run, tmp_path / "run", tiny_llama(tied_head=True))
    opened = open_model(run, "cpu")
    export_hugging_face(opened, tmp_path / "model")
    again = open_model(tmp_path / "model", "cpu")
    assert again.config.tied_head
    change_weights(tmp_path / "model", lambda tensors: tensors.update({"lm_head.weight": torch.zeros(512, 32)}))
    for other in (again, open_model(tmp_path / "model", "cpu")):
        assert weights_sha256(other.model) == weights_sha256(opened.model)


def test_rotary_tables_of_old_files_are_passed_over(folder: Path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_weights(folder, lambda tensors: tensors.update({name: torch.zeros(4)}))
    assert weights_sha256(open_model(folder, "cpu").model) == weights_sha256(tiny_llama())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, r"config\.json: model_type: 'gpt2'"),
        ({"attention_bias": True}, "attention_bias: True"),
        ({"mlp_bias": True}, "mlp_bias: True"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling.rope_type: 'yarn' must be one of"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type: 'dynamic'"),
        ({"rope_parameters": {"rope_type": ["linear"]}}, "rope_type: \\['linear'\\]"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters.low_freq_factor: missing"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "rope_factor: 0.5 must be at least 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor: 0.5"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"hidden_size": "32"}, "hidden_size: '32'"),
        ({"hidden_size": None}, "hidden_size: None"),
        ({"hidden_size": -4}, "hidden_size: -4"),
        ({"num_attention_heads": 3}, "n_kv_heads"),
        ({"num_hidden_layers": 1_000_000_000}, "2 layers, its configuration says 1000000000"),
        ({"intermediate_size": 64}, r"gate_proj.weight has shape \(48, 32\)"),
        ({"intermediate_size": 2**30, "hidden_size": 2**30, "head_dim": 2**30}, "impossible|shape"),
        ({"vocab_size": 100}, "tokenizer has 512 tokens, the network's vocabulary 100"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps: 'small'"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: 'yes'"),
    ],
)
def test_networks_that_we_do_not_have_are_named(folder: Path, changes: dict[str, Any], message: str):
    change_config(folder, **changes)
    with pytest.raises(InputError, match=message) as caught:
        open_model(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"model\.norm\.weight is missing"),
        (lambda t: t.update({"model.extra": torch.zeros(1)}), r"model\.extra is not part of this network"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(7)}), r"model\.norm\.weight has shape \(7,\)"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}), "only floats"),
        (lambda t: t["model.norm.weight"].fill_(float("nan")), r"model\.norm\.weight holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, change: Callable, message: str):
    change_weights(folder, change)
    with pytest.raises(InputError, match=message):
        open_model(folder, "cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_read(folder: Path, dtype: torch.dtype):
    change_weights(folder, lambda t: t.update({name: value.to(dtype) for name, value in t.items()}))
    model = open_model(folder, "cpu").model
    assert model.norm.weight.dtype == torch.float32
    assert torch.equal(model.norm.weight, tiny_llama().norm.weight.to(dtype).float())


@pytest.mark.parametrize("kept", ["tokenizer.model", "tokenizer.json"])
def test_what_transformers_cuts_into_files_opens(folder: Path, tmp_path: Path, kept: str):
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    shutil.copy(folder / kept, tmp_path / "theirs")
    opened = open_model(tmp_path / "theirs", "cpu")
    assert weights_sha256(opened.model) == weights_sha256(tiny_llama())
    assert opened.with_bos([]) == [1]


def test_a_truncated_file_is_named(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: not a complete safetensors file"):
        open_model(folder, "cpu")


def test_a_pickle_is_never_read(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: a pickle can run code"):
        open_model(folder, "cpu")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "weights.bin", ""])
def test_an_index_cannot_point_outside(folder: Path, name: str):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="weight_map"):
        open_model(folder, "cpu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.write_text("x"), "neither a GGUF file nor a folder"),
        (lambda path: path.mkdir(), "neither checkpoints/"),
        (lambda path: (path / "checkpoints").mkdir(parents=True), "no valid checkpoint"),
    ],
)
def test_no_model_at_all(tmp_path: Path, make: Callable[[Path], Any], message: str):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        open_model(tmp_path / "x")


def test_folder_without_tokenizer(folder: Path):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.model or tokenizer\.json"):
        open_model(folder, "cpu")


def rewrite_state(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = checkpoint / form.STATE
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    form.write_manifest(checkpoint, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["model"].update(dim="wide"), "model"),
        (lambda state: state["model"].update(dim=32.0), r"model\.dim: 32\.0 must be a valid integer"),
        (lambda state: state["model"].update(legs=4), "legs"),
        (lambda state: state.update(model=7), "model"),
        (lambda state: state["model"].update(n_layers=10**9), "layers"),
        (lambda state: state.update(tokenizer_fingerprint="0"), "tokenizer is not the one"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused(
    run_dir: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
):
    checkpoint = Path(shutil.copytree(run_dir / "checkpoints" / "step_00000003", tmp_path / "step_00000003"))
    rewrite_state(checkpoint, change)
    with pytest.raises(InputError, match=message):
        open_model(checkpoint, "cpu")


def test_a_device_that_is_not_there_is_named(run_dir: Path):
    with pytest.raises(InputError, match="device: 'abacus'"):
        open_model(run_dir, "abacus")


def test_bos_unless_the_tokenizer_says_no(folder: Path):
    assert open_model(folder, "cpu").with_bos([7]) == [1, 7]
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"add_bos_token": False}))
    assert open_model(folder, "cpu").with_bos([7]) == [7]


def test_tokenizer_of_anything(run_dir: Path, exported: Path):
    places = [run_dir, run_dir / "tokenizer", run_dir / "tokenizer" / "tokenizer.model", exported]
    assert len({open_tokenizer(path).fingerprint for path in places}) == 1
    with pytest.raises(InputError, match="no such"):
        open_tokenizer(run_dir / "nothing")


def test_the_tokenizer_of_a_run_is_its_own_folder_or_its_newest_checkpoints(run_dir: Path, tmp_path: Path):
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    assert open_tokenizer(run).vocab_size == 512
    other = Path(shutil.copytree(run_dir, tmp_path / "other"))
    shutil.rmtree(other / "tokenizer")
    assert open_tokenizer(other).fingerprint == open_tokenizer(run_dir).fingerprint
    (other / "tokenizer").mkdir()
    with pytest.raises(InputError, match=r"tokenizer: no tokenizer\.model or tokenizer\.json"):
        open_tokenizer(other)  # the run's own folder is the one that is read


@pytest.mark.parametrize(
    ("settings", "adds"),
    [({}, True), ({"add_bos_token": True}, True), ({"add_bos_token": None}, True), ({"add_bos_token": 0}, True),
     ({"add_bos_token": False}, False), ([], True)],
)  # fmt: skip
def test_bos_is_written_unless_the_settings_say_false(tmp_path: Path, settings: Any, adds: bool):
    assert _add_bos(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert _add_bos(tmp_path) is adds


def test_with_bos_needs_a_vocabulary_that_has_one(run_dir: Path):
    opened = open_model(run_dir, "cpu")
    plain: Any = SimpleNamespace(bos_id=None)
    assert opened.with_bos([]) == [1]
    assert replace(opened, add_bos=False).with_bos([5]) == [5]
    assert replace(opened, tokenizer=plain).with_bos([5]) == [5]
    zero: Any = SimpleNamespace(bos_id=0)
    assert replace(opened, tokenizer=zero).with_bos([5]) == [0, 5]


def test_a_gguf_is_opened_in_the_format_asked_for(run_dir: Path, tmp_path: Path):
    pytest.importorskip("gguf")
    from tinyllama.exchange.gguf import export_gguf

    quiet = replace(open_model(run_dir, "cpu"), add_bos=False)
    export_gguf(quiet, tmp_path, "f32")
    opened = open_model(tmp_path / "model-f32.gguf", "cpu", torch.bfloat16)
    assert {value.dtype for value in opened.model.parameters()} == {torch.bfloat16}
    assert (opened.add_bos, opened.state, opened.origin) == (False, None, tmp_path / "model-f32.gguf")
    assert not opened.model.training
    assert opened.device == torch.device("cpu")
    assert torch.equal(opened.model.norm.weight, tiny_llama().norm.weight.bfloat16())


def test_whole_numbers_may_stand_for_fractions_in_a_checkpoint_and_not_the_other_way(run_dir: Path, tmp_path: Path):
    checkpoint = Path(shutil.copytree(run_dir / "checkpoints" / "step_00000003", tmp_path / "step_00000003"))
    rewrite_state(checkpoint, lambda state: state["model"].update(rope_theta=10_000))
    assert open_model(checkpoint, "cpu").config.rope_theta == 10_000
    for key, value in (("tied_head", 0), ("seq_len", True), ("norm_eps", "1e-5"), ("rope_scaling", None)):
        rewrite_state(checkpoint, lambda state, key=key, value=value: state["model"].update({key: value}))
        with pytest.raises(InputError, match=key):
            open_model(checkpoint, "cpu")
        rewrite_state(checkpoint, lambda state: state.update(model=tiny_llama().config.to_dict()))
