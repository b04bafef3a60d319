"""The published models' shapes, for what is made before there is a checkpoint."""

from __future__ import annotations

from predictor.model.config import AudioConfig, ModelConfig, TextConfig


def _model(*, encoder: tuple[int, int, int, int], text: tuple[int, int]) -> ModelConfig:
    """encoder: layers, heads, width, ffn; text: width, ffn. The rest is the same in all of them."""
    num_layers, num_heads, width, ffn_size = encoder
    vocab_size = 151_936
    return ModelConfig(
        layout="native",
        audio=AudioConfig(
            num_mel_bins=128,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_size=width,
            ffn_size=ffn_size,
            conv_channels=480,
            window_chunks=8,
            output_size=text[0],
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            num_layers=28,
            num_heads=16,
            num_kv_heads=8,
            head_dim=128,
            hidden_size=text[0],
            ffn_size=text[1],
            max_positions=65_536,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
        ),
        audio_token_id=vocab_size - 260,
        eos_token_ids=(vocab_size - 293, vocab_size - 291),
        tied_embeddings=True,
    )


PUBLISHED = {
    "1.7B": _model(encoder=(24, 16, 1024, 4096), text=(2048, 6144)),
    "0.6B": _model(encoder=(18, 14, 896, 3584), text=(1024, 3072)),
}
