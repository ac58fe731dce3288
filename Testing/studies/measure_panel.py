"""How lively the panel is in the test host: live DRR, Cancel, the event loop, memory with a large CT.

    python Testing/studies/measure_panel.py

Prints one JSON line a case, each measured in a process of its own: the demo case (updates a second while a
slider moves, seconds from Cancel to the stop, longest time between two looks at events while registering,
error of the registration), and a CT of 512 x 512 x 300 voxels (seconds until it is shown, updates a second,
peak memory after a registration).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

TESTING = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTING / "gui"), str(TESTING / "studies")]
LARGE = (300, 512, 512)
LARGE_SPACING_MM = (1.0, 0.8, 0.8)
SECONDS_OF_SLIDING = 5.0
CANCELS = 10


def open_panel():
    """A user before the panel on an empty scene."""
    from conftest import MODULE_PATH, User, load_module
    from host import Host

    host = Host()
    return User(host, host.open_module(load_module(), str(MODULE_PATH)))


def updates_a_second(user) -> float:
    """DRRs drawn a second while a slider moves all the time."""
    drawn, show = [], user.session.show_drr
    user.session.show_drr = lambda image, live=False: (drawn.append(image.shape), show(image, live))
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS_OF_SLIDING:
        user.ui.rxSlider.value = user.ui.rxSlider.value + 0.1
        user.host.process(0.005)
    rate = len(drawn) / (time.perf_counter() - start)
    user.session.show_drr = show
    user.wait()
    return rate


def measure_demo() -> dict:
    """The demo case."""
    from SOPIRegistrationLib.simulation.demo import demo_case

    case, user = demo_case(1), open_panel()
    user.take_demo(case)
    user.show_views()
    rate = updates_a_second(user)
    user.click("nominalButton")
    user.wait()
    seconds_to_stop = []
    for number in range(CANCELS):
        user.click("registerButton")
        user.host.process(0.1 * (1 + number))
        if not user.panel.is_running:
            break
        start = time.perf_counter()
        user.click("cancelButton")
        user.host.process(10, until=lambda: not user.panel.is_running)
        seconds_to_stop.append(time.perf_counter() - start)
        user.wait()
        user.click("nominalButton")
        user.wait()
    gaps, last = [], time.perf_counter()

    def at_rest():
        nonlocal last
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
        return not user.panel.is_running

    user.click("registerButton")
    user.host.process(120, until=at_rest)
    return {
        "case": "demo",
        "updates_a_second": round(rate, 1),
        "seconds_to_stop": {
            "median": round(float(np.median(seconds_to_stop)), 3),
            "worst": round(max(seconds_to_stop), 3),
        },
        "seconds_between_events": {
            "median": round(float(np.median(gaps)), 3),
            "percentile_99": round(float(np.percentile(gaps, 99)), 3),
            "worst": round(max(gaps), 3),
        },
        "mtre_mm": round(user.error_mm(case), 3),
    }


def measure_large() -> dict:
    """A large CT, registered to its own projection."""
    import slicer
    from measure_ct_preparation import synthetic_ct
    from SOPIRegistrationLib.registration.prepared import Placement

    user = open_panel()
    ct = slicer.util.addVolumeFromArray(synthetic_ct(LARGE, LARGE_SPACING_MM), name="Large CT")
    ct.SetSpacing(*LARGE_SPACING_MM[::-1])
    noise = np.random.default_rng(1).integers(100, 4000, (1, 512, 512)).astype(np.uint16)
    xray = slicer.util.addVolumeFromArray(noise, name="X-ray")
    user.choose(ct, xray)
    combo = user.ui.presetCombo
    combo.setCurrentIndex(combo.findText("Perlove PLX118F"))
    combo.activated.emit(combo.currentIndex)
    start = time.perf_counter()
    user.show_views()
    seconds = time.perf_counter() - start
    rate = updates_a_second(user)
    frame = user.session.case.frame
    T_true = frame.T_from_theta(np.array([*np.deg2rad([4.0, -5.0, 3.0]), 8.0, -6.0, 20.0]))
    line_integrals = user.session.case.render(Placement(T_true), 512)
    slicer.util.updateVolumeFromArray(xray, (4000 * np.exp(-line_integrals))[None].astype(np.uint16))
    user.click("registerButton")
    user.wait()
    centre = np.append(frame.centre_lps_mm, 1.0)
    return {
        "case": "CT of 512 x 512 x 300",
        "seconds_until_shown": round(seconds, 1),
        "updates_a_second": round(rate, 1),
        "verdict": user.ui.verdictLabel.text,
        "centre_off_mm": round(float(np.linalg.norm((user.session.pose - T_true) @ centre)), 3),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


CASES = {"demo": measure_demo, "large": measure_large}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, action="append", help="one of them only")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for case in options.case or CASES:
        if options.here:
            about = {
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
                "machine": platform.processor() or platform.machine(),
                "date": time.strftime("%Y-%m-%d"),
            }
            print(json.dumps(CASES[case]() | about))
        else:
            subprocess.run([sys.executable, __file__, "--here", "--case", case], check=True)
