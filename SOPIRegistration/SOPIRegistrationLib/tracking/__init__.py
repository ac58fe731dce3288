"""Motion: a body's pose in every frame of a sequence, tables of it, and joint angles."""

from SOPIRegistrationLib.tracking.body import Body
from SOPIRegistrationLib.tracking.finding import TrackingSettings
from SOPIRegistrationLib.tracking.sequences import FrameSequence, open_sequence
from SOPIRegistrationLib.tracking.track import FramePose, Track
from SOPIRegistrationLib.tracking.tracker import track

__all__ = ["Body", "FramePose", "FrameSequence", "Track", "TrackingSettings", "open_sequence", "track"]
