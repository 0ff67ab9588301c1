{{- /* The containers of the service. With SQLite the API and the one worker share a pod, since they share a file. */ -}}

{{- define "mimo.apiContainer" -}}
name: api
image: {{ include "mimo.image" (list . .Values.api.image) }}
imagePullPolicy: {{ .Values.global.pullPolicy }}
command: [python, -P, -m, agent.api]
args:
  - --host=0.0.0.0
  - --port=8080
  {{- with int .Values.api.requestsPerMinute }}
  - --requests-per-minute={{ . }}
  {{- end }}
  - --streams-per-caller={{ int .Values.api.streamsPerCaller }}
  - --streams-per-project={{ int .Values.api.streamsPerProject }}
  {{- include "mimo.items" (list 2 .Values.api.extraArgs) }}
{{ include "mimo.surroundings" (dict
  "of" . "values" .Values.api "path" "api"
  "variables" (list "mimo.storeVariables" "mimo.serviceVariables" "mimo.apiVariables")
  "preset" (fromYaml (include "mimo.telemetry" (list . "api")))
  "mounts" (list "mimo.serviceMounts" "mimo.apiMounts")) }}
ports:
  - name: http
    containerPort: 8080
startupProbe:
  httpGet: {path: /livez, port: http}
  {{- include "mimo.times" (list .Values.api.probes.startup 1 5 120) | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  {{- include "mimo.times" (list .Values.api.probes.readiness 10 15 3) | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: http}
  {{- include "mimo.times" (list .Values.api.probes.liveness 10 5 6) | nindent 2 }}
{{- include "mimo.lifecycle" (list .Values.api.lifecycle (ternary 0 10 (eq .Values.database.mode "sqlite"))) }}
securityContext:
  {{- include "mimo.security" . | nindent 2 }}
resources:
  {{- toYaml .Values.api.resources | nindent 2 }}
{{- end }}

{{- define "mimo.apiVariables" -}}
- name: MIMO_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "mimo.keySecret" (list . .Values.api.key) | quote }}
      key: api-key
- name: MIMO_REPOSITORY_PATHS
  value: /repositories
{{- with .Values.webhooks.networks }}
- name: MIMO_WEBHOOK_NETWORKS
  value: {{ join "," . | quote }}
{{- end }}
{{- if include "mimo.suites" . }}
- name: MIMO_EVAL_SUITES
  value: /suites
{{- end }}
{{- if .Values.api.identity }}
- name: MIMO_IDENTITY_SETTINGS
  value: /etc/mimo/identity.toml
{{- end }}
- name: MIMO_MODEL_URL
  value: {{ include "mimo.modelUrl" . | quote }}
- name: MIMO_MODEL_NAME
  value: {{ include "mimo.modelName" . | quote }}
{{- end }}

{{- define "mimo.apiMounts" -}}
{{- if .Values.api.identity }}
- name: identity
  mountPath: /etc/mimo
  readOnly: true
{{- end }}
{{- end }}

{{- define "mimo.orchestratorContainer" -}}
name: orchestrator
image: {{ include "mimo.workerImage" . }}
imagePullPolicy: {{ .Values.global.pullPolicy }}
command: [python, -P, -m, agent.orchestrator]
args:
  - --data=/data
  - {{ printf "--model-url=%s" (include "mimo.modelUrl" .) | quote }}
  - --model={{ include "mimo.modelName" . }}
  - --sandbox=kubernetes
  - --concurrency={{ int .Values.orchestrator.concurrency }}
  - --lease-ttl={{ .Values.orchestrator.leaseTtlSeconds }}
  - --tidy-every={{ int .Values.orchestrator.tidyEverySeconds }}
  - --keep-deliveries={{ int .Values.orchestrator.keepDeliveriesDays }}
  - --monitor=0.0.0.0:9002
  {{- with .Values.orchestrator.probeEverySeconds }}
  - --probe-every={{ int . }}
  {{- end }}
  {{- include "mimo.items" (list 2 .Values.orchestrator.extraArgs) }}
{{ include "mimo.surroundings" (dict
  "of" . "values" .Values.orchestrator "path" "orchestrator"
  "variables" (list "mimo.storeVariables" "mimo.serviceVariables" "mimo.orchestratorVariables")
  "preset" (fromYaml (include "mimo.telemetry" (list . "orchestrator")))
  "mounts" (list "mimo.serviceMounts" "mimo.orchestratorMounts")) }}
ports:
  - name: monitor
    containerPort: 9002
startupProbe:
  httpGet: {path: /livez, port: monitor}
  {{- include "mimo.times" (list .Values.orchestrator.probes.startup 1 5 120) | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: monitor}
  {{- include "mimo.times" (list .Values.orchestrator.probes.readiness 10 15 3) | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: monitor}
  {{- include "mimo.times" (list .Values.orchestrator.probes.liveness 10 5 6) | nindent 2 }}
{{- include "mimo.lifecycle" (list .Values.orchestrator.lifecycle 0) }}
securityContext:
  {{- include "mimo.security" . | nindent 2 }}
resources:
  {{- toYaml .Values.orchestrator.resources | nindent 2 }}
{{- end }}

{{- define "mimo.orchestratorVariables" -}}
{{ include "mimo.modelKeyVariable" . }}
- name: MIMO_SANDBOX_SETTINGS
  value: /etc/mimo/sandbox.toml
{{- with .Values.mcp.networks }}
- name: MIMO_MCP_NETWORKS
  value: {{ join "," . | quote }}
{{- end }}
{{- if ne .Values.sandbox.ray.mode "none" }}
{{ include "mimo.rayVariables" . }}
{{- end }}
{{- end }}

{{- define "mimo.orchestratorMounts" -}}
- name: settings
  mountPath: /etc/mimo
  readOnly: true
{{ include "mimo.tokenMount" . }}
{{- end }}

{{- define "mimo.modelKeyVariable" -}}
- name: MIMO_MODEL_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "mimo.keySecret" (list . .Values.modelServer.key) | quote }}
      key: model-api-key
{{- end }}

{{- /* What workers and migrations run in: executors that are elsewhere are reached by what only that image has. */ -}}
{{- define "mimo.workerImage" -}}
{{ include "mimo.image" (list . (ternary .Values.orchestrator.image .Values.sandbox.ray.image (eq .Values.sandbox.ray.mode "none"))) }}
{{- end }}

{{- /* Tables are made or brought up to date before anything reads them; pods that do so at once wait for each other.
       With SQLite the programs do it themselves. */ -}}
{{- define "mimo.migratesFirst" -}}
{{- if and (ne .Values.database.mode "sqlite") (eq .Values.database.migrations "init") }}yes{{ end }}
{{- end }}

{{- /* (list . values path) -> it, with what the programs beside it are told of the database */ -}}
{{- define "mimo.migrationsContainer" -}}
{{- $root := index . 0 -}}
name: migrate
image: {{ include "mimo.workerImage" $root }}
imagePullPolicy: {{ $root.Values.global.pullPolicy }}
command: [python, -P, -m, agent.store, migrate]
{{ include "mimo.surroundings" (dict
  "of" $root "values" (index . 1) "path" (index . 2)
  "variables" (list "mimo.storeVariables") "mounts" (list "mimo.tmpMount")) }}
securityContext:
  {{- include "mimo.security" $root | nindent 2 }}
resources:
  requests: {cpu: 50m, memory: 128Mi}
  limits: {memory: 512Mi}
{{- end }}

{{- /* (list . component) -> the variables of its spans, as OpenTelemetry names them */ -}}
{{- define "mimo.telemetry" -}}
{{- with (index . 0).Values.telemetry.endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
OTEL_SERVICE_NAME: {{ include "mimo.componentName" $ }}
{{- end }}
{{- end }}

{{- /* What API and workers have to be told alike. */ -}}
{{- define "mimo.serviceVariables" -}}
- name: MIMO_SECRETS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "mimo.keySecret" (list . .Values.api.secretsKey) | quote }}
      key: secrets-key
- name: MIMO_ARTIFACTS
  value: {{ .Values.artifacts.url | quote }}
{{- with .Values.repositories.hosts }}
- name: MIMO_REPOSITORY_HOSTS
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.repositories.networks }}
- name: MIMO_REPOSITORY_NETWORKS
  value: {{ join "," . | quote }}
{{- end }}
{{- if .Values.repositories.caConfigMap }}
- name: MIMO_REPOSITORY_CA
  value: /etc/mimo-repositories/ca.crt
{{- end }}
{{- range $name, $value := .Values.modelServer.client }}
{{- if not (kindIs "invalid" $value) }}
- name: MIMO_MODEL_{{ upper $name }}
  {{- /* Helm reads numbers as floating, and writes large ones with an exponent. */}}
  value: {{ ternary (toJson $value) (ternary (int64 $value | toString) (toString $value) (kindIs "float64" $value)) (kindIs "map" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The volume of suites, if there is one. */ -}}
{{- define "mimo.suites" -}}
{{- if .Values.evals.existingClaim }}
persistentVolumeClaim:
  claimName: {{ .Values.evals.existingClaim | quote }}
  readOnly: true
{{- else if .Values.evals.configMap }}
configMap:
  name: {{ .Values.evals.configMap | quote }}
{{- end }}
{{- end }}

{{- define "mimo.serviceMounts" -}}
{{ include "mimo.tmpMount" . }}
- name: data
  mountPath: /data
{{- if .Values.repositories.existingClaim }}
- name: repositories
  mountPath: /repositories
  readOnly: true
{{- end }}
{{- if .Values.repositories.caConfigMap }}
- name: repositories-ca
  mountPath: /etc/mimo-repositories
  readOnly: true
{{- end }}
{{- if include "mimo.suites" . }}
- name: suites
  mountPath: /suites
  readOnly: true
{{- end }}
{{- end }}

{{- define "mimo.apiVolumes" -}}
{{- if .Values.api.identity }}
- name: identity
  configMap:
    name: {{ include "mimo.componentName" (list . "api") }}
{{- end }}
{{- end }}

{{- define "mimo.serviceVolumes" -}}
{{ include "mimo.tmpVolume" . }}
- name: data
  persistentVolumeClaim:
    claimName: {{ .Values.data.existingClaim | default (include "mimo.componentName" (list . "data")) | quote }}
{{- with .Values.repositories.existingClaim }}
- name: repositories
  persistentVolumeClaim:
    claimName: {{ . | quote }}
    readOnly: true
{{- end }}
{{- with .Values.repositories.caConfigMap }}
- name: repositories-ca
  configMap:
    name: {{ . | quote }}
{{- end }}
{{- with include "mimo.suites" . }}
- name: suites
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "mimo.orchestratorVolumes" -}}
- name: settings
  configMap:
    name: {{ include "mimo.componentName" (list . "orchestrator") }}
{{ include "mimo.tokenVolume" . }}
{{- end }}

{{- /* The token is in the one container that needs it, and nowhere else in the pod. */ -}}
{{- define "mimo.tokenMount" -}}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}

{{- define "mimo.tokenVolume" -}}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
      - downwardAPI:
          items:
            - path: namespace
              fieldRef: {fieldPath: metadata.namespace}
{{- end }}

{{- /* On whoever may make and reach sandboxes. */ -}}
{{- define "mimo.executorLabel" -}}
mimo-coder/executor: "true"
{{- end }}

{{- /* On them too, so that they start anew when settings change. */ -}}
{{- define "mimo.settingsMark" -}}
mimo-coder/settings: {{ include "mimo.sandboxSettings" . | sha256sum | trunc 16 }}
{{- end }}

{{- /* The settings of sandboxes, as the program reads them. */ -}}
{{- define "mimo.sandboxSettings" -}}
{{- $given := dict
    "namespace" (include "mimo.sandboxNamespace" .)
    "service" (include "mimo.fullname" .)
    "service_account" (include "mimo.sandboxAccount" .)
    "agent_image" (include "mimo.image" (list . .Values.sandbox.image))
    "host_image" (include "mimo.image" (list . .Values.sandbox.taskImage))
    "pull_policy" .Values.global.pullPolicy }}
{{- if .Values.sandbox.priorityClass.enabled }}
{{- $_ := set $given "priority_class" (include "mimo.sandboxPriority" .) }}
{{- end }}
{{- $settings := dict "kubernetes" (merge $given .Values.sandbox.settings) }}
{{- range $part := list "egress" "toolbox" "pool" }}
{{- with get $.Values.sandbox $part }}
{{- $_ := set $settings $part . }}
{{- end }}
{{- end }}
{{- with include "mimo.rayAddress" . }}
{{- $_ := set $settings "ray" (dict "address" . "executors" (int $.Values.sandbox.ray.executors)) }}
{{- end }}
{{- toToml $settings }}
{{- end }}
