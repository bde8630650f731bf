"""The description of an operator in its records, as text and as typed fields."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snnrobust.results.records import Record
from snnrobust_landscapes.operators.operator import Operator

#: Part of the variant of an operator that is not symmetric by construction.
ASYMMETRIC = "not symmetric"


@dataclass(frozen=True)
class OperatorDescription:
    """The text and the typed fields that all records of an operator share.

    Attributes:
        operator: The second-order object in words, without its variant.
        variant: Its variant and how it was solved, e.g. "own surrogates, exact spectrum".
        space: "weights" or "inputs".
        layer: The layer whose diagonal block it is; empty for the whole net.
        symmetric: Whether it is symmetric by construction.
        draw_noise: Whether its eigenvalues are noise of the draws that it was estimated from.
    """

    operator: str
    variant: str
    space: str
    layer: str
    symmetric: bool
    draw_noise: bool

    @classmethod
    def of(
        cls, operator: Operator, layer: str | None = None, note: str = "", draw_noise: bool = False
    ) -> OperatorDescription:
        """The description of an operator.

        Args:
            operator: The operator.
            layer: The name of the module whose diagonal block it is, "" for the net's own parameters; None for all.
            note: Text to add to its name, e.g. "exact spectrum".
            draw_noise: As the attribute.
        """
        variant = (getattr(operator, "variant", ""), note, "" if operator.symmetric else ASYMMETRIC)
        return cls(
            operator=getattr(operator, "object_name", operator.name),
            variant=", ".join(each for each in variant if each),
            space=operator.landscape.space,
            layer="" if layer is None else layer or "the net itself",
            symmetric=operator.symmetric,
            draw_noise=draw_noise,
        )

    @property
    def text(self) -> str:
        """Everything in words, as records and captions have it."""
        layer = f"layer {'of ' if self.layer == 'the net itself' else ''}{self.layer}" if self.layer else ""
        where = "inputs" if self.space == "inputs" else layer
        return ", ".join(each for each in (self.operator, self.variant, where) if each)

    def describe(self, record: Record) -> Record:
        """The record with the text and the fields of the operator."""
        return replace(
            record,
            threat=self.text,
            operator=self.operator,
            variant=self.variant,
            space=self.space,
            layer=self.layer,
            symmetric=self.symmetric,
            draw_noise=self.draw_noise,
        )
