"""The settings of a recipe: their ranges, and what the command line says of them; light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from gennape.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RecipeSettings:
    """What a :class:`Recipe` is made of, which says what each does. Raises :class:`ConfigError` out of range."""

    epochs: int = field(default=30, metadata={"ge": 1, "le": 100_000, "description": "Epochs of each training."})
    batch: int = field(default=512, metadata={"ge": 2, "le": 65536, "description": "Images in one training step."})
    peak_rate: float = field(default=0.4, metadata={"ge": 0, "le": 100})
    warm_up: float = field(default=0.2, metadata={"ge": 0, "le": 1})
    momentum: float = field(default=0.9, metadata={"ge": 0, "le": 1})
    weight_decay: float = field(default=5e-4, metadata={"ge": 0, "le": 1})
    smoothing: float = field(default=0.1, metadata={"ge": 0, "le": 1})
    average: float = field(default=0.99, metadata={"ge": 0, "le": 1})
    crop: int = field(default=4, metadata={"ge": 0, "le": 64})
    mirror: bool = True
    cutout: int = field(default=8, metadata={"ge": 0, "le": 1024})
    validation: float = field(default=0.1, metadata={"ge": 0.001, "le": 0.9})
    precision: str = "bf16"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained by."""
        for each in fields(self):
            value, low, high = getattr(self, each.name), each.metadata.get("ge"), each.metadata.get("le")
            if low is not None and not low <= value <= high:
                raise ConfigError(f"{each.name} of a recipe is {value}; must be from {low} to {high}")
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError(f"precision of a recipe is {self.precision!r}; must be bf16 or fp32")
