"""Resources of others' controllers, as far as the chart writes them: closed schemas after their CRDs, field by field.

Gateway API 1.2 (gateway.networking.k8s.io/v1), KEDA 2.16 (keda.sh/v1alpha1), Prometheus Operator 0.79 (monitoring.coreos.com/v1) and KServe 0.15
(serving.kserve.io). The controllers themselves are not run: a field that they would drop or refuse fails here.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
SECONDS: Schema = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
ANY: Schema = {"type": "object"}


def closed(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | (optional or {}), "additionalProperties": False}


def array(items: Schema, least: int = 1) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def resource(version: str, kind: str, spec: Schema) -> Schema:
    metadata = closed({"name": NAME}, {"namespace": NAME, "labels": TEXTS, "annotations": TEXTS})
    return closed({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


PARENTS = array(closed({"name": NAME}, {"namespace": NAME, "sectionName": NAME, "port": PORT, "group": TEXT, "kind": TEXT}))
BACKENDS = array(closed({"name": NAME, "port": PORT}, {"weight": {"type": "integer"}}))
HOSTS = array({"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
PROBE = closed(
    {"httpGet": closed({"path": TEXT, "port": PORT})},
    {name: {"type": "integer", "minimum": 1} for name in ("periodSeconds", "timeoutSeconds", "failureThreshold")},
)
CONTAINER = closed(
    {"name": {"const": "kserve-container"}, "image": TEXT},
    {
        "args": array(TEXT),
        "env": array(closed({"name": TEXT, "value": {"type": "string"}})),
        "ports": array(closed({"containerPort": PORT}, {"name": {"enum": ["http1", "h2c"]}, "protocol": {"const": "TCP"}})),
        "resources": ANY,
        "startupProbe": PROBE,
        "readinessProbe": PROBE,
        "livenessProbe": PROBE,
        "securityContext": ANY,
        "volumeMounts": array(closed({"name": NAME, "mountPath": TEXT}, {"readOnly": {"type": "boolean"}})),
    },
)
FOREIGN: dict[str, Schema] = {
    "HTTPRoute": resource(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        closed(
            {
                "parentRefs": PARENTS,
                "rules": array(
                    closed(
                        {"backendRefs": BACKENDS},
                        {
                            "matches": array(
                                closed(
                                    {
                                        "path": closed(
                                            {
                                                "type": {"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                                                "value": {"type": "string", "pattern": "^/"},
                                            }
                                        )
                                    }
                                )
                            ),
                            "timeouts": closed({}, {"request": SECONDS, "backendRequest": SECONDS}),
                        },
                    )
                ),
            },
            {"hostnames": HOSTS},
        ),
    ),
    "GRPCRoute": resource(
        "gateway.networking.k8s.io/v1",
        "GRPCRoute",
        closed(
            {
                "parentRefs": PARENTS,
                "rules": array(
                    closed(
                        {"backendRefs": BACKENDS},
                        {
                            "matches": array(
                                closed(
                                    {
                                        "method": closed(
                                            {"service": {"type": "string", "pattern": r"^[a-zA-Z0-9_.]+$"}},
                                            {"type": {"enum": ["Exact", "RegularExpression"]}, "method": TEXT},
                                        )
                                    }
                                )
                            )
                        },
                    )
                ),
            },
            {"hostnames": HOSTS},
        ),
    ),
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        closed(
            {
                "scaleTargetRef": closed({"name": NAME}, {"apiVersion": TEXT, "kind": TEXT}),
                "triggers": array(
                    closed(
                        {
                            "type": {"const": "prometheus"},
                            "metadata": closed(
                                {"serverAddress": TEXT, "query": TEXT, "threshold": {"type": "string", "pattern": "^[0-9]+$"}}
                            ),
                        },
                        {"metricType": {"enum": ["AverageValue", "Value"]}},
                    )
                ),
            },
            {
                "minReplicaCount": {"type": "integer", "minimum": 0},
                "maxReplicaCount": {"type": "integer", "minimum": 1},
                "advanced": closed({}, {"horizontalPodAutoscalerConfig": closed({}, {"behavior": ANY})}),
            },
        ),
    ),
    "ServiceMonitor": resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            {
                "selector": closed({"matchLabels": TEXTS}),
                "endpoints": array(
                    closed(
                        {"port": TEXT},
                        {
                            "path": TEXT,
                            "interval": SECONDS,
                            "authorization": closed({"credentials": closed({"name": NAME, "key": TEXT})}, {"type": TEXT}),
                        },
                    )
                ),
            }
        ),
    ),
    "PrometheusRule": resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed(
            {
                "groups": array(
                    closed(
                        {
                            "name": TEXT,
                            "rules": array(closed({"alert": TEXT, "expr": TEXT}, {"for": SECONDS, "labels": TEXTS, "annotations": TEXTS})),
                        }
                    )
                )
            }
        ),
    ),
    "ServingRuntime": resource(
        "serving.kserve.io/v1alpha1",
        "ServingRuntime",
        closed(
            {"containers": array(CONTAINER)},
            {
                "annotations": TEXTS,
                "supportedModelFormats": array(
                    closed(
                        {"name": TEXT}, {"version": TEXT, "autoSelect": {"type": "boolean"}, "priority": {"type": "integer", "minimum": 1}}
                    )
                ),
                "protocolVersions": array({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}),
                "volumes": array(ANY),
            },
        ),
    ),
    "InferenceService": resource(
        "serving.kserve.io/v1beta1",
        "InferenceService",
        closed(
            {
                "predictor": closed(
                    {
                        "model": closed(
                            {"modelFormat": closed({"name": TEXT}, {"version": TEXT})},
                            {"protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}, "runtime": NAME, "storageUri": TEXT},
                        )
                    },
                    {
                        "minReplicas": {"type": "integer", "minimum": 0},
                        "maxReplicas": {"type": "integer", "minimum": 1},
                        "automountServiceAccountToken": {"type": "boolean"},
                        "terminationGracePeriodSeconds": {"type": "integer"},
                    },
                )
            }
        ),
    ),
}
