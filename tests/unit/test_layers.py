"""The layers: who may import whom, and that every public name says what it is."""

import ast
import inspect
import sys
from pathlib import Path

import pytest

import nmg_sampler

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "nmg_sampler").rglob("*.py"))
NODES = sorted(path for path in (ROOT / "nodes").rglob("*.py") if "host" not in path.parts)
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


@each_module
def test_every_public_definition_of_the_library_has_a_docstring(path):
    tree = ast.parse(path.read_text("utf-8"))
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    # A method that fills in a documented contract speaks through it.
    inherited = {"begin", "check", "predict", "prepare", "correct", "settle"}
    silent = [
        node.name
        for scope in scopes
        for node in scope.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not getattr(scope, "name", "").startswith("_")
        and node.name not in inherited
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
