"""PyTorch checkpoints read as numpy arrays, without torch and without running what is pickled in them.

A pickle is a program: it names functions and calls them. A state dict needs a dozen names, and each is mapped here
to a constructor of ours that only notes what it was given; any other name ends the reading. What comes out of the
unpickler is therefore nested plain values and descriptions of tensors, which are checked against the bytes that the
file holds before an array is made of them.

Two layouts are read. Since torch 1.6 a checkpoint is a zip archive:

    NAME/data.pkl      the pickled object; a tensor is (storage key, offset, size, stride)
    NAME/data/KEY      the bytes of a storage, not compressed
    NAME/byteorder     `little` or `big`; little where it is missing

Before, and with `_use_new_zipfile_serialization=False`, it is a row of pickles and the storages behind them: magic
number, protocol version, system, the object, the storages' keys; then a storage each, as its number of elements
(64 bits) and its bytes, little-endian on every machine.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from simsiam_jax.errors import InputError, require

# Where training scripts keep the weights in a checkpoint that holds more. The first that is there is read: the
# weights as they were trained come before their moving average.
WRAPPERS = ("state_dict", "model", "state_dict_ema")

# What DistributedDataParallel and DataParallel put before every name.
_PARALLEL_PREFIX = "module."

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001

_DTYPES = {
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "UntypedStorage": "uint8",
}


class _Storage(NamedTuple):
    """A run of elements in the file.

    Attributes:
        dtype: the elements' type, a key of `_DTYPES`.
        key: name of the storage in the file.
        start: where the run begins, in elements; other than 0 only in old files.
        count: length of the run in elements; None: to the storage's end.
    """

    dtype: Any
    key: Any
    start: Any = 0
    count: Any = None


class _Tensor(NamedTuple):
    """A strided view of a storage, as pickled: nothing in it has been checked yet; offset and stride in elements."""

    storage: Any
    dtype: Any
    offset: Any
    size: Any
    stride: Any

    def __setstate__(self, state: Any) -> None:
        """Takes and drops what old files set on a parameter: whether it needs a gradient, and its hooks."""


class _Dict(dict):
    """Stands for `OrderedDict`; the state that torch sets on one (its modules' versions) is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Parameter:
    """Stands for `torch.nn.Parameter`, which files of torch 0.3 and older make without a rebuilding function."""

    def __new__(cls, data: Any, *_: Any) -> Any:
        return data

    @staticmethod
    def __setstate__(*_: Any) -> None:
        pass


class _Function(NamedTuple):
    """A function that a pickle may call.

    A pickle can also set attributes on what it has looked up, functions and classes among them, and so change this
    process for later; a named tuple has none to set.
    """

    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, storage.dtype, offset, size, stride)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any) -> Any:
    return _Tensor(storage, dtype, offset, size, stride)


def _first(data: Any, *_: Any) -> Any:
    return data


# Everything a pickle may name. Types of elements become their names, since a text has nothing to change or call.
_GLOBALS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function(_Dict),
    ("torch", "Size"): _Function(tuple),
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Function(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(_first),
    ("torch.nn.parameter", "Parameter"): _Parameter,
    ("torch.storage", "UntypedStorage"): "uint8",
    **{("torch", storage): dtype for storage, dtype in _STORAGES.items()},
    **{("torch", dtype): dtype for dtype in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the names in `_GLOBALS` and no other.

    Attributes:
        dtypes: type of the elements of each storage that the pickle mentioned, by the storage's key.
    """

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="utf-8")
        self._path = path
        self.dtypes: dict[str, str] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        found = _GLOBALS.get((module, name))
        if found is None:
            # `ascii` keeps a name with line breaks or terminal codes on one plain line.
            shown = ascii(f"{module}.{name}")[1:-1][:200]
            raise InputError(
                f"{self._path} holds a pickled {shown}, which is not a tensor: refusing to run it; "
                "save the state dict alone, or as .safetensors"
            )
        return found

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, dtype, key, _location, _count, *view = pid
        require(
            kind == "storage", f"{self._path} refers to something that is no tensor's data; save the state dict alone"
        )
        self.dtypes.setdefault(key, dtype)
        if view and view[0] is not None:
            _view_key, start, count = view[0]
            return _Storage(dtype, key, start, count)
        return _Storage(dtype, key)


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Reads the state dict of a PyTorch checkpoint; nothing pickled in the file is run.

    The state dict is the file's object itself or the first dictionary under the keys `WRAPPERS`; what lies beside
    it (epoch, optimiser) is ignored. A prefix `module.` that all names share is removed.

    Args:
      path: A file of `torch.save`, in the zip layout or the older one.

    Returns:
      A contiguous array of its own for each tensor, by name, in the file's order.

    Raises:
      InputError: For a file that is missing, damaged, cut short or of another format; that names anything but
        tensors; or that holds no state dict.
    """
    require(path.is_file(), f"{path}: no such file")
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        return _read_zip(path) if is_zip else _read_legacy(path)
    except InputError:
        raise
    # No list of exceptions would be complete: pickle's documentation promises none, and a damaged file also reaches
    # the errors of zipfile, struct, numpy and plain Python (a tuple of another length, a number for a text).
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a PyTorch checkpoint: it is damaged, cut short or of another format "
            f"({type(error).__name__})"
        ) from error


def _load(stream: io.BytesIO, path: Path) -> tuple[Any, dict[str, str]]:
    """The object of the pickle that begins here, and the types of the storages that it mentions."""
    start, length = stream.tell(), stream.getbuffer().nbytes
    for opcode, argument, _ in pickletools.genops(stream):
        # The unpickler makes its table of remembered objects as long as the largest index in use: one damaged byte
        # could claim all memory.
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > length:
            raise InputError(f"{path} cannot be read as a PyTorch checkpoint: its pickle is damaged")
    stream.seek(start)
    unpickler = _Unpickler(stream, path)
    return unpickler.load(), unpickler.dtypes


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        require(len(pickles) == 1, f"{path} is a zip archive, but not a PyTorch checkpoint")
        prefix = pickles[0].removesuffix("data.pkl")
        require(
            f"{prefix}constants.pkl" not in names,
            f"{path} is a TorchScript program, not a state dict; save model.state_dict() with torch.save",
        )
        # torch.save stores without compressing: a small file that unfolds to a large one is not its work.
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())
        require(not packed, f"{path} has been compressed since torch.save wrote it; save it again with torch.save")
        big_endian = f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") == b"big"
        loaded, dtypes = _load(io.BytesIO(archive.read(pickles[0])), path)
        tensors = _state_dict(loaded, path)
        used = {tensor.storage.key for tensor in tensors.values()}
        storages = {key: archive.read(f"{prefix}data/{key}") for key in dtypes if key in used}
    return {name: _array(tensor, storages, f"{path}: {name!r}", big_endian) for name, tensor in tensors.items()}


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    stream = io.BytesIO(path.read_bytes())
    magic, _ = _load(stream, path)
    require(magic == _MAGIC_NUMBER, f"{path} is not a PyTorch checkpoint")
    version, _ = _load(stream, path)
    require(version == _PROTOCOL_VERSION, f"{path} is a PyTorch checkpoint of an unknown protocol, {version!r}")
    _load(stream, path)  # the writer's byte order and type sizes, which do not change how storages are written
    loaded, dtypes = _load(stream, path)
    keys, _ = _load(stream, path)
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        length = count * _DTYPES[dtypes[key]].itemsize
        storages[key] = stream.read(length)
        require(len(storages[key]) == length, f"{path} is cut short: {length} bytes should follow for storage {key!r}")
    return {
        name: _array(tensor, storages, f"{path}: {name!r}", big_endian=False)
        for name, tensor in _state_dict(loaded, path).items()
    }


def _state_dict(loaded: Any, path: Path) -> dict[str, _Tensor]:
    """The state dict in a checkpoint's object, without the prefix of parallel training."""
    require(isinstance(loaded, dict), f"{path} holds a single {_kind(loaded)}, not a state dict")
    inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)]
    tensors = inner[0] if inner else loaded
    require(len(tensors) > 0, f"{path} holds an empty state dict")
    for name, value in tensors.items():
        require(isinstance(name, str), f"{path}: the name of a tensor should be a text, not {name!r}")
        require(
            isinstance(value, _Tensor),
            f"{path}: {name!r} is no tensor but of type {_kind(value)}; a state dict should be the file's object or "
            f"lie under one of the keys {', '.join(WRAPPERS)}",
        )
    if all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _kind(value: Any) -> str:
    """The type of an unpickled value as its writer knew it."""
    return {_Tensor: "Tensor", _Dict: "OrderedDict"}.get(type(value), type(value).__name__)


def _array(tensor: _Tensor, storages: Mapping[str, bytes], where: str, big_endian: bool) -> np.ndarray:
    """The view that a pickle describes, copied; refused where it reaches outside of its storage."""
    storage, dtype = tensor.storage, _DTYPES[tensor.dtype]
    data = storages[storage.key]
    size, stride = tuple(tensor.size), tuple(tensor.stride)
    numbers = (storage.start, tensor.offset, *size, *stride, *([] if storage.count is None else [storage.count]))
    plain = len(size) == len(stride) and all(type(number) is int and number >= 0 for number in numbers)
    require(plain, f"{where} has an impossible shape: size {size!r}, stride {stride!r}, offset {tensor.offset!r}")
    start = storage.start * _DTYPES[storage.dtype].itemsize
    stop = len(data) if storage.count is None else start + storage.count * _DTYPES[storage.dtype].itemsize
    if math.prod(size) == 0:
        return np.empty(size, dtype)
    last = tensor.offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    available = (min(stop, len(data)) - start) // dtype.itemsize
    require(
        last < available,
        f"{where} reaches to element {last} of a storage of {max(available, 0)}: the file is damaged",
    )
    # An axis of length 1 is never stepped along, and its stride may be any number.
    steps = tuple(step * dtype.itemsize if length > 1 else 0 for length, step in zip(size, stride, strict=True))
    # numpy's constructor checks the same bounds again.
    view = np.ndarray(size, dtype, buffer=data, offset=start + tensor.offset * dtype.itemsize, strides=steps)
    return view.byteswap() if big_endian else view.copy()
