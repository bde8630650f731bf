"""What the queries of a search ran on: the accelerated model, or the net itself and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ExecutionPath:
    """What a search ran on.

    Attributes:
        accelerated: Whether it ran on the accelerated model.
        reason: Why it did not; empty where it did.
        kernels: Kernel -> number of spiking nodes that ran on it.
        nodes: Spiking nodes of the net.

    Example:
        >>> print(ExecutionPath(True, kernels={"native": 2}, nodes=3))
        native kernels at 2 of 3 spiking nodes
        >>> print(ExecutionPath(False, "the net draws random numbers"))
        eager, the net draws random numbers
    """

    accelerated: bool
    reason: str = ""
    kernels: Mapping[str, int] = field(default_factory=dict)
    nodes: int = 0

    def __str__(self) -> str:
        if not self.accelerated:
            return f"eager, {self.reason}"
        ran = " and ".join(f"{kernel} kernels at {count}" for kernel, count in self.kernels.items())
        return f"{ran or 'no kernels at any'} of {self.nodes} spiking nodes"

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "accelerated": self.accelerated,
            "reason": self.reason,
            "kernels": dict(self.kernels),
            "nodes": self.nodes,
        }

    @classmethod
    def from_format_3(cls, text: str) -> ExecutionPath:
        """From the sentence that format 3 stored.

        Example:
            >>> ExecutionPath.from_format_3("native kernels at 2 of 3 spiking nodes")
            ExecutionPath(accelerated=True, reason='', kernels={'native': 2}, nodes=3)
        """
        if text.startswith("eager"):
            return cls(False, text.removeprefix("eager, "))
        kernels = {name: int(count) for name, count in re.findall(r"(\S+) kernels at (\d+)", text)}
        nodes = re.search(r"of (\d+) spiking nodes", text)
        return cls(True, kernels=kernels, nodes=int(nodes[1]) if nodes else 0)
