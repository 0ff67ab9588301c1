{{- /* Where parts find each other: with the namespace, so that it holds from everywhere. */ -}}

{{- /* Where names of services end. The search list of every pod completes `svc`. */ -}}
{{- define "mimo.serviceDomain" -}}
svc{{ with .Values.global.clusterDomain }}.{{ . }}{{ end }}
{{- end }}

{{- /* (list . component) -> host name of its service */ -}}
{{- define "mimo.host" -}}
{{- $root := index . 0 -}}
{{ include "mimo.componentName" . }}.{{ $root.Release.Namespace }}.{{ include "mimo.serviceDomain" $root }}
{{- end }}

{{- define "mimo.modelUrl" -}}
{{- if eq .Values.modelServer.engine "external" -}}
{{ .Values.modelServer.url }}
{{- else if .Values.router.enabled -}}
http://{{ include "mimo.host" (list . "router") }}:30000/v1
{{- else -}}
http://{{ include "mimo.host" (list . "model-server") }}:9001/v1
{{- end }}
{{- end }}

{{- /* A model server calls a model as its folder is called. */ -}}
{{- define "mimo.modelName" -}}
{{- with .Values.modelServer -}}
{{ get (dict "embedded" (base .checkpoint) "sglang" (base .weights.path) "external" .model) .engine }}
{{- end }}
{{- end }}

{{- /* Variables that hold the address of the store: its password never stands in a manifest. */ -}}
{{- define "mimo.storeVariables" -}}
{{- if eq .Values.database.mode "sqlite" }}
- name: MIMO_STORE
  value: sqlite:////data/service.db
{{- else if eq .Values.database.mode "external" }}
- name: MIMO_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.urlSecret | quote }}
      key: url
{{- else }}
{{ include "mimo.postgresPassword" . }}
- name: MIMO_STORE
  value: postgresql://mimo:$(POSTGRES_PASSWORD)@{{ include "mimo.host" (list . "postgres") }}:5432/mimo
{{- end }}
{{- end }}

{{- define "mimo.postgresPassword" -}}
- name: POSTGRES_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "mimo.fullname" . }}-keys
      key: postgres-password
{{- end }}
