"""Maps of parts are added up where they lie, and parts are found where they were cut from."""

import torch
from palimpsest.guidance.prompt_to_prompt.map_sums import MapSums
from palimpsest.host.attention.parts import Part, parts_of_call, places


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_whole_maps_are_summed_to_the_last_bit():
    sums, maps = MapSums((12, 8), 2), [noise(5, 6, 4, seed=seed).abs() for seed in range(3)]
    for one in maps:
        sums.add(0, one, (12, 8))
    total = maps[0] + maps[1] + maps[2]
    assert torch.equal(sums.totals()[0], total) and torch.equal(sums.means()[0], total / 3) and sums.whole()


def test_overlapping_parts_are_averaged_and_what_is_not_covered_counts_for_nothing():
    sums, whole = MapSums((8, 16), 2), noise(3, 4, 8).abs()
    for left in (0, 4):
        sums.add(0, whole[..., left // 2 : left // 2 + 4], (8, 8), 0, left)
    mean = sums.means()[0]
    assert torch.allclose(mean[..., :6], whole[..., :6]) and not mean[..., 6:].any() and not sums.whole()
    assert not MapSums((8, 16), 2)


def test_maps_of_another_size_cover_the_same_place():
    """As a node makes them that shrinks the features for some steps."""
    sums = MapSums((8, 8), 2)
    sums.add(0, torch.full((2, 2, 2), 0.25), (8, 8))
    assert torch.allclose(sums.means()[0], torch.full((2, 4, 4), 0.25))


def test_the_place_of_a_part_is_found_by_its_values():
    whole = noise(2, 4, 10, 12)
    assert places(whole[1, :, 3:7, 2:9], whole) == [(1, 3, 2)]
    assert places(whole[1], whole) == [(1, 0, 0)]
    assert places(whole[1, :, 3:7, 2:9] * 1.01, whole) == [] == places(noise(4, 11, 3), whole)
    alike = torch.cat([whole, whole])
    assert places(whole[0, :, 3:7, 2:9], alike) == [(0, 3, 2), (2, 3, 2)]
    assert places(torch.full((4, 3, 3), torch.nan), whole) == []


def test_parts_of_a_call_in_either_order():
    """Rows that start alike, as those of a source and its edit do, are distinguished by where their tile stands."""
    whole = noise(1, 4, 8, 16).expand(2, -1, -1, -1)
    tiles = [whole[..., left : left + 8] for left in (0, 4, 8)]
    both = [torch.cat([tile, tile]) for tile in tiles]  # two conditionings
    tiles_first = parts_of_call(torch.cat(both), whole, 2, [1])
    assert tiles_first == [Part((4 * n + 2, 4 * n + 3), 0, 4 * n) for n in range(3)]
    rows_first = parts_of_call(torch.stack(both, 1).flatten(0, 1), whole, 2, [1])
    assert rows_first == [Part((6 + n, 9 + n), 0, 4 * n) for n in range(3)]
    assert parts_of_call(torch.cat(both)[1:], whole, 2, [1]) is None
    assert parts_of_call(torch.cat(both) + 1e-3, whole, 2, [1]) is None
    assert parts_of_call(torch.cat([whole, whole]), whole, 2, [0]) == [Part((0, 1))]
