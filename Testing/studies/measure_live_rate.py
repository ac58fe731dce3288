"""Live pictures a second while the CT is moved by hand, in an application whose views are slow to answer.

    python Testing/studies/measure_live_rate.py [--cost-ms 50] [--old]

The test host's views are real VTK pipelines; each change of a volume node costs what the application was
seen to take for it under software rendering (50 ms). The mouse drags the demo case in the fusion view for
five seconds. ``--old`` shows the DRR as it was done before: two volumes changed one after the other,
always 256 pixels. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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


def measure(cost_s: float, old: bool) -> dict:
    """Drag for a while and count."""
    from measure_panel import open_panel
    from SOPIRegistrationLib.simulation.demo import demo_case
    from test_fusion_view import Mouse, centre_seen

    user = open_panel()
    user.take_demo(demo_case(1))
    user.show_views()
    user.host.process(0.3)
    user.ui.adjustCheckBox.checked = True
    session, sizes, mouse = user.session, [], Mouse(user)
    changes = make_slow(user.host.scene, cost_s)
    show = session.show_drr

    def shown(image, live=False):
        sizes.append(max(image.shape))
        show(image, live and not old)

    session.show_drr = shown
    if old:
        session.show = lambda placement, pixels, live=False: session.show_drr(
            session.case.render(placement, 256 if pixels <= 256 else pixels), live
        )
    start = mouse.xy(centre_seen(user))
    mouse.move(start)
    mouse.interactor.LeftButtonPressEvent()
    began, processor = time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        turn = 2 * np.pi * 0.3 * elapsed
        mouse.move((start[0] + round(40 * np.sin(turn)), start[1] + round(40 * (1 - np.cos(turn)))))
        user.host.process(0.001)
    pictures, processor = len(sizes), time.process_time() - processor
    during = sum(change < began + elapsed for change in changes)
    mouse.interactor.LeftButtonReleaseEvent()
    user.wait()
    return {
        "pictures_a_second": round(pictures / elapsed, 1),
        # On cores that do nothing else: what was computed, by one core, and what the application took.
        "pictures_a_second_alone": round(pictures / (processor + during * cost_s), 1),
        "changes_a_picture": round(during / pictures, 2),
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
    parser.add_argument("--old", action="store_true", help="as it was done before")
    options = parser.parse_args()
    print(json.dumps(measure(options.cost_ms / 1000, options.old)))
