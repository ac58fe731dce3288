"""``python -m SOPIRegistrationLib``: the command line where the ``sopi`` script is not installed."""

import sys

from SOPIRegistrationLib.cli.main import main

sys.exit(main())
