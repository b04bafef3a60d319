"""CTC loss as one fixed-shape autograd function, so that a whole training step fits a CUDA graph.

torch's own CTC needs lengths on the host; this one runs the forward and the backward recursion of
Graves et al. (2006) at once, as one batch of 2B problems, with tensor operations only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEG = -1e30  # log of zero; finite, so that differences never give NaN


class _Ctc(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        logits: Tensor,  # [B, T, V] float32
        targets: Tensor,  # [B, S] int64, padded with anything
        input_lengths: Tensor,  # [B]
        target_lengths: Tensor,  # [B]
        blank: int,
    ) -> Tensor:
        B, T, _ = logits.shape
        S = targets.shape[1]
        S2 = 2 * S + 1
        device = logits.device
        log_probs = logits.log_softmax(-1)
        labels = torch.full((B, S2), blank, device=device, dtype=torch.int64)
        labels[:, 1::2] = targets
        length2 = 2 * target_lengths + 1
        emit = log_probs.gather(2, labels[:, None, :].expand(B, T, S2))  # [B, T, S2]

        state = torch.arange(S2, device=device)
        time = torch.arange(T, device=device)
        rev_s = (length2[:, None] - 1 - state).clamp(min=0)  # [B, S2]
        rev_t = (input_lengths[:, None] - 1 - time).clamp(min=0)  # [B, T]
        flipped = emit.gather(1, rev_t[:, :, None].expand(B, T, S2))
        flipped = flipped.gather(2, rev_s[:, None, :].expand(B, T, S2))
        labels_flipped = labels.gather(1, rev_s)

        both = torch.cat([emit, flipped])  # [2B, T, S2]
        both_labels = torch.cat([labels, labels_flipped])
        inside = (state < length2[:, None]).repeat(2, 1)
        skip = torch.zeros(2 * B, S2, device=device, dtype=torch.bool)
        skip[:, 2:] = (both_labels[:, 2:] != both_labels[:, :-2]) & (both_labels[:, 2:] != blank)
        skip_cost = torch.where(skip, 0.0, NEG)
        inside_cost = torch.where(inside, 0.0, NEG)

        alphas = torch.empty(2 * B, T, S2, device=device)
        padded = torch.full((2 * B, S2 + 2), NEG, device=device)
        alpha = both[:, 0] + torch.where(state < 2, 0.0, NEG) + inside_cost
        alphas[:, 0] = alpha
        for t in range(1, T):
            padded[:, 2:] = alpha
            reach = torch.logaddexp(
                torch.logaddexp(alpha, padded[:, 1:-1]), padded[:, :-2] + skip_cost
            )
            alpha = (reach + both[:, t] + inside_cost).clamp(min=NEG)
            alphas[:, t] = alpha

        forward, backward = alphas[:B], alphas[B:]
        last = forward.gather(1, (input_lengths - 1)[:, None, None].expand(B, 1, S2))[:, 0]
        end = last.gather(1, (length2 - 1)[:, None])[:, 0]
        before = last.gather(1, (length2 - 2).clamp(min=0)[:, None])[:, 0]
        before = torch.where(target_lengths > 0, before, torch.full_like(before, NEG))
        log_z = torch.logaddexp(end, before)  # [B]
        possible = log_z > NEG / 2
        loss = torch.where(possible, -log_z, torch.zeros_like(log_z))

        beta = backward.gather(1, rev_t[:, :, None].expand(B, T, S2))
        beta = beta.gather(2, rev_s[:, None, :].expand(B, T, S2))
        gamma = (forward + beta - emit - log_z[:, None, None]).exp()
        valid = (time < input_lengths[:, None])[:, :, None] & possible[:, None, None]
        gamma = torch.where(valid & inside[:B, None, :], gamma, torch.zeros_like(gamma))
        posterior = torch.zeros_like(log_probs).scatter_add_(
            2, labels[:, None, :].expand(B, T, S2), gamma
        )
        grad = torch.where(valid, log_probs.exp() - posterior, torch.zeros_like(posterior))
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> Any:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_loss[:, None, None], None, None, None, None


def ctc_loss(
    logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> Tensor:
    """Negative log-likelihood of each row, [B]; zero where no alignment fits.

    logits: [B, T, V] float32, not normalised; targets: [B, S] int64; lengths: [B] int64.
    """
    loss: Tensor = _Ctc.apply(logits, targets, input_lengths, target_lengths, blank)
    return loss
