"""Feynman-Kac steering (arXiv:2501.06848): particles of one prompt, resampled by the reward of their x0 predictions.

At chosen steps a particle of reward r weighs exp(lambda G), with G by potential: `diff` r - r_before, `max` the
largest reward so far, `add` their sum, `rt` r alone. The last weight makes the product over a particle's life
exp(lambda r), r the reward of the finished picture: with enough particles they follow p(x) exp(lambda r(x)).

Exponents are taken relative to the largest of the population, which changes no resampling and keeps the published
clamp of weights to [0, 1e10] from flattening them. Under `ess` weights of steps without resampling are carried on (the
public code drops them, which biases the result).

A particle whose reward is NaN takes the smallest potential of the others that time, and remembers nothing of it; where
none has a number nothing is resampled and nothing changes. (The public code gives NaN the weight 0.) The potential is
part of the product, so the last weight still comes to exp(lambda r).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genbench import cost, searchspace, streams
from genbench.errors import GenbenchError
from genbench.kinds import Context, Space, State
from genbench_search.budget import Allowance
from genbench_search.lineage import Lineage, Promising, branch, founders, previews, walked
from genbench_search.running import Pool

Potential = Literal["max", "diff", "add", "rt"]
CLAMP = 1e10
LARGEST = 1e30  # an infinite reward counts as this, so that differences of weights stay numbers


@dataclass(frozen=True)
class Weights:
    """Of K particles, float64 (K,): log weight since the last resampling, log product of all potentials, and what the
    potential remembers of earlier rewards.
    """

    log: Tensor
    product: Tensor
    memory: Tensor

    @classmethod
    def fresh(cls, n: int, potential: Potential) -> Weights:
        """Return those of particles that have met no reward."""
        zero = torch.zeros(n, dtype=torch.float64)
        return cls(zero, zero, zero - torch.inf if potential == "max" else zero)

    def met(self, reward: Tensor, potential: Potential, strength: float) -> Weights:
        """Return the weights after rewards (K,); these ones where all are NaN."""
        known, reward = ~reward.isnan(), reward.clamp(-LARGEST, LARGEST)
        if not known.any():
            return self
        reached = {"max": torch.maximum(reward, self.memory), "add": reward + self.memory}.get(potential, reward)
        exponent = strength * (reward - self.memory if potential == "diff" else reached)
        exponent = exponent.where(known, exponent[known].min())
        return Weights(self.log + exponent, self.product + exponent, reached.where(known, self.memory))

    def finished(self, reward: Tensor, strength: float) -> Weights:
        """Return the weights after the rewards of finished pictures: their product is exp(lambda r), 0 for NaN."""
        exponent = (strength * reward.clamp(-LARGEST, LARGEST)).nan_to_num(-torch.inf)
        return replace(self, log=self.log + exponent - self.product)

    def rows(self, index: Sequence[int]) -> Weights:
        """Return those of resampled particles: all weigh the same again."""
        rows = list(index)
        return Weights(torch.zeros(len(rows), dtype=torch.float64), self.product[rows], self.memory[rows])

    @property
    def shares(self) -> Tensor | None:
        """Weights (K,) that sum to 1; None where no particle has any."""
        top = self.log.max()
        if not torch.isfinite(top):
            return None
        weights = (self.log - top).exp().nan_to_num(0.0).clamp(0, CLAMP)
        return weights / weights.sum()


@dataclass(frozen=True)
class FK:
    """`particles` (K), `strength` (lambda); resampling from `start` to `stop` every `every`, shares of the steps."""

    particles: int = 4
    potential: Potential = "max"
    strength: float = 10.0
    start: float = 0.2
    stop: float = 0.8
    every: float = 0.2
    ess: bool = False

    scale: ClassVar[str] = "particles"
    least: ClassVar[int] = 1
    stepwise: ClassVar[bool] = False
    reward: ClassVar[bool] = True

    def stops(self, steps: int) -> list[int]:
        """Return the steps after which particles are resampled, none before the first or after the last."""
        count = int((self.stop - self.start) / self.every + 1e-9) + 1 if self.stop >= self.start else 0
        wanted = {round((self.start + i * self.every) * steps) for i in range(count)}
        return sorted(step for step in wanted if 0 < step < steps)

    def evaluations(self, walk: int, ctx: Context) -> int:
        """K (k + x0 predictions); a sampler without noise also walks one step of each resampling again."""
        stops, one = self.stops(ctx.schedule.steps), cost.rows_per_call(ctx)
        if self.particles == 1 or not stops:
            return self.particles * walk
        shape = ctx.model.latent_shape(ctx.height, ctx.width)
        if searchspace.draws_noise(ctx, shape):
            return self.particles * (walk + one * len(stops))
        ends = [*stops[1:], ctx.schedule.steps]
        walks = sum(cost.price(ctx, at - 1, end) for at, end in zip(stops, ends, strict=True))
        return self.particles * (cost.price(ctx, 0, stops[0]) + walks + one * len(stops))

    def search(self, space: Space, pool: Pool, allowance: Allowance) -> Pool:
        """Add the particles, finished. Where the verifier fails midway, the best so far, unjudged."""
        best = Promising()
        states, ways, _, pool = self.steer(space, pool, best)
        return pool if pool.stopped else pool.offer(space, states, [way.made(space) for way in ways], best)

    def steer(self, space: Space, pool: Pool, best: Promising) -> tuple[State, list[Lineage], Weights, Pool]:
        """Walk K particles to the end: their states, ways, weights before the last reward, and the pool of previews."""
        noise, seeds = space.propose(self.particles)
        states, ways = space.start(noise, seeds), founders(seeds)
        weights = Weights.fresh(self.particles, self.potential)
        stops = self.stops(space.ctx.schedule.steps) if self.particles > 1 else []
        draws, back = own_stream(space), 1 if stops and not space.draws_noise else 0
        for at in stops:
            states = space.run(states, at)
            images = space.preview(states)
            try:
                reward = space.score(images).detach().double().cpu()
            except GenbenchError as error:
                return states, ways, weights, best.salvaged(space, pool, error)
            scores = [(value,) for value in reward.tolist()]
            pool = pool.seen(previews(space, ways, at, scores))
            best.note(states, ways, scores)
            met = weights.met(reward, self.potential, self.strength)
            index = None if met is weights else self.resampled(met, draws)
            weights = met
            weights = weights if index is None else weights.rows(index)
            states, ways = branch(space, states, ways, index or range(self.particles), at - back)
        return space.run(states), ways, weights, pool

    def resampled(self, weights: Weights, draws: torch.Generator) -> list[int] | None:
        """Return which particles go on, drawn by weight; None where all do as they are."""
        shares = weights.shares
        if shares is None or (self.ess and 1 / float(shares.square().sum()) >= self.particles / 2):
            return None
        return torch.multinomial(shares, self.particles, replacement=True, generator=draws).tolist()

    def remake(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> State:
        """Return the finished state of a particle: its own way alone."""
        return walked(space, trace[row])


def own_stream(space: Space) -> torch.Generator:
    """Return a random stream of this picture that no noise is drawn from."""
    return streams.generators(streams.fork(streams.seeded(space.ctx.seeds), [0, 0]))[1]
