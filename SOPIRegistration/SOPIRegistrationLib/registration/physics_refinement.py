"""Refinement with the physics-based projector: DRRs as a beam of many energies makes them.

The objective and the optimiser are those of the plain refinement; only the moving volume projects
otherwise. A wide spectrum and thick bones bend the relation between line integral and image, which whole
images feel and local windows hardly do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from SOPIRegistrationLib.images.materials import decompose
from SOPIRegistrationLib.projector.physics import Beam, PolychromaticVolume
from SOPIRegistrationLib.projector.physics.polychromatic import material_volumes, response_of
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.objective import Level
from SOPIRegistrationLib.registration.stages import Case, Hypotheses, StageCallback, Step, refine

# Whole images first, where the beam's physics shows most; then windows, as the plain refinement has them.
PHYSICS_BODY = (
    Step(Level(64, None, 10, 0.1, depth_prior_mm=60.0)),
    Step(Level(128, 31, 10, 0.05)),
    Step(Level(256, 21, 10)),
)
# A segmented bone is compared with its surroundings only.
PHYSICS_PART = (
    Step(Level(128, 11, 12, 0.05, depth_prior_mm=30.0)),
    Step(Level(256, 9, 15, 0.01, depth_prior_mm=30.0)),
)


class PolychromaticMovingVolume(MovingVolume):
    """A moving volume whose DRRs are those of a beam.

    Args:
        moving: the same with plain DRRs; its whole volume's layout is shared.
        beam: tube, filters and detector.
        metal: element of implants, or None (``projector.physics.METALS``).
    """

    def __init__(self, moving: MovingVolume, beam: Beam | None = None, metal: str | None = None):
        self.attenuation = moving.attenuation
        self.outline_lps_mm = moving.outline_lps_mm
        self.unscanned = moving.unscanned
        _, *others = material_volumes(decompose(moving.attenuation, metal is not None))
        self._parts = [moving, *map(MovingVolume, others)]
        self._response = response_of(beam, metal)

    def level(self, halvings: int) -> PolychromaticVolume:
        """The volume after so many halvings of its resolution."""
        return PolychromaticVolume([part.level(halvings) for part in self._parts], self._response)


# Body and bones of one CT.
@lru_cache(maxsize=2)
def polychromatic(moving: MovingVolume, beam: Beam) -> PolychromaticMovingVolume:
    """A moving volume's polychromatic counterpart, kept for the next X-ray of the same CT."""
    return PolychromaticMovingVolume(moving, beam)


def refine_with_physics(
    case: Case, moving: MovingVolume, start: Hypotheses, callback: StageCallback, beam: Beam | None = None
) -> Hypotheses:
    """Levenberg-Marquardt between the X-ray and the log image of a beam.

    Args:
        case: X-rays and what is known of the pose.
        moving: the CT with plain DRRs.
        start: poses to refine; near enough for the fine levels.
        callback: as for ``stages.refine``.
        beam: of the X-rays; a usual C-arm's if None.

    Returns:
        The best of the poses reached.
    """
    steps = PHYSICS_PART if moving.is_part else PHYSICS_BODY
    projecting = polychromatic(moving, Beam() if beam is None else beam)

    def report(stage, T, similarity):
        return callback(f"physics, {stage}", T, similarity)

    result = refine(case, projecting, start, steps, report)
    done, new = result.records[: len(start.records)], result.records[len(start.records) :]
    new = (replace(record, name=f"physics, {record.name}") for record in new)
    return replace(result, records=(*done, *new))
