"""X-rays as vendors, screens and mistakes make them: what ``sopi register`` makes of them without a start.

    python Testing/studies/measure_processed_xrays.py ABDOMEN.nii.gz THORAX.nii.gz --out DIR [--only NAME ...]

The X-rays share nothing with the program's simulation: ray sums by SciPy's interpolation, three energies,
scatter, counting noise; then what displays, exports and wrong inputs do to them. Two CTs, from in front and
from the left, up to 12 deg, 20 mm in the plane and 40 mm in depth off: four X-rays of each kind. A pose is
right within 2 mm in the plane, at the object, and 3 deg; a stranger's or mirrored CT has none.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.cli.main import main as sopi

PIXELS, PITCH_MM, SDD_MM, SOD_MM = 512, 0.78, 1100.0, 720.0
VIEWS = {"AP": [[1, 0, 0], [0, 0, -1], [0, 1, 0]], "LLAT": [[0, -1, 0], [0, 0, -1], [1, 0, 0]]}
# Weight, attenuation of water (1/mm) and what bone attenuates more, of three energies.
SPECTRUM = ((0.3, 0.0227, 1.45), (0.4, 0.0197, 1.1), (0.3, 0.0178, 0.85))
SCATTER, SCATTER_PX, PHOTONS, STEP_MM, REACH_MM = 0.8, 40, 6e5, 1.5, 260
RIGHT_MM, RIGHT_DEG, SEED, BONE_HU = 2.0, 3.0, 20261128, 250
ROWS, COLUMNS = np.mgrid[:PIXELS, :PIXELS]


class Scan:
    """A CT, and itself mirrored left for right."""

    def __init__(self, path: Path, out: Path):
        image = sitk.ReadImage(str(path))
        self.path, self.hu = path, sitk.GetArrayFromImage(image).astype(np.float32)
        self.index_to_lps = np.eye(4)
        self.index_to_lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        self.index_to_lps[:3, 3] = image.GetOrigin()
        self.centre = (self.index_to_lps @ [*(np.array(self.hu.shape[::-1]) - 1) / 2, 1])[:3]
        mirrored = sitk.GetImageFromArray(self.hu[:, :, ::-1].astype(np.int16))
        mirrored.CopyInformation(image)
        self.mirrored_path = out / f"mirrored_{path.name}"
        sitk.WriteImage(mirrored, str(self.mirrored_path))

    def pose(self, view: str, degrees, mm) -> np.ndarray:
        """(4, 4) T_lps_to_camera, this far from the view."""
        T = np.eye(4)
        T[:3, :3] = Rotation.from_euler("XYZ", degrees, degrees=True).as_matrix() @ VIEWS[view]
        T[:3, 3] = np.add(mm, [0, 0, SOD_MM]) - T[:3, :3] @ self.centre
        return T

    def paths(self, T: np.ndarray, step_mm: float = STEP_MM) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) of water and of bone besides, mm along the rays."""
        across = (np.arange(PIXELS) - (PIXELS - 1) / 2) * PITCH_MM
        x, y = np.meshgrid(across, across)
        rays = np.stack([x, y, np.full_like(x, SDD_MM)], -1)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        to_index = np.linalg.inv(T @ self.index_to_lps)
        soft, bone = np.clip(1 + np.minimum(self.hu, 100) / 1000, 0, None), np.clip(self.hu - 100, 0, None)
        sums = np.zeros((2, PIXELS, PIXELS), np.float32)
        depth = (T @ [*self.centre, 1])[2]
        for along in np.arange(depth - REACH_MM, depth + REACH_MM, step_mm):
            at = np.moveaxis((rays * along) @ to_index[:3, :3].T + to_index[:3, 3], -1, 0)[::-1]
            for total, values in zip(sums, (soft, bone / 1000), strict=True):
                total += ndimage.map_coordinates(values, at, order=1, cval=0) * step_mm
        return sums[0], sums[1]

    def bone_points(self) -> np.ndarray:
        """(2000, 3) LPS, mm."""
        indices = np.argwhere(self.hu > BONE_HU)
        chosen = indices[np.random.default_rng(0).choice(len(indices), 2000)][:, ::-1]
        return chosen @ self.index_to_lps[:3, :3].T + self.index_to_lps[:3, 3]


def intensity(soft: np.ndarray, bone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What reaches the detector, with scatter and noise, of what enters."""
    primary = sum(weight * np.exp(-mu * (soft + more * bone)) for weight, mu, more in SPECTRUM)
    mean = primary + SCATTER * ndimage.gaussian_filter(primary, SCATTER_PX)
    return rng.poisson(np.clip(mean, 1e-6, None) * PHOTONS).astype(np.float32) / PHOTONS + 1e-6


def windowed(image: np.ndarray, low: float = 1, high: float = 99) -> np.ndarray:
    """0 to 1 between two percentiles."""
    ends = np.percentile(image, [low, high])
    return np.clip((image - ends[0]) / (ends[1] - ends[0]), 0, 1)


def locally_equalised(image: np.ndarray, tiles: int = 8, limit: float = 3.0) -> np.ndarray:
    """Contrast limited adaptive histogram equalisation (K. Zuiderveld, Graphics Gems IV, 1994)."""
    size, levels = PIXELS // tiles, (image * 255).astype(int)
    curves = np.zeros((tiles, tiles, 256))
    for row, column in np.ndindex(tiles, tiles):
        tile = levels[row * size : (row + 1) * size, column * size : (column + 1) * size]
        counts = np.bincount(tile.ravel(), minlength=256).astype(float)
        most = limit * counts.mean()
        counts = np.minimum(counts, most) + np.clip(counts - most, 0, None).sum() / 256
        curves[row, column] = np.cumsum(counts) / counts.sum()
    place = np.clip((np.arange(PIXELS) - size / 2) / size, 0, tiles - 1.001)
    first, share = place.astype(int), place - place.astype(int)
    result = np.zeros_like(image)
    for down, right in np.ndindex(2, 2):
        weight = np.outer(share if down else 1 - share, share if right else 1 - share)
        tile = np.ix_(np.minimum(first + down, tiles - 1), np.minimum(first + right, tiles - 1))
        result += weight * np.take_along_axis(curves[tile], levels[..., None], -1)[..., 0]
    return result


def sharpened(image: np.ndarray) -> np.ndarray:
    """Edges enhanced as vendors do."""
    return windowed(image + 2.5 * (image - ndimage.gaussian_filter(image, 4)), 0.5, 99.5)


def lettered(image: np.ndarray) -> np.ndarray:
    """With letters of lead."""
    picture = Image.fromarray((255 * image).astype(np.uint8))
    for at, text, size in (((30, 30), "R", 60), ((380, 440), "STAND", 40)):
        ImageDraw.Draw(picture).text(at, text, fill=255, font=ImageFont.load_default(size=size))
    return np.asarray(picture) / 255.0


def with_arms(soft: np.ndarray, bone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With an arm along either side."""
    for start, slope in ((60, 0.08), (450, -0.05)):
        off = COLUMNS - (start + slope * ROWS)
        chords = [2 * np.sqrt(np.clip(r**2 - off**2, 0, None)) * PITCH_MM * 0.65 for r in (55, 17, 9)]
        soft, bone = soft + chords[0], bone + 1.2 * (chords[1] - chords[2])
    return soft, bone


@dataclass(frozen=True)
class Xray:
    """A picture, and what is said of it.

    Attributes:
        kind: what was done.
        image: (rows, columns) 0 to 1.
        ct: its path; None for the one it is of.
        geometry: what is said otherwise than it is.
        options: of ``sopi register``.
        suffix: of its file.
    """

    kind: str
    image: np.ndarray
    ct: Path | None = None
    geometry: dict | None = None
    options: tuple[str, ...] = ()
    suffix: str = ".png"


def processed(scan: Scan, other: Scan, view: str, T: np.ndarray, rng: np.random.Generator) -> Iterator[Xray]:
    """A first X-ray, as displays and exports change it, and against wrong CTs."""
    soft, bone = scan.paths(T)
    counts = intensity(soft, bone, rng)
    image = windowed(-np.log(counts))
    away = ((COLUMNS - PIXELS / 2) ** 2 + (ROWS - PIXELS / 2) ** 2) / (PIXELS / 2) ** 2
    yield Xray("grid lines", np.clip(image + 0.06 * np.sin(COLUMNS * 2 * np.pi / 3.3), 0, 1))
    yield Xray("vignetting", windowed(-np.log(counts * np.exp(-1.6 * away))))
    yield Xray("letters", lettered(image))
    yield Xray("locally equalised", locally_equalised(image))
    yield Xray("edges enhanced", sharpened(image))
    yield Xray("JPEG, quality 30", image, suffix=".jpg")
    yield Xray("another patient's CT", image, ct=other.path)
    yield Xray("mirrored CT", image, ct=scan.mirrored_path, options=("--mirrored", "no"))
    yield Xray("right part black", image * (COLUMNS < PIXELS * 0.55))
    yield Xray("arms beside it", windowed(-np.log(intensity(*with_arms(soft, bone), rng))))


def misstated(scan: Scan, other: Scan, view: str, T: np.ndarray, rng: np.random.Generator) -> Iterator[Xray]:
    """A second one, otherwise changed, and with wrong geometries."""
    counts = intensity(*scan.paths(T), rng)
    image = windowed(-np.log(counts))
    second = scan.paths(scan.pose(view, [5, -4, 3], [30, -70, 0]), 2 * STEP_MM)
    collage, middle = image.copy(), PIXELS // 2
    collage[:, middle:] = windowed(-np.log(intensity(*second, rng)))[:, middle:]
    collage[:, middle - 4 : middle + 4] = 0
    below = image.copy()
    below[middle:] = 1
    yield Xray("two exposures side by side", collage)
    yield Xray("intensity, gamma 0.45", windowed(counts, 0.5, 99) ** 0.45)
    yield Xray("gamma 2.2", image**2.2)
    yield Xray("detector distance 10 % long", image, geometry={"sdd_mm": SDD_MM * 1.1})
    yield Xray("pixels 5 % large", image, geometry={"pixel_spacing_mm": [PITCH_MM * 1.05] * 2})
    yield Xray("pixels 20 % wide", image, geometry={"pixel_spacing_mm": [PITCH_MM, PITCH_MM * 1.2]})
    yield Xray("equalised, enhanced, JPEG 30", sharpened(locally_equalised(image)), suffix=".jpg")
    yield Xray("view stated wrongly", image, geometry={"view": "LLAT" if view == "AP" else "AP"})
    yield Xray("lower half white", below)


def registered(xray: Xray, scan: Scan, view: str, folder: Path) -> dict:
    """The result of ``sopi register``."""
    folder.mkdir(parents=True, exist_ok=True)
    geometry = {"sdd_mm": SDD_MM, "pixel_spacing_mm": [PITCH_MM] * 2, "sod_mm": SOD_MM, "view": view}
    (folder / "geometry.json").write_text(json.dumps(geometry | (xray.geometry or {})))
    picture = folder / f"xray{xray.suffix}"
    options = {"quality": 30} if xray.suffix == ".jpg" else {}
    Image.fromarray((255 * xray.image).astype(np.uint8)).save(picture, **options)
    words = [str(xray.ct or scan.path), str(picture), "--geometry", str(folder / "geometry.json")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        sopi(["register", *words, "--out", str(folder / "result"), *xray.options])
    return json.loads((folder / "result" / "result.json").read_text())


def errors(result: dict, T_true: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Mean distance of the bone in the picture, at the object, mm; turn, deg."""
    T, K = np.array(result["pose"]["T_lps_to_camera"]), np.array(result["geometry"]["cameras"][0]["K"])
    K_true = np.diag([SDD_MM / PITCH_MM, SDD_MM / PITCH_MM, 1.0])
    K_true[:2, 2] = (PIXELS - 1) / 2
    seen, true = (
        (local := (points @ pose[:3, :3].T + pose[:3, 3]) @ camera.T)[:, :2] / local[:, 2:]
        for pose, camera in ((T, K), (T_true, K_true))
    )
    inside = (true > -0.5).all(axis=1) & (true < PIXELS - 0.5).all(axis=1)
    off = np.linalg.norm(seen - true, axis=1)[inside].mean() * PITCH_MM * SOD_MM / SDD_MM
    return float(off), float(np.rad2deg(Rotation.from_matrix(T_true[:3, :3] @ T[:3, :3].T).magnitude()))


def measured(scans: list[Scan], out: Path, wanted: Callable[[str], bool]) -> Iterator[dict]:
    """A row for each X-ray."""
    rng = np.random.default_rng(SEED)
    for number, scan in enumerate(scans):
        points = scan.bone_points()
        for view in VIEWS:
            for made in (processed, misstated):
                degrees = rng.uniform(-12, 12, 3)
                T = scan.pose(view, degrees, [*rng.uniform(-20, 20, 2), rng.uniform(-40, 40)])
                for xray in made(scan, scans[1 - number], view, T, rng):
                    if not wanted(xray.kind):
                        continue
                    result = registered(
                        xray, scan, view, out / f"{number}_{view}_{xray.kind.replace(' ', '_')}"
                    )
                    mm, turn = errors(result, T, points)
                    is_right = xray.ct is None and mm <= RIGHT_MM and turn <= RIGHT_DEG
                    verdict = result["verdict"]
                    yield {
                        "kind": xray.kind,
                        "ct": scan.path.name,
                        "view": view,
                        "in_plane_mm": round(mm, 2),
                        "turn_deg": round(turn, 2),
                        "right": is_right,
                        "status": verdict["status"],
                        "probability": verdict["probability"],
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cts", type=Path, nargs=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[], help="kinds of X-rays, by their names")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    scans = [Scan(path, options.out) for path in options.cts]
    counts: dict[str, Counter] = {}
    with (options.out / "rows.csv").open("w", newline="") as stream:
        writer = None
        for row in measured(scans, options.out, lambda kind: not options.only or kind in options.only):
            writer = writer or csv.DictWriter(stream, row)
            if not stream.tell():
                writer.writeheader()
            writer.writerow(row)
            stream.flush()
            counts.setdefault(row["kind"], Counter())[row["right"], row["status"]] += 1
    states = ("accept", "review", "reject")
    heads = [f"{which}: {state}" for which in ("right", "wrong") for state in states]
    print(f"| X-ray | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for kind, found in counts.items():
        numbers = [found[is_right, state] for is_right in (True, False) for state in states]
        print(f"| {kind} | {' | '.join(map(str, numbers))} |")


if __name__ == "__main__":
    main()
