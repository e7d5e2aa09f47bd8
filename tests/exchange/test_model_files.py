"""Files that an export leaves: when they are flushed, renamed and taken away; how weights are cut; what is read again."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.tiny_model import make_run, tiny_config, tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange import gguf as gguf_module
from tinyllama.exchange import hugging_face
from tinyllama.exchange import open_model as opening
from tinyllama.exchange.export_files import plain_llama, prepare_folder
from tinyllama.exchange.gguf import _checked, _type_of, export_gguf
from tinyllama.exchange.hugging_face import _prepare, _write_weights, export_hugging_face
from tinyllama.exchange.open_model import OpenedModel, model_folder, open_model
from tinyllama.exchange.tensor_files import TensorFiles, indexed_files


@pytest.fixture(scope="module")
def opened(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return open_model(make_run(prepared_run, tmp_path_factory.mktemp("files") / "run"), "cpu")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk, in order: files flushed, renames, folders flushed."""
    seen: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(file: int) -> None:
        seen.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        real_fsync(file)

    def replace(self: Path, target: Path) -> Path:
        seen.append(f"rename {Path(target).name}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return seen


def test_weights_are_on_disk_before_and_after_their_rename(tmp_path: Path, calls: list[str]):
    out = tmp_path / "out"
    out.mkdir()
    _write_weights({"a": torch.zeros(2), "b": torch.zeros(2)}, out, 8)
    for n in (1, 2):
        name = f"model-{n:05d}-of-00002.safetensors"
        at = calls.index(f"rename {name}")
        assert calls[at - 1 : at + 2] == [f"fsync .{name}.partial", f"rename {name}", "fsync out"]
    assert calls.index("rename model-00002-of-00002.safetensors") < calls.index("rename model.safetensors.index.json")


def test_a_gguf_is_on_disk_before_and_after_its_rename(opened: OpenedModel, tmp_path: Path, calls: list[str]):
    pytest.importorskip("gguf")
    export_gguf(opened, tmp_path / "out", "f16")
    assert calls == ["fsync .model-f16.gguf.partial", "rename model-f16.gguf", "fsync out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model-f16.gguf"]


def test_a_gguf_cut_off_leaves_nothing(opened: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gguf")

    def fail(*given: Any) -> None:
        given[0].write_bytes(b"GGUF")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_module, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        export_gguf(opened, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_config_json_is_the_last_file(opened: OpenedModel, tmp_path: Path, calls: list[str]):
    found = export_hugging_face(opened, tmp_path / "out")
    renames = [call.removeprefix("rename ") for call in calls if call.startswith("rename")]
    assert renames[-1] == "config.json"
    assert sorted(set(renames)) == found["files"]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert json.loads((tmp_path / "out" / "special_tokens_map.json").read_text()) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_bos_token": True, "add_eos_token": False, "split_special_tokens": True, "model_max_length": 48,
        "clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip


def test_a_cut_off_export_is_no_model(opened: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    export_hugging_face(opened, out, max_file_bytes=100_000)
    for name in ("manifest.json", "unfinished.json", ".model.safetensors.partial"):
        (out / name).write_text("x")

    def fail(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hugging_face, "_write_tokenizer", fail)
    with pytest.raises(KeyboardInterrupt):
        export_hugging_face(opened, out)
    left = {path.name for path in out.iterdir()}
    assert left == {
        "manifest.json", "unfinished.json", "README.md", "generation_config.json", "special_tokens_map.json",
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "is_kept"),
    [
        ("model.txt", False),
        ("weights.safetensors", False),
        ("model-x.safetensors", True),
        (".hidden", True),
        ("config.json", True),
    ],
)
def test_a_folder_is_made_room_in_only_among_an_exports_files(tmp_path: Path, name: str, is_kept: bool):
    (tmp_path / name).write_text("x")
    if is_kept:
        _prepare(tmp_path)
        assert (tmp_path / name).exists() == (name == ".hidden")
    else:
        with pytest.raises(InputError, match=f"{name}: not an earlier export's file"):
            _prepare(tmp_path)
        assert (tmp_path / name).exists()


def test_a_ggufs_folder_holds_ggufs_alone(opened: OpenedModel, tmp_path: Path):
    pytest.importorskip("gguf")
    for name in ("old.gguf", "manifest.json", "unfinished.json", ".x.gguf.partial"):
        (tmp_path / name).write_text("x")
    export_gguf(opened, tmp_path)
    export_gguf(opened, tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep" / "model-f16.gguf").is_file()
    with pytest.raises(InputError, match="new: not an earlier export's file"):
        export_gguf(opened, tmp_path)
    for name in ("old.gguf", "manifest.json", "none.gguf"):
        with pytest.raises(InputError, match=f"{name}: --out is a folder"):
            export_gguf(opened, tmp_path / name)
    with pytest.raises(InputError, match=r"old\.gguf: not a folder"):
        prepare_folder(tmp_path / "old.gguf", bool)


def test_weights_are_cut_where_a_file_is_full(tmp_path: Path):
    tensors = {
        name: torch.full((size,), float(size)) for name, size in (("a", 2), ("b", 2), ("c", 1), ("d", 9), ("e", 1))
    }
    names = _write_weights(tensors, tmp_path, 20)  # bytes 8 8 4 | 36 | 4
    files = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    assert names == [*files, "model.safetensors.index.json"]
    assert [sorted(load_file(tmp_path / name)) for name in files] == [["a", "b", "c"], ["d"], ["e"]]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 60},
        "weight_map": {"a": files[0], "b": files[0], "c": files[0], "d": files[1], "e": files[2]},
    }
    with TensorFiles(indexed_files(tmp_path / "model.safetensors.index.json")) as found:
        assert found.shapes == {name: tuple(value.shape) for name, value in tensors.items()}
        assert {name: path.name for name, path in found.path_of.items()} == index["weight_map"]
        assert all(torch.equal(found.tensor(name), value) for name, value in tensors.items())
    assert _write_weights({"a": torch.zeros(5)}, tmp_path / "", 20) == ["model.safetensors"]  # just full
    assert _write_weights({"a": torch.zeros(5)}, tmp_path / "", 19) == ["model.safetensors"]  # one tensor is one file


def test_five_gigabytes_are_one_file():
    assert hugging_face.MAX_FILE_BYTES == 5_000_000_000
    assert export_hugging_face.__defaults__ == (None, 5_000_000_000)


def test_tensor_files_refuse_what_they_cannot_take(tmp_path: Path):
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file({"a": torch.zeros(1), "b": torch.zeros(1, dtype=torch.bfloat16)}, one)
    save_file({"c": torch.tensor([1.0, float("inf")]), "d": torch.tensor([float("nan"), 1.0])}, two)
    with TensorFiles([one, two]) as files:
        assert set(files.shapes) == {"a", "b", "c", "d"}
        assert files.tensor("b").dtype == torch.bfloat16
        for name in "cd":
            with pytest.raises(InputError, match=f"2.safetensors: tensor {name} holds values that are not finite"):
                files.tensor(name)
    with pytest.raises(SafetensorError, match="closed"):
        files.tensor("a")
    save_file({"a": torch.zeros(1)}, two)
    with pytest.raises(InputError, match=r"2\.safetensors: tensor a is in 1\.safetensors too"):
        TensorFiles([one, two])
    with pytest.raises(InputError, match=r"3\.safetensors: no such file"):
        TensorFiles([one, tmp_path / "3.safetensors"])
    for dtype, name in (
        (torch.int8, "I8"),
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.float8_e4m3fn, "F8_E4M3"),
    ):
        save_file({"z": torch.zeros(1).to(dtype)}, two)
        with pytest.raises(InputError, match=f"tensor z has dtype {name}; only floats are read"):
            TensorFiles([two])
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        save_file({"z": torch.zeros(1).to(dtype)}, two)
        with TensorFiles([two]) as files:
            assert files.tensor("z").dtype == dtype


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": None}])
def test_an_index_without_a_map(tmp_path: Path, index: Any):
    (tmp_path / "i.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="no weight_map in it"):
        indexed_files(tmp_path / "i.json")


@pytest.mark.parametrize("name", ["../a.safetensors", "sub/a.safetensors", "a.bin", "/a.safetensors", 7])
def test_an_index_names_files_beside_it_alone(tmp_path: Path, name: Any):
    path = tmp_path / "i.json"
    path.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": name}}))
    with pytest.raises(InputError, match="is not the name of a safetensors file in this folder"):
        indexed_files(path)
    path.write_text(json.dumps({"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}))
    assert indexed_files(path) == [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


@pytest.mark.parametrize(
    ("shape", "gguf_type", "wanted"),
    [
        ((64,), "q8_0", "f32"), ((64,), "f16", "f32"), ((2, 64), "q8_0", "q8_0"), ((2, 33), "q8_0", "f16"),
        ((64, 33), "bf16", "bf16"), ((2, 33), "f32", "f32"), ((33, 64), "q8_0", "q8_0"),
    ],
)  # fmt: skip
def test_number_formats_of_tensors(shape: tuple[int, ...], gguf_type: str, wanted: str):
    assert _type_of(torch.zeros(shape), gguf_type) == wanted


@pytest.mark.parametrize(("gguf_type", "most"), [("f16", 65_504.0), ("q8_0", 127 * 65_504.0)])
def test_the_largest_value_of_a_format_fits_and_no_larger_one(gguf_type: str, most: float):
    for sign in (1, -1):
        whole = torch.tensor([0.0, sign * most])
        assert _checked("t", whole, gguf_type) is whole
        with pytest.raises(InputError, match=f"tensor t: values above {most:,.0f} do not fit {gguf_type}"):
            _checked("t", whole * 1.001, gguf_type)
    assert _checked("t", torch.tensor([1e38]), "bf16").item() == torch.tensor(1e38).item()


def test_projections_are_folded_in():
    model = tiny_llama(embedding_dim=16).eval()
    opened: Any = OpenedModel(model, model.config, None, Path("x"), None)  # pyright: ignore[reportArgumentType]
    config, weights = plain_llama(opened)
    assert config == tiny_config()
    own = dict(model.named_parameters())
    into, out_of = own["embedding_projection.weight"], own["head_projection.weight"]
    assert torch.allclose(weights["embedding.weight"], own["embedding.weight"] @ into.T, atol=1e-6)
    assert torch.allclose(weights["head.weight"], own["head.weight"] @ out_of, atol=1e-6)
    assert weights.keys() == dict(tiny_llama().named_parameters()).keys()
    tied = tiny_llama(embedding_dim=16, tied_head=True).eval()
    config, weights = plain_llama(OpenedModel(tied, tied.config, None, Path("x"), None))  # pyright: ignore[reportArgumentType]
    assert not config.tied_head
    out_of = tied.get_parameter("head_projection.weight")
    assert torch.allclose(weights["head.weight"], tied.get_parameter("embedding.weight") @ out_of, atol=1e-6)
    plain = tiny_llama(tied_head=True, dtype=torch.float64).eval()
    config, weights = plain_llama(OpenedModel(plain, plain.config, None, Path("x"), None))  # pyright: ignore[reportArgumentType]
    assert config == plain.config
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert not any(value.requires_grad for value in weights.values())


class Shapes:
    """Tensors by their shapes alone."""

    def __init__(self, config: Any, **changes: Any) -> None:
        with torch.device("meta"):
            model = opening.Llama(config)
        found = {name: tuple(value.shape) for name, value in model.named_parameters()} | changes
        self.shapes = {name: shape for name, shape in found.items() if shape}
        self.path_of = dict.fromkeys(self.shapes, Path("w"))

    def tensor(self, name: str) -> torch.Tensor:
        return torch.full(self.shapes[name], 2.0, dtype=torch.float64)


def test_as_many_layers_as_are_read_and_one_more(monkeypatch: pytest.MonkeyPatch):
    assert opening.MAX_LAYERS == 4096
    monkeypatch.setattr(opening, "MAX_LAYERS", 3)
    cpu = torch.device("cpu")
    model = opening._load(tiny_config(n_layers=3), Shapes(tiny_config(n_layers=3)), str, Path("x"), cpu, torch.bfloat16)
    assert {(value.dtype, value.requires_grad) for value in model.parameters()} == {(torch.bfloat16, False)}
    assert all((value == 2).all() for value in model.parameters())
    assert not model.training
    with pytest.raises(InputError, match="4 layers; at most 3 are read"):
        opening._load(tiny_config(n_layers=4), Shapes(tiny_config(n_layers=4)), str, Path("x"), cpu, torch.float32)
    two, tied = tiny_config(), tiny_config(tied_head=True)
    for config, tensors, message in (
        (two, Shapes(two, **{"layers.7.extra": (1,)}), "the weights have 3 layers, its configuration says 2"),
        (two, Shapes(two, **{"norm.weight": None}), "tensor norm.weight is missing"),
        (
            two,
            Shapes(two, **{"norm.weight": (31,)}),
            r"w: tensor norm.weight has shape \(31,\), the configuration says \(32,\)",
        ),
        (two, Shapes(two, extra=(1,)), "w: tensor extra is not part of this network"),
        (two, Shapes(two, **{"lm_head.weight": (512, 32)}), "w: tensor lm_head.weight is not part"),
    ):
        with pytest.raises(InputError, match=message):
            opening._load(config, tensors, str, Path("x"), cpu, torch.float32)
    opening._load(tied, Shapes(tied, **{"lm_head.weight": (512, 32)}), str, Path("x"), cpu, torch.float32)


@pytest.mark.parametrize(("n_pieces", "fits"), [(511, True), (512, True), (513, False)])
def test_a_vocabulary_has_room_for_every_piece(n_pieces: int, fits: bool):
    from types import SimpleNamespace

    tokenizer: Any = SimpleNamespace(vocab_size=n_pieces)
    if fits:
        opening._check_vocabulary(Path("x"), tokenizer, tiny_config())
    else:
        with pytest.raises(InputError, match="the tokenizer has 513 tokens, the network's vocabulary 512"):
            opening._check_vocabulary(Path("x"), tokenizer, tiny_config())


def test_where_the_weights_of_a_model_are(opened: OpenedModel, tmp_path: Path):
    checkpoint = opened.origin
    assert model_folder(checkpoint) == checkpoint
    assert model_folder(checkpoint.parent.parent) == checkpoint
    for name in ("config.json", "state.json", "weights.safetensors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
    assert model_folder(tmp_path / "config.json") == tmp_path / "config.json"
    for name in ("state.json", "weights.safetensors"):  # a half-written checkpoint is said to be one
        with pytest.raises(InputError, match="manifest"):
            model_folder(tmp_path / name)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_no_form_of_pickle_is_read(tmp_path: Path, suffix: str):
    (tmp_path / f"w{suffix}").write_bytes(b"x")
    with pytest.raises(InputError, match=f"w{suffix}: a pickle can run code and is never read"):
        opening._hugging_face_files(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    assert opening._hugging_face_files(tmp_path) == [tmp_path / "b.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert opening._hugging_face_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_the_device_asked_for(monkeypatch: pytest.MonkeyPatch):
    assert opening._device("cpu") == torch.device("cpu")
    for there, wanted in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert opening._device("auto") == torch.device(wanted)
