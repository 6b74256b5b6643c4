"""Learning rules: ways to assign credit and to train other than plain backpropagation.

The protocol is one call, `rule(model, inputs, targets, loss) -> loss`, which fills `.grad` of the model's parameters
(they are cleared before) and returns the loss, detached or not. A rule therefore runs under `assay.train.fit(rule=...)` with
every optimizer and every probe, and in a loop of one's own in place of `loss(model(inputs), targets).backward()`.

- A rule with parameters of its own (auxiliary heads) has `parameters()`; the caller gives them to the optimizer together
  with the model's.
- A rule that needs local structure works on a `BlockChain`, a network as a chain of blocks; `BlockChain.of` makes one
  from any `nn.Sequential`.

Methods:
"""

__all__: list[str] = []
