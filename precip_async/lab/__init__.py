"""The lab: a rehearsal cloud on this computer.

It speaks the EC2 query API in the dialect of the cloud that it is told to be, and its instances are
local machines, so that everything after the API is real. It is written from what is known of these
clouds (the sections that comments name are of the collection of facts, clouds.md), not from our
client: what a cloud does, it does, also where that hurts us.

::

    http ── service ── doors (signatures) ── throttle
               │
               ├── launching · instances · key_pairs · groups · addresses · places: the actions
               │        └── account: what there is ── machines ── clouds.local
               └── shapes, documents, refusing: how it is said

What a machine is to be is `ordering`'s to say, and what its cloud-init does is in `cloud_init`;
`dialects`, `accepted` and `answers` are data; `scenario` is what is to go wrong.
"""

from __future__ import annotations
