"""Medians with a cold L2; small launches inside a captured graph."""

import statistics

import torch

_FLUSH_BYTES = 256 << 20  # several times any L2
_GRAPH_BELOW_US = 300.0


class Timer:
    def __init__(self, repeats: int):
        self.repeats = repeats
        self.flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")

    synchronize = staticmethod(torch.cuda.synchronize)
    release = staticmethod(torch.cuda.empty_cache)

    def _run(self, launch) -> list[float]:
        times = []
        for _ in range(self.repeats):
            self.flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            launch()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000.0)
        return times

    def prepare(self, launch):
        """Warm; small launches become a captured graph. What `run` then times."""
        for _ in range(3):
            launch()
        torch.cuda.synchronize()
        if statistics.median(self._run(launch)) < _GRAPH_BELOW_US:
            try:
                return self._capture(launch).replay
            except Exception:  # a peer that cannot be captured keeps its launch-bound time
                torch.cuda.synchronize()
        return launch

    def run(self, launch) -> list[float]:
        return self._run(launch)

    def measure(self, launch) -> dict:
        """{"us": median, "low": .., "high": .., "graph": captured or not}"""
        for _ in range(3):
            launch()
        torch.cuda.synchronize()
        times = self._run(launch)
        graphed = False
        if statistics.median(times) < _GRAPH_BELOW_US:
            try:
                times = self._run(self._capture(launch).replay)
                graphed = True
            except Exception:  # a peer that cannot be captured keeps its launch-bound time, marked so
                torch.cuda.synchronize()
        times.sort()
        return {"us": statistics.median(times), "low": times[len(times) // 10], "high": times[-1 - len(times) // 10], "graph": graphed}

    @staticmethod
    def _capture(launch):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            launch()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        return graph


def ceilings() -> dict:
    """A large bf16 matrix product and a large device copy on this machine."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(256 << 20, device="cuda", dtype=torch.float32)
    target = torch.empty_like(source)
    timer = Timer(15)
    product, copy = timer.measure(lambda: a @ b)["us"], timer.measure(lambda: target.copy_(source))["us"]
    return {"matrix_tflops": 2 * n**3 / product / 1e6, "copy_tbs": 2 * source.numel() * 4 / copy / 1e6}
