"""Small archives in the formats in which the data sets are published, written byte by byte as the formats say."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

from simsiam_jax.data import load_split
from simsiam_jax.data.builders import celeb_a, cifar10, fashion_mnist, stl10
from simsiam_jax.data.builders.archives import Archive
from simsiam_jax.data.builders.png import encode_png

MODULES = {"fashion_mnist": fashion_mnist, "cifar10": cifar10, "stl10": stl10, "celeb_a": celeb_a}
CIFAR_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
STL_NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def idx_bytes(array):
    """An array in the IDX format, written from its description."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def cifar_members(per_batch=20):
    """The members of the official archive in its order, and the images and labels that they hold."""
    generator = np.random.default_rng(1)
    members, content = {}, {}
    # The order of the official archive, in which neither batches nor splits are sorted.
    order = ("data_batch_1", "batches.meta", "data_batch_3", "data_batch_4", "test_batch", "data_batch_5")
    for name in (*order, "data_batch_2"):
        if name == "batches.meta":
            members["cifar-10-batches-bin/batches.meta.txt"] = ("\n".join(CIFAR_NAMES) + "\n\n").encode()
            continue
        images = generator.integers(0, 256, (per_batch, 32, 32, 3), np.uint8)
        labels = generator.permutation(np.arange(per_batch) % 10)
        records = [
            bytes([label]) + image[:, :, 0].tobytes() + image[:, :, 1].tobytes() + image[:, :, 2].tobytes()
            for image, label in zip(images, labels, strict=True)
        ]
        members[f"cifar-10-batches-bin/{name}.bin"] = b"".join(records)
        content[name] = images, labels
    members["cifar-10-batches-bin/readme.html"] = b"<html></html>"
    return members, content


def stl_members(train=20, test=10, unlabelled=5):
    """The members of the official archive, of so many images, their content and the predefined folds."""
    generator = np.random.default_rng(2)
    members, content = {}, {}
    for name, count in (("test", test), ("train", train), ("unlabeled", unlabelled)):
        images = generator.integers(0, 256, (count, 96, 96, 3), np.uint8)
        labels = generator.permutation(np.arange(count) % 10)
        # Each plane column by column: the transposed plane, row by row.
        planes = [image[:, :, channel].T.tobytes() for image in images for channel in range(3)]
        members[f"stl10_binary/{name}_X.bin"] = b"".join(planes)
        if name != "unlabeled":
            members[f"stl10_binary/{name}_y.bin"] = bytes((labels + 1).tolist())
        content[name] = images, labels
    members["stl10_binary/class_names.txt"] = ("\n".join(STL_NAMES) + "\n").encode()
    folds = [generator.permutation(train)[: train // 5] for _ in range(10)]
    lines = [" ".join(map(str, fold)) + " \n" for fold in folds]
    members["stl10_binary/fold_indices.txt"] = "".join(lines).encode()
    return members, content, folds


ATTRIBUTE_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
LANDMARK_NAMES = (
    "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
)


def celeb_files(count=12):
    """The four lists as text, the images as JPEG files by name, and the attributes, of which every third is a 1."""
    names = [f"{number:06d}.jpg" for number in range(1, count + 1)]
    attributes = np.where((np.arange(count)[:, None] + np.arange(40)) % 3 == 0, 1, -1)
    parts = [(0, 0, 0, 1, 2, 0)[number % 6] for number in range(count)]
    rows = [f"{name}  {'  '.join(f'{value:2d}' for value in row)}" for name, row in zip(names, attributes, strict=True)]
    marks = [f"{name}  {' '.join(str(60 + column) for column in range(10))}" for name in names]
    lists = {
        "list_attr_celeba.txt": f"{count}\n{ATTRIBUTE_NAMES} \n" + "".join(f"{row}\n" for row in rows),
        "list_landmarks_align_celeba.txt": f"{count}\n{LANDMARK_NAMES} \n" + "".join(f"{mark}\n" for mark in marks),
        "list_eval_partition.txt": "".join(f"{name} {part}\n" for name, part in zip(names, parts, strict=True)),
        "identity_CelebA.txt": "".join(f"{name} {100 + number}\n" for number, name in enumerate(names)),
    }
    generator = np.random.default_rng(3)
    images = {}
    for name in names:
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (218, 178, 3), np.uint8)).save(buffer, "JPEG", quality=70)
        images[name] = buffer.getvalue()
    return lists, images, dict(zip(names, zip(parts, attributes.tolist(), strict=True), strict=True))


def tar_bytes(members):
    """A tar file with a folder's entry and then the members, as the official archives have them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo(next(iter(members)).split("/", maxsplit=1)[0])
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def targz(members):
    return gzip.compress(tar_bytes(members), compresslevel=1)


def zip_bytes(files):
    """A zip file, from names and contents that may repeat; the images are stored, as JPEG files do not shrink."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("img_align_celeba/", b"")
        for name, data in files:
            archive.writestr(f"img_align_celeba/{name}", data)
    return buffer.getvalue()


def write_cells(folder, count=60):
    """A package like elpv-dataset that cannot be imported, only found; every label and type, in equal numbers."""
    images = folder / "elpv_dataset/data/images"
    images.mkdir(parents=True)
    (folder / "elpv_dataset/__init__.py").write_text("raise ImportError('it is only to be found')")
    lines = []
    for number in range(count):
        grey = np.full((300, 300, 1), number, np.uint8)
        (images / f"cell{number:04d}.png").write_bytes(encode_png(grey))
        probability = (0.0, 0.3333333333333333, 0.6666666666666666, 1.0)[number % 4]
        kind = ("mono", "poly")[number // 4 % 2]
        lines.append(f"images/cell{number:04d}.png  {probability:<20}{kind}\n")
    (folder / "elpv_dataset/data/labels.csv").write_text("".join(lines))
    return folder / "elpv_dataset/data"


def fashion_arrays(train=60, test=20):
    """The arrays of the four files by name: images [n, 28, 28] and labels [n]."""
    generator = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte.gz"] = generator.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte.gz"] = generator.permutation(np.arange(count) % 10).astype(np.uint8)
    return arrays


def fashion_files(arrays):
    """The four files of Fashion-MNIST by name, from their arrays."""
    return {name: gzip.compress(idx_bytes(array), 1, mtime=0) for name, array in arrays.items()}


def archive_files(dataset):
    """The archives of a data set as they are published, of a few hundred images."""
    if dataset == "fashion_mnist":
        return fashion_files(fashion_arrays(train=500, test=100))
    if dataset == "cifar10":
        return {"cifar-10-binary.tar.gz": targz(cifar_members(per_batch=100)[0])}
    if dataset == "stl10":
        return {"stl10_binary.tar.gz": targz(stl_members(train=200, test=60, unlabelled=100)[0])}
    lists, images, _ = celeb_files(180)
    return {name: text.encode() for name, text in lists.items()} | {"img_align_celeba.zip": zip_bytes(images.items())}


def publish(dataset, files, folder, monkeypatch, server="http://127.0.0.1:9/"):
    """Writes files into a folder and has the builder expect them in place of the official ones.

    Nothing listens at the default server: a download is refused at once.
    """
    expected = {}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        expected[name] = Archive(len(data), hashlib.sha256(data).hexdigest(), server + name)
    monkeypatch.setattr(MODULES[dataset], "ARCHIVES", expected)


def prepare(dataset, data_dir, folder, monkeypatch):
    """Prepares a data set from its small archives, so that a launcher finds it."""
    folder.mkdir()
    if dataset == "solar_cells":
        write_cells(folder, 240)
        monkeypatch.syspath_prepend(folder)
    elif dataset != "digits":  # which need no archive
        publish(dataset, archive_files(dataset), folder, monkeypatch)
        monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", folder)
    load_split(dataset, "test", data_dir=data_dir, manual_dir=folder)
