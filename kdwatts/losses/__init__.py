"""Distillation losses as pure tensor functions. Nothing here knows of models or of settings.

- `head` takes the rows of logits a chunk at a time. It sums the losses of its terms.
- `response` has the divergences from a teacher whose logits are all there, `sparse` those from a
  few of the teacher's tokens, and `universal` the one for a teacher with another vocabulary. In
  each of them the temperature divides the logits, and its square multiplies the loss.
- `feature` has the distances between hidden states. `relational` and `attention` compare the
  relations between states.
- `fused_rows` computes the same losses by one kernel on a GPU. `fused_choice` checks it first.
- `logit_rows` is what a divergence is given. `plain` differentiates a divergence that has no closed
  form.
"""
