"""What must be set before libraries are imported: tests never reach for the network, threads wait
asleep (see cli.main), and without a GPU Triton's kernels run in its interpreter."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: threads that wait for others' cost twice
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _old_names_of_settings_are_reported_in_every_test(monkeypatch):
    """A process reports the first one only, which would be that of another test."""
    monkeypatch.setattr("dreamfusion.config.renamed._warned", False)


@pytest.fixture
def one_thread():
    """Pictures this small gain nothing from more, and lose a lot on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
