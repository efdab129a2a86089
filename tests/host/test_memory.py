"""Out of memory is answered by smaller chunks, with the same result."""

import pytest
import torch
from palimpsest.host.memory import chunked, chunked_cat, is_out_of_memory


def squares_within(limit: int, seen: list, error=torch.OutOfMemoryError("CUDA out of memory")):
    values = torch.arange(10.0)

    def fn(rows: slice) -> torch.Tensor:
        seen.append(rows.stop - rows.start)
        if rows.stop - rows.start > limit:
            raise error
        return values[rows] ** 2

    return fn


@pytest.mark.parametrize("limit, sizes", [(10, [10]), (5, [10, 5, 5]), (4, [10, 5, 2, 2, 2, 2, 2])])
def test_chunks_are_halved_and_the_result_stays(limit, sizes):
    seen: list = []
    assert torch.equal(chunked_cat(squares_within(limit, seen), 10), torch.arange(10.0) ** 2)
    assert seen == sizes


def test_a_single_row_too_many_is_a_sentence():
    with pytest.raises(MemoryError, match=r"^The frames do not fit|^The morph does not fit into memory even one"):
        chunked(squares_within(0, []), 10, what="The morph")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"):
        chunked(squares_within(1, [], RuntimeError("shapes do not match")), 10)


def test_the_first_size_is_kept():
    seen: list = []
    chunked(squares_within(3, seen), 7, size=3)
    assert seen == [3, 3, 1]


def test_errors_that_speak_of_memory():
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory of what the artist meant"))
