"""The packages import downwards only, in the order of docs/packages.txt, and nothing imports in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "mtlcli"
FLAT_MODULES = 8


def order() -> list[str]:
    """Names of packages and top-level modules, ground first."""
    lines = (ROOT / "docs" / "packages.txt").read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports from mtlcli: inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("mtlcli."))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import; write the whole name"
            if node.module == "mtlcli":
                yield from (
                    (node.lineno, f"mtlcli.{alias.name}") for alias in node.names if alias.name != "__version__"
                )
            elif node.module and node.module.startswith("mtlcli."):
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def files() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE or not path.stem.startswith("__")]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_package_is_listed_once():
    found = {path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")}
    found |= {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert len(order()) == len(set(order()))
    assert found == set(order())


def test_few_modules_lie_flat_and_none_is_named_by_a_gerund():
    flat = [path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")]
    assert len(flat) <= FLAT_MODULES, flat
    assert not [name for name in flat if name.endswith("ing")]


def test_packages_import_downwards_only():
    rank = {name: number for number, name in enumerate(order())}
    upward = []
    for path in files():
        package = module_of(path).split(".")[1]
        for line, name in imports(path):
            imported = name.split(".")[1]
            if rank[imported] > rank[package]:
                upward.append(f"{path.relative_to(ROOT)}:{line}: {package} imports {imported}, which stands above it")
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle():
    modules = {module_of(path): path for path in files()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {name for _, name in imports(path)}
        # `from mtlcli.data import batches` imports the module; of any other name, the module that holds it.
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = (targets & modules.keys()) - {module}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        if module in above:
            raise AssertionError("imports in a circle: " + " -> ".join((*above[above.index(module) :], module)))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())
