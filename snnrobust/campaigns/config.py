"""A TOML file that describes an evaluation, read into frozen dataclasses; every key is checked before anything runs.

A config executes nothing but the model factory that it names.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from snnrobust import data as named_data
from snnrobust.common.random import global_rng
from snnrobust.data.dataset import Dataset, Splits
from snnrobust.errors import InputError, InputTypeError, SnnRobustError
from snnrobust.evaluation.settings import EvaluationSettings, EvidenceLevel, Mode
from snnrobust.plugin.registry import check_parameters, path_parameters
from snnrobust.plugin.task import Task, load
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap


@dataclass(frozen=True)
class ModelConfig:
    """[models.NAME]: how a net is built, loaded and wrapped.

    Attributes:
        factory: "module:function" that returns an `nn.Module`. This is code, and it is run.
        arguments: Keyword arguments for the factory.
        checkpoint: A state dict written by `torch.save`, relative to the config; None: the factory's own weights.
        wrap: Settings for `sr.wrap`; encoder = "none" stands for None (temporal data), which TOML can't express.
        device: The device of the net.
    """

    factory: str
    arguments: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    wrap: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"


@dataclass(frozen=True)
class DataConfig:
    """[data]: the data of the evaluation.

    Attributes:
        name: A data set by name ("mnist5k", "digits", "torchvision:CIFAR10"); or
        file: an .npz file, relative to the config.
        root: Folder of the files of a data set by name, relative to the config.
        options: Further keyword arguments of `sr.data.load`, e.g. bin_ms = 10.
        samples: How many test samples to use; None: all.
    """

    name: str | None = None
    file: str | None = None
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None


@dataclass(frozen=True)
class EvaluateConfig:
    """[evaluate]: keyword arguments of `sr.evaluate`."""

    seed: int = 0
    mode: str = "nested"
    evidence: str = "basic"
    batch_size: int | None = None
    memory_budget: float | None = None
    examples: int = 0

    def settings(self, processes: int = 1) -> EvaluationSettings:
        """The settings of the evaluation, for so many processes at once.

        Raises:
            InputError: For a value out of range.
        """
        return EvaluationSettings(
            seed=self.seed,
            mode=cast(Mode, self.mode),  # looked at when the settings are made
            evidence=cast(EvidenceLevel, self.evidence),
            batch_size=self.batch_size,
            memory_budget=self.memory_budget,
            processes=processes,
            examples=self.examples,
        )


@dataclass(frozen=True)
class Config:
    """A whole config file.

    Attributes:
        models: By name.
        data: The data of the evaluation.
        evaluate: Settings of the evaluation.
        tasks: Keyword arguments of `sr.load`, one mapping a task.
        folder: The folder of the file, which relative paths start at.
    """

    models: dict[str, ModelConfig]
    data: DataConfig
    tasks: tuple[dict[str, Any], ...]
    evaluate: EvaluateConfig
    folder: Path

    def load_models(self) -> dict[str, SpikingModel]:
        """Builds, loads and wraps every model.

        Raises:
            InputError: If a factory can't be imported or called, or a checkpoint does not fit.
        """
        return {name: self._model(name, each) for name, each in self.models.items()}

    def load_data(self) -> dict[str, Dataset | None]:
        """The splits, for `sr.evaluate`.

        Raises:
            InputError: If the data can't be loaded.
        """
        if self.data.name is not None:
            root = None if self.data.root is None else self.folder / self.data.root
            loaded: Splits | Dataset = named_data.load(self.data.name, root=root, **self.data.options)
        else:
            loaded = named_data.from_npz(self.folder / str(self.data.file))
        test, rest = (loaded, {}) if isinstance(loaded, Dataset) else (loaded.test, vars(loaded))
        if self.data.samples is not None:
            test = test.take(self.data.samples)
        return {"test": test, "train": rest.get("train"), "validation": rest.get("validation")}

    def load_tasks(self) -> list[Task]:
        """The tasks, in order; their plugins' paths start at the folder.

        Raises:
            InputError: As from `sr.load`.
        """
        return [load(**(task | self._paths(task))) for task in self.tasks]

    def _paths(self, task: dict[str, Any]) -> dict[str, str]:
        """The settings of a task that are paths."""
        names = [] if task["name"] == "clean" else path_parameters(task["name"])
        return {name: str(self.folder / task[name]) for name in names if isinstance(task.get(name), str)}

    def _model(self, name: str, config: ModelConfig) -> SpikingModel:
        net = _call_factory(config.factory, config.arguments, self.folder, self.evaluate.seed)
        if config.checkpoint is not None:
            _load_checkpoint(net, self.folder / config.checkpoint)
        try:
            net.to(config.device)
        except Exception as error:  # torch's kind of error depends on the device and the build
            raise InputError(
                f"expected a usable device for '{name}', got '{config.device}': {_error_text(error)}; "
                f"name another device"
            ) from error
        settings = {**config.wrap, "name": name}
        for pair in ("bounds", "normalize"):
            if isinstance(settings.get(pair), list):
                settings[pair] = tuple(settings[pair])
        if settings.get("encoder") == "none":
            settings["encoder"] = None
        return wrap(net, **settings)


def read_config(path: Path) -> Config:
    """Reads and checks a config file.

    Raises:
        InputError: If the file is missing, no TOML, or holds an unknown key or a value that does not fit.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"expected a config file at '{path.absolute()}', got {error.strerror or error}; name a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"expected TOML in '{path.absolute()}', got an error: {error}; write TOML") from error
    check_parameters("config", content, ["models", "data", "tasks", "evaluate"])
    models = _table(content, "models")
    if not models:
        raise InputError("expected at least one [models.NAME] table, got none; name a model's factory there")
    wrap_keys = [name for name in inspect.signature(wrap).parameters if name not in ("net", "name", "reset")]
    parsed = {}
    for name, table in models.items():
        parsed[name] = _section(ModelConfig, table, f"models.{name}")
        check_parameters(f"models.{name}.wrap", parsed[name].wrap, wrap_keys)
    data = _section(DataConfig, _table(content, "data"), "data")
    if (data.name is None) == (data.file is None):
        raise InputError("expected either name or file in [data], got both or neither; name one source of data")
    if data.options:
        if data.name is None:
            raise InputError("expected data by name for data.options, got a file; remove the options")
        options = [name for name in inspect.signature(named_data.load).parameters if name not in ("name", "root")]
        check_parameters("data.options", data.options, options)
    tasks = content.get("tasks", [])
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) and "name" in task for task in tasks):
        raise InputError("expected at least one [[tasks]] table with a name, got none; add e.g. name = 'pgd'")
    return Config(
        models=parsed,
        data=data,
        tasks=tuple(tasks),
        evaluate=_section(EvaluateConfig, _table(content, "evaluate"), "evaluate"),
        folder=path.resolve().parent,
    )


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"expected a table [{name}], got {type(table).__name__}; write [{name}]")
    return table


def _section(kind: Any, table: Any, name: str) -> Any:
    """A dataclass from a table, with every key and type checked."""
    if not isinstance(table, dict):
        raise InputError(f"expected a table [{name}], got {type(table).__name__}; write [{name}]")
    fields = {each.name: each for each in dataclasses.fields(kind)}
    check_parameters(name, table, list(fields))
    kinds: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "dict": dict}
    for key, value in table.items():
        expected = kinds[str(fields[key].type).split("[")[0].split(" ")[0]]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise InputTypeError(f"expected {fields[key].type} for {name}.{key}, got {value!r}; change its type")
    for key, each in fields.items():
        required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if required and key not in table:
            raise InputError(f"expected {name}.{key}, got none; add it to [{name}]")
    return kind(**table)


def _call_factory(target: str, arguments: dict[str, Any], folder: Path, seed: int) -> nn.Module:
    """Imports and calls "module:function", looking beside the config file too.

    The global generators are seeded, so that weights without a checkpoint are the same in every process.
    """
    module_name, _, function = target.partition(":")
    if not module_name or module_name.startswith(".") or not function:
        raise InputError(f"expected a factory as 'module:function', got {target!r}; e.g. 'my_nets:build'")
    expected = f"an importable factory '{target}'"
    with _running_user_code(folder, seed, expected, "put the module beside the config or install it"):
        factory = getattr(importlib.import_module(module_name), function)
    expected = f"factory '{target}' to return a net for {arguments}"
    with _running_user_code(folder, seed, expected, "change the factory or its arguments"):
        net = factory(**arguments)
    if not isinstance(net, nn.Module):
        raise InputTypeError(
            f"expected factory '{target}' to return an nn.Module, got {type(net).__name__}; return the net"
        )
    return net


@contextmanager
def _running_user_code(folder: Path, seed: int, expected: str, remedy: str) -> Iterator[None]:
    """Runs the user's code with imports from `folder` and seeded generators; a failure becomes an `InputError`."""
    sys.path.insert(0, str(folder))
    try:
        with global_rng(seed % 2**63, torch.device("cpu")):
            yield
    except SnnRobustError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"expected {expected}, got {_error_text(error)}; {remedy}") from error
    finally:
        with suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(str(folder))


def _error_text(error: BaseException) -> str:
    """Type and message of a third-party error, in one line."""
    return ": ".join([type(error).__name__, *filter(None, [" ".join(str(error).split())])])


def _load_checkpoint(net: nn.Module, path: Path) -> None:
    """Loads a state dict, or a mapping that holds one under "state_dict" or "model", into `net`."""
    if not path.is_file():
        raise InputError(f"expected a checkpoint at '{path}', got no such file; write one with torch.save")
    try:
        with warnings.catch_warnings():  # torch warns of the protocol of a pickle that it then refuses
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch errors alike mean that it can't be read safely
        raise InputError(
            f"expected a state dict in '{path}', got a file that can't be read as weights only "
            f"({_error_text(error).split('. ')[0]}); save net.state_dict()"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise InputError(f"expected a state dict in '{path}', got {type(state).__name__}; save net.state_dict()")
    try:
        net.load_state_dict(state)
    except Exception as error:  # keys that are no names and values that are no tensors fail in other ways
        raise InputError(
            f"expected a checkpoint that fits the net, got '{path}': {_error_text(error)}; save this net's state_dict()"
        ) from error
