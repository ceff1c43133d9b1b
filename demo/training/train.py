"""Train the demo model from nothing: python demo/training/train.py --comfyui PATH

Draws its own pictures, trains VAE, text encoder and diffusion model in turn, writes
`demo/model.safetensors` and measures it. Run it again to go on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

demo_folder = Path(__file__).resolve().parents[1]
# Modules are imported from the root: it comes first, the script's own folder goes.
own_folder = demo_folder / "training"
sys.path[:] = [str(demo_folder.parent), *(e for e in sys.path if Path(e) != own_folder)]


def main() -> None:
    from tools.file_lock import file_lock

    options = _options()
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    processes = 1 if torch.cuda.is_available() else options.processes
    with file_lock(options.checkpoints / "lock", on_wait=_refuse_second_run):
        if processes == 1:
            _work(0, options, 1, 0)
        else:
            mp.spawn(_work, (options, processes, _free_port()), nprocs=processes)


def _refuse_second_run() -> None:
    """Two runs would overwrite each other's checkpoints."""
    raise SystemExit(
        "train: another run uses this folder of checkpoints. Wait for it, stop it, or give "
        "--checkpoints another folder."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, help="folder of ComfyUI (or set COMFYUI_PATH)")
    parser.add_argument("--checkpoints", type=Path, default=demo_folder / "checkpoints")
    parser.add_argument("--output", type=Path, default=demo_folder / "model.safetensors")
    parser.add_argument(
        "--processes",
        type=int,
        default=max(1, os.cpu_count() or 1),
        help="processes of one thread each on a CPU; a GPU uses one",
    )
    parser.add_argument("--stage", choices=("vae", "text", "unet", "export"), help="only this one")
    parser.add_argument("--vae-minutes", type=float, default=22.0)
    parser.add_argument("--unet-minutes", type=float, default=66.0)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _work(rank: int, options: argparse.Namespace, processes: int, port: int) -> None:
    """One training process."""
    from tools.host_process import boot

    on_gpu = torch.cuda.is_available()
    args = ["--use-pytorch-cross-attention"] + ([] if on_gpu else ["--cpu"])
    boot(options.comfyui, args)
    if processes > 1:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes
        )
    from demo.training import pipeline

    pipeline.run(options, torch.device("cuda" if on_gpu else "cpu"))
    if processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
