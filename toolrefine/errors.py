"""What toolrefine raises.

ToolrefineError
├── RequestError          the request was wrong: exit status 2
│   ├── ConfigError       a recipe or an override
│   ├── DataError         a data source as a whole (a single bad row is quarantined instead)
│   │   └── FormatError   a format that cannot be told from the first rows
│   ├── TemplateError     a chat template that cannot be trained on or sampled from
│   │   └── ExampleError  one example that the template cannot say (left out and counted)
│   └── RunDirError       a run directory that does not fit the request
└── WorkError             the request was fine, the work failed: exit status 1

Every message says what is wrong, where, and what mends it.
"""

from __future__ import annotations


class ToolrefineError(Exception):
    """Base of all errors that toolrefine raises on purpose."""

    exit_status = 1


class RequestError(ToolrefineError):
    """The request cannot be carried out as it was given."""

    exit_status = 2


class ConfigError(RequestError):
    """A recipe or a key=value override is wrong."""


class DataError(RequestError):
    """A data source cannot be used at all."""


class RowError(ToolrefineError):
    """One row of a data source is bad. Readers raise it; loading turns it into a quarantined row."""


class FormatError(DataError):
    """The format of a data source cannot be told from its first rows."""


class TemplateError(RequestError):
    """A chat template cannot serve for training or sampling."""


class ExampleError(TemplateError):
    """A chat template cannot say one example, though it can say others."""


class RunDirError(RequestError):
    """A run directory does not fit the request."""


class WorkError(ToolrefineError):
    """The work itself failed."""
