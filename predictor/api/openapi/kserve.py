"""Health, KServe's V1 and V2, and the plain route."""

from __future__ import annotations

from predictor.api import recognize, v2
from predictor.api.openapi.fields import (
    ANSWER,
    ASKED,
    BINARY,
    CONTEXT,
    DETAILS,
    DETAILS_REQUIRED,
    DRAFT,
    LANGUAGE,
    OPENAI_LIST_FIELDS,
    OPENAI_MODEL_FIELDS,
    TENSOR,
    WORDS,
)
from predictor.api.openapi.schema import (
    BOOLEAN,
    ERROR,
    INTEGER,
    STRING,
    Schema,
    form,
    health,
    json_content,
    list_of,
    nullable,
    object_of,
    route,
)

LIVE = health("Whether the engine's loop turns", object_of({"status": {"enum": ["alive", "dead"]}}))
V2_LIVE = health("Whether the engine's loop turns", object_of({"live": BOOLEAN}))
V2_READY = health("Whether requests should be sent here", object_of({"ready": BOOLEAN}))
METRICS = route(
    "Prometheus metrics",
    {kind: {"schema": STRING} for kind in ("text/plain", "application/openmetrics-text")},
)

V2_METADATA = route(
    "Server metadata",
    json_content(object_of({"name": STRING, "version": STRING, "extensions": list_of(STRING)})),
)
V2_MODELS = route("Names of the models", json_content(object_of({"models": list_of(STRING)})))
_IDENTITY = object_of({"model_identity": STRING, "model_source": STRING, "model_revision": STRING})
V2_MODEL_METADATA = route(
    "Inputs and outputs of the model",
    json_content(
        object_of(
            {
                "name": STRING,
                "versions": list_of(STRING),
                "platform": STRING,
                "inputs": list_of(TENSOR),
                "outputs": list_of(TENSOR),
                "properties": _IDENTITY,
            },
            ["name", "versions", "platform", "inputs", "outputs"],
        )
    ),
)
V2_MODEL_READY = route(
    "200 when requests should be sent to the model",
    json_content(object_of({"name": STRING, "ready": BOOLEAN})),
)
_SIZE: Schema = {"type": "integer", "minimum": 0}
_REQUEST_PARAMETERS = object_of(
    {
        "language": LANGUAGE,
        "context": CONTEXT,
        "draft": DRAFT,
        "sample_rate": {"type": "integer", "minimum": 8000, "maximum": 192_000},
        "binary_data_output": BOOLEAN,
        **ASKED,
    },
    [],
    additionalProperties=False,
)
V2_INFER = route(
    "Transcribe tensors",
    {
        **json_content(
            object_of(
                {
                    "model_name": STRING,
                    "id": STRING,
                    "outputs": list_of(
                        object_of(
                            {
                                "name": {"enum": [tensor["name"] for tensor in v2.OUTPUTS]},
                                "datatype": {"enum": ["BYTES", "FP32"]},
                                "shape": list_of(INTEGER),
                                "data": list_of({"type": ["string", "number"]}),
                            }
                        )
                    ),
                }
            )
        ),
        **BINARY,
    },
    body={
        **json_content(
            object_of(
                {
                    "id": {"type": "string", "maxLength": 256},
                    "parameters": _REQUEST_PARAMETERS,
                    "inputs": list_of(
                        object_of(
                            {
                                "name": {"enum": [tensor["name"] for tensor in v2.INPUTS]},
                                "datatype": {"enum": ["BYTES", "FP32"]},
                                "shape": list_of(_SIZE, minItems=1, maxItems=2),
                                "parameters": object_of(
                                    {"binary_data_size": _SIZE}, [], additionalProperties=False
                                ),
                                "data": list_of({}),
                            },
                            ["name", "datatype", "shape"],
                            additionalProperties=False,
                        ),
                        minItems=1,
                        maxItems=len(v2.INPUTS),
                        description="`audio` or `waveform`, and the others if wanted; all have "
                        "the same first size, and data as their shape says.",
                    ),
                    "outputs": list_of(
                        object_of(
                            {
                                "name": {"enum": [tensor["name"] for tensor in v2.OUTPUTS]},
                                "parameters": object_of(
                                    {"binary_data": BOOLEAN}, [], additionalProperties=False
                                ),
                            },
                            ["name"],
                            additionalProperties=False,
                        ),
                        uniqueItems=True,
                        maxItems=len(v2.OUTPUTS),
                    ),
                },
                ["inputs"],
                additionalProperties=False,
            )
        ),
        **BINARY,
    },
    parameters=[
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "Length of the JSON part when binary tensors follow it.",
            "schema": INTEGER,
        }
    ],
)
CLOSED = route("Closed: always answers 403", json_content(ERROR))

V1_MODELS = route(
    "Names of the models, for KServe and for OpenAI clients",
    json_content(object_of({"models": list_of(STRING), **OPENAI_LIST_FIELDS})),
)
V1_MODEL = route(
    "200 when requests should be sent to the model",
    json_content(
        object_of({"name": STRING, "ready": BOOLEAN, **OPENAI_MODEL_FIELDS["properties"]})
    ),
)
_B64 = object_of({"b64": {"type": "string", "format": "byte"}}, additionalProperties=False)
V1_PREDICT = route(
    "Transcribe instances, or one recording as the raw body",
    json_content(
        object_of(
            {"predictions": list_of(object_of({**ANSWER, **DETAILS}, [*ANSWER, *DETAILS_REQUIRED]))}
        )
    ),
    body={
        **json_content(
            object_of(
                {
                    "instances": list_of(
                        object_of(
                            {
                                "audio": _B64,
                                "language": nullable(LANGUAGE),
                                "context": nullable(CONTEXT),
                                "draft": nullable(DRAFT),
                                **ASKED,
                            },
                            ["audio"],
                            additionalProperties=False,
                        ),
                        minItems=1,
                    )
                },
                additionalProperties=False,
            )
        ),
        "audio/*": BINARY["application/octet-stream"],
        "video/*": BINARY["application/octet-stream"],
        **BINARY,
    },
    parameters=[
        {"name": "language", "in": "query", "schema": LANGUAGE},
        {"name": "context", "in": "query", "schema": CONTEXT},
        {"name": "draft", "in": "query", "schema": DRAFT},
        *({"name": name, "in": "query", "schema": ASKED[name]} for name in ASKED),
    ],
)

RECOGNIZE = route(
    "Transcribe one file",
    json_content(
        object_of(
            {**ANSWER, "words": WORDS, "details": object_of(DETAILS, DETAILS_REQUIRED)},
            list(ANSWER),
        )
    ),
    body=form(recognize.FILE_FIELD, {"language": LANGUAGE, "context": CONTEXT, **ASKED}, []),
)
