"""The machine that ``pomona.eie`` simulates: its sizes, its area, its clock."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

from . import _C

_TECHNOLOGIES = ("45nm", "28nm")


@dataclasses.dataclass(frozen=True)
class Machine:
    """The accelerator; the defaults are the thesis's (§6.4, EIE Table II).

    Args:
        pes: processing elements, 1 to 1024.
        fifo: slots of each activation queue, which hold one entry fewer.
        sram_width: bits of one read of the sparse matrix: 32, 64, 128, 256 or 512.
        matrix_bytes: entries, per PE.
        pointer_bytes: 16-bit column pointers, per PE.
        registers: outputs that a PE holds at a time.
        activation_bytes: inputs that a PE holds beside its registers.
        code_bits: 1 to 8.
        gap_bits: 1 to 8.
        arithmetic: "fixed16", "fixed8", "fixed32", or "float32" as the oracle.
        clock_hz: at 45 nm.
        technology: "45nm", or "28nm": the last column of EIE's Table V, 1.5 times the clock.
        signed: pass on activations below zero as well; the hardware skips them, as behind a ReLU.
        unbounded: memories for any layer, so that none is run in tiles.

    Raises:
        InvalidArgument: a value outside its range.
    """

    pes: int = 64
    fifo: int = 8
    sram_width: int = 64
    matrix_bytes: int = 128 << 10
    pointer_bytes: int = 32 << 10
    registers: int = 64
    activation_bytes: int = 2 << 10
    code_bits: int = 4
    gap_bits: int = 4
    arithmetic: str = "fixed16"
    clock_hz: float = 800e6
    technology: str = "45nm"
    signed: bool = False
    unbounded: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not a machine."""
        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            wanted = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, wanted) or (
                isinstance(value, bool) and not isinstance(default, bool)
            ):
                raise _C.InvalidArgument(
                    f"eie: expected `{field.name}` to be {type(default).__name__}, got {value!r}."
                )
        if self.technology not in _TECHNOLOGIES:
            raise _C.InvalidArgument(
                f"eie: expected `technology` to be '45nm' or '28nm', got {self.technology!r}."
            )
        _ = self._config  # checks the ranges

    @cached_property
    def _config(self) -> _C.EieConfig:
        config = _C.EieConfig(
            pes=self.pes,
            queue_slots=self.fifo,
            sram_width_bits=self.sram_width,
            matrix_bytes=self.matrix_bytes,
            pointer_bytes=self.pointer_bytes,
            activation_registers=self.registers,
            activation_sram_bytes=self.activation_bytes,
            code_bits=self.code_bits,
            gap_bits=self.gap_bits,
            arithmetic=self.arithmetic,
            clock_hz=float(self.clock_hz),
            signed_activations=self.signed,
        )
        config = config.unbounded() if self.unbounded else config
        return config.at_28nm() if self.technology == "28nm" else config

    def __getstate__(self) -> dict[str, Any]:
        """Return the members alone: what is made of them does not pickle."""
        return dataclasses.asdict(self)

    def area_mm2(self) -> dict[str, float]:
        """Area by hardware unit, of all PEs (EIE Table II)."""
        return {unit: um2 / 1e6 for unit, um2 in self._config.area_um2().items()}

    def seconds(self, cycles: float) -> float:
        """How long so many cycles take."""
        return cycles / self._config.clock_hz
