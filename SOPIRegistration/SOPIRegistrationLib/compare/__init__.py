"""What a registration compares: the case, its targets and their kinds, residuals at a level, hypotheses."""

from SOPIRegistrationLib.compare.case import Case, Comparison, Hypotheses, Reading
from SOPIRegistrationLib.compare.objective import LevelObjective
from SOPIRegistrationLib.compare.proposal import Proposal
from SOPIRegistrationLib.compare.run import Run, StageRecord
from SOPIRegistrationLib.compare.target import Level, Step, Target, TargetKind, compared_target, targets_of

__all__ = [
    "Case",
    "Comparison",
    "Hypotheses",
    "Level",
    "LevelObjective",
    "Proposal",
    "Reading",
    "Run",
    "StageRecord",
    "Step",
    "Target",
    "TargetKind",
    "compared_target",
    "targets_of",
]
