"""Saved weights: written with a digest, and told from damaged ones by it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from circuit_phases.files import DamagedFile, UserError, read_whole, replacing
from circuit_phases.model import InContextTransformer
from circuit_phases.paths import CHECKPOINTS, step_of
from circuit_phases.settings import RunSettings
from circuit_phases.world import World


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors with a digest of their bytes in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key holds all metadata: safetensors writes several in random order, and equal weights make equal files.
    header = {"metadata": json.dumps(metadata | {"digest": _digest(tensors, metadata)}, sort_keys=True)}
    with replacing(path) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, header)
            temporary.chmod(mode)
        except SafetensorError as error:
            raise UserError(f"Cannot write {path}: {error}. Free the disk or fix the permission.") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata, checked against their digest.

    Raises:
        UserError: if the file is missing or cannot be read.
        DamagedFile: if it is truncated, empty or altered.
    """
    content = read_whole(path)
    try:
        tensors = load(content)
        # What is read from memory comes without its metadata, which stand in the header: its length, then JSON.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = json.loads(header.get("__metadata__", {}).get("metadata", "{}"))
    except (SafetensorError, ValueError) as error:
        raise DamagedFile(path, f"truncated or not safetensors: {error}") from error
    if metadata.pop("digest", None) != _digest(tensors, metadata):
        raise DamagedFile(path, "altered: its digest does not match")
    return tensors, metadata


def saved_checkpoints(folder: Path) -> dict[int, Path]:
    """The saved weights in a folder by step, in order.

    Raises:
        UserError: if there are none.
    """
    found = {step_of(path): path for path in sorted(folder.glob(CHECKPOINTS))}
    if not found:
        raise UserError(f"{folder} holds no checkpoints. Delete it; `snakemake` will make it again.")
    return found


def load_model(path: Path, settings: RunSettings, world: World, seed: int) -> InContextTransformer:
    """A model with the weights of one checkpoint and the masks of its step.

    Raises:
        DamagedFile: if the file is damaged or holds other weights than this model's.
    """
    return load_weights(path, InContextTransformer(world, settings.model, seed))


def load_weights(path: Path, model: InContextTransformer) -> InContextTransformer:
    """The same model, now with the weights of one checkpoint and the masks of its step.

    Raises:
        DamagedFile: if the file is damaged or holds other weights than this model's.
    """
    tensors, metadata = load_tensors(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise DamagedFile(path, "its weights are not this model's") from error
    return model.at_step(int(metadata["step"]))


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    digest.update(repr(sorted(metadata.items())).encode())
    return digest.hexdigest()
