"""What the papers report: every figure that stands beside ours, once, with its source.

Names of methods are those of :data:`~SOPIRegistrationLib.evaluation.methods.METHODS`. Text as printed there;
empty where a paper says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

SOPI = "Chen et al., SOPI, ICASSP 2024"
PROST = "Gao et al., ProST, IEEE TMI 43(1), 2024"
PATIENT_SPECIFIC = "Zhang et al., patient-specific model, MICCAI 2023 poster"

SOPI_CONDITIONS = (
    "Its X-rays are of segmented lumbar spines (10 CTs), by the very projector that registers them (here: "
    "target `ours`, content `bone`); its seconds are those of an RTX 3090. It does not say how it makes one "
    "error of three axes; its published code adds their absolute errors. Ours are the angle and the length."
)

XRAY_CONDITIONS = (
    "Five lumbar X-rays; its seconds are those of an RTX 3090. Its depth is tx, here tz; it does not say "
    "about which axes rx, ry and rz turn. Its DistErr is of corner points paired by SURF and ORB; 0.036 mm "
    "at starts 13 to 16 mm off can hardly be mm. Ours is the mean projection distance of points of the bone. "
    "Other anatomy and other starts: not to be compared figure by figure."
)


@dataclass(frozen=True)
class SimulationFigures:
    """A row of Table 1 of the SOPI paper: rotation (deg) and translation (mm) as mean ± standard deviation,
    failure rate (%), seconds a registration."""

    rotation_deg: str
    translation_mm: str
    failure: str
    seconds: str = ""


TABLE_1 = {
    "initial": SimulationFigures("6.40 ± 3.77", "15.08 ± 8.56", "95.2"),
    "opt-nccl": SimulationFigures("3.68 ± 3.18", "5.79 ± 5.18", "38.2", "19.16"),
    "opt-ngi": SimulationFigures("3.84 ± 3.32", "5.92 ± 5.40", "50.6", "30.25"),
    "opt-gc": SimulationFigures("3.73 ± 3.18", "7.80 ± 7.25", "43.6", "18.74"),
    "deep-reg": SimulationFigures("5.54 ± 3.83", "13.21 ± 8.55", "74.0", "20.09"),
    "sopi": SimulationFigures("1.89 ± 1.57", "4.53 ± 3.54", "22.4", "4.64"),
}


@dataclass(frozen=True)
class AblationFigures:
    """A row of Table 2 of the SOPI paper.

    Attributes:
        rtpi: whether the pose comes from the pose network first.
        composite_encoder: whether features come from the composite encoder.
        mask_loss: whether the embedded-feature error is limited to the projected bones.
        rotation_deg, translation_mm: mean ± standard deviation.
    """

    rtpi: bool
    composite_encoder: bool
    mask_loss: bool
    rotation_deg: str
    translation_mm: str


# The paper gives 4.53 mm for its whole method in Table 1 and 4.41 mm here.
TABLE_2 = {
    "sopi-no-ce": AblationFigures(True, False, True, "5.42 ± 3.71", "12.06 ± 8.89"),
    "ifr": AblationFigures(False, True, True, "5.67 ± 3.72", "11.00 ± 8.17"),
    "rtpi": AblationFigures(True, False, False, "3.42 ± 3.30", "6.68 ± 4.18"),
    "sopi": AblationFigures(True, True, False, "2.09 ± 2.46", "4.53 ± 3.92"),
    "sopi-masked": AblationFigures(True, True, True, "1.89 ± 1.57", "4.41 ± 3.54"),
}


@dataclass(frozen=True)
class XrayFigures:
    """A row of Table 3 of the SOPI paper, five lumbar X-rays.

    Attributes:
        distance_mm: DistErr, mean distance between corresponding corner points of X-ray and DRR, by SURF and
            ORB. Ours is the mean projection distance, whose correspondence is known: corners of an X-ray of
            more than the bone and of the bone's DRR pair unlike points even at the true pose.
        ncc: ImgSim.
        rotation_deg: mean absolute errors of the paper's rx, ry, rz.
        translation_mm: of its tx (depth), ty, tz.
        seconds: a registration.
    """

    distance_mm: str
    ncc: str
    rotation_deg: tuple[str, str, str]
    translation_mm: tuple[str, str, str]
    seconds: str = ""

    @property
    def in_our_axes(self) -> tuple[str, ...]:
        """rx, ry, rz as the paper calls them (it does not define its axes), then tx, ty and depth in ours."""
        depth, across, along = self.translation_mm
        return (*self.rotation_deg, across, along, depth)


TABLE_3 = {
    "initial": XrayFigures("0.036", "0.462", ("8.66", "5.01", "4.52"), ("13.41", "16.13", "16.26")),
    "opt-nccl": XrayFigures("0.032", "0.962", ("7.55", "2.40", "1.15"), ("7.10", "4.85", "3.10"), "31.44"),
    "opt-ngi": XrayFigures("0.036", "0.941", ("7.75", "5.00", "1.30"), ("18.15", "4.80", "2.30"), "48.64"),
    "opt-gc": XrayFigures("0.027", "0.939", ("4.70", "2.40", "1.60"), ("7.15", "3.15", "3.00"), "40.14"),
    "deep-reg": XrayFigures("0.017", "0.963", ("6.80", "7.93", "4.07"), ("5.82", "6.67", "10.08"), "20.08"),
    "sopi": XrayFigures("0.020", "0.905", ("2.83", "0.90", "0.88"), ("5.64", "1.50", "3.30"), "4.67"),
    # The paper's SOPI+opt: it "uses the Opt-GC method during the optimization".
    "sopi+opt-gc": XrayFigures("0.013", "0.955", ("2.1", "0.47", "0.20"), ("1.93", "0.65", "0.45"), "33.80"),
}

# On other anatomy and other starts: what is reported of a method, not a figure to compare with.
ELSEWHERE = {
    "cma-es": f"pelvis: success at mTRE 10 mm 28.5 % simulated, 36.0 % real ({PROST})",
    "deep-reg+cma-es": (
        f"pelvis: median TRE 4.4 mm, success at mTRE 10 mm 65.6 % simulated; 2.2 mm, 73.2 % real ({PROST})"
    ),
    "patient": f"DRRs of the first of six: mTRE 5.43 mm, success 95.3 % ({PATIENT_SPECIFIC}, Table 3)",
    "patient+physics": (
        "DRRs: mTRE 2.67 mm, success 100 % (Grimm 2021: 4.21 mm, 91.9 %; Salehi 2018: 7.68 mm, 67.1 %); "
        f"X-rays: NCC 0.988, SSIM 0.947, projection distance 1.56 mm; about 2.5 s ({PATIENT_SPECIFIC})"
    ),
}
