"""Every error of the pipelines that a user can act on.

PipelineError
├── ManifestError   a manifest or data set cannot be read; names file, line and key
├── OptionError     an option has a wrong value; names option, value and limit
├── ServiceError    the service refused or failed a request; carries status and code
├── JournalError    the journal on disk belongs to another run
├── ServiceDown     nobody answers any more; what was answered is kept
└── RolloutError    the cluster is not in a state from which the step is safe
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of all errors that a user can act on; the message says how."""


class ManifestError(PipelineError):
    """A manifest or data set cannot be read. The message begins with file, line and key."""


class OptionError(PipelineError):
    """An option has a wrong value. The message names option, value and limit."""


class JournalError(PipelineError):
    """The journal on disk was written for another manifest or another way of asking."""


class ServiceDown(PipelineError):
    """Nobody answers any more. The run stopped; what was answered is kept for the next one."""


class RolloutError(PipelineError):
    """The InferenceService is not in a state from which the asked step is safe."""


class ServiceError(PipelineError):
    """The service refused or failed a request.

    `status` is the HTTP status, or None when no answer came; `code` the service's stable error
    code, or the name of the transport's failure; `num_attempts` how often it was asked.
    """

    def __init__(self, message: str, *, status: int | None, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.num_attempts = 1
