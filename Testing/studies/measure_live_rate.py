"""Live pictures a second while the CT is moved by hand, in an application whose views are slow to answer.

    python Testing/studies/measure_live_rate.py [--cost-ms 50] [--xrays 2] [--old]

The test host's views are real VTK pipelines; each change of a volume node costs what the application was
seen to take for it under software rendering (50 ms). The mouse drags the demo case in the fusion view for
five seconds. With ``--xrays 2`` a second X-ray of a calibrated set is shown beside, in views of its own; the
pictures of both are counted. ``--old`` shows the DRR as it was done before: two volumes changed one after the
other, always 256 pixels. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TESTING = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTING / "gui"), str(TESTING / "studies"), str(TESTING)]
SECONDS = 5.0


def make_slow(scene, seconds: float) -> list[float]:
    """Let every change of a volume node cost some time; the times of the changes come back in a list."""
    import slicer

    changes = []

    def answer(_node, _event):
        time.sleep(seconds)
        changes.append(time.perf_counter())

    for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode", scene):
        node.AddObserver("ModifiedEvent", answer)
    return changes


def open_case(xrays: int):
    """A user before the demo case, with one or two X-rays of it."""
    from conftest import side_view
    from measure_panel import open_panel
    from SOPIRegistrationLib.simulation.demo import demo_case
    from test_side_by_side import take_biplane

    user, case = open_panel(), demo_case(1)
    if xrays == 1:
        user.take_demo(case)
        user.show_views()
    else:
        with tempfile.TemporaryDirectory() as folder:
            take_biplane(user, case, side_view(case), Path(folder))
    user.host.process(0.3)
    return user


def measure(cost_s: float, xrays: int, old: bool) -> dict:
    """Drag for a while and count."""
    from test_fusion_view import Mouse, centre_seen

    user = open_case(xrays)
    user.ui.adjustCheckBox.checked = True
    session, sizes, mouse = user.session, [], Mouse(user)
    changes = make_slow(user.host.scene, cost_s)
    pictures = [[] for _ in range(xrays)]
    for number, overlay in enumerate((session.overlay, *session.overlay.beside)):
        overlay.node.AddObserver("ModifiedEvent", lambda *_, made=pictures[number]: made.append(None))
    show = session.show_drr

    def shown(image, live=False):
        sizes.append(max(image.shape))
        show(image, live and not old)

    session.show_drr = shown
    if old:
        session.draw = lambda _number, placement, pixels: session.show_drr(
            session.case.render(placement, 256 if pixels <= 256 else pixels)
        )
    start = mouse.xy(centre_seen(user))
    mouse.move(start)
    mouse.interactor.LeftButtonPressEvent()
    began, processor = time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        turn = 2 * np.pi * 0.3 * elapsed
        mouse.move((start[0] + round(40 * np.sin(turn)), start[1] + round(40 * (1 - np.cos(turn)))))
        user.host.process(0.001)
    each, processor = [len(made) for made in pictures], time.process_time() - processor
    shown = sum(each)
    during = sum(change < began + elapsed for change in changes)
    mouse.interactor.LeftButtonReleaseEvent()
    user.wait()
    return {
        "pictures_a_second": round(shown / elapsed, 1),
        "of_each_xray": [round(one / elapsed, 1) for one in each],
        # On cores that do nothing else: what was computed, by one core, and what the application took.
        "pictures_a_second_alone": round(shown / (processor + during * cost_s), 1),
        "changes_a_picture": round(during / shown, 2),
        "longer_edge_px": {"median": int(np.median(sizes)), "least": min(sizes)},
        "cost_of_a_change_ms": 1000 * cost_s,
        "as_before": old,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cost-ms", type=float, default=50.0, help="of every change of a volume node (50)")
    parser.add_argument("--xrays", type=int, choices=(1, 2), default=1, help="of the patient (1)")
    parser.add_argument("--old", action="store_true", help="as it was done before")
    options = parser.parse_args()
    print(json.dumps(measure(options.cost_ms / 1000, options.xrays, options.old)))
