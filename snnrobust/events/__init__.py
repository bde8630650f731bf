"""Raw events: recordings, event lists [N, E, 5] of them, the binning into frames, and a check of changed lists."""

from snnrobust.events.allowed import verify
from snnrobust.events.binning import Binning, by_number, by_time
from snnrobust.events.event_data import dataset, to_events
from snnrobust.events.recording import Events
from snnrobust.threat_models.sensor import Sensor

__all__ = ["Binning", "Events", "Sensor", "by_number", "by_time", "dataset", "to_events", "verify"]
