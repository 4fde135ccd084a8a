"""Two ways to take searches some passes further: launch every operation, or replay a captured pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.searches import Searches, State

Advance = Callable[[AttackedModel, Any], None]

# Images that are done cost a pass until they leave; a smaller bucket is worth a copy of the searches from here on.
_SMALLEST_BUCKET = 16


class EagerLoop:
    """Every operation is launched as it comes; takes any number of searches.

    Attributes:
        name: as :class:`robustlab.attacks.execution.Engine` has it.
        fallback: why this is not the loop that was asked for.
    """

    name = "eager"

    def __init__(self, model: AttackedModel, fallback: str = "") -> None:
        self.model = model
        self.fallback = fallback

    def hold(self, searches: State, advance: Advance) -> State:  # noqa: ARG002 - the other loop needs it
        """The searches where ``run`` can work on them; there may be further rows, which are done."""
        return searches

    def run(self, held: Searches, advance: Advance, passes: int) -> None:
        """Take what ``hold`` returned ``passes`` passes further, in place."""
        for _ in range(passes):
            advance(self.model, held)

    def repeat(self, searches: State, advance: Advance, passes: int) -> State:
        """A stage of known length, such as a warm start: hold, run and hand back."""
        held = self.hold(searches, advance)
        self.run(held, advance, passes)
        return searches if held is searches else held.select(torch.arange(len(searches.done)))

    def rows_for(self, alive: int) -> int:
        """How many rows a pass over so many searches costs."""
        return alive


class GraphLoop(EagerLoop):
    """Searches live in buffers of a few sizes; on CUDA a pass over a buffer is captured once and replayed.

    A replay costs the host one launch instead of hundreds. One pass is captured, not several: the host queues
    replays without waiting, and capturing K passes takes K times as long. Elsewhere than on CUDA the same
    buffers are advanced directly, which is how the bookkeeping is tested without a GPU.

    A model that cannot be captured (it asks the device for a number, say) is run eagerly, and ``fallback`` says why.
    """

    name = "graph"

    def __init__(self, model: AttackedModel, batch_size: int) -> None:
        super().__init__(model)
        self.batch_size = batch_size
        self._buckets: dict[tuple[Advance, int], Searches] = {}
        self._replays: dict[int, Callable[[], None]] = {}
        self._pool: Any = None

    def hold(self, searches: State, advance: Advance) -> State:
        if self.fallback:
            return searches
        rows = self.rows_for(len(searches.done))
        bucket = self._buckets.get((advance, rows))
        if bucket is None:
            bucket = _padded(searches, rows, self.model.layout)
            try:
                self._replays[id(bucket)] = self._captured(bucket, advance)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # whatever a foreign model does in capture, it can be run without
                self.name, self.fallback = "eager", f"not captured: {str(error).splitlines()[0][:200]}"
                return searches
            self._buckets[advance, rows] = bucket
        _fill(bucket, searches)
        return bucket  # type: ignore[return-value]

    def run(self, held: Searches, advance: Advance, passes: int) -> None:
        replay = self._replays.get(id(held))
        if replay is None:
            return super().run(held, advance, passes)
        for _ in range(passes):
            replay()
        return None

    def rows_for(self, alive: int) -> int:
        if self.fallback:
            return alive
        rows = _SMALLEST_BUCKET
        while rows < alive:
            rows *= 2
        # The largest bucket is the batch itself, which need not be a power of two.
        return rows if rows < self.batch_size else max(alive, self.batch_size)

    def _captured(self, bucket: Searches, advance: Advance) -> Callable[[], None]:
        """A function that takes the bucket one pass further. Its rows are all done: nothing changes here."""
        if bucket.done.device.type != "cuda":
            _check_in_place(bucket, advance, self.model)
            return lambda: advance(self.model, bucket)
        # Kernels are compiled, libraries make their plans and workspaces before the capture, on a stream of its own.
        usual, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(usual)
        with torch.cuda.stream(aside):
            _check_in_place(bucket, advance, self.model)
            with _no_waiting():
                _check_in_place(bucket, advance, self.model)
        usual.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Searches are no part of the pool, and replays follow one another, so all graphs may share it.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                advance(self.model, bucket)
        except BaseException:
            torch.cuda.set_stream(usual)  # a capture that fails may leave its own stream behind
            raise
        return graph.replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """An operation that waits for the device raises: in a capture it would, too, and leave the capture broken."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _check_in_place(bucket: Searches, advance: Advance, model: AttackedModel) -> None:
    """A pass must write into the tensors that it finds: a replay knows no others."""
    before = _tensors(bucket)
    advance(model, bucket)
    replaced = [name for name, tensor in _tensors(bucket).items() if tensor is not before[name]]
    if replaced:
        raise RuntimeError(f"the attack replaced its state {', '.join(replaced)} instead of changing it")


def _tensors(searches: Searches) -> dict[str, Tensor]:
    return {entry.name: getattr(searches, entry.name) for entry in fields(searches)}


def _padded(searches: State, rows: int, layout: torch.memory_format) -> State:
    """Buffers for so many searches, images in the layout of the network, each a copy of the first one and done."""
    bucket = {}
    for name, values in _tensors(searches).items():
        buffer = values.new_empty((rows, *values.shape[1:]))
        buffer = buffer.contiguous(memory_format=layout) if values.dim() == 4 else buffer
        bucket[name] = buffer.copy_(values[:1].expand_as(buffer))
    bucket["done"].fill_(True)
    return type(searches)(**bucket)


def _fill(bucket: Searches, searches: Searches) -> None:
    """The searches into the first rows; what the other rows hold is done."""
    rows = len(searches.done)
    for name, values in _tensors(searches).items():
        getattr(bucket, name)[:rows].copy_(values)
    bucket.done[rows:] = True
