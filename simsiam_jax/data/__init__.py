"""Images in: data sets, few-label subsets, and two augmented views of each image."""

from typing import TYPE_CHECKING, Any

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.datasets import DATASETS, DatasetInfo, dataset_info
from simsiam_jax.data.splits import load_split
from simsiam_jax.data.subsets import stratified_split, stratified_subset

if TYPE_CHECKING:
    from simsiam_jax.data.views import two_views

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "ImageSplit",
    "dataset_info",
    "load_split",
    "stratified_split",
    "stratified_subset",
    "two_views",
]


def __getattr__(name: str) -> Any:
    # Views need jax, which a launcher's --help should not wait for.
    if name == "two_views":
        from simsiam_jax.data.views import two_views

        return two_views
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
