"""Train the demo models: python demo/second/training/train.py STAGE --checkpoints FOLDER

Stages, in order, each resumed where it stopped: pictures, vae, latents, text, picture; `decoder`
polishes a VAE whose latents are in use. `keep` writes the weights so far as small files into
`weights/`, `restore` makes checkpoints of those where there are none. One process of one thread on
a CPU; several stages can run at once, and `picture` can start on the first part of `latents`.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

own_folder = Path(__file__).resolve().parent
root = own_folder.parents[2]
# Modules are imported from the root: it comes first, the script's own folder goes.
sys.path[:] = [str(root), *(e for e in sys.path if Path(e or ".").resolve() != own_folder)]

vae_batch = 12
text_batch = 64
picture_batch = 32
stages = ("pictures", "vae", "latents", "text", "picture", "decoder", "keep", "restore")


def main() -> None:
    from tools.file_lock import file_lock

    options = _options()
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    lock = options.checkpoints / f"{options.stage}_{options.kind}.lock"
    with file_lock(lock, on_wait=_refuse_second_run):
        _work(options)


def _refuse_second_run() -> None:
    """Two runs would overwrite each other's checkpoints."""
    raise SystemExit(
        "train: another run trains this stage in this folder of checkpoints. Wait for it, stop "
        "it, or give --checkpoints another folder."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--kind", choices=("sd", "flow"), default="sd", help="of the model")
    parser.add_argument("--comfyui", type=Path, help="folder of ComfyUI (or set COMFYUI_PATH)")
    parser.add_argument("--checkpoints", type=Path, default=root / "demo" / "checkpoints")
    parser.add_argument("--steps", type=int, help="of the whole stage, over all runs")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end this run after them")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of `picture`")
    parser.add_argument("--size", type=int, help="fill a pool up to so many entries")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _work(options: argparse.Namespace) -> None:
    from tools.host_process import boot

    boot(options.comfyui, ["--use-pytorch-cross-attention", "--cpu"])
    import torch

    torch.set_num_threads(options.threads)
    run = {
        "pictures": pictures,
        "vae": train_vae,
        "latents": latents,
        "text": train_text,
        "picture": train_picture,
        "decoder": train_decoder,
        "keep": keep,
        "restore": restore,
    }
    run[options.stage](options)


def pictures(options: argparse.Namespace) -> None:
    """Draw the pool of pictures."""
    from demo.second.training import pool

    pool.fill_pictures(options.checkpoints, options.size or pool.picture_room)


def train_vae(options: argparse.Namespace) -> None:
    """Train a VAE, fold the latents' scale in, measure it."""
    import torch

    from demo.second.training import loop, pool, vae_stage

    budget = loop.Budget(
        steps=options.steps or (800 if options.kind == "flow" else 1_500),
        learning_rate=2e-3,
        ema_decay=0.99,
        decay_from=0.3,
    )
    drawn = pool.Pool(options.checkpoints, "pictures")
    generator = torch.Generator().manual_seed(options.seed)
    stage = vae_stage.VaeStage(options.kind, drawn, vae_batch, generator)
    vae = loop.train_stage(stage, budget, options.checkpoints, options.seed, options.minutes)
    vae_stage.fold_latent_scale(vae, options.kind, np.array(drawn.entries[:512]))
    loop.save_state(vae.state_dict(), options.checkpoints / f"{stage.name}_folded.pt")
    _print_vae(stage.name, vae)


def train_decoder(options: argparse.Namespace) -> None:
    """Go on with the decoder of a folded VAE; its latents stay as they are."""
    from demo.second.training import loop, pool, vae_stage

    budget = loop.Budget(
        steps=options.steps or 2_000, learning_rate=1e-3, ema_decay=0.995, decay_from=0.3
    )
    path = options.checkpoints / f"vae_{options.kind}_folded.pt"
    drawn = pool.Pool(options.checkpoints, "pictures")
    vae = _folded_vae(options, path)
    stage = vae_stage.DecoderStage(options.kind, vae, drawn, vae_batch)
    decoder = loop.train_stage(stage, budget, options.checkpoints, options.seed, options.minutes)
    decoder.install(vae)
    loop.save_state(vae.state_dict(), options.checkpoints / f"vae_{options.kind}_polished.pt")
    _print_vae(stage.name, vae)


def _print_vae(name: str, vae) -> None:
    from demo.second.training import vae_stage

    found = vae_stage.held_out_db(vae)
    print(f"{name}: {found.mean():.2f} dB on {len(found)} held-out pictures")


def _folded_vae(options: argparse.Namespace, path: Path):
    import torch

    from demo.second.training import networks

    vae = networks.make_vae(options.kind, torch.Generator())
    vae.load_state_dict(torch.load(path, weights_only=True))
    return vae.eval().requires_grad_(False)


def latents(options: argparse.Namespace) -> None:
    """Encode scene after scene into the pool that the picture network learns from."""
    import torch

    from demo.second.training import networks, pool, vae_stage

    vae = _folded_vae(options, options.checkpoints / f"vae_{options.kind}_folded.pt")
    kept = pool.Pool(options.checkpoints, f"latents_{options.kind}")

    def encoded(part: range) -> np.ndarray:
        pictures = vae_stage.to_tensor(np.stack([pool.picture_at(i) for i in part]))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return networks.encode(vae, pictures)[0].half().numpy()

    shape = (networks.latent_channels[options.kind], 16, 16)
    kept.fill(pool.latent_room, shape, np.float16, encoded, options.size)


def train_text(options: argparse.Namespace) -> None:
    """Teach the text encoder what captions say."""
    from demo.second.training import loop

    budget = loop.Budget(steps=options.steps or 600, learning_rate=1e-3, ema_decay=0.98)
    stage = _text_stage(options)
    loop.train_stage(stage, budget, options.checkpoints, options.seed + 1, options.minutes)


def _text_stage(options: argparse.Namespace):
    import torch

    from demo.second.training import networks, text_stage
    from demo.second.training.vocabulary import Vocabulary

    vocabulary = Vocabulary(networks.text_columns[options.kind])
    generator = torch.Generator().manual_seed(options.seed + 1)
    return text_stage.TextStage(options.kind, vocabulary, text_batch, generator)


def train_picture(options: argparse.Namespace) -> None:
    """Train the network that makes latents from noise and text."""
    import torch

    from demo.second.training import loop, picture_stage, pool

    text = _text_stage(options)
    loop.load_averaged(options.checkpoints / f"{text.name}.pt", text.network)
    kept = pool.Pool(options.checkpoints, f"latents_{options.kind}")
    generator = torch.Generator().manual_seed(options.seed + 2)
    make = {"flow": picture_stage.FlowStage, "sd": picture_stage.NoiseStage}[options.kind]
    stage = make(text.network["text"], kept, text.vocabulary, picture_batch, generator)
    budget = loop.Budget(
        steps=options.steps or 12_000,
        learning_rate=options.rate,
        warmup_steps=200,
        decay_from=0.7,
        ema_decay=0.999,
    )
    loop.train_stage(stage, budget, options.checkpoints, options.seed + 2, options.minutes)


def keep(options: argparse.Namespace) -> None:
    """Write the weights so far into the repository."""
    from demo.second.training import kept

    for path in kept.keep(options.checkpoints):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def restore(options: argparse.Namespace) -> None:
    """Make checkpoints of the weights in the repository."""
    from demo.second.training import kept

    for path in kept.restore(options.checkpoints):
        print(f"{path.name} made")


if __name__ == "__main__":
    main()
