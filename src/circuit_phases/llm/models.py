"""Fetching, telling apart and loading language models: a hub's repository, a local folder, or a GGUF file."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuit_phases.files import UserError
from circuit_phases.llm.retrieval import fetch_file, fetch_repository, file_sha256, link_folder
from circuit_phases.llm.settings import ModelSource

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, with its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def context_window(self) -> int | None:
        """The most tokens that a prompt may have; None where the model sets no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def fetch_model(name: str, source: ModelSource, revision: str, folder: Path) -> None:
    """Put a model's files, or links to local ones, into a folder; `name` is its key in config.yaml.

    Raises:
        UserError: if it cannot be fetched, is not there, or has another checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if source.path is not None and Path(source.path).is_dir():
        link_folder(name, Path(source.path), folder)
    elif source.hub is not None and source.path is None and source.file is None:
        fetch_repository(name, source.hub, revision, folder)
    else:
        file = source.path or str(source.file)
        fetch_file(name, source, revision, folder / Path(file.split("!")[-1]).name)


def weights_digest(folder: Path) -> str:
    """Checksum of the weights, the same for equal tensors however they are split into files.

    Raises:
        UserError: if the folder holds no weights, or they are damaged.
    """
    gguf = _gguf(folder)
    if gguf is not None:
        return file_sha256(gguf)
    import torch

    digests: dict[str, str] = {}
    try:
        for name, tensor in _tensors(folder):
            content = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            content.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            digests[name] = content.hexdigest()
    except Exception as error:
        raise _damaged(folder, error) from error
    if not digests:
        raise UserError(f"{folder.resolve()} holds no weights (*.safetensors, *.bin or *.gguf). Correct `path`.")
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    import torch
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            yield from ((name, opened.get_tensor(name)) for name in opened.keys())  # noqa: SIM118
    if not any(folder.glob("*.safetensors")):
        for file in sorted(folder.glob("*.bin")):
            yield from torch.load(file, mmap=True, weights_only=True).items()


def _gguf(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.gguf"))), None)


def load_model(name: str, folder: Path, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """Load a model and its tokenizer from a folder, without asking any hub.

    Raises:
        UserError: if it is damaged, lacks weights, is not causal, or has no tokenizer with offsets.
    """
    require_transformers()
    import torch
    import transformers

    from circuit_phases.llm.circuits import register_attention

    transformers.logging.set_verbosity_error()
    gguf = _gguf(folder)
    options: dict[str, Any] = {"local_files_only": True} | ({"gguf_file": gguf.name} if gguf else {})
    try:
        # Progress bars are of no use in a job's log.
        with redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation=register_attention(),
                output_loading_info=True, **options,
            )  # fmt: skip
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            raise _not_causal(name, "transformers has no causal form of it") from error
        if "attn_implementation" in str(error) or "scaled_dot_product_attention" in str(error):
            raise UserError(
                f"{name}: its attention cannot be read ({_line(error)}). Choose a model whose attention is "
                "transformers' own."
            ) from error
        raise _damaged(folder, error) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"{name}: weights are missing, such as {missing[0]}. Fetch the model again.")
    if not tokenizer.is_fast:
        raise UserError(f"{name}: its tokenizer gives no offsets. Add a tokenizer.json (a fast tokenizer).")
    try:
        model = model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"llm.device = {device} cannot be used ({_line(error)}). Set llm.device: cpu.") from error
    _require_causal(name, model)
    return LanguageModel(name, model, tokenizer)


def require_transformers() -> None:
    """Check that the optional dependencies are here.

    Raises:
        UserError: if they are not.
    """
    missing = [name for name in ("transformers", "accelerate", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{missing[0]} is not installed. Run: pip install -e '.[llm]' -c constraints.txt")


def _require_causal(name: str, model: Any) -> None:
    """A token must not change what is predicted before it."""
    import torch

    vocabulary = int(model.config.get_text_config().vocab_size)
    tokens = torch.arange(8, device=model.device)[None] % vocabulary
    changed = tokens.clone()
    changed[0, -1] = vocabulary - 1
    with torch.inference_mode():
        before, after = (model(input_ids=each, use_cache=False).logits[0, :-1].float() for each in (tokens, changed))
    if float((before - after).abs().max()) > 1e-4 * float(before.std()):
        raise _not_causal(name, "a token changes what is predicted before it")


def _not_causal(name: str, why: str) -> UserError:
    return UserError(f"{name} is not a causal language model ({why}). Choose one that is.")


def _damaged(folder: Path, error: Exception) -> UserError:
    place = (_gguf(folder) or folder).resolve()
    return UserError(
        f"{place} is damaged, or no model that transformers can load ({_line(error)}). "
        f"Delete {folder} and run again, or correct `path`."
    )


def _line(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"
