"""Learning rules: ways to assign credit and to train other than plain backpropagation.

The protocol is one call, `rule(model, inputs, targets, loss) -> loss`, which fills `.grad` of the model's parameters
(they are cleared before) and returns the loss, detached or not. A rule therefore runs under `assay.train.fit(rule=...)`
with every optimizer and every probe, and in a loop of one's own in place of
`loss(model(inputs), targets).backward()`.

- A rule with parameters of its own (auxiliary heads) has `parameters()`; the caller gives them to the optimizer
  together with the model's.
- A rule that needs local structure works on a `BlockChain`, a network as a chain of blocks; `BlockChain.of` makes one
  from any `nn.Sequential`.

Methods:

- `ARL`, `OGM`: encoders of several modalities taught by how sure each is, or held in balance; `grad_scale` does it.
- `BoostedNetwork`: a hidden layer grown a few units at a time by gradient boosting.
- `DeepSupervision`: every hidden block answers to a classifier of its own, less and less.
- `DirectFeedbackAlignment`: every block learns from a fixed random projection of the output's error.
- `EquilibriumPropagation`: gradients from pushing the resting state of an `EquilibriumNet`; `jacobian_homeostasis`
  makes its feedback symmetric.
- `ForwardGradient`: a directional derivative, along noise or along what a local loss suggests.
- `Guidance`: a network learns its task, and layer by layer to see as another network sees.
- `LLS`, `periodic_basis`: every block learns to keep step with a fixed wave, one a class; `lls_macs` counts the work.
- `OrthogonalDICE`, `orthogonal_combine`: offline reinforcement learning from two gradients, one made orthogonal to the
  other; `GaussianPolicy` imitates.
- `PreludeNet`, `PredictiveCodingLayer`: layers that predict the next frame, and a decoder that reads depth from them.
- `vi`: programmable variational inference. Objectives are programs over models and families, whose choices name their
  gradient estimators; it is a module, and `-estimator()` a loss for any loop.
- `ScalableForwardForward`: blocks learn one by one from a goodness for each class.

What they share: `BlockChain`, `AuxiliaryHead`; `gradient_cosine` and the probe `Alignment` tell how near a rule is to
`backpropagation`.
"""

from assay.learn import programmable_vi as vi
from assay.learn.alignment import Alignment, backpropagation, gradient_cosine
from assay.learn.asymmetric_multimodal import ARL, OGM, dependence_coefficients, grad_scale
from assay.learn.blocks import BlockChain
from assay.learn.boosted_networks import BoostedNetwork
from assay.learn.deeply_supervised import DeepSupervision
from assay.learn.direct_feedback_alignment import DirectFeedbackAlignment, FeedbackPoint
from assay.learn.equilibrium_net import EquilibriumNet, dsilu, jacobian_homeostasis, steep_sigmoid
from assay.learn.equilibrium_propagation import EquilibriumPropagation
from assay.learn.forward_gradient import ForwardGradient
from assay.learn.guidance import Guidance, layer_map
from assay.learn.heads import AuxiliaryHead
from assay.learn.lls import LLS, lls_macs, periodic_basis
from assay.learn.odice import GaussianPolicy, OrthogonalDICE, dual_of_divergence, orthogonal_combine
from assay.learn.preludenet import Perception, PredictiveCodingLayer, PreludeNet
from assay.learn.scalable_forward_forward import ScalableForwardForward

__all__ = [
    "ARL",
    "LLS",
    "OGM",
    "Alignment",
    "AuxiliaryHead",
    "BlockChain",
    "BoostedNetwork",
    "DeepSupervision",
    "DirectFeedbackAlignment",
    "EquilibriumNet",
    "EquilibriumPropagation",
    "FeedbackPoint",
    "ForwardGradient",
    "GaussianPolicy",
    "Guidance",
    "OrthogonalDICE",
    "Perception",
    "PredictiveCodingLayer",
    "PreludeNet",
    "ScalableForwardForward",
    "backpropagation",
    "dependence_coefficients",
    "dsilu",
    "dual_of_divergence",
    "grad_scale",
    "gradient_cosine",
    "jacobian_homeostasis",
    "layer_map",
    "lls_macs",
    "orthogonal_combine",
    "periodic_basis",
    "steep_sigmoid",
    "vi",
]
