"""The one-way order of the house, held by reading every import."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A file imports only from layers above its own.  A new file must be placed here, with a thought.
LAYERS = [
    [
        "experiments",
        "seqjax.report",
        "seqjax.report.markup",
        "experiments.presets",
        "experiments.example_fit",
        "experiments.peers",
    ],  # nothing of the kit
    [
        "seqjax.config",
        "seqjax.batch",
        "seqjax.findings",
        "seqjax.narrow",
        "seqjax.as_given",
        "seqjax.receptive_field",
        "seqjax.checkpoints",
        "experiments.turns",
    ],
    ["seqjax.gru", "seqjax.user_code", "seqjax.devices", "seqjax.metrics", "seqjax.observed"],
    ["seqjax.tasks", "seqjax.outputs", "seqjax.frameworks", "seqjax.arrays"],
    ["seqjax.adapters", "seqjax.label_dependence", "seqjax.data_facts"],
    ["seqjax.own_model"],
    ["seqjax.models"],
    ["seqjax.bayes"],
    ["seqjax.forecasts", "seqjax.curves"],
    ["seqjax.training"],
    ["seqjax.results"],
    ["seqjax.loss_budget"],
    ["seqjax.diagnosis"],
    ["seqjax.experiment", "seqjax.probes"],
    ["seqjax.ladder", "seqjax.grid"],
    ["seqjax.step_swaps", "seqjax.evaluated", "seqjax.fitting"],
    ["seqjax.training_facts", "seqjax.alignment"],
    ["seqjax.control_data"],
    ["seqjax.output_facts", "seqjax.swap_facts", "seqjax.reported", "seqjax.instruments"],
    ["seqjax.control_trials"],
    ["seqjax.control_findings"],
    ["seqjax.control_failures"],
    ["seqjax.model_facts", "seqjax.short_run", "seqjax.controls"],
    ["seqjax.model_diagnosis"],
    ["seqjax.data_diagnosis"],
    ["seqjax"],
    ["seqjax.report.console", "seqjax.report.notebook"],
    ["seqjax.report.sweep_console", "seqjax.report.diagnosis_console", "seqjax.report.figures"],
    ["seqjax.report.sweep_figure", "seqjax.report.diagnosis_figures"],
    ["seqjax.report.page_run", "seqjax.report.page_matrices", "seqjax.report.page_diagnosis"],
    ["seqjax.report.page"],
    ["experiments.flags", "experiments.workdir", "experiments.tensorboard", "experiments.suites"],
    ["experiments.command"],
    [
        "experiments.main",
        "experiments.diagnose",
        "experiments.sweep",
        "experiments.table",
        "experiments.benchmark",
    ],
]
LAYER_OF = {name: n for n, layer in enumerate(LAYERS) for name in layer}

# A forecast needs no training.
NEVER_TRAIN = ["seqjax.bayes", "seqjax.label_dependence", "seqjax.receptive_field", "seqjax.forecasts"]
PLAIN_TYPES = {"seqjax", "seqjax.config", "seqjax.batch"}  # all that a report may import


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


FILES = {module_of(path): path for folder in ("seqjax", "experiments") for path in (ROOT / folder).rglob("*.py")}


def imports_of(source: str, known: set[str]) -> set[str]:
    """The modules that a source imports, wherever it does; `from a import b` is a.b where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be read"
            base = node.module or ""
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names & known
            if names - known:
                found.add(base)
    return found


def kit_imports(name: str) -> set[str]:
    found = imports_of(FILES[name].read_text(), set(FILES))
    return {module for module in found if module.split(".")[0] in ("seqjax", "experiments")}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import seqjax.training", {"seqjax.training"}),
        ("import seqjax.training as t, json", {"seqjax.training", "json"}),
        ("from seqjax import training, tasks", {"seqjax.training", "seqjax.tasks"}),
        ("from seqjax import VERSION", {"seqjax"}),
        ("from seqjax.training import train_step", {"seqjax.training"}),
        ("def f():\n    from seqjax import training", {"seqjax.training"}),
        ("if True:\n    import experiments.main", {"experiments.main"}),
    ],
)
def test_every_way_to_import_is_read(source, found):
    assert imports_of(source, {"seqjax.training", "seqjax.tasks", "experiments.main"}) == found


def test_every_file_has_its_place():
    assert set(FILES) <= set(LAYER_OF), "place the new file in LAYERS"
    assert len(FILES) > 15
    assert sum(len(layer) for layer in LAYERS) == len(LAYER_OF), "a file has one place"


# Commands import what they start, a report plain types, and a run nearly all.
SAYING = {name for name in FILES if re.fullmatch(r"seqjax\.\w+", name)} - {"seqjax.report", "seqjax.experiment"}


@pytest.mark.parametrize("name", sorted(SAYING))
def test_the_first_lines_say_what_is_imported(name):
    says = re.search(r"Imports\s[^.]*\.", ast.get_docstring(ast.parse(FILES[name].read_text())) or "")
    assert says is not None
    assert {f"seqjax.{said}" for said in re.findall(r"`(\w+)`", says[0])} == kit_imports(name)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_go_one_way(name):
    for module in kit_imports(name):
        assert module in LAYER_OF, f"{name} imports {module}, which has no place"
        if name == "seqjax.experiment" and module.startswith("seqjax.report"):
            continue  # see test_the_experiment_imports_the_report_in_one_place
        assert LAYER_OF[module] < LAYER_OF[name], f"{name} imports {module}, which lies beneath it"


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("seqjax")))
def test_the_library_imports_no_experiments_and_no_flags(name):
    found = imports_of(FILES[name].read_text(), set(FILES))
    assert not [module for module in found if module.split(".")[0] in ("experiments", "absl")]


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("seqjax.report.")))
def test_a_report_imports_nothing_of_the_library_but_types(name):
    others = {module for module in kit_imports(name) if not module.startswith("seqjax.report")}
    assert others <= PLAIN_TYPES


def reachable(name: str) -> set[str]:
    """All that an import of this file brings with it."""
    found, left = set(), {name}
    while left:
        module = left.pop()
        found.add(module)
        left |= kit_imports(module) - found
    return found


@pytest.mark.parametrize("name", NEVER_TRAIN)
def test_a_forecast_needs_no_training(name):
    assert "seqjax.training" not in reachable(name)


def test_training_needs_no_forecast():
    assert not reachable("seqjax.training") & {*NEVER_TRAIN, "seqjax.diagnosis"}


def test_the_experiment_imports_the_report_in_one_place():
    tree = ast.parse(FILES["seqjax.experiment"].read_text())
    allowed = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_repr_html_"]
    inside = {id(node) for function in allowed for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in inside:
            assert not any("report" in module for module in imports_of(ast.unparse(node), set(FILES)))
