"""The error tree, and the exit code each branch maps to.

TidegateError            exit 1   a check failed
├── UsageError           exit 2   wrong usage or configuration: what, where, what to do
│   └── ModelRefused     exit 2   a model folder that does not verify (a flow carries on with its rules)
└── ConnectorLost        exit 3   a source or a sink is gone
    ├── SourceLost
    └── SinkLost

Bad input is not an error: it is data, and leaves by the dead letters.
"""


class TidegateError(Exception):
    """Something a person has to know about. The message says what, where and what to do."""

    exit_code = 1


class UsageError(TidegateError):
    """The command line, a configuration or a mapping file is wrong."""

    exit_code = 2


class ModelRefused(UsageError):
    """A model folder does not verify against its manifest, or cannot be loaded."""


class ConnectorLost(TidegateError):
    """A source or a sink cannot be used any more; what was committed stays committed."""

    exit_code = 3


class SourceLost(ConnectorLost):
    """A source cannot be read."""


class SinkLost(ConnectorLost):
    """A sink cannot be written: disk full, locked, removed."""
