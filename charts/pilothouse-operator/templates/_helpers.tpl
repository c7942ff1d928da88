{{- define "operator.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- define "operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "operator.labels" -}}
{{ include "operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: pilothouse
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- define "operator.image" -}}
{{- if .Values.image.digest }}{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}{{ printf "%s:%s" .Values.image.repository (default (printf "%s-operator" .Chart.AppVersion) .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* What the chart pilothouse may make, and what a rollout needs beside it. Nothing reads Secrets. */}}
{{- define "operator.rules" -}}
- {apiGroups: [pilothouse.org], resources: [languagemodels], verbs: [get, list, watch]}
- {apiGroups: [pilothouse.org], resources: [languagemodels/status], verbs: [patch]}
- {apiGroups: [""], resources: [services, configmaps, serviceaccounts], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch, create, delete]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
- {apiGroups: [""], resources: [events], verbs: [create]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [get, list, watch, create, delete]}
- {apiGroups: [autoscaling], resources: [horizontalpodautoscalers], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [policy], resources: [poddisruptionbudgets], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies, ingresses], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [gateway.networking.k8s.io], resources: [httproutes, grpcroutes], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [keda.sh], resources: [scaledobjects], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [monitoring.coreos.com], resources: [servicemonitors, prometheusrules], verbs: [get, list, watch, create, patch, delete]}
{{- end }}
