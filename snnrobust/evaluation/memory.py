"""How many samples fit into memory: the measured footprint of an input gradient, against the free memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from snnrobust.common.batching import GIB, out_of_memory
from snnrobust.common.validate import is_positive
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import BATCH
from snnrobust.errors import InputError
from snnrobust.wrapping.model import SpikingModel

#: Share of the free memory that is used where no budget is named.
SHARE = 0.5
#: Samples of the two trial passes.
TRIALS = (2, 8)
#: Copies of an input that a search keeps beside the pass: original, iterate, strongest, gradient, and an optimiser's.
COPIES = 8
#: Tensors as large as the largest saved one, allocated temporarily in a backward pass.
PASSING = 3


@dataclass(frozen=True)
class Footprint:
    """What one gradient to the input takes of memory.

    Attributes:
        constant: Bytes that do not depend on the batch size.
        sample: Bytes for each sample.
    """

    constant: float
    sample: float

    def fitting(self, budget: float) -> int:
        """The largest power of two, at most `BATCH` and at least 1, of samples that fit into `budget` bytes."""
        room = (budget - self.constant) / self.sample if self.sample > 0 else BATCH
        return 1 << int(math.log2(min(max(room, 1), BATCH)))


def check_budget(budget: float | None, batch_size: int | None) -> None:
    """Raises an `InputError` unless a budget in GiB can be used to choose a batch size."""
    if budget is None:
        return
    if not is_positive(budget):
        raise InputError(f"expected memory_budget in GiB, a number > 0, got {budget!r}; e.g. memory_budget=4")
    if batch_size is not None:
        raise InputError(
            f"expected batch_size or memory_budget, not both, got {batch_size} and {budget}; leave one of them out"
        )


def choose_batch_size(
    models: Iterable[SpikingModel], data: Dataset, budget: float | None = None, processes: int = 1
) -> tuple[int, dict[str, object]]:
    """The batch size that fits into memory for every one of `models`, and how that was found, for the record.

    Args:
        models: The models, of which one is attacked at a time.
        data: Samples to measure on.
        budget: GiB that may be used; None: half of what is free now.
        processes: How many processes share the memory.
    """
    sizes, needed = [], 0.0
    for model in models:
        found = measure_footprint(model, data)
        free = free_bytes(model.device) * SHARE if budget is None else budget * GIB
        sizes.append(found.fitting(free / processes))
        needed = max(needed, found.sample)
    # What was free is not recorded: equal runs have equal records.
    about: dict[str, object] = {
        "budget_gib": budget,
        "share_of_free": None if budget is not None else SHARE,
        "bytes_a_sample": needed,
    }
    return min(sizes), about


def measure_footprint(model: SpikingModel, data: Dataset) -> Footprint:
    """The footprint of one gradient to the input by trial passes of two sizes, with the model's own surrogate.

    If even these run out of memory, the need of a sample is set to infinity, so the batch size is 1.
    """
    taken = _on_cuda if model.device.type == "cuda" else _on_cpu
    few, many = TRIALS
    try:
        with model.session():
            first, second = (taken(model, _cycled(data, count)) for count in TRIALS)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Footprint(0.0, math.inf)
    slope = max(0.0, (second - first) / (many - few))
    copies = COPIES * data.x[0].numel() * torch.empty((), dtype=model.input_dtype).element_size()
    return Footprint(max(0.0, first - few * slope), slope + copies)


def free_bytes(device: torch.device, root: Path = Path("/")) -> float:
    """Bytes available on `device` now; infinite where unknown.

    On the CPU the least of what the machine and the process's control groups leave. `root` is where their files are.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    return min(_free_machine(root), *_free_groups(root), math.inf)


def _on_cpu(model: SpikingModel, sample: Dataset) -> float:
    """Bytes of the tensors that a forward pass saves for the backward pass, and of those that this makes on its way."""
    own = {each.untyped_storage().data_ptr() for each in (*model.net.parameters(), *model.net.buffers())}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # weights are there anyway
            held[storage.data_ptr()] = storage.nbytes()  # views of one count once; all live as long as the graph
        return tensor.detach()  # a tensor that its own graph saves would hold the graph for ever

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = _forward(model, sample)[1]
        total = sum(held.values()) + PASSING * max(held.values(), default=0)
    return float(total + logits.nbytes)


def _on_cuda(model: SpikingModel, sample: Dataset) -> float:
    """Bytes by which a forward and backward pass raises the peak of the device's memory."""
    device = model.device
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    x, logits = _forward(model, sample)
    if logits.requires_grad:
        with suppress(NotImplementedError):  # no backward pass: the attack that needs one says so
            torch.autograd.grad(logits.sum(), x, allow_unused=True)
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before)


def _forward(model: SpikingModel, sample: Dataset) -> tuple[Tensor, Tensor]:
    """Inputs that require a gradient, and their logits."""
    with torch.enable_grad():
        x = sample.x.to(device=model.device, dtype=model.input_dtype).requires_grad_()
        return x, model.logits(x, keys=sample.index, lengths=sample.lengths)


def _cycled(data: Dataset, count: int) -> Dataset:
    """`count` samples, over again from the first where there are fewer, with ids of their own."""
    at = torch.arange(count) % len(data)
    lengths = None if data.lengths is None else data.lengths[at]
    return Dataset(data.x[at], data.y[at], torch.arange(count), lengths, data.name)


def _free_machine(root: Path) -> float:
    """On Linux the memory available without swapping; elsewhere the free memory, or else half of all memory."""
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024.0 * int(value.split()[0])
    for name, share in (("SC_AVPHYS_PAGES", 1.0), ("SC_PHYS_PAGES", 0.5)):
        with suppress(AttributeError, ValueError, OSError):  # not on every system
            return share * os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def _free_groups(root: Path) -> list[float]:
    """What each control group that this process is in leaves, version 1 or 2, up to the outermost one."""
    free = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            limit, usage, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # Inside a container the group's path may be the host's; its files are then at the top.
        inner = Path(path.lstrip("/"))
        for folder in (base / inner, *(base / each for each in inner.parents)):
            most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
            if most.isdigit() and used.isdigit():
                statistics = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines())
                free.append(max(0.0, float(int(most) - int(used) + int(statistics.get(cache, 0)))))
    return free


def _read(path: Path) -> str:
    """A system file's text; empty where it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
