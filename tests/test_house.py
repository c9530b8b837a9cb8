# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The house: which way imports point, what is frozen, what never lands where."""

import ast
import io
import json
import os
import subprocess
import sys
import tarfile
import tokenize
from pathlib import Path

import numpy as np
import pytest
import yaml

import retort

ROOT = Path(__file__).parent.parent
FOLDERS = ("cli", "serving", "pipelines", "components", "students", "trainers", "examples")
API = ("api.py", "indexes.py", "workflows.py")  # the house `api`: what `retort` itself offers
# Who may import whom; a package may always import itself.
ALLOWED = {
    "cli": {"api", "serving", "pipelines", "components", "students", "trainers", "examples"},
    "api": {"pipelines", "components", "students", "trainers"},
    "serving": {"pipelines", "components", "students"},
    "examples": {"api", "pipelines", "components", "students", "trainers"},
    "pipelines": {"components", "students"},
    "components": {"students"},
    "students": set(),
    "trainers": {"students"},
}
# Sole exception: a trainer is a component, and imports what trains when it runs.
EXCEPTIONS = {"components/trainers/distillation_trainer.py": {"trainers"}}
APART_FROM_METHODS = {"recipe", "build", "stages", "distiller", "engine", "run", "evaluation"}
FROZEN = {
    "haystack_integrations.components.trainers.retort.distillation_trainer.DistillationTrainer",
    "haystack_integrations.components.embedders.retort.student_text_embedder.StudentTextEmbedder",
    "haystack_integrations.components.embedders.retort.student_document_embedder.StudentDocumentEmbedder",
    "haystack_integrations.components.embedders.retort.student_sparse_text_embedder.StudentSparseTextEmbedder",
    ("haystack_integrations.components.embedders.retort.student_document_image_embedder.StudentDocumentImageEmbedder"),
    (
        "haystack_integrations.components.embedders.retort.student_multi_view_document_embedder"
        ".StudentMultiViewDocumentEmbedder"
    ),
    "haystack_integrations.components.embedders.retort.student_sparse_document_embedder.StudentSparseDocumentEmbedder",
    "haystack_integrations.components.retrievers.retort.student_retriever.StudentRetriever",
    "haystack_integrations.components.rankers.retort.student_ranker.StudentRanker",
    "haystack_integrations.components.readers.retort.extractive_answerer.ExtractiveAnswerer",
    "haystack_integrations.document_stores.retort.qdrant_edge_document_store.QdrantEdgeDocumentStore",
}


def sources() -> list[Path]:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*files, *(ROOT / name for name in API)]


def house_of(module: str) -> str | None:
    """The folder that a module comes from; None for those of others."""
    parts = module.split(".")
    if parts[0] == "retort" and len(parts) > 1:
        return (
            "api"
            if parts[1] in {"indexes", "workflows", *retort.__all__}
            else parts[1]
            if parts[1] in FOLDERS
            else None
        )
    if parts[0] == "haystack_integrations" and "retort" in parts:
        return "components"
    return None


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    """The name by which a source file is imported."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    package = ["retort", first]
    if first == "api":
        package = ["retort"]
    elif first == "components":
        kind = rest.pop(0)
        package = ["haystack_integrations", *([] if kind == "document_stores" else ["components"]), kind, "retort"]
    return ".".join([*package, *rest]).removesuffix(".__init__")


def import_graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """
    Which module imports which, for types alone and within functions too.

    What a package passes on counts as imported from where it is defined; the package itself does not.
    """
    trees = {module: ast.parse(path.read_text()) for module, path in files.items()}
    packages = {module.rpartition(".")[0] for module in files}

    def imported(module: str) -> list[tuple[str, str, str]]:
        """All `from X import y as z`: X, y, z."""
        within = module if module in packages else module.rpartition(".")[0]
        return [
            (f"{within}.{node.module}" if node.level else node.module, alias.name, alias.asname or alias.name)
            for node in ast.walk(trees[module])
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        ]

    names = {module: imported(module) for module in trees}

    def defining(module: str, name: str) -> str:
        if f"{module}.{name}" in files:
            return f"{module}.{name}"
        passed_on = [(x, y) for x, y, z in names.get(module, []) if z == name and module in packages]
        return defining(*passed_on[0]) if passed_on else module

    graph = {}
    for module, tree in trees.items():
        plain = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        graph[module] = (plain | {defining(x, y) for x, y, _ in names[module]}) & files.keys() - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module."""
    import networkx as nx

    return [found for found in nx.strongly_connected_components(nx.DiGraph(graph)) if len(found) > 1]


def code_lines(path: Path) -> int:
    """Lines with code: without blanks, comments and docstrings."""
    text = path.read_text()
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines & {i for i, line in enumerate(text.splitlines(), 1) if line.strip()})


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    own = "api" if path.name in API and path.parent == ROOT else path.relative_to(ROOT).parts[0]
    houses = {house for module in imports(path) if (house := house_of(module))}
    assert houses - {own} <= ALLOWED[own] | EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), set())


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_are_imported_late(name):
    tree = ast.parse((ROOT / name).read_text())
    early = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    assert not EXCEPTIONS[name] & {house_of(module) for module in early}


@pytest.fixture(scope="module")
def graph():
    return import_graph({module_of(path): path for path in sources()})


def test_no_circles(graph):
    assert graph["retort.students.handle"] >= {"retort.students.ranker", "retort.students.student"}
    assert "retort.students.create.layers" in graph["retort.students.create.heads"]
    assert circles(graph) == []


def test_methods_stand_apart(graph):
    """Recipes name them, nothing imports them, and they know nothing of what reads, runs or measures recipes."""
    methods = {module for module in graph if module.startswith("retort.trainers.methods.")}
    closed = {f"retort.trainers.{name}" for name in APART_FROM_METHODS}
    assert all(any(module.startswith(name) for module in graph) for name in closed)
    assert len(methods) >= 6
    for module, imported in graph.items():
        assert not imported & methods, module
        if module in methods:
            assert not [name for name in imported if ".".join(name.split(".")[:3]) in closed], module


def test_circles_are_seen(tmp_path):
    """For types, within functions, and through what a package passes on."""
    texts = {
        "p": "from p.a import f",
        "p.a": "import p.b",
        "p.b": "def g():\n    from p.c import f",
        "p.c": "if TYPE_CHECKING:\n    from p import f",
    }
    files = {module: tmp_path / f"{module}.py" for module in texts}
    for module, text in texts.items():
        files[module].write_text(text)
    assert circles(import_graph(files)) == [{"p.a", "p.b", "p.c"}]


def test_every_house_of_ours_is_seen():
    """The check above would pass if it recognised nothing."""
    assert house_of("retort.students.files") == "students"
    assert (
        house_of("retort.workflows") == house_of("retort.indexes.index_documents") == house_of("retort.train") == "api"
    )
    assert house_of("haystack_integrations.document_stores.retort") == "components"
    assert house_of("haystack_integrations.document_stores.qdrant") is None
    assert {house_of(m) for p in sources() for m in imports(p)} >= {"students", "trainers", "components", "pipelines"}


def test_frozen_types():
    from importlib import import_module

    for path in FROZEN:
        module, _, name = path.rpartition(".")
        cls = getattr(import_module(module), name)
        assert f"{cls.__module__}.{cls.__qualname__}" == path


def test_shipped_pipelines_use_frozen_types_and_quickstart_paths():
    def values(node, key):
        if isinstance(node, dict):
            for k, v in node.items():
                yield from [v] if k == key else []
                yield from values(v, key)
        elif isinstance(node, list):
            for v in node:
                yield from values(v, key)

    for path in (ROOT / "pipelines").glob("*.yml"):
        tree = yaml.safe_load(path.read_text())
        types = {t for t in values(tree, "type") if ".retort." in t}
        assert types <= FROZEN
        assert types
        models = ("quickstart", "ranker", "sparse", "images")
        assert set(values(tree, "model")) <= {f"runs/{name}/student" for name in models}
        assert set(values(tree, "path")) <= {"runs/quickstart/index", "runs/images/index"}
        assert tree["inputs"]
        assert tree["outputs"]


def test_nothing_of_ours_in_shared_namespaces():
    assert not (ROOT / "components" / "__init__.py").exists()
    assert not (ROOT / "components" / "py.typed").exists()
    for folder in (ROOT / "components").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert (folder / "__init__.py").is_file()
            assert (folder / "py.typed").is_file()


def test_sizes():
    assert code_lines(ROOT / "trainers" / "engine" / "loop.py") <= 300
    assert all(code_lines(path) <= 150 for path in (ROOT / "trainers" / "methods").glob("*.py"))


def test_every_file_has_its_licence():
    for path in [*sources(), *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        assert "SPDX-License-Identifier: Apache-2.0" in path.read_text()[:200], path


PROBE = """
import sys
import retort, retort.students
assert "haystack" not in sys.modules, "retort.students loads haystack"
assert "sentence_transformers" not in sys.modules, "retort.students loads sentence-transformers"
from haystack import Pipeline
def described(pipeline):  # connections come in the order of the components, which dumping sorts
    tree = pipeline.to_dict()
    return tree | {"connections": sorted(tree["connections"], key=str)}
for path in sys.argv[1:]:
    pipeline = Pipeline.loads(open(path).read())
    assert described(Pipeline.loads(pipeline.dumps())) == described(pipeline)
assert "sentence_transformers" not in sys.modules, "loading YAML loads models"
try:
    pipeline.run({"embedder": {"documents": []}} if "writer" in pipeline.graph.nodes else
                 {"embedder": {"text": "x"}, "answerer": {"query": "x"}})
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "place", ["another folder", pytest.param("the parent of the checkout", marks=pytest.mark.long)]
)
def test_yaml_loads_in_a_fresh_process_with_an_empty_environment(tmp_path, place):
    """Nothing imported first, no allowlist; folders named like our packages lie in the way."""
    (tmp_path / "retort").mkdir()
    (tmp_path / "haystack_integrations").mkdir()
    cwd = tmp_path if place == "another folder" else ROOT.parent
    files = sorted(map(str, (ROOT / "pipelines").glob("*.yml")), reverse=True)
    found = subprocess.run(
        [sys.executable, "-c", PROBE, *files], cwd=cwd, env={"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    # A missing student is reported at the first request.
    assert "No model at 'runs/quickstart/student'" in found.stdout


WITHOUT_TORCH = """
import sys
from importlib import import_module
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "sentence_transformers", "transformers"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
for name in sys.argv[2:]:
    import_module(name)
from haystack_integrations.components.embedders.retort import StudentTextEmbedder
embedder = StudentTextEmbedder(model=sys.argv[1], precision="int8")
print(embedder.run(text="the ship")["embedding"])
"""


@pytest.mark.integration
def test_students_and_components_need_no_torch(tmp_path):
    """An exported student embeds without it, too."""
    from retort.students import Student

    with tarfile.open(ROOT / "tests" / "saved" / "0.1.0.tar.xz") as archive:
        kept = [member for member in archive.getmembers() if "students/dense" in member.name]
        archive.extractall(tmp_path, members=kept, filter="data")
    student = str(tmp_path / "students" / "dense")
    wanted = Student.load(student, precision="int8").encode_query(["the ship"])
    students = [p for p in sources() if p.relative_to(ROOT).parts[0] == "students"]
    light = [p for p in students if p.parent.name != "modules" and p.name != "counted.py"]
    light += [p for p in sources() if p.is_relative_to(ROOT / "components") and p.parent.name != "trainers"]
    code = [sys.executable, "-c", WITHOUT_TORCH, student, *map(module_of, light)]
    out = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    np.testing.assert_allclose(json.loads(out.stdout), wanted[0], atol=1e-5)


def test_no_host_or_machine_path_in_any_file():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    texts = {name: (ROOT / name).read_text(errors="ignore") for name in listed if (ROOT / name).is_file()}
    words = ["/" + "work/", "/" + "root/", "pypi." + "org", "registry." + "npmjs"]
    assert [(name, word) for name, text in texts.items() for word in words if word in text] == []
    assert os.sep != "/" or listed
