"""What tests of several parts of the machine share."""

from __future__ import annotations

import pytest

from tests.support.nvml import compile_fake_nvml


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The folder of a compiled stand-in for NVIDIA's library."""
    folder = compile_fake_nvml(tmp_path_factory.mktemp("nvml"))
    return folder or pytest.skip("there is no C compiler here")
