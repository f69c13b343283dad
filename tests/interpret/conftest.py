"""What the tests of explanations share."""

import functools

import pytest
from random_runs import random_run


@pytest.fixture(scope="session")
def run_of(random_params):
    """``random_run`` with parameters."""
    return functools.partial(random_run, random_params)
