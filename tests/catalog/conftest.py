from __future__ import annotations

import pytest

from registry.catalog.engine import Catalog
from tests.catalog.workshop import Workshop


@pytest.fixture
def workshop(any_catalog: Catalog) -> Workshop:
    return Workshop(any_catalog)
