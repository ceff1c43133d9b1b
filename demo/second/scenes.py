"""Scenes of the demo models: a description becomes a picture, a caption and a true edit mask.

One or two objects on one background. Numpy only. Pictures are 128 x 128 px, positions and lengths
are in pixels, angles in degrees, colours are sRGB in 0..1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

size_px = 128

shapes = ("circle", "square", "triangle", "heart", "cross", "ring")

# "cyan" is two tokens of the CLIP tokenizer, every other word is one: kept as a test case.
colours = {
    "red": (0.86, 0.12, 0.14),
    "green": (0.12, 0.60, 0.20),
    "blue": (0.12, 0.22, 0.85),
    "yellow": (0.96, 0.88, 0.15),
    "orange": (0.97, 0.52, 0.08),
    "purple": (0.50, 0.16, 0.66),
    "cyan": (0.25, 0.82, 0.90),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.06),
}

background_types = ("plain", "striped", "dotted", "gradient")
sizes = ("small", "large")
# Of one object in the frame, and of the first object as seen from the second.
places = ("left", "right", "top", "bottom")
relations = ("left of", "right of", "above", "below")
opposite = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

caption_forms = (
    "{things} on a {type} {background} background",
    "{things}, {type} {background} background",
    "a picture of {things} on a {type} {background} background",
    "a {type} {background} background with {things}",
)
edit_kinds = ("colour", "shape", "background", "pattern", "add", "remove", "move")

radius_range_px = {
    "": (24.0, 42.0),
    "small": (17.0, 20.0),
    "large": (34.0, 42.0),
}
pair_radius_range_px = {
    "": (22.0, 26.0),
    "small": (17.0, 20.0),
    "large": (28.0, 32.0),
}
margin_px = 3.0
gap_px = 4.0
max_rotation_deg = 10.0
period_px = 32.0
# An object has a place in the frame if its centre lies at least so far out, and out only there.
place_offset_px = 22.0
place_drift_px = 12.0


@dataclass(frozen=True)
class Thing:
    """One object.

    Attributes:
        shape: word in `shapes`.
        colour: word in `colours`.
        centre: (x, y), pixels from the top left corner.
        radius: pixels from the centre to the farthest point of the object.
        rotation: degrees, counter-clockwise on screen.
        size: word in `sizes` that the caption says, "" if it says none.
    """

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float
    rotation: float
    size: str = ""

    def __post_init__(self) -> None:
        _check_word("shape", self.shape, shapes)
        _check_word("colour", self.colour, tuple(colours))
        _check_word("size", self.size, ("", *sizes))


@dataclass(frozen=True)
class Scene:
    """One or two objects on one background.

    Attributes:
        things: one or two, in the order in which the caption names them; they do not touch.
        background: word in `colours`, the colour of no object.
        background_type: word in `background_types`.
        phase: (x, y) shift of the background pattern, 0..1 of its period.
        place: word in `places` that the caption says of a lone object, word in `relations` that it
            says of two, "" if it says none.
        form: index into `caption_forms`.
    """

    things: tuple[Thing, ...]
    background: str
    background_type: str
    phase: tuple[float, float]
    place: str = ""
    form: int = 0

    def __post_init__(self) -> None:
        _check_word("background", self.background, tuple(colours))
        _check_word("background_type", self.background_type, background_types)
        _check_count(len(self.things))
        expected = places if len(self.things) == 1 else relations
        _check_word("place", self.place, ("", *expected))
        if self.background in [thing.colour for thing in self.things]:
            raise ValueError(
                f"Scene: background hides an object. Got '{self.background}' for both; "
                "expected two colours. Choose another background or colour."
            )
        if not 0 <= self.form < len(caption_forms):
            raise ValueError(
                f"Scene: form is unknown. Got {self.form}; "
                f"expected 0 to {len(caption_forms) - 1}. Choose one of caption_forms."
            )


@dataclass(frozen=True)
class Edit:
    """One edit with its known answer.

    Attributes:
        kind: word in `edit_kinds`.
        source: what the picture shows.
        target: what the edited picture shows; everything that the edit does not name is as before.
        word: index of the object that is changed, added (in `target`) or removed (in `source`);
            None for an edit of the background.
    """

    kind: str
    source: Scene
    target: Scene
    thing: int | None


def random_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A scene with every attribute drawn from `rng`, all objects fully inside the frame.

    Args:
        count: of objects, 1 or 2; drawn as well if None.
    """
    count = int(rng.integers(1, 3)) if count is None else count
    _check_count(count)
    background = str(rng.choice(list(colours)))
    found = _random_one(rng, background) if count == 1 else _random_two(rng, background)
    things, place = found
    phase_x, phase_y = rng.uniform(0.0, 1.0, size=2)
    return Scene(
        things=things,
        background=background,
        background_type=background_types[rng.integers(len(background_types))],
        phase=(float(phase_x), float(phase_y)),
        place=place,
        form=int(rng.integers(len(caption_forms))),
    )


def _random_one(rng: np.random.Generator, background: str) -> tuple[tuple[Thing, ...], str]:
    """A lone object and the word for its place: a third with a place, a third with a size."""
    says = ("place", "size", "neither")[rng.integers(3)]
    if says == "place":
        # Small enough to lie clear of the middle.
        radius = float(rng.uniform(18.0, 32.0))
        place = places[rng.integers(len(places))]
        centre = _placed_centre(rng, place, radius)
        return (_random_thing(rng, background, centre, radius),), place
    size = sizes[rng.integers(2)] if says == "size" else ""
    radius = float(rng.uniform(*radius_range_px[size]))
    reach = size_px / 2 - margin_px - radius
    x, y = size_px / 2 + rng.uniform(-reach, reach, size=2)
    return (_random_thing(rng, background, (float(x), float(y)), radius, size),), ""


def _placed_centre(rng: np.random.Generator, place: str, radius: float) -> tuple[float, float]:
    far = rng.uniform(place_offset_px, size_px / 2 - margin_px - radius)
    across = rng.uniform(-place_drift_px, place_drift_px)
    x, y = {
        "left": (-far, across),
        "right": (far, across),
        "top": (across, -far),
        "bottom": (across, far),
    }[place]
    return (size_px / 2 + float(x), size_px / 2 + float(y))


def _random_two(rng: np.random.Generator, background: str) -> tuple[tuple[Thing, ...], str]:
    """Two objects that differ in colour or shape, side by side or one above the other.

    A third are told apart by size words alone, a third by place words alone, a third by both.
    """
    says = ("size", "place", "both")[rng.integers(3)]
    words = [str(word) for word in rng.permutation(sizes)] if says != "place" else ["", ""]
    if says == "both" and rng.random() < 0.5:
        # One size word is enough beside a place: "a red circle left of a small blue square".
        words[rng.integers(2)] = ""
    radii = [float(rng.uniform(*pair_radius_range_px[word])) for word in words]
    relation = relations[rng.integers(len(relations))]
    centres = _pair_centres(rng, relation, radii)
    first = _random_thing(rng, background, centres[0], radii[0], words[0])
    second = _random_thing(rng, background, centres[1], radii[1], words[1])
    while (second.shape, second.colour) == (first.shape, first.colour):
        second = _random_thing(rng, background, centres[1], radii[1], words[1])
    return (first, second), "" if says == "size" else relation


def _pair_centres(
    rng: np.random.Generator, relation: str, radii: Sequence[float]
) -> list[tuple[float, float]]:
    """Centres of two objects in `relation`, free of each other and of the rim."""
    forward = relation in ("left of", "above")
    near, far = radii if forward else radii[::-1]
    free = size_px - 2.0 * margin_px - gap_px - 2.0 * (near + far)
    before, between = np.sort(rng.uniform(0.0, free, size=2))
    along = [
        margin_px + before + near,
        margin_px + between + 2.0 * near + gap_px + far,
    ]
    along = along if forward else along[::-1]
    across = []
    for radius in radii:
        reach = min(place_drift_px, size_px / 2 - margin_px - radius)
        across.append(size_px / 2 + rng.uniform(-reach, reach))
    pairs = zip(along, across, strict=True)
    level = relation in ("left of", "right of")
    return [(float(a), float(b)) if level else (float(b), float(a)) for a, b in pairs]


def _random_thing(
    rng: np.random.Generator,
    background: str,
    centre: tuple[float, float],
    radius: float,
    size: str = "",
) -> Thing:
    names = [name for name in colours if name != background]
    return Thing(
        shape=shapes[rng.integers(len(shapes))],
        colour=names[rng.integers(len(names))],
        centre=centre,
        radius=radius,
        rotation=float(rng.uniform(-max_rotation_deg, max_rotation_deg)),
        size=size,
    )


def caption(scene: Scene) -> str:
    """The scene in words, in its caption form."""
    named = [_name(thing) for thing in scene.things]
    if len(named) == 2:
        things = f"{named[0]} {scene.place} {named[1]}" if scene.place else " and ".join(named)
    elif scene.place:
        things = f"{named[0]} at the {scene.place}"
    else:
        things = named[0]
    return caption_forms[scene.form].format(
        things=things, type=scene.background_type, background=scene.background
    )


def _name(thing: Thing) -> str:
    words = f"{thing.size} {thing.colour} {thing.shape}".strip()
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def render(scene: Scene) -> np.ndarray:
    """The picture of `scene`: (128, 128, 3) float32 in 0..1, antialiased."""
    picture = background_picture(scene)
    for thing in scene.things:
        cover = coverage(thing)[..., None]
        picture = picture * (1.0 - cover) + np.asarray(colours[thing.colour], np.float32) * cover
    return picture


def background_picture(scene: Scene) -> np.ndarray:
    """The background alone: (128, 128, 3) float32 in 0..1."""
    first, second = background_pair(scene.background)
    blend = pattern(scene.background_type, scene.phase)[..., None]
    return first * (1.0 - blend) + second * blend


def background_pair(background: str) -> tuple[np.ndarray, np.ndarray]:
    """The named colour and the second tone that patterns mix it with, each (3,) float32."""
    first = np.asarray(colours[background], np.float32)
    bright = float(first @ np.asarray((0.299, 0.587, 0.114), np.float32)) > 0.45
    # Towards black for bright colours and towards white for dark ones keeps the hue nameable.
    second = first * 0.55 if bright else first + (1.0 - first) * 0.45
    return first, second.astype(np.float32)


def coverage(thing: Thing) -> np.ndarray:
    """Part of each pixel that the object covers: (128, 128) float32 in 0..1."""
    return shape_coverage(thing.shape, thing.centre, thing.radius, thing.rotation)


def shape_coverage(
    shape: str, centre: tuple[float, float], radius: float, rotation: float
) -> np.ndarray:
    """`coverage` for a bare shape; lengths in pixels, `rotation` in degrees."""
    xs, ys = _pixel_grid()
    # Only the square round the object is computed: drawing is most of the cost of training data.
    left, right = _span(centre[0], radius)
    top, bottom = _span(centre[1], radius)
    angle = np.float32(np.deg2rad(rotation))
    dx = xs[:, left:right] - np.float32(centre[0])
    dy = ys[top:bottom] - np.float32(centre[1])
    x = np.cos(angle) * dx - np.sin(angle) * dy
    y = np.sin(angle) * dx + np.cos(angle) * dy
    distance_px = _distances[shape](x / np.float32(radius), y / np.float32(radius)) * radius
    cover = np.zeros((size_px, size_px), np.float32)
    cover[top:bottom, left:right] = np.clip(0.5 - distance_px, 0.0, 1.0)
    return cover


def _span(centre: float, radius: float) -> tuple[int, int]:
    """First pixel, and the one after the last, that an object may touch on one axis."""
    reach = radius * 1.15 + 2.0
    return max(0, int(centre - reach)), max(0, min(size_px, int(centre + reach) + 1))


def mask(scene: Scene, edited: Scene) -> np.ndarray:
    """Pixels that may differ between the two pictures: (128, 128) bool.

    Each object that one of them has and the other has not (its old and its new form, if it
    changed); everything that is not fully covered in both, if the background differs.
    """
    changed = np.zeros((size_px, size_px), bool)
    for thing in {_drawn(t) for t in scene.things} ^ {_drawn(t) for t in edited.things}:
        changed |= shape_coverage(thing[0], thing[2], thing[3], thing[4]) > 0.0
    if _background_of(scene) != _background_of(edited):
        changed |= (_covered(scene) < 1.0) | (_covered(edited) < 1.0)
    return changed


def _covered(scene: Scene) -> np.ndarray:
    return np.max([coverage(thing) for thing in scene.things], axis=0)


def _drawn(thing: Thing) -> tuple:
    return (thing.shape, thing.colour, thing.centre, thing.radius, thing.rotation)


def _background_of(scene: Scene) -> tuple:
    return (scene.background, scene.background_type, scene.phase)


def random_edit(rng: np.random.Generator, kind: str, scene: Scene | None = None) -> Edit:
    """An edit of `kind` with its source drawn from `rng`.

    Args:
        scene: the source, if it is given; `add` and `move` need one object, `remove` two, `move` a
            place.
    """
    _check_word("edit kind", kind, edit_kinds)
    return _edits[kind](rng, scene)


def change_thing(scene: Scene, index: int, **words: str) -> Scene:
    """The scene with words of one object changed (`shape`, `colour`), at the same place."""
    things = list(scene.things)
    things[index] = dataclasses.replace(things[index], **words)
    return dataclasses.replace(scene, things=tuple(things))


def change_background(scene: Scene, **words: str) -> Scene:
    """The scene with another `background` or `background_type`."""
    return dataclasses.replace(scene, **words)


def _edit_word(rng: np.random.Generator, scene: Scene | None, key: str) -> Edit:
    """Another colour or shape for one of the objects."""
    scene = random_scene(rng) if scene is None else scene
    index = int(rng.integers(len(scene.things)))
    old = scene.things[index]
    taken = [scene.background] if key == "colour" else []
    twins = [getattr(thing, key) for thing in scene.things if thing is not old]
    words = colours if key == "colour" else shapes
    # Not the word of the other object: the two would then be told apart by one word alone.
    free = [word for word in words if word not in (getattr(old, key), *taken, *twins)]
    target = change_thing(scene, index, **{key: str(rng.choice(free))})
    return Edit(key, scene, target, index)


def _edit_colour(rng: np.random.Generator, scene: Scene | None) -> Edit:
    return _edit_word(rng, scene, "colour")


def _edit_shape(rng: np.random.Generator, scene: Scene | None) -> Edit:
    return _edit_word(rng, scene, "shape")


def _edit_background(rng: np.random.Generator, scene: Scene | None) -> Edit:
    scene = random_scene(rng) if scene is None else scene
    taken = [scene.background, *(thing.colour for thing in scene.things)]
    free = [name for name in colours if name not in taken]
    target = change_background(scene, background=str(rng.choice(free)))
    return Edit("background", scene, target, None)


def _edit_pattern(rng: np.random.Generator, scene: Scene | None) -> Edit:
    scene = random_scene(rng) if scene is None else scene
    free = [name for name in background_types if name != scene.background_type]
    target = change_background(scene, background_type=str(rng.choice(free)))
    return Edit("pattern", scene, target, None)


def _edit_remove(rng: np.random.Generator, scene: Scene | None) -> Edit:
    scene = random_scene(rng, 2) if scene is None else scene
    _check_edit("remove", len(scene.things) == 2, "two objects")
    index = int(rng.integers(2))
    return Edit("remove", scene, _without(scene, index), index)


def _edit_add(rng: np.random.Generator, scene: Scene | None) -> Edit:
    """The reverse of `remove`: the lone object lies where a second one has room beside it."""
    if scene is None:
        pair = random_scene(rng, 2)
        index = int(rng.integers(2))
        return Edit("add", _without(pair, index), pair, index)
    _check_edit("add", len(scene.things) == 1, "one object")
    return _edit_add_to(rng, scene)


def _edit_add_to(rng: np.random.Generator, scene: Scene) -> Edit:
    """A second object beside the lone one of `scene`, on the side with more room."""
    (old,) = scene.things
    x, y = (c - size_px / 2 for c in old.centre)
    if abs(x) >= abs(y):
        relation = "left of" if x <= 0 else "right of"
        room = size_px - 2.0 * margin_px - gap_px - (size_px / 2 - abs(x) - margin_px + old.radius)
    else:
        relation = "above" if y <= 0 else "below"
        room = size_px - 2.0 * margin_px - gap_px - (size_px / 2 - abs(y) - margin_px + old.radius)
    radius = min(float(rng.uniform(*pair_radius_range_px[""])), room / 2.0)
    _check_edit("add", radius >= radius_range_px["small"][0], "room for a second object")
    towards = size_px - margin_px - radius
    along = towards if relation in ("left of", "above") else size_px - towards
    across = size_px / 2 + float(rng.uniform(-place_drift_px, place_drift_px))
    centre = (along, across) if relation in ("left of", "right of") else (across, along)
    new = _random_thing(rng, scene.background, centre, radius)
    while (new.shape, new.colour) == (old.shape, old.colour):
        new = _random_thing(rng, scene.background, centre, radius)
    target = dataclasses.replace(scene, things=(old, new), place=relation)
    return Edit("add", scene, target, 1)


def _edit_move(rng: np.random.Generator, scene: Scene | None) -> Edit:
    """A lone object, from the place that the caption names to another one."""
    while scene is None or not scene.place:
        _check_edit("move", scene is None, "one object whose place the caption names")
        found = random_scene(rng, 1)
        scene = found if found.place else None
    _check_edit("move", len(scene.things) == 1, "one object")
    place = str(rng.choice([word for word in places if word != scene.place]))
    (thing,) = scene.things
    moved = dataclasses.replace(thing, centre=_placed_centre(rng, place, thing.radius))
    return Edit("move", scene, dataclasses.replace(scene, things=(moved,), place=place), 0)


def _without(scene: Scene, index: int) -> Scene:
    """The scene less one of its two objects; the caption says no place of the one that is left."""
    things = tuple(thing for i, thing in enumerate(scene.things) if i != index)
    return dataclasses.replace(scene, things=things, place="")


_edits = {
    "colour": _edit_colour,
    "shape": _edit_shape,
    "background": _edit_background,
    "pattern": _edit_pattern,
    "add": _edit_add,
    "remove": _edit_remove,
    "move": _edit_move,
}


def _check_word(name: str, got: str, expected: tuple[str, ...]) -> None:
    if got not in expected:
        raise ValueError(
            f"Scene: {name} is unknown. Got '{got}'; expected one of {', '.join(expected)}. "
            "Use one of these words."
        )


def _check_count(count: int) -> None:
    if count not in (1, 2):
        raise ValueError(
            f"Scene: number of objects is out of range. Got {count}; expected 1 or 2. "
            "Give one or two."
        )


def _check_edit(kind: str, fits: bool, needed: str) -> None:
    if not fits:
        raise ValueError(
            f"random_edit: scene does not fit the edit '{kind}'. Expected {needed}. "
            "Choose another scene, or give none and one is drawn."
        )


def _pixel_grid() -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x as (1, 128), y as (128, 1), float32."""
    line = np.arange(size_px, dtype=np.float32) + np.float32(0.5)
    return line[None, :], line[:, None]


def pattern(background_type: str, phase: tuple[float, float]) -> np.ndarray:
    """Share of the second tone of a background: (128, 128) float32 in 0..1."""
    xs, ys = _pixel_grid()
    if background_type == "striped":
        blend = _soft_step(np.abs(_wrapped(xs, phase[0])) - period_px / 4) + 0 * ys
    elif background_type == "dotted":
        dx, dy = _wrapped(xs, phase[0]), _wrapped(ys, phase[1])
        blend = _soft_step(np.sqrt(dx * dx + dy * dy) - period_px * 0.3)
    elif background_type == "gradient":
        blend = ys / np.float32(size_px) + 0 * xs
    else:
        blend = np.zeros((size_px, size_px))
    return blend.astype(np.float32)


def _wrapped(line: np.ndarray, phase: float) -> np.ndarray:
    """Signed pixels to the nearest pattern centre, in -period/2..period/2."""
    return (line + np.float32(phase * period_px)) % period_px - period_px / 2


def _soft_step(distance_px: np.ndarray) -> np.ndarray:
    return np.clip(0.5 - distance_px, 0.0, 1.0)


# Distances below are in units of the radius, negative inside; y points down.


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(0.9)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.72)) - np.float32(0.23)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.78)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ax, ay = np.abs(x), np.abs(y)
    arm, width = np.float32(0.94), np.float32(0.33)
    return np.minimum(np.maximum(ax - arm, ay - width), np.maximum(ay - arm, ax - width))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact distance to a square tip with two half discs, scaled to fit the unit circle."""
    scale = np.float32(0.65)
    px, py = np.abs(x) * scale, (np.float32(0.88) - y) * scale
    lobe = np.sqrt((px - 0.25) ** 2 + (py - 0.75) ** 2) - np.float32(np.sqrt(2.0) / 4.0)
    foot = np.float32(0.5) * np.maximum(px + py, 0.0)
    tip = np.sqrt(np.minimum(px**2 + (py - 1.0) ** 2, (px - foot) ** 2 + (py - foot) ** 2))
    return np.where(px + py > 1.0, lobe, tip * np.sign(px - py)) / scale


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the nearest of the three lines of an equilateral triangle, one corner up."""
    slope = np.float32(np.sqrt(0.75))
    return np.maximum(y, slope * np.abs(x) - np.float32(0.5) * y) - np.float32(0.5)


_distances = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
}
