import pytest
import torch


@pytest.fixture(autouse=True)
def quiet():
    """Deterministic algorithms, which a run switches on, are for that run."""
    yield
    torch.use_deterministic_algorithms(False)
