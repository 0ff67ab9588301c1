{{- /* A Ray cluster whose machines are pods: workers of this release reach it, and its actors make and reach sandboxes. */ -}}

{{- /* The name of KubeRay's object. Its operator changes no pod that is there, so what is another makes another. */ -}}
{{- define "mimo.rayCluster" -}}
{{- $what := list .Values.sandbox .Values.global .Values.data .Values.database .Chart.AppVersion }}
{{- printf "%s-ray-%s" (include "mimo.fullname" .) (toJson $what | sha256sum | trunc 5) }}
{{- end }}

{{- /* Where workers find it; empty where executors are in the workers. */ -}}
{{- define "mimo.rayAddress" -}}
{{- $ray := .Values.sandbox.ray }}
{{- if eq $ray.mode "external" -}}
{{ $ray.address }}
{{- else if eq $ray.mode "pods" -}}
ray://{{ include "mimo.host" (list . "ray") }}:10001
{{- else if eq $ray.mode "kuberay" -}}
ray://{{ include "mimo.rayCluster" . }}-head-svc.{{ .Release.Namespace }}.{{ include "mimo.serviceDomain" . }}:10001
{{- end }}
{{- end }}

{{- /* Without its token nobody may use it. */ -}}
{{- define "mimo.rayVariables" -}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "mimo.keySecret" (list . .Values.sandbox.ray.token) | quote }}
      key: ray-token
{{- end }}

{{- /* (list . component) -> the head where that is ray-head, or else a machine that joins it */ -}}
{{- define "mimo.rayPodTemplate" -}}
{{- $root := index . 0 -}}
{{- include "mimo.podTemplate" (dict
  "root" $root "component" (index . 1) "values" $root.Values.sandbox.ray "path" "sandbox.ray" "of" .
  "labels" (fromYaml (include "mimo.executorLabel" $root)) "annotations" (fromYaml (include "mimo.settingsMark" $root))
  "account" (include "mimo.orchestratorAccount" $root) "grace" 60 "apart" true
  "containers" (list "mimo.rayContainer") "volumes" (list "mimo.rayVolumes")) }}
{{- end }}

{{- define "mimo.rayContainer" -}}
{{- $root := index . 0 -}}
{{- $values := $root.Values.sandbox.ray -}}
{{- $isHead := eq (index . 1) "ray-head" -}}
{{- $port := ternary "client" "machine" $isHead -}}
name: ray
image: {{ include "mimo.image" (list $root $values.image) }}
imagePullPolicy: {{ $root.Values.global.pullPolicy }}
command: [python, -P, -m, ray.scripts.scripts, start, --block, --disable-usage-stats]
args:
  {{- if $isHead }}
  - --head
  - --port=6379
  - --ray-client-server-port=10001
  - --include-dashboard=false
  {{- else }}
  - --address={{ trimSuffix ":10001" (include "mimo.rayAddress" $root) | trimPrefix "ray://" }}:6379
  {{- end }}
  - --node-ip-address=$(POD_IP)
  - --node-manager-port=6380
  - --object-manager-port=6381
  # Actors of ours ask for no processor, so nothing else is started ahead.
  - --num-cpus=0
  - --object-store-memory={{ mul (int $values.objectStoreMib) 1048576 }}
  {{- include "mimo.items" (list 2 $values.extraArgs) }}
{{ include "mimo.surroundings" (dict
  "of" . "values" $values "path" "sandbox.ray"
  "variables" (list "mimo.rayPodVariables") "mounts" (list "mimo.rayMounts")) }}
ports:
  - name: machine
    containerPort: 6380
  {{- if $isHead }}
  - name: gcs-server
    containerPort: 6379
  - name: client
    containerPort: 10001
  {{- end }}
startupProbe:
  tcpSocket: {port: {{ $port }}}
  {{- include "mimo.times" (list $values.probes.startup 1 5 300) | nindent 2 }}
readinessProbe:
  tcpSocket: {port: {{ $port }}}
  {{- include "mimo.times" (list $values.probes.readiness 10 5 3) | nindent 2 }}
livenessProbe:
  tcpSocket: {port: {{ $port }}}
  {{- include "mimo.times" (list $values.probes.liveness 10 5 6) | nindent 2 }}
{{- include "mimo.lifecycle" (list $values.lifecycle 0) }}
securityContext:
  {{- include "mimo.security" $root | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
{{- end }}

{{- define "mimo.rayPodVariables" -}}
- name: POD_IP
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
{{ include "mimo.rayVariables" (index . 0) }}
{{- if eq (index . 1) "ray-head" }}
# A process of its own for each worker that comes, which it would give up after 30 s by itself.
- name: RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S
  value: "120"
# That process is forked while gRPC is at work, and becomes another program, so gRPC's precautions are for nothing. Twice
# on a busy machine it died at once after them.
- name: GRPC_ENABLE_FORK_SUPPORT
  value: "0"
{{- end }}
{{- end }}

{{- define "mimo.rayMounts" -}}
{{ include "mimo.serviceMounts" (index . 0) }}
- name: shared-memory
  mountPath: /dev/shm
{{ include "mimo.tokenMount" (index . 0) }}
{{- end }}

{{- define "mimo.rayVolumes" -}}
{{- $root := index . 0 -}}
{{ include "mimo.serviceVolumes" $root }}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: {{ add 64 (int $root.Values.sandbox.ray.objectStoreMib) }}Mi}
{{ include "mimo.tokenVolume" $root }}
{{- end }}
