"""A generator without a network: a mixture of Gaussians in the images' principal components, joint with the answers.

Given an answer, each component is again a Gaussian, and which component is the likelier is known in closed form: such a
mixture is its own inverse.

Sources: Richardson and Weiss, *On GANs and GMMs*, NeurIPS 2018 (mixtures of Gaussians as generators of whole images);
Ghahramani and Jordan, *Supervised learning from incomplete data via an EM approach*, NeurIPS 1993 (the conditional of a
joint mixture).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.modes import full_precision
from mekd_plugin.responses import ScoreNormalisation

__all__ = ["MixtureGenerator"]

_LARGEST_TABLE = 50_000_000  # numbers: 200 MB
_ANSWER_FLOOR = 0.01  # variance of every normalised score in every component: an answer is hardly noise


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _in_full_precision(
    method: Callable[Concatenate[MixtureGenerator, _P], _R],
) -> Callable[Concatenate[MixtureGenerator, _P], _R]:
    """Autocast is off in ``method``: covariances whose entries are rounded to bfloat16 have no Cholesky factor."""

    @wraps(method)
    def call(self: MixtureGenerator, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with full_precision(self.means.device):
            return method(self, *args, **kwargs)

    return call


class MixtureGenerator(nn.Module):
    """G(y, e): draws a component that goes with the answer, and an image from it.

    Args:
        num_classes: C.
        image_shape: ``(channels, height, width)``, any size.
        components: K.
        coordinates: q, principal components that are drawn.

    Shapes:
        latent ``(N, C + q + 1)``: normalised scores, noise for the q coordinates, and one that picks the component ->
        images ``(N, channels, height, width)`` in [-1, 1].

    Raises:
        InputError: a number below 1, or fewer than two classes.
    """

    centre: Tensor
    basis: Tensor
    means: Tensor
    covariances: Tensor
    log_weights: Tensor
    fitted_answers: Tensor

    def __init__(
        self, num_classes: int, image_shape: tuple[int, int, int], *, components: int, coordinates: int
    ) -> None:
        super().__init__()
        if num_classes < 2 or min(image_shape) < 1 or components < 1 or coordinates < 1:
            raise InputError(
                f"num_classes={num_classes}, image_shape={tuple(image_shape)}, components={components}, "
                f"coordinates={coordinates}: expected at least 2 classes, and at least 1 of all others"
            )
        self.num_classes, self.image_shape = num_classes, tuple(image_shape)
        self.components, self.coordinates = components, coordinates
        self.style_dim, self.latent_dim = coordinates + 1, num_classes + coordinates + 1
        pixels, joint = math.prod(image_shape), coordinates + num_classes
        self.register_buffer("centre", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(coordinates, pixels))
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        self.register_buffer("means", torch.zeros(components, joint))
        self.register_buffer("covariances", torch.eye(joint).repeat(components, 1, 1))
        self.register_buffer("fitted_answers", torch.zeros(()))
        self.normalisation: ScoreNormalisation | None = None
        self._prepared: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds it, besides the weights."""
        known = {} if self.normalisation is None else {"normalisation": self.normalisation.as_record()}
        return {
            "num_classes": self.num_classes,
            "image_shape": list(self.image_shape),
            "mixture": {"components": self.components, "coordinates": self.coordinates},
            **known,
        }

    def normalise(self, normalisation: ScoreNormalisation) -> None:
        """Note what makes centred scores its first C coordinates; it is kept in its file."""
        self.normalisation = normalisation.to("cpu")

    @torch.no_grad()
    @_in_full_precision
    def look_at(self, images: Tensor, seed: int) -> None:
        """Take the principal components of ``images`` ``(N, channels, height, width)``, N above q, and first means."""
        flat = images.flatten(1).to(self.centre)
        if min(flat.shape[0] - 1, flat.shape[1]) < self.coordinates:
            raise InputError(
                f"{len(flat)} images of {flat.shape[1]} numbers: expected more images, and no fewer numbers, than the "
                f"{self.coordinates} coordinates"
            )
        if float(flat.var(dim=0).sum()) == 0:
            raise InputError("all images are equal: there is nothing to draw from")
        self.centre.copy_(flat.mean(dim=0))
        with torch.random.fork_rng(devices=[flat.device] if flat.is_cuda else []):
            torch.manual_seed(seed)
            _, _, directions = torch.pca_lowrank(
                flat - self.centre, q=min(self.coordinates + 8, *flat.shape), center=False
            )
        self.basis.copy_(directions[:, : self.coordinates].T)
        found = self.encode(images)
        rng = torch.Generator().manual_seed(seed)
        chosen = _spread_out(found.cpu(), self.components, rng).to(found.device)
        self.means[:, : self.coordinates] = found[chosen]
        spread = torch.cov(found.T) / max(1.0, self.components ** (1 / 3))
        spread = spread.view(self.coordinates, self.coordinates)
        # Images that lie in fewer directions than there are coordinates have no variance along the others.
        spread = spread + 0.01 * found.var(dim=0).mean() * torch.eye(self.coordinates, device=spread.device)
        self.covariances[:, : self.coordinates, : self.coordinates] = spread

    @_in_full_precision
    def encode(self, images: Tensor) -> Tensor:
        """Principal components ``(N, q)`` of images."""
        return (images.flatten(1).to(self.basis) - self.centre) @ self.basis.T

    @torch.no_grad()
    @_in_full_precision
    def improve(self, points: Tensor, answers: Tensor | None, floor: float) -> Tensor:
        """One step of expectation-maximisation; returns the mean log-likelihood before it, a scalar.

        Args:
            points: principal components ``(N, q)``.
            answers: normalised scores ``(N, C)``, fitted jointly; None leaves them out.
            floor: variance that every direction among the points keeps, as a part of their mean variance.
        """
        q = self.coordinates
        data = points if answers is None else torch.cat([points, answers], dim=1)
        size = data.shape[1]
        means, covariances = self.means[:, :size], self.covariances[:, :size, :size]
        likelihood = _log_density(data, means, covariances) + self.log_weights
        responsible = likelihood.softmax(dim=1)
        counts = responsible.sum(dim=0).clamp_min(1e-6)
        new_means = (responsible.T @ data) / counts[:, None]
        new = torch.cat([
            torch.einsum("nk,kni,knj->kij", responsible[:, part], away, away) / counts[part, None, None]
            for part in _in_parts(self.components, data)
            for away in [data[None] - new_means[part, None]]
        ])  # fmt: skip
        least = torch.ones(size, device=data.device)
        # Where classes are many beside a component's images, exact answers would stand for single images.
        crowding = max(1.0, (4 * (size - q) * self.components / len(points)) ** 2)
        least = torch.cat([least[:q] * floor * points.var(dim=0).mean(), least[q:] * _ANSWER_FLOOR * crowding])
        self.means[:, :size] = new_means
        self.covariances[:, :size, :size] = new + torch.diag(least)
        self.log_weights.copy_((counts / counts.sum()).log())
        self.fitted_answers.fill_(0.0 if answers is None else 1.0)
        self._prepared = {}
        return likelihood.logsumexp(dim=1).mean()

    @torch.no_grad()
    @_in_full_precision
    def invert(self, points: Tensor, answers: Tensor, rng: torch.Generator) -> Tensor:
        """Latents ``(N, C + q + 1)`` from which it draws these very points.

        Args:
            points: principal components ``(N, q)``.
            answers: normalised scores ``(N, C)`` that are to stand in the latents.
            rng: on the CPU; picks among the components by how likely each made the point.
        """
        parts, q = self._prepare(), self.coordinates
        away = answers[:, None] - parts["answer_means"]
        expected = self.means[:, :q] + torch.einsum("kij,nkj->nki", parts["gain"], away)
        noise = torch.linalg.solve_triangular(
            parts["factor"], (points[:, None] - expected).permute(1, 2, 0), upper=False
        ).permute(2, 0, 1)
        weights = self._weights(away)
        determinant = parts["factor"].diagonal(dim1=1, dim2=2).log().sum(dim=1)
        likelihood = weights.clamp_min(1e-12).log() - 0.5 * noise.square().sum(dim=2) - determinant
        component = torch.multinomial(likelihood.softmax(dim=1).cpu(), 1, generator=rng).to(points.device)
        end = weights.cumsum(dim=1).gather(1, component)
        share = torch.rand(len(points), 1, generator=rng).to(points)
        uniform = end - share * weights.gather(1, component)
        pick = math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        chosen = noise.gather(1, component[:, :, None].expand(-1, -1, q)).squeeze(1)
        return torch.cat([answers, chosen, pick], dim=1)

    @torch.no_grad()
    def sample_answers(self, count: int, rng: torch.Generator) -> Tensor:
        """``count`` answers ``(count, C)`` as it was fitted to them, normalised, on the CPU."""
        q = self.coordinates
        component = torch.multinomial(self.log_weights.exp().cpu(), count, replacement=True, generator=rng)
        lower = torch.linalg.cholesky(self.covariances[:, q:, q:].cpu())
        noise = torch.randn(count, self.num_classes, generator=rng)
        few = max(1, _LARGEST_TABLE // self.num_classes**2)
        parts = zip(component.split(few), noise.split(few), strict=True)
        spread = torch.cat([torch.einsum("nij,nj->ni", lower[chosen], part) for chosen, part in parts])
        return self.means[:, q:].cpu()[component] + spread

    @_in_full_precision
    def forward(self, latent: Tensor) -> Tensor:
        latent = latent.to(self.means.dtype)
        parts, c, q = self._prepare(), self.num_classes, self.coordinates
        answers, noise, pick = latent[:, :c], latent[:, c : c + q], latent[:, c + q :]
        away = answers[:, None] - parts["answer_means"]
        weights = self._weights(away)
        # A standard normal's distribution function is uniform: it picks the component as a point of [0, 1] does.
        uniform = 0.5 * (1 + torch.erf(pick / math.sqrt(2)))
        component = (weights.detach().cumsum(dim=1) < uniform).sum(dim=1).clamp(max=self.components - 1)
        shift = torch.einsum(
            "nij,nj->ni", parts["gain"][component], away.gather(1, component.view(-1, 1, 1).expand(-1, 1, c)).squeeze(1)
        )
        drawn = torch.einsum("nij,nj->ni", parts["factor"][component], noise)
        coordinates = self.means[component, :q] + shift + drawn
        images = (self.centre + coordinates @ self.basis).clamp(-1, 1)
        return images.view(len(latent), *self.image_shape)

    def _weights(self, away: Tensor) -> Tensor:
        """How likely each component is, given answers that lie ``away`` ``(N, K, C)`` from the components' own."""
        parts = self._prepare()
        log_weights = self.log_weights - 0.5 * torch.einsum("kij,nkj->nki", parts["whiten"], away).square().sum(dim=2)
        return (log_weights + parts["log_determinant"]).softmax(dim=1)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _prepare(self) -> dict[str, Tensor]:
        """What a draw needs of the conditional Gaussians, computed once after a fit."""
        if self._prepared and self._prepared["gain"].device == self.means.device:
            return self._prepared
        q = self.coordinates
        among, across, within = (
            self.covariances[:, :q, :q],
            self.covariances[:, :q, q:] * self.fitted_answers,
            self.covariances[:, q:, q:],
        )
        gain = torch.linalg.solve(within, across.mT).mT
        conditional = among - gain @ across.mT
        factor = torch.linalg.cholesky(conditional + 1e-6 * torch.eye(q, device=gain.device))
        lower = torch.linalg.cholesky(within)
        whiten = torch.linalg.inv(lower) * self.fitted_answers
        log_determinant = -lower.diagonal(dim1=1, dim2=2).log().sum(dim=1) * self.fitted_answers
        self._prepared = {
            "gain": gain,
            "factor": factor,
            "whiten": whiten,
            "log_determinant": log_determinant,
            "answer_means": self.means[:, q:],
        }
        return self._prepared


def _forget(mixture: nn.Module, keys: Any) -> None:
    """What was prepared for draws is of other weights than those that were just read."""
    mixture._prepared = {}  # type: ignore[assignment]


def _log_density(data: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Log-density of each of ``(N, d)`` under each of K Gaussians, ``(N, K)``."""
    lower = torch.linalg.cholesky(covariances)
    determinant = lower.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    distance = torch.cat([
        torch.linalg.solve_triangular(lower[part], (data[None] - means[part, None]).mT, upper=False).square().sum(dim=1)
        for part in _in_parts(len(means), data)
    ])  # fmt: skip
    density: Tensor = -0.5 * (distance + data.shape[1] * math.log(2 * math.pi)) - determinant[:, None]
    return density.T


def _in_parts(components: int, data: Tensor) -> list[slice]:
    """The components in as many parts as keep a table of them by points and coordinates small."""
    most = max(1, _LARGEST_TABLE // data.numel())
    return [slice(begin, begin + most) for begin in range(0, components, most)]


def _spread_out(points: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Numbers of ``count`` points, drawn one after another in proportion to the squared distance to the nearest before.

    Source: Arthur and Vassilvitskii, *k-means++: The Advantages of Careful Seeding*, SODA 2007.
    """
    chosen = [int(torch.randint(len(points), (), generator=rng))]
    nearest = torch.full((len(points),), math.inf)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(dim=1))
        weights = nearest if float(nearest.sum()) > 0 else torch.ones(len(points))
        chosen.append(int(torch.multinomial(weights, 1, generator=rng)))
    return torch.tensor(chosen)
