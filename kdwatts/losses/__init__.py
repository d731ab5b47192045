"""Distillation losses as pure tensor functions; nothing here knows of models or configuration.

- `head` takes rows of logits a chunk at a time and sums the losses of their terms.
- `response` has the divergences from a teacher whose logits are all there, `sparse` those from a
  few of its tokens, `universal` those over another vocabulary. In each the temperature divides the
  logits, and its square multiplies the loss.
- `feature` has the distances of hidden states, `relational` and `attention` relations among them.
- `logit_rows` is what a divergence is given, `plain` what differentiates one without a closed form.
"""
