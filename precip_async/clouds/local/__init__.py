"""Machines on this computer, as a cloud.

A script's `LocalCloud` starts one small process, the warden, which keeps the machines in a yard:
in namespaces of the kernel, or as servers in its own process. They live as long as the warden, and
it lives as long as the script, unless it is told to keep them.

::

    script: LocalCloud ── socket ── warden: Register ── Yard ── machines
"""

from __future__ import annotations
