"""What a registration returns, and its form as result.json."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.compare import StageRecord
from SOPIRegistrationLib.geometry.intrinsics import EstimatedIntrinsics
from SOPIRegistrationLib.geometry.views import PoseFrame, theta_as_dict, view_seen
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.refine.alternatives import Alternative
from SOPIRegistrationLib.registration.evidence import Evidence

# A picture turned by less is upright.
_NOTABLE_ROLL_DEG = 45.0


# What a verdict may be, from the least severe on.
SEVERITY = ("accept", "review", "reject")


@dataclass(frozen=True)
class Verdict:
    """How far a result can be trusted, without knowledge of the truth.

    Attributes:
        status: "accept", "review" or "reject".
        reasons: one line each.
        predicted_error_mm: (3,) standard deviation of the rotation centre's place along the first camera's
            x, y and z (depth), mm: what the images leave open, and what the model of them may be wrong in.
        predicted_error_deg: (3,) of the rotation about these axes, deg.
        share: of the X-ray's valid rays, those that were compared.
        statistical_error_mm: (3,) as ``predicted_error_mm``, what the images leave open alone: from the
            curvature of the objective.
        statistical_error_deg: (3,) the same of the rotation.
        probability: that the pose is right: within 2 mm in the plane at the object, and 3 deg. None of a kind
            of target for which none is known.
        evidence: what the images say for and against it.
        settled: whether the images agree as at a right pose, so that no other one need be sought; the view
            may not fix it all the same.
        ambiguous: why another pose may be the right one, where one agrees as well; else empty.

    What is not the status or its reasons is None for a stopped run.
    """

    status: str
    reasons: list[str]
    predicted_error_mm: np.ndarray | None
    predicted_error_deg: np.ndarray | None
    share: float | None = None
    statistical_error_mm: np.ndarray | None = None
    statistical_error_deg: np.ndarray | None = None
    probability: float | None = None
    evidence: Evidence | None = None
    settled: bool = False
    ambiguous: str = ""

    def to_dict(self) -> dict:
        """The entry "verdict" of result.json."""
        return {
            "status": self.status,
            "probability": _rounded(self.probability),
            "reasons": self.reasons,
            "predicted_error_mm": _rounded(self.predicted_error_mm),
            "predicted_error_deg": _rounded(self.predicted_error_deg),
            "statistical_error_mm": _rounded(self.statistical_error_mm),
            "statistical_error_deg": _rounded(self.statistical_error_deg),
            "share": _rounded(self.share),
        }


@dataclass(frozen=True)
class RegistrationResult:
    """The pose that a registration found and how it came there.

    Attributes:
        T_lps_to_world: (4, 4) final pose, mm; with one C-arm the world is its camera.
        initial_T: (4, 4) pose the refinement started from.
        frame: what theta is measured from, in the first camera.
        T_world_to_camera: (4, 4) extrinsics of the first camera.
        radiographs: the X-rays as they were compared, in the polarity that agreed with the CT; turned over
            where ``mirrored``.
        method: initialiser and refinement, e.g. "search + opt".
        content: what the DRRs were made of, "body" or "bone".
        stages: the stages run, in order.
        similarity: "ncc" and "gradient_correlation" at the final pose.
        initial_similarity: the same at the initial pose; None for a stopped run.
        verdict: trust.
        seconds: from prepared inputs to the verified pose.
        stopped: whether it was cancelled.
        mirrored: whether the X-rays given turned out to be mirrored: pose and cameras are those of the
            pictures turned over.
        intrinsics: of each X-ray, where the geometry has tolerances; ``radiographs`` have them.
        stated_view: name of the nominal view that was given; ``frame`` has the one that was found.
        alternatives: other poses that the picture hardly tells from this one, or that are worth a look, the
            best first; sought of an implant, and of each of several bodies.
    """

    T_lps_to_world: np.ndarray
    initial_T: np.ndarray
    frame: PoseFrame
    T_world_to_camera: np.ndarray
    radiographs: tuple[PreparedRadiograph, ...]
    method: str
    content: str
    stages: list[StageRecord]
    similarity: dict[str, float]
    initial_similarity: dict[str, float] | None
    verdict: Verdict
    seconds: float
    stopped: bool = False
    mirrored: bool = False
    intrinsics: tuple[EstimatedIntrinsics, ...] = ()
    stated_view: str = ""
    device: str = field(default="cpu")
    alternatives: tuple[Alternative, ...] = ()

    def image(self, given_mirrored: bool = False) -> dict:
        """What the first X-ray was found to be, as in result.json.

        Args:
            given_mirrored: whether the stored picture was turned over before it was registered.
        """
        T_lps_to_camera = self.T_world_to_camera @ self.T_lps_to_world
        view, roll = view_seen(T_lps_to_camera[:3, :3])
        return {
            "mirrored": self.mirrored != given_mirrored,
            "polarity": self.radiographs[0].polarity,
            "view": view,
            "roll_deg": round(roll, 2),
        }

    @property
    def geometry_found(self) -> list[str]:
        """What was estimated of each X-ray's geometry, a line each."""
        return [one.summary for one in self.intrinsics]

    @property
    def findings(self) -> list[str]:
        """What the X-ray was found to be otherwise than stated, a line each."""
        view, roll = view_seen((self.T_world_to_camera @ self.T_lps_to_world)[:3, :3])
        lines = ["the X-ray is stored mirrored"] if self.mirrored else []
        if self.frame.view != self.stated_view:
            lines.append(f"taken as {view}, not {self.stated_view}")
        if abs(roll) > _NOTABLE_ROLL_DEG:
            lines.append(f"turned by {roll:.0f} deg")
        return lines

    def to_dict(
        self,
        geometry: dict | None = None,
        seconds_preparation: float | None = None,
        given_mirrored: bool = False,
    ) -> dict:
        """The content of result.json.

        Args:
            geometry: the geometry as its JSON.
            seconds_preparation: time spent on reading and preparing the inputs.
            given_mirrored: as for :meth:`image`.
        """
        return {
            "version": __version__,
            "method": self.method,
            "content": self.content,
            "geometry": geometry,
            "rotation_centre_lps_mm": self.frame.centre_lps_mm.tolist(),
            "view": self.frame.view,
            "image": self.image(given_mirrored),
            "intrinsics": [one.to_dict() for one in self.intrinsics] or None,
            "pose": self._pose_entry(self.T_lps_to_world),
            "initial_pose": self._pose_entry(self.initial_T),
            "stages": [
                {
                    "name": stage.name,
                    "seconds": round(stage.seconds, 4),
                    "similarity": None if stage.similarity is None else round(stage.similarity, 6),
                    "pose": self._pose_entry(stage.T),
                }
                for stage in self.stages
            ],
            "similarity": self.similarity,
            "initial_similarity": self.initial_similarity,
            "verdict": self.verdict.to_dict(),
            "alternatives": [
                {**one.to_dict(), "pose": self._pose_entry(one.T_lps_to_world)} for one in self.alternatives
            ],
            "stopped": self.stopped,
            "seconds": round(self.seconds, 4),
            "seconds_preparation": seconds_preparation,
            "device": self.device,
        }

    def _pose_entry(self, T_lps_to_world: np.ndarray) -> dict:
        T_lps_to_camera = self.T_world_to_camera @ T_lps_to_world
        return {
            "T_lps_to_camera": T_lps_to_camera.tolist(),
            "T_lps_to_world": T_lps_to_world.tolist(),
            "theta": theta_as_dict(self.frame.theta_from_T(T_lps_to_camera)),
        }


def _rounded(values: np.ndarray | float | None) -> list[float] | float | None:
    return None if values is None else np.round(values, 4).tolist()
