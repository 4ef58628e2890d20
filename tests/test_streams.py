"""Randomness as data: streams equal torch generators, advance without side effects and fork apart."""

import torch

from genbench import streams


def test_a_stream_draws_what_a_generator_draws() -> None:
    noise, _ = streams.normal(streams.seeded([7, 8]), (3, 4))
    generator = torch.Generator("cpu").manual_seed(8)
    assert torch.equal(noise[1:], torch.randn((1, 3, 4), generator=generator))


def test_drawing_twice_from_one_stream_gives_the_same_and_the_advanced_stream_goes_on() -> None:
    rng = streams.seeded([7])
    first, after = streams.normal(rng, (5,))
    again, _ = streams.normal(rng, (5,))
    following, _ = streams.normal(after, (5,))
    generator = torch.Generator("cpu").manual_seed(7)
    torch.randn((1, 5), generator=generator)
    assert torch.equal(first, again)
    assert torch.equal(following, torch.randn((1, 5), generator=generator))


def test_a_row_does_not_depend_on_its_companions() -> None:
    alone, _ = streams.normal(streams.seeded([3]), (4,))
    among, _ = streams.normal(streams.seeded([1, 2, 3]), (4,))
    assert torch.equal(alone[0], among[2])


def test_fork_keeps_the_first_copy_and_separates_the_others() -> None:
    rng = streams.seeded([1, 2])
    forked = streams.fork(rng, [0, 0, 1, 0])
    noise, _ = streams.normal(forked, (64,))
    plain, _ = streams.normal(rng, (64,))
    assert torch.equal(noise[0], plain[0]) and torch.equal(noise[2], plain[1])
    assert len({tuple(row.tolist()) for row in noise}) == 4
    assert torch.equal(torch.stack(streams.fork(rng, [0, 0])), torch.stack(streams.fork(rng, [0, 0])))


def test_derived_seeds_are_nested_and_do_not_collide() -> None:
    seeds = [streams.derived_seed(seed, index) for seed in range(20) for index in range(16)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert [streams.derived_seed(5, 0), streams.derived_seed(5, 3)] == [5, streams.derived_seed(5, 3)]
