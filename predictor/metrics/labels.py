"""Values of labels, and the buckets of histograms: what dashboards, alerts and gates rest on."""

from __future__ import annotations

# Label values. `code` is the HTTP status of the answer (the error table's for gRPC, 499 when the
# client left first), `protocol` one of PROTOCOLS, `finish_reason` one of types.FinishReason.
PROTOCOLS = ("v1", "v2", "grpc", "openai", "recognize")
LIVE_STEP_BUCKETS_S = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
CLIENT_CLOSED_REQUEST = 499

LATENCY_BUCKETS_S = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
DURATION_BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
