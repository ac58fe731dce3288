"""Refinement with the physics-based projector: DRRs as a beam of many energies makes them.

The objective and the optimiser are those of the plain refinement; only the moving volume projects
otherwise. A wide spectrum and thick bones bend the relation between line integral and image, which whole
images feel and local windows hardly do.
"""

from __future__ import annotations

from dataclasses import replace

from SOPIRegistrationLib.compare import Hypotheses, Target
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.images.materials import decompose
from SOPIRegistrationLib.projector.physics import Beam, PolychromaticVolume
from SOPIRegistrationLib.projector.physics.polychromatic import material_volumes, response_of
from SOPIRegistrationLib.refine.coarse_to_fine import CoarseToFine, fine
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.subject import MovingVolume, Subject


class PolychromaticMovingVolume(MovingVolume):
    """A moving volume whose DRRs are those of a beam.

    Args:
        moving: the same with plain DRRs; its whole volume's layout is shared.
        beam: tube, filters and detector.
    """

    def __init__(self, moving: MovingVolume, beam: Beam):
        self.attenuation = moving.attenuation
        self.unscanned = moving.unscanned
        _, *others = material_volumes(decompose(moving.attenuation))
        self._parts = [moving, *map(MovingVolume, others)]
        self._response = response_of(beam)

    def level(self, halvings: int) -> PolychromaticVolume:
        """The volume after so many halvings of its resolution."""
        return PolychromaticVolume([part.level(halvings) for part in self._parts], self._response)


def polychromatic(subject: Subject, target: Target, beam: Beam | None = None) -> Target:
    """A target whose DRRs are those of a beam, a usual C-arm's if None; kept with the subject.

    A silhouette already is what a detector sees: it stays as it is.
    """
    if target.kind.is_silhouette:
        return target
    beam = Beam() if beam is None else beam
    key = target.moving, beam
    moving = subject.kept(
        f"polychromatic {target.content}", key, lambda: PolychromaticMovingVolume(target.moving, beam)
    )
    return replace(target, moving=moving)


def with_beam(hypotheses: Hypotheses, run: Run, beam: Beam | None = None) -> Hypotheses:
    """The best pose by Levenberg-Marquardt between the X-ray and the log image of a beam, a usual C-arm's if
    None."""
    comparison = hypotheses.comparison
    physical = replace(comparison, target=polychromatic(comparison.case.subject, comparison.target, beam))
    found = through_levels(
        replace(hypotheses, comparison=physical), comparison.target.kind.beam, run, prefix="physics, "
    )
    run.comparison = comparison
    return replace(found, comparison=comparison)


class Physics(CoarseToFine):
    """The plain refinement with the DRRs of a beam at its fine levels."""

    finishes = (with_beam,)


class PhysicsThenOptimised(CoarseToFine):
    """The same, then without the beam."""

    finishes = (with_beam, fine)
