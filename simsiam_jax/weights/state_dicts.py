"""State dicts in files: named numpy arrays as `.safetensors`, a format that holds tensors and nothing to run."""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy then knows bfloat16, which safetensors asks it for by name
import numpy as np
import safetensors
import safetensors.numpy

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import foreign_kind, one_line, write_whole

# Formats of PyTorch. Each is a pickle: a program that may do more than make tensors.
_PICKLED = (".pth", ".pt", ".bin")

# The types of elements that weights come in and numpy has, as safetensors calls them.
_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64"}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads the named tensors of a weights file.

    Args:
      path: A `.safetensors` file.

    Returns:
      A contiguous array for each tensor, by name. The type of bfloat16 tensors is that of `ml_dtypes`.

    Raises:
      InputError: If the file is missing, damaged or of another kind, or a tensor's type is one that numpy lacks.
    """
    require(path.exists(), f"--init={path}: no such file")
    require(path.is_file(), f"--init={path}: not a file; give a weights file, .safetensors")
    if path.suffix in _PICKLED:
        raise InputError(f"--init={path}: only .safetensors files are read; convert it with: {conversion(path)}")
    require(path.suffix == ".safetensors", f"--init={path}: unknown kind of file {path.suffix!r}; give .safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  no mapping
        for name, kind in types.items():
            require(
                kind in _TYPES,
                f"--init={path}: tensor {name!r} is of type {kind}, which cannot be read; convert it to F32 or BF16",
            )
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        kind = foreign_kind(path)
        reason = f"it is {kind}" if kind else one_line(error)
        raise InputError(f"{path} cannot be read as safetensors: {reason}; fetch or write it again") from error


def conversion(path: Path) -> str:
    """The shell command that writes a PyTorch state dict as safetensors, to be run where torch is installed.

    Args:
      path: A `.pth`, `.pt` or `.bin` file of a state dict.

    Returns:
      One line that calls Python; `weights_only=True` keeps torch from running what else is pickled in the file.
    """
    load, save = f"torch.load({str(path)!r}, 'cpu', weights_only=True)", f"{str(path.with_suffix('.safetensors'))!r}"
    # Tensors that share memory, which safetensors refuses, become tensors of their own.
    weights = f"{{name: value.clone().contiguous() for name, value in {load}.items()}}"
    return f'python -c "import torch, safetensors.torch as st; st.save_file({weights}, {save})"'


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes named tensors to a file that is either whole or not there.

    Args:
      path: File to write. A file of this name is replaced, and missing folders are made.
      tensors: Tensors by name, of any memory layout.
      metadata: Texts for the file's header; `{"format": "pt"}` is what timm and transformers look for.

    Raises:
      OSError: If the file cannot be written.
    """
    # safetensors writes the memory as it lies, whatever the strides say.
    plain = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    # safetensors' own `save_file` makes files that only their owner may read.
    write_whole(path, safetensors.numpy.save(plain, dict(metadata)))
