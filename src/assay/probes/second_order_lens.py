"""What the neurons of a vision transformer do: at once, and through the attention heads above them.

Gandelsman, Efros and Steinhardt, 2024 (arXiv:2406.04341).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class SecondOrderLens:
    r"""The effects of the neurons of one MLP on the class token at the output, as last layer norm gives it.

    A neuron adds $p_{i,n} w_n$ to token i. Its first-order effect is $\mathrm{LN}(p_{cls,n} w_n)$; its second-order one
    goes through all heads of later blocks:

    $$\phi_n = \sum_{l' > l} \sum_h \sum_i \mathrm{LN}\!\left[a^{l'h}_{cls,i}\, W^{l'h}_O W^{l'h}_V\,
    \mathrm{LN}_{l'}(p_{i,n} w_n)\right]$$

    with the attention a and the means and lengths of all layer norms as the network had them: every effect is linear in
    p. What biases add is left out; it is the same for all images up to those lengths.

    Args:
        model: pre-norm, as `assay.nn.ClassTokenViT`: `embed`, `blocks` of `norm1`, `attention` (`qkv`, `out`, `heads`),
            `norm2`, `up`, `down` (GELU between), and `norm`; the class token is the first. Used in evaluation mode.
        layer: number of the block, from 0.

    The paper: equations 4 to 7.

    Differs from the paper: means and biases are not spread over the summands. That shifts effects by what mean ablation
    takes away.

    Raises:
        ValueError: for a layer that is not there; for second-order effects of the last one.
        TypeError: for a model without these parts.

    Example:
        >>> from assay.nn import ClassTokenViT
        >>> lens = SecondOrderLens(ClassTokenViT((1, 8, 8), 3, patch=4, d=8, depth=2, heads=2), 0)
        >>> lens.second_order(torch.rand(5, 1, 8, 8)).shape  # 32 neurons, each with a vector of 8
        torch.Size([5, 32, 8])
    """

    def __init__(self, model: nn.Module, layer: int) -> None:
        for name in ("embed", "blocks", "norm"):
            if not hasattr(model, name):
                raise TypeError(f"model must have {name}, as assay.nn.ClassTokenViT: got {type(model).__name__}")
        self.model: Any = model
        self.depth = len(self.model.blocks)
        if not 0 <= layer < self.depth:
            raise ValueError(f"layer must lie in 0..{self.depth - 1}: got {layer}")
        self.layer = layer

    def first_order(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n m d"]:
        """Of each neuron, what it adds to the class token itself."""
        with torch.no_grad():
            seen = self._run(images)
            write = self._through(self._written(), self.model.norm)
            return seen.neurons[:, 0, :, None] * write / seen.length[:, None, None]

    def second_order(
        self, images: Float[Tensor, "n c h w"], *, neurons: Sequence[int] | None = None
    ) -> Float[Tensor, "n m d"]:
        """Of each neuron, or of those asked for, what later heads carry to the class token."""
        if self.layer == self.depth - 1:
            raise ValueError(
                f"layer must not be the last block, {self.layer}, after which no head looks: got {self.layer}"
            )
        with torch.no_grad():
            seen = self._run(images)
            chosen = slice(None) if neurons is None else list(neurons)
            acts, written = seen.neurons[:, :, chosen], self._written()[chosen]
            total = acts.new_zeros(len(images), acts.shape[2], written.shape[1])
            for attention, lengths, block in zip(
                seen.attention, seen.lengths, self.model.blocks[self.layer + 1 :], strict=True
            ):
                size, heads = written.shape[1], block.attention.heads
                value = block.attention.qkv.weight[2 * size :].view(heads, size // heads, size)
                out = block.attention.out.weight.view(size, heads, size // heads)
                read = self._through(written, block.norm1)
                path = torch.einsum("md,hed,fhe->hmf", read, value, out)
                path = self._through(path, self.model.norm)
                # the row of the class token, by the length of what each head reads
                share = torch.einsum("nhi,nim->nhm", attention[:, :, 0] / lengths[:, None], acts)
                total += torch.einsum("nhm,hmf->nmf", share, path)
            return total / seen.length[:, None, None]

    def output(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """The class token after the last norm, which effects are parts of."""
        with torch.no_grad():
            return self._run(images).output

    def _written(self) -> Tensor:
        weight: Tensor = self.model.blocks[self.layer].down.weight
        return weight.T

    @staticmethod
    def _through(vectors: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The linear part of a layer norm, but for the length."""
        return norm.weight * (vectors - vectors.mean(-1, keepdim=True))

    def _run(self, images: Tensor) -> _Seen:
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            self.model.eval()
            x = self.model.embed(images)
            attention, lengths, neurons = [], [], None
            for number, block in enumerate(self.model.blocks):
                inner = block.norm1(x)
                if number > self.layer:
                    n, tokens, size = x.shape
                    heads = block.attention.heads
                    q, k = (
                        block.attention.qkv(inner).view(n, tokens, 3, heads, size // heads).permute(2, 0, 3, 1, 4)[:2]
                    )
                    attention.append(torch.softmax(q * (size // heads) ** -0.5 @ k.transpose(-2, -1), -1))
                    lengths.append(_length(x, block.norm1))
                x = x + block.attention(inner)
                acts = F.gelu(block.up(block.norm2(x)))
                if number == self.layer:
                    neurons = acts
                x = x + block.down(acts)
        finally:
            for module, mode in modes:
                module.training = mode
        assert neurons is not None
        return _Seen(neurons, attention, lengths, _length(x[:, 0], self.model.norm), self.model.norm(x[:, 0]))


class _Seen(NamedTuple):
    neurons: Tensor
    attention: list[Tensor]
    lengths: list[Tensor]
    length: Tensor
    output: Tensor


def _length(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return (x.var(-1, correction=0) + norm.eps).sqrt()


class Directions(NamedTuple):
    """What `principal_directions` finds.

    Args:
        directions: of each neuron, of length 1.
        mean: its effect over all images.
        threshold: of the length of an effect less its mean, reached by the share of images that was asked for.
    """

    directions: Float[Tensor, "m d"]
    mean: Float[Tensor, "m d"]
    threshold: Float[Tensor, " m"]


def principal_directions(effects: Float[Tensor, "n m d"], top: int | float = 0.02) -> Directions:
    """The first principal direction of each neuron's effects, less their mean, on the images where they are largest.

    Args:
        effects: of m neurons on n images.
        top: how many images, or what share of them.

    The paper: section 4.2; the sign is that of most projections.

    Raises:
        ValueError: for no images, a share outside (0, 1], a number above n or below 1.

    Example:
        >>> effects = torch.tensor([[[1.0, 0.0]], [[-5.0, 0.0]], [[4.0, 0.0]]])
        >>> principal_directions(effects, 2).threshold
        tensor([4.])
    """
    if len(effects) == 0:
        raise ValueError("effects must come from at least one image: got none")
    count = math.ceil(top * len(effects)) if isinstance(top, float) else top
    if not (0 < top <= 1 if isinstance(top, float) else 1 <= top <= len(effects)):
        raise ValueError(f"top must be a share in (0, 1] or a number in 1..{len(effects)}: got {top}")
    mean = effects.mean(0)
    off = effects - mean
    lengths, rows = off.norm(dim=2).topk(count, dim=0)
    chosen = off.gather(0, rows[:, :, None].expand(-1, -1, off.shape[2])).transpose(0, 1)
    directions = torch.linalg.svd(chosen, full_matrices=False).Vh[:, 0]
    signs = torch.einsum("mkd,md->mk", chosen, directions).sign().sum(1, keepdim=True)
    return Directions(torch.where(signs < 0, -directions, directions), mean, lengths[-1])


def mean_ablate(
    output: Float[Tensor, "..."],
    effects: Float[Tensor, "n m d"],
    mean: Float[Tensor, "..."],
    *,
    keep: Bool[Tensor, "..."] | None = None,
    project: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "n d"]:
    r"""The output with each effect at its mean: $z - \sum_n (\phi_n - \bar\phi_n)$.

    Args:
        output: z, (n, d).
        effects: of m neurons.
        mean: $\bar\phi_n$, (m, d), over images of reference.
        keep: (n, m), which effects are left as they are.
        project: (m, d), directions of length 1 along which each effect is left as it is.

    The paper: section 4.1.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> mean_ablate(torch.tensor([[5.0, 5.0]]), torch.tensor([[[2.0, 3.0]]]), torch.zeros(1, 2))
        tensor([[3., 2.]])
    """
    n, m, d = effects.shape
    for name, value, shape in (("output", output, (n, d)), ("mean", mean, (m, d))):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must be {shape} for these effects: got {tuple(value.shape)}")
    off = effects - mean
    if project is not None:
        if project.shape != mean.shape:
            raise ValueError(f"project must be {(m, d)} for these effects: got {tuple(project.shape)}")
        off = off - torch.einsum("nmd,md->nm", off, project)[:, :, None] * project
    if keep is not None:
        if tuple(keep.shape) != (n, m):
            raise ValueError(f"keep must be {(n, m)} for these effects: got {tuple(keep.shape)}")
        off = off * ~keep[:, :, None]
    return output - off.sum(1)


def describe_direction(
    direction: Float[Tensor, " d"], dictionary: Float[Tensor, "t d"], names: Sequence[str], components: int = 32
) -> list[tuple[float, str]]:
    """A direction as a sum of few words, the largest weights first: orthogonal matching pursuit.

    Args:
        direction: what is to be described.
        dictionary: a vector for each name (class weights, text embeddings); their mean is taken off, and their length.
        names: of the vectors.
        components: how many at most.

    The paper: section 5.1.

    Raises:
        ValueError: for names that are not as many as vectors, components below 1.

    Example:
        >>> describe_direction(torch.tensor([0.0, 3.0]), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), "abc", 1)
        [(3.0, 'c')]
    """
    if len(names) != len(dictionary):
        raise ValueError(f"names must be {len(dictionary)}, one a vector: got {len(names)}")
    if components < 1:
        raise ValueError(f"components must be at least 1: got {components}")
    atoms = F.normalize(dictionary - dictionary.mean(0), dim=1)
    chosen: list[int] = []
    weights, left = direction.new_zeros(0), direction
    for _ in range(min(components, len(atoms), len(direction))):
        fit = (atoms @ left).abs()
        fit[chosen] = -1
        if fit.max() <= 1e-6 * direction.norm():
            break
        chosen.append(int(fit.argmax()))
        weights = torch.linalg.lstsq(atoms[chosen].T, direction[:, None]).solution[:, 0]
        left = direction - weights @ atoms[chosen]
    order = weights.abs().argsort(descending=True).tolist()
    return [(weights[k].item(), names[chosen[k]]) for k in order]
