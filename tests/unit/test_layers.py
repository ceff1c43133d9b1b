"""The layers: who may import whom, and that every public name says what it is."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import nmg_sampler

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "nmg_sampler").rglob("*.py"))
NODES = sorted(path for path in (ROOT / "nodes").rglob("*.py") if "host" not in path.parts)
# Who may import whom: a room, and the rooms beside it that its files may import from. Everybody in
# the library may import its errors and checks, and the nodes and their host part all that it has
# public.
ARROWS = {
    "nmg_sampler/trajectory": set(),
    "nmg_sampler/words": set(),
    "nmg_sampler/contract": {"trajectory", "words"},
    "nmg_sampler/loops": {"contract", "trajectory"},
    "nmg_sampler/methods": {"contract", "trajectory"},
    "nmg_sampler/editors": {"contract", "trajectory", "words"},
    "nmg_sampler/looks": {"contract", "loops", "trajectory"},
    "nmg_sampler/pixels": {"contract"},
    "nmg_sampler/files": {"editors", "trajectory"},
    "nodes/host/api": set(),
    "nodes/host/models": {"network"},
    "nodes/host/network": set(),
    "nodes/host/gradient": {"network"},
    "nodes/host/runs": {"api", "gradient", "models", "network"},
    "nodes/drawing": set(),
    "nodes/pixels": {"host"},
    "nodes/path": {"drawing", "host"},
    "nodes/methods": {"host", "path"},
    "nodes/editors": {"host"},
    "nodes/looks": {"drawing", "host", "path"},
}
SHARED = {"nmg_sampler/errors.py", "nmg_sampler/checks.py"}
HOST = {
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview",
    "node_helpers", "nodes", "server", "execution",
}  # fmt: skip


def where(path):
    """A file as a test names it."""
    return path.relative_to(ROOT).with_suffix("").as_posix()


each_module = pytest.mark.parametrize("path", LIBRARY, ids=where)


def imports(path):
    """(dots, module, names) of every import in the file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def targets(path):
    """The files of the repository that the file imports, each as a path from the root."""
    package = path.parent
    for dots, module, names in imports(path):
        if dots:
            base = package.parents[dots - 2] if dots > 1 else package
            place = base.joinpath(*module.split(".")) if module else base
            for name in names:
                found = next(
                    (
                        each
                        for each in (
                            place / f"{name}.py",
                            place.with_suffix(".py"),
                            place / "__init__.py",
                        )
                        if each.is_file()
                    ),
                    None,
                )
                assert found is not None, f"{path} imports {name} of {place}, which is no file"
                yield found.relative_to(ROOT)


@each_module
def test_the_library_imports_only_torch_safetensors_numpy_the_standard_library_and_itself(path):
    allowed = {"torch", "safetensors", "numpy", *sys.stdlib_module_names}
    outside = {module.split(".")[0] for dots, module, _ in imports(path) if dots == 0}
    assert outside <= allowed
    assert all(target.parts[0] == "nmg_sampler" for target in targets(path))


def test_the_arrows_inside_the_library_form_no_circle():
    arrows = {path.relative_to(ROOT): set(targets(path)) for path in LIBRARY}
    assert set().union(*arrows.values()) <= set(arrows)
    while arrows:
        leaves = [name for name, targets in arrows.items() if not targets & set(arrows)]
        assert leaves, f"a circle among {sorted(map(str, arrows))}"
        for name in leaves:
            del arrows[name]


def room(path):
    """The room of a file: its folder, of nodes/host/ the folder below that; its own name above."""
    return (path.parent if len(path.parts) > 2 else path).as_posix()


def house(name):
    """The folder that a room's neighbours stand in."""
    return name.rpartition("/")[0]


@pytest.mark.parametrize("name", ARROWS)
def test_a_room_imports_only_from_the_rooms_that_it_may(name):
    may = {f"{house(name)}/{each}" for each in ARROWS[name]} | {name, *SHARED}
    if not name.startswith("nmg_sampler"):
        may |= {
            "nmg_sampler/__init__.py",
            *(each for each in ARROWS if each.startswith("nmg_sampler")),
        }
    if "host" in ARROWS[name]:
        may |= {each for each in ARROWS if each.startswith("nodes/host/")}
    wrong = [
        f"{where(path)} imports {target}"
        for path in sorted((ROOT / name).glob("*.py"))
        for target in targets(path)
        if room(target) not in may
    ]
    assert wrong == []


def test_every_folder_of_code_is_a_room():
    folders = {path.parent for path in (*LIBRARY, *(ROOT / "nodes").rglob("*.py"))}
    halls = {"nmg_sampler", "nodes", "nodes/host"}  # they list what is in their rooms
    assert {folder.relative_to(ROOT).as_posix() for folder in folders} - halls == set(ARROWS)


def test_the_table_of_the_document_is_this_one():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z_/]+)` \|(.*)\|$", text, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", rooms)) for name, rooms in rows} == ARROWS


def test_every_file_that_the_documents_for_builders_name_is_there():
    for document in (ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"):
        named = re.findall(
            r"`((?:nmg_sampler|nodes|tests|tools|docs)/[\w/.-]+)`", document.read_text("utf-8")
        )
        assert named
        missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
        assert missing == [], document.name


def test_no_two_rooms_need_each_other():
    arrows = {name: {f"{house(name)}/{each}" for each in rooms} for name, rooms in ARROWS.items()}
    while arrows:
        leaves = [name for name, rooms in arrows.items() if not rooms & set(arrows)]
        assert leaves, f"a circle among {sorted(arrows)}"
        for name in leaves:
            del arrows[name]


OUTSIDE = sorted(
    path
    for folder in ("nodes", "benchmarks", "demo", "tests", "tools")
    for path in (ROOT / folder).rglob("*.py")
)


def library_imports(path):
    """(the room or module below nmg_sampler, names) of each import from the library."""
    for _, module, names in imports(path):
        before, found, below = f".{module}.".partition(".nmg_sampler.")
        if found and not before.strip("."):
            yield below.strip("."), names


@pytest.mark.parametrize("path", OUTSIDE, ids=where)
def test_who_is_not_of_the_library_imports_its_public_names_from_its_rooms(path):
    wrong = []
    for below, names in library_imports(path):
        public = importlib.import_module(f"nmg_sampler.{below}" if below else "nmg_sampler")
        # A test may take a whole module, to put something else in the place of what it calls.
        known = set(vars(public)) if "tests" in path.parts or not below else offered(public)
        inside = "." in below
        wrong += [f"{name} of {below}" for name in names if inside or name not in known]
    assert wrong == []


def offered(module):
    """The public names of a room: not its modules."""
    return {
        name
        for name, value in vars(module).items()
        if name[0] != "_" and not inspect.ismodule(value)
    }


@pytest.mark.parametrize("path", NODES, ids=where)
def test_a_node_knows_the_host_only_through_nodes_host(path):
    assert not {module.split(".")[0] for dots, module, _ in imports(path) if dots == 0} & HOST


@each_module
def test_the_library_keeps_no_global_state(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    # A table of constants is full from the start; what starts empty waits to be written to.
    assigned = [ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    assert not {*assigned} & {"{}", "[]", "set()", "dict()", "list()"}


@each_module
def test_the_library_prints_and_logs_nothing(path):
    names = {
        node.id
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Name)
    }
    assert not names & {"print", "logging", "warnings", "tqdm"}
    assert not {module for _, module, _ in imports(path)} & {"logging", "warnings"}


@each_module
def test_the_library_knows_no_pickle(path):
    tree = ast.parse(path.read_text("utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save"}
    assert not {module for _, module, _ in imports(path)} & {"pickle", "shelve", "marshal"}


@each_module
def test_a_module_of_the_library_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def speaks_by_its_name(node):
    """Whether a definition is a property, or one line that says yes or no."""
    if not isinstance(node, ast.FunctionDef):
        return False
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    predicate = node.returns is not None and ast.unparse(node.returns) == "bool"
    one_line = len(node.body) == 1 and isinstance(node.body[0], ast.Return)
    return bool(marks & {"property", "cached_property"}) or (predicate and one_line)


@each_module
def test_every_public_definition_of_the_library_has_a_docstring(path):
    """But for what its name says."""
    tree = ast.parse(path.read_text("utf-8"))
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    # A method that fills in a documented contract speaks through it.
    inherited = {"begin", "bound", "check", "predict", "prepare", "correct", "settle"}
    silent = [
        node.name
        for scope in scopes
        for node in scope.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not getattr(scope, "name", "").startswith("_")
        and node.name not in inherited
        and not speaks_by_its_name(node)
        and not ast.get_docstring(node)
    ]
    assert silent == []


def public():
    """What `import nmg_sampler` offers, but not its modules."""
    return [
        (name, value)
        for name, value in vars(nmg_sampler).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    ]


@pytest.mark.parametrize(("name", "value"), public(), ids=[name for name, _ in public()])
def test_a_public_name_comes_from_the_library_and_has_its_own_docstring(name, value):
    assert value.__module__.startswith("nmg_sampler.")
    assert value.__doc__
    # dataclass and Enum write one of their own where there is none.
    assert not value.__doc__.startswith((f"{name}(", "Create a collection of name/value pairs"))
