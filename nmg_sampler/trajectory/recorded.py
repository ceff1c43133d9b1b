"""Recorded states between the CPU, where they are kept, and the device of a run.

A run asks for one state after the other. To a CUDA device the next one is on its way while the
network is busy with the one before, and an inversion's states go back without being waited for.
Elsewhere states are moved when they are asked for; on the CPU nothing is moved or copied.
"""

import torch


class RecordedStates:
    """The entries of a tensor on the device of a run; lives as long as the run.

    Args:
        states: (entries, ...), CPU. Never written to.
        order: what is added to an entry to get the one that is asked for next, most of the time.
    """

    def __init__(self, states: torch.Tensor, order: int = -1) -> None:
        self.states = states
        self.order = order
        self._stream: torch.cuda.Stream | None = None
        self._moved: dict[int, torch.Tensor] = {}

    def at(self, entry: int, like: torch.Tensor) -> torch.Tensor:
        """Entry `entry`, (...) on the device and in the dtype of `like`; not to be written to.

        `like` is of one device and dtype for the whole run.
        """
        if not self.is_ahead_on(like.device):
            return self.states[entry].to(device=like.device, dtype=like.dtype)
        following = entry + self.order
        kept = {e: state for e, state in self._moved.items() if e in (entry, following)}
        if entry not in kept:
            kept[entry] = self.send(entry, like)
        # Before the next one is sent: the wait is for all that is on its way.
        self.wait(kept[entry])
        if following not in kept and 0 <= following < len(self.states):
            kept[following] = self.send(following, like)
        self._moved = kept
        return kept[entry]

    def is_ahead_on(self, device: torch.device) -> bool:
        """Whether states are sent to this device before they are asked for."""
        return device.type == "cuda"

    def send(self, entry: int, like: torch.Tensor) -> torch.Tensor:
        """The entry on its way to the device of `like`: not to be used before `wait`."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(like.device)
        with torch.cuda.stream(self._stream):
            # Only from page-locked memory does a copy run beside the network.
            pinned = self.states[entry].pin_memory()
            return pinned.to(device=like.device, dtype=like.dtype, non_blocking=True)

    def wait(self, state: torch.Tensor) -> None:
        """Puts the device's work to come after the arrival of `state`; does not hold the CPU up."""
        current = torch.cuda.current_stream(state.device)
        current.wait_stream(self._stream)
        state.record_stream(current)


class Record:
    """States of a run, kept on the CPU as they come about.

    Args:
        entries: how many.
        like: (...) one of them: its shape, dtype and device.
    """

    def __init__(self, entries: int, like: torch.Tensor) -> None:
        self.device = like.device
        # A copy to page-locked memory does not hold the CPU up.
        locked = like.device.type == "cuda"
        shape = (entries, *like.shape)
        self.states = torch.empty(shape, dtype=like.dtype, device="cpu", pin_memory=locked)

    def keep(self, entry: int, state: torch.Tensor) -> None:
        """Entry `entry` from now on; `state` is copied."""
        self.states[entry].copy_(state, non_blocking=True)

    def complete(self) -> torch.Tensor:
        """(entries, ...), CPU, all of them written."""
        if self.device.type != "cuda":
            return self.states
        torch.cuda.current_stream(self.device).synchronize()
        return self.states.clone()  # page-locked memory is scarce: it is given back
