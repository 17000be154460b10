"""Power of an accelerator as a share of its design power (TDP), by how much of the time it works.

For an estimate before a run and for the model of a GPU without a sensor. Both mean by utilisation
what a driver calls so: the share of time in which some kernel runs, however little of the GPU it
uses.
"""

from __future__ import annotations

from carbontrack.interval import Interval

FULL_SHARE = Interval(0.72, 0.30, 1.10)
"""At full utilisation.

Best: the mean of four publications that measured training, each by its own mean. 0.65 for TPU v2
and v3, hosts included (Patterson et al. 2021, table 4); 0.71 for P100 and V100 by the power of
other cards, processor and memory included (Strubell et al. 2019, table 3); 0.71 for A100, nodes
above idle (Luccioni et al. 2022); 0.81 for V100 and A100 with large models (Dodge et al. 2022,
table 2). Ends: 5th and 95th percentile of 24 single runs, 0.31 and 1.07, rounded outward. The low
ones are small models, which leave a card waiting, or use a small part of it at a utilisation that
is high all the same; the high ones have their hosts in them."""
IDLE_SHARE = Interval(0.12, 0.03, 0.40)
"""At no utilisation. A judgement: no measured set is known. It is informed by what vendors' tools
commonly show, a tenth or a little more on data centre cards, less on desktop cards in a low power
state, more on small cards with a model in their memory, which keeps them from that state."""


def gpu_share(utilisation: float) -> Interval:
    """Mean power as a share of TDP, linear between idle and full use, at both ends as well."""
    ends = zip(IDLE_SHARE, FULL_SHARE, strict=True)
    return Interval(*(idle + (full - idle) * utilisation for idle, full in ends))
