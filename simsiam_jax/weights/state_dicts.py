"""State dicts in files: named numpy arrays as `.safetensors`, read and written, or as PyTorch's `.pth`, read only."""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy then knows bfloat16, which safetensors asks it for by name
import numpy as np
import safetensors
import safetensors.numpy

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import one_line, write_whole
from simsiam_jax.weights.pickled import read_pth

_PICKLED = (".pth", ".pt", ".bin")


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads the named tensors of a weights file; nothing in the file is run.

    Args:
      path: A `.safetensors` file, or a PyTorch checkpoint: `.pth`, `.pt` or `.bin` (`pickled.read_pth`).

    Returns:
      A contiguous array for each tensor, by name; bfloat16 tensors have the type of `ml_dtypes`.

    Raises:
      InputError: For a file that is missing, of another kind, or damaged.
    """
    require(path.exists(), f"--init={path}: no such file")
    require(path.is_file(), f"--init={path}: not a file; give a weights file, .safetensors or {', '.join(_PICKLED)}")
    if path.suffix in _PICKLED:
        return read_pth(path)
    require(
        path.suffix == ".safetensors",
        f"--init={path}: unknown kind of file {path.suffix!r}; known: .safetensors, {', '.join(_PICKLED)}",
    )
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, TypeError) as error:  # TypeError: a type that numpy lacks
        raise InputError(f"{path} cannot be read as safetensors: {one_line(error)}; fetch or write it again") from error


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes named tensors to a file that is either whole or not there.

    Args:
      path: Where to; a file of this name is replaced, missing folders are made.
      tensors: The tensors by name, of any memory layout.
      metadata: Texts for the file's header; `{"format": "pt"}` is what timm and transformers look for.
    """
    # safetensors writes the memory as it lies, whatever the strides say.
    plain = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    # Not save_file: it makes files that only their owner may read.
    write_whole(path, safetensors.numpy.save(plain, dict(metadata)))
