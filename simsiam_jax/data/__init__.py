"""Data sets, subsets with few labels, and two augmented views of each image; README.md beside this file explains it."""

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.datasets import DATASETS, DatasetInfo, dataset_info
from simsiam_jax.data.splits import load_split
from simsiam_jax.data.subsets import stratified_split, stratified_subset
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
