{{- /* SGLang's command line and containers. Flags come from the presets of model_server (files/sglang is a link to them), so
       what is rendered here is what `python -m model_server sglang-args` prints of the same settings. */ -}}

{{- define "mimo.preset" -}}
{{- $version := .Values.modelServer.sglang.version }}
{{- $text := .Files.Get (printf "files/sglang/%s.toml" $version) }}
{{- if not $text }}
{{- $known := list }}
{{- range $path, $_ := .Files.Glob "files/sglang/*.toml" }}
{{- $known = append $known (base $path | trimSuffix ".toml") }}
{{- end }}
{{- fail (printf "\n\nmodelServer.sglang.version: %s is not known to this chart; use %s, and an image of it." $version (join ", " $known)) }}
{{- end }}
{{- $text }}
{{- end }}

{{- /* All settings: ours over those of the program. */ -}}
{{- define "mimo.launchSettings" -}}
{{- $settings := fromJson (.Files.Get "files/launch.json") }}
{{- /* One by one: merge would take a 0 for nothing. */ -}}
{{- range $setting, $value := .Values.modelServer.sglang.settings }}
{{- $_ := set $settings $setting $value }}
{{- end }}
{{- $_ := set $settings "model_path" (printf "/weights/%s" .Values.modelServer.weights.path) }}
{{- toJson $settings }}
{{- end }}

{{- define "mimo.flags" -}}
{{- $preset := fromToml (include "mimo.preset" .) }}
{{- $settings := fromJson (include "mimo.launchSettings" .) }}
{{- $flags := deepCopy $preset.defaults }}
{{- if $settings.draft_steps }}
{{- $flags = mergeOverwrite $flags $preset.speculation }}
{{- $_ := set $settings "verified_tokens" (add1 (int $settings.draft_steps)) }}
{{- end }}
{{- range $flag, $value := $settings.flags }}
{{- $_ := set $flags $flag $value }}
{{- end }}
{{- range $setting, $flag := $preset.names }}
{{- if and (hasKey $settings $setting) (not (and (eq $setting "draft_steps") (not $settings.draft_steps))) }}
{{- $_ := set $flags $flag (get $settings $setting) }}
{{- end }}
{{- end }}
{{- $flags = mergeOverwrite $flags $preset.needed }}
{{- $words := list }}
{{- range $flag := keys $flags | sortAlpha }}
{{- $value := get $flags $flag }}
{{- if eq (toString $value) "true" }}
{{- $words = append $words (printf "--%s" $flag) }}
{{- else if not (or (kindIs "invalid" $value) (eq (toString $value) "false")) }}
{{- $words = concat $words (list (printf "--%s" $flag) (toString $value)) }}
{{- end }}
{{- end }}
{{- toJson $words }}
{{- end }}

{{- /* What could not work is refused here, and not after an hour of loading. */ -}}
{{- define "mimo.checkFlags" -}}
{{- $preset := fromToml (include "mimo.preset" .) }}
{{- $sglang := .Values.modelServer.sglang }}
{{- $known := list }}
{{- with $sglang.settings.flags }}
{{- $known = splitList "\n" ($.Files.Get (printf "files/sglang/%s.flags" $sglang.version)) }}
{{- end }}
{{- range $flag, $value := $sglang.settings.flags }}
{{- $place := printf "\n\nmodelServer.sglang.settings.flags.%s:" $flag }}
{{- if hasKey $preset.refused $flag }}
{{- fail (printf "%s %s" $place (get $preset.refused $flag)) }}
{{- end }}
{{- if not (has $flag $known) }}
{{- fail (printf "%s SGLang %s has no such flag; take it away, or use the version that has it" $place $sglang.version) }}
{{- end }}
{{- range $setting, $named := $preset.names }}
{{- if eq $named $flag }}
{{- fail (printf "%s there is a setting for it; use modelServer.sglang.settings.%s" $place $setting) }}
{{- end }}
{{- end }}
{{- if and (hasKey $preset.needed $flag) (ne (toString $value) (toString (get $preset.needed $flag))) }}
{{- fail (printf "%s it must be %v, since our server relies on it; leave it out" $place (get $preset.needed $flag)) }}
{{- end }}
{{- with dig $flag (toString $value) "" (default dict $preset.impossible) }}
{{- fail (printf "%s %v: %s" $place $value .) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "mimo.sglangNodes" -}}
{{- with .Values.modelServer.leaderWorkerSet }}{{ ternary (int .size) 1 .enabled }}{{ end }}
{{- end }}

{{- define "mimo.gpusPerNode" -}}
{{ div (int (fromJson (include "mimo.launchSettings" .)).gpus) (int (include "mimo.sglangNodes" .)) }}
{{- end }}

{{- /* What each pod's claim of GPUs asks for. */ -}}
{{- define "mimo.gpuDevices" -}}
{{- $claim := .Values.modelServer.sglang.gpuClaim -}}
requests:
  - name: gpus
    exactly:
      deviceClassName: {{ $claim.deviceClass }}
      count: {{ include "mimo.gpusPerNode" . }}
      {{- with $claim.selectors }}
      selectors:
        {{- range . }}
        - cel: {expression: {{ . | quote }}}
        {{- end }}
      {{- end }}
{{- end }}

{{- /* What is asked for cannot be changed, so another claim is made by another template. */ -}}
{{- define "mimo.gpuClaim" -}}
{{ include "mimo.componentName" (list . "gpus") }}-{{ include "mimo.gpuDevices" . | sha256sum | trunc 8 }}
{{- end }}

{{- /* A folder of its own for each image and kind of GPU: what one compiled is nothing to another. */ -}}
{{- define "mimo.compileCachePath" -}}
/cache/{{ printf "%s %s" (include "mimo.image" (list . .Values.modelServer.sglang.image)) (ternary (include "mimo.gpuDevices" .) .Values.modelServer.sglang.gpuResource (ne .Values.modelServer.sglang.gpuClaim.deviceClass "")) | sha256sum | trunc 16 }}
{{- end }}

{{- define "mimo.sglangContainer" -}}
{{- $sglang := .Values.modelServer.sglang }}
{{- $settings := fromJson (include "mimo.launchSettings" .) }}
{{- $preset := fromToml (include "mimo.preset" .) }}
{{- $devices := dict }}
{{- if not $sglang.gpuClaim.deviceClass }}
{{- $_ := set $devices $sglang.gpuResource (include "mimo.gpusPerNode" .) }}
{{- end }}
{{- with $sglang.rdma.resource }}
{{- $_ := set $devices . (toString $sglang.rdma.count) }}
{{- end }}
name: sglang
image: {{ include "mimo.image" (list . $sglang.image) }}
imagePullPolicy: {{ .Values.global.pullPolicy }}
command: [python3, -m, sglang.launch_server]
args:
  {{- range fromJsonArray (include "mimo.flags" .) }}
  - {{ . | quote }}
  {{- end }}
  {{- if .Values.modelServer.leaderWorkerSet.enabled }}
  - --dist-init-addr=$(LWS_LEADER_ADDRESS):20000
  - --nnodes=$(LWS_GROUP_SIZE)
  - --node-rank=$(LWS_WORKER_INDEX)
  {{- end }}
{{- $variables := deepCopy $preset.environment }}
{{- if eq $settings.expert_exchange "deepep" }}
{{- $variables = merge $variables $preset.environment_deepep }}
{{- end }}
{{- if ne .Values.modelServer.compileCache.source "none" }}
{{- $cache := include "mimo.compileCachePath" . }}
{{- range $name, $folder := dict "SGLANG_DG_CACHE_DIR" "deep_gemm" "TRITON_CACHE_DIR" "triton" "TORCHINDUCTOR_CACHE_DIR" "inductor" }}
{{- $_ := set $variables $name (printf "%s/%s" $cache $folder) }}
{{- end }}
{{- end }}
{{ include "mimo.surroundings" (dict
  "of" . "values" $sglang "path" "modelServer.sglang"
  "variables" list "preset" $variables "mounts" (list "mimo.weightsMount" "mimo.sglangMounts")) }}
# The kubelet cannot reach a loopback address, so these run inside.
startupProbe:
  exec:
    command: {{ include "mimo.sglangProbe" . }}
  {{- include "mimo.times" (list $sglang.probes.startup 10 25 (div (int $sglang.startupSeconds) (int ($sglang.probes.startup.periodSeconds | default 10)))) | nindent 2 }}
livenessProbe:
  exec:
    command: {{ include "mimo.sglangProbe" . }}
  {{- include "mimo.times" (list $sglang.probes.liveness 30 25 10) | nindent 2 }}
{{- include "mimo.lifecycle" (list $sglang.lifecycle .Values.modelServer.preStopSeconds) }}
# The stock image runs as the superuser.
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
    {{- if $sglang.rdma.resource }}
    add: [IPC_LOCK]
    {{- end }}
resources:
  {{- if $sglang.gpuClaim.deviceClass }}
  claims:
    - name: gpus
  {{- end }}
  requests:
    {{- toYaml (merge (deepCopy $devices) $sglang.resources.requests) | nindent 4 }}
  limits:
    {{- toYaml (merge (deepCopy $devices) $sglang.resources.limits) | nindent 4 }}
{{- end }}

{{- define "mimo.weightsMount" -}}
- name: weights
  mountPath: /weights
  readOnly: true
{{- end }}

{{- define "mimo.sglangMounts" -}}
- name: shm
  mountPath: /dev/shm
{{- if ne .Values.modelServer.compileCache.source "none" }}
- name: cache
  mountPath: /cache
{{- end }}
{{- end }}

{{- define "mimo.sglangProbe" -}}
[python3, -c, "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{{ int (fromJson (include "mimo.launchSettings" .)).port }}/health', timeout=24)"]
{{- end }}

{{- /* A worker of a group has no address to ask; that its process runs is all there is. */ -}}
{{- define "mimo.sglangWorkerContainer" -}}
{{- $container := fromYaml (include "mimo.sglangContainer" .) }}
{{- toYaml (omit $container "startupProbe" "livenessProbe" "lifecycle") }}
{{- end }}

{{- define "mimo.sglangVolumes" -}}
{{- $weights := .Values.modelServer.weights }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.modelServer.sglang.shmSize }}
{{- if has $weights.source (list "claim" "job") }}
{{ include "mimo.weightsVolume" . }}
    readOnly: true
{{- else if eq $weights.source "hostPath" }}
- name: weights
  hostPath:
    path: {{ $weights.hostPath }}
    type: Directory
{{- else if eq $weights.source "image" }}
- name: weights
  image:
    reference: {{ $weights.image }}
    pullPolicy: {{ .Values.global.pullPolicy }}
{{- end }}
{{- if eq .Values.modelServer.compileCache.source "hostPath" }}
- name: cache
  hostPath:
    path: {{ .Values.modelServer.compileCache.hostPath }}
    type: DirectoryOrCreate
{{- end }}
{{- end }}

{{- /* Claims that each pod has for itself. */ -}}
{{- define "mimo.modelClaims" -}}
{{- $claims := list }}
{{- if eq .Values.modelServer.weights.source "download" }}
{{- $claims = append $claims (dict "name" "weights" "size" .Values.modelServer.weights.size) }}
{{- end }}
{{- if eq .Values.modelServer.compileCache.source "claim" }}
{{- $claims = append $claims (dict "name" "cache" "size" .Values.modelServer.compileCache.size) }}
{{- end }}
{{- with $claims }}
volumeClaimTemplates:
  {{- range . }}
  - metadata:
      name: {{ .name }}
    spec:
      {{- include "mimo.claimSpec" (list $ .) | nindent 6 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "mimo.downloadContainer" -}}
{{- $weights := .Values.modelServer.weights }}
name: download
image: {{ include "mimo.image" (list . .Values.modelServer.sglang.image) }}
imagePullPolicy: {{ .Values.global.pullPolicy }}
command: [python3, -c, {{ .Files.Get "files/download.py" | quote }}]
args: [{{ $weights.repository | quote }}, {{ $weights.revision | quote }}, {{ printf "/weights/%s" $weights.path | quote }}]
# What it says last is in its pod's status.
terminationMessagePolicy: FallbackToLogsOnError
{{ include "mimo.surroundings" (dict
  "of" . "values" $weights "path" "modelServer.weights"
  "variables" (list "mimo.hubVariables") "mounts" (list "mimo.fetchedMount")) }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml $weights.resources | nindent 2 }}
{{- end }}

{{- define "mimo.hubVariables" -}}
{{- with .Values.modelServer.weights.tokenSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: HF_TOKEN}
{{- end }}
{{- end }}

{{- define "mimo.fetchedMount" -}}
- name: weights
  mountPath: /weights
{{- end }}

{{- define "mimo.waitContainer" -}}
{{- $weights := .Values.modelServer.weights }}
name: wait
image: {{ include "mimo.image" (list . .Values.modelServer.sglang.image) }}
imagePullPolicy: {{ .Values.global.pullPolicy }}
command: [python3, -c, {{ .Files.Get "files/wait.py" | quote }}]
args: [{{ $weights.revision | quote }}, {{ printf "/weights/%s" $weights.path | quote }}]
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 128Mi}
volumeMounts:
  {{- include "mimo.weightsMount" . | nindent 2 }}
{{- end }}
