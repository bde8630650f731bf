"""Views of an attack over time: success by time step, and the spikes of one sample before and after.

    found = sr.attack(model, data, sr.load("flips", norm="l0", epsilon=8))
    sr.views.attack_over_time(model, found).plot().savefig("over_time.png")
    sr.views.raster(found, 0).savefig("raster.png")
    sr.views.frames(found, 0).savefig("frames.png")

All figures are made without pyplot: nothing has to be closed.
"""

from snnrobust.report.attack_over_time import AttackOverTime, attack_over_time
from snnrobust.report.event_plots import frames, raster

__all__ = ["AttackOverTime", "attack_over_time", "frames", "raster"]
