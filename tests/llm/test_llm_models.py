"""Loading models, telling their weights apart, and what cannot be loaded."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from circuit_phases.files import UserError
from circuit_phases.llm.models import fetch_model, load_model, weights_digest
from circuit_phases.llm.settings import ModelSource

FolderOf = Callable[[str], Path]


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_a_local_folder_is_loaded_as_it_is(family: str, folder_of: FolderOf, tmp_path: Path) -> None:
    fetch_model("llm.models.x", ModelSource(path=str(folder_of(family))), "local", tmp_path / "weights")
    loaded = load_model("llm.models.x", tmp_path / "weights").model
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder_of(family))
    tokens = torch.arange(7)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(tokens).logits, plain(tokens).logits)


def test_weights_are_told_apart_by_their_tensors_not_by_their_files(folder_of: FolderOf, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder_of("llama"))
    model.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert weights_digest(tmp_path / "split") == weights_digest(folder_of("llama"))
    torch.save(dict(model.state_dict()), tmp_path / "pytorch_model.bin")
    before = weights_digest(tmp_path)
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    torch.save(dict(model.state_dict()), tmp_path / "pytorch_model.bin")
    assert weights_digest(tmp_path) != before


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_model("llm.models.x", ModelSource(path=str(tmp_path / "none")), "local", tmp_path / "weights")
    assert one_line(caught) == f"llm.models.x: path = {tmp_path / 'none'} does not exist. Correct it."


def test_another_checksum_is_told_with_both(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    source = ModelSource(path=str(tmp_path / "model.gguf"), sha256="0" * 64)
    with pytest.raises(UserError) as caught:
        fetch_model("llm.models.x", source, "local", tmp_path / "weights")
    found = hashlib.sha256(b"weights").hexdigest()
    assert f"the checksum of model.gguf is {found}, not {'0' * 64}." in one_line(caught)


@pytest.mark.parametrize("how", ["bert", "t5"])
def test_a_model_that_is_not_causal_is_told(how: str, folder_of: FolderOf, tmp_path: Path) -> None:
    if how == "bert":
        config = transformers.BertConfig(
            vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    else:
        config = transformers.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    for file in folder_of("gpt2").glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(UserError, match="is not a causal language model") as caught:
        load_model("llm.models.x", tmp_path)
    assert one_line(caught).startswith("llm.models.x is not")


def test_missing_weights_are_told(folder_of: FolderOf, tmp_path: Path) -> None:
    shutil.copytree(folder_of("gpt2"), tmp_path, dirs_exist_ok=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    state = {name: tensor for name, tensor in model.state_dict().items() if "h.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match=r"weights are missing, such as .*h\.1\.mlp") as caught:
        load_model("llm.models.x", tmp_path)
    one_line(caught)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_weights_cut_short_are_told(share: float, folder_of: FolderOf, tmp_path: Path) -> None:
    shutil.copytree(folder_of("llama"), tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    for use in (weights_digest, lambda folder: load_model("llm.models.x", folder)):
        with pytest.raises(UserError, match="is damaged, or no model that transformers can load") as caught:
            use(tmp_path)
        assert str(tmp_path) in one_line(caught)


def write_gguf(path: Path) -> None:
    """A GGUF of a tiny Llama, without a tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("output_norm.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("size", [0, 3, 40, -20])
def test_a_damaged_gguf_is_told(size: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model\.gguf is damaged, or no model that transformers can load") as caught:
        load_model("llm.models.x", tmp_path)
    one_line(caught)


def test_a_tokenizer_without_offsets_is_told(folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(UserError, match="its tokenizer gives no offsets"):
        load_model("llm.models.x", folder_of("gpt2"))


def test_a_device_that_is_not_there_is_told(folder_of: FolderOf) -> None:
    with pytest.raises(UserError, match=r"llm.device = cuda:7 cannot be used") as caught:
        load_model("llm.models.x", folder_of("gpt2"), device="cuda:7")
    one_line(caught)


def test_attention_with_more_than_a_softmax_is_refused(folder_of: FolderOf, tmp_path: Path) -> None:
    config = transformers.Gemma2Config(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    transformers.Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    for file in folder_of("gpt2").glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(UserError, match="attends with softcap, which is not supported") as caught:
        load_model("llm.models.x", tmp_path)
    one_line(caught)
