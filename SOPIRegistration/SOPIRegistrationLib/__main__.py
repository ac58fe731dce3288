"""``python -m SOPIRegistrationLib``: the command line where the ``sopi`` script is not installed."""

from SOPIRegistrationLib.cli.main import process

process()
