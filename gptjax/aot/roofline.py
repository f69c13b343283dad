"""How fast a step can be at best, and what a changed setting would make of it.

In: what a compiled program computes and moves, and a ``Chip``'s figures. Out: seconds that its
products, its memory and its links take each, the longest of which no program can beat; and, by
formula, the same for settings that have not been compiled.
"""

from __future__ import annotations

import dataclasses

from gptjax.bench.peaks import Chip

# A part of a batch reads the parameters forward, backward and once more where values are computed
# again, and writes, reads and adds up gradients.
PASSES_OF_A_PART = 6


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one call, by what they are spent on, each as if it were alone."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """What no program of this much work can beat: all three at once, without a wait."""
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """What takes the longest."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def roofline(
    chip: Chip, dtype: str, flops: float, memory_bytes: float, link_bytes: float
) -> Roofline:
    """Of one device's share of the work."""
    peak = getattr(chip, dtype) or chip.float32
    return Roofline(
        compute=flops / (1e12 * peak),
        memory=memory_bytes / (1e9 * chip.memory_gb_s),
        links=link_bytes / (1e9 * chip.link_gb_s),
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """What a training step is to one device, as far as the formulas below ask.

    Bytes: ``params`` and ``optimizer`` as they are split; ``saved``: kept by the forward pass of a
    part for the backward pass, with and without ``remat``. ``parts``: of a batch, one after the
    other; ``rows``: of a part on this device; ``copies``: devices that could share what each has
    now, ``fsdp`` those that do.
    """

    flops: float
    memory_bytes: float
    link_bytes: float
    total: float
    params: float
    optimizer: float
    temporary: float
    saved: float
    saved_by_remat: float
    remat: bool | None  # None: the model has no such setting
    parts: int
    rows: int
    copies: int
    fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting, and what it would make of a step: bytes of a device, and its roofline."""

    setting: str
    total: float
    roofline: Roofline | None  # None: of a device whose speeds nobody wrote down
    compiled: bool = False


def changes(step: Step, chip: Chip, dtype: str, accumulate: int) -> list[Change]:
    """What could be set otherwise, and what each would give; by formula."""

    def change(setting: str, total: float, flops=0.0, memory=0.0, links=0.0) -> Change:
        work = (step.flops + flops, step.memory_bytes + memory, step.link_bytes + links)
        return Change(setting, step.total + total, roofline(chip, dtype, *work))

    found = []
    kept = step.saved - step.saved_by_remat
    if step.remat is False and kept > 0:
        # A third pass forward beside the two backward ones.
        found.append(change("model.remat=true", -min(kept, step.temporary), step.flops / 3))
    if step.remat:
        found.append(change("model.remat=false", kept, -step.flops / 4))
    per_part = PASSES_OF_A_PART * step.params
    if step.rows > 1 and step.rows % 2 == 0:
        more = {"memory": step.parts * per_part, "links": step.link_bytes}
        less = -max(0.0, step.temporary - step.params) / 2
        found.append(change(f"train.accumulate={2 * accumulate}", less, **more))
    if step.parts > 1 and step.parts % 2 == 0:
        less = {"memory": -step.parts / 2 * per_part, "links": -step.link_bytes / 2}
        more = max(0.0, step.temporary - step.params)
        found.append(change(f"train.accumulate={accumulate // 2}", more, **less))
    if (n := step.copies) > 1:
        spared = (2 * step.params + step.optimizer) * (1 - 1 / n)
        # Parameters are gathered, half as large in bfloat16, forward, again and backward; gradients
        # are summed to their places in float32.
        gathered = step.params * step.fsdp * (1 - 1 / (n * step.fsdp))
        links = 2.5 * step.parts * gathered - step.link_bytes
        found.append(change(f"mesh.fsdp={n * step.fsdp}", -spared, links=links))
    return found
