"""What of a batch is one worker's: its places, how many of them at once, and what comes of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precip_async.errors import RemoteError
    from precip_async.ssh.batch import Batch, Watch
    from precip_async.ssh.transport import Target

__all__ = ["Division", "Portion"]


class Portion:
    """Some places of a batch, for one worker, which counts them anew.

    Attributes:
        batch: The batch of these places only.
        left: Those of which nothing has been told yet.
        granted: How many may be under way at once.
        most: How many that may become.
        keen: See `Watch.keen`.
        trouble: What ends all of it.
        lost: Those that the worker's death has cut off.
        deaf: Whether output is of no interest any more.
        over: Set when nothing more comes.
    """

    def __init__(self, batch: Batch, places: Sequence[int], watch: Watch, parts: int = 1) -> None:
        self.batch = batch.part(places, parts)
        self._whole, self._places, self._watch = batch, places, watch
        self.left = dict.fromkeys(range(len(places)))
        self.lost: list[int] = []
        self.granted, self.most = 0, len(places)
        self.keen, self.deaf = watch.keen, False
        self.trouble: BaseException | None = None
        self.over = anyio.Event()
        self.freed: Callable[[], object] | None = None  # called when fewer are left than granted
        self.widen: Callable[[int], object] | None = None  # once it is under way over there
        self.permitted = anyio.Event()

    @property
    def targets(self) -> list[Target]:
        """Where its places are."""
        return [self.batch.targets[number] for number in range(len(self._places))]

    def grant(self, more: int) -> None:
        """Allow so many more at once."""
        self.granted += more
        self.permitted.set()
        if self.widen is not None:
            self.widen(more)

    # -- what the worker says; it may strike a watch that raises ------------------------------

    def began(self, number: int) -> None:
        """See `Watch.began`."""
        self._watch.began(self._places[number])

    def heard(self, number: int, *what: Any) -> None:
        """See `Watch.heard`."""
        if not self.deaf:
            self._watch.heard(self._places[number], *what)

    def warned(self, number: int, text: str) -> None:
        """See `Watch.warned`."""
        self._watch.warned(self._places[number], text)

    def done(self, number: int, value: Any) -> None:
        """A value has come of a place."""
        place = self._places[number]
        self._ended(number, self._whole.unpacked(place, value))

    def failed(self, number: int, error: RemoteError) -> None:
        """An error has."""
        self._ended(number, error)

    def clear(self) -> None:
        """See `Batch.clear`, for all that were lost. Blocks."""
        for number in self.lost:
            self.batch.clear(number)

    def _ended(self, number: int, outcome: Any) -> None:
        del self.left[number]
        self._watch.ended(self._places[number], outcome)
        if len(self.left) < self.granted and self.freed is not None:
            self.freed()


class Division:
    """Divides what may be under way at once among the portions of a batch.

    What one does not need any more goes to the others.
    """

    def __init__(self, portions: Sequence[Portion], width: int) -> None:
        self._portions, self._spare = portions, width
        self._settle()
        for portion in portions:
            portion.most = min(width, portion.most)
            portion.freed = self._freed

    def _freed(self) -> None:
        for portion in self._portions:
            if (more := portion.granted - len(portion.left)) > 0:
                portion.granted -= more
                self._spare += more
        self._settle()

    def _settle(self) -> None:
        hungry = [one for one in self._portions if one.granted < len(one.left)]
        wanted = sum(len(one.left) - one.granted for one in hungry)
        for portion in hungry:  # each by what it wants of what all want, rounded up
            own = len(portion.left) - portion.granted
            more = min(own, -(-self._spare * own // wanted)) if wanted else 0
            wanted -= own
            if more:
                self._spare -= more
                portion.grant(more)
