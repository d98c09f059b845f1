"""Imports run downwards, and docs/architecture.md shows the house as it is."""

from __future__ import annotations

import ast
import configparser
import graphlib
import sys

import pytest

from docs.generate import layers, pictures
from docs.generate.sources import ROOT, Sources

SOURCES = Sources()
MODULES = layers.modules(SOURCES)
USE = layers.LAYERS[0]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_in_a_layer(module: str) -> None:
    """A new module is put into `docs.generate.layers.LAYERS`, once."""
    short = module.removeprefix("smtpconn.")
    assert [layer.name for layer in layers.LAYERS if layer.holds(short)] != []
    assert sum(layer.holds(short) for layer in layers.LAYERS) == 1


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    """A module imports from its own layer and from those below it."""
    here = layers.layer_of(module)
    assert here is not None
    upwards = {
        other
        for other in layers.imports(SOURCES, module) - layers.DOORS
        if (there := layers.layer_of(other)) is None or there < here
    }
    assert upwards == set()


@pytest.mark.parametrize("module", [m for m in MODULES if layers.layer_of(m) != 0])
def test_nobody_inside_comes_through_the_door(module: str) -> None:
    """Only users, and what stands at the top like them, import names from ``smtpconn`` itself."""
    assert "smtpconn" not in layers.imports(SOURCES, module)


def test_there_are_no_circles() -> None:
    """Not inside a layer either."""
    graph = {module: layers.imports(SOURCES, module) & set(MODULES) for module in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert sorted(order) == sorted(MODULES)


def test_the_list_names_no_module_that_is_gone() -> None:
    """But for the top, where what is listed may come as an extra."""
    listed = {m.removesuffix(".*") for layer in layers.LAYERS[1:] for m in layer.modules}
    assert listed <= {m.removeprefix("smtpconn.") for m in SOURCES.modules}


def test_the_server_for_tests_is_an_independent_witness() -> None:
    """It uses nothing of the client."""
    inside = [m for m in MODULES if m.startswith("smtpconn.testing")]
    used = {other for module in inside for other in layers.imports(SOURCES, module)}
    assert {other for other in used if not other.startswith("smtpconn.testing")} == set()


def test_below_the_top_only_certifi_and_the_extras_are_needed() -> None:
    """What is neither the standard library nor certifi is an extra of setup.cfg, imported late."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"]["idna"].split())
    extras |= set(setup["options.extras_require"]["scram"].split())
    for module in MODULES:
        if layers.layer_of(module) == 0:
            continue
        tree = ast.parse(SOURCES.modules[module].text)
        foreign = _foreign(list(ast.walk(tree)))
        assert foreign <= {"certifi"} | extras, module
        assert _foreign(tree.body) == set(), f"{module} imports something before it is needed"


def test_the_page_is_up_to_date() -> None:
    """Table and pictures are what `python -m docs.generate` makes."""
    assert layers.page(SOURCES) == layers.PAGE.read_text()
    for name, picture in pictures.pictures(SOURCES).items():
        assert (pictures.FOLDER / name).read_text() == picture


def _foreign(nodes: list[ast.stmt] | list[ast.AST]) -> set[str]:
    """What is imported that is neither ours nor Python's."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"smtpconn"}
