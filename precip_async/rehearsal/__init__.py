"""Rehearsals: a script runs unchanged, and the lab answers in the place of its clouds.

The parent is the rehearsal: it runs the labs and tells at the end what happened. The script runs in
a child, where every experiment is led to a lab before it is made.

::

    parent   rehearse ── labs (one for each cloud that the script speaks to) ── the lab
                │  └── record ── report
        a pair of sockets: questions, answers, and what happens
                │
    child    script ── classic (what 2012's scripts import)
                └── guide (the detour) ── played (a cloud as the lab plays it) ── wire

`casting` says which cloud is played by what. Only the script's own process is led: programs that it
starts are not, and neither is what it asks of a cloud without this package.
"""

from __future__ import annotations
