{{- /* Names and labels. A release is named once; everything of it begins with that name. */ -}}

{{- define "mimo.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{- define "mimo.fullname" -}}
{{ .Values.fullnameOverride | default .Release.Name }}
{{- end }}

{{- /* (list . component) -> the name of its objects */ -}}
{{- define "mimo.componentName" -}}
{{ include "mimo.fullname" (index . 0) }}-{{ index . 1 }}
{{- end }}

{{- /* (list . component) -> what selects its pods, for ever: nothing here changes with a version. */ -}}
{{- define "mimo.selector" -}}
app.kubernetes.io/name: {{ include "mimo.name" (index . 0) | quote }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* (list . component) -> the chart's own labels on its pods. None is of the chart's version: a change of the chart
       alone is no reason to load a model anew. */ -}}
{{- define "mimo.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "mimo.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end }}

{{- /* (list . component) -> the chart's own labels on its objects */ -}}
{{- define "mimo.ownLabels" -}}
{{- $root := index . 0 -}}
{{ include "mimo.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* (list . component [annotations [labels]]) -> labels and annotations of an object; what is given is beside those
       of all objects */ -}}
{{- define "mimo.about" -}}
{{- $root := index . 0 -}}
{{- $given := slice (concat . (list dict dict)) 2 4 -}}
labels:
  {{- include "mimo.ownLabels" . | nindent 2 }}
  {{- include "mimo.items" (list 2 (merge (dict) (index $given 1) $root.Values.commonLabels)) }}
{{- with merge (dict) (index $given 0) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* (list . component [annotations [labels]]) -> metadata of the object that is named after the component */ -}}
{{- define "mimo.metadata" -}}
name: {{ include "mimo.componentName" . }}
namespace: {{ (index . 0).Release.Namespace | quote }}
{{ include "mimo.about" . }}
{{- end }}

{{- /* (list . component values) -> the name of its service account */ -}}
{{- define "mimo.account" -}}
{{ (index . 2).serviceAccount.name | default (ternary (include "mimo.componentName" .) "default" (index . 2).serviceAccount.create) }}
{{- end }}

{{- define "mimo.orchestratorAccount" -}}
{{ include "mimo.account" (list . "orchestrator" .Values.orchestrator) }}
{{- end }}

{{- define "mimo.sandboxNamespace" -}}
{{ .Values.sandbox.namespace.name | default (printf "%s-sandboxes" (include "mimo.fullname" .)) }}
{{- end }}

{{- define "mimo.sandboxAccount" -}}
mimo-sandbox
{{- end }}

{{- define "mimo.sandboxPriority" -}}
mimo-sandbox-{{ include "mimo.sandboxNamespace" . }}
{{- end }}

{{- define "mimo.sandboxPort" -}}
{{ int (.Values.sandbox.settings.port | default 7070) }}
{{- end }}

{{- /* reference -> "yes" where it names an image by its digest */ -}}
{{- define "mimo.isPinned" -}}
{{- if regexMatch "@sha256:[0-9a-f]{64}$" . }}yes{{ end }}
{{- end }}

{{- /* (list . image) -> its reference */ -}}
{{- define "mimo.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $image.registry | default $root.Values.global.imageRegistry -}}
{{- if not (or $registry (eq $root.Values.global.pullPolicy "Never")) -}}
{{- fail (printf "\n\nglobal.imageRegistry: nothing says where %s is fetched from. There are no public images: build them (make images), push them, and name your registry. On nodes that have them already set global.pullPolicy to Never." $image.repository) -}}
{{- end -}}
{{- if and $root.Values.global.requireDigests (not $image.digest) -}}
{{- fail (printf "\n\nglobal.requireDigests is set, but the image %s has none: set its digest, beside its repository in the values." $image.repository) -}}
{{- end -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}
