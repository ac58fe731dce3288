"""Put the README's picture together: the views after a registration, the whole panel below in two columns.

    python Testing/studies/draw_module.py [--screenshots Resources/Screenshots]

Made of ``scene_layout.png`` and ``panel_registered.png``, which the tests of scene and panel draw; writes
``module.png`` beside them. Nothing in it is drawn by hand: run it again when those two have changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

GAP = 12


def main() -> None:
    """Compose and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--screenshots", type=Path, default=Path("Resources/Screenshots"))
    folder = parser.parse_args().screenshots
    panel = np.asarray(Image.open(folder / "panel_registered.png").convert("RGB"))
    cut = split_row(panel)
    upper, lower = panel[:cut], panel[cut:]
    width = 2 * panel.shape[1] + GAP
    views = Image.open(folder / "scene_layout.png").convert("RGB")
    views = views.resize((width, round(views.height * width / views.width)), Image.Resampling.LANCZOS)
    height = views.height + GAP + max(len(upper), len(lower))
    picture = Image.new("RGB", (width, height), tuple(int(value) for value in panel[0, 0]))
    picture.paste(views, (0, 0))
    picture.paste(Image.fromarray(upper), (0, views.height + GAP))
    picture.paste(Image.fromarray(lower), (panel.shape[1] + GAP, views.height + GAP))
    picture.save(folder / "module.png", optimize=True)


def split_row(panel: np.ndarray) -> int:
    """The row nearest to the middle in the middle of a gap between two sections: only background.

    Args:
        panel: (rows, columns, 3) picture of the panel.
    """
    empty = (panel == panel[0, 0]).all(axis=(1, 2))
    edges = np.flatnonzero(np.diff(np.r_[False, empty, False].astype(int)))
    gaps = edges.reshape(-1, 2)
    widest = gaps[(gaps[:, 1] - gaps[:, 0]) >= np.percentile(gaps[:, 1] - gaps[:, 0], 75)]
    middles = widest.mean(axis=1)
    return round(middles[np.argmin(abs(middles - len(panel) / 2))])


if __name__ == "__main__":
    main()
