"""Figures: what is reported of each, the table, and the record in JSON."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Aim:
    """What a figure should be: its value, or its ratio to the floor, at least or at most a bound."""

    of: Literal["value", "ratio"]
    bound: Literal["at least", "at most"]
    limit: float

    def __str__(self) -> str:
        return f"{self.of} {self.bound} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One measured value, and what the same work took without the product."""

    name: str
    value: float
    unit: str
    floor: float | None
    aim: Aim | None
    conditions: dict[str, Any]

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none."""
        if self.aim is None:
            return None
        found = self.value if self.aim.of == "value" else self.ratio
        assert found is not None
        return found >= self.aim.limit if self.aim.bound == "at least" else found <= self.aim.limit

    def as_record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "floor": _rounded(self.floor),
            "ratio": _rounded(self.ratio),
            "aim": str(self.aim) if self.aim else None,
            "conditions": self.conditions,
        }


@dataclass(frozen=True)
class Machine:
    """What a reader must know to compare figures of two runs."""

    cores: int
    python: str
    sqlite: str
    uvicorn: str
    system: str
    load_before: float
    """What else the machine had to do: its load average when the run began."""


def machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}"
    return asdict(
        Machine(
            cores,
            platform.python_version(),
            sqlite3.sqlite_version,
            version("uvicorn"),
            system,
            round(os.getloadavg()[0], 1),
        )
    )


def table(figures: Sequence[Figure]) -> str:
    rows = [("figure", "value", "", "floor", "ratio", "aim", ""), *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (1, 3, 4)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        _text(figure.value),
        figure.unit,
        _text(figure.floor),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        str(figure.aim or ""),
        {None: "", True: "met", False: "MISSED"}[figure.met],
    )


def write(figures: Sequence[Figure], path: Path) -> None:
    path.write_text(json.dumps([figure.as_record() for figure in figures], indent=2) + "\n")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0…1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, int(len(ordered) * share + 0.999999) - 1))]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}") if abs(value) < 1000 else round(value)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")
