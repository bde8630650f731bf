"""Data sets by name or from your own file, in memory, with an id per sample."""

from snnrobust.data.convert import overlap
from snnrobust.data.dataset import Dataset, Splits
from snnrobust.data.named import NAMES, load
from snnrobust.data.nir_paper import nmnist_digits
from snnrobust.data.npz import from_npz
from snnrobust.data.saccades import saccade_events
from snnrobust.data.split import stratified_split

__all__ = [
    "NAMES",
    "Dataset",
    "Splits",
    "from_npz",
    "load",
    "nmnist_digits",
    "overlap",
    "saccade_events",
    "stratified_split",
]
