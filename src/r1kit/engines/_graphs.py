"""A decode step recorded once for a number of rows and replayed: on CUDA the launches of its hundreds of small
operations, one after the other from Python, can take longer than the operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[], Tensor]
Recorder = Callable[[Step], Step]
"""From a step to what does the same again, on the same memory, without running the step's Python."""

EAGER_STEPS = 8
"""Recording takes time, and near its end a batch has each number of rows for a few steps only. How many pay is a guess
until it is measured on a GPU."""


class CudaRecorder:
    """Records CUDA graphs that share the memory of what a step computes on its way: they run one after the other, and
    their results lie elsewhere."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()  # what a stream sets up at its first use must not be recorded
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, pool=self._pool):
            result = step()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class StepGraphs:
    """Runs steps of a batch, and from the ``EAGER_STEPS``th one of a number of rows on replays their recording.

    A step must find everything that changes from call to call in tensors that stay where they are, must put its result
    into one, and doing it twice must leave what doing it once leaves. Whoever moves such a tensor calls ``forget``.
    """

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self.forget()

    def forget(self) -> None:
        """Drop every recording, and the memory that it holds."""
        self._recorded: dict[int, Step] = {}
        self._seen: Counter[int] = Counter()

    def run(self, rows: int, step: Step) -> Tensor:
        """The result of ``step``, which is that of all calls with so many rows since ``forget``."""
        if rows not in self._recorded:
            self._seen[rows] += 1
            if self._seen[rows] <= EAGER_STEPS:
                return step()
            self._recorded[rows] = self._record(step)
        return self._recorded[rows]()
