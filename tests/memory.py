"""How much memory a piece of work takes, counted by PyTorch's profiler."""

import json
import tempfile
from pathlib import Path

import torch


def peak_bytes(function):
    """The most memory that PyTorch held during `function` beyond what it held at its start."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    held = [
        (event["ts"], event["args"]["Total Allocated"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]"
    ]
    held.sort()
    start = held[0][1] - held[0][2]
    return max(total for _, total, _ in held) - start
