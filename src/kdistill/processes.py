"""Several processes that train one model together, as torchrun starts them: who speaks, and what is added up over all.

One process needs none of it: every function then returns at once. All processes must call them in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn

T = TypeVar("T")
#: One process validates while the others wait for it.
_PATIENCE: Final = timedelta(hours=2)
#: Numbers sent at a time: enough that their count does not matter, few enough to need no second copy of all gradients.
_BUCKET: Final = 2**23


def _state() -> PartialState:
    """The group of processes; the first call joins it, and waits until every process has."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def number() -> int:
    """How many processes train together."""
    return int(_state().num_processes)


def is_main() -> bool:
    """Whether this is the process that writes and reports."""
    return bool(_state().is_main_process)


def wait() -> None:
    """Return when every process has come here."""
    _state().wait_for_everyone()


def said_by_main(say: Callable[[], T]) -> T:
    """Call `say` in the main process alone; every process returns what it returned, or raises what it raised."""
    if number() == 1:
        return say()
    said: list[tuple[T | None, Exception | None]] = [(None, None)]
    if is_main():
        try:
            said = [(say(), None)]
        except Exception as error:  # the others would wait for an answer
            said = [(None, error)]
    distributed.broadcast_object_list(said, src=0)
    value, raised = said[0]
    if raised is not None:
        raise raised
    return value  # type: ignore[return-value]


def summed(values: Sequence[float]) -> list[float]:
    """Each value summed over the processes."""
    if number() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_state().device)
    distributed.all_reduce(total)
    return total.tolist()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put the mean of the processes' gradients into every parameter that learns.

    A process that has none counts as zero; a parameter that no process has a gradient of keeps none, so that weight
    decay leaves it alone as it does in one process. DistributedDataParallel would have to know before each backward
    pass which parameters it will reach, which differs from process to process: one may hold no text, another no side.
    """
    if number() == 1:
        return
    learning = [p for p in parameters if p.requires_grad]
    reached = summed([float(p.grad is not None) for p in learning])
    for bucket in _buckets([p for p, times in zip(learning, reached, strict=True) if times]):
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
        distributed.all_reduce(flat)
        flat /= number()
        for parameter, mean in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            _set_gradient(parameter, mean.view_as(parameter))


def _set_gradient(parameter: nn.Parameter, mean: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = mean.clone()
    else:
        parameter.grad.copy_(mean)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type, about so many numbers together."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (parameter.dtype != bucket[0].dtype or size >= _BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
