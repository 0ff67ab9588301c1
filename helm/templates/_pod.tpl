{{- /* What pods and containers of the chart have in common. */ -}}

{{- /* (list . component values) -> where a pod runs, and with which images */ -}}
{{- define "mimo.placement" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
{{- with $root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- if $values.affinity }}
  {{- toYaml $values.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "mimo.selector" (list $root $component) | nindent 14 }}
  {{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* (list . component values) -> labels and annotations of a pod */ -}}
{{- define "mimo.podMetadata" -}}
{{- $values := index . 2 -}}
labels:
  {{- include "mimo.labels" . | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* (list values labels annotations) -> the values, with these on the pods too */ -}}
{{- define "mimo.with" -}}
{{- $values := index . 0 }}
{{- $labels := merge (deepCopy (index . 1)) $values.podLabels }}
{{- $annotations := merge (deepCopy (index . 2)) $values.podAnnotations }}
{{- toJson (merge (dict "podLabels" $labels "podAnnotations" $annotations) $values) }}
{{- end }}

{{- /* Pod Security "restricted", for our own programs */ -}}
{{- define "mimo.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "mimo.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* A map of variables */ -}}
{{- define "mimo.variables" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- /* values -> where else its variables come from */ -}}
{{- define "mimo.envFrom" -}}
{{- with .envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A list, as items of one that has others */ -}}
{{- define "mimo.items" -}}
{{- with . }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* (list . component values) -> its account, if it is made */ -}}
{{- define "mimo.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- if $values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "mimo.account" . }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "mimo.labels" (list $root (index . 1)) | nindent 4 }}
  {{- with $values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- /* (list . component values replicas) -> its budget for drains. maxUnavailable, and never minAvailable: that would
       stop every drain where there is one pod. */ -}}
{{- define "mimo.disruptionBudget" -}}
{{- if (index . 2).pdb }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "mimo.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "mimo.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- /* (list . secret values) -> the name of the Secret that holds a key */ -}}
{{- define "mimo.keySecret" -}}
{{ (index . 1).existing | default (printf "%s-keys" (include "mimo.fullname" (index . 0))) }}
{{- end }}

{{- /* (list . component claim values) -> a claim */ -}}
{{- define "mimo.claimSpec" -}}
{{- $root := index . 0 -}}
{{- $volume := index . 1 -}}
accessModes: [{{ $volume.accessMode | default "ReadWriteOnce" }}]
{{- with $root.Values.global.storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ $volume.size }}
{{- end }}
