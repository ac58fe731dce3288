"""Networks small enough to be made and trained in a test."""

from __future__ import annotations

from SOPIRegistrationLib.networks.comparing import ComparingConfig
from SOPIRegistrationLib.networks.composite import CompositeConfig
from SOPIRegistrationLib.networks.two_branch import TwoBranchConfig

COMPARING = ComparingConfig(24, 8, 16, (16, 24), (1, 1), 32)
TWO_BRANCH = TwoBranchConfig(
    volume_size=16,
    xray_size=32,
    stem_channels=4,
    volume_channels=(8, 8),
    volume_pool=(1, 1),
    volume_map_channels=4,
    xray_channels=(8, 16),
    merged_channels=16,
    stage_channels=(16,),
    head_widths=(16,),
)
COMPOSITE = CompositeConfig(
    pixels=32,
    stem_channels=(4, 8),
    stem_strides=(2, 1),
    block_channels=8,
    widths=(8, 12, 16),
    assistant_blocks=1,
    leader_blocks=1,
    focal_expansion=2,
    embedding_channels=6,
    fine=True,
    norm="layer",
    image=True,
    inference="least squares",
)
