"""What a registration of several bodies returns, and its form as result.json."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.refine.alternatives import Alternative
from SOPIRegistrationLib.registration.result import RegistrationResult, Verdict


@dataclass(frozen=True)
class BodyPose:
    """A registered body.

    Attributes:
        name: of the body.
        T_lps_to_world: (4, 4) pose, mm.
        initial_T: (4, 4) the pose from which it was released: that of the piece it belongs to.
        verdict: trust in this body.
        alternatives: other poses of it alone that the picture hardly tells from this one, or that are worth a
            look, the best first.
    """

    name: str
    T_lps_to_world: np.ndarray
    initial_T: np.ndarray
    verdict: Verdict
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class NeighbourPose:
    """How a body stands to the one that it is held to.

    Attributes:
        body, parent: their names.
        T_relative: (4, 4) ``T_parent^-1 T_body``, LPS to LPS, mm: the identity where both are as in the CT.
        predicted_error_mm: (3,) standard deviation of the body's centre against the parent, along the first
            camera's x, y and z.
        predicted_error_deg: (3,) of its turn against the parent about these axes.
    """

    body: str
    parent: str
    T_relative: np.ndarray
    predicted_error_mm: np.ndarray
    predicted_error_deg: np.ndarray


@dataclass(frozen=True)
class BodiesResult:
    """What a registration of several bodies found.

    Attributes:
        bodies: in their order.
        pairs: of each body that is held, how it stands to its parent.
        pieces: the registrations of what moved as one piece first.
        seconds: from prepared inputs to the verified poses.
    """

    bodies: tuple[BodyPose, ...]
    pairs: tuple[NeighbourPose, ...]
    pieces: tuple[RegistrationResult, ...]
    seconds: float

    @property
    def first(self) -> RegistrationResult:
        """The first body's result, in the form of a registration of one body."""
        return self.of(self.bodies[0])

    def of(self, body: BodyPose) -> RegistrationResult:
        """A body's result as a registration of one body; stages and images are the first piece's."""
        return replace(
            self.pieces[0],
            T_lps_to_world=body.T_lps_to_world,
            initial_T=body.initial_T,
            verdict=body.verdict,
            alternatives=body.alternatives,
            seconds=self.seconds,
        )

    @property
    def stopped(self) -> bool:
        """Whether it was cancelled."""
        return any(piece.stopped for piece in self.pieces)

    @property
    def intrinsics(self):
        """What of the cameras was estimated with the first piece's pose, as of ``RegistrationResult``."""
        return self.pieces[0].intrinsics

    @property
    def radiographs(self) -> tuple[PreparedRadiograph, ...]:
        """The X-rays as they were read."""
        return self.pieces[0].radiographs

    def to_dict(
        self,
        geometry: dict | None = None,
        seconds_preparation: float | None = None,
        given_mirrored: bool = False,
    ) -> dict:
        """The content of result.json; arguments as for ``RegistrationResult.to_dict``."""
        entry = self.first.to_dict(geometry, seconds_preparation, given_mirrored)
        kept = ("pose", "initial_pose", "verdict", "alternatives")
        entry["bodies"] = [
            {"name": body.name, **{key: told[key] for key in kept}}
            for body in self.bodies
            for told in [self.of(body).to_dict()]
        ]
        entry["pairs"] = [
            {
                "body": pair.body,
                "parent": pair.parent,
                "T_relative": pair.T_relative.tolist(),
                "predicted_error_mm": np.round(pair.predicted_error_mm, 4).tolist(),
                "predicted_error_deg": np.round(pair.predicted_error_deg, 4).tolist(),
            }
            for pair in self.pairs
        ]
        return entry
