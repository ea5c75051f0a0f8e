"""What `broadcaster doctor` looks at: `look` gathers the surroundings, `examine` judges them, a table of small pure functions."""

from broadcaster.cli.checks.finding import Finding, Level
from broadcaster.cli.checks.judgement import examine
from broadcaster.cli.checks.look import look
from broadcaster.cli.checks.surroundings import KeyFile, Place, Port, Surroundings

__all__ = ["Finding", "KeyFile", "Level", "Place", "Port", "Surroundings", "examine", "look"]
