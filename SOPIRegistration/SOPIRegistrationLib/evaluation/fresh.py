"""One registration in a process of its own: how long the first one takes there, and how long a later one.

``python -m SOPIRegistrationLib.evaluation.fresh TASK FIGURES`` is what runs there: both are files.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.whole_files import write_whole

if TYPE_CHECKING:
    from SOPIRegistrationLib.evaluation.cases import EvaluationCase
    from SOPIRegistrationLib.evaluation.results import Row
    from SOPIRegistrationLib.evaluation.runner import Evaluation, Task

# What a process says that ``faulthandler`` ends.
_WATCHDOG = "Timeout ("


def figures_of_fresh_process(evaluation: Evaluation, task: Task, case: EvaluationCase) -> Row:
    """What a method adds to a row, from a process that has never registered anything.

    It is given the prepared CT and X-ray. ``seconds_first`` is of the first registration there: compiled
    kernels are on disk, nothing else is ready; ``seconds`` of the same once more.
    """
    from SOPIRegistrationLib.evaluation.runner import PREPARING_S

    # Nothing that was made of the CT here goes with it.
    case = replace(case, subject=Subject(case.ct))
    with tempfile.TemporaryDirectory(prefix="sopi-") as folder:
        given, made = Path(folder) / "task", Path(folder) / "figures"
        given.write_bytes(pickle.dumps((evaluation, task, case)))
        limit = PREPARING_S + 2 * evaluation.timeout_s
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(given), str(made)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"timed out and did not stop: ended after {limit:g} s"}
        if made.exists():
            return pickle.loads(made.read_bytes())
        if done.stderr.startswith(_WATCHDOG) or f"\n{_WATCHDOG}" in done.stderr:
            limit = evaluation.timeout_s
            return {"error": f"timed out and did not stop: ended, limit {limit:g} s"}
        said = done.stderr.strip().rsplit("\n", 1)[-1]
        return {"error": f"the process ended with code {done.returncode}: {said or 'out of memory?'}"}


def main(given: Path, made: Path) -> None:
    """Run the task of a file and write what its row gains."""
    from SOPIRegistrationLib.evaluation.runner import LEEWAY_S, SOLVING, solved

    evaluation, task, case = pickle.loads(given.read_bytes())

    def watched(phase: str) -> None:
        # A thread of its own that needs no interpreter: compiled code that hangs is ended, too.
        if phase == SOLVING:
            faulthandler.dump_traceback_later(2 * evaluation.timeout_s + LEEWAY_S, exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()

    figures = solved(evaluation, task, case, watched, cold=True)
    write_whole(made, pickle.dumps(figures))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
