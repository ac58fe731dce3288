"""What of a CT is compared with an X-ray, and how: one record for each kind of target, chosen once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.subject import MovingVolume, Subject


@dataclass(frozen=True)
class Level:
    """One resolution of the coarse-to-fine refinement.

    Attributes:
        pixels: longer edge of the image.
        window_px: edge of the local normalisation's window; None for whole-image normalisation.
        max_iterations: of Levenberg-Marquardt.
        step_tolerance_mm: convergence, motion of the object.
        depth_prior_mm: by how much a single view's depth may plausibly leave its start; None for no prior.
        secant: whether Levenberg-Marquardt learns the curvature that sharp outlines have beyond J^T J.
    """

    pixels: int
    window_px: int | None = None
    max_iterations: int = 20
    step_tolerance_mm: float = 0.01
    depth_prior_mm: float | None = None
    secant: bool = False

    @property
    def name(self) -> str:
        kind = "whole image" if self.window_px is None else f"{self.window_px} px windows"
        return f"{self.pixels} px, {kind}"


@dataclass(frozen=True)
class Step:
    """A level of the refinement and who goes on from it.

    Attributes:
        level: what Levenberg-Marquardt minimises.
        keep: at most so many different poses go on.
        ranking: the level at which they are ranked; that of the refinement if None.
    """

    level: Level
    keep: int = 1
    ranking: Level | None = None


Steps = tuple[Step, ...]


@dataclass(frozen=True)
class MultiStart:
    """Starts about a pose.

    Attributes:
        turn_deg: how far turned.
        shift_mm: how far shifted across the first view besides; 0 for not at all.
    """

    turn_deg: float
    shift_mm: float = 0.0


@dataclass(frozen=True)
class LookAlikes:
    """Where a bone looks alike: turned about its own long axis, slid along it, moved along the valley of its
    cost, and in its mirror poses.

    Attributes:
        turn_deg: how far turned, either way.
        slide_mm: how far slid, either way.
        keep: so many of those and of the poses they start about are refined to the end.
        mirrored: so many of the mirror poses are refined to the end.
        valley_costs: how much worse the coarse images agree at those in the valley, to either side.
    """

    turn_deg: tuple[float, ...] = (6.0, 12.0, 20.0)
    slide_mm: tuple[float, ...] = (5.0, 10.0)
    keep: int = 6
    mirrored: int = 2
    valley_costs: tuple[float, ...] = (0.01, 0.04)


@dataclass(frozen=True)
class Thresholds:
    """Structural correlation (locally normalised images) from which a pose is accepted, or worth a review."""

    accept: float
    review: float


@dataclass(frozen=True)
class TargetKind:
    """All that depends on what kind of thing is registered.

    Attributes:
        name: of the kind.
        thresholds: of the search, and of the verdict where there is no probability.
        check: level of the structural correlation. Noise hides structure at fine resolution; here it is
            averaged out and wrong poses still differ.
        coarse: coarse refinements, the next one tried where the one before ends in no agreement.
        coarse_of_many: the same of many starts, from all around it.
        fine: fine refinement.
        beam: fine refinement with the DRRs of a beam.
        alignment: what brings a pose network's answers onto the X-ray, and the share of them that goes on.
        starts: about an expected pose, first near, then further around.
        neighbour_gain: by how much less the cost of a neighbouring vertebra must be to count; None where no
            such neighbours can be.
        searches_unscanned: whether a search also tries with the rays that leave the scan.
        detail: level of fine structure, which tells poses apart that agree alike at ``check``; None for that.
        look_alikes: starts about the best coarse pose where others may look as well; None for none.
        judged_as: name of what the probability of a right pose was fitted to (``registration.probability``);
            empty where there is none.
        weak_parts: what the weaker quarter of the images' parts must correlate to for a pose to be accepted;
            None where a probability counts them.
        coarse_of_aligned: coarse refinements of starts that coarse images are aligned at already; those of
            any start if there are none.
        size_step: by which share one size of such a body at least differs from the next; None of what is the
            patient's own.
        is_silhouette: whether opacity is compared, not line integrals.
        correlated_residuals: residuals of neighbouring pixels are not independent: deviations are this much
            larger than white noise would make them.
    """

    name: str
    thresholds: Thresholds
    check: Level
    coarse: tuple[Steps, ...]
    coarse_of_many: tuple[Steps, ...]
    fine: Steps
    beam: Steps
    alignment: tuple[tuple[Level, float], ...]
    starts: tuple[MultiStart, MultiStart]
    neighbour_gain: float | None
    searches_unscanned: bool
    detail: Level | None = None
    look_alikes: LookAlikes | None = None
    judged_as: str = ""
    weak_parts: float | None = None
    coarse_of_aligned: tuple[Steps, ...] = ()
    size_step: float | None = None
    is_silhouette: bool = False
    # Resources/Evaluation/configs/core_paper.toml prints the calibration.
    correlated_residuals: float = 4.0

    @property
    def finest(self) -> Level:
        """The level at which a refinement ends."""
        return self.fine[-1].level


# Whole-image normalisation catches nearly every start, windows then pin the depth. But seen from very near or
# far any body is as smooth as another: a weak hold on depth, and windows rank the poses.
_WHOLE_IMAGES_FIRST = (
    Step(Level(32, None, 15, 0.3, depth_prior_mm=60.0), 12, Level(32, 9)),
    Step(Level(64, None, 10, 0.1, depth_prior_mm=60.0), 3, Level(64, 15)),
)
# The same with wide windows: scatter and steep intensity curves change the image's large-scale shape, which
# then leads astray.
_WIDE_WINDOWS = (
    Step(Level(32, 21, 15, 0.3, depth_prior_mm=60.0), 12, Level(32, 9)),
    Step(Level(64, 21, 12, 0.1, depth_prior_mm=60.0), 3, Level(64, 15)),
)
# From where wide windows of coarse images led, narrow ones of finer images go straight home, scatter or not.
_NARROW_WINDOWS = (Step(Level(64, 15, 15, 0.1, depth_prior_mm=60.0), 3),)
# Thresholds were chosen on simulated targets of several CTs: Resources/Evaluation/configs/core_paper.toml
# prints both distributions.
WHOLE_BODY = TargetKind(
    name="whole body",
    thresholds=Thresholds(accept=0.85, review=0.7),
    check=Level(64, 15),
    coarse=(_WHOLE_IMAGES_FIRST, _WIDE_WINDOWS),
    coarse_of_many=(_WHOLE_IMAGES_FIRST, _WIDE_WINDOWS),
    coarse_of_aligned=(_NARROW_WINDOWS, _WIDE_WINDOWS),
    fine=(Step(Level(128, 31, 10, 0.05)), Step(Level(128, 13, 10, 0.02)), Step(Level(256, 21, 10))),
    # Whole images first, where the beam's physics shows most.
    beam=(
        Step(Level(64, None, 10, 0.1, depth_prior_mm=60.0)),
        Step(Level(128, 31, 10, 0.05)),
        Step(Level(256, 21, 10)),
    ),
    # Whole images lead home from further away, windows despite scatter, collimation and steep curves.
    alignment=(
        (Level(32, None, 5, 0.5, depth_prior_mm=60.0), 2 / 3),
        (Level(32, 15, 10, 0.5, depth_prior_mm=60.0), 1 / 2),
    ),
    starts=(MultiStart(8.0), MultiStart(16.0)),
    neighbour_gain=0.0,
    searches_unscanned=True,
    detail=Level(128, 13),
    judged_as="body",
)
# The bones of a body, compared with the whole X-ray.
BONES = replace(WHOLE_BODY, name="bones")
# One bone in an X-ray of more: windows from the start, or the rest of the image would decide; and a weak hold
# on depth, or the bone's projection could grow until its outline has left the comparison. It explains less of
# its X-ray, so less agreement is expected of it.
_SEGMENTED_COARSE = (
    Step(Level(64, 15, 15, 0.2, depth_prior_mm=30.0), 6),
    Step(Level(128, 11, 12, 0.05, depth_prior_mm=30.0), 3),
)
SEGMENTED_BONE = TargetKind(
    name="segmented bone",
    thresholds=Thresholds(accept=0.55, review=0.45),
    check=Level(128, 11),
    coarse=(_SEGMENTED_COARSE,),
    # Of starts from all around only a few lead home, and at first these need not look best. Their crop of the
    # X-ray is wide: on fewer pixels other bones look as well.
    coarse_of_many=(
        (
            Step(Level(96, 15, 8, 0.2, depth_prior_mm=30.0), 48),
            Step(Level(128, 11, 4, 0.05, depth_prior_mm=30.0), 16),
            Step(Level(128, 11, 8, 0.05, depth_prior_mm=30.0), 6),
        ),
    ),
    # Bones turned about their long axis differ in fine structure alone: several go as far as that. Depth,
    # that turn and a shift form a valley, through which the last ones need many steps.
    fine=(Step(Level(256, 9, 4, 0.01), 3), Step(Level(256, 9, 40, 0.003), 3)),
    beam=(
        Step(Level(128, 11, 12, 0.05, depth_prior_mm=30.0)),
        Step(Level(256, 9, 15, 0.01, depth_prior_mm=30.0)),
    ),
    alignment=((Level(32, 15, 10, 0.5, depth_prior_mm=30.0), 1 / 2),),
    # A long bone may also have slid along itself.
    starts=(MultiStart(5.0), MultiStart(8.0, 6.0)),
    # A bone slid along itself ends in minima of its own. Correlations rose by 0.33 to 0.42 to the true place
    # of real vertebrae, by up to 0.21 to wrong places of a real radius.
    neighbour_gain=0.5,
    searches_unscanned=False,
    detail=Level(256, 9),
    look_alikes=LookAlikes(),
    judged_as="segmented bone",
)

# An implant: the silhouette of metal in an X-ray of more. Its outline is sharp and there is nothing else:
# windows as wide as the outline's surroundings lead, and the finest level is that of the X-ray's pixels.
_IMPLANT_COARSE = (
    Step(Level(64, 21, 15, 0.2, depth_prior_mm=30.0), 6),
    Step(Level(128, 15, 12, 0.05, depth_prior_mm=30.0), 3),
)
# Right poses agreed to 0.83 to 0.94 in simulated X-rays and to 0.71 to 0.77 in real ones, wrong ones to 0.58
# at most; errors were 2.4 (simulated) and 2.2 (real) times as large as deviations by the factor of bones
# would be (Docs/bodies.md).
IMPLANT = TargetKind(
    name="implant",
    thresholds=Thresholds(accept=0.65, review=0.5),
    check=Level(128, 11),
    coarse=(_IMPLANT_COARSE,),
    coarse_of_many=((replace(_IMPLANT_COARSE[0], keep=48), replace(_IMPLANT_COARSE[1], keep=8)),),
    fine=(Step(Level(256, 11, 15, 0.01)),),
    beam=(Step(Level(256, 11, 15, 0.01)),),
    alignment=((Level(32, 15, 10, 0.5, depth_prior_mm=30.0), 1 / 2),),
    starts=(MultiStart(5.0), MultiStart(8.0, 6.0)),
    neighbour_gain=None,
    searches_unscanned=False,
    # Known exactly and rigid: what does not fit somewhere along its outline is another one, or elsewhere.
    # Right poses in real X-rays had 0.62 and more, other sizes in two views 0.53 at most.
    weak_parts=0.55,
    # Knee replacements come in steps of about 4 %.
    size_step=0.03,
    is_silhouette=True,
    correlated_residuals=12.0,
)


@dataclass(frozen=True, eq=False)
class Target:
    """What is projected and compared.

    Attributes:
        content: "body" or "bone", as in ``RegistrationSettings.content``, or "metal".
        kind: how it is compared.
        moving: attenuation.
        outline_lps_mm: (n, 3) surface points where the X-ray shows more than the volume holds: comparison
            then keeps to the surroundings of its projection; None for the whole X-ray.
    """

    content: str
    kind: TargetKind
    moving: MovingVolume
    outline_lps_mm: np.ndarray | None = None

    def with_all_rays(self) -> Target:
        """The same, its rays through the end of the scan compared like any other."""
        return replace(self, moving=self.moving.without_truncation())


def targets_of(subject: Subject, content: str = "auto") -> tuple[Target, ...]:
    """The targets of a subject in the order in which they are tried; ``content`` "body", "bone" or "auto" for
    both; metal has one."""
    # A CT that is a segmented bone already has no body besides: its bone is compared with its surroundings
    # only, in an X-ray that shows more.
    if subject.ct.is_metal:
        return (subject.kept("target metal", None, lambda: _metal_target(subject)),)
    body = subject.kept("target body", None, lambda: Target("body", WHOLE_BODY, subject.body))
    bone = subject.kept("target bone", None, lambda: _bone_target(subject))
    return tuple(target for target in (body, bone) if content in ("auto", target.content))


def compared_target(subject: Subject) -> Target:
    """What stands for the subject where one target must: metal, a segmented bone, else the body."""
    targets = targets_of(subject)
    return targets[0] if targets[-1].outline_lps_mm is None else targets[-1]


def _metal_target(subject: Subject) -> Target:
    return Target("metal", IMPLANT, subject.silhouette, subject.ct.surface_points_lps_mm)


def _bone_target(subject: Subject) -> Target:
    if subject.is_segmented_bone:
        return Target("bone", SEGMENTED_BONE, subject.in_tissue, subject.ct.surface_points_lps_mm)
    return Target("bone", BONES, subject.bones)
