"""The border to the 3D Slicer scene: nodes <-> arrays, RAS <-> LPS, poses <-> transforms, and what is shown.

The only room that imports slicer and vtk. The C-arm stands still at its nominal place in world; the patient
moves, under the registration's transform node, which is the identity at theta = 0.
"""

from SOPIRegistrationLib.scene.bodies import (
    attach_bodies,
    put_relative,
    relative_poses,
    release_body,
    show_bodies,
    with_transforms,
)
from SOPIRegistrationLib.scene.bones_model import show_bones
from SOPIRegistrationLib.scene.carm_model import CArmModel
from SOPIRegistrationLib.scene.demo import DemoNodes, load_demo_case
from SOPIRegistrationLib.scene.detector import lay_slice_view_on_detector, place_on_detector
from SOPIRegistrationLib.scene.drr_node import settle_window, update_drr
from SOPIRegistrationLib.scene.estimated import estimated_camera, keep_estimated
from SOPIRegistrationLib.scene.frames import (
    RAS_FROM_LPS,
    T_camera_to_ras,
    matrix_from_pose,
    pixels_from_ras,
    pose_from_matrix,
    ras_from_pixels,
)
from SOPIRegistrationLib.scene.fusion_view import FusionListener, FusionView
from SOPIRegistrationLib.scene.landmarks import landmark_pairs
from SOPIRegistrationLib.scene.layout import (
    CT_PLANES,
    FUSION_VIEW,
    LANDMARK_LAYOUT_ID,
    LAYOUT_ID,
    MOST_XRAYS,
    XRAY_VIEW,
    ensure_layout,
    slice_node,
)
from SOPIRegistrationLib.scene.nodes import (
    is_own,
    labels_of_segments,
    mask_from_node,
    radiograph_from_node,
    surface_from_node,
    volume_from_node,
)
from SOPIRegistrationLib.scene.overlay import OVERLAY_MODES, Overlay
from SOPIRegistrationLib.scene.picks import Picks, put_points
from SOPIRegistrationLib.scene.pose import attach, carries, is_attached, pose_of, set_centre, set_pose
from SOPIRegistrationLib.scene.projected import Projected
from SOPIRegistrationLib.scene.region import region_from_node
from SOPIRegistrationLib.scene.state import BodyEntry, HistoryEntry, RegistrationState, XrayEntry
from SOPIRegistrationLib.scene.views import Shown, Views

__all__ = [
    "CT_PLANES",
    "FUSION_VIEW",
    "LANDMARK_LAYOUT_ID",
    "LAYOUT_ID",
    "MOST_XRAYS",
    "OVERLAY_MODES",
    "RAS_FROM_LPS",
    "XRAY_VIEW",
    "BodyEntry",
    "CArmModel",
    "DemoNodes",
    "FusionListener",
    "FusionView",
    "HistoryEntry",
    "Overlay",
    "Picks",
    "Projected",
    "RegistrationState",
    "Shown",
    "T_camera_to_ras",
    "Views",
    "XrayEntry",
    "attach",
    "attach_bodies",
    "carries",
    "ensure_layout",
    "estimated_camera",
    "is_attached",
    "is_own",
    "keep_estimated",
    "labels_of_segments",
    "landmark_pairs",
    "lay_slice_view_on_detector",
    "load_demo_case",
    "mask_from_node",
    "matrix_from_pose",
    "pixels_from_ras",
    "place_on_detector",
    "pose_from_matrix",
    "pose_of",
    "put_points",
    "put_relative",
    "radiograph_from_node",
    "ras_from_pixels",
    "region_from_node",
    "relative_poses",
    "release_body",
    "set_centre",
    "set_pose",
    "settle_window",
    "show_bodies",
    "show_bones",
    "slice_node",
    "surface_from_node",
    "update_drr",
    "volume_from_node",
    "with_transforms",
]
