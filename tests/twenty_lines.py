"""The methods that the contract has to carry, each as a plugin of about twenty lines: see test_contract.py.

They keep each method's shape, not its every detail, and read as a plugin's author would write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genbench import solvers, streams
from genbench.kinds import (
    About,
    Candidate,
    Context,
    Denoise,
    Level,
    Model,
    Prediction,
    Resources,
    Schedule,
    Space,
    Start,
    State,
    Step,
)

# --- noise --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldenNoise:
    """A learned change of the initial noise (NPNet, arXiv:2411.09502)."""

    weights: str  # safetensors file with `shift` (3,): what the network adds to each channel
    strength: float = 1.0  # 0 is neutral
    about: ClassVar[About] = About("Golden noise.", contract=1, neutral={"strength": 0.0})

    def transform_noise(self, start: Start, ctx: Context) -> Start:
        shift: Tensor = ctx.load(self.weights, load_file)["shift"]
        return replace(start, noise=start.noise + self.strength * shift[:, None, None])


@dataclass(frozen=True)
class FromImage:
    """Image to image: start late, from a noised picture (SDEdit, arXiv:2108.01073)."""

    image: str  # safetensors file with `image` (3, h, w) in [0, 1]
    strength: float = 0.6  # share of the steps that are walked, in (0, 1]
    about: ClassVar[About] = About("Start from a picture.", contract=1)

    def transform_noise(self, start: Start, ctx: Context) -> Start:
        image: Tensor = ctx.load(self.image, load_file)["image"]
        origin = ctx.model.encode_image(image[None]).expand_as(start.noise)
        return replace(start, origin=origin, index=round((1 - self.strength) * ctx.schedule.steps))


@dataclass(frozen=True)
class EditFriendly:
    """Noise maps that replay a picture under an ancestral sampler (edit-friendly DDPM inversion, arXiv:2304.06140)."""

    image: str  # safetensors file with `image` (3, h, w) in [0, 1]
    skip: int = 2  # outer steps left out
    source: str = ""  # prompt of the picture
    about: ClassVar[About] = About("Edit-friendly inversion.", contract=1)

    def transform_noise(self, start: Start, ctx: Context) -> Start:
        origin = ctx.model.encode_image(ctx.load(self.image, load_file)["image"][None]).expand_as(start.noise)
        levels, n, b = ctx.schedule.levels, ctx.schedule.steps, len(start.noise)
        denoise = ctx.denoiser(conditioning=ctx.encode_prompt([self.source] * b), guidance_scale=1.0)
        noise, _ = streams.normal(streams.seeded(ctx.seeds), (n + 1, *origin.shape[1:]))
        walk = [level.alpha * origin + level.sigma * noise[:, i] for i, level in enumerate(levels)]
        draws = torch.zeros(n, *origin.shape)
        for i in range(self.skip, n):  # a step is mean + std * draw: two steps give both
            at = [State(walk[i], i, {"step_noise": torch.full((b, n, *origin.shape[1:]), z)}) for z in (0.0, 1.0)]
            mean, one = (ctx.sampler.step(state, denoise, ctx).x for state in at)
            draws[i] = torch.where(one == mean, 0.0, (walk[i + 1] - mean) / (one - mean))
        return Start(noise[:, self.skip], self.skip, origin, draws)


# --- search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BestOf:
    """Random search: the best of n noises (arXiv:2501.09732)."""

    n: int = 4  # noises tried; 1 is neutral
    about: ClassVar[About] = About("Best of n.", contract=1, neutral={"n": 1}, cache_safe=True)

    def search(self, space: Space) -> Candidate:
        noise, seeds = space.propose(self.n)
        states = space.run(space.start(noise, seeds))
        scores = space.score(space.decode(states))
        best = int(scores.argmax())
        trace = tuple({"seed": seed, "score": float(score)} for seed, score in zip(seeds, scores, strict=True))
        return Candidate(states.rows([best]), float(scores[best]), trace)


@dataclass(frozen=True)
class ZeroOrder:
    """Climb among neighbours of a pivot noise (zero-order search, arXiv:2501.09732)."""

    rounds: int = 3  # the first tries the picture's own noise
    n: int = 3  # neighbours per round
    cosine: float = 0.9  # of a neighbour to the pivot
    about: ClassVar[About] = About("Zero-order search.", contract=1, cache_safe=True)

    def search(self, space: Space) -> Candidate:
        noise, seeds = space.propose(1)
        pivot, best, trace = noise, None, []
        for _ in range(self.rounds):
            states = space.run(space.start(noise, seeds))
            scores = space.score(space.decode(states))
            trace += [{"seed": s, "score": float(v)} for s, v in zip(seeds, scores, strict=True)]
            top = int(scores.argmax())
            if best is None or float(scores[top]) > best.score:
                pivot, best = noise[[top]], Candidate(states.rows([top]), float(scores[top]))
            noise, seeds = space.propose(self.n, around=pivot, cosine=self.cosine)
        assert best is not None
        return replace(best, trace=tuple(trace))


@dataclass(frozen=True)
class Paths:
    """Walk part of the way, renoise the best into several, walk on (search over paths, arXiv:2501.09732)."""

    width: int = 2  # paths kept
    branches: int = 3  # of each path at each stop
    back: int = 2  # outer steps gone back at each stop
    about: ClassVar[About] = About("Search over paths.", contract=1)

    def search(self, space: Space) -> Candidate:
        last = space.ctx.schedule.steps
        states = space.start(*space.propose(self.width))
        for stop in range(last // 2, last, self.back + 1):
            states = space.run(states, stop)
            wide = states.fork([i for i in range(self.width) for _ in range(self.branches)])
            wide = space.run(space.renoise(wide, stop - self.back), stop)
            keep = space.score(space.preview(wide)).topk(self.width).indices.tolist()
            states = wide.rows(keep)
        states = space.run(states)
        scores = space.score(space.decode(states))
        best = int(scores.argmax())
        return Candidate(states.rows([best]), float(scores[best]), ({"seed": None, "score": float(scores[best])},))


@dataclass(frozen=True)
class Steering:
    """Particles resampled by the reward of their previews (Feynman-Kac steering, arXiv:2501.06848)."""

    particles: int = 4  # walked together
    every: int = 2  # outer steps between resamplings
    tilt: float = 20.0  # lambda; 0 never prefers a particle
    about: ClassVar[About] = About("FK steering.", contract=1)

    def search(self, space: Space) -> Candidate:
        states, before = space.start(*space.propose(self.particles)), torch.zeros(self.particles)
        draws = torch.Generator().manual_seed(space.ctx.seeds[0])
        for stop in range(self.every, space.ctx.schedule.steps, self.every):
            states = space.run(states, stop)
            reward = space.score(space.preview(states))
            weights = (self.tilt * (reward - before)).softmax(0)  # the difference potential
            chosen = torch.multinomial(weights, self.particles, replacement=True, generator=draws).tolist()
            states, before = states.fork(chosen), reward[chosen]
        states = space.run(states)
        scores = space.score(space.decode(states))
        best = int(scores.argmax())
        trace = tuple({"seed": i, "score": float(score)} for i, score in enumerate(scores))
        return Candidate(states.rows([best]), float(scores[best]), trace)


@dataclass(frozen=True)
class NoiseGradient:
    """Gradient ascent of the reward in the initial noise (ReNO, arXiv:2406.04312)."""

    iterations: int = 5  # whole walks
    rate: float = 20.0  # of the ascent
    about: ClassVar[About] = About("Reward-based noise optimisation.", contract=1)

    def search(self, space: Space) -> Candidate:
        noise, seeds = space.propose(1)
        candidates: list[Candidate] = []
        for _ in range(self.iterations):
            with torch.enable_grad():
                leaf = noise.detach().requires_grad_()
                states = space.run(space.start(leaf, seeds))
                score = space.score(space.decode(states))
                (slope,) = torch.autograd.grad(score.sum(), leaf)
            candidates.append(Candidate(states.replace(x=states.x.detach()), float(score.detach())))
            noise = leaf.detach() + self.rate * slope
            noise = noise * (leaf.detach().norm() / noise.norm())  # stays on the sphere where noise lives
        best = max(candidates, key=lambda candidate: candidate.score)
        return replace(best, trace=tuple({"seed": seeds[0], "score": c.score} for c in candidates))


# --- step ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GuidanceInterval:
    """Guide only in the middle of the walk (arXiv:2404.07724)."""

    start: float = 0.2  # share of the walk
    stop: float = 0.8  # share of the walk; 1 with start=0 is neutral
    about: ClassVar[About] = About("Guidance in an interval.", contract=1, neutral={"start": 0.0, "stop": 1.0})

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        plain, n = ctx.denoiser(guidance_scale=1.0), ctx.schedule.steps

        def interval(state: State, denoise: Denoise) -> State:
            inside = self.start <= state.index / n < self.stop
            return step(state, denoise if inside else plain)

        return interval


@dataclass(frozen=True)
class Rescale:
    """Give the guided prediction the conditional one's standard deviation (arXiv:2305.08891, section 3.4)."""

    phi: float = 0.7  # 0 is neutral
    about: ClassVar[About] = About("CFG rescale.", contract=1, neutral={"phi": 0.0}, cache_safe=True)

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        def rescaled(prediction: Prediction) -> Prediction:
            if prediction.cond is None or self.phi == 0:
                return prediction
            ratio = _std(prediction.cond.eps) / _std(prediction.eps)
            return prediction.with_raw(prediction.eps * (self.phi * ratio + 1 - self.phi), "epsilon")

        return lambda state, denoise: step(state, lambda x, level: rescaled(denoise(x, level)))


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(1)[:, None, None, None]


@dataclass(frozen=True)
class Reflect:
    """Step forward, back with a weak model, forward again (W2SD, arXiv:2502.00473)."""

    weak: str = "toy/weak"  # a second model
    stop: float = 0.5  # share of the walk that reflects; 0 is neutral
    about: ClassVar[About] = About("Reflection with a weak model.", contract=1, neutral={"stop": 0.0})

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        if self.stop == 0:
            return step
        model = ctx.load_model(self.weak)
        weak = ctx.denoiser(model=model, conditioning=ctx.encode_prompt(ctx.prompts, model))

        def reflect(state: State, denoise: Denoise) -> State:
            if state.index >= self.stop * ctx.schedule.steps:
                return step(state, denoise)
            here, there = ctx.schedule.levels[state.index], ctx.schedule.levels[state.index + 1]
            ahead = step(state, denoise).x
            eps = weak(ahead, there).eps
            back = solvers.ddim(ahead, eps, there.alpha, there.sigma, here.alpha, here.sigma)
            return step(state.replace(x=back), denoise)

        return reflect


@dataclass(frozen=True)
class StepCache:
    """Answer every other step with the last prediction (after DeepCache, arXiv:2312.00858)."""

    interval: int = 2  # 1 is neutral
    about: ClassVar[About] = About("A step cache.", contract=1, neutral={"interval": 1}, step_cache=True)

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        kept: list[Prediction] = []  # lives and dies with this trajectory

        def cached(state: State, denoise: Denoise) -> State:
            def answer(x: Tensor, level: Level) -> Prediction:
                if state.index % self.interval == 0 or not kept:
                    kept[:] = [denoise(x, level)]
                    return kept[0]
                return Prediction(kept[0].raw, x, level, kept[0].type)

            return step(state, answer)

        return cached


# --- sampler ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SecondOrder:
    """A sampler that corrects DDIM by its own last prediction (LML, arXiv:2505.24222, corrects the same place)."""

    kappa: float = 0.5  # 0.5 is Adams-Bashforth's; 0 is neutral
    about: ClassVar[About] = About("Second-order DDIM.", contract=1, neutral={"kappa": 0.0})

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        return model.sampler.schedule(steps, model, shape)

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        here, there = ctx.schedule.levels[state.index : state.index + 2]
        if self.kappa == 0:
            return ctx.model.sampler.step(state, denoise, ctx)
        eps = denoise(state.x, here).eps
        ahead = eps + self.kappa * (eps - state.memory.get("eps", eps))
        x = solvers.ddim(state.x, ahead, here.alpha, here.sigma, there.alpha, there.sigma)
        return state.replace(x=x, index=state.index + 1, memory={"eps": eps})


# --- model --------------------------------------------------------------------------------------------------------


class Student(nn.Module):
    """One call that gives what `steps` guided calls of the teacher give (what distillation learns)."""

    def __init__(self, teacher: nn.Module, steps: int) -> None:
        super().__init__()
        self.teacher, self.steps = teacher, steps

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        y, angle = x, torch.atan2(sigma, alpha)
        for i in range(self.steps):
            a, b = (angle * (1 - j / self.steps) for j in (i, i + 1))
            y = solvers.ddim(y, self.teacher(y, a.cos(), a.sin(), weights), a.cos(), a.sin(), b.cos(), b.sin())
        return solvers.x0_to_eps(y, x, alpha, sigma)


@dataclass(frozen=True)
class Distilled:
    """A one-step student in the teacher's place, with the settings that it needs."""

    steps: int = 50  # of the teacher that the student imitates
    about: ClassVar[About] = About("A distilled model.", contract=1, cost="1 per picture")

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        student = Student(model.modules["network"], self.steps)
        recommended = {**model.recommended, "steps": 1, "guidance_scale": 1.0}
        return model.replace(modules={"network": student}, recommended=recommended)


@dataclass(frozen=True)
class Lora:
    """A LoRA as a view: shares the weights, leaves nothing to switch back."""

    path: str  # adapter file
    scale: float = 1.0  # of the adapter; 0 leaves the model as it is
    about: ClassVar[About] = About("A LoRA.", contract=1)

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        return model.view(lora=self.path, lora_scale=self.scale)


@dataclass(frozen=True)
class ControlNets:
    """ControlNets with their pictures: adapters, and a network that is pulled towards each picture."""

    adapters: tuple[str, ...]  # each ControlNet's weights
    pictures: tuple[str, ...]  # one safetensors file with `image` (3, h, w) in [0, 1] for each
    strength: float = 0.4  # of each, in [0, 1]
    about: ClassVar[About] = About("ControlNets with their control pictures.", contract=1)

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        hints = [model.encode_image(ctx.load(picture, load_file)["image"][None]) for picture in self.pictures]
        for adapter in self.adapters:
            model = model.view(controlnet=adapter)
        return model.replace(modules={"network": Controlled(model.modules["network"], hints, self.strength)})


class Controlled(nn.Module):
    """The network with its x0 pulled towards each hint in turn."""

    def __init__(self, network: nn.Module, hints: Sequence[Tensor], strength: float) -> None:
        super().__init__()
        self.network, self.hints, self.strength = network, hints, strength

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        x0 = solvers.eps_to_x0(self.network(x, alpha, sigma, weights), x, alpha, sigma)
        for hint in self.hints:
            x0 = x0 + self.strength * (hint - x0)
        return solvers.x0_to_eps(x0, x, alpha, sigma)


class Recorder(nn.Module):
    """Passes calls through and keeps (x_t, t, conditioning) of each."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        self.calls.append((x, sigma, weights))
        return self.network(x, alpha, sigma, weights)


class Int8(nn.Module):
    """The network with inputs rounded to 8 bits of their recorded range."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        rounded = (x / self.scale).round().clamp(-127, 127) * self.scale
        return self.network(rounded, alpha, sigma, weights)


@dataclass(frozen=True)
class Quantized:
    """8-bit inputs, calibrated on recorded walks (PTQ4DM, arXiv:2211.15736)."""

    prompts: tuple[str, ...] = ("red", "blue")  # of the calibration
    mode: Literal["int8", "off"] = "int8"  # off is neutral
    about: ClassVar[About] = About("Post-training quantization.", contract=1, neutral={"mode": "off"})

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        if self.mode == "off":
            return model
        calls = record(model, self.prompts)
        scale = max(float(x.abs().max()) for x, _, _ in calls) / 127
        return model.replace(modules={"network": Int8(model.modules["network"], scale)})


def record(model: Model, prompts: Sequence[str], steps: int = 4, size: int = 8) -> list[tuple[Tensor, ...]]:
    """Walk by DDIM and return (x_t, sigma_t, conditioning) of every network call."""
    recorder = Recorder(model.modules["network"])
    denoise = model.replace(modules={"network": recorder}).denoiser(model.encode_prompt(prompts), 2.0)
    shape = model.latent_shape(size, size)
    levels = model.sampler.schedule(steps, model, shape).levels
    x, _ = streams.normal(streams.seeded(range(len(prompts))), shape)
    for here, there in pairwise(levels):
        x = solvers.ddim(x, denoise(x, here).eps, here.alpha, here.sigma, there.alpha, there.sigma)
    return recorder.calls
