import threading

import pytest
import torch

from dreamfusion.utils.threads import run_all, run_pieces


@pytest.fixture(autouse=True)
def four_threads(one_thread):
    torch.set_num_threads(4)


def test_results_come_in_order_and_from_several_threads():
    meet = threading.Barrier(4)

    def job(i):
        meet.wait(timeout=10)
        return i, threading.get_ident()

    found = run_all([lambda i=i: job(i) for i in range(8)])
    assert [i for i, _ in found] == list(range(8))
    assert len({thread for _, thread in found}) == 4


@pytest.mark.parametrize("torch_threads", [1, 2, 4])
def test_jobs_have_a_share_of_torchs_threads_and_no_gradients(torch_threads):
    leaf = torch.ones(1, requires_grad=True)

    def job():
        return torch.get_num_threads(), (leaf * 2).requires_grad

    assert run_all([job] * 4, torch_threads=torch_threads) == [(torch_threads, False)] * 4
    assert torch.get_num_threads() == 4 and torch.is_grad_enabled()


def test_threads_started_later_have_all_torch_threads():
    run_all([lambda: None] * 4, torch_threads=2)
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [4]


def test_the_first_exception_is_raised():
    def fail(i):
        raise ValueError(f"job {i}")

    with pytest.raises(ValueError, match="job 2"):
        run_all([lambda: None, lambda: None, lambda: fail(2), lambda: fail(3)])


@pytest.mark.parametrize("n", [0, 1, 1000, 100_003])
def test_pieces_cover_the_range_once_with_a_minimum_length(n):
    pieces = []
    run_pieces(lambda start, stop, into: into.append((start, stop)), n, pieces, at_least=64)
    pieces.sort()
    assert [i for start, stop in pieces for i in range(start, stop)] == list(range(n))
    assert len(pieces) == 1 or min(stop - start for start, stop in pieces) >= 64
