{{- /* Our server: alone with the engine of our own, or in front of SGLang. */ -}}

{{- /* What it has in both. */ -}}
{{- define "mimo.modelServerContainer" -}}
{{- $values := .Values.modelServer -}}
name: model-server
image: {{ include "mimo.image" (list . $values.image) }}
imagePullPolicy: {{ .Values.global.pullPolicy }}
command: [python, -P, -m, model_server]
ports:
  - name: http
    containerPort: 9001
# Ready is who generates: /health wants a token of the last ten seconds, or one now.
readinessProbe:
  httpGet: {path: /health, port: http}
  {{- include "mimo.times" (list $values.probes.readiness 10 15 3) | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: http}
  {{- include "mimo.times" (list $values.probes.liveness 10 5 6) | nindent 2 }}
securityContext:
  {{- /* Here too, since a pod with SGLang does not say it. */}}
  runAsNonRoot: true
  {{- range $name, $value := pick $values.podSecurityContext "runAsUser" "runAsGroup" }}
  {{ toYaml (dict $name $value) }}
  {{- end }}
  {{- include "mimo.security" . | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
{{- end }}

{{- define "mimo.embeddedContainer" -}}
{{- $values := .Values.modelServer -}}
{{ include "mimo.modelServerContainer" . }}
args:
  - --checkpoint={{ $values.checkpoint }}
  - --host=0.0.0.0
  - --port=9001
  {{- include "mimo.items" (list 2 $values.extraArgs) }}
{{ include "mimo.surroundings" (dict
  "of" . "values" $values "path" "modelServer"
  "variables" (list "mimo.modelKeyVariable") "mounts" (list "mimo.tmpMount")) }}
startupProbe:
  httpGet: {path: /health, port: http}
  {{- include "mimo.times" (list $values.probes.startup 1 15 300) | nindent 2 }}
{{- include "mimo.lifecycle" (list $values.lifecycle $values.preStopSeconds) }}
{{- end }}

{{- /* It starts before the engine and ends after it: it says how far loading is, and sees answers to their end. */ -}}
{{- define "mimo.frontContainer" -}}
{{- $values := .Values.modelServer -}}
{{- $settings := fromJson (include "mimo.launchSettings" .) -}}
{{ include "mimo.modelServerContainer" . }}
restartPolicy: Always
args:
  - --tokenizer={{ $settings.model_path }}
  - --host=0.0.0.0
  - --port=9001
  - --sglang-url=http://127.0.0.1:{{ int $settings.port }}
  - --sglang-groups={{ int $settings.attention_groups }}
  {{- include "mimo.items" (list 2 $values.extraArgs) }}
{{ include "mimo.surroundings" (dict
  "of" . "values" $values "path" "modelServer"
  "variables" (list "mimo.modelKeyVariable") "mounts" (list "mimo.weightsMount" "mimo.tmpMount")) }}
startupProbe:
  httpGet: {path: /livez, port: http}
  {{- include "mimo.times" (list $values.probes.startup 1 5 120) | nindent 2 }}
{{- include "mimo.lifecycle" (list $values.lifecycle 0) }}
{{- end }}

{{- /* (list . labels leader?) -> the template of its pods */ -}}
{{- define "mimo.modelServerPodTemplate" -}}
{{- $root := index . 0 -}}
{{- $values := $root.Values.modelServer -}}
{{- $pod := dict
  "root" $root "component" "model-server" "values" $values "path" "modelServer" "labels" (index . 1)
  "account" (include "mimo.account" (list $root "model-server" $values))
  "grace" $values.terminationGracePeriodSeconds "apart" true }}
{{- if eq $values.engine "embedded" -}}
{{- $_ := merge $pod (dict "containers" (list "mimo.embeddedContainer") "volumes" (list "mimo.tmpVolume")) -}}
{{- else -}}
{{- $isLeader := index . 2 -}}
{{- $before := list -}}
{{- if eq $values.weights.source "download" -}}
{{- $before = append $before "mimo.downloadContainer" -}}
{{- else if eq $values.weights.source "job" -}}
{{- $before = append $before "mimo.waitContainer" -}}
{{- end -}}
{{- if $isLeader -}}
{{- $before = append $before "mimo.frontContainer" -}}
{{- end -}}
{{- if $values.sglang.gpuClaim.deviceClass -}}
{{- $_ := set $pod "claims" (list (dict "name" "gpus" "resourceClaimTemplateName" (include "mimo.gpuClaim" $root))) -}}
{{- end -}}
{{- $_ := merge $pod (dict
  "stock" true "hostNetwork" $values.sglang.rdma.hostNetwork "initContainers" $before
  "containers" (list (ternary "mimo.sglangContainer" "mimo.sglangWorkerContainer" $isLeader))
  "volumes" (list "mimo.tmpVolume" "mimo.sglangVolumes")) -}}
{{- end -}}
{{- include "mimo.podTemplate" $pod }}
{{- end }}
