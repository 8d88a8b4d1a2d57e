"""Times on a CPU that others use too: the fastest run of a turn, so that the scheduler counts little; turns have a pause before
them, since other libraries' threads spin for a while after their last task."""

import os
import time

_PAUSE_SECONDS = 0.25  # OpenMP runtimes spin for 200 ms by default
_LEAST_SAMPLE_SECONDS = 2e-4  # shorter runs are timed several at once


class CpuTimer:
    def __init__(self, seconds):
        self.seconds = seconds

    @staticmethod
    def synchronize():
        pass

    @staticmethod
    def release():
        pass

    def prepare(self, launch):
        launch()
        return launch

    def run(self, launch):
        """Microseconds of the fastest run of a turn: as many runs as fit the time, three at least."""
        time.sleep(_PAUSE_SECONDS)
        start = time.perf_counter()
        launch()
        times = max(1, int(_LEAST_SAMPLE_SECONDS / (time.perf_counter() - start)))
        samples, end = [], time.perf_counter() + self.seconds
        while len(samples) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(times):
                launch()
            samples.append((time.perf_counter() - start) / times * 1e6)
        return [min(samples)]


def busy_share(seconds=0.5):
    """How much of the cores that this process may use others use now."""

    def ticks():
        with open("/proc/stat") as file:
            lines = {line.split()[0]: [int(x) for x in line.split()[1:9]] for line in file if line.startswith("cpu")}
        own = [lines[f"cpu{i}"] for i in os.sched_getaffinity(0)]
        return sum(sum(x) for x in own), sum(x[3] + x[4] for x in own)

    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    return 1 - (idle_after - idle_before) / max(1, all_after - all_before)
