"""The messages of Prometheus' exposition in protobuf: io.prometheus.client, with the fields used.

Field numbers and types are those of client_model's metrics.proto.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

_PACKAGE: Final = "io.prometheus.client"
_TIMESTAMP: Final = "google.protobuf.Timestamp"
# Message -> (number, name, type); a message's name is a type too, and * is repeated.
_MESSAGES: Final[dict[str, tuple[tuple[int, str, str], ...]]] = {
    "LabelPair": ((1, "name", "string"), (2, "value", "string")),
    "Gauge": ((1, "value", "double"),),
    "Exemplar": ((1, "label", "LabelPair*"), (2, "value", "double"), (3, "timestamp", _TIMESTAMP)),
    "Counter": ((1, "value", "double"), (2, "exemplar", "Exemplar")),
    "Quantile": ((1, "quantile", "double"), (2, "value", "double")),
    "Summary": (
        (1, "sample_count", "uint64"),
        (2, "sample_sum", "double"),
        (3, "quantile", "Quantile*"),
    ),
    "Untyped": ((1, "value", "double"),),
    "Bucket": (
        (1, "cumulative_count", "uint64"),
        (2, "upper_bound", "double"),
        (3, "exemplar", "Exemplar"),
    ),
    "BucketSpan": ((1, "offset", "sint32"), (2, "length", "uint32")),
    "Histogram": (
        (1, "sample_count", "uint64"),
        (2, "sample_sum", "double"),
        (3, "bucket", "Bucket*"),
        (5, "schema", "sint32"),
        (6, "zero_threshold", "double"),
        (7, "zero_count", "uint64"),
        (12, "positive_span", "BucketSpan*"),
        (13, "positive_delta", "sint64*"),
    ),
    "Metric": (
        (1, "label", "LabelPair*"),
        (2, "gauge", "Gauge"),
        (3, "counter", "Counter"),
        (4, "summary", "Summary"),
        (5, "untyped", "Untyped"),
        (7, "histogram", "Histogram"),
    ),
    "MetricFamily": (
        (1, "name", "string"),
        (2, "help", "string"),
        (3, "type", "int32"),  # an enum, which is the same on the wire
        (4, "metric", "Metric*"),
    ),
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="qwen3_asr/metrics.proto",  # not the name others register theirs by
        package=_PACKAGE,
        syntax="proto2",
        dependency=[timestamp_pb2.DESCRIPTOR.name],
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, given in fields:
            kind, is_repeated = given.removesuffix("*"), given.endswith("*")
            label = kinds.LABEL_REPEATED if is_repeated else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            elif kind == _TIMESTAMP:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{kind}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    return file


def _messages() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()  # our own: no clash with a client's copy
    timestamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    pool.Add(timestamp)
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


MetricFamily: Final[Any] = _messages()["MetricFamily"]
