"""PyTorch checkpoints, read without torch, against torch itself."""

import argparse
import collections
import copyreg
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.weights.pickled import read_pth

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")

LAYOUTS = pytest.mark.parametrize("new_layout", [True, False], ids=["zip", "legacy"])
DTYPES = ["float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool", "uint16"]


def save(path: Path, value: Any, new_layout: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=new_layout)
    return path


def as_numpy(tensor: Any) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def assert_same(arrays: dict[str, np.ndarray], tensors: dict[str, Any]) -> None:
    assert list(arrays) == list(tensors)
    for name, array in arrays.items():
        expected = as_numpy(tensors[name])
        assert array.dtype == expected.dtype, name
        assert array.flags.c_contiguous, name
        assert array.flags.owndata, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


def one_line(excinfo: pytest.ExceptionInfo[InputError]) -> str:
    text = str(excinfo.value)
    assert "\n" not in text
    return text


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype_come_back_bit_for_bit(tmp_path: Path, new_layout: bool, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 100, (3, 4, 5), generator=generator)
    tensors = {
        "cube": (values % 2 if dtype == "bool" else values).to(getattr(torch, dtype)),
        "scalar": torch.tensor(1).to(getattr(torch, dtype)),
        "empty": torch.zeros(0, 3).to(getattr(torch, dtype)),
    }
    assert_same(read_pth(save(tmp_path / "x.pth", tensors, new_layout)), tensors)


@LAYOUTS
def test_views_are_read_with_their_offset_and_strides(tmp_path: Path, new_layout: bool) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    tensors = {
        "base": base,
        "transposed": base.transpose(0, 2),
        "sliced": base[1:, ::2, 1:4],
        "element": base[2, 3, 4],
        "last column": base[:, :, -1],
        "expanded": base[0, 0].expand(7, 5),
        "long stride on an axis of one": base.as_strided((1, 4), (10**12, 2), 3),
        "empty at the end": base.flatten()[60:],
    }
    assert_same(read_pth(save(tmp_path / "x.pth", tensors, new_layout)), tensors)


@LAYOUTS
def test_a_modules_state_dict_and_its_parameters_are_read(tmp_path: Path, new_layout: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    tensors = module.state_dict()
    assert_same(read_pth(save(tmp_path / "state.pth", tensors, new_layout)), tensors)
    parameters = dict(module.named_parameters())
    parameters["0.weight"].colour = "red"  # a parameter with attributes is pickled by another function
    assert_same(read_pth(save(tmp_path / "parameters.pth", parameters, new_layout)), parameters)


@LAYOUTS
@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema"])
def test_a_state_dict_is_found_beside_other_things(tmp_path: Path, new_layout: bool, key: str) -> None:
    weights = torch.nn.Linear(3, 2).state_dict()
    # The optimiser comes first and has storages of its own, which the older layout keeps in the same row.
    moments = {"state": {0: {"step": torch.tensor(1), "exp_avg": torch.ones(2, 3).double()}}}
    checkpoint = {"optimizer": moments, "epoch": 3, "arch": "linear", "loss": 0.5, "extra": None, key: weights}
    assert_same(read_pth(save(tmp_path / "x.pth", checkpoint, new_layout)), weights)


def test_trained_weights_come_before_their_moving_average(tmp_path: Path) -> None:
    one, two, three = ({"w": torch.full((2,), value)} for value in (1.0, 2.0, 3.0))
    path = save(tmp_path / "x.pth", {"state_dict_ema": three, "model": two, "state_dict": one}, True)
    assert read_pth(path)["w"][0] == 1
    path = save(tmp_path / "x.pth", {"state_dict_ema": three, "model": two}, True)
    assert read_pth(path)["w"][0] == 2


def test_the_prefix_of_parallel_training_goes_only_when_all_names_share_it(tmp_path: Path) -> None:
    shared = {"module.fc.weight": torch.ones(2), "module.fc.bias": torch.ones(1)}
    assert list(read_pth(save(tmp_path / "x.pth", {"model": shared}, True))) == ["fc.weight", "fc.bias"]
    mixed = {"module.weight": torch.ones(2), "bias": torch.ones(1)}
    assert list(read_pth(save(tmp_path / "x.pth", mixed, True))) == ["module.weight", "bias"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"w": torch.ones(1), "epoch": 3}, "'epoch' is no tensor but of type int"),
        ({"net": {"w": torch.ones(1)}}, "'net' is no tensor but of type dict"),
        ({"model": {"w": torch.ones(1), "note": "x"}}, "'note' is no tensor but of type str"),
        ({1: torch.ones(1)}, "should be a text, not 1"),
        (torch.ones(1), "a single Tensor, not a state dict"),
        ([torch.ones(1)], "a single list, not a state dict"),
        ({}, "empty"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path: Path, value: Any, words: str) -> None:
    path = save(tmp_path / "x.pth", value, True)
    with pytest.raises(InputError) as excinfo:
        read_pth(path)
    assert words in one_line(excinfo)
    assert str(path) in str(excinfo.value)


class Payload:
    """Makes a folder when it is unpickled by anything that runs pickles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@LAYOUTS
@pytest.mark.parametrize("wrapped", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, new_layout: bool, wrapped: bool) -> None:
    folder = tmp_path / "made"
    weights = {"w": torch.ones(2)}
    value = {"state_dict": weights, "args": Payload(folder)} if wrapped else {**weights, "x": Payload(folder)}
    path = save(tmp_path / "x.pth", value, new_layout)
    torch.load(path, weights_only=False)
    assert folder.is_dir()  # so the payload is live
    folder.rmdir()
    with pytest.raises(InputError, match=r"x\.pth holds a pickled posix\.mkdir, which is not a tensor: refusing to"):
        read_pth(path)
    assert not folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "builtins eval",
        "torch.storage _load_from_bytes",
        "torch load",
        "numpy load",
        "torch FloatStorage.x",
    ],
)
def test_other_names_are_refused_in_pickles_of_any_protocol(tmp_path: Path, name: str) -> None:
    module, attribute = name.split()
    old = f"c{module}\n{attribute}\n(X\x01\x00\x00\x00xtR.".encode()
    new = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute))
    for pickled in (old, new + b"\x93\x8c\x01x\x85R."):
        path = write_zip(tmp_path / "x.pth", pickled)
        with pytest.raises(InputError, match=rf"holds a pickled {module}\.{attribute}, which is not a tensor"):
            read_pth(path)


def test_training_arguments_are_named_as_what_stands_in_the_way(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", {"model": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, True)
    with pytest.raises(InputError, match=r"holds a pickled argparse\.Namespace.*save the state dict alone"):
        read_pth(path)


@pytest.mark.parametrize("module", ["torch._utils\n_rebuild_tensor_v2", "torch.nn.parameter\nParameter"])
def test_a_pickle_cannot_change_the_reader(tmp_path: Path, module: str) -> None:
    good = save(tmp_path / "good.pth", {"w": torch.ones(2)}, True)
    # GLOBAL, (None, {"call": 1, "__new__": 1}), BUILD: sets the attributes of what was looked up.
    attributes = b"X\x04\x00\x00\x00callK\x01sX\x07\x00\x00\x00__new__K\x01s"
    path = write_zip(tmp_path / "x.pth", b"\x80\x02c" + module.encode() + b"\n(N}" + attributes + b"tb.")
    with pytest.raises(InputError):
        read_pth(path)
    assert read_pth(good)["w"].tolist() == [1, 1]


@LAYOUTS
def test_a_truncated_file_is_one_line_wherever_it_ends(tmp_path: Path, new_layout: bool) -> None:
    tensors = {"w": torch.arange(40.0), "b": torch.arange(6).reshape(2, 3)}
    whole = save(tmp_path / "whole.pth", tensors, new_layout).read_bytes()
    path = tmp_path / "part.pth"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError) as excinfo:
            read_pth(path)
        assert str(path) in one_line(excinfo)


@LAYOUTS
def test_a_flipped_bit_ends_in_a_line_or_in_arrays(tmp_path: Path, new_layout: bool) -> None:
    tensors = {f"layer.{index}": torch.arange(6.0).reshape(2, 3).T for index in range(70)}
    whole = bytearray(save(tmp_path / "whole.pth", tensors, new_layout).read_bytes())
    path = tmp_path / "flipped.pth"
    refused = []
    rng = np.random.default_rng(0)
    for position in rng.integers(len(whole), size=200):
        mask = 1 << int(rng.integers(8))
        whole[position] ^= mask
        path.write_bytes(whole)
        whole[position] ^= mask
        try:
            read_pth(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert not any("\n" in line for line in refused)


def test_an_index_of_the_pickles_memory_cannot_claim_the_machines(tmp_path: Path) -> None:
    # LONG_BINPUT 0x7fffffff: the unpickler would make a table of 2**32 entries.
    path = write_zip(tmp_path / "x.pth", b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(InputError, match="damaged"):
        read_pth(path)


class View:
    """Pickled as a tensor over the storage "0" with the given numbers."""

    def __init__(self, offset: Any, size: Any, stride: Any) -> None:
        self.arguments = (StorageMark(), offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class StorageMark:
    """Stands for a storage of 32-bit floats of key "0"."""


class OldParameter:
    """Pickled as torch 0.3 did a parameter: its class, the tensor, and then its state."""

    __class__ = property(lambda _: torch.nn.Parameter)  # pickle compares it with the class it is to write

    def __init__(self, view: View) -> None:
        self.view = view

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = (True, False, collections.OrderedDict())
        return vars(copyreg)["__newobj__"], (torch.nn.Parameter, self.view, True), state


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", 6) if isinstance(value, StorageMark) else None


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def write_zip(path: Path, data_pkl: bytes, storage: bytes = b"", byteorder: bytes = b"little") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/byteorder", byteorder)
        archive.writestr("archive/data/0", storage)
        archive.writestr("archive/version", b"3\n")
    return path


SIX = np.arange(6, dtype="<f4")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 3), (4, 1)),
        (6, (), ()),
        (0, (2,), (10**9,)),
        (0, (2,), (2**62,)),
        (2**62, (1,), (1,)),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 3), (1,)),
        (0, (2.0,), (1,)),
        (0, ("2",), (1,)),
    ],
)
def test_a_view_outside_of_its_storage_is_refused(tmp_path: Path, offset: int, size: Any, stride: Any) -> None:
    path = write_zip(tmp_path / "x.pth", pickled({"w": View(offset, size, stride)}), SIX.tobytes())
    with pytest.raises(InputError, match=r"'w' (reaches to element|has an impossible shape)"):
        read_pth(path)
    # The same file with numbers that fit is fine: it is they that were refused.
    path = write_zip(tmp_path / "x.pth", pickled({"w": View(1, (2, 2), (3, 1))}), SIX.tobytes())
    assert read_pth(path)["w"].tolist() == [[1, 2], [4, 5]]


def test_a_view_too_large_for_any_memory_is_one_line(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.pth", pickled({"w": View(0, (2**50,), (0,))}), SIX.tobytes())
    with pytest.raises(InputError) as excinfo:
        read_pth(path)
    assert str(path) in one_line(excinfo)


def test_a_checkpoint_of_a_big_endian_machine_is_read_as_torch_does(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.pth", pickled({"w": View(1, (2, 2), (2, 1))}), SIX.byteswap().tobytes(), b"big")
    assert_same(read_pth(path), torch.load(path, weights_only=True))
    assert read_pth(path)["w"].tolist() == [[1, 2], [3, 4]]


def test_parameters_of_the_oldest_files_are_read_as_torch_does(tmp_path: Path) -> None:
    values = {"w": OldParameter(View(0, (2, 3), (3, 1))), "b": OldParameter(View(2, (2,), (1,)))}
    path = write_zip(tmp_path / "x.pth", pickled(values), SIX.tobytes())
    assert_same(read_pth(path), torch.load(path, weights_only=True))


def test_files_of_other_kinds_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    contents = {
        "empty": b"",
        "text": b"<html>404 Not Found</html>\n" * 20,
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "pickle": pickle.dumps({"w": [1, 2, 3]}),
        "zeros": bytes(1000),
    }
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(InputError) as excinfo:
            read_pth(path)
        assert str(path) in one_line(excinfo)
    np.savez(path.with_suffix(".npz"), w=np.ones(3))
    path.with_suffix(".npz").rename(path)
    with pytest.raises(InputError, match="a zip archive, but not a PyTorch checkpoint"):
        read_pth(path)
    with tarfile.open(path, "w") as archive:  # the layout of torch before 0.1.10
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(InputError, match="cannot be read as a PyTorch checkpoint"):
        read_pth(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({}))
    with pytest.raises(InputError, match="compressed since"):
        read_pth(path)
    with pytest.raises(InputError, match="no such file"):
        read_pth(tmp_path / "absent.pth")


def test_a_torchscript_program_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(InputError, match="is a TorchScript program"):
        read_pth(tmp_path / "x.pt")
