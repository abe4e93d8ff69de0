"""Fixtures for pytest. The plugin imports nothing else until one of them is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from garivini.testing.modes import Target
    from garivini.testing.queue import TestQueue

_OPTION = "garivini_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that names the application."""
    parser.addini(_OPTION, "the application under test, as module:name, for the fixtures of garivini")


@pytest.fixture
def garivini_app(pytestconfig: pytest.Config) -> Target:
    """Return the application or Worker that the setting ``garivini_app`` names; None without the setting."""
    setting = str(pytestconfig.getini(_OPTION))
    if not setting:
        return None
    from importlib import import_module

    module, _, name = setting.partition(":")
    found: Target = getattr(import_module(module), name or "app")
    return found


@pytest.fixture
def garivini_queue(garivini_app: Target) -> Iterator[TestQueue]:
    """Return a queue in memory, into which the application inserts. ``drain`` runs its jobs."""
    from garivini.testing.modes import manual

    with manual(garivini_app) as queue:
        yield queue


@pytest.fixture
def garivini_inline(garivini_app: Target) -> Iterator[TestQueue]:
    """Return a queue in memory, whose jobs run when their inserts are committed."""
    from garivini.testing.modes import inline

    with inline(garivini_app) as queue:
        yield queue
