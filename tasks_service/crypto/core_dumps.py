"""Core dumps: a process that fails must not write the secrets in its memory to a disk."""

from __future__ import annotations

import resource


def forbid_core_dumps() -> None:
    """Write no core dump of this process and those that it starts.

    The hard limit stays, so that whoever examines a fault can allow them: `prlimit --core=unlimited --pid N`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
