"""Timing on a CUDA device, and what a reader needs to judge the times. Plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.machine import said


def graph_timer(work: Callable[[], object], reset: Callable[[], None], repeats: int) -> Callable[[], float]:
    """A function that replays ``work`` from a CUDA graph and says how many seconds one of its ``repeats`` took.

    Kernels follow each other as in a captured attack loop, so neither Python nor a launch is in the time. ``reset``
    runs before each replay, outside of it.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def seconds() -> float:
        reset()
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        started.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        return started.elapsed_time(ended) / 1e3 / repeats

    seconds()
    return seconds


def clocks() -> dict[str, str]:
    """Clocks, power and temperature as nvidia-smi sees them now."""
    names = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.draw", "temperature.gpu")
    return {name: smi(name) for name in names}


def smi(query: str) -> str:
    """One field of nvidia-smi for the current device; empty where it does not say."""
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return said("nvidia-smi", f"--id=GPU-{device.uuid}", f"--query-gpu={query}", "--format=csv,noheader")
