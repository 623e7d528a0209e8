"""What a page or an example registers is forgotten after its test: two of them use the same name."""

import pytest

from metarl_jax.envs import registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
