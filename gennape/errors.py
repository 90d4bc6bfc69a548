"""The errors of gennape. Every message says what is wrong, what was got, and how to mend it."""


class GennapeError(Exception):
    """Root of every error that gennape raises on purpose.

    Its message states what is wrong, what was given, and how to fix it. The subclasses are in ``gennape.errors``.

    Example:
        >>> import gennape as gp
        >>> try:
        ...     gp.family("ofa_mbv2")
        ... except gp.GennapeError as error:
        ...     print(type(error).__name__, "did you mean ofa_mbv3?" in str(error))
        ConfigError True
    """


class InvalidGraphError(GennapeError):
    """A computation graph that cannot be executed: shapes, edges or operators do not fit."""


class OpenShapeError(InvalidGraphError):
    """A model that leaves the shape of its input open: it can be read once a shape is given."""


class InvalidArchitectureError(GennapeError):
    """A genome or an encoded architecture that its search space does not contain."""


class InvalidDataError(GennapeError):
    """A file of architectures, labels or graphs that cannot be read as what it should be."""


class CheckpointError(GennapeError):
    """A predictor checkpoint that is unreadable, too old, too new, or not what its hash says."""


class ConfigError(GennapeError):
    """A setting that is unknown, out of range, or contradicts another."""


class WorkspaceError(GennapeError):
    """The workspace cannot be written, or holds something else than expected."""


class ServiceError(GennapeError):
    """The served ensemble cannot be started or reached, or refused a request."""


class ConformanceError(GennapeError):
    """An own class does not keep what its base promises: a search space, a searcher or another extension."""
