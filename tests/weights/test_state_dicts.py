"""Weights files by name: safetensors, and what is none."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.files import sha256
from simsiam_jax.weights.state_dicts import read_state_dict, write_safetensors


def one_line(excinfo: pytest.ExceptionInfo[InputError]) -> str:
    text = str(excinfo.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_pytorch_checkpoint_is_refused_with_the_command_that_converts_it(tmp_path: Path, suffix: str) -> None:
    torch = pytest.importorskip("torch")
    shared = torch.arange(6.0)
    path = tmp_path / f"my weights{suffix}"
    torch.save({"w": shared.reshape(2, 3).T, "same": shared}, path)
    with pytest.raises(
        InputError, match=r"^--init=.*only \.safetensors files are read; convert it with: python"
    ) as info:
        read_state_dict(path)
    command = one_line(info).split("convert it with: python ")[1]
    subprocess.run([sys.executable, *shlex.split(command)], check=True, timeout=120)
    tensors = read_state_dict(path.with_suffix(".safetensors"))
    assert {name: array.tolist() for name, array in tensors.items()} == {
        "w": [[0, 3], [1, 4], [2, 5]],
        "same": [0, 1, 2, 3, 4, 5],
    }


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "C64"])
def test_a_type_that_numpy_lacks_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path, length = tmp_path / "x.safetensors", 8 if kind == "C64" else 1
    header = json.dumps({"layer.w": {"dtype": kind, "shape": [1], "data_offsets": [0, length]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(length))
    with pytest.raises(InputError, match=rf"^--init=.*tensor 'layer\.w' is of type {kind}.*convert it to F32") as info:
        read_state_dict(path)
    one_line(info)


def test_safetensors_come_back_bit_for_bit_whatever_their_memory_layout(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {
        "transposed": base.T,
        "strided": base[:, ::2],
        "scalar": np.asarray(3, dtype=np.int64),
        "brain": base.astype(ml_dtypes.bfloat16),
        "half": base.astype(np.float16),
        "mask": base > 3,
        "big-endian": base.astype(">f4"),
        "empty": np.zeros((0, 3), np.float32),
    }
    write_safetensors(path, arrays, {"format": "pt"})
    read = read_state_dict(path)
    assert sorted(read) == sorted(arrays)
    for name, array in read.items():
        assert array.dtype == (np.float32 if name == "big-endian" else arrays[name].dtype), name
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # safetensors' own files are their owner's only
    # safetensors' own reader for torch agrees.
    load_file = pytest.importorskip("safetensors.torch").load_file
    theirs = load_file(path)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == {n: a.shape for n, a in arrays.items()}
    np.testing.assert_array_equal(theirs["transposed"].numpy(), base.T)
    np.testing.assert_array_equal(theirs["brain"].float().numpy(), arrays["brain"].astype(np.float32))
    with pytest.importorskip("safetensors").safe_open(path, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": np.ones(3, np.float32)}, {})
    before = path.read_bytes()

    def write_half(target: Path, data: bytes) -> None:
        with target.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors(path, {"w": np.zeros(3, np.float32)}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_safetensors_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": np.ones(30, np.float32), "b": np.ones(3, np.int32)}, {})
    whole = path.read_bytes()
    lost_type = whole.replace(b'"F32"', b'"F8Z"')
    for content in [whole[:length] for length in range(0, len(whole), 5)] + [lost_type, b"<html>" * 50, whole + b"x"]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as safetensors") as excinfo:
            read_state_dict(path)
        assert str(path) in one_line(excinfo)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b'<?xml version="1.0"?><Error>', "an answer in XML"),
        (b'{"error": "Invalid credentials"}', "an answer in JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46807446\n", "a Git LFS pointer"),
    ],
)
def test_what_is_saved_in_place_of_weights_is_called_by_its_kind(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot be read as safetensors: it is {kind}") as excinfo:
        read_state_dict(path)
    one_line(excinfo)


def test_a_wrong_path_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--init=.*absent\.pth: no such file$"):
        read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(InputError, match="not a file"):
        read_state_dict(tmp_path)
    (tmp_path / "x.onnx").touch()
    with pytest.raises(InputError, match=r"unknown kind of file '\.onnx'; give \.safetensors"):
        read_state_dict(tmp_path / "x.onnx")


def test_sha256_is_the_standards_own(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == expected
