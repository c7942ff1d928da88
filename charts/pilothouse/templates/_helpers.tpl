{{/* Names. The release's name alone where it already says pilothouse. */}}
{{- define "pilothouse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- define "pilothouse.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- define "pilothouse.serviceAccountName" -}}
{{- default (include "pilothouse.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{/* Labels. What selects is included in what is set, so that they can't drift. */}}
{{- define "pilothouse.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pilothouse.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "pilothouse.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: pilothouse
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- define "pilothouse.labels" -}}
{{ include "pilothouse.selectorLabels" . }}
{{ include "pilothouse.commonLabels" . }}
{{- end }}
{{/* The test pod is no server: a name of its own keeps it out of the Service. */}}
{{- define "pilothouse.testSelectorLabels" -}}
app.kubernetes.io/name: {{ include "pilothouse.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Hardware: the chosen entry of `profiles`, as YAML. One that is not there is refused in validation.yaml, so that nothing else may trip. */}}
{{- define "pilothouse.profile" -}}
{{- default (dict "images" dict "startSeconds" 1) (get .Values.profiles .Values.profile) | toYaml }}
{{- end }}

{{/* The image: a digest, a tag, or the app version and the profile's image for this kind of model. */}}
{{- define "pilothouse.image" -}}
{{- $profile := include "pilothouse.profile" . | fromYaml }}
{{- if .Values.image.digest }}{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}{{ printf "%s:%s" .Values.image.repository (default (printf "%s-%s" .Chart.AppVersion (get $profile.images .Values.model.kind)) .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Stopping, all from drainSeconds. The pause lets every proxy forget the pod; the server then takes strays for lameDuck seconds, drains,
     and has a margin to cut what stalls and to exit. */}}
{{- /* A Kubernetes quantity as a number, to compare. */ -}}
{{- define "pilothouse.quantity" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- if kindIs "string" . -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexReplaceAll "^[0-9.]+" . "")) -}}
{{- else -}}
{{- float64 . -}}
{{- end -}}
{{- end }}
{{- define "pilothouse.preStopSeconds" -}}5{{- end }}
{{- define "pilothouse.lameDuckSeconds" -}}2{{- end }}
{{- define "pilothouse.graceSeconds" -}}
{{- add (include "pilothouse.preStopSeconds" .) (include "pilothouse.lameDuckSeconds" .) .Values.drainSeconds 10 }}
{{- end }}

{{/* TLS: the scheme that all ports speak, and where probes go: a kubelet has no client certificate, and the metrics port wants none. */}}
{{- define "pilothouse.scheme" -}}{{ ternary "https" "http" (ne .Values.tls.existingSecret "") }}{{- end }}
{{- define "pilothouse.probe" -}}
port: {{ ternary "metrics" "rest" (ne .Values.tls.clientCaKey "") }}
{{- if .Values.tls.existingSecret }}
scheme: HTTPS
{{- end }}
{{- end }}

{{/* Whether `helm test` has what the server asks of it. */}}
{{- define "pilothouse.testable" -}}
{{- if and (or (not .Values.apiKeys.existingSecret) .Values.apiKeys.testKey) (or (not .Values.tls.clientCaKey) .Values.tls.testSecret) }}yes{{ end }}
{{- end }}

{{/* Where the model is mounted, and its folder there. Empty for what is in the image. */}}
{{- define "pilothouse.modelFolder" -}}
{{- if eq .Values.model.source "mlflow" }}/models/model
{{- else if eq .Values.model.source "pvc" }}{{ printf "/models/model/%s" .Values.model.pvc.path | trimSuffix "/" }}
{{- else if eq .Values.model.source "imageVolume" }}{{ printf "/models/model/%s" .Values.model.imageVolume.path | trimSuffix "/" }}
{{- end }}
{{- end }}

{{/* More than one pod, by hand or by autoscaling. */}}
{{- define "pilothouse.several" -}}
{{- $least := ternary .Values.replicas .Values.autoscaling.minReplicas (eq .Values.autoscaling.kind "none") }}
{{- if gt (int $least) 1 }}yes{{ end }}
{{- end }}

{{/* Pod Security "restricted", and a root file system that can't be written. */}}
{{- define "pilothouse.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.runAsUser }}
runAsGroup: {{ int64 .Values.runAsUser }}
fsGroup: {{ int64 .Values.runAsUser }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "pilothouse.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ int64 .Values.runAsUser }}
capabilities: {drop: [ALL]}
{{- end }}

{{/* The MLflow server's port: written in its address, or its scheme's. */}}
{{- define "pilothouse.mlflowPort" -}}
{{- $address := urlParse .Values.model.mlflow.trackingUri }}
{{- $port := regexFind ":[0-9]+$" $address.host | trimPrefix ":" }}
{{- default (ternary "443" "80" (eq $address.scheme "https")) $port }}
{{- end }}
